"""Documents from arrays larger than their buffer: the same cells and mixing, few blocks read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import zarr

from cellfuse.data import (
    Contexts,
    DocumentDataModule,
    DocumentPlan,
    Draw,
    Source,
    Stream,
    make_reader,
)
from cellfuse.data.contexts import Members

N_CONTEXTS, PER_CONTEXT, BLOCK, SIZE = 60, 48, 8, 8
N = N_CONTEXTS * PER_CONTEXT
#: Bytes of rows that are kept, float32: an eighth; a third where each block holds all contexts.
BUFFER = {"sorted": N * 4 // 8, "shuffled": N * 4 // 3}


class Counted:
    """An array on disk that notes which blocks are read of it."""

    def __init__(self, block: int) -> None:
        self.array = np.arange(N, dtype="f4")[:, None]
        self.chunks, self.shape, self.dtype = (block, 1), self.array.shape, self.array.dtype
        self.reads: list[int] = []

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.reads.append(rows.start // self.chunks[0])
        return self.array[rows]


def plan_of(order: str, *, buffer: int | None = None, documents: int = 6, over: str = "contexts"):
    """A plan over an array of which `buffer` bytes are kept, and the array."""
    codes = np.repeat(np.arange(N_CONTEXTS), PER_CONTEXT)
    if order == "shuffled":
        codes = np.random.default_rng(0).permutation(codes)
    members = {"image": Members.from_codes(codes, N_CONTEXTS)}
    contexts = Contexts(pd.DataFrame(index=range(N_CONTEXTS)), members, {"image": N})
    stream = Stream((Draw("image", 1 if over == "cells" else SIZE),), 20, over=over)
    plan = DocumentPlan(contexts, stream, documents_per_context=documents, seed=3)
    source = Counted(BLOCK)
    reader = make_reader_of(source, BUFFER[order] if buffer is None else buffer)
    return plan.along({"image": reader}), codes, source, reader


def make_reader_of(source, buffer):
    from cellfuse.data import BlockReader

    return BlockReader(source, cache_bytes=buffer)


def epoch_of(plan, epoch=0):
    batches = [plan.indices(epoch, step) for step in range(plan.n_steps)]
    rows = np.concatenate([b.rows["image"] for b in batches])
    return np.concatenate([b.context for b in batches]), rows


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_documents_hold_distinct_cells_of_their_context_and_all_contexts_alike(order):
    plan, codes, _, _ = plan_of(order)
    context, rows = epoch_of(plan)
    assert (codes[rows] == context[:, None]).all()
    assert all(len(set(row)) == SIZE for row in rows)
    assert (np.bincount(context) == 6).all()
    assert not np.array_equal(epoch_of(plan, 1)[1], rows)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_a_block_that_is_read_serves_many_documents(order):
    plan, _, source, reader = plan_of(order)
    assert plan.passages
    _, rows = epoch_of(plan)
    for batch in rows.reshape(-1, 20 * SIZE):
        reader.read(np.unique(batch))
    used = rows.size
    passing, source.reads = len(source.reads) * BLOCK / used, []
    whole = DocumentPlan(plan.contexts, plan.stream, documents_per_context=6, seed=3)
    for batch in epoch_of(whole)[1].reshape(-1, 20 * SIZE):
        reader.read(np.unique(batch))
    assert passing < 2
    assert len(source.reads) * BLOCK / used > 1.8 * passing


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_labels_mix_as_they_do_in_full_shuffling(order):
    def distinct(plan):
        """Contexts among the documents of a batch, on average over epochs."""
        found = []
        for epoch in range(6):
            context, _ = epoch_of(plan, epoch)
            found += [len(set(batch)) for batch in context.reshape(-1, 20)]
        return np.mean(found)

    passing, _, _, _ = plan_of(order)
    whole = DocumentPlan(passing.contexts, passing.stream, documents_per_context=6, seed=3)
    assert distinct(passing) > 0.85 * distinct(whole)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_every_cell_is_drawn_as_often_as_another_over_epochs(order):
    plan, _, _, _ = plan_of(order)
    times = sum(np.bincount(epoch_of(plan, e)[1].ravel(), minlength=N) for e in range(40))
    expected = 40 * 6 * SIZE / PER_CONTEXT
    assert times.mean() == expected
    assert times.min() > 0.4 * expected
    assert times.max() < 1.9 * expected


def test_cells_meet_others_of_their_context_at_the_next_epoch():
    plan, _, _, _ = plan_of("sorted")
    first = [frozenset(row) for e in range(4) for row in epoch_of(plan, e)[1]]
    assert len(set(first)) > 0.95 * len(first)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_every_cell_stands_in_one_document_where_documents_go_over_cells(order):
    plan, _, source, reader = plan_of(order, over="cells")
    _, rows = epoch_of(plan)
    assert sorted(rows.ravel()) == list(range(N))
    for batch in rows.reshape(-1, 20):
        reader.read(np.sort(batch))
    assert len(source.reads) * BLOCK < 1.6 * N
    assert not np.array_equal(rows.ravel(), np.sort(rows.ravel()))


def test_what_fits_into_its_buffer_is_drawn_as_what_is_in_memory():
    plan, _, _, _ = plan_of("sorted", buffer=N * 4)
    assert not plan.passages
    whole = DocumentPlan(plan.contexts, plan.stream, documents_per_context=6, seed=3)
    assert np.array_equal(epoch_of(plan)[1], epoch_of(whole)[1])


def test_a_buffer_of_one_block_still_gives_every_document():
    plan, codes, _, _ = plan_of("sorted", buffer=1)
    context, rows = epoch_of(plan)
    assert (codes[rows] == context[:, None]).all()
    assert (np.bincount(context) == 6).all()


def test_a_batch_is_a_function_of_seed_epoch_and_step_alone():
    plan, _, _, _ = plan_of("shuffled")
    later = plan.indices(2, 5).rows["image"]
    again, _, _, _ = plan_of("shuffled")
    for epoch in (0, 1, 2):
        again.indices(epoch, 0)
    assert np.array_equal(again.indices(2, 5).rows["image"], later)


def test_a_training_plans_by_its_source(tmp_path):
    plan, _, _, reader = plan_of("sorted")
    module = DocumentDataModule(
        DocumentPlan(plan.contexts, plan.stream), Source({"image": reader}), num_workers=2
    )
    assert module.train.passages
    batches = list(module.train_dataloader())
    assert len(batches) == module.train.n_steps
    for batch in batches[:3]:
        assert (batch.x["image"][..., 0] == batch.rows["image"]).all()


def test_an_error_in_a_reading_thread_reaches_the_training():
    class Failing(Counted):
        def __getitem__(self, rows):
            raise RuntimeError("the disk is gone")

    source = Source({"image": make_reader_of(Failing(BLOCK), BUFFER["sorted"])})
    plan, _, _, _ = plan_of("sorted")
    module = DocumentDataModule(DocumentPlan(plan.contexts, plan.stream), source)
    with pytest.raises(OSError, match="the disk is gone"):
        next(iter(module.train_dataloader()))


# -- chunks that are not there, or not whole ------------------------------------------------------


@pytest.fixture(params=["plain", "shards", "format 2", "two chunks a row"])
def store(request, tmp_path):
    crops = np.random.default_rng(0).integers(1, 256, (40, 2, 4, 4), dtype=np.uint8)
    chunks = (4, 1, 4, 4) if request.param == "two chunks a row" else (4, 2, 4, 4)
    more = {"shards": (8, 2, 4, 4)} if request.param == "shards" else {}
    more |= {"zarr_format": 2} if request.param == "format 2" else {}
    made = zarr.create_array(
        tmp_path / "c.zarr", shape=crops.shape, chunks=chunks, dtype="u1", **more
    )
    made[:] = crops
    return tmp_path / "c.zarr", crops


def files_of(path):
    return sorted(f for f in path.rglob("*") if f.is_file() and not f.name.endswith(("json", "z")))


def chunk_files(path):
    return [f for f in files_of(path) if not f.name.startswith(".")]


def test_whole_stores_are_read_as_they_are(store):
    path, crops = store
    reader = make_reader(zarr.open(path, mode="r"))
    rows = np.array([0, 3, 17, 39])
    assert np.array_equal(reader.read(rows), crops[rows])


def test_a_missing_chunk_is_named_and_never_black_cells(store):
    path, _ = store
    chunk_files(path)[2].unlink()
    reader = make_reader(zarr.open(path, mode="r"))
    with pytest.raises(FileNotFoundError, match=r"c\.zarr.* is missing: its rows \d+ to \d+"):
        reader.read(np.arange(40))


def test_a_truncated_chunk_is_named_with_its_rows(store):
    path, _ = store
    chunk = chunk_files(path)[2]
    with chunk.open("r+b") as file:
        file.truncate(chunk.stat().st_size // 2)
    reader = make_reader(zarr.open(path, mode="r"))
    with pytest.raises(OSError, match=r"c\.zarr.* \(rows \d+ to \d+\) is damaged or cut short"):
        reader.read(np.arange(40))
