"""The table of a benchmark as a figure: a panel per value, a row per method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import GREY, FigSize, Save, finish, panels
from cellfuse.pl._marks import dot_rows, row_height
from cellfuse.pl._style import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["benchmark"]

#: Begins the name of the rows of the ceiling.
CEILING = "ceiling"
#: What is drawn of a method, with its colour.
SERIES = {"both": "#0072B2", "images": "#E69F00", "expression": "#009E73"}
SINGLE = {"image": "images", "rna": "expression"}
WIDTH = 3.6
#: Panels side by side.
N_COLUMNS = 3


@drawn
def benchmark(
    result: Any,
    *,
    values: str | Sequence[str] | None = None,
    correction: str | None = None,
    palette: Palette = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the table of a benchmark: medians over seeds, with the lowest and the highest seed.

    The dotted line is the ceiling, the same metric where the truth is known; a twin or a floor is
    a row like any other.

    Parameters
    ----------
    result
        What :func:`cellfuse.benchmark` gave, or its ``table``.
    values
        Columns of the table to draw, such as ``"edges_auc"``; None draws all.
    correction
        Which correction, where several were scored; a method that was scored without it (a joint
        space is not corrected) is drawn as it was scored. None is the first of each method.
    palette
        Colours of ``"both"``, ``"images"`` and ``"expression"``.
    ax
        Axes to draw into, one per value; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes, one per value.

    Raises
    ------
    KeyError
        A column or correction that the table lacks.
    TypeError
        Neither a benchmark nor its table.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> table = pd.DataFrame(
    ...     {
    ...         "method": ["PETRI", "PCA"],
    ...         "correction": "zca",
    ...         "view": ["average", "concat"],
    ...         "edges_auc": [0.9, 0.8],
    ...         "edges_auc_low": [0.85, 0.8],
    ...         "edges_auc_high": [0.92, 0.8],
    ...     }
    ... )
    >>> [panel.get_xlabel() for panel in cf.pl.benchmark(table)]
    ['edges auc']
    """
    table = result if isinstance(result, pd.DataFrame) else getattr(result, "table", None)
    if table is None or not {"method", "correction", "view"} <= set(table):
        raise TypeError(
            f"expected the result of `cf.benchmark` or its table, found {type(result).__name__}."
        )
    known = [c.removesuffix("_low") for c in table.columns if c.endswith("_low")]
    chosen = known if values is None else [values] if isinstance(values, str) else list(values)
    for name in chosen:
        if name not in known:
            raise missing_key(name, known, what="the values of the table")
    corrections = list(dict.fromkeys(table["correction"]))
    if correction is not None and correction not in corrections:
        raise missing_key(correction, corrections, what="the corrections of the table")
    part = _under(table, correction)
    rows = {name: _series(part, name) for name in chosen}
    height = max((row_height(series) for series in rows.values()), default=2.0)
    axes = panels(ax, len(chosen), (WIDTH, height), figsize, n_columns=N_COLUMNS)
    for panel, (name, series) in zip(axes, rows.items(), strict=True):
        colours = {s: SERIES[s] for s in series} if palette is None else palette
        dot_rows(panel, series, palette=colours, digits=2 if len(series) == 1 else None)
        top = part[part["method"].str.startswith(CEILING) & part[name].notna()][name]
        if len(top):
            panel.axvline(top.iloc[-1], color=GREY, linestyle=":", linewidth=1.2, zorder=0)
        panel.set_xlabel(name.replace("_", " "))
    methods = [list(dict.fromkeys(m for s in r.values() for m in s.index)) for r in rows.values()]
    for k, panel in enumerate(axes):
        if ax is None and k % N_COLUMNS and methods[k] == methods[k - 1]:
            panel.tick_params(labelleft=False)  # the names stand at the left of the row
    several = [panel for panel, series in zip(axes, rows.values(), strict=True) if len(series) > 1]
    if several:
        several[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
    return finish(axes, show=show, save=save, name="benchmark", title=title, return_fig=return_fig)


def _under(table: pd.DataFrame, correction: str | None) -> pd.DataFrame:
    """Rows of each method under a correction, or under its own first where it lacks that."""
    own = table.groupby("method", sort=False)["correction"]
    kept = own.transform(lambda of: correction if correction in set(of) else of.iloc[0])
    return table[table["correction"] == kept]


def _series(table: pd.DataFrame, name: str) -> dict[str, pd.DataFrame]:
    """Tables of both together, images and expression, methods as their rows."""
    kept = table[table[name].notna() & ~table["method"].str.startswith(CEILING)]
    what = kept["view"].map(SINGLE).fillna("both")
    found = {}
    for series in SERIES:
        rows = kept[what == series].set_index("method")
        if len(rows):
            found[series] = pd.DataFrame(
                {"value": rows[name], "low": rows[f"{name}_low"], "high": rows[f"{name}_high"]}
            )
    return found
