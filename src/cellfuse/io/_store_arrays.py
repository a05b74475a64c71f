"""Rows of an array into the order of a store, in bounded memory, so that a killed run goes on.

Where the rows of one stretch of the store lie in few blocks of the source, as they do if its cells
are by context already, stretch after stretch is read and written. Else the source is first dealt,
in the order in which it lies, to buckets on the disk beside the store: each holds the rows of one
stretch. Then each bucket, which fits into memory, is put in order and written. Everything is read
once and written twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import zarr
from numpy.typing import NDArray

from cellfuse.io._store_sources import Source

__all__ = ["write_csr", "write_dense"]

#: Bytes of one chunk before compression, where that is between the next two numbers of cells.
CHUNK_BYTES = 128 << 10
#: A document of 16 cells then reads one or two chunks; more cells per chunk are read in vain.
CHUNK_CELLS = (16, 256)
#: How often the entries of some rows stand in memory while they are put in order and written.
CSR_COPIES = 3
#: Bytes of one file, before compression.
SHARD_BYTES = 32 << 20

Ints = NDArray[np.int64]


def rows_of(row_bytes: float, chunk_cells: int | None, memory: int) -> tuple[int, int]:
    """Rows of a chunk, and of a file, of which two fit into memory."""
    chunk = chunk_cells or int(np.clip(CHUNK_BYTES // max(1.0, row_bytes), *CHUNK_CELLS))
    file_bytes = min(SHARD_BYTES, memory / 2)
    per_shard = max(1, int(file_bytes // max(1.0, chunk * row_bytes)))
    return chunk, chunk * min(per_shard, 1024)


def codec(itemsize: int) -> list[Any]:
    """Bits of equal rank side by side, as noise is in the low ones; with a checksum."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    blosc = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=itemsize)
    return [blosc, Crc32cCodec()]


def write_dense(
    source: Source,
    group: zarr.Group,
    stored: Ints,
    *,
    work: Path,
    memory: int,
    chunk_cells: int | None,
) -> None:
    """Write the rows of a dense array in the order `stored`, which names rows of the source."""
    row_bytes = int(np.prod(source.shape[1:], dtype=np.int64)) * source.dtype.itemsize
    chunk, shard = rows_of(row_bytes, chunk_cells, memory)
    if chunk * row_bytes > memory:
        raise ValueError(
            f"a chunk of {chunk} cells of {source.name} takes {chunk * row_bytes:,} bytes, more "
            f"than memory={memory:,}. Give a smaller `chunk_cells` or more `memory`."
        )
    if source.name in group:
        array: Any = group[source.name]
    else:
        array = group.create_array(
            source.name,
            shape=source.shape,
            chunks=(chunk, *source.shape[1:]),
            shards=(shard, *source.shape[1:]),
            dtype=source.dtype,
            compressors=codec(source.dtype.itemsize),
            config={"write_empty_chunks": True},
        )
        array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    rows = max(shard, memory // max(1, 2 * row_bytes) // shard * shard)
    way = _straight if source.lies_as(stored, rows) else _through_buckets
    for start, values in way(source, stored, rows, shard, work):
        part = np.ascontiguousarray(values, dtype=source.dtype)
        if not _clean(part):
            array.attrs["cellfuse-finite"] = False  # at once: a run that goes on does not see it
        array[start : start + len(part)] = part
    array.attrs["cellfuse-finite"] = array.attrs.get("cellfuse-finite", True)


def _clean(values: NDArray) -> bool:
    return values.dtype.kind in "bui" or bool(np.isfinite(values).all())


def _straight(
    source: Source, stored: Ints, rows: int, shard: int, work: Path
) -> Iterator[tuple[int, NDArray]]:
    """Files of the store, in order, from a source that lies nearly as they do."""
    done = work / "written"
    begin = int(done.read_text()) if done.exists() else 0
    for start in range(begin, len(stored), rows):
        found = source.read(stored[start : start + rows])
        for first in range(0, len(found), shard):
            yield start + first, found[first : first + shard]
        _note(done, str(start + rows))  # only after all of it has been written


def _note(path: Path, text: str) -> None:
    """Write down how far a run has come, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


class _Buckets:
    """Files of rows in the order in which they come, and how far the source has been read."""

    def __init__(self, work: Path, names: list[str]) -> None:
        self.files = [work / name for name in names]
        self._state = work / "dealt.json"
        work.mkdir(parents=True, exist_ok=True)
        self.next_row = 0
        if self._state.exists():
            state = json.loads(self._state.read_text())
            self.next_row = state["row"]
            for file, size in zip(self.files, state["sizes"], strict=True):
                if file.exists() and not state["whole"]:
                    with file.open("r+b") as handle:
                        handle.truncate(size)  # what came after the last note is dealt again
        else:
            for file in self.files:
                file.write_bytes(b"")

    def add(self, number: int, values: NDArray) -> None:
        with self.files[number].open("ab") as file:
            np.ascontiguousarray(values).tofile(file)

    def note(self, next_row: int, *, whole: bool = False) -> None:
        sizes = [file.stat().st_size if file.exists() else 0 for file in self.files]
        _note(self._state, json.dumps({"row": next_row, "sizes": sizes, "whole": whole}))


def _deal(source: Source, place: Ints, rows: int, buckets: _Buckets, add: Any) -> None:
    """Deal what has not been dealt; a note is left after every piece."""
    n = source.shape[0]
    for first, values in source.sweep(buckets.next_row):
        last = first + values.shape[0]
        bucket = place[first:last] // rows
        order = np.argsort(bucket, kind="stable")
        numbers, starts = np.unique(bucket[order], return_index=True)
        for number, part in zip(numbers, np.split(order, starts[1:]), strict=True):
            add(int(number), values[part])
        buckets.note(last, whole=last == n)


def _through_buckets(
    source: Source, stored: Ints, rows: int, shard: int, work: Path
) -> Iterator[tuple[int, NDArray]]:
    """Files of the store, in order; those whose bucket is gone are written already."""
    n = len(stored)
    place = np.empty(n, np.int64)
    place[stored] = np.arange(n)
    buckets = _Buckets(work, [f"{number}.rows" for number in range(-(-n // rows))])
    dtype, shape = source.dtype, source.shape[1:]
    if buckets.next_row < n:
        _deal(
            source,
            place,
            rows,
            buckets,
            lambda number, values: buckets.add(number, values.astype(dtype, copy=False)),
        )
    for number, file in enumerate(buckets.files):
        if not file.exists():
            continue
        start = number * rows
        wanted = stored[start : start + rows]
        found = np.fromfile(file, dtype).reshape(len(wanted), *shape)
        order = np.argsort(np.argsort(wanted, kind="stable"), kind="stable")
        for first in range(0, len(wanted), shard):
            yield start + first, found[order[first : first + shard]]
        file.unlink()  # only after all of it has been written


def write_csr(
    source: Source,
    group: zarr.Group,
    stored: Ints,
    *,
    work: Path,
    memory: int,
    chunk_cells: int | None,
) -> None:
    """Write the rows of a sparse matrix, in anndata's CSR layout, in the order `stored`."""
    rows = max(1, len(stored) * memory // max(1, CSR_COPIES * source.n_bytes))
    way = _csr_straight if source.lies_as(stored, rows) else _csr_through_buckets
    lengths, found = way(source, stored, rows, work)
    indptr = np.zeros(len(stored) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    nnz, n_columns = int(indptr[-1]), int(source.shape[1])
    row_bytes = nnz / max(1, len(stored)) * (source.dtype.itemsize + 4)
    chunk, shard = rows_of(row_bytes, chunk_cells, memory)
    each = max(1, round(nnz / max(1, len(stored)) * chunk))
    if source.name in group:
        del group[source.name]  # half written: its buckets are whole
    made = group.create_group(source.name)
    sizes = {"data": source.dtype, "indices": np.dtype("i4" if n_columns < 2**31 else "i8")}
    writers = {
        name: _Stretch(made, name, nnz, each, shard // chunk, dtype)
        for name, dtype in sizes.items()
    }
    whole = clean = True
    for piece in found:
        piece.sort_indices()
        writers["data"].add(piece.data)
        writers["indices"].add(piece.indices)
        clean = clean and _clean(piece.data)
        whole = whole and bool(
            (piece.data >= 0).all() and (piece.data == np.floor(piece.data)).all()
        )
    for writer in writers.values():
        writer.finish()
    place = made.create_array("indptr", shape=indptr.shape, chunks=(1 << 16,), dtype=np.int64)
    place[:] = indptr
    made.attrs.update(
        {
            "encoding-type": "csr_matrix",
            "encoding-version": "0.1.0",
            "shape": [len(stored), n_columns],
            "cellfuse-rows": chunk,
            "cellfuse-finite": clean,
            "cellfuse-counts": clean and whole,
        }
    )


class _Stretch:
    """A one-dimensional array that is written file by file, from pieces of any length."""

    def __init__(
        self, group: zarr.Group, name: str, n: int, chunk: int, per_shard: int, dtype: np.dtype
    ) -> None:
        self._array: Any = group.create_array(
            name,
            shape=(n,),
            chunks=(chunk,),
            shards=(chunk * per_shard,),
            dtype=dtype,
            compressors=codec(dtype.itemsize),
            config={"write_empty_chunks": True},
        )
        self._array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self._shard, self._written = chunk * per_shard, 0
        self._waiting: list[NDArray] = []
        self._n_waiting = 0

    def add(self, values: NDArray) -> None:
        self._waiting.append(values)
        self._n_waiting += len(values)
        if self._n_waiting >= self._shard:
            self._flush(self._n_waiting // self._shard * self._shard)

    def _flush(self, n: int) -> None:
        joined = np.concatenate(self._waiting)
        for first in range(0, n, self._shard):
            part = joined[first : min(first + self._shard, n)].astype(self._array.dtype, copy=False)
            self._array[self._written : self._written + len(part)] = part
            self._written += len(part)
        self._waiting, self._n_waiting = [joined[n:]], len(joined) - n

    def finish(self) -> None:
        if self._n_waiting:
            self._flush(self._n_waiting)


def _csr_straight(
    source: Source, stored: Ints, rows: int, work: Path
) -> tuple[Ints, Iterator[sp.csr_matrix]]:
    """Length of every row of the store, and its rows in order; the source is gone through twice."""

    def matrices() -> Iterator[sp.csr_matrix]:
        for start in range(0, len(stored), rows):
            yield source.read(stored[start : start + rows])

    lengths = [np.empty(0, np.int64), *(np.diff(matrix.indptr) for matrix in matrices())]
    return np.concatenate(lengths), matrices()


def _csr_through_buckets(
    source: Source, stored: Ints, rows: int, work: Path
) -> tuple[Ints, Iterator[sp.csr_matrix]]:
    """Length of every row of the store, and its rows in order."""
    n = len(stored)
    place = np.empty(n, np.int64)
    place[stored] = np.arange(n)
    parts = ("data", "indices", "lengths")
    names = [f"{number}.{part}" for number in range(-(-n // rows)) for part in parts]
    dtypes = {"data": source.dtype, "indices": np.dtype("i8"), "lengths": np.dtype("i8")}
    buckets = _Buckets(work, names)

    def add(number: int, values: sp.csr_matrix) -> None:
        found = {"data": values.data, "indices": values.indices, "lengths": np.diff(values.indptr)}
        for at, part in enumerate(parts):
            buckets.add(3 * number + at, found[part].astype(dtypes[part], copy=False))

    if buckets.next_row < n:
        _deal(source, place, rows, buckets, add)

    def read(number: int, part: str) -> NDArray:
        return np.fromfile(work / f"{number}.{part}", dtypes[part])

    def order_of(number: int) -> Ints:
        wanted = stored[number * rows : (number + 1) * rows]
        return np.argsort(np.argsort(wanted, kind="stable"), kind="stable")

    numbers = range(-(-n // rows))
    lengths = np.concatenate([read(number, "lengths")[order_of(number)] for number in numbers])

    def matrices() -> Iterator[sp.csr_matrix]:
        for number in numbers:
            indptr = np.append(0, np.cumsum(read(number, "lengths")))
            found = (read(number, "data"), read(number, "indices"), indptr)
            yield sp.csr_matrix(found, shape=(len(indptr) - 1, source.shape[1]))[order_of(number)]

    return lengths, matrices()
