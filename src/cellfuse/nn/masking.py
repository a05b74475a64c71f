"""Which tokens of a cell are hidden."""

from __future__ import annotations

import torch
from torch import Tensor

from cellfuse.nn.keyed import uniform

__all__ = ["random_mask"]


def random_mask(
    key: Tensor, set_size: int, n_tokens: int, *, ratio: float, seed: int, purpose: str
) -> tuple[Tensor, Tensor]:
    """Hide a share of each cell's tokens at random.

    Parameters
    ----------
    key
        Number of each document, ``(G,)``.
    set_size
        Cells of a document, `S`.
    n_tokens
        Tokens of a cell, `T`.
    ratio
        Share hidden, 0.75 in PETRI; at least one token is hidden and one kept.
    seed, purpose
        Passed to :func:`~cellfuse.nn.uniform`.

    Returns
    -------
    keep
        Tokens that are seen, ``(G * S, K)``.
    mask
        ``(G * S, T)``, True where a token is hidden.
    """
    n_keep = min(max(round(n_tokens * (1 - ratio)), 1), n_tokens - 1)
    noise = uniform(key, (set_size, n_tokens), seed=seed, purpose=purpose).flatten(0, 1)
    keep = noise.topk(n_keep, dim=1, largest=False, sorted=False).indices
    mask = noise.new_ones(noise.shape, dtype=torch.bool).scatter_(1, keep, False)
    return keep, mask
