"""Files from strangers: nothing is executed, nothing of another file is read, damage is named."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
from contextlib import closing
from unittest.mock import patch

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import zarr
from screens import make_screen

import cellfuse as cf
from cellfuse.bench._condition import rows_where
from cellfuse.data import BlockReader
from cellfuse.model.base.keeping import read_checkpoint

OBS = pd.DataFrame({"guide": ["a", "b"], "my n": [1, 2]}, index=["c0", "c1"])


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def crops_file(path):
    with h5py.File(path, "w") as file:
        ad.io.write_elem(file, "obs", pd.DataFrame(index=["c0"]))
        file.create_group("obsm")
    return path


@pytest.mark.parametrize("kind", ["link", "bytes", "virtual"])
def test_an_hdf5_file_hands_out_nothing_of_another(tmp_path, kind):
    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.zeros((1, 1, 8, 8), "u1")
    path = crops_file(tmp_path / "c.h5ad")
    with h5py.File(path, "r+") as file:
        if kind == "link":
            file["obsm/crops"] = h5py.ExternalLink("secret.h5", "x")
        elif kind == "bytes":
            outside = [(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            file.create_dataset("obsm/crops", (1, 1, 8, 8), "u1", external=outside)
        else:
            layout = h5py.VirtualLayout((1, 1, 8, 8), "u1")
            layout[:] = h5py.VirtualSource(tmp_path / "secret.h5", "x", (1, 1, 8, 8))
            file.create_virtual_dataset("obsm/crops", layout)
    with pytest.raises(ValueError, match=r"'/?obsm/crops' of .*c\.h5ad.*not read"):
        cf.io.read_crops(path)


def test_a_zarr_store_whose_codec_executes_is_not_read(tmp_path):
    path = tmp_path / "c.zarr"
    ad.AnnData(obs=OBS, obsm={"crops": np.zeros((2, 1, 4, 4), "u1")}).write_zarr(path)
    index = path / "obs" / "_index"
    shutil.rmtree(index)
    index.mkdir()
    array = {
        "zarr_format": 2, "shape": [2], "chunks": [2], "dtype": "|O", "order": "C",
        "fill_value": None, "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (index / ".zarray").write_text(json.dumps(array))
    (index / "0").write_bytes(pickle.dumps(Trap(tmp_path / "executed")))
    with pytest.raises(ValueError, match="codec 'pickle', which executes"):
        cf.io.read_crops(path)
    with pytest.raises(ValueError, match="codec 'pickle', which executes"):
        cf.io.write_store(path, tmp_path / "s.zarr", context_keys="guide")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "keep",
    [
        "guide.to_csv('{}') == 1",
        "guide == '`' or guide.to_csv('{}') == '`'",
        'guide == "`" or guide.to_csv("{}") == "`"',
        r"guide == '\'`' or guide.to_csv('{}') == '`'",
        "`my n` == '`' or `my n`.to_csv('{}') == 1",
        "guide == 'a'\nx = guide.to_csv('{}')",
        "__import__('os').mkdir('{}')",
        "@pd.read_pickle('{}')",
        "().__class__",
        "`my n` ** 9 ** 9 ** 9 > 1",
        "1",
        "(" * 2_000,
    ],
)
def test_a_condition_calls_nothing(tmp_path, keep):
    with pytest.raises(ValueError, match="is no condition on obs"):
        rows_where(OBS, keep.format(tmp_path / "executed"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("guide == 'a'", [True, False]),
        ("`my n` > 1 and guide in ['a', 'b']", [False, True]),
        ("guide != 'a`b`c' and `my n` < 2", [True, False]),
        ("guide == 'a' # \u2028 x = guide.to_csv('executed')", [True, False]),
        ("not (`my n` + 1 <= 2) | (guide != 'a')", [False, True]),
    ],
)
def test_a_condition_compares_and_joins(keep, expected):
    assert rows_where(OBS, keep).tolist() == expected


def test_a_view_without_an_end_is_ended(tmp_path):
    path = tmp_path / "p.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE Image (ImageNumber INT, A REAL)")
        database.execute(
            "CREATE VIEW Cells AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)"
            " SELECT x AS ObjectNumber, 1 AS ImageNumber FROM n WHERE x < 0"
        )
        database.commit()
    with pytest.raises(ValueError, match=r"p\.sqlite.*interrupted"):
        cf.io.read_profiles(path)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("indices", 2**30, "beyond its columns"),
        ("indices", -1, "beyond its columns"),
        ("indptr", 2**50, "its rows end at"),
    ],
)
def test_sparse_rows_that_point_beside_themselves_are_refused(tmp_path, name, values, says):
    x = sp.csr_matrix(np.eye(4, 3, dtype="f4"))
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    ad.io.write_elem(group, "X", x)
    group[f"X/{name}"][:] = np.full(group[f"X/{name}"].shape, values)
    with pytest.raises(ValueError, match=f"'.*x.zarr/X' is damaged.*{says}"):
        BlockReader(ad.io.sparse_dataset(group["X"])).read(np.arange(4))


def test_a_chunk_that_dask_would_read_as_zeros_is_missed(tmp_path):
    array = zarr.create_array(tmp_path / "x.zarr", shape=(8, 2), chunks=(2, 2), dtype="u1")
    array[:] = 1
    (tmp_path / "x.zarr" / "c" / "1" / "0").unlink()
    with pytest.raises(FileNotFoundError, match=r"'c/1/0' of .*x\.zarr.* its rows 2 to 3"):
        BlockReader(da.from_zarr(str(tmp_path / "x.zarr")) + 1)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", pickle.dumps(3), bytes(999)])
def test_what_is_no_checkpoint_is_named(tmp_path, data):
    (tmp_path / "w.ckpt").write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.ckpt' is damaged.*remove it to begin anew"):
        read_checkpoint(tmp_path / "w.ckpt")
    torch.save({"hook": Trap(tmp_path / "executed")}, tmp_path / "w.ckpt")
    with pytest.raises(ValueError, match=r"w\.ckpt' is damaged"):
        read_checkpoint(tmp_path / "w.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("part", ["rna", "image/obsm", "image/uns/cellfuse_store"])
def test_a_store_of_which_a_part_was_not_copied_is_named(tmp_path, part):
    path = tmp_path / "s.zarr"
    cf.io.write_store(make_screen(), path, context_keys="guide")
    shutil.rmtree(path / "mod" / part)
    with pytest.raises(ValueError, match=rf"s\.zarr' is damaged: '{part.split('/')[-1]}'"):
        cf.io.open_store(path)


def test_an_index_that_does_not_name_each_cell_once_is_refused(tmp_path):
    path = tmp_path / "s.zarr"
    cf.io.write_store(make_screen(), path, context_keys="guide")
    place = zarr.open_array(path / "mod" / "image" / "uns" / "cellfuse_store", mode="r+")
    place[3] = int(place[4])
    with pytest.raises(ValueError, match=r"s\.zarr' is damaged: its index of 24 cells"):
        cf.io.open_store(path)


def test_an_embedding_whose_making_was_interrupted_is_made_anew(tmp_path):
    from cellfuse._embedding_store import EmbeddingStore

    with patch("cellfuse._embedding_store.put_in_place", side_effect=KeyboardInterrupt):
        with pytest.raises(KeyboardInterrupt):
            EmbeddingStore.open(tmp_path / "z.zarr", (4, 2), 2, {"cells": 1})
    assert EmbeddingStore.open(tmp_path / "z.zarr", (4, 2), 2, {"cells": 1}).rows.shape == (4, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["z.zarr"]


def test_crops_of_a_killed_run_are_cleared_by_the_next(tmp_path):
    left = tmp_path / ".c.zarr-writing"
    (left / "store").mkdir(parents=True)
    (left / "store" / "half").write_text("written")
    pixels = np.ones((1, 20, 20), np.uint16)
    labels = np.zeros((20, 20), int)
    labels[5:9, 5:9] = 1
    field = cf.io.Field(pixels, ("DNA",), {"well": "A1"}, labels=labels)
    cf.pp.crop_cells(field, size=8, store=tmp_path / "c.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["c.zarr"]
