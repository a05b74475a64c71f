"""A gallery of cells by any group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import is_mudata, label_text, obs_column
from cellfuse._errors import listing, missing_key
from cellfuse.pl._crops import Look, crops_of, draw_row, look, picked
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import FigSize, Save, finish, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["cells"]

#: Groups that are drawn unless they are named.
N_GROUPS = 8


@drawn
def cells(
    adata: AnnData,
    by: str | pd.Series,
    *,
    groups: Sequence[str] | None = None,
    image_rep: str = "crops",
    channels: str | Sequence[str] | None = None,
    composite: bool | None = None,
    n_cells: int = 8,
    rank_by: str | None = None,
    colours: Mapping[str, str] | None = None,
    pixel_size: float | None = None,
    seed: int = 0,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw crops of the cells of each group: a guide, a compound, a cluster, anything.

    All crops of a figure share one scale of intensities per channel (percentiles 1 to 99.7 of
    what is drawn), so that what looks brighter is brighter.

    Parameters
    ----------
    adata
        Cells with images, one modality of a MuData.
    by
        obs column of the groups; or a Series of labels indexed by obs_names.
    groups
        Labels to draw, in this order; None: the eight with the most cells.
    image_rep
        obsm key of the crops, ``(cells, channels, height, width)``.
    channels
        Channels to draw, by their names in ``uns["channels"]``; None: all.
    composite
        Lay the channels over one another in colour; False draws each by itself in grey, a row per
        group and channel. None: in colour up to four channels.
    n_cells
        Cells of each group.
    rank_by
        obs column by which the cells of a group are chosen, the highest first; None: at random.
    colours
        Colour of a channel, such as ``{"actin": "red"}``; by default DNA is blue.
    pixel_size
        Micrometres per pixel, for the scale bar; None labels it in pixels.
    seed
        Of the choice.
    ax
        Axes to draw into, one per row of crops; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes, one per row of crops.

    Raises
    ------
    KeyError
        No such column, label, channel or images.
    ValueError
        A label without cells, too many channels for one picture.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=3, seed=0)
    >>> axes = cf.pl.cells(mdata["image"], "gene", n_cells=4, pixel_size=0.5)
    >>> len(axes)  # four targets and the controls
    5
    """
    if is_mudata(adata):
        raise TypeError(
            "expected the modality with the images, found a MuData; give it that, such as "
            "`cellfuse.pl.cells(mdata['image'], ...)`."
        )
    if n_cells < 1:
        raise ValueError(f"n_cells={n_cells}: expected at least 1.")
    images, places, names = crops_of(adata, image_rep, channels)
    labels = _labels(adata, by)
    wanted = _groups(labels, groups, by)
    rng = np.random.default_rng(seed)
    score = None if rank_by is None else obs_column(adata, rank_by).to_numpy(np.float64)
    chosen = {}
    for group in wanted:
        rows = np.flatnonzero(labels == group)
        if score is not None:
            rows = rows[np.argsort(-score[rows], kind="stable")][:n_cells]
        elif len(rows) > n_cells:
            rows = np.sort(rng.choice(rows, n_cells, replace=False))
        chosen[group] = picked(images, rows)
    if composite is None:
        composite = len(places) <= 4
    how = look(
        list(chosen.values()),
        places,
        names,
        composite=composite,
        colours=colours,
        pixel_size=pixel_size,
    )
    rows_of = [(g, None) for g in wanted] if composite else [(g, c) for g in wanted for c in names]
    side = 0.75
    height, width = images.shape[2:]
    size = (side * n_cells * width / max(height, width) + 1.1, side * height / max(height, width))
    axes = panels(ax, len(rows_of), (size[0], size[1] + 0.06), figsize, n_columns=1)
    for k, (panel, (group, channel)) in enumerate(zip(axes, rows_of, strict=True)):
        one = how if channel is None else _single(how, channel)
        draw_row(panel, chosen[group], one, n_columns=n_cells, bar=k == len(rows_of) - 1)
        text = group if channel is None else f"{group}\n{channel}"
        panel.set_ylabel(text, rotation=0, ha="right", va="center", fontsize="small")
    if composite and len(names) > 1:
        _name_colours(axes[0], names, how.colours)
    return finish(axes, show=show, save=save, name="cells", title=title, return_fig=return_fig)


def _labels(adata: AnnData, by: str | pd.Series) -> np.ndarray:
    if isinstance(by, pd.Series):
        missing = adata.obs_names.difference(by.index)
        if len(missing):
            raise ValueError(
                f"the labels in `by` lack {len(missing)} of the cells, such as "
                f"{listing(missing, 2)}; its index must be the obs_names."
            )
        column = by.loc[adata.obs_names]
    else:
        column = obs_column(adata, by, missing=True)
    return label_text(pd.Index(column.astype(object))).to_numpy(object)


def _groups(labels: np.ndarray, groups: Sequence[str] | None, by: str | pd.Series) -> list[str]:
    counts = pd.Series(labels[~pd.isna(labels)]).value_counts()
    counts = counts[~counts.index.isin(["nan", "None", "<NA>"])]
    if groups is None:
        return sorted(counts.index[:N_GROUPS])
    wanted = [str(group) for group in ([groups] if isinstance(groups, str) else groups)]
    for group in wanted:
        if group not in counts.index:
            what = f"obs[{by!r}]" if isinstance(by, str) else "`by`"
            raise missing_key(group, list(counts.index), what=what)
    return wanted


def _single(how: Look, channel: str) -> Look:
    k = how.names.index(channel)
    return replace(
        how, channels=[how.channels[k]], names=[channel], colours=[], limits=how.limits[k : k + 1]
    )


def _name_colours(ax: Axes, names: Sequence[str], colours: Sequence[str]) -> None:
    """Write the channels in their colours above the first row."""
    x = 0.0
    for name, colour in zip(names, colours, strict=True):
        text = ax.annotate(
            name,
            (x, 1.02),
            xycoords="axes fraction",
            color="white",
            fontsize="x-small",
            va="bottom",
            bbox={"facecolor": _dark(colour), "edgecolor": "none", "pad": 1.5},
        )
        width = text.get_window_extent().width
        x += (width + 8) / ax.get_window_extent().width


def _dark(colour: str) -> tuple[float, ...]:
    """The colour of a channel, dark enough for white letters."""
    from matplotlib.colors import to_rgb

    return tuple(0.6 * part for part in to_rgb(colour))
