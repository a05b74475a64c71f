"""Normalisation by controls: the field's numbers, worked by hand or plainly, and bad input."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import linalg
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from cellfuse.pp.center_scale import center_scale, mad_robustize
from cellfuse.pp.sphere import sphere
from cellfuse.pp.tvn import tvn

CONTROLS = {"use_rep": "emb", "control_key": "gene", "control": "NTC"}


def cells(n: int = 400, d: int = 6, *, seed: int = 0, dtype: type = np.float64) -> ad.AnnData:
    """Correlated features in two shifted batches; every third cell a control."""
    rng = np.random.default_rng(seed)
    plate = rng.integers(0, 2, n)
    x = (rng.normal(size=(n, d)) + plate[:, None]) @ rng.normal(size=(d, d)) + 3
    obs = pd.DataFrame(
        {
            "gene": np.where(np.arange(n) % 3 == 0, "NTC", "TP53"),
            "plate": np.array(["p0", "p1"])[plate],
        },
        index=[f"c{seed}-{i}" for i in range(n)],
    )
    return ad.AnnData(obs=obs, obsm={"emb": x.astype(dtype)})


def is_control(adata: ad.AnnData) -> np.ndarray:
    return (adata.obs["gene"] == "NTC").to_numpy()


# -- centre and scale -----------------------------------------------------------------------------


def test_center_scale_is_the_standard_scaler_of_each_batch():
    adata = cells()
    expected = adata.obsm["emb"].copy()
    for plate in ("p0", "p1"):
        rows = (adata.obs["plate"] == plate).to_numpy()
        scaler = StandardScaler().fit(expected[rows & is_control(adata)])
        expected[rows] = scaler.transform(expected[rows])
    center_scale(adata, **CONTROLS, batch_key="plate")
    np.testing.assert_allclose(adata.obsm["emb"], expected, rtol=1e-10)


def test_centring_alone_keeps_the_spread():
    adata = cells()
    before = adata.obsm["emb"].copy()
    center_scale(adata, **CONTROLS, scale=False)
    np.testing.assert_allclose(adata.obsm["emb"], before - before[is_control(adata)].mean(axis=0))


def test_a_constant_feature_is_centred_and_counted():
    adata = cells()
    adata.obsm["emb"][:, 2] = 7
    with pytest.warns(UserWarning, match="1 of 6 features in 2 of 2 batches"):
        center_scale(adata, **CONTROLS, batch_key="plate")
    assert (adata.obsm["emb"][:, 2] == 0).all()


def test_mad_robustize_by_hand():
    adata = ad.AnnData(
        np.array([[1.0], [2.0], [3.0], [4.0], [9.0], [6.0]]),
        obs=pd.DataFrame({"gene": ["NTC"] * 5 + ["T"]}, index=list("abcdef")),
    )
    mad_robustize(adata, use_rep=None, control_key="gene", control="NTC")
    # Median 3, deviations 2 1 0 1 6, their median 1.
    np.testing.assert_allclose(adata.X[-1, 0], 3 / 1.4826)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float32])
def test_mad_robustize_of_whole_numbers_keeps_their_halves(dtype):
    adata = ad.AnnData(obsm={"emb": np.array([[0], [1], [8], [9], [9], [9]], dtype=dtype)})
    mad_robustize(adata, use_rep="emb", control_key=None, control=None)
    # Median 8.5, deviations 8.5 7.5 .5 .5 .5 .5, their median .5.
    np.testing.assert_allclose(adata.obsm["emb"][0, 0], -8.5 / (1.4826 * 0.5), rtol=1e-6)


@pytest.mark.parametrize("verb", [center_scale, mad_robustize])
def test_the_background_is_one_more_batch(verb):
    one, two = cells(), cells()
    for adata in (one, two):
        adata.obs["line"] = np.where(np.arange(400) % 2, "A", "B")
    two.obs["both"] = two.obs["plate"] + two.obs["line"]
    verb(one, **CONTROLS, batch_key="plate", within="line")
    verb(two, **CONTROLS, batch_key="both")
    np.testing.assert_array_equal(one.obsm["emb"], two.obsm["emb"])


def test_a_batch_without_controls_is_named():
    adata = cells()
    adata.obs.loc[adata.obs["plate"] == "p1", "gene"] = "TP53"
    for verb in (center_scale, mad_robustize, sphere, tvn):
        with pytest.raises(ValueError, match="1 of 2 batches hold .*'p1'"):
            verb(adata, **CONTROLS, batch_key="plate")


# -- TVN ------------------------------------------------------------------------------------------


def plain_tvn(x: np.ndarray, control: np.ndarray, plate: np.ndarray) -> np.ndarray:
    """The definition, step by step."""
    for step in (StandardScaler(), PCA(), StandardScaler()):
        x = step.fit(x[control]).transform(x)
    out = x.copy()
    for label in np.unique(plate):
        rows = plate == label
        covariance = np.cov(x[rows & control], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
        out[rows] = x[rows] @ linalg.fractional_matrix_power(covariance, -0.5)
    return out


@pytest.mark.parametrize(("dtype", "atol"), [(np.float64, 1e-9), (np.float32, 1e-4)])
def test_tvn_is_its_definition_step_by_step(dtype, atol):
    adata = cells(dtype=dtype)
    plate = adata.obs["plate"].to_numpy(str)
    expected = plain_tvn(adata.obsm["emb"].astype(float), is_control(adata), plate)
    tvn(adata, **CONTROLS, batch_key="plate")
    assert adata.obsm["emb"].dtype == dtype
    np.testing.assert_allclose(adata.obsm["emb"], expected, atol=atol)


def test_tvn_by_hand_in_one_dimension():
    adata = ad.AnnData(
        np.array([[0.0], [2.0], [4.0], [6.0], [13.0]]),
        obs=pd.DataFrame(
            {"gene": ["NTC"] * 4 + ["T"], "plate": list("aabbb")}, index=list("vwxyz")
        ),
    )
    tvn(adata, use_rep=None, control_key="gene", control="NTC", batch_key="plate")
    # Controls: mean 3, variance 5. Of either batch: variance 2 / 5 with one degree of freedom.
    np.testing.assert_allclose(adata.X[-1, 0], 10 / np.sqrt(5) / np.sqrt(0.4 + 0.5))


def test_tvn_in_the_axes_of_the_input_keeps_every_cosine_and_comes_near_the_input():
    adata = cells()
    tvn(adata, **CONTROLS, batch_key="plate", key_added="turned")
    tvn(adata, **CONTROLS, batch_key="plate", key_added="back", input_axes=True)
    turned, back = adata.obsm["turned"], adata.obsm["back"]
    np.testing.assert_allclose(turned @ turned.T, back @ back.T, atol=1e-9)
    z = StandardScaler().fit_transform(adata.obsm["emb"])
    assert np.mean([np.corrcoef(z[:, j], back[:, j])[0, 1] for j in range(6)]) > 0.5


def test_tvn_with_fewer_controls_than_dimensions_drops_what_they_do_not_span():
    adata = cells(n=30, d=12)
    with pytest.warns(UserWarning, match="3 of 12"):
        tvn(adata, **CONTROLS, batch_key=None)
    assert np.isfinite(adata.obsm["emb"]).all()


def test_tvn_fits_each_modality_by_its_own_controls():
    image, rna = cells(), cells(seed=1)
    alone = cells(seed=1)
    tvn(alone, **CONTROLS, batch_key="plate")
    both = MuData({"image": image, "rna": rna})
    tvn(both, **CONTROLS, batch_key={"image": None, "rna": "plate"})
    np.testing.assert_array_equal(both["rna"].obsm["emb"], alone.obsm["emb"])


def test_tvn_refuses_what_it_cannot_do():
    adata = cells()
    of_plate = adata.obs_names[(adata.obs["plate"] == "p1") & is_control(adata)]
    adata.obs.loc[of_plate[4:], "gene"] = "TP53"
    with pytest.raises(ValueError, match="fewer than 20 control cells.*'p1'"):
        tvn(adata, **CONTROLS, batch_key="plate", min_controls=20)
    with pytest.raises(ValueError, match="eps=0 .* more than 6"):
        tvn(adata, **CONTROLS, batch_key="plate", eps=0)
    for wrong in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match="0 or more, and finite"):
            tvn(adata, **CONTROLS, batch_key="plate", eps=wrong)
    with pytest.raises(KeyError, match="Did you mean 'NTC'"):
        tvn(adata, use_rep="emb", control_key="gene", control="NTX", batch_key="plate")
    tvn(adata, **CONTROLS, batch_key="plate")
    with pytest.raises(ValueError, match="already been run"):
        tvn(adata, **CONTROLS, batch_key="plate")


# -- sphering -------------------------------------------------------------------------------------


def plain_sphering(x: np.ndarray, rows: np.ndarray, method: str, eps: float) -> np.ndarray:
    """By the singular value decomposition of the rows to fit on."""
    scaler = StandardScaler(with_std=method.endswith("-cor")).fit(x[rows])
    z = scaler.transform(x[rows])
    _, s, vt = np.linalg.svd(z, full_matrices=True)
    rank = min(len(z) - 1, x.shape[1])
    s = np.concatenate([s[:rank], np.full(x.shape[1] - rank, s[rank - 1])])
    w = (vt.T / (s + eps)) * np.sqrt(len(z) - 1)
    return scaler.transform(x) @ (w @ vt if method.startswith("ZCA") else w)


@pytest.mark.parametrize("method", ["ZCA-cor", "ZCA", "PCA-cor", "PCA"])
@pytest.mark.parametrize("n", [300, 15], ids=["many", "few"])
def test_sphering_is_its_definition(method, n):
    adata = cells(n=n)
    x = adata.obsm["emb"].copy()
    if n == 300:
        sphere(adata, **CONTROLS, method=method)
    else:
        with pytest.warns(UserWarning, match="5 rows for 6 directions"):
            sphere(adata, **CONTROLS, method=method)
    expected, found = plain_sphering(x, is_control(adata), method, 1e-6), adata.obsm["emb"]
    if method.startswith("PCA"):  # signs are free, and axes without variance are any
        rank = min(is_control(adata).sum() - 1, 6)
        expected, found = np.abs(expected[:, :rank]), np.abs(found[:, :rank])
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_sphered_controls_are_white():
    adata = cells()
    sphere(adata, **CONTROLS)
    np.testing.assert_allclose(np.cov(adata.obsm["emb"][is_control(adata)].T), np.eye(6), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"method": "zca"}, "ZCA-cor"),
        ({"eps": -1}, "0 or more"),
        ({"eps": np.inf}, "and finite"),
        ({"constant": True}, "1 of 6 features do not vary"),
        ({"copied": True}, "span 5 of 6 dimensions.*1 features are combinations of others"),
        ({"eps": "Auto"}, "'auto'"),
    ],
    ids=["method", "eps", "infinite", "constant", "copied", "word"],
)
def test_sphering_names_bad_input(change, text):
    adata = cells()
    if change.pop("constant", False):
        adata.obsm["emb"][:, 1] = 2
    if change.pop("copied", False):
        adata.obsm["emb"][:, 1] = adata.obsm["emb"][:, 0]
    with pytest.raises(ValueError, match=text):
        sphere(adata, **CONTROLS, **change)
