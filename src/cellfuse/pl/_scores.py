"""Figures of known pairs: ROC curves, and recall among the most similar pairs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    GREY,
    FigSize,
    Save,
    Scored,
    finish,
    heading,
    legend_above,
    legend_below,
    named_tables,
    one_axes,
    stored,
)
from cellfuse.pl._marks import dot_rows, row_height
from cellfuse.pl._style import Palette, curve_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["relationship_recall", "roc"]

ENDS = ("low", "high")


@drawn
def roc(
    genes: AnnData | Mapping[str, AnnData],
    *,
    key: str = "edge_classification",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the ROC curve of gene pairs (PETRI, 3.5), one curve per set of profiles.

    The point where the curve crosses the false positive rate that
    :func:`cellfuse.tl.edge_classification` was asked for is marked, with its bootstrap interval
    where there is one (several curves have theirs in the legend alone); the diagonal is chance.

    Parameters
    ----------
    genes
        Profiles that were scored, or several as ``{label: profiles}`` for one figure. Labels that
        begin with a method's name get its colour, such as ``"PETRI, image"``.
    key
        Key of ``.uns`` that the scores are in.
    {palette}
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The profiles were not scored.
    ValueError
        An empty dict, or profiles that were scored at different false positive rates.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    >>> genes = ad.AnnData(x, obs=pd.DataFrame(index=["A", "B", "C", "D"]))
    >>> edges = pd.DataFrame({"source": ["A", "C"], "target": ["B", "D"]})
    >>> scores = cf.tl.edge_classification(genes, edges)
    >>> cf.pl.roc(genes).get_ylabel()
    'True positive rate'
    """
    run = "cellfuse.tl.edge_classification(genes, edges)"
    named = dict(genes) if isinstance(genes, Mapping) else {"": genes}
    if not named:
        raise ValueError("`genes` is an empty dict; give at least one set of profiles.")
    scores = {
        label: stored(adata, key, ("fpr", "tpr", "summary", "params"), run=run)
        for label, adata in named.items()
    }
    levels = {float(score["params"]["fpr"]) for score in scores.values()}
    if len(levels) > 1:
        raise ValueError(
            f"the profiles were scored at different false positive rates, {sorted(levels)}; "
            f"run `{run}` with one `fpr` for all."
        )
    level = levels.pop()

    ax = one_axes(ax, (4.8, 5.2 + 0.3 * len(scores)), figsize)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance")
    ax.axvline(
        level, color=GREY, linewidth=1, linestyle="--", label=f"FPR {level:g}, where TPR is read"
    )
    styles = curve_styles(scores, palette)
    for label, score in scores.items():
        row = _last(score["summary"])
        text = f"TPR {_interval(row, 'tpr')}, AUC {_interval(row, 'auc')}"
        text = f"{label}\n{text}" if label else text
        ax.plot(score["fpr"], score["tpr"], linewidth=1.8, label=text, **styles[label])
        _mark_level(ax, level, row, styles[label]["color"], alone=len(scores) == 1)
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set(xlabel="False positive rate", ylabel="True positive rate")
    if len(scores) == 1 or title is not None:
        heading(ax, f"{int(row['n_edges']):,} interacting pairs", title)
    legend_below(ax)
    return finish(ax, show=show, save=save, name="roc", return_fig=return_fig)


def _mark_level(ax: Axes, level: float, row: Mapping[str, Any], colour: str, alone: bool) -> None:
    spread = None
    # Bars of several curves would hide one another; their ends stand in the legend.
    if "tpr_low" in row and alone:
        tpr = float(row["tpr"])
        ends = [tpr - float(row["tpr_low"]), float(row["tpr_high"]) - tpr]
        spread = np.clip(ends, 0, None)[:, None]
    ax.errorbar([level], [row["tpr"]], yerr=spread, fmt="o", markersize=5, capsize=3, color=colour)


def _last(summary: Any) -> Mapping[str, Any]:
    """Return the row for all backgrounds, the last of the summary."""
    if isinstance(summary, pd.DataFrame):
        return {str(name): value for name, value in summary.iloc[-1].items()}
    return dict(summary)


def _interval(row: Mapping[str, Any], name: str) -> str:
    text = f"{float(row[name]):.2f}"
    if f"{name}_low" in row:
        text += f" [{float(row[f'{name}_low']):.2f}, {float(row[f'{name}_high']):.2f}]"
    return text


@drawn
def relationship_recall(
    profiles: Scored | Mapping[str, Scored],
    *,
    key: str = "relationship_recall",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the share of known pairs that are recalled, one row per table of pairs (EFAAR).

    The bar behind a point is its bootstrap interval, where there is one; the grey tick is what a
    random map recalls.

    Parameters
    ----------
    profiles
        Profiles that :func:`cellfuse.tl.relationship_recall` was run on, or its table; or several
        as ``{label: profiles}``.
    key
        Key of ``.uns`` that the table is in.
    {palette}
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The profiles were not scored.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.random.default_rng(0).normal(size=(30, 8))
    >>> genes = ad.AnnData(x, obs=pd.DataFrame(index=[f"g{i}" for i in range(30)]))
    >>> pairs = pd.DataFrame({"source": ["g0"], "target": ["g1"]})
    >>> table = cf.tl.relationship_recall(genes, {"CORUM": pairs})
    >>> [tick.get_text() for tick in cf.pl.relationship_recall(genes).get_yticklabels()]
    ['CORUM (1 pair)']
    """
    run = "cellfuse.tl.relationship_recall(profiles, pairs)"
    tables = named_tables(profiles, key, ("recall", "chance", "n_pairs"), run=run)
    rows = {}
    for label, table in tables.items():
        names = [
            f"{name} ({n:,} pair{'s' if n != 1 else ''})"
            for name, n in zip(table.index.astype(str), table["n_pairs"], strict=True)
        ]
        part = pd.DataFrame(
            {"value": table["recall"].to_numpy(), "chance": table["chance"].to_numpy()},
            index=names,
        )
        if "recall_low" in table:
            part["low"], part["high"] = (table[f"recall_{end}"].to_numpy() for end in ENDS)
        rows[label] = part
    ax = one_axes(ax, (5.4, row_height(rows)), figsize)
    dot_rows(ax, rows, palette=palette)
    ax.set(xlim=(-0.02, 1.02), xlabel="Share of known pairs among the most and least similar")
    if title is not None:
        heading(ax, "", title, pad=24)
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="relationship_recall", return_fig=return_fig)
