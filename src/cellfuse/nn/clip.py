"""CLIP between sets of cells (PETRI, A.3): the encoders of PETRI without its decoders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.autoencoders import CellAutoencoder, InputSpec, Sizes, build
from cellfuse.nn.contrastive import clip_loss, from_all_devices, same_context

__all__ = ["Positives", "SetCLIP", "Temperature"]

Positives = Literal["own", "context", "similar"]


class Temperature(nn.Module):
    """A learnable inverse temperature, kept in logarithms and at most 100 (CLIP)."""

    def __init__(self, start: float) -> None:
        super().__init__()
        if not 0.01 <= start < math.inf:
            raise ValueError(f"temperature must be finite and at least 0.01, found {start:g}.")
        self.log_scale = nn.Parameter(torch.tensor(-math.log(start)))

    def forward(self) -> Tensor:
        """Inverse temperature."""
        return self.log_scale.clamp(max=math.log(100.0)).exp()


class SetCLIP(nn.Module):
    """Encode cells, average each set, and let sets of one context find each other.

    Parameters
    ----------
    specs
        Input of the two modalities.
    sizes
        Sizes of PETRI's encoders; those of its decoders and set transformer are not used.
    average
        Average the cells of a document before they are compared (A.3); False compares cells.
    positives
        ``"own"``: the document's own pair. ``"context"``: every pair of one context (GroupCLIP).
        ``"similar"``: pairs weighted by how alike the first modality's embeddings are (CellCLIP).
    temperature
        Start of the learnable temperature.
    seed
        Seed of augmentation.
    """

    def __init__(
        self,
        specs: Mapping[str, InputSpec],
        sizes: Sizes,
        *,
        average: bool = True,
        positives: Positives = "own",
        temperature: float = 0.07,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.average, self.positives, self.seed = average, positives, seed
        self.cells = nn.ModuleDict(
            {name: build(spec, sizes).encoder_only() for name, spec in specs.items()}
        )
        self.temperature = Temperature(temperature)

    def cell(self, modality: str) -> CellAutoencoder:
        """Return the encoder of a modality."""
        return cast("CellAutoencoder", self.cells[modality])

    def embed(
        self, modality: str, x: Tensor, key: Tensor | None = None, *, augment: bool = False
    ) -> Tensor:
        """Embeddings ``(N, width)`` of cells ``(N, ...)``, or of documents ``(G, S, ...)`` by key.

        The mean of a cell's latents, as in PETRI.
        """
        if key is None:
            x, key = x[None], torch.zeros(1, dtype=torch.long, device=x.device)
        cell = self.cell(modality)
        prepared = cell.prepare(x, key, seed=self.seed, augment=augment)
        return cell.encode(prepared).mean(dim=1)

    def forward(
        self, x: Mapping[str, Tensor], key: Tensor, context: Tensor, *, augment: bool = False
    ) -> dict[str, Tensor]:
        """Losses of documents that hold both modalities.

        Parameters
        ----------
        x
            Cells of each modality, ``(G, S, ...)``.
        key, context
            Number and context of each document, ``(G,)``.
        augment
            Turn, flip and shift pixels.

        Returns
        -------
        ``loss`` and ``accuracy``: how often a row's most similar one is of its own context.
        """
        vectors, contexts = [], context
        for name, cells in x.items():
            z = self.embed(name, cells, key, augment=augment).float()
            z = z.view(*cells.shape[:2], -1)
            vectors.append(z.mean(dim=1) if self.average else z.flatten(0, 1))
        if not self.average:
            contexts = context.repeat_interleave(len(vectors[0]) // len(context))
        a, b = (from_all_devices(z) for z in vectors)
        contexts = from_all_devices(contexts)
        weight, back = self._weights(a, contexts)
        loss = clip_loss(a, b, self.temperature(), weight=weight, weight_back=back)
        with torch.no_grad():
            nearest = (F.normalize(a, dim=1) @ F.normalize(b, dim=1).T).argmax(dim=1)
            accuracy = (contexts[nearest] == contexts).float().mean()
        return {"loss": loss, "accuracy": accuracy}

    def _weights(self, a: Tensor, context: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if self.positives == "context":
            same = same_context(context)
            return same, same.T
        if self.positives == "similar":
            unit = F.normalize(a.detach(), dim=1)
            # Only where the first modality asks: its own similarities say what counts as a match.
            eye = torch.eye(len(a), device=a.device)
            return (1 + unit @ unit.T).clamp_min(0) / 2, eye
        return None, None
