"""Many fields of a folder, found by a file-name pattern and read one at a time."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import pandas as pd

from cellfuse.io._channels import Channels
from cellfuse.io._paths import PathLike
from cellfuse.io._pixels import Planes
from cellfuse.io._planned_fields import (
    Key,
    Planned,
    field_groups,
    grouped,
    label_files,
    matched,
    natural,
    plan_field,
    wanted_channels,
    with_series,
)
from cellfuse.io.fields import Field, Files, read_field

__all__ = ["Fields", "read_fields"]

logger = logging.getLogger("cellfuse")


@dataclass(frozen=True)
class Fields(Sequence[Field]):
    """Fields of a folder: a sequence that reads a field when it is asked for, and keeps none.

    :func:`read_fields` makes it; ``fields[0]`` reads a :class:`Field`, ``fields[:4]`` is a shorter
    sequence, of which nothing is read.

    Parameters
    ----------
    planned
        Files and metadata of each field.
    channels
        Channels as they were asked for.
    connected, background
        The label images are masks; value of the pixels in no cell.
    z
        What becomes of focal planes.
    table
        Data frame of what is known of the fields, a row each.

    Examples
    --------
    >>> import cellfuse as cf
    >>> fields = cf.io.read_fields("plate1")  # doctest: +SKIP
    >>> len(fields), fields[0].image.shape  # doctest: +SKIP
    """

    planned: tuple[Planned, ...]
    channels: Channels | None = None
    connected: bool = False
    background: int = 0
    z: Planes | None = None
    table: pd.DataFrame = field(default_factory=pd.DataFrame, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.planned)

    @overload
    def __getitem__(self, index: int) -> Field: ...
    @overload
    def __getitem__(self, index: slice) -> Fields: ...
    def __getitem__(self, index: int | slice) -> Field | Fields:
        """Read one field; a slice is a shorter sequence, of which nothing is read."""
        if isinstance(index, slice):
            return replace(self, planned=self.planned[index], table=self.table.iloc[index])
        plan = self.planned[index]
        return read_field(
            plan.files,
            # Files by channel were put in order and renamed when they were found.
            channels=self.channels if isinstance(plan.files, Path) else None,
            metadata=plan.metadata,
            labels=plan.labels,
            connected=self.connected,
            background=self.background,
            series=plan.series,
            z=self.z,
        )

    def mark_of(self, index: int) -> str:
        """Fingerprint of a field by its files (names, sizes, times), of which nothing is read."""
        plan = self.planned[index]
        files = [plan.files] if isinstance(plan.files, Path) else _flat(plan.files.values())
        about = [(str(file), *_stamp(file)) for file in (*files, plan.labels) if file is not None]
        given = (self.channels, self.connected, self.background, self.z, plan.series)
        text = repr((about, list(plan.metadata.items()), given))
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _flat(files: Iterable[Files]) -> list[Path]:
    return [file for each in files for file in ([each] if isinstance(each, Path) else each)]


def _stamp(file: Path) -> tuple[int, int]:
    """Size and time of a file; of a folder (OME-Zarr) the time."""
    found = file.stat()
    return (0 if file.is_dir() else found.st_size), found.st_mtime_ns


def read_fields(
    folder: PathLike,
    *,
    pattern: str,
    channels: Channels | None = None,
    labels: PathLike | None = None,
    labels_pattern: str | None = None,
    connected: bool = False,
    background: int = 0,
    series: int | str | None = None,
    z: Planes | None = None,
    missing: str = "raise",
) -> Fields:
    r"""Find the fields of a folder, and read each when it is its turn.

    Parameters
    ----------
    folder
        Searched with its subfolders for TIFF, PNG and JPEG files and OME-Zarr images, those of a
        plate's wells too.
    pattern
        Regular expression, searched in each file's name (in the path below `folder`, with ``/``,
        where the pattern holds a ``/``). Its named groups say what the file is: files that agree
        in all groups but ``channel`` are one field, and those groups are its metadata. Without a
        group ``channel``, each file is a field. With `z`, a group ``z`` numbers focal planes that
        lie in a file each. Files that it does not fit are left out, and so are the label images.
    channels
        Channels in the order in which they are wanted; a dict ``{"1": "DNA"}`` renames them.
        Default: those found, sorted.
    labels
        Folder of the label images; default `folder`, if there is a `labels_pattern`.
    labels_pattern
        Regular expression for the label images, with the groups of `pattern` but ``channel`` and
        ``z``. Those inside an OME-Zarr image are found as ``<image>/labels/<name>``.
    connected, background
        The label images are masks; value of their pixels in no cell. See :func:`read_labels`.
    series
        Number or name of the image in files that hold several; or ``"all"``: each is a field of its
        own, whose metadata ``series`` is its name or number. All files are opened for that.
    z
        What becomes of several focal planes, see :func:`read_field`.
    missing
        What to do with a field that lacks a channel or its labels: ``"raise"``, or ``"drop"`` it
        with a message (logger ``"cellfuse"``).

    Returns
    -------
    Fields
        Sequence of :class:`Field`, in the natural order of their metadata (A2 before A10), with
        a data frame `table` of what is known of them. Files are opened when a field is taken.

    Raises
    ------
    FileNotFoundError
        The folder does not exist, or no file in it fits the pattern.
    ValueError
        A field lacks a channel or its labels, or has two files for one channel.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> import numpy as np, tifffile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for well in ("A2", "A10"):
    ...     for name in ("DAPI", "GFP"):
    ...         tifffile.imwrite(folder / f"{well}_{name}.tif", np.zeros((6, 8), np.uint16))
    >>> fields = cf.io.read_fields(folder, pattern=r"(?P<well>[A-P]\d+)_(?P<channel>DAPI|GFP)\.tif")
    >>> [(f.metadata["well"], f.channels) for f in fields]
    [('A2', ('DAPI', 'GFP')), ('A10', ('DAPI', 'GFP'))]
    """
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing={missing!r}; expected 'raise' or 'drop'.")
    if labels is not None and labels_pattern is None:
        raise ValueError("give `labels_pattern`, which says what field each label image is of.")
    masks: dict[Key, Path] = {}
    if labels_pattern is not None:
        groups = field_groups(pattern, z)
        masks = label_files(Path(labels or folder), labels_pattern, groups)
    no_channel = {path.resolve() for path in masks.values()}
    images = matched(Path(folder), pattern, without=no_channel)
    by_field = grouped(images, pattern, z)
    planned, faults = [], []
    wanted = wanted_channels(by_field, channels)
    for key in sorted(by_field, key=natural):
        plan, fault = plan_field(key, by_field[key], wanted, masks if labels_pattern else None)
        if fault:
            faults.append(fault)
        else:
            planned.append(plan)
    if faults and missing == "raise":
        raise ValueError(
            f"{len(faults)} of {len(by_field)} fields are incomplete: {'; '.join(faults[:5])}"
            f"{' ...' if len(faults) > 5 else ''}. Pass `missing='drop'` to leave them out."
        )
    if not planned:
        raise ValueError(f"none of {len(by_field)} fields is complete: {'; '.join(faults[:5])}.")
    if faults:
        logger.info("read_fields: left out %d fields: %s.", len(faults), "; ".join(faults))
    planned = [one for plan in planned for one in with_series(plan, series)]
    table = pd.DataFrame([plan.metadata for plan in planned])
    return Fields(tuple(planned), channels, connected, background, z, table)
