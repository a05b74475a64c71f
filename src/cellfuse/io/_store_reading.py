"""How a store is opened: its arrays stay where they are, in the order of the user's cells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from anndata import AnnData
from anndata.io import read_elem
from numpy.typing import NDArray

from cellfuse._access import Data
from cellfuse._errors import listing
from cellfuse._mudata import make_mudata
from cellfuse.data.stored import StoredCSR, StoredRows
from cellfuse.io._hdf5 import inspect_folder, reading
from cellfuse.io._text import check_declared

__all__ = ["FORMAT", "MARK", "PLACE", "mark_of", "opened"]

#: Attribute by which a store is known, with the version of its layout.
MARK = "cellfuse-store"
FORMAT = 1
#: Slot of each modality's ``uns`` for where the row of each of the user's cells lies.
PLACE = "cellfuse_store"
#: What every modality of a store has.
PARTS = ("obs", "var", "uns", "layers", "obsm", "varm", "varp", "obsp")


def mark_of(path: Path) -> dict[str, Any] | None:
    """What a store says of itself; None of anything else."""
    try:
        found: Any = zarr.open_group(str(path), mode="r").attrs.get(MARK)
    except (FileNotFoundError, ValueError, OSError, zarr.errors.GroupNotFoundError):
        return None
    return found if isinstance(found, dict) else None


def opened(target: Path) -> Data:
    """Open a store, see :func:`cellfuse.io.open_store`."""
    if not target.exists():
        half = target.parent / f".{target.name}-writing"
        more = (
            " Its writing was interrupted: call `write_store` again, which goes on where it "
            "stopped."
            if half.exists()
            else ""
        )
        raise FileNotFoundError(f"{str(target)!r} does not exist.{more}")
    mark = mark_of(target)
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
    with reading(target):
        inspect_folder(target)
        root = zarr.open_group(str(target), mode="r")
        if not mark["modalities"]:
            return _open_modality(root, target)
        mods: Any = root["mod"]
        names = [str(name) for name in mods.attrs["mod-order"]]
        _refuse_lost(target, mods, names)
        return make_mudata({name: _open_modality(mods[name], target) for name in names})


def _refuse_lost(target: Path, group: Any, names: Iterable[str]) -> None:
    """Refuse a store of which a part was not copied."""
    lost = [name for name in names if name not in group]
    if lost:
        raise ValueError(
            f"{str(target)!r} is damaged: {listing(lost)} of {group.path or 'it'} is not there. "
            "Copy the store again, or write it again with `write_store`."
        )


def _open_modality(group: Any, target: Path) -> AnnData:
    _refuse_lost(target, group, PARTS)
    _refuse_lost(target, group["uns"], [PLACE])
    obs, uns = read_elem(group["obs"]), dict(read_elem(group["uns"]))
    place = np.asarray(uns.pop(PLACE), np.int64)
    if not np.array_equal(np.sort(place), np.arange(len(obs))):
        raise ValueError(
            f"{str(target)!r} is damaged: its index of {len(obs)} cells does not name each once. "
            "Copy the store again, or write it again with `write_store`."
        )
    adata = AnnData(obs=obs.iloc[place], var=read_elem(group["var"]), uns=uns)
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
        _check_array(item, len(place))
        return StoredRows(item, place)
    if item.attrs["encoding-type"] == "csr_matrix":
        return StoredCSR(item, place)
    return read_elem(item).iloc[place]


def _check_array(array: zarr.Array, n_cells: int) -> None:
    """Refuse an array of other cells, without chunks, or of far more bytes than there are."""
    place = str(array.store_path)
    empty = 0 in (*array.chunks, *(array.shards or ()))
    if not array.ndim or array.shape[0] != n_cells or empty:
        raise ValueError(
            f"{place!r} is damaged: its shape is {array.shape} in chunks of {array.chunks}, for "
            f"{n_cells} cells. Copy the store again, or write it again with `write_store`."
        )
    declared = int(np.prod([int(n) for n in array.shape], dtype=object)) * array.dtype.itemsize
    folder = Path(str(getattr(array.store, "root", ""))) / array.path
    if declared > 1 << 30 and folder.is_dir():  # only then is it worth while to look at all files
        on_disk = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        check_declared(folder, declared, on_disk)
