"""The figures of a report, as PNGs in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse import pl, tl
from cellfuse._access import context_labels
from cellfuse._mudata import make_mudata
from cellfuse.bench._hits import Best
from cellfuse.bench._views import REP, View

__all__ = ["DPI", "Figure", "figures_of", "umap_of"]

#: Dots per inch of a figure in the page, for screens with two pixels to one of CSS.
DPI = 150
#: Cells of each modality in the map.
MAX_CELLS = 4000
#: Profiles of which all similarities are drawn.
MAX_PROFILES = 500


@dataclass(frozen=True)
class Figure:
    """A picture with its heading and what it shows."""

    name: str
    title: str
    caption: str
    png: bytes

    @property
    def width(self) -> int:
        """Width in CSS pixels, that it is shown at the size it was drawn for."""
        return round(int.from_bytes(self.png[16:20], "big") * 96 / DPI)


def figures_of(
    table: pd.DataFrame, best: Best | None, edges: pd.DataFrame | None, *, colour_key: str | None
) -> list[Figure]:
    """Draw everything there is something to draw of."""
    found = []
    if len(table):
        found.append(_drawn("metrics", "Scores at a glance", METRICS, pl.benchmark, table))
    if best is None:
        return found
    which = f"{best.method}, {best.fused.name}. "
    if edges is not None and best.fused.genes is not None:
        curves = _curves(best, edges)
        if curves:
            found.append(_drawn("roc", "Known pairs of targets", which + ROC, pl.roc, curves))
    consistent = _consistency(best.fused)
    if consistent is not None:
        found.append(
            _drawn(
                "guide_consistency", "Profiles of the same target", which + CONSISTENCY,
                pl.guide_consistency, consistent,
            )
        )  # fmt: skip
    found.append(
        _drawn("umap", f"Cells in the space of {best.method}", UMAP, _umap, best.fused, colour_key)
    )
    genes = best.fused.genes if best.fused.genes is not None else best.fused.guides
    if 2 < genes.n_obs <= MAX_PROFILES and best.fused.use_sim is None:
        by = colour_key if colour_key in genes.obs else None
        found.append(
            _drawn(
                "similarity", "Similarity of profiles", which + SIMILARITY, pl.similarity, genes,
                by=by,
            )
        )  # fmt: skip
    history = {name: pd.Series(values) for name, values in best.history.items() if values}
    if history:
        found.append(
            _drawn("training", f"Training of {best.method}", TRAINING, pl.training_curves, history)
        )
    return found


def _drawn(
    name: str, title: str, caption: str, draw: Callable[..., Any], *args: Any, **kwargs: Any
) -> Figure:
    figure = draw(*args, **kwargs, return_fig=True)
    with pl.style():
        buffer = BytesIO()
        figure.savefig(buffer, dpi=DPI, format="png", bbox_inches="tight")
    plt.close(figure)
    return Figure(name, title, caption, buffer.getvalue())


def _curves(best: Best, edges: pd.DataFrame) -> dict[str, AnnData]:
    """ROC curves of each modality and of both together."""
    curves = {}
    for view in best.views:
        if view.genes is None or view.design.background_key is not None:
            continue
        genes = view.tested(view.genes)
        tl.edge_classification(genes, edges, use_sim=view.use_sim, n_boot=0, seed=view.seed)
        curves[view.name] = genes
    return curves


def _consistency(view: View) -> AnnData | None:
    if view.design.target_key is None:
        return None
    tested = view.tested(view.guides)
    counts = context_labels(tested, view.target_key).value_counts()
    if not 1 < counts.max() <= len(counts):  # a null set takes each profile from another target
        return None
    tl.guide_consistency(
        tested, target_key=view.target_key, control=None, use_sim=view.use_sim,
        background_key=view.design.background_key, n_boot=0, seed=view.seed,
    )  # fmt: skip
    return tested


def umap_of(arrays: Mapping[str, NDArray], *, seed: int) -> dict[str, NDArray]:
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


def _umap(view: View, colour_key: str | None, *, return_fig: bool) -> Any:
    """Corrected cells of all modalities, by modality, batch and label."""
    rng = np.random.default_rng(view.seed)
    parts: dict[str, AnnData] = {}
    for role, name in view.roles.items():
        adata = view.cells.mod[name]
        rows = np.sort(rng.permutation(adata.n_obs)[:MAX_CELLS])
        parts[role] = AnnData(
            obs=adata.obs.iloc[rows].copy(), obsm={REP: np.asarray(adata.obsm[REP])[rows]}
        )
    widths = {part.obsm[REP].shape[1] for part in parts.values()}
    groups = [parts] if len(widths) == 1 else [{role: part} for role, part in parts.items()]
    for group in groups:
        places = umap_of({r: a.obsm[REP] for r, a in group.items()}, seed=view.seed)
        for role, xy in places.items():
            parts[role].obsm["X_umap"] = xy
    if len(groups) > 1:  # two spaces: one beside the other
        first, second = parts.values()
        gap = np.ptp(first.obsm["X_umap"][:, 0]) * 1.1
        second.obsm["X_umap"] = second.obsm["X_umap"] + np.array([gap, 0.0])
    design = view.design
    batch = design.batch_key
    batches = [batch] if isinstance(batch, str) else list((batch or {}).values())
    labels = [colour_key or design.target_key or design.contexts[0]]
    color = ["modality", *dict.fromkeys(k for k in [*batches, *labels] if k)]
    control = () if design.control is None else design.control
    return pl.umap(make_mudata(parts), color=color, control=control, return_fig=return_fig)


METRICS = (
    "Medians over seeds with the lowest and the highest seed (of one seed: its bootstrap interval "
    "over targets). The dotted line is the ceiling: the same metric where the truth is known."
)
ROC = (
    "Pairs of targets ranked by the cosine of their profiles: known pairs against pairs without an "
    "edge. The diagonal is chance; the points mark 5% false positives."
)
CONSISTENCY = (
    "Mean cosine between the profiles of one target, beside what profiles of unrelated targets "
    "reach; filled points stand out after correction for the number of targets."
)
UMAP = (
    "Cells after correction. A UMAP shows neighbourhoods, not distances; single cells vary more by "
    "their own state than by what was done to them. Islands of one modality or one batch say that "
    "the map shows how cells were measured. Modalities without a shared space lie side by side."
)
SIMILARITY = "Cosine of all pairs of profiles."
TRAINING = "Losses by epoch. Curves that still fall at the end ask for more epochs."
