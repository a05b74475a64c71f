"""How a delimited file is written: encoding, separator, header, and whether its rows fit it."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO

from cellfuse.io._text import damage, encoding_of, open_text

__all__ = ["Layout", "column_names", "layout_of"]

#: Name of the column of row names that R writes without a name.
ROW_NAMES = "row_names"
#: Line under which a Harmony export begins its table; what is above says what plate it is of.
DATA_MARK = "[Data]"
MAX_PREAMBLE = 200
#: First line by which Excel is told of the separator.
SEP_LINE = re.compile(r'"?sep=.?"?[,;\t]*')


@dataclass(frozen=True)
class Layout:
    """How a file is written; the header is its line number `n_lines`."""

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


def layout_of(path: Path, sep: str | None, quoted: bool, comment: str | None) -> Layout:
    """Go through a file once and tell how it is written; arguments as of `read_table`.

    Raises
    ------
    ValueError
        It is empty, damaged, or rows are shorter or longer than its header.
    """
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
    return Layout(encoding, sep, quoted, n_before + taken - 1, names, n_extra, found.total(), about)


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
        if SEP_LINE.fullmatch(line.rstrip("\n")):
            continue
        if line.strip() and not (comment and line.startswith(comment)):
            return chain([(number, line)], lines)
    return iter(())


def _separator(path: Path, header: str) -> str:
    name = path.name.lower().removesuffix(".gz").removesuffix(".zip")
    likely = "," if name.endswith(".csv") else "\t"
    if likely in header:
        return likely
    counts = {sep: header.count(sep) for sep in ("\t", ",", ";", "|")}
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


def column_names(path: Path) -> list[str]:
    """Names in the header of a table, of which no row is read."""
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    with damage(path, "a table"), open_text(path, encoding_of(path, "a table")) as text:
        lines, _ = _before_header(text, None)
        line = next(lines, (0, ""))[1]
        names, _ = _record(line, (rest for _, rest in lines), _separator(path, line), quoted=True)
    return [name.strip() for name in names]
