"""MODZ: replicates averaged with weights by how well they agree (as cmapPy and pycytominer)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.groups import group_rows

__all__ = ["group_modz", "modz_weights"]

#: Smallest weight of a replicate before weights are brought to sum 1, and their decimals.
MIN_WEIGHT = 0.01
DECIMALS = 4
#: Rows whose correlations with all others exist at a time.
BLOCK = 512


def modz_weights(rows: NDArray) -> NDArray:
    """Weight of each row, shape (n,): its mean Spearman correlation with the others.

    Negative correlations count as 0, a mean below .01 as .01; the weights are brought to sum 1
    and rounded to four decimals.
    """
    n = len(rows)
    if n == 1:
        return np.ones(1)
    rank = rankdata(rows, axis=1)
    rank -= rank.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("ij,ij->i", rank, rank))
    rank /= np.where(length > 0, length, 1.0)[:, None]  # a flat row correlates with nothing
    mean = np.empty(n)
    for start in range(0, n, BLOCK):
        part = np.maximum(rank[start : start + BLOCK] @ rank.T, 0.0)
        at = np.arange(len(part))
        part[at, start + at] = 0.0
        mean[start : start + BLOCK] = part.sum(axis=1) / (n - 1)
    weight = np.maximum(mean, MIN_WEIGHT)
    return np.round(weight / weight.sum(), DECIMALS)


def group_modz(values: Any, codes: NDArray, n_groups: int) -> NDArray:
    """Weighted mean row of each group, shape (groups, d), float64; NaN for an empty one.

    Arguments as in :func:`cellfuse.kernels.groups.group_means`.
    """
    out = np.full((n_groups, values.shape[1]), np.nan)

    def one(job: tuple[int, NDArray]) -> None:
        group, rows = job
        if len(rows):
            part = values[rows]
            part = np.asarray(part.toarray() if hasattr(part, "toarray") else part, np.float64)
            out[group] = modz_weights(part) @ part

    in_threads(one, enumerate(group_rows(codes, n_groups)))
    return out
