"""Exact ROC curves of many scores, and their bootstrap over nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads

__all__ = ["area_under", "bootstrap_roc", "roc_curve", "thin_curve", "tpr_at"]

#: Replicates computed together: their node weights fit the cache.
REPLICATES = 32
#: Pairs computed together.
PAIRS = 1 << 14


def _thresholds(positives: NDArray, ordered: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Distinct positive scores, largest first, with negatives above and at or above each."""
    scores = np.unique(positives)[::-1]
    above = len(ordered) - np.searchsorted(ordered, scores, side="right")
    at_least = len(ordered) - np.searchsorted(ordered, scores, side="left")
    return scores, above, at_least


def _corners(above: NDArray, at_least: NDArray, tp: NDArray) -> tuple[NDArray, NDArray]:
    """Interleave the points before and at each threshold; axis 0 runs over thresholds."""
    shape = (2 * len(above) + 2, *above.shape[1:])
    false, true = np.zeros(shape), np.zeros(shape)
    false[1:-1:2], false[2:-1:2] = above, at_least
    true[3:-1:2], true[2:-1:2] = tp[:-1], tp
    return false, true


def roc_curve(positives: NDArray, negatives: NDArray) -> tuple[NDArray, NDArray]:
    """ROC curve as scikit-learn's, with only the points where it can turn.

    Between two distinct positive scores the curve is flat, and tied scores make one straight
    piece; so two points per distinct positive score describe it fully.

    Parameters
    ----------
    positives, negatives
        Scores, shapes (p,) and (q,), neither empty. `negatives` is sorted in place.

    Returns
    -------
    False and true positive rate, both ascending from 0 to 1.
    """
    negatives.sort()
    scores, above, at_least = _thresholds(positives, negatives)
    ordered = np.sort(positives)
    tp = len(ordered) - np.searchsorted(ordered, scores, side="left")
    false, true = _corners(above, at_least, tp)
    false[-1], true[-1] = len(negatives), len(positives)
    return false / len(negatives), true / len(positives)


def tpr_at(fpr: NDArray, tpr: NDArray, level: float) -> float:
    """Read the true positive rate at a false one, linear between the points of the curve."""
    return float(np.interp(level, fpr, tpr))


def area_under(fpr: NDArray, tpr: NDArray) -> float:
    """Area under the curve by trapezoids (tied scores count half)."""
    return float(np.trapezoid(tpr, fpr))


def thin_curve(fpr: NDArray, tpr: NDArray, n_points: int = 2000) -> tuple[NDArray, NDArray]:
    """Keep at most `n_points` points, evenly along the curve, with both ends."""
    if len(fpr) <= n_points:
        return fpr, tpr
    along = fpr + tpr
    kept = np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], n_points)))
    kept = np.clip(kept, 0, len(fpr) - 1)
    kept[0], kept[-1] = 0, len(fpr) - 1
    return fpr[kept], tpr[kept]


def bootstrap_roc(
    positives: tuple[NDArray, NDArray, NDArray],
    negatives: tuple[NDArray, NDArray, NDArray],
    weights: NDArray,
    *,
    level: float,
) -> tuple[NDArray, NDArray]:
    """TPR at a false positive rate, and AUC, under resampled nodes.

    A node drawn w times gives its pairs the weight w_i w_j, so the scores are sorted once and
    each replicate is a weighted sum between the thresholds.

    Parameters
    ----------
    positives, negatives
        Scores and the two node numbers of each pair.
    weights
        Times each node was drawn, shape (nodes, replicates).
    level
        False positive rate at which the TPR is read.

    Returns
    -------
    TPR and AUC, shape (replicates,); NaN where a replicate holds no positive or no negative.
    """
    score, first, second = negatives
    order = np.argsort(-score)
    first, second = first[order], second[order]
    scores, above, at_least = _thresholds(positives[0], score[order][::-1])
    # Cut points between which all negatives lie on one side of every threshold.
    cuts = np.unique(np.concatenate([[0], above, at_least, [len(score)]]))
    strongest = np.argsort(-positives[0])
    ends = np.searchsorted(-positives[0][strongest], -scores, side="right")
    source, target = positives[1][strongest], positives[2][strongest]

    def one(columns: slice) -> tuple[NDArray, NDArray]:
        drawn = np.ascontiguousarray(weights[:, columns], dtype=np.float32)
        below_cut = _cumulative_weight(first, second, drawn, cuts)
        hits = drawn[source] * drawn[target]
        tp = hits.cumsum(axis=0, dtype=np.float64)[ends - 1]
        lower = below_cut[np.searchsorted(cuts, above)]
        upper = below_cut[np.searchsorted(cuts, at_least)]
        return _read_replicates(lower, upper, tp, below_cut[-1], level)

    blocks = [slice(a, a + REPLICATES) for a in range(0, weights.shape[1], REPLICATES)]
    parts = in_threads(one, blocks)
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def _cumulative_weight(first: NDArray, second: NDArray, drawn: NDArray, cuts: NDArray) -> NDArray:
    """Weight of the pairs before each cut, shape (cuts, replicates)."""
    mass = np.zeros((len(cuts), drawn.shape[1]))
    for start in range(0, len(first), PAIRS):
        stop = min(start + PAIRS, len(first))
        product = drawn[first[start:stop]] * drawn[second[start:stop]]
        # Segments of this block: the one that is open at its start, and those that begin in it.
        a = np.searchsorted(cuts, start, side="right")
        b = np.searchsorted(cuts, stop, side="left")
        begins = np.concatenate([[0], cuts[a:b] - start])
        mass[a : b + 1] += np.add.reduceat(product, begins, axis=0)
    return mass.cumsum(axis=0)


def _read_replicates(
    above: NDArray, at_least: NDArray, tp: NDArray, n_negative: NDArray, level: float
) -> tuple[NDArray, NDArray]:
    false, true = _corners(above, at_least, tp)
    false[-1], true[-1] = n_negative, tp[-1]
    rates, areas = np.full(tp.shape[1], np.nan), np.full(tp.shape[1], np.nan)
    for b in range(tp.shape[1]):
        if n_negative[b] > 0 and tp[-1, b] > 0:
            fpr, tpr = false[:, b] / n_negative[b], true[:, b] / tp[-1, b]
            rates[b], areas[b] = tpr_at(fpr, tpr, level), area_under(fpr, tpr)
    return rates, areas
