"""Similarity of profiles to one another: cosines of vectors, or a matrix that is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_finite, representation, take_rows
from cellfuse._errors import listing, missing_key
from cellfuse.kernels.cosine import unit_rows

__all__ = ["Similarity", "similarity_of", "source_name"]

#: Decimals of a similarity: below this, rounding would break ties by the order of the input.
DECIMALS = 12
#: Vectors gathered at a time: they stay in the cache.
PAIRS = 1 << 9
#: Largest difference between the two triangles of a given matrix.
ASYMMETRY = 1e-5


@dataclass(frozen=True)
class Similarity:
    """All pairwise similarities of n profiles, computed or looked up where they are asked for.

    Attributes
    ----------
    values
        Unit vectors (n, d), or the matrix of similarities (n, n).
    rows
        Rows of `values` that take part, in the order of the profiles.
    given
        Whether `values` is a matrix of similarities.
    """

    values: NDArray
    rows: NDArray
    given: bool

    def __len__(self) -> int:
        return len(self.rows)

    def block(self, start: int, stop: int) -> NDArray:
        """Profiles start:stop against start:, float64, rounded."""
        part = self.between(np.arange(start, stop), np.arange(start, len(self.rows)))
        return np.round(part, DECIMALS, out=part)

    def between(self, first: NDArray, second: NDArray) -> NDArray:
        """Some profiles against others, by number: a new array, float64, not rounded."""
        left, right = self.rows[first], self.rows[second]
        if self.given:
            return np.array(self.values[np.ix_(left, right)], dtype=np.float64)
        return self._vectors(left) @ self._vectors(right).T

    def within(self, groups: NDArray) -> NDArray:
        """All pairs of each of m groups of g profiles (m, g): float64 (m, g, g), not rounded."""
        m, g = groups.shape
        rows = self.rows[groups]
        if self.given:
            return np.asarray(self.values[rows[:, :, None], rows[:, None]], dtype=np.float64)
        out = np.empty((m, g, g))
        step = max(1, PAIRS // g)
        for start in range(0, m, step):
            part = self.values[rows[start : start + step]]
            np.matmul(part, part.swapaxes(1, 2), out=out[start : start + step])
        return out

    def _vectors(self, rows: NDArray) -> NDArray:
        # Rows in order, the usual case, need no copy.
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and np.all(np.diff(rows) == 1):
            return self.values[rows[0] : rows[-1] + 1]
        return self.values[rows]

    def pairs(self, first: NDArray, second: NDArray) -> NDArray:
        """Similarity of each pair of profiles, float64, rounded as in :meth:`block`."""
        i, j = self.rows[first], self.rows[second]
        if self.given:
            return np.round(np.asarray(self.values[i, j], dtype=np.float64), DECIMALS)
        out = np.empty(len(i))
        for start in range(0, len(i), PAIRS):
            part = slice(start, start + PAIRS)
            np.einsum("ij,ij->i", self.values[i[part]], self.values[j[part]], out=out[part])
        return np.round(out, DECIMALS, out=out)

    def matrix(self, *, dtype: type = np.float64) -> NDArray:
        """All of them as one matrix."""
        if self.given:
            return np.asarray(self.values[np.ix_(self.rows, self.rows)], dtype=dtype)
        units = self.values[self.rows].astype(dtype, copy=False)
        return units @ units.T


def source_name(use_rep: str | None, use_sim: str | None) -> str:
    """Name of what the similarities come from, for a message."""
    if use_sim is not None:
        return f"obsp[{use_sim!r}]"
    return "X" if use_rep in (None, "X") else f"obsm[{use_rep!r}]"


def similarity_of(
    profiles: AnnData,
    *,
    use_rep: str | None,
    use_sim: str | None = None,
    rows: NDArray | None = None,
    names: NDArray | pd.Index | None = None,
) -> Similarity:
    """Similarities of the profiles by cosine, or those in ``obsp[use_sim]``.

    Parameters
    ----------
    rows
        Numbers of the profiles that take part; None is all.
    names
        What to call them in a message; None is obs_names.
    """
    chosen = np.arange(profiles.n_obs) if rows is None else np.asarray(rows)
    name = source_name(use_rep, use_sim)
    if use_sim is not None:
        return Similarity(_given(profiles, use_rep, use_sim), chosen, True)
    values: Any = representation(profiles, use_rep)
    check_finite(values, name)
    if rows is not None:
        values = take_rows(values, chosen)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    empty = np.flatnonzero(~np.any(dense, axis=1))
    if len(empty):
        called = profiles.obs_names[chosen] if names is None else names
        raise ValueError(
            f"{len(empty)} profiles are all zeros in {name} and have no direction: "
            f"{listing(called[empty])}. Drop them."
        )
    return Similarity(unit_rows(dense), np.arange(len(dense)), False)


def _given(profiles: AnnData, use_rep: str | None, use_sim: str) -> NDArray:
    if use_rep is not None:
        raise ValueError(
            f"give `use_rep` (cosines of vectors) or `use_sim` (a matrix of similarities), not "
            f"both; found {use_rep!r} and {use_sim!r}."
        )
    if use_sim not in profiles.obsp:
        raise missing_key(use_sim, list(profiles.obsp), what="obsp")
    matrix = profiles.obsp[use_sim]
    if hasattr(matrix, "toarray"):
        raise TypeError(
            f"obsp[{use_sim!r}] is sparse; a matrix of similarities has a value for every pair."
        )
    matrix = matrix.to_numpy() if isinstance(matrix, pd.DataFrame) else np.asarray(matrix)
    check_finite(matrix, f"obsp[{use_sim!r}]")
    for start in range(0, len(matrix), 512):
        part = matrix[start : start + 512]
        if not np.allclose(part, matrix[:, start : start + 512].T, rtol=0, atol=ASYMMETRY):
            raise ValueError(
                f"obsp[{use_sim!r}] is not symmetric: it holds no similarities of pairs."
            )
    return matrix
