"""Pixels of one image file, TIFF (OME, ImageJ, plain) or OME-Zarr, by channel."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key

__all__ = ["TIFF_SUFFIXES", "is_ome_zarr", "planes", "read_pixels", "zarr_attributes"]

TIFF_SUFFIXES = (".tif", ".tiff")
#: Axes of a TIFF that may stand for channels, in the order in which they are taken: channels,
#: samples of a pixel (RGB), pages without a name.
CHANNEL_AXES = "CSQI"
#: Axes of OME-Zarr 0.1 and 0.2, whose files do not say them.
OLD_AXES = ("t", "c", "z", "y", "x")


def read_pixels(path: Path, *, element: str | None = None) -> tuple[NDArray[Any], list[str] | None]:
    """Read one image as (channels, height, width), with channel names where the file has them.

    Parameters
    ----------
    path
        TIFF file, or folder of an OME-Zarr image (or of a SpatialData store, see `element`).
    element
        Path of an image inside a zarr store, such as ``"images/cells"`` or ``"labels/nuclei"``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is damaged, of another format, or holds several time points or focal planes.
    """
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    if path.is_dir():
        return _read_ome_zarr(path, element)
    return _read_tiff(path)


def planes(array: NDArray[Any], axes: str, path: Path) -> NDArray[Any]:
    """Bring an array with named axes into the order channels, Y, X."""
    axes = axes.upper()
    missing = {"Y", "X"} - set(axes)
    if missing or len(axes) != array.ndim:
        raise ValueError(f"{str(path)!r} has the axes {axes!r}; expected at least Y and X.")
    long = [a for a in axes if a not in "YX" and array.shape[axes.index(a)] > 1]
    channel = next((a for a in CHANNEL_AXES if a in long), None)
    others = {a: array.shape[axes.index(a)] for a in long if a != channel}
    if others:
        sizes = ", ".join(f"{a} ({size})" for a, size in others.items())
        raise ValueError(
            f"{str(path)!r} has more than channels: axes {axes!r}, of which {sizes} is longer "
            "than 1. A field is one time point and one focal plane: project or split it first."
        )
    kept = [axes.index(a) for a in (channel, "Y", "X") if a is not None]
    dropped = tuple(i for i in range(array.ndim) if i not in kept)
    order = (*dropped, *kept)
    flat = array.transpose(order).reshape([array.shape[i] for i in kept])
    return flat if channel is not None else flat[None]


# -- TIFF -----------------------------------------------------------------------------------------


def _read_tiff(path: Path) -> tuple[NDArray[Any], list[str] | None]:
    import tifffile

    with _damage(path), tifffile.TiffFile(path) as tif:
        # tifffile ends a chain of pages that leaves the file without an error, and fills with 0
        # what it does not find: look for both before a pixel is used.
        cut = _cut_chain(tif) or _cut_pages(tif.series[0].pages)
        sizes = {tuple(s.shape) for s in tif.series}
        several = len(sizes) > 1 and not tif.is_ome
        array = None if cut or several else tif.series[0].asarray()
        axes, names = tif.series[0].axes, _tiff_names(tif)
    if cut:
        raise ValueError(
            f"{str(path)!r} is truncated at {path.stat().st_size} bytes: {cut}. Copy it again."
        )
    if array is None:
        raise ValueError(
            f"{str(path)!r} holds images of different sizes, {listing(sorted(sizes))}; expected "
            "channels of one size."
        )
    pixels = planes(array, axes, path)
    return pixels, names if names is not None and len(names) == len(pixels) else None


def _cut_chain(tif: Any) -> str:
    """What the chain of pages lacks: each tells where the next begins, the last tells 0."""
    stream, layout = tif.filehandle, tif.tiff
    place, seen = 4 if layout.offsetsize == 4 else 8, set()
    while True:
        stream.seek(place)
        offset = struct.unpack(layout.offsetformat, stream.read(layout.offsetsize))[0]
        if offset == 0 or offset in seen:
            return ""
        seen.add(offset)
        if offset + layout.tagnosize > stream.size:
            return f"page {len(seen)} begins at byte {offset}"
        stream.seek(offset)
        n_tags = struct.unpack(layout.tagnoformat, stream.read(layout.tagnosize))[0]
        place = offset + layout.tagnosize + n_tags * layout.tagsize
        if place + layout.offsetsize > stream.size:
            return f"the description of page {len(seen)} ends at byte {place + layout.offsetsize}"


def _cut_pages(pages: Any) -> str:
    """What the pixels of the pages lack."""
    for i, page in enumerate(pages, start=1):
        if page is None:
            return f"page {i} is missing"
        ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
        end = int(ends.max(initial=0))
        if end > page.parent.filehandle.size:  # an OME-TIFF may lie in several files
            return f"the pixels of page {i} end at byte {end}"
    return ""


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Name the file in whatever a decoder says of broken bytes."""
    try:
        yield
    except (
        ValueError,
        RuntimeError,
        OSError,
        EOFError,
        LookupError,
        TypeError,
        AttributeError,
        struct.error,
        zlib.error,
    ) as error:
        if "imagecodecs" in str(error):
            raise ImportError(
                f"{str(path)!r} is compressed in a way that needs the package imagecodecs "
                f"(pip install imagecodecs): {error}."
            ) from error
        raise ValueError(
            f"{str(path)!r} cannot be read as a TIFF, it is damaged, truncated or of another "
            f"format: {error}."
        ) from error


def _tiff_names(tif: Any) -> list[str] | None:
    """Channel names of an OME-TIFF or an ImageJ TIFF."""
    if tif.is_ome and tif.ome_metadata:
        try:
            root = ElementTree.fromstring(tif.ome_metadata)
        except ElementTree.ParseError:
            return None
        first = next((e for e in root.iter() if e.tag.endswith("}Pixels")), None)
        found = [] if first is None else [e for e in first if e.tag.endswith("}Channel")]
        names = [e.get("Name") for e in found]
        return [str(n) for n in names] if names and all(names) else None
    labels = (tif.imagej_metadata or {}).get("Labels") if tif.is_imagej else None
    return [str(label) for label in labels] if labels else None


# -- OME-Zarr -------------------------------------------------------------------------------------


def zarr_attributes(path: Path) -> dict[str, Any]:
    """Attributes of a zarr group on disk; empty where the folder is none."""
    import zarr

    try:
        return dict(zarr.open_group(str(path), mode="r").attrs)
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return {}


def is_ome_zarr(path: Path) -> bool:
    """Tell an OME-Zarr image by its metadata, reading no chunk."""
    if not any((path / name).is_file() for name in (".zattrs", "zarr.json")):
        return False
    attributes = zarr_attributes(path)
    return "multiscales" in attributes.get("ome", attributes)


def _read_ome_zarr(path: Path, element: str | None) -> tuple[NDArray[Any], list[str] | None]:
    import zarr

    path = _element(path, element)
    attributes = zarr_attributes(path)
    attributes = attributes.get("ome", attributes)  # 0.5 has a namespace of its own
    try:
        scales = attributes["multiscales"][0]
        level = str(scales["datasets"][0]["path"])
        stored: Any = zarr.open_group(str(path), mode="r")[level]
    except (LookupError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is no OME-Zarr image: `multiscales` names no array that is there "
            f"({error!r})."
        ) from error
    axes = [a["name"] if isinstance(a, dict) else str(a) for a in scales.get("axes", OLD_AXES)]
    names = [c.get("label") for c in attributes.get("omero", {}).get("channels", [])]
    array = np.asarray(stored[...])
    if any(len(a) != 1 for a in axes):
        raise ValueError(f"{str(path)!r} has the axes {axes}; expected names out of t, c, z, y, x.")
    pixels = planes(array, "".join(axes), path)
    return pixels, names if len(names) == len(pixels) and all(names) else None


def _element(path: Path, element: str | None) -> Path:
    """Folder of the image inside a store; a store of one image needs no name."""
    if element is not None:
        if not (path / element).is_dir():
            raise missing_key(element, _elements(path), what=f"the images of {str(path)!r}")
        return path / element
    if is_ome_zarr(path):
        return path
    images = [name for name in _elements(path) if name.startswith("images/")]
    if len(images) != 1:
        raise ValueError(
            f"{str(path)!r} is no OME-Zarr image, and holds {len(images)} images: "
            f"{listing(_elements(path))}. Name one of them with `element`."
        )
    return path / images[0]


def _elements(path: Path) -> list[str]:
    """Images and labels of a store, as SpatialData lays them out."""
    found = [p for kind in ("images", "labels") for p in sorted((path / kind).glob("*"))]
    return [p.relative_to(path).as_posix() for p in found if p.is_dir() and is_ome_zarr(p)]
