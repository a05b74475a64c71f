"""Figures of what a screen says: hits, neighbours, responders, sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import context_labels, label_list, text_of
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    COLOURS,
    GREY,
    FigSize,
    Save,
    Scored,
    figure_of,
    finish,
    heading,
    legend_above,
    one_axes,
    table_of,
)
from cellfuse.pl._marks import name_points
from cellfuse.pl._style import CONTROL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["enrich", "hits", "nearest_perturbations", "responders"]

#: Names, bars and rows that are drawn unless asked for otherwise.
N_NAMES, N_ROWS = 12, 20


@drawn
def hits(
    adata: Scored,
    *,
    key: str = "hits",
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how strong each perturbation is against how well its replicates agree.

    Filled points are hits; open ones are active, or consistent, alone; the rest is grey.

    Parameters
    ----------
    adata
        Profiles that :func:`cellfuse.tl.hits` was run on, or its table.
    key
        Key of ``.uns`` that the table is in.
    names
        Perturbations to name; None: the twelve strongest hits, an empty list none.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The hits were not called, or a perturbation of `names` is not among them.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> table = pd.DataFrame(
    ...     {
    ...         "hit": [True, False],
    ...         "effect": [3.0, 1.0],
    ...         "similarity": [0.8, 0.1],
    ...         "active": [True, False],
    ...         "consistent": [True, False],
    ...     },
    ...     index=["A", "B"],
    ... )
    >>> cf.pl.hits(table).get_title(loc="left")
    '1 of 2 perturbations are hits'
    """
    run = "cellfuse.tl.hits(adata, by=..., control=...)"
    table = table_of(adata, key, ("hit", "effect", "similarity", "active", "consistent"), run=run)
    hit, active = table["hit"].to_numpy(bool), table["active"].to_numpy(bool)
    consistent = table["consistent"].to_numpy(bool)
    x, y = table["effect"].to_numpy(float), table["similarity"].to_numpy(float)
    ax = one_axes(ax, (5.8, 4.6), figsize)
    neither = ~(hit | active | consistent)
    both = "active and consistent, not replicated"
    for chosen, face, edge, label in (
        (neither, CONTROL, "none", "neither"),
        (~hit & consistent & ~active, "none", COLOURS[2], "consistent only"),
        (~hit & active & ~consistent, "none", COLOURS[1], "active only"),
        (~hit & active & consistent, "none", COLOURS[0], both),
        (hit, COLOURS[0], COLOURS[0], "hit"),
    ):
        if chosen.any():
            ax.scatter(
                x[chosen],
                y[chosen],
                s=20,
                facecolors=face,
                edgecolors=edge,
                linewidths=1.1,
                label=label,
                zorder=2 if face == CONTROL else 3,
            )
    labels = table.index.astype(str)
    best = labels[hit][np.argsort(-x[hit], kind="stable")][:N_NAMES]
    wanted = best if names is None else pd.Index(label_list(names, name="names"))
    for name in wanted:
        if name not in labels:
            raise missing_key(name, labels.tolist(), what="the perturbations of the table")
    at = labels.get_indexer(wanted)
    at = at[np.isfinite(y[at])]
    name_points(ax, x[at], y[at], labels[at])
    ax.set(xlabel="Effect (controls' spread = 1)", ylabel="Mean cosine of replicates")
    heading(ax, f"{int(hit.sum())} of {len(table)} perturbations are hits", title, pad=24)
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="hits", return_fig=return_fig)


@drawn
def nearest_perturbations(
    profiles: Scored,
    name: str,
    *,
    k: int = 10,
    key: str = "nearest_perturbations",
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the perturbations that one is most similar to.

    Filled bars are as similar as fewer than 5% of all pairs of the map.

    Parameters
    ----------
    profiles
        Profiles that :func:`cellfuse.tl.nearest_perturbations` was run on, or its table.
    name
        Perturbation whose neighbours are drawn.
    k
        Neighbours, as far as the table has them.
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
        The neighbours were not looked for, or not those of this perturbation.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    >>> genes = ad.AnnData(x, obs=pd.DataFrame(index=["A", "B", "C", "D"]))
    >>> table = cf.tl.nearest_perturbations(genes, k=2)
    >>> [tick.get_text() for tick in cf.pl.nearest_perturbations(genes, "A").get_yticklabels()]
    ['C', 'B']
    """
    run = "cellfuse.tl.nearest_perturbations(profiles)"
    table = table_of(profiles, key, ("perturbation", "neighbour", "similarity", "pvalue"), run=run)
    mine = table[table["perturbation"] == text_of(name)].head(k)[::-1]
    if mine.empty:
        asked = table["perturbation"].astype(str).unique().tolist()
        raise missing_key(name, asked, what="the perturbations that were asked for")
    ax = one_axes(ax, (4.4, 1.1 + 0.26 * len(mine)), figsize)
    rare = mine["pvalue"].to_numpy(float) < 0.05
    ax.barh(
        np.arange(len(mine)),
        mine["similarity"],
        color=[COLOURS[0] if r else "white" for r in rare],
        edgecolor=COLOURS[0],
        height=0.7,
    )
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(mine)), mine["neighbour"].astype(str).tolist())
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel="Cosine")
    heading(ax, f"Most similar to {name}", title)
    return finish(ax, show=show, save=save, name="nearest_perturbations", return_fig=return_fig)


@drawn
def responders(
    adata: AnnData,
    *,
    names: Sequence[str] | None = None,
    key: str = "responders",
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the cells' response scores, one row per perturbation.

    0 is the mean of the controls, 1 their standard deviation; the band is the middle 95% of
    controls. Blue points are responders.

    Parameters
    ----------
    adata
        Cells that :func:`cellfuse.tl.responders` was run on.
    names
        Perturbations to draw, in this order; None: the twenty with the most responders by share.
    key
        What `key_added` was.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The cells have no scores, or a perturbation of `names` was not fitted.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"gene": np.repeat(["NTC", "A"], 100)}).rename(str)
    >>> cells = ad.AnnData(rng.normal(size=(200, 3)), obs=obs)
    >>> cells.X[150:] += 3
    >>> table = cf.tl.responders(cells, by="gene", control="NTC")
    >>> cf.pl.responders(cells).get_xlabel()
    'Response score (controls: mean 0, sd 1)'
    """
    run = "cellfuse.tl.responders(adata, by=..., control=...)"
    table = table_of(adata, key, ("share", "significant"), run=run)
    fitted = table[table["share"].notna()]
    order = fitted.sort_values(["share", "score"], ascending=False, kind="stable").index
    chosen = order[:N_ROWS].tolist() if names is None else label_list(names, name="names")
    for name in chosen:
        if name not in fitted.index:
            raise missing_key(name, fitted.index.tolist(), what="the perturbations fitted")
    by = table.attrs["params"]["by"]
    labels, score = context_labels(adata, by), adata.obs[f"{key}_score"].to_numpy(float)
    responds = adata.obs[key].to_numpy(bool)
    ax = one_axes(ax, (5.6, 1.3 + 0.3 * len(chosen)), figsize)
    ax.axvspan(-1.96, 1.96, color=GREY, alpha=0.2, linewidth=0, label="95% of controls")
    rng = np.random.default_rng(0)
    for row, name in enumerate(chosen):
        mine = (labels == name).to_numpy()
        y = row + rng.uniform(-0.3, 0.3, int(mine.sum()))
        for part, colour, label in (
            (~responds[mine], CONTROL, "other cells"),
            (responds[mine], COLOURS[0], "responders"),
        ):
            ax.scatter(
                score[mine][part],
                y[part],
                s=5,
                color=colour,
                linewidths=0,
                label="_" if row else label,
                rasterized=True,
            )
    shares = [f"{name} ({float(fitted['share'].loc[name]):.0%})" for name in chosen]
    ax.set_yticks(range(len(chosen)), shares)
    ax.set(xlabel="Response score (controls: mean 0, sd 1)", ylim=(len(chosen) - 0.5, -0.5))
    n_found = int(fitted["significant"].sum())
    heading(ax, f"{n_found} of {len(fitted)} perturbations have responders", title, pad=24)
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="responders", return_fig=return_fig)


@drawn
def enrich(
    adata: Scored,
    *,
    n_terms: int = N_ROWS,
    key: str = "enrich",
    cmap: str | None = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the sets that the hits are in, by q-value; the size of a point is the hits in the set.

    Parameters
    ----------
    adata
        What :func:`cellfuse.tl.enrich` returned, or the profiles that it was run on.
    n_terms
        Sets that are drawn, the first by p-value.
    key
        Key of ``.uns`` that the table is in.
    cmap
        Colour map of the share of the set that are hits; None is ``rcParams["image.cmap"]``.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        Nothing was tested.

    Examples
    --------
    >>> import cellfuse as cf
    >>> genes = [f"G{i}" for i in range(100)]
    >>> sets = {"ribosome": genes[:10], "other": genes[40:60]}
    >>> table = cf.tl.enrich(genes[:8] + genes[90:92], sets, background=genes)
    >>> [tick.get_text() for tick in cf.pl.enrich(table).get_yticklabels()]
    ['other', 'ribosome']
    """
    run = "cellfuse.tl.enrich(hits, sets)"
    table = table_of(adata, key, ("term", "n_hits", "n_genes", "qvalue"), run=run)
    alpha = float(table.attrs["params"].get("alpha", 0.05))
    shown = table.head(n_terms)[::-1]
    ax = one_axes(ax, (6.2, max(2.6, 1.3 + 0.26 * len(shown))), figsize)
    share = shown["n_hits"].to_numpy(float) / shown["n_genes"].to_numpy(float)
    points = ax.scatter(
        -np.log10(np.maximum(shown["qvalue"].to_numpy(float), 1e-300)),
        np.arange(len(shown)),
        s=20 + 140 * shown["n_hits"].to_numpy(float) / max(int(shown["n_hits"].max()), 1),
        c=share,
        cmap=cmap,
        vmin=0.0,
        edgecolors="black",
        linewidths=0.5,
        zorder=3,
    )
    ax.axvline(-np.log10(alpha), color=GREY, linewidth=1, linestyle="--")
    ax.set_yticks(range(len(shown)), shown["term"].astype(str).tolist())
    ax.set(xlabel="−log10 q", ylim=(-0.7, len(shown) - 0.3))
    ax.set_xlim(left=-0.1)
    figure = figure_of(ax)
    if figure is not None:
        figure.colorbar(points, ax=ax, label="Share of the set that are hits", shrink=0.8)
    n_found = int((table["qvalue"] < alpha).sum())
    heading(ax, f"{n_found} of {len(table)} sets (q < {alpha:g})", title)
    return finish(ax, show=show, save=save, name="enrich", return_fig=return_fig)
