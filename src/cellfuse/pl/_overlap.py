"""Figures of what maps have in common, and of what images explain (PETRI, Fig. 3b, S2, S3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import Data
from cellfuse._errors import listing
from cellfuse.pl._concepts import kept_of
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import GREY, FigSize, Save, finish, heading, one_axes, panels
from cellfuse.pl._style import Palette, colours_of, curve_styles
from cellfuse.pl._venn import draw_circles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["edge_overlap", "predictability", "similarity_density"]


@drawn
def edge_overlap(
    first: AnnData,
    *,
    kind: Literal["bars", "circles"] = "bars",
    key: str = "edge_overlap",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how many interacting pairs each combination of maps finds (PETRI, Fig. S3).

    Bars can be read and compare more than two maps; the black line is what independent maps would
    share. Circles are the paper's: their areas, and that of their overlap, are the numbers. ROC
    curves are drawn by :func:`roc`.

    Parameters
    ----------
    first
        The first of the maps on which :func:`cellfuse.tl.edge_overlap` was run.
    kind
        ``"bars"``; or ``"circles"``, of two maps (Venn diagram, Fig. S3).
    key
        Key of ``.uns``.
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
        The tool was not run.
    ValueError
        Circles of more than two maps, or of maps that find nothing.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> table = pd.DataFrame({"PETRI": [True, False, True], "permuted": [False, True, True]})
    >>> table = table.assign(n_pairs=[3, 2, 9], n_expected=[6.0, 5.0, 4.0])
    >>> kept = {"table": table, "params": {"fpr": 0.05, "n_pairs": 20}}
    >>> ax = cf.pl.edge_overlap(ad.AnnData(shape=(1, 1), uns={"edge_overlap": kept}))
    >>> [int(bar.get_width()) for bar in ax.patches]
    [9, 3, 2]
    """
    run = "cellfuse.tl.edge_overlap(maps, edges)"
    kept = kept_of(first, key, ("table", "params"), run=run)
    table: pd.DataFrame = kept["table"]
    names = [c for c in table.columns if c not in ("n_pairs", "n_expected", "ratio")]
    colours = colours_of(names, palette)
    if kind == "circles":
        ax = one_axes(ax, (4.2, 3.2), figsize)
        return finish(
            _circles(ax, kept, curve_styles(names, palette), title),
            show=show, save=save, name="edge_overlap", return_fig=return_fig,
        )  # fmt: skip
    if kind != "bars":
        raise ValueError(f"kind={kind!r}: expected 'bars' or 'circles'.")
    order = np.lexsort((-table["n_pairs"].to_numpy(), -table[names].sum(axis=1).to_numpy()))
    rows = table.iloc[order]
    ax = one_axes(ax, (5.0, 1.2 + 0.42 * len(rows)), figsize)
    labels = []
    for k, (_, row) in enumerate(rows.iterrows()):
        found = [name for name in names if bool(row[name])]
        y = len(rows) - 1 - k
        alone = len(found) == 1
        ax.barh(y, int(row["n_pairs"]), height=0.7, color=colours[found[0]] if alone else GREY)
        ax.plot([row["n_expected"]] * 2, [y - 0.4, y + 0.4], color="black", linewidth=1.5)
        ax.text(int(row["n_pairs"]), y, f" {int(row['n_pairs']):,}", va="center", fontsize=8)
        labels.append(f"{found[0]} alone" if alone else " and ".join(found))
    ax.set_yticks(np.arange(len(rows))[::-1], labels)
    params = kept["params"]
    ax.set_xlabel(
        f"Interacting pairs found at FPR {float(params['fpr']):g}, of {int(params['n_pairs']):,}"
    )
    heading(ax, "line: were the maps independent", title)
    return finish(ax, show=show, save=save, name="edge_overlap", return_fig=return_fig)


def _circles(
    ax: Axes,
    kept: Mapping[str, Any],
    styles: Mapping[str, Mapping[str, Any]],
    title: str | None,
) -> Axes:
    names = list(styles)
    if len(names) != 2:
        raise ValueError(
            f"circles can show two maps to scale; found {listing(names)}. Draw kind='bars'."
        )
    table, params = kept["table"], kept["params"]
    found = {
        tuple(row[:2].astype(bool)): int(row[2]) for row in table[[*names, "n_pairs"]].to_numpy()
    }
    alone, other, both = (
        found.get(which, 0) for which in ((True, False), (False, True), (True, True))
    )
    if not alone + both or not other + both:
        raise ValueError("a map found no interacting pair: a circle of no area. Draw kind='bars'.")
    draw_circles(ax, (alone, other, both), styles)
    expected = table.loc[table[names].all(axis=1), "n_expected"]
    text = (
        f"Interacting pairs found at FPR {float(params['fpr']):g}, of {int(params['n_pairs']):,}\n"
        f"both: {both:,}, {float(expected.sum()):,.0f} were the maps independent"
    )
    heading(ax, text, title)
    return ax


@drawn
def similarity_density(
    fused: AnnData,
    *,
    key: str = "similarity_density",
    ax: Axes | Sequence[Axes] | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the similarity of a fused map over those of two single ones (PETRI, Fig. 3b).

    At the left how many pairs of genes there are, at the right how similar they are in the fused
    map.

    Parameters
    ----------
    fused
        Map on which :func:`cellfuse.tl.similarity_density` was run.
    key
        Key of ``.uns``.
    ax
        Two axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the two axes.

    Raises
    ------
    KeyError
        The tool was not run.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.normal(size=(20, 5))) for _ in range(2))
    >>> both = ad.AnnData(np.hstack([a.X, b.X]))
    >>> _ = cf.tl.similarity_density(both, a, b, n_bins=5, names=("both", "image", "rna"))
    >>> cf.pl.similarity_density(both)[0].get_xlabel()
    'Cosine, image'
    """
    from matplotlib.colors import LogNorm

    run = "cellfuse.tl.similarity_density(fused, first, second)"
    kept = kept_of(fused, key, ("table", "params"), run=run)
    table, params = kept["table"], kept["params"]
    names = [str(name) for name in params["names"]]
    axes = panels(ax, 2, (4.2, 3.6), figsize)
    x, y = np.unique(table["first"]), np.unique(table["second"])
    row, column = np.searchsorted(y, table["second"]), np.searchsorted(x, table["first"])
    for panel, value, label in (
        (axes[0], "n_pairs", "Pairs of genes"),
        (axes[1], "similarity", f"Mean cosine, {names[0]}"),
    ):
        grid = np.full((len(y), len(x)), np.nan)
        grid[row, column] = table[value]
        if value == "n_pairs":
            how = {"norm": LogNorm(vmin=1, vmax=max(2.0, np.nanmax(grid))), "cmap": "Greys"}
        else:
            span = float(np.nanmax(np.abs(grid)))
            how = {"vmin": -span, "vmax": span, "cmap": "RdBu_r"}
        mesh = panel.pcolormesh(x, y, grid, shading="nearest", rasterized=True, **how)
        panel.figure.colorbar(mesh, ax=panel, label=label)
        panel.set(xlabel=f"Cosine, {names[1]}", ylabel=f"Cosine, {names[2]}")
    heading(
        axes[1],
        f"correlation with {names[1]} {float(params['correlation_first']):.2f}, with {names[2]} "
        f"{float(params['correlation_second']):.2f}",
        None,
    )
    return finish(
        axes, show=show, save=save, name="similarity_density", title=title, return_fig=return_fig
    )


@drawn
def predictability(
    data: Data | Mapping[str, Data],
    *,
    key: str = "predictability",
    column: str = "r2",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the share of genes that the images explain to no more than an r2 (PETRI, Fig. S2).

    Parameters
    ----------
    data
        Data on which :func:`cellfuse.tl.predictability` was run; or several by name.
    key
        Key of ``.uns``.
    column
        ``"r2"`` (squared correlation) or ``"r2_determination"``.
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
        The tool was not run.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> table = pd.DataFrame({"r2": [0.1, 0.3], "r2_chance": [0.01, 0.0]}, index=["G1", "G2"])
    >>> cells = ad.AnnData(shape=(1, 1), uns={"predictability": {"table": table}})
    >>> cf.pl.predictability(cells).get_ylabel()
    'Share of genes'
    """
    named: dict[str, Data] = (
        {str(n): one for n, one in data.items()}  # type: ignore[misc]
        if isinstance(data, Mapping) and not hasattr(data, "uns")
        else {"": data}  # type: ignore[dict-item]
    )
    run = "cellfuse.tl.predictability(mdata)"
    colours = colours_of(named, palette)
    ax = one_axes(ax, (4.4, 3.6), figsize)
    for name, one in named.items():
        table = kept_of(one, key, ("table",), run=run)["table"]
        values = table[column].dropna().to_numpy(float)
        label = f"mean {values.mean():.3f}, {np.mean(values < 0.2):.0%} of genes below .2"
        ax.ecdf(values, color=colours[name], label=f"{name}: {label}" if name else label)
    chance = table["r2_chance"].dropna().to_numpy(float)
    ax.ecdf(chance, color=GREY, linestyle=":", label="other rows (chance)")
    ax.set(xlabel="r2 of a gene", ylabel="Share of genes", xlim=(min(0.0, values.min()), None))
    ax.legend(loc="lower right")
    if title is not None:
        heading(ax, "", title)
    return finish(ax, show=show, save=save, name="predictability", return_fig=return_fig)
