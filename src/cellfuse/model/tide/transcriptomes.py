"""RNA of a screen as TIDE reads it: scaled, averaged, its controls the basal state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data import Contexts, Draw, Reader
from cellfuse.data.readers import read_dense
from cellfuse.model.tide.capping import capped

__all__ = ["Transcriptomes", "log_normalize"]

#: Profiles that are read at a time.
CHUNK = 4096


def log_normalize(x: Tensor, *, counts: bool) -> Tensor:
    """``log(1 + counts per 10,000)`` of raw counts; values as they are."""
    x = x.float()
    if not counts:
        return x
    return torch.log1p(x * (1e4 / x.sum(dim=-1, keepdim=True).clamp(min=1)))


@dataclass(frozen=True)
class Transcriptomes:
    """RNA of a screen as the response model reads it.

    Parameters
    ----------
    reader
        Of the RNA.
    fields
        ``"dose"`` and ``"compound"`` of each row; the compound is a row of `bits`, -1 a control.
    contexts
        Contexts of the RNA.
    bits
        Fingerprint of every compound, ``(n_compounds, n_bits)``.
    counts
        Whether raw counts are read.
    compound_key, control
        Column of the contexts with the compound, and the controls' label.
    n_basal
        Control profiles that are averaged to a basal state.
    """

    reader: Reader
    fields: Mapping[str, NDArray]
    contexts: Contexts
    bits: Tensor
    counts: bool
    compound_key: str
    control: str
    n_basal: int

    def basal_draw(self) -> Draw:
        """Draw of the controls that agree with a document in everything but the compound."""
        return Draw("rna", self.n_basal, context="control", missing="drop", name="basal")

    def values(self, x: Tensor) -> Tensor:
        """Profiles of a draw, ``(G, S, n_genes)``, averaged over S."""
        return log_normalize(x, counts=self.counts).mean(dim=1)

    def blocks(self, rows: NDArray[np.int64]) -> Any:
        """Go through rows: their numbers and their profiles."""
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            yield part, log_normalize(read_dense(self.reader, part), counts=self.counts)

    def statistics(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each gene over `rows`."""
        total: Any = 0.0
        squares: Any = 0.0
        shift: Any = None
        for _, x in self.blocks(rows):
            x = x.double()
            shift = x.mean(dim=0) if shift is None else shift
            total = total + (x - shift).sum(dim=0)
            squares = squares + (x - shift).square().sum(dim=0)
        mean = total / len(rows)
        variance = (squares / len(rows) - mean.square()).clamp(min=0)
        return (mean + shift).float(), variance.sqrt().float()

    def means(self, codes: NDArray[np.int64], n: int) -> NDArray[np.float64]:
        """Mean profile of the rows of each code ``(n, n_genes)``; negative codes are left out."""
        total = np.zeros((n, self.reader.shape[1]))
        for part, x in self.blocks(np.flatnonzero(codes >= 0)):
            np.add.at(total, codes[part], x.double().numpy())
        counts = np.bincount(codes[codes >= 0], minlength=n)
        return total / np.maximum(counts, 1)[:, None]

    def used(
        self, drugs: Sequence[str], compounds: Sequence[str], n_paired: int | None, seed: int
    ) -> NDArray[np.bool_]:
        """RNA rows that are used: at most `n_paired` of each of `drugs`, all others."""
        names = list(compounds)
        return capped(self.fields["compound"], [names.index(d) for d in drugs], n_paired, seed)

    def fingerprints(self, compound: Tensor) -> Tensor:
        """Bits of compounds, zeros for controls."""
        found = self.bits.to(compound.device)[compound.clamp(min=0)]
        return found * (compound >= 0)[:, None]
