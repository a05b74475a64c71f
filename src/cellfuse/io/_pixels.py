"""Pixels of one image file, by channel: TIFF, OME-Zarr, PNG, JPEG, ND2, CZI, LIF by one door."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing
from cellfuse.io._series import Series

__all__ = [
    "IMAGE_SUFFIXES",
    "Planes",
    "planes",
    "project",
    "read_pixels",
    "series_of",
]

IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".btf", ".tf8", ".png", ".jpg", ".jpeg"),
    *(".nd2", ".czi", ".lif"),
)
logger = logging.getLogger("cellfuse")

#: How focal planes become one: the brightest, the mean, or one of them by its number.
Planes: TypeAlias = Literal["max", "mean"] | int
#: Axes that may stand for channels, in the order in which they are taken: channels, samples of a
#: pixel (RGB), pages without a name.
CHANNEL_AXES = "CSQI"
#: Axes of pages of which the file does not say what they are.
LOOSE_AXES = "QI"
#: Width up to which the last axis of a stack without named axes is one of channels, no picture.
MAX_LAST_CHANNELS = 8


@contextmanager
def opened(path: Path, element: str | None) -> Iterator[list[Series]]:
    """Open a file and tell the images in it, reading none."""
    from cellfuse.io._ome_zarr import open_zarr
    from cellfuse.io._pictures import open_picture, picture_kind
    from cellfuse.io._tiff import open_tiff
    from cellfuse.io._vendors import VENDOR_SUFFIXES, open_vendor

    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    if path.is_dir():
        yield open_zarr(path, element)
    elif kind := picture_kind(path):
        yield [open_picture(path, kind)]
    elif path.suffix.lower() in VENDOR_SUFFIXES:
        yield open_vendor(path)
    else:
        with open_tiff(path) as series:
            yield series


def series_of(path: Path, *, element: str | None = None) -> list[str]:
    """Names of the images of a file, in its order."""
    with opened(path, element) as found:
        return [one.name for one in found]


def read_pixels(
    path: Path,
    *,
    element: str | None = None,
    series: int | str | None = None,
    z: Planes | None = None,
) -> tuple[NDArray[Any], list[str | None]]:
    """Read one image as (channels, height, width), with the names of its channels.

    Parameters
    ----------
    path
        File, or folder of an OME-Zarr image (or of a SpatialData store, see `element`).
    element
        Path of an image inside a zarr store, such as ``"images/cells"`` or ``"labels/nuclei"``.
    series
        Number or name of the image in a file that holds several (positions, scenes).
    z
        What becomes of several focal planes.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It is damaged, of another format, or holds several images, time points or focal planes, and
        nothing says which.
    """
    with opened(path, element) as found:
        one = _chosen(found, series, path)
        if one.dtype.kind not in "biuf":
            raise ValueError(
                f"{str(path)!r} holds {one.dtype} pixels; expected real numbers, of which a "
                "channel is made. Save the magnitude, or the real part, of what it holds."
            )
        pixels = planes(one.load(), one.axes, path, z=z)
    if 0 in pixels.shape:
        raise ValueError(f"{str(path)!r} has no pixels: their shape is {pixels.shape}.")
    known = len(one.channels) == len(pixels)
    if not known and any(one.channels):
        logger.warning(
            "%s names %d channels, %s, and holds %d: they are taken without names.",
            path.name,
            len(one.channels),
            listing(map(str, one.channels), 4),
            len(pixels),
        )
    return pixels, [one.channels[i] if known else None for i in range(len(pixels))]


def _chosen(found: list[Series], series: int | str | None, path: Path) -> Series:
    if series is None:
        if len(found) == 1:
            return found[0]
        raise ValueError(
            f"{str(path)!r} holds {len(found)} images, {listing(map(str, found), 4)}: name one "
            "with `series` (its number, from 0, or its name). `cellfuse.io.read_fields(..., "
            "series='all')` takes each for a field."
        )
    if isinstance(series, str):
        same = [one for one in found if one.name == series]
        if len(same) != 1:
            raise ValueError(
                f"{len(same)} images of {str(path)!r} are called {series!r}; they are "
                f"{listing((one.name for one in found), 4)}. Give `series` its number, from 0."
            )
        return same[0]
    if isinstance(series, bool) or not isinstance(series, Integral):
        raise TypeError(
            f"series={series!r}: expected the number of an image of {str(path)!r}, from 0, or its "
            "name."
        )
    if not 0 <= series < len(found):
        raise ValueError(
            f"series={series}: {str(path)!r} holds {len(found)} images, numbered from 0."
        )
    return found[int(series)]


def planes(array: NDArray[Any], axes: str, path: Path, *, z: Planes | None = None) -> NDArray[Any]:
    """Bring an array with named axes into the order channels, Y, X, focal planes taken together."""
    axes = axes.upper()
    missing = {"Y", "X"} - set(axes)
    if missing or len(axes) != array.ndim or len(set(axes)) < len(axes):
        raise ValueError(f"{str(path)!r} has the axes {axes!r}; expected at least Y and X.")
    axes = _channels_last(axes, array.shape) if z is None else axes
    long = [a for a in axes if a not in "YX" and array.shape[axes.index(a)] > 1]
    focal = _focal_axis(long) if z is not None else None
    if focal is not None and z is not None:
        array = project(array, axes.index(focal), z, path)
        axes = axes.replace(focal, "")
        long.remove(focal)
    channel = next((a for a in CHANNEL_AXES if a in long), None)
    others = {a: array.shape[axes.index(a)] for a in long if a != channel}
    if others:
        sizes = ", ".join(f"{a} ({size})" for a, size in others.items())
        fix = (
            "take focal planes together with z='max', 'mean' or the number of one"
            if set(others) == {"Z"}
            else "project or split it first"
        )
        raise ValueError(
            f"{str(path)!r} has more than channels: axes {axes!r}, of which {sizes} is longer "
            f"than 1. A field is one time point and one focal plane: {fix}."
        )
    kept = [axes.index(a) for a in (channel, "Y", "X") if a is not None]
    dropped = tuple(i for i in range(array.ndim) if i not in kept)
    flat = array.transpose((*dropped, *kept)).reshape([array.shape[i] for i in kept])
    return flat if channel is not None else flat[None]


def _channels_last(axes: str, shape: tuple[int, ...]) -> str:
    """Axes of a stack whose file names none, written as (height, width, channels)."""
    if len(axes) != 3 or axes[0] not in LOOSE_AXES or axes[1:] != "YX":
        return axes
    last = shape[2] <= MAX_LAST_CHANNELS < min(shape[:2])
    return f"YX{axes[0]}" if last else axes


def _focal_axis(long: list[str]) -> str | None:
    """Axis of the focal planes; where `z` is asked for, pages without a name are such."""
    if "Z" in long:
        return "Z"
    return next((a for a in LOOSE_AXES if a in long), None)


def project(array: NDArray[Any], axis: int, z: Planes, path: Path) -> NDArray[Any]:
    """Take the planes along an axis together, in the type in which they are."""
    if isinstance(z, str):
        if z == "max":
            return array.max(axis=axis)
        if z == "mean":
            mean = array.mean(axis=axis, dtype=np.float64)
            whole = np.issubdtype(array.dtype, np.integer)
            return (np.rint(mean) if whole else mean).astype(array.dtype)
        raise ValueError(f"z={z!r}; expected 'max', 'mean' or the number of a plane.")
    n = array.shape[axis]
    if not 0 <= z < n:
        raise ValueError(f"z={z}: {str(path)!r} has {n} focal planes, numbered from 0.")
    return array.take(int(z), axis=axis)
