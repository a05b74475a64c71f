"""Whether the replicates of a perturbation agree."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from cellfuse._access import check_key, context_labels, control_labels, profiles_only
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json
from cellfuse.kernels.nulls import Draw, empirical_pvalue
from cellfuse.tl._labels import apart_from_control, by_name, control_rows, several_labels
from cellfuse.tl._layout_null import draw_on_layout, plates_apart, positions
from cellfuse.tl._similarity import similarity_of, source_name
from cellfuse.tl._summary import check_level, mean_with_interval, null_sets, share_with_interval
from cellfuse.tl.guides import NULL_BAND, agreement_test

__all__ = ["perturbation_consistency"]

logger = logging.getLogger("cellfuse")


@whole_counts
def perturbation_consistency(
    adata: AnnData,
    *,
    by: str | list[str],
    control: str | list[str] | None,
    null: Literal["unrelated", "layout"] = "unrelated",
    null_labels: str | list[str] | None = None,
    well_key: str = "well",
    batch_key: str | list[str] | None = None,
    sep: str | None = None,
    n_null: int | None = None,
    alpha: float = 0.05,
    use_rep: str | None = None,
    use_sim: str | None = None,
    n_boot: int = 1000,
    key_added: str = "perturbation_consistency",
    seed: int = 0,
) -> pd.DataFrame:
    """Test each perturbation's replicates for agreement (EFAAR).

    The statistic is the mean pairwise cosine of a perturbation's replicates. Two nulls are in use.
    With `null_labels` it is EFAAR's present one: the same statistic of perturbations that are
    known to do nothing, such as guides against unexpressed genes. Without, it is the older one,
    and that of :func:`guide_consistency`: as many replicates of all-different perturbations. In
    both ``p = (k + 1) / (B + 1)`` with k of B null values at or above the perturbation's, where
    EFAAR has ``k / B``, which can be 0.

    Replicates that share a plate or a well position agree for that reason too: neither null
    knows. Correct the batches first, or aggregate to one row per perturbation and plate. Where a
    perturbation stands at the same position on all plates, ``null="layout"`` takes the position
    into account: its sets are wells next to one another (within a row and a column), each of
    another perturbation, and on different plates where the replicates are.

    Parameters
    ----------
    adata
        One row per replicate: a well, a cell, or a profile per batch.
    by
        obs column or columns with the perturbation.
    control
        Label or labels of the controls, which are neither tested nor in the null. None, which
        must be written, if there are none.
    null
        ``"unrelated"`` replicates, or ``"layout"``.
    null_labels
        Perturbations that make the null, at least 20 for a p-value below .05; they are not tested
        themselves. None: sets of unrelated replicates.
    well_key, batch_key
        obs columns of the well (``A01``) and of the plate, for ``null="layout"``.
    sep
        What stands between several labels of a replicate in the (one) column `by`, such as ``"|"``
        in ``EGFR|ERBB2``: it is then a replicate of each, and a null set holds no two that share
        any. None: the text is one label.
    n_null
        Sets drawn for each number of replicates; None: at least 10,000, and five times as many as
        it takes for a single one of the perturbations to be significant.
    alpha
        Level on q-values (Benjamini-Hochberg).
    use_rep
        obsm key; None is ``X``.
    use_sim
        obsp key of a matrix of similarities to use instead of cosines.
    n_boot
        Bootstrap replicates over perturbations for the intervals of the two figures in ``attrs``.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table, in whatever order the (differently named) rows come.

    Returns
    -------
    One row per perturbation: ``similarity``, ``n`` (replicates), ``null_mean``, ``null_low`` and
    ``null_high`` (the middle 95% of the null), ``pvalue``, ``qvalue``, ``significant``; one with a
    single replicate is not tested (NaN).
    ``attrs["share_significant"]`` and ``attrs["mean_similarity"]``, with `n_boot` each with a
    ``_low`` and a ``_high``. Kept in ``adata.uns[key_added]``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values, a row of zeros, no perturbation with two replicates, or fewer
        perturbations than a null set has members.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(20, 8)), 4, axis=0)
    >>> obs = pd.DataFrame({"compound": np.repeat([f"c{i}" for i in range(20)], 4)})
    >>> wells = ad.AnnData(effect + rng.normal(size=(80, 8)) / 4, obs=obs.rename(str))
    >>> table = cf.tl.perturbation_consistency(wells, by="compound", control=None)
    >>> table.attrs["share_significant"]
    1.0
    """
    adata = profiles_only(adata)
    check_key(key_added)
    check_level(alpha)
    labels = apart_from_control(context_labels(adata, by).to_numpy(object), sep, control).astype(
        str
    )
    kept = np.ones(len(labels), dtype=bool)
    if control is not None:
        kept &= ~control_rows(labels, control)
    names = labels[kept]
    if sep is not None:
        names = several_labels(pd.Series(names), sep, by)[1].to_numpy(str)
    n_null = null_sets(n_null, len(np.unique(names)), alpha)
    rows = by_name(adata, np.flatnonzero(kept))
    draw = None
    if null == "layout":
        if sep is not None or null_labels is not None:
            raise ValueError("null='layout' goes with neither `sep` nor `null_labels`.")
        draw = _on_layout(adata, rows, labels, well_key, batch_key)
    elif null != "unrelated":
        raise ValueError(f"null={null!r}: choose one of ['unrelated', 'layout'].")
    table = agreement_test(
        similarity_of(adata, use_rep=use_rep, use_sim=use_sim, rows=rows),
        labels[rows],
        n_null=n_null if null_labels is None else 0,
        alpha=alpha,
        stream=np.random.SeedSequence(seed).spawn(1)[0],
        words=("replicate", "perturbation"),
        sep=sep,
        draw=draw,
    ).rename(columns={"n_guides": "n"})
    table.index.name = "perturbation"
    if null_labels is not None:
        table = _against(table, null_labels, alpha)
    tested = {"": table[table["pvalue"].notna()]}
    figures = {
        **share_with_interval(tested, alpha, n_boot, seed),
        **mean_with_interval("mean_similarity", tested, "similarity", n_boot, seed),
    }
    table.attrs.update(figures)
    params: dict[str, Any] = {
        "by": as_json(by),
        "control": as_json(control),
        "null_labels": as_json(null_labels),
        "sep": sep or "",
        "null": null,
        "n_null": n_null,
        "alpha": alpha,
        "use_rep": source_name(use_rep, use_sim),
        "n_boot": n_boot,
        "seed": seed,
        **figures,
    }
    adata.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info(
        "perturbation_consistency: %.1f%% of %d perturbations are significant (q < %g).",
        100 * figures["share_significant"],
        len(tested[""]),
        alpha,
    )
    return table


def _on_layout(
    adata: AnnData,
    rows: NDArray,
    labels: NDArray,
    well_key: str,
    batch_key: str | list[str] | None,
) -> Draw:
    """How null sets of neighbouring wells are drawn."""
    row, column = (place[rows] for place in positions(adata, well_key))
    codes = pd.factorize(labels[rows])[0]
    plate = None
    if batch_key is not None:
        plate = pd.factorize(context_labels(adata, batch_key))[0][rows]
    apart = np.stack([codes, *plates_apart(codes, plate)], axis=1)
    return partial(draw_on_layout, row, column, apart)


def _against(table: pd.DataFrame, null_labels: str | list[str], alpha: float) -> pd.DataFrame:
    """The perturbations other than the null ones, tested against those."""
    names = list(dict.fromkeys(control_labels(null_labels, name="null_labels")))
    for name in names:
        if name not in table.index:
            raise missing_key(name, table.index.tolist(), what="the perturbations")
    null: NDArray = table.loc[names, "similarity"].dropna().to_numpy()
    if not len(null):
        raise ValueError(f"none of null_labels={listing(names)} has two replicates: no null.")
    table = table.drop(index=names).copy()
    tested = table["similarity"].notna().to_numpy()
    if not tested.any():
        raise ValueError("no perturbation besides `null_labels` has two replicates to test.")
    table["null_mean"] = np.where(tested, null.mean(), np.nan)
    for column, end in zip(("null_low", "null_high"), np.quantile(null, NULL_BAND), strict=True):
        table[column] = np.where(tested, end, np.nan)
    table.loc[tested, "pvalue"] = empirical_pvalue(
        table.loc[tested, "similarity"].to_numpy(), np.sort(null)
    )
    table.loc[tested, "qvalue"] = false_discovery_control(table.loc[tested, "pvalue"].to_numpy())
    table["significant"] = tested & (table["qvalue"].to_numpy() < alpha)
    return table
