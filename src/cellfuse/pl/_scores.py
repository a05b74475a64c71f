"""Figures of the scores: ROC curves of gene pairs, consistency of guides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse.pl._figure import (
    COLOURS,
    GREY,
    MAX_TICK_LABELS,
    Save,
    bare,
    finish,
    legend_above,
    legend_below,
    line_style,
    one_axes,
    panels,
    stored,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["guide_consistency", "roc"]


def roc(
    genes: AnnData | Mapping[str, AnnData],
    *,
    key: str = "edge_classification",
    ax: Axes | None = None,
    show: bool = False,
    save: Save = None,
) -> Axes:
    """Draw the ROC curve of gene pairs (PETRI, 3.5), one curve per set of profiles.

    The point where the curve crosses the false positive rate that
    :func:`cellfuse.tl.edge_classification` was asked for is marked, with its bootstrap interval
    where there is one (several curves have theirs in the legend alone); the diagonal is chance.

    Parameters
    ----------
    genes
        Profiles that were scored, or several as ``{label: profiles}`` for one figure.
    key
        Key of ``.uns`` that the scores are in.
    ax
        Axes to draw into; None makes a figure.
    show
        Whether to call ``matplotlib.pyplot.show``.
    save
        Path to save the figure to.

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

    ax = one_axes(ax, (4.8, 5.2 + 0.3 * len(scores)))
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance")
    ax.axvline(
        level, color=GREY, linewidth=1, linestyle="--", label=f"FPR {level:g}, where TPR is read"
    )
    for k, (label, score) in enumerate(scores.items()):
        row = _last(score["summary"])
        style = line_style(k)
        text = f"TPR {_interval(row, 'tpr')}, AUC {_interval(row, 'auc')}"
        text = f"{label}\n{text}" if label else text
        ax.plot(score["fpr"], score["tpr"], linewidth=1.8, label=text, **style)
        spread = None
        # Bars of several curves would hide one another; their ends stand in the legend.
        if "tpr_low" in row and len(scores) == 1:
            tpr = float(row["tpr"])
            ends = [tpr - float(row["tpr_low"]), float(row["tpr_high"]) - tpr]
            spread = np.clip(ends, 0, None)[:, None]
        ax.errorbar(
            [level],
            [row["tpr"]],
            yerr=spread,
            fmt="o",
            markersize=5,
            capsize=3,
            color=style["color"],
        )
    ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    ax.set(xlabel="False positive rate", ylabel="True positive rate")
    if len(scores) == 1:
        ax.set_title(f"{int(row['n_edges']):,} interacting pairs", fontsize="medium")
    bare(ax)
    legend_below(ax)
    finish(ax, show=show, save=save)
    return ax


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


def guide_consistency(
    guides: AnnData,
    *,
    key: str = "guide_consistency",
    ax: Axes | Sequence[Axes] | None = None,
    show: bool = False,
    save: Save = None,
) -> Axes | np.ndarray:
    """Draw how similar the guides of each target are, targets in falling order (PETRI, 3.5).

    Filled points are targets whose guides agree significantly; the short lines are what
    unrelated guides reach on average. Targets with one guide, which are not tested, are left out
    and counted below.

    Parameters
    ----------
    guides
        Profiles on which :func:`cellfuse.tl.guide_consistency` was run.
    key
        Key of ``.uns`` that the table is in.
    ax
        Axes to draw into (one per background, if they were tested apart); None makes a figure.
    show
        Whether to call ``matplotlib.pyplot.show``.
    save
        Path to save the figure to.

    Returns
    -------
    The axes; an array of them, one per background, if backgrounds were tested apart.

    Raises
    ------
    KeyError
        The profiles were not tested.
    ValueError
        Another number of axes than panels.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(20, 8)), 3, axis=0)
    >>> names = [f"gene{i // 3}_{i % 3}" for i in range(60)]
    >>> obs = pd.DataFrame({"gene": [name[:-2] for name in names]}, index=names)
    >>> guides = ad.AnnData(effect + rng.normal(size=(60, 8)) / 4, obs=obs)
    >>> table = cf.tl.guide_consistency(guides, target_key="gene", control=None)
    >>> cf.pl.guide_consistency(guides).get_title(loc="left")
    '100% of 20 targets are consistent (q < 0.05)'
    """
    run = "cellfuse.tl.guide_consistency(guides, target_key=..., control=...)"
    kept = stored(guides, key, ("table", "params"), run=run)
    table, params = kept["table"], kept["params"]
    background_key = params.get("background_key")
    if background_key is None:
        parts = {"": table}
    else:
        parts = {str(name): part for name, part in table.groupby(background_key, observed=True)}
    most = max(len(part) for part in parts.values())
    width = 1.2 + 0.13 * most if most <= MAX_TICK_LABELS else 5.4
    axes = panels(ax, len(parts), (max(5.4, width), 4.2))
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        _consistency_panel(panel, part, name, alpha=float(params.get("alpha", 0.05)))
    finish(axes, show=show, save=save)
    return axes[0] if background_key is None else axes


def _consistency_panel(ax: Axes, table: pd.DataFrame, name: str, *, alpha: float) -> None:
    tested = table[table["similarity"].notna()].sort_values("similarity", ascending=False)
    rank = np.arange(1, len(tested) + 1)
    significant = tested["significant"].to_numpy(dtype=bool)
    similarity = tested["similarity"].to_numpy()
    size = 22 if len(tested) <= MAX_TICK_LABELS else 8
    for chosen, colour, face, label in (
        (significant, COLOURS[0], COLOURS[0], f"q < {alpha:g}"),
        (~significant, COLOURS[1], "none", f"q ≥ {alpha:g}"),
    ):
        ax.scatter(
            rank[chosen],
            similarity[chosen],
            s=size,
            facecolors=face,
            edgecolors=colour,
            linewidths=1.1,
            label=label,
            zorder=3,
        )
    ax.plot(
        rank,
        tested["null_mean"],
        linestyle="none",
        marker="_",
        markersize=6,
        color="black",
        label="unrelated guides, mean",
    )
    what = "Targets"
    if len(tested) <= MAX_TICK_LABELS:
        ax.set_xticks(rank, tested.index.astype(str), rotation=90, fontsize=7)
    else:
        what = "Targets by rank"
    n_left = len(table) - len(tested)
    if n_left:
        what += f" ({n_left} with one guide not tested)"
    ax.set(xlabel=what, ylabel="Mean pairwise cosine of guides", xlim=(0, len(tested) + 1))
    share = significant.mean() if len(tested) else 0.0
    title = f"{share:.0%} of {len(tested)} targets are consistent (q < {alpha:g})"
    ax.set_title(f"{name}: {title}" if name else title, loc="left", fontsize="medium", pad=24)
    bare(ax)
    legend_above(ax, 3)
