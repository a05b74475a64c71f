"""What stands in a benchmark's file: wrong keys are refused before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from cellfuse._errors import missing_key
from cellfuse.bench._design import Design

__all__ = ["PLAIN", "SIMULATORS", "TABLES", "check_content"]

#: Simulators by name.
SIMULATORS = ("simulated_screen", "simulated_drugs")
#: Tables, and what may stand beside them.
TABLES = ("data", "screen", "methods", "metrics")
PLAIN = (
    "title", "about", "seeds", "correction", "against", "ceiling_of", "hold_out", "hold_out_by",
    "n_jobs", "keep_models", "colour_key",
)  # fmt: skip


def check_content(content: Mapping[str, Any], name: str) -> None:
    """Refuse what is no benchmark; `name` is the file's, for the message.

    Raises
    ------
    KeyError
        A key that does not exist; the likely spelling is named.
    ValueError
        A table, the data, ``context_keys`` or ``control`` are missing.
    """
    for key in content:
        if key not in (*TABLES, *PLAIN):
            raise missing_key(key, [*TABLES, *PLAIN], what=f"the keys of {name}")
    for table in TABLES:
        if not content.get(table):
            raise ValueError(f"{name} has no [{table}].")
        if not isinstance(content[table], Mapping):
            raise ValueError(f"{table!r} of {name} is no table: write [{table}].")
    data, screen = content["data"], content["screen"]
    if "file" not in data and "simulated" not in data:
        raise ValueError(f"[data] of {name} names neither a `file` nor what is `simulated`.")
    if "file" not in data and data["simulated"] not in SIMULATORS:
        raise missing_key(str(data["simulated"]), SIMULATORS, what="the simulators")
    known = [field.name for field in fields(Design)]
    for key in screen:
        if key not in known:
            raise missing_key(key, known, what=f"[screen] of {name}")
    if "context_keys" not in screen:
        raise ValueError(f"[screen] of {name} has no context_keys.")
    if "control" not in screen:
        raise ValueError(
            f'[screen] of {name} has no control: the label of the controls, or "" for all cells.'
        )
