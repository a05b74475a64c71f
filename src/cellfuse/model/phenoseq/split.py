"""Which cells PhenoSeq trains on: by the labels of a split, or whole contexts apart."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from anndata import AnnData

from cellfuse._errors import listing, warn_user
from cellfuse.data import Contexts, held_contexts
from cellfuse.data.splits import Held, Rows, labelled_rows, rows_of, rows_of_contexts, shared_only
from cellfuse.model.base.setup import Labels, split_labels

__all__ = ["checked_split", "training_rows"]

logger = logging.getLogger("cellfuse")


def checked_split(
    contexts: Contexts,
    adatas: Mapping[str, AnnData],
    key: str | None,
    train: Labels,
    val: Labels | None,
) -> dict[str, Any] | None:
    """The split as the setup keeps it; its labels are there, and leave something to train on."""
    if key is None:
        return None
    if val == "val" and all(_has_old_word(adata, key) for adata in adatas.values()):
        warn_user(
            f"obs[{key!r}] calls the held-out cells 'validation', which is now 'val' (as "
            "`cf.tl.split` writes it): name them, `val='validation'`. The next version will not "
            "look for the old word.",
            FutureWarning,
        )
        val = "validation"
    split = {"key": key, "train": split_labels(train), "validation": split_labels(val)}
    if set(split["train"]) & set(split["validation"]) or not split["train"]:
        raise ValueError(
            f"`train` needs a label, and shares none with `val`; found {listing(split['train'])} "
            f"and {listing(split['validation'])}."
        )
    _, held_out = labelled_rows(contexts, adatas, split)
    if split["validation"] and not contexts.restricted(held_out).shared().any():
        raise ValueError(
            f"no context has validation cells (obs[{key!r}] in {listing(split['validation'])}) of "
            "both modalities: nothing says when to stop. Name other labels with `val=`, or None "
            "for no validation."
        )
    return split


def _has_old_word(adata: AnnData, key: str) -> bool:
    found = set(adata.obs[key].astype(str)) if key in adata.obs else set()
    return "validation" in found and "val" not in found


def training_rows(
    contexts: Contexts,
    adatas: Mapping[str, AnnData],
    split: Mapping[str, Any] | None,
    held: Held,
    *,
    seed: int,
) -> Rows:
    """Cells of training and of validation, of contexts that both modalities have."""
    if split is not None:
        rows = Rows(*labelled_rows(contexts, adatas, split))
    else:
        assert held.contexts is not None
        chosen = held_contexts(contexts, adatas, held.contexts, by=held.by, seed=seed)
        rows = rows_of_contexts(contexts, chosen)
    there = contexts.restricted(rows.train).counts.gt(0)
    lacking = there.any(axis=1) & ~there.all(axis=1)
    if lacking.any():
        logger.warning(
            "%d of %d training contexts have cells of one modality only and are not trained on: "
            "%s.",
            lacking.sum(),
            there.any(axis=1).sum(),
            listing(there.index[lacking], 5),
        )
    train, held_out = (
        rows_of(shared_only(contexts.restricted(part))) for part in (rows.train, rows.held_out)
    )
    return Rows(train, held_out, rows.contexts)
