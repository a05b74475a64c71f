"""The PCA of log-normalised counts against scikit-learn's, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from cellfuse._provenance import recorded
from cellfuse.pp.pca import embed_pca


def cells(n: int = 60, genes: int = 20, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    rates = rng.gamma(2, 2, (4, genes))[np.arange(n) % 4]
    return ad.AnnData(
        sp.csr_matrix(rng.poisson(rates).astype("f4")),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame(index=[f"gene{i}" for i in range(genes)]),
    )


def by_hand(counts: np.ndarray, n_comps: int, target_sum: float | None = None) -> np.ndarray:
    totals = counts.sum(axis=1, keepdims=True)
    target = np.median(totals) if target_sum is None else target_sum
    return PCA(n_comps, svd_solver="full").fit_transform(np.log1p(counts / totals * target))


@pytest.mark.parametrize("target_sum", [None, 1e4])
def test_it_is_the_pca_of_log_normalised_counts(target_sum):
    data = cells()
    embed_pca(data, n_comps=5, target_sum=target_sum)
    expected = by_hand(data.X.toarray(), 5, target_sum)
    sign = np.sign((data.obsm["X_pca"] * expected).sum(axis=0))
    np.testing.assert_allclose(data.obsm["X_pca"] * sign, expected, atol=1e-3)
    assert data.obsm["X_pca"].dtype == np.float32
    ratio = recorded(data, "X_pca")["embed_pca"]["variance_ratio"]
    assert len(ratio) == 5
    assert sorted(ratio, reverse=True) == ratio


def test_the_same_seed_gives_the_same_embedding():
    one, two = cells(), cells()
    embed_pca(one, n_comps=5)
    embed_pca(two, n_comps=5)
    np.testing.assert_array_equal(one.obsm["X_pca"], two.obsm["X_pca"])


@pytest.mark.parametrize("kind", ["dense", "csc", "integers", "layer"])
def test_counts_are_found_wherever_they_lie(kind):
    data, other = cells(), cells()
    embed_pca(data, n_comps=5)
    arguments = {}
    if kind == "dense":
        other.X = other.X.toarray()
    elif kind == "csc":
        other.X = other.X.tocsc()
    elif kind == "integers":
        other.X = other.X.astype(np.int64)
    else:
        other.layers["counts"] = other.X
        other.X = np.log1p(other.X.toarray())
        arguments["layer"] = "counts"
    embed_pca(other, n_comps=5, **arguments)
    np.testing.assert_allclose(other.obsm["X_pca"], data.obsm["X_pca"], atol=1e-5)


def test_nothing_else_is_changed():
    data = cells()
    before = data.copy()
    embed_pca(data, n_comps=5, key_added="Z", n_top_genes=10)
    assert (data.X != before.X).nnz == 0
    assert list(data.obsm) == ["Z"]
    assert list(data.uns) == ["cellfuse"]
    assert list(data.varm) == [] and list(data.layers) == list(before.layers)
    assert list(data.var.columns) == list(data.obs.columns) == []


def test_counts_are_never_made_dense(monkeypatch):
    def refuse(self, *args, **kwargs):
        raise AssertionError("a sparse matrix was made dense")

    data = cells()
    for kind in (sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array):
        monkeypatch.setattr(kind, "toarray", refuse)
    embed_pca(data, n_comps=5)


def test_components_are_cut_to_what_exists():
    data = cells(n=8)
    embed_pca(data)
    assert data.obsm["X_pca"].shape == (8, 7)


def test_highly_variable_genes_only():
    data = cells()
    embed_pca(data, n_comps=5, n_top_genes=8)
    whole = cells()
    embed_pca(whole, n_comps=5)
    assert not np.allclose(np.abs(data.obsm["X_pca"]), np.abs(whole.obsm["X_pca"]), atol=0.1)


def spoiled(value: float) -> ad.AnnData:
    data = cells()
    data.X[3, 0] = value
    return data


def emptied() -> ad.AnnData:
    data = cells()
    counts = data.X.toarray()
    counts[[4, 9]] = 0
    data.X = sp.csr_matrix(counts)
    return data


@pytest.mark.parametrize(
    ("data", "arguments", "error", "text"),
    [
        (spoiled(0.5), {}, ValueError, r"whole numbers from 0; found 0.5 in cell 'cell3' \(row 3"),
        (spoiled(-1), {}, ValueError, "found -1"),
        (spoiled(np.nan), {}, ValueError, "found nan"),
        (emptied(), {}, ValueError, "2 of 60 cells have no counts in X: 'cell4', 'cell9'"),
        (cells(), {"layer": "count"}, KeyError, "'count' is not in layers"),
        (cells(), {"n_comps": 20}, ValueError, "n_comps=20 of 60 cells x 20 genes: expected 1 to"),
        (cells(), {"n_top_genes": 99}, ValueError, "n_top_genes from 2 to 20"),
        (ad.AnnData(obs=cells().obs), {}, ValueError, "X is empty"),
        (cells()[:9], {}, ValueError, "is a view"),
        (md.MuData({"rna": cells()}), {}, TypeError, r"embed_pca\(mdata\['rna'\]"),
    ],
)
def test_bad_input_is_named(data, arguments, error, text):
    with pytest.raises(error, match=text):
        embed_pca(data, **arguments)


def test_a_taken_key_is_kept():
    data = cells()
    embed_pca(data, n_comps=3)
    with pytest.raises(ValueError, match=r"obsm\['X_pca'\] exists"):
        embed_pca(data, n_comps=3)
    embed_pca(data, n_comps=2, overwrite=True)
    assert data.obsm["X_pca"].shape[1] == 2


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(
    not (DATA / "papalexi_eccite.h5ad").exists(), reason="../shared/data/papalexi_eccite.h5ad"
)
def test_a_real_screen():
    data = ad.read_h5ad(DATA / "papalexi_eccite.h5ad")[:3000].copy()
    embed_pca(data, n_comps=20)
    assert np.isfinite(data.obsm["X_pca"]).all()
