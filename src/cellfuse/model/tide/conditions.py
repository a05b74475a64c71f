"""What drugs changed: contexts at a dose, each less its own controls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.model.tide.transcriptomes import Transcriptomes

__all__ = ["Conditions", "conditions_of"]


@dataclass(frozen=True)
class Conditions:
    """Contexts at a dose.

    Parameters
    ----------
    table
        ``"context"``, ``"dose"`` in uM and ``"compound"``, a row per condition.
    basal
        Mean of each one's controls, ``(n, n_genes)``.
    change
        Mean of its profiles less that, in units of each gene's standard deviation.
    """

    table: pd.DataFrame
    basal: NDArray[np.float64]
    change: NDArray[np.float64]


def conditions_of(data: Transcriptomes, rows: NDArray[np.bool_], unit: Tensor) -> Conditions:
    """Conditions of the RNA `rows` that have controls; `unit` is what changes are divided by."""
    of_row = np.where(rows, data.contexts.of_row("rna"), -1)
    controls, group = data.contexts.related(
        "rna", "control", control_key=data.compound_key, control=data.control
    )
    # Where no control agrees in every other key there is no change to speak of.
    known = (of_row >= 0) & (group[of_row] >= 0)
    treated = np.flatnonzero(known & (data.fields["compound"] >= 0))
    table = pd.DataFrame(
        {
            "context": of_row[treated],
            "dose": data.fields["dose"][treated],
            "compound": data.fields["compound"][treated],
        }
    )
    codes = np.full(len(of_row), -1, np.int64)
    codes[treated] = table.groupby(["context", "dose"], sort=True).ngroup()
    conditions = table.drop_duplicates(["context", "dose"]).sort_values(["context", "dose"])
    basal_codes = np.full(len(of_row), -1, np.int64)
    basal_codes[controls.rows] = controls.codes
    basal = data.means(basal_codes, len(controls.counts))[group[conditions["context"]]]
    sd = unit.cpu().double().numpy()
    change = (data.means(codes, len(conditions)) - basal) / sd
    return Conditions(conditions.reset_index(drop=True), basal, change)
