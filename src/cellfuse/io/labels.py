"""Label images: which pixel belongs to which cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing
from cellfuse.io._paths import PathLike
from cellfuse.io._pixels import Planes, read_pixels
from cellfuse.kernels.label_images import classes_in_pieces, foreign_background

__all__ = ["read_labels"]


def read_labels(
    path: PathLike,
    *,
    connected: bool = False,
    background: int = 0,
    element: str | None = None,
    series: int | str | None = None,
    z: Planes | None = None,
) -> NDArray[Any]:
    """Read a label image.

    Parameters
    ----------
    path
        TIFF or PNG of 8, 16 or 32 bits, or OME-Zarr, with one channel.
    connected
        The file is a mask, other than the background in all cells: number its connected pieces
        (pixels that share an edge) from 1, in the order of their first pixels.
    background
        Value of the pixels that are in no cell; ilastik's "Simple Segmentation", for one, has 1.
    element
        Labels in a SpatialData store or an OME-Zarr image, such as ``"labels/nuclei"``.
    series, z
        Number or name of the image in a file that holds several; number of the focal plane. As in
        :func:`read_field`.

    Returns
    -------
    numpy.ndarray
        (height, width), integers: 0 is background, every other number one cell.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is damaged, holds several channels, negative numbers or fractions, is a mask or a
        map of classes and no labels, or has another background than `background`.

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
    if isinstance(z, str):
        raise ValueError(
            f"z={z!r}: labels of several focal planes have no {z}; give the number of one."
        )
    pixels, _ = read_pixels(path, element=element, series=series, z=z)
    if len(pixels) != 1:
        raise ValueError(f"{str(path)!r} holds {len(pixels)} channels; expected one, of labels.")
    labels = pixels[0]
    if labels.dtype == bool:
        labels = labels.astype(np.uint8)
        if not connected:
            raise ValueError(
                f"{str(path)!r} holds bool values; expected integers. For a mask, pass "
                "`connected=True`."
            )
    labels = _integers(labels, path)
    if background:
        labels = np.where(labels == background, 0, labels)
    _refuse_background(labels, path, connected=connected)
    if connected:
        return ndimage.label(labels != 0)[0]
    if labels.min(initial=0) < 0:
        raise ValueError(
            f"{str(path)!r} holds negative numbers, from {labels.min()} on; expected 0 in the "
            "background and one positive number per cell. If one of them is the background, pass "
            "`background`."
        )
    _refuse_classes(labels, path)
    return labels


def _integers(labels: NDArray[Any], path: Path) -> NDArray[Any]:
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    if not bool(np.all(np.isfinite(labels) & (labels % 1 == 0))):
        raise ValueError(
            f"{str(path)!r} holds {labels.dtype} values; expected integers. "
            "For a mask, pass `connected=True`."
        )
    large = float(np.abs(labels).max(initial=0)) >= 2**31
    return labels.astype(np.int64 if large else np.int32)


def _refuse_background(labels: NDArray[Any], path: Path, *, connected: bool) -> None:
    """A background that is not 0 would be a cell as large as all that is between the cells."""
    found = foreign_background(labels, mask=connected)
    if found is None:
        return
    likely, share = found
    raise ValueError(
        f"{str(path)!r} has no background of 0: its values are {listing(np.unique(labels), 4)}, "
        f"and {likely} covers {100 * share:.0f}% of it. If that is the background, pass "
        f"`background={likely}`"
        + ("." if connected else " (and `connected=True`, if all cells have one value).")
    )


def _refuse_classes(labels: NDArray[Any], path: Path) -> None:
    """A mask, or a map of classes, read as labels would be cells as large as all of a class."""
    found = classes_in_pieces(labels)
    if found is None:
        return
    values, n_pieces = found
    kind = "a mask" if len(values) == 1 else "a map of classes"
    raise ValueError(
        f"{str(path)!r} is {kind}, not labels: all its cells have the value "
        f"{', '.join(map(str, values))}, in {n_pieces} pieces. Pass `connected=True` to take "
        "each piece as a cell."
    )
