"""Kernels: numbers against numpy, scikit-learn and hand-worked cases."""

from __future__ import annotations

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import iqr, median_abs_deviation, ortho_group
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc

from cellfuse.kernels import nulls
from cellfuse.kernels.chunks import in_threads, n_threads, row_blocks
from cellfuse.kernels.cosine import mean_pairwise_cosine, unit_rows
from cellfuse.kernels.groups import group_means, group_medians, group_rows
from cellfuse.kernels.robust import center_scale, grouped_location_scale, location_scale
from cellfuse.kernels.roc import area_under, bootstrap_roc, roc_curve, thin_curve, tpr_at
from cellfuse.kernels.whitening import (
    apply_whitening,
    fit_whitening,
    mean_and_covariance,
    pooled_covariance,
)

# -- blocks and groups ----------------------------------------------------------------------------


def test_row_blocks_cover_every_row_once():
    rows = np.concatenate(
        [np.arange(b.start, b.stop) for b in row_blocks(1003, 7, block_bytes=999)]
    )
    assert rows.tolist() == list(range(1003))


def test_in_threads_keeps_the_order_of_the_jobs():
    assert in_threads(lambda i: i * i, range(50)) == [i * i for i in range(50)]


def test_group_rows_leaves_out_negative_codes():
    rows = group_rows(np.array([1, -1, 0, 1]), 3)
    assert [r.tolist() for r in rows] == [[2], [0, 3], []]


@pytest.mark.parametrize(
    ("function", "reference"), [(group_means, np.mean), (group_medians, np.median)]
)
@pytest.mark.parametrize("sparse", [False, True])
def test_group_statistics_match_numpy(function, reference, sparse):
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    values = rng.poisson(0.5, (300, 5)).astype(np.float32)
    codes = rng.integers(-1, 6, 300)
    got = function(csr_matrix(values) if sparse else values, codes, 7)
    expected = [reference(values[codes == g], axis=0) for g in range(6)]
    np.testing.assert_allclose(got[:6], expected, rtol=1e-6)
    assert np.isnan(got[6]).all()


# -- robust scaling -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4, 10, 101])
@pytest.mark.parametrize("scale", ["iqr", "mad"])
def test_location_and_spread_match_scipy(n, scale):
    values = np.random.default_rng(n).normal(3, 2, (n, 6))
    location, spread = location_scale(values, scale=scale)
    np.testing.assert_allclose(location, np.median(values, axis=0))
    expected = (
        iqr(values, axis=0) if scale == "iqr" else 1.4826 * median_abs_deviation(values, axis=0)
    )
    np.testing.assert_allclose(spread, expected, atol=1e-12)


def test_columns_are_sorted_a_few_at_a_time_and_groups_that_lie_together_are_not_copied(
    monkeypatch,
):
    values = np.random.default_rng(0).normal(3, 2, (20_000, 256)).astype(np.float32)
    expected = location_scale(values, scale="mad")
    monkeypatch.setattr("cellfuse.kernels.robust.SORTED_BYTES", 1 << 20)
    tracemalloc.start()
    found = grouped_location_scale(values, [slice(0, 20_000)], scale="mad")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-12)
    # A thread holds some columns, their deviations and a transposed copy; never a second matrix.
    assert peak < 3 * n_threads() * (1 << 20) < 2 * values.nbytes


def test_spread_within_rounding_counts_as_zero():
    values = np.full((9, 1), 1.0, dtype=np.float32)
    values[::2] = np.nextafter(np.float32(1), np.float32(2))
    assert location_scale(values)[1].tolist() == [0.0]


def test_unknown_scale_names_the_choices():
    with pytest.raises(ValueError, match="'iqr', 'mad'"):
        location_scale(np.ones((2, 1)), scale="sd")


def test_center_scale_leaves_flat_columns_unscaled():
    values = np.array([[1.0, 5.0], [3.0, 7.0]])
    out = center_scale(
        values,
        np.array([0, 1]),
        np.array([[1.0, 4.0], [1.0, 4.0]]),
        np.array([[2.0, 0.0], [2.0, 0.5]]),
        out=values,
    )
    assert out.tolist() == [[0.0, 1.0], [1.0, 6.0]]


# -- whitening ------------------------------------------------------------------------------------


def correlated(n=400, d=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10 * rng.normal(size=d)


def whitened(values, **kwargs):
    (mean,), covariance = pooled_covariance([(values, None)])
    fit = fit_whitening(covariance, **kwargs)
    return apply_whitening(values, mean, fit.matrix, out=np.empty_like(values))


def test_covariance_matches_numpy_despite_a_large_offset():
    values = correlated() + 1e6
    mean, covariance = mean_and_covariance(values)
    np.testing.assert_allclose(mean, values.mean(axis=0))
    np.testing.assert_allclose(covariance, np.cov(values.T), rtol=1e-7)


def test_ill_conditioned_float32_is_fitted_in_float64():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(5000, 3)) * [1e4, 1.0, 1e-1]).astype(np.float32)
    _, covariance = pooled_covariance([(values, None)])
    np.testing.assert_allclose(covariance, np.cov(values.T.astype(np.float64)), rtol=1e-9)


@pytest.mark.parametrize("method", ["pca", "zca"])
@given(seed=st.integers(0, 1000), d=st.integers(1, 8))
@settings(max_examples=20, deadline=None)
def test_whitened_covariance_is_the_identity(method, seed, d):
    out = whitened(correlated(100, d, seed), method=method, tolerance=0.0)
    np.testing.assert_allclose(np.cov(out.T).reshape(d, d), np.eye(d), atol=1e-5)
    np.testing.assert_allclose(out.mean(axis=0), 0, atol=1e-6)


def test_pca_whitening_equals_scikit_learn_with_its_signs():
    values = correlated()
    expected = PCA(whiten=True).fit_transform(values)
    np.testing.assert_allclose(whitened(values, method="pca"), expected, atol=1e-8)


def test_zca_stays_closer_to_the_input_than_any_rotation_of_it():
    values = correlated()
    centred = values - values.mean(axis=0)
    zca = whitened(values, method="zca")
    best = np.square(zca - centred).sum()
    rotations = ortho_group.rvs(6, size=20, random_state=0)
    assert all(np.square(zca @ r - centred).sum() > best for r in rotations)
    assert np.square(whitened(values, method="pca") - centred).sum() > best


def test_directions_without_variance_become_zero():
    values = correlated(200, 4)
    values = np.column_stack([values, values[:, 0] + values[:, 1], np.full(200, 3.0)])
    fit = fit_whitening(np.cov(values.T), method="pca")
    assert fit.n_dropped == 2
    out = whitened(values, method="pca")
    np.testing.assert_array_equal(out[:, 4:], 0)
    np.testing.assert_allclose(np.cov(out[:, :4].T), np.eye(4), atol=1e-8)


def test_no_variance_at_all_gives_zeros():
    assert not whitened(np.ones((5, 3))).any()


def test_eps_shrinks_the_gain():
    fit = fit_whitening(np.diag([4.0, 2.0]), method="pca", eps=1.0)
    np.testing.assert_allclose(np.abs(np.diag(fit.matrix)), [7**-0.5, 5**-0.5])


def test_pooled_covariance_weighs_matrices_equally():
    one, two = correlated(300, 3, 1), correlated(50, 3, 2)
    means, covariance = pooled_covariance([(one, None), (two, np.arange(10))])
    np.testing.assert_allclose(covariance, (np.cov(one.T) + np.cov(two[:10].T)) / 2)
    np.testing.assert_allclose(means[1], two[:10].mean(axis=0))


def test_chosen_rows_alone_are_written():
    values = correlated(20, 3)
    out = values.copy()
    apply_whitening(values, np.zeros(3), 2 * np.eye(3), out=out, rows=np.array([3, 7]))
    expected = values.copy()
    expected[[3, 7]] *= 2
    np.testing.assert_allclose(out, expected)


# -- cosine and its null --------------------------------------------------------------------------


def test_mean_pairwise_cosine_equals_the_loop_over_pairs():
    rng = np.random.default_rng(0)
    units = unit_rows(rng.normal(size=(9, 4)))
    codes = np.array([0, 0, 1, 1, 1, 1, 2, 0, 1])
    expected = [
        np.mean([units[i] @ units[j] for i, j in combinations(np.flatnonzero(codes == g), 2)])
        for g in (0, 1)
    ]
    got = mean_pairwise_cosine(units, codes, 3)
    np.testing.assert_allclose(got[:2], expected)
    assert np.isnan(got[2])


def test_unit_rows_of_extreme_length_and_of_zeros():
    extreme = np.array([[3e300, 4e300], [3e-300, 4e-300]])
    np.testing.assert_allclose(unit_rows(extreme), [[0.6, 0.8]] * 2)
    many = np.ones((40, 20_000))  # more than one block
    many[37] = 0
    with pytest.raises(ValueError, match="row 37 is all zeros"):
        unit_rows(many)


def test_drawn_sets_hold_no_target_twice():
    targets = np.repeat(np.arange(5), [1, 2, 3, 4, 30])
    sets = targets[nulls.draw_distinct(targets, 4, 5000, np.random.default_rng(0))]
    assert all(len(set(column)) == 4 for column in sets.T)


def test_first_members_are_uniform_over_guides():
    targets = np.repeat(np.arange(4), [1, 2, 3, 4])
    members = nulls.draw_distinct(targets, 2, 40_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(members[0]) / 40_000, 0.1, atol=0.01)
    # The second is uniform over the guides of the other targets.
    after_zero = members[1][targets[members[0]] == 3]
    np.testing.assert_allclose(np.bincount(after_zero)[:6] / len(after_zero), 1 / 6, atol=0.015)


def test_more_members_than_targets_is_an_error():
    with pytest.raises(ValueError, match="3 different targets cannot be drawn from 2"):
        nulls.draw_distinct(np.array([0, 1, 1]), 3, 10, np.random.default_rng(0))


def small_null(n_sets=500, sizes=(2, 3), seed=0):
    units = unit_rows(np.random.default_rng(1).normal(size=(30, 5)))
    targets = np.arange(30) // 3
    return nulls.null_similarity(
        units, targets, sizes, n_sets=n_sets, seed=np.random.SeedSequence(seed)
    )


def test_null_by_vectors_equals_null_by_all_cosines(monkeypatch):
    by_gram = small_null()
    monkeypatch.setattr(nulls, "MAX_GRAM_BYTES", 0)
    by_vectors = small_null()
    for k in (2, 3):
        np.testing.assert_allclose(by_gram[k], by_vectors[k], atol=1e-6)


def test_null_does_not_depend_on_threads(monkeypatch):
    monkeypatch.setattr(nulls, "CHUNK", 64)
    threaded = small_null()
    monkeypatch.setattr(nulls, "in_threads", lambda f, jobs: [f(job) for job in jobs])
    np.testing.assert_array_equal(threaded[3], small_null()[3])


def test_null_has_the_mean_and_spread_of_all_sets():
    units = unit_rows(np.random.default_rng(1).normal(size=(30, 5)))
    every = [units[i] @ units[j] for i, j in combinations(range(30), 2) if i // 3 != j // 3]
    null = small_null(20_000, (2,))[2]
    assert abs(null.mean() - np.mean(every)) < 0.01
    assert abs(null.std() - np.std(every)) < 0.01


def test_pvalue_counts_ties_and_is_never_zero():
    null = np.array([0.1, 0.2, 0.2, 0.3], dtype=np.float32)
    np.testing.assert_allclose(nulls.empirical_pvalue([0.2, 0.31, 0.0], null), [4 / 5, 1 / 5, 1])


# -- ROC ------------------------------------------------------------------------------------------

scores = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


@given(positives=scores, negatives=scores, level=st.floats(0.01, 0.99))
@settings(max_examples=200, deadline=None)
def test_roc_with_ties_equals_scikit_learn(positives, negatives, level):
    labels = [1] * len(positives) + [0] * len(negatives)
    every = np.array(positives + negatives, dtype=float)
    x, y, _ = sklearn_roc(labels, every)
    fpr, tpr = roc_curve(np.array(positives, float), np.array(negatives, float))
    assert tpr_at(fpr, tpr, level) == pytest.approx(np.interp(level, x, y))
    assert area_under(fpr, tpr) == pytest.approx(roc_auc_score(labels, every))
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


def test_thin_curve_keeps_the_ends_and_the_area():
    rng = np.random.default_rng(0)
    curve = roc_curve(rng.normal(1, 1, 20_000), rng.normal(size=50_000))
    fpr, tpr = thin_curve(*curve)
    assert len(fpr) <= 2000
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert area_under(fpr, tpr) == pytest.approx(area_under(*curve), abs=1e-4)
    assert tpr_at(fpr, tpr, 0.05) == pytest.approx(tpr_at(*curve, 0.05), abs=2e-3)


def random_pairs(seed=0, n=12):
    rng = np.random.default_rng(seed)
    pairs = np.array(list(combinations(range(n), 2)))
    positive = rng.random(len(pairs)) < 0.3
    score = rng.integers(0, 12, len(pairs)) + 2.0 * positive
    take = lambda mask: (score[mask], pairs[mask, 0], pairs[mask, 1])  # noqa: E731
    return take(positive), take(~positive)


def test_bootstrap_with_every_node_once_is_the_plain_curve():
    positives, negatives = random_pairs()
    tpr, auc = bootstrap_roc(positives, negatives, np.ones((12, 3)), level=0.2)
    curve = roc_curve(positives[0], negatives[0].copy())
    np.testing.assert_allclose(tpr, tpr_at(*curve, 0.2))
    np.testing.assert_allclose(auc, area_under(*curve))


@pytest.mark.parametrize("pairs_at_a_time", [3, 1 << 14])
def test_bootstrap_equals_scikit_learn_with_pair_weights(monkeypatch, pairs_at_a_time):
    monkeypatch.setattr("cellfuse.kernels.roc.PAIRS", pairs_at_a_time)
    positives, negatives = random_pairs()
    weights = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12), size=40).T
    tpr, auc = bootstrap_roc(positives, negatives, weights, level=0.2)
    labels = [1] * len(positives[0]) + [0] * len(negatives[0])
    every = [np.concatenate(pair) for pair in zip(positives, negatives, strict=True)]
    for b in range(40):
        w = weights[every[1], b] * weights[every[2], b]
        x, y, _ = sklearn_roc(labels, every[0], sample_weight=w)
        assert tpr[b] == pytest.approx(np.interp(0.2, x, y))
        assert auc[b] == pytest.approx(roc_auc_score(labels, every[0], sample_weight=w))


def test_replicate_without_positives_is_nan():
    positives = (np.array([1.0]), np.array([0]), np.array([1]))
    negatives = (np.array([0.0]), np.array([2]), np.array([3]))
    tpr, auc = bootstrap_roc(positives, negatives, np.array([[0], [2], [1], [1]]), level=0.05)
    assert np.isnan(tpr).all()
    assert np.isnan(auc).all()
