"""AnnData and MuData access: what is refused, what the text says, and provenance."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy import sparse

from cellfuse import _access as access
from cellfuse import _provenance as provenance
from cellfuse._errors import MissingKeyError, listing, missing_key


@pytest.fixture
def cells():
    obs = pd.DataFrame(
        {"gene": ["A", "NTC", None, "B"], "well": ["w1", "w1", "w2", "w2"]},
        index=[f"c{i}" for i in range(4)],
    )
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    return ad.AnnData(x.copy(), obs=obs, obsm={"emb": x.copy()})


def test_only_anndata_and_mudata_are_taken(cells):
    assert not access.is_mudata(cells)
    assert access.is_mudata(MuData({"image": cells}))
    with pytest.raises(TypeError, match="found DataFrame"):
        access.is_mudata(cells.obs)


def test_mudata_without_modality_is_refused():
    with pytest.raises(ValueError, match="no modality"):
        access.modalities(MuData({}))


def test_profiles_only_points_to_aggregate(cells):
    with pytest.raises(TypeError, match="aggregate"):
        access.profiles_only(MuData({"image": cells}))


def test_per_modality_takes_a_value_or_a_dict():
    assert access.per_modality("well", "image", name="batch_key") == "well"
    assert access.per_modality({"image": "well"}, "image", name="batch_key") == "well"
    with pytest.raises(KeyError, match="'rna' is not in the dict given as `batch_key`"):
        access.per_modality({"image": "well"}, "rna", name="batch_key")


def test_missing_column_shows_the_close_one(cells):
    with pytest.raises(KeyError, match="Did you mean 'gene'"):
        access.obs_column(cells, "genes")


def test_missing_values_in_a_column_are_counted(cells):
    with pytest.raises(ValueError, match="1 of 4"):
        access.obs_column(cells, "gene")


def test_joint_labels_of_several_columns(cells):
    labels = access.context_labels(cells[[0, 1]], ["gene", "well"])
    assert labels.tolist() == ["A | w1", "NTC | w1"]


def test_control_mask_and_its_error(cells):
    assert access.control_mask(cells, "gene", "NTC").tolist() == [False, True, False, False]
    assert access.control_mask(cells, "gene", ["NTC", "A"]).sum() == 2
    with pytest.raises(KeyError, match="Did you mean 'NTC'.*None to use all cells"):
        access.control_mask(cells, "gene", "NTCs")


@pytest.mark.parametrize("stored", [int, float, str, bool])
@pytest.mark.parametrize("categorical", [False, True])
def test_a_control_may_be_a_number(stored, categorical):
    labels = pd.Series([0, 1, 1, 0], index=list("abcd")).astype(stored)
    obs = pd.DataFrame({"dose": labels.astype("category") if categorical else labels})
    cells = ad.AnnData(obs=obs)
    for control in (False,) if stored is bool else (0, 0.0, "0", "0.0", [0], np.int64(0)):
        assert access.control_mask(cells, "dose", control).tolist() == [True, False, False, True]
    with pytest.raises(KeyError, match="'7' is not in obs"):
        access.control_mask(cells, "dose", 7)


@pytest.mark.parametrize("categorical", [False, True])
def test_a_missing_label_is_no_control(cells, categorical):
    if categorical:
        cells.obs["gene"] = cells.obs["gene"].astype("category").cat.add_categories("unused")
    assert access.control_mask(cells, "gene", ["A", "B"]).tolist() == [True, False, False, True]
    for label in ("None", "nan", "unused"):
        with pytest.raises(KeyError, match=f"'{label}' is not in obs"):
            access.control_mask(cells, "gene", label)


def test_representation_checks_key_and_shape(cells):
    assert access.representation(cells, None) is not None
    with pytest.raises(KeyError, match="Did you mean 'emb'"):
        access.representation(cells, "embd")
    cells.obsm["crops"] = np.zeros((4, 2, 3, 3))
    with pytest.raises(ValueError, match=r"shape \(4, 2, 3, 3\)"):
        access.representation(cells, "crops")
    with pytest.raises(ValueError, match="X is empty"):
        access.representation(ad.AnnData(obs=cells.obs), None)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_matrix])
def test_non_finite_values_are_counted_with_their_row(bad, convert):
    values = np.ones((3, 2), dtype=np.float32)
    values[1, 1] = bad
    with pytest.raises(ValueError, match="1 NaN or infinite values .first in row 1"):
        access.check_finite(convert(values), "X")


def test_finite_values_whose_sum_overflows_pass():
    access.check_finite(np.full((10, 2), 1e308), "X")


def test_views_are_refused(cells):
    access.refuse_view(cells)
    with pytest.raises(ValueError, match="view"):
        access.refuse_view(cells[:2])


def test_provenance_survives_subsetting_and_files(cells, tmp_path):
    provenance.record(cells, "emb", "whiten", {"method": "zca"})
    cells.obs["gene"] = cells.obs["gene"].fillna("none")
    cells[[3, 1]].copy().write_h5ad(tmp_path / "cells.h5ad")
    again = ad.read_h5ad(tmp_path / "cells.h5ad")
    assert provenance.recorded(again, "emb") == {"whiten": {"method": "zca"}}
    with pytest.raises(ValueError, match="overwrite=True"):
        provenance.refuse_twice(again, "emb", "whiten", overwrite=False)
    provenance.refuse_twice(again, "emb", "whiten", overwrite=True)
    provenance.refuse_twice(again, "emb", "robust_center_scale", overwrite=False)


def test_another_array_does_not_inherit_the_note(cells):
    provenance.record(cells, "emb", "whiten", {})
    cells.obsm["emb"] = cells.obsm["emb"] + 1
    assert provenance.recorded(cells, "emb") == {}


def test_note_on_an_absent_array_is_empty(cells):
    provenance.record(cells, "emb", "whiten", {})
    del cells.obsm["emb"]
    assert provenance.recorded(cells, "emb") == {}


def test_record_keeps_the_past_of_an_overwritten_array(cells):
    provenance.record(cells, "emb", "robust_center_scale", {})
    past = provenance.recorded(cells, "emb")
    cells.obsm["emb"] *= 2
    provenance.record(cells, "emb", "whiten", {}, past=past)
    assert list(provenance.recorded(cells, "emb")) == ["robust_center_scale", "whiten"]


def test_provenance_with_duplicate_names_and_sparse_x():
    cells = ad.AnnData(sparse.csr_matrix(np.eye(3, dtype=np.float32)))
    provenance.record(cells, None, "whiten", {})
    cells.obs_names = ["a", "a", "b"]
    assert "whiten" in provenance.recorded(cells, None)


def test_a_witness_is_a_name_that_occurs_once_wherever_it_lies():
    names = ["twice"] * 900 + [f"cell-{i}" for i in range(5)] + ["twice"] * 95
    cells = ad.AnnData(np.arange(1000.0, dtype=np.float32)[:, None])
    cells.obs_names = names
    provenance.record(cells, None, "whiten", {})
    assert "whiten" in provenance.recorded(cells, None)
    cells.X[903] += 1  # another array
    assert provenance.recorded(cells, None) == {}


@pytest.mark.parametrize("missing", [False, True])
def test_codes_of_contexts_are_those_of_their_labels(missing):
    rng = np.random.default_rng(0)
    words = np.array(["b", "a | b", "a", "10", "9", None], dtype=object)
    end = len(words) if missing else -1
    obs = pd.DataFrame({k: rng.choice(words[:end], 200) for k in "xyz"}, dtype=object)
    obs["y"] = pd.Categorical(obs["y"], categories=["unused", *words[:5]])
    obs.index = [str(i) for i in range(200)]
    cells = ad.AnnData(obs=obs)
    for keys in ("x", ["y"], ["x", "y"], ["z", "x", "y"]):
        columns = obs[[keys] if isinstance(keys, str) else keys].astype(object)
        rows = columns.where(columns.notna(), None).to_numpy(object).tolist()
        text = [" | ".join(row) if pd.notna(row).all() else None for row in rows]
        assert access.context_labels(cells, keys, missing=missing).tolist() == text
        codes, names = access.context_codes(cells, keys, missing=missing)
        expected, found = pd.factorize(np.array(text, dtype=object), sort=True)
        assert codes.tolist() == expected.tolist()
        assert names.tolist() == found.tolist()
    nobody = ad.AnnData(obs=pd.DataFrame({"x": [None, None]}, index=list("ab"), dtype=object))
    codes, names = access.context_codes(nobody, ["x", "x"], missing=True)
    assert (codes.tolist(), names.tolist()) == ([-1, -1], [])


def test_forget_drops_the_note(cells):
    provenance.record(cells, "emb", "whiten", {})
    provenance.forget(cells, "emb")
    assert provenance.recorded(cells, "emb") == {}


def test_error_text_is_printed_as_written():
    error = missing_key("guid", ["guide"], what="obs", fix="Do this.")
    assert isinstance(error, MissingKeyError)
    assert str(error) == "'guid' is not in obs; found: 'guide'. Did you mean 'guide'? Do this."
    assert str(MissingKeyError()) == ""


def test_listing_is_cut():
    assert listing(range(4), limit=2) == "'0', '1' and 2 more"
    assert listing([]) == "none"


def test_a_dose_of_1_and_of_1_0_is_one_label() -> None:
    cells = ad.AnnData(np.zeros((2, 1)), obs=pd.DataFrame({"dose": [1.0, 2.5]}, index=["a", "b"]))
    assert access.context_labels(cells, "dose").tolist() == ["1", "2.5"]
    cells.obs["dose"] = cells.obs["dose"].astype("category")
    assert access.context_labels(cells, "dose").tolist() == ["1", "2.5"]


@pytest.mark.parametrize("given", [0, 0.0, "0", [0], ("0",)])
def test_labels_are_one_or_several_texts_or_numbers(given) -> None:
    assert access.label_list(given) == ["0"]
    assert access.label_list("DMSO") == ["DMSO"]
    assert access.label_list(["DMSO", 1.0]) == ["DMSO", "1"]  # beside text as well
    assert access.label_list([0.1, 1.0]) == ["0.1", "1"]


@pytest.mark.parametrize("kind", ["dense", "csr"])
def test_arrays_on_disk_are_read_or_refused(cells, tmp_path, kind) -> None:
    stored = cells.copy()
    stored.X = stored.X if kind == "dense" else sparse.csr_matrix(stored.X)
    stored.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    if kind == "csr":
        with pytest.raises(TypeError, match="X is a sparse matrix on disk.*to_memory"):
            access.representation(backed, None)
    else:
        rows = np.array([2, 0, 2, 3])  # in any order, with repeats
        found = access.take_rows(access.representation(backed, None), rows)
        assert np.array_equal(found, cells.X[rows])
    backed.file.close()
