"""Target discovery: scikit-learn, plain loops, exact expectations, bad input."""

from __future__ import annotations

from itertools import permutations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from cellfuse.tl import discovery
from cellfuse.tl.discovery import target_discovery


def world(n_compounds=12, n_genes=40, d=6, n_doses=2, seed=0):
    rng = np.random.default_rng(seed)
    genes = ad.AnnData(rng.normal(size=(n_genes, d)))
    genes.obs_names = [f"G{i:03d}" for i in range(n_genes)]
    names = [f"c{i:02d}" for i in range(n_compounds) for _ in range(n_doses)]
    obs = pd.DataFrame(
        {"compound": names, "dose": np.tile([0.5, 3.0, 10.0][:n_doses], n_compounds)},
        index=[f"row{i}" for i in range(len(names))],
    )
    pairs = [
        (f"c{i:02d}", f"G{j:03d}")
        for i in range(n_compounds)
        for j in rng.choice(n_genes, 1 + i % 3, replace=False)
    ]
    targets = pd.DataFrame(pairs, columns=["source", "target"])
    return ad.AnnData(rng.normal(size=(len(names), d)), obs=obs), genes, targets


KEYS = {"compound_key": "compound", "dose_key": "dose"}


# -- the numbers ----------------------------------------------------------------------------------


def test_all_negatives_give_scikit_learns_figures():
    compounds, genes, targets = world()
    table = target_discovery(compounds, genes, targets, negatives="all", k=5, **KEYS)
    by_row = compounds.uns["target_discovery"]["compounds"]
    similarity = np.abs(cosine_similarity(compounds.X, genes.X))
    found = {"ap": [], "auc": [], "hit": []}
    for row, name in enumerate(compounds.obs["compound"]):
        known = genes.obs_names.isin(targets.loc[targets["source"] == name, "target"])
        found["ap"].append(average_precision_score(known, similarity[row]))
        found["auc"].append(roc_auc_score(known, similarity[row]))
        found["hit"].append(float(known[np.argsort(-similarity[row])[:5]].any()))
    dose = compounds.obs["dose"].to_numpy()
    for score, values in found.items():
        np.testing.assert_allclose(by_row[score], values, rtol=1e-9)  # rows are in this order
        assert table.loc["0.5", score] == pytest.approx(np.array(values)[dose == 0.5].mean())
        assert table.loc["mean", score] == pytest.approx(np.mean(values))
    assert table.index.tolist() == ["0.5", "3", "mean"]
    assert table["n_compounds"].tolist() == [12, 12, 12]


def test_sampled_negatives_are_the_plain_loop(monkeypatch):
    compounds, genes, targets = world(n_genes=60, seed=2)
    seen = {}
    draw = discovery.draw_negatives

    def spy(actives, *rest):
        drawn = draw(actives, *rest)
        seen.update({tuple(a): d for a, d in zip(actives.tolist(), drawn, strict=True)})
        return drawn

    monkeypatch.setattr(discovery, "draw_negatives", spy)
    target_discovery(compounds, genes, targets, n_draws=3, **KEYS)
    pool = np.unique(targets["target"])  # negatives are targets of other compounds
    similarity = np.abs(cosine_similarity(compounds.X, genes[pool].X))
    expected = {"ap": [], "auc": []}
    for row, name in enumerate(compounds.obs["compound"]):
        mine = np.flatnonzero(np.isin(pool, targets.loc[targets["source"] == name, "target"]))
        scores = []
        for others in seen[tuple(mine)]:
            assert len(np.unique(others)) == len(others) == min(20, len(pool) - len(mine))
            assert not np.isin(others, mine).any()
            label = [1] * len(mine) + [0] * len(others)
            ranked = similarity[row, np.concatenate([mine, others])]
            pair = average_precision_score(label, ranked), roc_auc_score(label, ranked)
            scores.append(pair)
        for name_, value in zip(expected, np.mean(scores, axis=0), strict=True):
            expected[name_].append(value)
    by_row = compounds.uns["target_discovery"]["compounds"]
    for score, values in expected.items():
        np.testing.assert_allclose(by_row[score], values, rtol=1e-9)


def test_every_set_of_negatives_is_equally_likely():
    rng = np.random.default_rng(0)
    drawn = discovery.draw_negatives(np.array([[1, 4]]), 6, 2, 12_000, rng)[0]
    sets, count = np.unique(np.sort(drawn, axis=1), axis=0, return_counts=True)
    assert sets.tolist() == [[0, 2], [0, 3], [0, 5], [2, 3], [2, 5], [3, 5]]
    np.testing.assert_allclose(count / 12_000, 1 / 6, atol=0.015)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=3),
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_ties_are_shared(positive, negative, k):
    """AP and AUC as scikit-learn's; Hit@k the mean over all orders of the tied."""
    label = np.array([1] * len(positive) + [0] * len(negative))
    score = np.array(positive + negative, float)
    ap, auc, hit = discovery.rank_scores(
        np.array([positive], float), np.array([[negative]], float), k
    ).ravel()
    assert ap == pytest.approx(average_precision_score(label, score))
    assert auc == pytest.approx(roc_auc_score(label, score))
    orders = [
        order
        for order in permutations(range(len(label)))
        if (np.diff(score[list(order)]) <= 0).all()
    ]
    assert hit == pytest.approx(np.mean([label[list(o)[:k]].any() for o in orders]))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_chance_is_the_mean_over_all_rankings(n_targets, n_negative, k):
    n = n_targets + n_negative
    scores = [
        discovery.rank_scores(
            np.array([order[:n_targets]], float), np.array([[order[n_targets:]]], float), k
        ).ravel()
        for order in permutations(range(n))
    ]
    np.testing.assert_allclose(
        discovery.chance_scores(n_targets, n_negative, k), np.mean(scores, axis=0), rtol=1e-9
    )


def test_the_sign_of_the_effect_does_not_matter():
    compounds, genes, targets = world()
    one = target_discovery(compounds, genes, targets, n_draws=5, **KEYS)
    compounds.X = -compounds.X
    pd.testing.assert_frame_equal(
        one, target_discovery(compounds, genes, targets, n_draws=5, **KEYS)
    )


def test_no_result_hangs_on_the_order_of_rows_nor_on_the_blocks(monkeypatch):
    compounds, genes, targets = world()
    compounds.X, genes.X = np.sign(compounds.X), np.sign(genes.X)  # ties everywhere
    one = target_discovery(compounds, genes, targets, n_draws=7, **KEYS)
    rng = np.random.default_rng(0)
    again = [x[rng.permutation(x.n_obs)].copy() for x in (compounds, genes)]
    two = target_discovery(*again, targets.sample(frac=1, random_state=0), n_draws=7, **KEYS)
    pd.testing.assert_frame_equal(one, two, rtol=1e-12)


def test_random_profiles_score_by_chance():
    compounds, genes, targets = world(n_compounds=300, n_genes=80, d=40, n_doses=1)
    table = target_discovery(compounds, genes, targets, n_draws=20, compound_key="compound")
    row = table.loc["all"]
    for score in ("ap", "auc", "hit"):
        assert row[f"{score}_low"] < row[f"{score}_chance"] < row[f"{score}_high"]
        assert row[f"{score}_high"] - row[f"{score}_low"] < 0.15


def test_a_dose_that_works_is_told_from_one_that_does_not():
    compounds, genes, targets = world(n_doses=2)
    name = targets.drop_duplicates("source").set_index("source")["target"]
    strong = (compounds.obs["dose"] == 3.0).to_numpy()
    compounds.X[strong] = -genes[name[compounds.obs["compound"][strong]]].X
    table = target_discovery(compounds, genes, targets, n_draws=5, k=1, **KEYS)
    assert table.loc["3", "hit"] == 1.0
    assert table.loc["0.5", "hit"] < 0.5
    assert table.loc["mean", "hit"] == pytest.approx(table.loc[["0.5", "3"], "hit"].mean())


# -- bad input ------------------------------------------------------------------------------------


def test_bad_input_is_named():
    compounds, genes, targets = world()
    with pytest.raises(KeyError, match="'source' is not in the columns of `targets`"):
        target_discovery(compounds, genes, targets.rename(columns={"source": "drug"}), **KEYS)
    with pytest.raises(ValueError, match=r"repeat a compound at the same dose.*tl\.aggregate"):
        target_discovery(compounds, genes, targets, compound_key="compound")
    with pytest.raises(ValueError, match="no known target joins.*compounds like 'row0'"):
        target_discovery(compounds, genes, targets)
    with pytest.raises(ValueError, match="1 genes have several profiles: 'G000'"):
        doubled = genes.copy()
        doubled.obs["gene"] = ["G000", "G000", *genes.obs_names[2:]]
        target_discovery(compounds, doubled, targets, gene_key="gene", **KEYS)
    with pytest.raises(ValueError, match="compounds have 6 features and genes 4"):
        target_discovery(compounds, genes[:, :4].copy(), targets, **KEYS)
    for wrong in ({"k": 1.5}, {"k": 0}):
        with pytest.raises(ValueError, match="expected a whole number, at least 1"):
            target_discovery(compounds, genes, targets, **wrong, **KEYS)
    with pytest.raises(TypeError, match="data frame with columns 'source'.*found dict"):
        target_discovery(compounds, genes, targets.to_dict("list"), **KEYS)
    with pytest.raises(ValueError, match="negatives='some'"):
        target_discovery(compounds, genes, targets, negatives="some", **KEYS)
    with pytest.raises(ValueError, match="targets all of the 1 genes"):
        target_discovery(compounds, genes, targets[:1], **KEYS)
    with pytest.raises(KeyError, match="'ctrl' is not in the profiles' genes"):
        target_discovery(compounds, genes, targets, control="ctrl", **KEYS)
