"""Figures of what the other modality is used for (PETRI, Fig. 4, S5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfuse._access import Data
from cellfuse._errors import missing_key
from cellfuse.pl._concepts import kept_of
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import COLOURS, GREY, FigSize, Save, finish, heading, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["attention", "attention_blocks", "cross_modal_gain"]


@drawn
def cross_modal_gain(
    gain: Any,
    *,
    channel: str | None = None,
    arm: str | None = None,
    n_cells: int = 4,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the loss with against without the other modality, and what it changes (Fig. 4a, S5).

    At the left each cell's loss in two arms; below the diagonal the other modality helped. Of
    images the cells that gained most follow: the cell with its hole, the cell itself, and for each
    arm the residual, what the arm without less the arm with it predicts (red: it predicts less,
    blue: more).

    Parameters
    ----------
    gain
        What :meth:`cellfuse.PETRI.cross_modal_gain` gives.
    channel
        Channel to draw; None: the loss of all of them, and the images of the first.
    arm
        Arm of the scatter; None: the second.
    n_cells
        Cells whose images are drawn.
    {drawing}

    Returns
    -------
    Array of the axes: the scatter, then the images row by row.

    Raises
    ------
    KeyError
        No such channel or arm.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> cells = pd.DataFrame({"loss_none": [1.0, 2.0], "loss_own": [0.5, 2.1]})
    >>> tests = pd.DataFrame({"channel": ["all"], "arm": ["own"], "gain": [0.2], "pvalue": [0.5]})
    >>> tests = tests.assign(share_lower=0.5)
    >>> gain = SimpleNamespace(cells=cells, channels=pd.DataFrame(), tests=tests, shown=[])
    >>> gain.arms, gain.names, gain.modality = ["none", "own"], [], "rna"
    >>> cf.pl.cross_modal_gain(gain)[0].get_xlabel()
    'Loss, none'
    """
    import matplotlib.pyplot as plt

    first = gain.arms[0]
    second = gain.arms[1] if arm is None else arm
    if second not in gain.arms:
        raise missing_key(second, gain.arms, what="the arms")
    if channel is not None and channel not in gain.names:
        raise missing_key(channel, gain.names, what="the channels")
    losses = gain.cells
    if channel is not None:
        losses = gain.channels[gain.channels["channel"] == channel]
    k = gain.names.index(channel) if channel is not None else 0
    with_images = len(gain.shown) > 0 and gain.target.ndim == 4
    shown = list(range(min(n_cells, len(gain.shown)))) if with_images else []
    words = ["with its hole", "the cell", *(f"{first} − {a}" for a in gain.arms[1:])]
    width = 3.8 + (0.95 * len(shown) + 1.0 if shown else 0.0)
    figure = plt.figure(
        figsize=figsize or (width, max(3.6, 0.95 * len(words))), layout="constrained"
    )
    halves: Any = figure.subfigures(1, 2, width_ratios=[3.8, width - 3.8]) if shown else [figure]
    scatter = halves[0].subplots()
    _paired(scatter, losses, first, second, gain.tests, channel)
    axes = [scatter]
    if shown:
        grid = halves[1].subplots(len(words), len(shown), squeeze=False)
        _images(grid, gain, k, shown, words)
        axes += list(grid.ravel())
    if title is not None:
        heading(scatter, "", title)
    found = np.array(axes, dtype=object)
    return finish(found, show=show, save=save, name="cross_modal_gain", return_fig=return_fig)


def _paired(
    ax: Axes,
    losses: pd.DataFrame,
    first: str,
    second: str,
    tests: pd.DataFrame,
    channel: str | None,
) -> None:
    x = losses[f"loss_{first}"].to_numpy(float)
    y = losses[f"loss_{second}"].to_numpy(float)
    lower = y < x
    for chosen, colour in ((lower, COLOURS[0]), (~lower, GREY)):
        ax.scatter(x[chosen], y[chosen], s=8, color=colour, alpha=0.6, linewidths=0)
    ends = [min(x.min(), y.min()), max(x.max(), y.max())]
    ax.plot(ends, ends, color="black", linewidth=0.8, linestyle=":")
    ax.set(xlabel=f"Loss, {first}", ylabel=f"Loss, {second}", aspect="equal")
    mine = (tests["channel"] == (channel or "all")) & (tests["arm"] == second)
    row = tests[mine].iloc[0]
    text = f"{float(row['share_lower']):.0%} of cells lower; p = {float(row['pvalue']):.2g}"
    heading(ax, f"{channel}: {text}" if channel else text, None)


def _images(grid: np.ndarray, gain: Any, k: int, shown: list[int], words: list[str]) -> None:
    target = gain.target[shown, k]
    low, high = np.percentile(target, [1, 99.5])
    first = gain.arms[0]
    residuals = [gain.restored[first][shown, k] - gain.restored[a][shown, k] for a in gain.arms[1:]]
    span = max(max(float(np.abs(r).max()) for r in residuals), 1e-12)
    for j, i in enumerate(shown):
        hole = np.where(gain.hidden[i], np.nan, target[j])
        for row, picture in enumerate((hole, target[j])):
            ax = grid[row, j]
            ax.set_facecolor("#7A4B9A")  # what was hidden
            ax.imshow(picture, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        for row, residual in enumerate(residuals, start=2):
            grid[row, j].imshow(
                residual[j], cmap="RdBu_r", vmin=-span, vmax=span, interpolation="nearest"
            )
    for ax in grid.ravel():
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for row, word in enumerate(words):
        grid[row, 0].set_ylabel(word, rotation=0, ha="right", va="center", fontsize=7)


@drawn
def attention(
    found: Any,
    *,
    document: int | None = None,
    heads: list[tuple[int, int]] | None = None,
    n_heads: int = 6,
    ax: Any = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw attention maps of heads, lines between the modalities (PETRI, Fig. 4c).

    Rows ask, columns answer; off the diagonal blocks one modality looks at the other.

    Parameters
    ----------
    found
        What :meth:`cellfuse.PETRI.attention` gives.
    document
        One of the documents; None: their mean.
    heads
        Pairs of layer (from 1) and head (from 0); None: the `n_heads` whose cross-modal blocks are
        the least flat.
    n_heads
        Heads that are drawn unless they are named.
    ax
        Axes to draw into, one per head; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes.

    Raises
    ------
    ValueError
        No such document or head.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> import cellfuse as cf
    >>> maps = np.full((1, 2, 2, 4, 4), 0.25)
    >>> found = SimpleNamespace(maps=maps, lengths={"image": 2, "rna": 2})
    >>> len(cf.pl.attention(found, n_heads=3))
    3
    """
    maps = found.maps
    if document is not None and not 0 <= document < len(maps):
        raise ValueError(f"document={document}: there are {len(maps)}, numbered from 0.")
    one = maps.mean(axis=0) if document is None else maps[document]
    n_layers, n_all = one.shape[:2]
    chosen = heads if heads is not None else _least_flat(one, found.lengths, n_heads)
    for layer, head in chosen:
        if not (1 <= layer <= n_layers and 0 <= head < n_all):
            raise ValueError(
                f"no head {head} of layer {layer}: layers are 1 to {n_layers}, heads 0 to "
                f"{n_all - 1}."
            )
    axes = panels(ax, len(chosen), (2.7, 2.8), figsize)
    ends = np.cumsum(list(found.lengths.values()))
    middle = ends - np.array(list(found.lengths.values())) / 2 - 0.5
    for panel, (layer, head) in zip(axes, chosen, strict=True):
        picture = one[layer - 1, head]
        panel.imshow(
            picture, cmap="magma", vmin=0, vmax=np.percentile(picture, 99.5), interpolation="none"
        )
        for end in ends[:-1]:
            panel.axhline(end - 0.5, color="white", linewidth=0.8)
            panel.axvline(end - 0.5, color="white", linewidth=0.8)
        panel.set_xticks(middle, list(found.lengths))
        panel.set_yticks(middle, list(found.lengths), rotation=90, va="center")
        panel.tick_params(length=0)
        panel.set_title(f"layer {layer}, head {head}", loc="left", fontsize="small")
    return finish(axes, show=show, save=save, name="attention", title=title, return_fig=return_fig)


def _least_flat(one: np.ndarray, lengths: dict[str, int], n: int) -> list[tuple[int, int]]:
    first = next(iter(lengths.values()))
    spread = one[..., :first, first:].std(axis=-1).mean(-1)
    spread = spread + one[..., first:, :first].std(axis=-1).mean(-1)
    order = np.argsort(-spread.ravel(), kind="stable")[:n]
    return [(int(k // one.shape[1]) + 1, int(k % one.shape[1])) for k in order]


@drawn
def attention_blocks(
    table: pd.DataFrame | Data,
    *,
    key: str = "attention_blocks",
    ax: Any = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw how flat the rows of the cross-modal blocks are, a point per head (PETRI, Fig. 4d).

    Parameters
    ----------
    table
        What :func:`cellfuse.tl.attention_blocks` gives, or the data in which it was kept.
    key
        Key of ``.uns``, where data are given.
    ax
        Axes to draw into, one per block; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes.

    Raises
    ------
    KeyError
        The tool has kept nothing in the data.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> table = pd.DataFrame({"model": ["PETRI", "permuted"], "block": "image -> rna"})
    >>> cf.pl.attention_blocks(table.assign(spread=[1.0, 0.1]))[0].get_title(loc="left")
    'image -> rna'
    """
    if isinstance(table, pd.DataFrame):
        tests = table.attrs.get("tests", [])
    else:
        run = "cellfuse.tl.attention_blocks(attention, data=mdata)"
        kept = kept_of(table, key, ("table",), run=run)
        table = kept["table"]
        tests = kept["tests"].to_dict("records") if "tests" in kept else []
    blocks = list(dict.fromkeys(table["block"]))
    models = list(dict.fromkeys(table["model"]))
    axes = panels(ax, len(blocks), (1.6 + 0.8 * len(models), 3.4), figsize)
    rng = np.random.default_rng(0)
    for panel, block in zip(axes, blocks, strict=True):
        for i, model in enumerate(models):
            values = table.loc[
                (table["block"] == block) & (table["model"] == model), "spread"
            ].to_numpy(float)
            panel.scatter(
                i + rng.uniform(-0.15, 0.15, len(values)),
                values,
                s=14,
                color=COLOURS[i % len(COLOURS)],
                alpha=0.7,
                linewidths=0,
            )
            panel.plot([i - 0.25, i + 0.25], [values.mean()] * 2, color="black", linewidth=1.5)
        panel.set_xticks(range(len(models)), [m or "heads" for m in models])
        panel.set(xlim=(-0.6, len(models) - 0.4), ylabel="Spread of a row (0 is flat)")
        p = [t["pvalue"] for t in tests if t["block"] == block]
        heading(panel, block + (f", p = {p[0]:.2g}" if p else ""), None)
    return finish(
        axes, show=show, save=save, name="attention_blocks", title=title, return_fig=return_fig
    )
