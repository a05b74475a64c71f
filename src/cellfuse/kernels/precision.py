"""Average precision of many rankings, and its null."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.groups import group_rows

__all__ = [
    "Ranking",
    "average_precision",
    "chance_precision",
    "null_precision",
    "rank_positives",
]

#: Similarities closer than this are tied: they differ by the rounding of their sums.
TIE = 1e-10
#: Bytes of the similarities of one block of queries.
BLOCK_BYTES = 32 << 20
#: Bytes of one block of random rankings.
NULL_BYTES = 4 << 20
#: Positives of a query up to which counting for each is faster than sorting the negatives.
FEW = 16

#: Similarities of some rows (first) to others (second), as one float64 matrix.
Between = Callable[[NDArray, NDArray], NDArray]


@dataclass(frozen=True)
class Ranking:
    """Average precision of each query, with the sizes of what was ranked.

    Attributes
    ----------
    precision
        Shape (n,), NaN where there is no positive or no negative.
    n_positive, n_negative
        Shape (n,).
    """

    precision: NDArray
    n_positive: NDArray
    n_negative: NDArray


def average_precision(above: NDArray, tied: NDArray) -> float:
    """Average precision of one ranking, the mean over all orders of what is tied.

    Parameters
    ----------
    above
        Negatives strictly above each positive, shape (k,), ascending.
    tied
        Negatives tied with each positive, shape (k,).
    """
    k = len(above)
    if not tied.any():
        order = np.arange(1, k + 1)
        return float(np.mean(order / (order + above)))
    total = 0.0
    starts = np.flatnonzero(np.diff(above, prepend=-1) | np.diff(tied, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], k], strict=True):
        # p positives and some negatives in any order, after `start` positives and their negatives.
        p, size = int(stop - start), int(stop - start + tied[start])
        place = np.arange(size)
        # An item at this place is positive with chance p / size, and then has so many before it.
        before = start + place * (p - 1) / max(size - 1, 1)
        total += p / size * np.sum((before + 1) / (start + above[start] + place + 1))
    return total / k


def rank_positives(
    between: Between,
    labels: NDArray,
    queries: NDArray,
    pools: Sequence[NDArray],
    stratum: NDArray,
    *,
    apart: NDArray | None = None,
) -> Ranking:
    """Rank, for each query, the rows of its label among the rows of its pool.

    Positives are the other rows with the query's label, negatives the rows of its pool with
    another label.

    Parameters
    ----------
    between
        Gives the similarities of two lists of rows.
    labels
        Label number of each row, shape (n,).
    queries
        Rows to rank for.
    pools
        Rows from which the negatives come, one array for each stratum, sorted.
    stratum
        Stratum of each row, shape (n,).
    apart
        If given, positives must differ from the query in this number, shape (n,).

    Returns
    -------
    Arrays over the queries, in their order.
    """
    members = _by_label(labels, queries)
    order = np.lexsort((queries, labels[queries], stratum[queries]))
    jobs = []
    for s in np.unique(stratum[queries]):
        inside = order[stratum[queries[order]] == s]
        step = max(16, BLOCK_BYTES // (8 * max(len(pools[s]), 1)))
        jobs += [(inside[a : a + step], pools[s]) for a in range(0, len(inside), step)]

    def one(job: tuple[NDArray, NDArray]) -> NDArray:
        at, pool = job
        rows = queries[at]
        positives = _positives(between, labels, rows, members, apart)
        similarity = between(rows, pool)
        same = labels[rows][:, None] == labels[pool]
        similarity[same] = -np.inf
        n_positive = (positives > -np.inf).sum(axis=1)
        n_negative = len(pool) - same.sum(axis=1)
        precision = _precisions(positives, similarity, n_positive)
        precision[(n_positive == 0) | (n_negative == 0)] = np.nan
        return np.stack([precision, n_positive, n_negative], axis=1)

    found = np.full((len(queries), 3), np.nan)
    for (at, _), block in zip(jobs, in_threads(one, jobs), strict=True):
        found[at] = block
    return Ranking(found[:, 0], found[:, 1].astype(np.intp), found[:, 2].astype(np.intp))


def _by_label(labels: NDArray, queries: NDArray) -> dict[int, NDArray]:
    """Rows of each label that a query has, ascending."""
    order = np.argsort(labels, kind="stable")
    wanted = np.unique(labels[queries])
    starts = np.searchsorted(labels[order], wanted, side="left")
    stops = np.searchsorted(labels[order], wanted, side="right")
    return {int(label): order[a:b] for label, a, b in zip(wanted, starts, stops, strict=True)}


def _positives(
    between: Between,
    labels: NDArray,
    rows: NDArray,
    members: dict[int, NDArray],
    apart: NDArray | None,
) -> NDArray:
    """Similarities of each row to its positives, largest first, -inf after the last."""
    here, local = np.unique(labels[rows], return_inverse=True)
    most = max(len(members[int(label)]) for label in here)
    out = np.full((len(rows), most), np.inf)
    for at, label in zip(group_rows(local, len(here)), here, strict=True):
        columns = members[int(label)]
        if len(columns) < 2:
            continue
        similarity = between(rows[at], columns)
        invalid = rows[at][:, None] == columns
        if apart is not None:
            invalid |= apart[rows[at]][:, None] == apart[columns]
        similarity[invalid] = -np.inf
        out[at, : len(columns)] = -similarity
    out.sort(axis=1)
    return -out


def _precisions(positives: NDArray, negatives: NDArray, n_positive: NDArray) -> NDArray:
    """Average precision of each row; what is -inf takes no part."""
    shape = positives.shape
    above, at_least = np.zeros(shape, dtype=np.intp), np.zeros(shape, dtype=np.intp)
    if shape[1] <= FEW:
        for j in range(shape[1]):
            place = positives[:, j, None]
            above[:, j] = np.count_nonzero(negatives > place + TIE, axis=1)
            at_least[:, j] = np.count_nonzero(negatives >= place - TIE, axis=1)
    else:
        negatives.sort(axis=1)
        for i, (ordered, place) in enumerate(zip(negatives, positives, strict=True)):
            above[i] = len(ordered) - np.searchsorted(ordered, place + TIE, side="right")
            at_least[i] = len(ordered) - np.searchsorted(ordered, place - TIE, side="left")
    order = np.arange(1, shape[1] + 1)
    real = order <= n_positive[:, None]
    share = np.divide(order, order + above, out=np.zeros(shape), where=real)
    precision = share.sum(axis=1) / np.maximum(n_positive, 1)
    tied = np.where(real, at_least - above, 0)
    for row in np.flatnonzero(tied.any(axis=1)):
        k = n_positive[row]
        precision[row] = average_precision(above[row, :k], tied[row, :k])
    return precision


def chance_precision(n_positive: NDArray, n_total: NDArray) -> NDArray:
    """Expected average precision of a random ranking.

    ``((M - 1) / (L - 1) (L - H) + H) / L`` with M positives of L and H the L-th harmonic number.
    """
    m, length = np.asarray(n_positive, dtype=np.float64), np.asarray(n_total, dtype=np.intp)
    harmonic = np.cumsum(1.0 / np.arange(1, max(int(length.max(initial=1)), 1) + 1))
    h = harmonic[np.maximum(length, 1) - 1]
    return ((m - 1) / np.maximum(length - 1, 1) * (length - h) + h) / np.maximum(length, 1)


def null_precision(n_positive: int, n_total: int, *, n_null: int, seed: int) -> NDArray:
    """Average precision of random rankings, shape (n_null,).

    The stream is that of the two sizes: the numbers do not depend on which others were drawn, in
    which order, or in which process.
    """
    rng = np.random.default_rng([seed, n_positive, n_total])
    out = np.empty(n_null)
    weight = np.arange(1, n_positive + 1) / n_positive
    step = max(1, NULL_BYTES // n_total)
    for start in range(0, n_null, step):
        drawn = _choose(min(step, n_null - start), n_positive, n_total, rng)
        rank = np.nonzero(drawn)[1].reshape(len(drawn), n_positive) + 1
        out[start : start + step] = (1.0 / rank) @ weight
    return out


def _choose(n_sets: int, k: int, n: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Subsets of k of n as masks, by Floyd's algorithm on all sets at once."""
    few = min(k, n - k)
    chosen = np.zeros((n_sets, n), dtype=bool)
    every = np.arange(n_sets)
    for last in range(n - few, n):
        place = rng.integers(0, last + 1, size=n_sets)
        place[chosen[every, place]] = last
        chosen[every, place] = True
    return chosen if few == k else ~chosen
