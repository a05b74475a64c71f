"""Axes, legends and files that all figures share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._errors import listing, missing_key
from cellfuse.pl._style import COLOURS, DASHES, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend

__all__ = [
    "COLOURS",
    "GREY",
    "MAX_TICK_LABELS",
    "FigSize",
    "Save",
    "Scored",
    "bare",
    "figure_of",
    "finish",
    "heading",
    "legend_above",
    "legend_below",
    "legend_beside",
    "line_style",
    "named_tables",
    "one_axes",
    "panels",
    "stored",
    "table_of",
]

Save: TypeAlias = str | PathLike[str] | bool | None
FigSize: TypeAlias = tuple[float, float] | None
#: Profiles that a tool was run on, or the table that it returned.
Scored: TypeAlias = AnnData | pd.DataFrame

#: Labels that an axis can hold at the default size.
MAX_TICK_LABELS = 60


def line_style(k: int) -> dict[str, Any]:
    """Colour and dashes of the k-th curve; dashes change when the colours start again."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": DASHES[k // len(COLOURS) % 4]}


def one_axes(ax: Axes | None, size: tuple[float, float], figsize: FigSize = None) -> Axes:
    """Return the user's axes, or those of a new figure of `figsize` (else `size`) inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize or size, layout="constrained")[1]


def panels(
    ax: Axes | Sequence[Axes] | np.ndarray | None,
    n: int,
    size: tuple[float, float],
    figsize: FigSize = None,
    *,
    n_columns: int = 3,
    share_x: bool = False,
) -> np.ndarray:
    """Return `n` axes: the user's, or those of a new figure with panels of `size` inches."""
    if ax is None:
        import matplotlib.pyplot as plt

        n_columns = min(n, n_columns)
        n_rows = -(-n // n_columns)
        figure, grid = plt.subplots(
            n_rows,
            n_columns,
            figsize=figsize or (size[0] * n_columns, size[1] * n_rows),
            layout="constrained",
            squeeze=False,
            sharex=share_x,
        )
        for spare in grid.flat[n:]:
            figure.delaxes(spare)
        return grid.ravel()[:n]
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(given) != n:
        raise ValueError(f"this figure has {n} panels; found {len(given)} axes in `ax`.")
    return given


def figure_of(ax: Axes) -> Figure | None:
    """Return the figure that holds `ax`, also where it lies in a subfigure."""
    figure: Any = ax.figure
    return None if figure is None else figure.figure


def heading(ax: Axes, text: str, title: str | None, *, pad: float | None = None) -> None:
    """Write the user's title, or what the figure says by itself, at the left above the plot."""
    ax.set_title(text if title is None else title, loc="left", fontsize="medium", pad=pad)


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


def legend_beside(ax: Axes, **kwargs: Any) -> None:
    """Put the legend to the right of the last panel; our own figure grows by it."""
    legend = ax.legend(
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        frameon=False,
        borderaxespad=0.0,
        fontsize="small",
        **kwargs,
    )
    figure = figure_of(ax)
    if figure is not None and figure.get_layout_engine() is not None:
        width = legend.get_window_extent().width / figure.dpi
        figure.set_figwidth(figure.get_figwidth() + width)


def _make_room(ax: Axes, legend: Legend) -> None:
    """Widen our own one-panel figure to its legend, to which the layout would shrink the plot."""
    figure = figure_of(ax)
    if figure is None or len(figure.axes) > 1 or figure.get_layout_engine() is None:
        return
    needed = legend.get_window_extent().width / figure.dpi + 1.0
    if needed > figure.get_figwidth():
        figure.set_figwidth(needed)


def bare(ax: Axes) -> None:
    """Take away the two sides of the frame that carry no scale."""
    ax.spines[["top", "right"]].set_visible(False)


# -- saving and showing ---------------------------------------------------------------------------


def finish(
    axes: Axes | Iterable[Axes],
    *,
    show: bool,
    save: Save,
    name: str = "figure",
    title: str | None = None,
    return_fig: bool = False,
) -> Any:
    """Save and show the figure that holds `axes`.

    Parameters
    ----------
    name
        The function's name, for a file that is named by its suffix only.
    title
        Title above several panels.

    Returns
    -------
    The axes as they came, or with `return_fig` the figure.
    """
    from matplotlib.axes import Axes

    first = axes if isinstance(axes, Axes) else next(iter(axes))
    figure = figure_of(first)
    if title is not None and figure is not None:
        figure.suptitle(title, x=0.01, ha="left", fontsize="medium")
    if save not in (None, False) and figure is not None:
        figure.savefig(save_path(save, name), bbox_inches="tight")
    if show:
        import matplotlib.pyplot as plt

        plt.show()
    return figure if return_fig else axes


def save_path(save: Save, name: str) -> Path:
    """Where to save: a path as it is; True, or a suffix as in scanpy, in scanpy's figure folder."""
    text = "" if save is True else fspath(save)  # type: ignore[arg-type]
    if text and not (text[0] in "._-" and "/" not in text and "\\" not in text):
        return Path(text)
    import scanpy

    # scanpy's rule: `save="_mine.pdf"` gives figures/<name>_mine.pdf, `save=".svg"` its format.
    ending = "" if Path(f"x{text}").suffix else f".{scanpy.settings.file_format_figs}"
    folder = Path(scanpy.settings.figdir)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}{text}{ending}"


# -- what is drawn --------------------------------------------------------------------------------


def stored(adata: AnnData, key: str, fields: Sequence[str], *, run: str) -> Mapping[str, Any]:
    """Return what a tool kept in ``adata.uns[key]``, or raise an error that names the tool."""
    if not hasattr(adata, "uns"):  # AnnData, or MuData where a tool keeps its table there
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


def table_of(data: Scored, key: str, columns: Sequence[str], *, run: str) -> pd.DataFrame:
    """Return a tool's table, given itself or kept in ``uns[key]``, with the columns that it needs.

    Its ``attrs["params"]`` are those that were kept beside it.
    """
    if isinstance(data, pd.DataFrame):
        table, params = data, dict(data.attrs.get("params", {}))
    else:
        kept = stored(data, key, (), run=run)
        if isinstance(kept, pd.DataFrame):
            table, params = kept, {}
        else:
            kept = stored(data, key, ("table",), run=run)
            table, params = kept["table"], dict(kept.get("params", {}))
    absent = [c for c in columns if c not in table.columns]
    if absent:
        raise missing_key(
            absent[0],
            list(table.columns),
            what="the columns of the table",
            fix=f"Give what `{run}` returned, or the profiles that it was run on.",
        )
    table = table.copy()
    table.attrs["params"] = params
    return table


def named_tables(
    data: Scored | Mapping[str, Scored], key: str, columns: Sequence[str], *, run: str
) -> dict[str, pd.DataFrame]:
    """Tables by label; one alone is labelled ``""``."""
    named = dict(data) if isinstance(data, Mapping) else {"": data}
    if not named:
        raise ValueError("an empty dict was given; give at least one set of scores.")
    return {str(n): table_of(one, key, columns, run=run) for n, one in named.items()}
