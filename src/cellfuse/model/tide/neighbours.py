"""How TIDE caps its RNA, and how an epoch is judged: by the neighbours of held-out images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data.splits import rank_within

__all__ = ["bank_rows", "capped", "neighbour_accuracy"]

#: Images of a compound that neighbours are looked for among.
BANK = 20
#: Embeddings that are asked at a time.
BLOCK = 512


def capped(
    compound: NDArray[np.int64], drugs: Sequence[int], n_paired: int | None, seed: int
) -> NDArray[np.bool_]:
    """RNA rows that are used: at most `n_paired` of each of `drugs`, all others."""
    if n_paired is None:
        return np.ones(len(compound), bool)
    order = np.random.default_rng([seed, 15_485_863]).permutation(len(compound))
    return (rank_within(compound, order) < n_paired) | ~np.isin(compound, drugs)


def neighbour_accuracy(
    asked: Tensor, asked_label: Tensor, bank: Tensor, label: Tensor, *, k: int = 20
) -> float:
    """Share of embeddings whose label most of their `k` nearest by cosine have."""
    unit, n_labels, right = F.normalize(bank, dim=1), int(label.max()) + 1, 0
    for part, wanted in zip(asked.split(BLOCK), asked_label.split(BLOCK), strict=True):
        near = (F.normalize(part, dim=1) @ unit.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), n_labels, device=asked.device)
        # A vote weighs a hair more the nearer it is, so that no tie hangs on the order of labels.
        votes.scatter_add_(1, label[near.indices], 1 + 1e-3 * near.values.float())
        right += int((votes.argmax(dim=1) == wanted).sum())
    return right / len(asked)


def bank_rows(compound: NDArray[np.int64], held: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Training images that neighbours are looked for among: some of each compound."""
    order = np.random.default_rng([seed, 1_299_709]).permutation(len(compound))
    label = np.where(held, -1, compound)
    return np.flatnonzero((label >= 0) & (rank_within(label, order) < BANK))
