"""Order statistics of all pairwise similarities, without keeping them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["count_at_least", "count_at_most", "order_statistics"]

#: Similarities from which the brackets are guessed.
N_PILOT = 1 << 15
#: Standard errors on either side of a guess: outside lies one in 10^8.
WIDTH = 6.0

Blocks: TypeAlias = Callable[[], Iterable[NDArray]]


def count_at_most(share: float, n: int) -> int:
    """Largest c with ``c / n <= share`` as floating point has it."""
    c = min(n, int(share * n))
    while c > 0 and c / n > share:
        c -= 1
    while c < n and (c + 1) / n <= share:
        c += 1
    return c


def count_at_least(share: float, n: int) -> int:
    """Smallest c with ``c / n >= share`` as floating point has it."""
    c = min(n, int(np.ceil(share * n)))
    while c > 0 and (c - 1) / n >= share:
        c -= 1
    while c < n and c / n < share:
        c += 1
    return c


def order_statistics(
    blocks: Blocks, ranks: Sequence[int], *, pilot: NDArray, n: int
) -> list[float]:
    """Values at given ranks of a long list that is computed in blocks.

    A bracket around each value is guessed from a sample; one pass counts what lies below and
    keeps what lies inside. A guess that missed is mended by further passes, so that the result is
    exact whatever the sample.

    Parameters
    ----------
    blocks
        Makes an iterator over the values, in pieces of any shape; called once for each pass.
    ranks
        0-based, each below `n`.
    pilot
        A sample of the values.
    n
        Number of values in all.
    """
    sample = np.sort(pilot, axis=None)
    brackets = [_bracket(sample, rank / max(n - 1, 1)) for rank in ranks]
    while True:
        found = _one_pass(blocks(), brackets)
        for i, (rank, part) in enumerate(zip(ranks, found, strict=True)):
            if rank < part.below:
                brackets[i] = (-np.inf, part.low)
            elif rank >= part.below + part.at_low + len(part.between) + part.at_high:
                brackets[i] = (part.high, np.inf)
        values = [part.value(rank) for rank, part in zip(ranks, found, strict=True)]
        if None not in values:
            return [value for value in values if value is not None]


@dataclass
class _Part:
    """What one pass finds around one rank; many equal values are counted, not kept."""

    low: float
    high: float
    below: int
    at_low: int
    between: NDArray
    at_high: int

    def value(self, rank: int) -> float | None:
        """Value at the rank, or None if it lies outside the bracket."""
        rank -= self.below
        if rank < 0:
            return None
        if rank < self.at_low:
            return self.low
        rank -= self.at_low
        if rank < len(self.between):
            return float(np.partition(self.between, rank)[rank])
        return self.high if rank < len(self.between) + self.at_high else None


def _bracket(sample: NDArray, share: float) -> tuple[float, float]:
    m = len(sample)
    error = WIDTH * np.sqrt(m * max(share * (1 - share), 1.0 / m)) + 1
    low, high = int(np.floor(share * m - error)), int(np.ceil(share * m + error))
    return (
        float(sample[low]) if low >= 0 else -np.inf,
        float(sample[high]) if high < m else np.inf,
    )


def _one_pass(blocks: Iterable[NDArray], brackets: Sequence[tuple[float, float]]) -> list[_Part]:
    parts = [_Part(low, high, 0, 0, np.empty(0), 0) for low, high in brackets]
    kept: list[list[NDArray]] = [[] for _ in brackets]
    for block in blocks:
        for part, pieces in zip(parts, kept, strict=True):
            inside = block >= part.low
            part.below += block.size - int(np.count_nonzero(inside))
            inside &= block <= part.high
            near = block[inside]
            at_low = near == part.low
            at_high = near == part.high if part.high > part.low else np.zeros_like(at_low)
            part.at_low += int(at_low.sum())
            part.at_high += int(at_high.sum())
            pieces.append(near[~(at_low | at_high)])
    for part, pieces in zip(parts, kept, strict=True):
        if pieces:
            part.between = np.concatenate(pieces)
    return parts
