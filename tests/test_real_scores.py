"""The verbs in a row on a real Perturb-seq screen: 25 genes, four guides each."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(
    not (DATA / "papalexi_eccite.h5ad").exists(), reason="../shared/data/papalexi_eccite.h5ad"
)
def test_guides_of_a_real_screen_agree_and_permuted_ones_do_not():
    cells = ad.read_h5ad(DATA / "papalexi_eccite.h5ad")
    depth = np.asarray(cells.X.sum(axis=1), dtype=np.float32).reshape(-1, 1)
    cells.obsm["log"] = np.log1p(cells.X.toarray() / depth * 1e4)
    # Most genes are 0 in more than three quarters of the control cells.
    with pytest.warns(UserWarning, match="216 of 299 features in 3 of 3 batches"):
        cf.pp.robust_center_scale(
            cells,
            use_rep="log",
            control_key="gene",
            control="non-targeting",
            batch_key="bio_rep",
        )
    cf.pp.whiten(cells, use_rep="log")
    guides = cf.tl.aggregate(cells, by="guide", use_rep="log")
    arguments = {"target_key": "gene", "control": "non-targeting", "n_null": 5000}
    matched = cf.tl.guide_consistency(guides, **arguments)
    assert len(matched) == 25
    assert matched.attrs["share_significant"] > 0.4
    tested = (guides.obs["gene"] != "non-targeting").to_numpy()
    labels = guides.obs["gene"].astype(str).to_numpy(copy=True)
    labels[tested] = np.random.default_rng(0).permutation(labels[tested])
    guides.obs["gene"] = labels
    assert cf.tl.guide_consistency(guides, **arguments).attrs["share_significant"] < 0.1

    genes = cf.tl.aggregate(cells, by="gene", use_rep="log", within="guide")
    edges = pd.read_csv(DATA / "networks" / "StringDB.csv.gz")
    row = cf.tl.edge_classification(genes, edges, control=None).loc["all"]
    assert row["n_edges"] == 20
    assert row["n_genes"] <= 25
    assert 0 <= row["tpr"] <= 1
