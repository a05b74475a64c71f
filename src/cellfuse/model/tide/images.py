"""How TIDE reads images: scaled, cut, through the encoder that teacher and student share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cellfuse.nn.augment import center_crop
from cellfuse.nn.dino import Dino
from cellfuse.nn.tide import TideNetwork

__all__ = ["ImageReading"]


@dataclass
class ImageReading:
    """Images of a screen to embeddings.

    Parameters
    ----------
    net
        Holds the encoder.
    channels
        Names of the channels of the training.
    side
        Side of the images in pixels; None for flat features.
    alone
        Whether there are no pairs: the self-supervised method then gives its own embedding.
    """

    net: TideNetwork
    channels: list[str]
    side: int | None
    alone: bool

    def features(
        self,
        images: Tensor,
        names: Sequence[str] | None = None,
        *,
        batch_size: int = 256,
        average: bool = False,
    ) -> Tensor:
        """Embedding of raw images ``(N, ...)``, ``(N, width)``, by the encoder or its average."""
        net, parts = self.net, []
        names = self.channels if names is None else names
        by_mean = (average or self.alone) and isinstance(net.image, Dino)
        for part in images.split(batch_size):
            x = part.to(net.mean.device)
            if self.side is None:
                parts.append(net.features(net.scale(x)).float())
                continue
            x = net.scale(x, [self.channels.index(name) for name in names])
            x = center_crop(x, self.side)
            embed = net.image.embed if by_mean else net.features  # type: ignore[union-attr]
            parts.append(embed(x, channels=names).float())
        return torch.cat(parts)

    def plain(self, images: Tensor) -> Tensor | None:
        """Plain features of raw images, ``(N, n_plain)``; None for a model that reads none."""
        joint, device = self.net.joint, self.net.mean.device
        return None if joint is None else joint.plain["image"](images.to(device))

    def joined(self, images: Tensor, features: Tensor) -> Tensor:
        """Plain features of raw images beside their embedding, ``(N, plain + width)``."""
        assert self.net.joint is not None
        return self.net.joint.features("image", images.to(features.device), features)

    def head(self, at: str) -> Callable[[Tensor], Tensor]:
        """From features to what is asked for: themselves, the student's place, its drugs."""
        net = self.net
        if at == "student":
            return lambda h: torch.nn.functional.normalize(net.student(h), dim=1)
        if at == "drugs":
            return lambda h: net.codebook.log_probabilities(net.student(h)).exp()
        return lambda h: h
