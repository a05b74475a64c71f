"""One figure for a table of scores, with its interval over genes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfuse.kernels.bootstrap import draw_nodes, interval, weighted_means

__all__ = ["check_level", "null_sets", "mean_with_interval", "share_with_interval"]

#: Genes times replicates that are ranked together.
BLOCK = 1 << 20
#: Fewest null sets that are drawn by default.
LEAST_SETS = 10_000


def check_level(alpha: float) -> None:
    """Refuse a level that is no share, such as 5 for 5%."""
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha}: expected a level, 0 < alpha <= 1.")


def null_sets(n_null: int | None, n_groups: int, alpha: float) -> int:
    """Number of null sets: as given, or enough for one of `n_groups` groups to be called alone.

    The smallest p-value is 1 / (sets + 1), and the correction asks of a single hit that it be below
    ``alpha / n_groups``; five times as many sets leave it room, and 10,000 are the least.
    """
    if n_null is None:
        return max(LEAST_SETS, int(np.ceil(5 * n_groups / alpha)))
    return n_null


def mean_with_interval(
    name: str,
    tables: Mapping[str, pd.DataFrame],
    column: str,
    n_boot: int,
    seed: int,
) -> dict[str, float]:
    """Mean of a column, averaged over tables, with the bootstrap interval over their index.

    All tables are resampled by the same labels (genes, perturbations), so that one that stands in
    several of them is drawn in all or in none.

    Returns
    -------
    ``name``, and with `n_boot` ``name_low`` and ``name_high``.
    """
    values = {t: table[column].to_numpy(dtype=np.float64) for t, table in tables.items()}
    found = {name: float(np.mean([np.nanmean(v) if len(v) else np.nan for v in values.values()]))}
    if n_boot < 1:
        return found
    drawn = _drawn(tables, n_boot, seed)
    replicates = np.mean([weighted_means(values[t], drawn[t]) for t in tables], axis=0)
    found[f"{name}_low"], found[f"{name}_high"] = interval(replicates)
    return found


def share_with_interval(
    tables: Mapping[str, pd.DataFrame], alpha: float, n_boot: int, seed: int
) -> dict[str, float]:
    """Share of significant rows, as :func:`mean_with_interval` has it.

    What is significant hangs on all p-values together, so that the correction is done again in
    each replicate: with the calls as they are, the interval would be too narrow.
    """
    found = mean_with_interval("share_significant", tables, "significant", 0, seed)
    if n_boot < 1:
        return found
    drawn = _drawn(tables, n_boot, seed)
    replicates = np.mean(
        [
            _discovered(table["pvalue"].to_numpy(dtype=np.float64), drawn[t], alpha)
            for t, table in tables.items()
        ],
        axis=0,
    )
    found["share_significant_low"], found["share_significant_high"] = interval(replicates)
    return found


def _drawn(tables: Mapping[str, pd.DataFrame], n_boot: int, seed: int) -> dict[str, NDArray]:
    """Times each row of each table is drawn, ``(rows, replicates)``."""
    every = pd.Index(np.unique(np.concatenate([t.index.to_numpy(str) for t in tables.values()])))
    drawn = draw_nodes(len(every), n_boot, seed)
    return {t: drawn[every.get_indexer(x.index.astype(str))] for t, x in tables.items()}


def _discovered(pvalue: NDArray, drawn: NDArray, alpha: float) -> NDArray:
    """Share with q < alpha (Benjamini-Hochberg) among the drawn rows of each replicate."""
    order = np.argsort(pvalue)
    ordered = pvalue[order, None]
    out = np.full(drawn.shape[1], np.nan)
    step = max(1, BLOCK // max(1, len(order)))
    for start in range(0, drawn.shape[1], step):
        times = drawn[order, start : start + step]
        rank = times.cumsum(axis=0)
        n = rank[-1].astype(np.float64)
        last = np.where((times > 0) & (ordered * n < alpha * rank), rank, 0).max(axis=0)
        out[start : start + step] = np.divide(last, n, out=np.full(len(n), np.nan), where=n > 0)
    return out
