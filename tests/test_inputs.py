"""What a model reads of a modality: kinds, names, refusals, statistics."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellfuse as cf
from cellfuse.data import (
    CellInput,
    Contexts,
    Members,
    check_values,
    gather,
    make_reader,
    statistics,
    training_rows,
)
from cellfuse.data import inputs as inputs_module


@pytest.fixture
def rna() -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        sp.csr_matrix(rng.poisson(2, (5, 4)).astype("f4")),
        var=pd.DataFrame(index=["A", "B", "C", "D"]),
    )
    adata.layers["raw"] = rng.poisson(1, (5, 4))
    adata.obsm["flat"] = rng.normal(size=(5, 3)).astype("f4")
    adata.obsm["tokens"] = rng.normal(size=(5, 6, 2)).astype("f4")
    adata.obsm["crops"] = rng.integers(0, 9, (5, 2, 8, 8), dtype=np.uint8)
    return adata


def resolve(adata: ad.AnnData, **given: object) -> CellInput:
    given = {"role": "image", "modality": "cells", "rep": None, **given}
    return CellInput.resolve(adata, **given)


# -- kinds and shapes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "place", "kind", "shape"),
    [
        ({}, "X", "values", (4,)),
        ({"counts": True}, "X", "counts", (4,)),
        ({"layer": "raw", "counts": True}, "layers", "counts", (4,)),
        ({"layer": "raw"}, "layers", "values", (4,)),
        ({"rep": "flat"}, "obsm", "values", (3,)),
        ({"rep": "flat", "counts": True}, "obsm", "values", (3,)),
        ({"rep": "tokens"}, "obsm", "tokens", (6, 2)),
        ({"rep": "crops"}, "obsm", "pixels", (2, 8, 8)),
    ],
)
def test_the_kind_follows_from_place_and_shape(rna, given, place, kind, shape):
    found = resolve(rna, **given)
    assert (found.place, found.kind, found.shape) == (place, kind, shape)
    assert found.names == (("A", "B", "C", "D") if place != "obsm" else None)
    assert found.reader(rna).shape == (5, *shape)


def test_the_layer_is_read_and_not_x(rna):
    read = gather(resolve(rna, layer="raw").reader(rna), np.arange(5))
    assert (read.numpy() == rna.layers["raw"]).all()


def test_channel_names_are_kept_where_uns_has_them(rna):
    rna.uns["channels"] = ["DNA", "ER"]
    assert resolve(rna, rep="crops").names == ("DNA", "ER")
    rna.uns["channels"] = ["DNA", "ER", "RNA"]  # of something else
    assert resolve(rna, rep="crops").names is None


@pytest.mark.parametrize("given", [{}, {"rep": "crops"}, {"layer": "raw", "counts": True}])
def test_an_input_survives_json(rna, given):
    rna.uns["channels"] = ["DNA", "ER"]
    found = resolve(rna, **given)
    assert CellInput.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_an_obsm_data_frame_is_read(rna):
    frame = pd.DataFrame(np.arange(10.0).reshape(5, 2), index=rna.obs_names, columns=["x", "y"])
    rna.obsm["frame"] = frame
    found = resolve(rna, rep="frame")
    assert (found.kind, found.shape) == ("values", (2,))
    assert (gather(found.reader(rna), np.array([4, 0])).numpy() == frame.to_numpy()[[4, 0]]).all()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rep": "crop"}, "'crop' is not in obsm of modality 'cells'.*Did you mean 'crops'"),
        ({"layer": "raws"}, "'raws' is not in layers of modality 'cells'.*Did you mean 'raw'"),
    ],
)
def test_a_missing_key_is_named_with_its_close_spelling(rna, given, message):
    with pytest.raises(KeyError, match=message):
        resolve(rna, **given)


def test_an_empty_modality_an_empty_x_and_a_fifth_axis_are_refused(rna):
    with pytest.raises(ValueError, match="modality 'cells' has no cells"):
        resolve(rna[:0])
    images = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    images.obsm["crops"] = np.zeros((2, 1, 2, 2))
    with pytest.raises(ValueError, match="X of modality 'cells' is empty.*'crops'"):
        resolve(images)
    images.obsm["stack"] = np.zeros((2, 1, 2, 2, 2))
    with pytest.raises(ValueError, match=r"has shape \(2, 1, 2, 2, 2\); expected"):
        resolve(images, rep="stack")


def test_repeated_gene_names_are_refused(rna):
    rna.var_names = ["A", "B", "A", "D"]
    with pytest.raises(ValueError, match="var_names of modality 'cells' repeat: 'A'"):
        resolve(rna)


# -- other data than was trained on ---------------------------------------------------------------


@pytest.mark.parametrize("given", [{}, {"layer": "raw"}])
def test_genes_are_matched_by_name(rna, given):
    reader = resolve(rna, **given).reader(rna[:, ["C", "A", "D", "B"]].copy())
    own = resolve(rna, **given).reader(rna)
    one, other = (gather(r, np.array([2, 0, 4])) for r in (reader, own))
    one, other = (x.dense() if hasattr(x, "dense") else x for x in (one, other))
    assert (one == other).all()


def test_genes_beyond_those_of_training_are_left_out(rna):
    part = rna[:, ["A", "C"]].copy()
    read = gather(resolve(part).reader(rna), np.arange(5)).dense()
    assert (read.numpy() == rna.X.toarray()[:, [0, 2]]).all()


def test_missing_genes_are_counted_and_named(rna):
    with pytest.raises(KeyError, match="2 of the 4 genes.*missing: 'B', 'D'"):
        resolve(rna).reader(rna[:, ["C", "A"]].copy())


def test_repeated_gene_names_in_other_data_are_refused(rna):
    other = rna.copy()
    other.var_names = ["A", "B", "A", "D"]
    with pytest.raises(ValueError, match="var_names of modality 'cells' repeat: 'A'"):
        resolve(rna).reader(other)


def test_a_missing_key_in_other_data_is_named(rna):
    bare = ad.AnnData(rna.X, var=rna.var)
    with pytest.raises(KeyError, match="'crops' is not in obsm"):
        resolve(rna, rep="crops").reader(bare)
    with pytest.raises(KeyError, match="'raw' is not in layers"):
        resolve(rna, layer="raw").reader(bare)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("crops", (5, 3, 8, 8), "has 3 channels; the model was trained on 2"),
        ("crops", (5, 2, 8, 9), r"shape \(2, 8, 9\); the model was trained on \(2, 8, 8\)"),
        ("flat", (5, 4), r"shape \(4,\); the model was trained on \(3,\)"),
        ("tokens", (5, 6, 3), r"shape \(6, 3\); the model was trained on \(6, 2\)"),
    ],
)
def test_cells_of_another_shape_are_refused(rna, key, shape, message):
    found = resolve(rna, rep=key)
    rna.obsm[key] = np.zeros(shape, rna.obsm[key].dtype)
    with pytest.raises(ValueError, match=message):
        found.reader(rna)


@pytest.mark.parametrize("channels", [["ER", "DNA"], ["DNA", "Mito"]])
def test_other_channels_are_refused_by_name(rna, channels):
    rna.uns["channels"] = ["DNA", "ER"]
    found = resolve(rna, rep="crops")
    rna.uns["channels"] = channels
    with pytest.raises(ValueError, match="trained on 'DNA', 'ER', in that order"):
        found.reader(rna)
    del rna.uns["channels"]
    assert found.reader(rna).shape == (5, 2, 8, 8)  # unnamed channels are taken on trust


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize(("value", "shown"), [(-1, "-1"), (0.5, "0.5"), (2.25, "2.25")])
def test_what_is_no_count_is_refused_with_the_fix(make, value, shown):
    counts = np.ones((3, 4), "f4")
    counts[1, 2] = value
    with pytest.raises(ValueError, match=f"found {shown}.*rna_layer.*rna_likelihood='mse'"):
        check_values(make_reader(make(counts)), "counts", "X")
    check_values(make_reader(make(counts)), "values", "X")


def test_negative_whole_numbers_are_no_counts():
    with pytest.raises(ValueError, match="whole numbers from 0; found -3"):
        check_values(make_reader(np.array([[1, -3]])), "counts", "X")


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("kind", ["counts", "values"])
@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf]])
def test_nan_and_inf_are_counted_and_refused(make, kind, bad):
    values = np.ones((3, 4), "f4")
    values[2, : len(bad)] = bad
    with pytest.raises(ValueError, match=f"X of 'm' holds {len(bad)} NaN or infinite values"):
        check_values(make_reader(make(values)), kind, "X of 'm'")


def test_large_finite_values_are_not_called_infinite():
    check_values(make_reader(np.full((2, 2), 1e308)), "values", "X")


def test_a_bad_value_far_down_a_long_array_is_found(monkeypatch):
    monkeypatch.setattr(inputs_module, "SWEEP_BYTES", 64)
    values = np.ones((100, 4), "f4")
    values[77, 1] = np.nan
    with pytest.raises(ValueError, match="1 NaN or infinite values between rows 76 and 79.*'77'"):
        check_values(make_reader(values), "values", "X")


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_rows_with_bad_values_are_named(make):
    values = np.zeros((6, 3), "f4")
    values[[1, 4], [2, 0]] = np.nan, np.inf
    names = pd.Index([f"cell{i}" for i in range(6)])
    with pytest.raises(ValueError, match="2 NaN or infinite values .*, in 'cell1', 'cell4'"):
        check_values(make_reader(make(values)), "values", "X", names=names)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_none_are_told_at_setup_by_their_cells(bad):
    crops = np.zeros((5, 2, 8, 8), np.float32)
    crops[3, 1, 2, 2] = bad
    cells = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(5)]))
    cells.obsm["crops"] = crops
    with pytest.raises(ValueError, match=r"obsm\['crops'\].* holds 1 NaN .*, in 'cell3'"):
        cf.MAE.setup_anndata(cells, image_rep="crops")


# -- statistics -----------------------------------------------------------------------------------

AXES = {"pixels": (0, 2, 3), "tokens": (0, 1), "values": (0,)}
SHAPES = {"pixels": (40, 3, 4, 4), "tokens": (40, 5, 6), "values": (40, 7)}


@pytest.mark.parametrize("kind", list(AXES))
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_mean_and_sd_are_those_of_numpy(kind, offset, monkeypatch):
    monkeypatch.setattr(inputs_module, "SWEEP_BYTES", 500)  # several pieces
    rng = np.random.default_rng(0)
    array = (rng.normal(0, 0.1, SHAPES[kind]) + offset).astype("f4")
    rows = np.sort(rng.permutation(40)[:30])
    mean, sd = statistics(make_reader(array), kind, rows, seed=0)
    exact = array[rows].astype("f8")
    np.testing.assert_allclose(mean, exact.mean(axis=AXES[kind]), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(sd, exact.std(axis=AXES[kind]), rtol=1e-9)


def test_bytes_do_not_overflow_in_the_statistics():
    images = np.random.default_rng(0).integers(200, 256, (40, 2, 8, 8), dtype=np.uint8)
    mean, sd = statistics(make_reader(images), "pixels", np.arange(40), seed=0)
    np.testing.assert_allclose(mean, images.mean(axis=(0, 2, 3)))
    np.testing.assert_allclose(sd, images.std(axis=(0, 2, 3)))


def test_zeros_of_sparse_values_count():
    dense = np.random.default_rng(0).poisson(0.5, (40, 5)).astype("f4")
    mean, sd = statistics(make_reader(sp.csr_matrix(dense)), "values", np.arange(40), seed=0)
    np.testing.assert_allclose(mean, dense.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(sd, dense.std(axis=0), rtol=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678])
def test_a_constant_feature_has_no_spread(constant):
    values = np.random.default_rng(0).normal(size=(1001, 2))
    values[:, 1] = constant
    mean, sd = statistics(make_reader(values), "values", np.arange(1001), seed=0)
    assert sd[0] > 0
    assert sd[1] == 0
    assert mean[1] == pytest.approx(constant)


def test_a_feature_of_tiny_scale_is_not_constant():
    values = 1e-8 * np.random.default_rng(0).normal(size=(100, 1))
    _, sd = statistics(make_reader(values), "values", np.arange(100), seed=0)
    assert sd[0] == pytest.approx(values.std())


def test_a_sample_of_a_large_modality_is_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(inputs_module, "MAX_STATISTICS_CELLS", 10)
    reader = make_reader(np.random.default_rng(0).normal(size=(1000, 1)))
    one, again, other = (statistics(reader, "values", np.arange(1000), seed=s) for s in (0, 0, 1))
    assert one[0] == again[0]
    assert one[0] != other[0]


# -- training and validation cells ----------------------------------------------------------------


def contexts(label: list[int]) -> Contexts:
    members = {"rna": Members.from_codes(np.array(label), 3)}
    return Contexts(pd.DataFrame(index=range(3)), members, {"rna": len(label)})


def test_the_same_share_of_every_context_is_held_out():
    label = [0] * 10 + [1] * 5 + [2]
    train, held = training_rows(contexts(label), 0.4, seed=0)
    assert (train["rna"] == ~held["rna"]).all()
    assert np.bincount(np.array(label)[held["rna"]], minlength=3).tolist() == [4, 2, 0]


def test_held_out_cells_are_drawn_by_the_seed():
    one, again, other = (training_rows(contexts([0] * 40), 0.5, s)[1]["rna"] for s in (0, 0, 1))
    assert (one == again).all()
    assert (one != other).any()
    assert one[:20].sum() not in (0, 20)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_beyond_its_range_is_refused(share):
    with pytest.raises(ValueError, match="validation_size"):
        training_rows(contexts([0, 1, 2]), share, seed=0)


def test_a_context_keeps_a_training_cell_although_cells_stand_in_several():
    # Each of 12 cells in two of 12 contexts of two cells each: a ring.
    rows = np.array([[i, (i + 1) % 12] for i in range(12)]).ravel()
    members = Members(np.arange(0, 25, 2), rows)
    ring = Contexts(pd.DataFrame(index=range(12)), {"rna": members}, {"rna": 12})
    for seed in range(20):
        train, _ = training_rows(ring, 0.5, seed)
        kept = ring.restricted(train).members["rna"].counts
        assert (kept > 0).all()
