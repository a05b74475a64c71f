"""Rows of a representation as numbers in memory."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_finite, representation
from cellfuse.tl._similarity import source_name

__all__ = ["dense_rows"]


def dense_rows(adata: AnnData, use_rep: str | None) -> NDArray[np.float64]:
    """``obsm[use_rep]`` (``X`` for None) as a dense array, refusing NaN and infinite values."""
    values = representation(adata, use_rep)
    check_finite(values, source_name(use_rep, None))
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return dense.astype(np.float64)
