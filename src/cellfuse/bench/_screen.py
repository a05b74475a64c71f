"""The part of a screen that a benchmark needs, checked before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import context_labels, has_label, is_mudata, label_text, matrix_of, obs_column
from cellfuse._errors import listing, missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench._design import Design
from cellfuse.bench._held_out import held_out_cells
from cellfuse.bench._pairs import dealt_cells

__all__ = ["ROLES", "Screen", "open_screen"]

ROLES = ("image", "rna")


@dataclass(frozen=True)
class Screen:
    """What a run reads.

    Parameters
    ----------
    mdata
        The modalities that are used: the user's AnnData objects, unless cells are dropped.
    roles
        Name of each role's modality.
    tables
        obs of each modality, in which a context has one target or none (``""``).
    design
        The choices of the run.
    out
        For each modality which cells are of held-out contexts.
    own
        For each modality which cells are its own: all, but of pairs, cells that were measured in
        both modalities, each is dealt to one.
    """

    mdata: MuData
    roles: dict[str, str]
    tables: dict[str, pd.DataFrame]
    design: Design
    out: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    own: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """State for another process: a MuData itself cannot be sent to one."""
        parts = {"parts": dict(self.mdata.mod), "uns": dict(self.mdata.uns)}
        return {**{k: v for k, v in vars(self).items() if k != "mdata"}, **parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the MuData together again."""
        mdata = make_mudata(state.pop("parts"))
        mdata.uns.update(state.pop("uns"))
        for name, value in {**state, "mdata": mdata}.items():
            object.__setattr__(self, name, value)

    def cells(self, arrays: Mapping[str, Any]) -> MuData:
        """Cells with one representation each, ``obsm["rep"]``, and nothing else to carry around."""
        return make_mudata(
            {
                name: AnnData(obs=self.tables[name].copy(), obsm={"rep": np.array(array)})
                for name, array in arrays.items()
            }
        )

    @property
    def train(self) -> dict[str, NDArray[np.bool_]]:
        """For each modality which cells models may see."""
        return {name: ~out & self.own[name] for name, out in self.out.items()}

    def held_out(self) -> frozenset[str]:
        """Labels of the contexts that no model sees."""
        found: set[str] = set()
        for name, out in self.out.items():
            if out.any():
                labels = context_labels(self.mdata.mod[name], self.design.contexts)
                found |= set(labels[out])
        return frozenset(found)


def open_screen(mdata: MuData, design: Design, *, seed: int = 0) -> Screen:
    """Take the modalities that the run reads, refusing what cannot be scored.

    `seed` draws the contexts that are held out, where a share of them is, and which side of a pair
    is seen.
    """
    if not is_mudata(mdata):
        raise TypeError("expected a MuData, found an AnnData; wrap it: `MuData({'rna': adata})`.")
    roles = _roles(mdata, design)
    parts = {
        name: _with_contexts(mdata.mod[name], design, modality=name) for name in roles.values()
    }
    for name, adata in parts.items():
        for key in (design.target_key, design.colour_key):
            if key is not None:
                obs_column(adata, key, modality=name, missing=True)
        if design.background_key is not None:
            obs_column(adata, design.background_key, modality=name)
    used = make_mudata(parts)
    used.uns.update(mdata.uns)
    tables = {name: adata.obs.copy() for name, adata in parts.items()}
    if design.target_key is not None:
        _one_target(tables, design.target_key, design.contexts)
    if design.background_key is not None:
        _one_background(tables, design)
    out = held_out_cells(parts, tables, design, seed)
    screen = Screen(used, roles, tables, design, out, dealt_cells(parts, design, seed))
    return screen if design.n_genes is None else _of_most_counted(screen, design.n_genes)


# -- what is read ---------------------------------------------------------------------------------


def _one_background(tables: dict[str, pd.DataFrame], design: Design) -> None:
    """Refuse contexts that stand in several backgrounds: their profiles would mix them."""
    key, contexts = design.background_key, design.contexts
    if key is None or key in contexts:
        return
    if key == design.target_key:
        raise ValueError(f"obs[{key!r}] is both the background and the target; name two columns.")
    cells = pd.concat([_text(table, [*contexts, key]) for table in tables.values()])
    n_backgrounds = cells.groupby(contexts)[key].nunique()
    several = n_backgrounds.index[n_backgrounds > 1]
    if len(several):
        raise ValueError(
            f"{len(several)} of {len(n_backgrounds)} contexts by {' and '.join(contexts)} have "
            f"cells of several backgrounds in obs[{key!r}] ({listing(several, 3)}). Make the "
            f"background part of the context (--context {','.join([key, *contexts])})."
        )


def _one_target(tables: dict[str, pd.DataFrame], key: str, contexts: list[str]) -> None:
    """Give all cells of a context its target, or none where it has several."""
    if key in contexts:
        for table in tables.values():
            table[key] = _text(table, [key])[key]
        return
    cells = pd.concat(
        [_text(table, [*contexts, key])[has_label(table[key])] for table in tables.values()]
    )
    if cells.empty:
        raise ValueError(f"no cell has a target in obs[{key!r}] (--target-key).")
    targets = cells.groupby(contexts)[key].agg(["first", "nunique"])
    several = targets.index[targets["nunique"] > 1]
    if 2 * len(several) > len(targets):
        raise ValueError(
            f"obs[{key!r}] (--target-key) differs between cells of the same context "
            f"({' and '.join(contexts)}) in {len(several)} of {len(targets)} contexts "
            f"({listing(several, 3)}). Name a column that is constant within a context, such as "
            "the gene of a guide."
        )
    if len(several):
        warnings.warn(
            f"{len(several)} of {len(targets)} contexts have several targets in obs[{key!r}] "
            f"({listing(several, 3)}): they are not scored.",
            UserWarning,
            stacklevel=3,
        )
    one = targets.loc[targets["nunique"] == 1, "first"].rename(key)
    for table in tables.values():
        labels = _text(table, contexts)
        table[key] = labels.join(one, on=contexts)[key].fillna("").to_numpy()


def _text(table: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Labels as the verbs write them: modalities may store one label as 7157, 7157.0 or a text."""
    return pd.DataFrame(
        {key: np.asarray(label_text(table[key])) for key in keys}, index=table.index
    )


def _roles(mdata: MuData, design: Design) -> dict[str, str]:
    found = list(mdata.mod)
    roles = design.modalities
    if roles is None:
        roles = {role: role for role in ROLES if role in found}
        if not roles:
            raise missing_key(
                "image",
                found,
                what="the MuData's modalities, nor is 'rna'",
                fix="Name them with `modalities` (--modalities image=NAME,rna=NAME).",
            )
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise missing_key(unknown[0], ROLES, what="the roles of `modalities` (--modalities)")
    for name in roles.values():
        if name not in found:
            raise missing_key(name, found, what="the MuData's modalities (--modalities)")
    return {role: roles[role] for role in ROLES if role in roles}


def _with_contexts(adata: AnnData, design: Design, *, modality: str) -> AnnData:
    """Refuse, or leave out, cells without a context."""
    kept = np.ones(adata.n_obs, dtype=bool)
    for key in design.contexts:
        kept &= has_label(obs_column(adata, key, modality=modality, missing=True))
    n_missing = int((~kept).sum())
    if not n_missing:
        return adata
    keys = " or ".join(f"obs[{key!r}]" for key in design.contexts)
    what = (
        f"{n_missing} of {adata.n_obs} cells of modality {modality!r} have no {keys} (NaN or empty)"
    )
    if not design.drop_missing:
        raise ValueError(
            f"{what}. A cell without a context is in no document: leave them out with "
            "`drop_missing=True` (--drop-missing), or fill the column in."
        )
    if not kept.any():
        raise ValueError(f"{what}; none is left.")
    warnings.warn(f"{what}: they are left out.", UserWarning, stacklevel=3)
    return adata[kept].copy()


def _of_most_counted(screen: Screen, n: int) -> Screen:
    """The same with those genes alone that have most counts among the cells that models see."""
    name = screen.roles.get("rna")
    if name is None or screen.design.rna_rep is not None:
        raise ValueError(
            f"n_genes={n} chooses genes of the expression's counts; this run reads "
            + ("no expression." if name is None else f"obsm[{screen.design.rna_rep!r}].")
        )
    if isinstance(n, bool) or not isinstance(n, Integral) or n < 1:
        raise ValueError(f"n_genes={n!r}: expected a whole number of genes from 1.")
    adata = screen.mdata.mod[name]
    if n >= adata.n_vars:
        return screen
    counts, _ = matrix_of(adata, screen.design.rna_layer, modality=name)
    total = np.asarray(counts[np.flatnonzero(screen.train[name])].sum(axis=0)).ravel()
    genes = np.sort(np.argsort(-total, kind="stable")[: int(n)])
    parts = {**screen.mdata.mod, name: adata[:, genes].copy()}
    mdata = make_mudata(parts)
    mdata.uns.update(screen.mdata.uns)
    return replace(screen, mdata=mdata)
