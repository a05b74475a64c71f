"""Normal quantiles of ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

__all__ = ["inverse_normal"]


def inverse_normal(values: NDArray, *, offset: float = 3 / 8) -> NDArray:
    """Normal quantiles of the ranks of each column, ``(r - c) / (n - 2c + 1)``; float64."""
    rank = rankdata(np.asarray(values), axis=0)
    return ndtri((rank - offset) / (len(values) - 2 * offset + 1))
