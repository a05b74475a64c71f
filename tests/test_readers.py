"""Readers: wherever an array lies, its rows come out as plain indexing has them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cellfuse.data import (
    BlockReader,
    ColumnReader,
    Contexts,
    CSRReader,
    DocumentDataModule,
    DocumentLoader,
    DocumentPlan,
    Draw,
    Source,
    SparseRows,
    Stream,
    chunk_files,
    gather,
    make_reader,
)
from cellfuse.data.blocks import Blocks
from cellfuse.data.contexts import Members

#: Unsorted, with repeats, over several blocks.
ROWS = np.array([[7, 0, 7], [22, 3, 4], [0, 12, 22]])


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (23, 2, 4, 4), dtype=np.uint8)


def stored(array: np.ndarray, kind: str, folder: Path):
    """The array as one of the kinds a user has."""
    if kind == "numpy":
        return array
    if kind == "memmap":
        np.save(folder / "a.npy", array)
        return np.load(folder / "a.npy", mmap_mode="r")
    if kind.startswith("h5py"):
        chunks = (5, *array.shape[1:]) if kind == "h5py chunked" else None
        return h5py.File(folder / "a.h5", "w").create_dataset("a", data=array, chunks=chunks)
    if kind.startswith("zarr"):
        chunks = (5, *array.shape[1:])
        shards = (10, *array.shape[1:]) if kind == "zarr shards" else None
        made = zarr.create_array(
            folder / "a.zarr", shape=array.shape, chunks=chunks, shards=shards, dtype=array.dtype
        )
        made[:] = array
        return made
    import dask.array as da

    return da.from_array(array, chunks=((5, 9, 9), *[-1] * (array.ndim - 1)))


@pytest.mark.parametrize("kind", ["numpy", "memmap", "h5py", "h5py chunked", "zarr", "dask"])
def test_dense_rows_come_as_indexing_has_them_and_bytes_stay_bytes(kind, images, tmp_path):
    reader = make_reader(stored(images, kind, tmp_path))
    assert (reader.shape, reader.dtype) == (images.shape, np.uint8)
    for rows in (ROWS, ROWS[0], np.array([], np.int64), np.arange(23)):
        found = gather(reader, rows)
        assert found.dtype == torch.uint8
        assert found.shape == (*rows.shape, 2, 4, 4)
        assert (found.numpy() == images[rows]).all()


@pytest.mark.parametrize("there", ["a chunk", "a slice", "the sum of two"])
def test_a_chunk_that_is_missing_behind_dask_is_no_zeros(there, images, tmp_path):
    da = pytest.importorskip("dask.array")
    made = stored(images, "zarr", tmp_path)
    lazy = {"a chunk": lambda a: a, "a slice": lambda a: a[3:], "the sum of two": lambda a: a + a}
    make_reader(lazy[there](da.from_zarr(made)))
    chunk = next(p for p in (tmp_path / "a.zarr").rglob("2") if p.parent.name == "c")
    shutil.rmtree(chunk)
    with pytest.raises((OSError, ValueError), match=r"'c/2/.*a\.zarr.*rows 10 to 14"):
        make_reader(lazy[there](da.from_zarr(made)))


@settings(deadline=None)
@given(st.data(), st.integers(1, 30), st.integers(1, 9), st.integers(1, 200))
def test_blocks_of_any_size_and_any_cache_give_the_same_rows(data, n, block, cache_bytes):
    da = pytest.importorskip("dask.array")
    array = np.arange(n * 2).reshape(n, 2)
    reader = BlockReader(da.from_array(array, chunks=(block, 2)), cache_bytes=cache_bytes)
    for _ in range(2):
        rows = data.draw(hnp.arrays(np.int64, st.integers(0, 20), elements=st.integers(0, n - 1)))
        assert (gather(reader, rows).numpy() == array[rows]).all()


class Counted:
    """An array on disk that notes what is read of it."""

    def __init__(self, array: np.ndarray, block: int) -> None:
        self.array, self.chunks = array, (block, *array.shape[1:])
        self.shape, self.dtype = array.shape, array.dtype
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.reads.append((rows.start, rows.stop))
        return self.array[rows]


def test_the_cache_is_bounded_and_forgets_the_block_used_longest_ago():
    source = Counted(np.arange(40.0)[:, None], 10)
    reader = BlockReader(source, cache_bytes=2 * 10 * 8)
    for row in (0, 10, 1, 20, 2, 11):
        assert reader.read(np.array([row])).item() == row
        held = sum(block.nbytes for block in reader._kept.values())
        assert held <= 2 * 10 * 8
    # 0 was used after 10 when 20 came: 10 went, and is read again.
    assert [start for start, _ in source.reads] == [0, 10, 20, 10]


@pytest.mark.parametrize("place", [(2**63, 8), (0, 2**62), (2**64 - 2, 2**64 - 1)])
def test_a_shard_whose_index_points_beyond_it_is_damaged(images, tmp_path, place):
    import google_crc32c

    array = stored(images, "zarr shards", tmp_path)
    file = next((tmp_path / "a.zarr" / "c" / "1").rglob("0/0/0"))
    whole = file.read_bytes()
    index = np.frombuffer(whole[-36:-4], "<u8").copy()
    index[2:] = place
    crc = google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    file.write_bytes(whole[:-36] + index.tobytes() + crc)
    reader = make_reader(array)
    assert (reader.read(np.array([0])) == images[:1]).all()
    with pytest.raises(OSError, match=r"'c/1/0/0/0' .*rows 10 to 19.* beyond its end"):
        reader.read(np.array([17]))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice")
def test_the_disk_is_asked_ahead_for_what_is_not_kept(images, tmp_path, monkeypatch):
    array = stored(images, "zarr shards", tmp_path)
    done, read = [], chunk_files.READ
    monkeypatch.setattr(os, "posix_fadvise", lambda file, *of: done.append(("ask", *of[:2])))
    monkeypatch.setattr(
        chunk_files, "READ", lambda *of: done.append(("read", of[2], of[1])) or read(*of)
    )
    reader = make_reader(array)
    rows = np.array([22, 0, 7, 0])
    assert (reader.read(rows) == images[rows]).all()
    chunks = [(what, *of) for what, *of in done if of[1] != 16 * 2 + 4]  # the shards' index
    asked = [of for what, *of in chunks if what == "ask"]
    assert len(asked) == 3
    assert [of for what, *of in chunks[3:] if what == "read"] == asked  # after all were asked for
    done.clear()
    reader.read(rows)
    assert not done
    # A shard that is gone says so when it is read.
    shard = next(p for p in (tmp_path / "a.zarr" / "c").iterdir() if p.name == "1")
    shutil.rmtree(shard)
    with pytest.raises(FileNotFoundError, match="rows 10 to 14 would"):
        reader.read(np.array([12]))


def test_a_block_larger_than_the_cache_is_read_all_the_same():
    source = Counted(np.arange(40.0)[:, None], 40)
    reader = BlockReader(source, cache_bytes=1)
    assert reader.read(np.array([3, 39])).ravel().tolist() == [3, 39]
    assert len(reader._kept) == 1


def test_rows_of_a_block_are_read_at_once():
    source = Counted(np.arange(40.0)[:, None], 10)
    gather(BlockReader(source), np.array([3, 1, 3, 9, 0]))
    assert source.reads == [(0, 10)]


@pytest.mark.parametrize("kind", ["matrix", "array", "csc"])
def test_sparse_rows_become_the_dense_rows(kind):
    dense = np.random.default_rng(1).poisson(0.5, (23, 6)).astype("f4")
    make = {"matrix": sp.csr_matrix, "array": sp.csr_array, "csc": sp.csc_matrix}[kind]
    reader = make_reader(make(dense))
    assert reader.shape == dense.shape
    for rows in (ROWS, ROWS[0], np.array([], np.int64)):
        found = gather(reader, rows)
        assert isinstance(found, SparseRows)
        assert found.dense().dtype == torch.float32
        assert (found.dense().numpy() == dense[rows]).all()


def test_rows_of_a_csr_in_a_file_become_the_dense_rows(tmp_path):
    dense = np.random.default_rng(1).poisson(0.5, (23, 6)).astype("f4")
    ad.AnnData(sp.csr_matrix(dense)).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    reader = make_reader(backed.X)
    assert reader.shape == dense.shape
    assert reader.block_size > 1
    assert (gather(reader, ROWS).dense().numpy() == dense[ROWS]).all()
    backed.file.close()


def test_entries_stored_twice_are_added_up():
    twice = sp.csr_matrix(
        (np.array([1.0, 2.0, 4.0]), np.array([1, 1, 0]), np.array([0, 2, 3])), shape=(2, 3)
    )
    assert gather(make_reader(twice), np.array([1, 0])).dense().tolist() == [[4, 0, 0], [0, 3, 0]]
    assert twice.nnz == 3  # the user's matrix is as it was


@pytest.mark.parametrize("file", [False, True])
def test_blocks_of_unsorted_and_repeated_entries_are_put_right_and_left_as_they_were(
    file, tmp_path
):
    rough = sp.csr_matrix(
        (np.array([1.0, 2.0, 4.0, 8.0], "f4"), np.array([2, 0, 2, 1]), np.array([0, 3, 3, 4])),
        shape=(3, 3),
    )
    right, before = [[2, 0, 5], [0, 0, 0], [0, 8, 0]], rough.copy()
    if file:
        with h5py.File(tmp_path / "a.h5", "w") as out:
            ad.io.write_elem(out, "x", rough)
        array = ad.io.sparse_dataset(h5py.File(tmp_path / "a.h5")["x"])
    else:
        array = Blocks(rough.shape, rough.dtype, np.array([0, 3]), lambda *_: rough, sparse=True)
    rows = np.array([2, 0, 1])
    reader = BlockReader(array)
    assert gather(reader, rows).dense().tolist() == [right[row] for row in rows]
    found = reader.read(rows)
    assert found.has_canonical_format
    assert (np.diff(found.indices[found.indptr[1] :]) > 0).all()
    for name in ("data", "indices", "indptr"):  # the user's matrix is as it was
        assert (getattr(rough, name) == getattr(before, name)).all()


@pytest.mark.parametrize("kind", [">u2", ">f4", ">f8", ">i4"])
def test_the_other_byte_order_is_read(kind):
    values = np.arange(12).reshape(4, 3)
    found = gather(make_reader(values.astype(kind)), np.array([[3, 1]]))
    assert found.tolist() == [values[[3, 1]].tolist()]


def test_whole_numbers_of_any_width_are_read_exactly():
    for dtype in ("u1", "u2", "u4", "i2", "i8", "f2", "f8", "?"):
        array = np.array([[0], [1], [200]], "u1").astype(dtype)
        found = gather(make_reader(array), np.array([2, 0]))
        assert found.double().ravel().tolist() == [float(array[2, 0]), 0]
    large = np.array([[65_535]], "u2")
    assert gather(make_reader(large), np.array([0])).float().item() == 65_535


@pytest.mark.parametrize("make", [np.array, sp.csr_matrix])
def test_columns_are_put_into_another_order(make):
    dense = np.random.default_rng(1).poisson(1, (23, 4)).astype("f4")
    reader = ColumnReader(make_reader(make(dense)), np.array([3, 0, 2]))
    assert (reader.shape, reader.dtype) == ((23, 3), np.dtype("f4"))
    found = gather(reader, ROWS)
    found = found.dense() if isinstance(found, SparseRows) else found
    assert (found.numpy() == dense[ROWS][..., [3, 0, 2]]).all()


def test_an_array_of_another_kind_is_named():
    with pytest.raises(TypeError, match="cannot read rows of a builtins.list"):
        make_reader([[1, 2]])


# -- batches --------------------------------------------------------------------------------------


def loader(
    n_workers: int = 0,
    *,
    images: np.ndarray,
    rank: int = 0,
    world_size: int = 1,
    batch_size: int = 2,
    drop_last: bool = True,
) -> DocumentLoader:
    import pandas as pd

    counts = sp.csr_matrix(np.arange(23 * 3, dtype="f4").reshape(23, 3))
    members = Members.from_codes(np.arange(23) % 3, 3)
    both = {"image": members, "rna": members}
    contexts = Contexts(pd.DataFrame(index=range(3)), both, {"image": 23, "rna": 23})
    draws = (Draw("image", 2), Draw("rna", 3), Draw("rna", 1, name="more"))
    stream = Stream(draws, batch_size)
    plan = DocumentPlan(contexts, stream, documents_per_context=4, drop_last=drop_last)
    fields = {"rna": {"depth": np.arange(23.0)}}
    source = Source({"image": make_reader(images), "rna": make_reader(counts)}, fields)
    return DocumentLoader(
        plan, source, epoch=lambda: 1, num_workers=n_workers, rank=rank, world_size=world_size
    )


def test_a_batch_holds_the_rows_it_names(images):
    for batch in loader(images=images):
        assert batch.x["image"].dtype == torch.uint8
        assert isinstance(batch.x["rna"], SparseRows)
        there = batch.to("cpu")
        assert (there.x["image"].numpy() == images[batch.rows["image"]]).all()
        for name, size in (("rna", 3), ("more", 1)):
            first = there.x[name][..., 0]
            assert first.shape == (2, size)
            assert (first == batch.rows[name] * 3).all()
            assert (batch.obs[name]["depth"] == batch.rows[name]).all()


def test_the_data_module_makes_counts_dense_and_leaves_bytes_bytes(images):
    one = loader(images=images)
    module = DocumentDataModule(one.plan, one.source)
    batch = module.transfer_batch_to_device(next(iter(module.train_dataloader())), "cpu", 0)
    assert batch.x["image"].dtype == torch.uint8
    assert batch.x["rna"].shape == (2, 3, 3)


def equal(one, other) -> bool:
    one, other = one.to("cpu"), other.to("cpu")
    return all((one.x[m] == other.x[m]).all() for m in other.x) and bool(
        (one.key == other.key).all()
    )


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_worker_processes_read_the_same_batches(images):
    state = torch.get_rng_state()
    ahead = list(loader(2, images=images))
    assert (torch.get_rng_state() == state).all()
    here = list(loader(images=images))
    assert len(ahead) == len(here) == 6
    assert all(equal(a, b) for a, b in zip(ahead, here, strict=True))


def test_a_loader_goes_on_where_its_state_was_taken(images):
    whole = list(loader(images=images))
    first = loader(images=images)
    batches = iter(first)
    for _ in range(2):
        next(batches)
    again = loader(images=images)
    again.load_state_dict(first.state_dict())
    rest = list(again)
    assert [equal(a, b) for a, b in zip(rest, whole[2:], strict=True)] == [True] * 4
    assert len(list(again)) == 6  # the next epoch begins at its beginning


def test_a_state_of_another_epoch_is_of_no_concern(images):
    again = loader(images=images)
    again.load_state_dict({"epoch": 0, "step": 4})
    assert len(list(again)) == 6


def test_ranks_read_slices_of_the_batch(images):
    whole = next(iter(loader(images=images)))
    parts = [next(iter(loader(images=images, rank=r, world_size=2))) for r in range(2)]
    assert [part.key.item() for part in parts] == whole.key.tolist()


def test_a_batch_that_cannot_be_dealt_evenly_is_refused(images):
    with pytest.raises(ValueError, match="a batch of 2 documents cannot be dealt to 3 devices"):
        loader(images=images, world_size=3)


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [2] * 5), (False, [3, 3, 2, 2, 2])])
def test_fewer_documents_than_a_batch_are_dealt_as_they_are(images, drop_last, sizes):
    given = {"images": images, "world_size": 5, "batch_size": 100, "drop_last": drop_last}
    parts = [next(iter(loader(rank=r, **given))) for r in range(5)]
    assert [len(part.key) for part in parts] == sizes
    assert len(np.unique(np.concatenate([part.key for part in parts]))) == sum(sizes)
    with pytest.raises(ValueError, match="a batch of 12 documents cannot be dealt to 24 devices"):
        loader(**{**given, "world_size": 24})


def test_arrays_on_a_disk_are_read_in_the_training_process(images):
    da = pytest.importorskip("dask.array")
    lazy = make_reader(da.from_array(images.reshape(23, -1)))
    assert Source({"image": lazy}).on_disk
    assert Source({"image": ColumnReader(lazy, np.array([1, 0]))}).on_disk
    assert not Source({"rna": CSRReader(sp.csr_matrix(np.eye(3)))}).on_disk


def test_several_plans_are_drawn_side_by_side(images):
    one = loader(images=images)
    cells = DocumentPlan(
        one.plan.contexts, Stream((Draw("image", 1),), 10, over="cells"), drop_last=False
    )
    module = DocumentDataModule({"pairs": one.plan, "cells": cells}, one.source)
    batches = [batch for batch, _, _ in module.train_dataloader()]
    assert len(batches) == 6  # the shorter stream (3 steps) comes again
    assert all(set(batch) == {"pairs", "cells"} for batch in batches)
