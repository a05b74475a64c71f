"""Figures of all concepts: who has them, who moves them, what they know of the well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfuse._access import Data
from cellfuse._errors import listing, missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    COLOURS,
    GREY,
    FigSize,
    Save,
    finish,
    heading,
    one_axes,
    panels,
)
from cellfuse.pl._style import Palette, colours_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["batch_predictability", "concept_map", "differential_concepts"]


def kept_of(data: Data, key: str, fields: Sequence[str], *, run: str) -> Mapping[str, Any]:
    """What a tool kept in ``.uns[key]`` of an AnnData or a MuData."""
    if key not in data.uns:
        raise missing_key(key, list(data.uns), what="uns", fix=f"Run `{run}` first.")
    kept = data.uns[key]
    absent = [field for field in fields if field not in kept]
    if absent:
        raise ValueError(f"uns[{key!r}] does not hold {listing(absent)}; run `{run}` again.")
    return kept


def _named(data: Data | Mapping[str, Data]) -> dict[str, Data]:
    named = dict(data) if isinstance(data, Mapping) and not hasattr(data, "uns") else {"": data}
    if not named:
        raise ValueError("an empty dict was given; give at least one.")
    return {str(name): one for name, one in named.items()}  # type: ignore[misc]


@drawn
def concept_map(
    data: Data | Mapping[str, Data],
    *,
    key: str = "multimodal_concepts",
    ax: Axes | Sequence[Axes] | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the share of cells of each modality in which each concept is active (PETRI, Fig. 5b).

    Concepts inside the dashed square are multimodal. Those on the axes belong to one modality.

    Parameters
    ----------
    data
        MuData on which :func:`cellfuse.tl.multimodal_concepts` was run; or several by name, such
        as ``{"PETRI": mdata, "permuted": twin}``, a panel each.
    key
        Key of ``.uns``.
    ax
        Axes to draw into, one per panel; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes.

    Raises
    ------
    KeyError
        The tool was not run.

    Examples
    --------
    >>> import anndata as ad, mudata as md, numpy as np, scipy.sparse as sp
    >>> import cellfuse as cf
    >>> rng, mods = np.random.default_rng(0), {}
    >>> for name in ("image", "rna"):
    ...     active = rng.random((50, 9)) * (rng.random((50, 9)) < 0.4)
    ...     mods[name] = ad.AnnData(obsm={"X_concepts": sp.csr_matrix(active)})
    ...     mods[name].obs_names = [f"{name}{i}" for i in range(50)]
    >>> mdata = md.MuData(mods)
    >>> _ = cf.tl.multimodal_concepts(mdata)
    >>> cf.pl.concept_map(mdata)[0].get_title(loc="left")
    '9 of 9 concepts are multimodal'
    """
    named = _named(data)
    run = "cellfuse.tl.multimodal_concepts(mdata)"
    axes = panels(ax, len(named), (3.8, 3.8), figsize)
    for panel, (name, one) in zip(axes, named.items(), strict=True):
        kept = kept_of(one, key, ("table", "params"), run=run)
        _map_panel(panel, kept["table"], kept["params"], name)
    return finish(
        axes, show=show, save=save, name="concept_map", title=title, return_fig=return_fig
    )


def _map_panel(ax: Axes, table: pd.DataFrame, params: Mapping[str, Any], name: str) -> None:
    x, y = [c for c in table.columns if str(c).startswith("fraction_")][:2]
    inside = table["multimodal"].to_numpy(bool)
    for chosen, colour in ((~inside, GREY), (inside, COLOURS[1])):
        ax.scatter(
            table[x][chosen],
            table[y][chosen],
            s=6,
            color=colour,
            alpha=0.5,
            linewidths=0,
            rasterized=True,
        )
    low, high = float(params["low"]), float(params["high"])
    ax.plot(
        [low, high, high, low, low],
        [low, low, high, high, low],
        color="black",
        linewidth=0.8,
        linestyle="--",
    )
    words = [str(c).removeprefix("fraction_") for c in (x, y)]
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
    ax.set(xlabel=f"Share of {words[0]} cells", ylabel=f"Share of {words[1]} cells")
    text = f"{int(inside.sum()):,} of {len(table):,} concepts are multimodal"
    heading(ax, f"{name}: {text}" if name else text, None)


@drawn
def differential_concepts(
    data: Data | Mapping[str, Data],
    *,
    key: str = "differential_concepts",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how many perturbations move at least one concept (PETRI, Fig. 5a).

    Parameters
    ----------
    data
        Data on which :func:`cellfuse.tl.differential_concepts` was run; or several by name, such
        as ``{"PETRI": mdata, "permuted": twin, "ViT MAE": images}``, a bar each.
    key
        Key of ``.uns``.
    {palette}
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The tool was not run.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> counts = pd.DataFrame({"n": [3.0, 0.0], "cells": [50, 40]}, index=["A", "B"])
    >>> kept = {"counts": counts, "params": {"alpha": 0.05}}
    >>> cells = ad.AnnData(shape=(1, 1), uns={"differential_concepts": kept})
    >>> cf.pl.differential_concepts(cells).containers[0].datavalues.tolist()
    [1]
    """
    run = "cellfuse.tl.differential_concepts(data, by, control=...)"
    named = _named(data)
    kept = {name: kept_of(one, key, ("counts", "params"), run=run) for name, one in named.items()}
    moved, tested = {}, {}
    for name, found in kept.items():
        counts = found["counts"]
        for column in counts.columns:
            if str(column) == "n" or str(column).startswith("n_"):
                modality = str(column)[2:]
                moved[name, modality] = int((counts[column] > 0).sum())
                tested[name, modality] = int(counts[column].notna().sum())
    modalities = list(dict.fromkeys(modality for _, modality in moved))
    colours = colours_of(named, palette)
    ax = one_axes(ax, (1.4 + 0.55 * len(modalities) * len(named), 3.4), figsize)
    step = 0.8 / len(named)
    for k, name in enumerate(named):
        here = [i for i, m in enumerate(modalities) if (name, m) in moved]
        values = [moved[name, modalities[i]] for i in here]
        x = np.array(here) + (k - (len(named) - 1) / 2) * step
        bars = ax.bar(x, values, width=0.9 * step, color=colours[name], label=name or None)
        ax.bar_label(
            bars,
            [f"{v}/{tested[name, modalities[i]]}" for i, v in zip(here, values, strict=True)],
            fontsize=7,
        )
    ax.set_xticks(range(len(modalities)), [m or "cells" for m in modalities])
    alpha = float(next(iter(kept.values()))["params"]["alpha"])
    ax.set_ylabel(f"Perturbations with a concept (q < {alpha:g})")
    if len(named) > 1:
        ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title is not None:
        heading(ax, "", title)
    return finish(ax, show=show, save=save, name="differential_concepts", return_fig=return_fig)


@drawn
def batch_predictability(
    data: Data,
    *,
    key: str = "batch_predictability",
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how well the well is told from multimodal and from random concepts (PETRI, Fig. 5c).

    Each point is one draw of cells and concepts; the bar is the mean, the dotted line what
    guessing the largest batch gives.

    Parameters
    ----------
    data
        Data on which :func:`cellfuse.tl.batch_predictability` was run.
    key
        Key of ``.uns``.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The tool was not run.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> draws = pd.DataFrame({"modality": "image", "accuracy": [0.3, 0.4], "chance": 0.2})
    >>> draws["accuracy_random"] = [0.6, 0.7]
    >>> table = pd.DataFrame({"pvalue": [0.01], "n_concepts": [9]}, index=["image"])
    >>> kept = {"draws": draws, "table": table}
    >>> cells = ad.AnnData(shape=(1, 1), uns={"batch_predictability": kept})
    >>> cf.pl.batch_predictability(cells).get_ylabel()
    'Test accuracy of the batch'
    """
    run = "cellfuse.tl.batch_predictability(data, batch_key)"
    kept = kept_of(data, key, ("draws", "table"), run=run)
    draws, table = kept["draws"], kept["table"]
    modalities = list(dict.fromkeys(draws["modality"]))
    ax = one_axes(ax, (1.6 + 1.6 * len(modalities), 3.6), figsize)
    rng = np.random.default_rng(0)
    for i, modality in enumerate(modalities):
        part = draws[draws["modality"] == modality]
        for k, (column, label) in enumerate(
            (("accuracy", "multimodal concepts"), ("accuracy_random", "random concepts"))
        ):
            x = i + (-0.2, 0.2)[k]
            values = part[column].to_numpy(float)
            colour = (COLOURS[1], GREY)[k]
            ax.scatter(
                x + rng.uniform(-0.07, 0.07, len(values)),
                values,
                s=12,
                color=colour,
                alpha=0.7,
                linewidths=0,
                label=label if i == 0 else None,
            )
            ax.plot([x - 0.13, x + 0.13], [values.mean()] * 2, color=colour, linewidth=2)
        chance = float(part["chance"].mean())
        ax.plot(
            [i - 0.4, i + 0.4],
            [chance, chance],
            color="black",
            linestyle=":",
            linewidth=1,
            label="largest batch" if i == 0 else None,
        )
    labels = [
        f"{m or 'cells'}\n{int(table.loc[m, 'n_concepts'])} concepts\n"
        f"p = {float(table.loc[m, 'pvalue']):.2g}"
        for m in modalities
    ]
    ax.set_xticks(range(len(modalities)), labels)
    ax.set(ylabel="Test accuracy of the batch", xlim=(-0.6, len(modalities) - 0.4))
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title is not None:
        heading(ax, "", title)
    return finish(ax, show=show, save=save, name="batch_predictability", return_fig=return_fig)
