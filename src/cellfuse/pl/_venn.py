"""Two circles whose areas, and that of their overlap, are numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["distance_of", "draw_circles"]

#: Fill of the circles, through which their overlap is seen.
ALPHA = 0.45


def overlap_of(r: float, s: float, distance: float) -> float:
    """Area that two circles of radius `r` and `s` share at some distance of their centres."""
    if distance >= r + s:
        return 0.0
    if distance <= abs(r - s):
        return float(np.pi * min(r, s) ** 2)
    halves = 0.0
    for own, other in ((r, s), (s, r)):
        chord = (distance**2 + own**2 - other**2) / (2 * distance)
        angle = np.arccos(np.clip(chord / own, -1, 1))
        halves += own**2 * (angle - np.sin(2 * angle) / 2)
    return float(halves)


def distance_of(r: float, s: float, shared: float) -> float:
    """Distance of the centres at which two circles share an area."""
    from scipy.optimize import brentq

    nearest, farthest = abs(r - s), r + s
    if shared <= 0:
        return 1.05 * farthest
    if shared >= np.pi * min(r, s) ** 2 * (1 - 1e-9):
        return nearest
    return float(brentq(lambda d: overlap_of(r, s, d) - shared, nearest, farthest))


def _edge(style: Mapping[str, Any]) -> dict[str, Any]:
    return {"edgecolor": style["color"], "linestyle": style["linestyle"]}


def draw_circles(
    ax: Axes, counts: tuple[int, int, int], styles: Mapping[str, Mapping[str, Any]]
) -> None:
    """Draw two sets to scale; `counts` are those of the first alone, of the second alone, of both.

    `styles` are colour and dashes by the sets' names; twins, which are dashed, are hardly filled.

    Numbers stand in the middle of what they count; of a sliver, where the sliver is.
    """
    from matplotlib.patches import Circle

    alone_first, alone_second, both = counts
    radii = [np.sqrt((alone + both) / np.pi) for alone in (alone_first, alone_second)]
    distance = distance_of(radii[0], radii[1], both)
    for centre, radius, style in zip((0.0, distance), radii, styles.values(), strict=True):
        alpha = ALPHA if style["linestyle"] in ("-", "solid") else ALPHA / 4
        fill = Circle((centre, 0), radius, facecolor=style["color"], edgecolor="none", alpha=alpha)
        ax.add_patch(fill)
        ax.add_patch(Circle((centre, 0), radius, fill=False, linewidth=1.2, **_edge(style)))
    left = (-radii[0], min(radii[0], distance - radii[1]))
    right = (max(distance - radii[1], radii[0]), distance + radii[1])
    lens = (max(-radii[0], distance - radii[1]), min(radii[0], distance + radii[1]))
    for (begin, end), count in zip((left, right, lens), counts, strict=True):
        if count:
            ax.text((begin + end) / 2, 0, f"{count:,}", ha="center", va="center", fontsize=8)
    top = max(radii)
    for (begin, end), name, side in zip((left, right), styles, ("right", "left"), strict=True):
        at = begin + 0.35 * (end - begin) if side == "right" else end - 0.35 * (end - begin)
        ax.text(at, 1.08 * top, name, ha="center", va="bottom", fontsize=9)
    ax.set(xlim=(-1.1 * radii[0], distance + 1.1 * radii[1]), ylim=(-1.1 * top, 1.3 * top))
    ax.set_aspect("equal")
    ax.axis("off")
