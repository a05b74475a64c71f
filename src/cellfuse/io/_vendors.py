"""Microscopes' own files, ND2, CZI and LIF, through bioio."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse.io._series import Series

__all__ = ["VENDOR_SUFFIXES", "open_vendor"]

#: Suffix to the package that reads it, an add-on of bioio.
VENDOR_SUFFIXES = {".nd2": "bioio-nd2", ".czi": "bioio-czi", ".lif": "bioio-lif"}
#: Names that bioio makes up where the file has none.
MADE_UP = re.compile(r"Channel:\d+(:\d+)?")


def open_vendor(path: Path) -> list[Series]:
    """Tell the images (positions, scenes) of a microscope's file, reading no pixels.

    Raises
    ------
    ImportError
        The package that reads it is not installed.
    ValueError
        It is damaged.
    """
    package = VENDOR_SUFFIXES[path.suffix.lower()]
    try:
        from bioio import BioImage
        from bioio_base.exceptions import UnsupportedFileFormatError
    except ImportError as error:
        raise ImportError(_wanted(path, package)) from error
    try:
        image = BioImage(path)
        return [_series(image, i, str(name)) for i, name in enumerate(image.scenes)]
    except UnsupportedFileFormatError as error:
        raise ValueError(
            f"{str(path)!r} cannot be opened: it is damaged, or its reader is missing. "
            + _wanted(path, package)
        ) from error
    except Exception as error:
        # Each reader has errors of its own for broken bytes.
        raise ValueError(f"{str(path)!r} is damaged, or truncated: {error}.") from error


def _wanted(path: Path, package: str) -> str:
    return (
        f"{str(path)!r} is read through {package}: `pip install {package}` (it comes with "
        "`cellfuse[bioio]`)."
    )


def _series(image: Any, i: int, name: str) -> Series:
    image.set_scene(i)
    names = [None if MADE_UP.fullmatch(str(c)) else str(c) for c in image.channel_names or ()]
    return Series(
        name, image.dims.order, tuple(image.shape), np.dtype(image.dtype), _loader(image, i), names
    )


def _loader(image: Any, i: int) -> Callable[[], NDArray[Any]]:
    def load() -> NDArray[Any]:
        image.set_scene(i)
        return np.asarray(image.data)

    return load
