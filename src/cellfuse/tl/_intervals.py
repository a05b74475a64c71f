"""Bootstrap intervals of a mean over two crossed factors, such as runs and classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["crossed_intervals", "mean_present"]

#: Coverage of the intervals, in percent.
INTERVAL = (2.5, 97.5)
#: Replicates drawn together.
BLOCK = 64


def mean_present(values: NDArray) -> float:
    """Mean of the entries that are there (not NaN); NaN when none is."""
    there = ~np.isnan(values)
    return float(values[there].mean()) if there.any() else float("nan")


def crossed_intervals(values: NDArray, *, n_boot: int, seed: int) -> NDArray:
    """95% percentile intervals of means, both factors resampled.

    Parameters
    ----------
    values
        One number per score, run and unit, ``(scores, runs, units)``; NaN where a run has none for
        a unit. Units (classes, compounds) are what a figure generalises over; runs are random
        draws. All scores are resampled alike.
    n_boot
        Bootstrap replicates; 0 gives NaN.
    seed
        Same seed, same intervals.

    Returns
    -------
    Lower and upper end, ``(scores, 2)``.
    """
    n_scores, runs, units = values.shape
    if n_boot < 1 or not values.size:
        return np.full((n_scores, 2), np.nan)
    rng = np.random.default_rng([seed, 15_485_863])
    there = ~np.isnan(values)
    filled, whole = np.where(there, values, 0.0), bool(there.all())
    means = np.empty((n_scores, n_boot))
    for start in range(0, n_boot, BLOCK):
        stop = min(start + BLOCK, n_boot)
        of_run, of_unit = (_times_drawn(n, stop - start, rng) for n in (runs, units))
        total = np.einsum("srb,rb->sb", filled @ of_unit, of_run)
        if whole:
            count = np.full(total.shape, float(runs * units))
        else:
            count = np.einsum("srb,rb->sb", there.astype(np.float64) @ of_unit, of_run)
        with np.errstate(invalid="ignore"):
            means[:, start:stop] = total / count  # NaN where nothing of a replicate is there
    low, high = np.nanpercentile(means, INTERVAL, axis=1)
    return np.stack([low, high], axis=1)


def _times_drawn(n: int, n_boot: int, rng: np.random.Generator) -> NDArray:
    """How often each of `n` is drawn when `n` are drawn, ``(n, n_boot)``."""
    drawn = rng.integers(n, size=(n_boot, n)) + n * np.arange(n_boot)[:, None]
    return np.bincount(drawn.ravel(), minlength=n * n_boot).reshape(n_boot, n).T.astype(np.float64)
