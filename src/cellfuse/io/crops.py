"""Stores of single-cell images, opened without reading the images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from cellfuse._errors import listing, missing_key
from cellfuse.io._channels import Channels, choose_channels
from cellfuse.io._hdf5 import inspect, inspect_folder, reading
from cellfuse.io._paths import PathLike

__all__ = ["read_crops"]

#: Names under which stores hold their crops: this library's, and scPortrait's.
KEYS = ("crops", "single_cell_images")


def read_crops(
    path: PathLike, *, channels: Channels | None = None, element: str | None = None
) -> AnnData:
    """Open a store of single-cell images; they stay on the disk.

    Parameters
    ----------
    path
        What :func:`cellfuse.pp.crop_cells` wrote with `store`; scPortrait's ``.h5sc``; an
        ``.h5ad`` or AnnData zarr with ``obsm["crops"]``; or a SpatialData store, of which a table
        holds such images. scPortrait and spatialdata need not be installed.
    channels
        Channels to keep, in this order, or a dict of new names by old ones or by place; where names
        stand twice, all names in order. Then, and only then, the images are read into memory.
        Without it all are there, in scPortrait's stores the masks too, which come first:
        ``uns["is_mask"]`` tells them apart.
    element
        Table of a SpatialData store, such as ``"tables/cells"``, where it holds several.

    Returns
    -------
    AnnData
        ``obsm["crops"]`` is an `h5py.Dataset` or `zarr.Array` (cells, channels, height, width) in
        the type of the store, which the models and verbs of this library read block by block;
        ``uns["channels"]`` holds the names of its channels. X is empty.

    Raises
    ------
    FileNotFoundError
        There is no such store.
    ValueError
        It holds no single-cell images.
    KeyError
        A channel is not there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import anndata as ad, numpy as np
    >>> import cellfuse as cf
    >>> cells = ad.AnnData(obsm={"crops": np.zeros((3, 2, 8, 8), np.uint8)}, shape=(3, 0))
    >>> cells.uns["channels"] = ["DNA", "ER"]
    >>> file = Path(tempfile.mkdtemp()) / "cells.h5ad"
    >>> cells.write_h5ad(file)
    >>> cf.io.read_crops(file).obsm["crops"].shape
    (3, 2, 8, 8)
    """
    store = Path(path)
    if not store.exists():
        raise FileNotFoundError(f"{str(store)!r} does not exist.")
    with reading(store):
        group = _open_zarr(store, element) if store.is_dir() else _open_hdf5(store)
        return _crops_of(group, store, channels)


def _crops_of(group: Any, store: Path, channels: Channels | None) -> AnnData:
    obsm = group.get("obsm", {})
    key = next((k for k in KEYS if k in obsm), None)
    if key is None or len(getattr(obsm[key], "shape", ())) != 4:
        raise ValueError(
            f"{str(store)!r} holds no single-cell images: expected obsm[{KEYS[0]!r}] or "
            f"obsm[{KEYS[1]!r}] of (cells, channels, height, width); its obsm has {listing(obsm)}."
        )
    images = obsm[key]
    obs = read_elem(group["obs"])
    if len(obs) != images.shape[0]:
        raise ValueError(f"{str(store)!r} has {len(obs)} cells in obs, {images.shape[0]} images.")
    adata = AnnData(obs=obs)
    uns = read_elem(group["uns"]) if "uns" in group else {}
    names, is_mask = _channels(uns, images, group, store)
    adata.uns = {k: v for k, v in uns.items() if not str(k).startswith(f"{KEYS[1]}/")}
    if names is not None:
        adata.uns["channels"] = np.array(names, dtype=object)
    if is_mask is not None:
        adata.uns["is_mask"] = is_mask
    adata.obsm["crops"] = images
    return adata if channels is None else _chosen(adata, names, channels, store)


def _open_hdf5(store: Path) -> Any:
    import h5py

    try:
        # The file stays open as long as one of its arrays is in use.
        file = h5py.File(store, "r")
    except OSError as error:
        raise ValueError(
            f"{str(store)!r} is no HDF5 file (.h5sc, .h5ad), or a damaged one: {error}."
        ) from error
    inspect(file, store)
    return file


def _open_zarr(store: Path, element: str | None) -> Any:
    import zarr

    inspect_folder(store)
    try:
        group = zarr.open_group(str(store), mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError) as error:
        raise ValueError(f"{str(store)!r} is a folder, and no zarr store.") from error
    if element is not None:
        if element not in group:
            raise missing_key(element, _tables(group), what=f"the tables of {str(store)!r}")
        return group[element]
    if "obs" in group:
        return group
    tables = [name for name in _tables(group) if any(f"{name}/obsm/{k}" in group for k in KEYS)]
    if len(tables) != 1:
        raise ValueError(
            f"{str(store)!r} is no AnnData, and {len(tables)} of its tables hold single-cell "
            f"images: {listing(tables)} of {listing(_tables(group))}. Name one with `element`; "
            "cut crops from images and labels with `cellfuse.pp.crop_cells`."
        )
    return group[tables[0]]


def _tables(group: Any) -> list[str]:
    return [f"tables/{name}" for name in group["tables"]] if "tables" in group else []


def _channels(
    uns: dict[str, Any], images: Any, group: Any, store: Path
) -> tuple[list[str] | None, np.ndarray | None]:
    """Names of the channels, and which of them are masks: from uns, else from the array or var."""
    nested = uns.get(KEYS[1], {})
    nested = nested if isinstance(nested, dict) else {}

    def find(name: str) -> Any:
        for place, key in ((nested, name), (uns, f"{KEYS[1]}/{name}"), (images.attrs, name)):
            if key in place:
                return place[key]
        return None

    stored = uns.get("channels")
    stored = find("channel_names") if stored is None else stored
    kinds = find("channel_mapping")
    var = read_elem(group["var"]) if stored is None and "var" in group else pd.DataFrame()
    if {"channels", "channel_mapping"} <= set(var.columns):
        stored, kinds = var["channels"], var["channel_mapping"]
    if stored is not None and len(stored) == images.shape[3] != images.shape[1]:
        raise ValueError(
            f"the images of {str(store)!r} are {images.shape}, with the channels "
            f"{listing(_texts(stored))} last; expected (cells, channels, height, width)."
        )
    if stored is None or len(stored) != images.shape[1]:
        return None, None
    is_mask = None if kinds is None else np.array([text == "mask" for text in _texts(kinds)])
    return _texts(stored), is_mask


def _texts(values: Any) -> list[str]:
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(values).ravel()]


def _chosen(adata: AnnData, names: list[str] | None, channels: Channels, store: Path) -> AnnData:
    if names is None:
        raise ValueError(f"{str(store)!r} does not name its channels; read all of them.")
    columns, chosen = choose_channels(names, channels, store)
    images = adata.obsm["crops"]
    out = np.empty((images.shape[0], len(columns), *images.shape[2:]), images.dtype)
    for target, column in enumerate(columns):
        out[:, target] = images[:, column]
    adata.obsm["crops"] = out
    adata.uns["channels"] = np.array(chosen, dtype=object)
    if "is_mask" in adata.uns:
        adata.uns["is_mask"] = adata.uns["is_mask"][columns]
    return adata
