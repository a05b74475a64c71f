"""Marks that several figures share: rows of points with intervals, and names beside points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cellfuse.pl._figure import GREY, figure_of
from cellfuse.pl._style import Palette, colours_of, is_twin

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dot_rows", "name_points", "row_height"]

#: Inches of a row of points, and of each further method in it.
ROW, MORE = 0.34, 0.14
#: Of the first, second, ... of the methods that share a colour, such as one scored in two ways.
MARKERS = ("o", "s", "^", "D")


def row_height(rows: Mapping[str, pd.DataFrame]) -> float:
    """Inches that :func:`dot_rows` needs for its rows."""
    n_rows = len(_labels(rows))
    return 1.2 + n_rows * (ROW + MORE * (len(rows) - 1))


def _markers(colours: Mapping[str, str]) -> dict[str, str]:
    """Marker of each method: those of one colour differ, but for a twin, which is drawn open."""
    used: dict[tuple[str, bool], int] = {}
    markers = {}
    for method, colour in colours.items():
        k = used.get((colour, is_twin(method)), 0)
        markers[method] = MARKERS[k % len(MARKERS)]
        used[colour, is_twin(method)] = k + 1
    return markers


def _labels(rows: Mapping[str, pd.DataFrame]) -> list[str]:
    return list(dict.fromkeys(str(label) for table in rows.values() for label in table.index))


def dot_rows(
    ax: Axes,
    rows: Mapping[str, pd.DataFrame],
    *,
    palette: Palette = None,
    digits: int | None = 2,
    chance_label: str = "chance",
) -> None:
    """Draw one row per label with a point per method, its interval and what chance gives.

    Parameters
    ----------
    rows
        Table of each method (``""`` where there is one), the rows' labels its index: ``value``,
        and where they are known ``low``, ``high`` and ``chance``.
    digits
        Decimals of the number beside each point; None writes none.
    """
    labels = _labels(rows)
    colours = colours_of(rows, palette)
    markers = _markers(colours)
    step = 0.7 / max(len(rows), 1)
    place = {label: len(labels) - 1 - k for k, label in enumerate(labels)}
    chance_named = False
    for k, (method, table) in enumerate(rows.items()):
        y = np.array([place[str(label)] for label in table.index], dtype=float)
        y += ((len(rows) - 1) / 2 - k) * step
        value = table["value"].to_numpy(float)
        if "chance" in table:
            chance = table["chance"].to_numpy(float)
            ax.plot(
                chance,
                y,
                "|",
                color=GREY,
                markersize=16 if len(rows) == 1 else 9,
                markeredgewidth=1.4,
                label="_" if chance_named else chance_label,
            )
            chance_named = True
        if {"low", "high"} <= set(table):
            ends = [value - table["low"].to_numpy(float), table["high"].to_numpy(float) - value]
            ax.errorbar(
                value,
                y,
                xerr=np.clip(np.nan_to_num(np.stack(ends)), 0, None),
                fmt="none",
                ecolor=colours[method],
                elinewidth=1.6,
            )
        ax.scatter(
            value,
            y,
            s=30,
            marker=markers[method],
            color="white" if is_twin(method) else colours[method],
            edgecolors=colours[method],
            zorder=3,
            label=method or None,
        )
        if digits is not None and len(rows) == 1:
            for at, number in zip(y, value, strict=True):
                if np.isfinite(number):
                    ax.annotate(
                        f"{number:.{digits}f}",
                        (number, at),
                        (0, 5),
                        textcoords="offset points",
                        ha="center",
                        fontsize="x-small",
                    )
    ax.set_yticks(range(len(labels)), labels[::-1])
    ax.set_ylim(-0.6, len(labels) - 0.4)
    ax.tick_params(axis="y", length=0)


def name_points(
    ax: Axes,
    x: ArrayLike,
    y: ArrayLike,
    names: Sequence[str] | Iterable[str],
    *,
    at: float = 1.02,
    size: float = 7.0,
    from_top: bool = False,
) -> None:
    """Write names in a column at `at` (share of the axes' width), each joined to its point.

    In the order of the points' heights, so that no two lines cross, and never one over another.
    The column begins at the height of the highest point, or with `from_top` at the axes' upper end.
    """
    points = sorted(
        zip(np.asarray(y, float), np.asarray(x, float), names, strict=True),
        key=lambda point: (-point[0], -point[1]),
    )
    if not points:
        return
    ax.autoscale_view()  # the limits that the points have given, not those before them
    figure = figure_of(ax)
    dpi = figure.dpi if figure is not None else 100.0
    gap = 1.25 * size * dpi / 72 / max(ax.get_window_extent().height, 1.0)
    to_axes = ax.transData + ax.transAxes.inverted()
    heights = [float(to_axes.transform((px, py))[1]) for py, px, _ in points]
    places: list[float] = []
    for height in heights:
        highest = places[-1] - gap if places else 1.0
        places.append(highest if from_top else min(height, highest))
    lowest = places[-1]
    if lowest < 0:  # the column is longer than what lies below the first: move it up
        places = [place - lowest for place in places]
    for (py, px, name), place in zip(points, places, strict=True):
        ax.annotate(
            str(name),
            (px, py),
            (at, place),
            xycoords="data",
            textcoords="axes fraction",
            fontsize=size,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": GREY,
                "linewidth": 0.5,
                "shrinkA": 1,
                "shrinkB": 2,
            },
        )
