"""Ridge regression as a layer: the closed form that a learned map begins at."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["RidgeMap"]

#: Penalties among which leaving one context out chooses.
PENALTIES = np.logspace(-2, 6, 17)
#: Variances within contexts are taken for no less than this share of the largest.
SMALLEST = 1e-6


class RidgeMap(nn.Module):
    """A linear map fitted by ridge regression; it is kept with the weights and not descended.

    Parameters
    ----------
    n_in, n_out
        Widths.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from cellfuse.nn import RidgeMap
    >>> x = np.random.default_rng(0).normal(size=(50, 3))
    >>> ridge = RidgeMap(3, 1)
    >>> ridge.fit(x, 2 * x[:, :1] + 1)
    >>> round(float(ridge(torch.tensor([[1.0, 0.0, 0.0]]))), 1)
    3.0
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_out, n_in))
        self.register_buffer("bias", torch.zeros(n_out))

    def fit(
        self,
        x: NDArray,
        y: NDArray,
        *,
        within: NDArray | None = None,
        n: NDArray | None = None,
    ) -> None:
        """Fit on rows of `x` ``(n, n_in)`` and `y` ``(n, n_out)``, such as means of contexts.

        The penalty, and with `within` the scale of `x` too, are chosen by leaving one row out; the
        errors are in the units of `y`.

        Parameters
        ----------
        x, y
            Means of contexts.
        within
            Covariance of `x` within contexts, ``(n_in, n_in)``: `x` is whitened by it, or each
            feature is divided by its deviation between the rows, whichever predicts left-out rows
            better. None: `x` as it is.
        n
            How much each row counts, such as replicates; None: all alike.
        """
        from sklearn.linear_model import RidgeCV

        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        found = []
        for scale in _scales(x, within):
            ridge = RidgeCV(PENALTIES).fit((x - x.mean(axis=0)) @ scale, y, sample_weight=n)
            found.append((ridge.best_score_, scale @ np.atleast_2d(ridge.coef_).T, ridge))
        _, weight, ridge = max(found, key=lambda each: each[0])
        bias = np.atleast_1d(ridge.intercept_) - x.mean(axis=0) @ weight
        self.weight.copy_(torch.as_tensor(weight.T))
        self.bias.copy_(torch.as_tensor(bias))

    def rescale(self, factor: NDArray) -> None:
        """Multiply what is predicted by a factor of each output."""
        given = torch.as_tensor(factor, dtype=self.weight.dtype, device=self.weight.device)
        self.weight.mul_(given[:, None])
        self.bias.mul_(given)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., n_in)`` to ``(..., n_out)``."""
        return torch.nn.functional.linear(x, self.weight, self.bias)


def _scales(x: NDArray, within: NDArray | None) -> list[NDArray]:
    """Maps by which the rows are scaled before the penalty, which weighs all directions alike."""
    if within is None:
        return [np.eye(x.shape[1])]
    sd = x.std(axis=0)
    scales = [np.diag(np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0))]
    values, axes = np.linalg.eigh(within)
    if values[-1] > 0:  # some context has two samples
        scales.append((axes / np.sqrt(np.maximum(values, SMALLEST * values[-1]))) @ axes.T)
    return scales
