"""How many axes two modalities share, beside what permuted contexts show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["shared_axes_test"]


@drawn
def shared_axes_test(
    mdata: Scored,
    *,
    key: str = "shared_axes_test",
    n_axes: int = 30,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw each axis' strength beside the mean of permuted contexts; filled ones are shared.

    Parameters
    ----------
    mdata
        That :func:`cellfuse.tl.shared_axes_test` was run on, or its table.
    key
        Key of the table in ``uns``.
    n_axes
        Axes to draw, from the first.
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
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(60, n_targets=20, cells_per_guide=8, seed=0)
    >>> table = cf.tl.shared_axes_test(mdata, "guide", use_rep="latent", n_draws=20)
    >>> cf.pl.shared_axes_test(mdata).get_xlabel()
    'Axis'
    """
    columns = ["value", "null_mean", "shared"]
    table = table_of(mdata, key, columns, run="cf.tl.shared_axes_test")
    n_shared = int(table["shared"].sum())
    table = table.head(n_axes)
    ax = one_axes(ax, (4.6, 3.0), figsize)
    axis = np.arange(1, len(table) + 1)
    shared = table["shared"].to_numpy(bool)
    ax.plot(axis, table["null_mean"], color=GREY, label="permuted contexts, mean")
    point: dict[str, Any] = {"markersize": 5, "linestyle": "", "color": COLOURS[0]}
    ax.plot(axis[shared], table["value"][shared], "o", label="shared", **point)
    hollow = point | {"markerfacecolor": "none"}
    ax.plot(axis[~shared], table["value"][~shared], "o", label="not shown to be", **hollow)
    ax.set(xlabel="Axis", ylabel="Covariance of context means", ylim=(0, None))
    legend_above(ax, 3)
    heading(ax, f"{n_shared} axes are shared", title, pad=24)
    return finish(ax, show=show, save=save, return_fig=return_fig, name="shared_axes_test")
