"""Argument names that were settled later: the old ones work for one version more, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any, ParamSpec, TypeVar

from cellfuse._errors import warn_user

__all__ = ["renamed"]

P = ParamSpec("P")
R = TypeVar("R")


def renamed(
    *, second_of: Mapping[str, str] | None = None, **settled: str
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function be called by old argument names, with a `FutureWarning` that names the new.

    The function itself, its signature and its documentation know the new names only.

    Parameters
    ----------
    second_of
        Old names that held the second of two sides, of which the new argument takes a pair:
        ``{"use_rep_b": "use_rep"}``.
    settled
        New names by old ones: ``top_k="k"``.

    Raises
    ------
    TypeError
        The caller gives an old name and its new one.

    Examples
    --------
    >>> import warnings
    >>> @renamed(top_k="k")
    ... def first(values, *, k=1):
    ...     return values[:k]
    >>> with warnings.catch_warnings(record=True) as said:
    ...     warnings.simplefilter("always")
    ...     first([3, 1, 2], top_k=2), str(said[0].message)
    ([3, 1], 'first(top_k=...) is now called `k`; the old name goes with the next version.')
    """
    second = dict(second_of or {})

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        positions = list(signature(function).parameters)
        name = function.__name__

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> R:
            for old in [n for n in kwargs if n in settled or n in second]:
                value = kwargs.pop(old)
                new = settled.get(old) or second[old]
                given = new in kwargs or positions.index(new) < len(args)
                if old in settled and given:
                    raise TypeError(f"{name}() got both `{new}` and its old name `{old}`.")
                where = f"`{new}`" if old in settled else f"the second of a pair, `{new}=(a, b)`"
                warn_user(
                    f"{name}({old}=...) is now called {where}; the old name goes with the next "
                    "version.",
                    FutureWarning,
                )
                if old in settled:
                    kwargs[new] = value
                elif value is not None:
                    kwargs[new] = (kwargs.get(new), value)
            return function(*args, **kwargs)

        return called

    return decorate
