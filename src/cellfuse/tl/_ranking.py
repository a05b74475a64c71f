"""Targets ranked among negatives: precision, wins and hits, and what chance gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

__all__ = ["SCORES", "chance_scores", "draw_negatives", "rank_scores"]

#: Average precision, area under the ROC curve, any target among the first k.
SCORES = ("ap", "auc", "hit")


def draw_negatives(
    actives: NDArray, n_pool: int, n_negative: int, n_draws: int, rng: np.random.Generator
) -> NDArray:
    """Genes that are no targets, ``(compounds, draws, negatives)``, none twice in a draw.

    Floyd's algorithm: member j is uniform below a rising limit, or the limit itself where that
    number is taken already; every subset is equally likely.
    """
    n_compounds, n_targets = actives.shape
    n_free = n_pool - n_targets
    drawn = np.empty((n_negative, n_compounds, n_draws), np.int32)
    for j, limit in enumerate(range(n_free - n_negative, n_free)):
        number = rng.integers(0, limit + 1, (n_compounds, n_draws), dtype=np.int32)
        taken = (drawn[:j] == number).any(axis=0)
        drawn[j] = np.where(taken, limit, number)
    # From the number of a free gene to its number among all: step over the targets, in order.
    for active in actives.T:
        drawn += drawn >= active[:, None]
    return drawn.transpose(1, 2, 0)


def rank_scores(positive: NDArray, negative: NDArray, k: int) -> NDArray:
    """AP, AUC and Hit@k of rows ``(n, targets)`` against ``(n, draws, negatives)``.

    Returns
    -------
    ``(3, draws, n)``.
    """
    n, n_draws, n_negative = negative.shape
    n_targets = positive.shape[1]
    precision, wins = np.zeros((n, n_draws)), np.zeros((n, n_draws))
    best = positive.max(axis=1)
    for j in range(n_targets):
        score = positive[:, j]
        found = (positive >= score[:, None]).sum(axis=1)[:, None]
        at_least = np.count_nonzero(negative >= score[:, None, None], axis=2)
        above = np.count_nonzero(negative > score[:, None, None], axis=2)
        precision += found / (found + at_least)
        wins += n_negative - 0.5 * (at_least + above)
    at_least = np.count_nonzero(negative >= best[:, None, None], axis=2)
    above = np.count_nonzero(negative > best[:, None, None], axis=2)
    tied_targets = (positive == best[:, None]).sum(axis=1)[:, None]
    hit = 1 - _none_drawn(tied_targets, at_least - above, k - above)
    out = precision / n_targets, wins / (n_targets * n_negative), hit
    return np.stack([score.T for score in out])


def _none_drawn(targets: NDArray, others: NDArray, places: NDArray) -> NDArray:
    """Chance that `places` drawn from `targets` and `others` hold no target; 1 for no place."""
    places = np.maximum(places, 0)
    possible = places <= others
    left = np.where(possible, others - places, 0)
    log = (
        gammaln(others + 1.0)
        - gammaln(left + 1.0)
        + gammaln(left + targets + 1.0)
        - gammaln(others + targets + 1.0)
    )
    return np.where(places == 0, 1.0, np.where(possible, np.exp(log), 0.0))


def chance_scores(n_targets: int, n_negative: int, k: int) -> NDArray:
    """Expectation of AP, AUC and Hit@k when the ranking is random."""
    n = n_targets + n_negative
    harmonic = float((1.0 / np.arange(1, n + 1)).sum())
    ap = (harmonic + (n_targets - 1) / (n - 1) * (n - harmonic)) / n
    none = _none_drawn(np.array(n_targets), np.array(n_negative), np.array(k))
    return np.array([ap, 0.5, 1.0 - float(none)])
