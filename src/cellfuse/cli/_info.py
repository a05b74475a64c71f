"""``cellfuse info``: what a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Annotated

import typer

from cellfuse import __version__

__all__ = ["info", "packages"]


def info(
    devices: Annotated[
        bool, typer.Option("--devices", help="Ask torch which devices there are (takes seconds).")
    ] = False,
) -> None:
    """Versions of cellfuse and of what it stands on, for a bug report."""
    rows = {
        "cellfuse": __version__,
        "Python": f"{platform.python_version()} ({sys.executable})",
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }
    if devices:
        rows["devices"] = _devices()
    width = max(map(len, [*rows, *packages()])) + 2
    for name, text in rows.items():
        print(f"{name:<{width}}{text}")
    print()
    for name, found in packages().items():
        print(f"{name:<{width}}{found}")


def packages() -> dict[str, str]:
    """Version of each dependency, those of extras included where they are installed."""
    import re

    found = {}
    try:
        lines = requires("cellfuse") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        name, _, marker = line.partition(";")
        match = re.match(r"[A-Za-z0-9_.-]+", name)
        if match is None or match[0] == "cellfuse":
            continue
        try:
            found[match[0]] = version(match[0])
        except PackageNotFoundError:
            if "extra" not in marker:
                found[match[0]] = "NOT INSTALLED"
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def _devices() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
        return ", ".join(names)
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads"
