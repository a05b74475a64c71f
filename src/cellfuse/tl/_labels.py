"""Control labels among the profiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import missing_key

__all__ = ["control_rows"]


def control_rows(names: NDArray, control: str | list[str]) -> NDArray[np.bool_]:
    """Mask of the profiles with a control label; an absent label is an error."""
    labels = [control] if isinstance(control, str) else list(control)
    for label in labels:
        if label not in names:
            raise missing_key(label, np.unique(names).tolist(), what="the profiles' genes")
    return np.isin(names, labels)
