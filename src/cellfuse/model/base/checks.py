"""Arguments that mean nothing are refused where they are given, by one check for all models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

__all__ = ["check_between", "check_positive", "check_seed", "check_whole", "one_of", "plain"]


def plain(value: Any) -> Any:
    """A number of numpy's as Python's, which is all that Lightning and a checkpoint take."""
    return value.item() if isinstance(value, np.generic) else value


def check_whole(name: str, value: object, *, least: int = 1) -> None:
    """Refuse what is no number of epochs or cells."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, found {value!r}.")
    if int(value) < least:
        raise ValueError(f"{name} must be at least {least}, found {value}.")


def check_seed(seed: object) -> None:
    """Refuse a seed that is no whole number, or does not fit into half of a document's key."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed must be a whole number, found {seed!r}.")
    if not 0 <= int(seed) < 2**31:
        raise ValueError(f"seed must be from 0 to {2**31 - 1}, found {seed}.")


def check_positive(name: str, value: object) -> None:
    """Refuse what is no finite number above 0."""
    _check_number(name, value)
    if not 0 < value < math.inf:  # type: ignore[operator]
        raise ValueError(f"{name} must be positive, found {value}.")


def check_between(name: str, value: object, low: float, high: float = math.inf) -> None:
    """Refuse what is no number from `low` to `high`."""
    _check_number(name, value)
    if not low <= value <= high or value == math.inf:  # type: ignore[operator]
        most = "" if high == math.inf else f" and at most {high:g}"
        raise ValueError(f"{name} must be at least {low:g}{most}, found {value}.")


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, found {value!r}.")


def one_of(name: str, value: object, known: Sequence[object]) -> None:
    """Refuse a value that an argument does not know."""
    if value not in known:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(map(repr, known))}.")
