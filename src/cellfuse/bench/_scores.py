"""From cell embeddings to corrected profiles and their scores."""

from __future__ import annotations

import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfuse import pp, tl
from cellfuse._access import control_mask
from cellfuse._errors import MissingKeyError, listing
from cellfuse.bench._read import has_label, together
from cellfuse.bench._settings import Settings
from cellfuse.kernels.cosine import unit_rows
from cellfuse.pp._rank import FewRowsWarning

__all__ = ["Both", "Scored", "correct", "metrics_table", "score"]

REP = "rep"
Both = Literal["average", "concatenation"]


@dataclass(frozen=True)
class Scored:
    """Profiles of one method by name (a modality's role, or both together), and their scores."""

    method: str
    guides: dict[str, AnnData]
    genes: dict[str, AnnData]
    rows: list[dict[str, Any]]

    @property
    def best(self) -> str:
        """Name of the profile that uses all there is: the last."""
        return list(self.guides)[-1]


def correct(cells: MuData, settings: Settings, roles: dict[str, str]) -> None:
    """Centre and scale by the controls, then whiten each modality without turning it (ZCA)."""
    batch_key = settings.batch_key
    if batch_key is not None and not isinstance(batch_key, str):
        unknown = [role for role in batch_key if role not in roles]
        if unknown:
            raise ValueError(
                f"batch_key (--batch-key) names {listing(unknown)}; the roles of this run are "
                f"{listing(roles)}."
            )
        batch_key = {name: batch_key.get(role) for role, name in roles.items()}
    pp.robust_center_scale(
        cells,
        use_rep=REP,
        control_key=settings.control_key,
        control=settings.control,
        batch_key=batch_key,
        within=settings.background_key,
    )
    # The paper's recipe is full whitening, however few the cells of a screen are.
    with warnings.catch_warnings(action="ignore", category=FewRowsWarning):
        pp.whiten(cells, use_rep=REP, method="zca", within=settings.background_key)


def score(
    cells: MuData, settings: Settings, *, method: str, roles: dict[str, str], both: Both
) -> Scored:
    """Aggregate corrected cells to profiles and score these.

    `both` is how two modalities become one profile: their average, which needs a shared space, or
    their concatenation at equal length, whose cosine is the mean of the modalities' cosines.
    """
    guides = _profiles(cells, by=settings.contexts, within=None, roles=roles, both=both)
    genes: dict[str, AnnData] = {}
    if settings.target_key is not None:
        targeted = _targeted_cells(cells, settings.target_key)
        by = [key for key in (settings.background_key, settings.target_key) if key is not None]
        genes = _profiles(targeted, by=by, within=settings.contexts, roles=roles, both=both)
    rows = []
    for name, profiles in guides.items():
        row: dict[str, Any] = {"method": method, "profile": name, "n_profiles": profiles.n_obs}
        if settings.target_key is not None:
            row |= _consistency(profiles, settings)
            if settings.edges is not None:
                row |= _edges(genes[name], settings)
        rows.append(row)
    return Scored(method, guides, genes, rows)


def _profiles(
    cells: MuData,
    *,
    by: list[str],
    within: list[str] | None,
    roles: dict[str, str],
    both: Both,
) -> dict[str, AnnData]:
    """Profiles of each modality, then of both, all over the same groups."""
    own = {
        role: tl.aggregate(cells.mod[name], by=by, within=within, use_rep=REP)
        for role, name in roles.items()
    }
    if len(own) < 2:
        return own
    if both == "average":
        joint = tl.aggregate(cells, by=by, within=within, use_rep=REP)
        shared = joint.obs_names
    else:
        first, second = own.values()
        shared = first.obs_names.intersection(second.obs_names)
        units = [unit_rows(profiles[shared].X) for profiles in own.values()]
        joint = AnnData(np.hstack(units).astype(np.float32), obs=first[shared].obs.copy())
    return {**{role: profiles[shared].copy() for role, profiles in own.items()}, both: joint}


def _targeted_cells(cells: MuData, target_key: str) -> MuData:
    parts = {}
    for name, adata in cells.mod.items():
        kept = has_label(adata.obs[target_key])
        if not kept.any():
            raise ValueError(f"no cell of modality {name!r} has a target in obs[{target_key!r}].")
        parts[name] = adata if kept.all() else adata[kept].copy()
    return together(parts)


def _tested(profiles: AnnData, settings: Settings) -> AnnData:
    """Profiles with a target that are no controls."""
    assert settings.target_key is not None
    kept = has_label(profiles.obs[settings.target_key])
    key, control = settings.control_key, settings.control
    if control is not None and key is not None and key in profiles.obs:
        with suppress(MissingKeyError):  # profiles of controls need not be among them
            kept = kept & ~control_mask(profiles, key, control)
    if not kept.any():
        raise ValueError(f"no profile but controls has a target in obs[{settings.target_key!r}].")
    return profiles[kept].copy()


def _consistency(profiles: AnnData, settings: Settings) -> dict[str, Any]:
    assert settings.target_key is not None
    tested = _tested(profiles, settings)
    apart = [k for k in (settings.background_key, settings.target_key) if k is not None]
    if tested.obs[apart].astype(str).value_counts().max() < 2:
        warnings.warn(
            f"every target in obs[{settings.target_key!r}] has one profile: whether profiles of a "
            "target agree is not tested.",
            UserWarning,
            stacklevel=2,
        )
        return {"share_consistent": np.nan, "n_targets": 0}
    table = tl.guide_consistency(
        tested,
        target_key=settings.target_key,
        control=None,
        background_key=settings.background_key,
        n_null=settings.n_null,
        seed=settings.seed,
    )
    profiles.uns["guide_consistency"] = tested.uns["guide_consistency"]
    return {
        "share_consistent": table.attrs["share_significant"],
        "n_targets": int(table["pvalue"].notna().sum()),
        "similarity": float(table["similarity"].mean()),
        "null_similarity": float(table["null_mean"].mean()),
    }


def _edges(genes: AnnData, settings: Settings) -> dict[str, Any]:
    assert settings.edges is not None
    tested = _tested(genes, settings)
    table = tl.edge_classification(
        tested,
        settings.edges,
        # Beside a background the names of the profiles are no longer those of the targets.
        gene_key=None if settings.background_key is None else settings.target_key,
        background_key=settings.background_key,
        score_threshold=settings.score_threshold,
        n_boot=settings.n_boot,
        seed=settings.seed,
    )
    genes.uns["edge_classification"] = tested.uns["edge_classification"]
    return {str(name): value for name, value in table.iloc[-1].items()}


def metrics_table(scored: list[Scored], kinds: dict[str, str]) -> pd.DataFrame:
    """One row per method and profile; `kinds` says what a method's profile is made of."""
    first = ["method", "profile", "what"]
    scores = ["tpr", "tpr_low", "tpr_high", "auc", "auc_low", "auc_high", "n_edges", "n_negatives"]
    scores += ["n_genes", "share_consistent", "n_targets", "similarity", "null_similarity"]
    rows = [
        {**row, "what": kinds.get(f"{s.method}/{row['profile']}", "")}
        for s in scored
        for row in s.rows
    ]
    table = pd.DataFrame(rows)
    for column in table.columns[table.columns.str.startswith("n_")]:
        table[column] = table[column].round().astype(int)  # means over backgrounds
    return table[[c for c in [*first, *scores, "n_profiles"] if c in table]]
