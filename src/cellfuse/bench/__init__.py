"""Whole runs: methods x metrics x seeds on one screen, the papers' tables, and the report.

How it is made:

- a :class:`Design` says what a screen is, a :class:`Screen` is what of it is read (``_screen``);
- a *method* is one or two *sources* of embeddings and the fusion of their profiles (``_methods``);
- two kinds of tasks, each resumable: *embed* a source for a seed, *score* a method for a seed
  (``_engine``, ``_embed``, ``_store``);
- a *view* is what a metric is given: corrected profiles of one modality or of both (``_views``,
  ``_scorers``, ``_metrics``);
- scores become a table, comparisons and one sentence (``_summary``, ``_result``), hits (``_hits``)
  and a page (``_report``).

The demo, the papers' tables (``recipes``) and TOML files are configurations of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from cellfuse.bench._settings import Settings

if TYPE_CHECKING:
    from cellfuse.bench import recipes
    from cellfuse.bench._benchmark import benchmark
    from cellfuse.bench._config import Config, read_config
    from cellfuse.bench._read import read_screen
    from cellfuse.bench._report import report
    from cellfuse.bench._result import Benchmark
    from cellfuse.bench._run import run_config, run_demo, run_screen
    from cellfuse.bench._scorers import Scores, Value
    from cellfuse.bench._views import View

_PLACES = {
    "Benchmark": "_result",
    "Config": "_config",
    "Scores": "_scorers",
    "Value": "_scorers",
    "View": "_views",
    "benchmark": "_benchmark",
    "read_config": "_config",
    "read_screen": "_read",
    "report": "_report",
    "run_config": "_run",
    "run_demo": "_run",
    "run_screen": "_run",
    "run_settings": "_run",  # for the command line
}

__all__ = [
    "Benchmark",
    "Config",
    "Scores",
    "Settings",
    "Value",
    "View",
    "benchmark",
    "read_config",
    "read_screen",
    "recipes",
    "report",
    "run_config",
    "run_demo",
    "run_screen",
]


def __getattr__(name: str) -> Any:
    # The command line builds its help from `Settings` alone, without loading torch.
    if name == "recipes":
        return import_module("cellfuse.bench.recipes")
    if name == "Result":  # its old name
        return import_module("cellfuse.bench._result").Benchmark
    if name in _PLACES:
        return getattr(import_module(f"cellfuse.bench.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'cellfuse.bench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
