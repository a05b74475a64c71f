"""Where crops go while they are cut: memory, or a zarr store written chunk by chunk."""

from __future__ import annotations

import logging
import shutil
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import write_elem
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from cellfuse._files import put_in_place
from cellfuse.pp._crop_journal import DoneField, FieldNotes, Journal

__all__ = ["MemoryCrops", "ZarrCrops", "refuse_existing"]

logger = logging.getLogger("cellfuse")

CROPS = "crops"
#: Attribute by which a store is known to be one that may be replaced.
MARK = "cellfuse-crops"
#: Bytes of one chunk, before compression: whole cells, few enough to be read for a batch.
CHUNK_BYTES = 2 << 20
#: Chunks that are compressed and written together, by zarr's threads.
CHUNKS_AT_ONCE = 8


class Sink(Protocol):
    """Takes crops field by field, and gives all of them in the end."""

    def mark(self, of: Callable[[], str]) -> str:
        """Fingerprint of a field, where one is needed."""
        ...

    def done(self, mark: str) -> DoneField | None:
        """A field that an earlier run has cut; fields are asked for in order."""
        ...

    def add(self, crops: NDArray[Any], notes: FieldNotes, table: pd.DataFrame) -> None:
        """Take the crops of one field."""
        ...

    def finish(self, obs: pd.DataFrame, channels: tuple[str, ...]) -> AnnData:
        """Give all crops, with what is known of the cells."""
        ...

    def discard(self) -> str:
        """Leave nothing behind, or what the same call goes on after, and say that."""
        ...


class MemoryCrops:
    """Crops in one numpy array."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []

    def mark(self, of: Callable[[], str]) -> str:
        """Nothing is looked for again."""
        return ""

    def done(self, mark: str) -> DoneField | None:
        """Nothing was kept."""
        return None

    def add(self, crops: NDArray[Any], notes: FieldNotes, table: pd.DataFrame) -> None:
        """Take the crops of one field."""
        if len(crops):
            self._parts.append(crops)

    def finish(self, obs: pd.DataFrame, channels: tuple[str, ...]) -> AnnData:
        """Give all crops in memory."""
        crops = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        return _annotated(obs, channels, crops)

    def discard(self) -> str:
        """Nothing was written."""
        return ""


class ZarrCrops:
    """Crops in an AnnData zarr store: written beside `store`, and renamed when it is whole.

    The folder beside has one name: a later call with the same settings goes on after the fields
    that a killed one has finished, and any other clears it.

    Two buffers of a few chunks take turns: one is filled while the other is compressed and
    written in a thread.
    """

    def __init__(self, store: Path, settings: Mapping[str, Any]) -> None:
        self._store = store
        self._work = store.parent / f".{store.name}-writing"
        self._lock: FileLock | None = None
        self._array: Any = None
        self._filling: NDArray[Any]
        self._resting: NDArray[Any]
        self._filled = self._written = self._end = 0
        self._writer = ThreadPoolExecutor(1)
        self._write: Future[None] | None = None
        self._journal = Journal(self._work / "journal", settings)
        #: Fields whose crops are not on the disk yet, with the row at which they end.
        self._pending: deque[tuple[FieldNotes, pd.DataFrame, int]] = deque()
        if self._work.exists():
            self._take()
            self._journal.open(self._n_rows_there())

    def mark(self, of: Callable[[], str]) -> str:
        """Fingerprint of a field."""
        return of()

    def done(self, mark: str) -> DoneField | None:
        """A field that an earlier run has cut, as long as all before it are the same too."""
        return self._journal.take(mark)

    def add(self, crops: NDArray[Any], notes: FieldNotes, table: pd.DataFrame) -> None:
        """Take the crops of one field; whole chunks go to the disk."""
        if self._array is None and len(crops):  # of no cell nothing is made
            self._open(crops.shape[1:], crops.dtype)
        start = 0
        while start < len(crops):
            n = min(len(crops) - start, len(self._filling) - self._filled)
            self._filling[self._filled : self._filled + n] = crops[start : start + n]
            self._filled += n
            start += n
            if self._filled == len(self._filling):
                self._flush()
        self._end += len(crops)
        self._pending.append((notes, table, self._end))

    def _n_rows_there(self) -> int:
        """Rows of the array that an earlier run has left."""
        import zarr

        try:
            group = zarr.open_group(str(self._work / "store"), mode="r")
            return int(group[f"obsm/{CROPS}"].shape[0])  # type: ignore[union-attr]  # an array
        except (FileNotFoundError, KeyError, ValueError, zarr.errors.GroupNotFoundError):
            return 0

    def _open(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        if self._lock is None:
            self._take()
        if len(self._journal):
            self._go_on()
        else:
            self._create(shape, dtype)
        self._journal.begin()

    def _go_on(self) -> None:
        """Open the array of an earlier run; rows of its last chunk are filled up in memory."""
        import zarr

        for cut_short in (self._work / "store").rglob("*.partial"):  # as zarr calls them
            cut_short.unlink()
        self._array = zarr.open_group(str(self._work / "store"), mode="r+")[f"obsm/{CROPS}"]
        self._make_buffers()
        self._end = self._journal.n_rows
        self._written = self._end // self._array.chunks[0] * self._array.chunks[0]
        self._filled = self._end - self._written
        self._filling[: self._filled] = self._array[self._written : self._end]
        logger.info(
            "crop_cells: goes on after %d fields (%d cells) that an earlier call has cut.",
            len(self._journal), self._end,
        )  # fmt: skip

    def _make_buffers(self) -> None:
        cells, *shape = self._array.chunks
        self._filling = np.empty((CHUNKS_AT_ONCE * cells, *shape), self._array.dtype)
        self._resting = np.empty_like(self._filling)

    def _create(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        import zarr

        # Format 2 is what anndata writes, and all of the field's readers open.
        group = zarr.open_group(str(self._work / "store"), mode="w", zarr_format=2)
        group.attrs.update(
            {"encoding-type": "anndata", "encoding-version": "0.1.0", MARK: self._store.name}
        )
        obsm = group.create_group("obsm")
        obsm.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        cells = max(1, CHUNK_BYTES // (int(np.prod(shape)) * dtype.itemsize))
        self._array = obsm.create_array(
            CROPS, shape=(0, *shape), chunks=(cells, *shape), dtype=dtype, **layout()
        )
        self._array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        self._make_buffers()

    def _take(self) -> None:
        """Have the folder beside for this process alone."""
        self._work.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._work / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise OSError(
                f"another process is writing {str(self._store)!r}; wait for it, or choose another "
                "path."
            ) from None
        self._lock = lock

    def _flush(self) -> None:
        """Hand the filled buffer to the writer, whose last portion must be on the disk."""
        self._wait()
        self._write = self._writer.submit(self._append, self._filling[: self._filled])
        self._filling, self._resting = self._resting, self._filling
        self._filled = 0

    def _append(self, crops: NDArray[Any]) -> None:
        end = self._written + len(crops)
        self._array.resize((end, *self._array.shape[1:]))
        self._array[self._written : end] = crops
        self._written = end
        while self._pending and self._pending[0][2] <= end:
            self._journal.write(*self._pending.popleft())

    def _wait(self) -> None:
        if self._write is not None:
            self._write.result()
        self._write = None

    def finish(self, obs: pd.DataFrame, channels: tuple[str, ...]) -> AnnData:
        """Write what is left, put the store in its place, and open it."""
        import zarr

        if self._array is None:  # every field was cut by an earlier call
            self._go_on()
        if self._filled:
            self._flush()
        self._wait()
        self._writer.shutdown()
        self._array.resize((self._end, *self._array.shape[1:]))
        group = zarr.open_group(str(self._work / "store"), mode="r+")
        whole = _annotated(obs, channels, None)
        for name in ("obs", "var", "uns", "layers", "varm", "obsp", "varp"):
            value = getattr(whole, name)
            write_elem(group, name, value if name in ("obs", "var") else dict(value))
        put_in_place(self._work / "store", self._store)
        self._leave()
        opened = zarr.open_group(str(self._store), mode="r")
        return _annotated(obs, channels, opened[f"obsm/{CROPS}"])

    def discard(self) -> str:
        """Remove what was written beside, unless whole fields are among it."""
        self._writer.shutdown()
        if self._lock is None or not len(self._journal):
            self._leave()
            return ""
        self._lock.release()
        self._lock = None
        return (
            f"What was cut of {len(self._journal)} fields is kept in {str(self._work)!r}: the same "
            "call goes on after them; remove that folder to begin anew."
        )

    def _leave(self) -> None:
        if self._lock is not None:
            shutil.rmtree(self._work, ignore_errors=True)
            self._lock.release()
            self._lock = None


def layout() -> dict[str, Any]:
    """How chunks are written: bits of equal rank side by side, as the noise is in the low ones."""
    from numcodecs import Blosc

    # Crops are never empty: looking each chunk through for that takes as long as writing it.
    return {
        "compressors": Blosc(cname="lz4", clevel=5, shuffle=Blosc.BITSHUFFLE),
        "config": {"write_empty_chunks": True},
    }


def _annotated(obs: pd.DataFrame, channels: tuple[str, ...], crops: Any) -> AnnData:
    adata = AnnData(obs=obs)
    adata.uns["channels"] = np.array(channels, dtype=object)
    if crops is not None:
        adata.obsm[CROPS] = crops
    return adata


def refuse_existing(store: Path, *, overwrite: bool) -> None:
    """Refuse to replace a store silently, and anything that is no store of crops at all."""
    if not store.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{str(store)!r} exists; pass overwrite=True to replace it.")
    if not _is_store(store):
        raise FileExistsError(
            f"{str(store)!r} exists and is no store of crops that `crop_cells` wrote; it is not "
            "overwritten. Choose another path."
        )


def _is_store(store: Path) -> bool:
    import zarr

    try:
        return MARK in zarr.open_group(str(store), mode="r").attrs
    except (FileNotFoundError, ValueError, zarr.errors.GroupNotFoundError):
        return False
