"""scVI as a baseline: the usual embedding of counts, trained on expression alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scvi.model import SCVI

__all__ = ["scvi_embedding"]


def scvi_embedding(
    adata: AnnData,
    train: NDArray[np.bool_],
    *,
    layer: str | None,
    seed: int,
    n_latent: int = 30,
    max_epochs: int | None = None,
    batch_key: str | None = None,
) -> NDArray[np.float32]:
    """Train scVI on the training cells and embed all, ``(cells, n_latent)``."""

    def bare(rows: Any) -> AnnData:
        counts = adata.X if layer is None else adata.layers[layer]
        return AnnData(counts[rows].copy(), obs=adata.obs.iloc[rows].copy(), var=adata.var.copy())

    shown, whole = bare(np.flatnonzero(train)), bare(np.arange(adata.n_obs))
    SCVI.setup_anndata(shown, batch_key=batch_key)
    with torch.random.fork_rng():  # scvi-tools' own seed would be everybody's
        torch.manual_seed(seed)
        model = SCVI(shown, n_latent=n_latent)
        # All cells, in their order: the split for a validation that nobody looks at has no seed.
        model.train(
            max_epochs=max_epochs,
            train_size=1.0,
            shuffle_set_split=False,
            enable_progress_bar=False,
        )
        return np.asarray(model.get_latent_representation(whole), dtype=np.float32)
