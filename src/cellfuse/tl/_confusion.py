"""Who was taken for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["confusion_of"]


def confusion_of(
    label: NDArray,
    predicted: NDArray,
    classes: Sequence[str] | NDArray,
    weight: NDArray | None = None,
) -> pd.DataFrame:
    """Count the pairs of label and prediction, one row for each pair that occurs.

    A long table, not a square one: names of classes are values, which files hold whatever they
    are.

    Parameters
    ----------
    label, predicted
        Numbers into `classes`, one for each decision.
    weight
        Share of each decision, where several classes were tied; None is 1.
    """
    n = len(classes)
    pair = np.asarray(label) * n + np.asarray(predicted)
    count = np.bincount(pair, weight, minlength=n * n)
    there = np.flatnonzero(count)
    names = np.asarray(classes, dtype=object)
    return pd.DataFrame(
        {"label": names[there // n], "predicted": names[there % n], "n": count[there].astype(float)}
    )
