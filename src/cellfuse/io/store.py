"""A store made for documents: the cells of a context beside each other, on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from anndata.io import read_elem, write_elem
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import Data
from cellfuse._errors import listing
from cellfuse._files import put_in_place
from cellfuse.data.contexts import Contexts
from cellfuse.data.stored import StoredCSR, StoredRows
from cellfuse.io._store_arrays import write_csr, write_dense
from cellfuse.io._store_sources import as_parts, concatenated_obs, sources_of
from cellfuse.io.fields import PathLike

__all__ = ["open_store", "write_store"]

logger = logging.getLogger("cellfuse")

#: Attribute by which a store is known, with the version of its layout.
MARK = "cellfuse-store"
FORMAT = 1
#: Slot of each modality's ``uns`` for where the row of each of the user's cells lies.
PLACE = "cellfuse_store"


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
        uncompressed.
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
    from filelock import FileLock, Timeout

    target = Path(path)
    _refuse_existing(target, overwrite=overwrite)
    if memory < 1 << 20:
        raise ValueError(f"memory={memory}: expected bytes, at least {1 << 20:,}.")
    if chunk_cells is not None and chunk_cells < 1:
        raise ValueError(f"chunk_cells={chunk_cells}: expected 1 or more.")
    parts, many = as_parts(data)
    obs = {name: concatenated_obs(found, name) for name, found in parts.items()}
    skeletons = {name: AnnData(obs=frame[[*frame.columns]]) for name, frame in obs.items()}
    contexts = Contexts.from_modalities(skeletons, context_keys)
    orders = {
        name: _order(contexts.of_row(name), len(contexts), [seed, number])
        for number, name in enumerate(parts)
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"{str(target.parent)!r} cannot be written to.")
    work = target.parent / f".{target.name}-writing"
    try:
        with FileLock(target.parent / f".{target.name}.lock", timeout=0):
            writer = _Writer(work, parts, obs, orders, memory, chunk_cells)
            writer.begin(_identity(parts, obs, orders, context_keys, chunk_cells, memory))
            writer.write(many, context_keys)
            put_in_place(work / "store", target)
            shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise OSError(
            f"another process is writing {str(target)!r}; wait for it, or choose another path."
        ) from None
    except OSError as error:
        if str(target.parent) in str(error) or isinstance(error, FileNotFoundError):
            raise
        raise OSError(
            error.errno or 0,
            f"writing {str(target)!r} stopped: {error.strerror or error}. Call it again to go on "
            f"where it stopped (what is done is in {str(work)!r})",
        ) from error
    return open_store(target)


def _refuse_existing(target: Path, *, overwrite: bool) -> None:
    if not target.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{str(target)!r} exists; pass overwrite=True to replace it.")
    if _mark_of(target) is None:
        raise FileExistsError(
            f"{str(target)!r} exists and is no store that `write_store` wrote; it is not "
            "overwritten. Choose another path."
        )


def _mark_of(path: Path) -> dict[str, Any] | None:
    try:
        found: Any = zarr.open_group(str(path), mode="r").attrs.get(MARK)
    except (FileNotFoundError, ValueError, OSError, zarr.errors.GroupNotFoundError):
        return None
    return found


def _order(codes: NDArray, n_contexts: int, seed: list[int]) -> NDArray[np.int64]:
    """Rows by context, those of a context in random order, those without one at the end."""
    random = np.random.default_rng(seed).random(len(codes))
    return np.lexsort((random, np.where(codes < 0, n_contexts, codes))).astype(np.int64)


def _identity(
    parts: dict[str, list[AnnData]],
    obs: dict[str, pd.DataFrame],
    orders: dict[str, NDArray],
    *settings: Any,
) -> dict[str, Any]:
    """What must be the same for a killed run to go on."""
    made = hashlib.blake2b(digest_size=16)
    for name, order in orders.items():
        made.update(name.encode())
        made.update(order.tobytes())
        made.update(pd.util.hash_array(obs[name].index.to_numpy(dtype=object)).tobytes())
        for source in sources_of(parts[name], name):
            made.update(f"{source.name} {source.shape} {source.dtype}".encode())
            some = np.arange(min(4, source.shape[0]))
            values = source.readers[0].read(some[some < source.readers[0].shape[0]])
            made.update(np.ascontiguousarray(getattr(values, "data", values)).tobytes())
    return {"format": FORMAT, "settings": json.dumps(settings), "data": made.hexdigest()}


class _Writer:
    """One store being written in the folder `work`."""

    def __init__(
        self,
        work: Path,
        parts: dict[str, list[AnnData]],
        obs: dict[str, pd.DataFrame],
        orders: dict[str, NDArray],
        memory: int,
        chunk_cells: int | None,
    ) -> None:
        self.work, self.parts, self.obs, self.orders = work, parts, obs, orders
        self.memory, self.chunk_cells = memory, chunk_cells

    def begin(self, identity: dict[str, Any]) -> None:
        """Go on with what is there, if it is of the same data, or begin anew."""
        plan = self.work / "plan.json"
        if plan.exists() and json.loads(plan.read_text()) == identity:
            logger.info("write_store: goes on with %s.", self.work)
            return
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "done").mkdir(parents=True)
        plan.write_text(json.dumps(identity))

    def write(self, many: bool, context_keys: str | list[str]) -> None:
        """Write all modalities, then the mark that says the store is whole."""
        root = zarr.open_group(str(self.work / "store"), mode="a", zarr_format=3)
        with _small_elements():
            for name in self.parts:
                group = root.require_group(f"mod/{name}") if many else root
                self._write_modality(name, group)
        keys = [context_keys] if isinstance(context_keys, str) else list(context_keys)
        if many:
            mods: Any = root["mod"]
            mods.attrs["mod-order"] = list(self.parts)
            root.attrs.update({"encoding-type": "MuData", "encoding-version": "0.1.0"})
        root.attrs[MARK] = {"format": FORMAT, "context_keys": keys, "modalities": many}

    def _write_modality(self, name: str, group: zarr.Group) -> None:
        first, order = self.parts[name][0], self.orders[name]
        group.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for mapping in ("layers", "obsm"):
            group.require_group(mapping).attrs.update(
                {"encoding-type": "dict", "encoding-version": "0.1.0"}
            )
        for number, source in enumerate(sources_of(self.parts[name], name)):
            done = self.work / "done" / f"{name}-{number}"
            if done.exists():
                continue
            write = write_csr if source.sparse else write_dense
            work = self.work / f"{name}-{number}"
            write(source, group, order, work=work, memory=self.memory, chunk_cells=self.chunk_cells)
            done.touch()
            shutil.rmtree(work, ignore_errors=True)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        write_elem(group, "obs", self.obs[name].iloc[order])
        write_elem(group, "var", first.var)
        write_elem(group, "uns", {**first.uns, PLACE: place})
        for mapping in ("varm", "varp"):
            write_elem(group, mapping, dict(getattr(first, mapping)))
        several = len(self.parts[name]) > 1
        pairs = {} if several else {k: v[order][:, order] for k, v in first.obsp.items()}
        write_elem(group, "obsp", pairs)
        for key, value in first.obsm.items():
            if isinstance(value, pd.DataFrame):
                frames = pd.concat([adata.obsm[key] for adata in self.parts[name]])
                write_elem(group["obsm"], key, frames.iloc[order])


def _small_elements() -> Any:
    """What anndata writes for us is small; this version asks how it is to be cut into files."""
    settings = anndata.settings
    known = hasattr(settings, "auto_shard_zarr_v3")
    return settings.override(auto_shard_zarr_v3=False) if known else nullcontext()


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
    target = Path(path)
    if not target.exists():
        half = target.parent / f".{target.name}-writing"
        more = (
            " Its writing was interrupted: call `write_store` again, which goes on where it "
            "stopped."
            if half.exists()
            else ""
        )
        raise FileNotFoundError(f"{str(target)!r} does not exist.{more}")
    mark = _mark_of(target)
    if mark is None:
        raise ValueError(
            f"{str(target)!r} is no store of `write_store`. `cellfuse.io.read_crops` opens other "
            "stores of crops; `write_store(path, ...)` makes a store of a file."
        )
    if mark.get("format") != FORMAT:
        raise ValueError(
            f"{str(target)!r} has version {mark.get('format')} of the layout, and this cellfuse "
            f"reads version {FORMAT}. Write it again with `write_store`, or install the cellfuse "
            "that wrote it."
        )
    root = zarr.open_group(str(target), mode="r")
    if not mark["modalities"]:
        return _open_modality(root, target)
    mods: Any = root["mod"]
    names = mods.attrs["mod-order"]
    import mudata

    with mudata.set_options(pull_on_update=False):
        return MuData({str(name): _open_modality(mods[name], target) for name in names})


def _open_modality(group: Any, target: Path) -> AnnData:
    missing = [name for name in ("obs", "var", "uns") if name not in group]
    if missing:
        raise ValueError(f"{str(target)!r} is damaged: {listing(missing)} of it is not there.")
    uns = dict(read_elem(group["uns"]))
    place = np.asarray(uns.pop(PLACE), np.int64)
    adata = AnnData(obs=read_elem(group["obs"]).iloc[place], var=read_elem(group["var"]), uns=uns)
    if "X" in group:
        adata.X = _lazy(group["X"], place)
    for where in ("layers", "obsm"):
        for key in group[where]:
            getattr(adata, where)[key] = _lazy(group[where][key], place)
    for where in ("varm", "varp"):
        for key, value in read_elem(group[where]).items():
            getattr(adata, where)[key] = value
    for key, value in read_elem(group["obsp"]).items():
        adata.obsp[key] = value[place][:, place]
    return adata


def _lazy(item: Any, place: NDArray[np.int64]) -> Any:
    if isinstance(item, zarr.Array):
        return StoredRows(item, place)
    if item.attrs["encoding-type"] == "csr_matrix":
        return StoredCSR(item, place)
    return read_elem(item).iloc[place]
