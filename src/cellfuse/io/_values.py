"""What a text in a table stands for: a number, a word, or nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["COMMON_GAPS", "NO_NUMBER", "as_text", "is_no_number", "joined", "number_of", "typed"]

#: Missing numbers as most programs write them, of which nothing needs to be said.
COMMON_GAPS = [
    *("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None", "<NA>"),
    *("#N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
]
#: All spellings of a number that is not there (compared in lower case): of pandas, R, CellProfiler,
#: Windows, Excel.
NO_NUMBER = frozenset(
    "na n/a nan -nan null none <na> #na #n/a nan(ind) -nan(ind) nan(snan) -1.#ind 1.#ind 1.#qnan "
    "-1.#qnan #div/0! #num! #value! #ref! #null! #name?".split()
) | {""}
#: A number as programs write it. An identifier that only looks like one is none: 0042, 1_000, and
#: 2E10, the plate, whose exponent no program writes without a sign or a point.
NUMBER = re.compile(
    r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:[eE][+-]?[0-9]+)?|[eE][+-][0-9]+)?"
    r"|\.[0-9]+(?:[eE][+-]?[0-9]+)?)"
)
WHOLE = re.compile(r"[+-]?[0-9]+")
BOOLEANS = {"True": True, "False": False, "TRUE": True, "FALSE": False}
#: Whole numbers up to here are themselves as float64.
EXACT = 2**53


def is_no_number(text: str) -> bool:
    """Tell the spellings of a missing number."""
    return text.strip().lower() in NO_NUMBER


def number_of(text: str) -> float | None:
    """Number that a text is, NaN for a missing one, None for a word, or for one beyond float64."""
    if is_no_number(text):
        return float("nan")
    try:
        number = None if "_" in text else float(text)
    except ValueError:
        return None
    return None if number is not None and _is_beyond(text, number) else number


def _is_beyond(text: str, number: float) -> bool:
    """Whether digits were written, such as 1e400, of which only an infinity is left."""
    return math.isinf(number) and any(letter.isdigit() for letter in text)


def typed(values: Sequence[str] | NDArray[Any], missing: Collection[str] = ("",)) -> NDArray[Any]:
    """Numbers where all values of a column are numbers, else text.

    Parameters
    ----------
    values
        Texts of one column, of all files together.
    missing
        Texts that stand for a missing word. Among words, ``nan``, ``NA``, ``null`` and ``None`` are
        names (of genes, and of untreated wells); among numbers they are missing numbers.

    Returns
    -------
    int64, float64 with NaN, bool, or object of texts and NaN; float64 where all are missing.
    """
    codes, found = pd.factorize(np.asarray(values, dtype=object))
    words = [str(word) for word in found]
    gap = np.array([is_no_number(w) or w in missing for w in words], dtype=bool)
    there = [w.strip() for w, absent in zip(words, gap, strict=True) if not absent]
    if all(NUMBER.fullmatch(word) for word in there):
        numbers = _numbers(words, gap)
        if numbers is not None:
            return numbers[codes]
    if there and not gap.any() and all(word in BOOLEANS for word in there):
        return np.array([BOOLEANS[word.strip()] for word in words])[codes]
    texts = np.array([np.nan if w in missing else w for w in words], dtype=object)
    return texts[codes]


def _numbers(words: list[str], gap: NDArray[np.bool_]) -> NDArray[Any] | None:
    """Numbers; None where they would not be what was written."""
    whole = [int(w) for w, absent in zip(words, gap, strict=True) if not absent and _is_whole(w)]
    large = max((abs(n) for n in whole), default=0)
    if not gap.any() and whole and len(whole) == len(words):
        return np.array(whole, dtype=np.int64) if large < 2**63 else None
    if large > EXACT:
        return None
    numbers = [np.nan if absent else number_of(w) for w, absent in zip(words, gap, strict=True)]
    return None if None in numbers else np.array(numbers, dtype=np.float64)


def _is_whole(word: str) -> bool:
    return WHOLE.fullmatch(word.strip()) is not None


def joined(parts: Sequence[pd.Series]) -> pd.Series:
    """One column of several files, of one type whatever each of them has.

    Numbers stay numbers where every part is one; where a part is text, all become text, and a whole
    number is written as one (41001, not 41001.0).
    """
    kinds = {_kind(part) for part in parts}
    kinds.discard("")  # nothing but missing values fits everything
    if not kinds:
        return pd.Series(np.full(sum(map(len, parts)), np.nan))
    if kinds == {"number"} or kinds == {"bool"} or len(parts) == 1 and "text" not in kinds:
        return pd.concat([_plain(part) for part in parts], ignore_index=True)
    return pd.Series(np.concatenate([as_text(part) for part in parts]), dtype=object)


def _kind(column: pd.Series) -> str:
    if column.isna().all():
        return ""
    if pd.api.types.is_bool_dtype(column.dtype):
        return "bool"
    if pd.api.types.is_numeric_dtype(column.dtype):
        return "number"
    return "text"


def _plain(column: pd.Series) -> pd.Series:
    """Numbers in numpy's types: what pandas alone knows, no file holds."""
    if column.isna().any():
        return pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan))
    kind = np.float64 if pd.api.types.is_float_dtype(column.dtype) else np.int64
    return pd.Series(column.to_numpy(dtype=bool if _kind(column) == "bool" else kind))


def as_text(column: pd.Series) -> NDArray[Any]:
    """Values as texts, whole numbers as such (1, not 1.0), missing ones as NaN."""

    def text(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode("utf-8", errors="replace")
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return str(int(value))
        return str(value)

    missing = column.isna().to_numpy()
    out = np.full(len(column), np.nan, dtype=object)
    out[~missing] = [text(value) for value in column[~missing].astype(object)]
    return out
