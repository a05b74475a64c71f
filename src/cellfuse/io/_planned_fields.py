"""From files whose names fit a pattern to the fields that they are of; nothing is read."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cellfuse._errors import listing
from cellfuse.io._channels import Channels
from cellfuse.io._ome_zarr import is_ome_zarr, labels_inside, not_there
from cellfuse.io._pixels import IMAGE_SUFFIXES, Planes, series_of
from cellfuse.io.fields import CHANNEL, Files, file_groups, in_order

__all__ = [
    "Planned",
    "field_groups",
    "grouped",
    "label_files",
    "matched",
    "natural",
    "plan_field",
    "wanted_channels",
    "with_series",
]

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


def matched(
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


def field_groups(pattern: str, z: Planes | None) -> set[str]:
    return set(re.compile(pattern).groupindex) - {CHANNEL, *([PLANE] if z is not None else [])}


def _key(groups: Mapping[str, str], z: Planes | None = None) -> Key:
    other = {CHANNEL, PLANE} if z is not None else {CHANNEL}
    return tuple((name, value) for name, value in groups.items() if name not in other)


def natural(key: Key) -> list[tuple[tuple[int, int, str], ...]]:
    """Sort numbers inside names as numbers: site 2 comes before site 10."""
    return [
        tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", v) if p)
        for _, v in key
    ]


def grouped(
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
    return tuple(planes[name] for name in sorted(planes, key=lambda n: natural(((PLANE, n),))))


def with_series(plan: Planned, series: int | str | None) -> list[Planned]:
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


def wanted_channels(
    by_field: Mapping[Key, Path | dict[str, Files]], channels: Channels | None
) -> Mapping[str, str] | None:
    """Channels of every field, and their new names; None where a file holds all of them."""
    if isinstance(channels, Mapping):
        return {str(old): new for old, new in channels.items()}
    if channels is not None:
        return {name: name for name in channels}
    found = {c for files in by_field.values() if isinstance(files, dict) for c in files}
    ordered = sorted(found, key=lambda name: natural(((CHANNEL, name),)))
    return {name: name for name in ordered}


def plan_field(
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


def label_files(folder: Path, pattern: str, groups: set[str]) -> dict[Key, Path]:
    found_groups = field_groups(pattern, None)
    if found_groups != groups:
        raise ValueError(
            f"the pattern of the labels has the groups {listing(sorted(found_groups))}, that of "
            f"the images {listing(sorted(groups))} (beside the channel): they must be the same, "
            "so that each label image finds its field."
        )
    masks: dict[Key, Path] = {}
    for path, found in matched(folder, pattern, labels=True):
        key = tuple(sorted(_key(found)))
        if key in masks:
            raise ValueError(
                f"two label images are of {_text(key)}: {str(masks[key])!r} and {str(path)!r}; "
                "make `labels_pattern` narrower."
            )
        masks[key] = path
    return masks
