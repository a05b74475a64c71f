"""Documents of sets of cells, as PETRI and its contrastive baselines train on them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cellfuse.data import Contexts, DocumentPlan, Draw, Stream, training_rows

__all__ = ["SetPlans", "plan_sets"]


@dataclass(frozen=True)
class SetPlans:
    """Training and validation documents, and the cells they are made of."""

    train: DocumentPlan
    validation: DocumentPlan | None
    train_rows: Mapping[str, NDArray[np.bool_]]
    held_out: Mapping[str, NDArray[np.bool_]]


def plan_sets(
    contexts: Contexts,
    roles: Sequence[str],
    *,
    set_size: int,
    batch_size: int,
    documents_per_context: int,
    replace: Literal["if_needed", True] = "if_needed",
    missing: Literal["keep", "drop"] = "keep",
    validation_size: float = 0.0,
    whole_batches: bool = False,
    seed: int = 0,
) -> SetPlans:
    """Plan documents of `set_size` cells of each role.

    Held-out cells make documents of their own, one per context, where every role (with
    ``missing="drop"``) or any role has some. With `whole_batches` those that do not fill a batch
    are left out: a loss between documents is another one within fewer of them, and devices must
    hold equal shares to compare theirs.

    Warns
    -----
    UserWarning
        Contexts with fewer cells than the set size, which show a cell more than once.
    """
    train_rows, held_out = training_rows(contexts, validation_size, seed)
    stream = Stream(tuple(Draw(role, set_size, missing=missing) for role in roles), batch_size)
    train = DocumentPlan(
        contexts.restricted(train_rows),
        stream,
        documents_per_context=documents_per_context,
        replace=replace,
        seed=seed,
    )
    others = contexts.restricted(held_out)
    enough = others.shared() if missing == "drop" else others.counts.to_numpy() > 0
    validation = None
    if enough.any():
        validation = DocumentPlan(
            others, stream, documents_per_context=1, seed=seed, drop_last=whole_batches
        )
    scarce = {role: n for role, n in train.n_scarce().items() if n}
    if scarce:
        found = ", ".join(f"{n} in {role!r}" for role, n in scarce.items())
        warnings.warn(
            f"of {len(train.contexts)} contexts, some have fewer cells than the set size "
            f"{set_size} ({found}): the same cell then stands in a document more than once. A "
            "smaller `set_size` or `cf.pp.filter_contexts` avoids it.",
            stacklevel=3,
        )
    return SetPlans(train, validation, train_rows, held_out)
