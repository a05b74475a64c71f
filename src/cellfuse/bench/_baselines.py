"""The floor: what plain features of the same cells give."""

from __future__ import annotations

from typing import Any

import numpy as np
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse.data import CellInput, Reader

__all__ = ["plain_features"]

N_COMPONENTS = 50
#: Images that are decoded at a time.
BLOCK = 1024


def plain_features(
    adata: AnnData, cell_input: CellInput, *, crop: int | None, seed: int
) -> tuple[str, NDArray[np.float32]]:
    """Features of each cell without any training across modalities, and what they are.

    Counts: PCA of log-normalised counts. Values and tokens (their mean): PCA of the standardised
    features. Pixels: mean, standard deviation, skewness and kurtosis of each channel and the
    correlation of each pair of channels.
    """
    reader = cell_input.reader(adata)
    if cell_input.kind == "pixels":
        return "moments of the pixels", _pixel_moments(reader, crop)
    values = _all_rows(reader, cell_input.kind)
    if cell_input.kind == "counts":
        cells = AnnData(values.copy())  # normalised in place
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
        return "PCA of log counts", _pca(cells, seed)
    cells = AnnData(values)
    if not sp.issparse(values):
        sc.pp.scale(cells)
    return "PCA of the features", _pca(cells, seed)


def _pca(cells: AnnData, seed: int) -> NDArray[np.float32]:
    n = min(N_COMPONENTS, cells.n_obs - 1, cells.n_vars - 1)
    if n < 1:
        raise ValueError(f"a PCA needs two cells and two features, found {cells.shape}.")
    sc.pp.pca(cells, n_comps=n, random_state=seed)
    return np.asarray(cells.obsm["X_pca"], dtype=np.float32)


def _all_rows(reader: Reader, kind: str) -> Any:
    rows = np.arange(reader.shape[0])
    if kind != "tokens":
        values = reader.read(rows)
        return values if sp.issparse(values) else np.asarray(values, dtype=np.float32)
    parts = [
        reader.read(rows[start : start + BLOCK]).mean(axis=1)
        for start in range(0, len(rows), BLOCK)
    ]
    return np.concatenate(parts).astype(np.float32)


def _pixel_moments(reader: Reader, crop: int | None) -> NDArray[np.float32]:
    n, n_channels, height, width = reader.shape
    window: tuple[Any, ...] = (Ellipsis,)
    if crop is not None:
        top, left = (height - crop) // 2, (width - crop) // 2
        window = (Ellipsis, slice(top, top + crop), slice(left, left + crop))
    pairs = np.triu_indices(n_channels, 1)
    parts = []
    for start in range(0, n, BLOCK):
        block = np.asarray(reader.read(np.arange(start, min(start + BLOCK, n))))[window]
        flat = block.reshape(*block.shape[:2], -1).astype(np.float32)
        mean = flat.mean(axis=2)
        flat -= mean[:, :, None]
        sd = flat.std(axis=2)
        flat /= np.maximum(sd, 1e-6)[:, :, None]
        correlation = np.einsum("ncp,ndp->ncd", flat, flat) / flat.shape[2]
        skewness, kurtosis = (flat**3).mean(axis=2), (flat**4).mean(axis=2)
        parts.append(np.hstack([mean, sd, skewness, kurtosis, correlation[:, *pairs]]))
    return np.concatenate(parts)
