"""The files of a simulated screen are read back as what they were written from."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import cellfuse as cf

PATTERN = r"(?P<well>[B-G]\d\d)_s(?P<site>\d)_"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return cf.datasets.simulated_files(tmp_path_factory.mktemp("files") / "screen")


def test_fields_hold_the_cells(folder):
    fields = cf.io.read_fields(
        folder / "images",
        pattern=PATTERN + r"(?P<channel>\w+)\.tif",
        labels=folder / "labels",
        labels_pattern=PATTERN + r"cells\.tif",
    )
    cells = cf.pp.crop_cells(fields, size=32)
    plate = pd.read_csv(folder / "plate_map.csv")
    assert len(fields) == 2 * len(plate) == 26
    assert cells.n_obs == 26 * 16
    assert not cells.obs["edge"].any()
    screen = cf.datasets.simulated_drugs(
        n_mechanisms=6, drugs_per_mechanism=2, cell_lines=["A549"], image_doses=[10.0],
        rna_doses=[10.0], rna_share=1.0, images_per_condition=32, controls=32,
        images_per_knockout=0, effect_size=3.0,
    )  # fmt: skip
    first = screen["image"][(screen["image"].obs["compound"] == plate["compound"][0]).to_numpy()]
    found = cells[(cells.obs["well"] == "B02").to_numpy()].obsm["crops"]
    wanted = first.obsm["crops"]
    assert found.shape == wanted.shape
    assert np.corrcoef(found.ravel().astype(float), wanted.ravel().astype(float))[0, 1] > 0.99


def test_expression_and_plate_map_name_the_same_drugs(folder):
    rna = cf.io.read_gct(folder / "expression.gct.gz")
    plate = pd.read_csv(folder / "plate_map.csv")
    assert set(rna.obs["pert_iname"]) - set(plate["compound"]) == {"DMSO"}
    assert set(plate["compound"]) - set(rna.obs["pert_iname"]) == {"dmso 0.1%"}
    assert rna.X.min() >= 0 and rna.X.sum() > 0


def test_a_folder_that_is_there_is_kept(folder):
    with pytest.raises(FileExistsError, match="overwrite=True"):
        cf.datasets.simulated_files(folder)


def test_only_what_it_wrote_is_replaced(tmp_path):
    """`overwrite=True` on a folder of the user's deletes nothing."""
    mine = tmp_path / "mine"
    (mine / "images").mkdir(parents=True)
    (mine / "thesis.docx").write_text("years")
    with pytest.raises(FileExistsError, match="is left alone"):
        cf.datasets.simulated_files(mine, overwrite=True)
    assert (mine / "thesis.docx").read_text() == "years"
    ours = cf.datasets.simulated_files(tmp_path / "screen", seed=0)
    before = (ours / "expression.gct.gz").read_bytes()
    cf.datasets.simulated_files(ours, seed=1, overwrite=True)
    assert (ours / "expression.gct.gz").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
