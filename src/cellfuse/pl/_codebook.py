"""The drug space of TIDE before and after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import context_labels, profiles_only
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import GREY, FigSize, Save, finish, legend_beside, panels
from cellfuse.pl._style import Palette
from cellfuse.pl._umap import scatter_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["codebook"]

MAPS = {"fingerprint_map": "Fingerprints", "prototype_map": "Codebook"}


@drawn
def codebook(
    codebook: AnnData,
    *,
    color: str | None = None,
    n_pairs: int = 5,
    palette: Palette = None,
    ax: Sequence[Axes] | np.ndarray | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw drugs by their fingerprints beside the same drugs by their prototypes.

    Lines join the pairs that came nearest to each other in training, in both panels.

    Parameters
    ----------
    codebook
        ``model.codebook`` of a :class:`cellfuse.TIDE`. Its maps are first principal components.
    color
        obs column whose groups are coloured, such as a mechanism that was put there.
    n_pairs
        Pairs that are joined and named; 0 for none.
    palette
        Colours by group, a list of colours, or a matplotlib colour map.
    ax
        Two axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The two axes.

    Raises
    ------
    KeyError
        The obs column or the maps are absent.
    ValueError
        Not two axes, or a negative `n_pairs`.

    Examples
    --------
    >>> import cellfuse as cf
    >>> axes = cf.pl.codebook(model.codebook, color="mechanism")  # doctest: +SKIP
    """
    book = profiles_only(codebook)
    for key in MAPS:
        if key not in book.obsm:
            raise missing_key(
                key, list(book.obsm), what="obsm", fix="Pass `model.codebook` of a `cf.TIDE`."
            )
    if "pairs" not in book.uns:
        raise missing_key("pairs", list(book.uns), what="uns", fix="Pass `model.codebook`.")
    if n_pairs < 0:
        raise ValueError(f"n_pairs={n_pairs}: expected 0 or more.")
    groups = None if color is None else context_labels(book, color)
    axes = panels(ax, 2, (4.6, 4.2), figsize)
    pairs = book.uns["pairs"]
    there = pairs[["source", "target"]].isin(book.obs_names).all(axis=1)  # of a part of the drugs
    pairs = pairs[there].iloc[:n_pairs]
    for one, (key, name) in zip(axes, MAPS.items(), strict=True):
        _draw(one, np.asarray(book.obsm[key]), groups, book.obs_names, pairs, palette)
        one.set(title=name, xlabel="PC 1", ylabel="PC 2")
    if groups is not None or len(pairs):
        legend_beside(axes[1])
    return finish(axes, show=show, save=save, name="codebook", title=title, return_fig=return_fig)


def _draw(
    ax: Axes,
    at: np.ndarray,
    groups: pd.Series | None,
    names: pd.Index,
    pairs: pd.DataFrame,
    palette: Palette,
) -> None:
    ends = [names.get_indexer(pd.Index(pairs[side])) for side in ("source", "target")]
    label = (
        f"the {len(pairs)} pairs that moved\ntogether the most"
        if len(pairs) > 1
        else "pair that moved\ntogether the most"
    )
    for a, b in zip(*ends, strict=True):
        ax.plot(at[[a, b], 0], at[[a, b], 1], color="black", linewidth=0.8, zorder=1, label=label)
        label = "_"  # one entry in the legend stands for all
    if groups is None:
        ax.scatter(at[:, 0], at[:, 1], s=18, color=GREY, zorder=2)
    else:
        scatter_labels(ax, at, groups.to_numpy(str), size=22, palette=palette)
    for row in sorted({int(end) for side in ends for end in side}):
        ax.annotate(
            str(names[row]),
            (float(at[row, 0]), float(at[row, 1])),
            xytext=(3, 3),
            textcoords="offset points",
            fontsize=7,
        )
