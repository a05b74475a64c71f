"""Files from strangers: nothing of another file, no more than there is, errors that name it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scipy.sparse as sp
from anndata import AnnData

from cellfuse._errors import MissingKeyError
from cellfuse.io._text import check_declared

__all__ = ["check_sparse", "inspect", "inspect_folder", "reading"]

#: Codecs of zarr that execute what they read.
EXECUTING = "pickle"
#: Files of zarr that say how an array is written.
DESCRIPTIONS = ("zarr.json", ".zarray", ".zmetadata")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Name the file in whatever h5py, zarr, anndata and scipy say of it."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ImportError | MissingKeyError) or str(path) in str(error):
            raise
        why = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{str(path)!r} could not be read, it is damaged or of another kind: {why}"
        ) from error


def inspect(group: Any, path: Path) -> None:
    """Look at all that a file holds, reading none of it.

    Parameters
    ----------
    group
        Open `h5py.File`.
    path
        Its name, for messages.

    Raises
    ------
    ValueError
        It points to bytes of another file, or declares far more than it holds.
    """
    size, seen, waiting = path.stat().st_size, set(), [(group, "")]
    while waiting:
        item, name = waiting.pop()
        if item.id.id is not None and _address(item) in seen:
            continue
        seen.add(_address(item))
        if hasattr(item, "keys"):
            waiting += [(_followed(item, key, path), f"{name}/{key}") for key in item]
            continue
        parts = item.virtual_sources() if item.is_virtual else []
        if item.external or any(part.file_name != "." for part in parts):
            _refuse(path, name, "are those of another file")
        if item.shape is not None:
            check_declared(path, int(item.size) * item.dtype.itemsize, size)


def _address(item: Any) -> Any:
    import h5py

    return h5py.h5o.get_info(item.id).addr


def _followed(group: Any, key: str, path: Path) -> Any:
    import h5py

    link = group.get(key, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        _refuse(path, f"{group.name}/{key}", f"are in {link.filename!r}")
    try:
        return group[key]
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{str(path)!r}: {key!r} leads nowhere ({error}).") from error


def _refuse(path: Path, name: str, where: str) -> None:
    raise ValueError(
        f"the values of {name!r} of {str(path)!r} {where}; they are not read. Expected one whole "
        "file: `h5repack` copies them into it."
    )


def check_sparse(adata: AnnData, path: Path) -> None:
    """Refuse sparse matrices that point beside themselves: the process would end with a crash."""
    for name, matrix in (("X", adata.X), *adata.layers.items(), *adata.obsm.items()):
        if not sp.issparse(matrix):
            continue
        try:
            matrix.check_format(full_check=True)
        except ValueError as error:
            raise ValueError(f"{name!r} of {str(path)!r} is damaged: {error}.") from error


def inspect_folder(path: Path) -> None:
    """Look at the descriptions of a zarr store's arrays.

    Raises
    ------
    ValueError
        An array is written by a codec that executes what it reads, or a file of the store is a
        link that leaves it.
    """
    root = path.resolve()
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            place = Path(folder, name)
            if place.is_symlink() and not place.resolve().is_relative_to(root):
                raise ValueError(
                    f"{str(place)!r} is a link that leaves {str(path)!r}; it is not followed. "
                    "Copy the store with what it links to."
                )
            if name in DESCRIPTIONS and _executes(place):
                raise ValueError(
                    f"{str(place)!r} names the codec 'pickle', which executes what it reads; "
                    f"nothing of {str(path)!r} is read. Expected numbers and texts."
                )
            if place.is_fifo():
                raise ValueError(f"{str(place)!r} is a pipe, and no file of a store.")


def _executes(description: Path) -> bool:
    try:
        return _names_codec(json.loads(description.read_text(encoding="utf-8")))
    except (ValueError, RecursionError):
        return False  # zarr says what is wrong with it


def _names_codec(value: Any) -> bool:
    if isinstance(value, dict):
        named = value.get("id", value.get("name"))
        if isinstance(named, str) and named.rsplit(".", 1)[-1] == EXECUTING:
            return True
        return any(_names_codec(inner) for inner in value.values())
    return isinstance(value, list) and any(_names_codec(inner) for inner in value)
