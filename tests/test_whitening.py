"""Whitening of real tables: features of all scales, few rows, centred plates, shrinkage."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from sklearn.covariance import ledoit_wolf_shrinkage

import cellfuse as cf
from cellfuse.kernels.shrinkage import fourth_moment, ledoit_wolf
from cellfuse.kernels.whitening import fit_whitening, mean_and_covariance

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
METHODS = ["zca", "pca", "zca-cor", "pca-cor"]


def wells(n=500, scales=(2000.0, 0.01, 0.02, 0.03), *, n_plates=5, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(n, len(scales))) @ (np.eye(len(scales)) + 0.3)
    obs = pd.DataFrame(
        {"plate": [f"p{i % n_plates}" for i in range(n)]}, index=[f"w{i}" for i in range(n)]
    )
    return ad.AnnData(obs=obs, obsm={"emb": ((mixed + 3) * scales).astype(dtype)})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("scales", "dtype"),
    [
        ((2000.0, 0.01, 0.02, 0.03), np.float64),
        ((2000.0, 0.01, 0.02, 0.03), np.float32),
        ((1e9, 1e-4, 1.0, 1e3), np.float64),
    ],
)
def test_features_of_all_scales_come_out_white(method, scales, dtype):
    plate = wells(scales=scales, dtype=dtype)
    cf.pp.whiten(plate, use_rep="emb", method=method)
    np.testing.assert_allclose(np.cov(plate.obsm["emb"].T), np.eye(4), atol=1e-3)


def test_a_small_feature_does_not_hide_that_a_large_one_is_a_copy():
    plate = wells()
    plate.obsm["emb"][:, 0] = 1e5 * plate.obsm["emb"][:, 1]
    with pytest.warns(UserWarning, match="1 of 4 .1 features are combinations of others.") as seen:
        cf.pp.whiten(plate, use_rep="emb")
    assert len(seen) == 1
    white = plate.obsm["emb"]
    assert np.allclose(np.linalg.eigvalsh(np.cov(white.T)), [0, 1, 1, 1], atol=1e-6)


def test_units_do_not_matter_where_features_are_scaled_before():
    one, other = wells(), wells(scales=(1.0, 1.0, 1.0, 1.0))
    for plate in (one, other):
        cf.pp.whiten(plate, use_rep="emb", method="zca-cor", eps=0.1)
    np.testing.assert_allclose(one.obsm["emb"], other.obsm["emb"], atol=1e-8)


@pytest.mark.parametrize("value", [0.1, 1e7, 0.0])
def test_a_constant_feature_is_0_whatever_its_value_and_the_others_are_white(value):
    plate = wells(dtype=np.float32)
    plate.obsm["emb"][:, 1] = value
    with pytest.warns(UserWarning, match="1 of 4 .1 features do not vary."):
        cf.pp.whiten(plate, use_rep="emb")
    white = plate.obsm["emb"]
    assert not white[:, 1].any()
    np.testing.assert_allclose(np.delete(white, 1, 1).std(axis=0), 1, atol=5e-3)


def test_rows_that_are_too_few_are_the_reason_given():
    few = wells(n=6, scales=np.ones(10))
    with pytest.warns(UserWarning, match="5 of 10 .6 rows span at most 5 directions.") as seen:
        cf.pp.whiten(few, use_rep="emb")
    assert len(seen) == 1 and "6 rows for 10 directions" in str(seen[0].message)


def test_degrees_of_freedom_that_centring_by_plate_took_are_named():
    plates = wells(n=60, scales=np.ones(58), n_plates=6)
    plates.obs["count"] = np.arange(60)  # every well alone: no groups
    cf.pp.center_scale(plates, use_rep="emb", control_key=None, control=None, batch_key="plate")
    with pytest.warns(UserWarning) as seen:
        cf.pp.whiten(plates, use_rep="emb")
    text = str(seen[0].message)
    assert "4 of 58 (60 rows, centred in each of the 6 groups of 'plate', have 54 degrees" in text
    assert "60 rows less 6 for the centring by 'plate' for 58 directions" in text


def test_centring_by_floats_or_by_two_columns_together_is_seen():
    plates = wells(n=60, scales=np.ones(40))
    plates.obs["plate"] = np.arange(60) % 10 + 0.0
    plates.obs["line"] = np.arange(60) // 30
    every = {"control_key": None, "control": None}
    cf.pp.center_scale(plates, use_rep="emb", **every, batch_key="plate", key_added="one")
    cf.pp.center_scale(
        plates, use_rep="emb", **every, within="line", batch_key={"": "plate"}, key_added="both"
    )
    for key, lost, by in (("one", 10, "'plate'"), ("both", 20, "'line and plate'")):
        with pytest.warns(UserWarning, match=f"60 rows less {lost} for the centring by {by}"):
            cf.pp.whiten(plates, use_rep=key)


@pytest.mark.parametrize(("n", "warns"), [(29, True), (30, False)])
def test_few_rows_a_direction_are_warned_of(n, warns):
    few = wells(n=n + 1, scales=np.ones(10))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        cf.pp.whiten(few, use_rep="emb")
        cf.pp.whiten(few, use_rep="emb", eps="auto", key_added="shrunk")  # nothing to warn of
    assert [bool(re.search("few rows", str(w.message))) for w in seen] == [True] * warns


def test_automatic_shrinkage_is_ledoit_and_wolfs():
    plate = wells(n=40, scales=np.linspace(1, 3, 30))
    values = plate.obsm["emb"].copy()
    share = ledoit_wolf_shrinkage(values)
    mean, covariance = mean_and_covariance(values)
    assert ledoit_wolf(covariance, fourth_moment(values, mean), 40) == pytest.approx(share)
    cf.pp.whiten(plate, use_rep="emb", eps="auto")
    expected = fit_whitening(
        (1 - share) * covariance + share * np.diag(covariance).mean() * np.eye(30)
    )
    white = (values - mean) @ expected.matrix * np.sqrt(1 - share)
    np.testing.assert_allclose(plate.obsm["emb"], white, atol=1e-8)


def test_shrinkage_on_the_correlations_is_of_the_scaled_features():
    plate = wells(n=40, scales=np.linspace(1, 300, 30))
    values = plate.obsm["emb"].copy()
    values = (values - values.mean(axis=0)) / values.std(axis=0, ddof=1)
    scaled = ad.AnnData(obsm={"emb": values})
    cf.pp.whiten(plate, use_rep="emb", method="zca-cor", eps="auto")
    cf.pp.whiten(scaled, use_rep="emb", method="zca", eps="auto")
    np.testing.assert_allclose(plate.obsm["emb"], scaled.obsm["emb"], atol=1e-8)


def test_joint_shrinkage_is_the_mean_of_the_modalities():
    one, two = wells(n=30, scales=np.ones(12)), wells(n=300, scales=np.ones(12), seed=1)
    shares = [ledoit_wolf_shrinkage(part.obsm["emb"]) for part in (one, two)]
    two.obs_names = [f"r{i}" for i in range(300)]
    both = MuData({"image": one, "rna": two})
    fixed = both.copy()
    cf.pp.whiten(both, use_rep="emb", joint=True, eps="auto")
    share = np.mean(shares)
    cf.pp.whiten(fixed, use_rep="emb", joint=True, eps=share / (1 - share))
    np.testing.assert_allclose(both["rna"].obsm["emb"], fixed["rna"].obsm["emb"], atol=1e-8)


def test_directions_that_controls_do_not_span_are_kept_by_shrinkage():
    plate = wells(n=100, scales=np.ones(20))
    plate.obs["kind"] = ["control"] * 10 + ["treated"] * 90
    own = np.eye(20)[19] * 5
    plate.obsm["emb"][10:] += own
    cf.pp.whiten(plate, use_rep="emb", eps="auto", fit_on="control", control_key="kind")
    between = plate.obsm["emb"][10:].mean(axis=0) - plate.obsm["emb"][:10].mean(axis=0)
    assert np.linalg.norm(between) > 3


def test_a_ridge_that_outweighs_small_features_is_warned_of():
    plate = wells()
    with pytest.warns(UserWarning, match="the data: 3 of 4.*zca-cor"):
        cf.pp.whiten(plate, use_rep="emb", eps=0.01)


@pytest.mark.parametrize("eps", ["Auto", np.nan, np.inf, -1])
def test_an_eps_that_is_none_is_refused(eps):
    with pytest.raises(ValueError, match="eps"):
        cf.pp.whiten(wells(), use_rep="emb", eps=eps)


def test_a_second_scaling_that_differs_goes_to_another_key():
    plate = wells()
    given = {"use_rep": "emb", "control_key": None, "control": None}
    cf.pp.robust_center_scale(plate, **given, batch_key="plate")
    cf.pp.robust_center_scale(plate, **given, key_added="over all")
    cf.pp.whiten(plate, use_rep="emb", key_added="white")
    cf.pp.whiten(plate, use_rep="white", method="pca", key_added="turned")
    assert {"over all", "turned"} <= set(plate.obsm)
    with pytest.raises(ValueError, match="already been run"):  # the same again is a slip
        cf.pp.robust_center_scale(plate, **given, batch_key="plate", key_added="twice")
    with pytest.raises(ValueError, match="already been run"):  # in place, the first is lost
        cf.pp.robust_center_scale(plate, **given)


@pytest.mark.parametrize("method", ["ZCA", "ZCA-cor"])
def test_sphering_resolves_all_scales_and_shrinks_what_has_few_rows(method):
    given = {"use_rep": "emb", "control_key": None, "control": None, "method": method}
    plate = wells()
    cf.pp.sphere(plate, **given)
    np.testing.assert_allclose(np.cov(plate.obsm["emb"].T), np.eye(4), atol=1e-2)
    few = wells(n=20, scales=np.ones(30))
    few.obsm["emb"][:, 3] = few.obsm["emb"][:, 4]  # a copy is no error where it is shrunk
    values = few.obsm["emb"].copy()
    cf.pp.sphere(few, **given, eps="auto")
    scaled = values - values.mean(axis=0)
    if method.endswith("-cor"):
        scaled /= values.std(axis=0)
    share = ledoit_wolf_shrinkage(scaled)
    mean, covariance = mean_and_covariance(scaled)
    shrunk = (1 - share) * covariance + share * np.diag(covariance).mean() * np.eye(30)
    np.testing.assert_allclose(few.obsm["emb"], scaled @ fit_whitening(shrunk).matrix, atol=1e-8)


@pytest.mark.parametrize("eps", [1e-6, "auto"])
def test_an_eps_of_sphering_that_outweighs_small_features_is_warned_of(eps):
    plate = wells(scales=np.array([1e-9, 2e-9, 1.0, 2.0]))
    given = {"use_rep": "emb", "control_key": None, "control": None, "eps": eps}
    with pytest.warns(UserWarning, match="all cells: 2 of 4.*ZCA-cor"):
        cf.pp.sphere(plate, **given, method="ZCA", key_added="plain")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cf.pp.sphere(plate, **given, method="ZCA-cor", key_added="scaled")


def test_sphering_says_that_centring_by_plate_took_directions():
    plates = wells(n=60, scales=np.ones(58), n_plates=6)
    every = {"use_rep": "emb", "control_key": None, "control": None}
    cf.pp.center_scale(plates, **every, batch_key="plate")
    with pytest.raises(ValueError, match="each of the 6 groups of 'plate', have 54 degrees"):
        cf.pp.sphere(plates, **every)


def retrieved(values, labels):
    profiles = ad.AnnData(values.astype("f4"), obs=pd.DataFrame({"compound": labels}).rename(str))
    table = cf.tl.mean_average_precision(profiles, by="compound", n_null=10, n_boot=0)
    return table.attrs["mean_map"]


def test_shrinkage_keeps_what_full_whitening_of_a_real_plate_destroys():
    path = DATA / "lincs_cellpainting_sq00015054.h5ad"
    if not path.exists():
        pytest.skip(f"no real plate at {path}")
    plate = ad.read_h5ad(path)
    treated = (plate.obs["broad_sample"] != "DMSO").to_numpy()
    labels = plate.obs["broad_sample"].astype(str).to_numpy()[treated]
    with pytest.warns(UserWarning, match="384 rows for 454 directions"):
        cf.pp.whiten(plate, use_rep=None, key_added="full")
    cf.pp.whiten(plate, use_rep=None, key_added="shrunk", eps="auto")
    full, shrunk = (retrieved(plate.obsm[k][treated], labels) for k in ("full", "shrunk"))
    assert full < 0.1 < 0.2 < shrunk


def test_values_whose_squares_are_beyond_float32_are_named():
    adata = ad.AnnData(np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32))
    adata.obsm["profile"] = adata.X * np.array([1, 1e30, 1], np.float32)
    with pytest.raises(ValueError, match=r"1 of 3 dimensions, such as number 1 .*beyond float32"):
        cf.pp.whiten(adata, use_rep="profile")


# -- offsets and what does not vary ---------------------------------------------------------------

WHOLE = {"use_rep": "emb", "control_key": None, "control": None}
CENTRED = {
    "whiten": lambda a: cf.pp.whiten(a, use_rep="emb"),
    "sphere": lambda a: cf.pp.sphere(a, **WHOLE),
    "tvn": lambda a: cf.pp.tvn(a, **WHOLE, batch_key=None),
    "center_scale": lambda a: cf.pp.center_scale(a, **WHOLE),
}


@pytest.mark.parametrize("verb", CENTRED)
@pytest.mark.parametrize(
    ("dtype", "offset", "spread"), [("f4", 1e4, 1.0), ("i8", 1e8, 20.0), ("i4", 1e8, 20.0)]
)
def test_a_large_offset_moves_no_mean(verb, dtype, offset, spread):
    plate = ad.AnnData(np.zeros((400, 1)))
    values = np.random.default_rng(0).normal(scale=spread, size=(400, 5)) + offset
    plate.obsm["emb"] = values.astype(dtype)
    CENTRED[verb](plate)
    assert np.abs(plate.obsm["emb"].mean(axis=0, dtype=np.float64)).max() < 1e-6


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e8 + 0.1])
@pytest.mark.parametrize("n", [7, 100, 5000])
def test_what_is_constant_is_so_whatever_its_sum_is_rounded_to(value, n):
    plate = ad.AnnData(np.zeros((n, 1)))
    plate.obsm["emb"] = np.random.default_rng(0).normal(size=(n, 3))
    plate.obsm["emb"][:, 1] = value
    with pytest.warns(UserWarning, match="1 of 3 .*1 features do not vary"):
        cf.pp.whiten(plate, use_rep="emb", key_added="white")
    assert np.abs(plate.obsm["white"][:, 1]).max() == 0
    with pytest.raises(ValueError, match="1 of 3 features do not vary"):
        cf.pp.sphere(plate, **WHOLE, eps="auto", key_added="sphere")
    with pytest.warns(UserWarning, match="zero spread.*1 of 3 features in 1 of 1 batches"):
        cf.pp.center_scale(plate, **WHOLE, key_added="scaled")
    assert np.abs(plate.obsm["scaled"][:, 1]).max() <= abs(value) * 1e-15
    with pytest.warns(UserWarning, match="do not vary.*1 of 3"):
        cf.pp.tvn(plate, **WHOLE, batch_key=None, key_added="tvn")


def test_where_nothing_varies_nothing_is_made_of_it():
    plate = ad.AnnData(np.ones((20, 3)))
    with pytest.raises(ValueError, match="none of 3 features varies among the 20 rows"):
        cf.pp.sphere(plate, **{**WHOLE, "use_rep": None}, method="ZCA", eps="auto")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        warnings.filterwarnings("ignore", "directions without variance")
        cf.pp.whiten(plate, use_rep=None, eps="auto", key_added="white")
    assert (plate.obsm["white"] == 0).all()


@pytest.mark.parametrize("eps", ["0.5", None, True, -1, np.nan])
def test_an_eps_that_is_none_is_told_by_every_verb(eps):
    plate = wells()
    for verb in (
        lambda: cf.pp.whiten(plate, use_rep="emb", eps=eps),
        lambda: cf.pp.sphere(plate, **WHOLE, eps=eps),
        lambda: cf.pp.tvn(plate, **WHOLE, batch_key=None, eps=eps),
    ):
        with pytest.raises(ValueError, match="eps=.*expected eps >= 0"):
            verb()
