"""Which cells are trained on, and which are held out for validation."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_labels, label_list
from cellfuse._errors import listing, missing_key
from cellfuse.data import Contexts

__all__ = [
    "Labels",
    "by_context",
    "by_label",
    "rows_of",
    "shared_only",
    "split_labels",
    "training_contexts",
]

logger = logging.getLogger("cellfuse")

Labels = str | Sequence[str]
Masks = dict[str, NDArray[np.bool_]]


def split_labels(given: Labels | None) -> list[str]:
    if given is None:
        return []
    return label_list(given)


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


def by_context(contexts: Contexts, share: float, seed: int) -> tuple[Masks, Masks]:
    """Hold out a share of the contexts that both modalities have, at least one if any."""
    if not 0 <= share < 1:
        raise ValueError(f"validation_size must be in [0, 1), found {share}.")
    shared = np.flatnonzero(contexts.shared())
    n_held = min(max(1, round(share * len(shared))), len(shared) - 1) if share else 0
    held = np.random.default_rng([seed, 104_729]).permutation(shared)[:n_held]
    is_held = np.zeros(len(contexts), bool)
    is_held[held] = True
    train, validation = {}, {}
    for role, members in contexts.members.items():
        # A cell of several contexts is held out of all of them.
        validation[role] = np.zeros(contexts.n_rows[role], bool)
        validation[role][members.rows[is_held[members.codes]]] = True
        train[role] = ~validation[role]
    return train, validation


def by_label(
    contexts: Contexts, adatas: Mapping[str, AnnData], split: Mapping[str, Any]
) -> tuple[Masks, Masks]:
    """Cells of the training and the validation labels, each of which a modality must have."""
    masks: dict[str, Masks] = {"train": {}, "validation": {}}
    for role, adata in adatas.items():
        column = context_labels(adata, split["key"], modality=role)
        for part, mask in masks.items():
            mask[role] = column.isin(split[part]).to_numpy()
            for label in split[part]:
                if not (column == label).any():
                    raise missing_key(
                        label,
                        sorted(column.unique()),
                        what=f"obs[{split['key']!r}] of modality {role!r}",
                        fix=f"Name the labels with `{part}=`"
                        + (", or None for no validation." if part == "validation" else "."),
                    )
    if not contexts.restricted(masks["train"]).shared().any():
        raise ValueError(
            f"no context has training cells (obs[{split['key']!r}] in {listing(split['train'])}) "
            "of both modalities: nothing can be trained on."
        )
    return masks["train"], masks["validation"]


def training_contexts(
    contexts: Contexts,
    adatas: Mapping[str, AnnData],
    split: Mapping[str, Any] | None,
    *,
    validation_size: float,
    seed: int,
) -> tuple[Contexts, Contexts | None]:
    """Contexts with the cells of training, and with those of validation if there are any.

    By the labels of `split`, or else whole contexts apart; only contexts of all modalities.
    """
    if split is None:
        masks = by_context(contexts, validation_size, seed)
    else:
        masks = by_label(contexts, adatas, split)
    train, held_out = (shared_only(contexts.restricted(mask)) for mask in masks)
    there = contexts.restricted(masks[0]).counts.gt(0)
    lacking = there.any(axis=1) & ~there.all(axis=1)
    if lacking.any():
        logger.warning(
            "%d of %d training contexts have cells of one modality only and are not trained on: "
            "%s.",
            lacking.sum(),
            there.any(axis=1).sum(),
            listing(there.index[lacking], 5),
        )
    return train, held_out if held_out.shared().any() else None
