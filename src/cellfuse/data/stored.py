"""Arrays of a store whose rows lie in another order than the user's cells."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import anndata.abc
import anndata.types
import numpy as np
import scipy.sparse as sp
import zarr

from cellfuse.data.blocks import BlockReader, Blocks, blocks_of, csr_blocks
from cellfuse.data.contexts import Ints

__all__ = ["StoredCSR", "StoredRows"]


#: anndata 0.12 takes what lies on the disk for an array only where it is a zarr array; 0.13 takes
#: whatever follows the array API, and refuses to copy an AnnData that holds a zarr array.
_KIN: Any = object if hasattr(anndata.types, "SupportsArrayApiBase") else zarr.Array


class StoredRows(_KIN):
    """Dense rows in a zarr array, handed out in the user's order.

    An array to AnnData and to everything else that asks; ``array[rows]`` is numpy. A view or subset
    of the AnnData that it stands in stays on the disk.

    Parameters
    ----------
    array
        What is on the disk.
    place
        Where the row of each of the user's cells lies in `array`.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> from cellfuse.data.stored import StoredRows
    >>> rows = StoredRows(zarr.array(np.array([[10], [11], [12]])), np.array([2, 0]))
    >>> rows.shape, rows[:].ravel().tolist()
    ((2, 1), [12, 10])
    """

    cut: Any  # how it is read, once it has been

    def __init__(self, array: zarr.Array, place: Ints) -> None:
        if _KIN is zarr.Array:
            super().__init__(array._async_array)
        #: As it lies on the disk.
        self.stored = array
        self.place, self.cut = place, None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape as it is handed out."""
        return (len(self.place), *self.stored.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.stored.ndim

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def dtype(self) -> np.dtype:
        """Type of the values."""
        return np.dtype(self.stored.dtype)

    @property
    def device(self) -> str:
        """Where rows are when they have been read (array API)."""
        return "cpu"

    def to_device(self, device: str, /, *, stream: object = None) -> StoredRows:
        """Itself (array API): rows are read to the CPU."""
        if device != "cpu":
            raise ValueError(f"device is {device!r}; rows of a store are read to 'cpu'.")
        return self

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        return np

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: Any) -> Any:
        rows, *others = index if isinstance(index, tuple) else (index,)
        if rows is Ellipsis:
            rows, others = slice(None), [Ellipsis, *others] if others else []
        place = np.asarray(self.place[rows])
        found = _read(self, place.ravel()).reshape(*place.shape, *self.shape[1:])
        keep = (slice(None),) * place.ndim
        return found[(*keep, *others)] if others else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return np.asarray(self[:], dtype=dtype)

    def __reduce__(self) -> Any:
        return StoredRows, (self.stored, self.place)

    def __repr__(self) -> str:
        return f"<StoredRows {self.stored.store_path} shape={self.shape} dtype={self.dtype}>"

    def subset(self, rows: Any, columns: Any = slice(None)) -> Any:
        """The same array with fewer cells, or in another order; fewer columns are read."""
        whole = isinstance(columns, slice) and columns == slice(None)
        kept = StoredRows(self.stored, self.place[rows])
        return kept if whole else kept[:, columns]

    def stored_blocks(self) -> Blocks:
        """Cut it in the order in which its rows lie on the disk."""
        return blocks_of(self.stored)

    def copy(self) -> StoredRows:
        """Itself: what is on the disk is not copied."""
        return self


class StoredCSR(anndata.abc.CSRDataset):
    """Sparse rows in anndata's CSR layout in zarr, handed out in the user's order.

    Parameters
    ----------
    group
        zarr group with ``data``, ``indices``, ``indptr``.
    place
        Where the row of each of the user's cells lies.
    """

    format: ClassVar[Literal["csr", "csc"]] = "csr"
    backend = "zarr"

    cut: Any  # how it is read, once it has been

    def __init__(self, group: zarr.Group, place: Ints, columns: Any = None) -> None:
        self.group, self.place, self.columns, self.cut = group, place, columns, None
        shape: Any = group.attrs["shape"]
        data: Any = group["data"]
        n_rows, width = map(int, shape)
        n_columns = width if columns is None else len(np.arange(width)[columns])
        self.shape = (len(place), n_columns)
        self.stored_shape = (n_rows, width)
        self.dtype = np.dtype(data.dtype)

    def __len__(self) -> int:
        return len(self.place)

    def __getitem__(self, index: Any) -> Any:
        rows, *others = index if isinstance(index, tuple) else (index,)
        place = np.atleast_1d(np.asarray(self.place[rows]))
        found = _read(self, place.ravel())
        found = found if self.columns is None else found[:, self.columns]
        return found[(slice(None), *others)] if others else found

    def to_memory(self) -> sp.csr_matrix:
        """All rows."""
        return self[:]

    def subset(self, rows: Any, columns: Any = slice(None)) -> StoredCSR:
        """The same matrix with fewer cells or genes, or in another order."""
        width = self.stored_shape[1]
        before = np.arange(width) if self.columns is None else self.columns
        kept = np.asarray(before)[columns]
        whole = len(kept) == width and bool((kept == np.arange(width)).all())
        return StoredCSR(self.group, self.place[rows], None if whole else kept)

    def stored_blocks(self) -> Blocks:
        """Cut it in the order in which its rows lie on the disk."""
        return csr_blocks(self.group, self.stored_shape, self.dtype)

    def copy(self) -> StoredCSR:
        """Itself: what is on the disk is not copied."""
        return self


def _read(array: StoredRows | StoredCSR, place: Ints) -> Any:
    if array.cut is None:
        array.cut = array.stored_blocks()
    distinct, inverse = np.unique(place, return_inverse=True)
    return BlockReader(array.cut, cache_bytes=0).read(distinct)[inverse]


def _stay_on_disk() -> None:
    """Let views of an AnnData keep these arrays lazy, as they do dask's."""
    try:
        from anndata._core.index import _subset
        from anndata._core.views import as_view
    except ImportError:  # another anndata: a view then reads its rows
        return
    for kind in (StoredRows, StoredCSR):
        _subset.register(kind)(lambda array, index: array.subset(*index))
        as_view.register(kind)(lambda array, view_args: array)


_stay_on_disk()
