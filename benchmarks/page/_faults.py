# ruff: noqa: E501  (paragraphs of a page)
"""The page's section on faults and hostile inputs: how many were tried, and of which kinds."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["faults"]

RESULTS = Path(__file__).resolve().parents[1] / "faults" / "results"
HEAD = """\
## Faults and hostile input

What goes wrong on purpose, each time for real: a disk that is full or only read, a process that is
killed, a chunk that is missing. *Passed* means that what was there before is intact byte for byte, or
that the run which goes on ends as the unbroken one, and that the error names what it is about. A hostile
input is read right or ends in one clear error, within 30 seconds and 2 GB, and nothing of it is executed.

"""


def faults() -> str:
    """The section, or which command writes its numbers."""
    lines = [HEAD, "| | passed | tried |\n|---|---|---|\n"]
    for name, what in (("faults", "faults"), ("hostile", "hostile inputs")):
        file = RESULTS / f"{name}.json"
        if not file.is_file():
            lines.append(f"| {what}: `python benchmarks/faults/{name}.py` | | |\n")
            continue
        found = json.loads(file.read_text())
        lines.append(f"| {what} (`benchmarks/faults/{name}.py`) | {found['passed']} | ")
        lines.append(f"{found['tried']} |\n")
    file = RESULTS / "hostile.json"
    if file.is_file():
        kinds = json.loads(file.read_text())["by_reader"]
        lines.append("\nInputs by reader: ")
        lines.append(", ".join(f"{kind} {n}" for kind, n in kinds.items()) + ".\n")
    return "".join(lines)
