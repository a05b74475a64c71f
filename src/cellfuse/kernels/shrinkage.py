"""How far a covariance of few rows is better drawn towards a sphere (Ledoit and Wolf, 2004)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import over_pieces, pieces

__all__ = ["fourth_moment", "ledoit_wolf", "ridge_of"]

#: Bytes of one block of rows.
BLOCK_BYTES = 8 << 20
#: Largest share of the sphere: all of it would leave nothing of the data.
MOST = 1 - 1e-6


def fourth_moment(
    values: NDArray,
    mean: NDArray,
    *,
    rows: NDArray | None = None,
    inverse: NDArray | None = None,
) -> float:
    """Mean over rows of ``|x - mean|^4``, features multiplied with `inverse` before, by blocks."""
    n = values.shape[0] if rows is None else len(rows)

    def one(piece: Any) -> float:
        part = np.asarray(values[piece]) - mean
        if inverse is not None:
            part = part * inverse
        return float((np.einsum("ij,ij->i", part, part) ** 2).sum())

    return sum(over_pieces(values, one, pieces(values, rows, block_bytes=BLOCK_BYTES))) / n


def ledoit_wolf(covariance: NDArray, fourth: float, n: int) -> float:
    """Share a of the sphere in ``(1 - a) S + a mean(diag S) I``, as scikit-learn has it.

    Parameters
    ----------
    covariance
        S, shape (d, d), with n - 1 in the denominator.
    fourth
        As :func:`fourth_moment` gives it, of the same rows.
    n
        Number of rows.
    """
    d = len(covariance)
    scatter = covariance * ((n - 1) / n)  # the formula has n in the denominator
    squares = float(np.einsum("ij,ij->", scatter, scatter))
    distance = squares - np.trace(scatter) ** 2 / d
    if not distance > 0:
        return MOST
    return float(min(max((fourth - squares) / n, 0.0) / distance, MOST))


def ridge_of(share: float) -> float:
    """The share of the sphere as a ridge beside S: a / (1 - a)."""
    return share / (1.0 - share)
