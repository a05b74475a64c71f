"""Images of a TIFF: OME, ImageJ, Micro-Manager, plain; whole, and with every page told of."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from cellfuse.io._series import Series, n_bytes
from cellfuse.io._text import check_declared

__all__ = ["open_tiff"]

#: Axes along which one series holds several positions (Micro-Manager, LSM).
POSITION_AXES = "RPM"
RGB, YCBCR, UNCOMPRESSED = 2, 6, 1
COLOURS = ("red", "green", "blue", "alpha")


@contextmanager
def open_tiff(path: Path) -> Iterator[list[Series]]:
    """Open a TIFF and tell its images.

    Raises
    ------
    ValueError
        It is damaged, truncated or of another format, or points to files outside of its folder.
    """
    import tifffile

    with _damage(path), tifffile.TiffFile(path) as tif:
        # tifffile ends a chain of pages that leaves the file without an error, and fills with 0
        # what it does not find: look for both before a pixel is used.
        _refuse_cut(path, _cut_chain(tif))
        about = _ome_images(tif, path) if tif.is_ome and tif.ome_metadata else []
        yield _together(
            [
                one
                for i, series in enumerate(tif.series)
                for one in _positions(tif, series, about[i] if i < len(about) else {}, path)
            ],
            tif,
        )


def _positions(tif: Any, series: Any, about: dict[str, Any], path: Path) -> list[Series]:
    """One image, or those of the positions along one of its axes."""
    axes, shape, dtype = series.axes, tuple(series.shape), np.dtype(series.dtype)
    names = about.get("channels") or _imagej_names(tif) or _colours(series)
    name = about.get("name") or ("" if series.name is None else str(series.name))
    place = next((axes.index(a) for a in POSITION_AXES if a in axes), None)
    if place is None:
        return [Series(name, axes, shape, dtype, lambda: _load(path, series), names)]

    def part(i: int) -> Any:
        return lambda: _load(path, series).take(i, axis=place)

    rest = axes[:place] + axes[place + 1 :]
    short = shape[:place] + shape[place + 1 :]
    return [
        Series(f"{name}_{i}" if name else str(i), rest, short, dtype, part(i), names)
        for i in range(shape[place])
    ]


def _together(found: list[Series], tif: Any) -> list[Series]:
    """Pages that were appended one after another are the channels of one image."""
    first = found[0]
    alike = all((s.axes, s.shape, s.dtype) == ("YX", first.shape, first.dtype) for s in found)
    if tif.is_ome or len(found) == 1 or not alike:
        return found
    shape = (len(found), *first.shape)
    return [Series("", "QYX", shape, first.dtype, lambda: np.stack([s.load() for s in found]))]


def _load(path: Path, series: Any) -> NDArray[Any]:
    _refuse_cut(path, _cut_pages(series.pages))
    declared = n_bytes(series.shape, np.dtype(series.dtype))
    stored = sum(sum(page.databytecounts) for page in series.pages if page is not None)
    check_declared(path, declared, max(stored, path.stat().st_size))
    return series.asarray()


def _refuse_cut(path: Path, cut: str) -> None:
    if cut:
        raise ValueError(
            f"{str(path)!r} is truncated at {path.stat().st_size} bytes: {cut}. Copy it again."
        )


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
        whole = page.keyframe
        if whole.compression == UNCOMPRESSED and whole.photometric != YCBCR:
            stored = sum(page.databytecounts)
            needed = whole.nbytes * whole.bitspersample // (8 * whole.dtype.itemsize)
            if stored < needed:
                return f"page {i} has {stored} bytes of the {needed} that it declares"
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
        ArithmeticError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        if str(path) in str(error):
            raise
        if "imagecodecs" in str(error):
            raise ImportError(
                f"{str(path)!r} is compressed in a way that needs the package imagecodecs "
                f"(pip install imagecodecs): {error}."
            ) from error
        raise ValueError(
            f"{str(path)!r} cannot be read as a TIFF, it is damaged, truncated or of another "
            f"format: {error}."
        ) from error


# -- names ----------------------------------------------------------------------------------------


def _ome_images(tif: Any, path: Path) -> list[dict[str, Any]]:
    """Name and channels of each image of an OME-TIFF, in the order of its series."""
    try:
        root = ElementTree.fromstring(tif.ome_metadata)
    except ElementTree.ParseError:
        return []
    images = []
    for element in root:
        if not element.tag.endswith("}Image"):
            continue
        names = [
            channel.get("Name")
            for pixels in element
            if pixels.tag.endswith("}Pixels")
            for channel in pixels
            if channel.tag.endswith("}Channel")
        ]
        named = names if any(names) else None
        images.append({"name": element.get("Name") or element.get("ID"), "channels": named})
    for element in root.iter():
        if element.tag.endswith("}UUID") and element.get("FileName"):
            _refuse_elsewhere(str(element.get("FileName")), path)
    return images


def _refuse_elsewhere(name: str, path: Path) -> None:
    """An OME-TIFF may lie in several files, all of one folder."""
    parts = {*PurePosixPath(name).parts, *PureWindowsPath(name).parts}
    if ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise ValueError(
            f"{str(path)!r} says that its pixels are in {name!r}, outside of its folder; expected "
            "files beside it."
        )


def _imagej_names(tif: Any) -> list[str] | None:
    labels = (tif.imagej_metadata or {}).get("Labels") if tif.is_imagej else None
    if isinstance(labels, str):
        labels = [labels]
    return [str(label) for label in labels] if labels else None


def _colours(series: Any) -> tuple[str, ...]:
    page = series.keyframe
    n = int(page.samplesperpixel)
    return COLOURS[:n] if page.photometric == RGB and 3 <= n <= 4 and "S" in series.axes else ()
