"""Mean average precision of groups of noise whose profiles see one another."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["joint_precision"]

#: Bytes of the similarities of one block of draws.
BLOCK_BYTES = 16 << 20


def joint_precision(
    n_negative: NDArray, paired: NDArray, *, tested: NDArray, n_null: int, seed: int
) -> NDArray:
    """Mean average precision of a group of noise, drawn jointly for its profiles; (n_null,).

    All similarities are exchangeable, and that of two profiles of the group stands in the rankings
    of both: this is what makes their precisions rise and fall together. Only ranks matter, so the
    similarities are uniform numbers, and the negatives of a profile are counted between its
    positives, never drawn. What the profiles have in common besides (the same controls, few
    dimensions) is left out.

    Parameters
    ----------
    n_negative
        Negatives of each profile, shape (m,).
    paired
        Whether two profiles are positives of one another, symmetric, shape (m, m).
    tested
        Profiles over which the mean is taken, shape (m,): each has a positive and a negative.
    seed
        The stream is that of `seed` and the group's design: other groups do not matter.
    """
    m = len(n_negative)
    design = [*map(int, n_negative), *map(int, np.packbits(paired)), *map(int, tested)]
    rng = np.random.default_rng([seed, m, *design])
    first, second = np.triu_indices(m, 1)
    out = np.empty(n_null)
    step = max(1, BLOCK_BYTES // (8 * m * m))
    for start in range(0, n_null, step):
        size = min(step, n_null - start)
        similarity = np.zeros((m, m, size))
        similarity[first, second] = similarity[second, first] = rng.random((len(first), size))
        total = np.zeros(size)
        for i in np.flatnonzero(tested):
            own = similarity[i, paired[i]]
            total += _precision(-np.sort(-own, axis=0), int(n_negative[i]), rng)
        out[start : start + size] = total / tested.sum()
    return out


def _precision(positives: NDArray, n_negative: int, rng: np.random.Generator) -> NDArray:
    """Average precision of uniform positives (k, draws), the largest first, among uniform others.

    Of the negatives that are below one positive, each is above the next with the chance that the
    gap between the two has.
    """
    k, size = positives.shape
    above, before = np.zeros(size, dtype=np.int64), np.ones(size)
    total = np.zeros(size)
    for j, place in enumerate(positives, start=1):
        above += rng.binomial(n_negative - above, np.clip(1.0 - place / before, 0.0, 1.0))
        total += j / (j + above)
        before = place
    return total / k
