"""One-shot transfer and neighbours: against plain loops and scikit-learn, and bad input."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier

import cellfuse as cf
from cellfuse.tl import _nearest, transfer
from cellfuse.tl._intervals import crossed_intervals
from cellfuse.tl.transfer import knn_accuracy, one_shot_transfer


def profiles(values, label, **columns) -> ad.AnnData:
    obs = pd.DataFrame(
        {"gene": list(label), **columns}, index=[f"p{i:04d}" for i in range(len(values))]
    )
    return ad.AnnData(np.asarray(values, float), obs=obs)


def screen(n_classes=6, size=8, d=5, noise=1.5, seed=0, **columns) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    label = np.repeat([f"g{i}" for i in range(n_classes)], size)
    centre = np.repeat(rng.normal(size=(n_classes, d)), size, axis=0)
    return profiles(centre + noise * rng.normal(size=centre.shape), label, **columns)


def shuffled(adata: ad.AnnData, seed=1) -> ad.AnnData:
    return adata[np.random.default_rng(seed).permutation(adata.n_obs)].copy()


# -- one-shot transfer ----------------------------------------------------------------------------


def plain_one_shot(adata, references, k, groups=None):
    """Mean over runs and classes, by loops over profiles; no ties."""
    label, cosine = adata.obs["gene"].to_numpy(), cosine_similarity(adata.X)
    classes = np.unique(label)
    means = []
    for run in references:
        for code, name in enumerate(classes):
            hits = []
            for row in np.flatnonzero(label == name):
                own = run[code]
                if row == own or (groups is not None and groups[row] == groups[own]):
                    continue
                rivals = [r for r in run if groups is None or groups[r] != groups[row]]
                nearest = sorted(rivals, key=lambda r, row=row: -cosine[row, r])[:k]
                hits.append(own in nearest)
            if hits:
                means.append(np.mean(hits))
    return np.mean(means)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("block", [1, 1 << 23])
def test_one_shot_transfer_is_the_plain_loop(grouped, block, monkeypatch):
    monkeypatch.setattr(_nearest, "BLOCK_CELLS", block)  # one block, or many
    well = [f"w{i % 3}" for i in range(6 * 14)]
    adata = screen(size=14, well=well)
    columns = {"use_rep": None, "by": "gene", "n_draws": 4, "seed": 3}
    table = one_shot_transfer(adata, k=(1, 3), group_key="well" if grouped else None, **columns)
    read = transfer._read(adata, None, "gene", None, None)
    references = read.rows[_nearest.draw_references(read, 4, 3)]
    for k in (1, 3):
        expected = plain_one_shot(adata, references, k, well if grouped else None)
        assert table.loc[k, "accuracy"] == pytest.approx(expected)
    if not grouped:
        assert table["chance"].tolist() == pytest.approx([1 / 6, 3 / 6])
    by_class = adata.uns["one_shot_transfer"]["classes"]
    assert by_class["top_1"].mean() == pytest.approx(table.loc[1, "accuracy"])


def test_references_are_drawn_evenly_and_one_of_each_class():
    read = transfer._read(screen(n_classes=3, size=4), None, "gene", None, None)
    drawn = _nearest.draw_references(read, 4000, 0)
    assert (read.codes[drawn] == np.arange(3)).all()
    share = np.bincount(drawn.ravel(), minlength=12) / 4000
    np.testing.assert_allclose(share, 0.25, atol=0.04)


def test_ties_share_the_places():
    # Every profile is the same: each of four references is as near as the others.
    adata = profiles(np.ones((8, 3)), "AABBCCDD")
    table = one_shot_transfer(adata, use_rep=None, by="gene", k=(1, 2, 4), n_draws=3)
    assert table["accuracy"].tolist() == pytest.approx([0.25, 0.5, 1.0])


@pytest.mark.parametrize("verb", [one_shot_transfer, knn_accuracy])
def test_the_order_of_the_rows_does_not_matter(verb):
    rng = np.random.default_rng(0)
    values = rng.integers(-1, 2, (60, 3)) + [[0.0, 0.0, 3.0]]  # many profiles are alike
    adata = profiles(values, rng.choice(list("ABCD"), 60))
    one = verb(adata, use_rep=None, by="gene", k=3)
    for seed in range(3):
        two = verb(shuffled(adata, seed), use_rep=None, by="gene", k=3)
        pd.testing.assert_frame_equal(one, two, rtol=1e-12)


def test_repeated_names_leave_no_result_to_the_order_of_the_rows():
    adata = screen(n_classes=4, size=6)
    adata.obs_names = ["cell"] * adata.n_obs
    one = one_shot_transfer(adata, use_rep=None, by="gene", n_draws=5)
    for seed in range(3):
        other = shuffled(screen(n_classes=4, size=6), seed)
        other.obs_names = ["cell"] * other.n_obs
        two = one_shot_transfer(other, use_rep=None, by="gene", n_draws=5)
        pd.testing.assert_frame_equal(one, two, rtol=1e-12)


@pytest.mark.parametrize("k", [1.5, 0, "5", [], True, np.nan, [1, 2.5]])
@pytest.mark.parametrize("verb", [one_shot_transfer, knn_accuracy])
def test_numbers_of_neighbours_are_whole(verb, k):
    with pytest.raises(ValueError, match="expected a whole number, at least 1"):
        verb(screen(), use_rep=None, by="gene", k=k)


def test_random_profiles_are_found_by_chance():
    table = one_shot_transfer(screen(20, 20, noise=1e3), use_rep=None, by="gene", k=(1, 5))
    np.testing.assert_allclose(table["accuracy"], table["chance"], atol=0.03)
    inside = (table["accuracy_low"] < table["chance"]) & (table["chance"] < table["accuracy_high"])
    assert inside.all()


def test_plates_mislead_and_their_references_can_be_left_out():
    """No class effect, a plate effect, each class once per plate: below chance, unless grouped."""
    rng = np.random.default_rng(0)
    plate = np.tile(np.arange(4), 40)
    values = 3 * rng.normal(size=(4, 6))[plate] + rng.normal(size=(160, 6))
    adata = profiles(values, np.repeat([f"g{i:02d}" for i in range(40)], 4), plate=plate)
    free = one_shot_transfer(adata, use_rep=None, by="gene", k=5)
    apart = one_shot_transfer(adata, use_rep=None, by="gene", k=5, group_key="plate")
    assert free.loc[5, "accuracy_high"] < free.loc[5, "chance"]
    assert apart.loc[5, "accuracy_low"] < apart.loc[5, "chance"] < apart.loc[5, "accuracy_high"]
    assert apart.loc[5, "chance"] == pytest.approx(5 / 30, abs=0.01)


def test_classes_count_alike_and_single_ones_are_references_only():
    x = [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    x[0], x[1] = [1, 0.5, 0], [0, 0.1, 1]  # one of A's profiles lies at B's, one at C's
    adata = profiles(x, "AABBBBC")
    table = one_shot_transfer(adata, use_rep=None, by="gene", k=1, n_draws=50)
    assert table.loc[1, "accuracy"] == pytest.approx(0.5)  # A never, B always, C is not asked
    assert table.loc[1, "n_classes"] == 3
    assert np.isnan(adata.uns["one_shot_transfer"]["classes"].loc["C", "top_1"])


def test_controls_are_left_out_and_may_lack_a_label():
    adata = screen(3, 4)
    adata.obs.iloc[0, 0] = "ctrl"
    table = one_shot_transfer(adata, use_rep=None, by="gene", control="ctrl")
    assert table["n_classes"].tolist() == [3, 3]
    assert table.loc[1, "n_queries"] == 11 - 3


def test_the_interval_covers_both_factors():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        values = rng.normal(size=(1, 1, 40)) + rng.normal(size=(1, 20, 1)) / 4
        low, high = crossed_intervals(values, n_boot=200, seed=seed)[0]
        covered += low < 0 < high
    assert 0.88 <= covered / 200 <= 1
    assert np.isnan(crossed_intervals(np.ones((1, 2, 2)), n_boot=0, seed=0)).all()
    with_gaps = np.array([[[1.0, np.nan], [1.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]])
    ends = crossed_intervals(with_gaps, n_boot=500, seed=0)
    assert ends.tolist() == [[1.0, 3.0], [1.0, 1.0]]


# -- neighbours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 1 << 23])
def test_the_vote_is_scikit_learns(block, monkeypatch):
    monkeypatch.setattr(_nearest, "BLOCK_CELLS", block)
    adata = screen(2, 60, noise=3.0)  # two classes and odd k: no vote is tied
    adata.obs["split"] = np.where(np.arange(120) % 3 == 0, "test", "train")
    table = knn_accuracy(adata, use_rep=None, by="gene", k=7, split_key="split")
    train, test = (adata[adata.obs["split"] == s] for s in ("train", "test"))
    peer = KNeighborsClassifier(7, metric="cosine").fit(train.X, train.obs["gene"])
    expected = balanced_accuracy_score(test.obs["gene"], peer.predict(test.X))
    assert table.loc[7, "accuracy"] == pytest.approx(expected)
    assert table.loc[7, "n_queries"] == 40


def test_without_a_split_nobody_votes_for_itself():
    adata = profiles([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], "ABAB")
    table = knn_accuracy(adata, use_rep=None, by="gene", k=1)
    assert table.loc[1, "accuracy"] == 0.0


def test_tied_votes_and_tied_neighbours_are_shared():
    x = [[1, 0], [1, 0], [1, 0], [0, 1], [0, 1]]
    # k = 2 of A: neighbours are the other A and B (at the same place): one vote each.
    table = knn_accuracy(profiles(x, "AABCC"), use_rep=None, by="gene", k=2)
    # A: half; B: both neighbours are A, nothing; C: one C and a third of each of the others,
    # so A's two share 2/3, which is less than C's vote of 1.
    assert table.loc[2, "accuracy"] == pytest.approx((0.5 + 0 + 1) / 3)


def test_neighbours_of_the_own_group_do_not_count():
    well = ["w1", "w1", "w2", "w2"]
    adata = profiles([[1, 0], [1, 0.01], [1, 0.02], [1, 0.03]], "AABA", well=well)
    free = knn_accuracy(adata, use_rep=None, by="gene", k=1)
    apart = knn_accuracy(adata, use_rep=None, by="gene", k=1, group_key="well")
    assert free.loc[1, "accuracy"] > 0
    assert apart.loc[1, "accuracy"] == pytest.approx(1 / 6)  # only the last A finds an A
    adata.obs["well"] = "w"
    with pytest.raises(ValueError, match="no profile has a neighbour in another group of 'well'"):
        knn_accuracy(adata, use_rep=None, by="gene", k=1, group_key="well")


# -- bad input ------------------------------------------------------------------------------------


def test_decisions_are_kept_with_their_ties_and_both_accuracies():
    """Three of A, one of B that looks like A, and one of C that stands between A and C."""
    angle = np.array([0.0, 1.0, 2.0, 1.5, 40.0, 90.0, 91.0])
    x = np.stack([np.cos(np.radians(angle)), np.sin(np.radians(angle))], axis=1)
    obs = pd.DataFrame({"gene": list("AAABBCC")}, index=[f"p{i}" for i in range(7)])
    profiles = ad.AnnData(x, obs=obs)
    table = knn_accuracy(profiles, use_rep=None, by="gene", k=1).iloc[0]
    kept = profiles.uns["knn_accuracy"]
    made = kept["predictions"]
    assert made["label"].to_dict() == obs["gene"].to_dict()
    assert made["credit"].mean() == pytest.approx(table["accuracy_micro"])
    macro = made.groupby("label")["credit"].mean()
    assert macro.mean() == pytest.approx(table["accuracy"]) and table["accuracy"] < 0.9
    assert table["accuracy_micro_low"] <= table["accuracy_micro"] <= table["accuracy_micro_high"]
    counts = kept["confusion"].set_index(["label", "predicted"])["n"]
    assert counts.sum() == 7 and counts["B", "A"] == 2 and counts["C", "C"] == 2
    certain = made["n_tied"] == 1
    right = (made["label"] == made["predicted"].astype(object))[certain]
    assert (right == (made["credit"][certain] == 1)).all()


def test_tied_classes_share_a_decision_in_the_confusion():
    x = np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    obs = pd.DataFrame({"gene": list("ABC")}, index=list("xyz"))
    profiles = ad.AnnData(x, obs=obs)
    knn_accuracy(profiles, use_rep=None, by="gene", k=2)
    made = profiles.uns["knn_accuracy"]["predictions"]
    assert made["n_tied"].tolist() == [2, 2, 2] and made["predicted"].tolist() == ["B", "A", "A"]
    counts = profiles.uns["knn_accuracy"]["confusion"]
    assert (counts["n"] == 0.5).all() and len(counts) == 6
    assert [t.get_text() for t in cf.pl.confusion(profiles).get_xticklabels()] == list("ABC")
    plt.close("all")


def test_a_neighbour_differs_in_every_column_of_the_group():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "moa": np.repeat(list("xyz"), 8),
            "compound": np.repeat([f"c{i}" for i in range(6)], 4),
            "batch": np.tile(["1", "2"], 12),
        },
        index=[f"r{i}" for i in range(24)],
    )
    wells = ad.AnnData(rng.normal(size=(24, 6)), obs=obs)
    knn_accuracy(wells, use_rep=None, by="moa", k=1, group_key=["compound", "batch"])
    made = wells.uns["knn_accuracy"]["predictions"]
    compound, batch = obs["compound"].to_numpy(), obs["batch"].to_numpy()
    units = wells.X / np.linalg.norm(wells.X, axis=1, keepdims=True)
    cosine = units @ units.T
    cosine[(compound[:, None] == compound) | (batch[:, None] == batch)] = -9
    nearest = obs["moa"].to_numpy()[cosine.argmax(axis=1)]
    assert made.loc[obs.index, "predicted"].astype(str).tolist() == nearest.tolist()


def test_bad_input_is_named():
    adata = screen(3, 3)
    with pytest.raises(KeyError, match="'gen' is not in obs.*'gene'"):
        one_shot_transfer(adata, use_rep=None, by="gen")
    with pytest.raises(KeyError, match="'X_tide' is not in obsm"):
        one_shot_transfer(adata, use_rep="X_tide", by="gene")
    with pytest.raises(ValueError, match="k=0: expected a whole number, at least 1"):
        one_shot_transfer(adata, use_rep=None, by="gene", k=0)
    with pytest.raises(ValueError, match="has a second profile"):
        one_shot_transfer(adata[::3].copy(), use_rep=None, by="gene")
    with pytest.raises(ValueError, match="holds one class"):
        one_shot_transfer(adata[:3].copy(), use_rep=None, by="gene")
    with pytest.raises(KeyError, match="'held_out' is not in"):
        adata.obs["split"] = "train"
        knn_accuracy(adata, use_rep=None, by="gene", split_key="split", test="held_out")
    broken = adata.copy()
    broken.X[4] = 0
    with pytest.raises(ValueError, match=r"all zeros and have no direction: 'p0004'"):
        one_shot_transfer(broken, use_rep=None, by="gene")
    broken.X[4, 0] = np.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        knn_accuracy(broken, use_rep=None, by="gene")
