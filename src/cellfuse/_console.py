"""What a person reads while something runs: steps, times, and nothing of other libraries."""

from __future__ import annotations

import logging
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cellfuse._settings import settings

__all__ = ["Steps", "duration", "is_ours", "own_notes", "quiet", "shows_progress", "to_error"]

PACKAGE = Path(__file__).parent
#: Loggers by which the engines speak of devices, tips and their own products.
LOGGERS = (
    "lightning",
    "lightning.pytorch",
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric",
    "lightning.fabric.utilities.rank_zero",
    "lightning_utilities",
    "scvi",
)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' remarks from the reader, around our own calls of them.

    Errors are shown as ever, and at ``verbosity = "debug"`` all is. Loggers and warning filters
    are as before when the block ends.
    """
    if settings.at_least("debug"):
        yield
        return
    before = {name: logging.getLogger(name).level for name in LOGGERS}
    with warnings.catch_warnings():
        for module in ("lightning", "torch", "scvi", "lightning_utilities"):
            # Of the library's own line, never of ours or the user's.
            warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
        try:
            for name in LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)


def shows_progress() -> bool:
    """Whether a training says how far it is: at every verbosity but ``"error"``."""
    return settings.at_least("warning")


def duration(seconds: float) -> str:
    """Write a time as a person says it: ``8 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 9.5 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 else f"{round(whole / 60)} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Steps:
    """Says in one line what is done and how long it took.

    Parameters
    ----------
    say
        Where lines go; None says nothing.
    """

    def __init__(self, say: Callable[[str], None] | None) -> None:
        self.say = say or (lambda text: None)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str, detail: str = "") -> Iterator[None]:
        """Run a step."""
        start = time.perf_counter()
        if detail:
            self.say(f"{name}: {detail}")
        yield
        self.seconds[name] = time.perf_counter() - start
        self.say(f"{name}: done in {duration(self.seconds[name])}")


def is_ours(filename: str) -> bool:
    """Tell a warning of cellfuse, or of the caller's own script, from one of another library."""
    path = Path(filename)
    if PACKAGE in path.parents:
        return True
    others = {sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}
    return not any(other and Path(other) in path.parents for other in others)


@contextmanager
def own_notes(say: Callable[[str], None]) -> Iterator[list[str]]:
    """Say the library's own warnings once, as notes; drop those of other libraries.

    Returns
    -------
    The list that the notes are collected in.
    """
    said: list[str] = []
    show = warnings.showwarning

    def note(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if not is_ours(filename):
            if settings.at_least("debug"):
                show(message, category, filename, *rest, **more)
            return
        if str(message) not in said:
            said.append(str(message))
            say(f"  note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = note  # type: ignore[assignment]
        yield said


def to_error(text: str) -> None:
    """Print to standard error at once."""
    print(text, file=sys.stderr, flush=True)
