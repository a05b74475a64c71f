"""What a hostile input is: how it is made, who reads it, and what may come of it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = ["INPUTS", "CANARY", "SECRET", "Input", "Trap", "hostile"]

#: Name of a file that is there only if something of the input was executed.
CANARY = "executed"
#: Bytes of a file beside the folder of the input, which no reader may hand out.
SECRET = b"SECRET-OF-ANOTHER-FOLDER"


@dataclass(frozen=True)
class Input:
    """One hostile input.

    Parameters
    ----------
    name
        Reader and what is hostile.
    make
        Writes it into a folder and gives its path.
    read
        Reads it; asserts what must hold of what is read.
    expect
        ``"told"``: an error that names it; ``"right"``: it is read; ``"either"``: one of both.
    names
        What an error must hold, instead of the name of the file.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    expect: Literal["told", "right", "either"] = "either"
    names: str | None = None


INPUTS: dict[str, Input] = {}


def hostile(name: str, make: Any, read: Any, expect: Any = "either", names: Any = None) -> None:
    """Enter an input into the table."""
    assert name not in INPUTS, name
    INPUTS[name] = Input(name, make, read, expect, names)


class Trap:
    """Writes the canary when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.file = str(folder / CANARY)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.file,)

    def pickled(self) -> bytes:
        """The pickle."""
        return pickle.dumps(self)
