"""Matrices that are not in memory, as the kernels take them: piece by piece.

Every verb goes through such a matrix in passes, each of which reads every block that it needs
once. What a verb makes of it is not computed but noted, and applied to the rows that are read: a
whitened matrix is never written.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from cellfuse._memory import keep_freed
from cellfuse.data.blocks import BlockReader
from cellfuse.data.contexts import Ints
from cellfuse.kernels.chunks import n_threads

__all__ = ["LazyMatrix", "is_lazy"]

#: Bytes of one piece: what a thread or a worker has in memory at a time. Blocks of 32 MB and more
#: would go back to the system each time and be cleared anew.
PIECE_BYTES = 16 << 20
#: Bytes of chosen rows (controls) that are taken into memory for a fit.
HELD_BYTES = 1536 << 20
#: How often a piece is handed out to a cluster that loses workers, and how long one is waited for.
TRIES, WAIT_SECONDS = 5, 60

Step = Callable[[Any, Ints], Any]


def is_lazy(array: object) -> bool:
    """Whether an array has to be read or computed."""
    return not (isinstance(array, np.ndarray) or sp.issparse(array) or hasattr(array, "to_numpy"))


class LazyMatrix:
    """A matrix on a disk or of a dask array, after some steps.

    Parameters
    ----------
    array
        zarr, h5py or dask array, CSR matrix in a file, array of a store; or one that
        :meth:`as_dask` gave, whose steps then stand before those given here. Also numpy, for steps
        that are not to be carried out on all of it.
    steps
        Functions of (values, their row numbers) to values.
    name
        What errors call it.
    """

    ndim = 2

    def __init__(self, array: Any, steps: Sequence[Step] = (), *, name: str = "the array") -> None:
        before = getattr(array, "cellfuse_source", None)
        if before is not None:
            array, steps = before.array, (*before.steps, *steps)
        self.array, self.steps, self.name = array, tuple(steps), name
        self._reader = BlockReader(array, cache_bytes=PIECE_BYTES)
        self.shape = self._reader.shape
        kind = self._reader.dtype
        self.dtype = np.dtype("f8" if kind == np.float64 else "f4") if self.steps else kind
        self._row_bytes = max(1, self._reader.n_bytes // max(1, self.shape[0]))

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce__(self) -> Any:
        return _again, (_portable(self.array), self.steps, self.name)

    @property
    def sparse(self) -> bool:
        """Whether rows come as CSR."""
        return self._reader.sparse

    def __getitem__(self, index: Any) -> Any:
        rows, *others = index if isinstance(index, tuple) else (index,)
        numbers = np.arange(len(self), dtype=np.int64)[rows]
        distinct, inverse = np.unique(numbers, return_inverse=True)
        values = self._reader.read(distinct)
        for step in self.steps:
            values = step(values, distinct)
        flat = values.data if sp.issparse(values) else values
        if flat.dtype.kind == "f" and not np.isfinite(flat).all():
            bad = ~np.isfinite(values.toarray() if sp.issparse(values) else values).all(axis=1)
            raise ValueError(
                f"{self.name} holds NaN or infinite values in {int(bad.sum())} of the rows "
                f"{distinct[0]} to {distinct[-1]} (first in row {distinct[bad][0]}). Remove those "
                "cells or features, or fill the values in, before this step."
            )
        if len(distinct) < len(numbers) or not np.array_equal(distinct, numbers):
            values = values[inverse]
        return values[(slice(None), *others)] if others else values

    def pieces(self, rows: Ints | None = None) -> list[Ints]:
        """Some rows (default: all), cut so that each block is read once; not in their order."""
        rows = np.arange(len(self), dtype=np.int64) if rows is None else np.asarray(rows)
        blocks = self._reader.block_of(rows)
        if (blocks[1:] < blocks[:-1]).any():
            order = np.argsort(blocks, kind="stable")
            rows, blocks = rows[order], blocks[order]
        begins = np.flatnonzero(np.diff(blocks, prepend=-1))
        filled = begins * self._row_bytes // PIECE_BYTES
        return np.split(rows, begins[1:][np.diff(filled) > 0]) if len(rows) else []

    def run(self, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
        """Results in the order of the jobs, each some rows, in threads or on dask's cluster.

        A few are worked on beyond what has been taken, and the disk is asked for one more.
        """
        client = _cluster()
        if client is not None:
            yield from _on_cluster(client, function, jobs)
            return
        from threadpoolctl import threadpool_limits

        keep_freed()
        workers = n_threads()
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            coming: deque[Future[Any]] = deque()
            for number, job in enumerate(jobs):
                coming.append(pool.submit(function, job))
                for later in jobs[number + 1 : number + 2]:
                    self._reader.ahead(later)
                if len(coming) >= 2 * workers:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def gather(self, rows: Ints, columns: slice = slice(None)) -> NDArray[Any]:
        """Some rows in memory, in their order, in one pass."""
        pieces = self.pieces(rows)
        width = len(range(self.shape[1])[columns])
        out = np.empty((len(rows), width), self.dtype)
        order = np.argsort(rows, kind="stable")
        parts = self.run(lambda piece: self[piece][:, columns], pieces)
        for piece, part in zip(pieces, parts, strict=True):
            out[order[np.searchsorted(rows, piece, sorter=order)]] = part
        return out

    def hold(self, groups: Sequence[Ints]) -> tuple[Any, list[Ints]]:
        """The rows of the groups in memory, with their new numbers, where they fit; else as is."""
        every = np.concatenate(groups)
        if len(every) * self.shape[1] * self.dtype.itemsize > HELD_BYTES:
            return self, list(groups)
        ends = np.cumsum([len(group) for group in groups])
        return self.gather(every), np.split(np.arange(len(every)), ends[:-1])

    def column_groups(self, n_rows: int) -> list[slice]:
        """Columns cut so that `n_rows` of each part can be held."""
        row = max(1, n_rows * self.dtype.itemsize)
        step = max(1, HELD_BYTES // row)
        return [slice(c, min(c + step, self.shape[1])) for c in range(0, self.shape[1], step)]

    def after(self, step: Step) -> LazyMatrix:
        """The same with one more step."""
        return LazyMatrix(self.array, (*self.steps, step), name=self.name)

    def before_affine(self) -> tuple[LazyMatrix, tuple[Any, ...]]:
        """The matrix before its last affine steps, and these, which can be taken of means."""
        n = len(self.steps)
        while n and getattr(self.steps[n - 1], "affine", False):
            n -= 1
        return LazyMatrix(self.array, self.steps[:n], name=self.name), self.steps[n:]

    def as_dask(self) -> Any:
        """As a dask array, which AnnData takes, and which computes its rows when asked."""
        try:
            import dask.array as da
        except ImportError as error:
            raise ImportError(
                f"{self.name} is not in memory, and what is made of it is a dask array: "
                "`pip install dask` (it comes with `cellfuse[dask]`)."
            ) from error
        block = self._reader.block_size
        rows = max(1, PIECE_BYTES // self._row_bytes)
        rows = max(block, rows - rows % block)
        made = da.from_array(
            self,
            chunks=(min(rows, max(1, len(self))), self.shape[1]),
            name=False,
            asarray=False,
            fancy=False,
            meta=np.empty((0, 0), self.dtype),
        )
        made.cellfuse_source = self
        return made


def _portions(jobs: Sequence[Any], n: int) -> Iterator[Sequence[Any]]:
    """Portions of at most `n` jobs."""
    for start in range(0, len(jobs), n):
        yield jobs[start : start + n]


def _call(job: Any, function: Callable[[Any], Any]) -> Any:
    return function(job)


def _on_cluster(client: Any, function: Callable[[Any], Any], jobs: Sequence[Any]) -> Iterator[Any]:
    """Results from a cluster; what a lost worker had is handed out again."""
    gone = (sys.modules["distributed.comm"].CommClosedError, CancelledError)
    at_once = 4 * max(1, len(client.scheduler_info(n_workers=-1)["workers"]))
    shared = None
    for some in _portions(jobs, at_once):
        for left in reversed(range(TRIES)):
            try:
                if shared is None:
                    shared = client.scatter([function], broadcast=True, hash=False)[0]
                found = client.gather(client.map(_call, some, function=shared, pure=False))
                break
            except gone:  # of the cluster, not of the job
                if not left:
                    raise
                shared = None
                client.wait_for_workers(1, timeout=WAIT_SECONDS)
        yield from found


def _cluster() -> Any:
    """The dask cluster that this process is a client of, if any."""
    distributed = sys.modules.get("distributed")
    if distributed is None:
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None


class _InFile:
    """An HDF5 array by its place, for another process to open."""

    def __init__(self, array: Any) -> None:
        self.file, self.name = array.file.filename, array.name

    def open(self) -> Any:
        import h5py

        return h5py.File(self.file, "r")[self.name]


def _portable(array: Any) -> Any:
    return _InFile(array) if type(array).__module__.startswith("h5py") else array


def _again(array: Any, steps: Sequence[Step], name: str) -> LazyMatrix:
    return LazyMatrix(array.open() if isinstance(array, _InFile) else array, steps, name=name)
