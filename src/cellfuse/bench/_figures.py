"""The figures of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse import pl
from cellfuse.bench._scores import Scored
from cellfuse.bench._settings import Settings
from cellfuse.pl._figure import figure_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_figures", "umap_of"]

#: Cells of each modality in the UMAP.
MAX_CELLS = 5000
#: Labels of the UMAP that get a colour of their own.
MAX_LABELS = 10
GREY = "#c8c8c8"
MODALITY_COLOURS = ("#0072B2", "#D55E00")


def umap_of(arrays: Mapping[str, NDArray[np.float32]], *, seed: int) -> dict[str, NDArray]:
    """Place the rows of several arrays of one space in one UMAP."""
    joint = AnnData(np.concatenate(list(arrays.values())))
    sc.pp.neighbors(
        joint,
        n_neighbors=min(15, joint.n_obs - 1),
        use_rep="X",
        metric="cosine",
        # Exact, which few cells allow; scanpy's other way fails on SciPy without `getnnz`.
        transformer="sklearn",
        random_state=seed,
    )
    # Spectral starts fail on few points.
    start = "spectral" if joint.n_obs > 100 else "random"
    sc.tl.umap(joint, init_pos=start, random_state=seed)
    ends = np.cumsum([len(array) for array in arrays.values()])[:-1]
    return dict(zip(arrays, np.split(joint.obsm["X_umap"], ends), strict=True))


def drawn_rows(n: int, *, seed: int) -> NDArray[np.int64]:
    """Rows of a modality that the UMAP shows."""
    if n <= MAX_CELLS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, MAX_CELLS, replace=False))


def draw_figures(
    folder: Path,
    *,
    screen: MuData,
    cells: MuData,
    scored: list[Scored],
    model: Any,
    metrics: pd.DataFrame,
    settings: Settings,
) -> dict[str, tuple[str, str]]:
    """Draw everything there is something to draw of.

    Returns
    -------
    File name -> title and caption, in the order of the report.
    """
    folder.mkdir()
    petri = next(s for s in scored if s.method == "PETRI")
    best = petri.best
    done: dict[str, tuple[str, str]] = {}

    if {"tpr", "share_consistent"} & set(metrics):
        _metrics(metrics, save=folder / "metrics.png")
        done["metrics.png"] = ("Scores at a glance", METRICS)
    if "edge_classification" in petri.genes.get(best, AnnData()).uns:
        curves = {
            f"{s.method}, {name}": s.genes[name]
            for s in scored
            for name in (s.guides if s is petri else [s.best])
        }
        _close(pl.roc(curves, save=folder / "roc.png"))
        done["roc.png"] = ("Known pairs of targets", ROC)
    if "guide_consistency" in petri.guides[best].uns:
        _close(pl.guide_consistency(petri.guides[best], save=folder / "guide_consistency.png"))
        done["guide_consistency.png"] = (
            "Profiles of the same target",
            f"PETRI, {best}. {CONSISTENCY}",
        )
    _umap(folder / "umap.png", cells=cells, petri=petri, settings=settings)
    done["umap.png"] = ("Cells and profiles in PETRI's space", UMAP)
    profiles = petri.genes.get(best, petri.guides[best])
    if 2 < profiles.n_obs <= 500:
        groupby = settings.colour_key if settings.colour_key in profiles.obs else None
        _close(pl.similarity(profiles, by=groupby, save=folder / "similarity.png"))
        done["similarity.png"] = ("Similarity of profiles", f"PETRI, {best}. {SIMILARITY}")
    _close(pl.training_curves(model, save=folder / "training.png"))
    done["training.png"] = ("Training", TRAINING)
    _close(
        pl.contexts(
            screen, settings.contexts, set_size=settings.set_size, save=folder / "contexts.png"
        )
    )
    done["contexts.png"] = ("Cells per context", CONTEXTS)
    return done


def _close(axes: Any) -> None:
    plt.close(figure_of(np.atleast_1d(axes)[0]))


# -- figures that are this report's own ------------------------------------------------------------


def _metrics(metrics: pd.DataFrame, *, save: Path) -> None:
    """One line per profile and score, with its interval where there is one."""
    panels = {
        "tpr": "True positive rate at 5% false positives",
        "share_consistent": "Share of consistent targets",
    }
    panels = {k: v for k, v in panels.items() if k in metrics and metrics[k].notna().any()}
    if not panels:
        return
    labels = (metrics["method"] + ", " + metrics["profile"]).tolist()
    at = np.arange(len(metrics))[::-1]
    methods = list(dict.fromkeys(metrics["method"]))
    colours = dict(zip(methods, ("#0072B2", "#E69F00", "#767676"), strict=False))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(1.8 + 3.6 * len(panels), 1.2 + 0.32 * len(metrics)),
        layout="constrained",
        squeeze=False,
        sharey=True,
    )
    for ax, (name, title) in zip(axes[0], panels.items(), strict=True):
        for y, (_, row) in zip(at, metrics.iterrows(), strict=True):
            colour = colours[row["method"]]
            if f"{name}_low" in metrics:
                ax.plot([row[f"{name}_low"], row[f"{name}_high"]], [y, y], color=colour, lw=2)
            ax.plot(row[name], y, "o", color=colour, markersize=7)
            ax.annotate(
                f"{row[name]:.2f}",
                (row[name], y),
                (0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )
        if name == "tpr":
            ax.axvline(0.05, color=GREY, linestyle="--", linewidth=1, zorder=0)
        ax.set(xlim=(-0.08, 1.08), ylim=(-0.6, len(at) - 0.3), xlabel=title)
        ax.set_yticks(at, labels)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(save, dpi=150)
    plt.close(figure)


def _umap(path: Path, *, cells: MuData, petri: Scored, settings: Settings) -> None:
    """Cells (above) and profiles (below) of both modalities, by modality and by label."""
    of_cell = {}
    for name, adata in cells.mod.items():
        rows = drawn_rows(adata.n_obs, seed=settings.seed)
        of_cell[name] = (adata.obsm["rep"][rows], adata.obs.iloc[rows])
    own = [name for name in petri.guides if name not in ("average", "concatenation")]
    of_guide = {role: (petri.guides[role].X, petri.guides[role].obs) for role in own}
    key = settings.colour_key or settings.target_key or settings.contexts[0]
    colours = _label_colours([obs for _, obs in of_cell.values()], key, settings)
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 8.6), layout="constrained")
    for panels, parts, what, size in (
        (axes[0], of_cell, "cells", 5),
        (axes[1], of_guide, f"profiles ({', '.join(settings.contexts)})", 22),
    ):
        places = umap_of({name: array for name, (array, _) in parts.items()}, seed=settings.seed)
        # One order for all points, so that no modality hides the other.
        order = np.random.default_rng(settings.seed).permutation(sum(map(len, places.values())))
        xy = np.concatenate(list(places.values()))[order]
        modality = np.repeat(list(places), [len(p) for p in places.values()])[order]
        palette = dict(zip(places, MODALITY_COLOURS, strict=False))
        _points(panels[0], xy, [palette[m] for m in modality], size)
        panels[0].set_title(f"{len(xy):,} {what}", loc="left", fontsize="medium")
        _key(panels[0], palette)
        columns = [
            obs[key] if key in obs else pd.Series("", index=obs.index) for _, obs in parts.values()
        ]
        labels = pd.concat([c.astype(str) for c in columns]).to_numpy()[order]
        grey = np.array([label not in colours for label in labels])
        _points(panels[1], xy[grey], GREY, size / 2)
        _points(panels[1], xy[~grey], [colours[label] for label in labels[~grey]], size)
        panels[1].set_title(f"the same, by {key}", loc="left", fontsize="medium")
        _key(panels[1], {**colours, "other": GREY} if grey.any() else colours)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _label_colours(tables: list[pd.DataFrame], key: str, settings: Settings) -> dict[str, Any]:
    """Colours of the labels with most cells; controls and the rest are grey."""
    parts = []
    for obs in tables:
        kept = np.ones(len(obs), dtype=bool)
        if settings.control is not None:
            kept = (obs[settings.control_key].astype(str) != settings.control).to_numpy()
        parts.append(obs.loc[kept, key].astype(str))
    counts = pd.concat(parts).value_counts()
    chosen = sorted(label for label in counts.index if label not in ("", "nan", "none"))
    if len(chosen) > 2 * MAX_LABELS:
        first = [label for label in counts.index if label in set(chosen)][:MAX_LABELS]
        chosen = sorted(first)
    palette = plt.get_cmap("tab10" if len(chosen) <= 10 else "tab20")
    return {label: palette(k) for k, label in enumerate(chosen)}


def _points(ax: Axes, xy: NDArray, colours: Any, size: float) -> None:
    ax.scatter(xy[:, 0], xy[:, 1], c=colours, s=size, linewidths=0, alpha=0.8, rasterized=True)
    ax.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
    ax.spines[["top", "right"]].set_visible(False)


def _key(ax: Axes, palette: Mapping[str, Any]) -> None:
    for label, colour in palette.items():
        ax.scatter([], [], color=colour, s=30, label=label)
    ax.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8, handletextpad=0.2
    )


METRICS = (
    "Every profile that was scored; lines are 95% bootstrap intervals over genes, the dashed line "
    "is chance."
)
ROC = (
    "Pairs of targets ranked by the cosine of their profiles: known pairs against pairs without an "
    "edge. The dotted diagonal is chance; the points mark 5% false positives."
)
CONSISTENCY = (
    "Mean cosine between the profiles of one target, beside what profiles of unrelated targets "
    "reach; filled points stand out after correction for the number of targets."
)
UMAP = (
    "One UMAP of both modalities after correction, cells above, profiles below. A UMAP shows "
    "neighbourhoods, not distances; single cells vary more by their own state than by what was "
    "done to them, so that profiles part more clearly. Islands of cells within one modality are "
    "often its batches: the median of few control cells removes most of a batch, not all."
)
SIMILARITY = "Cosine of all pairs of profiles, grouped where a grouping was given."
TRAINING = (
    "Loss of the hidden patches and genes by epoch, in training and on held-out cells of the same "
    "contexts. Curves that still fall at the end ask for more epochs."
)
CONTEXTS = (
    "Share of contexts with at most so many cells. Left of the set size, the same cell stands in a "
    "document more than once, differently masked."
)
