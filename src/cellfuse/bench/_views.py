"""From embeddings of cells to what metrics are given: corrected profiles of each modality and both.

A *view* is one profile of one method: of the images, of the expression, or of both together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse import pp, tl
from cellfuse._access import context_labels, control_mask
from cellfuse._errors import MissingKeyError, listing, missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench._design import Design
from cellfuse.bench._screen import Screen, has_label
from cellfuse.tl.fusion import Fusion

__all__ = ["CORRECTIONS", "View", "correct", "halves", "views_of"]

REP = "rep"
#: What is done to cells before they are averaged: nothing, robust centring and scaling by the
#: controls (RCC), or RCC and a whitening.
CORRECTIONS = ("none", "rcc", "zca", "pca", "joint")
#: Canonical variates of a late fusion (A.7).
N_VARIATES = 30
#: obsp key of similarities that were fused as such.
COSINE = "cosine"


@dataclass(frozen=True)
class View:
    """What a metric is given.

    Parameters
    ----------
    name
        ``"image"``, ``"rna"``, or the fusion of both (``"average"``, ``"max"``, ...).
    guides
        One profile per context, controls included.
    genes
        One profile per target; None without targets.
    cells
        Corrected cells, ``obsm["rep"]``, by role.
    own
        Context profiles of each modality, by role.
    roles
        Name of each role's modality.
    use_sim
        obsp key where similarities were fused, None where there are embeddings.
    screen
        The screen, as it was read.
    held_out
        Contexts that no model saw.
    seed
        For draws.
    synthetic
        Profiles that the model drew.
    pairs
        Pairs that count as known in the place of what a metric was told: of two halves of the data,
        each target and itself.
    """

    name: str
    guides: AnnData
    genes: AnnData | None
    cells: MuData
    own: Mapping[str, AnnData]
    roles: Mapping[str, str]
    use_sim: str | None
    screen: Screen
    held_out: frozenset[str]
    seed: int
    synthetic: AnnData | None = None
    pairs: pd.DataFrame | None = None

    @property
    def design(self) -> Design:
        """Columns and labels of the screen."""
        return self.screen.design

    @property
    def target_key(self) -> str:
        """The target column, which must have been named."""
        if self.design.target_key is None:
            raise ValueError("this metric needs targets: name their obs column (`target_key`).")
        return self.design.target_key

    def tested(self, profiles: AnnData) -> AnnData:
        """Profiles with a target that are no controls."""
        kept = has_label(profiles.obs[self.target_key]) & ~self.controls(profiles)
        if not kept.any():
            raise ValueError(f"no profile but controls has a target in obs[{self.target_key!r}].")
        return profiles[kept].copy()

    def controls(self, profiles: AnnData) -> NDArray[np.bool_]:
        """Which profiles are of controls."""
        key, control = self.design.control_key, self.design.control
        if control is not None and key is not None and key in profiles.obs:
            with suppress(MissingKeyError):  # profiles of controls need not be among them
                return control_mask(profiles, key, control)
        return np.zeros(profiles.n_obs, bool)

    def unseen(self, profiles: AnnData) -> AnnData:
        """Those of the held-out contexts; all, where nothing was held out."""
        if not self.held_out:
            return profiles
        names = profiles.obs.get("half_of", profiles.obs_names.to_series())
        return profiles[names.isin(self.held_out).to_numpy()].copy()


def correct(cells: MuData, screen: Screen, correction: str) -> None:
    """Centre and scale by the controls, then whiten, within backgrounds."""
    if correction not in CORRECTIONS:
        raise missing_key(correction, CORRECTIONS, what="the corrections")
    if correction == "none":
        return
    design = screen.design
    batch_key = design.batch_key
    if batch_key is not None and not isinstance(batch_key, str):
        unknown = [r for r, key in batch_key.items() if r not in screen.roles and key is not None]
        if unknown and set(screen.roles.values()) == set(cells.mod):
            raise ValueError(
                f"batch_key (--batch-key) names {listing(unknown)}; the roles of this run are "
                f"{listing(screen.roles)}."
            )
        batch_key = {n: batch_key.get(r) for r, n in screen.roles.items() if n in cells.mod}
    pp.robust_center_scale(
        cells,
        use_rep=REP,
        control_key=design.control_key,
        control=design.control,
        batch_key=batch_key,
        within=design.background_key,
    )
    if correction == "rcc":
        return
    pp.whiten(
        cells,
        use_rep=REP,
        method="pca" if correction == "pca" else "zca",
        joint=correction == "joint",
        within=design.background_key,
    )


def views_of(
    cells: MuData,
    screen: Screen,
    *,
    fusion: str,
    seed: int,
    synthetic: AnnData | None = None,
) -> list[View]:
    """Each modality's view, and that of both, all over the same contexts."""
    design = screen.design
    roles = {role: name for role, name in screen.roles.items() if name in cells.mod}
    guides = _aggregated(cells, roles, by=design.contexts, within=None)
    genes: dict[str, AnnData] = {}
    if design.target_key is not None:
        by = [key for key in (design.background_key, design.target_key) if key is not None]
        targeted = _targeted(cells, design.target_key)
        genes = _aggregated(targeted, roles, by=by, within=design.contexts)
    shared = View(
        name="",
        guides=next(iter(guides.values())),
        genes=None,
        cells=cells,
        own=guides,
        roles=roles,
        use_sim=None,
        screen=screen,
        held_out=screen.held_out(),
        seed=seed,
        synthetic=synthetic,
    )
    views = [replace(shared, name=r, guides=guides[r], genes=genes.get(r)) for r in roles]
    if len(roles) == 2:
        use_sim = COSINE if fusion in ("min", "mean", "median", "max") else None
        views.append(
            replace(
                shared,
                name=fusion,
                guides=_fused(guides, fusion),
                genes=_fused(genes, fusion) if genes else None,
                use_sim=use_sim,
            )
        )
    return views


def _aggregated(
    cells: MuData, roles: dict[str, str], *, by: list[str], within: list[str] | None
) -> dict[str, AnnData]:
    """Profiles of each modality, over the groups that all have."""
    own = {
        role: tl.aggregate(cells.mod[name], by=by, within=within, use_rep=REP)
        for role, name in roles.items()
    }
    if len(own) < 2:
        return own
    first, second = own.values()
    shared = first.obs_names.intersection(second.obs_names)
    return {role: profiles[shared].copy() for role, profiles in own.items()}


def _targeted(cells: MuData, target_key: str) -> MuData:
    parts = {}
    for name, adata in cells.mod.items():
        kept = has_label(adata.obs[target_key])
        if not kept.any():
            raise ValueError(f"no cell of modality {name!r} has a target in obs[{target_key!r}].")
        parts[name] = adata if kept.all() else adata[kept].copy()
    return make_mudata(parts)


def _fused(own: dict[str, AnnData], fusion: str) -> AnnData:
    """One profile of two: their mean in a shared space, or a late fusion."""
    first, second = own.values()
    if fusion in get_args(Fusion):
        # Of few profiles as many canonical variates as there can be, where the paper has 30.
        most = max(1, min(N_VARIATES, first.n_obs - 1, first.n_vars, second.n_vars))
        return tl.late_fusion(own, method=fusion, n_components=most, key_added=COSINE)  # type: ignore[arg-type]
    if first.n_vars != second.n_vars:
        raise ValueError(
            f"fusion='average' needs one space; the modalities have {first.n_vars} and "
            f"{second.n_vars} dimensions. Take a late fusion, such as 'concat'."
        )
    mean = (np.asarray(first.X, np.float64) + np.asarray(second.X, np.float64)) / 2
    shared = [c for c in first.obs if c in second.obs and c != "n_cells"]
    return AnnData(mean.astype(np.float32), obs=first.obs[shared].copy())


# -- the ceiling ----------------------------------------------------------------------------------


def halves(view: View, *, fusion: str) -> View:
    """The same view of two halves of the data, in which the truth is known.

    Each context's cells are dealt to two halves at random. A half and its other half are the
    profiles of one target, and the two halves of a target's cells a known pair: what a metric
    gives then is the most that the noise of as many cells lets it give.
    """
    rng = np.random.default_rng([view.seed, 49_979_687])
    design, target = view.design, view.design.target_key
    key = target if target in design.contexts else _last_context(design)
    parts = {}
    for name, adata in view.cells.mod.items():
        context = context_labels(adata, design.contexts, modality=name).to_numpy(str)
        half = np.where(_half(context, rng), "|A", "|B")
        obs = adata.obs.assign(half_of=context)
        control = view.controls(adata)
        obs[key] = np.where(
            control & (key == target), obs[key].astype(str), obs[key].astype(str) + half
        )
        if target is not None and target not in design.contexts:
            label = obs[target].astype(str)
            obs[target] = np.where(has_label(obs[target]) & ~control, label + half, label)
        parts[name] = AnnData(obs=obs, obsm={REP: adata.obsm[REP]})
    found = views_of(make_mudata(parts), view.screen, fusion=fusion, seed=view.seed)
    twin = next(other for other in found if other.name == view.name)
    if target is not None:
        control = view.controls(twin.guides)
        label = twin.guides.obs[target].astype(str)
        twin.guides.obs[target] = np.where(control, label, twin.guides.obs["half_of"].astype(str))
    pairs = None
    if twin.genes is not None:
        names = set(
            twin.genes.obs_names if design.background_key is None else twin.genes.obs[target]
        )
        both = sorted(n[:-2] for n in names if n.endswith("|A") and f"{n[:-2]}|B" in names)
        pairs = pd.DataFrame(
            {"source": [f"{n}|A" for n in both], "target": [f"{n}|B" for n in both]}
        )
    return replace(twin, held_out=view.held_out, pairs=pairs)


def _last_context(design: Design) -> str:
    return [key for key in design.contexts if key != design.background_key][-1]


def _half(labels: NDArray, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the rows of each label, at random; of an odd number one more or one less."""
    codes = pd.factorize(labels)[0]
    order = np.lexsort((rng.random(len(codes)), codes))
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes))[:-1]])
    rank = np.empty(len(codes), np.int64)
    rank[order] = np.arange(len(codes)) - starts[codes[order]]
    return rank % 2 == 0


def halves_of_each(view: View) -> Iterator[View]:
    """For each modality a view whose two sides are halves of its own cells."""
    rng = np.random.default_rng([view.seed, 67_867_967])
    for role, profiles in view.own.items():
        adata = view.cells.mod[view.roles[role]]
        half = _half(context_labels(adata, view.design.contexts).to_numpy(str), rng)
        sides = [
            tl.aggregate(adata[rows].copy(), by=view.design.contexts, use_rep=REP)
            for rows in (half, ~half)
        ]
        shared = profiles.obs_names.intersection(sides[0].obs_names)
        shared = shared.intersection(sides[1].obs_names)
        yield replace(
            view, own={f"{role} A": sides[0][shared].copy(), f"{role} B": sides[1][shared].copy()}
        )
