"""Documents of PhenoSeq: a set of images with cells of RNA; and a training that went nowhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd

from cellfuse._errors import warn_user
from cellfuse.data import Contexts, DocumentPlan, Draw, Stream
from cellfuse.data.splits import Rows
from cellfuse.model.base import Recipe
from cellfuse.model.base.plans import Plans

__all__ = ["set_and_cells", "warn_hardly_trained"]

#: Documents of each validation context, and RNA cells of each: the same at every epoch, whatever
#: the training draws, so that losses of different trainings compare.
VALIDATION_DOCUMENTS, VALIDATION_RNA = 4, 8


def set_and_cells(
    contexts: Contexts,
    rows: Rows,
    recipe: Recipe,
    *,
    set_size: int,
    n_rna: int,
    replace: Literal["if_needed", True],
    seed: int,
) -> Plans:
    """Plan documents of `set_size` images and `n_rna` cells of RNA."""

    def stream(n: int) -> Stream:
        draws = (Draw("image", set_size, missing="drop"), Draw("rna", n, missing="drop"))
        return Stream(draws, recipe.batch_size)

    plan = DocumentPlan(
        contexts.restricted(rows.train),
        stream(n_rna),
        documents_per_context=recipe.documents_per_context,
        replace=replace,
        seed=seed,
    )
    validation, others = None, contexts.restricted(rows.held_out)
    if others.shared().any():
        validation = DocumentPlan(
            others,
            stream(VALIDATION_RNA),
            documents_per_context=VALIDATION_DOCUMENTS,
            seed=seed,
            drop_last=False,
        )
    return Plans(plan, validation, rows.train)


def warn_hardly_trained(history: Mapping[str, pd.DataFrame], n_before: int, recipe: Recipe) -> None:
    """Tell of a validation loss that only rose: its weights draw the same for all contexts."""
    name, n_warm = "validation_loss", recipe.warmup_of(recipe.max_epochs) * recipe.max_epochs
    if name not in history:
        return
    losses = history[name][name].loc[n_before:]
    if len(losses) <= max(n_warm, recipe.warmup_epochs or 0) or losses.isna().all():
        return
    best = int(np.nanargmin(losses.to_numpy(dtype=float)))
    if best < n_warm:
        warn_user(
            f"the validation loss was lowest in epoch {best} of {len(losses)}, during warm-up, and "
            "the weights of that epoch were kept: what is drawn hardly depends on the images. "
            "Where whole treatments are held out for validation this says little of the rest: "
            "hold out replicates or cells of the treatments that are trained on (`split_key`), or "
            "train a fixed number of epochs without validation."
        )
