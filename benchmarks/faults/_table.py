"""What a fault is: something that goes wrong, tried for real, and what must hold after it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "FAULTS",
    "OWN",
    "Fault",
    "NotTried",
    "contents",
    "fault",
    "read_only",
    "said",
    "small_disk",
]

HERE = Path(__file__).resolve().parent
#: The small models and screens that the tests hold to the same.
sys.path.append(str(HERE.parents[1] / "tests"))

#: A message is one paragraph, and no traceback.
MAX_MESSAGE = 1_000


#: Set in the process that has mounts of its own.
OWN = "CELLFUSE_FAULTS_OWN_MOUNTS"


class NotTried(Exception):
    """This machine does not let the fault be made."""


@dataclass(frozen=True)
class Fault:
    """A fault that is tried in a folder of its own.

    Parameters
    ----------
    name
        What goes wrong.
    tried
        Makes it go wrong and gives what was said; raises `AssertionError` where something is lost.
    quick
        Whether it belongs to the few that are tried with every run of the tests.
    """

    name: str
    tried: Callable[[Path], str]
    quick: bool


FAULTS: dict[str, Fault] = {}


def fault(name: str, *, quick: bool = False) -> Callable[[Callable[[Path], str]], Any]:
    """Enter a function into the table."""

    def enter(tried: Callable[[Path], str]) -> Callable[[Path], str]:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(name, tried, quick)
        return tried

    return enter


def said(call: Callable[[], Any], *parts: str | Path, kinds: Any = (ValueError, OSError)) -> str:
    """What a call says that must fail: an error of these kinds that holds all of `parts`."""
    try:
        call()
    except kinds as error:
        text = str(error)
    else:
        raise AssertionError(f"it went through; expected an error with {[*map(str, parts)]}")
    lacking = [str(part) for part in parts if str(part) not in text]
    assert not lacking, f"{lacking} is not in {text!r}"
    assert "Traceback" not in text and len(text) < MAX_MESSAGE, text
    return text


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by name, hidden ones too."""
    return {
        file.relative_to(folder).as_posix(): hashlib.blake2b(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def _mount(*options: str | Path) -> None:
    if OWN not in os.environ:
        raise NotTried("mounts here would be everybody's")
    done = subprocess.run(["mount", *map(str, options)], capture_output=True, text=True)
    if done.returncode:
        raise NotTried(f"no disk can be mounted here: {done.stderr.strip()}")


class Disk:
    """A small disk of its own; `faults.py` runs where such a mount ends with the process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._filler = folder, folder / "filler"

    def fill(self, leave: int) -> None:
        """Leave so many bytes."""
        free = os.statvfs(self.folder)
        size = free.f_bavail * free.f_frsize - leave
        with self._filler.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))

    def make_room(self) -> None:
        """Take away what fills it."""
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int = 24) -> Iterator[Disk]:
    """A disk of so many megabytes at a new folder."""
    place = folder / "disk"
    place.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", place)
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def read_only(disk: Disk) -> Iterator[None]:
    """Nobody writes on the disk meanwhile, root neither."""
    _mount("-o", "remount,ro", disk.folder)
    try:
        yield
    finally:
        _mount("-o", "remount,rw", disk.folder)
