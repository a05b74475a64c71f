"""One rule for counts: of random sets, draws, replicates, permutations and nearest ones."""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import signature
from numbers import Real
from typing import Any, ParamSpec, TypeVar

import numpy as np

__all__ = ["COUNTS", "whole_counts"]

P = ParamSpec("P")
R = TypeVar("R")

#: Arguments that are counts, and the least of each; None stands where the verb takes it.
COUNTS = {"n_null": 1, "n_draws": 1, "n_permutations": 1, "n_boot": 0, "k": 1}


def whole_counts(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse counts that are none before anything else, and hand on whole ones as `int`.

    ``1e3`` and numpy's numbers are whole; ``True``, ``2.5``, ``-1`` and ``"10"`` are refused. Where
    the default is a tuple, several may be given.

    Raises
    ------
    ValueError
        At the call, by the argument's name, with what was found.

    Examples
    --------
    >>> @whole_counts
    ... def times(*, n_boot=1000):
    ...     return n_boot
    >>> times(n_boot=1e2)
    100
    """
    takes = {n: p.default for n, p in signature(function).parameters.items() if n in COUNTS}

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> R:
        for name, default in takes.items():
            value: Any = kwargs.get(name)
            if value is None and (name not in kwargs or default is None):
                continue
            several = isinstance(default, tuple) and np.ndim(value) == 1 and len(value)
            kwargs[name] = (
                [_whole(name, each, COUNTS[name]) for each in value]
                if several
                else _whole(name, value, COUNTS[name])
            )
        return function(*args, **kwargs)

    return called


def _whole(name: str, value: Any, least: int) -> int:
    whole = isinstance(value, Real) and not isinstance(value, bool) and value % 1 == 0
    if not whole or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number, at least {least}.")
    return int(value)
