"""Cells or profiles of both modalities in one map, coloured by what may have ordered them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellfuse._access import Data, label_text, modalities, obs_column
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import FigSize, Save, finish, legend_beside, panels
from cellfuse.pl._style import COLOURS, CONTROL, Palette, label_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["scatter_labels", "umap"]

#: Labels of one panel that have a colour of their own.
N_LABELS = 8
#: Asked for as a colour, it is the name of the modality.
MODALITY = "modality"
MISSING = ("nan", "None", "<NA>", "")


@drawn
def umap(
    data: Data,
    *,
    color: str | Sequence[str] | None = None,
    basis: str = "X_umap",
    control: str | Sequence[str] = (),
    n_labels: int = N_LABELS,
    max_cells: int = 20_000,
    palette: Palette = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw a map of the cells of all modalities, one panel per column.

    Beside the labels of interest, look at the modality and at the batch: islands that are one
    plate, or one modality, say that the map shows how cells were measured. In each panel the
    `n_labels` most frequent labels have a colour, the others are grey: more hues cannot be told
    apart. A UMAP shows neighbourhoods, not distances.

    Parameters
    ----------
    data
        A MuData whose modalities have the same map in ``obsm[basis]``, or one AnnData.
        ``scanpy.pp.neighbors`` and ``scanpy.tl.umap`` make it, of a MuData on both modalities
        together (``cf.io.concat``).
    color
        obs columns, a panel each; ``"modality"`` is the modality itself. A column that a modality
        lacks leaves it grey. None: the modality, or of one modality a single panel without colour.
    basis
        obsm key of the coordinates, of which the first two are drawn.
    control
        Labels that are grey in any case.
    n_labels
        Labels with a colour of their own, the most frequent; at most 12.
    max_cells
        Cells of each modality that are drawn, evenly over the rows; the title says of how many.
    palette
        Colours by label, a list of colours, or a matplotlib colour map, for all labels.
    ax
        Axes to draw into, one per column; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes, one per column.

    Raises
    ------
    KeyError
        The map is missing, or no modality has the column.
    ValueError
        Another number of axes than panels, or `n_labels` out of range.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"plate": ["p1", "p2", "p1"]}, index=list("abc"))
    >>> cells = ad.AnnData(obs=obs, obsm={"X_umap": np.eye(3)[:, :2]})
    >>> [panel.get_title(loc="left") for panel in cf.pl.umap(cells, color="plate")]
    ['plate']
    """
    if not 1 <= n_labels <= len(COLOURS):
        raise ValueError(f"n_labels={n_labels}: expected 1 to {len(COLOURS)} colours.")
    mods = modalities(data)
    several = len(mods) > 1 or "" not in mods
    keys = ([MODALITY] if several else []) if color is None else color
    keys = [keys] if isinstance(keys, str) else list(keys)
    rows = {name: _drawn_rows(mod.n_obs, max_cells) for name, mod in mods.items()}
    places = []
    for name, mod in mods.items():
        if basis not in mod.obsm:
            where = f"obsm of modality {name!r}" if name else "obsm"
            raise missing_key(basis, list(mod.obsm), what=where, fix="Run `scanpy.tl.umap` first.")
        places.append(np.asarray(mod.obsm[basis])[rows[name], :2])
    xy = np.concatenate(places).astype(float)
    order = np.random.default_rng(0).permutation(len(xy))  # no modality lies on top of another
    axes = panels(ax, max(len(keys), 1), (4.4, 3.8), figsize)
    size = float(np.clip(4000 / len(xy), 2, 30))
    grey = {control} if isinstance(control, str) else set(map(str, control))
    for panel, key in zip(axes, keys or [""], strict=True):
        labels = _labels(mods, rows, key) if key else np.full(len(xy), "", dtype=object)
        scatter_labels(
            panel,
            xy[order],
            labels[order],
            size=size,
            control=grey,
            palette=palette,
            n_labels=n_labels,
            legend=bool(key),
        )
        panel.set(xticks=[], yticks=[], xlabel=f"{_axis_name(basis)} 1")
        panel.set_ylabel(f"{_axis_name(basis)} 2")
        panel.set_title(key, loc="left", fontsize="medium")
    n_cells = sum(mod.n_obs for mod in mods.values())
    if title is None and len(xy) < n_cells:
        title = f"{len(xy):,} of {n_cells:,} cells"
    return finish(axes, show=show, save=save, name="umap", title=title, return_fig=return_fig)


def _axis_name(basis: str) -> str:
    name = basis.removeprefix("X_")
    return "UMAP" if "umap" in name.lower() else name


def _drawn_rows(n: int, most: int) -> NDArray[np.intp]:
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(np.intp)


def _labels(mods: Mapping, rows: Mapping[str, NDArray], key: str) -> NDArray:
    """Label of every drawn cell as text; ``""`` where the modality has no such column."""
    if key == MODALITY and not any(MODALITY in mod.obs for mod in mods.values()):
        return np.concatenate([np.full(len(rows[m]), m, dtype=object) for m in mods])
    if not any(key in mod.obs for mod in mods.values()):
        found = list(dict.fromkeys(c for mod in mods.values() for c in mod.obs))
        raise missing_key(key, found, what="obs of the modalities")
    parts = []
    for name, mod in mods.items():
        if key not in mod.obs:
            parts.append(np.full(len(rows[name]), "", dtype=object))
            continue
        column = obs_column(mod, key, modality=name, missing=True)
        parts.append(label_text(column).fillna("").to_numpy(object)[rows[name]])
    return np.concatenate(parts)


def scatter_labels(
    ax: Axes,
    xy: NDArray,
    labels: NDArray,
    *,
    size: float,
    control: set[str] | frozenset[str] = frozenset(),
    palette: Palette = None,
    n_labels: int = len(COLOURS),
    legend: bool = False,
) -> None:
    """Draw points in the colours of their labels; rare labels, controls and none are grey."""
    text = np.asarray(labels, dtype=str)
    colours = label_colours(text, control={*control, *MISSING}, palette=palette, n_colours=n_labels)
    grey = ~np.isin(text, list(colours))
    common: dict[str, Any] = {"linewidths": 0, "rasterized": len(xy) > 2000, "zorder": 2}
    ax.scatter(xy[grey, 0], xy[grey, 1], s=size * 0.7, color=CONTROL, **common)
    at = np.flatnonzero(~grey)
    ax.scatter(xy[at, 0], xy[at, 1], s=size, c=[colours[t] for t in text[at]], **common)
    for label, colour in colours.items():
        ax.scatter([], [], s=28, color=colour, label=label)
    others = sorted(set(text[grey]) - set(control) - set(MISSING))
    if others:
        ax.scatter([], [], s=28, color=CONTROL, label=f"{len(others)} others")
    shown_control = sorted(set(control) & set(text))
    if shown_control:
        ax.scatter([], [], s=28, color=CONTROL, label=", ".join(shown_control))
    if legend:
        legend_beside(ax)
