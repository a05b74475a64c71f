"""What a verb has fitted, to be applied to rows when they are read.

These steps are affine in the rows of one code: a mean of such rows after the step is the step of
their mean (`affine`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.robust import center_scale
from cellfuse.kernels.whitening import apply_whitening

__all__ = ["AffineStep", "ScaleStep"]


def _empty(values: NDArray) -> NDArray:
    return np.empty(values.shape, np.float64 if values.dtype == np.float64 else np.float32)


@dataclass(frozen=True)
class ScaleStep:
    """``(x - location[codes]) / spread[codes]``, as :func:`center_scale` has it.

    Attributes
    ----------
    codes
        Group of every row of the matrix, shape (n,).
    location, spread
        Shape (groups, d).
    """

    codes: NDArray
    location: NDArray
    spread: NDArray

    affine = True

    def __call__(self, values: NDArray, rows: NDArray) -> NDArray:
        """Apply to rows of the matrix."""
        out = _empty(values)
        codes = self.codes[rows]
        return center_scale(values, codes, self.location, self.spread, out=out)


@dataclass(frozen=True)
class AffineStep:
    """``(x - means[codes]) @ matrices[codes]``; shapes (groups, d) and (groups, d, d)."""

    codes: NDArray
    means: list[NDArray]
    matrices: list[NDArray]

    affine = True

    def __call__(self, values: NDArray, rows: NDArray) -> NDArray:
        """Apply to rows of the matrix."""
        out = _empty(values)
        present, codes = np.unique(self.codes[rows], return_inverse=True)
        for group, chosen in zip(present, group_rows(codes, len(present)), strict=True):
            mean, matrix = self.means[group], self.matrices[group]
            apply_whitening(values, mean, matrix, out=out, rows=chosen)
        return out
