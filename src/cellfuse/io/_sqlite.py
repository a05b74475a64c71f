"""Databases of CellProfiler and cytominer-database: images and objects joined."""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from cellfuse._errors import listing
from cellfuse.io._tables import numbers_or_words
from cellfuse.io._text import check_declared

__all__ = ["is_sqlite", "read_sqlite"]

logger = logging.getLogger("cellfuse")

#: Columns whose joint value names an image.
IMAGE_KEYS = ("TableNumber", "ImageNumber")
#: Columns that number objects, and those that join them.
LINK = re.compile(r"_Parent_|ObjectNumber$|_Number_Object_Number$")
PER = "Per_"
#: Steps of SQLite's machine that any database may take, and so many more for each of its bytes: a
#: view may be written so that it never ends.
FREE_STEPS, STEPS_PER_BYTE, STEPS_AT_ONCE = 1_000_000_000, 500, 1_000_000
#: Bytes that a value takes in memory, at least; rows that are taken at once.
VALUE_BYTES, ROWS_AT_ONCE = 64, 4096


@dataclass(frozen=True)
class _Objects:
    """One table of objects, and the column that numbers them within an image."""

    name: str
    table: pd.DataFrame
    number: str


def is_sqlite(path: Path) -> bool:
    """Tell a database by the name."""
    return path.name.lower().endswith((".sqlite", ".sqlite3", ".db"))


def read_sqlite(path: Path, numeric: Callable[[str], bool]) -> pd.DataFrame:
    """Read one row per object, with what is known of its image.

    Objects of several kinds (cells, nuclei, cytoplasm) are joined by the columns
    ``Cytoplasm_Parent_Cells`` and the like; without tables of objects, a row is an image.

    Parameters
    ----------
    path
        Database; it is opened for reading only.
    numeric
        Tells of a column's name whether it may be numbers.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is no database of CellProfiler, or tables of objects have nothing that joins them.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    try:
        address = f"file:{quote(str(path.resolve()))}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as database:
            _limit(database, path)
            images, objects = _tables_of(database, path)
    except (sqlite3.Error, pd.errors.DatabaseError, MemoryError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as an SQLite database: {error}.") from error
    if objects:
        table = _together(objects, path)
        table = table if images is None else _with_images(table, images, path)
    else:
        assert images is not None  # or there would have been an error
        table = images
    for name in table.columns:
        if table[name].dtype == object or pd.api.types.is_string_dtype(table[name].dtype):
            text = table[name].astype(object).where(table[name].notna(), "").map(str)
            table[name] = numbers_or_words(text, name, path, "\t") if numeric(name) else text
    return table


def _limit(database: sqlite3.Connection, path: Path) -> None:
    """End what takes far more steps, or longer values, than its bytes on the disk can hold."""
    size = path.stat().st_size
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, min(max(1 << 20, size), (1 << 31) - 1))
    left = (FREE_STEPS + STEPS_PER_BYTE * size) // STEPS_AT_ONCE

    def end() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    database.set_progress_handler(end, STEPS_AT_ONCE)


def _tables_of(
    database: sqlite3.Connection, path: Path
) -> tuple[pd.DataFrame | None, list[_Objects]]:
    found = database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
    images, objects, others = None, [], []
    for (table,) in sorted(found.fetchall()):
        kind = table.rsplit(PER, 1)[-1]
        columns = _columns(database, table)
        if "ImageNumber" not in columns:
            others.append(table)
            continue
        number = next((c for c in _number_columns(kind) if c in columns), None)
        if kind == "Image":
            images = _read(database, table, path)
        elif number is not None:
            objects.append(_Objects(kind, _read(database, table, path), number))
        else:
            others.append(table)
    if images is None and not objects:
        raise ValueError(
            f"{str(path)!r} is no database of CellProfiler: expected a table Image (..Per_Image) "
            f"or tables of objects with ImageNumber and ObjectNumber; found {listing(others)}."
        )
    return images, objects


def _number_columns(kind: str) -> tuple[str, ...]:
    return ("ObjectNumber", f"{kind}_ObjectNumber", f"{kind}_Number_Object_Number")


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA table_info({_quoted(table)})")]


def _read(database: sqlite3.Connection, table: str, path: Path) -> pd.DataFrame:
    read = database.execute(f"SELECT * FROM {_quoted(table)}")
    names, size = [column[0] for column in read.description], path.stat().st_size
    rows: list[tuple[Any, ...]] = []
    while part := read.fetchmany(ROWS_AT_ONCE):
        rows += part
        check_declared(path, len(rows) * len(names) * VALUE_BYTES, size)
    found = pd.DataFrame.from_records(rows, columns=names, coerce_float=True)
    # SQLite holds a number as text where a column was made without a type: keys must still meet.
    for name in found.columns:
        linked = name in IMAGE_KEYS or LINK.search(name)
        if not linked or pd.api.types.is_numeric_dtype(found[name]):
            continue
        number = pd.to_numeric(found[name], errors="coerce")
        if number.notna().equals(found[name].notna()):
            found[name] = number
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _keys(table: pd.DataFrame) -> list[str]:
    return [key for key in IMAGE_KEYS if key in table.columns]


def _together(objects: list[_Objects], path: Path) -> pd.DataFrame:
    """Objects of all kinds side by side, each row one cell."""

    def parents(one: _Objects) -> int:
        return sum(f"{one.name}_Parent_{other.name}" in one.table.columns for other in objects)

    base = max(objects, key=parents)
    keys = _keys(base.table)
    table = base.table.rename(columns={base.number: f"{base.name}_ObjectNumber"})
    _check_once(table, [*keys, f"{base.name}_ObjectNumber"], base.name, path)
    joined, rest = [base.name], [one for one in objects if one is not base]
    while rest:
        links = [
            (one, f"{name}_Parent_{one.name}")
            for one in rest
            for name in joined
            if f"{name}_Parent_{one.name}" in table.columns
        ]
        if not links:
            raise ValueError(
                f"nothing in {str(path)!r} joins {listing(one.name for one in rest)} to "
                f"{listing(joined)}: expected a column such as "
                f"'{joined[0]}_Parent_{rest[0].name}'. Export the compartments with their parents."
            )
        one, link = links[0]
        right = one.table.rename(columns={one.number: f"{one.name}_ObjectNumber"})
        same = [c for c in right.columns if c in table.columns and c not in keys]
        right = right.rename(columns={c: f"{one.name}_{c}" for c in same})
        _check_once(right, [*keys, f"{one.name}_ObjectNumber"], one.name, path)
        n_before = len(table)
        table = table.merge(
            right,
            left_on=[*keys, link],
            right_on=[*keys, f"{one.name}_ObjectNumber"],
        )
        if len(table) < n_before:
            logger.info(
                "read_profiles: %d objects of %s have no %s and are left out.",
                n_before - len(table),
                listing(joined),
                one.name,
            )
        joined.append(one.name)
        rest.remove(one)
    return table


def _with_images(table: pd.DataFrame, images: pd.DataFrame, path: Path) -> pd.DataFrame:
    keys = [key for key in _keys(table) if key in images.columns]
    same = [c for c in images.columns if c in table.columns and c not in keys]
    images = images.rename(columns={c: f"Image_{c}" for c in same})
    _check_once(images, keys, "images", path)
    return table.merge(images, on=keys, how="left")


def _check_once(table: pd.DataFrame, keys: list[str], what: str, path: Path) -> None:
    """Refuse images or objects that stand twice: the rows of others would be doubled by them."""
    double = table.loc[table.duplicated(keys), keys]
    if len(double):
        first = ", ".join(f"{key} {double.iloc[0][key]}" for key in keys)
        raise ValueError(
            f"{len(double)} rows of the table of {what} in {str(path)!r} repeat another ({first} "
            "the first): were two runs written into one database? Give each its own TableNumber, "
            "or delete the rows of one."
        )
