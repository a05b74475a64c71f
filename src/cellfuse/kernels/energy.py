"""Energy distance between groups of rows and controls, and its permutation null."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Energy", "distances", "energy_test"]

#: Elements gathered at a time.
GATHER = 1 << 21


@dataclass(frozen=True)
class Energy:
    """Energy distance, its permutation p-value and the mean of the null."""

    distance: float
    pvalue: float
    null_mean: float


def distances(a: NDArray, b: NDArray) -> NDArray:
    """Euclidean distances of the rows of two matrices, float64; equal rows have exactly 0."""
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2.0 * (a @ b.T)
    # Below this a difference of large squares is rounding.
    size = np.maximum((a * a).sum(axis=1)[:, None], (b * b).sum(axis=1))
    squared[squared < 1e-13 * size] = 0.0
    return np.sqrt(squared, out=squared)


def _energy(
    inside: NDArray, total: NDArray, everything: float, n_first: int, n_second: int
) -> NDArray:
    """``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` over all pairs, a row with itself included.

    Parameters
    ----------
    inside
        Sum of the distances within the first group.
    total
        Sum of the distances of the first group to all rows.
    everything
        Sum of all distances.
    """
    between = total - inside
    second = everything - 2.0 * total + inside
    return 2.0 * between / (n_first * n_second) - inside / n_first**2 - second / n_second**2


def energy_test(
    distance: NDArray,
    n_first: int,
    strata: NDArray,
    *,
    n_permutations: int,
    seed: np.random.SeedSequence,
) -> Energy:
    """Test whether the first rows of a distance matrix differ from the rest.

    Labels are permuted within strata (batches), so that a batch effect is in the null as well.

    Parameters
    ----------
    distance
        Shape (n, n): the group's rows first, then the controls'.
    n_first
        Rows of the group.
    strata
        Stratum of each row, shape (n,).
    n_permutations
        Permutations; the smallest p-value is ``1 / (n_permutations + 1)``.
    """
    n = len(distance)
    row_total = distance.sum(axis=1)
    everything = float(row_total.sum())
    counts = n_first, n - n_first
    inside = float(distance[:n_first, :n_first].sum())
    observed = float(_energy(np.array(inside), row_total[:n_first].sum(), everything, *counts))
    rng = np.random.default_rng(seed)
    null = np.empty(n_permutations)
    flat = distance.ravel()
    step = max(1, GATHER // n_first**2)
    for start in range(0, n_permutations, step):
        stop = min(start + step, n_permutations)
        members = _draw(strata, n_first, stop - start, rng)
        pairs = members[:, :, None] * n + members[:, None, :]
        within = flat.take(pairs).sum(axis=(1, 2))
        null[start:stop] = _energy(within, row_total[members].sum(axis=1), everything, *counts)
    scale = max(abs(observed), everything / n**2)
    extreme = int((null >= observed - 1e-10 * scale).sum())
    pvalue = (extreme + 1.0) / (n_permutations + 1.0)
    return Energy(observed, pvalue, float(null.mean()) if n_permutations else np.nan)


def _draw(strata: NDArray, n_first: int, n_sets: int, rng: np.random.Generator) -> NDArray:
    """Random groups with as many rows of each stratum as the first `n_first` rows have."""
    parts = []
    for stratum in np.unique(strata[:n_first]):
        rows = np.flatnonzero(strata == stratum)
        size = int((rows < n_first).sum())
        keys = rng.random((n_sets, len(rows)))
        chosen = np.argpartition(keys, size - 1, axis=1)[:, :size]
        parts.append(rows[chosen])
    return np.concatenate(parts, axis=1)
