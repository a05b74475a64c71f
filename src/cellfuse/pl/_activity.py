"""Figures of activity: how strong each perturbation is, and whether that is chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

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
    table_of,
)
from cellfuse.pl._marks import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["mean_average_precision", "perturbation_magnitude"]

#: Points that are named.
N_NAMES = 8
MEANS = {"map": "mAP"}


@drawn
def mean_average_precision(
    adata: Scored,
    *,
    key: str = "mean_average_precision",
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw each group's mean average precision against its q-value.

    Filled points are significant; the dashed line is the level. The grey ticks at the foot are
    what chance gives groups of these sizes.

    Parameters
    ----------
    adata
        Profiles that :func:`cellfuse.tl.mean_average_precision` was run on, or its table.
    key
        Key of ``.uns`` that the table is in.
    names
        Groups to name; None: the eight most significant, an empty list none.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The profiles were not scored, or a group of `names` was not.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(10, 16)), 4, axis=0)
    >>> obs = pd.DataFrame({"compound": np.repeat([f"c{i}" for i in range(10)], 4)})
    >>> wells = ad.AnnData(effect + rng.normal(size=(40, 16)) / 4, obs=obs.rename(str))
    >>> table = cf.tl.mean_average_precision(wells, by="compound")
    >>> cf.pl.mean_average_precision(wells).get_title(loc="left")
    '100% of 10 groups are significant (q < 0.05), mean mAP 1.00'
    """
    run = "cellfuse.tl.mean_average_precision(adata, by=...)"
    table = table_of(adata, key, ("map", "qvalue", "significant"), run=run)
    ax = one_axes(ax, (5.6, 4.4), figsize)
    tested = _significance(ax, table, "map", names, noun="groups", title=title)
    if "chance" in table:
        ax.plot(
            tested["chance"],
            np.zeros(len(tested)),
            "|",
            color=GREY,
            markersize=9,
            label="chance",
            clip_on=False,
        )
    ax.set(xlabel="Mean average precision", xlim=(-0.02, 1.04))
    legend_above(ax, 4)
    return finish(ax, show=show, save=save, name="mean_average_precision", return_fig=return_fig)


@drawn
def perturbation_magnitude(
    adata: Scored,
    *,
    key: str = "perturbation_magnitude",
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw each perturbation's energy distance to the controls against its q-value.

    Filled points are significant; the dashed line is the level.

    Parameters
    ----------
    adata
        Cells or wells that :func:`cellfuse.tl.perturbation_magnitude` was run on, or its table.
    key
        Key of ``.uns`` that the table is in.
    names
        Perturbations to name; None: the eight most significant, an empty list none.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The rows were not tested, or a perturbation of `names` was not.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"gene": ["NTC"] * 40 + ["A"] * 20 + ["B"] * 20})
    >>> x = rng.normal(size=(80, 4)) + 2.0 * (obs["gene"] == "A").to_numpy()[:, None]
    >>> cells = ad.AnnData(x, obs=obs.rename(str))
    >>> table = cf.tl.perturbation_magnitude(cells, by="gene", control="NTC")
    >>> cf.pl.perturbation_magnitude(cells).get_xlabel()
    'Energy distance to controls'
    """
    run = "cellfuse.tl.perturbation_magnitude(adata, by=..., control=...)"
    table = table_of(adata, key, ("energy", "qvalue", "significant"), run=run)
    ax = one_axes(ax, (5.6, 4.4), figsize)
    _significance(ax, table, "energy", names, noun="perturbations", title=title)
    ax.set(xlabel="Energy distance to controls")
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="perturbation_magnitude", return_fig=return_fig)


def _significance(
    ax: Axes,
    table: pd.DataFrame,
    value: str,
    names: Sequence[str] | None,
    *,
    noun: str,
    title: str | None,
) -> pd.DataFrame:
    """Draw a value against its q-value; return the rows that were tested."""
    alpha = float(table.attrs["params"].get("alpha", 0.05))
    tested = table[table["qvalue"].notna()]
    height = -np.log10(tested["qvalue"].to_numpy(float))
    x = tested[value].to_numpy(float)
    significant = tested["significant"].to_numpy(bool)
    for chosen, colour, face, label in (
        (significant, COLOURS[0], COLOURS[0], f"q < {alpha:g}"),
        (~significant, COLOURS[1], "none", f"q ≥ {alpha:g}"),
    ):
        ax.scatter(
            x[chosen],
            height[chosen],
            s=18,
            facecolors=face,
            edgecolors=colour,
            linewidths=1.0,
            label=label,
            zorder=3,
        )
    ax.axhline(-np.log10(alpha), color=GREY, linewidth=1, linestyle="--")
    ax.set(ylabel="−log10 q", ylim=(min(0.0, float(height.min(initial=0.0))), None))
    ax.margins(y=0.08)
    labels = tested.index.astype(str)
    if names is None:
        best = np.lexsort((-x, -height))[:N_NAMES]
        chosen_names = labels[best[significant[best]]]
    else:
        chosen_names = pd.Index(label_list(names, name="names"))
    for name in chosen_names:
        if name not in labels:
            raise missing_key(name, labels.tolist(), what=f"the tested {noun}")
    at = labels.get_indexer(chosen_names)
    name_points(ax, x[at], height[at], chosen_names)
    share = float(significant.mean()) if len(tested) else 0.0
    text = f"{share:.0%} of {len(tested)} {noun} are significant (q < {alpha:g})"
    if len(tested):
        text += f", mean {MEANS.get(value, value)} {x.mean():.2f}"
    heading(ax, text, title, pad=24)
    return tested
