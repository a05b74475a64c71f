"""Readers: rows of an array, wherever it lies, as tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import h5py
import numpy as np
import scipy.sparse as sp
import torch
import zarr
from anndata.abc import CSCDataset, CSRDataset
from numpy.typing import NDArray
from torch import Tensor

from cellfuse.data.blocks import CACHE_BYTES, BlockReader
from cellfuse.data.contexts import Ints
from cellfuse.data.stored import StoredRows

__all__ = [
    "CSRReader",
    "ColumnReader",
    "DenseReader",
    "Reader",
    "SparseRows",
    "gather",
    "make_reader",
    "moved",
]


@dataclass
class SparseRows:
    """Rows of a CSR matrix on their way to the device, where they become dense.

    Parameters
    ----------
    row, column
        Place of each value, ``(nnz,)``, rows counted over all leading axes of `shape`.
    value
        Values, ``(nnz,)``, float32.
    shape
        Shape of the dense tensor, ``(..., n_columns)``.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from cellfuse.data import gather, make_reader
    >>> counts = make_reader(sp.csr_matrix(np.diag([1.0, 2.0])))
    >>> gather(counts, np.array([[1, 0]])).dense().tolist()
    [[[0.0, 2.0], [1.0, 0.0]]]
    """

    row: Tensor
    column: Tensor
    value: Tensor
    shape: tuple[int, ...]

    def to(self, *args: Any, **kwargs: Any) -> SparseRows:
        """Move to a device, as a tensor does."""
        return SparseRows(
            self.row.to(*args, **kwargs),
            self.column.to(*args, **kwargs),
            self.value.to(*args, **kwargs),
            self.shape,
        )

    def dense(self) -> Tensor:
        """Dense float32 tensor of `shape`."""
        n_columns = self.shape[-1]
        out = self.value.new_zeros(int(np.prod(self.shape[:-1])) * n_columns)
        out[self.row * n_columns + self.column] = self.value
        return out.view(self.shape)


class Reader(Protocol):
    """Rows of one array.

    `block_size` is the number of neighbouring rows that cost as much to read as one of them, 1
    where the array is in memory; `read` takes rows in any order, with repeats.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import Reader, make_reader
    >>> reader: Reader = make_reader(np.arange(6).reshape(3, 2))
    >>> reader.shape, reader.block_size, reader.read(np.array([0, 2])).tolist()
    ((3, 2), 1, [[0, 1], [4, 5]])
    """

    block_size: int

    def block_of(self, rows: Ints) -> Ints:
        """Number of the block in which each row lies."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of its elements."""
        ...

    def read(self, rows: Ints) -> NDArray[Any] | sp.csr_matrix:
        """Return the rows asked for."""
        ...


class DenseReader:
    """A numpy array or memmap, ``(n, ...)``, read row by row; :func:`make_reader` makes it.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import DenseReader
    >>> DenseReader(np.arange(6).reshape(3, 2)).read(np.array([1])).tolist()
    [[2, 3]]
    """

    block_size = 1

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def block_of(self, rows: Ints) -> Ints:
        """Every row is a block of its own."""
        return rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array."""
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of its elements."""
        return self.array.dtype

    def read(self, rows: Ints) -> NDArray[Any]:
        """Return the rows asked for."""
        return np.asarray(self.array[rows])


class CSRReader:
    """A scipy CSR matrix in memory; rows stay CSR.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from cellfuse.data import CSRReader
    >>> CSRReader(sp.csr_matrix(np.diag([1.0, 2.0]))).read(np.array([1])).toarray().tolist()
    [[0.0, 2.0]]
    """

    block_size = 1

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    def block_of(self, rows: Ints) -> Ints:
        """Every row is a block of its own."""
        return rows

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole matrix."""
        return tuple(self.matrix.shape)

    @property
    def dtype(self) -> np.dtype:
        """Type of its elements."""
        return np.dtype(self.matrix.dtype)

    def read(self, rows: Ints) -> sp.csr_matrix:
        """Return the rows asked for, as CSR."""
        found = self.matrix[rows]
        found.sum_duplicates()  # scipy allows several entries at one place, which add up
        return found


def make_reader(array: Any, *, cache_bytes: int = CACHE_BYTES) -> Reader:
    """Choose the reader for an array.

    Parameters
    ----------
    array
        numpy array or memmap, scipy sparse matrix, anndata CSR dataset, `h5py.Dataset`,
        `zarr.Array` or dask array.
    cache_bytes
        Decoded blocks kept of an array that is not in memory, in bytes (1 GiB).

    Returns
    -------
    A :class:`DenseReader`, :class:`CSRReader` or :class:`BlockReader`.

    Raises
    ------
    TypeError
        Another kind of array.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import make_reader
    >>> make_reader(np.zeros((3, 2))).shape
    (3, 2)
    """
    if isinstance(array, np.ndarray):
        return DenseReader(array)
    if sp.issparse(array):
        # Rows are read at every step: column-major storage would be searched through each time.
        return CSRReader(array if array.format == "csr" else array.tocsr())
    on_disk = StoredRows | zarr.Array | h5py.Dataset | CSRDataset
    if isinstance(array, on_disk) or hasattr(array, "dask"):
        return BlockReader(array, cache_bytes=cache_bytes)
    kind = f"{type(array).__module__}.{type(array).__name__}"
    if hasattr(array, "to_numpy"):
        return DenseReader(array.to_numpy())
    raise TypeError(
        f"cannot read rows of a {kind}; expected a numpy, scipy.sparse (CSR), h5py, zarr or dask "
        "array, or anndata's CSR matrix in a file"
        + (
            ": a CSC matrix has its columns together, and each row is all over the file. Write it "
            "again as CSR."
            if isinstance(array, CSCDataset)
            else "."
        )
    )


def gather(reader: Reader, rows: Ints) -> Tensor | SparseRows:
    """Read rows in any order, with repeats; the result has the shape of `rows` in front.

    Parameters
    ----------
    reader
        Where to read, see :func:`make_reader`.
    rows
        Row numbers of any shape, such as ``(G, S)``.

    Returns
    -------
    Tensor ``(*rows.shape, ...)``, or :class:`SparseRows` of that shape for a CSR matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import gather, make_reader
    >>> gather(make_reader(np.arange(4)[:, None]), np.array([[3, 0], [3, 1]]))[..., 0].tolist()
    [[3, 0], [3, 1]]
    """
    found = reader.read(rows.ravel())
    if sp.issparse(found):
        asked = sp.csr_matrix(found)
        coo_row = np.repeat(np.arange(asked.shape[0]), np.diff(asked.indptr))
        return SparseRows(
            torch.from_numpy(coo_row),
            torch.from_numpy(asked.indices.astype(np.int64)),
            torch.from_numpy(np.asarray(asked.data, dtype=np.float32)),
            (*rows.shape, asked.shape[1]),
        )
    values = found.reshape(*rows.shape, *found.shape[1:])
    if not values.dtype.isnative:  # as ImageJ and many microscopes write it
        values = values.astype(values.dtype.newbyteorder("="))
    if values.dtype == np.uint16:
        values = values.astype(np.int32)  # torch computes little in uint16
    return torch.from_numpy(np.ascontiguousarray(values))


class ColumnReader:
    """A reader whose columns are put into another order: genes are matched by name.

    Parameters
    ----------
    reader
        Reader of a matrix, ``(n, n_columns)``.
    columns
        Column of that matrix for each one that is handed out.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import ColumnReader, make_reader
    >>> genes = ColumnReader(make_reader(np.array([[1, 2, 3]])), np.array([2, 0]))
    >>> genes.read(np.array([0])).tolist()
    [[3, 1]]
    """

    def __init__(self, reader: Reader, columns: Ints) -> None:
        self.reader, self.columns = reader, columns
        self.block_size = reader.block_size

    def block_of(self, rows: Ints) -> Ints:
        """Number of the block in which each row lies."""
        return self.reader.block_of(rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array as it is handed out."""
        return (self.reader.shape[0], len(self.columns))

    @property
    def dtype(self) -> np.dtype:
        """Type of its elements."""
        return self.reader.dtype

    def read(self, rows: Ints) -> NDArray[Any] | sp.csr_matrix:
        """Return the rows asked for, columns reordered."""
        return self.reader.read(rows)[:, self.columns]


def moved(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Move a tensor as `Tensor.to` does; on a device there is no float64 (Apple's know none)."""
    place = kwargs.get("device", args[0] if args else None)
    leaves = isinstance(place, str | torch.device) and torch.device(place).type != "cpu"
    return (x.float() if leaves and x.dtype == torch.float64 else x).to(*args, **kwargs)


def read_dense(reader: Reader, rows: Ints, *, device: torch.device | None = None) -> Tensor:
    """Read rows as one dense tensor; sparse counts become dense on the device."""
    found = gather(reader, rows)
    if device is not None:
        found = found.to(device) if isinstance(found, SparseRows) else moved(found, device)
    return found.dense() if isinstance(found, SparseRows) else found
