"""Mean average precision: rankings by hand and plainly, ties, the null, and who is compared."""

from __future__ import annotations

from itertools import permutations
from math import comb

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp
from sklearn.metrics import average_precision_score

from cellfuse.kernels.joint_null import joint_precision
from cellfuse.kernels.precision import (
    _choose,
    _choose_few,
    all_precisions,
    average_precision,
    chance_precision,
    null_precision,
)
from cellfuse.tl.precision import mean_average_precision


def wells(n_groups: int = 12, size: int = 4, *, effect: float = 1.0, seed: int = 0) -> ad.AnnData:
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(n_groups), size)
    x = effect * rng.normal(size=(n_groups, 6))[group] + rng.normal(size=(len(group), 6))
    obs = pd.DataFrame(
        {
            "compound": [f"c{g:02d}" for g in group],
            "plate": [f"p{i % 2}" for i in range(len(group))],
        },
        index=[f"w{i}" for i in range(len(group))],
    )
    obs.loc[obs["compound"] == "c00", "compound"] = "DMSO"
    return ad.AnnData(x, obs=obs)


def plain(adata: ad.AnnData, query: int, negative: np.ndarray) -> float:
    """scikit-learn's average precision of one query."""
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    same = (adata.obs["compound"] == adata.obs["compound"].iloc[query]).to_numpy(copy=True)
    same[query] = False
    rows = np.flatnonzero(same | negative)
    return average_precision_score(same[rows], x[rows] @ x[query])


# -- one ranking ----------------------------------------------------------------------------------


def test_a_ranking_by_hand():
    # + - - +: precision 1 at the first positive, 2/4 at the second.
    assert average_precision(np.array([0, 2]), np.array([0, 0])) == pytest.approx(0.75)


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_ties_are_the_mean_over_all_orders(positive, negative):
    score = np.array(positive + negative)
    real = np.arange(len(score)) < len(positive)
    total = []
    for order in permutations(range(len(score))):
        ranked = np.array(sorted(order, key=lambda i: -score[i]))  # stable: ties as permuted
        hit = real[ranked]
        total.append(np.mean(np.cumsum(hit)[hit] / (np.flatnonzero(hit) + 1)))
    own = np.sort(score[real])[::-1]
    above = np.array([(score[~real] > s).sum() for s in own])
    tied = np.array([(score[~real] == s).sum() for s in own])
    assert average_precision(above, tied) == pytest.approx(np.mean(total))


# -- the null -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 5), (4, 5), (3, 30), (25, 30)])
def test_the_null_has_the_expected_mean(k, n):
    null = null_precision(k, n, n_null=20_000, seed=0)
    chance = chance_precision(np.array([k]), np.array([n]))[0]
    assert null.mean() == pytest.approx(chance, abs=4 * null.std() / np.sqrt(20_000) + 1e-12)


@pytest.mark.parametrize("choose", [_choose, _choose_few])
@pytest.mark.parametrize(("k", "n"), [(2, 5), (3, 5)])
def test_every_subset_is_equally_likely(k, n, choose):
    drawn = choose(20_000, k, n, np.random.default_rng(0))
    assert drawn.shape == (20_000, k) and (np.diff(drawn, axis=1) > 0).all()
    _, count = np.unique((1 << drawn).sum(axis=1), return_counts=True)
    assert len(count) == comb(n, k)
    assert np.abs(count / 20_000 - 1 / comb(n, k)).max() < 0.012


def test_few_and_many_are_chosen_alike():
    few, many = (choose(50, 9, 40, np.random.default_rng(1)) for choose in (_choose_few, _choose))
    np.testing.assert_array_equal(few, many)


def test_the_null_of_given_sizes_depends_on_nothing_else():
    first = null_precision(3, 20, n_null=500, seed=7)
    null_precision(2, 9, n_null=500, seed=7)
    np.testing.assert_array_equal(first, null_precision(3, 20, n_null=500, seed=7))
    assert not np.array_equal(first, null_precision(3, 20, n_null=500, seed=8))


def test_a_groups_null_is_the_mean_over_its_profiles():
    """Two wells beside five controls, one beside nine: the first null counts twice."""
    rng = np.random.default_rng(1)
    compound = ["a", "a", *["DMSO"] * 5, "a", *["DMSO"] * 9]
    obs = pd.DataFrame({"compound": compound, "plate": ["p0"] * 7 + ["p1"] * 10})
    obs.index = [f"w{i}" for i in range(len(obs))]
    found = mean_average_precision(
        ad.AnnData(rng.normal(size=(17, 3)), obs=obs),
        by="compound",
        negatives_by="plate",
        control="DMSO",
        null="comonotone",
        n_null=2000,
        seed=4,
    ).loc["a"]
    # At the same quantile: the wells see one another, and are not independent.
    small, large = (np.sort(null_precision(2, n, n_null=2000, seed=4)) for n in (7, 11))
    extreme = ((2 * small + large) / 3 >= found["map"] - 1e-9).sum()
    assert found["pvalue"] == pytest.approx((extreme + 1) / 2001)
    assert 0.05 < found["pvalue"] < 0.95


def test_p_values_of_noise_are_uniform_and_never_too_small():
    table = mean_average_precision(wells(200, 3, effect=0), by="compound", n_null=2000)
    for level in (0.01, 0.05, 0.2):
        assert (table["pvalue"] <= level).mean() < level + 3 * np.sqrt(level / 200) + 0.01


def noise_on_unequal_plates(seed):
    """Ten groups of four wells, each on a plate with another number of controls."""
    compound = [f"c{g}" for g in range(10) for _ in range(4)]
    plate = [f"p{k}" for _ in range(10) for k in range(4)]
    for k, n in enumerate((6, 9, 12, 15)):
        compound += ["DMSO"] * n
        plate += [f"p{k}"] * n
    obs = pd.DataFrame({"compound": compound, "plate": plate}, index=map(str, range(len(plate))))
    return ad.AnnData(np.random.default_rng(seed).normal(size=(len(obs), 8)), obs=obs)


@pytest.mark.parametrize(
    ("null", "least", "most"),
    [("joint", 0.03, 0.07), ("copairs", 0.07, 0.14), ("comonotone", 0, 0.02)],
)
def test_of_noise_on_unequal_plates_the_joint_null_calls_what_it_should(null, least, most):
    found = [
        mean_average_precision(
            noise_on_unequal_plates(s),
            by="compound",
            negatives_by="plate",
            control="DMSO",
            null=null,
            n_null=500,
            n_boot=0,
        )["pvalue"]
        for s in range(40)
    ]
    assert least <= (np.concatenate(found) < 0.05).mean() <= most


def test_the_joint_null_counts_shared_similarities_once():
    """Two profiles and one negative each: three numbers, of which the pair's is the largest."""
    x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    adata = ad.AnnData(x, obs=pd.DataFrame({"c": ["a", "a", "b"]}, index=list("xyz")))
    chances = {"joint": 1 / 3, "copairs": 1 / 2, "comonotone": 1 / 2}
    for null, chance in chances.items():
        table = mean_average_precision(adata, by="c", null=null, n_boot=0)
        assert table.loc["a", "map"] == 1
        assert table.loc["a", "pvalue"] == pytest.approx(chance, abs=0.015)


@pytest.mark.parametrize("blocks", [1, 1 << 24])
def test_the_joint_null_is_that_of_random_similarities(blocks, monkeypatch):
    monkeypatch.setattr("cellfuse.kernels.joint_null.BLOCK_BYTES", blocks * 1000)
    rng = np.random.default_rng(0)
    n_negative = np.array([3, 5, 2, 4])
    paired = ~np.eye(4, dtype=bool)
    paired[0, 1] = paired[1, 0] = False  # two wells of one plate
    plain = []
    for _ in range(4000):
        own = np.triu(rng.random((4, 4)), 1)
        own += own.T
        precision = []
        for i, n in enumerate(n_negative):
            positive = -np.sort(-own[i, paired[i]])
            above = (rng.random(n) > positive[:, None]).sum(axis=1)
            order = np.arange(1, len(positive) + 1)
            precision.append(np.mean(order / (order + above)))
        plain.append(np.mean(precision))
    drawn = joint_precision(n_negative, paired, tested=np.ones(4, dtype=bool), n_null=4000, seed=1)
    assert ks_2samp(plain, drawn).pvalue > 0.01


def test_few_rankings_are_counted_and_not_drawn():
    """Two positives and six controls: 28 rankings, so that p stands in steps of 1 / 28."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"c": ["a"] * 3 + ["b"] * 3 + ["DMSO"] * 6}, index=map(str, range(12)))
    adata = ad.AnnData(rng.normal(size=(12, 4)), obs=obs)
    given = {"by": "c", "control": "DMSO", "n_boot": 0}
    profiles = mean_average_precision(adata, **given, per_profile=True, n_null=28)
    every = all_precisions(2, 8, most=28)
    assert len(every) == 28 and all_precisions(2, 8, most=27) is None
    for precision, p in profiles[["precision", "pvalue"]].to_numpy():
        assert p == pytest.approx(np.mean(every >= precision - 1e-9)) and 28 * p >= 1
    drawn = mean_average_precision(adata, **given, per_profile=True, n_null=27)
    assert not np.allclose(profiles["pvalue"], drawn["pvalue"])
    groups = mean_average_precision(adata, **given, null="comonotone")
    steps = 28 * groups["pvalue"].to_numpy()
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-9)


def test_an_unknown_null_is_refused():
    with pytest.raises(ValueError, match="'joint', 'comonotone', 'copairs'"):
        mean_average_precision(wells(), by="compound", null="uniform")


# -- the score ------------------------------------------------------------------------------------


def test_against_all_others_it_is_scikit_learns():
    adata = wells()
    found = mean_average_precision(adata, by="compound", per_profile=True)
    labels = adata.obs["compound"].to_numpy()
    expected = [plain(adata, i, labels != labels[i]) for i in range(adata.n_obs)]
    np.testing.assert_allclose(found["precision"], expected)
    table = mean_average_precision(adata, by="compound")
    np.testing.assert_allclose(table["map"], pd.Series(expected).groupby(labels).mean())


def test_against_the_controls_of_the_plate():
    adata = wells()
    found = mean_average_precision(
        adata,
        by="compound",
        negatives_by="plate",
        control="DMSO",
        per_profile=True,
    )
    control = (adata.obs["compound"] == "DMSO").to_numpy()
    plate = adata.obs["plate"].to_numpy()
    expected = [plain(adata, i, control & (plate == plate[i])) for i in np.flatnonzero(~control)]
    np.testing.assert_allclose(found["precision"], expected)
    assert "DMSO" not in set(found["group"]) and (found["n_negatives"] == 2).all()


def test_positives_of_other_plates_only():
    adata = wells()
    found = mean_average_precision(adata, by="compound", positives_across="plate", per_profile=True)
    assert (found["n_positives"] == 2).all()
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    labels, plate = adata.obs["compound"].to_numpy(), adata.obs["plate"].to_numpy()
    rows = np.flatnonzero((labels != labels[0]) | (plate != plate[0]))
    expected = average_precision_score(labels[rows] == labels[0], x[rows] @ x[0])
    assert found["precision"].iloc[0] == pytest.approx(expected)


def test_positives_differ_in_every_column_of_several():
    adata = wells()
    adata.obs["well"] = ["A1", "A2", "A1", "A2"] * 12
    adata.obs["plate"] = ["p1", "p1", "p2", "p2"] * 12
    given = {"by": "compound", "per_profile": True}
    found = mean_average_precision(adata, positives_across=["plate", "well"], **given)
    assert (found["n_positives"] == 1).all()
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    others = np.r_[3, 4:48]  # of the first well's four, the one that differs in both
    expected = average_precision_score(np.arange(45) == 0, x[others] @ x[0])
    assert found["precision"].iloc[0] == pytest.approx(expected)
    one = mean_average_precision(adata, positives_across=["plate"], **given)
    assert (one["n_positives"] == 2).all()


@pytest.mark.parametrize("by", ["compound", ["plate", "compound"]])
def test_what_positives_share_cannot_differ(by):
    with pytest.raises(ValueError, match="positives share 'compound'"):
        mean_average_precision(wells(), by=by, positives_across=["compound", "plate"])


def several_targets(seed=0):
    rng = np.random.default_rng(seed)
    targets = ["A", "A|B", "B", "B|C", "C", "A|C", "D", "D|A", " E ", "E|E"]
    obs = pd.DataFrame({"target": targets}, index=[f"p{i}" for i in range(10)])
    return ad.AnnData(rng.normal(size=(10, 6)), obs=obs)


def test_a_profile_with_several_labels_is_asked_for_each_of_them():
    adata = several_targets()
    found = mean_average_precision(adata, by="target", sep="|", per_profile=True)
    sets = [set(t.replace(" ", "").split("|")) for t in adata.obs["target"]]
    assert len(found) == sum(map(len, sets))
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    for name, row in found.iterrows():
        i = adata.obs_names.get_loc(name)
        positive = np.array([row["group"] in s for s in sets])
        apart = np.array([not s & sets[i] for s in sets])
        ranked = np.flatnonzero((positive | apart) & (np.arange(10) != i))
        expected = average_precision_score(positive[ranked], x[ranked] @ x[i])
        assert row["precision"] == pytest.approx(expected)
        assert (row["n_positives"], row["n_negatives"]) == (
            positive[ranked].sum(),
            (~positive[ranked]).sum(),
        )
    groups = mean_average_precision(adata, by="target", sep="|", n_boot=0)
    assert groups.loc["A", "map"] == pytest.approx(found[found["group"] == "A"]["precision"].mean())
    assert groups.loc["E", "n"] == 2


def test_controls_are_negatives_of_profiles_with_several_labels():
    adata = several_targets()
    adata.obs["target"] = [*adata.obs["target"][:7], "DMSO|x", "DMSO|x", "DMSO|x"]
    found = mean_average_precision(adata, by="target", sep="|", control="DMSO|x", per_profile=True)
    assert (found["n_negatives"] == 3).all() and "DMSO" not in set(found["group"])
    assert found[found["group"] == "A"].index.tolist() == ["p0", "p1", "p5"]
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    ranked = [1, 5, 7, 8, 9]
    expected = average_precision_score([1, 1, 0, 0, 0], x[ranked] @ x[0])
    assert found["precision"].iloc[0] == pytest.approx(expected)


def test_labels_are_split_only_where_that_is_asked_for():
    adata = several_targets()
    adata.obs["target"] = [*adata.obs["target"][:8], "A|B", "A|B"]
    whole = mean_average_precision(adata, by="target", n_boot=0)
    assert whole.loc["A|B", "n"] == 3
    with pytest.raises(ValueError, match="one column"):
        mean_average_precision(adata, by=["target", "target"], sep="|")
    with pytest.raises(ValueError, match="sep=''"):
        mean_average_precision(adata, by="target", sep="")


def test_many_positives_go_the_other_way_to_the_same_numbers(monkeypatch):
    arguments = {"by": "compound", "per_profile": True}
    few = mean_average_precision(wells(), **arguments)
    monkeypatch.setattr("cellfuse.kernels.precision.FEW", 0)
    monkeypatch.setattr("cellfuse.kernels.precision.BLOCK_BYTES", 1)
    pd.testing.assert_frame_equal(mean_average_precision(wells(), **arguments), few)


@pytest.mark.parametrize("across", [None, "plate"])
@pytest.mark.parametrize("within", [None, "plate"])
def test_large_groups_are_cut_and_compared_one_by_one(monkeypatch, across, within):
    arguments = {
        "by": "compound",
        "per_profile": True,
        "positives_across": across,
        "negatives_by": within,
    }
    data = wells()
    data.obs.loc[data.obs["compound"] == "c03", "compound"] = "c04"  # groups of 4 and of 8
    data.obs.loc["w47", "compound"] = "alone"
    together = mean_average_precision(data, **arguments)
    monkeypatch.setattr("cellfuse.kernels.precision.SMALL_GROUP", 1)
    monkeypatch.setattr("cellfuse.kernels.precision.BLOCK_QUERIES", 3)
    pd.testing.assert_frame_equal(mean_average_precision(data, **arguments), together)


@pytest.mark.parametrize("reverse", [False, True])
def test_ties_and_the_order_of_the_rows(reverse):
    adata = wells()
    adata.X[4:40] = adata.X[4]  # nine compounds that cannot be told apart
    turned = (
        adata[::-1].copy() if reverse else adata[np.random.default_rng(0).permutation(48)].copy()
    )
    arguments = {"by": "compound", "seed": 3}
    first = mean_average_precision(adata, **arguments)
    again = mean_average_precision(turned, **arguments)
    pd.testing.assert_frame_equal(first, again)
    # All tied but the twelve wells of three compounds: chance among 36, after whatever is above.
    assert first["map"].iloc[1:10].nunique() == 1


def test_a_collapsed_embedding_gets_chance():
    adata = wells()
    adata.X[:] = 1
    table = mean_average_precision(adata, by="compound")
    np.testing.assert_allclose(table["map"], table["chance"])


def test_a_matrix_of_similarities_gives_the_same():
    adata = wells()
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    adata.obsp["cosine"] = x @ x.T
    pd.testing.assert_frame_equal(
        mean_average_precision(adata, by="compound", use_sim="cosine"),
        mean_average_precision(adata, by="compound"),
    )


def test_a_group_of_one_is_not_tested():
    adata = wells()[:-3].copy()
    table = mean_average_precision(adata, by="compound", n_boot=100)
    assert table["n"].iloc[-1] == 0 and table[["map", "pvalue", "qvalue"]].iloc[-1].isna().all()
    assert not table["significant"].iloc[-1]
    assert table.attrs["mean_map_low"] < table.attrs["mean_map"] < table.attrs["mean_map_high"]
    assert adata.uns["mean_average_precision"]["params"]["mean_map"] == table.attrs["mean_map"]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"by": "compund"}, KeyError, "Did you mean 'compound'"),
        ({"control": "DMS"}, KeyError, "Did you mean 'DMSO'"),
        ({"control_key": "plate"}, ValueError, "without `control`"),
        ({"n_null": 0}, ValueError, "n_null=0"),
        ({"by": ["compound", "plate", "well"]}, ValueError, "each of the 48 groups"),
        ({"control": "DMSO", "negatives_by": "well"}, ValueError, "44 of 48 groups .* no control"),
        ({"use_sim": "cosine"}, KeyError, "'cosine' is not in obsp"),
        ({"by": "all"}, ValueError, "has a negative"),
    ],
    ids=["key", "control", "control_key", "n_null", "single", "stratum", "use_sim", "one"],
)
def test_bad_input_is_named(change, error, text):
    adata = wells()
    adata.obs["well"] = adata.obs_names
    adata.obs["all"] = "x"
    with pytest.raises(error, match=text):
        mean_average_precision(adata, **{"by": "compound", **change})


def test_a_number_of_rankings_may_be_written_as_1e2_and_is_whole():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(size=(12, 4)).astype(np.float32))
    adata.obs["gene"] = np.tile(["a", "b", "c"], 4)
    found = [mean_average_precision(adata, by="gene", n_null=n, n_boot=10) for n in (100, 1e2)]
    pd.testing.assert_frame_equal(*found)
    with pytest.raises(ValueError, match="n_null=0.5: expected a whole number"):
        mean_average_precision(adata, by="gene", n_null=0.5)
