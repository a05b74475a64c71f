"""How many cells each context has in each modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellfuse._access import Data, context_labels, modalities
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    GREY,
    FigSize,
    Save,
    finish,
    heading,
    legend_above,
    line_style,
    one_axes,
)
from cellfuse.pl._style import CONTROL, Palette, colours_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["contexts", "split"]


@drawn
def contexts(
    data: Data,
    context_keys: str | Sequence[str],
    *,
    set_size: int = 16,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the cells per context and modality as cumulative shares (PETRI, Fig. S1).

    What lies left of the line are contexts with fewer cells than a document's set: they are drawn
    with repetition, so that one cell may be in a document twice. A context that a modality lacks
    counts there with 0 cells.

    Parameters
    ----------
    data
        A MuData, or one modality.
    context_keys
        obs column or columns whose joint value is the context.
    set_size
        Cells per document and modality; 16 is the paper's (A.1).
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        A column is absent.
    ValueError
        Cells without a context, or a `set_size` below 1.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(50, n_targets=8, cells_per_guide=20, image_size=16)
    >>> cf.pl.contexts(mdata, "guide").get_xlabel()
    'Cells per context (guide)'
    """
    if set_size < 1:
        raise ValueError(f"set_size={set_size}: expected at least 1.")
    keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
    counts = pd.DataFrame(
        {
            name: context_labels(mod, keys, modality=name).value_counts()
            for name, mod in modalities(data).items()
        }
    ).fillna(0)
    n = len(counts)

    ax = one_axes(ax, (4.8, 3.8), figsize)
    below = counts.lt(set_size)
    for k, name in enumerate(counts):
        label = f"{below[name].mean():.0%} below {set_size}"
        values, times = np.unique(counts[name], return_counts=True)
        ax.step(
            np.concatenate([values[:1], values]),
            np.concatenate([[0.0], np.cumsum(times) / n]),
            where="post",
            label=f"{name}: {label}" if name else label,
            linewidth=1.8,
            **line_style(k),
        )
    ax.axvline(set_size, color=GREY, linewidth=1, linestyle="--", label=f"set size {set_size}")
    _cell_scale(ax, counts.to_numpy(), set_size)
    ax.set(ylim=(0, 1.02), ylabel="Cumulative share of contexts")
    ax.set_xlabel(f"Cells per context ({', '.join(keys)})")
    either = below.any(axis=1).mean()
    where = " in a modality" if counts.shape[1] > 1 else ""
    heading(ax, f"{either:.0%} of {n:,} contexts have < {set_size} cells{where}", title, pad=24)
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="contexts", return_fig=return_fig)


def _cell_scale(ax: Axes, counts: np.ndarray, set_size: int) -> None:
    """Make the scale of cells logarithmic with plain numbers, linear to 1 if a context has none."""
    from matplotlib.ticker import NullFormatter

    if counts.min() < 1:
        ax.set_xscale("symlog", linthresh=1.0, linscale=0.3)
        ax.set_xlim(left=0.0)
    else:
        ax.set_xscale("log")
    lowest, highest = min(counts.min(), set_size), max(counts.max(), set_size)
    ticks = [t * 10**k for k in range(9) for t in (1, 2, 5) if t * 10**k <= 1.1 * highest]
    ticks = [t for t in ticks if t >= 0.8 * lowest] or [set_size]
    if len(ticks) > 9:
        ticks = [t for t in ticks if str(t).startswith("1")]
    ax.set_xticks([0, *ticks] if counts.min() < 1 else ticks)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_minor_formatter(NullFormatter())


@drawn
def split(
    data: Data,
    by: str | Sequence[str],
    *,
    key: str = "split",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how the groups of a column fall on the parts of a split.

    Each bar is one modality; its numbers are the groups (interventions, wells) and the cells of
    each part. A group that stands in two parts is counted and named in the title: it would be
    known from training.

    Parameters
    ----------
    data
        What :func:`cellfuse.tl.split` was run on: a MuData, or one modality.
    by
        obs column or columns whose groups are counted.
    key
        obs column with the split.
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
        A column is absent.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"compound": list("aabbccddee")}, index=[f"w{i}" for i in range(10)])
    >>> wells = ad.AnnData(obs=obs)
    >>> made = cf.tl.split(wells, sizes={"train": 0.6, "test": 0.4})
    >>> cf.pl.split(wells, "compound").get_title(loc="left")
    'No compound is in two parts'
    """
    keys = [by] if isinstance(by, str) else list(by)
    counted, crossing = {}, set()
    for name, mod in modalities(data).items():
        groups = context_labels(mod, keys, modality=name)
        parts = context_labels(mod, key, modality=name)
        table = pd.crosstab(groups, parts)
        inside = table.drop(columns="control", errors="ignore")
        crossing |= set(table.index[(inside > 0).sum(axis=1) > 1])
        counted[name or "cells"] = pd.DataFrame({"groups": (table > 0).sum(), "cells": table.sum()})
    parts_found = list(dict.fromkeys(part for one in counted.values() for part in one.index))
    order = [p for p in ("train", "val", "test") if p in parts_found]
    order += [p for p in parts_found if p not in order]
    colours = colours_of([p for p in order if p != "control"], palette) | {"control": CONTROL}
    ax = one_axes(ax, (6.2, 1.3 + 0.6 * len(counted)), figsize)
    for k, one in enumerate(counted.values()):
        left = 0.0
        for part in order:
            if part not in one.index:
                continue
            n_groups, n_cells = (int(one[name].loc[part]) for name in ("groups", "cells"))
            width = n_cells / int(one["cells"].sum())
            label = part if k == 0 else None
            ax.barh(k, width, left=left, color=colours[part], label=label, alpha=0.85)
            text = f"{n_groups:,}\n{n_cells:,} cells"
            if width > 0.08:
                ax.text(left + width / 2, k, text, ha="center", va="center", fontsize="x-small")
            left += width
    ax.set_yticks(range(len(counted)), list(counted))
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel=f"Share of cells; number of {', '.join(keys)} and cells in each")
    what = ", ".join(keys)
    text = f"No {what} is in two parts"
    if crossing:
        text = f"{len(crossing)} of {what} in two parts, such as {sorted(map(str, crossing))[0]}"
    heading(ax, text, title, pad=24)
    legend_above(ax, 4)
    return finish(ax, show=show, save=save, name="split", return_fig=return_fig)
