"""cellfuse: one space for perturbation screens read out by microscopy and by expression."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cellfuse._settings import settings

if TYPE_CHECKING:
    from cellfuse import bench, data, datasets, io, pl, pp, tl
    from cellfuse.bench import benchmark, report
    from cellfuse.model import (
        CLIP,
        DINO,
        GROOVE,
        MAE,
        PETRI,
        TIDE,
        Concepts,
        CrossModalAE,
        ImageRegressor,
        PhenoSeq,
        SemiClipped,
        SharedAxes,
    )

try:
    __version__ = version("cellfuse")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0"

_SUBMODULES = ("bench", "data", "datasets", "io", "pl", "pp", "tl")
_MODELS = (
    "CLIP",
    "Concepts",
    "CrossModalAE",
    "DINO",
    "GROOVE",
    "ImageRegressor",
    "MAE",
    "PETRI",
    "PhenoSeq",
    "SemiClipped",
    "SharedAxes",
    "TIDE",
)
#: Functions of whole runs.
_RUNS = ("benchmark", "report")

__all__ = [*_SUBMODULES, *_MODELS, *_RUNS, "__version__", "settings"]


def __getattr__(name: str) -> Any:
    # Loaded on first use: a model needs torch and scvi-tools, which take seconds to import.
    if name in _SUBMODULES:
        return import_module(f"cellfuse.{name}")
    if name in _MODELS:
        return getattr(import_module("cellfuse.model"), name)
    if name in _RUNS:
        return getattr(import_module("cellfuse.bench"), name)
    raise AttributeError(f"module 'cellfuse' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
