"""What is known of a cell without training anything: the floor that a learned encoder begins at."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cellfuse.nn.augment import center_crop
from cellfuse.nn.count_factors import CountFactors
from cellfuse.nn.image_statistics import image_statistics, n_image_statistics
from cellfuse.nn.patch_dictionary import PatchDictionary

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

    Counts and pixels can be read a second time, by what is learnt of some cells: the last features,
    which stand in the place of the others in a second view of the cells.

    Parameters
    ----------
    kind
        ``"counts"``, ``"values"``, ``"tokens"`` or ``"pixels"``.
    shape
        Shape of a cell.
    crop
        Side in pixels of the centre that is looked at; None for all.
    n_factors
        Of counts: factors that are read beside, see :class:`cellfuse.nn.CountFactors`. At most half
        as many as genes.
    n_patches
        Of pixels: patches whose occurrence is read beside, see
        :class:`cellfuse.nn.PatchDictionary`. None of images too small for them.

    Notes
    -----
    Of more than 2,000 genes or values the most variable ones are taken (:meth:`fit`).
    """

    chosen: Tensor
    depth: Tensor

    def __init__(
        self,
        kind: str,
        shape: tuple[int, ...],
        *,
        crop: int | None = None,
        n_factors: int = 0,
        n_patches: int = 0,
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
        n_factors = min(n_factors, n_chosen // 2) if kind == "counts" else 0
        self.factors = CountFactors(n_chosen, n_factors) if n_factors else None
        self.patches = None
        if kind == "pixels" and n_patches:
            side = min(shape[1:]) if crop is None else crop
            patches = PatchDictionary(shape[0], side, n_patches)
            self.patches = patches if patches.n_features else None
        #: Features of the second reading, the last ones.
        self.n_second = n_factors if self.patches is None else self.patches.n_features
        self.n_features += self.n_second
        self.register_buffer("chosen", torch.arange(n_chosen))
        self.register_buffer("depth", torch.ones(()))

    @property
    def looks_first(self) -> bool:
        """Whether there is anything that :meth:`fit` takes from cells."""
        return self.kind != "pixels" or self.patches is not None

    def fit(self, cells: Tensor) -> None:
        """Take the median depth and the most variable features from some cells ``(N, ...)``."""
        if self.kind == "pixels":
            if self.patches is not None:
                self.patches.fit(self._seen(cells))
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
            x = self._seen(x)
            plain = image_statistics(x)
            return plain if self.patches is None else torch.cat([plain, self.patches(x)], dim=1)
        plain = self._all(x)[:, self.chosen]
        if self.factors is None:
            return plain
        return torch.cat([plain, self.factors(x[:, self.chosen])], dim=1)

    def _seen(self, images: Tensor) -> Tensor:
        return images if self.crop is None else center_crop(images, self.crop)

    def _all(self, x: Tensor) -> Tensor:
        x = x.float()
        if self.kind == "tokens":
            return x.mean(dim=1)
        if self.kind == "counts":
            return (x * (self.depth / x.sum(dim=1, keepdim=True).clamp_min(1e-6))).log1p()
        return x
