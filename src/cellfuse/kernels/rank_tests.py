"""Mann-Whitney tests of many groups against one, on the columns of a sparse matrix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import ndtr

from cellfuse.kernels.chunks import in_threads

__all__ = ["RankSums", "rank_sums", "two_sided"]

#: Columns that one job works on.
COLUMNS = 64


@dataclass(frozen=True)
class RankSums:
    """Every group against the reference, on every column; arrays are ``(groups, columns)``.

    Parameters
    ----------
    shift
        U of the group less what is expected of it, ``n_group * n_reference / 2``.
    variance
        Variance of U where group and reference are alike, ties accounted for.
    positive
        Rows of the group whose value is not zero.
    n_group
        Rows of each group, ``(groups,)``.
    n_reference
        Rows of the reference.
    n_pairs
        Pairs that were compared, ``(groups,)``.
    """

    shift: NDArray[np.float32]
    variance: NDArray[np.float32]
    positive: NDArray[np.int32]
    n_group: NDArray[np.int64]
    n_reference: int
    n_pairs: NDArray

    @property
    def auc(self) -> NDArray:
        """Chance that a row of the group has the larger value (half of the ties)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return 0.5 + self.shift / self.n_pairs[:, None]


def two_sided(shift: NDArray, variance: NDArray) -> NDArray[np.float64]:
    """Two-sided p of U by the normal approximation, with continuity correction.

    1 where nothing varies. As ``scipy.stats.mannwhitneyu(method="asymptotic")`` has it.
    """
    distance = np.maximum(np.abs(shift, dtype=np.float64) - 0.5, 0.0)
    z = np.divide(distance, np.sqrt(variance), out=np.zeros_like(distance), where=variance > 0)
    return np.minimum(2.0 * ndtr(-z), 1.0)


def rank_sums(
    values: sparse.csr_matrix | sparse.csr_array, codes: NDArray, n_groups: int
) -> RankSums:
    """Compare each group of rows with the reference, column by column.

    What is not stored is a tie at zero, which is counted and never looked at: time and memory go
    with the stored values (and with groups x columns, for the result).

    Parameters
    ----------
    values
        ``(rows, columns)``, non-negative.
    codes
        Group of each row, ``(rows,)``; -1 is the reference, and what is below it takes no part.
    n_groups
        Number of groups.
    """
    used = np.flatnonzero(codes >= -1)
    code = np.asarray(codes)[used].astype(np.int64)
    # By columns, each with its rows in order: one conversion, then slices.
    columns = sparse.csc_matrix(values[used] if len(used) < len(codes) else values)
    n_group = np.bincount(code[code >= 0], minlength=n_groups)
    n_reference = int((code == -1).sum())
    shape = (n_groups, columns.shape[1])
    out = RankSums(
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.int32),
        n_group,
        n_reference,
        n_group * float(n_reference),
    )

    def one(first: int) -> None:
        for j in range(first, min(first + COLUMNS, shape[1])):
            a, b = columns.indptr[j], columns.indptr[j + 1]
            value, group = columns.data[a:b], code[columns.indices[a:b]]
            if (value == 0).any():  # stored zeros are zeros
                value, group = value[value != 0], group[value != 0]
            _one_column(value, group, out, j)

    in_threads(one, range(0, shape[1], COLUMNS))
    return out


def _one_column(value: NDArray, group: NDArray, out: RankSums, column: int) -> None:
    """Fill one column of the result from its values that are not zero."""
    n_groups = len(out.n_group)
    n, m = out.n_group.astype(np.float64), float(out.n_reference)
    is_reference = group < 0
    reference = np.sort(value[is_reference])
    rest, member = value[~is_reference], group[~is_reference]
    zeros_reference = m - len(reference)
    positive = np.bincount(member, minlength=n_groups)
    zeros = n - positive

    # Rows of the reference below each value, ties as halves.
    left = np.searchsorted(reference, rest, side="left")
    right = np.searchsorted(reference, rest, side="right")
    above = np.bincount(member, weights=(left + right) / 2, minlength=n_groups)
    u = above + positive * zeros_reference + zeros * zeros_reference / 2
    out.shift[:, column] = u - n * m / 2
    out.positive[:, column] = positive

    tied = _cubes(zeros + zeros_reference) + _ties(reference, rest, member, n_groups, right - left)
    total = n + m
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = n * m / 12 * ((total + 1) - tied / (total * (total - 1)))
    # What is only rounding is none: all values of group and reference are alike.
    out.variance[:, column] = np.where(variance > 1e-9 * n * m, variance, 0.0)


def _cubes(count: NDArray) -> NDArray:
    return count**3 - count


def _ties(
    reference: NDArray, rest: NDArray, member: NDArray, n_groups: int, alike: NDArray
) -> NDArray:
    """Sum of t^3 - t over the values above zero that group and reference share, ``(groups,)``."""
    own = 0.0
    if len(reference) > 1:
        count = np.diff(np.flatnonzero(np.diff(reference, prepend=np.nan, append=np.nan) != 0))
        own = float(_cubes(count[count > 1].astype(np.float64)).sum())
    extra: NDArray = np.zeros(n_groups)
    ordered = np.sort(rest)
    within = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(within) or alike.any():
        # Few values are tied at all; only those are put in order.
        maybe = (alike > 0) | np.isin(rest, within)
        v, g, c = rest[maybe], member[maybe], alike[maybe].astype(np.float64)
        order = np.lexsort((v, g))
        v, g, c = v[order], g[order], c[order]
        start = np.flatnonzero(np.r_[True, (np.diff(v) != 0) | (np.diff(g) != 0)])
        size = np.diff(np.append(start, len(v))).astype(np.float64)
        gain = _cubes(c[start] + size) - _cubes(c[start])
        extra = np.bincount(g[start], weights=gain, minlength=n_groups)
    return own + extra
