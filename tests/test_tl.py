"""Profiles and their scores: hand-worked numbers, scikit-learn, properties, bad input."""

from __future__ import annotations

import json
import logging
from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy.sparse import csr_matrix
from scipy.stats import false_discovery_control, kstest, ortho_group
from sklearn.metrics import roc_auc_score, roc_curve

import cellfuse as cf


def frame(index, **columns):
    return pd.DataFrame(columns, index=[str(i) for i in index])


def cells(values, prefix="c", **columns):
    values = np.asarray(values, dtype=np.float32).reshape(len(values), -1)
    names = [f"{prefix}{i}" for i in range(len(values))]
    var = pd.DataFrame(index=[f"{prefix}_g{j}" for j in range(values.shape[1])])
    return ad.AnnData(values, obs=frame(names, **columns), var=var, obsm={"emb": values.copy()})


# -- aggregate ------------------------------------------------------------------------------------


def two_genes():
    return cells(
        [0, 2, 10, 5, 7],
        guide=["a1", "a1", "a2", "b1", "b1"],
        gene=["A", "A", "A", "B", "B"],
        well=["w1", "w2", "w1", "w1", "w1"],
    )


def test_mean_of_cells_and_mean_of_guide_means_differ():
    plain = cf.tl.aggregate(two_genes(), by="gene", use_rep="emb")
    by_guide = cf.tl.aggregate(two_genes(), by="gene", use_rep="emb", within="guide")
    assert plain.X.ravel().tolist() == [4.0, 6.0]
    assert by_guide.X.ravel().tolist() == [5.5, 6.0]
    assert plain.X.dtype == np.float32
    assert by_guide.obs["n_cells"].tolist() == [3, 2]


def test_median_over_cells_and_over_guides():
    a = cells([0, 1, 9, 20], gene=list("AAAA"), guide=["1", "2", "3", "3"])
    assert cf.tl.aggregate(a, by="gene", use_rep=None, statistic="median").X.item() == 5.0
    by_guide = cf.tl.aggregate(a, by="gene", use_rep=None, statistic="median", within="guide")
    assert by_guide.X.item() == 1.0


def test_only_columns_constant_in_every_group_are_carried():
    guides = cf.tl.aggregate(two_genes(), by="guide", use_rep="emb")
    assert guides.obs_names.tolist() == ["a1", "a2", "b1"]
    assert list(guides.obs.columns) == ["guide", "gene", "n_cells"]
    assert guides.obs["gene"].tolist() == ["A", "A", "B"]


def test_several_columns_make_a_joint_label():
    profiles = cf.tl.aggregate(two_genes(), by=["gene", "well"], use_rep="emb")
    assert profiles.obs_names.tolist() == ["A | w1", "A | w2", "B | w1"]
    assert profiles.obs["well"].tolist() == ["w1", "w2", "w1"]
    assert profiles.X.ravel().tolist() == [5.0, 2.0, 6.0]


def test_joint_labels_that_coincide_are_refused():
    a = cells([1, 2], one=["x | y", "x"], two=["z", "y | z"])
    with pytest.raises(ValueError, match="share a joint label"):
        cf.tl.aggregate(a, by=["one", "two"], use_rep=None)


def test_sparse_x_keeps_the_names_of_its_genes():
    a = two_genes()
    a.X = csr_matrix(a.X)
    profiles = cf.tl.aggregate(a, by="gene", use_rep=None)
    assert profiles.var_names.tolist() == ["c_g0"]
    assert profiles.X.ravel().tolist() == [4.0, 6.0]


def test_small_groups_are_left_out():
    guides = cf.tl.aggregate(two_genes(), by="guide", use_rep="emb", min_cells=2)
    assert guides.obs_names.tolist() == ["a1", "b1"]
    with pytest.raises(ValueError, match="none of 3 groups has min_cells=9 cells.*largest has 2"):
        cf.tl.aggregate(two_genes(), by="guide", use_rep="emb", min_cells=9)


def test_many_cells_in_several_blocks_match_pandas():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5000, 600)).astype(np.float32)
    a = ad.AnnData(obs=frame(range(5000), gene=rng.integers(0, 40, 5000).astype(str)))
    a.obsm["emb"] = values
    expected = pd.DataFrame(values).groupby(a.obs["gene"].to_numpy()).mean()
    got = cf.tl.aggregate(a, by="gene", use_rep="emb")
    np.testing.assert_allclose(got.X, expected.to_numpy(), atol=1e-5)
    assert got.obs_names.tolist() == expected.index.tolist()


def both():
    image = cells([0, 2, 10], "i", gene=["A", "A", "B"], plate=["p"] * 3, site=["s", "t", "s"])
    rna = cells([5, 20, 30], "r", gene=["A", "B", "C"], plate=["q", "p", "p"])
    return MuData({"image": image, "rna": rna})


def test_modalities_are_averaged_with_equal_weight():
    mdata = both()
    with pytest.warns(UserWarning, match="1 of 3 groups are not in every modality") as caught:
        profiles = cf.tl.aggregate(mdata, by="gene", use_rep="emb")
    assert caught[0].filename == __file__
    assert profiles.X.ravel().tolist() == [3.0, 15.0]
    assert profiles.obsm["profile_image"].ravel().tolist() == [1.0, 10.0]
    assert profiles.obsm["profile_rna"].ravel().tolist() == [5.0, 20.0]
    assert profiles.obs["n_cells_image"].tolist() == [2, 1]
    assert profiles.obs["n_cells"].tolist() == [3, 2]
    # The plate is constant within each modality's groups, but not the same in both.
    assert "plate" not in profiles.obs
    assert "site" not in profiles.obs


def test_any_keeps_groups_of_one_modality():
    profiles = cf.tl.aggregate(both(), by="gene", use_rep="emb", modalities="any")
    assert profiles.X.ravel().tolist() == [3.0, 15.0, 30.0]
    assert np.isnan(profiles.obsm["profile_image"][2]).all()
    assert profiles.obs["n_cells_image"].tolist() == [2, 1, 0]
    assert profiles.obs["gene"].tolist() == ["A", "B", "C"]


def test_categories_are_carried_and_profiles_can_be_written(tmp_path):
    mdata = both()
    for m in mdata.mod:
        mdata[m].obs["gene"] = mdata[m].obs["gene"].astype("category")
    profiles = cf.tl.aggregate(mdata, by="gene", use_rep="emb", modalities="any")
    assert isinstance(profiles.obs["gene"].dtype, pd.CategoricalDtype)
    profiles.write_h5ad(tmp_path / "p.h5ad")
    params = json.loads(ad.read_h5ad(tmp_path / "p.h5ad").uns["aggregate"]["params"])
    assert params["by"] == ["gene"]


def test_input_is_not_changed():
    a = two_genes()
    before = a.copy()
    cf.tl.aggregate(a, by="gene", use_rep="emb", within="guide")
    pd.testing.assert_frame_equal(a.obs, before.obs)
    np.testing.assert_array_equal(a.obsm["emb"], before.obsm["emb"])
    assert not a.uns


def different_widths(mdata):
    mdata["rna"].obsm["emb"] = np.ones((3, 2))


def nan_label(mdata):
    mdata["rna"].obs["gene"] = ["A", None, "B"]


def nan_value(mdata):
    mdata["rna"].obsm["emb"][1] = np.nan


def no_common_group(mdata):
    mdata["rna"].obs["gene"] = ["X", "Y", "Z"]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (different_widths, r"different widths: \{'image': 1, 'rna': 2\}"),
        (nan_label, "missing .NaN. for 1 of 3"),
        (nan_value, "obsm\\['emb'\\] of modality 'rna' holds 1 NaN"),
        (no_common_group, "no group by \\['gene'\\] is in every modality"),
    ],
)
def test_bad_input_to_aggregate(damage, text):
    mdata = both()
    damage(mdata)
    with pytest.raises(ValueError, match=text):
        cf.tl.aggregate(mdata, by="gene", use_rep="emb")


@pytest.mark.parametrize("kwargs", [{"statistic": "mode"}, {"modalities": "some"}])
def test_unknown_choices_of_aggregate(kwargs):
    with pytest.raises(ValueError, match="choose one of"):
        cf.tl.aggregate(two_genes(), by="gene", use_rep="emb", **kwargs)


# -- guide_consistency ----------------------------------------------------------------------------


def guide_profiles(n_genes=30, n_guides=4, d=12, effect=0.0, seed=0, n_controls=0):
    rng = np.random.default_rng(seed)
    shared = np.repeat(rng.normal(size=(n_genes, d)), n_guides, axis=0)
    values = rng.normal(size=shared.shape) + effect * shared
    values = np.concatenate([values, rng.normal(size=(n_controls, d))])
    gene = [f"g{i // n_guides:03d}" for i in range(n_genes * n_guides)] + ["NTC"] * n_controls
    return ad.AnnData(values, obs=frame(range(len(gene)), gene=gene))


def test_similarity_is_the_mean_over_pairs_of_guides():
    guides = guide_profiles()
    table = cf.tl.guide_consistency(guides, target_key="gene", control=None, n_null=100)
    rows = guides.X[(guides.obs["gene"] == "g007").to_numpy()]
    expected = np.mean(
        [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(rows, 2)]
    )
    assert table.loc["g007", "similarity"] == pytest.approx(expected)
    assert table.index.name == "target"
    assert (table["n_guides"] == 4).all()


def test_qvalues_are_benjamini_hochberg():
    table = cf.tl.guide_consistency(
        guide_profiles(effect=0.7), target_key="gene", control=None, n_null=999
    )
    np.testing.assert_allclose(table["qvalue"], false_discovery_control(table["pvalue"]))
    assert (table["significant"] == (table["qvalue"] < 0.05)).all()
    assert table.attrs["share_significant"] == table["significant"].mean()


def test_strong_effects_are_found_and_none_are_not():
    strong = cf.tl.guide_consistency(guide_profiles(effect=2), target_key="gene", control=None)
    none = cf.tl.guide_consistency(guide_profiles(), target_key="gene", control=None)
    assert strong.attrs["share_significant"] > 0.95
    assert none.attrs["share_significant"] < 0.05


def test_pvalues_of_permuted_labels_are_uniform():
    guides = guide_profiles(n_genes=400, effect=1.0)
    guides.obs["gene"] = np.random.default_rng(3).permutation(guides.obs["gene"])
    table = cf.tl.guide_consistency(guides, target_key="gene", control=None)
    assert kstest(table["pvalue"], "uniform").pvalue > 0.01


def test_rotation_changes_nothing():
    guides = guide_profiles(effect=0.5)
    turned = guides.copy()
    turned.X = guides.X @ ortho_group.rvs(12, random_state=0)
    one = cf.tl.guide_consistency(guides, target_key="gene", control=None, n_null=500)
    two = cf.tl.guide_consistency(turned, target_key="gene", control=None, n_null=500)
    pd.testing.assert_frame_equal(one, two, atol=1e-5)


def test_same_seed_same_table_whatever_the_order_of_the_rows():
    guides = guide_profiles()
    arguments = {"target_key": "gene", "control": None, "n_null": 300}
    one = cf.tl.guide_consistency(guides, **arguments, seed=1)
    pd.testing.assert_frame_equal(one, cf.tl.guide_consistency(guides, **arguments, seed=1))
    assert not one.equals(cf.tl.guide_consistency(guides, **arguments, seed=2))
    shuffled = guides[np.random.default_rng(0).permutation(guides.n_obs)].copy()
    two = cf.tl.guide_consistency(shuffled, **arguments, seed=1)
    pd.testing.assert_frame_equal(one, two)


def test_controls_take_no_part():
    guides = guide_profiles(n_controls=50)
    with_controls = cf.tl.guide_consistency(guides, target_key="gene", control="NTC", n_null=200)
    without = cf.tl.guide_consistency(
        guides[guides.obs["gene"] != "NTC"].copy(), target_key="gene", control=None, n_null=200
    )
    pd.testing.assert_frame_equal(with_controls, without)


def test_targets_with_one_guide_are_kept_untested(caplog):
    guides = guide_profiles()
    guides.obs["gene"] = ["lone", *guides.obs["gene"][1:]]
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        table = cf.tl.guide_consistency(guides, target_key="gene", control=None, n_null=200)
    assert np.isnan(table.loc["lone", ["similarity", "pvalue", "qvalue"]].astype(float)).all()
    assert not table.loc["lone", "significant"]
    assert "1 with one guide are not tested" in caplog.text
    tested = table.drop("lone")
    np.testing.assert_allclose(tested["qvalue"], false_discovery_control(tested["pvalue"]))


def test_identical_profiles_are_never_significant():
    guides = guide_profiles()
    guides.X = np.ones_like(guides.X) * 0.1
    table = cf.tl.guide_consistency(guides, target_key="gene", control=None, n_null=200)
    assert (table["pvalue"] == 1).all()


def test_backgrounds_are_tested_apart_and_averaged(tmp_path):
    one, two = guide_profiles(effect=2.0), guide_profiles(seed=1)
    guides = ad.concat({"K562": one, "HepG2": two}, label="cell_line", index_unique="-")
    table = cf.tl.guide_consistency(
        guides, target_key="gene", control=None, background_key="cell_line", n_null=999
    )
    alone = cf.tl.guide_consistency(one, target_key="gene", control=None, n_null=999)
    part = table[table["cell_line"] == "K562"]
    np.testing.assert_allclose(part["similarity"], alone["similarity"])
    shares = table.groupby("cell_line")["significant"].mean()
    assert table.attrs["share_significant"] == pytest.approx(shares.mean())
    guides.write_h5ad(tmp_path / "g.h5ad")
    kept = ad.read_h5ad(tmp_path / "g.h5ad").uns["guide_consistency"]
    assert kept["params"]["share_by_background"]["K562"] == shares["K562"]
    assert len(kept["table"]) == 60


def test_guide_table_is_kept_and_can_be_written(tmp_path):
    guides = guide_profiles()
    table = cf.tl.guide_consistency(guides, target_key="gene", control=None, n_null=99)
    guides.write_h5ad(tmp_path / "g.h5ad")
    kept = ad.read_h5ad(tmp_path / "g.h5ad").uns["guide_consistency"]
    np.testing.assert_array_equal(kept["table"]["pvalue"], table["pvalue"])
    assert kept["params"]["n_null"] == 99


@pytest.mark.parametrize(
    ("labels", "control", "error", "text"),
    [
        (["A"], None, ValueError, "found 1 guides of 1 targets"),
        (["A", "B", "C"], None, ValueError, "no target has two guides"),
        (["A", "A", "A", "B"], None, ValueError, "'A' has 3 guides, but there are only 2 targets"),
        (["A", "A", "B", "C"], "ntc", KeyError, "'ntc' is not in obs"),
        (["A", "A", None, "C"], None, ValueError, "missing"),
    ],
    ids=["one guide", "one each", "small null", "control", "nan"],
)
def test_bad_guides(labels, control, error, text):
    guides = cells(np.eye(6)[: len(labels)], gene=labels)
    with pytest.raises(error, match=text):
        cf.tl.guide_consistency(guides, target_key="gene", control=control)
    assert not guides.uns


def test_zero_and_nan_profiles_are_refused():
    guides = guide_profiles()
    guides.X[3] = 0
    with pytest.raises(ValueError, match="1 profiles are all zeros.*'3'"):
        cf.tl.guide_consistency(guides, target_key="gene", control=None)
    guides.X[3] = np.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        cf.tl.guide_consistency(guides, target_key="gene", control=None)


# -- edge_classification --------------------------------------------------------------------------


def gene_profiles(n=40, d=6, seed=0):
    values = np.random.default_rng(seed).normal(size=(n, d))
    return ad.AnnData(values, obs=pd.DataFrame(index=[f"G{i:03d}" for i in range(n)]))


def scored_edges(n=40, m=200, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "source": [f"G{i:03d}" for i in rng.integers(0, n, m)],
            "target": [f"G{i:03d}" for i in rng.integers(0, n, m)],
            "score": rng.choice([0.3, 0.9, 0.96, 1.0], m),
        }
    )


def loop(genes, edges, threshold=0.95):
    """Pair by pair, as one would write it down."""
    best: dict[frozenset, float] = {}
    for row in edges.itertuples():
        pair = frozenset([row.source, row.target])
        if len(pair) == 2:
            best[pair] = max(best.get(pair, 0), getattr(row, "score", 1.0))
    network = set().union(*best)
    unit = genes.X / np.linalg.norm(genes.X, axis=1, keepdims=True)
    labels, scores = [], []
    for i, j in combinations(range(genes.n_obs), 2):
        a, b = genes.obs_names[i], genes.obs_names[j]
        if a not in network or b not in network:
            continue
        score = best.get(frozenset([a, b]))
        if score is None or score > threshold:
            labels.append(score is not None)
            scores.append(unit[i] @ unit[j])
    return np.array(labels), np.array(scores)


@pytest.mark.parametrize("scored", [True, False])
def test_edges_match_the_loop_and_scikit_learn(scored):
    genes, edges = gene_profiles(), scored_edges()
    edges = edges if scored else edges[["source", "target"]].head(80)
    labels, scores = loop(genes, edges)
    x, y, _ = roc_curve(labels, scores)
    result = cf.tl.edge_classification(genes, edges).loc["all"]
    assert result["tpr"] == pytest.approx(np.interp(0.05, x, y), abs=1e-12)
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert (result["n_edges"], result["n_negatives"]) == (labels.sum(), (~labels).sum())


def test_several_blocks_of_rows_match_the_loop(monkeypatch):
    monkeypatch.setattr("cellfuse.tl.edges.ROWS", 7)
    genes, edges = gene_profiles(), scored_edges()
    labels, scores = loop(genes, edges)
    result = cf.tl.edge_classification(genes, edges, n_boot=3).loc["all"]
    assert result["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_ties_in_profiles_count_half():
    genes = gene_profiles(4, 2)
    genes.X = np.full((4, 2), 0.1)
    edges = pd.DataFrame({"source": ["G000", "G002"], "target": ["G001", "G003"]})
    result = cf.tl.edge_classification(genes, edges).loc["all"]
    assert (result["tpr"], result["auc"]) == pytest.approx((0.05, 0.5))


def test_order_direction_and_duplicates_do_not_matter():
    genes, edges = gene_profiles(), scored_edges()
    one = cf.tl.edge_classification(genes, edges, n_boot=20)
    turned = edges.rename(columns={"source": "target", "target": "source"})
    shuffled = genes[np.random.default_rng(1).permutation(40)].copy()
    self_pairs = pd.DataFrame({"source": ["X"], "target": ["X"], "score": [1.0]})
    two = cf.tl.edge_classification(shuffled, pd.concat([turned, edges, self_pairs]), n_boot=20)
    pd.testing.assert_frame_equal(one, two, atol=1e-12)


def test_genes_outside_the_network_take_no_part():
    genes, edges = gene_profiles(), scored_edges(n=30)
    inside = cf.tl.edge_classification(genes[:30].copy(), edges)
    pd.testing.assert_frame_equal(cf.tl.edge_classification(genes, edges), inside)


def test_controls_are_dropped_also_when_they_are_in_the_network():
    genes, edges = gene_profiles(), scored_edges()
    with_control = cf.tl.edge_classification(genes, edges, control="G005")
    without = cf.tl.edge_classification(genes[genes.obs_names != "G005"].copy(), edges)
    pd.testing.assert_frame_equal(with_control, without)
    with pytest.raises(KeyError, match="Did you mean 'G005'"):
        cf.tl.edge_classification(genes, edges, control="g005")


def test_edge_scores_do_not_change_with_rotation_or_length():
    genes, edges = gene_profiles(), scored_edges()
    turned = genes.copy()
    turned.X = (genes.X @ ortho_group.rvs(6, random_state=0)) * np.arange(1, 41)[:, None]
    pd.testing.assert_frame_equal(
        cf.tl.edge_classification(genes, edges), cf.tl.edge_classification(turned, edges)
    )


def test_random_profiles_give_chance():
    result = cf.tl.edge_classification(gene_profiles(400), scored_edges(400, 8000)).loc["all"]
    assert result["tpr"] == pytest.approx(0.05, abs=0.02)
    assert result["auc"] == pytest.approx(0.5, abs=0.02)


def test_bootstrap_intervals_hold_the_estimate_and_follow_the_seed():
    genes, edges = gene_profiles(), scored_edges()
    one = cf.tl.edge_classification(genes, edges, n_boot=200, seed=1)
    row = one.loc["all"]
    assert row["tpr_low"] <= row["tpr"] <= row["tpr_high"]
    assert row["auc_low"] < row["auc"] < row["auc_high"]
    pd.testing.assert_frame_equal(one, cf.tl.edge_classification(genes, edges, n_boot=200, seed=1))
    assert not one.equals(cf.tl.edge_classification(genes, edges, n_boot=200, seed=2))


def test_backgrounds_are_scored_apart_and_averaged(tmp_path):
    one, two, edges = gene_profiles(), gene_profiles(seed=1), scored_edges()
    genes = ad.concat({"a": one, "b": two}, label="background", index_unique="-")
    genes.obs["gene"] = [name.split("-")[0] for name in genes.obs_names]
    result = cf.tl.edge_classification(
        genes, edges, gene_key="gene", background_key="background", n_boot=50
    )
    alone = [cf.tl.edge_classification(g, edges).loc["all", "tpr"] for g in (one, two)]
    assert result.loc[["a", "b"], "tpr"].tolist() == alone
    assert result.loc["mean", "tpr"] == pytest.approx(np.mean(alone))
    assert result.loc["mean", "auc_low"] <= result.loc["mean", "auc_high"]
    kept = genes.uns["edge_classification"]
    assert kept["tpr"][0] == 0
    assert np.trapezoid(kept["tpr"], kept["fpr"]) == pytest.approx(
        result.loc["mean", "auc"], abs=0.01
    )
    genes.write_h5ad(tmp_path / "g.h5ad")
    again = ad.read_h5ad(tmp_path / "g.h5ad").uns["edge_classification"]
    np.testing.assert_allclose(again["summary"]["tpr"], result["tpr"])


def test_backgrounds_of_other_genes_are_resampled_by_name(monkeypatch):
    one, two, edges = gene_profiles(), gene_profiles(seed=1)[5:].copy(), scored_edges()
    genes = ad.concat({"a": one, "b": two}, label="background", index_unique="-")
    genes.obs["gene"] = [name.split("-")[0] for name in genes.obs_names]
    # Each gene of the second once, the five others never: its replicates are the estimate.
    times = (np.arange(40) >= 5).astype(int)
    monkeypatch.setattr("cellfuse.tl.edges.draw_nodes", lambda n, n_boot, seed: times[:, None])
    row = cf.tl.edge_classification(
        genes, edges, gene_key="gene", background_key="background", n_boot=1
    ).loc["b"]
    assert row["auc_low"] == row["auc_high"] == pytest.approx(row["auc"], abs=1e-12)


def test_curve_and_summary_are_kept():
    genes, edges = gene_profiles(300), scored_edges(300, 9000)
    result = cf.tl.edge_classification(genes, edges)
    kept = genes.uns["edge_classification"]
    assert len(kept["fpr"]) == len(kept["tpr"]) <= 2000
    assert np.interp(0.05, kept["fpr"], kept["tpr"]) == pytest.approx(
        result.loc["all", "tpr"], abs=5e-3
    )
    assert kept["params"]["fpr"] == 0.05


def test_the_mean_curve_keeps_straight_rises():
    from cellfuse.kernels.roc import area_under, roc_curve, tpr_at
    from cellfuse.tl.edges import _mean_curve

    rng = np.random.default_rng(0)
    curves = [roc_curve(rng.normal(1, 1, 40), rng.normal(size=n)) for n in (30, 50)]
    mean = _mean_curve(curves)
    assert mean[0][0] == mean[1][0] == 0 and mean[0][-1] == mean[1][-1] == 1
    assert np.all(np.diff(mean[0]) >= 0) and np.all(np.diff(mean[1]) >= 0)
    assert area_under(*mean) == pytest.approx(np.mean([area_under(*c) for c in curves]))
    for level in np.linspace(0.013, 0.95, 23):
        expected = np.mean([tpr_at(*c, level) for c in curves])
        assert tpr_at(*mean, level) == pytest.approx(expected)


def test_network_of_other_names_shows_both_sides():
    edges = pd.DataFrame({"source": ["TP53"], "target": ["MDM2"]})
    with pytest.raises(ValueError, match="no usable edge.*'MDM2', 'TP53'.*'G000'.*gene_key"):
        cf.tl.edge_classification(gene_profiles(), edges)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda e: [("G000", "G001")], TypeError, "`edges` is a list; expected a data frame"),
        (lambda e: e.rename(columns={"target": "targets"}), KeyError, "Did you mean 'targets'"),
        (lambda e: e.assign(score=e["score"] * 1000), ValueError, "divide by 1000"),
        (lambda e: e.assign(score=np.nan), ValueError, "200 missing"),
        (lambda e: e.assign(source=None), ValueError, "without source or target"),
        (lambda e: e.assign(target=e["source"]), ValueError, "no pair of two different genes"),
        (lambda e: e.assign(score=0.5), ValueError, "none of the network's 0 edges"),
    ],
)
def test_bad_edge_lists(change, error, text):
    genes = gene_profiles()
    with pytest.raises(error, match=text):
        cf.tl.edge_classification(genes, change(scored_edges()))
    assert not genes.uns


def test_bad_profiles():
    genes, edges = gene_profiles(), scored_edges()
    genes.X[2] = 0
    with pytest.raises(ValueError, match="1 profiles are all zeros.*'G002'"):
        cf.tl.edge_classification(genes, edges)
    genes.X[2] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        cf.tl.edge_classification(genes, edges)
    twice = gene_profiles()
    twice.obs["gene"] = ["G000", *twice.obs_names[:-1]]
    with pytest.raises(ValueError, match="1 genes have several profiles: 'G000'"):
        cf.tl.edge_classification(twice, edges, gene_key="gene")


def test_complete_network_has_no_negatives():
    genes = gene_profiles(3)
    edges = pd.DataFrame(list(combinations(genes.obs_names, 2)), columns=["source", "target"])
    with pytest.raises(ValueError, match="no negatives"):
        cf.tl.edge_classification(genes, edges)


def test_scores_refuse_a_mudata():
    with pytest.raises(TypeError, match="aggregate"):
        cf.tl.edge_classification(both(), scored_edges())
