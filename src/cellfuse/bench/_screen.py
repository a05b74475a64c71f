"""The part of a screen that a benchmark needs, checked before anything is trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import context_labels, control_mask, is_mudata, label_text, obs_column
from cellfuse._errors import listing, missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench._design import Design

__all__ = ["ROLES", "Screen", "has_label", "open_screen"]

ROLES = ("image", "rna")
#: Label that :func:`cellfuse.tl.split` gives to what no training sees.
HELD_OUT = "test"
#: Spreads the choice of held-out contexts over seeds (a prime).
STREAM = 32_452_843


def has_label(column: pd.Series) -> NDArray[np.bool_]:
    """Rows that hold a label: neither NaN nor empty text."""
    return (column.notna() & (column.astype(str).str.strip() != "")).to_numpy(bool, copy=True)


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
    train
        For each modality which cells models may see; all, unless contexts are held out.
    """

    mdata: MuData
    roles: dict[str, str]
    tables: dict[str, pd.DataFrame]
    design: Design
    train: dict[str, NDArray[np.bool_]] = field(default_factory=dict)

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

    def held_out(self) -> frozenset[str]:
        """Labels of the contexts that no model sees."""
        found: set[str] = set()
        for name, train in self.train.items():
            if not train.all():
                labels = context_labels(self.mdata.mod[name], self.design.contexts)
                found |= set(labels[~train])
        return frozenset(found)


def open_screen(mdata: MuData, design: Design, *, seed: int = 0) -> Screen:
    """Take the modalities that the run reads, refusing what cannot be scored.

    `seed` draws the contexts that are held out, where a share of them is.
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
    train = _training_cells(parts, tables, design, seed)
    return Screen(used, roles, tables, design, train)


# -- what is held out -----------------------------------------------------------------------------


def _training_cells(
    parts: dict[str, AnnData], tables: dict[str, pd.DataFrame], design: Design, seed: int
) -> dict[str, NDArray[np.bool_]]:
    """Cells that models may see, by modality; a context is on one side as a whole."""
    chosen = design.hold_out
    if chosen is None or chosen == 0:
        return {name: np.ones(adata.n_obs, bool) for name, adata in parts.items()}
    if isinstance(chosen, str):
        chosen = {chosen: HELD_OUT}
    if isinstance(chosen, Mapping):
        ((key, label),) = chosen.items()
        train = {
            name: ~control_mask(adata, key, str(label), modality=name)
            for name, adata in parts.items()
        }
    else:
        train = _by_share(parts, tables, design, float(chosen), seed)
    sides: dict[str, set[bool]] = {}
    for name, adata in parts.items():
        labels = context_labels(adata, design.contexts, modality=name)
        for label, value in set(zip(labels, train[name].tolist(), strict=True)):
            sides.setdefault(label, set()).add(value)
    crossing = [label for label, values in sides.items() if len(values) > 1]
    if crossing:
        raise ValueError(
            f"{len(crossing)} contexts by {' and '.join(design.contexts)} have held-out and other "
            f"cells ({listing(crossing, 3)}). Hold whole contexts out (`hold_out_by` a column that "
            "is constant within them)."
        )
    return train


def _by_share(
    parts: dict[str, AnnData],
    tables: dict[str, pd.DataFrame],
    design: Design,
    share: float,
    seed: int,
) -> dict[str, NDArray[np.bool_]]:
    """Hold out a share of the targets (or contexts) with all their cells; never the controls."""
    if not 0 < share < 1:
        raise ValueError(f"hold_out={share}: expected a share between 0 and 1, or an obs column.")
    keys = design.hold_out_by or design.target_key or design.contexts
    labels = {}
    for name, adata in parts.items():
        # Of targets the ones that stand: "" where a context has several.
        obs = tables[name] if keys == design.target_key else adata.obs
        label = context_labels(AnnData(obs=obs), keys, modality=name)
        free = has_label(label)
        if design.control is not None and design.control_key is not None:
            free &= ~control_mask(adata, design.control_key, design.control, modality=name)
        labels[name] = label.where(free, "")
    names = sorted(set().union(*(set(label) for label in labels.values())) - {""})
    n = round(share * len(names))
    if not 1 <= n <= len(names) - 1:
        raise ValueError(
            f"hold_out={share} of {len(names)} values of {keys!r} leaves nothing on one side."
        )
    out = set(np.random.default_rng([seed, STREAM]).choice(names, n, replace=False).tolist())
    return {name: ~label.isin(out).to_numpy() for name, label in labels.items()}


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
