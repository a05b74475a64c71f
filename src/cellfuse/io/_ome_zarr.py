"""OME-Zarr: images, labels inside them, plates, stores of bioformats2raw and SpatialData."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key
from cellfuse.io._series import Series, n_bytes
from cellfuse.io._text import check_declared

__all__ = ["is_ome_zarr", "labels_inside", "not_there", "open_zarr", "zarr_attributes"]

#: Axes of OME-Zarr 0.1 and 0.2, whose files do not say them.
OLD_AXES = ("t", "c", "z", "y", "x")
#: Folder, inside an image, of its label images.
LABELS = "labels"


def zarr_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a zarr group on disk; empty where the folder is none."""
    import zarr

    try:
        return dict(zarr.open_group(str(path), mode="r").attrs)
    except (FileNotFoundError, ValueError, TypeError, KeyError, zarr.errors.GroupNotFoundError):
        return {}


def _ome(path: Path) -> dict[str, Any]:
    """OME's attributes, which have a namespace of their own since 0.5."""
    attributes = zarr_attributes(path)
    inner = attributes.get("ome", attributes)
    return inner if isinstance(inner, dict) else {}


def is_ome_zarr(path: Path) -> bool:
    """Tell an OME-Zarr image by its metadata, reading no chunk."""
    if not any((path / name).is_file() for name in (".zattrs", "zarr.json")):
        return False
    return "multiscales" in _ome(path)


def labels_inside(image: Path) -> list[Path]:
    """Label images that lie where OME-Zarr puts them: ``<image>/labels/<name>``."""
    return [p for p in sorted((image / LABELS).glob("*")) if p.is_dir() and is_ome_zarr(p)]


def not_there(folder: Path) -> list[str]:
    """Wells that a plate names, or images that a well names, of which there is no folder."""
    if not any((folder / name).is_file() for name in (".zattrs", "zarr.json")):
        return []
    attributes = _ome(folder)
    named: list[Any] = []
    for kind, parts in (("plate", "wells"), ("well", "images")):
        listed = attributes.get(kind)
        listed = listed.get(parts) if isinstance(listed, dict) else None
        named += listed if isinstance(listed, list) else []
    paths = [str(one["path"]) for one in named if isinstance(one, dict) and one.get("path")]
    return [path[:100] for path in paths if not _is_folder(folder / path)]


def _is_folder(place: Path) -> bool:
    try:
        return place.is_dir()
    except (OSError, ValueError):  # a name that no disk has
        return False


def open_zarr(path: Path, element: str | None) -> list[Series]:
    """Images of a folder: one, or the series of bioformats2raw.

    Raises
    ------
    KeyError
        There is no such element.
    ValueError
        The folder is no OME-Zarr image, or holds several and none is named.
    """
    if element is not None:
        return _images(_inside(path, element))
    if is_ome_zarr(path):
        return _images(path)
    numbered = [p for p in path.glob("*") if p.name.isdecimal() and is_ome_zarr(p)]
    if "bioformats2raw.layout" in _ome(path) and numbered:
        found = sorted(numbered, key=lambda p: int(p.name))
        return [one for p in found for one in _images(p)]
    images = [name for name in _elements(path) if not name.startswith(f"{LABELS}/")]
    if len(images) != 1:
        raise ValueError(
            f"{str(path)!r} is no OME-Zarr image, and holds {len(images)} images: "
            f"{listing(_elements(path))}. Name one of them with `element`, or find them all with "
            "`cellfuse.io.read_fields`."
        )
    return _images(path / images[0])


def _inside(path: Path, element: str) -> Path:
    place = path / element
    if not place.resolve().is_relative_to(path.resolve()):
        raise ValueError(f"element {element!r} lies outside of {str(path)!r}.")
    if not place.is_dir():
        raise missing_key(element, _elements(path), what=f"the images of {str(path)!r}")
    return place


def _elements(path: Path) -> list[str]:
    """Images and labels of a store, as SpatialData lays them out, or those of a plate's wells."""
    places = ("images/*", "labels/*", "*/*/*")
    found = [p for kind in places for p in sorted(path.glob(kind))]
    return [p.relative_to(path).as_posix() for p in found if p.is_dir() and is_ome_zarr(p)]


def _images(path: Path) -> list[Series]:
    attributes = _ome(path)
    scales = attributes.get("multiscales")
    if not isinstance(scales, list) or not scales:
        raise ValueError(f"{str(path)!r} is no OME-Zarr image: it has no `multiscales`.")
    channels = _channel_names(attributes)
    return [_image(path, scale, channels, len(scales) > 1) for scale in scales]


def _channel_names(attributes: dict[str, Any]) -> list[str | None]:
    omero = attributes.get("omero")
    listed = omero.get("channels", []) if isinstance(omero, dict) else []
    listed = listed if isinstance(listed, list) else []  # null, where a program had nothing to say
    return [c.get("label") if isinstance(c, dict) else None for c in listed]


def _image(path: Path, scale: Any, channels: list[str | None], several: bool) -> Series:
    import zarr

    try:
        level = str(scale["datasets"][0]["path"])
        if not (path / level).resolve().is_relative_to(path.resolve()):
            raise LookupError(f"{level!r} lies outside of it")
        stored: Any = zarr.open_group(str(path), mode="r")[level]
        axes = [a["name"] if isinstance(a, dict) else str(a) for a in scale.get("axes", OLD_AXES)]
        shape, dtype = tuple(stored.shape), np.dtype(stored.dtype)
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{str(path)!r} is no OME-Zarr image: `multiscales` names no array that is there "
            f"({error!r})."
        ) from error
    if any(len(a) != 1 for a in axes):
        raise ValueError(f"{str(path)!r} has the axes {axes}; expected names out of t, c, z, y, x.")
    if len(axes) != len(shape):
        raise ValueError(
            f"{str(path)!r} names {len(axes)} axes, {listing(axes)}, and its array has "
            f"{len(shape)}, {shape}: mend `axes` of its `multiscales`."
        )

    def load() -> NDArray[Any]:
        declared = n_bytes(shape, dtype)
        if declared > 1 << 30:  # only then is it worth while to look at all chunks
            on_disk = sum(p.stat().st_size for p in (path / level).rglob("*") if p.is_file())
            check_declared(path / level, declared, on_disk)
        return np.asarray(stored[...])

    name = str(scale.get("name") or "") if several else path.name
    return Series(name, "".join(axes).upper(), shape, dtype, load, channels)
