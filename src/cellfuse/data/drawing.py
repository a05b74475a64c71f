"""Rows drawn from groups of rows, many groups at once."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellfuse.data.contexts import Ints, Members

__all__ = ["Replace", "draw_rows", "seeded_rng"]

Replace = Literal["if_needed", True]


def seeded_rng(*numbers: int) -> np.random.Generator:
    """Build a generator that is a pure function of a few numbers (counter based, no warm-up)."""
    seed, *rest = numbers
    counter = np.zeros(4, np.uint64)
    counter[1 : 1 + len(rest)] = rest
    return np.random.Generator(np.random.Philox(key=seed, counter=counter))


def draw_rows(
    members: Members,
    groups: Ints,
    size: int,
    *,
    rng: np.random.Generator,
    replace: Replace,
    stretch: tuple[Ints, Ints] | None = None,
) -> Ints:
    """Draw `size` rows from each of `groups`, which must not be empty.

    With ``replace="if_needed"`` a row stands once in a set where the group has enough of them, and
    otherwise as evenly often as possible. With ``True`` rows are drawn independently. `stretch`
    says from where in each group and how many of its rows are drawn from, around its end; None is
    all of them.

    Returns
    -------
    Rows, ``(len(groups), size)``: every set is equally likely, its order means nothing.
    """
    first, counts = stretch if stretch is not None else (0, members.counts[groups])
    uniform = rng.random((len(groups), size))
    if replace is True:
        picks = (uniform * counts[:, None]).astype(np.int64)
    else:
        picks = np.empty((len(groups), size), np.int64)
        few = counts < size
        enough = ~few
        picks[enough] = _distinct(counts[enough], uniform[enough])
        if few.any():
            # A random order of the few rows, gone through again and again.
            keys = np.where(np.arange(size) < counts[few, None], uniform[few], np.inf)
            order = np.argsort(keys, axis=1, kind="stable")
            cycle = np.arange(size) % counts[few, None]
            picks[few] = np.take_along_axis(order, cycle, axis=1)
    if stretch is not None:
        picks = (np.reshape(first, (-1, 1)) + picks) % members.counts[groups][:, None]
    return members.rows[members.indptr[groups][:, None] + picks]


def _distinct(counts: Ints, uniform: NDArray[np.float64]) -> Ints:
    """Choose distinct numbers below `counts`, a row each: Floyd's algorithm, all rows at once."""
    size = uniform.shape[1]
    picks = np.empty(uniform.shape, np.int64)
    for i in range(size):
        last = counts - size + i
        pick = (uniform[:, i] * (last + 1)).astype(np.int64)
        seen = (picks[:, :i] == pick[:, None]).any(axis=1)
        picks[:, i] = np.where(seen, last, pick)
    return picks
