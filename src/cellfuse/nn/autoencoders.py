"""Masked autoencoders of one modality: what a cell looks like as tokens, and what to get back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn

from cellfuse.nn.augment import center_crop, random_affine
from cellfuse.nn.genes import GeneDecoder, GeneEncoder
from cellfuse.nn.losses import (
    masked_mean_squared_error,
    masked_nb_loss,
    masked_squared_error,
)
from cellfuse.nn.standardise import Standardise
from cellfuse.nn.tokens import TokenDecoder, TokenEncoder, patchify, unpatchify

__all__ = [
    "CellAutoencoder",
    "ExpressionEncoder",
    "GeneAutoencoder",
    "InputSpec",
    "Sizes",
    "TokenAutoencoder",
    "build",
]

Kind = Literal["pixels", "tokens", "values", "counts"]


@dataclass(frozen=True)
class InputSpec:
    """What one cell of a modality is.

    Parameters
    ----------
    kind
        ``"pixels"`` (C, H, W), ``"tokens"`` (T, D), ``"values"`` (n,) real numbers, ``"counts"``
        (n,) non-negative integers.
    shape
        Shape of a cell.
    crop
        Side of the square that is cut out of pixels; None takes the whole image.
    normalize
        Pixels are standardised by the ``"dataset"`` (intensity stays a phenotype) or each
        ``"instance"`` by itself.
    """

    kind: Kind
    shape: tuple[int, ...]
    crop: int | None = None
    normalize: Literal["dataset", "instance"] = "dataset"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the networks; the defaults are the paper's (PETRI, A.2)."""

    width: int = 768
    n_heads: int = 12
    n_latents: int = 8
    patch_size: int = 8
    image_depth: int = 12
    image_decoder_width: int = 512
    image_decoder_depth: int = 8
    image_decoder_heads: int = 16
    n_cross: int = 4
    n_self: int = 3
    gene_decoder_hidden: int = 128
    n_set_layers: int = 4
    set_mlp_ratio: float = 1.0
    mask_ratio: float = 0.75


class CellAutoencoder(Standardise):
    """One modality: prepare, encode, decode, compare."""

    n_tokens: int
    decoder: nn.Module | None

    def encoder_only(self) -> Self:
        """Drop what only reconstruction needs."""
        self.decoder = None
        return self

    def prepare(self, x: Tensor, key: Tensor, *, seed: int, augment: bool) -> Tensor:
        """Cells of documents ``(G, S, ...)`` as the network's input, ``(G * S, ...)``."""
        raise NotImplementedError

    def encode(self, prepared: Tensor, keep: Tensor | None = None) -> Tensor:
        """Latents ``(N, L, width)`` of the tokens that are kept (all for None)."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Prediction for every token."""
        raise NotImplementedError

    def loss(self, prepared: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """Reconstruction loss of each cell's masked tokens, ``(N,)``."""
        raise NotImplementedError

    def rebuilt(self, prepared: Tensor, prediction: Tensor) -> Tensor:
        """Prediction on the scale of the data."""
        raise NotImplementedError


class TokenAutoencoder(CellAutoencoder):
    """Pixels or ready tokens through the ViT (``"pixels"``, ``"tokens"``)."""

    def __init__(self, spec: InputSpec, sizes: Sizes) -> None:
        super().__init__(spec.shape[0] if spec.kind == "pixels" else spec.shape[1])
        self.spec, self.patch_size = spec, sizes.patch_size
        if spec.kind == "pixels":
            channels, height, width = spec.shape
            self.side = (spec.crop or height, spec.crop or width)
            grid: tuple[int, ...] = tuple(side // sizes.patch_size for side in self.side)
            token_dim = channels * sizes.patch_size**2
        else:
            grid, token_dim = spec.shape[:1], spec.shape[1]
        self.n_tokens = math.prod(grid)
        self.encoder = TokenEncoder(
            token_dim,
            grid,
            width=sizes.width,
            depth=sizes.image_depth,
            n_heads=sizes.n_heads,
            n_latents=sizes.n_latents,
        )
        self.decoder = TokenDecoder(
            token_dim,
            grid,
            latent_width=sizes.width,
            width=sizes.image_decoder_width,
            depth=sizes.image_decoder_depth,
            n_heads=sizes.image_decoder_heads,
        )

    def prepare(self, x: Tensor, key: Tensor, *, seed: int, augment: bool) -> Tensor:
        """Augment, crop, standardise and cut into tokens, ``(N, T, token_dim)``."""
        x = x.float()
        if self.spec.kind == "tokens":
            return self.scale(x.flatten(0, 1))
        if augment:
            x = random_affine(x, key, seed=seed, crop=self.side[0])
        elif self.spec.crop is not None:
            x = center_crop(x, self.spec.crop)
        images = x.flatten(0, 1)
        if self.spec.normalize == "instance":
            sd, mean = torch.std_mean(images, dim=(2, 3), keepdim=True)
            images = (images - mean) / (sd + 1e-6)
        else:
            images = self.scale(images)
        return patchify(images, self.patch_size)

    def encode(self, prepared: Tensor, keep: Tensor | None = None) -> Tensor:
        """Latents of the kept tokens."""
        return self.encoder(prepared, keep)

    def decode(self, latents: Tensor) -> Tensor:
        """Every token, ``(N, T, token_dim)``."""
        assert self.decoder is not None
        return self.decoder(latents)

    def loss(self, prepared: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """Mean squared error of each cell's masked tokens."""
        return masked_mean_squared_error(prepared, prediction, mask)

    def rebuilt(self, prepared: Tensor, prediction: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` or tokens ``(N, T, D)`` on the scale of the data."""
        if self.spec.kind == "tokens":
            return self.restore(prediction)
        images = unpatchify(prediction, self.patch_size, (self.spec.shape[0], *self.side))
        if self.spec.normalize == "instance":
            return images  # a cell's own scale is not known once it is gone
        return self.restore(images)


class GeneAutoencoder(CellAutoencoder):
    """A number per gene through the Perceiver (``"counts"``, ``"values"``)."""

    def __init__(self, spec: InputSpec, sizes: Sizes) -> None:
        n_genes = spec.shape[0]
        super().__init__(n_genes)
        self.spec, self.n_tokens = spec, n_genes
        self.encoder = GeneEncoder(
            n_genes,
            width=sizes.width,
            n_cross=sizes.n_cross,
            n_self=sizes.n_self,
            n_heads=sizes.n_heads,
            n_latents=sizes.n_latents,
        )
        self.decoder = GeneDecoder(
            n_genes, latent_width=sizes.width, hidden=sizes.gene_decoder_hidden
        )
        if spec.kind == "counts":
            self.log_dispersion = nn.Parameter(torch.zeros(n_genes))

    def encoder_only(self) -> Self:
        """Drop the decoder, and the dispersions of what it would predict."""
        if self.spec.kind == "counts":
            del self.log_dispersion
        return super().encoder_only()

    def set_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Standardise values; for counts, let the decoder begin at the genes' mean shares.

        Otherwise hundreds of steps go into learning what every cell has in common.
        """
        if self.spec.kind == "counts":
            if not isinstance(self.decoder, GeneDecoder):
                return
            share = mean / mean.sum().clamp_min(1e-12)
            self.decoder.set_bias(share.clamp_min(1e-8).log())
        else:
            super().set_statistics(mean, sd)

    def prepare(self, x: Tensor, key: Tensor, *, seed: int, augment: bool) -> Tensor:
        """Raw counts, or standardised values, ``(N, n_genes)``."""
        x = x.float().flatten(0, 1)
        return x if self.spec.kind == "counts" else self.scale(x)

    def encode(self, prepared: Tensor, keep: Tensor | None = None) -> Tensor:
        """Latents of the kept genes; a gene's token holds log(1 + count)."""
        values = prepared.log1p() if self.spec.kind == "counts" else prepared
        return self.encoder(values, keep)

    def decode(self, latents: Tensor) -> Tensor:
        """A number per gene: a logit (counts) or the value itself."""
        assert self.decoder is not None
        return self.decoder(latents)

    def loss(self, prepared: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """Sum over each cell's masked genes."""
        if self.spec.kind == "counts":
            return masked_nb_loss(prepared, prediction, self.log_dispersion, mask)
        return masked_squared_error(prepared, prediction, mask)

    def rebuilt(self, prepared: Tensor, prediction: Tensor) -> Tensor:
        """Expected counts (at the cell's total), or values, ``(N, n_genes)``."""
        if self.spec.kind == "counts":
            return prediction.float().softmax(dim=1) * prepared.sum(dim=1, keepdim=True)
        return self.restore(prediction)


def build(spec: InputSpec, sizes: Sizes) -> CellAutoencoder:
    """Choose the autoencoder for a kind of input."""
    if spec.kind in ("pixels", "tokens"):
        return TokenAutoencoder(spec, sizes)
    return GeneAutoencoder(spec, sizes)


class ExpressionEncoder(nn.Module):
    """Cells of one modality to an embedding, for a student that is trained from scratch.

    Parameters
    ----------
    cell
        The autoencoder of the modality, of which the encoder is kept.
    """

    def __init__(self, cell: CellAutoencoder) -> None:
        super().__init__()
        self.cell = cell.encoder_only()

    def forward(self, x: Tensor) -> Tensor:
        """Mean latent ``(N, width)`` of cells ``(N, ...)``."""
        key = torch.zeros(1, dtype=torch.long, device=x.device)
        prepared = self.cell.prepare(x[None], key, seed=0, augment=False)
        return self.cell.encode(prepared).mean(dim=1)
