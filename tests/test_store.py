"""Stores made for documents: what goes in comes out, in the user's order, whatever happens."""

from __future__ import annotations

import json
import os
import pickle

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

import cellfuse as cf
from cellfuse._mudata import columns_stay, make_mudata
from cellfuse.data import check_values, gather, make_reader
from cellfuse.data.stored import StoredCSR, StoredRows

N = 97


def cells(seed: int = 0, n: int = N, prefix: str = "i") -> ad.AnnData:
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "guide": pd.Categorical(rng.choice([f"g{i}" for i in range(7)], n)),
            "depth": rng.random(n),
        },
        index=[f"{prefix}{i}" for i in range(n)],
    )
    adata = ad.AnnData(sp.random(n, 6, 0.4, "csr", "f4", rng), obs=obs)
    adata.X.data[:] = rng.integers(1, 9, adata.X.nnz)
    adata.var_names = [f"gene{i}" for i in range(6)]
    adata.layers["dense"] = rng.normal(size=(n, 6)).astype("f4")
    adata.obsm["crops"] = rng.integers(0, 60_000, (n, 2, 4, 4), dtype=np.uint16)
    adata.obsm["place"] = pd.DataFrame({"x": rng.random(n)}, index=obs.index)
    adata.uns["channels"] = np.array(["DNA", "ER"], dtype=object)
    adata.obsp["near"] = sp.random(n, n, 0.05, "csr", rng=rng)
    return adata


def screen() -> mudata.MuData:
    mods = {"image": cells(0), "rna": cells(1, 61, "r")}
    mods["image"].var_names = [f"feature{i}" for i in range(6)]
    return make_mudata(mods)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A store, and what went in."""
    given_ = cells()
    folder = tmp_path_factory.mktemp("stored")
    return cf.io.write_store(given_, folder / "o.zarr", context_keys="guide", chunk_cells=5), given_


def same(found: ad.AnnData, given_: ad.AnnData) -> None:
    """All that a user put in, in the user's order."""
    pd.testing.assert_frame_equal(found.obs, given_.obs)
    assert found.var_names.tolist() == given_.var_names.tolist()
    assert isinstance(found.X, StoredCSR)
    assert isinstance(found.obsm["crops"], StoredRows)
    assert (found.X[:] != given_.X).nnz == 0
    assert found.X.dtype == given_.X.dtype
    assert np.array_equal(found.layers["dense"][:], given_.layers["dense"])
    assert np.array_equal(found.obsm["crops"][:], given_.obsm["crops"])
    assert found.obsm["crops"].dtype == np.uint16
    pd.testing.assert_frame_equal(found.obsm["place"], given_.obsm["place"])
    assert (found.obsp["near"] != given_.obsp["near"]).nnz == 0
    assert found.uns["channels"].tolist() == ["DNA", "ER"]


@pytest.mark.parametrize("without_x", [False, True])
@pytest.mark.parametrize("kind", ["h5ad", "zarr", "backed"])
def test_what_was_opened_without_being_read_becomes_a_store(kind, without_x, tmp_path):
    given_ = cells()
    given_.varm["loadings"] = np.ones((6, 2))
    if without_x:
        given_ = ad.AnnData(obs=given_.obs, obsm=dict(given_.obsm), uns=dict(given_.uns))
    file = tmp_path / f"o.{'zarr' if kind == 'zarr' else 'h5ad'}"
    given_.write_zarr(file) if kind == "zarr" else given_.write_h5ad(file)
    left = ad.read_h5ad(file, backed="r") if kind == "backed" else ad.experimental.read_lazy(file)
    found = cf.io.write_store(left, tmp_path / "s.zarr", context_keys="guide")
    if not without_x:
        same(found, given_)
        assert (found.varm["loadings"] == 1).all()
    assert np.array_equal(found.obsm["crops"][:], given_.obsm["crops"])
    pd.testing.assert_frame_equal(found.obsm["place"], given_.obsm["place"])
    assert found.uns["channels"].tolist() == ["DNA", "ER"]


def test_tables_left_on_the_disk_are_named_with_the_way_to_read_them(tmp_path):
    given_ = cells()
    given_.write_h5ad(tmp_path / "o.h5ad")
    left = ad.experimental.read_lazy(tmp_path / "o.h5ad")
    for verb in (
        lambda: cf.tl.aggregate(left, by="guide", use_rep=None),
        lambda: cf.MAE.setup_anndata(left, image_rep="crops"),
    ):
        with pytest.raises(TypeError, match=r"obs and var.*read_lazy.*adata\.obs\.to_memory\(\)"):
            verb()
    left.obs = left.obs.to_memory()
    with pytest.raises(TypeError, match=r"^var.*`adata\.var = adata\.var\.to_memory\(\)`"):
        cf.tl.aggregate(left, by="guide", use_rep=None)
    left.var = left.var.to_memory()
    found = cf.tl.aggregate(left, by="guide", use_rep=None)
    expected = cf.tl.aggregate(given_, by="guide", use_rep=None)
    np.testing.assert_allclose(found.X, expected.X, rtol=1e-6)


@pytest.mark.parametrize("kind", ["memory", "h5mu", "zarr", "dask"])
def test_what_goes_in_comes_out_in_the_order_of_the_user(kind, tmp_path):
    given_, source = screen(), screen()
    if kind == "h5mu":
        source.write_h5mu(tmp_path / "s.h5mu")
        source = tmp_path / "s.h5mu"
    elif kind == "zarr":
        source.write_zarr(tmp_path / "source.zarr")
        source = str(tmp_path / "source.zarr")
    elif kind == "dask":
        da = pytest.importorskip("dask.array")
        for adata in source.mod.values():
            adata.obsm["crops"] = da.from_array(adata.obsm["crops"], chunks=(13, -1, -1, -1))
            adata.layers["dense"] = da.from_array(adata.layers["dense"], chunks=(20, 3))
            adata.X = da.from_array(adata.X, chunks=(11, -1))
    found = cf.io.write_store(source, tmp_path / "o.zarr", context_keys="guide")
    for name in given_.mod:
        same(found[name], given_[name])
    assert os.listdir(tmp_path).count("o.zarr") == 1
    assert not any(name.endswith("-writing") for name in os.listdir(tmp_path))


def test_arrays_larger_than_the_memory_granted_go_through_files(tmp_path, monkeypatch):
    adata = cells(n=400)
    adata.obsm["crops"] = np.random.default_rng(0).integers(0, 9, (400, 2, 40, 40), np.uint16)
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = cf.io.write_store(
        tmp_path / "a.h5ad", tmp_path / "o.zarr", context_keys="guide", memory=1 << 20
    )
    same(found, adata)
    # 2.56 MB of crops: more than one bucket.
    assert found.obsm["crops"].stored.shards[0] < 400


@settings(deadline=None)
@given(st.lists(st.integers(0, N - 1), max_size=20))
def test_any_rows_of_a_store_are_those_of_the_array(stored, rows):
    found, given_ = stored
    rows = np.array(rows, np.int64)
    assert np.array_equal(found.obsm["crops"][rows], given_.obsm["crops"][rows])
    read = gather(make_reader(found.obsm["crops"]), rows).numpy()
    assert np.array_equal(read, given_.obsm["crops"][rows])
    assert (found.X[rows] != given_.X[rows]).nnz == 0
    assert np.array_equal(gather(make_reader(found.X), rows).dense(), given_.X[rows].toarray())


def test_several_files_become_one_store(tmp_path):
    parts = [cells(0, 40, "a"), cells(1, 30, "b")]
    for part in parts:
        del part.obsp["near"]
    parts[1].write_h5ad(tmp_path / "b.h5ad")
    found = cf.io.write_store(
        [parts[0], tmp_path / "b.h5ad"], tmp_path / "o.zarr", context_keys="guide"
    )
    joint = ad.concat(parts)
    assert found.obs_names.tolist() == joint.obs_names.tolist()
    assert (found.X[:] != joint.X).nnz == 0
    assert np.array_equal(found.obsm["crops"][:], joint.obsm["crops"])
    assert found.obs["guide"].tolist() == joint.obs["guide"].tolist()


def test_files_that_do_not_fit_together_are_refused(tmp_path):
    one, other = cells(0, 20, "a"), cells(1, 20, "a")
    write = {"path": tmp_path / "o.zarr", "context_keys": "guide"}
    with pytest.raises(ValueError, match="the same obs_names stand in several files: 'a0'"):
        cf.io.write_store([one, other], **write)
    other.obs_names = "b" + other.obs_names
    other.obs["plate"] = 1
    with pytest.raises(ValueError, match="differ in obs columns: 'plate'"):
        cf.io.write_store([one, other], **write)
    del other.obs["plate"], other.obsm["crops"]
    with pytest.raises(ValueError, match=r"obsm\['crops'\] is not in all files"):
        cf.io.write_store([one, other], **write)


def test_the_cells_of_a_context_lie_beside_each_other_and_other_readers_open_the_store(tmp_path):
    given_ = screen()
    cf.io.write_store(given_, tmp_path / "o.zarr", context_keys="guide", chunk_cells=4)
    plain = ad.read_zarr(tmp_path / "o.zarr/mod/image")
    codes = plain.obs["guide"].cat.codes.to_numpy()
    assert (np.diff(codes) >= 0).all()
    at = given_["image"].obs_names.get_indexer(plain.obs_names)
    assert np.array_equal(plain.obsm["crops"], given_["image"].obsm["crops"][at])
    assert not (np.diff(at) > 0).all()
    with columns_stay():
        whole = mudata.read_zarr(tmp_path / "o.zarr")
    assert list(whole.mod) == ["image", "rna"]
    array = zarr.open(tmp_path / "o.zarr/mod/image/obsm/crops", mode="r")
    assert (array.metadata.zarr_format, array.chunks[0]) == (3, 4)


def test_views_and_copies_of_a_store_stay_on_the_disk(stored):
    found, given_ = stored
    some, kept = (data[data.obs["guide"] == "g3"].copy() for data in stored)
    few = some[:, ["gene4", "gene1"]].copy()
    assert isinstance(some.obsm["crops"], StoredRows)
    assert isinstance(few.X, StoredCSR)
    assert np.array_equal(few.obsm["crops"][:], kept.obsm["crops"])
    assert np.array_equal(few.layers["dense"], kept.layers["dense"][:, [4, 1]])
    genes = kept.X[:, [4, 1]]
    assert (few.X[:] != genes).nnz == 0
    assert np.array_equal(gather(make_reader(few.X), np.arange(3)).dense(), genes[:3].toarray())
    again = pickle.loads(pickle.dumps(some.obsm["crops"]))
    assert np.array_equal(again[[2, 0]], kept.obsm["crops"][[2, 0]])


def test_what_was_seen_to_be_counts_is_not_read_again(tmp_path, monkeypatch):
    given_ = cells()
    given_.layers["negative"] = -given_.X
    found = cf.io.write_store(given_, tmp_path / "o.zarr", context_keys="guide")
    with pytest.raises(ValueError, match="must hold counts"):
        check_values(make_reader(found.layers["negative"]), "counts", "layer")
    reader = make_reader(found.X)
    monkeypatch.setattr(reader, "read", lambda rows: pytest.fail("was read"))
    check_values(reader, "counts", "X")


# -- what goes wrong ------------------------------------------------------------------------------


def killed_half_way(source, path, monkeypatch, calls: int, **arguments):
    """Write until the `calls`-th write of a shard, which never comes."""
    from cellfuse.io import _store_arrays

    real, seen = _store_arrays._clean, []

    def clean(values):
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return real(values)

    monkeypatch.setattr(_store_arrays, "_clean", clean)
    with pytest.raises(KeyboardInterrupt):
        cf.io.write_store(source, path, context_keys="guide", **arguments)
    monkeypatch.setattr(_store_arrays, "_clean", real)


@pytest.mark.parametrize("calls", [0, 3])
def test_a_write_that_was_killed_goes_on_and_gives_the_same_store(calls, tmp_path, monkeypatch):
    adata = cells(n=400)
    adata.obsm["crops"] = np.random.default_rng(0).integers(0, 9, (400, 2, 40, 40), np.uint16)
    adata.write_h5ad(tmp_path / "a.h5ad")
    path, more = tmp_path / "o.zarr", {"memory": 1 << 20}
    killed_half_way(tmp_path / "a.h5ad", path, monkeypatch, calls, **more)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match=r"interrupted: call `write_store` again"):
        cf.io.open_store(path)
    same(cf.io.write_store(tmp_path / "a.h5ad", path, context_keys="guide", **more), adata)


def on_disk(folder, order: str, n: int = 400) -> ad.AnnData:
    """Arrays above 1 MiB in a zarr folder, in chunks of 20 cells; the first ones hold a NaN."""
    rng = np.random.default_rng(0)
    adata = cells(n=n)
    codes = np.arange(n) // 10 if order == "by context" else rng.integers(0, n // 10, n)
    adata.obs["guide"] = pd.Categorical([f"g{code:02d}" for code in codes])
    large = {
        "crops": rng.integers(0, 9, (n, 2, 40, 40), np.uint16),
        "broken": np.ones((n, 800), "f4"),
    }
    large["broken"][np.argmin(codes)] = np.nan  # in the first file
    for key, values in large.items():
        chunks = (20, *values.shape[1:])
        made = zarr.create_array(
            folder / key, shape=values.shape, chunks=chunks, dtype=values.dtype
        )
        made[:] = values
        adata.obsm[key] = made
    return adata


def same_large(found: ad.AnnData, given_: ad.AnnData) -> None:
    for key in ("crops", "broken"):
        assert np.array_equal(found.obsm[key][:], given_.obsm[key][:], equal_nan=key == "broken")


@pytest.mark.parametrize("order", ["by context", "shuffled"])
def test_only_cells_that_do_not_lie_by_context_are_written_twice(order, tmp_path, monkeypatch):
    from cellfuse.io import _store_arrays

    adata = on_disk(tmp_path, order)
    monkeypatch.setattr(_store_arrays, "_Buckets", lambda *_: pytest.fail("goes through files"))
    more = {"context_keys": "guide", "memory": 1 << 20}
    if order == "shuffled":
        with pytest.raises(pytest.fail.Exception, match="goes through files"):
            cf.io.write_store(adata, tmp_path / "o.zarr", **more)
    else:
        same_large(cf.io.write_store(adata, tmp_path / "o.zarr", **more), adata)


def test_cells_of_several_files_that_lie_by_context_are_not_written_twice(tmp_path, monkeypatch):
    """Each file has all contexts: a stretch of the store reads some blocks of either."""
    from cellfuse.io import _store_arrays

    parts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        parts.append(on_disk(tmp_path / name, "by context"))
        parts[-1].obs_names = name + parts[-1].obs_names
        del parts[-1].obsp["near"]
    monkeypatch.setattr(_store_arrays, "_Buckets", lambda *_: pytest.fail("goes through files"))
    sources = _store_arrays.Source("obsm", "crops", [make_reader(p.obsm["crops"]) for p in parts])
    found = cf.io.write_store(parts, tmp_path / "o.zarr", context_keys="guide", memory=1 << 20)
    for key in ("crops", "broken"):
        both = np.concatenate([part.obsm[key][:] for part in parts])
        assert np.array_equal(found.obsm[key][:], both, equal_nan=key == "broken")
    # One file after the other, a block at a time: blocks of the two are not taken for each other.
    assert sources.lies_as(np.arange(800), 20)
    assert not sources.lies_as(np.random.default_rng(0).permutation(800), 40)


@pytest.mark.parametrize("order", ["by context", "shuffled"])
def test_a_run_that_goes_on_knows_of_the_nan_that_was_written_before(order, tmp_path, monkeypatch):
    from cellfuse.io import _store_arrays

    adata, seen, real = on_disk(tmp_path, order), [], _store_arrays._clean

    def clean(values):
        if False in seen:  # its file has been written
            raise KeyboardInterrupt
        seen.append(real(values))
        return seen[-1]

    more = {"context_keys": "guide", "memory": 1 << 20}
    with monkeypatch.context() as patched:
        patched.setattr(_store_arrays, "_clean", clean)
        with pytest.raises(KeyboardInterrupt):
            cf.io.write_store(adata, tmp_path / "o.zarr", **more)
    again: list[bool] = []
    monkeypatch.setattr(_store_arrays, "_clean", lambda x: again.append(real(x)) or again[-1])
    found = cf.io.write_store(adata, tmp_path / "o.zarr", **more)
    assert False not in again  # what was written is not written again
    same_large(found, adata)
    assert not make_reader(found.obsm["broken"]).checked[0]
    assert make_reader(found.obsm["crops"]).checked[0]


def test_counts_in_memory_are_put_in_order_piece_by_piece(tmp_path):
    import tracemalloc

    n = 40_000
    obs = pd.DataFrame(
        {"guide": pd.Categorical(np.arange(n) % 50)}, index=pd.RangeIndex(n).astype(str)
    )
    adata = ad.AnnData(sp.random(n, 400, 0.5, "csr", "f4", np.random.default_rng(0)), obs=obs)
    cf.io.write_store(adata[:100].copy(), tmp_path / "warm.zarr", context_keys="guide")
    tracemalloc.start()
    found = cf.io.write_store(adata, tmp_path / "o.zarr", context_keys="guide", memory=8 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (adata.X.data.nbytes + adata.X.indices.nbytes) / 1.5
    assert (found.X[:200] != adata.X[:200]).nnz == 0


def test_what_another_data_set_left_half_written_is_not_gone_on_with(tmp_path, monkeypatch):
    first, other = cells(0), cells(5)
    path = tmp_path / "o.zarr"
    killed_half_way(first, path, monkeypatch, 1)
    same(cf.io.write_store(other, path, context_keys="guide"), other)


def test_an_interrupted_replacement_leaves_what_was_there(tmp_path, monkeypatch):
    first, other = cells(0), cells(5)
    path = tmp_path / "o.zarr"
    cf.io.write_store(first, path, context_keys="guide")
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        cf.io.write_store(other, path, context_keys="guide")
    killed_half_way(other, path, monkeypatch, 1, overwrite=True)
    same(cf.io.open_store(path), first)
    cf.io.write_store(other, path, context_keys="guide", overwrite=True)
    same(cf.io.open_store(path), other)


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "o.zarr").mkdir()
    (tmp_path / "o.zarr/thesis.txt").write_text("all of it")
    with pytest.raises(FileExistsError, match="is no store that `write_store` wrote"):
        cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide", overwrite=True)
    assert (tmp_path / "o.zarr/thesis.txt").exists()
    with pytest.raises(ValueError, match="is no store of `write_store`"):
        cf.io.open_store(tmp_path / "o.zarr")


def test_a_second_writer_is_refused(tmp_path):
    with FileLock(tmp_path / ".o.zarr.lock"):
        with pytest.raises(OSError, match=r"another process is writing .*o\.zarr"):
            cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide")


def test_a_full_disk_names_the_store_and_says_how_to_go_on(tmp_path, monkeypatch):
    from cellfuse.io import _store_arrays

    def full(values):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_store_arrays, "_clean", full)
    with pytest.raises(OSError, match=r"o\.zarr.* stopped: No space left.* Call it again to go on"):
        cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide")
    monkeypatch.undo()
    same(cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide"), cells())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="cannot be written to"):
        cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide")
    tmp_path.chmod(0o700)


def test_a_store_of_another_version_is_named(tmp_path):
    cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide")
    meta = tmp_path / "o.zarr/zarr.json"
    found = json.loads(meta.read_text())
    found["attributes"]["cellfuse-store"]["format"] = 9
    meta.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="version 9 of the layout"):
        cf.io.open_store(tmp_path / "o.zarr")


def test_bit_rot_is_found_when_the_chunk_is_read(tmp_path):
    cf.io.write_store(cells(), tmp_path / "o.zarr", context_keys="guide", chunk_cells=8)
    shard = tmp_path / "o.zarr/obsm/crops/c/0/0/0/0"
    damaged = bytearray(shard.read_bytes())
    damaged[200] ^= 4
    shard.write_bytes(damaged)
    with pytest.raises(OSError, match=r"o\.zarr.*checksum does not hold"):
        cf.io.open_store(tmp_path / "o.zarr").obsm["crops"][:]


def test_bad_arguments_are_refused_before_anything_is_written(tmp_path):
    adata, path = cells(), tmp_path / "o.zarr"
    with pytest.raises(KeyError, match="guides"):
        cf.io.write_store(adata, path, context_keys="guides")
    with pytest.raises(ValueError, match="chunk_cells=0"):
        cf.io.write_store(adata, path, context_keys="guide", chunk_cells=0)
    adata.obsm["crops"] = np.zeros((N, 1, 200, 200), np.uint8)
    with pytest.raises(ValueError, match="a chunk of 97 cells of obsm/crops takes 3,880,000 bytes"):
        cf.io.write_store(adata, path, context_keys="guide", chunk_cells=97, memory=1 << 20)
    adata.obsm["a/b"] = np.zeros((N, 2))
    with pytest.raises(ValueError, match="holds a slash"):
        cf.io.write_store(adata, path, context_keys="guide")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cf.io.write_store(tmp_path / "nowhere.h5ad", path, context_keys="guide")


def test_a_truncated_h5ad_is_named(tmp_path):
    cells().write_h5ad(tmp_path / "a.h5ad")
    with open(tmp_path / "a.h5ad", "r+b") as file:
        file.truncate(4_000)
    with pytest.raises(ValueError, match=r"a\.h5ad.*damaged"):
        cf.io.write_store(tmp_path / "a.h5ad", tmp_path / "o.zarr", context_keys="guide")
    assert not h5py.is_hdf5(tmp_path / "o.zarr")
