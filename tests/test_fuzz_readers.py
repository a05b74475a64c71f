"""Readers under noise: right, or an error that names the file; never a crash, never a hang."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import pandas as pd
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cellfuse as cf

#: What a reader may raise about a file.
TOLD = (ValueError, KeyError, ImportError)
quick = settings(
    max_examples=25,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def right_or_told(read: Callable[[Path], object], file: Path) -> object | None:
    """What the reader gives, or None after an error that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(file)
        except TOLD as error:
            assert file.name in str(error), f"{type(error).__name__}: {error}"
            return None


READERS = {
    "p.csv": cf.io.read_profiles,
    "p.tsv": cf.io.read_profiles,
    "p.parquet": cf.io.read_profiles,
    "p.sqlite": cf.io.read_profiles,
    "p.gct": cf.io.read_gct,
    "p.tif": cf.io.read_field,
    "p.png": cf.io.read_field,
    "l.tif": cf.io.read_labels,
    "c.h5ad": cf.io.read_crops,
    "n.csv": lambda file: cf.datasets.reactome(path=file),
    "d.txt": lambda file: cf.datasets.drug_targets(path=file),
    "c.tsv": lambda file: cf.datasets.corum(path=file),
    "s.tsv": lambda file: cf.datasets.signor(path=file),
    "g.gmt": lambda file: cf.datasets.pathways(path=file),
}


def whole_files(folder: Path) -> dict[str, bytes]:
    """A small good file for each reader."""
    table = b"Metadata_Well,Cells_A,Cells_B\nA1,1,2.5\nA2,3,4\n"
    pixels = np.arange(2 * 12 * 15, dtype=np.uint16).reshape(2, 12, 15)
    tifffile.imwrite(folder / "x.ome.tif", pixels, ome=True, metadata={"axes": "CYX"})
    tifffile.imwrite(folder / "x.tif", np.diag(np.arange(12, dtype=np.uint16)), compression="zlib")
    with h5py.File(folder / "x.h5", "w") as stored:
        stored["0/DATA/0/matrix"] = np.ones((2, 1), "f4")
        stored["0/META/COL/id"] = [b"a", b"b"]
        stored["0/META/ROW/id"] = [b"g"]
    pd.DataFrame({"Cells_A": [1.0, 2.0]}).to_parquet(folder / "x.parquet")
    return {
        "p.csv": table,
        "p.tsv": gzip.compress(table.replace(b",", b"\t")),
        "p.parquet": (folder / "x.parquet").read_bytes(),
        "p.sqlite": b"SQLite format 3\0" + bytes(84),
        "p.gct": b"#1.3\n1\t2\t1\t1\nid\tsym\tA1\tA2\ndose\tna\t1\t2\ng\tTP53\t0.5\t1\n",
        "p.tif": (folder / "x.ome.tif").read_bytes(),
        "p.png": imagecodecs.png_encode(np.eye(12, dtype=np.uint16)),
        "l.tif": (folder / "x.tif").read_bytes(),
        "c.h5ad": (folder / "x.h5").read_bytes(),
        "n.csv": b"source,target\nA,B\n",
        "d.txt": b"!x\npert_iname\ttarget\nx\tA|B\n",
        "c.tsv": b"ComplexName\tOrganism\tsubunits(Gene name)\nx\tHuman\tA;B\n",
        "s.tsv": b"ENTITYA\tTYPEA\tENTITYB\tTYPEB\nA\tprotein\tB\tprotein\n",
        "g.gmt": b"x\ty\tA\tB\n",
    }


class Files(dict[str, bytes]):
    """Hypothesis prints what a failing test was given: not all bytes of all files."""

    def __repr__(self) -> str:
        return f"files {sorted(self)}"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(whole_files(tmp_path_factory.mktemp("good")))


@pytest.mark.parametrize("name", READERS)
@quick
@given(data=st.binary(max_size=300))
def test_noise_is_told(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    right_or_told(READERS[name], tmp_path / name)


#: Place of a byte, as a share of the file.
part = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize("name", READERS)
@quick
@given(changes=st.lists(st.tuples(part, st.binary(max_size=3)), min_size=1, max_size=4))
def test_good_files_with_some_bytes_changed_are_right_or_told(tmp_path, good, name, changes):
    data = bytearray(good[name])
    for where, change in changes:
        place = int(where * len(data))
        data[place : place + 1] = change
    (tmp_path / name).write_bytes(bytes(data))
    right_or_told(READERS[name], tmp_path / name)


def test_damage_of_what_pandas_says_of_itself_is_told(tmp_path, good):
    """Its note on the index, in the schema in base 64, has a "start"."""
    assert b"LCAic3RhcnQi" in good["p.parquet"]
    file = tmp_path / "p.parquet"
    file.write_bytes(good["p.parquet"].replace(b"LCAic3RhcnQi", b"LCAiS3RhcnQi"))
    with pytest.raises(ValueError, match=r"p\.parquet.* cannot be read as a table: 'start'"):
        cf.io.read_profiles(file)


def test_damage_is_told_where_pyarrow_raises_an_error_of_the_system(tmp_path, monkeypatch):
    """It names the file too, but has no number of the system's."""
    file = tmp_path / "p.parquet"
    file.write_bytes(b"PAR1")

    def read(path: Path) -> None:
        raise OSError(f"Could not open Parquet input source '{path}': invalid data")

    monkeypatch.setattr(pd, "read_parquet", read)
    with pytest.raises(ValueError, match="cannot be read as a table: Could not open"):
        cf.io.read_profiles(file)


@pytest.mark.parametrize("name", READERS)
def test_good_files_are_read_and_cut_ones_told(tmp_path, good, name):
    data = good[name]
    if name not in ("p.sqlite", "c.h5ad"):
        (tmp_path / name).write_bytes(data)
        assert READERS[name](tmp_path / name) is not None
    for size in range(0, len(data), max(1, len(data) // 25)):
        (tmp_path / name).write_bytes(data[:size])
        right_or_told(READERS[name], tmp_path / name)


#: Words of letters in several alphabets, without what separates fields, lines or quotes.
word = st.text("aB17µ€яß-_.'#=()", min_size=1, max_size=6)
number = st.floats(-1e6, 1e6, width=32)


@quick
@given(
    rows=st.lists(st.tuples(word, number), min_size=1, max_size=6),
    sep=st.sampled_from(",\t;"),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    behind=st.booleans(),
)
def test_a_table_that_was_written_is_what_is_read(tmp_path, rows, sep, end, encoding, behind):
    name = "p.tsv" if sep == "\t" else "p.csv"
    last = sep if behind else ""
    lines = [f"Metadata_word{sep}Metadata_x{sep}Cells_A{last}"]
    lines += [f'"{word}"{sep}"x{word}"{sep}{value!r}{last}' for word, value in rows]
    (tmp_path / name).write_bytes((end.join(lines) + end).encode(encoding))
    plate = cf.io.read_profiles(tmp_path / name)
    assert plate.obs["Metadata_x"].tolist() == [f"x{word}" for word, _ in rows]
    np.testing.assert_allclose(plate.X[:, 0], [value for _, value in rows], rtol=1e-6)


@quick
@given(
    n=st.integers(1, 4), height=st.integers(9, 14), width=st.integers(9, 14),
    dtype=st.sampled_from(["u1", "u2", "f4"]), seed=st.integers(0, 99),
    kind=st.sampled_from(["ome", "imagej", "plain", "appended"]),
)  # fmt: skip
def test_an_image_that_was_written_is_what_is_read(tmp_path, n, height, width, dtype, seed, kind):
    pixels = np.random.default_rng(seed).integers(0, 255, (n, height, width)).astype(dtype)
    file = tmp_path / "i.tif"
    if kind == "appended":
        for i, plane in enumerate(pixels):
            tifffile.imwrite(file, plane, append=i > 0)
    elif kind == "plain":
        tifffile.imwrite(file, pixels, photometric="minisblack")
    else:
        tifffile.imwrite(file, pixels, metadata={"axes": "CYX"}, **{kind: True})
    field = cf.io.read_field(file)
    np.testing.assert_array_equal(field.pixels, pixels)
    assert field.pixels.dtype == np.dtype(dtype)
