"""Null distribution of the mean pairwise cosine of unrelated vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.cosine import set_similarity

__all__ = ["Draw", "draw_distinct", "empirical_pvalue", "null_similarity"]

Draw: TypeAlias = Callable[[int, int, np.random.Generator], NDArray]

#: Sets drawn from one random stream; fixed, so that the threads do not change the numbers.
CHUNK = 1 << 16
#: Largest matrix of all cosines that is kept: 16,384 vectors in float32.
MAX_GRAM_BYTES = 1 << 30
#: Rounds in which the members that clash are drawn again.
ROUNDS = 1000
#: Cosines closer than this are equal: they differ by the rounding of float32 sums.
TIE = 1e-6


def draw_distinct(
    targets: NDArray,
    size: int,
    n_sets: int,
    rng: np.random.Generator,
    *,
    related: NDArray | None = None,
    attempts: int = 50,
) -> NDArray:
    """Draw sets of `size` vectors that all have different targets.

    Members are drawn one after the other, each uniformly from the vectors whose target is not yet
    in the set. The first k members of a set are therefore a set of size k drawn the same way.

    Parameters
    ----------
    targets
        Target number of each vector, shape (n,), with at least `size` different ones.
    related
        If given, which vectors share a target, shape (n, n), where they may have several.
    attempts
        Times that sets are begun again to which no further vector fits.

    Returns
    -------
    Row numbers, shape (size, n_sets).
    """
    found = len(np.unique(targets))
    if found < size:
        raise ValueError(f"sets of {size} different targets cannot be drawn from {found} targets.")
    members = np.empty((size, n_sets), dtype=np.int64)
    drawn = np.empty((size, n_sets), dtype=targets.dtype)
    for j in range(size):
        todo = np.arange(n_sets)
        for _ in range(ROUNDS):
            if not len(todo):
                break
            members[j, todo] = rng.integers(len(targets), size=len(todo))
            drawn[j, todo] = targets[members[j, todo]]
            clash = np.zeros(len(todo), dtype=bool)
            for i in range(j):
                if related is None:
                    clash |= drawn[i, todo] == drawn[j, todo]
                else:
                    clash |= related[members[i, todo], members[j, todo]]
            todo = todo[clash]
        if len(todo) and not attempts:
            raise ValueError(f"sets of {size} without a shared target are too rare to be drawn.")
        if len(todo):
            members[: j + 1, todo] = draw_distinct(
                targets, j + 1, len(todo), rng, related=related, attempts=attempts - 1
            )
            drawn[: j + 1, todo] = targets[members[: j + 1, todo]]
    return members


def null_similarity(
    units: NDArray,
    targets: NDArray,
    sizes: Sequence[int],
    *,
    n_sets: int,
    seed: np.random.SeedSequence,
    given: bool = False,
    related: NDArray | None = None,
    draw: Draw | None = None,
) -> dict[int, NDArray]:
    """Mean pairwise cosine of random sets of unrelated vectors, for several set sizes at once.

    Parameters
    ----------
    units
        Rows of length 1, shape (n, d), or with `given` the similarities of all pairs, (n, n).
    targets
        Target number of each row, shape (n,): a set holds no target twice.
    sizes
        Set sizes, each at least 2. All take the first members of the same draws.
    n_sets
        Sets drawn.
    seed
        Same seed, same numbers, whatever the number of threads.
    given
        Whether similarities are given instead of vectors.
    related
        As in :func:`draw_distinct`.
    draw
        Draws sets in its place, from size, number and generator; shape (size, n_sets).

    Returns
    -------
    For each size the similarities in ascending order, shape (n_sets,), float32.
    """
    wanted = sorted(set(sizes))
    narrow = np.ascontiguousarray(units, dtype=np.float32)
    n = len(narrow)
    gram: NDArray | None = None
    if given:
        gram = narrow.ravel()
    elif 4 * n * n <= MAX_GRAM_BYTES:
        gram = (narrow @ narrow.T).ravel()
    null = {k: np.empty(n_sets, dtype=np.float32) for k in wanted}
    starts = range(0, n_sets, CHUNK)
    jobs = list(zip(starts, seed.spawn(len(starts)), strict=True))

    def one(job: tuple[int, np.random.SeedSequence]) -> None:
        start, stream = job
        stop = min(start + CHUNK, n_sets)
        rng = np.random.default_rng(stream)
        if draw is None:
            members = draw_distinct(targets, wanted[-1], stop - start, rng, related=related)
        else:
            members = draw(wanted[-1], stop - start, rng)
        squared = (
            _by_gram(gram, n, members, wanted)
            if gram is not None
            else _by_vectors(narrow, members, wanted)
        )
        for k in wanted:
            null[k][start:stop] = set_similarity(squared[k], k)

    in_threads(one, jobs)
    for k in wanted:
        null[k].sort()
    return null


def _by_gram(gram: NDArray, n: int, members: NDArray, sizes: list[int]) -> dict[int, NDArray]:
    """Squared length of the sum of the first k members, from the cosines of their pairs."""
    pairs = np.zeros(members.shape[1], dtype=np.float64)
    out = {}
    for j in range(1, sizes[-1]):
        row = members[j] * n
        for i in range(j):
            pairs += gram.take(row + members[i])
        if j + 1 in sizes:
            out[j + 1] = (j + 1) + 2.0 * pairs
    return out


def _by_vectors(units: NDArray, members: NDArray, sizes: list[int]) -> dict[int, NDArray]:
    """Compute the same from sums of vectors, where the matrix of all cosines is too large."""
    out = {k: np.empty(members.shape[1]) for k in sizes}
    # Blocks of sums that stay in the cache.
    step = max(64, (1 << 19) // (4 * units.shape[1]))
    for start in range(0, members.shape[1], step):
        block = members[:, start : start + step]
        total = units[block[0]]
        for j in range(1, sizes[-1]):
            total += units[block[j]]
            if j + 1 in out:
                out[j + 1][start : start + step] = np.einsum("ij,ij->i", total, total)
    return out


def empirical_pvalue(observed: NDArray, ordered_null: NDArray) -> NDArray:
    """Share of the null at or above `observed`, ``(k + 1) / (B + 1)``.

    A null value within 1e-6 counts as equal, so that float32 rounding never makes a tie a win.
    """
    below = np.searchsorted(ordered_null, np.asarray(observed) - TIE, side="left")
    size = len(ordered_null)
    return (size - below + 1.0) / (size + 1.0)
