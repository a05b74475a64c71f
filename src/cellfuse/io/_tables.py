"""The one reader of delimited tables: CSV, TSV and their kin, plain or packed, and parquet."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from cellfuse._errors import listing
from cellfuse.io._layout import Layout, layout_of
from cellfuse.io._text import damage, open_text
from cellfuse.io._values import COMMON_GAPS, is_no_number, number_of

__all__ = [
    "is_parquet",
    "numbers_or_words",
    "read_parquet",
    "read_table",
    "writable_names",
]

logger = logging.getLogger("cellfuse")

#: Rows looked at together for identifiers that look like whole numbers.
CHUNK_ROWS = 20_000
IDENTIFIER = re.compile(r"\s*[+-]?0[0-9]")
#: Numbers with marks that no number has: 5%, "1,234.5", "1.234,5", "1,5", "1 234".
MARKED = re.compile(
    r"\s*[+\-\u2212]?[0-9]+(?:[,.' \u00a0][0-9]{3})*(?:[.,][0-9]+)?\s*[%\u2030]?\s*"
)
DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?\s*")


def read_table(
    path: Path,
    *,
    sep: str | None = None,
    numeric: Callable[[str], bool] | None = None,
    quoted: bool = True,
    comment: str | None = None,
) -> pd.DataFrame:
    """Read a table as it is written: text stays text, and nothing moves to another column.

    Parameters
    ----------
    path
        Text in any encoding, plain, gzip or zip.
    sep
        What stands between columns; default a comma, tab or semicolon, by the file's name where the
        header holds it, else by the header.
    numeric
        Tells of a column's name whether it may be numbers. Such columns are float64 or int64 where
        they are numbers; all other ones, and those of words, are texts as they are written, with
        ``""`` for nothing. Default: all are text.
    quoted
        Quotes may stand around values; False takes them for letters.
    comment
        Lines at the top that begin so are skipped.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is empty, damaged or no table; rows are shorter or longer than the header; two columns of
        one name differ; words stand among the numbers of a column (by name, value and row).
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    layout = layout_of(path, sep, quoted, comment)
    with damage(path, "a table"):
        table = _parse(path, layout, numeric or (lambda _: False))
    for name, value in layout.about.items():
        if name not in table.columns:
            table[name] = value
    return table


def is_parquet(path: Path) -> bool:
    """Tell parquet by the name."""
    return path.name.lower().endswith((".parquet", ".pq"))


def read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        pyarrow is not installed.
    ValueError
        It is damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    try:
        with damage(path, "a table"):
            table = pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(
            f"{str(path)!r} is parquet, which needs pyarrow: pip install cellfuse[parquet]."
        ) from error
    table.columns = table.columns.astype(str)
    return table.reset_index(drop=isinstance(table.index, pd.RangeIndex))


def writable_names(names: pd.Index) -> list[str]:
    """Names of obs columns that h5ad takes: no ``/``, none empty, and not its own ``_index``."""
    out = []
    for name in map(str, names):
        new = name.replace("/", "|") or "unnamed"
        out.append("index_" if new == "_index" else new)
    return out


def _parse(path: Path, layout: Layout, numeric: Callable[[str], bool]) -> pd.DataFrame:
    named = list(range(len(layout.names)))
    if not layout.n_rows:
        return _named(_read(path, layout, named, []), layout.names, path)
    likely = [i for i in named if numeric(layout.names[i])]
    text_only = sorted(set(named) - set(likely))
    table = _read(path, layout, named, text_only)
    words = [i for i in likely if table[i].dtype.kind not in "iuf" or _has_infinite(table[i])]
    whole = [i for i in likely if i not in words and _is_whole(table[i])]
    words += _identifiers(path, layout, whole)
    if words:
        raw = _read(path, layout, sorted(words), sorted(words))
        for i in words:
            table[i] = numbers_or_words(raw[i], layout.names[i], path, layout.sep)
    blank = np.ones(len(table), dtype=bool)
    for i in named:  # lines of nothing but separators, as spreadsheets leave them
        column = table[i]
        blank &= ((column == "") if column.dtype == object else column.isna()).to_numpy()
    table = table[~blank].reset_index(drop=True) if blank.any() else table
    return _named(table, layout.names, path)


def _read(path: Path, layout: Layout, columns: list[int], text: list[int]) -> pd.DataFrame:
    if not layout.n_rows:  # a header and no row
        return pd.DataFrame(index=pd.RangeIndex(0), columns=columns, dtype=object)
    with open_text(path, layout.encoding) as stream:
        _skip(stream, layout.n_lines)
        return pd.read_csv(stream, **_options(layout, columns, text)).rename(columns=_place)


def _options(layout: Layout, columns: list[int], text: list[int]) -> dict[str, Any]:
    # Columns go by their place, since names may repeat.
    return {
        "sep": layout.sep,
        "header": None,
        "names": [f"c{i}" for i in range(layout.width)],
        "index_col": False,
        "usecols": [f"c{i}" for i in columns],
        "dtype": {f"c{i}": object for i in text},
        "keep_default_na": False,
        "na_values": {f"c{i}": COMMON_GAPS for i in columns if i not in set(text)},
        "quoting": csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE,
        "low_memory": False,
    }


def _place(name: str) -> int:
    return int(name[1:])


def _is_whole(column: pd.Series) -> bool:
    values = column.to_numpy()
    if values.dtype.kind != "f":
        return True
    there = values[np.isfinite(values)]
    return len(there) > 0 and bool((there % 1 == 0).all())


def _has_infinite(column: pd.Series) -> bool:
    """Whether a number may be one that was written too large to be read."""
    return column.dtype.kind == "f" and bool(np.isinf(column.to_numpy()).any())


def _skip(stream: IO[str], n: int) -> None:
    for _ in range(n):
        stream.readline()


def _identifiers(path: Path, layout: Layout, columns: list[int]) -> list[int]:
    """Columns of whole numbers in which one begins with 0, as barcodes do: they are names."""
    found: set[int] = set()
    if not columns or not layout.n_rows:
        return []
    with open_text(path, layout.encoding) as stream:
        _skip(stream, layout.n_lines)
        options = _options(layout, columns, columns)
        for part in pd.read_csv(stream, chunksize=CHUNK_ROWS, **options):
            for i in set(columns) - found:
                if any(IDENTIFIER.match(value) for value in part[f"c{i}"].unique()):
                    found.add(i)
    return sorted(found)


def numbers_or_words(column: pd.Series, name: str, path: Path, sep: str) -> pd.Series:
    """Numbers, whatever their gaps are called, or text; a few words among numbers are refused."""
    values = column.unique()
    padded = [value for value in values if IDENTIFIER.match(value)]
    if padded:
        logger.info(
            "%s: column %r is taken for names: %r begins with 0.", path.name, name, padded[0]
        )
        return column
    given = {value: number_of(value) for value in values}
    words = [value for value, number in given.items() if number is None]
    if words and sep != "," and all(DECIMAL_COMMA.fullmatch(word) for word in words):
        given |= {word: float(word.replace(",", ".")) for word in words}
        words = []
    if not words:
        odd = [value for value in values if is_no_number(value) and value not in COMMON_GAPS]
        if odd:
            logger.warning(
                "%s: %s in column %r stands for a missing number.", path.name, listing(odd), name
            )
        return column.map(given).astype(np.float64)
    counts = column.value_counts()
    n_words = int(sum(counts[word] for word in words))
    n_numbers = int(sum(counts[v] for v, x in given.items() if x is not None and x == x))
    if n_numbers > n_words:
        row = int(np.argmax(column.isin(words)))
        raise ValueError(
            f"column {name!r} of {str(path)!r} holds the word {column.iloc[row]!r} (row {row + 1}) "
            f"among {n_numbers} numbers; in all it has {n_words} words, {listing(words, 4)}. Mend "
            "them, or say that the column is metadata and no feature."
        )
    if n_numbers:
        logger.warning(
            "%s: column %r holds %d words, %s, and %d numbers; it is taken for metadata. Name it "
            "in `features` if it is one.",
            path.name,
            name,
            n_words,
            listing(words, 4),
            n_numbers,
        )
    elif all(MARKED.fullmatch(word) for word in words):
        logger.warning(
            "%s: column %r holds numbers with marks, %s, and is taken for metadata. Write plain "
            "numbers with a decimal point if it is a feature.",
            path.name,
            name,
            listing(words, 4),
        )
    return column


def _named(table: pd.DataFrame, names: list[str], path: Path) -> pd.DataFrame:
    """Give the columns their names; what is named twice must be the same twice."""
    kept: dict[str, int] = {}
    for i, name in enumerate(names):
        if not name:
            if (table[i].eq("") if table[i].dtype == object else table[i].isna()).all():
                continue
            name = f"Unnamed: {i}"
        if name not in kept:
            kept[name] = i
        elif not table[i].equals(table[kept[name]]):
            raise ValueError(
                f"{str(path)!r} has two columns {name!r} (numbers {kept[name] + 1} and {i + 1}) "
                "with different values; rename one of them."
            )
        else:
            logger.info("%s: column %r stands twice, with the same values.", path.name, name)
    out = table[list(kept.values())].copy()
    out.columns = pd.Index(list(kept), dtype=object)
    return out
