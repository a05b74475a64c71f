"""One rule by which what was held out chooses among ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["better_beyond_error"]

Way = TypeVar("Way")


def better_beyond_error(
    missed: Callable[[Way], NDArray[np.float64]], first: Way, others: Iterable[Way]
) -> Way:
    """The way that misses what was held out least; `first` unless another is better beyond error.

    Parameters
    ----------
    missed
        Gives, for a way, a number of each held-out context (or drug), the lower the better, such
        as its FOSCTTM or its squared error.
    first
        What is kept where nothing is told apart, or fewer than two were held out.
    others
        Ways that are compared with it, context by context.
    """
    without, best, chosen = missed(first), 0.0, first
    if len(without) < 2:
        return first
    for way in others:
        gain = without - missed(way)
        if gain.mean() > max(best, gain.std(ddof=1) / len(gain) ** 0.5):
            best, chosen = float(gain.mean()), way
    return chosen
