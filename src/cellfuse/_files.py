"""Writes go beside, then take the place of what was there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["put_in_place", "write_csv", "writing"]

#: First letters at which a spreadsheet takes a text for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


#: What a system says of a disk, by the number of the error; HDF5 and safetensors hand on the words.
OF_A_DISK = {
    os.strerror(number): number
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
}


@contextmanager
def writing(target: str | Path, fix: str = "What was there before is whole.") -> Iterator[None]:
    """Name what is being written where the disk is full, only read, or broken.

    Parameters
    ----------
    target
        File or folder, as the user named it.
    fix
        What has been kept, and how to go on.

    Raises
    ------
    OSError
        With `target` in its text, whatever kind of error the writer has made of it.
    """
    try:
        yield
    except Exception as error:
        words = next((words for words in OF_A_DISK if words in str(error)), None)
        if words is None or (isinstance(error, OSError) and str(target) in str(error)):
            raise
        raise OSError(
            OF_A_DISK[words], f"{str(target)!r} could not be written: {words}. {fix}"
        ) from error


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
    try:
        with writing(path):
            out.to_csv(beside, index=False)
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
