"""Cosine similarity through unit vectors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellfuse.kernels.chunks import in_threads, row_blocks
from cellfuse.kernels.groups import group_rows

__all__ = ["mean_pairwise_cosine", "mean_within", "set_similarity", "unit_rows"]


def unit_rows(values: NDArray, *, dtype: type = np.float64) -> NDArray:
    """Scale rows to length 1; a row of zeros has no direction and is an error.

    Computed in float64, by blocks.
    """
    out: NDArray = np.empty(values.shape, dtype)

    def one(block: slice) -> None:
        wide = np.asarray(values[block], dtype=np.float64)
        # By the largest entry first: squares of tiny or huge values would leave the number range.
        size = np.abs(wide).max(axis=1, keepdims=True)
        if not np.all(size > 0):
            row = block.start + int(np.argmin(size > 0))
            raise ValueError(f"row {row} is all zeros: it has no direction.")
        wide = wide / size
        wide /= np.sqrt(np.einsum("ij,ij->i", wide, wide))[:, None]
        out[block] = wide

    in_threads(one, row_blocks(*values.shape))
    return out


def set_similarity(squared_length: NDArray, size: NDArray | int) -> NDArray:
    """Mean pairwise cosine of `size` unit vectors from the squared length of their sum.

    ``(|sum u|^2 - k) / (k (k - 1))``: the k(k - 1)/2 pairs are never formed.
    """
    k = np.asarray(size, dtype=np.float64)
    return (squared_length - k) / (k * (k - 1.0))


def mean_pairwise_cosine(units: NDArray, codes: NDArray, n_groups: int) -> NDArray:
    """Mean cosine over the pairs within each group.

    Parameters
    ----------
    units
        Rows of length 1, shape (n, d).
    codes
        Group of each row, shape (n,).

    Returns
    -------
    Shape (groups,), float64; NaN for a group of fewer than two rows.
    """
    n = len(units)
    indicator = sparse.csr_array((np.ones(n), (codes, np.arange(n))), shape=(n_groups, n))
    total = indicator @ units
    size = np.bincount(codes, minlength=n_groups)
    similarity = np.full(n_groups, np.nan)
    many = size > 1
    squared = np.einsum("ij,ij->i", total[many], total[many])
    similarity[many] = set_similarity(squared, size[many])
    return similarity


def mean_within(similarity: NDArray, codes: NDArray, n_groups: int) -> NDArray:
    """Mean over the pairs within each group of a matrix (n, n) that is given.

    As :func:`mean_pairwise_cosine`, shape (groups,), NaN for a group of fewer than two.
    """
    means = np.full(n_groups, np.nan)
    for group, rows in enumerate(group_rows(codes, n_groups)):
        if len(rows) > 1:
            part = similarity[np.ix_(rows, rows)]
            means[group] = part[np.triu_indices(len(rows), 1)].mean(dtype=np.float64)
    return means
