"""Whole runs: from a screen to embeddings, profiles, scores and one report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cellfuse.bench._settings import Settings

if TYPE_CHECKING:
    from cellfuse.bench._read import read_screen
    from cellfuse.bench._run import Result, run_demo, run_screen

_PLACES = {
    "Result": "_run",
    "read_screen": "_read",
    "run_demo": "_run",
    "run_screen": "_run",
}

__all__ = ["Result", "Settings", "read_screen", "run_demo", "run_screen"]


def __getattr__(name: str) -> Any:
    # The command line builds its help from `Settings` alone, without loading torch.
    if name in _PLACES:
        return getattr(import_module(f"cellfuse.bench.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'cellfuse.bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
