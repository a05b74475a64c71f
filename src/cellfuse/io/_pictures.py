"""PNG and JPEG, as label images and slide viewers write them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from cellfuse.io._series import Series
from cellfuse.io._text import check_declared, damage

__all__ = ["open_picture", "picture_kind"]

MAGIC = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
NAMES: dict[int, tuple[str, ...]] = {
    2: ("grey", "alpha"),
    3: ("red", "green", "blue"),
    4: ("red", "green", "blue", "alpha"),
}


def picture_kind(path: Path) -> str:
    """``"PNG"``, ``"JPEG"``, or ``""`` for neither, by the first bytes."""
    with path.open("rb") as stream:
        start = stream.read(8)
    return next((kind for magic, kind in MAGIC.items() if start.startswith(magic)), "")


def open_picture(path: Path, kind: str) -> Series:
    """Read a picture; 16-bit PNG stays 16-bit.

    Raises
    ------
    ValueError
        It is damaged.
    """
    import imagecodecs

    data = path.read_bytes()
    with damage(path, f"a {kind}"):
        size = _png_size(data) if kind == "PNG" else _jpeg_size(data)
        check_declared(path, size * 8, len(data))
        try:
            array = imagecodecs.png_decode(data) if kind == "PNG" else imagecodecs.jpeg_decode(data)
        except RuntimeError as error:  # whatever the decoder says of broken bytes
            raise ValueError(str(error)) from error
    array = np.asarray(array)
    axes = "YX" if array.ndim == 2 else "YXS"
    names = NAMES.get(array.shape[2], ()) if array.ndim == 3 else ()
    return Series(path.stem, axes, array.shape, array.dtype, lambda: array, names)


def _png_size(data: bytes) -> int:
    if len(data) < 24:
        raise ValueError("it ends before its size")
    width, height = struct.unpack(">II", data[16:24])
    return width * height


def _jpeg_size(data: bytes) -> int:
    at = 2
    while at + 9 < len(data):
        if data[at] != 0xFF:
            raise ValueError("its segments do not follow each other")
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return height * width
        at += 2 + (0 if marker == 0xFF else struct.unpack(">H", data[at + 2 : at + 4])[0])
    raise ValueError("it ends before its size")
