"""Modalities into one MuData whose contexts are spelled alike, with a report of who shares them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfuse._access import (
    check_key,
    context_labels,
    control_mask,
    layers_of,
    obs_column,
    per_modality,
    stored_x,
    text_of,
    where,
)
from cellfuse._errors import listing
from cellfuse._mudata import make_mudata

__all__ = ["JoinReport", "join"]

#: `context_keys` value for modalities measured on the same cells.
PAIRED = "obs_names"
Keys = str | Sequence[str]


@dataclass(frozen=True)
class JoinReport:
    """What :func:`join` found.

    Parameters
    ----------
    contexts
        One row per context, one column of numbers of cells per modality.
    controls
        Number of control cells of each modality; empty where no control was named.
    renamed
        Labels that were changed: columns ``modality``, ``key``, ``from``, ``to``, ``n_cells``.
    unused_aliases
        Aliases that no label has.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata, report = cf.io.join(image=image, rna=rna, context_keys="compound")  # doctest: +SKIP
    >>> print(report)  # doctest: +SKIP
    """

    contexts: pd.DataFrame
    controls: dict[str, int]
    renamed: pd.DataFrame
    unused_aliases: list[str]

    @property
    def shared(self) -> list[str]:
        """Contexts with cells in every modality."""
        return list(self.contexts.index[(self.contexts > 0).all(axis=1)])

    @property
    def only(self) -> dict[str, list[str]]:
        """Contexts with cells in one modality and in no other, by modality."""
        present = self.contexts > 0
        alone = present.sum(axis=1) == 1
        return {m: list(self.contexts.index[alone & present[m]]) for m in self.contexts.columns}

    @property
    def cells(self) -> pd.DataFrame:
        """Cells of each modality: all, in shared contexts, in contexts of its own, controls."""
        table = pd.DataFrame(
            {
                "cells": self.contexts.sum(),
                "in_shared": self.contexts.loc[self.shared].sum(),
                "in_own": {m: self.contexts.loc[own, m].sum() for m, own in self.only.items()},
            }
        )
        if self.controls:
            table["controls"] = pd.Series(self.controls)
        return table.astype(int)

    def __str__(self) -> str:
        lines = [f"{len(self.shared)} of {len(self.contexts)} contexts are in every modality."]
        for m, own in self.only.items():
            if own:
                lines.append(f"{len(own)} are in {m!r} only: {listing(own, 5)}.")
        if len(self.renamed):
            n_labels = len(self.renamed)
            shown = [f"{f} -> {t}" for f, t in self.renamed[["from", "to"]].to_numpy()]
            lines.append(f"{n_labels} labels were respelled: {listing(shown, 4)}.")
        if self.unused_aliases:
            lines.append(f"Aliases that no cell has: {listing(self.unused_aliases, 5)}.")
        return "\n".join([*lines, self.cells.to_string()])


def join(
    *,
    context_keys: Keys | Mapping[str, Keys],
    aliases: Mapping[str, str] | None = None,
    ignore_case: bool = True,
    key_added: Keys | None = None,
    control_key: str | Mapping[str, str] | None = None,
    control: str | list[str] | None = None,
    prefix_names: bool = False,
    verbose: bool = True,
    **modalities: AnnData,
) -> tuple[MuData, JoinReport]:
    """Join modalities into one MuData whose contexts are spelled alike.

    Labels are compared without regard to case and to white space around and inside them. A label
    gets the spelling that most cells of the first modality that has it use.

    Parameters
    ----------
    context_keys
        obs column or columns whose joint value is the context (guide; compound and cell line), or
        a dict with one entry per modality where they are called differently. ``"obs_names"`` for
        modalities measured on the same cells: then no label is changed.
    aliases
        Other names of labels, ``{"dmso_0.1%": "DMSO"}``, compared in the same way.
    ignore_case
        Take ``stat1`` and ``STAT1`` for one label. Off, for labels that differ in case only.
    key_added
        obs column or columns that get the common labels; default those of the first modality.
        Columns of this name are replaced, in the copy.
    control_key, control
        obs column, after the labels are made alike (or a dict per modality), and label or labels
        of the controls, which the report then counts.
    prefix_names
        Prefix each cell's name with its modality, ``image-cell_0``.
    verbose
        Print the report.
    **modalities
        AnnData by name: ``image=..., rna=...``. They are not changed: the result has obs of its
        own, and shares X, layers and obsm with them.

    Returns
    -------
    mdata : MuData
        The modalities, in the order given.
    report : JoinReport
        Contexts that are shared or in one modality only, cells and controls of each.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        Names of cells occur in two modalities, labels are missing, or no context is shared.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> images = ad.AnnData(obs=pd.DataFrame({"gene": ["STAT1", "NTC"]}, index=["i0", "i1"]))
    >>> counts = ad.AnnData(obs=pd.DataFrame({"gene": ["stat1 ", "control"]}, index=["r0", "r1"]))
    >>> mdata, report = cf.io.join(
    ...     image=images, rna=counts, context_keys="gene", aliases={"control": "NTC"}
    ... )
    2 of 2 contexts are in every modality.
    2 labels were respelled: 'stat1  -> STAT1', 'control -> NTC'.
           cells  in_shared  in_own
    image      2          2       0
    rna        2          2       0
    """
    if len(modalities) < 2:
        raise ValueError(f"expected two modalities or more, found {listing(modalities)}.")
    for name, adata in modalities.items():
        if not isinstance(adata, AnnData):
            raise TypeError(f"modality {name!r} is a {type(adata).__name__}; expected an AnnData.")
    paired = context_keys == PAIRED
    if paired and prefix_names:
        raise ValueError("prefix_names=True makes names differ that `context_keys` compares.")
    _check_names(modalities, paired=paired, prefix=prefix_names)
    copies = {name: _own_obs(adata) for name, adata in modalities.items()}
    if prefix_names:
        for name, adata in copies.items():
            adata.obs_names = [f"{name}-{cell}" for cell in adata.obs_names]
    renamed, unused = _changes([]), list[str]()
    if paired:
        labels = {m: pd.Series(a.obs_names.astype(str), a.obs_names) for m, a in copies.items()}
    else:
        keys = _add_common(copies, context_keys, key_added)
        renamed, unused = _harmonise(copies, keys, aliases or {}, ignore_case=ignore_case)
        labels = {m: context_labels(a, keys, modality=m) for m, a in copies.items()}
    report = _report(copies, labels, control_key, control, renamed, unused)
    mdata = make_mudata(copies)
    if verbose:
        print(report)
    return mdata, report


def _own_obs(adata: AnnData) -> AnnData:
    """An AnnData with obs, var and uns of its own, which shares all matrices."""
    own = AnnData(
        stored_x(adata),
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=_copied(dict(adata.uns)),
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        layers=layers_of(adata),
        obsp=dict(adata.obsp),
        varp=dict(adata.varp),
    )
    if adata.raw is not None:
        own.raw = adata.raw.to_adata()
    return own


def _copied(value: Any) -> Any:
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _check_names(adatas: Mapping[str, AnnData], *, paired: bool, prefix: bool) -> None:
    seen: dict[str, pd.Index] = {}
    for name, adata in adatas.items():
        if not adata.obs_names.is_unique:
            twice = adata.obs_names[adata.obs_names.duplicated()].unique()
            raise ValueError(
                f"obs names{where(name)} occur twice: {listing(twice, 4)}; "
                f"`{name}.obs_names_make_unique()` mends that."
            )
        for other, names in {} if paired or prefix else seen.items():
            both = names.intersection(adata.obs_names)
            if len(both):
                raise ValueError(
                    f"{len(both)} obs names are in modality {other!r} and in {name!r} "
                    f"({listing(both, 3)}), which makes them the same cells. If they are different "
                    "cells, pass `prefix_names=True`; if not, `context_keys='obs_names'`."
                )
        seen[name] = adata.obs_names


def _as_list(keys: Keys) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys)


def _add_common(
    adatas: Mapping[str, AnnData],
    context_keys: Keys | Mapping[str, Keys],
    key_added: Keys | None,
) -> list[str]:
    """Give every modality the context columns under one name."""
    own = {m: _as_list(per_modality(context_keys, m, name="context_keys")) for m in adatas}
    common = _as_list(next(iter(own.values())) if key_added is None else key_added)
    for name in common:
        check_key(name)
    for modality, keys in own.items():
        if len(keys) != len(common) or not keys:
            raise ValueError(
                f"`context_keys`{where(modality)} names {len(keys)} columns, {listing(keys)}; "
                f"expected {len(common)}, for {listing(common)}."
            )
        obs = adatas[modality].obs
        columns = [obs_column(adatas[modality], key, modality=modality) for key in keys]
        for new, column in zip(common, columns, strict=True):
            obs[new] = column
    return common


def _harmonise(
    adatas: Mapping[str, AnnData],
    keys: list[str],
    aliases: Mapping[str, str],
    *,
    ignore_case: bool,
) -> tuple[pd.DataFrame, list[str]]:
    """Rewrite the columns `keys` of every modality; tell what changed, and what alias was idle."""
    table = {_plain(old, ignore_case): str(new) for old, new in aliases.items()}
    used: set[str] = set()
    changes: list[dict[str, Any]] = []
    for key in keys:
        counts = {m: context_labels(a, key, modality=m).value_counts() for m, a in adatas.items()}
        used |= {_plain(label, ignore_case) for c in counts.values() for label in c.index}
        spelling = _spellings(counts, table, ignore_case)
        for modality, adata in adatas.items():
            old = context_labels(adata, key, modality=modality)
            new = {o: spelling[_target(o, table, ignore_case)] for o in counts[modality].index}
            adata.obs[key] = pd.Categorical(old.map(new))
            changes += [
                {"modality": modality, "key": key, "from": o, "to": n, "n_cells": n_cells}
                for (o, n), n_cells in zip(new.items(), counts[modality], strict=True)
                if o != n
            ]
    return _changes(changes), [str(old) for old in aliases if _plain(old, ignore_case) not in used]


def _changes(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["modality", "key", "from", "to", "n_cells"])


def _plain(label: object, ignore_case: bool) -> str:
    text = " ".join(text_of(label).split())
    return text.casefold() if ignore_case else text


def _target(label: str, aliases: Mapping[str, str], ignore_case: bool) -> str:
    """What a label is compared by."""
    plain = _plain(label, ignore_case)
    return _plain(aliases.get(plain, plain), ignore_case)


def _spellings(
    counts: Mapping[str, pd.Series], aliases: Mapping[str, str], ignore_case: bool
) -> dict[str, str]:
    """One spelling for all labels that compare alike; that of an alias table stands first."""
    chosen = {_plain(new, ignore_case): " ".join(new.split()) for new in aliases.values()}
    for count in counts.values():
        ordered = sorted(count.items(), key=lambda item: (-int(item[1]), str(item[0])))
        for label, _ in ordered:
            if _plain(label, ignore_case) not in aliases:
                chosen.setdefault(_plain(label, ignore_case), " ".join(str(label).split()))
    return chosen


def _report(
    adatas: Mapping[str, AnnData],
    labels: Mapping[str, pd.Series],
    control_key: str | Mapping[str, str] | None,
    control: str | list[str] | None,
    renamed: pd.DataFrame,
    unused: list[str],
) -> JoinReport:
    if (control is None) != (control_key is None):
        raise ValueError("give `control` and `control_key` together: the label, and its column.")
    contexts = pd.DataFrame({m: label.value_counts() for m, label in labels.items()})
    contexts = contexts.reindex(columns=list(adatas)).fillna(0).astype(np.int64).sort_index()
    contexts.index.name = "context"
    controls = {}
    if control is not None and control_key is not None:
        for m, adata in adatas.items():
            key = per_modality(control_key, m, name="control_key")
            controls[m] = int(control_mask(adata, key, control, modality=m).sum())
    if not (contexts > 0).all(axis=1).any():
        shown = "; ".join(
            f"{m!r} has {listing(contexts.index[contexts[m] > 0], 4)}" for m in contexts.columns
        )
        raise ValueError(
            f"no context is in every modality: {shown}. Are they named in the same way? Give "
            "other names of a label with `aliases`, or other columns with `context_keys`."
        )
    return JoinReport(contexts, controls, renamed, unused)
