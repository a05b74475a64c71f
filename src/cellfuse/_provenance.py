"""What was done to which key of an AnnData, noted in `.uns` with witnesses of the array."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    # A name that occurs twice names no row.
    unique = np.flatnonzero(~adata.obs_names.duplicated(keep=False))
    if not len(unique):
        return {}
    chosen = np.unique(np.linspace(0, len(unique) - 1, min(N_WITNESSES, len(unique))).astype(int))
    rows = unique[chosen]
    sums = _row_sums(array, rows)
    return {str(adata.obs_names[r]): float(s) for r, s in zip(rows, sums, strict=True)}


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
    # First row of each name: a witness is known by a name that occurred once.
    first = pd.Series(np.arange(adata.n_obs), index=adata.obs_names.astype(str))
    first = first[~first.index.duplicated(keep=False)]
    known = [row for row in note["rows"] if row in first.index]
    if known:
        sums = _row_sums(array, first.loc[known].to_numpy())
        if not np.allclose(sums, [note["rows"][row] for row in known], rtol=1e-6, atol=1e-9):
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
