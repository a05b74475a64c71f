"""Figures of agreement: guides of a target, replicates of a perturbation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import label_list
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    COLOURS,
    GREY,
    MAX_TICK_LABELS,
    FigSize,
    Save,
    Scored,
    finish,
    heading,
    legend_above,
    one_axes,
    panels,
    stored,
    table_of,
)
from cellfuse.pl._marks import name_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["guide_consistency", "perturbation_consistency"]

#: Targets that are named where there are too many to name all.
N_NAMES = 10


@drawn
def guide_consistency(
    guides: AnnData,
    *,
    key: str = "guide_consistency",
    names: Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | np.ndarray | Figure:
    """Draw how similar the guides of each target are, targets in falling order (PETRI, 3.5).

    Filled points are targets whose guides agree significantly; the band is the middle 95% of what
    as many unrelated guides reach, the line in it their mean. Targets with one guide, which are
    not tested, are left out and counted below.

    Parameters
    ----------
    guides
        Profiles on which :func:`cellfuse.tl.guide_consistency` was run.
    key
        Key of ``.uns`` that the table is in.
    names
        Targets to name where there are more than 60; None: the ten most consistent. With 60 or
        fewer all are named on the axis.
    ax
        Axes to draw into (one per background, if they were tested apart); None makes a figure.
    {drawing}

    Returns
    -------
    The axes; an array of them, one per background, if backgrounds were tested apart.

    Raises
    ------
    KeyError
        The profiles were not tested, or a target of `names` was not.
    ValueError
        Another number of axes than panels.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(20, 8)), 3, axis=0)
    >>> labels = [f"gene{i // 3}_{i % 3}" for i in range(60)]
    >>> obs = pd.DataFrame({"gene": [label[:-2] for label in labels]}, index=labels)
    >>> guides = ad.AnnData(effect + rng.normal(size=(60, 8)) / 4, obs=obs)
    >>> table = cf.tl.guide_consistency(guides, target_key="gene", control=None)
    >>> cf.pl.guide_consistency(guides).get_title(loc="left")
    '100% of 20 targets are consistent (q < 0.05)'
    """
    run = "cellfuse.tl.guide_consistency(guides, target_key=..., control=...)"
    kept = stored(guides, key, ("table", "params"), run=run)
    table, params = kept["table"], kept["params"]
    background_key = params.get("background_key")
    if background_key is None:
        parts = {"": table}
    else:
        parts = {str(name): part for name, part in table.groupby(background_key, observed=True)}
    most = max(len(part) for part in parts.values())
    axes = panels(ax, len(parts), _size(most), figsize)
    alpha = float(params.get("alpha", 0.05))
    for panel, (name, part) in zip(axes, parts.items(), strict=True):
        _panel(panel, part, name, alpha=alpha, names=names, words=("guide", "target"))
    if background_key is None:
        if title is not None:
            heading(axes[0], "", title, pad=24)
        return finish(
            axes[0], show=show, save=save, name="guide_consistency", return_fig=return_fig
        )
    return finish(
        axes, show=show, save=save, name="guide_consistency", title=title, return_fig=return_fig
    )


@drawn
def perturbation_consistency(
    adata: Scored,
    *,
    key: str = "perturbation_consistency",
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how similar the replicates of each perturbation are, in falling order (EFAAR).

    The band is the middle 95% of the null, the line in it its mean.

    Parameters
    ----------
    adata
        Profiles that :func:`cellfuse.tl.perturbation_consistency` was run on, or its table.
    key
        Key of ``.uns`` that the table is in.
    names
        Perturbations to name where there are more than 60; None: the ten most consistent.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The profiles were not tested, or a perturbation of `names` was not.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(20, 8)), 4, axis=0)
    >>> obs = pd.DataFrame({"compound": np.repeat([f"c{i}" for i in range(20)], 4)})
    >>> wells = ad.AnnData(effect + rng.normal(size=(80, 8)) / 4, obs=obs.rename(str))
    >>> table = cf.tl.perturbation_consistency(wells, by="compound", control=None)
    >>> cf.pl.perturbation_consistency(wells).get_title(loc="left")
    '100% of 20 perturbations are consistent (q < 0.05)'
    """
    run = "cellfuse.tl.perturbation_consistency(adata, by=..., control=...)"
    table = table_of(adata, key, ("similarity", "null_mean", "significant"), run=run)
    alpha = float(table.attrs["params"].get("alpha", 0.05))
    ax = one_axes(ax, _size(len(table)), figsize)
    _panel(ax, table, "", alpha=alpha, names=names, words=("replicate", "perturbation"))
    if title is not None:
        heading(ax, "", title, pad=24)
    return finish(ax, show=show, save=save, name="perturbation_consistency", return_fig=return_fig)


def _size(n: int) -> tuple[float, float]:
    return (max(5.4, 1.2 + 0.13 * n) if n <= MAX_TICK_LABELS else 6.0, 4.2)


def _panel(
    ax: Axes,
    table: pd.DataFrame,
    name: str,
    *,
    alpha: float,
    names: Sequence[str] | None,
    words: tuple[str, str],
) -> None:
    row, group = words
    tested = table[table["similarity"].notna()].sort_values("similarity", ascending=False)
    rank = np.arange(1, len(tested) + 1)
    similarity = tested["similarity"].to_numpy()
    _null(ax, tested, rank, f"unrelated {row}s")
    _points(ax, rank, similarity, tested["significant"].to_numpy(dtype=bool), alpha)
    what = f"{group.capitalize()}s"
    labels = tested.index.astype(str)
    if len(tested) <= MAX_TICK_LABELS:
        ax.set_xticks(rank, labels, rotation=90, fontsize=7)
    else:
        what += " by rank"
        chosen = labels[:N_NAMES] if names is None else pd.Index(label_list(names, name="names"))
        for label in chosen:
            if label not in labels:
                raise missing_key(label, labels.tolist(), what=f"the tested {group}s")
        at = labels.get_indexer(chosen)
        # Above the falling curve there is room.
        name_points(
            ax,
            rank[at],
            similarity[at],
            chosen,
            at=0.5 if names is None else 1.02,
            from_top=names is None,
        )
    n_left = len(table) - len(tested)
    if n_left:
        what += f" ({n_left} with one {row} not tested)"
    ax.set(xlabel=what, ylabel=f"Mean pairwise cosine of {row}s", xlim=(0, len(tested) + 1))
    share = float(tested["significant"].mean()) if len(tested) else 0.0
    text = f"{share:.0%} of {len(tested)} {group}s are consistent (q < {alpha:g})"
    heading(ax, f"{name}: {text}" if name else text, None, pad=24)
    legend_above(ax, 3)


def _points(
    ax: Axes, rank: np.ndarray, similarity: np.ndarray, significant: np.ndarray, alpha: float
) -> None:
    size = 22 if len(rank) <= MAX_TICK_LABELS else 8
    for chosen, colour, face, label in (
        (significant, COLOURS[0], COLOURS[0], f"q < {alpha:g}"),
        (~significant, COLOURS[1], "none", f"q ≥ {alpha:g}"),
    ):
        ax.scatter(
            rank[chosen],
            similarity[chosen],
            s=size,
            facecolors=face,
            edgecolors=colour,
            linewidths=1.1,
            label=label,
            zorder=3,
        )


def _null(ax: Axes, tested: pd.DataFrame, rank: np.ndarray, what: str) -> None:
    """Band and mean of the null: steps, since each number of guides has its own."""
    label = f"{what}, mean"
    if {"null_low", "null_high"} <= set(tested.columns):
        edges = np.concatenate([rank - 0.5, rank[-1:] + 0.5]) if len(rank) else rank
        low, high = (tested[c].to_numpy() for c in ("null_low", "null_high"))
        ax.stairs(high, edges, baseline=low, fill=True, color=GREY, alpha=0.25, linewidth=0)
        label = f"{what}, mean and 95%"
    ax.plot(
        rank,
        tested["null_mean"],
        linestyle="none",
        marker="_",
        markersize=6,
        color="black",
        label=label,
    )
