"""Expression regressed from images (PETRI, A.8)."""

from __future__ import annotations

from torch import Tensor, nn

from cellfuse.nn.standardise import Standardise
from cellfuse.nn.vit import ImageEncoder

__all__ = ["ImageRegression"]


class ImageRegression(nn.Module):
    """A ViT whose class token goes through two layers to a number per gene.

    Parameters
    ----------
    vit
        Encoder of standardised images.
    n_channels
        Channels of the images.
    n_genes
        Genes.
    """

    def __init__(self, vit: ImageEncoder, *, n_channels: int, n_genes: int) -> None:
        super().__init__()
        self.vit = vit
        self.cells = nn.ModuleDict({"image": Standardise(n_channels), "rna": Standardise(n_genes)})
        self.head = nn.Sequential(
            nn.Linear(vit.width, vit.width), nn.GELU(), nn.Linear(vit.width, n_genes)
        )

    def cell(self, role: str) -> Standardise:
        """What scales a modality."""
        found = self.cells[role]
        assert isinstance(found, Standardise)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Standardised expression from standardised images ``(N, C, H, W)``."""
        return self.head(self.vit.embed(images))
