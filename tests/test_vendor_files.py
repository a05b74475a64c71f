"""ND2, CZI and LIF through bioio: as its readers show them, and as real ones where it is here."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import cellfuse as cf
from cellfuse.io._pixels import read_pixels, series_of


class Scenes:
    """What bioio gives of a file: two positions, two channels, three focal planes."""

    scenes = ("Pos0", "Pos1")
    dims = SimpleNamespace(order="TCZYX")
    shape, dtype = (1, 2, 3, 4, 5), np.dtype("u2")
    channel_names = ("DAPI", "Channel:0:1")

    def __init__(self, path: Path) -> None:
        if path.stat().st_size == 0:
            raise OSError("nothing in it")
        self.scene, self.n_read = 0, 0

    def set_scene(self, i: int) -> None:
        self.scene = i

    @property
    def data(self) -> np.ndarray:
        return np.arange(120, dtype="u2").reshape(self.shape) + 1000 * self.scene


@pytest.fixture
def bioio(monkeypatch):
    found, base, errors = (ModuleType(n) for n in ("bioio", "bioio_base", "bioio_base.exceptions"))
    found.BioImage = Scenes
    errors.UnsupportedFileFormatError = type("UnsupportedFileFormatError", (Exception,), {})
    for module in (found, base, errors):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize("suffix", [".nd2", ".czi", ".LIF"])
def test_positions_of_a_microscope_file_are_read_by_name_or_number(tmp_path, bioio, suffix):
    path = tmp_path / f"plate{suffix}"
    path.write_bytes(b"x")
    assert series_of(path) == ["Pos0", "Pos1"]
    with pytest.raises(ValueError, match="holds 2 images"):
        read_pixels(path, z="max")
    pixels, names = read_pixels(path, series="Pos1", z="max")
    np.testing.assert_array_equal(pixels, Scenes(path).data[0].max(1) + 1000)
    assert names == ["DAPI", None]
    # The last one that was looked at is not the one that is read.
    np.testing.assert_array_equal(read_pixels(path, series=0, z=1)[0], Scenes(path).data[0][:, 1])


def test_they_are_fields_of_a_folder(tmp_path, bioio):
    (tmp_path / "A01.nd2").write_bytes(b"x")
    fields = cf.io.read_fields(
        tmp_path,
        pattern=r"(?P<well>[A-P]\d+)\.nd2",
        channels={0: "DNA", 1: "ER"},
        series="all",
        z="max",
    )
    assert [len(field.pixels) for field in fields] == [2, 2]


def test_a_damaged_file_and_a_missing_reader_are_named(tmp_path, bioio, monkeypatch):
    path = tmp_path / "plate.czi"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"plate.czi' is damaged, or truncated: nothing in it"):
        read_pixels(path)
    monkeypatch.setitem(sys.modules, "bioio", None)
    with pytest.raises(ImportError, match=r"pip install bioio-czi.*cellfuse\[bioio\]"):
        read_pixels(path)


def test_a_real_czi(tmp_path):
    written = pytest.importorskip("pylibCZIrw.czi")
    pytest.importorskip("bioio_czi")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 4000, (2, 32, 48), dtype="u2")
    path = tmp_path / "plate.czi"
    with written.create_czi(str(path)) as out:
        for c, plane in enumerate(image):
            out.write(plane[..., None], plane={"C": c, "T": 0, "Z": 0})
        out.write_metadata("plate", channel_names={0: "DNA", 1: "ER"})
    pixels, names = read_pixels(path)
    np.testing.assert_array_equal(pixels, image)
    assert pixels.dtype == np.uint16 and names == ["DNA", "ER"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"plate.czi"):
        read_pixels(path)
