"""Figures of who is told from whom: retrieval, transfer, classification, and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    GREY,
    FigSize,
    Save,
    Scored,
    finish,
    heading,
    legend_above,
    named_tables,
    one_axes,
)
from cellfuse.pl._marks import dot_rows, row_height
from cellfuse.pl._style import Palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["classify_treatments", "compare", "knn_accuracy", "one_shot_transfer", "retrieval"]

#: What the rows of a table of retrieval are called.
ENDS = {"value_low": "low", "value_high": "high"}
METRICS = {"mrr": "mean reciprocal rank", "foscttm": "FOSCTTM (0 is perfect)"}


@drawn
def retrieval(
    table: Scored | Mapping[str, Scored],
    *,
    direction: str = "mean",
    key: str = "retrieval",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how well the rows of one modality find those of the other.

    The grey tick is what a random order gives.

    Parameters
    ----------
    table
        What :func:`cellfuse.tl.retrieval` returned (one row per direction and metric), or the
        first of the two AnnData that it was run on; or several as ``{label: table}``.
    direction
        ``"a to b"``, ``"b to a"`` or ``"mean"``.
    key
        Key of ``.uns`` that the table is in, where an AnnData is given.
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
        No such table or direction.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.random.default_rng(0).normal(size=(20, 8))
    >>> obs = pd.DataFrame({"compound": [f"c{i}" for i in range(20)]})
    >>> image = ad.AnnData(x, obs=obs.rename("i{}".format))
    >>> rna = ad.AnnData(x[::-1].copy(), obs=obs[::-1].rename("r{}".format))
    >>> found = cf.tl.retrieval(image, rna, "compound", use_rep=None)
    >>> [tick.get_text() for tick in cf.pl.retrieval(found).get_yticklabels()][::-1][:2]
    ['top 1', 'top 5']
    """
    run = "cellfuse.tl.retrieval(a, b, by, use_rep=...)"
    tables = named_tables(table, key, ("value", "chance"), run=run)
    rows = {}
    for label, one in tables.items():
        if "direction" in one.columns and "metric" in one.columns:
            one = one.set_index(["direction", "metric"])
        known = list(dict.fromkeys(one.index.get_level_values(0)))
        if direction not in known:
            raise missing_key(direction, known, what="the directions")
        part = pd.DataFrame(one.loc[direction]).rename(
            columns={"value_low": "low", "value_high": "high"}
        )
        part.index = [
            METRICS.get(str(name), str(name).replace("top", "top ")) for name in part.index
        ]
        rows[label] = part
    ax = one_axes(ax, (5.6, row_height(rows)), figsize)
    dot_rows(ax, rows, palette=palette)
    ax.set(xlim=(-0.02, 1.04), xlabel="Share of queries, or score")
    asked = next(iter(rows.values()))
    text = f"{int(asked['n_queries'].iloc[0]):,} queries" if "n_queries" in asked else ""
    heading(ax, text, title, pad=24)
    legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="retrieval", return_fig=return_fig)


@drawn
def one_shot_transfer(
    adata: Scored | Mapping[str, Scored],
    *,
    key: str = "one_shot_transfer",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the accuracy of one-shot transfer, one row per length of the list (TIDE, task 1).

    Bars are bootstrap intervals over runs and classes; the grey tick is chance.

    Parameters
    ----------
    adata
        Profiles that :func:`cellfuse.tl.one_shot_transfer` was run on, or its table; or several
        as ``{label: profiles}``.
    key
        Key of ``.uns`` that the table is in.
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
        The profiles were not scored.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.repeat(np.eye(4), 3, axis=0) + 0.01
    >>> obs = pd.DataFrame({"gene": np.repeat(list("ABCD"), 3)}, index=[f"p{i}" for i in range(12)])
    >>> table = cf.tl.knn_accuracy(ad.AnnData(x, obs=obs), use_rep=None, by="gene", k=2)
    >>> cf.pl.one_shot_transfer(table).get_xlabel()
    'Accuracy, mean over classes'
    """
    run = "cellfuse.tl.one_shot_transfer(adata, use_rep=...)"
    ax = _accuracies(named_tables(adata, key, ("accuracy",), run=run), palette, ax, figsize, title)
    return finish(ax, show=show, save=save, name="one_shot_transfer", return_fig=return_fig)


@drawn
def knn_accuracy(
    adata: Scored | Mapping[str, Scored],
    *,
    key: str = "knn_accuracy",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how often the nearest neighbours vote for a profile's own class.

    Bars are bootstrap intervals over classes; the grey tick is chance.

    Parameters
    ----------
    adata
        Profiles that :func:`cellfuse.tl.knn_accuracy` was run on, or its table; or several as
        ``{label: profiles}``.
    key
        Key of ``.uns`` that the table is in.
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
        The profiles were not scored.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.repeat(np.eye(2), 4, axis=0) + 0.01
    >>> obs = pd.DataFrame({"gene": np.repeat(["A", "B"], 4)}, index=[f"p{i}" for i in range(8)])
    >>> table = cf.tl.knn_accuracy(ad.AnnData(x, obs=obs), use_rep=None, by="gene", k=3)
    >>> [tick.get_text() for tick in cf.pl.knn_accuracy(table).get_yticklabels()]
    ['k = 3']
    """
    run = "cellfuse.tl.knn_accuracy(adata, use_rep=...)"
    ax = _accuracies(named_tables(adata, key, ("accuracy",), run=run), palette, ax, figsize, title)
    return finish(ax, show=show, save=save, name="knn_accuracy", return_fig=return_fig)


def _accuracies(
    tables: Mapping[str, pd.DataFrame],
    palette: Palette,
    ax: Axes | None,
    figsize: FigSize,
    title: str | None,
) -> Axes:
    ends = {"accuracy": "value", "accuracy_low": "low", "accuracy_high": "high"}
    rows = {}
    for label, table in tables.items():
        part = table.rename(columns=ends)
        rows[label] = part.set_axis([f"k = {k}" for k in table.index])
    ax = one_axes(ax, (5.4, row_height(rows)), figsize)
    dot_rows(ax, rows, palette=palette)
    ax.set(xlim=(-0.02, 1.04), xlabel="Accuracy, mean over classes")
    first = next(iter(tables.values()))
    text = f"{int(first['n_classes'].iloc[0]):,} classes" if "n_classes" in first else ""
    heading(ax, text, title, pad=24)
    legend_above(ax, 3)
    return ax


@drawn
def classify_treatments(
    table: Scored | Mapping[str, Scored],
    *,
    metric: str = "balanced_accuracy",
    key: str = "classify_treatments",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how well classifiers of each input know the treatment (PhenoSeq, Table 2).

    One row per input and test set; bars are one standard deviation over runs on either side.

    Parameters
    ----------
    table
        What :func:`cellfuse.tl.classify_treatments` returned; or several as ``{label: table}``.
    metric
        ``"balanced_accuracy"``, ``"macro_f1"`` or ``"weighted_f1"``.
    key
        Key of ``.uns`` that the table is in, where data are given.
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
        The table has no such column.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> table = pd.DataFrame(
    ...     {"input": ["image", "image+rna"], "test": "held out", "balanced_accuracy": [0.5, 0.7]}
    ... )
    >>> [tick.get_text() for tick in cf.pl.classify_treatments(table).get_yticklabels()]
    ['image+rna', 'image']
    """
    run = "cellfuse.tl.classify_treatments(data, by, inputs, split_key=...)"
    tables = named_tables(table, key, ("input", "test", metric), run=run)
    tests = {test for one in tables.values() for test in one["test"]}
    rows = {}
    for label, one in tables.items():
        part = pd.DataFrame({"value": one[metric].to_numpy(float)})
        if f"{metric}_sd" in one:
            sd = one[f"{metric}_sd"].to_numpy(float)
            part["low"], part["high"] = part["value"] - sd, part["value"] + sd
        if "chance" in one and metric == "balanced_accuracy":
            part["chance"] = one["chance"].to_numpy(float)
        names = one["input"].astype(str)
        if len(tests) > 1:
            names = names + ", " + one["test"].astype(str)
        rows[label] = part.set_axis(names.tolist())
    ax = one_axes(ax, (5.6, row_height(rows)), figsize)
    dot_rows(ax, rows, palette=palette)
    ax.set(xlim=(-0.02, 1.04), xlabel=metric.replace("_", " ").capitalize())
    if title is not None:
        heading(ax, "", title, pad=24)
    if ax.get_legend_handles_labels()[1]:
        legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="classify_treatments", return_fig=return_fig)


@drawn
def compare(
    result: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    labels: Sequence[str] = ("a", "b"),
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the difference of two embeddings' scores with its interval; 0 is no difference.

    Parameters
    ----------
    result
        What :func:`cellfuse.tl.compare` returned; or several as ``{label: result}``.
    labels
        What the two tables are, for the axis.
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
        It is no such table.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> b = pd.DataFrame({"similarity": rng.normal(size=50)}, index=[f"g{i}" for i in range(50)])
    >>> result = cf.tl.compare(b + 0.5 + rng.normal(size=(50, 1)) / 10, b)
    >>> cf.pl.compare(result, labels=("PETRI", "PCA")).get_xlabel()
    'PETRI − PCA'
    """
    tables = named_tables(
        result, "compare", ("difference", "qvalue"), run="cellfuse.tl.compare(scores_a, scores_b)"
    )
    names = {"difference": "value", "difference_low": "low", "difference_high": "high"}
    rows = {}
    for label, table in tables.items():
        part = table.rename(columns=names)[["value", "low", "high"]]
        marks = np.where(table["qvalue"].to_numpy(float) < 0.05, " *", "")
        rows[label] = part.set_axis(
            [f"{name}{mark}" for name, mark in zip(table.index, marks, strict=True)]
        )
    ax = one_axes(ax, (5.4, row_height(rows)), figsize)
    ax.axvline(0.0, color=GREY, linewidth=1, linestyle="--")
    dot_rows(ax, rows, palette=palette, digits=3)
    ax.set(xlabel=f"{labels[0]} − {labels[1]}")
    heading(ax, "95% intervals; * q < 0.05", title, pad=24 if len(rows) > 1 else None)
    if len(rows) > 1:
        legend_above(ax, 3)
    return finish(ax, show=show, save=save, name="compare", return_fig=return_fig)
