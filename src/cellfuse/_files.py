"""Writes go beside, then take the place of what was there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["put_in_place", "write_csv"]

#: First letters at which a spreadsheet takes a text for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def put_in_place(new: Path, target: Path) -> None:
    """Put the folder `new` in the place of `target`, which comes back if that fails."""
    old = new.with_name(f"{new.name}-old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table for people: labels that a spreadsheet would run as formulas stay text.

    Such a label gets a ``'`` in front, which spreadsheets do not show.
    """

    def plain(value: Any) -> Any:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    out = table.rename(columns=plain)
    for place, dtype in enumerate(out.dtypes):
        if dtype.kind not in "iufb":
            out.isetitem(place, [plain(value) for value in out.iloc[:, place]])
    beside = path.with_name(f".{path.name}-{os.getpid()}")
    out.to_csv(beside, index=False)
    beside.replace(path)
