"""The pictures of the landing page: what the library does, and what it brought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

import cellfuse as cf

#: Name on the picture -> method and view of the table.
BARS = {
    "images, PCA": ("PCA", "image", "#BBBBBB"),
    "expression, PCA": ("PCA", "rna", "#BBBBBB"),
    "both, PCA beside PCA": ("PCA", "concat", "#999999"),
    "SharedAxes": ("SharedAxes", "average", "#009E73"),
    "PETRI": ("PETRI", "average", "#0072B2"),
    "PETRI, permuted twin": ("PETRI@permuted", "average", "#56B4E9"),
}
IMAGE, RNA = "#0072B2", "#D55E00"


def landing(table: Path, folder: Path) -> None:
    """Draw the idea, and the numbers of the headroom screen, as pictures of their own."""
    scores = pd.read_csv(table).set_index(["method", "view"]).sort_index()
    with cf.pl.style():
        for name, draw in (("idea", _idea), ("known_pairs", lambda axis: _bars(axis, scores))):
            figure, axis = plt.subplots(figsize=(4.6, 2.9), layout="constrained")
            draw(axis)
            figure.savefig(folder / f"{name}.png", dpi=200)
            plt.close(figure)


def _idea(axis: Axes) -> None:
    """Cells of two screens, joined by their guides, in one space."""
    axis.set(xlim=(0, 10), ylim=(0.2, 5.5))
    axis.axis("off")
    rng = np.random.default_rng(4)
    groups = {"GENE1-g1": "o", "GENE2-g1": "s", "control": "^"}
    centres = np.array([[8.6, 3.6], [7.3, 1.6], [9.2, 1.2]])
    for top, colour, title in ((3.1, IMAGE, "microscopy"), (0.4, RNA, "expression")):
        _box(axis, (0.1, top), (3.2, 1.8))
        axis.text(1.7, top + 1.95, title, ha="center", color=colour, fontweight="bold")
        for (name, marker), centre, y in zip(groups.items(), centres, (1.4, 0.9, 0.4), strict=True):
            axis.text(0.25, top + y, name, fontsize=8, va="center")
            place: Any = {"marker": marker, "s": 22, "color": colour, "lw": 0, "alpha": 0.8}
            axis.scatter(1.8 + 0.26 * np.arange(5), np.full(5, top + y), **place)
            axis.scatter(*(centre + 0.28 * rng.normal(size=(6, 2))).T, **place)
        axis.annotate(
            "", (6.2, 3.6 if top > 1 else 1.7), (3.5, top + 0.9),
            arrowprops={"arrowstyle": "->", "color": "0.4", "lw": 1.5},
        )  # fmt: skip
    _box(axis, (6.3, 0.4), (3.6, 4.5))
    axis.text(8.1, 5.05, "one space", ha="center", fontweight="bold")
    axis.text(3.5, 2.68, "different cells,\nthe same guides", fontsize=8, va="center", color="0.3")


def _box(axis: Axes, corner: tuple[float, float], size: tuple[float, float]) -> None:
    style = "round,pad=0.02,rounding_size=0.15"
    axis.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, fc="0.97", ec="0.75", zorder=0))


def _bars(axis: Axes, scores: pd.DataFrame) -> None:
    """Known pairs found again; lowest and highest of five seeds."""
    for place, (method, view, colour) in enumerate(reversed(BARS.values())):
        row = scores.loc[[(method, view)]].iloc[-1]
        value = row["edges_tpr"]
        spread = [[value - row["edges_tpr_low"]], [row["edges_tpr_high"] - value]]
        axis.barh(place, value, 0.7, color=colour, xerr=spread, error_kw={"lw": 1, "ecolor": "0.3"})
    axis.axvline(0.05, color="0.4", ls="--", lw=1)
    axis.text(0.06, len(BARS) - 0.55, "chance", fontsize=8, color="0.4", va="bottom")
    axis.set(
        yticks=range(len(BARS)), yticklabels=[*BARS][::-1], xlim=(0, 0.8),
        xlabel="known pairs of genes found again (5% false)",
    )  # fmt: skip
