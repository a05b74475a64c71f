"""A store made for documents: the cells of a context beside each other, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cellfuse._access import Data
from cellfuse.io.fields import PathLike

__all__ = ["open_store", "write_store"]


def write_store(
    data: Data | PathLike | Sequence[Data | PathLike],
    path: PathLike,
    *,
    context_keys: str | list[str],
    chunk_cells: int | None = None,
    memory: int = 1 << 30,
    overwrite: bool = False,
    seed: int = 0,
) -> Data:
    """Write cells in the order in which documents read them.

    The cells of a context lie beside each other, in random order; chunks hold whole cells, 16 or
    more, so that a document of 16 cells reads one or two. Models draw documents as chunks pass
    through their buffer, see :doc:`/user_guide/larger_than_memory`. Results come back in the order
    of `data`.

    The store is zarr format 3 in anndata's and mudata's layout, sharded (few files), with a
    checksum on every chunk: ``mudata.read_zarr`` reads it too, cells then in the order of the
    store. It is written beside `path`, in ``.NAME-writing``, and renamed when it is whole; a run
    that was killed goes on where it stopped when it is called again with the same arguments.

    Parameters
    ----------
    data
        MuData or AnnData in memory, backed or lazy (zarr, h5py, dask arrays, CSR in a file); the
        path of an ``.h5mu``, ``.h5ad`` or zarr of either, whose arrays are then read piece by
        piece; or a list of such, one after another, with the same obs columns and genes.
    path
        Folder to write, by custom ``.zarr``.
    context_keys
        As the models' `setup_mudata` will have it. Cells without a context come last.
    chunk_cells
        Cells of a chunk. By default as many as make 128 kB, but 16 to 256.
    memory
        Bytes that may be taken, 1 GiB by default, besides `data` itself and its obs. Arrays that
        are larger go through files beside the store, which take as much room as the array does
        uncompressed, unless their cells lie by context already.
    overwrite
        Replace a store at `path`; what was there stays until the new one is whole.
    seed
        Seed of the order within contexts.

    Returns
    -------
    The store, as :func:`open_store` gives it.

    Raises
    ------
    FileExistsError
        `path` exists (and is no store, or `overwrite` is False).
    PermissionError
        The folder cannot be written to.
    OSError
        The disk is full, named with the folder; or another process is writing this store.
    ValueError
        Contexts that the modalities do not share, files that do not fit together, or a chunk
        above `memory`.

    Examples
    --------
    >>> import tempfile
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
    >>> path = tempfile.mkdtemp() + "/screen.zarr"
    >>> stored = cf.io.write_store(mdata, path, context_keys="guide")
    >>> bool((stored["image"].obsm["crops"][:5] == mdata["image"].obsm["crops"][:5]).all())
    True
    """
    from cellfuse.io import _store_reading, _store_writing  # they bring torch

    _store_writing.write(
        data,
        Path(path),
        context_keys=context_keys,
        chunk_cells=chunk_cells,
        memory=memory,
        overwrite=overwrite,
        seed=seed,
    )
    return _store_reading.opened(Path(path))


def open_store(path: PathLike) -> Data:
    """Open what :func:`write_store` wrote; arrays stay on the disk.

    Parameters
    ----------
    path
        The store.

    Returns
    -------
    MuData, or AnnData if that is what was written, in the order in which it was given to
    :func:`write_store`. X, layers and obsm are lazy: ``array[rows]`` reads rows as numpy or CSR,
    views and copies of the AnnData read nothing, and every model, `pp` and `tl` reads them piece
    by piece. obs, var and uns are in memory.

    Raises
    ------
    FileNotFoundError
        There is no such store; if its writing was interrupted, the message says so.
    ValueError
        It is no store, or of another version.

    Examples
    --------
    >>> import tempfile
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, seed=0)
    >>> path = tempfile.mkdtemp() + "/screen.zarr"
    >>> _ = cf.io.write_store(mdata, path, context_keys="guide")
    >>> cf.io.open_store(path)["image"].obsm["crops"].shape == mdata["image"].obsm["crops"].shape
    True
    """
    from cellfuse.io import _store_reading  # it brings torch

    return _store_reading.opened(Path(path))
