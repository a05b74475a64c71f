"""Arms of a comparison: which cells stand beside a masked one, and what the losses say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._errors import listing, missing_key
from cellfuse.data import Contexts
from cellfuse.kernels.bootstrap import sign_flip_pvalue

__all__ = [
    "by_channel_table",
    "checked_arms",
    "drawn_cells",
    "given_mask",
    "names_of",
    "paired_tests",
    "partners_of",
]

#: Sign changes of the paired tests, and contexts from which on they are tested too.
N_FLIPS, MIN_CONTEXTS = 10_000, 6


def names_of(found: Any) -> list[str]:
    """Names of channels or genes; numbers where they have none."""
    return [str(n) for n in found.names or [f"channel {i}" for i in range(found.shape[0])]]


def checked_arms(others: Sequence[str], known: Contexts, other: str) -> list[str]:
    """Arms as text; what no document can be made of is refused."""
    arms = [str(arm) for arm in others]
    if isinstance(others, str) or len(arms) < 2 or len(set(arms)) < len(arms):
        raise ValueError(f"others={others!r}: expected at least two different arms to compare.")
    counts = known.members[other].counts
    labels = known.table.index.astype(str)
    for arm in arms:
        if arm in ("none", "own", "random"):
            continue
        if arm not in labels:
            raise missing_key(arm, [*labels, "none", "own", "random"], what="the contexts")
        if not counts[list(labels).index(arm)]:
            raise ValueError(f"context {arm!r} has no cell of modality {other!r}.")
    if "random" in arms and (counts > 0).sum() < 2:
        raise ValueError("only one context has cells of the other modality: none is random.")
    return arms


def drawn_cells(
    known: Contexts,
    role: str,
    other: str,
    contexts: Sequence[str] | None,
    max_cells: int,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to rebuild, of contexts that both modalities have, and their contexts."""
    usable = known.members[other].counts > 0
    if contexts is not None:
        labels = known.table.index.astype(str)
        wanted = [contexts] if isinstance(contexts, str) else [str(c) for c in contexts]
        for label in wanted:
            if label not in labels:
                raise missing_key(label, list(labels), what="the contexts")
        usable &= np.isin(labels, wanted)
    members = known.members[role]
    inside = usable[members.codes]
    rows, of_row = members.rows[inside], members.codes[inside]
    if not len(rows):
        chosen = "any context" if contexts is None else listing(contexts)
        raise ValueError(f"no cell of {role!r} is in {chosen} together with cells of {other!r}.")
    rows, first = np.unique(rows, return_index=True)  # a cell may be in several contexts
    of_row = of_row[first]
    if len(rows) > max_cells:
        chosen_rows = np.sort(np.random.default_rng(seed).permutation(len(rows))[:max_cells])
        rows, of_row = rows[chosen_rows], of_row[chosen_rows]
    return rows, of_row


def given_mask(
    mask: NDArray[np.bool_], n_cells: int, n_tokens: int, rows: NDArray[np.int64]
) -> Tensor:
    """The user's mask of some rows, checked."""
    if mask.shape != (n_cells, n_tokens) or mask.dtype != bool:
        raise ValueError(
            f"`mask` has shape {mask.shape} and type {mask.dtype}; expected bool "
            f"{(n_cells, n_tokens)}, cells and tokens."
        )
    return torch.from_numpy(mask[rows])


def partners_of(
    arm: str,
    cells_context: Sequence[int],
    known: Contexts,
    other: str,
    size: int,
    rng: np.random.Generator,
) -> NDArray[np.int64] | None:
    """Cells of the other modality beside each masked one, ``(cells, size)``."""
    if arm == "none":
        return None
    members = known.members[other]
    has = np.flatnonzero(members.counts > 0)
    out = np.empty((len(cells_context), size), np.int64)
    for i, own in enumerate(cells_context):
        if arm == "own":
            context = own
        elif arm == "random":
            context = int(rng.choice(has[has != own]))
        else:
            context = list(known.table.index.astype(str)).index(arm)
        pool = members.rows[members.indptr[context] : members.indptr[context + 1]]
        out[i] = rng.choice(pool, size, replace=len(pool) < size)
    return out


def by_channel_table(
    losses: Mapping[str, NDArray], names: pd.Index, channels: list[str]
) -> pd.DataFrame:
    """Losses by cell and channel."""
    n = len(names)
    table = pd.DataFrame(
        {"cell": np.repeat(names.to_numpy(object), len(channels)), "channel": channels * n}
    )
    for arm, loss in losses.items():
        table[f"loss_{arm}"] = loss.ravel()
    return table


def paired_tests(table: pd.DataFrame, arms: list[str], channel: str) -> pd.DataFrame:
    """Gain of every arm against the first, and of its own context's cells against others'."""
    pairs = [(arm, arms[0]) for arm in arms[1:]]
    if {"own", "random"} <= set(arms) and arms[0] != "random":
        pairs.append(("own", "random"))
    rows = []
    for arm, against in pairs:
        first = table[f"loss_{against}"].to_numpy(np.float64)
        gain = first - table[f"loss_{arm}"].to_numpy(np.float64)
        by_context = pd.Series(gain).groupby(table["context"].to_numpy()).mean().to_numpy()
        many = len(by_context) >= MIN_CONTEXTS
        rows.append(
            {
                "channel": channel,
                "arm": arm,
                "against": against,
                "gain": gain.mean(),
                "relative": gain.mean() / first.mean() if first.mean() else np.nan,
                "share_lower": float((gain > 0).mean()),
                "pvalue": sign_flip_pvalue(gain, N_FLIPS, 0),
                "pvalue_contexts": sign_flip_pvalue(by_context, N_FLIPS, 0) if many else np.nan,
                "n_cells": len(gain),
                "n_contexts": len(by_context),
            }
        )
    return pd.DataFrame(rows)
