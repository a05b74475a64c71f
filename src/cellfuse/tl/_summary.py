"""One figure for a table of scores, with its interval over genes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cellfuse.kernels.bootstrap import draw_nodes, interval, weighted_means

__all__ = ["mean_with_interval"]


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
    every = pd.Index(np.unique(np.concatenate([t.index.to_numpy(str) for t in tables.values()])))
    drawn = draw_nodes(len(every), n_boot, seed)
    replicates = np.mean(
        [
            weighted_means(values[t], drawn[every.get_indexer(table.index.astype(str))])
            for t, table in tables.items()
        ],
        axis=0,
    )
    found[f"{name}_low"], found[f"{name}_high"] = interval(replicates)
    return found
