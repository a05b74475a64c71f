"""What commands do around their work: the folder, how much is said, what is kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cellfuse import __version__
from cellfuse._settings import settings
from cellfuse.bench._folder import check_folder

__all__ = ["check_file", "check_result", "check_writable", "loading", "verbosity"]


@contextmanager
def verbosity(quiet: bool) -> Iterator[None]:
    """Say a line for each verb, or with `quiet` nothing; as before when the block ends."""
    before = settings.verbosity
    settings.verbosity = "error" if quiet else "info"
    try:
        yield
    finally:
        settings.verbosity = before


def loading(quiet: bool = False) -> None:
    """Say that something happens: torch and scvi-tools take seconds to import."""
    if not quiet:
        print(f"cellfuse {__version__}: loading ...", flush=True)


def check_writable(target: Path, option: str) -> None:
    """Refuse a place that cannot be written to, by the user's own name of it."""
    parent = target.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise NotADirectoryError(f"{str(parent)!r} is a file; {str(target)!r} cannot be in it.")
    try:
        # Tried, not asked: some disks say yes and refuse (read-only mounts, quotas, /proc).
        os.rmdir(tempfile.mkdtemp(dir=parent))
    except OSError as error:
        reason = "no permission" if isinstance(error, PermissionError) else error.strerror
        raise PermissionError(
            f"{str(target)!r} ({option}) cannot be written: {reason} in {str(parent)!r}."
        ) from error


def check_result(out: str, *, overwrite: bool) -> Path:
    """Refuse a folder for a result that would lose something or cannot be made."""
    target = check_folder(out)
    del overwrite  # an earlier result is taken up where it ended, or removed by the run
    check_writable(target, "--out")
    return target


def check_file(out: str, *, overwrite: bool, suffixes: tuple[str, ...]) -> Path:
    """Refuse a file to write that is there already, of another kind, or cannot be made."""
    target = Path(out)
    if target.suffix not in suffixes:
        raise ValueError(f"--out {out}: expected a file that ends in {' or '.join(suffixes)}.")
    if target.exists() and not overwrite:
        raise FileExistsError(f"{out!r} exists; name another (--out), or give --overwrite.")
    check_writable(target, "--out")
    return target
