"""Preprocessing verbs: hand-worked numbers, what is written where, and bad input."""

from __future__ import annotations

import logging

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse
from sklearn.preprocessing import RobustScaler

import cellfuse as cf


def cells(n=60, d=4, *, prefix="c", seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "gene": np.where(np.arange(n) % 3 == 0, "NTC", "TP53"),
            "well": np.where(np.arange(n) < n // 2, "w1", "w2"),
            "background": np.where(np.arange(n) % 2 == 0, "K562", "HepG2"),
        },
        index=[f"{prefix}{i}" for i in range(n)],
    )
    values = rng.normal(3, 2, (n, d)).astype(dtype)
    var = pd.DataFrame(index=[f"{prefix}_gene"])
    return ad.AnnData(np.zeros((n, 1), np.float32), obs=obs, var=var, obsm={"emb": values})


def screen(**kwargs):
    return MuData({"image": cells(prefix="i", seed=1), "rna": cells(prefix="r", seed=2, **kwargs)})


CONTROLS = {"use_rep": "emb", "control_key": "gene", "control": "NTC"}


def snapshot(mdata):
    return {m: mdata[m].obsm["emb"].copy() for m in mdata.mod}, {
        m: dict(mdata[m].uns) for m in mdata.mod
    }


def assert_untouched(mdata, before):
    arrays, uns = before
    for m in mdata.mod:
        np.testing.assert_array_equal(mdata[m].obsm["emb"], arrays[m])
        assert dict(mdata[m].uns) == uns[m]


# -- robust_center_scale --------------------------------------------------------------------------


def test_scaling_by_batch_controls_matches_scikit_learn():
    a = cells()
    raw = a.obsm["emb"].copy()
    cf.pp.robust_center_scale(a, **CONTROLS, batch_key="well")
    for well in ("w1", "w2"):
        rows = (a.obs["well"] == well).to_numpy()
        scaler = RobustScaler().fit(raw[rows & (a.obs["gene"] == "NTC").to_numpy()])
        np.testing.assert_allclose(a.obsm["emb"][rows], scaler.transform(raw[rows]), atol=1e-5)


def test_mad_scaling_of_a_hand_worked_case():
    a = ad.AnnData(obs=pd.DataFrame(index=list("abcde")))
    a.obsm["emb"] = np.array([[1.0], [2.0], [3.0], [4.0], [100.0]])
    cf.pp.robust_center_scale(a, use_rep="emb", control_key=None, control=None, scale="mad")
    np.testing.assert_allclose(a.obsm["emb"].ravel() * 1.4826, [-2, -1, 0, 1, 97])


def test_control_must_be_written():
    with pytest.raises(TypeError, match="control"):
        cf.pp.robust_center_scale(cells(), use_rep="emb")


def test_batches_may_differ_between_modalities():
    mdata = screen()
    raw = {m: mdata[m].obsm["emb"].copy() for m in mdata.mod}
    cf.pp.robust_center_scale(mdata, **CONTROLS, batch_key={"image": "well", "rna": None})
    scaler = RobustScaler().fit(raw["rna"][(mdata["rna"].obs["gene"] == "NTC").to_numpy()])
    np.testing.assert_allclose(mdata["rna"].obsm["emb"], scaler.transform(raw["rna"]), atol=1e-5)
    wells = mdata["image"].obs["well"].to_numpy()
    controls = (mdata["image"].obs["gene"] == "NTC").to_numpy()
    for well in ("w1", "w2"):
        medians = np.median(mdata["image"].obsm["emb"][(wells == well) & controls], axis=0)
        np.testing.assert_allclose(medians, 0, atol=1e-6)


def test_backgrounds_are_scaled_apart():
    a = cells()
    cf.pp.robust_center_scale(a, **CONTROLS, within="background")
    alone = cells()
    alone = alone[alone.obs["background"] == "K562"].copy()
    cf.pp.robust_center_scale(alone, **CONTROLS)
    np.testing.assert_array_equal(a[alone.obs_names].obsm["emb"], alone.obsm["emb"])


def test_float_arrays_are_overwritten_in_place():
    a = cells()
    array = a.obsm["emb"]
    cf.pp.robust_center_scale(a, **CONTROLS)
    assert a.obsm["emb"] is array


def test_key_added_leaves_the_input():
    a = cells()
    raw = a.obsm["emb"].copy()
    cf.pp.robust_center_scale(a, **CONTROLS, key_added="scaled")
    np.testing.assert_array_equal(a.obsm["emb"], raw)
    assert np.abs(a.obsm["scaled"] - raw).max() > 1


def test_raw_copy_that_shares_memory_is_kept():
    a = cells()
    a.obsm["raw"] = a.obsm["emb"]
    raw = a.obsm["raw"].copy()
    cf.pp.robust_center_scale(a, **CONTROLS)
    np.testing.assert_array_equal(a.obsm["raw"], raw)
    assert not np.array_equal(a.obsm["emb"], raw)


def test_read_only_and_mapped_arrays_are_replaced(tmp_path):
    path = tmp_path / "emb.npy"
    np.save(path, cells().obsm["emb"])
    for mode in ("r", "r+"):
        a = cells()
        a.obsm["emb"] = np.load(path, mmap_mode=mode)
        cf.pp.robust_center_scale(a, **CONTROLS)
        np.testing.assert_array_equal(np.load(path), cells().obsm["emb"])
        assert not np.array_equal(a.obsm["emb"], cells().obsm["emb"])


def test_integers_become_float32():
    a = cells()
    a.obsm["emb"] = np.arange(240).reshape(60, 4)
    cf.pp.robust_center_scale(a, **CONTROLS)
    assert a.obsm["emb"].dtype == np.float32
    assert a.obsm["emb"].std() > 0


def test_x_is_scaled_with_use_rep_none():
    a = cells()
    b = ad.AnnData(a.obsm["emb"].copy(), obs=a.obs)
    cf.pp.robust_center_scale(b, use_rep=None, control_key="gene", control="NTC")
    cf.pp.robust_center_scale(a, **CONTROLS)
    np.testing.assert_array_equal(b.X, a.obsm["emb"])
    with pytest.raises(ValueError, match="already been run on X"):
        cf.pp.robust_center_scale(b, use_rep=None, control_key="gene", control="NTC")


def test_flat_features_stay_centred_with_one_warning_at_the_call():
    mdata = screen()
    for m in mdata.mod:
        mdata[m].obsm["emb"][:, 1] = 7.0
        mdata[m].obsm["emb"][1, 1] = 9.0  # not a control
    with pytest.warns(UserWarning, match="1 of 4 features in 2 of 2 batches") as caught:
        cf.pp.robust_center_scale(mdata, **CONTROLS, batch_key="well")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert mdata["rna"].obsm["emb"][:3, 1].tolist() == [0.0, 2.0, 0.0]


def test_second_run_is_refused_also_after_whitening():
    a = cells()
    cf.pp.robust_center_scale(a, **CONTROLS)
    cf.pp.whiten(a, use_rep="emb")
    before = a.obsm["emb"].copy()
    with pytest.raises(ValueError, match="already been run"):
        cf.pp.robust_center_scale(a, **CONTROLS)
    np.testing.assert_array_equal(a.obsm["emb"], before)
    cf.pp.robust_center_scale(a, **CONTROLS, overwrite=True)


def test_second_run_on_key_added_is_refused_but_a_repeat_from_raw_is_not():
    a = cells()
    for _ in range(2):
        cf.pp.robust_center_scale(a, **CONTROLS, key_added="scaled")
    with pytest.raises(ValueError, match="already been run"):
        cf.pp.robust_center_scale(a, **{**CONTROLS, "use_rep": "scaled"})


def test_array_of_another_origin_is_not_written_over():
    a = cells()
    a.obsm["mine"] = np.ones((60, 2))
    with pytest.raises(ValueError, match="was not written by robust_center_scale"):
        cf.pp.robust_center_scale(a, **CONTROLS, key_added="mine")


def test_fresh_embedding_under_the_same_key_is_accepted():
    a = cells()
    cf.pp.robust_center_scale(a, **CONTROLS)
    a.obsm["emb"] = cells(seed=5).obsm["emb"]
    cf.pp.robust_center_scale(a, **CONTROLS)


def break_nan(mdata):
    mdata["rna"].obsm["emb"][5, 2] = np.nan


def break_controls(mdata):
    mdata["rna"].obs.loc[mdata["rna"].obs["well"] == "w2", "gene"] = "TP53"


def break_label(mdata):
    mdata["rna"].obs["gene"] = "TP53"


def break_batch(mdata):
    mdata["rna"].obs.loc["r3", "well"] = None


def break_key(mdata):
    del mdata["rna"].obsm["emb"]
    mdata["rna"].obsm["embedding"] = mdata["image"].obsm["emb"].copy()


@pytest.mark.parametrize(
    ("damage", "error", "text"),
    [
        (break_nan, ValueError, "1 NaN or infinite values .first in row 5"),
        (break_controls, ValueError, "1 of 2 batches of modality 'rna' hold no control.*'w2'"),
        (break_label, KeyError, "'NTC' is not in obs\\['gene'\\] of modality 'rna'"),
        (break_batch, ValueError, "missing .NaN. for 1 of 60"),
    ],
    ids=["nan", "no control in a batch", "absent label", "missing batch"],
)
def test_bad_second_modality_leaves_the_first_untouched(damage, error, text):
    mdata = screen()
    damage(mdata)
    before = snapshot(mdata)
    with pytest.raises(error, match=text):
        cf.pp.robust_center_scale(mdata, **CONTROLS, batch_key="well")
    assert_untouched(mdata, before)


def test_absent_representation_in_one_modality_leaves_the_other_untouched():
    mdata = screen()
    break_key(mdata)
    raw = mdata["image"].obsm["emb"].copy()
    with pytest.raises(KeyError, match="obsm of modality 'rna'; found: 'embedding'"):
        cf.pp.robust_center_scale(mdata, **CONTROLS)
    np.testing.assert_array_equal(mdata["image"].obsm["emb"], raw)


def test_control_without_its_column_is_an_error():
    with pytest.raises(ValueError, match="control_key"):
        cf.pp.robust_center_scale(cells(), use_rep="emb", control_key=None, control="NTC")


def test_sparse_input_and_views_are_refused():
    a = cells()
    a.obsm["counts"] = sparse.csr_matrix(np.eye(60))
    with pytest.raises(TypeError, match="dense"):
        cf.pp.robust_center_scale(a, **{**CONTROLS, "use_rep": "counts"})
    with pytest.raises(ValueError, match="view"):
        cf.pp.robust_center_scale(a[:10], **CONTROLS)


def test_files_keep_what_was_done(tmp_path):
    mdata = screen()
    cf.pp.robust_center_scale(mdata, **CONTROLS, batch_key={"image": "well", "rna": None})
    mdata.write(tmp_path / "screen.h5mu")
    again = mudata.read(tmp_path / "screen.h5mu")
    with pytest.raises(ValueError, match="already been run"):
        cf.pp.robust_center_scale(again, **CONTROLS)


# -- whiten ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["pca", "zca"])
def test_each_modality_is_whitened(method):
    mdata = screen()
    cf.pp.whiten(mdata, use_rep="emb", method=method)
    for m in mdata.mod:
        np.testing.assert_allclose(np.cov(mdata[m].obsm["emb"].T), np.eye(4), atol=1e-4)


def test_joint_whitening_turns_modalities_alike_and_averages_covariances():
    mdata = screen()
    raw = {m: mdata[m].obsm["emb"].copy() for m in mdata.mod}
    cf.pp.whiten(mdata, use_rep="emb", method="pca", joint=True)
    covariance = np.mean([np.cov(mdata[m].obsm["emb"].T) for m in mdata.mod], axis=0)
    np.testing.assert_allclose(covariance, np.eye(4), atol=1e-4)
    # One and the same linear map: found from one modality, it explains the other.
    centred = {m: raw[m] - raw[m].mean(axis=0) for m in raw}
    turn = np.linalg.lstsq(centred["image"], mdata["image"].obsm["emb"], rcond=None)[0]
    np.testing.assert_allclose(centred["rna"] @ turn, mdata["rna"].obsm["emb"], atol=1e-3)


def test_joint_zca_of_equal_spaces_keeps_them_equal():
    one, two = cells(prefix="i"), cells(prefix="r")
    mdata = MuData({"image": one, "rna": two})
    cf.pp.whiten(mdata, use_rep="emb", joint=True)
    np.testing.assert_array_equal(mdata["image"].obsm["emb"], mdata["rna"].obsm["emb"])


def test_whitening_within_backgrounds_equals_whitening_each_alone():
    a = cells()
    cf.pp.whiten(a, use_rep="emb", within="background")
    alone = cells()
    alone = alone[alone.obs["background"] == "HepG2"].copy()
    cf.pp.whiten(alone, use_rep="emb")
    np.testing.assert_allclose(a[alone.obs_names].obsm["emb"], alone.obsm["emb"], atol=1e-5)


def test_fit_on_controls_whitens_the_controls():
    a = cells()
    cf.pp.whiten(a, use_rep="emb", fit_on="NTC", control_key="gene")
    controls = a.obsm["emb"][(a.obs["gene"] == "NTC").to_numpy()]
    np.testing.assert_allclose(np.cov(controls.T), np.eye(4), atol=1e-4)
    np.testing.assert_allclose(controls.mean(axis=0), 0, atol=1e-5)


def test_fewer_cells_than_dimensions_gives_zeros_not_noise():
    a = cells(n=6, d=10)
    with pytest.warns(UserWarning, match="the data: 5 of 10") as caught:
        cf.pp.whiten(a, use_rep="emb", method="pca")
    assert caught[0].filename == __file__
    assert np.abs(a.obsm["emb"]).max() < 10
    assert not a.obsm["emb"][:, 5:].any()


def test_constant_features_in_a_joint_fit_are_counted_once():
    mdata = screen()
    for m in mdata.mod:
        mdata[m].obsm["emb"][:, 0] = 1.0
    with pytest.warns(UserWarning, match="all modalities: 1 of 4") as caught:
        cf.pp.whiten(mdata, use_rep="emb", joint=True)
    assert len(caught) == 1


def test_joint_with_different_widths_says_why():
    mdata = screen(d=3)
    before = snapshot(mdata)
    with pytest.raises(ValueError, match="'image': 4, 'rna': 3"):
        cf.pp.whiten(mdata, use_rep="emb", joint=True)
    assert_untouched(mdata, before)


def test_joint_needs_each_background_in_each_modality():
    mdata = screen()
    mdata["rna"].obs["background"] = "K562"
    with pytest.raises(ValueError, match="absent from some: 'HepG2'"):
        cf.pp.whiten(mdata, use_rep="emb", joint=True, within="background")


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"method": "chol"}, "'zca', 'pca'"),
        ({"fit_on": "NTC"}, "control_key"),
        ({"eps": -1.0}, "eps >= 0"),
        ({"tolerance": 1.0}, "tolerance < 1"),
    ],
)
def test_wrong_whitening_arguments(kwargs, text):
    a = cells()
    raw = a.obsm["emb"].copy()
    with pytest.raises(ValueError, match=text):
        cf.pp.whiten(a, use_rep="emb", **kwargs)
    np.testing.assert_array_equal(a.obsm["emb"], raw)


def test_a_single_cell_cannot_be_whitened():
    a = cells()
    a.obs.loc["c0", "gene"] = "lone"
    with pytest.raises(ValueError, match="at least 2 cells to fit on, found 1 .gene = 'lone'"):
        cf.pp.whiten(a, use_rep="emb", fit_on="lone", control_key="gene")


def test_whitening_twice_is_refused():
    a = cells()
    cf.pp.whiten(a, use_rep="emb")
    with pytest.raises(ValueError, match="already been run"):
        cf.pp.whiten(a, use_rep="emb", method="pca")


# -- filter_contexts ------------------------------------------------------------------------------


def guides(labels, prefix):
    obs = pd.DataFrame({"guide": labels}, index=[f"{prefix}{i}" for i in range(len(labels))])
    var = pd.DataFrame(index=[f"{prefix}_gene"])
    return ad.AnnData(np.arange(len(labels), dtype=np.float32)[:, None], obs=obs, var=var)


def test_contexts_need_enough_cells_in_each_modality(caplog):
    mdata = MuData({"image": guides(list("aaabbbcc"), "i"), "rna": guides(list("baabcc"), "r")})
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        kept = cf.pp.filter_contexts(mdata, context_keys="guide", min_cells={"image": 3, "rna": 2})
    assert kept["image"].obs["guide"].tolist() == list("aaabbb")
    assert kept["rna"].obs_names.tolist() == ["r0", "r1", "r2", "r3"]
    assert "kept 2 of 3 contexts; cells kept: image 6 of 8, rna 4 of 6" in caplog.text
    assert mdata["image"].n_obs == 8
    assert not kept["image"].is_view


def test_context_absent_from_a_modality_goes():
    mdata = MuData({"image": guides(list("aab"), "i"), "rna": guides(list("aac"), "r")})
    kept = cf.pp.filter_contexts(mdata, context_keys="guide", min_cells=1, copy=False)
    assert set(kept["image"].obs["guide"]) | set(kept["rna"].obs["guide"]) == {"a"}


def test_no_context_left_shows_the_largest():
    with pytest.raises(ValueError, match=r"none of 2 contexts.*'a': \{'': 2\}"):
        cf.pp.filter_contexts(guides(list("aab"), "i"), context_keys="guide", min_cells=5)


# -- map_contexts ---------------------------------------------------------------------------------


def test_topics_are_shared_between_modalities_and_written_to_files(tmp_path, caplog):
    table = pd.DataFrame(
        {"gene": ["B", "A", "A", "Z", "A"], "complex": ["k2", "k2", "k1", "k9", "k1"]}
    )
    mdata = MuData({"image": guides(["A", None, "C"], "i"), "rna": guides(["B", "A"], "r")})
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        cf.pp.map_contexts(
            mdata, table, by="guide", source="gene", target="complex", key_added="complex"
        )
    assert mdata["image"].obsm["complex"].toarray().tolist() == [[1, 1], [0, 0], [0, 0]]
    assert mdata["rna"].obsm["complex"].toarray().tolist() == [[0, 1], [1, 1]]
    assert "2 of 3 cells are in none" in caplog.text
    mdata["image"].obs["guide"] = mdata["image"].obs["guide"].astype("category")
    mdata.write(tmp_path / "m.h5mu")
    again = mudata.read(tmp_path / "m.h5mu")
    for m in again.mod:
        assert list(again[m].uns["cellfuse"]["topics"]["complex"]) == ["k1", "k2"]
        assert sparse.issparse(again[m].obsm["complex"])


def test_numeric_labels_meet_their_text():
    a = guides([1, 2], "i")
    cf.pp.map_contexts(a, pd.DataFrame({"source": ["2"], "target": ["t"]}), by="guide")
    assert a.obsm["topics"].toarray().ravel().tolist() == [0, 1]


def test_table_without_a_common_gene_shows_both_sides():
    table = pd.DataFrame({"source": ["tp53"], "target": ["t"]})
    a = guides(["TP53"], "i")
    with pytest.raises(ValueError, match="'tp53'.*'TP53'.*upper or lower case"):
        cf.pp.map_contexts(a, table, by="guide")
    assert "topics" not in a.obsm


def test_missing_table_column_and_taken_key():
    a = guides(["A"], "i")
    table = pd.DataFrame({"sources": ["A"], "target": ["t"]})
    with pytest.raises(KeyError, match="Did you mean 'sources'"):
        cf.pp.map_contexts(a, table, by="guide")
    cf.pp.map_contexts(a, table, by="guide", source="sources")
    with pytest.raises(ValueError, match="exists"):
        cf.pp.map_contexts(a, table, by="guide", source="sources")
