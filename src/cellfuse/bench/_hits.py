"""What a screen found: the profiles of the best method, and the tables of hits made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse import tl
from cellfuse._access import context_labels, pair_labels
from cellfuse.bench._methods import without_controls
from cellfuse.bench._screen import Screen
from cellfuse.bench._tasks import Job, Task
from cellfuse.bench._views import View, correct, views_of
from cellfuse.kernels.cosine import unit_rows

__all__ = ["Best", "best_of", "hits_of"]

#: Metrics by which the best method is chosen, in this order.
BY = (
    ("edges", "auc"),
    ("relationship_recall", "recall"),
    ("guide_consistency", "consistent"),
    ("mean_average_precision", "map"),
)
#: Pairs of profiles in the tables.
N_PAIRS = 40
#: Rows of the matrix of cosines at a time.
BLOCK = 1024
#: Share of the controls that a perturbation must pass to be active.
ACTIVE = 0.95


@dataclass(frozen=True)
class Best:
    """The method whose profiles are looked at: its views on one seed's screen."""

    method: str
    correction: str
    seed: int
    views: tuple[View, ...]
    history: dict[str, list[float]]
    model: str

    @property
    def fused(self) -> View:
        """The view that uses all there is: the last."""
        return self.views[-1]


def best_of(
    job: Job, tasks: list[Task], screen: Screen, scores: pd.DataFrame, seed: int
) -> Best | None:
    """The method with the highest median, its profiles made again; None if nothing was scored."""
    chosen = _chosen(scores)
    if chosen is None:
        return None
    method, correction = chosen
    task = next(t for t in tasks if t.label == method and t.seed == seed)
    assert task.method is not None
    arrays: dict[str, Any] = {}
    for role, folder in task.parts:
        found, _ = job.store.read_embedding(folder)
        arrays |= {r: a for r, a in found.items() if role in ("", r)}
    about = job.store.about(task.parts[0][1])
    cells = screen.cells({screen.roles[role]: array for role, array in arrays.items()})
    correct(cells, screen, correction)
    views = views_of(cells, screen, fusion=task.method.fusion, seed=seed)
    source = task.method.sources.get("")
    return Best(
        method, correction, seed, tuple(views), about.get("training", {}),
        source.name if source is not None and source.kind == "model" else "",
    )  # fmt: skip


def _chosen(scores: pd.DataFrame) -> tuple[str, str] | None:
    known = scores[(scores["score"] != "") & ~scores["ceiling"]].dropna(subset=["value"])
    known = without_controls(known)
    for metric, score in BY:
        part = known[(known["metric"] == metric) & (known["score"] == score)]
        if len(part):
            medians = part.groupby(["method", "correction", "view"], sort=False)["value"].median()
            method, correction, _ = medians.index[int(medians.argmax())]
            return str(method), str(correction)
    if known.empty:
        return None
    return str(known["method"].iloc[0]), str(known["correction"].iloc[0])


# -- tables ---------------------------------------------------------------------------------------


def hits_of(view: View, edges: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    """Active and consistent perturbations, and the most similar pairs, known and new.

    ``perturbations``: one row per target: ``strength`` (length of its profile over the median
    length of the controls' or, without controls, of all), ``active`` (longer than 95% of the
    controls' profiles), ``similarity`` of its contexts and ``consistent``. ``pairs``: the most
    similar pairs, ``known`` where the edges list them. ``new``: those that are not known.
    """
    if view.genes is None:
        return {}
    found = {"perturbations": _perturbations(view)}
    genes = view.tested(view.genes)
    found |= _pairs(genes, view.use_sim, edges)
    return found


def _perturbations(view: View) -> pd.DataFrame:
    assert view.genes is not None
    tested = view.tested(view.guides)
    targets = context_labels(tested, view.target_key)
    table = pd.DataFrame(index=pd.Index(sorted(targets.unique()), name="target"))
    table["profiles"] = targets.value_counts().reindex(table.index).to_numpy()
    if view.use_sim is None:
        lengths = _lengths(view.guides)
        control = view.controls(view.guides)
        reference = lengths[control] if control.any() else lengths
        own = pd.Series(_lengths(tested), index=targets.to_numpy()).groupby(level=0).mean()
        table["strength"] = own.reindex(table.index).to_numpy() / np.median(reference)
        if control.any():
            table["active"] = own.reindex(table.index).to_numpy() > np.quantile(reference, ACTIVE)
    # A null set takes each profile from another target.
    if 1 < targets.value_counts().max() <= targets.nunique():
        agreed = tl.guide_consistency(
            tested, target_key=view.target_key, control=None, use_sim=view.use_sim,
            background_key=view.design.background_key, n_boot=0, seed=view.seed,
        )  # fmt: skip
        agreed = agreed.groupby(level=0).agg({"similarity": "mean", "significant": "any"})
        table["similarity"] = agreed["similarity"].reindex(table.index)
        table["consistent"] = agreed["significant"].reindex(table.index, fill_value=False)
    keys = [k for k in ("consistent", "active", "similarity", "strength") if k in table]
    return table.sort_values(keys, ascending=False).reset_index()


def _lengths(profiles: AnnData) -> NDArray[np.float64]:
    return np.linalg.norm(np.asarray(profiles.X, dtype=np.float64), axis=1)


def _pairs(
    genes: AnnData, use_sim: str | None, edges: pd.DataFrame | None
) -> dict[str, pd.DataFrame]:
    names = genes.obs_names.to_numpy(str)
    units = None if use_sim is not None else unit_rows(np.asarray(genes.X, dtype=np.float64))
    known = set()
    if edges is not None:
        known = {frozenset(p) for p in pair_labels(edges).to_numpy().tolist()}
    candidates: list[tuple[float, int, int]] = []
    n_known = min(len(known), 20 * N_PAIRS)
    for start in range(0, len(names), BLOCK):
        stop = min(start + BLOCK, len(names))
        block = genes.obsp[use_sim][start:stop] if units is None else units[start:stop] @ units.T
        block = np.asarray(block)
        i, j = np.nonzero(np.arange(len(names)) > np.arange(start, stop)[:, None])
        values = block[i, j]
        most = np.argsort(-values)[: N_PAIRS + n_known]
        candidates += [(float(values[k]), int(i[k]) + start, int(j[k])) for k in most]
    candidates.sort(reverse=True)
    rows = [
        {"source": names[i], "target": names[j], "cosine": cosine,
         "known": frozenset((names[i], names[j])) in known}
        for cosine, i, j in candidates
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["source", "target", "cosine", "known"])
    if edges is None:
        return {"pairs": table.drop(columns="known").head(N_PAIRS)}
    return {
        "pairs": table.head(N_PAIRS),
        "new": table[~table["known"].astype(bool)].head(N_PAIRS).reset_index(drop=True),
    }
