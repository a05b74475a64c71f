"""How TIDE caps its RNA."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cellfuse.data.splits import rank_within

__all__ = ["capped"]


def capped(
    compound: NDArray[np.int64], drugs: Sequence[int], n_paired: int | None, seed: int
) -> NDArray[np.bool_]:
    """RNA rows that are used: at most `n_paired` of each of `drugs`, all others."""
    if n_paired is None:
        return np.ones(len(compound), bool)
    order = np.random.default_rng([seed, 15_485_863]).permutation(len(compound))
    return (rank_within(compound, order) < n_paired) | ~np.isin(compound, drugs)
