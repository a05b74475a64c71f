"""What a training of Semi-Clipped is held to: batches that compare, an embedding that spreads."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from cellfuse._errors import warn_user
from cellfuse.data import DocumentPlan
from cellfuse.nn.distill import Objective

__all__ = ["check_batches", "warn_collapse"]

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
