"""Quantile bins within groups of numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["quantile_bins"]


def quantile_bins(
    values: NDArray, indptr: NDArray, *, n_bins: int, noise: NDArray
) -> NDArray[np.int64]:
    """Bin each group of numbers by its own quantiles, from 1 to `n_bins` - 1; 0 is left to zeros.

    The ``n_bins - 1`` edges of a group are its quantiles at equal steps from 0 to 1, interpolated
    as :func:`numpy.quantile` does. A value that lies between two edges has one bin; one that
    equals several edges (ties, which counts are full of) is put into any bin between them, by its
    `noise`.

    Parameters
    ----------
    values
        Numbers of all groups, one group after another, ``(n,)``.
    indptr
        Start of each group and the end of the last, ``(G + 1,)``. A group may be empty.
    n_bins
        Number of bins with the one for zeros, at least 3.
    noise
        A number in [0, 1) per value.

    Returns
    -------
    Bins, ``(n,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.kernels.binning import quantile_bins
    >>> values, indptr = np.array([5.0, 1.0, 3.0, 2.0, 4.0]), np.array([0, 5])
    >>> quantile_bins(values, indptr, n_bins=6, noise=np.full(5, 0.5)).tolist()
    [5, 1, 3, 2, 4]
    """
    values = np.asarray(values, dtype=np.float64)
    steps = np.linspace(0, 1, n_bins - 1)
    below, upto = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    for start, stop in zip(indptr[:-1], indptr[1:], strict=True):
        if start < stop:
            part = slice(start, stop)
            below[part], upto[part] = _edges_around(values[part], steps)
    return np.ceil(noise * (below - upto) + upto).astype(np.int64)


def _edges_around(row: NDArray, steps: NDArray) -> tuple[NDArray, NDArray]:
    """Number of edges under each value of a group, and of those that are not above it."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    edges = _quantiles(ordered, steps)
    below, upto = np.empty_like(order), np.empty_like(order)
    # Where an edge falls among the sorted values says for which of them it counts.
    for out, side in ((below, "right"), (upto, "left")):
        place = np.searchsorted(ordered, edges, side=side)  # type: ignore[call-overload]
        out[order] = np.cumsum(np.bincount(place, minlength=len(row) + 1))[:-1]
    return below, upto


def _quantiles(ordered: NDArray, steps: NDArray) -> NDArray:
    """Quantiles of sorted numbers, to the last digit as numpy has them."""
    place = steps * (len(ordered) - 1)
    before = np.floor(place).astype(np.int64)
    share = place - before
    a, b = ordered[before], ordered[np.minimum(before + 1, len(ordered) - 1)]
    # Two forms, each exact at its own end.
    return np.where(share < 0.5, a + (b - a) * share, b - (b - a) * (1 - share))
