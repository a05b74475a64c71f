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
from cellfuse._access import context_labels, control_mask, has_label
from cellfuse._errors import MissingKeyError, listing, missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench._design import Design
from cellfuse.bench._pairs import pair_rows
from cellfuse.bench._screen import Screen
from cellfuse.data.splits import rank_within
from cellfuse.tl.fusion import Fusion

__all__ = ["CORRECTIONS", "View", "correct", "halves", "own_and_paired", "views_of"]

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
    paired
        Of cells that were measured in both modalities both sides by role, pair by pair: those of
        contexts that no model saw.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(40, n_targets=8, cells_per_guide=6, seed=0)
    >>> def n_profiles(view):
    ...     return float(view.guides.n_obs)
    >>> result = cf.benchmark(
    ...     mdata,
    ...     ["PCA"],
    ...     {"profiles": n_profiles},
    ...     context_keys="guide",
    ...     image_rep="crops",
    ...     control_key="gene",
    ...     control="non-targeting",
    ...     seeds=1,
    ...     progress=False,
    ... )
    >>> bool((result.scores["value"] == mdata["rna"].obs["guide"].nunique()).all())
    True
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
    paired: Mapping[str, AnnData] | None = None

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
        return profiles[profiles.obs_names.isin(self.held_out)].copy()


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


def own_and_paired(cells: MuData, screen: Screen) -> tuple[MuData, dict[str, AnnData] | None]:
    """Cells that are their modality's own, and where there are pairs both sides of these by role.

    Whatever is made of profiles knows a cell by one side, as it would on a screen.
    """
    if screen.design.pair_key is None:
        return cells, None
    own = make_mudata({name: a[screen.own[name]].copy() for name, a in cells.mod.items()})
    if len(cells.mod) < 2:
        return own, None
    rows = pair_rows(screen)
    return own, {role: cells.mod[screen.roles[role]][at].copy() for role, at in rows.items()}


def views_of(
    cells: MuData,
    screen: Screen,
    *,
    fusion: str,
    seed: int,
    synthetic: AnnData | None = None,
    paired: Mapping[str, AnnData] | None = None,
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
        paired=paired,
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


def redealt(view: View, *, fusion: str) -> View:
    """The same view after the cells of each target were dealt anew to its contexts.

    Every guide keeps its number of cells and its target: this is how far guides of a target would
    agree if all of them did the same.
    """
    rng = np.random.default_rng([view.seed, 49_979_687])
    design = view.design
    by = [key for key in (design.background_key, view.target_key) if key is not None]
    parts = {}
    for name, adata in view.cells.mod.items():
        obs = adata.obs.copy()
        free = np.flatnonzero(has_label(obs[view.target_key]) & ~view.controls(adata))
        codes = obs.iloc[free].groupby(by, observed=True, sort=False).ngroup().to_numpy()
        # The same rows, target by target, in an order of their own.
        given = free[np.argsort(codes, kind="stable")]
        taken = free[np.lexsort((rng.random(len(free)), codes))]
        for key in design.contexts:
            if key not in by:
                labels = obs[key].astype(object).to_numpy().copy()
                labels[given] = labels[taken]
                obs[key] = labels
        parts[name] = AnnData(obs=obs, obsm={REP: adata.obsm[REP]})
    return _same_view(view, parts, fusion)


def halves(view: View, *, fusion: str) -> View:
    """The same view of two halves of the data, in which the known pairs are known.

    Each context's cells are dealt to two halves at random; the two halves of a target's cells are
    a known pair: no method finds a known pair better than a target finds itself.
    """
    rng = np.random.default_rng([view.seed, 86_028_121])
    design, target = view.design, view.target_key
    key = target if target in design.contexts else _last_context(design)
    parts = {}
    for name, adata in view.cells.mod.items():
        context = context_labels(adata, design.contexts, modality=name).to_numpy(str)
        half = np.where(_half(context, rng), "|A", "|B")
        obs = adata.obs.copy()
        control = view.controls(adata)
        plain = obs[key].astype(str)
        obs[key] = np.where(control & (key == target), plain, plain + half)
        if target not in design.contexts:
            label = obs[target].astype(str)
            obs[target] = np.where(has_label(obs[target]) & ~control, label + half, label)
        parts[name] = AnnData(obs=obs, obsm={REP: adata.obsm[REP]})
    twin = _same_view(view, parts, fusion)
    genes = twin.genes
    assert genes is not None
    names = set(genes.obs_names if design.background_key is None else genes.obs[target])
    both = sorted(n[:-2] for n in names if n.endswith("|A") and f"{n[:-2]}|B" in names)
    pairs = pd.DataFrame({"source": [f"{n}|A" for n in both], "target": [f"{n}|B" for n in both]})
    return replace(twin, pairs=pairs)


def _same_view(view: View, parts: dict[str, AnnData], fusion: str) -> View:
    """The view of that name of other cells."""
    found = views_of(make_mudata(parts), view.screen, fusion=fusion, seed=view.seed)
    return next(other for other in found if other.name == view.name)


def _last_context(design: Design) -> str:
    return [key for key in design.contexts if key != design.background_key][-1]


def _half(labels: NDArray, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Half of the rows of each label, at random; of an odd number one more or one less."""
    return rank_within(pd.factorize(labels)[0], np.argsort(rng.random(len(labels)))) % 2 == 0


def halves_of_each(view: View) -> Iterator[View]:
    """For each modality a view whose two sides are halves of its own cells."""
    rng = np.random.default_rng([view.seed, 67_867_967])
    for role, profiles in view.own.items():
        adata = view.cells.mod[view.roles[role]]
        labels = context_labels(adata, view.design.contexts).to_numpy(str)
        if len(np.unique(labels)) == len(labels):
            raise ValueError(
                f"no ceiling: no context has two cells of modality {role!r}, which could be halved."
            )
        half = _half(labels, rng)
        sides = [
            tl.aggregate(adata[rows].copy(), by=view.design.contexts, use_rep=REP)
            for rows in (half, ~half)
        ]
        shared = profiles.obs_names.intersection(sides[0].obs_names)
        shared = shared.intersection(sides[1].obs_names)
        yield replace(
            view, own={f"{role} A": sides[0][shared].copy(), f"{role} B": sides[1][shared].copy()}
        )
