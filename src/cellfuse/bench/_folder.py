"""A result folder that is there whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfuse._files import put_in_place

__all__ = ["check_folder", "result_folder"]

#: Files by which an earlier result is known.
MARKS = ("report.html", "settings.json")


def check_folder(folder: str | Path, *, overwrite: bool) -> Path:
    """Refuse a folder whose content would be lost.

    Raises
    ------
    FileExistsError
        It holds something and `overwrite` is not set, or it is no earlier result; or it holds
        the folder you are in, which cannot be replaced under you.
    """
    target = Path(folder)
    if Path.cwd().is_relative_to(target.resolve()):
        raise FileExistsError(
            f"{str(folder)!r} is the folder you are in, or holds it; name a new one (--out)."
        )
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{str(target)!r} is a file; name a folder (--out).")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise FileExistsError(
                f"the folder {str(target)!r} is not empty; choose another (--out), or replace it "
                "with overwrite=True (--overwrite)."
            )
        if not all((target / mark).is_file() for mark in MARKS):
            raise FileExistsError(
                f"the folder {str(target)!r} holds something else than an earlier result; it is "
                "not overwritten. Choose another (--out)."
            )
    return target


@contextmanager
def result_folder(target: Path, *, keep: str) -> Iterator[Path]:
    """Give a folder beside `target` that takes its place when the block ends well.

    Otherwise it is removed, unless it holds `keep` already: what took long to compute stays, and
    the exception says where.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    beside.chmod(0o755)
    try:
        yield beside
        put_in_place(beside, target)
    except BaseException as error:
        if (beside / keep).exists():
            error.add_note(f"What was done until then is kept in {str(beside)!r}.")
        else:
            shutil.rmtree(beside, ignore_errors=True)
        raise
