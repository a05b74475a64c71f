"""The tools that read concepts find what was put into them, and nothing else."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from scipy.stats import false_discovery_control, mannwhitneyu

import cellfuse as cf

N = 400
GENES = [f"G{i}" for i in range(30)]


def screen(seed=0, n=N, n_concepts=24):
    """Concept 0: in both modalities, big nuclei and the first genes; 5 is gene A's; 20 to 23 are
    the wells'."""
    rng = np.random.default_rng(seed)
    mods = {}
    for name in ("image", "rna"):
        gene = rng.choice(["control", "A", "B", "C"], n)
        well = rng.integers(3, size=n)
        active = rng.random((n, n_concepts)) * (rng.random((n, n_concepts)) < 0.3)
        active[:, 1] = rng.random(n)  # in every cell
        active[:, 2] = 0 if name == "rna" else active[:, 2]
        active[:, 5] += 0.7 * (gene == "A")
        for k in range(3):
            active[:, 20 + k] = (well == k) * rng.random(n)
        obs = pd.DataFrame(
            {"gene": gene, "well": [f"w{k}" for k in well]}, index=[f"{name}-{i}" for i in range(n)]
        )
        if name == "image":
            adata = ad.AnnData(obs=obs)
            size = rng.normal(size=n) + 4 * active[:, 0]
            adata.obsm["X_measures"] = pd.DataFrame(
                {"nucleus_area": size, "DNA_mean": rng.normal(size=n)}, index=obs.index
            )
        else:
            x = rng.random((n, len(GENES)))
            x[:, :6] += 2 * active[:, :1]
            adata = ad.AnnData(x, obs=obs, var=pd.DataFrame(index=GENES))
        adata.obsm["X_concepts"] = sp.csr_matrix(active.astype("f4"))
        mods[name] = adata
    return md.MuData(mods)


# -- multimodal -----------------------------------------------------------------------------------


def test_multimodal_concepts_are_in_some_cells_of_both_modalities():
    mdata = screen()
    table = cf.tl.multimodal_concepts(mdata)
    dense = {m: mdata[m].obsm["X_concepts"].toarray() > 0 for m in ("image", "rna")}
    for m, active in dense.items():
        np.testing.assert_allclose(table[f"fraction_{m}"], active.mean(axis=0))
    assert not table["multimodal"][[1, 2]].any()  # in every cell; in none of one modality
    assert table["multimodal"].drop([1, 2]).all()
    pd.testing.assert_frame_equal(mdata.uns["multimodal_concepts"]["table"], table)


def test_stored_zeros_are_no_activity():
    mdata = screen()
    mdata["rna"].obsm["X_concepts"].data[:] = 0.0
    assert (cf.tl.multimodal_concepts(mdata)["fraction_rna"] == 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["rna"].obsm.pop("X_concepts"), "'X_concepts' is not in obsm of modality"),
        (
            lambda m: m["rna"].obsm.update(X_concepts=m["rna"].obsm["X_concepts"][:, :3]),
            "different numbers of concepts",
        ),
        (lambda m: m["rna"].obsm["X_concepts"].data.__imul__(-1), "holds negative values"),
        (lambda m: m["rna"].obsm["X_concepts"].data.__imul__(np.nan), "NaN or infinite"),
    ],
)
def test_activations_that_are_none_are_refused(change, message):
    mdata = screen(n=40)
    change(mdata)
    with pytest.raises((KeyError, ValueError), match=message):
        cf.tl.multimodal_concepts(mdata)


def elsewhere(x, kind, path):
    """Activations on the disk or of dask, as a user may have them."""
    da = pytest.importorskip("dask.array")
    if kind == "folder":
        group = zarr.open_group(path, mode="w", zarr_format=2)
        ad.io.write_elem(group, "matrix", x)
        return ad.io.sparse_dataset(group["matrix"])
    if kind == "zarr":
        array = zarr.create_array(path, shape=x.shape, chunks=(50, 7), dtype=x.dtype)
        array[:] = x.toarray()
        return array
    array = da.from_array(x.toarray(), chunks=(77, x.shape[1]))
    return array.map_blocks(sp.csr_matrix) if kind == "dask sparse" else array


VERBS = {
    "multimodal": lambda m: cf.tl.multimodal_concepts(m),
    "differential": lambda m: cf.tl.differential_concepts(m, "gene", control="control"),
    "batches": lambda m: cf.tl.batch_predictability(m, "well", concepts=[0, 3, 5], n_draws=2),
    "features": lambda m: cf.tl.concept_features(m, concepts=[0, 3], quantile=0.9),
}


@pytest.mark.parametrize("kind", ["folder", "zarr", "dask", "dask sparse"])
def test_activations_that_are_not_in_memory_give_the_same(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("cellfuse.data.lazy.PIECE_BYTES", 90 * 24 * 4)  # several pieces
    mdata, there = screen(), screen()
    for name in there.mod:
        x = there[name].obsm["X_concepts"]
        there[name].obsm["X_concepts"] = elsewhere(x, kind, tmp_path / name)
    for name, verb in VERBS.items():
        pd.testing.assert_frame_equal(verb(there), verb(mdata), obj=name)
    x = mdata["rna"].obsm["X_concepts"]
    x.data[x.indptr[211]] = np.nan
    there["rna"].obsm["X_concepts"] = elsewhere(x, kind, tmp_path / "bad")
    with pytest.raises(ValueError, match=r"X_concepts.*rna.*NaN or infinite.*row 211"):
        cf.tl.multimodal_concepts(there)


# -- differential ---------------------------------------------------------------------------------


def test_differential_concepts_are_mann_whitney_with_one_correction():
    mdata = screen()
    table = cf.tl.differential_concepts(mdata, "gene", control="control")
    adata = mdata["image"]
    x, gene = adata.obsm["X_concepts"].toarray(), adata.obs["gene"].to_numpy()
    control = x[gene == "control"]
    pvalue = np.array(
        [mannwhitneyu(x[gene == g], control, method="asymptotic").pvalue for g in "ABC"]
    )
    q = false_discovery_control(pvalue.ravel()).reshape(pvalue.shape)
    expected = {("ABC"[g], c): q[g, c] for g, c in zip(*np.nonzero(q < 0.05), strict=True)}
    found = table[table["modality"] == "image"].set_index(["group", "concept"])["qvalue"]
    assert ("A", 5) in expected and set(found.index) == set(expected)
    np.testing.assert_allclose(found, [expected[i] for i in found.index], rtol=1e-3)
    row = table.iloc[0]
    assert row["fraction"] == 1.0 and row["auc"] > 0.7
    np.testing.assert_allclose(row["fraction_control"], (control[:, 5] > 0).mean())
    counts = mdata.uns["differential_concepts"]["counts"]
    assert counts.loc["A", "n_image"] >= 1 and counts.loc["A", "n_rna"] >= 1


def test_an_effect_of_the_well_alone_is_gone_within_wells():
    rng = np.random.default_rng(0)
    well = np.repeat(["w1", "w2"], 200)
    # A is mostly in well 1, the controls mostly in well 2, where the concept is bright.
    is_a = rng.random(400) < np.where(well == "w1", 0.85, 0.15)
    active = rng.random((400, 6)) * (rng.random((400, 6)) < 0.5)
    active[well == "w2", 3] += 1.0
    obs = pd.DataFrame(
        {"gene": np.where(is_a, "A", "control"), "well": well}, index=[f"c{i}" for i in range(400)]
    )
    adata = ad.AnnData(obs=obs, obsm={"X_concepts": sp.csr_matrix(active)})
    pooled = cf.tl.differential_concepts(adata, "gene", control="control")
    within = cf.tl.differential_concepts(adata, "gene", control="control", batch_key="well")
    assert 3 in pooled["concept"].tolist() and 3 not in within["concept"].tolist()
    active[is_a, 2] += 0.5
    adata.obsm["X_concepts"] = sp.csr_matrix(active)
    within = cf.tl.differential_concepts(adata, "gene", control="control", batch_key="well")
    assert within["concept"].tolist() == [2] and within["auc"].item() > 0.6


def test_a_control_that_one_modality_lacks_is_named():
    mdata = screen(n=60)
    mdata["rna"].obs["gene"] = mdata["rna"].obs["gene"].replace("control", "D")
    with pytest.raises(KeyError, match="'control' is not in obs.'gene'. of modality 'rna'"):
        cf.tl.differential_concepts(mdata, "gene", control="control")


def test_few_cells_are_not_tested():
    mdata = screen(n=60)
    with pytest.raises(ValueError, match="min_cells=1000"):
        cf.tl.differential_concepts(mdata, "gene", control="control", min_cells=1000)


# -- wells ----------------------------------------------------------------------------------------


def test_concepts_of_the_well_predict_it_and_others_do_not():
    mdata = screen()
    wells = {"image": "well", "rna": None}
    table = cf.tl.batch_predictability(mdata, wells, concepts=[20, 21, 22], n_draws=6)
    assert table.index.tolist() == ["image"]
    row = table.loc["image"]
    assert row["accuracy"] > 0.95 and row["accuracy_random"] < 0.5
    assert row["difference"] > 0 and row["pvalue"] < 0.05 and row["chance"] < 0.45
    draws = mdata.uns["batch_predictability"]["draws"]
    assert len(draws) == 6 and draws["accuracy"].mean() == row["accuracy"]
    again = cf.tl.batch_predictability(mdata, wells, concepts=[20, 21, 22], n_draws=6)
    pd.testing.assert_frame_equal(table, again)


def test_wells_need_two_batches_and_enough_other_concepts():
    mdata = screen(n=60)
    with pytest.raises(ValueError, match="only .* others are active"):
        cf.tl.batch_predictability(mdata, "well", concepts=list(range(14)))
    with pytest.raises(ValueError, match="no concept '24'"):
        cf.tl.batch_predictability(mdata, "well", concepts=[24])
    mdata["image"].obs["well"] = "one"
    with pytest.raises(ValueError, match="fewer than two"):
        cf.tl.batch_predictability(mdata, "well", concepts=[3])
    with pytest.raises(KeyError, match="multimodal_concepts"):
        cf.tl.batch_predictability(mdata, "well")


# -- what a concept looks like --------------------------------------------------------------------


@pytest.fixture(scope="module")
def described():
    mdata = screen()
    cf.tl.multimodal_concepts(mdata)
    table = cf.tl.concept_features(mdata, concepts=[0, 3, 7], quantile=0.9)
    return mdata, table


def test_features_and_genes_of_a_concept_are_found(described):
    mdata, table = described
    assert table["n_image_features"].tolist() == [1, 0, 0]
    assert table.loc[0, "n_genes"] == 6 and table.loc[[3, 7], "n_genes"].sum() <= 1
    kept = mdata.uns["concept_features"]
    images = kept["images"].set_index(["concept", "feature"])
    assert images.loc[(0, "nucleus_area"), "difference"] > 1
    assert not images.loc[(0, "DNA_mean"), "significant"]
    genes = kept["genes"]
    assert set(genes.loc[genes["concept"] == 0, "gene"]) == set(GENES[:6])
    assert kept["scores"].shape == (3, 30) and (kept["scores"].loc["0", GENES[:6]] > 5).all()


def test_the_groups_are_the_cells_without_and_those_of_the_highest_activation():
    mdata = screen()
    table = cf.tl.concept_features(mdata, concepts=[0], quantile=0.9, rna=None)
    value = mdata["image"].obsm["X_concepts"].toarray()[:, 0]
    assert table["n_high_image"].item() == (value >= np.quantile(value, 0.9)).sum()
    assert table["n_zero_image"].item() == (value == 0).sum()


def test_counts_and_unmeasured_crops_are_refused():
    mdata = screen(n=60)
    mdata["rna"].X = np.floor(mdata["rna"].X * 9)
    with pytest.raises(ValueError, match="X holds counts"):
        cf.tl.concept_features(mdata, concepts=[0], images=None, quantile=0.8)
    del mdata["image"].obsm["X_measures"]
    with pytest.raises(KeyError, match="measure_crops"):
        cf.tl.concept_features(mdata, concepts=[0], rna=None, quantile=0.8)


def test_a_concept_that_no_cell_has_says_so():
    mdata = screen(n=60)
    matrix = mdata["image"].obsm["X_concepts"].tolil()
    matrix[:, 9] = 0
    mdata["image"].obsm["X_concepts"] = matrix.tocsr()
    with pytest.raises(ValueError, match="no concept has 5 cells with it"):
        cf.tl.concept_features(mdata, concepts=[9], rna=None)


def test_crops_are_measured():
    crops = np.zeros((3, 2, 32, 32), np.uint8)
    for i, side in enumerate((8, 16)):
        crops[i, 0, 16 - side // 2 : 16 + side // 2, 16 - side // 2 : 16 + side // 2] = 200
    crops[:, 1] = 10
    for y, x in ((5, 5), (5, 20), (25, 9)):
        crops[1, 1, y : y + 2, x : x + 2] = 250
    cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b", "c"]))
    cells.obsm["crops"] = crops
    cf.pp.measure_crops(cells, channels=["DNA", "lipid"], nucleus="DNA", spots="lipid")
    found = cells.obsm["X_measures"]
    area = found["nucleus_area"].to_numpy()
    assert area[1] > 3 * area[0] and np.isnan(area[2])  # an empty image has no nucleus
    assert found["lipid_spot_number"].tolist() == [0, 3, 0]
    assert found["DNA_mean"].tolist() == pytest.approx(crops[:, 0].mean(axis=(1, 2)).tolist())
    with pytest.raises(KeyError, match="'dna' is not in the channels.*Did you mean 'DNA'"):
        cf.pp.measure_crops(cells, channels=["DNA", "lipid"], nucleus="dna", key_added="other")


# -- gene sets and search -------------------------------------------------------------------------


@pytest.mark.slow  # decoupler alone takes seconds to import
def test_gene_sets_are_enriched_where_their_genes_are(described, tmp_path):
    mdata, _ = described
    gmt = tmp_path / "sets.gmt"
    rows = {"FIRST_GENES": GENES[:6], "LATER_GENES": GENES[15:25], "ABSENT": ["X1", "X2"]}
    gmt.write_text("".join(f"{name}\tno url\t" + "\t".join(g) + "\n" for name, g in rows.items()))
    for method in ("gsea", "ulm"):
        table = cf.tl.concept_enrichment(mdata, gmt, method=method).set_index(["concept", "term"])
        assert "ABSENT" not in table.index.get_level_values("term")
        first = table.loc[(0, "FIRST_GENES")]
        assert first["significant"] and first["score"] > 1 and first["n_genes"] == 6
    found = cf.tl.find_concepts(mdata, "first")
    assert found.loc[0, ["concept", "kind", "direction"]].tolist() == [0, "term", 1]
    assert found.loc[0, "multimodal"]


@pytest.mark.slow
def test_p_values_of_random_rankings_are_uniform():
    rng = np.random.default_rng(1)
    genes = [f"G{i}" for i in range(200)]
    scores = pd.DataFrame(rng.normal(size=(12, 200)), index=[str(i) for i in range(12)])
    scores.columns = genes
    sets = {f"S{i}": rng.choice(genes, 12, replace=False).tolist() for i in range(40)}
    data = ad.AnnData(shape=(1, 1), uns={"concept_features": {"scores": scores}})
    table = cf.tl.concept_enrichment(data, sets)
    assert 0.02 < (table["pvalue"] < 0.05).mean() < 0.09
    assert table["significant"].sum() <= 1


def test_sets_without_shared_genes_and_missing_files_are_refused(described):
    mdata, _ = described
    with pytest.raises(ValueError, match="share no gene"):
        cf.tl.concept_enrichment(mdata, {"mouse": ["g1", "g2"]})
    with pytest.raises(FileNotFoundError, match="no GMT file"):
        cf.tl.concept_enrichment(mdata, "nowhere.gmt")
    with pytest.raises(ValueError, match="no gene set has 7 to 500"):
        cf.tl.concept_enrichment(mdata, {"small": GENES[:6]}, min_size=7)


def test_concepts_are_found_by_gene_feature_and_perturbation(described):
    mdata, _ = described
    cf.tl.differential_concepts(mdata, "gene", control="control")
    assert set(cf.tl.find_concepts(mdata, "g3")["kind"]) == {"gene"}
    nuclei = cf.tl.find_concepts(mdata, "NUCLEUS")
    assert nuclei[["concept", "name", "direction"]].values.tolist() == [[0, "nucleus_area", 1]]
    perturbed = cf.tl.find_concepts(mdata, "A")
    assert perturbed.loc[0, ["concept", "name"]].tolist() == [5, "A"]  # the name itself first
    assert cf.tl.find_concepts(mdata, "nothing of the kind").empty
    with pytest.raises(KeyError, match="nothing to search"):
        cf.tl.find_concepts(screen(n=40), "A")
    with pytest.raises(ValueError, match="query is empty"):
        cf.tl.find_concepts(mdata, " ")
