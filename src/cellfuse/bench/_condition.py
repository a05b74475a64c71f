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
#: A column whose name is no word of Python.
QUOTED = re.compile(r"`[^`]+`")
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
        for node in ast.walk(ast.parse(QUOTED.sub("column", condition).strip(), mode="eval")):
            if not isinstance(node, ALLOWED):
                raise ValueError(f"{type(node).__name__} has no place in it")
        rows: Any = obs.eval(condition)
        if getattr(rows, "shape", None) != (len(obs),):
            raise ValueError("it says nothing of the rows")
        return rows.to_numpy(bool)
    except (*NO_CONDITION, RecursionError, MemoryError) as error:
        raise ValueError(
            f"[data] keep={shown!r} is no condition on obs: {error}. Write comparisons of columns, "
            "such as \"n_genes > 500 and plate != 'p1'\"."
        ) from error
