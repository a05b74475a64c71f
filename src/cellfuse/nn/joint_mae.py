"""Joint masked reconstruction of the cells of a document (PETRI, section 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from cellfuse.nn.autoencoders import CellAutoencoder, InputSpec, Sizes, build
from cellfuse.nn.joint_space import JointFeatures
from cellfuse.nn.linear_first import LinearFirst, build_linear_first
from cellfuse.nn.masking import random_mask
from cellfuse.nn.sets import SetTransformer

__all__ = ["JointMaskedAutoencoder"]


class JointMaskedAutoencoder(nn.Module):
    """Mask, encode each cell, let the cells of a document talk, decode each cell.

    Parameters
    ----------
    specs
        Input of each modality; one alone makes documents of that modality.
    sizes
        Sizes of the networks; ``n_set_layers=0`` leaves the set transformer out.
    weights
        Weight of each modality's loss.
    seed
        Seed of masks and augmentation.
    linear
        Begin at a linear autoencoder of each modality, cells of a document apart: see
        :mod:`cellfuse.nn.linear_first`.
    """

    def __init__(
        self,
        specs: Mapping[str, InputSpec],
        sizes: Sizes,
        *,
        weights: Mapping[str, float],
        seed: int = 0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.sizes, self.weights, self.seed = sizes, dict(weights), seed
        make = build_linear_first if linear else build
        self.cells = nn.ModuleDict({name: make(spec, sizes) for name, spec in specs.items()})
        self.documents = (
            SetTransformer(
                list(specs),
                width=sizes.width,
                depth=sizes.n_set_layers,
                n_heads=sizes.n_heads,
                mlp_ratio=sizes.set_mlp_ratio,
            )
            if sizes.n_set_layers
            else None
        )
        #: Closed form on top of the encoders, where the model begins linear.
        self.joint: JointFeatures | None = None
        if linear and self.documents is not None:
            self.documents.begin_apart()

    def cell(self, modality: str) -> CellAutoencoder:
        """Return the autoencoder of a modality."""
        return cast("CellAutoencoder", self.cells[modality])

    def mask(self, modality: str, key: Tensor, set_size: int) -> tuple[Tensor, Tensor]:
        """Tokens kept ``(N, K)`` and mask ``(N, T)`` of each cell."""
        return random_mask(
            key,
            set_size,
            self.cell(modality).n_tokens,
            ratio=self.sizes.mask_ratio,
            seed=self.seed,
            purpose=f"mask {modality}",
        )

    def fuse(
        self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """Latents ``(G, S, L, width)`` before and after each layer of the set transformer."""
        layers = [dict(latents)]
        if self.documents is not None:
            layers += self.documents(latents, present)
        return layers

    def reconstruct(
        self,
        x: Mapping[str, Tensor],
        key: Tensor,
        present: Mapping[str, Tensor],
        *,
        augment: bool = False,
    ) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """Mask and rebuild the cells of documents.

        Parameters
        ----------
        x
            Cells of each modality ``(G, S, ...)``.
        key
            Number of each document ``(G,)``.
        present
            Whether a document has the modality, ``(G,)`` each.
        augment
            Turn, flip and shift the images.

        Returns
        -------
        For each modality the prepared input, the prediction and the mask, one row per cell.
        """
        prepared, masks, latents = {}, {}, {}
        for name, cells in x.items():
            g, s = cells.shape[:2]
            prepared[name] = self.cell(name).prepare(cells, key, seed=self.seed, augment=augment)
            keep, masks[name] = self.mask(name, key, s)
            encoded = self.cell(name).encode(prepared[name], keep)
            latents[name] = encoded.view(g, s, *encoded.shape[1:])
        fused = self.fuse(latents, present)[-1]
        return {
            name: (prepared[name], self.cell(name).decode(fused[name].flatten(0, 1)), masks[name])
            for name in x
        }

    def forward(
        self,
        x: Mapping[str, Tensor],
        key: Tensor,
        present: Mapping[str, Tensor],
        *,
        augment: bool = False,
    ) -> dict[str, Tensor]:
        """Losses of a batch: ``loss`` (weighted sum) and ``<modality>_loss`` (unweighted means)."""
        out: dict[str, Tensor] = {}
        rebuilt = self.reconstruct(x, key, present, augment=augment)
        for name, (target, prediction, mask) in rebuilt.items():
            per_cell = self.cell(name).loss(target, prediction, mask)
            here = present[name].repeat_interleave(x[name].shape[1])
            # Cells of absent modalities are fillers: they count for nothing.
            out[f"{name}_loss"] = (per_cell * here).sum() / here.sum().clamp_min(1)
        total = torch.stack([self.weights[name] * out[f"{name}_loss"] for name in rebuilt]).sum()
        return {"loss": total, **out}

    @torch.no_grad()
    def share_of_linear(self, modality: str, cells: Tensor, begun: LinearFirst) -> float:
        """What is rebuilt of hidden tokens, in shares of what a linear autoencoder rebuilds.

        Parameters
        ----------
        modality
            Whose cells they are.
        cells
            ``(N, ...)``, as they were read; each is rebuilt from what is visible of itself alone.
        begun
            The linear autoencoder.

        Returns
        -------
        (constant - loss) / (constant - linear), over the same masks: 0 is a constant, 1 the linear
        autoencoder. NaN where that is no better than a constant.
        """
        here = torch.ones(len(cells), dtype=torch.bool, device=cells.device)
        key = torch.arange(len(cells), device=cells.device)
        found = self.reconstruct({modality: cells[:, None]}, key, {modality: here})[modality]
        target, prediction, mask = found
        keep, _ = self.mask(modality, key, 1)
        loss = float(self.cell(modality).loss(target, prediction, mask).mean())
        constant, linear = (
            float(net.loss(target, net.decode(net.encode(target, keep)), mask).mean())
            for net in (begun.constant(), begun)
        )
        return (constant - loss) / (constant - linear) if constant > linear else float("nan")

    def embed(self, modality: str, x: Tensor) -> Tensor:
        """Embedding of cells ``(N, ...)`` with nothing masked: mean of the latents, ``(N, width)``.

        Taken at the encoder's output, before the set transformer (PETRI, 4).
        """
        return self.latents(modality, x).mean(dim=1)

    def latents(self, modality: str, x: Tensor) -> Tensor:
        """Latents of cells ``(N, ...)`` with nothing masked, ``(N, L, width)``."""
        key = torch.zeros(1, dtype=torch.long, device=x.device)
        prepared = self.cell(modality).prepare(x[None], key, seed=self.seed, augment=False)
        return self.cell(modality).encode(prepared)
