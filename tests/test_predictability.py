"""How much images explain of each gene, which pairs maps share, how similarities agree."""

from __future__ import annotations

import anndata as ad
import matplotlib
import mudata as md
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeCV

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import cellfuse as cf


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def paired(n=200, seed=0):
    """Gene 0 is linear in the embedding, gene 1 half noise, gene 2 noise, gene 3 constant."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 4))
    noise = rng.normal(size=(n, 2))
    y = np.c_[z[:, 0], z[:, 1] + noise[:, 0], noise[:, 1], np.ones(n)]
    names = [f"cell{i}" for i in range(n)]
    image = ad.AnnData(obs=pd.DataFrame(index=names), obsm={"emb": z})
    order = rng.permutation(n)
    rna = ad.AnnData(y[order], obs=pd.DataFrame(index=np.array(names)[order]))
    rna.var_names = [f"G{i}" for i in range(4)]
    return md.MuData({"image": image, "rna": rna})


def test_paired_cells_are_matched_by_name_and_each_gene_is_judged():
    mdata = paired()
    table = cf.tl.predictability(mdata, use_rep="emb")
    assert table.loc["G0", "r2"] > 0.98 and table.loc["G0", "r2_determination"] > 0.98
    assert 0.3 < table.loc["G1", "r2"] < 0.65 and table.loc["G2", "r2"] < 0.05
    assert (table["r2_chance"].dropna() < 0.05).all() and np.isnan(table.loc["G3", "r2"])
    pd.testing.assert_frame_equal(mdata.uns["predictability"]["table"], table)


def test_held_out_rows_are_never_fitted_on():
    rng = np.random.default_rng(0)
    x = rng.normal(
        size=(60, 200)
    )  # more dimensions than rows: a fit without holding out is perfect
    mdata = md.MuData({"image": ad.AnnData(obsm={"emb": x}), "rna": ad.AnnData(x[:, :1] * 0)})
    mdata["rna"].X = rng.normal(size=(60, 1))
    assert RidgeCV(alphas=[1e-6]).fit(x, mdata["rna"].X).score(x, mdata["rna"].X) > 0.9
    assert cf.tl.predictability(mdata, use_rep="emb")["r2"].item() < 0.2


def test_unpaired_cells_are_compared_by_context_and_targets_are_held_out_together():
    rng = np.random.default_rng(0)
    effect = rng.normal(size=(40, 3))
    mods = {}
    for name in ("image", "rna"):
        of = rng.integers(40, size=600)
        obs = pd.DataFrame(
            {"guide": [f"g{i}" for i in of], "gene": [f"t{i // 2}" for i in of]},
            index=[f"{name}-{i}" for i in range(600)],
        )
        values = effect[of] + 0.3 * rng.normal(size=(600, 3))
        mods[name] = ad.AnnData(values, obs=obs) if name == "rna" else ad.AnnData(obs=obs)
        if name == "image":
            mods[name].obsm["emb"] = values
    mdata = md.MuData(mods)
    table = cf.tl.predictability(mdata, by="guide", group_key="gene", use_rep="emb")
    assert (table["r2"] > 0.8).all()
    assert mdata.uns["predictability"]["params"]["n_rows"] == 40
    with pytest.raises(ValueError, match="share 0 cells with the same name.*give `by`"):
        cf.tl.predictability(mdata, use_rep="emb")


def test_predictions_of_another_model_are_judged():
    mdata = paired()
    truth = mdata["rna"][mdata["image"].obs_names].X
    mdata["image"].obsm["guess"] = np.asarray(truth) * [2.0, 1.0, 0.0, 1.0]
    table = cf.tl.predictability(mdata, predicted="guess")
    assert table.loc[["G0", "G1"], "r2"].tolist() == pytest.approx([1, 1])
    assert table.loc["G0", "r2_determination"] < 0.5 and table.loc["G2", "r2"] == 0
    mdata["image"].obsm["guess"] = np.zeros((200, 3))
    with pytest.raises(ValueError, match="3 columns for 4 genes"):
        cf.tl.predictability(mdata, predicted="guess")


def test_the_curve_is_the_share_of_genes_up_to_an_r2():
    mdata = paired()
    table = cf.tl.predictability(mdata, use_rep="emb")
    ax = cf.pl.predictability(mdata)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(np.sort(table["r2"].dropna()), x[1:])
    assert y[-1] == 1 and "67% of genes below .2" not in ax.get_legend().get_texts()[0].get_text()


def test_images_learn_the_expression_that_goes_with_them():
    rng = np.random.default_rng(0)
    bright = rng.random(300)
    crops = (bright[:, None, None, None] * 200 + rng.normal(0, 3, (300, 1, 8, 8))).astype("f4")
    names = [f"c{i}" for i in range(300)]
    image = ad.AnnData(obs=pd.DataFrame(index=names), obsm={"crops": crops})
    rna = ad.AnnData(
        np.c_[bright * 3 + 7, rng.normal(size=300)].astype("f4"), obs=pd.DataFrame(index=names)
    )
    whole = md.MuData({"image": image, "rna": rna})
    train, test = (
        md.MuData({m: whole[m][part].copy() for m in whole.mod})
        for part in (slice(0, 240), slice(240, 300))
    )
    cf.ImageRegressor.setup_mudata(
        train, context_keys="obs_names", image_rep="crops", rna_likelihood="mse"
    )
    model = cf.ImageRegressor(train, depth=1, width=24, n_heads=2, patch_size=4, seed=0)
    model.train(max_epochs=12, documents_per_context=2, enable_progress_bar=False, augment=False)
    test["image"].obsm["predicted"] = model.predict(test)
    table = cf.tl.predictability(test, predicted="predicted")
    assert table["r2_determination"].iloc[0] > 0.8 and table["r2"].iloc[1] < 0.2
    assert model.get_latent_representation(test, modality="image").shape == (60, 24)


def test_a_regressor_of_counts_or_without_images_is_refused():
    mdata = cf.datasets.simulated_screen(10, n_targets=3, cells_per_guide=3, seed=0)
    with pytest.raises(ValueError, match="ImageRegressor reads"):
        cf.ImageRegressor.setup_mudata(mdata, context_keys="guide", image_rep="crops")
        cf.ImageRegressor(mdata)


# -- maps -----------------------------------------------------------------------------------------


def maps(seed=0, n=40):
    rng = np.random.default_rng(seed)
    names = pd.DataFrame(index=[f"G{i}" for i in range(n)])
    group = np.repeat(np.arange(n // 4), 4)
    centre = rng.normal(size=(n // 4, 8))
    first = ad.AnnData(centre[group] + 0.5 * rng.normal(size=(n, 8)), obs=names)
    second = ad.AnnData(centre[group] + 1.5 * rng.normal(size=(n, 8)), obs=names)
    i, j = np.triu_indices(n, 1)
    same = group[i] == group[j]
    edges = pd.DataFrame({"source": names.index[i[same]], "target": names.index[j[same]]})
    return first, second, edges


def test_pairs_found_together_and_alone_add_up_to_what_each_map_finds():
    first, second, edges = maps()
    table = cf.tl.edge_overlap({"a": first, "b": second}, edges)
    found = {
        name: cf.tl.edge_classification(one, edges, per_pair=True)["hit"].sum()
        for name, one in (("a", first), ("b", second))
    }
    for name in "ab":
        assert table.loc[table[name], "n_pairs"].sum() == found[name]
    both = table[table["a"] & table["b"]].iloc[0]
    expected = found["a"] * found["b"] / len(edges)
    np.testing.assert_allclose(both["n_expected"], expected)
    assert "edge_classification" in second.uns  # for the ROC curves
    ax = cf.pl.edge_overlap(first)
    assert {int(bar.get_width()) for bar in ax.patches} == set(table["n_pairs"])
    assert "a and b" in [text.get_text() for text in ax.get_yticklabels()]
    with pytest.raises(ValueError, match="two maps or more"):
        cf.tl.edge_overlap({"a": first}, edges)


@pytest.mark.parametrize("counts", [(5, 9, 3), (40, 1, 2), (7, 0, 4), (6, 8, 0)])
def test_areas_of_the_circles_and_of_their_overlap_are_the_numbers(counts):
    alone, other, both = counts
    table = pd.DataFrame({"a": [True, False, True], "b": [False, True, True], "n_pairs": counts})
    kept = {"table": table.assign(n_expected=1.0), "params": {"fpr": 0.05, "n_pairs": 99}}
    first = ad.AnnData(shape=(1, 1), uns={"edge_overlap": kept})
    ax = cf.pl.edge_overlap(first, kind="circles")
    left, _, right, _ = ax.patches
    # Counted on a grid of points.
    x, y = np.meshgrid(*(np.linspace(-6, 12, 3000),) * 2)
    inside = [np.hypot(x - c.center[0], y - c.center[1]) < c.radius for c in (left, right)]
    step = (18 / 2999) ** 2
    found = [
        (inside[0] & ~inside[1]).sum(),
        (inside[1] & ~inside[0]).sum(),
        (inside[0] & inside[1]).sum(),
    ]
    np.testing.assert_allclose(np.array(found) * step, counts, atol=0.03)
    shown = [text.get_text() for text in ax.texts]
    assert set(shown) == {"a", "b", *(str(n) for n in counts if n)}


def test_circles_of_three_maps_or_of_nothing_are_refused():
    table = pd.DataFrame({"a": [True], "b": [False], "n_pairs": [3], "n_expected": [3.0]})
    for more, message in (({"c": [True]}, "two maps to scale"), ({}, "found no interacting pair")):
        kept = {"table": table.assign(**more), "params": {"fpr": 0.05, "n_pairs": 9}}
        first = ad.AnnData(shape=(1, 1), uns={"edge_overlap": kept})
        with pytest.raises(ValueError, match=message):
            cf.pl.edge_overlap(first, kind="circles")
    with pytest.raises(ValueError, match="'bars' or 'circles'"):
        cf.pl.edge_overlap(first, kind="pie")


def test_squares_hold_every_pair_once_and_the_fused_similarity():
    first, second, _ = maps()
    fused = ad.AnnData(np.hstack([first.X, second.X]), obs=first.obs)
    table = cf.tl.similarity_density(fused, first, second, n_bins=8)
    assert table["n_pairs"].sum() == 40 * 39 // 2
    unit = fused.X / np.linalg.norm(fused.X, axis=1, keepdims=True)
    mean = (unit @ unit.T)[np.triu_indices(40, 1)].mean()
    np.testing.assert_allclose(np.average(table["similarity"], weights=table["n_pairs"]), mean)
    high = table.nlargest(5, "first")["similarity"].mean()
    assert high > table.nsmallest(5, "first")["similarity"].mean()
    axes = cf.pl.similarity_density(fused)
    assert np.nansum(axes[0].collections[0].get_array()) == 780
    with pytest.raises(ValueError, match="share 0 genes"):
        other = first.copy()
        other.obs_names = [f"H{i}" for i in range(40)]
        cf.tl.similarity_density(fused, other, second)
