"""Axes, colours and legends that all figures share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData

from cellfuse._errors import listing, missing_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend

Save = str | PathLike[str] | None

#: Okabe and Ito's colours, which readers with any colour vision tell apart; without black, which
#: is left for text, and yellow, which is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", "-.", ":")
GREY = "#767676"
#: Labels that an axis can hold at the default size.
MAX_TICK_LABELS = 60


def line_style(k: int) -> dict[str, Any]:
    """Colour and dashes of the k-th curve; dashes change when the colours start again."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k // len(COLOURS) % 4]}


def one_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return the user's axes, or those of a new figure of `size` inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def panels(
    ax: Axes | Sequence[Axes] | np.ndarray | None, n: int, size: tuple[float, float]
) -> np.ndarray:
    """Return `n` axes: the user's, or those of a new figure with panels of `size` inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        n_columns = min(n, 3)
        n_rows = -(-n // n_columns)
        figure, grid = plt.subplots(
            n_rows,
            n_columns,
            figsize=(size[0] * n_columns, size[1] * n_rows),
            layout="constrained",
            squeeze=False,
        )
        for spare in grid.flat[n:]:
            figure.delaxes(spare)
        return grid.ravel()[:n]
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(given) != n:
        raise ValueError(f"this figure has {n} panels; found {len(given)} axes in `ax`.")
    return given


def legend_above(ax: Axes, n_columns: int) -> None:
    """Put the legend between the plot and its title, where it covers no data."""
    legend = ax.legend(
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=n_columns,
        frameon=False,
        borderaxespad=0.2,
        handlelength=1.8,
        columnspacing=1.2,
    )
    _make_room(ax, legend)


def legend_below(ax: Axes) -> None:
    """Put the legend under the axis label, where long entries have room."""
    legend = ax.legend(
        loc="upper left",
        bbox_to_anchor=(0.0, -0.13),
        frameon=False,
        borderaxespad=0.0,
        fontsize="small",
    )
    _make_room(ax, legend)


def legend_beside(ax: Axes) -> None:
    """Put the legend to the right of the last panel; our own figure grows by it."""
    legend = ax.legend(
        loc="center left",
        bbox_to_anchor=(1.08, 0.5),
        frameon=False,
        borderaxespad=0.0,
        fontsize="small",
    )
    figure = ax.get_figure(root=True)
    if figure is not None and figure.get_layout_engine() is not None:
        width = legend.get_window_extent().width / figure.dpi
        figure.set_figwidth(figure.get_figwidth() + width)


def _make_room(ax: Axes, legend: Legend) -> None:
    """Widen our own one-panel figure to its legend, to which the layout would shrink the plot."""
    figure = ax.get_figure(root=True)
    if figure is None or len(figure.axes) > 1 or figure.get_layout_engine() is None:
        return
    needed = legend.get_window_extent().width / figure.dpi + 1.0
    if needed > figure.get_figwidth():
        figure.set_figwidth(needed)


def bare(ax: Axes) -> None:
    """Take away the two sides of the frame that carry no scale."""
    ax.spines[["top", "right"]].set_visible(False)


def finish(axes: Axes | Iterable[Axes], *, show: bool, save: Save) -> None:
    """Save and show the figure that holds `axes`."""
    from matplotlib.axes import Axes

    first = axes if isinstance(axes, Axes) else next(iter(axes))
    figure = first.get_figure(root=True)
    if save is not None and figure is not None:
        figure.savefig(save, dpi=150, bbox_inches="tight")
    if show:
        import matplotlib.pyplot as plt

        plt.show()


def stored(adata: AnnData, key: str, fields: Sequence[str], *, run: str) -> Mapping[str, Any]:
    """Return what a tool kept in ``adata.uns[key]``, or raise an error that names the tool."""
    if not isinstance(adata, AnnData):
        raise TypeError(f"expected an AnnData of profiles, found {type(adata).__name__}.")
    if key not in adata.uns:
        raise missing_key(key, list(adata.uns), what="uns", fix=f"Run `{run}` first.")
    kept = adata.uns[key]
    absent = [f for f in fields if not isinstance(kept, Mapping) or f not in kept]
    if absent:
        raise ValueError(
            f"uns[{key!r}] does not hold {listing(absent)}; it was not written by this version's "
            f"tool. Run `{run}` again."
        )
    return kept
