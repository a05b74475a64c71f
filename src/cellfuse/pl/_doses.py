"""Figures of doses and of combinations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import label_list
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    COLOURS,
    GREY,
    FigSize,
    Save,
    Scored,
    finish,
    heading,
    legend_above,
    one_axes,
    panels,
    stored,
    table_of,
)
from cellfuse.pl._marks import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["combinations", "dose_response"]

N_CURVES, N_NAMES = 6, 12


@drawn
def dose_response(
    adata: AnnData,
    *,
    names: Sequence[str] | None = None,
    key: str = "dose_response",
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the responses of compounds with their fitted curves, a panel each.

    The grey band is the middle 95% of the controls; the line down is the fitted ec50 with its
    interval, dashed where it lies outside the doses that were tried.

    Parameters
    ----------
    adata
        Wells that :func:`cellfuse.tl.dose_response` was run on.
    names
        Compounds to draw; None: the six with the smallest p-values.
    key
        Key of ``.uns`` that the table is in.
    ax
        Axes to draw into, one per compound; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes, one per compound.

    Raises
    ------
    KeyError
        No curves were fitted, or a compound of `names` has none.
    ValueError
        Another number of axes than compounds.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"drug": ["a"] * 8 + ["DMSO"] * 4, "dose": [0.1, 1, 10, 100] * 3})
    >>> obs["response"] = [0.1, 1.0, 4.0, 5.0, 0.0, 1.2, 4.2, 4.9, 0.0, 0.1, 0.2, 0.1]
    >>> wells = ad.AnnData(obs=obs.rename(str))
    >>> table = cf.tl.dose_response(
    ...     wells, by="drug", dose_key="dose", control="DMSO", value="response"
    ... )
    >>> [panel.get_xlabel() for panel in cf.pl.dose_response(wells)]
    ['dose']
    """
    run = "cellfuse.tl.dose_response(adata, by=..., dose_key=..., control=...)"
    kept = stored(adata, key, ("table", "responses", "params"), run=run)
    table, responses, params = kept["table"], kept["responses"], kept["params"]
    fitted = table[table["pvalue"].notna()].sort_values("pvalue", kind="stable")
    chosen = fitted.index[:N_CURVES].tolist() if names is None else label_list(names, name="names")
    for name in chosen:
        if name not in fitted.index:
            raise missing_key(name, fitted.index.tolist(), what="the compounds with a curve")
    axes = panels(ax, len(chosen), (2.9, 2.5), figsize)
    controls = responses.loc[responses["dose"] == 0, "response"]
    for panel, name in zip(axes, chosen, strict=True):
        mine = responses[responses["compound"].astype(str) == name]
        _curve(panel, mine, table.loc[name], controls)
        panel.set(xlabel=params["dose_key"], ylabel=params["value"])
        panel.set_title(f"{name} (q {table.loc[name, 'qvalue']:.2g})", loc="left")
    return finish(
        axes, show=show, save=save, name="dose_response", title=title, return_fig=return_fig
    )


def _curve(ax: Axes, mine: pd.DataFrame, row: pd.Series, controls: pd.Series) -> None:
    dose = mine["dose"].to_numpy(float)
    grid = np.geomspace(dose.min() / 2, dose.max() * 2, 200)
    exponent = float(row["slope"]) * (np.log10(float(row["ec50"])) - np.log10(grid))
    bottom, top = float(row["bottom"]), float(row["top"])
    ax.axhspan(*np.quantile(controls, [0.025, 0.975]), color=GREY, alpha=0.2, linewidth=0)
    ax.scatter(dose, mine["response"], s=14, color=COLOURS[0], linewidths=0, zorder=3)
    ax.plot(grid, bottom + (top - bottom) / (1 + 10.0 ** np.clip(exponent, -50, 50)), color="black")
    ax.axvline(float(row["ec50"]), color=COLOURS[1], linestyle="-" if row["inside"] else "--")
    ends = np.clip([row["ec50_low"], row["ec50_high"]], grid[0], grid[-1])
    ax.axvspan(ends[0], ends[1], color=COLOURS[1], alpha=0.15, linewidth=0)
    ax.set_xscale("log")
    ax.set_xlim(grid[0], grid[-1])


@drawn
def combinations(
    adata: Scored,
    *,
    names: Sequence[str] | None = None,
    key: str = "combinations",
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the effect of each combination against the sum of its parts' effects.

    Above the diagonal a combination does more than its parts added up, below it less. Filled
    points are not additive.

    Parameters
    ----------
    adata
        Cells that :func:`cellfuse.tl.combinations` was run on, or its table.
    names
        Combinations to name; None: the twelve with the smallest p-values among the significant.
    key
        Key of ``.uns`` that the table is in.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        Nothing was compared, or a combination of `names` was not.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> columns = {"observed": [2.0], "expected": [3.0], "significant": [True], "pvalue": [0.001]}
    >>> cf.pl.combinations(pd.DataFrame(columns, index=["A+B"])).get_ylabel()
    'Observed effect of the combination'
    """
    run = "cellfuse.tl.combinations(adata, by=..., control=...)"
    table = table_of(adata, key, ("observed", "expected", "significant", "pvalue"), run=run)
    tested = table[table["pvalue"].notna()]
    x, y = tested["expected"].to_numpy(float), tested["observed"].to_numpy(float)
    significant = tested["significant"].to_numpy(bool)
    alpha = float(table.attrs["params"].get("alpha", 0.05))
    ax = one_axes(ax, (5.0, 4.6), figsize)
    end = 1.05 * max(float(np.max([x, y], initial=0.0)), 1e-9)
    ax.plot([0, end], [0, end], color=GREY, linewidth=1, linestyle="--", label="additive")
    for chosen, face, label in (
        (~significant, "none", f"q ≥ {alpha:g}"),
        (significant, COLOURS[0], f"q < {alpha:g}"),
    ):
        ax.scatter(
            x[chosen],
            y[chosen],
            s=22,
            facecolors=face,
            edgecolors=COLOURS[0],
            label=label,
            zorder=3,
        )
    labels = tested.index.astype(str)
    order = tested[significant].sort_values("pvalue", kind="stable").index.astype(str)
    wanted = order[:N_NAMES] if names is None else pd.Index(label_list(names, name="names"))
    for name in wanted:
        if name not in labels:
            raise missing_key(name, labels.tolist(), what="the combinations compared")
    ax.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    at = labels.get_indexer(wanted)
    name_points(ax, x[at], y[at], wanted)
    ax.set(xlabel="Effects of the parts, added up", ylabel="Observed effect of the combination")
    text = f"{int(significant.sum())} of {len(tested)} combinations are not additive"
    heading(ax, text, title, pad=24)
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="combinations", return_fig=return_fig)
