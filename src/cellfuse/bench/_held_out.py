"""The contexts that no model sees: a share, one of several folds, or those that a column names."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_labels, control_mask, has_label
from cellfuse._errors import listing
from cellfuse.bench._design import Design

__all__ = ["held_out_cells"]

#: Label that :func:`cellfuse.tl.split` gives to what no training sees.
HELD_OUT = "test"
#: Spreads the choice of held-out contexts over seeds (a prime).
STREAM = 32_452_843


def held_out_cells(
    parts: Mapping[str, AnnData], tables: Mapping[str, pd.DataFrame], design: Design, seed: int
) -> dict[str, NDArray[np.bool_]]:
    """Cells of the contexts that no model sees, by modality; a context is on one side as a whole.

    Raises
    ------
    ValueError
        No share, nothing on one side, or contexts that lie on both.
    """
    chosen = design.hold_out
    if chosen is None or (not isinstance(chosen, (str, Mapping)) and chosen == 0):
        return {name: np.zeros(adata.n_obs, bool) for name, adata in parts.items()}
    if isinstance(chosen, str):
        chosen = {chosen: HELD_OUT}
    if isinstance(chosen, Mapping):
        ((key, label),) = chosen.items()
        out = {
            name: control_mask(adata, key, str(label), modality=name)
            for name, adata in parts.items()
        }
    else:
        out = _by_value(parts, tables, design, chosen, seed)
    sides: dict[str, set[bool]] = {}
    for name, adata in parts.items():
        labels = context_labels(adata, design.contexts, modality=name)
        for label, value in set(zip(labels, out[name].tolist(), strict=True)):
            sides.setdefault(label, set()).add(value)
    crossing = [label for label, values in sides.items() if len(values) > 1]
    if crossing:
        raise ValueError(
            f"{len(crossing)} contexts by {' and '.join(design.contexts)} have held-out and other "
            f"cells ({listing(crossing, 3)}). Hold whole contexts out (`hold_out_by` a column that "
            "is constant within them)."
        )
    return out


def _by_value(
    parts: Mapping[str, AnnData],
    tables: Mapping[str, pd.DataFrame],
    design: Design,
    chosen: float,
    seed: int,
) -> dict[str, NDArray[np.bool_]]:
    """Hold out some of the targets (or contexts) with all their cells; never the controls."""
    keys = design.hold_out_by or design.target_key or design.contexts
    labels = {}
    for name, adata in parts.items():
        # Of targets the ones that stand: "" where a context has several.
        obs = tables[name] if keys == design.target_key else adata.obs
        label = context_labels(AnnData(obs=obs), keys, modality=name)
        free = has_label(label)
        if design.control is not None and design.control_key is not None:
            free &= ~control_mask(adata, design.control_key, design.control, modality=name)
        labels[name] = label.where(free, "")
    names = sorted(set().union(*(set(label) for label in labels.values())) - {""})
    draw = _fold if isinstance(chosen, Integral) and not isinstance(chosen, bool) else _share
    out = draw(names, chosen, seed, of=f"{keys!r}")
    return {name: label.isin(out).to_numpy() for name, label in labels.items()}


def _share(names: list[str], share: float, seed: int, *, of: str) -> set[str]:
    """A share of the values, drawn for each seed."""
    if not 0 < share < 1:
        raise ValueError(
            f"hold_out={share}: expected a share between 0 and 1, a whole number of folds from 2, "
            "or an obs column."
        )
    n = round(share * len(names))
    if not 1 <= n <= len(names) - 1:
        raise ValueError(
            f"hold_out={share} of {len(names)} values of {of} leaves nothing on one side."
        )
    rng = np.random.default_rng([seed, STREAM])
    return set(rng.choice(names, n, replace=False).tolist())


def _fold(names: list[str], n_folds: float, seed: int, *, of: str) -> set[str]:
    """One of `n_folds` parts of the values: each in turn by seed, and then another deal."""
    n = int(n_folds)
    if not 2 <= n <= len(names):
        raise ValueError(
            f"hold_out={n} folds of {len(names)} values of {of}: expected 2 to {len(names)} folds "
            "(or a share between 0 and 1)."
        )
    dealt = np.random.default_rng([seed // n, STREAM]).permutation(names)
    return set(dealt[seed % n :: n].tolist())
