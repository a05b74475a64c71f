"""Small screens that the tests of the document layer and the models share."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

#: A PETRI that trains in a fraction of a second.
TINY = {
    "set_size": 4,
    "width": 16,
    "n_heads": 2,
    "n_latents": 2,
    "image_depth": 1,
    "image_decoder_width": 16,
    "image_decoder_depth": 1,
    "image_decoder_heads": 2,
    "n_cross": 1,
    "n_self": 1,
    "n_set_layers": 2,
    "gene_decoder_hidden": 8,
}
#: A training of a few steps, without a progress bar.
SHORT = {"documents_per_context": 2, "batch_size": 4, "enable_progress_bar": False}


def make_screen(
    *,
    n_cells: int = 24,
    n_contexts: int = 4,
    n_genes: int = 6,
    side: int = 16,
    channels: int = 2,
    seed: int = 0,
) -> md.MuData:
    """Images in ``obsm["crops"]`` and counts in X, of `n_cells` different cells each."""
    rng = np.random.default_rng(seed)
    label = np.arange(n_cells) % n_contexts
    obs = {
        m: pd.DataFrame(
            {"guide": [f"g{i}" for i in label], "plate": [f"p{i % 2}" for i in label]},
            index=[f"{m}-{i}" for i in range(n_cells)],
        )
        for m in ("image", "rna")
    }
    images = ad.AnnData(obs=obs["image"])
    images.obsm["crops"] = rng.integers(0, 256, (n_cells, channels, side, side), dtype=np.uint8)
    images.obsm["flat"] = rng.normal(size=(n_cells, 10)).astype("f4")
    images.obsm["tokens"] = rng.normal(size=(n_cells, 5, 7)).astype("f4")
    counts = ad.AnnData(
        sp.csr_matrix(rng.poisson(2, (n_cells, n_genes)).astype("f4")),
        obs=obs["rna"],
        var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )
    counts.obsm["flat"] = rng.normal(size=(n_cells, 10)).astype("f4")
    return md.MuData({"image": images, "rna": counts})


@pytest.fixture
def screen() -> Callable[..., md.MuData]:
    """Builder of small screens."""
    return make_screen


@pytest.fixture
def tiny() -> dict[str, int]:
    """Sizes of a tiny PETRI."""
    return dict(TINY)


@pytest.fixture
def short() -> dict[str, object]:
    """Arguments of a short training."""
    return dict(SHORT)
