"""From options to arguments, checked against each other and against the file's header."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellfuse._errors import missing_key
from cellfuse.cli._header import Header, Part, role_parts

__all__ = ["by_role", "check_columns", "check_edges", "columns", "control_of", "given_only"]


def given_only(**options: Any) -> dict[str, Any]:
    """Options that were given, as plain values."""
    return {name: getattr(v, "value", v) for name, v in options.items() if v is not None}


def columns(text: str) -> list[str]:
    """Split obs columns at commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def by_role(text: str, form: str) -> dict[str, str]:
    """Read ``role=name,role=name``."""
    parts = [part.partition("=") for part in text.split(",")]
    if not all(sign for _, sign, _ in parts):
        raise ValueError(f"found {text!r}; expected the form {form}.")
    return {role.strip(): name.strip() for role, _, name in parts}


def control_of(control: str | None, control_key: str | None, needs: str) -> str | None:
    """Label of the controls, None for all cells; it must have been said which."""
    if control is None:
        raise ValueError(
            f"{needs} needs --control: the label of the control cells with --control-key, or "
            "'--control none' to take all cells."
        )
    if control == "none":
        if control_key is not None:
            raise ValueError("--control none takes all cells: leave --control-key out.")
        return None
    if control_key is None:
        raise ValueError(f"--control {control} needs --control-key, the obs column that holds it.")
    return control


def check_columns(
    header: Header,
    *,
    roles: Mapping[str, str] | None,
    every: Mapping[str, str | None],
    image_rep: str | None = None,
    rna_rep: str | None = None,
    rna_layer: str | None = None,
    batch: str | Mapping[str, str | None] | None = None,
    control: tuple[str | None, str | None] = (None, None),
) -> dict[str, Part]:
    """Refuse keys and labels that the file does not hold.

    Parameters
    ----------
    every
        obs columns, by option, that every modality must have; several with commas.
    control
        Key and label: some modality must have the label.

    Returns
    -------
    Modality of each role.
    """
    parts = role_parts(header, dict(roles) if roles is not None else None)
    for part in parts.values():
        for option, text in every.items():
            for key in columns(text) if text else []:
                if key != "obs_names":
                    part.need_obs(key, option)
    for role, rep, option in (("image", image_rep, "--image-rep"), ("rna", rna_rep, "--rna-rep")):
        if rep is not None and role in parts:
            parts[role].need_obsm(rep, option)
    if rna_layer is not None and "rna" in parts:
        parts["rna"].need_layer(rna_layer, "--rna-layer")
    if isinstance(batch, Mapping):
        for role in batch:
            if role not in parts:
                raise ValueError(
                    f"--batch-key names {role!r}; the roles of this run are "
                    f"{', '.join(map(repr, parts))}."
                )
    for role, part in parts.items():
        own = batch.get(role) if isinstance(batch, Mapping) else batch
        if own:
            part.need_obs(own, "--batch-key")
    _check_control(parts, *control)
    return parts


def _check_control(parts: Mapping[str, Part], key: str | None, label: str | None) -> None:
    if key is None or label is None:
        return
    found: set[str] = set()
    for part in parts.values():
        part.need_obs(key, "--control-key")
        labels = part.labels(key)
        if labels is None:  # numbers: the verbs compare them by value
            return
        found |= set(labels)
    if label not in found:
        raise missing_key(label, sorted(found), what=f"obs[{key!r}] (--control)")


def check_edges(path: str | None) -> None:
    """Refuse a table of pairs that is not there or lacks its columns, by its first line."""
    if path is None:
        return
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r} (--edges).")
    if file.suffix == ".parquet":
        return
    opener = gzip.open if file.suffix == ".gz" else open
    separator = "\t" if {".tsv", ".txt"} & set(file.suffixes) else ","
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as opened:
            names = next(csv.reader(opened, delimiter=separator), [])
    except (EOFError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(file)!r} (--edges) is no readable table: {error}") from error
    if not names:
        raise ValueError(f"{str(file)!r} (--edges) is no readable table: it is empty.")
    for column in ("source", "target"):
        if column not in names:
            kind = "tabs" if separator == "\t" else "commas"
            raise missing_key(
                column,
                names,
                what=f"the columns of {str(file)!r} (--edges)",
                fix=f"By its ending the table is read with {kind} between its columns.",
            )
