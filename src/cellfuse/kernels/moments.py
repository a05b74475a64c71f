"""Mean and standard deviation of columns within groups of rows."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads, over_pieces, pieces

__all__ = ["grouped_mean_sd", "mean_sd"]


def mean_sd(values: NDArray, rows: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation (n in the denominator) of each column, float64.

    A standard deviation that is no larger than the rounding of the values is returned as 0.
    """
    if hasattr(values, "run"):
        return _lazy_mean_sd(values, rows)
    part = np.asarray(values if rows is None else values[rows])
    mean = part.mean(axis=0, dtype=np.float64)
    centred = np.subtract(part, mean, dtype=np.float64)
    rest = centred.mean(axis=0)  # what the sum lost to rounding, or a column of 0.1 would vary
    mean, centred = mean + rest, centred - rest
    sd = np.sqrt(np.einsum("ij,ij->j", centred, centred) / len(part))
    return mean, _above_rounding(mean, sd, part.dtype)


def _above_rounding(mean: NDArray, sd: NDArray, dtype: np.dtype) -> NDArray:
    kind = np.finfo(dtype if dtype.kind == "f" else np.float64)
    sd[sd <= np.maximum(kind.eps * np.abs(mean), float(kind.tiny))] = 0.0
    return sd


def _lazy_mean_sd(values: Any, rows: NDArray | None) -> tuple[NDArray, NDArray]:
    """Two passes over what is not in memory."""
    n, blocks = (len(values) if rows is None else len(rows)), pieces(values, rows)
    mean = (
        sum(over_pieces(values, lambda piece: values[piece].sum(axis=0, dtype=np.float64), blocks))
        / n
    )

    def squares(piece: Any) -> NDArray:
        centred = np.subtract(values[piece], mean, dtype=np.float64)
        return np.stack([centred.sum(axis=0), np.einsum("ij,ij->j", centred, centred)])

    rest, square = np.sum(list(over_pieces(values, squares, blocks)), axis=0) / n
    sd = np.sqrt(np.maximum(square - rest**2, 0.0))
    return mean + rest, _above_rounding(mean, sd, values.dtype)


def grouped_mean_sd(values: NDArray, rows: list[NDArray]) -> tuple[NDArray, NDArray]:
    """Compute :func:`mean_sd` of each group of rows; two arrays of shape (groups, d)."""
    if hasattr(values, "hold"):
        values, rows = values.hold(rows)
    one = partial(mean_sd, values)
    fitted = list(map(one, rows)) if hasattr(values, "run") else in_threads(one, rows)
    return np.stack([f[0] for f in fitted]), np.stack([f[1] for f in fitted])
