"""Mann-Whitney tests on sparse columns are scipy's, of many groups at once."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu

from cellfuse.kernels.rank_tests import rank_sums, two_sided


def table(kind, seed=0, shape=(150, 7)):
    rng = np.random.default_rng(seed)
    return {
        "continuous": rng.random(shape) * (rng.random(shape) < 0.3),
        "tied": rng.poisson(1.0, shape).astype(float),
        "dense": rng.integers(1, 5, shape).astype(float),
        "rare": (rng.random(shape) < 0.02).astype(float),
    }[kind].astype("f4")


@pytest.mark.parametrize("kind", ["continuous", "tied", "dense", "rare"])
def test_every_group_and_column_agrees_with_scipy(kind):
    x = table(kind)
    codes = np.random.default_rng(1).integers(-2, 4, len(x))  # -2 takes no part
    found = rank_sums(sp.csr_matrix(x), codes, 4)
    pvalue = two_sided(found.shift, found.variance)
    for g in range(4):
        ours, control = x[codes == g], x[codes == -1]
        with np.errstate(invalid="ignore", divide="ignore"):
            peer = mannwhitneyu(ours, control, method="asymptotic")
        expected = np.where(np.isnan(peer.pvalue), 1.0, peer.pvalue)  # nothing varies
        np.testing.assert_allclose(pvalue[g], expected, rtol=1e-4)
        auc = peer.statistic / (len(ours) * len(control))
        np.testing.assert_allclose(found.auc[g], auc, rtol=1e-5)
        np.testing.assert_array_equal(found.positive[g], (ours > 0).sum(axis=0))


def test_stored_zeros_are_zeros():
    x = sp.csr_matrix(table("continuous"))
    stored = x.copy()
    stored.data[::3] = 0.0
    clean = stored.copy()
    clean.eliminate_zeros()
    codes = np.arange(150) % 3 - 1
    a, b = (rank_sums(m, codes, 2) for m in (stored, clean))
    np.testing.assert_array_equal(a.shift, b.shift)
    np.testing.assert_array_equal(a.variance, b.variance)
    np.testing.assert_array_equal(a.positive, b.positive)


def test_alike_groups_give_uniform_p_values_and_a_shift_is_found():
    rng = np.random.default_rng(0)
    x = rng.random((600, 400)) * (rng.random((600, 400)) < 0.4)
    codes = np.arange(600) % 2 - 1
    x[codes == 0, 0] += 0.3
    found = rank_sums(sp.csr_matrix(x.astype("f4")), codes, 1)
    pvalue = two_sided(found.shift, found.variance)[0]
    assert pvalue[0] < 1e-6 and found.auc[0, 0] > 0.7
    assert 0.02 < (pvalue[1:] < 0.05).mean() < 0.09
