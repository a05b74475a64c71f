"""What a training of Semi-Clipped is held to: batches that compare, an embedding that spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from mudata import MuData

from cellfuse._access import per_modality
from cellfuse._batches import batches_of
from cellfuse._errors import warn_user
from cellfuse.data import CellInput, DocumentPlan
from cellfuse.nn.distill import Objective

__all__ = [
    "batches_by_role",
    "check_arguments",
    "check_batches",
    "check_scratch",
    "warn_collapse",
]

#: Spread or effective rank below which the adapted embedding is said to have collapsed.
LEAST_SPREAD, LEAST_RANK = 0.1, 2.0


def check_batches(objective: Objective, *plans: DocumentPlan | None) -> None:
    """Refuse batches of fewer pairs than the objective compares."""
    least = {"kd": 3, "mse": 1}.get(objective, 2)
    for plan in plans:
        if plan is not None and plan.batch_size < least:
            raise ValueError(
                f"a batch of {plan.batch_size} pairs: loss={objective!r} compares at least "
                f"{least}. Give a larger `batch_size`, or hold more samples out."
            )


def warn_collapse(history: Mapping[str, pd.DataFrame], batch_size: int, width: int) -> None:
    """Say that the adapted embedding collapsed, by the last epoch's numbers."""
    spread, rank = (
        history[f"train_{name}_epoch"].to_numpy(dtype=float)[-1, 0]
        for name in ("spread", "effective_rank")
    )
    # A few samples, or a teacher of two dimensions, have no more rank to show.
    highest = min(batch_size - 1, width)
    if (spread < LEAST_SPREAD and highest > 0) or rank < min(LEAST_RANK, highest / 2):
        warn_user(
            f"the adapted embedding has collapsed (spread {spread:.3f}, effective rank "
            f"{rank:.1f}): samples can hardly be told apart. A lower "
            "`lr`, loss='vicreg', or fewer contexts with the same batch layout may help."
        )


def check_arguments(
    loss: Objective,
    trains: str,
    hidden: Sequence[int] | None,
    *,
    noise: float,
    dropout: float,
    mixup: float,
) -> None:
    """Refuse values that mean nothing, and those that exclude each other."""
    if not (0 <= noise < math.inf and 0 <= dropout < 1 and 0 <= mixup < math.inf):
        raise ValueError(
            "expected finite noise >= 0, 0 <= dropout < 1 and finite mixup >= 0, found "
            f"{noise}, {dropout} and {mixup}."
        )
    if loss == "kd" and trains != "adapter":
        raise ValueError(
            "loss='kd' teaches the relations between the teacher's samples and would leave a "
            f"head of the teacher untrained; trains={trains!r} has one. Use trains='adapter'."
        )
    if hidden is not None and (isinstance(hidden, int) or min(hidden, default=1) < 1):
        raise ValueError(
            f"hidden={hidden!r}: expected the widths of the hidden layers, such as (256, 256)."
        )


def check_scratch(cell_input: CellInput, augmented: bool) -> None:
    """Refuse an embedding, or its augmentation, where expression itself is encoded."""
    if cell_input.place == "obsm":
        raise ValueError(
            "trains='scratch' encodes the expression itself: set up with `rna_rep=None` (X or "
            "`rna_layer`)."
        )
    if augmented:
        raise ValueError(
            "trains='scratch' has no embedding to correct or to augment: give `pea=('none',)`, "
            "and no noise, dropout or mixup."
        )


def batches_by_role(
    mdata: MuData, inputs: Sequence[CellInput], **given: Any
) -> dict[str, dict[str, Any]]:
    """Batch columns and controls of each role; what is misspelt is told here, not in a training."""
    batches = {}
    for role, name in ((i.role, i.modality) for i in inputs):
        of = {key: per_modality(value, role, name=key) for key, value in given.items()}
        chosen: dict[str, Any] = {"keys": [of.pop("batch_key")], **of}
        batches_of(mdata.mod[name], modality=name, at_least=0, **chosen)
        batches[role] = chosen
    return batches
