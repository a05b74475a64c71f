"""Many fields of a folder, found by a file-name pattern and read one at a time."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import overload

import pandas as pd

from cellfuse._errors import listing
from cellfuse.io._channels import Channels
from cellfuse.io._ome_zarr import is_ome_zarr, labels_inside, not_there
from cellfuse.io._paths import PathLike
from cellfuse.io._pixels import IMAGE_SUFFIXES, Planes, series_of
from cellfuse.io.fields import CHANNEL, Field, Files, file_groups, in_order, read_field

__all__ = ["Fields", "read_fields"]

logger = logging.getLogger("cellfuse")

Key = tuple[tuple[str, str], ...]
#: Group of a file-name pattern that numbers the focal plane, where `z` says what becomes of them.
PLANE = "z"
#: Group that names the image within its file.
SERIES = "series"


@dataclass(frozen=True)
class Planned:
    """One field that has not been read yet."""

    metadata: dict[str, str]
    files: Path | dict[str, Files]
    labels: Path | None = None
    series: int | str | None = None


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
        groups = _field_groups(pattern, z)
        masks = _label_files(Path(labels or folder), labels_pattern, groups)
    no_channel = {path.resolve() for path in masks.values()}
    images = _matched(Path(folder), pattern, without=no_channel)
    by_field = _grouped(images, pattern, z)
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
    planned = [one for plan in planned for one in _with_series(plan, series)]
    table = pd.DataFrame([plan.metadata for plan in planned])
    return Fields(tuple(planned), channels, connected, background, z, table)


def _candidates(folder: Path, *, labels: bool) -> Iterator[Path]:
    """Image files and OME-Zarr images below `folder`, and the label images inside if asked."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        for name in sorted(files):
            if name.lower().endswith(IMAGE_SUFFIXES):
                yield here / name
        if not labels and (absent := not_there(here)):
            logger.warning(
                "read_fields: %s names %d wells or images that are not there: %s. Was it copied "
                "whole?",
                here.name,
                len(absent),
                listing(absent, 4),
            )
        images = [name for name in sorted(folders) if is_ome_zarr(here / name)]
        for name in images:
            yield here / name
            if labels:
                yield from labels_inside(here / name)
        folders[:] = sorted(set(folders) - set(images))


def _matched(
    folder: Path, pattern: str, *, labels: bool = False, without: Collection[Path] = ()
) -> list[tuple[Path, dict[str, str]]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {str(folder)!r} does not exist.")
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}.") from error
    paths = [p for p in _candidates(folder, labels=labels) if p.resolve() not in without]
    seen = [path.relative_to(folder) for path in paths]
    found = [(folder / path, groups) for path in seen if (groups := file_groups(pattern, path))]
    if not found:
        raise FileNotFoundError(
            f"no image (TIFF, PNG, JPEG, OME-Zarr, ND2, CZI, LIF) of {str(folder)!r} fits the "
            f"pattern {pattern!r} with its named groups; the files are "
            f"{listing((p.as_posix() for p in seen), 4)}."
        )
    if len(found) < len(seen):
        logger.info("read_fields: %d of %d images fit the pattern.", len(found), len(seen))
    return found


def _field_groups(pattern: str, z: Planes | None) -> set[str]:
    return set(re.compile(pattern).groupindex) - {CHANNEL, *([PLANE] if z is not None else [])}


def _key(groups: Mapping[str, str], z: Planes | None = None) -> Key:
    other = {CHANNEL, PLANE} if z is not None else {CHANNEL}
    return tuple((name, value) for name, value in groups.items() if name not in other)


def _natural(key: Key) -> list[tuple[tuple[int, int, str], ...]]:
    """Sort numbers inside names as numbers: site 2 comes before site 10."""
    return [
        tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", v) if p)
        for _, v in key
    ]


def _grouped(
    images: list[tuple[Path, dict[str, str]]], pattern: str, z: Planes | None
) -> dict[Key, Path | dict[str, Files]]:
    """Files of each field: by channel, or one where the pattern has neither channel nor plane."""
    by_field: dict[Key, dict[str, dict[str, Path]]] = {}
    for path, groups in images:
        channel, plane = groups.get(CHANNEL, ""), groups.get(PLANE, "") if z is not None else ""
        files = by_field.setdefault(_key(groups, z), {}).setdefault(channel, {})
        if plane in files:
            raise ValueError(
                f"two files are {_text(_key(groups, z), channel)}: {str(files[plane])!r} and "
                f"{str(path)!r}. Make the pattern {pattern!r} tell them apart, by a group for "
                "the plate or the site, or narrower."
            )
        files[plane] = path
    named = re.compile(pattern).groupindex
    stacked = z is not None and PLANE in named
    if CHANNEL not in named and not stacked:
        return {key: files[""][""] for key, files in by_field.items()}
    if CHANNEL not in named:
        raise ValueError(
            f"the pattern {pattern!r} has a group for the focal plane and none for the channel; "
            "planes in a file each need both."
        )
    return {
        key: {channel: _of_planes(planes, stacked) for channel, planes in files.items()}
        for key, files in by_field.items()
    }


def _of_planes(planes: Mapping[str, Path], stacked: bool) -> Files:
    if not stacked:
        return planes[""]
    return tuple(planes[name] for name in sorted(planes, key=lambda n: _natural(((PLANE, n),))))


def _with_series(plan: Planned, series: int | str | None) -> list[Planned]:
    """The field, or one for each image of its files."""
    if series != "all":
        return [replace(plan, series=series)]
    files = [plan.files] if isinstance(plan.files, Path) else list(plan.files.values())
    first = [_first(file) for file in files]
    names = [series_of(file) for file in first]
    if len({len(found) for found in names}) > 1:
        raise ValueError(
            f"files of one field hold different numbers of images: {listing(first)} hold "
            f"{listing(len(found) for found in names)}."
        )
    n = len(names[0])
    if plan.labels is not None and len(series_of(plan.labels)) != n:
        raise ValueError(
            f"{str(first[0])!r} holds {n} images, its labels {str(plan.labels)!r} "
            f"{len(series_of(plan.labels))}; expected one label image for each."
        )
    if n == 1:
        return [replace(plan, series=0)]
    distinct = len({name for name in names[0] if name}) == n
    return [
        replace(
            plan,
            metadata=plan.metadata | {SERIES: names[0][i] if distinct else str(i)},
            series=i,
        )
        for i in range(n)
    ]


def _text(key: Key, channel: str = "") -> str:
    parts = [*key, (CHANNEL, channel)] if channel else list(key)
    return ", ".join(f"{name} {value!r}" for name, value in parts) or "the field"


def _wanted(
    by_field: Mapping[Key, Path | dict[str, Files]], channels: Channels | None
) -> Mapping[str, str] | None:
    """Channels of every field, and their new names; None where a file holds all of them."""
    if isinstance(channels, Mapping):
        return {str(old): new for old, new in channels.items()}
    if channels is not None:
        return {name: name for name in channels}
    found = {c for files in by_field.values() if isinstance(files, dict) for c in files}
    ordered = sorted(found, key=lambda name: _natural(((CHANNEL, name),)))
    return {name: name for name in ordered}


def _plan(
    key: Key,
    files: Path | dict[str, Files],
    wanted: Mapping[str, str] | None,
    masks: Mapping[Key, Path] | None,
) -> tuple[Planned, str]:
    """The field to be read, and what it lacks."""
    fault = ""
    if isinstance(files, dict):
        lacking = [name for name in wanted or {} if name not in files]
        if lacking:
            there = listing(_first(given).name for given in files.values())
            fault = f"{_text(key)} has no file for channel {listing(lacking)} (found {there})"
        else:
            files = in_order(files, wanted)
    mask = None if masks is None else masks.get(tuple(sorted(key)))
    if masks is not None and mask is None and not fault:
        fault = f"{_text(key)} has no label image"
    return Planned(dict(key), files, mask), fault


def _first(files: Files) -> Path:
    return files if isinstance(files, Path) else files[0]


def _label_files(folder: Path, pattern: str, groups: set[str]) -> dict[Key, Path]:
    found_groups = _field_groups(pattern, None)
    if found_groups != groups:
        raise ValueError(
            f"the pattern of the labels has the groups {listing(sorted(found_groups))}, that of "
            f"the images {listing(sorted(groups))} (beside the channel): they must be the same, "
            "so that each label image finds its field."
        )
    masks: dict[Key, Path] = {}
    for path, found in _matched(folder, pattern, labels=True):
        key = tuple(sorted(_key(found)))
        if key in masks:
            raise ValueError(
                f"two label images are of {_text(key)}: {str(masks[key])!r} and {str(path)!r}; "
                "make `labels_pattern` narrower."
            )
        masks[key] = path
    return masks
