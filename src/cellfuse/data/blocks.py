"""Arrays that are read block by block: zarr, h5py, dask, CSR in files."""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfuse._errors import listing
from cellfuse.data.chunk_files import ChunkFiles, broken, missing
from cellfuse.data.contexts import Ints

__all__ = ["CACHE_BYTES", "BlockReader", "Blocks", "blocks_of", "csr_blocks"]

#: Decoded blocks kept by a reader of an array that is not in memory.
CACHE_BYTES = 1 << 30
#: Bytes of a block of an array in memory.
BYTES_IN_MEMORY = 8 << 20
#: Rows read together of an array that has no chunks of its own.
ROWS_WITHOUT_CHUNKS = 64


@dataclass
class Blocks:
    """An array cut along its rows into what is read at once.

    Parameters
    ----------
    shape, dtype
        Of the array as it lies there.
    bounds
        First row of each block, and the end.
    fetch
        From first and last row (exclusive) of a block, and its number, to its values.
    sparse
        Whether values are CSR.
    n_bytes
        Size of all values in memory; 0 is that of a dense array.
    ahead
        Lets the disk fetch a block, by its number, while others are decoded.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    bounds: Ints
    fetch: Callable[[int, int, int], Any]
    sparse: bool = False
    n_bytes: int = 0
    ahead: Callable[[int], None] | None = None

    def __post_init__(self) -> None:
        if not self.n_bytes:
            self.n_bytes = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def _even(n_rows: int, rows: int) -> Ints:
    return np.append(np.arange(0, n_rows, rows, dtype=np.int64), n_rows)


def blocks_of(array: Any) -> Blocks:
    """Cut a zarr, h5py or dask array, or a CSR matrix in a file, along its chunks."""
    shape, dtype = tuple(map(int, array.shape)), np.dtype(array.dtype)
    if isinstance(array, np.ndarray):
        rows = max(1, BYTES_IN_MEMORY // max(1, array.nbytes // max(1, shape[0])))
        bounds = _even(shape[0], rows)
        return Blocks(shape, dtype, bounds, lambda first, last, number: array[first:last])
    if hasattr(array, "compute"):
        return _dask_blocks(array)
    if "CSR" in type(array).__name__:
        return csr_blocks(array.group, shape, dtype)
    if type(array).__module__.startswith("h5py"):
        rows = int(array.chunks[0]) if array.chunks else ROWS_WITHOUT_CHUNKS
        return Blocks(shape, dtype, _even(shape[0], rows), _from_h5(array))
    files = ChunkFiles.of(array) if hasattr(array, "store") else None
    rows = int(array.chunks[0])
    if files is None:
        return Blocks(shape, dtype, _even(shape[0], rows), _from_zarr(array))
    return Blocks(
        shape, dtype, _even(shape[0], rows),
        lambda first, last, number: files.read(number), ahead=files.ahead,
    )  # fmt: skip


def _dask_blocks(array: Any) -> Blocks:
    for source in _behind(array):
        _refuse_lost(source)
    bounds = np.append(0, np.cumsum(array.chunks[0])).astype(np.int64)

    def fetch(first: int, last: int, number: int) -> Any:
        # Whoever asks is a thread or a worker already.
        return array.blocks[number].compute(scheduler="synchronous")

    sparse = sp.issparse(getattr(array, "_meta", None))
    return Blocks(tuple(map(int, array.shape)), np.dtype(array.dtype), bounds, fetch, sparse)


def _behind(array: Any) -> list[Any]:
    """Zarr arrays that a dask array is made of; dask keeps each in a layer of its own."""
    layers = getattr(getattr(array, "dask", None), "layers", {}).values()
    single = [next(iter(layer.values())) for layer in layers if len(layer) == 1]
    found = [getattr(value, "value", value) for value in single]
    return [value for value in found if hasattr(value, "nchunks_initialized")]


def _refuse_lost(array: Any) -> None:
    """Refuse a zarr array that lacks chunks: dask hands their rows on as zeros."""
    if array.nchunks_initialized >= array.nchunks:
        return
    outer = getattr(array, "shards", None) or array.chunks
    name, last = str(getattr(array, "store_path", "in memory")), array.shape[0]
    for place in itertools.product(
        *(range(-(-size // step)) for size, step in zip(array.shape, outer, strict=True))
    ):
        chunk = array.metadata.encode_chunk_key(place)
        if not _is_there(array, chunk):
            first = place[0] * outer[0]
            raise missing(name, chunk, first, min(first + outer[0], last) - 1)


def _is_there(array: Any, chunk: str) -> bool:
    from zarr.core.sync import sync

    return bool(sync(array.store.exists(f"{array.path}/{chunk}" if array.path else chunk)))


def _from_h5(array: Any) -> Callable[[int, int, int], Any]:
    def fetch(first: int, last: int, number: int) -> Any:
        try:
            return array[first:last]
        except OSError as error:
            name = f"{array.file.filename}:{array.name}"
            raise broken(name, f"of block {number}", first, last - 1, error) from error

    return fetch


def _from_zarr(array: Any) -> Callable[[int, int, int], Any]:
    name = str(getattr(array, "store_path", "in memory"))

    def fetch(first: int, last: int, number: int) -> Any:
        try:
            found = np.asarray(array[first:last])
        except (RuntimeError, ValueError, OSError) as error:
            raise broken(name, f"row {number}", first, last - 1, error) from error
        _refuse_missing(array, name, found, first)
        return found

    return fetch


def _refuse_missing(array: Any, name: str, found: NDArray, first: int) -> None:
    """Refuse chunks that are not there; only what holds nothing but the fill value can be one."""
    if getattr(array, "store", None) is None:
        return
    outer = getattr(array, "shards", None) or array.chunks
    steps = [range(0, length, step) for length, step in zip(found.shape, outer, strict=True)]
    for corner in itertools.product(*steps):
        part = found[tuple(slice(c, c + s) for c, s in zip(corner, outer, strict=True))]
        if not part.size or not (part == array.fill_value).all():
            continue
        place = (first + corner[0], *corner[1:])
        chunk = array.metadata.encode_chunk_key(
            tuple(p // s for p, s in zip(place, outer, strict=True))
        )
        if not _is_there(array, chunk):
            raise missing(name, chunk, place[0], place[0] + len(part) - 1)


def csr_blocks(group: Any, shape: tuple[int, ...], dtype: np.dtype) -> Blocks:
    """Rows of anndata's CSR layout; a block is about a chunk of its values."""
    indptr = np.asarray(group["indptr"][...]).astype(np.int64)
    _check_rows(group, indptr, shape)
    data, indices = (_elements(group[name]) for name in ("data", "indices"))
    chunk = group["data"].chunks
    each = max(1.0, float(indptr[-1]) / max(1, shape[0]))
    stated = group.attrs.get("cellfuse-rows")
    near = int(chunk[0] / each) if chunk else ROWS_WITHOUT_CHUNKS
    rows = int(stated) if stated is not None else max(1, min(near, shape[0]))

    def fetch(first: int, last: int, number: int) -> sp.csr_matrix:
        start, stop = int(indptr[first]), int(indptr[last])
        parts = (data(start, stop), indices(start, stop), indptr[first : last + 1] - start)
        if stop > start and not 0 <= parts[1].min() <= parts[1].max() < shape[1]:
            raise _no_csr(group, f"rows {first} to {last - 1} have values beyond its columns")
        return sp.csr_matrix(parts, shape=(last - first, shape[1]))

    n_bytes = int(indptr[-1]) * (dtype.itemsize + group["indices"].dtype.itemsize)
    return Blocks(shape, dtype, _even(shape[0], rows), fetch, sparse=True, n_bytes=max(1, n_bytes))


def _check_rows(group: Any, indptr: Ints, shape: tuple[int, ...]) -> None:
    """Refuse what points beside its own values: scipy would read there."""
    n_values = {int(group[name].shape[0]) for name in ("data", "indices")}
    if len(indptr) != shape[0] + 1:
        raise _no_csr(group, f"it has {shape[0]} rows and begins {len(indptr) - 1}")
    if indptr[0] != 0 or (np.diff(indptr) < 0).any() or n_values != {int(indptr[-1])}:
        raise _no_csr(group, f"its rows end at {indptr[-1]} of {listing(sorted(n_values))} values")


def _no_csr(group: Any, why: str) -> ValueError:
    place = getattr(group, "store_path", None) or f"{group.file.filename}:{group.name}"
    return ValueError(f"the sparse matrix {str(place)!r} is damaged: {why}. Copy it again.")


def _elements(array: Any) -> Callable[[int, int], NDArray]:
    """Read a stretch of a one-dimensional array by its chunks."""
    if not array.chunks or not array.shape[0]:
        return lambda start, stop: np.asarray(array[start:stop])
    blocks = blocks_of(array)
    size = int(array.chunks[0])

    def read(start: int, stop: int) -> NDArray:
        if start == stop:
            return np.empty(0, blocks.dtype)
        parts = []
        for number in range(start // size, (stop - 1) // size + 1):
            first, last = int(blocks.bounds[number]), int(blocks.bounds[number + 1])
            block = blocks.fetch(first, last, number)
            parts.append(block[max(0, start - first) : stop - first])
        return np.concatenate(parts)

    return read


#: Number of a block, and which of the rows asked for, in the order of blocks, lie in it.
Parts = list[tuple[int, int, int]]


class BlockReader:
    """An array on disk (zarr, h5py, CSR) or computed in blocks (dask).

    Whole blocks are read, since a single row costs as much, and the last ones used are kept;
    several threads may read at once, and share them.

    Parameters
    ----------
    array
        `zarr.Array`, `h5py.Dataset`, dask array, CSR matrix in a file, an array of a store, or
        :class:`Blocks`.
    cache_bytes
        Size of the decoded blocks that are kept, 1 GiB by default.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from cellfuse.data import BlockReader
    >>> reader = BlockReader(zarr.array(np.arange(8).reshape(8, 1), chunks=(4, 1)))
    >>> reader.block_size, reader.read(np.array([1, 6])).ravel().tolist()
    (4, [1, 6])
    """

    def __init__(self, array: Any, *, cache_bytes: int = CACHE_BYTES) -> None:
        self.array, self.cache_bytes = array, cache_bytes
        #: Of an array of a store: where each row lies, and the genes that are wanted.
        self._place: Ints | None = getattr(array, "place", None)
        self._columns = getattr(array, "columns", None)
        if self._place is not None:
            self._blocks: Blocks = array.stored_blocks()
        else:
            self._blocks = array if isinstance(array, Blocks) else blocks_of(array)
        self.shape: tuple[int, ...] = tuple(map(int, array.shape))
        self.dtype = self._blocks.dtype
        self.block_size = max(1, int(np.diff(self._blocks.bounds).max(initial=1)))
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"array": self.array, "cache_bytes": self.cache_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["array"], cache_bytes=state["cache_bytes"])  # type: ignore[misc]

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return len(self._blocks.bounds) - 1

    @property
    def checked(self) -> tuple[bool, bool]:
        """Whether writing the store has found all values finite, and all of them counts."""
        inside = getattr(self.array, "group", getattr(self.array, "stored", None))
        known = inside.attrs if self._place is not None and inside is not None else {}
        return bool(known.get("cellfuse-finite")), bool(known.get("cellfuse-counts"))

    @property
    def sparse(self) -> bool:
        """Whether rows come as CSR."""
        return self._blocks.sparse

    @property
    def n_bytes(self) -> int:
        """Size of all values in memory."""
        return self._blocks.n_bytes

    def block_of(self, rows: Ints) -> Ints:
        """Block in which each row lies."""
        place = rows if self._place is None else self._place[rows]
        return np.searchsorted(self._blocks.bounds, place, side="right") - 1

    def read(self, rows: Ints) -> Any:
        """Return the rows asked for."""
        place = rows if self._place is None else self._place[rows]
        blocks = self.block_of(rows)
        order = np.argsort(blocks, kind="stable")
        numbers, first = np.unique(blocks[order], return_index=True)
        ends = np.append(first, len(rows))[1:]
        parts = list(zip(numbers.tolist(), first.tolist(), ends.tolist(), strict=True))
        self._ask(numbers)
        within = (place - self._blocks.bounds[blocks])[order]
        if self._blocks.sparse:
            return self._read_sparse(parts, within, order)
        return self._read_dense(parts, within, order)

    def _read_dense(self, parts: Parts, within: Ints, order: Ints) -> NDArray[Any]:
        """Rows of several blocks; those that stay together are copied together."""
        out = np.empty((len(order), *self.shape[1:]), self.dtype)
        for number, begin, end in parts:
            block, to = self._block(number), order[begin:end]
            first = int(to[0])
            if int(to[-1]) - first == end - begin - 1:  # a document's cells: copied once
                into = out[first : first + end - begin]
                np.take(block, within[begin:end], axis=0, out=into, mode="clip")
            else:
                out[to] = block[within[begin:end]]
        return out

    def ahead(self, rows: Ints) -> None:
        """Let the disk fetch the blocks of some rows, which are read next."""
        self._ask(np.unique(self.block_of(rows)))

    def _ask(self, numbers: Ints) -> None:
        if self._blocks.ahead is not None:
            for number in numbers.tolist():
                if number not in self._kept:
                    self._blocks.ahead(number)

    def _read_sparse(self, parts: Parts, within: Ints, order: Ints) -> sp.csr_matrix:
        """Rows of several blocks, block by block, then in the order asked for."""
        n, width = len(order), int(self._blocks.shape[1])
        if not n:
            return sp.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        begun, lengths = np.empty(n, np.int64), np.empty(n, np.int64)
        blocks = []
        for number, begin, end in parts:
            block = self._block(number)
            begun[begin:end] = block.indptr[within[begin:end]]
            lengths[begin:end] = block.indptr[within[begin:end] + 1]
            blocks.append(block)
        lengths -= begun
        indptr = np.zeros(n + 1, np.int64)
        np.cumsum(lengths, out=indptr[1:])
        values = np.empty(indptr[-1], block.dtype)
        columns = np.empty(indptr[-1], block.indices.dtype)
        entries = np.repeat(begun - indptr[:-1], lengths) + np.arange(indptr[-1])
        for (_, begin, end), block in zip(parts, blocks, strict=True):
            some = slice(int(indptr[begin]), int(indptr[end]))
            np.take(block.data, entries[some], out=values[some], mode="clip")
            np.take(block.indices, entries[some], out=columns[some], mode="clip")
        joined = sp.csr_matrix((values, columns, indptr), (n, width))
        if (np.diff(order) != 1).any():
            back = np.empty(n, np.int64)
            back[order] = np.arange(n)
            joined = joined[back]
        joined.has_canonical_format = True  # as each block is
        return joined if self._columns is None else joined[:, self._columns]

    def _block(self, number: int) -> Any:
        with self._lock:
            if number in self._kept:
                self._kept.move_to_end(number)
                return self._kept[number]
        first, last = (int(row) for row in self._blocks.bounds[number : number + 2])
        block = self._blocks.fetch(first, last, number)
        if self._blocks.sparse:
            block = block if isinstance(block, sp.csr_matrix) else sp.csr_matrix(block)
            if not block.has_canonical_format:
                block = block.copy()  # it may be a matrix of the user
                block.sum_duplicates()
        else:
            block = np.asarray(block)
        with self._lock:
            if number not in self._kept:
                self._kept[number] = block
                self._kept_bytes += _n_bytes(block)
            # One block at least stays: the next row asked for is often its neighbour.
            while self._kept_bytes > self.cache_bytes and len(self._kept) > 1:
                self._kept_bytes -= _n_bytes(self._kept.popitem(last=False)[1])
        return block


def _n_bytes(block: Any) -> int:
    if sp.issparse(block):
        return int(block.data.nbytes + block.indices.nbytes + block.indptr.nbytes)
    return int(block.nbytes)
