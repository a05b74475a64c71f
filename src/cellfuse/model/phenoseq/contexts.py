"""Which image cells make a synthetic profile, and what is known of it beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import constant_columns, label_list
from cellfuse._errors import listing, missing_key
from cellfuse.data import Contexts, Reader, gather
from cellfuse.data.contexts import Ints

__all__ = ["chosen_contexts", "mean_batches", "profile_obs", "set_batches"]

Cells = tuple[Ints, Tensor, Tensor | None]  # contexts, their cells (G, N, D), mask (G, N)

#: Image cells encoded at a time where all cells of a context are its set.
MAX_TOKENS = 8192


def chosen_contexts(contexts: Contexts, names: Sequence[str] | None) -> Ints:
    """Positions of the contexts to draw for: all with images, or the named ones, in that order."""
    has = contexts.members["image"].counts > 0
    if names is None:
        return np.flatnonzero(has)
    names = label_list(names)
    at = contexts.names.get_indexer(pd.Index(names))
    for name, position in zip(names, at, strict=True):
        if position < 0 or not has[position]:
            raise missing_key(
                name,
                list(contexts.names[has]),
                what="the contexts that have images",
                fix="A profile is drawn from the images of its context.",
            )
    if not len(at):
        raise ValueError("`contexts` is empty; name at least one, or give None for all.")
    if len(np.unique(at)) < len(at):
        twice = contexts.names[at][pd.Index(at).duplicated()]
        raise ValueError(
            f"`contexts` names {listing(twice)} twice; for several profiles of a context give "
            "`n_samples`."
        )
    return at.astype(np.int64)


def _rows(contexts: Contexts, position: int) -> Ints:
    members = contexts.members["image"]
    return np.sort(members.rows[members.indptr[position] : members.indptr[position + 1]])


def _read(reader: Reader, rows: Ints) -> Tensor:
    values = gather(reader, rows)
    return values.dense() if not isinstance(values, Tensor) else values


def mean_batches(
    reader: Reader, contexts: Contexts, chosen: Ints, batch_size: int
) -> Iterator[Cells]:
    """Contexts as one token each: the mean of all their cells (PhenoSeq, A.1)."""
    for start in range(0, len(chosen), batch_size):
        part = chosen[start : start + batch_size]
        means = [_read(reader, _rows(contexts, g)).double().mean(0) for g in part]
        yield part, torch.stack(means)[:, None].float(), None


def set_batches(
    reader: Reader, contexts: Contexts, chosen: Ints, batch_size: int
) -> Iterator[Cells]:
    """Contexts as sets of all their cells; those of like size together, so that few are padded."""
    counts = contexts.members["image"].counts
    order = chosen[np.argsort(counts[chosen], kind="stable")]
    start = 0
    while start < len(order):
        stop = start + 1
        while (
            stop < len(order)
            and stop - start < batch_size
            and (stop + 1 - start) * counts[order[stop]] <= MAX_TOKENS
        ):
            stop += 1
        part = order[start:stop]
        sets = [_read(reader, _rows(contexts, g)).float() for g in part]
        cells = torch.nn.utils.rnn.pad_sequence(sets, batch_first=True)
        lengths = torch.as_tensor([len(s) for s in sets])
        mask = torch.arange(cells.shape[1]) < lengths[:, None]
        yield part, cells, None if bool(mask.all()) else mask
        start = stop


def profile_obs(
    obs: pd.DataFrame, contexts: Contexts, chosen: Ints, n_samples: int, *, antithetic: bool
) -> pd.DataFrame:
    """One row per profile: its context, every column that is constant in it, cells, draw, pair."""
    # A cell may be in several contexts: each has rows of its own.
    rows = [_rows(contexts, position) for position in chosen]
    codes = np.repeat(np.arange(len(chosen)), [len(part) for part in rows])
    out = constant_columns(obs.iloc[np.concatenate(rows)], codes, len(chosen))[0].copy()
    out.index = pd.Index(contexts.names[chosen].astype(str))
    for name in contexts.table.columns.difference(obs.columns, sort=False):
        out[name] = contexts.table[name].iloc[chosen].array
    out["n_cells"] = contexts.members["image"].counts[chosen]
    return _drawn(out, n_samples, antithetic)


def _drawn(obs: pd.DataFrame, n_samples: int, antithetic: bool) -> pd.DataFrame:
    names = obs.index
    out = obs.iloc[np.repeat(np.arange(len(obs)), n_samples)].copy()
    draw: NDArray[np.int64] = np.tile(np.arange(n_samples), len(obs))
    out["draw"] = draw
    if n_samples > 1:
        repeated = names.repeat(n_samples)
        out.index = pd.Index([f"{name}-{d}" for name, d in zip(repeated, draw, strict=True)])
        if antithetic:
            out["noise_pair"] = [f"{name}-{d // 2}" for name, d in zip(repeated, draw, strict=True)]
    out.index.name = None
    return out
