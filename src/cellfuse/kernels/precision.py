"""Average precision of many rankings, and its null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.groups import group_rows

__all__ = [
    "Ranking",
    "all_precisions",
    "average_precision",
    "chance_precision",
    "null_precision",
    "rank_positives",
]

#: Similarities closer than this are tied: they differ by the rounding of their sums.
TIE = 1e-10
#: Bytes of the similarities of one block of queries, and the most queries of one.
BLOCK_BYTES = 32 << 20
BLOCK_QUERIES = 1024
#: Members up to which groups are compared many at a time.
SMALL_GROUP = 32
#: Bytes of one block of random rankings.
NULL_BYTES = 4 << 20
#: Positives of a query up to which counting for each is faster than sorting the negatives.
FEW = 16


class Similarities(Protocol):
    """All pairwise similarities, asked for in parts; float64, each answer a new array."""

    def between(self, first: NDArray, second: NDArray) -> NDArray:
        """Some rows (m,) to others (n,), shape (m, n)."""
        ...

    def within(self, groups: NDArray) -> NDArray:
        """All pairs of each of several groups of equal size (m, g), shape (m, g, g)."""
        ...


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
    similarities: Similarities,
    labels: NDArray,
    queries: NDArray,
    pools: Sequence[NDArray],
    stratum: NDArray,
    *,
    apart: NDArray | None = None,
    names: sparse.csr_array | None = None,
) -> Ranking:
    """Rank, for each query, the rows of its label among the rows of its pool.

    Positives are the other rows with the query's label, negatives the rows of its pool with
    another label.

    Parameters
    ----------
    similarities
        Of all rows.
    labels
        Label number of each row, shape (n,). Either all rows of a label are queries, or none.
    queries
        Rows to rank for.
    pools
        Rows from which the negatives come, one array for each stratum, sorted.
    stratum
        Stratum of each row, shape (n,).
    apart
        If given, positives must differ from the query in each of these numbers, shape (n, c).
    names
        If given, all names that each row goes by, shape (n, names): negatives share none of them
        with the query. None: its label is the only one.

    Returns
    -------
    Arrays over the queries, in their order.
    """

    def one(job: tuple[NDArray, NDArray]) -> NDArray:
        at, members = job
        rows = queries[at]
        positives = _positives(similarities, rows, members, apart)
        n_positive = (positives > -np.inf).sum(axis=1)
        out = np.stack([np.zeros(len(rows)), n_positive, np.zeros(len(rows))], axis=1)
        here, local = np.unique(stratum[rows], return_inverse=True)
        for s, mine in zip(here, group_rows(local, len(here)), strict=True):
            pool = pools[s]
            negatives = similarities.between(rows[mine], pool)
            if names is None:
                same = labels[rows[mine]][:, None] == labels[pool]
            else:
                same = (names[rows[mine]] @ names[pool].T).toarray() > 0
            negatives[same] = -np.inf
            out[mine, 0] = _precisions(positives[mine], negatives, n_positive[mine])
            out[mine, 2] = len(pool) - same.sum(axis=1)
        out[(out[:, 1] == 0) | (out[:, 2] == 0), 0] = np.nan
        return out

    found = np.full((len(queries), 3), np.nan)
    jobs = _blocks_of_queries(labels[queries], queries, max(map(len, pools), default=1))
    for (at, _), block in zip(jobs, in_threads(one, jobs, linear_algebra=True), strict=True):
        found[at] = block
    return Ranking(found[:, 0], found[:, 1].astype(np.intp), found[:, 2].astype(np.intp))


def _blocks_of_queries(
    labels: NDArray, queries: NDArray, n_pool: int
) -> list[tuple[NDArray, NDArray]]:
    """Numbers of some queries, and the rows of their groups (m, g), all of one size.

    Small groups are never cut: the queries are then the rows of the groups, one after the other.
    """
    most = min(BLOCK_QUERIES, max(16, BLOCK_BYTES // (8 * max(n_pool, 1))))
    codes, size = np.unique(labels, return_inverse=True, return_counts=True)[1:]
    order = np.lexsort((queries, codes))
    start = np.cumsum(size) - size
    jobs = []
    for g in np.unique(size):
        members = order[start[size == g, None] + np.arange(g)]
        if g > SMALL_GROUP:
            jobs += [
                (m[a : a + most], queries[m[None]]) for m in members for a in range(0, g, most)
            ]
            continue
        step = max(1, most // g)
        parts = [members[a : a + step] for a in range(0, len(members), step)]
        jobs += [(part.ravel(), queries[part]) for part in parts]
    return jobs


def _positives(
    similarities: Similarities, rows: NDArray, members: NDArray, apart: NDArray | None
) -> NDArray:
    """Similarities of each row to the others of its group, largest first, -inf after the last."""
    m, g = members.shape
    columns = np.repeat(members, len(rows) // m, axis=0)
    if g > SMALL_GROUP:
        out = similarities.between(rows, members[0])
    else:
        out = similarities.within(members).reshape(len(rows), g)
    invalid = rows[:, None] == columns
    for number in () if apart is None else apart.T:
        invalid |= number[rows][:, None] == number[columns]
    out[invalid] = -np.inf
    # The row itself is not among them: the last place is always free.
    return -np.sort(-out, axis=1)[:, : max(g - 1, 1)]


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


def all_precisions(n_positive: int, n_total: int, *, most: int) -> NDArray | None:
    """Average precision of every ranking, ascending; None where there are more than `most`."""
    if comb(n_total, n_positive) > most:
        return None
    place = np.array(list(combinations(range(1, n_total + 1), n_positive)))
    return np.sort((np.arange(1, n_positive + 1) / place).mean(axis=1))


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
        size = min(step, n_null - start)
        choose = _choose_few if n_positive <= FEW else _choose
        out[start : start + size] = (1.0 / (choose(size, n_positive, n_total, rng) + 1)) @ weight
    return out


def _choose(n_sets: int, k: int, n: int, rng: np.random.Generator) -> NDArray:
    """Subsets of k of n, ascending, by Floyd's algorithm on all sets at once; (n_sets, k)."""
    few = min(k, n - k)
    chosen = np.zeros((n_sets, n), dtype=bool)
    every = np.arange(n_sets)
    for last in range(n - few, n):
        place = rng.integers(0, last + 1, size=n_sets)
        place[chosen[every, place]] = last
        chosen[every, place] = True
    if few < k:
        np.logical_not(chosen, out=chosen)
    return (np.flatnonzero(chosen) % n).reshape(n_sets, k)


def _choose_few(n_sets: int, k: int, n: int, rng: np.random.Generator) -> NDArray:
    """As :func:`_choose`: what is chosen is looked up among k numbers, not in a mask of n."""
    chosen = np.empty((n_sets, k), dtype=np.intp)
    for i, last in enumerate(range(n - k, n)):
        place = rng.integers(0, last + 1, size=n_sets)
        taken = (chosen[:, :i] == place[:, None]).any(axis=1)
        chosen[:, i] = np.where(taken, last, place)
    chosen.sort(axis=1)
    return chosen
