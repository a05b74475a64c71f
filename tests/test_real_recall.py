"""Recall on public networks with the profiles of a real CRISPR screen, and its neighbours."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.pp.activity import filter_active
from cellfuse.pp.center_scale import center_scale
from cellfuse.tl.precision import mean_average_precision

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CONTROL = "non-targeting"
NETWORKS = ("StringDB", "HuMAP", "Reactome")

pytestmark = pytest.mark.skipif(
    not (DATA / "jump_target1.h5mu").exists() or not (DATA / "networks").exists(),
    reason="../shared/data/jump_target1.h5mu and networks",
)


@pytest.fixture(scope="module")
def wells() -> ad.AnnData:
    """CRISPR wells of one cell line, 160 genes and non-targeting controls."""
    phenotype = md.read_h5mu(DATA / "jump_target1.h5mu")["phenotype"]
    obs = phenotype.obs
    chosen = (obs["perturbation_type"].astype(str) == "crispr") & (obs["cell_line"] == "U2OS")
    found = phenotype[chosen].copy()
    found.X = np.asarray(found.X, dtype=np.float64)
    return found


def plain_recall(genes: ad.AnnData, pairs: pd.DataFrame) -> float:
    """EFAAR's formula with the whole matrix in memory."""
    x = genes.X.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x.T
    null = np.sort(cosine[np.triu_indices(len(x), 1)])
    row = {name: i for i, name in enumerate(genes.obs_names)}
    known = {
        tuple(sorted(pair))
        for pair in pairs[["source", "target"]].itertuples(index=False)
        if pair[0] in row and pair[1] in row and pair[0] != pair[1]
    }
    query = np.array([cosine[row[a], row[b]] for a, b in known])
    left = np.searchsorted(null, query - 1e-9) / len(null)
    right = np.searchsorted(null, query + 1e-9, side="right") / len(null)
    return float(np.mean((right <= 0.05) | (left >= 0.95)))


def test_recall_is_efaars_formula_on_real_profiles_and_networks(wells):
    genes = cf.tl.aggregate(wells, by="gene", use_rep=None)
    networks = {n: pd.read_csv(DATA / "networks" / f"{n}.csv.gz") for n in NETWORKS}
    found = cf.tl.relationship_recall(genes, networks, control=CONTROL, n_boot=200)
    genes = genes[genes.obs_names != CONTROL].copy()
    for name, pairs in networks.items():
        assert found.loc[name, "recall"] == pytest.approx(plain_recall(genes, pairs))
    assert (found["n_pairs"] > 5).all()
    assert (found["recall_low"] <= found["recall"]).all() and (
        found["recall"] <= found["recall_high"]
    ).all()


def test_active_compounds_of_a_real_screen():
    wells = md.read_h5mu(DATA / "jump_target1.h5mu")["secretome"].copy()
    wells.X = np.asarray(wells.X, dtype=np.float64)
    control = {"control_key": "compound", "control": "DMSO"}
    center_scale(wells, use_rep=None, batch_key="plate", **control)
    table = mean_average_precision(
        wells, by="compound", negatives_by="plate", control="DMSO", n_null=2000
    )
    assert table["map"].mean() > 3 * table["chance"].mean()
    assert 0.2 < table["significant"].mean() < 0.8
    active = filter_active(wells, table, by="compound", keep="DMSO")
    kept = set(active.obs["compound"])
    assert kept == {"DMSO", *table.index[table["qvalue"] <= 0.05]}
