"""A sparse matrix that grows block by block, in memory or in a folder."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

__all__ = ["CSRFolder", "CSRMemory", "read_csr"]

#: Name of the matrix in its folder.
NAME = "matrix"


class CSRMemory:
    """Blocks of rows, put together at the end."""

    def __init__(self, n_columns: int) -> None:
        self.n_columns = n_columns
        self._blocks: list[sp.csr_matrix] = []

    def add(self, block: sp.csr_matrix) -> None:
        """Take the next rows."""
        self._blocks.append(block)

    def finish(self) -> sp.csr_matrix:
        """All rows; each part of the blocks is let go as soon as it is copied."""
        blocks, self._blocks = self._blocks, []
        counts = [np.diff(block.indptr) for block in blocks]
        indptr = np.zeros(sum(len(count) for count in counts) + 1, np.int64)
        np.cumsum(np.concatenate(counts), out=indptr[1:])
        parts = {"data": [b.data for b in blocks], "indices": [b.indices for b in blocks]}
        blocks.clear()
        data = np.concatenate(parts.pop("data"))
        indices = np.concatenate(parts.pop("indices"))
        return sp.csr_matrix((data, indices, indptr), shape=(len(indptr) - 1, self.n_columns))

    def discard(self) -> None:
        """Drop what there is."""
        self._blocks = []


class CSRFolder:
    """Blocks of rows, appended to a zarr folder in AnnData's format; renamed when it is whole."""

    def __init__(self, path: str | Path, n_columns: int, *, overwrite: bool = False) -> None:
        self.path, self.n_columns = Path(path), n_columns
        if self.path.exists() and not overwrite:
            raise FileExistsError(
                f"{str(path)!r} exists; choose another folder, or pass `overwrite=True`."
            )
        if self.path.exists() and not (self.path / NAME).is_dir():
            raise FileExistsError(f"{str(path)!r} is no folder of activations; it is left alone.")
        self._beside = self.path.with_name(self.path.name + ".part")
        self._group: Any = None

    def add(self, block: sp.csr_matrix) -> None:
        """Write the next rows."""
        import anndata as ad
        import zarr

        # Rows are counted in 64 bits from the start: matrices grow beyond what 32 can count.
        block = block.copy()
        block.indptr = block.indptr.astype(np.int64)
        if self._group is None:
            shutil.rmtree(self._beside, ignore_errors=True)
            self._group = zarr.open_group(self._beside, mode="w", zarr_format=2)
            ad.io.write_elem(self._group, NAME, block)
        else:
            ad.io.sparse_dataset(self._group[NAME]).append(block)

    def finish(self) -> Any:
        """The matrix as AnnData reads it from the folder."""
        import anndata as ad
        import zarr

        if self.path.exists():
            shutil.rmtree(self.path)
        self._beside.rename(self.path)
        return ad.io.sparse_dataset(zarr.open_group(self.path, mode="r")[NAME])

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._beside, ignore_errors=True)


def read_csr(array: Any, *, name: str = "the array") -> sp.csr_matrix:
    """A matrix on a disk, or of dask, in memory as CSR; only a piece of it is ever dense."""
    from cellfuse.data.lazy import PIECE_BYTES, LazyMatrix

    matrix = LazyMatrix(array, name=name)
    step = max(1, PIECE_BYTES // max(1, matrix.shape[1] * matrix.dtype.itemsize))
    sink = CSRMemory(matrix.shape[1])
    for start in range(0, len(matrix), step):
        sink.add(sp.csr_matrix(matrix[start : start + step]))
    return sink.finish()
