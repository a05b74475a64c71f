"""Documents of sets of cells: those of training, those of validation, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cellfuse._errors import warn_user
from cellfuse.data import Contexts, DocumentPlan, Draw, Stream
from cellfuse.data.splits import Masks, Rows
from cellfuse.model.base.recipe import Recipe

__all__ = ["Plans", "plan_sets"]


@dataclass(frozen=True)
class Plans:
    """Documents of a training.

    Parameters
    ----------
    train
        What is trained on; several streams by name.
    validation
        What is held out.
    train_rows
        Cells of each modality that are trained on: statistics are taken of these alone.
    """

    train: DocumentPlan | dict[str, DocumentPlan]
    validation: DocumentPlan | None
    train_rows: Masks

    @property
    def streams(self) -> list[DocumentPlan]:
        """Plans of training."""
        return [self.train] if isinstance(self.train, DocumentPlan) else list(self.train.values())

    @property
    def batch_size(self) -> int:
        """Documents of the smallest training batch."""
        return min(plan.batch_size for plan in self.streams)

    def n_epochs(self, max_epochs: int, max_steps: int = -1) -> float:
        """Epochs of a training, which `max_steps` (-1: none) may end before its last."""
        n_steps = max(plan.n_steps for plan in self.streams)
        return min(max_epochs, max_steps / n_steps) if max_steps > 0 else max_epochs


def plan_sets(
    contexts: Contexts,
    roles: Sequence[str],
    rows: Rows,
    recipe: Recipe,
    *,
    set_size: int,
    replace: Literal["if_needed", True] = "if_needed",
    missing: Literal["keep", "drop"] = "keep",
    whole_batches: bool = False,
    seed: int = 0,
) -> Plans:
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
    draws = tuple(Draw(role, set_size, missing=missing) for role in roles)
    stream = Stream(draws, recipe.batch_size)
    train = DocumentPlan(
        contexts.restricted(rows.train),
        stream,
        documents_per_context=recipe.documents_per_context,
        replace=replace,
        seed=seed,
    )
    others = contexts.restricted(rows.held_out)
    enough = others.shared() if missing == "drop" else others.counts.to_numpy() > 0
    validation = None
    if enough.any():
        validation = DocumentPlan(
            others, stream, documents_per_context=1, seed=seed, drop_last=whole_batches
        )
    scarce = {role: n for role, n in train.n_scarce().items() if n}
    if scarce:
        found = ", ".join(f"{n} in {role!r}" for role, n in scarce.items())
        warn_user(
            f"of {len(train.contexts)} contexts, some have fewer cells than the set size "
            f"{set_size} ({found}): the same cell then stands in a document more than once. A "
            "smaller `set_size` or `cf.pp.filter_contexts` avoids it."
        )
    return Plans(train, validation, rows.train)
