"""Figures of synthetic profiles: ranks by treatment, and real and synthetic cells together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import context_labels
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    COLOURS,
    GREY,
    MAX_TICK_LABELS,
    FigSize,
    Save,
    finish,
    heading,
    one_axes,
    panels,
    stored,
)
from cellfuse.pl._style import CONTROL, Palette, colours_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["fidelity", "real_vs_synthetic"]

MARKERS = {"real": "o", "synthetic": "^"}


@drawn
def fidelity(
    synthetic: AnnData,
    *,
    key: str = "fidelity",
    max_treatments: int = MAX_TICK_LABELS,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the rank and the specificity of each treatment (PhenoSeq, Table 3).

    Bars are the bootstrap intervals of :func:`cellfuse.tl.fidelity`; the dashed lines are what
    chance gives: the middle rank, and no specificity.

    Parameters
    ----------
    synthetic
        Profiles that :func:`cellfuse.tl.fidelity` was run on.
    key
        Key of ``.uns`` that the table is in.
    max_treatments
        The best that are drawn; the title says of how many.
    ax
        Two axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The two axes: rank, specificity.

    Raises
    ------
    KeyError
        :func:`cellfuse.tl.fidelity` was not run.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"drug": ["a", "b", "c"]}, index=list("xyz"))
    >>> real, synthetic = ad.AnnData(np.eye(3), obs=obs), ad.AnnData(np.eye(3), obs=obs)
    >>> _ = cf.tl.fidelity(real, synthetic, "drug", n_boot=0)
    >>> [panel.get_xlabel() for panel in cf.pl.fidelity(synthetic)]
    ['Rank of its real profile', 'Specificity']
    """
    run = "cellfuse.tl.fidelity(real, synthetic, by)"
    kept = stored(synthetic, key, ("table", "summary", "params"), run=run)
    whole, summary = kept["table"], kept["summary"]
    table = whole.iloc[:max_treatments]
    height = 1.1 + 0.19 * len(table)
    axes = panels(ax, 2, (4.2, height), figsize)
    place = np.arange(len(table))[::-1]
    chance = {"rank": (summary["n_ranked"] + 1) / 2, "specificity": 0.0}
    labels = {"rank": "Rank of its real profile", "specificity": "Specificity"}
    for panel, (name, colour) in zip(
        axes, (("rank", COLOURS[0]), ("specificity", COLOURS[1])), strict=True
    ):
        panel.axvline(chance[name], color=GREY, linewidth=1, linestyle="--")
        panel.annotate(
            "chance",
            (chance[name], 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, -1),
            textcoords="offset points",
            va="top",
            fontsize="small",
            color=GREY,
        )
        panel.errorbar(
            table[name],
            place,
            xerr=_spread(table, name),
            fmt="o",
            markersize=4,
            linewidth=1,
            color=colour,
        )
        panel.set(xlabel=labels[name], ylim=(-0.7, len(table) - 0.3))
        panel.set_yticks(place, list(table.index.astype(str)), fontsize="small")
    axes[1].tick_params(labelleft=False)
    shown = "" if len(table) == len(whole) else f"best {len(table)} of {len(whole)}; "
    heading(
        axes[0],
        f"{shown}first: {summary['accuracy_at_1']:.0%}, MRR {summary['mrr']:.2f} "
        f"(chance {summary['chance_mrr']:.2f})",
        title,
    )
    return finish(axes, show=show, save=save, name="fidelity", return_fig=return_fig)


def _spread(table: pd.DataFrame, name: str) -> np.ndarray | None:
    if f"{name}_low" not in table:
        return None
    low = table[name] - table[f"{name}_low"]
    return np.clip(np.stack([low, table[f"{name}_high"] - table[name]]), 0, None)


@drawn
def real_vs_synthetic(
    joint: AnnData,
    *,
    key: str = "real_vs_synthetic",
    inset: str | None = "best",
    palette: Palette = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw real and synthetic profiles of some treatments in one UMAP (PhenoSeq, Fig. 2).

    Circles are real, triangles synthetic; a colour is a treatment. Large filled markers are the
    centroids of each treatment and source. The inset is one treatment, enlarged.

    Parameters
    ----------
    joint
        What :func:`cellfuse.tl.real_vs_synthetic` gave.
    key
        Key of ``.uns`` that the centroids are in.
    inset
        Treatment of the inset; ``"best"`` is the one that ranks first, None draws none.
    palette
        Colours by treatment, a list of colours, or a matplotlib colour map; None colours the
        twelve treatments with most cells and leaves the others grey.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes; the inset is among its ``child_axes``.

    Raises
    ------
    KeyError
        :func:`cellfuse.tl.real_vs_synthetic` was not run, or the treatment is not among those
        shown.

    Examples
    --------
    >>> import cellfuse as cf
    >>> joint = cf.tl.real_vs_synthetic(real, synthetic, "drug")  # doctest: +SKIP
    >>> ax = cf.pl.real_vs_synthetic(joint)  # doctest: +SKIP
    """
    run = "cellfuse.tl.real_vs_synthetic(real, synthetic, by)"
    kept = stored(joint, key, ("by", "best", "centroids"), run=run)
    place = pd.DataFrame(joint.obsm["X_umap"][:, :2], columns=["x", "y"])
    place["treatment"] = context_labels(joint, kept["by"]).to_numpy(str)
    place["source"] = joint.obs["source"].astype(str).to_numpy()
    centroids = kept["centroids"].rename(columns={kept["by"]: "treatment"})
    names = sorted(place["treatment"].unique())
    chosen = kept["best"] if inset == "best" else inset
    if chosen is not None and chosen not in names:
        raise missing_key(chosen, names, what="the treatments shown")
    colours = _palette(place["treatment"], palette, chosen)
    ax = one_axes(ax, (7.4, 5.2), figsize)
    _points(ax, place, centroids, colours)
    ax.set(xlabel="UMAP 1", ylabel="UMAP 2", xticks=[], yticks=[])
    ax.legend(handles=_handles(colours), loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    if chosen is not None:
        small = ax.inset_axes((1.04, 0.0, 0.42, 0.36))
        one = centroids["treatment"] == chosen
        _points(small, place[place["treatment"] == chosen], centroids[one], colours)
        small.set(xticks=[], yticks=[])
        small.set_title(str(chosen), fontsize="small")
    if title is not None:
        heading(ax, "", title)
    return finish(ax, show=show, save=save, name="real_vs_synthetic", return_fig=return_fig)


def _palette(treatments: pd.Series, palette: Palette, first: str | None) -> dict[str, str]:
    """Colours of the treatments with most cells (and of the inset's); the others are grey."""
    counts = treatments.value_counts()
    names = sorted(counts.index, key=lambda name: (name != first, -counts[name], name))
    if palette is not None:
        return colours_of(sorted(names), palette)
    shown = dict(zip(names, COLOURS, strict=False))
    return {name: shown.get(name, CONTROL) for name in sorted(names)}


def _points(
    ax: Axes, place: pd.DataFrame, centroids: pd.DataFrame, colours: dict[str, Any]
) -> None:
    for source, marker in MARKERS.items():
        for table, size, alpha, edge in (
            (place, 10, 0.35, "none"),
            (centroids, 90, 1.0, "black"),
        ):
            part = table[table["source"] == source]
            ax.scatter(
                part["x"],
                part["y"],
                s=size,
                marker=marker,
                c=[colours[name] for name in part["treatment"].astype(str)],
                alpha=alpha,
                edgecolors=edge,
                linewidths=0.8,
            )


def _handles(colours: dict[str, Any]) -> list[Any]:
    from matplotlib.lines import Line2D

    grey = [name for name, colour in colours.items() if colour == CONTROL]
    shown = {name: colour for name, colour in colours.items() if name not in grey}
    if grey:
        shown[f"{len(grey)} others"] = CONTROL

    sources = [
        Line2D([], [], color=GREY, marker=marker, linestyle="none", label=source)
        for source, marker in MARKERS.items()
    ]
    return sources + [
        Line2D([], [], color=colour, marker="s", linestyle="none", label=name)
        for name, colour in shown.items()
    ]
