"""What a store is written from: arrays of one or several files, gone through once, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import Data, is_mudata, layers_of, modalities, stored_x, where
from cellfuse._errors import listing
from cellfuse._mudata import make_mudata
from cellfuse.data.blocks import BlockReader
from cellfuse.data.readers import CSRReader, Reader, make_reader
from cellfuse.io._hdf5 import inspect, inspect_folder, reading

__all__ = ["Source", "as_parts", "concatenated_obs", "frame_of", "is_table", "sources_of"]

#: How often a block may be read, on average, before files in between are worth their while.
READ_AGAIN = 1.5
#: Bytes of a source that are in memory at a time while it is gone through.
SWEEP_BYTES = 64 << 20


@dataclass
class Source:
    """One array of a modality, from all its parts, one after another.

    Parameters
    ----------
    place, key
        ``"X"``, ``"layers"`` or ``"obsm"``, with its key.
    readers
        One per part.
    """

    place: str
    key: str | None
    readers: list[Reader]

    @property
    def name(self) -> str:
        """Path of the array inside its AnnData."""
        return self.place if self.key is None else f"{self.place}/{self.key}"

    @property
    def sparse(self) -> bool:
        """Whether rows come as CSR."""
        return any(isinstance(r, CSRReader) or getattr(r, "sparse", False) for r in self.readers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all parts together."""
        return (sum(r.shape[0] for r in self.readers), *self.readers[0].shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """One type for all parts, in this machine's byte order."""
        return np.result_type(*(r.dtype for r in self.readers)).newbyteorder("=")

    def read(self, rows: NDArray[np.int64]) -> Any:
        """Rows of an array in memory, in any order."""
        if len(self.readers) == 1:
            return self.readers[0].read(rows)
        ends = np.cumsum([r.shape[0] for r in self.readers])
        part = np.searchsorted(ends, rows, side="right")
        order = np.argsort(part, kind="stable")
        found = [
            reader.read(rows[part == number] - (ends[number] - reader.shape[0]))
            for number, reader in enumerate(self.readers)
            if (part == number).any()
        ]
        inverse = np.argsort(order, kind="stable")
        joined = sp.vstack(found, format="csr") if self.sparse else np.concatenate(found)
        return joined[inverse]

    @property
    def in_memory(self) -> bool:
        """Whether rows in any order cost no more than in theirs."""
        return not any(isinstance(r, BlockReader) for r in self.readers)

    @property
    def n_bytes(self) -> int:
        """Size of all values in memory."""
        return sum(_bytes_of(reader) for reader in self.readers)

    def lies_as(self, order: NDArray[np.int64], rows: int) -> bool:
        """Whether it can be read in an order, `rows` at a time, with hardly a block read twice."""
        if self.in_memory:
            return True
        blocks, end, n_before = np.empty(len(order), np.int64), 0, 0
        for reader in self.readers:
            begin, end = end, end + reader.shape[0]
            here = (begin <= order) & (order < end)
            blocks[here] = reader.block_of(order[here] - begin) + n_before
            n_before += reader.shape[0]  # there are no more blocks than rows
        reads = np.unique(np.arange(len(order)) // rows * n_before + blocks)
        return len(reads) <= READ_AGAIN * len(np.unique(blocks))

    def sweep(self, first: int = 0) -> Iterator[tuple[int, Any]]:
        """Go through all rows from `first` on: the first row of each piece, and its values."""
        begin = 0
        for reader in self.readers:
            n = reader.shape[0]
            row_bytes = max(1, int(np.prod(reader.shape[1:], dtype=np.int64)))
            each = 1 if self.sparse else reader.dtype.itemsize
            step = max(reader.block_size, SWEEP_BYTES // (row_bytes * each))
            step -= step % reader.block_size
            for start in range(max(0, first - begin), n, step):
                rows = np.arange(start, min(start + step, n), dtype=np.int64)
                yield begin + start, reader.read(rows)
            begin += n


def _bytes_of(reader: Reader) -> int:
    if isinstance(reader, CSRReader):
        return int(reader.matrix.data.nbytes + reader.matrix.indices.nbytes)
    dense = int(np.prod(reader.shape, dtype=np.int64)) * reader.dtype.itemsize
    return int(getattr(reader, "n_bytes", dense))


def as_parts(data: object) -> tuple[dict[str, list[AnnData]], bool]:
    """The parts of every modality, and whether `data` has modalities at all."""
    given = list(data) if isinstance(data, Sequence) and not isinstance(data, str) else [data]
    if not given:
        raise ValueError("nothing to write: the list of data is empty.")
    opened = [_opened(one) for one in given]
    kinds = {isinstance(one, MuData) for one in opened}
    if len(kinds) > 1:
        raise TypeError("found both AnnData and MuData; give several of one kind.")
    parts: dict[str, list[AnnData]] = {}
    for one in opened:
        # A lone AnnData may have left its tables on the disk: they are read when they are written.
        for name, adata in (modalities(one) if is_mudata(one) else {"": one}).items():
            parts.setdefault(name, []).append(adata)
    uneven = [name for name, found in parts.items() if len(found) < len(opened)]
    if uneven:
        raise ValueError(f"modality {uneven[0]!r} is not in all {len(opened)} files.")
    return parts, kinds == {True}


def _opened(one: Any) -> Data:
    """Open a file without reading its arrays."""
    if not isinstance(one, str | Path):
        return one
    path = Path(one)
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    try:
        group: Any = zarr.open_group(str(path), mode="r") if path.is_dir() else h5py.File(path)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is no AnnData or MuData file, or a damaged one: {error}."
        ) from error
    with reading(path):
        inspect_folder(path) if path.is_dir() else inspect(group, path)
        if "mod" not in group:
            return _lazy(group, path)
        order = group["mod"].attrs.get("mod-order", list(group["mod"]))
        mods = {str(name): _lazy(group["mod"][name], path) for name in order}
        return make_mudata(mods)


def _lazy(group: Any, path: Path) -> AnnData:
    if "obs" not in group:
        raise ValueError(f"{str(path)!r} is no AnnData: it has no obs, but {listing(group)}.")
    adata = AnnData(obs=read_elem(group["obs"]), var=read_elem(group["var"]))
    adata.uns = read_elem(group["uns"]) if "uns" in group else {}
    if "X" in group and group["X"].attrs.get("encoding-type") != "null":
        adata.X = _array(group["X"])
    for place in ("layers", "obsm"):
        for key in group.get(place, {}):
            getattr(adata, place)[key] = _array(group[place][key])
    for place in ("varm", "obsp", "varp"):
        for key in group.get(place, {}):
            getattr(adata, place)[key] = read_elem(group[place][key])
    return adata


def _array(item: Any) -> Any:
    """An element as it lies there; data frames are read."""
    if isinstance(item, h5py.Dataset | zarr.Array):
        return item
    kind = str(item.attrs.get("encoding-type", ""))
    return sparse_dataset(item) if kind.endswith("_matrix") else read_elem(item)


def concatenated_obs(parts: list[AnnData], modality: str) -> pd.DataFrame:
    """The cells of all parts; columns that not all have are refused."""
    frames = [frame_of(adata.obs) for adata in parts]
    for frame in frames[1:]:
        other = sorted(set(map(str, frame.columns)) ^ set(map(str, frames[0].columns)))
        if other:
            raise ValueError(
                f"the files{where(modality)} differ in obs columns: {listing(other)}. Give all of "
                "them the same."
            )
    if len(frames) == 1:
        return frames[0]
    joined = pd.concat([frame.astype(object) for frame in frames])
    for column in frames[0].columns:
        dtypes: list[Any] = list({frame[column].dtype for frame in frames})
        if any(isinstance(dtype, pd.CategoricalDtype) for dtype in dtypes):
            dtypes = ["category"]
        only = dtypes[0] if len(dtypes) == 1 else None
        joined[column] = joined[column].astype(only) if only else joined[column].infer_objects()
    if not joined.index.is_unique:
        double = joined.index[joined.index.duplicated()].unique()
        raise ValueError(
            f"the same obs_names stand in several files{where(modality)}: {listing(double, 3)}. "
            "Prefix them, such as `adata.obs_names = 'plate1_' + adata.obs_names`."
        )
    return joined


def is_table(values: Any) -> bool:
    """Whether something in obsm is a data frame, in memory or left on the disk."""
    return hasattr(values, "columns")


def frame_of(table: Any) -> pd.DataFrame:
    """A table of cells or genes, read if it was left on the disk."""
    return table if isinstance(table, pd.DataFrame) else table.to_memory()


def sources_of(parts: list[AnnData], modality: str) -> list[Source]:
    """Every array with a row per cell; data frames in obsm are no arrays."""
    first = parts[0]
    keys: list[tuple[str, str | None]] = (
        [] if stored_x(first) is None or not first.n_vars else [("X", None)]
    )
    keys += [("layers", key) for key in layers_of(first)]
    keys += [("obsm", key) for key in first.obsm if not is_table(first.obsm[key])]
    slashed = [key for _, key in keys if key is not None and "/" in key]
    if slashed:
        raise ValueError(
            f"key {slashed[0]!r}{where(modality)} holds a slash, which names a folder in a store; "
            "rename it."
        )
    sources = []
    for place, key in keys:
        found = [_get(adata, place, key) for adata in parts]
        name = place if key is None else f"{place}[{key!r}]"
        if any(array is None for array in found):
            raise ValueError(f"{name}{where(modality)} is not in all files.")
        widths = {tuple(array.shape[1:]) for array in found}
        if len(widths) > 1:
            raise ValueError(f"{name}{where(modality)} has rows of several shapes: {widths}.")
        sources.append(Source(place, key, [_reader(array) for array in found]))
    return sources


def _get(adata: AnnData, place: str, key: str | None) -> Any:
    return stored_x(adata) if key is None else getattr(adata, place).get(key)


def _reader(array: Any) -> Reader:
    # Everything is read once, in order: nothing is gained by keeping it.
    return make_reader(array, cache_bytes=0)
