"""Whole runs: from a screen to embeddings, profiles, scores and one report."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cellfuse.bench._settings import Settings

if TYPE_CHECKING:
    from cellfuse.bench._benchmark import benchmark
    from cellfuse.bench._read import read_screen
    from cellfuse.bench._result import Benchmark
    from cellfuse.bench._run import Result, run_demo, run_screen
    from cellfuse.bench._scorers import Scores, Value
    from cellfuse.bench._views import View

_PLACES = {
    "Benchmark": "_result",
    "Scores": "_scorers",
    "Value": "_scorers",
    "View": "_views",
    "benchmark": "_benchmark",
    "Result": "_run",
    "read_screen": "_read",
    "run_demo": "_run",
    "run_screen": "_run",
}

__all__ = [
    "Benchmark",
    "Result",
    "Scores",
    "Settings",
    "Value",
    "View",
    "benchmark",
    "read_screen",
    "run_demo",
    "run_screen",
]


def __getattr__(name: str) -> Any:
    # The command line builds its help from `Settings` alone, without loading torch.
    if name in _PLACES:
        return getattr(import_module(f"cellfuse.bench.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'cellfuse.bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
