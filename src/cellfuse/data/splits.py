"""What is held out: cells of every context, whole contexts, labelled cells, cells of a kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_labels, label_list, obs_column
from cellfuse._errors import listing, missing_key, mixed_contexts
from cellfuse.data.contexts import PAIRED, Contexts

__all__ = [
    "Held",
    "HeldContexts",
    "Masks",
    "Rows",
    "few_of_each",
    "held_contexts",
    "labelled_rows",
    "marked_rows",
    "rank_within",
    "rows_of",
    "rows_of_contexts",
    "sample_rows",
    "share_of_rows",
    "shared_only",
    "training_rows",
    "values_of_contexts",
]

#: Which rows of each modality.
Masks = dict[str, NDArray[np.bool_]]
#: A share of the contexts, their labels, or a boolean obs column.
HeldContexts = float | str | Sequence[str]
#: Beside the seed, so that what is held out is no echo of what is drawn.
SALT = 104_729
#: Numbers of the cells that are looked at before anything is fitted, at most.
SAMPLED_NUMBERS = 2**29


@dataclass(frozen=True)
class Held:
    """What the user wants held out, as :meth:`cellfuse.model.base.DocumentModel.train` takes it.

    Parameters
    ----------
    cells
        Share of each context's cells.
    contexts
        Contexts that are held out as wholes.
    by
        obs column whose values, not the contexts themselves, the share of `contexts` is of.
    """

    cells: float = 0.0
    contexts: HeldContexts | None = None
    by: str | None = None


@dataclass(frozen=True)
class Rows:
    """What is trained on and what is held out.

    Parameters
    ----------
    train, held_out
        Rows of each modality, ``(n,)`` bool each.
    contexts
        Contexts that were held out as wholes, ``(n_contexts,)`` bool; None: only cells were.
    """

    train: Masks
    held_out: Masks
    contexts: NDArray[np.bool_] | None = None


def _check_share(share: float, name: str) -> None:
    if not isinstance(share, Real) or not 0 <= share < 1:
        raise ValueError(f"{name} must be in [0, 1), found {share!r}.")


def training_rows(contexts: Contexts, share: float, seed: int) -> tuple[Masks, Masks]:
    """Split cells into training and validation, the same share of every context.

    A context keeps at least one training cell. A cell of several contexts is held out of all of
    them or of none. Where each context is one cell in several modalities
    (``context_keys="obs_names"``), the share is of the cells, each held out in all of them.

    Parameters
    ----------
    contexts
        Who shares a context.
    share
        Share of each context's cells that is held out, rounded down; 0 for none.
    seed
        Seed of the choice.

    Returns
    -------
    For each modality, which cells train and which validate, ``(n,)`` bool each.

    Raises
    ------
    ValueError
        A share outside [0, 1).

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=20, seed=0)
    >>> contexts = cf.data.Contexts.from_modalities(mdata.mod, "gene")
    >>> train, held_out = cf.data.training_rows(contexts, 0.1, seed=0)
    >>> bool((train["rna"] != held_out["rna"]).all())
    True
    """
    _check_share(share, "validation_size")
    if PAIRED in contexts.table:
        return _paired_rows(contexts, share, seed)
    train, held_out = {}, {}
    for number, (modality, members) in enumerate(contexts.members.items()):
        n_rows = contexts.n_rows[modality]
        draw = np.random.default_rng([seed, SALT, number]).random(n_rows)
        # Rows context by context, in the order of one number per cell.
        rows = members.rows[np.lexsort((draw[members.rows], members.codes))]
        rank = np.arange(len(rows)) - members.indptr[members.codes]
        is_held = np.zeros(n_rows, bool)
        is_held[rows[rank < np.floor(members.counts * share)[members.codes]]] = True
        is_held[rows[rank == (members.counts - 1)[members.codes]]] = False
        held_out[modality], train[modality] = is_held, ~is_held
    return train, held_out


def _paired_rows(contexts: Contexts, share: float, seed: int) -> tuple[Masks, Masks]:
    """Hold cells out in all modalities that measured them."""
    order = np.random.default_rng([seed, SALT]).permutation(len(contexts))
    is_held = np.zeros(len(contexts), bool)
    is_held[order[: int(share * len(contexts))]] = True
    train, held_out = {}, {}
    for modality, members in contexts.members.items():
        held_out[modality] = np.zeros(contexts.n_rows[modality], bool)
        held_out[modality][members.rows[is_held[members.codes]]] = True
        train[modality] = ~held_out[modality]
    return train, held_out


# -- whole contexts -------------------------------------------------------------------------------


def held_contexts(
    contexts: Contexts,
    adatas: Mapping[str, AnnData],
    held: HeldContexts,
    *,
    by: str | None = None,
    seed: int = 0,
) -> NDArray[np.bool_]:
    """Which contexts are held out as wholes, ``(n_contexts,)``.

    Parameters
    ----------
    contexts
        Who shares a context.
    adatas
        AnnData of each modality, for columns of obs.
    held
        A share of the contexts that hold cells of every modality, at least one; labels; or the name
        of a boolean obs column.
    by
        obs column that is constant within a context, such as the target gene of a guide: the share
        (or the labels) are of its values, so that no value has contexts on both sides.
    seed
        Seed of the choice.

    Raises
    ------
    KeyError
        A label or column that is not there.
    ValueError
        A share outside [0, 1), a column that varies within a context, nothing left to train on.

    Examples
    --------
    >>> import cellfuse as cf
    >>> from cellfuse.data import Contexts, held_contexts
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
    >>> contexts = Contexts.from_modalities(mdata.mod, "guide")
    >>> held = held_contexts(contexts, mdata.mod, 0.2, by="gene")
    >>> sorted({name.split("-")[0] for name in contexts.names[held]})
    ['TARGET04']
    """
    if isinstance(held, str):
        is_held = _flagged(contexts, adatas, held)
    else:
        values = (
            contexts.names.to_numpy() if by is None else values_of_contexts(contexts, adatas, by)
        )
        if isinstance(held, Real) and not isinstance(held, bool):
            is_held = np.isin(values, _drawn(values[contexts.shared()], float(held), seed))
        else:
            wanted = label_list(held)
            for label in wanted:
                if label not in values:
                    what = "the contexts" if by is None else f"obs[{by!r}]"
                    raise missing_key(label, sorted(set(values)), what=what)
            is_held = np.isin(values, wanted)
    if is_held.all():
        raise ValueError("validation_contexts holds every context out: nothing is left to train.")
    return is_held


def _drawn(values: NDArray, share: float, seed: int) -> NDArray:
    """Draw a share of the distinct values, at least one if any is wanted; one always stays."""
    _check_share(share, "validation_contexts")
    distinct = values[np.sort(np.unique(values, return_index=True)[1])]
    n_held = min(max(1, round(share * len(distinct))), len(distinct) - 1) if share else 0
    order = np.random.default_rng([seed, SALT]).permutation(len(distinct))
    return distinct[order[: max(n_held, 0)]]


def values_of_contexts(
    contexts: Contexts, adatas: Mapping[str, AnnData], by: str, *, name: str = "validation_by"
) -> NDArray[np.object_]:
    """Value of an obs column, given as the argument `name`, in each context, which has one."""
    out = np.full(len(contexts), None, dtype=object)
    for role, members in contexts.members.items():
        labels = context_labels(adatas[role], by, modality=role).to_numpy()[members.rows]
        first = pd.Series(labels).groupby(members.codes).first()
        lacks = np.array([value is None for value in out[first.index]], bool)
        out[first.index[lacks]] = first.to_numpy()[lacks]
        mixed = np.unique(members.codes[labels != out[members.codes]])
        if len(mixed):
            raise mixed_contexts(by, contexts.names[mixed], name=name, modality=role)
    return out


def _flagged(contexts: Contexts, adatas: Mapping[str, AnnData], key: str) -> NDArray[np.bool_]:
    is_held = np.zeros(len(contexts), bool)
    for role, members in contexts.members.items():
        if key not in adatas[role].obs:
            raise missing_key(
                key,
                list(adatas[role].obs),
                what=f"obs of modality {role!r} (validation_contexts as a column)",
                fix="For labels of contexts give a list.",
            )
        column = obs_column(adatas[role], key, modality=role)
        if not pd.api.types.is_bool_dtype(column.dtype):
            raise ValueError(
                f"obs[{key!r}] of modality {role!r} is {column.dtype}; `validation_contexts` names "
                "a boolean column."
            )
        is_held[members.codes[column.to_numpy(bool)[members.rows]]] = True
    for role, members in contexts.members.items():
        flag = adatas[role].obs[key].to_numpy(bool)[members.rows]
        mixed = np.unique(members.codes[flag != is_held[members.codes]])
        if len(mixed):
            raise ValueError(
                f"obs[{key!r}] of modality {role!r} holds out a part of the cells of "
                f"{len(mixed)} contexts ({listing(contexts.names[mixed], 3)}): a context is held "
                "out whole."
            )
    return is_held


def rows_of_contexts(contexts: Contexts, is_held: NDArray[np.bool_]) -> Rows:
    """Cells of contexts that are held out; a cell of several is held out of all of them."""
    train, held_out = {}, {}
    for role, members in contexts.members.items():
        held_out[role] = np.zeros(contexts.n_rows[role], bool)
        held_out[role][members.rows[is_held[members.codes]]] = True
        train[role] = ~held_out[role]
    return Rows(train, held_out, is_held)


# -- by a label, by chance, by kind ---------------------------------------------------------------


def labelled_rows(
    contexts: Contexts, adatas: Mapping[str, AnnData], split: Mapping[str, Any]
) -> tuple[Masks, Masks]:
    """Cells of the training and the validation labels, each of which a modality must have.

    `split` holds ``key`` (obs column) and the labels ``train`` and ``validation``.
    """
    masks: dict[str, Masks] = {"train": {}, "validation": {}}
    for role, adata in adatas.items():
        column = context_labels(adata, split["key"], modality=role)
        for part, mask in masks.items():
            mask[role] = column.isin(split[part]).to_numpy()
            for label in split[part]:
                if not (column == label).any():
                    argument = {"train": "train", "validation": "val"}[part]
                    raise missing_key(
                        label,
                        sorted(column.unique()),
                        what=f"obs[{split['key']!r}] of modality {role!r}",
                        fix=f"Name the labels with `{argument}=`"
                        + (", or None for no validation." if part == "validation" else "."),
                    )
    if not contexts.restricted(masks["train"]).shared().any():
        raise ValueError(
            f"no context has training cells (obs[{split['key']!r}] in {listing(split['train'])}) "
            "of both modalities: nothing can be trained on."
        )
    return masks["train"], masks["validation"]


def share_of_rows(
    n_rows: int, share: float, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hold out a share of the rows, whatever their context: training and held-out rows."""
    _check_share(share, "validation_size")
    is_held = np.zeros(n_rows, bool)
    order = np.random.default_rng([seed, SALT]).permutation(n_rows)
    is_held[order[: int(n_rows * share)]] = True
    return ~is_held, is_held


def sample_rows(
    mask: NDArray[np.bool_], *, seed: int, shape: Sequence[int] = ()
) -> NDArray[np.int64]:
    """Rows where `mask` is True, in order, some of them drawn where there are many.

    20,000 of cells of `shape`, or fewer large ones, half a gigabyte of bytes; 1,000 at least.
    """
    n = int(np.clip(SAMPLED_NUMBERS // max(prod(shape), 1), 1_000, 20_000))
    rows = np.flatnonzero(mask)
    if len(rows) > n:
        rows = np.sort(np.random.default_rng([seed, SALT]).choice(rows, n, replace=False))
    return rows


def rank_within(label: NDArray[np.int64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Which of its label's rows each row is, when all are gone through in `order`."""
    by_label = order[np.argsort(label[order], kind="stable")]
    ascending = label[by_label]
    rank = np.empty(len(label), np.int64)
    rank[by_label] = np.arange(len(label)) - np.searchsorted(ascending, ascending)
    return rank


def few_of_each(label: NDArray[np.int64], n_held: int, seed: int) -> NDArray[np.bool_]:
    """Hold out `n_held` rows of each label, at most a fifth of them; none of a negative label."""
    order = np.random.default_rng([seed, SALT]).permutation(len(label))
    known = label >= 0
    limit = np.zeros(len(label), np.int64)
    limit[known] = np.minimum(n_held, np.bincount(label[known]) // 5)[label[known]]
    return rank_within(label, order) < limit


def marked_rows(adata: AnnData, key: str, *, modality: str = "") -> NDArray[np.bool_]:
    """Rows that a boolean obs column marks, ``(n,)`` bool."""
    column = obs_column(adata, key, modality=modality)
    if not pd.api.types.is_bool_dtype(column.dtype):
        raise ValueError(f"obs[{key!r}] is {column.dtype}; expected a boolean column.")
    marked = column.to_numpy(bool)
    if not marked.any() or marked.all():
        raise ValueError(
            f"obs[{key!r}] marks {int(marked.sum())} of {len(marked)} rows; expected some."
        )
    return marked


# -- what is left ---------------------------------------------------------------------------------


def rows_of(contexts: Contexts) -> Masks:
    """Rows of each modality that stand in a context."""
    return {role: contexts.of_row(role) >= 0 for role in contexts.modalities}


def shared_only(contexts: Contexts) -> Contexts:
    """Drop the cells of contexts that lack a modality: they are in no document."""
    shared = contexts.shared()
    rows = {}
    for role, members in contexts.members.items():
        rows[role] = np.zeros(contexts.n_rows[role], bool)
        rows[role][members.rows[shared[members.codes]]] = True
    return contexts.restricted(rows)
