"""How many cells each context has in each modality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellfuse._access import Data, context_labels, modalities
from cellfuse.pl._figure import GREY, Save, bare, finish, legend_above, line_style, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["contexts"]


def contexts(
    data: Data,
    context_keys: str | Sequence[str],
    *,
    set_size: int = 16,
    ax: Axes | None = None,
    show: bool = False,
    save: Save = None,
) -> Axes:
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
    show
        Whether to call ``matplotlib.pyplot.show``.
    save
        Path to save the figure to.

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

    ax = one_axes(ax, (4.8, 3.8))
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
    ax.set_title(
        f"{either:.0%} of {n:,} contexts have < {set_size} cells{where}",
        loc="left",
        fontsize="medium",
        pad=24,
    )
    bare(ax)
    legend_above(ax, 3)
    finish(ax, show=show, save=save)
    return ax


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
