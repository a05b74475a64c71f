"""The scale of what is read: mean and sd of the training cells, saved with the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Standardise", "Standardised"]


class Standardise(nn.Module):
    """Centre and scale features, or channels of images, by the training cells.

    The network of every model has ``cell(role)``, one of these, which takes the statistics of a
    modality before the first step.

    Parameters
    ----------
    n_statistics
        Features, dimensions of a token, or channels.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import Standardise
    >>> scale = Standardise(2)
    >>> scale.set_statistics(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0]))
    >>> x = torch.tensor([[3.0, 5.0]])
    >>> scale.scale(x).tolist(), scale.restore(scale.scale(x)).tolist()
    ([[1.0, 0.0]], [[3.0, 5.0]])
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, n_statistics: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_statistics))
        self.register_buffer("sd", torch.ones(n_statistics))

    def set_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Take the mean and standard deviation of the training cells, ``(n_statistics,)`` each."""
        self.mean.copy_(mean)
        self.sd.copy_(sd)

    @property
    def unit(self) -> Tensor:
        """What is divided by: the standard deviation, 1 for a constant."""
        return torch.where(self.sd > 0, self.sd, 1.0)

    def scale(self, x: Tensor, channels: Sequence[int] | None = None) -> Tensor:
        """Standardise ``(..., n_statistics)``, or images ``(N, C, H, W)``.

        Parameters
        ----------
        x
            As it was measured.
        channels
            Where the images' channels stand among those of the training; None: in that order.
        """
        mean, unit = self.mean, self.unit
        if x.ndim == 4:
            at = slice(None) if channels is None else list(channels)
            mean, unit = mean[at, None, None], unit[at, None, None]
        return (x.float() - mean) / unit

    def restore(self, x: Tensor) -> Tensor:
        """Back to the scale of the data; what was constant is its constant."""
        mean, sd = self.mean, self.sd
        if x.ndim == 4:
            mean, sd = mean[:, None, None], sd[:, None, None]
        return x * sd + mean


class Standardised(Standardise):
    """A network of images beside the scale of their channels.

    Parameters
    ----------
    net
        Reads standardised images.
    n_channels
        Channels.
    """

    def __init__(self, net: nn.Module, n_channels: int) -> None:
        super().__init__(n_channels)
        self.net = net

    def cell(self, role: str) -> Standardise:
        """What takes the statistics of the images."""
        return self
