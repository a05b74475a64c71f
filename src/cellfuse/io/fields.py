"""Fields of view: the channels of one position of the microscope, and its label image."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key
from cellfuse.io._channels import Channels, choose_channels
from cellfuse.io._paths import PathLike
from cellfuse.io._pixels import Planes, project, read_pixels, series_of
from cellfuse.io.labels import read_labels

__all__ = ["Field", "file_groups", "read_field"]

#: Group of a file-name pattern that names the channel; every other group describes the field.
CHANNEL = "channel"
#: Files of one channel: one, or one for each focal plane.
Files = Path | tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class Field:
    """One field of view.

    Parameters
    ----------
    pixels
        (channels, height, width), in the type in which the files hold them.
    channels
        Names of the channels.
    metadata
        What is known of the field, such as ``{"well": "B7", "site": "3"}``: every cell cut out
        of it gets these as obs columns.
    paths
        Files it was read from.
    labels
        (height, width) label image: 0 is background, every other number one cell.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import numpy as np
    >>> cf.io.Field(np.zeros((2, 8, 9), np.uint16), ("DNA", "ER"), {"well": "A1"}).name
    'A1'
    """

    pixels: NDArray[Any]
    channels: tuple[str, ...]
    metadata: dict[str, str] = field(default_factory=dict)
    paths: tuple[Path, ...] = ()
    labels: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        if self.pixels.ndim != 3 or 0 in self.pixels.shape:
            raise ValueError(
                f"the pixels of field {self.name!r} have shape {tuple(self.pixels.shape)}; "
                "expected (channels, height, width)."
            )
        object.__setattr__(self, "channels", tuple(self.channels))
        if len(self.channels) != len(self.pixels) or len(set(self.channels)) < len(self.channels):
            raise ValueError(
                f"field {self.name!r} has {len(self.pixels)} channels and the names "
                f"{listing(self.channels)}; expected one distinct name per channel."
            )
        if self.labels is not None and self.labels.shape != self.pixels.shape[1:]:
            raise ValueError(
                f"the labels of field {self.name!r} have shape {self.labels.shape}, its pixels "
                f"{self.pixels.shape[1:]}."
            )

    @property
    def name(self) -> str:
        """Short name: its metadata, or the stem of its first file."""
        if self.metadata:
            return "_".join(self.metadata.values())
        return self.paths[0].name.split(".")[0] if self.paths else "field"


def file_groups(pattern: str, path: Path) -> dict[str, str] | None:
    """Named groups of `pattern` in a file name (in the whole path if the pattern holds a /)."""
    found = re.search(pattern, path.as_posix() if "/" in pattern else path.name)
    if found is None:
        return None
    return {name: value for name, value in found.groupdict().items() if value is not None}


def read_field(
    path: PathLike | Sequence[PathLike] | Mapping[str, PathLike | Sequence[PathLike]],
    *,
    channels: Channels | None = None,
    pattern: str | None = None,
    metadata: Mapping[str, str] | None = None,
    labels: PathLike | None = None,
    connected: bool = False,
    background: int = 0,
    element: str | None = None,
    series: int | str | None = None,
    z: Planes | None = None,
) -> Field:
    r"""Read one field of view.

    Parameters
    ----------
    path
        A multi-channel file: TIFF, OME-TIFF, PNG, JPEG, or the folder of an OME-Zarr image
        (versions 0.1 to 0.5, full resolution); or one file per channel, as a list or as a dict by
        channel name.
    channels
        Names of the channels, in the order in which they are wanted. A dict ``{"1": "DNA"}``
        renames those of the files, ``{0: "DNA"}`` goes by their place. For a multi-channel file
        without names, or in which one stands twice, all names in its order; default ``channel_0``,
        ``channel_1``, ..., for RGB ``red``, ``green``, ``blue``.
    pattern
        Regular expression, searched in each file's name (in its whole path where the pattern
        holds a ``/``), whose named groups say what the file is: ``channel`` is the channel, any
        other group, such as ``well`` and ``site``, goes to the metadata.
    metadata
        More about the field; it stands above what the pattern found.
    labels
        File of its label image, see :func:`read_labels`.
    connected, background
        The label image is a mask, whose connected pieces are the cells; value of the pixels in no
        cell.
    element
        Image in a SpatialData store or a plate, such as ``"images/cells"`` or ``"A/1/0"``, where it
        holds several.
    series
        Number (from 0) or name of the image in a file that holds several, such as positions of a
        stage. Without it such a file is an error that lists them. Pages of one size and type
        without further metadata are the channels of one image.
    z
        What becomes of several focal planes: ``"max"``, ``"mean"`` or the number of one, from 0.
        Pages of which the file does not say what they are count as such then. Without it several
        planes are an error.

    Returns
    -------
    Field
        With pixels (channels, height, width) in the type of the files.

    Raises
    ------
    FileNotFoundError, ImportError
        A file is missing; its compression needs imagecodecs.
    ValueError
        A file is damaged or truncated, holds several images or planes and nothing says which,
        channels differ in size or type or have one name, the pattern does not fit.
    KeyError
        A channel is not there.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> import numpy as np, tifffile
    >>> folder = Path(tempfile.mkdtemp())
    >>> for name in ("DAPI", "GFP"):
    ...     tifffile.imwrite(folder / f"B7_{name}.tif", np.zeros((6, 8), np.uint16))
    >>> found = cf.io.read_field(
    ...     sorted(folder.iterdir()), pattern=r"(?P<well>[A-P]\d+)_(?P<channel>\w+)\.tif"
    ... )
    >>> found.channels, found.metadata, found.pixels.shape
    (('DAPI', 'GFP'), {'well': 'B7'}, (2, 6, 8))
    """
    files, about = _files(path, channels, pattern)
    if isinstance(files, Path):
        pixels, own = read_pixels(files, element=element, series=series, z=z)
        places, names = choose_channels(own, channels, files)
        if places != list(range(len(pixels))):
            pixels = pixels[places]
        paths: tuple[Path, ...] = (files,)
    else:
        names, pixels = tuple(files), _stack(files, element, series, z)
        paths = tuple(path for one in files.values() for path in _each(one))
    mask = None
    if labels is not None:
        if Path(labels).resolve() in {path.resolve() for path in paths}:
            raise ValueError(
                f"{str(labels)!r} is the label image, and a channel too; leave it out of the files."
            )
        own_series = series if len(series_of(Path(labels))) > 1 else None
        mask = read_labels(labels, connected=connected, background=background, series=own_series)
    about |= {str(k): str(v) for k, v in (metadata or {}).items()}
    return Field(pixels, names, about, paths, mask)


def _files(
    path: PathLike | Sequence[PathLike] | Mapping[str, Any],
    channels: Channels | None,
    pattern: str | None,
) -> tuple[Path | dict[str, Files], dict[str, str]]:
    """The one file of a field or its files by channel, and what their names say of it."""
    if isinstance(path, str | os.PathLike):
        single = Path(path)
        about = {} if pattern is None else _described(pattern, single)
        if CHANNEL not in about:
            return single, about
        path = [single]  # a file of one channel, as in a list
    files: dict[str, Files]
    if isinstance(path, Mapping):
        files = {str(name): _paths(given) for name, given in path.items()}
        every = [file for given in files.values() for file in _each(given)]
        groups = [] if pattern is None else [_described(pattern, file) for file in every]
    else:
        listed = [Path(file) for file in path]
        if not listed:
            raise ValueError("the list of files is empty.")
        groups = [] if pattern is None else [_described(pattern, file) for file in listed]
        if groups and all(CHANNEL in found for found in groups):
            names = [found[CHANNEL] for found in groups]
        elif channels is not None and not isinstance(channels, Mapping):
            names, channels = list(channels), None
        else:
            raise ValueError(
                f"{len(listed)} files, and nothing says which channel each of them is; give a "
                "`pattern` with a group `(?P<channel>...)`, `channels`, or a dict by channel."
            )
        files = dict(_by_channel(names, listed))
    for found in groups:
        found.pop(CHANNEL, None)
    if any(found != groups[0] for found in groups):
        raise ValueError(
            f"the files belong to different fields: {listing(groups)}; read a whole folder with "
            "`cellfuse.io.read_fields`."
        )
    return in_order(files, channels), groups[0] if groups else {}


def _paths(given: Any) -> Files:
    """One file, or one for each focal plane."""
    if isinstance(given, str | os.PathLike):
        return Path(given)
    return tuple(Path(file) for file in given)


def _each(files: Files) -> tuple[Path, ...]:
    return (files,) if isinstance(files, Path) else files


def _described(pattern: str, path: Path) -> dict[str, str]:
    found = file_groups(pattern, path)
    if found is None:
        raise ValueError(f"the pattern {pattern!r} does not fit the file {str(path)!r}.")
    return found


def _by_channel(names: list[str], files: list[Path]) -> dict[str, Path]:
    if len(names) != len(files):
        raise ValueError(f"{len(files)} files and {len(names)} channel names {listing(names)}.")
    found: dict[str, Path] = {}
    for name, file in zip(names, files, strict=True):
        if name in found:
            raise ValueError(
                f"channel {name!r} is in two files: {str(found[name])!r} and {str(file)!r}."
            )
        found[name] = file
    return found


def in_order(files: Mapping[str, Files], channels: Channels | None) -> dict[str, Files]:
    """Files of the channels asked for, in their order, under their new names."""
    if channels is None:
        return dict(files)
    by_place = list(files)
    wanted: Iterable[tuple[str | int, str]] = (
        channels.items() if isinstance(channels, Mapping) else zip(channels, channels, strict=True)
    )
    out: dict[str, Files] = {}
    for old, new in wanted:
        name = by_place[old] if isinstance(old, int) and old < len(by_place) else str(old)
        if name not in files:
            raise missing_key(name, list(files), what="the channels of the files")
        out[str(new)] = files[name]
    return out


def _stack(
    files: Mapping[str, Files], element: str | None, series: int | str | None, z: Planes | None
) -> NDArray[Any]:
    """One plane of each channel; sizes and types must agree."""
    pixels: NDArray[Any] | None = None
    for i, given in enumerate(files.values()):
        file = _each(given)[0]
        plane = _plane(given, element, series, z)
        if pixels is None:
            first, pixels = file, np.empty((len(files), *plane.shape), plane.dtype)
        if plane.shape != pixels.shape[1:] or plane.dtype != pixels.dtype:
            raise ValueError(
                f"channels of one field differ: {str(first)!r} is {pixels.shape[1:]} of "
                f"{pixels.dtype}, {str(file)!r} is {plane.shape} of {plane.dtype}."
            )
        pixels[i] = plane
    if pixels is None:
        raise ValueError("no channel was asked for.")
    return pixels


def _plane(
    files: Files, element: str | None, series: int | str | None, z: Planes | None
) -> NDArray[Any]:
    """(height, width) of one channel, whose focal planes may lie in a file each."""
    if isinstance(files, Path):
        plane, _ = read_pixels(files, element=element, series=series, z=z)
        if len(plane) != 1:
            raise ValueError(f"{str(files)!r} holds {len(plane)} channels; expected one per file.")
        return plane[0]
    if z is None:
        raise ValueError(
            f"{len(files)} files are one channel, {listing(files, 2)}: say what becomes of the "
            "focal planes with z='max', 'mean' or the number of one."
        )
    if not isinstance(z, str):
        if not 0 <= z < len(files):
            raise ValueError(f"z={z}: there are {len(files)} focal planes, numbered from 0.")
        return _plane(files[z], element, series, None)
    stack = [_plane(file, element, series, None) for file in files]
    if any(part.shape != stack[0].shape or part.dtype != stack[0].dtype for part in stack):
        raise ValueError(f"focal planes of one channel differ in size or type: {listing(files)}.")
    return project(np.stack(stack), 0, z, files[0])
