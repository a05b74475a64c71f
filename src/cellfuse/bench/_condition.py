"""Conditions on obs columns, as a configuration writes them: compared, and nothing is called."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["rows_where"]

#: What a condition is made of. pandas would also call methods: `to_csv` writes anywhere.
ALLOWED = (
    *(ast.Expression, ast.BoolOp, ast.And, ast.Or, ast.UnaryOp, ast.Not, ast.USub, ast.Invert),
    *(ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn),
    *(ast.BinOp, ast.BitAnd, ast.BitOr, ast.Add, ast.Sub, ast.Mult, ast.Div),
    *(ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple),
)
#: A text, which is left as it is, or a column whose name is no word of Python.
QUOTED = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|`([^`]+)`""")
MAX_LENGTH = 1_000
NO_CONDITION = (SyntaxError, TypeError, ValueError, AttributeError)


def rows_where(obs: pd.DataFrame, condition: str) -> NDArray[np.bool_]:
    """Rows for which a condition holds.

    Raises
    ------
    KeyError, NameError
        A column is not there.
    ValueError
        It is no condition: columns, numbers and words, compared and joined.
    """
    shown = condition if len(condition) <= 80 else f"{condition[:77]}..."
    try:
        if len(condition) > MAX_LENGTH:
            raise ValueError(f"it has {len(condition):,} letters")
        text, columns = _named(condition)
        tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            if not isinstance(node, ALLOWED):
                raise ValueError(f"{type(node).__name__} has no place in it")
        # What is evaluated is what was looked at, not the text that was given.
        rows: Any = obs.assign(**{n: obs[c] for n, c in columns.items()}).eval(ast.unparse(tree))
        if getattr(rows, "shape", None) != (len(obs),):
            raise ValueError("it says nothing of the rows")
        return rows.to_numpy(bool)
    except (*NO_CONDITION, RecursionError, MemoryError) as error:
        raise ValueError(
            f"[data] keep={shown!r} is no condition on obs: {error}. Write comparisons of columns, "
            "such as \"n_genes > 500 and plate != 'p1'\"."
        ) from error


def _named(condition: str) -> tuple[str, dict[str, str]]:
    """Put a word for each column in backticks: the text, and the columns by their words."""
    columns: dict[str, str] = {}

    def word(match: re.Match[str]) -> str:
        if match[2] is None:
            return match[1]
        columns[name := f"column_in_backticks_{len(columns)}"] = match[2]
        return name

    return QUOTED.sub(word, condition), columns
