"""Mean and standard deviation of columns within groups of rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads

__all__ = ["grouped_mean_sd", "mean_sd"]


def mean_sd(values: NDArray, rows: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """Mean and standard deviation (n in the denominator) of each column, float64.

    A standard deviation that is no larger than the rounding of the values is returned as 0.
    """
    part = np.asarray(values if rows is None else values[rows])
    mean = part.mean(axis=0, dtype=np.float64)
    centred = np.subtract(part, mean, dtype=np.float64)
    sd = np.sqrt(np.einsum("ij,ij->j", centred, centred) / len(part))
    kind = np.finfo(part.dtype if part.dtype.kind == "f" else np.float64)
    sd[sd <= np.maximum(kind.eps * np.abs(mean), float(kind.tiny))] = 0.0
    return mean, sd


def grouped_mean_sd(values: NDArray, rows: list[NDArray]) -> tuple[NDArray, NDArray]:
    """Compute :func:`mean_sd` of each group of rows; two arrays of shape (groups, d)."""
    fitted = in_threads(lambda chosen: mean_sd(values, chosen), rows)
    return np.stack([f[0] for f in fitted]), np.stack([f[1] for f in fitted])
