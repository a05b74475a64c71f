"""Fidelity of synthetic profiles: hand-worked values, the paper's table, intervals, figures."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr

from cellfuse.pl._fidelity import fidelity as draw_fidelity
from cellfuse.pl._fidelity import real_vs_synthetic as draw_together
from cellfuse.tl.classify import gap_recovered
from cellfuse.tl.synthetic import _shown, _Side, fidelity, real_vs_synthetic, retrieval

#: Ranks of the paper's Table 3.
TABLE_3 = [1] * 15 + [3] * 4 + [4] * 2 + [6, 11, 12, 14, 14, 17, 18, 25]


def profiles(values, labels, prefix: str = "") -> ad.AnnData:
    obs = pd.DataFrame({"drug": list(labels)}, index=[f"{prefix}{i}" for i in range(len(labels))])
    return ad.AnnData(np.asarray(values, dtype=float), obs=obs)


def screens(n: int = 6, rows: int = 9, noise: float = 0.3, seed: int = 0):
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(n, 5)) + 2
    label = np.repeat([f"t{i}" for i in range(n)], rows)
    sides = [
        profiles(np.repeat(effect, rows, 0) + noise * rng.normal(size=(n * rows, 5)), label, p)
        for p in ("real-", "synthetic-")
    ]
    return sides[0], sides[1]


# -- the numbers ----------------------------------------------------------------------------------


def test_the_papers_summary_follows_from_its_table_3():
    ranks = np.array(TABLE_3)
    assert len(ranks) == 29 and (ranks <= 4).sum() == 21 and (ranks == 1).sum() == 15
    summary = retrieval(ranks, 29)
    assert round(summary["mrr"], 2) == 0.60
    assert summary["accuracy_at_1"] == pytest.approx(15 / 29)
    assert summary["chance_mrr"] == pytest.approx(sum(1 / k for k in range(1, 30)) / 29)


def test_the_papers_share_of_the_gap_follows_from_its_table_1():
    found = gap_recovered(np.array([0.315, 0.270, 0.425]), np.full(3, 0.270), np.full(3, 0.425))
    assert found.round(2).tolist() == [0.29, 0.0, 1.0]
    assert np.isnan(gap_recovered(np.array([0.3]), np.array([0.2]), np.array([0.2])))


def test_every_metric_at_hand_worked_values():
    real = profiles([[1, 0, 0], [0, 1, 0], [0, 0, 2]], "abc")
    synthetic = profiles([[3, 4, 0], [0, 2, 0]], "ab")
    table = fidelity(real, synthetic, "drug", n_boot=0)
    a = table.loc["a"]
    assert a["rank"] == 2 and table.loc["b", "rank"] == 1
    assert a["cosine"] == pytest.approx(0.6)
    assert a["specificity"] == pytest.approx(0.6 - (0.8 + 0) / 2)
    assert a["euclidean"] == pytest.approx(np.sqrt(4 + 16))
    assert a["pearson"] == pytest.approx(pearsonr([3, 4, 0], [1, 0, 0])[0])
    assert table.index.tolist() == ["b", "a"]
    summary = table.attrs["summary"]
    assert summary["mrr"] == 0.75 and summary["accuracy_at_1"] == 0.5
    assert summary["n_ranked"] == 3 and summary["chance_accuracy_at_1"] == pytest.approx(1 / 3)


def test_the_table_is_that_of_plain_loops():
    real, synthetic = screens(noise=1.5)
    table = fidelity(real, synthetic, "drug", n_boot=0)
    r = real.to_df().groupby(real.obs["drug"]).mean()
    s = synthetic.to_df().groupby(synthetic.obs["drug"]).mean()
    assert table["rank"].max() > 1
    for name in s.index:
        similarity = {other: 1 - cosine(s.loc[name], r.loc[other]) for other in r.index}
        rank = 1 + sum(v > similarity[name] for v in similarity.values())
        others = np.mean([v for other, v in similarity.items() if other != name])
        row = table.loc[name]
        assert row["rank"] == rank
        assert row["specificity"] == pytest.approx(similarity[name] - others)
        assert row["euclidean"] == pytest.approx(np.linalg.norm(s.loc[name] - r.loc[name]))
        assert row["pearson"] == pytest.approx(pearsonr(s.loc[name], r.loc[name])[0])
        assert row["n_real"] == row["n_synthetic"] == 9


def test_ties_count_against_a_treatment():
    real = profiles([[1, 0], [1, 0], [1, 0]], "abc")
    table = fidelity(real, profiles([[1, 0]], "b"), "drug", n_boot=0)
    assert table["rank"].tolist() == [3]


def test_one_prediction_for_all_is_at_chance():
    real, _ = screens(8)
    mean = np.repeat(np.asarray(real.X).mean(0, keepdims=True), 8, axis=0)
    table = fidelity(real, profiles(mean, [f"t{i}" for i in range(8)]), "drug", n_boot=0)
    assert sorted(table["rank"]) == list(range(1, 9))
    summary = table.attrs["summary"]
    assert summary["mrr"] == pytest.approx(summary["chance_mrr"])


def test_treatments_without_synthetic_profiles_are_ranked_too():
    real, synthetic = screens()
    part = synthetic[synthetic.obs["drug"].isin(["t1", "t4"])].copy()
    table = fidelity(real, part, "drug", n_boot=0)
    assert set(table.index) == {"t1", "t4"}
    whole = fidelity(real, synthetic, "drug", n_boot=0)
    pd.testing.assert_frame_equal(table, whole.loc[table.index])


def test_other_embeddings_can_be_named():
    real, synthetic = screens()
    wanted = fidelity(real, synthetic, "drug", n_boot=0)
    for adata in (real, synthetic):
        adata.obsm["X_other"] = np.asarray(adata.X)
        adata.X = np.ones_like(adata.X)
    found = fidelity(real, synthetic, "drug", use_rep="X_other", n_boot=0)
    pd.testing.assert_frame_equal(found, wanted)


def test_labels_may_be_text_numbers_or_categories_and_rows_in_any_order():
    real, synthetic = screens(noise=1.5)
    wanted = fidelity(real, synthetic, "drug", n_boot=0)
    for adata in (real, synthetic):
        adata.obs["drug"] = adata.obs["drug"].str[1:].astype(int)
    synthetic.obs["drug"] = synthetic.obs["drug"].astype(str).astype("category")
    synthetic.obs["drug"] = synthetic.obs["drug"].cat.add_categories(["99"])
    found = fidelity(real[::-1].copy(), synthetic[::-1].copy(), "drug", n_boot=0)
    found.index = ("t" + found.index.astype(str)).rename("treatment")
    pd.testing.assert_frame_equal(found, wanted, check_index_type=False)


# -- intervals ------------------------------------------------------------------------------------


def test_no_more_draws_are_held_at_a_time_than_fit(monkeypatch):
    real, synthetic = screens(rows=200)
    held = []
    resampled = _Side.resampled

    def watched(self, rng, n):
        held.append(8 * n * max(self.counts))
        return resampled(self, rng, n)

    monkeypatch.setattr(_Side, "resampled", watched)
    monkeypatch.setattr("cellfuse.tl.synthetic.BOOT_BYTES", 1 << 14)
    table = fidelity(real, synthetic, "drug", n_boot=25)
    assert max(held) <= 1 << 14 and sum(held) == 2 * 25 * 8 * 200
    assert (table["cosine_low"] < table["cosine_high"]).all()


def test_intervals_hold_the_value_and_shrink_with_more_cells():
    spread = []
    for rows in (5, 80):
        real, synthetic = screens(rows=rows, noise=1.0)
        table = fidelity(real, synthetic, "drug", n_boot=300, seed=1)
        for name in ("specificity", "cosine", "pearson", "rank"):
            inside = table[name].between(table[f"{name}_low"] - 0.05, table[f"{name}_high"] + 0.05)
            assert inside.mean() > 0.6
        spread.append((table["cosine_high"] - table["cosine_low"]).mean())
        summary = table.attrs["summary"]
        assert summary["mrr_low"] <= summary["mrr"] <= summary["mrr_high"]
    assert spread[1] < spread[0] / 2


def test_an_interval_is_the_standard_error_of_the_centroid():
    """One synthetic row, two dimensions: the cosine's spread is that of the real mean's angle."""
    rng = np.random.default_rng(0)
    x = np.array([100.0, 0.0]) + rng.normal(size=(400, 2))
    real = profiles(np.vstack([x, [[-1.0, 0.0]]]), ["a"] * 400 + ["b"])
    table = fidelity(real, profiles([[0.0, 1.0]], "a"), "drug", n_boot=4000)
    width = table.loc["a", "cosine_high"] - table.loc["a", "cosine_low"]
    assert width == pytest.approx(2 * 1.96 * x[:, 1].std() / np.sqrt(400) / 100, rel=0.1)


def test_the_seed_says_which_rows_are_drawn():
    real, synthetic = screens()
    one, same, other = (
        fidelity(real, synthetic, "drug", n_boot=50, seed=seed) for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(one, same)
    assert not one["cosine_low"].equals(other["cosine_low"])
    assert one["cosine"].equals(other["cosine"])


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda r, s: (r, s[:, :3].copy()), ValueError, "5 features, the synthetic ones 3"),
        (lambda r, s: (r[9:].copy(), s), KeyError, "'t0' is not in .*1 synthetic treatments"),
        (lambda r, s: (r[:9].copy(), s[:9].copy()), ValueError, "at least two real treatments"),
        (lambda r, s: (r, s[:0].copy()), ValueError, "the synthetic data hold no rows"),
        (lambda r, s: (r, profiles(np.zeros((1, 5)), ["t0"])), ValueError, "no direction"),
        (lambda r, s: (r, profiles([[np.nan] * 5], ["t0"])), ValueError, "5 NaN"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, error, text):
    with pytest.raises(error, match=text):
        fidelity(*change(*screens()), "drug", n_boot=0)


def test_a_missing_column_is_named():
    with pytest.raises(KeyError, match=r"'drugs' is not in obs.*Did you mean 'drug'"):
        fidelity(*screens(), "drugs")


def test_features_in_another_order_are_refused_where_they_have_names():
    real, synthetic = screens()
    turned = synthetic[:, ::-1].copy()
    with pytest.raises(ValueError, match=r"another order.*synthetic\[:, real.var_names\]"):
        fidelity(real, turned, "drug")
    again = fidelity(real, turned[:, real.var_names].copy(), "drug", n_boot=0)
    pd.testing.assert_frame_equal(again, fidelity(real, synthetic, "drug", n_boot=0))


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_impossible_intervals_are_refused(level):
    with pytest.raises(ValueError, match="level=.*expected a share between 0 and 1"):
        fidelity(*screens(), "drug", level=level)


# -- figures --------------------------------------------------------------------------------------


def test_rank_and_specificity_are_drawn_by_treatment():
    real, synthetic = screens(noise=1.5)
    table = fidelity(real, synthetic, "drug", n_boot=20)
    axes = draw_fidelity(synthetic)
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(table.index)
    for panel, name in zip(axes, ("rank", "specificity"), strict=True):
        points = panel.containers[0][0]
        np.testing.assert_allclose(points.get_xdata().astype(float), table[name])
        bars = np.array(panel.containers[0][2][0].get_segments())[:, :, 0]
        ends = table[[name, f"{name}_low", f"{name}_high"]]
        np.testing.assert_allclose(bars, np.stack([ends.min(axis=1), ends.max(axis=1)], axis=1))
    assert axes[0].get_title(loc="left").startswith("first: ")
    few = draw_fidelity(synthetic, max_treatments=2)
    assert few[0].get_title(loc="left").startswith("best 2 of 6;")


def test_the_figure_says_what_to_run_first():
    with pytest.raises(KeyError, match="cellfuse.tl.fidelity"):
        draw_fidelity(screens()[1])
    with pytest.raises(KeyError, match="cellfuse.tl.real_vs_synthetic"):
        draw_together(screens()[1])


def joint_map() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"drug": np.tile(["a", "b", "c"], 8), "source": np.repeat(["real", "synthetic"], 12)}
    )
    obs.index = [f"r{i}" for i in range(24)]
    joint = ad.AnnData(obs=obs, obsm={"X_umap": rng.normal(size=(24, 2))})
    place = pd.DataFrame(joint.obsm["X_umap"], columns=["x", "y"], index=obs.index)
    centroids = place.groupby([obs["drug"], obs["source"]]).mean().reset_index()
    joint.uns["real_vs_synthetic"] = {"by": "drug", "best": "b", "centroids": centroids}
    return joint


def test_real_and_synthetic_are_drawn_with_their_centroids_and_the_best():
    joint = joint_map()
    ax = draw_together(joint)
    drawn = sum(len(points.get_offsets()) for points in ax.collections)
    assert drawn == 24 + 6
    (inset,) = ax.child_axes
    assert inset.get_title() == "b"
    assert sum(len(points.get_offsets()) for points in inset.collections) == 8 + 2
    assert not draw_together(joint, inset=None).child_axes
    with pytest.raises(KeyError, match="'z' is not in the treatments shown"):
        draw_together(joint, inset="z")


def test_the_treatments_shown_are_named_or_the_best():
    table = fidelity(*screens(), "drug", n_boot=0)
    best = list(table.index)
    assert _shown(table, 2) == _shown(table, np.int64(2)) == best[:2]
    assert _shown(table, "t3") == ["t3"] and _shown(table, ("t3", "t1")) == ["t3", "t1"]
    numbers = table.set_axis([name[1:] for name in best])
    assert _shown(numbers, [3, 1]) == ["3", "1"]
    with pytest.raises(KeyError, match=r"'t9' is not in the synthetic treatments"):
        _shown(table, ["t9"])


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"treatments": 0}, ValueError, "no treatment is left"),
        ({"treatments": -1}, ValueError, "no treatment is left"),
        ({"treatments": []}, ValueError, "no treatment is left"),
        ({"treatments": 1, "max_cells": 1}, ValueError, "2 rows are too few"),
        ({"max_cells": 0}, ValueError, "max_cells must be at least 1"),
        ({"by": ["drug"]}, TypeError, "names one obs column"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(given, error, text):
    with pytest.raises(error, match=text):
        real_vs_synthetic(*screens(), **{"by": "drug", **given})


@pytest.mark.slow
def test_the_joint_map_holds_the_best_treatments():
    real, synthetic = screens(rows=12, noise=0.5)
    joint = real_vs_synthetic(real, synthetic, "drug", treatments=3, max_cells=10)
    assert joint.n_obs == 3 * 2 * 10 and joint.obsm["X_umap"].shape == (60, 2)
    best = fidelity(real, synthetic, "drug", n_boot=0).index[:3]
    assert set(joint.obs["drug"]) == set(best)
    assert joint.uns["real_vs_synthetic"]["best"] == best[0]
    assert "fidelity" in synthetic.uns  # of the call above; the map leaves the data alone
    centroids = joint.uns["real_vs_synthetic"]["centroids"].set_index(["drug", "source"])
    assert len(centroids) == 6
    rows = ((joint.obs["drug"] == best[1]) & (joint.obs["source"] == "real")).to_numpy()
    wanted = joint.obsm["X_umap"][rows].mean(0)
    np.testing.assert_allclose(centroids.loc[(best[1], "real")], wanted, rtol=1e-5)
    assert {name.split("-")[0] for name in joint.obs_names[rows]} == {"real"}
    assert draw_together(joint).child_axes


# -- what is resampled together -------------------------------------------------------------------


def test_wells_are_resampled_as_their_means():
    rng = np.random.default_rng(0)
    wells = profiles(rng.normal(size=(12, 4)), np.repeat(["a", "b", "c"], 4))
    cells = profiles(np.repeat(wells.X, 5, axis=0), np.repeat(["a", "b", "c"], 20))
    cells.obs["well"] = np.repeat(np.arange(12), 5)
    synthetic = profiles(rng.normal(size=(3, 4)), ["a", "b", "c"])
    by_well = fidelity(cells, synthetic.copy(), "drug", unit_key="well", n_boot=50)
    by_mean = fidelity(wells, synthetic.copy(), "drug", n_boot=50)
    ends = [c for c in by_well if c.endswith(("_low", "_high"))]
    np.testing.assert_allclose(by_well[ends], by_mean[ends], rtol=1e-6)
    by_cell = fidelity(cells, synthetic.copy(), "drug", n_boot=50)
    narrow, wide = (t["euclidean_high"] - t["euclidean_low"] for t in (by_cell, by_well))
    assert (narrow < 0.8 * wide).all()


def test_draws_of_opposite_noise_are_resampled_in_pairs():
    rng = np.random.default_rng(0)
    centre, noise = np.repeat(3 * np.eye(3), 10, axis=0), 5 * rng.normal(size=(30, 3))
    values = np.stack([centre + noise, centre - noise], axis=1).reshape(60, 3)
    synthetic = profiles(values, np.repeat(["a", "b", "c"], 20))
    real = profiles(np.eye(3), ["a", "b", "c"])
    alone = fidelity(real, synthetic.copy(), "drug", n_boot=100)
    synthetic.obs["noise_pair"] = np.repeat(np.arange(30), 2)
    found = fidelity(real, synthetic, "drug", n_boot=100)
    np.testing.assert_allclose(found["euclidean_high"], found["euclidean"], rtol=1e-5)
    np.testing.assert_allclose(found["euclidean_low"], found["euclidean"], rtol=1e-5)
    assert (alone["euclidean_high"] > alone["euclidean"] + 0.5).all()


def test_an_absent_unit_is_named():
    real = profiles(np.eye(3), ["a", "b", "c"])
    with pytest.raises(KeyError, match="'well' is not in obs"):
        fidelity(real, real.copy(), "drug", unit_key="well")
