"""What was done to which key of an AnnData, noted in `.uns` with witnesses of the array."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import stored_x, take_rows
from cellfuse._errors import listing

__all__ = ["PROVENANCE", "as_json", "forget", "record", "recorded", "refuse_twice"]

#: The slot of `.uns` in which the library notes what it did to which key.
PROVENANCE = "cellfuse"
#: Rows whose sums identify an array that a verb has written.
N_WITNESSES = 32


def as_json(value: Any) -> str:
    """Arguments as JSON: labels and numbers as a user has them, arrays and sets among them."""
    return json.dumps(value, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if hasattr(value, "tolist"):  # numpy's scalars and arrays, pandas' columns
        return value.tolist()
    return str(value)


def _stored(adata: AnnData, key: str | None) -> Any:
    return stored_x(adata) if key in (None, "X") else adata.obsm.get(key)


def _row_sums(array: Any, rows: np.ndarray) -> np.ndarray:
    if isinstance(array, pd.DataFrame):
        array = array.to_numpy()
    part = take_rows(getattr(array, "cellfuse_source", array), rows)
    # Sparse arrays have two axes, and older ones take no tuple.
    axis = 1 if part.ndim == 2 else tuple(range(1, part.ndim))
    return np.asarray(part.sum(axis=axis, dtype=np.float64)).ravel()


def _witness(adata: AnnData, array: Any) -> dict[str, float]:
    rows = np.unique(np.linspace(0, adata.n_obs - 1, min(N_WITNESSES, adata.n_obs)).astype(int))
    names = adata.obs_names
    found = _rows_of(adata, names[rows])
    if len(found) < len(rows):  # a name that occurs twice names no row
        unique = np.flatnonzero(~names.duplicated(keep=False))
        chosen = np.linspace(0, len(unique) - 1, min(N_WITNESSES, len(unique))).astype(int)
        found = {str(names[row]): int(row) for row in unique[np.unique(chosen)]}
    if not found:
        return {}
    sums = _row_sums(array, np.fromiter(found.values(), np.intp, len(found)))
    return dict(zip(found, map(float, sums), strict=True))


def _rows_of(adata: AnnData, names: Iterable[str]) -> dict[str, int]:
    """Row of each name that occurs once; millions of other names are not put into a table."""
    wanted = list(names)
    rows = np.flatnonzero(adata.obs_names.isin(wanted)) if wanted else np.empty(0, int)
    there = adata.obs_names[rows].astype(str)
    once = ~there.duplicated(keep=False)
    return {str(name): int(row) for name, row in zip(there[once], rows[once], strict=True)}


def _slot(key: str | None) -> str:
    return (key or "X").replace("/", "|")


def record(
    adata: AnnData,
    key: str | None,
    verb: str,
    params: Mapping[str, Any],
    *,
    past: Mapping[str, Any] | None = None,
) -> None:
    """Note in ``.uns["cellfuse"]`` that `verb` wrote ``obsm[key]``, with its parameters.

    The sums of a few rows are kept as witnesses, so that an array put there later by somebody
    else does not inherit the note. `past` is what :func:`recorded` gave for the input before it
    was overwritten; without it, the verbs noted for the array as it is now are kept.
    """
    array = _stored(adata, key)
    verbs = dict(recorded(adata, key) if past is None else past)
    verbs.pop(verb, None)  # the dict keeps the order in which the verbs were last run
    verbs[verb] = dict(params)
    notes = adata.uns.setdefault(PROVENANCE, {}).setdefault("written", {})
    notes[_slot(key)] = as_json({"verbs": verbs, "rows": _witness(adata, array)})


def recorded(adata: AnnData, key: str | None) -> dict[str, Any]:
    """Verbs noted for ``obsm[key]`` as ``{verb: params}``; empty when the array is another one."""
    notes = adata.uns.get(PROVENANCE, {}).get("written", {})
    name, array = _slot(key), _stored(adata, key)
    if name not in notes or array is None:
        return {}
    note = json.loads(notes[name])
    known = _rows_of(adata, note["rows"])
    if known:
        sums = _row_sums(array, np.fromiter(known.values(), np.intp, len(known)))
        if not np.allclose(sums, [note["rows"][name] for name in known], rtol=1e-6, atol=1e-9):
            return {}
    return dict(note["verbs"])


def forget(adata: AnnData, key: str | None) -> None:
    """Drop the notes on ``obsm[key]``."""
    adata.uns.get(PROVENANCE, {}).get("written", {}).pop(_slot(key), None)


def refuse_twice(
    adata: AnnData,
    key: str | None,
    verb: str,
    *,
    overwrite: bool,
    other: Mapping[str, Any] | None = None,
) -> None:
    """Refuse to run `verb` on its own output unless `overwrite` is set.

    `other` holds the parameters of a run that goes to another key: one that differs from the first
    (by plate, then over all) is meant, one that repeats it is a slip.
    """
    past = recorded(adata, key)
    if verb in past and not overwrite:
        if other is not None and past[verb] != json.loads(as_json(dict(other))):
            return
        name = "X" if key in (None, "X") else f"obsm[{key!r}]"
        raise ValueError(
            f"{verb!r} has already been run on {name} (with {past[verb]}; done so far: "
            f"{listing(past)}). Write to another key with `key_added`, start again from the raw "
            "embedding, or pass `overwrite=True` to run it a second time."
        )
