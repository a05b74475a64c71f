"""Many fields of a folder, found by a file-name pattern and read one at a time."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import pandas as pd

from cellfuse._errors import listing
from cellfuse.io._pixels import TIFF_SUFFIXES, is_ome_zarr
from cellfuse.io.fields import (
    CHANNEL,
    Channels,
    Field,
    PathLike,
    file_groups,
    in_order,
    read_field,
)

__all__ = ["Fields", "read_fields"]

logger = logging.getLogger("cellfuse")

Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Planned:
    """One field that has not been read yet."""

    metadata: dict[str, str]
    files: Path | dict[str, Path]
    labels: Path | None = None


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
    connected
        The label images are masks.
    table
        Data frame of what is known of the fields, a row each.
    """

    planned: tuple[Planned, ...]
    channels: Channels | None = None
    connected: bool = False
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
            return Fields(
                self.planned[index], self.channels, self.connected, self.table.iloc[index]
            )
        plan = self.planned[index]
        return read_field(
            plan.files,
            # Files by channel were put in order and renamed when they were found.
            channels=self.channels if isinstance(plan.files, Path) else None,
            metadata=plan.metadata,
            labels=plan.labels,
            connected=self.connected,
        )


def read_fields(
    folder: PathLike,
    *,
    pattern: str,
    channels: Channels | None = None,
    labels: PathLike | None = None,
    labels_pattern: str | None = None,
    connected: bool = False,
    missing: str = "raise",
) -> Fields:
    r"""Find the fields of a folder, and read each when it is its turn.

    Parameters
    ----------
    folder
        Searched with its subfolders for TIFF files and OME-Zarr images.
    pattern
        Regular expression, searched in each file's name (in the path below `folder`, with ``/``,
        where the pattern holds a ``/``). Its named groups say what the file is: files that agree
        in all groups but ``channel`` are one field, and those groups are its metadata. Without a
        group ``channel``, each file is a field. Files that it does not fit are left out.
    channels
        Channels in the order in which they are wanted; a dict ``{"1": "DNA"}`` renames them.
        Default: those found, sorted.
    labels
        Folder of the label images; default `folder`, if there is a `labels_pattern`.
    labels_pattern
        Regular expression for the label images, with the groups of `pattern` but ``channel``.
    connected
        The label images are masks, see :func:`read_labels`.
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
    images = _matched(Path(folder), pattern)
    by_field = _grouped(images, pattern)
    masks: dict[Key, Path] = {}
    if labels_pattern is not None:
        masks = _label_files(Path(labels or folder), labels_pattern, _field_groups(pattern))
    planned, faults = [], []
    wanted = _wanted(by_field, channels)
    for key in sorted(by_field, key=_natural):
        plan, fault = _plan(key, by_field[key], wanted, masks if labels_pattern else None)
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
    table = pd.DataFrame([plan.metadata for plan in planned])
    return Fields(tuple(planned), channels, connected, table)


def _candidates(folder: Path) -> Iterator[Path]:
    """TIFF files and OME-Zarr images below `folder`; the inside of a zarr store is not searched."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in sorted(files):
            if name.lower().endswith(TIFF_SUFFIXES):
                yield here / name
        images = [name for name in sorted(folders) if is_ome_zarr(here / name)]
        yield from (here / name for name in images)
        folders[:] = sorted(set(folders) - set(images))


def _matched(folder: Path, pattern: str) -> list[tuple[Path, dict[str, str]]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {str(folder)!r} does not exist.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}.") from error
    seen = [path.relative_to(folder) for path in _candidates(folder)]
    found = [(folder / path, groups) for path in seen if (groups := file_groups(pattern, path))]
    if not found:
        raise FileNotFoundError(
            f"no TIFF or OME-Zarr of {str(folder)!r} fits the pattern {pattern!r} with its named "
            f"groups; the files are {listing((p.as_posix() for p in seen), 4)}."
        )
    if len(found) < len(seen):
        logger.info("read_fields: %d of %d images fit the pattern.", len(found), len(seen))
    return found


def _field_groups(pattern: str) -> set[str]:
    return set(re.compile(pattern).groupindex) - {CHANNEL}


def _key(groups: Mapping[str, str]) -> Key:
    return tuple((name, value) for name, value in groups.items() if name != CHANNEL)


def _natural(key: Key) -> list[tuple[tuple[int, int, str], ...]]:
    """Sort numbers inside names as numbers: site 2 comes before site 10."""
    return [
        tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in re.split(r"(\d+)", v) if p)
        for _, v in key
    ]


def _grouped(
    images: list[tuple[Path, dict[str, str]]], pattern: str
) -> dict[Key, Path | dict[str, Path]]:
    """Files of each field: by channel, or one where the pattern has no channel."""
    by_field: dict[Key, dict[str, Path]] = {}
    for path, groups in images:
        files = by_field.setdefault(_key(groups), {})
        channel = groups.get(CHANNEL, "")
        if channel in files:
            raise ValueError(
                f"two files are {_text(_key(groups), channel)}: {str(files[channel])!r} and "
                f"{str(path)!r}. Make the pattern {pattern!r} tell them apart, by a group for "
                "the plate or the site, or narrower."
            )
        files[channel] = path
    if CHANNEL in re.compile(pattern).groupindex:
        return dict(by_field)
    return {key: files[""] for key, files in by_field.items()}


def _text(key: Key, channel: str = "") -> str:
    parts = [*key, (CHANNEL, channel)] if channel else list(key)
    return ", ".join(f"{name} {value!r}" for name, value in parts) or "the field"


def _wanted(
    by_field: Mapping[Key, Path | dict[str, Path]], channels: Channels | None
) -> Mapping[str, str] | None:
    """Channels of every field, and their new names; None where a file holds all of them."""
    if isinstance(channels, Mapping):
        return channels
    if channels is not None:
        return {name: name for name in channels}
    found = {c for files in by_field.values() if isinstance(files, dict) for c in files}
    ordered = sorted(found, key=lambda name: _natural(((CHANNEL, name),)))
    return {name: name for name in ordered}


def _plan(
    key: Key,
    files: Path | dict[str, Path],
    wanted: Mapping[str, str] | None,
    masks: Mapping[Key, Path] | None,
) -> tuple[Planned, str]:
    """The field to be read, and what it lacks."""
    fault = ""
    if isinstance(files, dict):
        lacking = [name for name in wanted or {} if name not in files]
        if lacking:
            there = listing(path.name for path in files.values())
            fault = f"{_text(key)} has no file for channel {listing(lacking)} (found {there})"
        else:
            files = in_order(files, wanted)
    mask = None if masks is None else masks.get(tuple(sorted(key)))
    if masks is not None and mask is None and not fault:
        fault = f"{_text(key)} has no label image"
    return Planned(dict(key), files, mask), fault


def _label_files(folder: Path, pattern: str, groups: set[str]) -> dict[Key, Path]:
    found_groups = _field_groups(pattern)
    if found_groups != groups:
        raise ValueError(
            f"the pattern of the labels has the groups {listing(sorted(found_groups))}, that of "
            f"the images {listing(sorted(groups))} (beside the channel): they must be the same, "
            "so that each label image finds its field."
        )
    masks: dict[Key, Path] = {}
    for path, found in _matched(folder, pattern):
        key = tuple(sorted(_key(found)))
        if key in masks:
            raise ValueError(
                f"two label images are of {_text(key)}: {str(masks[key])!r} and {str(path)!r}; "
                "make `labels_pattern` narrower."
            )
        masks[key] = path
    return masks
