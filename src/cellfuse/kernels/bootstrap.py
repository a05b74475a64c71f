"""Intervals and paired tests over nodes: genes are drawn, and pairs follow them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = [
    "bootstrap_pvalue",
    "draw_nodes",
    "interval",
    "pair_means",
    "sign_flip_pvalue",
    "weighted_means",
]

#: Coverage of the intervals, in percent.
INTERVAL = (2.5, 97.5)
#: Bytes of one block of random signs or weights.
BLOCK_BYTES = 64 << 20
#: Differences closer than this are equal: they differ by the order of summation.
TIE = 1e-12


def draw_nodes(n: int, n_boot: int, seed: int) -> NDArray:
    """Times each of `n` nodes is drawn in each replicate, shape (n, n_boot)."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n, np.full(n, 1 / n), size=n_boot).T


def weighted_means(values: NDArray, drawn: NDArray) -> NDArray:
    """Mean of `values` (n,) over the drawn nodes of each replicate; NaN values take no part."""
    known = ~np.isnan(values)
    weight = drawn[known].astype(np.float64)
    with np.errstate(invalid="ignore"):
        return (values[known] @ weight) / weight.sum(axis=0)


def pair_means(first: NDArray, second: NDArray, values: NDArray, drawn: NDArray) -> NDArray:
    """Mean over pairs in each replicate, a pair weighing the product of its nodes' counts.

    Parameters
    ----------
    first, second
        Node numbers of each pair, shape (p,).
    values
        Shape (p,).
    drawn
        Times each node was drawn, shape (nodes, replicates).

    Returns
    -------
    Shape (replicates,); NaN where no pair was drawn.
    """
    n = len(drawn)
    weight = drawn.astype(np.float64)
    total, count = (
        np.einsum("ij,ij->j", weight, sparse.csr_array((v, (first, second)), shape=(n, n)) @ weight)
        for v in (np.asarray(values, dtype=np.float64), np.ones(len(first)))
    )
    with np.errstate(invalid="ignore"):
        return total / count


def interval(replicates: NDArray) -> tuple[float, float]:
    """95% percentile interval; NaN where no replicate has a value."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return np.nan, np.nan
    low, high = np.percentile(known, INTERVAL)
    return float(low), float(high)


def bootstrap_pvalue(replicates: NDArray) -> float:
    """Two-sided p of a difference from its bootstrap: twice the smaller share on one side of 0."""
    known = replicates[~np.isnan(replicates)]
    if not len(known):
        return np.nan
    side = min((known <= TIE).sum(), (known >= -TIE).sum())
    return float(min(1.0, 2.0 * (side + 1.0) / (len(known) + 1.0)))


def sign_flip_pvalue(difference: NDArray, n_permutations: int, seed: int) -> float:
    """Two-sided p of a mean paired difference: each pair's two scores are swapped at random.

    ``(k + 1) / (B + 1)`` with k permutations whose mean is as far from 0 as the observed one.
    """
    known = np.asarray(difference, dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return np.nan
    observed = abs(known.sum()) * (1 - TIE)
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK_BYTES // (8 * len(known)))
    extreme = 0
    for start in range(0, n_permutations, step):
        signs = rng.integers(0, 2, (min(step, n_permutations - start), len(known)), dtype=np.int8)
        flipped = signs @ (2.0 * known) - known.sum()
        extreme += int((np.abs(flipped) >= observed).sum())
    return (extreme + 1.0) / (n_permutations + 1.0)
