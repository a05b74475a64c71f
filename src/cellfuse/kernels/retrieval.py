"""Where the matches of a query stand among all candidates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.groups import group_rows

__all__ = ["TIE", "Places", "first_match", "places_of_matches"]

#: Similarities closer than this are tied: they differ by the rounding of their sums.
TIE = 1e-10
#: Bytes of the similarities of one block of queries.
BLOCK_BYTES = 32 << 20


@dataclass(frozen=True)
class Places:
    """For each query, how its matches stand; arrays of shape (queries,).

    Attributes
    ----------
    above
        Other candidates strictly above the best match.
    tied, tied_matches
        Others tied with the best match, and matches that are (itself included).
    n_matches
        Candidates with the query's label.
    closer
        Share of the others that are closer than a match, ties half, averaged over matches; NaN
        where all candidates match.
    """

    above: NDArray
    tied: NDArray
    tied_matches: NDArray
    n_matches: NDArray
    closer: NDArray


def first_match(n: int, n_matches: int) -> NDArray:
    """Chance that the first of `n_matches` matches in a random order of n is at 1, 2, ...

    Shape (n - n_matches + 1,).
    """
    place = np.arange(n - n_matches)
    later = np.concatenate([[1.0], np.cumprod((n - n_matches - place) / (n - place))])
    return later * n_matches / (n - np.arange(len(later)))


def places_of_matches(
    queries: NDArray, candidates: NDArray, query_labels: NDArray, labels: NDArray
) -> Places:
    """Compare every query with every candidate by cosine, in blocks.

    Parameters
    ----------
    queries, candidates
        Unit vectors, shapes (q, d) and (c, d).
    query_labels, labels
        Label numbers, from 0; every query has at least one match.
    """
    members = group_rows(labels, int(max(labels.max(), query_labels.max())) + 1)
    step = max(16, BLOCK_BYTES // (8 * len(candidates)))

    def one(start: int) -> NDArray:
        rows = slice(start, start + step)
        similarity = queries[rows] @ candidates.T
        return np.array(
            [
                _place(row, members[label])
                for row, label in zip(similarity, query_labels[rows], strict=True)
            ]
        )

    found = np.concatenate(in_threads(one, range(0, len(queries), step)))
    counts = found[:, :4].astype(np.intp)
    return Places(counts[:, 0], counts[:, 1], counts[:, 2], counts[:, 3], found[:, 4])


def _place(similarity: NDArray, matches: NDArray) -> tuple[float, ...]:
    own = similarity[matches]
    similarity[matches] = -np.inf
    best = own.max()
    above = int(np.count_nonzero(similarity > best + TIE))
    tied = int(np.count_nonzero(similarity >= best - TIE)) - above
    tied_matches = int(np.count_nonzero(own >= best - TIE))
    n_other = len(similarity) - len(own)
    if not n_other:
        return above, tied, tied_matches, len(own), np.nan
    if len(own) == 1:
        closer = (above + tied / 2) / n_other
    else:
        ordered = np.sort(similarity)
        higher = len(ordered) - np.searchsorted(ordered, own + TIE, side="right")
        at_least = len(ordered) - np.searchsorted(ordered, own - TIE, side="left")
        closer = float((higher + at_least).mean() / (2 * n_other))
    return above, tied, tied_matches, len(own), closer
