"""Floors and plain embeddings: what needs no training across modalities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from cellfuse._access import context_labels
from cellfuse.data import CellInput, Reader

__all__ = ["pixel_moments", "plain_features", "position", "principal_components", "random_numbers"]

N_COMPONENTS = 50
#: Images that are decoded at a time.
BLOCK = 1024
#: Side in pixels to which images are averaged before their components are taken.
SIDE = 32
#: Cells that components are fitted on at most, drawn at random.
MAX_FIT = 20_000
#: Width of random numbers, and of the random direction of a plate or well.
WIDTH = 64
#: Noise of a cell beside the direction of its plate, whose features would be constant without.
CELL_NOISE = 0.1


def principal_components(
    adata: AnnData,
    cell_input: CellInput,
    train: NDArray[np.bool_],
    *,
    crop: int | None,
    seed: int,
    n_comps: int = N_COMPONENTS,
) -> NDArray[np.float32]:
    """Components of log counts, of standardised values (of tokens their mean), or of pixels.

    Fitted on the training cells (at most 20,000 of them), images averaged to 32 pixels' side.
    """
    reader = cell_input.reader(adata)
    if cell_input.kind == "pixels":
        values = _in_blocks(reader, lambda block: _shrunk(_cropped(block, crop)))
    elif cell_input.kind == "counts":
        values = _log_counts(reader.read(np.arange(reader.shape[0])), train)
    else:
        mean = cell_input.kind == "tokens"
        values = _in_blocks(reader, lambda block: block.mean(axis=1) if mean else block)
        sd = values[train].std(axis=0)
        values = (values - values[train].mean(axis=0)) / np.where(sd > 0, sd, 1.0)
    return _components(values, train, n_comps, seed)


def plain_features(
    adata: AnnData,
    cell_input: CellInput,
    train: NDArray[np.bool_],
    *,
    crop: int | None,
    seed: int,
    n_comps: int = N_COMPONENTS,
) -> NDArray[np.float32]:
    """Moments of pixels and correlations of channels; of everything else the components."""
    if cell_input.kind == "pixels":
        return pixel_moments(cell_input.reader(adata), crop)
    return principal_components(adata, cell_input, train, crop=crop, seed=seed, n_comps=n_comps)


def random_numbers(n: int, *, seed: int, number: int, width: int = WIDTH) -> NDArray[np.float32]:
    """What no cell has anything to do with."""
    rng = np.random.default_rng([seed, number])
    return rng.normal(size=(n, width)).astype(np.float32)


def position(
    adata: AnnData, keys: list[str], *, seed: int, number: int, width: int = WIDTH
) -> NDArray[np.float32]:
    """A random direction for each plate, well or batch, and nothing else of a cell."""
    labels = pd.Categorical(context_labels(adata, keys))
    rng = np.random.default_rng([seed, number])
    directions = rng.normal(size=(len(labels.categories), width))
    noise = CELL_NOISE * rng.normal(size=(adata.n_obs, width))
    return (directions[labels.codes] + noise).astype(np.float32)


# -- the arrays -----------------------------------------------------------------------------------


def _log_counts(counts: Any, train: NDArray[np.bool_]) -> Any:
    cells = AnnData(counts.copy())  # normalised in place
    totals = np.asarray(counts.sum(axis=1)).ravel()[train]
    sc.pp.normalize_total(cells, target_sum=float(np.median(totals[totals > 0])))
    sc.pp.log1p(cells)
    return cells.X


def _components(
    values: Any, train: NDArray[np.bool_], n_comps: int, seed: int
) -> NDArray[np.float32]:
    rows = np.flatnonzero(train)
    if len(rows) > MAX_FIT:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MAX_FIT, replace=False))
    n = min(n_comps, len(rows) - 1, values.shape[1] - 1)
    if n < 1:
        raise ValueError(f"components need two cells and two features, found {values.shape}.")
    solver = "arpack" if sp.issparse(values) or n < min(values.shape) // 2 else "full"
    fit = PCA(n, svd_solver=solver, random_state=seed).fit(values[rows])
    return np.asarray(fit.transform(values), dtype=np.float32)


def _in_blocks(reader: Reader, change: Any) -> NDArray[np.float32]:
    """Rows of a reader after `change`, block by block, laid flat."""
    parts = []
    for start in range(0, reader.shape[0], BLOCK):
        rows = np.arange(start, min(start + BLOCK, reader.shape[0]))
        block: Any = reader.read(rows)
        dense = block.toarray() if sp.issparse(block) else np.asarray(block)
        changed = np.asarray(change(dense), dtype=np.float32)
        parts.append(changed.reshape(len(rows), -1))
    return np.concatenate(parts)


def _cropped(block: NDArray, crop: int | None) -> NDArray:
    if crop is None:
        return block
    top, left = ((side - crop) // 2 for side in block.shape[-2:])
    return block[..., top : top + crop, left : left + crop]


def _shrunk(block: NDArray) -> NDArray:
    """Average neighbouring pixels until an image's side is at most `SIDE`."""
    height, width = block.shape[-2:]
    by = max(1, -(-max(height, width) // SIDE))
    if by == 1:
        return block
    high, wide = height // by, width // by
    cut = block[..., : high * by, : wide * by].astype(np.float32)
    return cut.reshape(*block.shape[:-2], high, by, wide, by).mean(axis=(-3, -1))


def pixel_moments(reader: Reader, crop: int | None) -> NDArray[np.float32]:
    """Mean, sd, skewness and kurtosis of each channel, and correlations of channels."""
    pairs = np.triu_indices(reader.shape[1], 1)

    def moments(block: NDArray) -> NDArray:
        cells = _cropped(block, crop)
        flat = cells.reshape(*cells.shape[:2], -1).astype(np.float32)
        mean = flat.mean(axis=2)
        flat -= mean[:, :, None]
        sd = flat.std(axis=2)
        flat /= np.maximum(sd, 1e-6)[:, :, None]
        correlation = np.einsum("ncp,ndp->ncd", flat, flat) / flat.shape[2]
        skewness, kurtosis = (flat**3).mean(axis=2), (flat**4).mean(axis=2)
        return np.hstack([mean, sd, skewness, kurtosis, correlation[:, *pairs]])

    return _in_blocks(reader, moments)
