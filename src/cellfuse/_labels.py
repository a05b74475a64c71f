"""One rule for labels: whatever a column or a caller holds, labels are compared as text.

A whole number is written without a point, whether it came as 7157, 7157.0, their texts, a category
or a numpy scalar. None, NaN, NaT and pd.NA are missing; the text "nan" is a name like any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["label_codes", "label_list", "label_text", "text_of"]

#: A whole number that was written as a float.
WHOLE = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")


def text_of(value: object) -> str:
    """Text of one label that is not missing."""
    if isinstance(value, str):
        whole = WHOLE.fullmatch(value)
        text = whole[1] if whole else str(value)
        return "0" if text == "-0" else text
    if isinstance(value, bytes):
        return text_of(value.decode())
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        if isinstance(value, Integral):
            return str(int(value))
        number = float(value)
        return str(int(number)) if np.isfinite(number) and number == int(number) else str(value)
    if isinstance(value, list | set | dict | np.ndarray | pd.Series | pd.Index):
        raise TypeError(f"a label is one text or number, found a {type(value).__name__}: {value!r}")
    return str(value)


def label_codes(values: pd.Series | pd.Index) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Number the labels of a column.

    Returns
    -------
    The number of each row's label, -1 where it is missing, and the distinct labels as text.
    """
    if isinstance(values.dtype, pd.CategoricalDtype):
        of_row = pd.Categorical(values)
        codes, found = np.asarray(of_row.codes, dtype=np.intp), of_row.categories
    elif values.dtype == object and not pd.api.types.infer_dtype(values).startswith("string"):
        # 1, True and 1.0 are one key to pandas, and a list is none.
        missing = np.asarray(pd.isna(values), dtype=bool)
        listed = [None if gone else text_of(v) for v, gone in zip(values, missing, strict=True)]
        codes, found = pd.factorize(pd.Series(listed, dtype=object))
    else:
        codes, found = pd.factorize(values)
    place, names = pd.factorize(np.array([text_of(value) for value in found], dtype=object))
    return np.where(codes >= 0, np.append(place, -1)[codes], -1), np.asarray(names, dtype=object)


def label_text(values: pd.Series | pd.Index) -> pd.Index:
    """Write labels as text, None where one is missing."""
    codes, names = label_codes(values)
    text: Any = np.array([*names, None], dtype=object)[codes]
    return pd.Index(text, dtype=object)


def label_list(labels: object, *, name: str = "control") -> list[str]:
    """Labels that a user gave, one or several in any container, as text.

    Raises
    ------
    ValueError
        One of them is missing (None or NaN).
    """
    if isinstance(labels, np.ndarray) and labels.ndim == 0:
        labels = labels.item()
    several = isinstance(labels, Iterable) and not isinstance(labels, str | bytes)
    listed: list[Any] = list(labels) if several else [labels]  # type: ignore[call-overload]
    for label in listed:
        if pd.api.types.is_scalar(label) and pd.isna(label):
            raise ValueError(
                f"`{name}` holds a missing label ({label!r}), which no row is asked for by; leave "
                "it out, such as by `.dropna()`."
            )
    texts = [text_of(label) for label in listed]
    return sorted(texts) if isinstance(labels, set | frozenset) else texts
