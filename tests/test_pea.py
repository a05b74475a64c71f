"""Perturbation embedding augmentation: what each operation is, what is drawn, and filters."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellfuse.kernels.augmentation import fit_pea, jitter, mixup
from cellfuse.kernels.groups import group_rows
from cellfuse.pp.activity import filter_active
from cellfuse.pp.augmentation import perturbation_embedding_augmentation as pea
from cellfuse.pp.center_scale import center_scale
from cellfuse.pp.tvn import tvn

ARGUMENTS = {"use_rep": "emb", "batch_key": "plate", "control_key": "gene", "control": "NTC"}


def cells(n: int = 300, d: int = 5) -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "gene": np.where(np.arange(n) % 3 == 0, "NTC", "TP53"),
            "plate": np.array(["p0", "p1", "p2"])[rng.integers(0, 3, n)],
        },
        index=[f"c{i}" for i in range(n)],
    )
    return ad.AnnData(obs=obs, obsm={"emb": rng.normal(2, 3, (n, d))})


def corrected(operation: str) -> np.ndarray:
    """The same by the library's own verbs."""
    adata = cells()
    if operation == "tvn":
        center_scale(adata, **ARGUMENTS, scale=False)
        tvn(adata, **ARGUMENTS, input_axes=True)
    elif operation != "none":
        center_scale(adata, **ARGUMENTS, scale=operation == "center_scale")
    return adata.obsm["emb"]


@pytest.mark.parametrize("operation", ["none", "center", "center_scale", "tvn"])
def test_one_operation_alone_is_the_verb(operation):
    adata = cells()
    pea(adata, **ARGUMENTS, key_added="pea", operations=[operation])
    np.testing.assert_allclose(adata.obsm["pea"], corrected(operation), atol=1e-9)
    assert set(adata.obs["pea"]) == {operation}


def test_each_cell_gets_the_operation_that_was_drawn_for_it():
    adata = cells()
    pea(adata, **ARGUMENTS, key_added="pea")
    for operation, rows in adata.obs.groupby("pea").indices.items():
        assert len(rows) > 50
        np.testing.assert_allclose(adata.obsm["pea"][rows], corrected(operation)[rows], atol=1e-9)


def test_the_seed_decides_and_the_input_stays():
    first, again, other = cells(), cells(), cells()
    for adata, seed in ((first, 1), (again, 1), (other, 2)):
        pea(adata, **ARGUMENTS, key_added="pea", noise=0.1, dropout=0.1, seed=seed)
    np.testing.assert_array_equal(first.obsm["pea"], again.obsm["pea"])
    assert not np.array_equal(first.obsm["pea"], other.obsm["pea"])
    np.testing.assert_array_equal(first.obsm["emb"], cells().obsm["emb"])


def test_drawing_again_needs_no_overwrite_and_another_array_does():
    adata = cells()
    pea(adata, **ARGUMENTS, key_added="pea", seed=1)
    pea(adata, **ARGUMENTS, key_added="pea", seed=2)
    adata.obsm["mine"] = np.zeros((adata.n_obs, 2))
    with pytest.raises(ValueError, match="was not written by"):
        pea(adata, **ARGUMENTS, key_added="mine")


def test_the_fit_works_on_tensors():
    torch = pytest.importorskip("torch")
    adata = cells()
    plate = pd.factorize(adata.obs["plate"], sort=True)[0]
    control = (adata.obs["gene"] == "NTC").to_numpy()
    x = adata.obsm["emb"].astype(np.float32)
    fit = fit_pea(x, group_rows(np.where(control, plate, -1), 3))
    drawn = fit.draw(len(x), np.random.default_rng(0))
    tensors = fit.convert(torch.as_tensor)
    found = tensors.apply(torch.as_tensor(x), torch.as_tensor(plate), torch.as_tensor(drawn))
    np.testing.assert_allclose(found.numpy(), fit.apply(x, plate, drawn), atol=1e-5)


def test_without_tvn_no_matrices_are_kept():
    adata = cells()
    fit = fit_pea(adata.obsm["emb"], [np.arange(100)], operations=["center", "none"])
    assert fit.operations == ("none", "center")
    assert fit.matrices.shape == (0, 5, 5)


def test_noise_and_dropout_have_the_size_that_was_asked_for():
    x = np.random.default_rng(0).normal(size=(4000, 3)) * [1, 10, 100]
    rng = np.random.default_rng(1)
    np.testing.assert_allclose(
        (jitter(x, rng, noise=0.2) - x).std(axis=0) / x.std(axis=0), 0.2, rtol=0.1
    )
    assert np.mean(jitter(x, rng, dropout=0.3) == 0) == pytest.approx(0.3, abs=0.02)


def shifted() -> ad.AnnData:
    """Raw values far from 0 and large, so that a corrected embedding is much smaller."""
    adata = cells(n=2000)
    adata.obsm["emb"] = 100 * adata.obsm["emb"] + 1000
    return adata


def test_noise_is_a_share_of_what_the_operation_left():
    plain, noisy = shifted(), shifted()
    pea(plain, **ARGUMENTS, key_added="pea")
    pea(noisy, **ARGUMENTS, key_added="pea", noise=0.1)
    added = noisy.obsm["pea"] - plain.obsm["pea"]
    for rows in plain.obs.groupby("pea").indices.values():
        share = added[rows].std(axis=0) / plain.obsm["pea"][rows].std(axis=0)
        np.testing.assert_allclose(share, 0.1, rtol=0.15)


@pytest.mark.parametrize("within", [None, "gene"])
def test_cells_are_mixed_with_those_of_their_own_operation(within):
    adata = shifted()
    pea(adata, **ARGUMENTS, key_added="pea", mixup_alpha=0.4, mixup_within=within)
    mixed = adata.obsm["pea"]
    for operation, rows in adata.obs.groupby("pea").indices.items():
        largest = np.abs(corrected_shifted(operation)[rows]).max(axis=0)
        assert (np.abs(mixed[rows]).max(axis=0) <= largest + 1e-9).all()
        assert np.abs(mixed[rows] - corrected_shifted(operation)[rows]).max() > 0.1


def corrected_shifted(operation: str) -> np.ndarray:
    adata = shifted()
    pea(adata, **ARGUMENTS, key_added="alone", operations=operation)  # one may be named alone
    return adata.obsm["alone"]


def test_half_precision_is_augmented_in_single():
    half, single = cells(), cells()
    half.obsm["emb"] = half.obsm["emb"].astype(np.float16)
    single.obsm["emb"] = half.obsm["emb"].astype(np.float32)
    for adata in (half, single):
        pea(adata, **ARGUMENTS, key_added="pea")
    assert half.obsm["pea"].dtype == np.float32
    np.testing.assert_array_equal(half.obsm["pea"], single.obsm["pea"])


def test_controls_that_do_not_span_the_space_are_told():
    with pytest.warns(UserWarning, match="set to 0 by 'tvn': the data: 3 of 10"):
        pea(cells(n=30, d=10), **ARGUMENTS, key_added="pea")


def test_mixup_stays_within_the_group_and_keeps_the_label():
    x = np.random.default_rng(0).normal(size=(60, 3))
    groups = np.arange(60) % 4
    mixed, partner, weight = mixup(x, np.random.default_rng(1), alpha=0.5, groups=groups)
    assert (groups[partner] == groups).all()
    assert (weight >= 0.5).all() and (partner != np.arange(60)).any()
    np.testing.assert_allclose(mixed, weight[:, None] * x + (1 - weight)[:, None] * x[partner])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"operations": ["centre"]}, ValueError, "center_scale"),
        ({"operations": []}, ValueError, "different ones"),
        ({"operations": None}, ValueError, "operations=None"),
        ({"noise": np.inf}, ValueError, "finite noise"),
        ({"mixup_alpha": np.nan}, ValueError, "finite mixup_alpha"),
        ({"dropout": 1.0}, ValueError, "dropout < 1"),
        ({"batch_key": "plat"}, KeyError, "Did you mean 'plate'"),
        ({"control": "ntc"}, KeyError, "'ntc' is not in"),
    ],
    ids=["operation", "none", "missing", "noise", "mixup", "dropout", "batch", "control"],
)
def test_bad_input_is_named(change, error, text):
    with pytest.raises(error, match=text):
        pea(cells(), **{**ARGUMENTS, "key_added": "pea", **change})


# -- which perturbations do something -------------------------------------------------------------


def test_active_perturbations_and_what_is_kept():
    adata = ad.AnnData(
        np.ones((6, 1)), obs=pd.DataFrame({"gene": list("AABCDN")}, index=list("uvwxyz"))
    )
    scores = pd.DataFrame({"qvalue": [0.05, 0.2, np.nan]}, index=["A", "B", "C"])
    assert filter_active(adata, scores, by="gene").obs["gene"].tolist() == ["A", "A"]
    kept = filter_active(adata, scores, by="gene", alpha=0.3, keep="N", copy=False)
    assert kept.obs["gene"].tolist() == ["A", "A", "B", "N"] and kept.is_view


@pytest.mark.parametrize(("label", "keep"), [(int, 3), (float, [3.0]), (str, "3")])
def test_labels_may_be_numbers(label, keep):
    guide = np.array([1, 1, 2, 3]).astype(label)
    adata = ad.AnnData(np.ones((4, 1)), obs=pd.DataFrame({"guide": guide}, index=list("wxyz")))
    scores = pd.DataFrame({"qvalue": [0.01, 0.5]}, index=np.array([1, 2]).astype(label))
    assert filter_active(adata, scores, by="guide").obs_names.tolist() == ["w", "x"]
    kept = filter_active(adata, scores, by="guide", keep=keep)
    assert kept.obs_names.tolist() == ["w", "x", "z"]


@pytest.mark.parametrize(
    ("scores", "change", "error", "text"),
    [
        (pd.DataFrame({"qvalue": [0.5]}, index=["A"]), {}, ValueError, "smallest q-value .* 0.5"),
        (pd.DataFrame({"qvalue": [0.5]}, index=["X"]), {}, ValueError, "none of the 2 labels"),
        (pd.DataFrame({"q": [0.5]}, index=["A"]), {}, KeyError, "'qvalue' is not in"),
        (pd.DataFrame({"qvalue": [0.0]}, index=["A"]), {"keep": "N"}, KeyError, "'N' is not in"),
        (pd.DataFrame({"qvalue": [0.0]}, index=["A"]), {"alpha": 0}, ValueError, "alpha=0"),
        (None, {}, TypeError, "NoneType"),
    ],
    ids=["none", "names", "column", "keep", "alpha", "type"],
)
def test_bad_scores_are_named(scores, change, error, text):
    adata = ad.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"gene": ["A", "B"]}, index=["x", "y"]))
    with pytest.raises(error, match=text):
        filter_active(adata, scores, by="gene", **change)
