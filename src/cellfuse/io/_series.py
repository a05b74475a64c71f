"""One image of a file that may hold several, as every opener of files tells it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Series", "n_bytes"]


@dataclass(frozen=True)
class Series:
    """One image of a file that may hold several, not read yet.

    Parameters
    ----------
    name
        Its name in the file; ``""`` for none.
    axes
        A letter for each axis of `shape`.
    shape, dtype
        Of the array that `load` gives.
    load
        Reads it.
    channels
        Names of the channels; None for one without a name.
    """

    name: str
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    load: Callable[[], NDArray[Any]]
    channels: Sequence[str | None] = ()

    def __str__(self) -> str:
        sizes = " x ".join(map(str, self.shape))
        return f"{self.name or 'without a name'} ({self.axes} {sizes}, {self.dtype})"


def n_bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    """Bytes of an array, without overflow."""
    return math.prod(int(side) for side in shape) * dtype.itemsize
