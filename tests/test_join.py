"""Joining modalities whose contexts are spelled differently."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellfuse as cf
from cellfuse.pp.crops import crop_cells


def modality(labels, *, key: str = "gene", prefix: str = "i", **columns) -> ad.AnnData:
    obs = pd.DataFrame({key: labels, **columns}, index=[f"{prefix}{i}" for i in range(len(labels))])
    adata = ad.AnnData(sp.csr_matrix(np.eye(len(labels), 3, dtype="f4")), obs=obs)
    adata.var_names = [f"{prefix}-{name}" for name in adata.var_names]
    adata.obsm["emb"] = np.ones((len(labels), 2))
    adata.uns["cellfuse"] = {"written": {}}
    return adata


def pair() -> dict[str, ad.AnnData]:
    return {
        "image": modality(["STAT1", "STAT1", "stat1", "NTC", "JAK2"]),
        "rna": modality(["Stat1 ", "non-targeting", "IRF1", "jak2  x"], prefix="r"),
    }


def test_labels_get_the_spelling_of_the_first_modality():
    mdata, report = cf.io.join(
        **pair(),
        context_keys="gene",
        aliases={"Non-Targeting": "NTC", "JAK2 X": "JAK2", "vehicle": "NTC"},
        control_key="gene",
        control="NTC",
    )
    assert mdata["image"].obs["gene"].tolist() == ["STAT1", "STAT1", "STAT1", "NTC", "JAK2"]
    assert mdata["rna"].obs["gene"].tolist() == ["STAT1", "NTC", "IRF1", "JAK2"]
    assert report.shared == ["JAK2", "NTC", "STAT1"]
    assert report.only == {"image": [], "rna": ["IRF1"]}
    assert report.contexts.loc["STAT1"].tolist() == [3, 1]
    assert report.controls == {"image": 1, "rna": 1}
    assert report.cells.loc["rna"].to_dict() == {
        "cells": 4, "in_shared": 3, "in_own": 1, "controls": 1,
    }  # fmt: skip
    assert report.renamed.to_numpy().tolist() == [
        ["image", "gene", "stat1", "STAT1", 1],
        ["rna", "gene", "Stat1 ", "STAT1", 1],
        ["rna", "gene", "non-targeting", "NTC", 1],
        ["rna", "gene", "jak2  x", "JAK2", 1],
    ]
    assert report.unused_aliases == ["vehicle"]
    assert cf.data.Contexts.from_modalities(mdata.mod, "gene").table.shape == (4, 1)


def test_the_report_is_printed_and_can_be_silent(capsys):
    mods = pair()
    _, report = cf.io.join(**mods, context_keys="gene")
    printed = capsys.readouterr().out
    assert printed == f"{report}\n"
    assert "1 of 6 contexts are in every modality." in printed
    assert "2 are in 'image' only: 'JAK2', 'NTC'." in printed
    cf.io.join(**mods, context_keys="gene", verbose=False)
    assert capsys.readouterr().out == ""


def test_nothing_of_the_users_is_changed_or_copied():
    mods = pair()
    before = {name: adata.copy() for name, adata in mods.items()}
    mdata, _ = cf.io.join(**mods, context_keys="gene", prefix_names=True)
    mdata["image"].obs["new"] = 1
    mdata["image"].uns["cellfuse"]["written"]["x"] = "y"
    mdata["image"].obsm["new"] = np.zeros((5, 1))
    for name, adata in mods.items():
        pd.testing.assert_frame_equal(adata.obs, before[name].obs)
        assert adata.obs_names.equals(before[name].obs_names)
        assert adata.uns == before[name].uns
        assert list(adata.obsm) == ["emb"]
        assert np.shares_memory(mdata[name].X.data, adata.X.data)
        assert np.shares_memory(mdata[name].obsm["emb"], adata.obsm["emb"])


def test_names_that_collide_are_an_error_with_its_mend():
    mods = {"image": modality(["a", "b"]), "rna": modality(["a", "b"], prefix="r")}
    mods["rna"].obs_names = mods["image"].obs_names
    with pytest.raises(
        ValueError,
        match=r"2 obs names are in modality 'image' and in 'rna' \('i0', 'i1'\).*`prefix_",
    ):
        cf.io.join(**mods, context_keys="gene")
    mdata, _ = cf.io.join(**mods, context_keys="gene", prefix_names=True)
    assert mdata["rna"].obs_names.tolist() == ["rna-i0", "rna-i1"]
    assert mdata.n_obs == 4
    mods["rna"].obs_names = ["x", "x"]
    with pytest.raises(ValueError, match="obs names of modality 'rna' occur twice: 'x'"):
        cf.io.join(**mods, context_keys="gene")


def test_paired_cells_keep_their_names():
    mods = {"image": modality(["a", "B"]), "rna": modality(["A", "b"], prefix="r")}
    mods["rna"].obs_names = mods["image"].obs_names
    mdata, report = cf.io.join(**mods, context_keys="obs_names")
    assert mdata.n_obs == 2
    assert report.shared == ["i0", "i1"]
    assert mdata["image"].obs["gene"].tolist() == ["a", "B"]
    with pytest.raises(ValueError, match="prefix_names=True makes names differ"):
        cf.io.join(**mods, context_keys="obs_names", prefix_names=True)


def test_several_keys_under_other_names():
    image = modality(["X", "Y", "X"], key="Metadata_cpd", line=["A375", "A375", "U2OS"])
    rna = modality(["x", "y"], key="pert", prefix="r", cell=["a375", "A375"])
    mdata, report = cf.io.join(
        image=image,
        rna=rna,
        context_keys={"image": ["Metadata_cpd", "line"], "rna": ["pert", "cell"]},
        key_added=["compound", "cell_line"],
    )
    assert report.shared == ["X | A375", "Y | A375"]
    assert mdata["rna"].obs["compound"].tolist() == ["X", "Y"]
    assert mdata["rna"].obs["cell"].tolist() == ["a375", "A375"]
    with pytest.raises(ValueError, match="`context_keys` of modality 'rna' names 1 columns"):
        cf.io.join(image=image, rna=rna, context_keys={"image": ["line", "line"], "rna": "cell"})


def test_numbers_and_case():
    image = modality([1.0, 10.0], key="dose")
    rna = modality(["1", "10 "], key="dose", prefix="r")
    _, report = cf.io.join(image=image, rna=rna, context_keys="dose")
    assert report.shared == ["1", "10"]
    image, rna = modality(["a1", "A1"]), modality(["A1", "a1 "], prefix="r")
    _, merged = cf.io.join(image=image, rna=rna, context_keys="gene")
    assert merged.shared == ["A1"]
    _, apart = cf.io.join(image=image, rna=rna, context_keys="gene", ignore_case=False)
    assert apart.shared == ["A1", "a1"]


def test_other_mistakes_are_told():
    mods = pair()
    with pytest.raises(KeyError, match="'guide' is not in obs of modality 'image'"):
        cf.io.join(**mods, context_keys="guide")
    with pytest.raises(ValueError, match="no context is in every modality.*'rna' has 'x'.*aliases"):
        cf.io.join(image=mods["image"], rna=modality(["x"], prefix="r"), context_keys="gene")
    with pytest.raises(ValueError, match="two modalities or more"):
        cf.io.join(image=mods["image"], context_keys="gene")
    with pytest.raises(TypeError, match="modality 'rna' is a ndarray"):
        cf.io.join(image=mods["image"], rna=np.ones(3), context_keys="gene")
    with pytest.raises(ValueError, match="`control` and `control_key` together"):
        cf.io.join(**mods, context_keys="gene", control="NTC")
    with pytest.raises(KeyError, match="'NTD' is not in obs.*Did you mean 'NTC'"):
        cf.io.join(**mods, context_keys="gene", control="NTD", control_key="gene")
    mods["rna"].obs.loc["r0", "gene"] = None
    with pytest.raises(ValueError, match="of modality 'rna' is missing"):
        cf.io.join(**mods, context_keys="gene")


def test_crops_on_disk_stay_there(tmp_path):
    labels = np.zeros((20, 20), int)
    labels[5:8, 5:8], labels[12:15, 12:15] = 1, 2
    field = cf.io.Field(np.ones((2, 20, 20), np.uint8), ("a", "b"), {"well": "A1"}, labels=labels)
    cells = crop_cells(field, size=8, store=tmp_path / "cells.zarr")
    cells.obs["gene"] = ["A", "B"]
    mdata, _ = cf.io.join(image=cells, rna=modality(["a", "b"], prefix="r"), context_keys="gene")
    assert type(mdata["image"].obsm["crops"]).__module__.startswith("zarr")
