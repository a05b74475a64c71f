"""Figure of target discovery: scores by dose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    GREY,
    FigSize,
    Save,
    Scored,
    finish,
    legend_above,
    named_tables,
    panels,
)
from cellfuse.pl._style import Palette, curve_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["target_discovery"]

SCORES = {"ap": "Average precision", "auc": "AUC", "hit": "Hit@k"}


@drawn
def target_discovery(
    adata: Scored | Mapping[str, Scored],
    *,
    key: str = "target_discovery",
    palette: Palette = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw how well compounds find their targets, by dose (TIDE, task 2).

    The last point is the average over doses; bars are bootstrap intervals over compounds and
    draws; the grey line is what a random ranking gives.

    Parameters
    ----------
    adata
        Profiles that :func:`cellfuse.tl.target_discovery` was run on, or its table; or several
        as ``{label: profiles}``.
    key
        Key of ``.uns`` that the table is in.
    {palette}
    ax
        Three axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The three axes: average precision, AUC, Hit@k.

    Raises
    ------
    KeyError
        The profiles were not scored.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> genes = ad.AnnData(np.eye(3), obs=pd.DataFrame(index=["A", "B", "C"]))
    >>> x = np.array([[0.9, 0.1, 0.0], [0.0, 0.2, -0.8]])
    >>> compounds = ad.AnnData(x, obs=pd.DataFrame(index=["one", "two"]))
    >>> known = pd.DataFrame({"source": ["one", "two"], "target": ["A", "C"]})
    >>> table = cf.tl.target_discovery(compounds, genes, known, k=1)
    >>> [panel.get_title(loc="left") for panel in cf.pl.target_discovery(compounds)]
    ['Average precision', 'AUC', 'Hit@1']
    """
    run = "cellfuse.tl.target_discovery(compounds, genes, targets)"
    tables = named_tables(adata, key, tuple(SCORES), run=run)
    first = next(iter(tables.values()))
    doses = [str(dose) for dose in first.index]
    axes = panels(ax, len(SCORES), (max(2.6, 1.2 + 0.32 * len(doses)), 3.2), figsize)
    styles = curve_styles(tables, palette)
    for panel, (score, name) in zip(axes, SCORES.items(), strict=True):
        for label, table in tables.items():
            _by_dose(panel, table, score, label, styles[label]["color"], tables)
        place = np.arange(len(doses))
        if f"{score}_chance" in first:
            panel.plot(
                place, first[f"{score}_chance"], "_", color=GREY, markersize=14, label="chance"
            )
        panel.set_xticks(place, [_short(dose) for dose in doses], rotation=45 * (len(doses) > 4))
        panel.set(ylim=(-0.03, 1.05), xlim=(-0.5, len(doses) - 0.5), xlabel=first.index.name or "")
        k = first.attrs["params"].get("k", "k")
        panel.set_title(f"Hit@{k}" if score == "hit" else name, loc="left", pad=20)
    handles = axes[0].get_legend_handles_labels()
    if handles[1]:
        legend_above(axes[0], 3)
    return finish(
        axes, show=show, save=save, name="target_discovery", title=title, return_fig=return_fig
    )


def _short(dose: str) -> str:
    try:
        return f"{float(dose):g}"
    except ValueError:
        return dose


def _by_dose(
    ax: Axes,
    table: pd.DataFrame,
    score: str,
    label: str,
    colour: str,
    tables: Mapping[str, pd.DataFrame],
) -> None:
    k, n = list(tables).index(label), len(tables)
    place = np.arange(len(table)) + 0.5 * ((k + 0.5) / n - 0.5)
    value = table[score].to_numpy(float)
    spread = None
    if f"{score}_low" in table:
        low, high = (table[f"{score}_{end}"].to_numpy(float) for end in ("low", "high"))
        spread = np.clip(np.nan_to_num(np.stack([value - low, high - value])), 0, None)
    ax.errorbar(
        place,
        value,
        yerr=spread,
        fmt="o",
        markersize=5,
        linewidth=1.4,
        color=colour,
        label=label or None,
    )
    if len(table) > 2:  # doses in order; the average stands apart
        ax.plot(place[:-1], value[:-1], color=colour, linewidth=1)
