"""Files of text: unpacked, in whatever encoding they are, and never larger than they look."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from cellfuse._errors import listing

__all__ = ["check_declared", "damage", "encoding_of", "open_text", "read_text"]

GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"
#: First bytes of workbooks and of other files that people take for tables.
BINARY = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save it as CSV",
    b"PAR1": "a parquet file: let its name end in .parquet",
    b"\x89HDF": "an HDF5 file, no table",
    b"SQLite format 3": "an SQLite database: let its name end in .sqlite",
}
#: How texts begin that stand where a file was meant to be, in lower case.
STAND_INS = {
    b"version https://git-lfs": "a pointer of Git LFS and not the file: run `git lfs pull`",
    b"<!doctype html": "a web page and not the file: download the file itself",
    b"<html": "a web page and not the file: download the file itself",
}
BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: Bytes that anything may take; beyond, a file may not grow more than so many times.
FREE_BYTES, MAX_GROWTH = 1 << 30, 500
BLOCK = 1 << 20


def check_declared(path: Path, declared: int, stored: int) -> None:
    """Refuse what would take far more memory than its bytes on the disk can hold.

    Parameters
    ----------
    path
        The file, for the message.
    declared
        Bytes that it says, or begins, to hold.
    stored
        Bytes that there are.

    Raises
    ------
    ValueError
        More than 1 GB, and more than 500 times what is stored.
    """
    if declared > FREE_BYTES and declared > MAX_GROWTH * max(stored, 1):
        raise ValueError(
            f"{str(path)!r} claims to hold {declared / 1e9:,.1f} GB in {stored:,} bytes of file: "
            "it is damaged, or made to fill the memory. It is not read."
        )


@contextmanager
def damage(path: Path, what: str) -> Iterator[None]:
    """Name the file in whatever a reader says, or falls over, of broken bytes."""
    try:
        yield
    except (
        ValueError,
        OSError,
        EOFError,
        MemoryError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        zlib.error,
        zipfile.BadZipFile,
        csv.Error,
    ) as error:
        # A system's own word on the file, such as that it may not be read, or ours.
        ours = isinstance(error, ValueError) or getattr(error, "errno", None) is not None
        if ours and str(path) in str(error):
            raise
        raise ValueError(f"{str(path)!r} cannot be read as {what}: {error}.") from error


class _Unpacked(io.RawIOBase):
    """Bytes of a packed file, which stop when they grow beyond measure."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        super().__init__()
        self._stream, self._path = stream, path
        self._stored, self._given = path.stat().st_size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._given += len(data)
        check_declared(self._path, self._given, self._stored)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._stream.close()
        super().close()


@contextmanager
def _open_bytes(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        start = raw.read(32)
        raw.seek(0)
        for magic, text in {**BINARY, **STAND_INS}.items():
            if start.startswith(magic) or start.lower().startswith(magic):
                raise ValueError(f"{str(path)!r} is {text}.")
        if start.startswith(GZIP):
            with io.BufferedReader(_Unpacked(gzip.GzipFile(fileobj=raw), path), BLOCK) as stream:  # type: ignore[arg-type]
                yield stream
        elif start.startswith(ZIP):
            with zipfile.ZipFile(raw) as archive:
                name = _only_member(archive, path)
                with io.BufferedReader(_Unpacked(archive.open(name), path), BLOCK) as stream:
                    yield stream
        else:
            yield raw


def _only_member(archive: zipfile.ZipFile, path: Path) -> str:
    names = [
        name
        for name in archive.namelist()
        if not name.endswith("/") and not name.startswith("__MACOSX")
    ]
    if "[Content_Types].xml" in names:
        raise ValueError(f"{str(path)!r} is an Excel workbook: save it as CSV.")
    if len(names) != 1:
        raise ValueError(
            f"{str(path)!r} is an archive of {len(names)} files, {listing(names)}; expected one "
            "table. Unpack it first."
        )
    return names[0]


def encoding_of(path: Path, what: str = "text") -> str:
    """Encoding of a text: by its mark, else UTF-8, else what Windows writes in western Europe.

    Raises
    ------
    ValueError
        It is no text, is empty, or cannot be unpacked.
    """
    with damage(path, what), _open_bytes(path) as stream:
        start = stream.read(BLOCK)
        if not start.strip():
            raise ValueError("it is empty")
        for mark, name in BOMS.items():
            if start.startswith(mark):
                return name
        if b"\0" in start:
            return _without_mark(start)
        decoder, seen = codecs.getincrementaldecoder("utf-8")(), b""
        block = start
        try:
            while block:
                decoder.decode(block)
                seen = block
                block = stream.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "cp1252" if _is_cp1252(seen + block) else "latin-1"
    return "utf-8"


def _without_mark(start: bytes) -> str:
    """UTF-16 of a language with few other letters has a zero in every second byte."""
    even, odd = start[0:4096:2].count(0), start[1:4096:2].count(0)
    half = min(len(start), 4096) // 2
    if max(even, odd) > 0.8 * half and min(even, odd) < 0.1 * half + 1:
        return "utf-16-le" if odd > even else "utf-16-be"
    raise ValueError("it holds zero bytes, and is no text")


def _is_cp1252(data: bytes) -> bool:
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def open_text(path: Path, encoding: str) -> Iterator[IO[str]]:
    r"""Open a text, plain or packed, with every kind of line end as ``\n``."""
    errors = "replace" if encoding == "cp1252" else "strict"
    with _open_bytes(path) as stream:
        text = io.TextIOWrapper(stream, encoding=encoding, errors=errors)
        try:
            yield text
        finally:
            if not text.closed and not stream.closed:
                text.detach()


def read_text(path: Path, what: str) -> str:
    r"""Whole text of a file, with every kind of line end as ``\n``."""
    encoding = encoding_of(path, what)
    with damage(path, what), open_text(path, encoding) as text:
        return text.read()
