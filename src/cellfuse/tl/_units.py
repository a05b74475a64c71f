"""Profiles as unit vectors, ready for cosines."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_finite, representation, take_rows
from cellfuse._errors import listing
from cellfuse.kernels.chunks import row_blocks
from cellfuse.kernels.cosine import unit_rows

__all__ = ["unit_profiles"]


def unit_profiles(
    adata: AnnData, use_rep: str | None, rows: NDArray, *, dtype: type = np.float32
) -> NDArray:
    """Unit vectors of the profiles in `rows`, in that order, dense, ``(len(rows), d)``.

    Made by blocks, so that wide copies never exist as a whole.
    """
    values = representation(adata, use_rep)
    name = "X" if use_rep in (None, "X") else f"obsm[{use_rep!r}]"
    out = np.empty((len(rows), values.shape[1]), dtype)
    for block in row_blocks(len(rows), values.shape[1], block_bytes=8 << 20):
        part = take_rows(values, rows[block])
        part = part.toarray() if hasattr(part, "toarray") else np.asarray(part)
        check_finite(part, name)
        empty = ~np.any(part, axis=1)
        if empty.any():
            raise ValueError(
                f"{int(empty.sum())} profiles in {name} are all zeros and have no direction: "
                f"{listing(adata.obs_names[rows[block][empty]])}. Drop them."
            )
        out[block] = unit_rows(part, dtype=dtype)
    return out
