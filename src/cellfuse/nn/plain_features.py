"""What is known of a cell without training anything: the floor that a learned encoder begins at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellfuse.nn.augment import center_crop
from cellfuse.nn.count_factors import CountFactors
from cellfuse.nn.image_statistics import image_statistics, n_image_statistics

__all__ = ["PlainFeatures", "power_of"]

#: Features at most: their covariance is a square of them.
MAX_FEATURES = 2_000


def power_of(kind: str) -> float:
    """Power of its standard deviation by which a feature is divided before features are joined.

    Statistics and embeddings have no common unit: 1. Logarithms of counts have: 1 would make
    genes of a few counts, which are noise, as large as the others, and 0 leaves it to a dozen genes
    that vary most.
    """
    return 0.5 if kind == "counts" else 1.0


class PlainFeatures(nn.Module):
    """Counts as logarithms of their shares, pixels as statistics, embeddings as they are.

    Parameters
    ----------
    kind
        ``"counts"``, ``"values"``, ``"tokens"`` or ``"pixels"``.
    shape
        Shape of a cell.
    crop
        Side in pixels of the centre that is looked at; None for all.
    n_factors
        Of counts: factors that are read beside, the last features, see
        :class:`cellfuse.nn.CountFactors`. At most half as many as genes.

    Notes
    -----
    Of more than 2,000 genes or values the most variable ones are taken (:meth:`fit`).
    """

    chosen: Tensor
    depth: Tensor

    def __init__(
        self, kind: str, shape: tuple[int, ...], *, crop: int | None = None, n_factors: int = 0
    ) -> None:
        super().__init__()
        self.kind, self.crop = kind, crop
        #: Power of the standard deviation by which features are divided before they are joined.
        self.power = power_of(kind)
        if kind == "pixels":
            self.n_features = n_image_statistics(shape[0])
        else:
            self.n_features = min(shape[-1], MAX_FEATURES)
        n_chosen = 0 if kind == "pixels" else self.n_features
        self.n_factors = min(n_factors, n_chosen // 2) if kind == "counts" else 0
        self.factors = CountFactors(n_chosen, self.n_factors) if self.n_factors else None
        self.n_features += self.n_factors
        self.register_buffer("chosen", torch.arange(n_chosen))
        self.register_buffer("depth", torch.ones(()))

    def fit(self, cells: Tensor) -> None:
        """Take the median depth and the most variable features from some cells ``(N, ...)``."""
        if self.kind == "pixels":
            return
        if self.kind == "counts":
            depth = cells.float().sum(dim=1)
            self.depth.copy_(depth[depth > 0].median() if (depth > 0).any() else torch.ones(()))
        variance = self._all(cells).var(dim=0)
        top = variance.argsort(descending=True, stable=True)[: len(self.chosen)]
        self.chosen.copy_(top.sort().values)
        if self.factors is not None:
            self.factors.fit(cells[:, self.chosen])

    def forward(self, x: Tensor) -> Tensor:
        """Cells ``(N, ...)`` to ``(N, n_features)``."""
        if self.kind == "pixels":
            return image_statistics(x if self.crop is None else center_crop(x, self.crop))
        plain = self._all(x)[:, self.chosen]
        if self.factors is None:
            return plain
        return torch.cat([plain, self.factors(x[:, self.chosen])], dim=1)

    def _all(self, x: Tensor) -> Tensor:
        x = x.float()
        if self.kind == "tokens":
            return x.mean(dim=1)
        if self.kind == "counts":
            return (x * (self.depth / x.sum(dim=1, keepdim=True).clamp_min(1e-6))).log1p()
        return x
