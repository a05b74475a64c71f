"""Consistency, magnitude, intervals, and the comparison of two embeddings."""

from __future__ import annotations

from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix
from scipy.spatial.distance import cdist, pdist
from scipy.stats import false_discovery_control

import cellfuse as cf
from cellfuse.kernels.bootstrap import (
    bootstrap_pvalue,
    draw_nodes,
    interval,
    pair_means,
    sign_flip_pvalue,
    weighted_means,
)
from cellfuse.kernels.energy import distances, energy_test
from cellfuse.kernels.quantiles import count_at_least, count_at_most, order_statistics
from cellfuse.tl._summary import _discovered, share_with_interval
from cellfuse.tl.compare import compare
from cellfuse.tl.consistency import perturbation_consistency
from cellfuse.tl.magnitude import perturbation_magnitude


def screen(*, effect: float = 1.0, n_genes: int = 10, seed: int = 0) -> ad.AnnData:
    """Forty controls and eight cells of each gene, the first half of which move."""
    rng = np.random.default_rng(seed)
    gene = np.array(["NTC"] * 40 + [f"g{i}" for i in range(n_genes) for _ in range(8)])
    x = rng.normal(size=(len(gene), 5))
    moved = np.isin(gene, [f"g{i}" for i in range(n_genes // 2)])
    x[moved] += effect
    batch = rng.integers(0, 2, len(gene))
    obs = pd.DataFrame(
        {"gene": gene, "plate": np.array(["a", "b"])[batch]},
        index=[f"c{i}" for i in range(len(gene))],
    )
    return ad.AnnData(x, obs=obs)


# -- energy distance ------------------------------------------------------------------------------


def energy(x: np.ndarray, y: np.ndarray) -> float:
    return 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()


def test_energy_by_hand():
    adata = ad.AnnData(
        np.array([[0.0], [2.0], [5.0], [5.0]]),
        obs=pd.DataFrame({"gene": ["NTC", "NTC", "A", "A"]}, index=list("wxyz")),
    )
    table = perturbation_magnitude(adata, by="gene", control="NTC", min_replicates=2, n_null=200)
    # 2 x mean(5, 3) - mean(0, 2, 2, 0) - 0.
    assert table.loc["A", "energy"] == pytest.approx(7)
    # Of six ways to choose two, this one and its mirror image are the farthest.
    assert table.loc["A", "pvalue"] == pytest.approx(1 / 3, abs=0.1)


def test_energy_is_the_definition_and_finds_what_moved():
    adata = screen()
    table = perturbation_magnitude(adata, by="gene", control="NTC", n_boot=100)
    control = adata.X[:40]
    for gene in table.index:
        rows = (adata.obs["gene"] == gene).to_numpy()
        assert table.loc[gene, "energy"] == pytest.approx(energy(adata.X[rows], control))
    assert table["significant"].tolist() == [True] * 5 + [False] * 5
    assert table.attrs["share_significant"] == 0.5
    assert table.attrs["share_significant_low"] < 0.5 < table.attrs["share_significant_high"]


def test_the_null_is_the_energy_of_permuted_labels():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 2))
    strata = np.zeros(7, dtype=int)
    found = energy_test(
        distances(x, x), 3, strata, n_permutations=3000, seed=np.random.SeedSequence(0)
    )
    every = [
        energy(x[list(rows)], np.delete(x, rows, axis=0)) for rows in combinations(range(7), 3)
    ]
    assert found.distance == pytest.approx(energy(x[:3], x[3:]))
    assert found.null_mean == pytest.approx(np.mean(every), rel=0.03)
    assert found.pvalue == pytest.approx(
        np.mean(np.array(every) >= found.distance - 1e-9), abs=0.03
    )


def test_labels_are_permuted_within_strata():
    rng = np.random.default_rng(0)
    strata = np.array([0, 0, 1, 0, 0, 1, 1])
    x = rng.normal(size=(7, 2)) + 2 * strata[:, None]
    found = energy_test(
        distances(x, x), 3, strata, n_permutations=3000, seed=np.random.SeedSequence(0)
    )
    every = [
        energy(x[[*two, one]], np.delete(x, [*two, one], axis=0))
        for two in combinations([0, 1, 3, 4], 2)
        for one in (2, 5, 6)
    ]
    assert found.null_mean == pytest.approx(np.mean(every), rel=0.03)
    assert found.pvalue == pytest.approx(
        np.mean(np.array(every) >= found.distance - 1e-9), abs=0.03
    )


def test_a_shift_of_the_plate_is_no_effect_within_plates():
    adata = screen(effect=0)
    gene = adata.obs["gene"].to_numpy()
    # All of g0 on plate b, and plate b far away.
    adata.obs.loc[gene == "g0", "plate"] = "b"
    adata.X[(adata.obs["plate"] == "b").to_numpy()] += 5
    free = perturbation_magnitude(adata, by="gene", control="NTC")
    within = perturbation_magnitude(adata, by="gene", control="NTC", batch_key="plate")
    assert free.loc["g0", "pvalue"] < 0.05 < within.loc["g0", "pvalue"]


def test_a_perturbation_has_its_numbers_in_any_company():
    adata = screen()
    arguments = {"by": "gene", "control": "NTC", "n_null": 200, "seed": 4}
    every = perturbation_magnitude(adata, **arguments)
    some = adata[adata.obs["gene"].isin(["NTC", "g3", "g7"])].copy()
    columns = ["energy", "pvalue", "null_mean"]
    pd.testing.assert_frame_equal(
        perturbation_magnitude(some, **arguments)[columns], every.loc[["g3", "g7"], columns]
    )


def test_magnitude_does_not_depend_on_the_order_of_the_rows_or_on_sparsity():
    adata = screen()
    arguments = {"by": "gene", "control": "NTC", "batch_key": "plate", "n_null": 50, "max_rows": 6}
    first = perturbation_magnitude(adata, **arguments)
    turned = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    pd.testing.assert_frame_equal(perturbation_magnitude(turned, **arguments), first)
    adata.X = csc_matrix(adata.X)
    pd.testing.assert_frame_equal(perturbation_magnitude(adata, **arguments), first)


def test_controls_of_a_batch_do_not_depend_on_other_batches():
    adata = screen()
    control = (adata.obs["gene"] == "NTC").to_numpy()
    adata.obs["plate"] = np.where(control & (np.arange(adata.n_obs) < 20), "a", "b")
    arguments = {"by": "gene", "control": "NTC", "batch_key": "plate", "n_null": 50, "max_rows": 9}
    alone = adata[adata.obs["plate"] == "b"].copy()
    pd.testing.assert_frame_equal(
        perturbation_magnitude(alone, **arguments), perturbation_magnitude(adata, **arguments)
    )


def test_many_rows_are_thinned_and_few_are_not_tested():
    adata = screen()[:-5].copy()
    table = perturbation_magnitude(adata, by="gene", control="NTC", max_rows=20, n_null=50)
    assert set(table["n_controls"]) == {20, 0} and np.isnan(table.loc["g9", "pvalue"])
    assert table.loc["g9", "n"] == 3 and not table.loc["g9", "significant"]
    # As many of each of two plates.
    by_plate = perturbation_magnitude(
        screen(), by="gene", control="NTC", batch_key="plate", max_rows=9, n_null=50
    )
    assert set(by_plate["n_controls"]) == {10}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"control": "NTX"}, KeyError, "Did you mean 'NTC'"),
        ({"control": None}, ValueError, "name their label"),
        ({"control": []}, ValueError, "name their label"),
        ({"alpha": 5}, ValueError, "0 < alpha <= 1"),
        ({"min_replicates": 9}, ValueError, "the largest of 10 has 8"),
        ({"min_replicates": 1}, ValueError, "min_replicates >= 2"),
        ({"batch_key": "plate"}, ValueError, "1 of 2 batches hold no control rows: 'b'"),
    ],
    ids=["control", "none", "empty", "alpha", "few", "one", "batch"],
)
def test_bad_magnitude_is_named(change, error, text):
    adata = screen()
    adata.obs.loc[adata.obs["gene"] == "NTC", "plate"] = "a"
    with pytest.raises(error, match=text):
        perturbation_magnitude(adata, **{"by": "gene", "control": "NTC", **change})


# -- consistency ----------------------------------------------------------------------------------


def test_consistency_is_that_of_guides():
    adata = screen()
    found = perturbation_consistency(adata, by="gene", control="NTC", n_null=500)
    same = cf.tl.guide_consistency(adata, target_key="gene", control="NTC", n_null=500)
    assert found["similarity"].tolist() == same["similarity"].tolist()
    assert found["pvalue"].tolist() == same["pvalue"].tolist()


def test_consistency_against_perturbations_that_do_nothing():
    adata = screen()
    null = [f"g{i}" for i in range(5, 10)]
    table = perturbation_consistency(adata, by="gene", control="NTC", null_labels=null)
    assert table.index.tolist() == [f"g{i}" for i in range(5)]
    every = perturbation_consistency(adata, by="gene", control="NTC")["similarity"]
    for gene in table.index:
        above = (every[null] >= every[gene]).sum()
        assert table.loc[gene, "pvalue"] == pytest.approx((above + 1) / 6)
    with pytest.raises(KeyError, match="Did you mean 'g1'"):
        perturbation_consistency(adata, by="gene", control="NTC", null_labels="g1x")


def test_null_perturbations_need_no_sets_of_unrelated_replicates():
    """Eight replicates of each of three perturbations: no set of eight different ones."""
    adata = screen(n_genes=3)
    table = perturbation_consistency(adata, by="gene", control="NTC", null_labels=["g1", "g2"])
    every = {"g1": 0.0, "g2": 0.0, "g0": 0.0}
    for gene in every:
        x = adata.X[(adata.obs["gene"] == gene).to_numpy()]
        every[gene] = 1 - pdist(x, "cosine").mean()
    above = sum(every[g] >= every["g0"] for g in ("g1", "g2"))
    assert table.loc["g0", "pvalue"] == pytest.approx((above + 1) / 3)
    with pytest.raises(ValueError, match="'g0' has 8 replicates, but there are only 3 perturb"):
        perturbation_consistency(adata, by="gene", control="NTC")


@pytest.mark.parametrize("score", [perturbation_consistency, perturbation_magnitude])
def test_numbers_as_labels_are_their_text(score):
    adata = screen()
    adata.obs["gene"] = adata.obs["gene"].map({"NTC": 0, **{f"g{i}": i + 1 for i in range(10)}})
    arguments = {"by": "gene", "n_null": 50}
    by_number = score(adata, control=0, **arguments)
    adata.obs["gene"] = adata.obs["gene"].astype(str).astype("category")
    pd.testing.assert_frame_equal(score(adata, control=["0"], **arguments), by_number)


def test_consistency_does_not_depend_on_the_order_of_the_rows():
    adata = screen()
    turned = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    arguments = {"by": "gene", "control": "NTC", "n_null": 200}
    pd.testing.assert_frame_equal(
        perturbation_consistency(turned, **arguments), perturbation_consistency(adata, **arguments)
    )


# -- the share of what is significant -------------------------------------------------------------


def test_the_correction_is_done_again_in_each_replicate():
    rng = np.random.default_rng(0)
    pvalue = np.round(rng.uniform(size=30) ** 3, 2) + 0.001  # with ties
    drawn = draw_nodes(50, 40, 1)[:30]  # of genes of which another background holds the rest
    found = _discovered(pvalue, drawn, 0.2)
    for replicate, share in zip(drawn.T, found, strict=True):
        qvalue = false_discovery_control(np.repeat(pvalue, replicate))
        assert share == pytest.approx((qvalue < 0.2).mean())
    assert found.std() > 0


def test_the_interval_of_the_share_knows_the_correction():
    """Near the threshold all calls stand or fall together: the interval holds 0."""
    pvalue = np.full(40, 0.5)
    pvalue[:8] = 0.0099  # times 40, over 8: just below .05
    table = pd.DataFrame({"pvalue": pvalue, "significant": false_discovery_control(pvalue) < 0.05})
    found = share_with_interval({"": table}, 0.05, 500, 0)
    assert found["share_significant"] == 0.2 and found["share_significant_low"] == 0


@pytest.mark.parametrize(
    ("n_controls", "max_rows", "drawn"),
    [(40, 40, False), (40, 12, True), (6, 7, True)],
    ids=["permutations", "controls", "cells"],
)
def test_magnitude_follows_its_seed(n_controls, max_rows, drawn):
    adata = screen()[40 - n_controls :].copy()
    arguments = {"by": "gene", "control": "NTC", "n_null": 200, "max_rows": max_rows}
    one, same, other = (perturbation_magnitude(adata, seed=seed, **arguments) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    assert (one["pvalue"] != other["pvalue"]).any()
    # Which rows are drawn hangs on the seed where there are more than are wanted.
    assert np.allclose(one["energy"], other["energy"]) != drawn


def test_consistency_follows_its_seed():
    one, same, other = (
        perturbation_consistency(screen(), by="gene", control="NTC", n_null=200, seed=seed)
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, same)
    assert (one["pvalue"] != other["pvalue"]).any()


# -- order statistics without the list ------------------------------------------------------------


@pytest.mark.parametrize("pilot", ["good", "bad", "constant"])
def test_order_statistics_are_exact_whatever_the_guess(pilot):
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=30_000), 2)
    guess = {"good": values[:2000], "bad": np.full(50, 40.0), "constant": np.zeros(50)}[pilot]
    ranks = [0, 1500, 15_000, 28_499, 29_999]
    found = order_statistics(
        lambda: iter(values.reshape(30, 1000)), ranks, pilot=guess, n=len(values)
    )
    assert found == np.sort(values)[ranks].tolist()


@pytest.mark.parametrize("n", [190, 780, 4950])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.9, 0.95, 1.0])
def test_counts_agree_with_the_shares_they_stand_for(n, share):
    counts = np.arange(n + 1)
    assert count_at_most(share, n) == counts[counts / n <= share].max()
    assert count_at_least(share, n) == counts[counts / n >= share].min()


def test_recall_of_a_collapsed_map_is_none():
    genes = ad.AnnData(np.ones((40, 3)), obs=pd.DataFrame(index=[f"g{i}" for i in range(40)]))
    pairs = pd.DataFrame({"source": ["g0", "g1"], "target": ["g2", "g3"]})
    assert cf.tl.relationship_recall(genes, pairs)["recall"].iloc[0] == 0


# -- the bootstrap over nodes ---------------------------------------------------------------------


def test_a_pair_weighs_the_product_of_its_genes():
    drawn = np.array([[1, 2, 0], [1, 0, 3], [1, 1, 0]])
    first, second, hit = np.array([0, 1]), np.array([1, 2]), np.array([1.0, 0.0])
    found = pair_means(first, second, hit, drawn)
    assert found[0] == 0.5 and np.isnan(found[1:]).all()
    drawn = np.array([[2], [1], [3]])
    np.testing.assert_allclose(pair_means(first, second, hit, drawn), 2 / 5)


def test_recall_intervals_do_not_depend_on_the_order_of_the_map():
    rng = np.random.default_rng(0)
    names = [f"g{i:02d}" for i in range(50)]
    genes = ad.AnnData(rng.normal(size=(50, 4)), obs=pd.DataFrame(index=names))
    pairs = pd.DataFrame(rng.choice(names, (80, 2)), columns=["source", "target"])
    first = cf.tl.relationship_recall(genes, pairs, n_boot=200)
    again = cf.tl.relationship_recall(genes[::-1].copy(), pairs[::-1], n_boot=200)
    pd.testing.assert_frame_equal(first, again)
    assert first["recall_low"].iloc[0] < first["recall"].iloc[0] < first["recall_high"].iloc[0]


def test_pairs_have_the_hits_of_the_summary():
    rng = np.random.default_rng(0)
    names = [f"g{i:02d}" for i in range(50)]
    genes = ad.AnnData(rng.normal(size=(50, 4)), obs=pd.DataFrame(index=names))
    tables = {
        name: pd.DataFrame(rng.choice(names, (80, 2)), columns=["source", "target"])
        for name in "xy"
    }
    summary = cf.tl.relationship_recall(genes, tables)
    pairs = cf.tl.relationship_recall(genes, tables, per_pair=True)
    assert pairs.groupby("table")["hit"].mean().to_dict() == summary["recall"].to_dict()
    edges = tables["x"]
    tpr = cf.tl.edge_classification(genes, edges)["tpr"].iloc[0]
    hits = cf.tl.edge_classification(genes, edges, per_pair=True)
    assert hits["hit"].mean() == pytest.approx(tpr, abs=1.5 / len(hits))


def test_an_interval_leaves_two_and_a_half_percent_on_either_side():
    assert interval(np.arange(1001.0)) == (25, 975)
    assert interval(np.array([np.nan, 3.0])) == (3, 3) and np.isnan(interval(np.array([np.nan]))[0])


def test_missing_values_take_no_part():
    drawn = draw_nodes(4, 50, 0)
    assert (drawn.sum(axis=0) == 4).all()
    values = np.array([1.0, 2.0, np.nan, 5.0])
    known = drawn[[0, 1, 3]]
    expected = (np.array([1, 2, 5]) @ known) / known.sum(axis=0)
    np.testing.assert_allclose(weighted_means(values, drawn), expected)


# -- comparison -----------------------------------------------------------------------------------


def test_sign_flips_by_hand():
    # Of the eight ways to sign 1, 2, 3, two are as far from 0 as all alike.
    assert sign_flip_pvalue(np.array([1.0, 2, 3]), 20_000, 0) == pytest.approx(0.25, abs=0.02)
    assert sign_flip_pvalue(np.zeros(5), 100, 0) == 1


def test_bootstrap_p_counts_the_other_side():
    assert bootstrap_pvalue(np.r_[np.ones(97), -np.ones(2)]) == pytest.approx(2 * 3 / 100)
    assert bootstrap_pvalue(np.zeros(99)) == 1


def tables(difference: float, n: int = 60) -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(0)
    names = [f"g{i}" for i in range(n)]
    base = rng.normal(size=n)
    a = pd.DataFrame({"map": base + difference + 0.3 * rng.normal(size=n)}, index=names)
    b = pd.DataFrame({"map": base + 0.3 * rng.normal(size=n)}, index=names)
    return a, b[::-1]


def test_genes_are_paired_by_name():
    a, b = tables(0.5)
    found = compare(a, b).iloc[0]
    assert found["difference"] == pytest.approx((a["map"] - b["map"]).mean())
    assert (
        found["difference_low"] < found["difference"] < found["difference_high"]
        and found["pvalue"] < 0.001
    )
    turned = compare(b, a).iloc[0]
    assert turned["difference"] == -found["difference"] and turned["pvalue"] == found["pvalue"]
    assert compare(*tables(0.0)).iloc[0]["pvalue"] > 0.05


def test_a_comparison_follows_its_seed():
    one, same, other = (compare(*tables(0.05), seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, same)
    for column in ("pvalue", "difference_low", "difference_high"):
        assert (one[column] != other[column]).all()


def test_queries_are_averaged_by_label_and_directions_compared_apart():
    rng = np.random.default_rng(0)
    label = [f"c{i:02d}" for i in range(30) for _ in range(2)]
    z = rng.normal(size=(30, 5)).repeat(2, axis=0)
    scores = []
    for noise in (0.5, 2.0):
        a, b = (
            ad.AnnData(
                z + noise * rng.normal(size=z.shape),
                obs=pd.DataFrame({"c": label}, index=[f"{m}{i}" for i in range(60)]),
            )
            for m in "ab"
        )
        scores.append(cf.tl.retrieval(a, b, "c", use_rep=None, per_query=True))
    found = compare(*scores)
    assert found.index.tolist() == ["a to b", "b to a"] and (found["n_genes"] == 30).all()
    for direction, row in found.iterrows():
        means = [s[s["direction"] == direction]["mrr"].mean() for s in scores]
        assert (row["a"], row["b"]) == pytest.approx(means)
    assert (found["pvalue"] < 0.01).all()


def test_only_shared_and_scored_genes_count():
    a, b = tables(0.5)
    a.iloc[0] = np.nan
    found = compare(a.iloc[:40], b).iloc[0]
    assert found["n"] == 39
    with pytest.raises(ValueError, match="share 0 scored genes"):
        compare(a.iloc[:10], b.drop(index=a.index[:10]))


def test_recall_gained_by_class():
    """A class that only one embedding holds, and one that both do."""
    rng = np.random.default_rng(0)
    names = [f"g{i:03d}" for i in range(120)]
    complex_of = np.arange(120) // 4
    shared, extra = complex_of < 15, complex_of >= 15
    effect = rng.normal(size=(30, 12))[complex_of]
    noise = [rng.normal(size=(120, 12)) for _ in range(2)]
    maps = [
        ad.AnnData(
            2 * effect * (shared | (extra & both))[:, None] + noise[both],
            obs=pd.DataFrame(index=names),
        )
        for both in (1, 0)
    ]
    pairs = [(i, j) for i, j in combinations(range(120), 2) if complex_of[i] == complex_of[j]]
    classes = {
        name: pd.DataFrame(
            [(names[i], names[j]) for i, j in pairs if keep[i]], columns=["source", "target"]
        )
        for name, keep in (("shared", shared), ("extra", extra))
    }
    scores = [cf.tl.relationship_recall(m, classes, per_pair=True) for m in maps]
    found = compare(*scores)
    assert found.loc["extra", "difference"] > 0.3 and found.loc["extra", "qvalue"] < 0.01
    assert found.loc["shared", "pvalue"] > 0.05
    recall = cf.tl.relationship_recall(maps[0], classes)["recall"]
    assert found["a"].to_dict() == pytest.approx(recall.to_dict())


def test_summaries_cannot_be_compared():
    summary = pd.DataFrame({"recall": [0.1], "n_pairs": [3]}, index=["pairs"])
    with pytest.raises(ValueError, match="per_pair=True"):
        compare(summary, summary)
    a, b = tables(0.0)
    with pytest.raises(TypeError, match="`scores_a` is a AnnData"):
        compare(ad.AnnData(np.ones((2, 2))), b)
    with pytest.raises(KeyError, match="Did you mean 'map'"):
        compare(a, b, value="mapp")
    with pytest.raises(ValueError, match="labels have several rows"):
        compare(pd.concat([a, a]), b)
