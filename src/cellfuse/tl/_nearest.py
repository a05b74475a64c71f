"""The nearest of some references, or of all profiles, in cosine: ties are shared, never ordered."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.nulls import TIE

__all__ = ["Profiles", "Votes", "draw_references", "neighbour_votes", "reference_hits"]

#: Cosines that exist at a time (float32).
BLOCK_CELLS = 1 << 23


@dataclass(frozen=True)
class Profiles:
    """Profiles in the order of class and name, so that no draw hangs on the order of the rows."""

    rows: NDArray
    units: NDArray
    codes: NDArray
    classes: NDArray
    groups: tuple[NDArray, ...] = ()  # profiles that share one of them are not compared

    def related(self, first: NDArray, second: NDArray) -> NDArray[np.bool_]:
        """Whether profiles, by place, share a group; the two broadcast."""
        same = np.zeros(np.broadcast_shapes(first.shape, second.shape), dtype=bool)
        for group in self.groups:
            same |= group[first] == group[second]
        return same


@dataclass(frozen=True)
class Votes:
    """The class or, where several have equally many votes, classes that each query goes to.

    Attributes
    ----------
    query, winner
        Number of the query and of one class that won, shape (pairs,).
    n_winners
        Classes that share a query's decision, 0 where it has no neighbour, shape (queries,).
    own
        The query's own class, shape (queries,).
    """

    query: NDArray
    winner: NDArray
    n_winners: NDArray
    own: NDArray

    @property
    def share(self) -> NDArray:
        """Share of the decision, shape (pairs,)."""
        return 1.0 / self.n_winners[self.query]

    @property
    def credit(self) -> NDArray:
        """Share of the decision that falls to the query's own class; NaN without a neighbour."""
        mine = self.winner == self.own[self.query]
        credit = np.bincount(self.query[mine], self.share[mine], len(self.own))
        return np.where(self.n_winners > 0, credit, np.nan)


# -- one-shot transfer ----------------------------------------------------------------------------


def draw_references(profiles: Profiles, n_runs: int, seed: int) -> NDArray:
    """One profile of each class per run, ``(runs, classes)``."""
    size = np.bincount(profiles.codes)
    first = np.cumsum(size) - size
    draw = np.random.default_rng(seed).random((n_runs, len(size)))
    return first + (draw * size).astype(np.int64)


def reference_hits(
    profiles: Profiles, references: NDArray, ks: list[int]
) -> tuple[NDArray, NDArray, NDArray]:
    """Hits and their expectation ``(k, runs, classes)``; profiles asked ``(runs, classes)``."""
    n_runs, n_classes = references.shape
    # A profile that serves in several runs is compared with the others once.
    distinct, place = np.unique(references, return_inverse=True)
    place = place.reshape(references.shape)
    vectors = profiles.units[distinct]
    hits, by_chance = np.zeros((2, len(ks), n_runs, n_classes))
    asked = np.zeros((n_runs, n_classes))
    step = max(64, BLOCK_CELLS // len(distinct))
    for start in range(0, len(profiles.rows), step):
        rows = np.arange(start, min(start + step, len(profiles.rows)))
        code = profiles.codes[rows]
        cosine = vectors @ profiles.units[rows].T  # (references, profiles)
        for run in range(n_runs):
            own = references[run, code]
            counts = own != rows
            nearness, n_rivals = cosine[place[run]], np.full(len(rows), n_classes)
            mine = nearness[code, np.arange(len(rows))]
            if profiles.groups:
                same = profiles.related(references[run][:, None], rows[None])
                counts &= ~profiles.related(own, rows)
                nearness[same] = -np.inf
                n_rivals = n_classes - np.count_nonzero(same, axis=0)
            above = np.count_nonzero(nearness > mine + np.float32(TIE), axis=0)
            tied = np.count_nonzero(nearness >= mine - np.float32(TIE), axis=0) - above
            asked[run] += np.bincount(code, counts, n_classes)
            for position, number in enumerate(ks):
                share = np.clip((number - above) / np.maximum(tied, 1), 0.0, 1.0)
                hits[position, run] += np.bincount(code, share * counts, n_classes)
                expected = np.minimum(number / np.maximum(n_rivals, 1), 1.0)
                by_chance[position, run] += np.bincount(code, expected * counts, n_classes)
    return hits, by_chance, asked


# -- neighbours -----------------------------------------------------------------------------------


def neighbour_votes(profiles: Profiles, asked: NDArray, known: NDArray, k: int) -> Votes:
    """Classes that the neighbours of each profile vote for; none where it has no neighbour."""
    found = []
    vectors, code = profiles.units[known], profiles.codes[known]
    place = np.full(len(profiles.rows), -1)
    place[known] = np.arange(len(known))
    step = max(16, BLOCK_CELLS // len(known))
    for start in range(0, len(asked), step):
        rows = asked[start : start + step]
        cosine = profiles.units[rows] @ vectors.T
        own = np.flatnonzero(place[rows] >= 0)
        cosine[own, place[rows[own]]] = -np.inf  # nobody is its own neighbour
        if profiles.groups:
            cosine[profiles.related(rows[:, None], known[None])] = -np.inf
        votes = _votes(cosine, code, k, len(profiles.classes))
        most = votes.max(axis=1, keepdims=True)
        query, winner = np.nonzero((votes >= most - 1e-9) & (most > 0))
        found.append(np.stack([query + start, winner]))
    query, winner = np.concatenate(found, axis=1)
    n_winners = np.bincount(query, minlength=len(asked))
    return Votes(query, winner, n_winners, profiles.codes[asked])


def _votes(cosine: NDArray, code: NDArray, k: int, n_classes: int) -> NDArray:
    """Votes of the k nearest, ``(rows, classes)``; the last places are shared among the tied."""
    n = cosine.shape[1]
    k = min(k, n)
    last = np.partition(cosine, n - k, axis=1)[:, n - k, None]
    row, column = np.nonzero((cosine >= last - np.float32(TIE)) & (cosine > -np.inf))
    certain = cosine[row, column] > last[row, 0] + np.float32(TIE)
    n_certain = np.bincount(row, certain, len(cosine))
    n_tied = np.bincount(row, ~certain, len(cosine))
    share = np.minimum((k - n_certain) / np.maximum(n_tied, 1), 1.0)
    weight = np.where(certain, 1.0, share[row])
    votes = np.bincount(row * n_classes + code[column], weight, len(cosine) * n_classes)
    return votes.reshape(len(cosine), n_classes)
