"""The one reader of delimited tables: CSV, TSV and their kin, plain or packed, and parquet."""

from __future__ import annotations

import csv
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from cellfuse._errors import listing
from cellfuse.io._text import damage, encoding_of, open_text
from cellfuse.io._values import COMMON_GAPS, is_no_number, number_of

__all__ = [
    "column_names",
    "is_parquet",
    "numbers_or_words",
    "read_parquet",
    "read_table",
    "writable_names",
]

logger = logging.getLogger("cellfuse")

#: Name of the column of row names that R writes without a name.
ROW_NAMES = "row_names"
#: Line under which a Harmony export begins its table; what is above says what plate it is of.
DATA_MARK = "[Data]"
MAX_PREAMBLE = 200
#: Rows looked at together for identifiers that look like whole numbers.
CHUNK_ROWS = 20_000
IDENTIFIER = re.compile(r"\s*[+-]?0[0-9]")
DECIMAL_COMMA = re.compile(r"\s*[+-]?[0-9]+,[0-9]+(?:[eE][+-]?[0-9]+)?\s*")


@dataclass(frozen=True)
class _Layout:
    """How a file is written."""

    encoding: str
    sep: str
    quoted: bool
    n_lines: int  # up to and with the header
    names: list[str]
    n_extra: int  # empty fields behind the last column
    n_rows: int
    about: dict[str, str] = field(default_factory=dict)

    @property
    def width(self) -> int:
        return len(self.names) + self.n_extra


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
    layout = _layout(path, sep, quoted, comment)
    with damage(path, "a table"):
        table = _parse(path, layout, numeric or (lambda _: False))
    for name, value in layout.about.items():
        if name not in table.columns:
            table[name] = value
    return table


def column_names(path: Path) -> list[str]:
    """Names in the header of a table, of which no row is read."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    with damage(path, "a table"), open_text(path, encoding_of(path, "a table")) as text:
        line = next((line for line in text if line.strip()), "")
        names, _ = _record(line, text, _separator(path, line), quoted=True)
    return [name.strip() for name in names]


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


# -- layout ---------------------------------------------------------------------------------------


def _layout(path: Path, sep: str | None, quoted: bool, comment: str | None) -> _Layout:
    encoding = encoding_of(path, "a table")
    with damage(path, "a table"), open_text(path, encoding) as text:
        lines, about = _before_header(text, comment)
        header = next(lines, (0, ""))
        if not header[1].strip():
            raise ValueError("it is empty")
        sep = _separator(path, header[1]) if sep is None else sep
        rest = (line for _, line in lines)
        n_before = header[0]
        names, taken = _record(header[1], rest, sep, quoted)
        names = [name.strip() for name in names]
        found, first = _widths(rest, sep, quoted, n_before + taken)
    names, n_extra = _fitted(path, names, found, first)
    return _Layout(
        encoding, sep, quoted, n_before + taken - 1, names, n_extra, found.total(), about
    )


def _before_header(
    text: IO[str], comment: str | None
) -> tuple[Iterator[tuple[int, str]], dict[str, str]]:
    """Numbered lines from the header on, and what a preamble above it says."""
    head: list[tuple[int, str]] = []
    numbered = iter(enumerate(text, start=1))
    for number, line in numbered:
        head.append((number, line))
        if line.strip().strip('"') == DATA_MARK:
            pairs = [old.strip().split("\t") for _, old in head[:-1]]
            about = {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}
            return _from_first(numbered, comment), about
        if number >= MAX_PREAMBLE:
            break
    return _from_first(chain(head, numbered), comment), {}


def _from_first(lines: Iterator[tuple[int, str]], comment: str | None) -> Iterator[tuple[int, str]]:
    for number, line in lines:
        if line.strip() and not (comment and line.startswith(comment)):
            return chain([(number, line)], lines)
    return iter(())


def _separator(path: Path, header: str) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zip")
    likely = "," if name.endswith(".csv") else "\t"
    if likely in header:
        return likely
    counts = {sep: header.count(sep) for sep in ("\t", ",", ";")}
    best = max(counts, key=lambda sep: counts[sep])
    return best if counts[best] else likely


def _record(line: str, rest: Iterator[str], sep: str, quoted: bool) -> tuple[list[str], int]:
    """Fields of a line, and of those after it where a quoted value goes on there."""
    if not quoted or '"' not in line:
        return line.rstrip("\n").split(sep), 1
    reader = csv.reader(chain([line], rest), delimiter=sep)
    return next(reader), reader.line_num


def _widths(
    lines: Iterator[str], sep: str, quoted: bool, number: int
) -> tuple[Counter[tuple[int, bool]], dict[int, int]]:
    """Rows by their number of fields and whether the last is empty; first line of each width."""
    found: Counter[tuple[int, bool]] = Counter()
    first: dict[int, int] = {}
    for line in lines:
        here, taken = number, 1
        if quoted and '"' in line:
            fields, taken = _record(line, lines, sep, quoted)
            width, empty = len(fields), not fields[-1].strip()
            blank = not any(value.strip() for value in fields)
        else:
            width = line.count(sep) + 1
            text = line.rstrip("\n")
            blank = not text.replace(sep, "").strip()
            empty = text.endswith(sep)
        number += taken
        if not blank:
            found[width, empty] += 1
            first.setdefault(width, here)
    return found, first


def _fitted(
    path: Path, names: list[str], found: Counter[tuple[int, bool]], first: dict[int, int]
) -> tuple[list[str], int]:
    """Names of the columns and number of empty fields behind them, or which line does not fit."""
    n_named = len(names)
    while n_named and not names[n_named - 1]:
        n_named -= 1
    widths = {width for width, _ in found}
    if not widths or widths == {len(names)}:
        return names, 0
    width = max(widths)
    if len(widths) == 1 and width == len(names) + 1 and (width, False) in found:
        return [ROW_NAMES, *names], 0  # as R's write.table leaves the name of the first one away
    if min(widths) >= n_named and all(empty for w, empty in found if w > n_named):
        return names[:n_named], width - n_named
    bad = min(widths - {len(names)}, key=first.__getitem__)
    raise ValueError(
        f"{str(path)!r} does not hold together: line {first[bad]} has {bad} fields, its header "
        f"names {len(names)} columns. Was it cut off, or does a value hold the separator?"
    )


# -- values ---------------------------------------------------------------------------------------


def _parse(path: Path, layout: _Layout, numeric: Callable[[str], bool]) -> pd.DataFrame:
    named = list(range(len(layout.names)))
    likely = [i for i in named if numeric(layout.names[i])]
    text_only = sorted(set(named) - set(likely))
    table = _read(path, layout, named, text_only)
    words = [i for i in likely if table[i].dtype.kind not in "iuf"]
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


def _read(path: Path, layout: _Layout, columns: list[int], text: list[int]) -> pd.DataFrame:
    if not layout.n_rows:  # a header and no row
        return pd.DataFrame({i: pd.Series(dtype=object) for i in columns})
    with open_text(path, layout.encoding) as stream:
        _skip(stream, layout.n_lines)
        return pd.read_csv(stream, **_options(layout, columns, text)).rename(columns=_place)


def _options(layout: _Layout, columns: list[int], text: list[int]) -> dict[str, Any]:
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


def _skip(stream: IO[str], n: int) -> None:
    for _ in range(n):
        stream.readline()


def _identifiers(path: Path, layout: _Layout, columns: list[int]) -> list[int]:
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
    if any(IDENTIFIER.match(value) for value in values):
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
