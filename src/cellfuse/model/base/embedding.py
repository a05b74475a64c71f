"""All cells of a modality through an encoder, block by block; into memory, or into a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._embedding_store import EmbeddingStore, digest_of
from cellfuse.data import Reader
from cellfuse.data.stored import StoredRows

__all__ = ["embed", "identity_of_embedding"]


def identity_of_embedding(network: torch.nn.Module, adata: AnnData, **more: Any) -> dict[str, Any]:
    """What a store of embeddings is of: these weights and these cells."""
    weights = [
        value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        for value in network.state_dict().values()
        if value.numel()
    ]
    names = pd.util.hash_array(adata.obs_names.to_numpy(dtype=object))
    return {**more, "weights": digest_of(*weights), "cells": digest_of(names)}


def embed(
    reader: Reader,
    encode: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    *,
    batch_size: int,
    out: str | Path | None = None,
    identity: Callable[[], Mapping[str, Any]] = dict,
) -> Any:
    """Encode every row of a reader.

    Parameters
    ----------
    reader
        Says in which blocks the rows lie: those of a block are encoded together.
    encode
        From row numbers to ``(N, width)``.
    batch_size
        Rows at a time.
    out
        Folder of a zarr store; batches that are in it already are not encoded again.
    identity
        Of what such a store is.

    Returns
    -------
    ``(n, width)`` float32, numpy; with `out` an array of the store.
    """
    n = reader.shape[0]
    order = np.arange(n, dtype=np.int64)
    if reader.block_size > 1:
        order = np.argsort(reader.block_of(order), kind="stable")
    if out is None:
        values = np.empty((0, 0), np.float32)
        for start in range(0, n, batch_size):
            part = order[start : start + batch_size]
            found = encode(part)
            if start == 0:
                values = np.empty((n, found.shape[1]), np.float32)
            values[part] = found
        return values
    width = encode(order[:1]).shape[1]
    store = EmbeddingStore.open(out, (n, width), batch_size, identity())
    for start in range(0, n, store.batch_size):
        batch = slice(start, min(start + store.batch_size, n))
        if not store.is_done(batch):
            store.write(batch, encode(order[batch]))
    place = np.empty(n, np.int64)
    place[order] = np.arange(n)
    return StoredRows(store.rows, place)
