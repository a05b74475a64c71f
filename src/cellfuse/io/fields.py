"""Fields of view: the channels of one position of the microscope, and its label image."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key
from cellfuse.io._pixels import read_pixels

__all__ = ["Field", "PathLike", "file_groups", "read_field", "read_labels"]

PathLike = str | os.PathLike[str]
Channels = Sequence[str] | Mapping[str, str]
#: Group of a file-name pattern that names the channel; every other group describes the field.
CHANNEL = "channel"


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
    path: PathLike | Sequence[PathLike] | Mapping[str, PathLike],
    *,
    channels: Channels | None = None,
    pattern: str | None = None,
    metadata: Mapping[str, str] | None = None,
    labels: PathLike | None = None,
    connected: bool = False,
    element: str | None = None,
) -> Field:
    r"""Read one field of view.

    Parameters
    ----------
    path
        A multi-channel file: TIFF, OME-TIFF, or the folder of an OME-Zarr image (versions 0.1 to
        0.5, full resolution); or one file per channel, as a list or as a dict by channel name.
    channels
        Names of the channels, in the order in which they are wanted. A dict ``{"1": "DNA"}``
        renames those of the files. For a multi-channel file without names, the names in its
        order; default ``channel_0``, ``channel_1``, ...
    pattern
        Regular expression, searched in each file's name (in its whole path where the pattern
        holds a ``/``), whose named groups say what the file is: ``channel`` is the channel, any
        other group, such as ``well`` and ``site``, goes to the metadata.
    metadata
        More about the field; it stands above what the pattern found.
    labels
        File of its label image, see :func:`read_labels`.
    connected
        The label image is a mask, whose connected pieces are the cells.
    element
        Image in a SpatialData store, such as ``"images/cells"``, where it holds several.

    Returns
    -------
    Field
        With pixels (channels, height, width) in the type of the files.

    Raises
    ------
    FileNotFoundError, ImportError
        A file is missing; its compression needs imagecodecs.
    ValueError
        A file is damaged or truncated, channels differ in size or type, the pattern does not fit.
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
        pixels, names = _multi_channel(files, channels, element)
        paths: tuple[Path, ...] = (files,)
    else:
        names, pixels = tuple(files), _stack(files, element)
        paths = tuple(files.values())
    return Field(
        pixels,
        names,
        {**about, **{str(k): str(v) for k, v in (metadata or {}).items()}},
        paths,
        None if labels is None else read_labels(labels, connected=connected),
    )


def _files(
    path: PathLike | Sequence[PathLike] | Mapping[str, PathLike],
    channels: Channels | None,
    pattern: str | None,
) -> tuple[Path | dict[str, Path], dict[str, str]]:
    """The one file of a field or its files by channel, and what their names say of it."""
    if isinstance(path, str | os.PathLike):
        single = Path(path)
        about = {} if pattern is None else _described(pattern, single)
        about.pop(CHANNEL, None)
        return single, about
    if isinstance(path, Mapping):
        files = {str(name): Path(file) for name, file in path.items()}
        groups = [] if pattern is None else [_described(pattern, file) for file in files.values()]
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
        files = _by_channel(names, listed)
    for found in groups:
        found.pop(CHANNEL, None)
    if any(found != groups[0] for found in groups):
        raise ValueError(
            f"the files belong to different fields: {listing(groups)}; read a whole folder with "
            "`cellfuse.io.read_fields`."
        )
    return in_order(files, channels), groups[0] if groups else {}


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


def in_order(files: Mapping[str, Path], channels: Channels | None) -> dict[str, Path]:
    """Files of the channels asked for, in their order, under their new names."""
    if channels is None:
        return dict(files)
    wanted = channels if isinstance(channels, Mapping) else {name: name for name in channels}
    for name in wanted:
        if name not in files:
            raise missing_key(name, list(files), what="the channels of the files")
    return {str(new): files[str(old)] for old, new in wanted.items()}


def _stack(files: Mapping[str, Path], element: str | None) -> NDArray[Any]:
    """One plane of each file; sizes and types must agree."""
    pixels: NDArray[Any] | None = None
    for i, file in enumerate(files.values()):
        plane, _ = read_pixels(file, element=element)
        if len(plane) != 1:
            raise ValueError(f"{str(file)!r} holds {len(plane)} channels; expected one per file.")
        if pixels is None:
            first, pixels = file, np.empty((len(files), *plane.shape[1:]), plane.dtype)
        if plane.shape[1:] != pixels.shape[1:] or plane.dtype != pixels.dtype:
            raise ValueError(
                f"channels of one field differ: {str(first)!r} is {pixels.shape[1:]} of "
                f"{pixels.dtype}, {str(file)!r} is {plane.shape[1:]} of {plane.dtype}."
            )
        pixels[i] = plane[0]
    if pixels is None:
        raise ValueError("no channel was asked for.")
    return pixels


def _multi_channel(
    path: Path, channels: Channels | None, element: str | None
) -> tuple[NDArray[Any], tuple[str, ...]]:
    pixels, names = read_pixels(path, element=element)
    if names is None and channels is not None and not isinstance(channels, Mapping):
        if len(channels) != len(pixels):
            raise ValueError(
                f"{str(path)!r} holds {len(pixels)} channels without names; {len(channels)} names "
                f"were given: {listing(channels)}."
            )
        return pixels, tuple(channels)
    own = names or [f"channel_{i}" for i in range(len(pixels))]
    if channels is None:
        return pixels, tuple(own)
    wanted = channels if isinstance(channels, Mapping) else {name: name for name in channels}
    for name in wanted:
        if name not in own:
            raise missing_key(name, own, what=f"the channels of {str(path)!r}")
    return pixels[[own.index(name) for name in wanted]], tuple(wanted.values())


def read_labels(
    path: PathLike, *, connected: bool = False, element: str | None = None
) -> NDArray[Any]:
    """Read a label image.

    Parameters
    ----------
    path
        TIFF of 8, 16 or 32 bits, or OME-Zarr, with one channel.
    connected
        The file is a mask, non-zero in all cells: number its connected pieces (pixels that share
        an edge) from 1, in the order of their first pixels.
    element
        Labels in a SpatialData store, such as ``"labels/nuclei"``.

    Returns
    -------
    numpy.ndarray
        (height, width), integers: 0 is background, every other number one cell.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, holds several channels or fractions, or is a mask and not labels.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> import numpy as np, tifffile
    >>> mask = Path(tempfile.mkdtemp()) / "mask.tif"
    >>> tifffile.imwrite(mask, np.array([[255, 0, 255], [255, 0, 0]], np.uint8))
    >>> cf.io.read_labels(mask, connected=True).tolist()
    [[1, 0, 2], [1, 0, 0]]
    """
    from scipy import ndimage

    path = Path(path)
    pixels, _ = read_pixels(path, element=element)
    if len(pixels) != 1:
        raise ValueError(f"{str(path)!r} holds {len(pixels)} channels; expected one, of labels.")
    labels = pixels[0]
    if connected:
        return ndimage.label(labels != 0)[0]
    if labels.dtype == bool or not np.issubdtype(labels.dtype, np.integer):
        whole = labels.dtype != bool and bool(np.all(np.isfinite(labels) & (labels % 1 == 0)))
        if not whole:
            raise ValueError(
                f"{str(path)!r} holds {labels.dtype} values; expected integers. "
                "For a mask, pass `connected=True`."
            )
        labels = labels.astype(np.int32)
    _refuse_mask(labels, path)
    return labels


def _refuse_mask(labels: NDArray[Any], path: Path) -> None:
    """A mask read as labels would be one cell as large as all of them."""
    from scipy import ndimage

    top = int(labels.max(initial=0))
    if top in (1, 255, 65535) and bool(np.all((labels == 0) | (labels == top))):
        n_pieces = ndimage.label(labels)[1]
        if n_pieces > 1:
            raise ValueError(
                f"{str(path)!r} is a mask, not labels: all its cells have the value {top}, in "
                f"{n_pieces} pieces. Pass `connected=True` to take each piece as a cell."
            )
