"""What a run that cuts crops has finished, field by field, for the one that goes on after it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import pandas as pd
from anndata.io import read_elem, write_elem

__all__ = ["DoneField", "FieldNotes", "Journal"]

logger = logging.getLogger("cellfuse")

FORMAT = 1


@dataclass(frozen=True)
class FieldNotes:
    """What is known of a field beside its cells."""

    #: Fingerprint of the files, or of the pixels and labels, that it was cut from.
    mark: str
    name: str
    channels: tuple[str, ...]
    dtype: str
    #: Cells that were found; those that were cut are rows of the table.
    n_found: int


@dataclass(frozen=True)
class DoneField:
    """A field whose crops an earlier run has written."""

    notes: FieldNotes
    table: pd.DataFrame


class Journal:
    """A line per finished field, and a table of its cells beside; in the order of the fields.

    A line is written after the crops and the table that it speaks of: what a killed run left half
    written has no line.

    Parameters
    ----------
    folder
        Where the journal lies; made when the first line is written.
    settings
        How cells are cut. A journal of other settings counts for nothing.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        self._settings = json.loads(json.dumps({"format": FORMAT, **settings}))
        self._left: list[dict[str, Any]] = []
        self._n_known = 0
        #: Rows of the array that belong to fields that are taken over.
        self.n_rows = 0

    def __len__(self) -> int:
        """Fields that were taken over or written down."""
        return self._n_known

    def open(self, n_rows: int) -> None:
        """Read what an earlier run has left beside an array of `n_rows` rows."""
        head = _lines(self._folder / "settings.json")
        if head and head != [self._settings]:
            logger.info("crop_cells: what an earlier call with other settings left is not used.")
        elif head:
            for line in _lines(self._folder / "fields.jsonl"):
                if line["end"] > n_rows or not self._table(len(self._left)).exists():
                    break
                self._left.append(line)

    def take(self, mark: str) -> DoneField | None:
        """The next field, if it is the one that was cut in its place; else it and all after end."""
        if not self._left:
            return None
        if self._left[0]["mark"] != mark:
            logger.info(
                "crop_cells: %d fields that an earlier call cut from %r on are others now, and are "
                "cut again.", len(self._left), self._left[0]["name"],
            )  # fmt: skip
            self._left = []
            return None
        line = self._left.pop(0)
        self.n_rows = line.pop("end")
        with h5py.File(self._table(self._n_known), "r") as file:
            table = read_elem(file["table"])
        self._n_known += 1
        return DoneField(FieldNotes(**{**line, "channels": tuple(line["channels"])}), table)

    def begin(self) -> None:
        """Forget what was not taken over, before other crops come in its place."""
        self._left = []
        lines = _lines(self._folder / "fields.jsonl")[: self._n_known]
        if not lines:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "settings.json").write_text(json.dumps(self._settings))
        _replace(self._folder / "fields.jsonl", "".join(json.dumps(line) + "\n" for line in lines))

    def write(self, notes: FieldNotes, table: pd.DataFrame, end: int) -> None:
        """Note a field whose crops are on the disk, up to row `end`."""
        with h5py.File(self._table(self._n_known), "w") as file:
            write_elem(file, "table", table)
        with (self._folder / "fields.jsonl").open("a") as lines:
            lines.write(json.dumps({**asdict(notes), "end": end}) + "\n")
        self._n_known += 1

    def _table(self, number: int) -> Path:
        return self._folder / f"{number}.h5"


def _lines(file: Path) -> list[Any]:
    """JSON values of a file, a line each, up to one that was cut short; none without it."""
    found: list[Any] = []
    try:
        for line in file.read_text().splitlines():
            found.append(json.loads(line))
    except (OSError, ValueError):
        return found
    return found


def _replace(file: Path, text: str) -> None:
    beside = file.with_name(f"{file.name}.new")
    beside.write_text(text)
    beside.replace(file)
