"""Features that tell little: missing, flat, of few values, redundant, outlying, noisy.

Each function gives a mask of the features (columns) to drop, with pycytominer's numbers.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cellfuse.kernels.groups import group_rows

__all__ = [
    "Correlation",
    "flat_features",
    "missing_features",
    "noisy_features",
    "outlying_features",
    "rare_features",
    "redundant_features",
]

Correlation = Literal["pearson", "spearman"]
Mask = NDArray[np.bool_]


def missing_features(values: NDArray, share: float) -> Mask:
    """More than this share of the values is missing."""
    return np.isnan(values).mean(axis=0) > share


def flat_features(values: NDArray, min_variance: float) -> Mask:
    """The variance (n in the denominator, missing values aside) is at most `min_variance`."""
    known = ~np.isnan(values)
    n = known.sum(axis=0)
    total = np.maximum(n, 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / total
    variance = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0) / total
    return (variance <= min_variance) | (n == 0)


def rare_features(values: NDArray, freq_cut: float, unique_cut: float) -> Mask:
    """One value outweighs the second most frequent one, or there are few different values."""
    out = np.zeros(values.shape[1], dtype=bool)
    for j, column in enumerate(values.T):
        count = np.sort(np.unique(column[~np.isnan(column)], return_counts=True)[1])
        ratio = count[-2] / count[-1] if len(count) > 1 else 0.0
        out[j] = ratio < freq_cut or len(count) / len(column) < unique_cut
    return out


def redundant_features(values: NDArray, threshold: float, method: Correlation) -> Mask:
    """Of each pair with a correlation above the threshold, the one more correlated with all.

    "With all" is the sum of absolute correlations. Strongly negative pairs are kept, as in
    pycytominer. A pair with missing values is compared where both are known.
    """
    if method not in get_args(Correlation):
        raise ValueError(
            f"the correlation {method!r} is unknown; choose one of {list(get_args(Correlation))}."
        )
    correlation = _correlations(values, method)
    total = np.nansum(np.abs(correlation), axis=0)
    place = np.empty(len(total), dtype=np.intp)
    place[np.argsort(total, kind="stable")] = np.arange(len(total))
    later, earlier = np.nonzero(np.tril(correlation > threshold, k=-1))
    out = np.zeros(len(total), dtype=bool)
    out[np.where(place[later] > place[earlier], later, earlier)] = True
    return out


def _correlations(values: NDArray, method: Correlation) -> NDArray:
    known = ~np.isnan(values)
    if method == "spearman":
        values = rankdata(values, axis=0, nan_policy="omit")
    if not known.all():
        return _pairwise(values, known, again=method == "spearman")
    with np.errstate(invalid="ignore", divide="ignore"):  # a flat feature correlates with nothing
        return np.atleast_2d(np.corrcoef(values.T))


def _pairwise(values: NDArray, known: Mask, *, again: bool) -> NDArray:
    """Correlations over the rows that both features have; ranks are made `again` among those."""
    d = values.shape[1]
    out = np.eye(d)
    full = known.all(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        out[np.ix_(full, full)] = np.atleast_2d(np.corrcoef(values[:, full].T))
        for j in np.flatnonzero(~full):
            for i in range(d):
                both = known[:, i] & known[:, j]
                if i == j or both.sum() < 2:
                    out[i, j] = out[j, i] = 1.0 if i == j else np.nan
                    continue
                a, b = values[both, i], values[both, j]
                if again:
                    a, b = rankdata(a), rankdata(b)
                out[i, j] = out[j, i] = np.corrcoef(a, b)[0, 1]
    return out


def outlying_features(values: NDArray, cutoff: float) -> Mask:
    """Some value is further from 0 than the cutoff (meant for normalised features)."""
    return np.abs(np.where(np.isnan(values), 0.0, values)).max(axis=0) > cutoff


def noisy_features(values: NDArray, codes: NDArray, n_groups: int, cutoff: float) -> Mask:
    """The standard deviation within groups (n in the denominator), averaged, exceeds the cutoff."""
    spread = []
    for rows in group_rows(codes, n_groups):
        part = values[rows]
        known = ~np.isnan(part)
        n = known.sum(axis=0)
        mean = np.divide(np.where(known, part, 0).sum(axis=0), n, where=n > 0, out=0.0 * n)
        square = (np.where(known, part - mean, 0.0) ** 2).sum(axis=0)
        spread.append(np.sqrt(np.divide(square, n, where=n > 0, out=np.full(len(n), np.nan))))
    there = ~np.isnan(spread)
    total = np.where(there, spread, 0.0).sum(axis=0)
    return total > cutoff * np.maximum(there.sum(axis=0), 1)
