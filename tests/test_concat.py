"""Both modalities as one AnnData."""

from __future__ import annotations

import numpy as np
import pytest

import cellfuse as cf


@pytest.fixture
def mdata():
    screen = cf.datasets.simulated_screen(30, n_targets=4, complex_size=2, cells_per_guide=3)
    for name, adata in screen.mod.items():
        adata.obsm["X_z"] = np.full((adata.n_obs, 3), float(name == "rna"), np.float32)
    return screen


def test_cells_stand_below_each_other_with_what_each_modality_says_of_them(mdata):
    mdata["rna"].obs["phase"] = "G1"
    cells = cf.io.concat(mdata, "X_z")
    image = cells.obs["modality"] == "image"
    assert cells.n_obs == mdata.n_obs and image.sum() == mdata["image"].n_obs
    assert (cells.obsm["X_z"][~image.to_numpy()] == 1).all()
    assert (cells.obsm["X_z"][image.to_numpy()] == 0).all()
    assert cells.obs["phase"].isna().equals(image)
    assert cells.obs.loc[image, "guide"].tolist() == mdata["image"].obs["guide"].tolist()
    assert "modality" not in mdata["image"].obs


def test_a_key_for_each_modality(mdata):
    mdata["rna"].obsm["X_other"] = mdata["rna"].obsm["X_z"] + 1
    cells = cf.io.concat(mdata, {"image": "X_z", "rna": "X_other"})
    assert set(cells.obsm["X_joint"].ravel()) == {0.0, 2.0}


def test_what_is_no_joint_space_is_refused(mdata):
    with pytest.raises(KeyError, match="X_y"):
        cf.io.concat(mdata, "X_y")
    with pytest.raises(ValueError, match="obs\\['guide'\\] exists in modality 'image'"):
        cf.io.concat(mdata, "X_z", label="guide")
    mdata["rna"].obsm["X_z"] = mdata["rna"].obsm["X_z"][:, :2]
    with pytest.raises(ValueError, match="different dimensions.*no joint space"):
        cf.io.concat(mdata, "X_z")


def test_paired_names_are_refused():
    paired = cf.datasets.simulated_screen(30, n_targets=4, complex_size=2, cells_per_guide=3)
    parts = {name: paired[name][:20].copy() for name in paired.mod}
    for adata in parts.values():
        adata.obs_names = [f"cell-{i}" for i in range(20)]
        adata.obsm["X_z"] = np.zeros((20, 2), np.float32)
    with pytest.raises(ValueError, match="20 obs names.*prefix_names"):
        cf.io.concat(cf._mudata.make_mudata(parts), "X_z")
