"""The batch of each cell, and the controls of each batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_codes, control_mask, where
from cellfuse._errors import listing
from cellfuse.kernels.groups import group_rows

__all__ = ["Batches", "Labels", "batches_of", "codes_of"]

Labels: TypeAlias = str | list[str]


@dataclass(frozen=True)
class Batches:
    """The batch of each cell, and the control cells of each batch."""

    codes: NDArray
    labels: list[str]
    controls: list[NDArray]

    @property
    def n_controls(self) -> int:
        """Number of control cells in all batches."""
        return sum(len(rows) for rows in self.controls)


def codes_of(
    adata: AnnData, keys: list[Labels | None], *, modality: str
) -> tuple[NDArray, list[str]]:
    """Group number of each cell by the joint value of the keys that are given, and the labels."""
    flat: list[str] = []
    for key in keys:
        flat += [] if key is None else [key] if isinstance(key, str) else list(key)
    if not flat:
        return np.broadcast_to(np.intp(0), adata.n_obs), ["all cells"]
    codes, labels = context_codes(adata, flat, modality=modality)
    return codes, list(labels)


def batches_of(
    adata: AnnData,
    *,
    control_key: str | None,
    control: Labels | None,
    keys: list[Labels | None],
    at_least: int = 1,
    modality: str = "",
) -> Batches:
    """Find each batch's controls; one that holds fewer than `at_least` is an error."""
    codes, labels = codes_of(adata, keys, modality=modality)
    if control is None:
        chosen = np.ones(adata.n_obs, dtype=bool)
    elif control_key is None:
        raise ValueError(
            f"control={control!r} needs `control_key`, the obs column that holds it; "
            "`control=None` takes all cells as controls."
        )
    else:
        chosen = control_mask(adata, control_key, control, modality=modality)
    rows = group_rows(np.where(chosen, codes, -1), len(labels))
    without = [label for label, found in zip(labels, rows, strict=True) if len(found) < at_least]
    if without:
        raise ValueError(
            f"{len(without)} of {len(labels)} batches{where(modality)} hold "
            + ("no" if at_least == 1 else f"fewer than {at_least}")
            + f" control cells ({control_key} = {control!r}): {listing(without)}. Drop those "
            "cells, take a coarser `batch_key` (None: all controls together), or `control=None` "
            "to use all cells."
        )
    return Batches(codes, labels, rows)
