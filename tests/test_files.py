"""What was written before stays until what is new stands in its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from cellfuse._files import put_in_place


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
