"""What was written before stays until what is new stands in its place."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cellfuse._files import put_in_place, write_csv


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
