"""Rules by which what was held out chooses among ways: the simpler one, within the error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

__all__ = ["better_beyond_error", "mean_of_each", "simplest_within_error"]

Way = TypeVar("Way")


def mean_of_each(values: NDArray[np.float64], labels: NDArray) -> NDArray[np.float64]:
    """Mean of the values of each label: what is left out together errs together, counts once."""
    _, code = np.unique(labels.astype(str), return_inverse=True)
    return np.bincount(code, values) / np.bincount(code)


def better_beyond_error(
    missed: Callable[[Way], NDArray[np.float64]], first: Way, others: Iterable[Way]
) -> Way:
    """The way that misses what was held out least; `first` unless another is better beyond error.

    Parameters
    ----------
    missed
        Gives, for a way, a number of each held-out context (or drug, or whatever is left out
        together), the lower the better, such as its FOSCTTM or its squared error.
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
        if gain.mean() > max(best, _error(gain)):
            best, chosen = float(gain.mean()), way
    return chosen


def simplest_within_error(missed: Sequence[NDArray[np.float64]]) -> int:
    """Number of the simplest way that misses what was held out as little as the best, within error.

    The rule of one standard error (Breiman, Friedman, Olshen and Stone 1984), paired: that of the
    difference to the best way.

    Parameters
    ----------
    missed
        For each way, the simplest last, a number of each held-out context, the lower the better.
        Where fewer than two were held out the first way stands.
    """
    if len(missed[0]) < 2:
        return 0
    best = min(range(len(missed)), key=lambda way: missed[way].mean())
    for way in range(len(missed) - 1, best, -1):
        worse = missed[way] - missed[best]
        if worse.mean() <= _error(worse):
            return way
    return best


def _error(differences: NDArray[np.float64]) -> float:
    """What chance makes of their mean, as often as it passes one standard error of many.

    Of a few (three sections) the standard error is itself uncertain: Student's t makes it wider.
    """
    n = len(differences)
    wider = float(t.ppf(norm.cdf(1.0), n - 1))
    return wider * float(differences.std(ddof=1)) / n**0.5
