"""What was written before stays until what is new stands in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellfuse._files import put_in_place, write_csv, writing
from cellfuse._mudata import write_file


def folder(path: Path, text: str) -> Path:
    path.mkdir()
    (path / "file").write_text(text)
    return path


def test_the_new_takes_the_place_of_the_old(tmp_path):
    target = folder(tmp_path / "result", "old")
    put_in_place(folder(tmp_path / "beside", "new"), target)
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


def test_the_old_comes_back_where_the_new_cannot_be_put(tmp_path):
    target = folder(tmp_path / "result", "old")
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "beside", target)
    assert (target / "file").read_text() == "old"


def test_labels_that_spreadsheets_would_run_stay_text(tmp_path):
    table = pd.DataFrame(
        {"=cmd": ['=HYPERLINK("x")', "+1", "-2+3", "@SUM(1)", "\t=1", "plain"], "x": [-1.5] * 6}
    )
    write_csv(table, tmp_path / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    found = pd.read_csv(tmp_path / "t.csv")
    assert list(found.columns) == ["'=cmd", "x"]
    assert found["'=cmd"].tolist() == [*(f"'{v}" for v in table["=cmd"][:5]), "plain"]
    assert found["x"].tolist() == [-1.5] * 6
    write_csv(table.astype({"=cmd": "category"}), tmp_path / "t.csv")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), found)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("file write failed: errno = 28, error message = 'No space left on device'"),
        OSError(30, "Read-only file system"),
    ],
)
def test_a_disk_that_takes_no_more_is_told_with_the_name_of_what_is_written(tmp_path, error):
    with pytest.raises(OSError, match=r"model' could not be written: .* What was there") as told:
        with writing(tmp_path / "model"):
            raise error
    assert told.value.__cause__ is error


def test_other_errors_pass_as_they_are(tmp_path):
    with pytest.raises(ValueError, match="^another$"), writing(tmp_path / "model"):
        raise ValueError("another")


def test_a_file_for_which_there_is_no_room_is_not_begun(tmp_path, monkeypatch):
    adata = ad.AnnData(np.ones((4, 3), np.float32))
    write_file(adata, tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OSError, match=r"x\.h5ad' could not be written: No space left"):
        write_file(adata, tmp_path / "x.h5ad")
    assert (tmp_path / "x.h5ad").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.h5ad"]
