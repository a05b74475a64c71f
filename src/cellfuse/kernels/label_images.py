"""Whether an image of integers numbers cells: its background is 0, and it is no map of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["classes_in_pieces", "foreign_background"]

#: Numbers of classes up to which an image may be a map of classes instead of cells.
MAX_CLASSES = 4
#: Share of the pixels, and sides of the image, from which on a label looks like the background.
LARGE, SIDES = 0.25, 3


def foreign_background(labels: NDArray[Any], *, mask: bool = False) -> tuple[int, float] | None:
    """Value that looks like the background of an image without a 0, and its share of the pixels.

    Cells may cover a field whole. Then none of many surrounds the others.

    Parameters
    ----------
    labels
        Integers, (height, width).
    mask
        The image is a mask, in which all but the background are cells.

    Returns
    -------
    None where there is a 0, or where cells cover the whole field.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.kernels.label_images import foreign_background
    >>> foreign_background(np.array([[1, 1, 1], [1, 2, 1], [1, 1, 1]]))[0]
    1
    """
    if not labels.size or (labels == 0).any():
        return None
    values, counts = np.unique(labels, return_counts=True)
    likely, share = int(values[np.argmax(counts)]), float(counts.max() / labels.size)
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    n_sides = sum(bool((edge == likely).any()) for edge in edges)
    one_cell = len(values) == 1
    tiled = len(values) > 2 and (share < LARGE or n_sides < SIDES)
    return None if (one_cell or tiled) and not mask else (likely, share)


def classes_in_pieces(labels: NDArray[Any]) -> tuple[list[int], int] | None:
    """Values of a mask or a map of few classes, and the number of their connected pieces.

    Returns
    -------
    None for labels: more than four values, or one that is in one piece. A single value is a mask
    where it is 1, 255 or 65535.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.kernels.label_images import classes_in_pieces
    >>> classes_in_pieces(np.array([[255, 0, 255]]))
    ([255], 2)
    """
    from scipy import ndimage

    values = np.unique(labels)
    values = values[values != 0]
    one = len(values) == 1 and int(values[0]) in (1, 255, 65535)
    if not one and not 1 < len(values) <= MAX_CLASSES:
        return None
    pieces = [ndimage.label(labels == value)[1] for value in values]
    return None if min(pieces) < 2 else ([int(value) for value in values], sum(pieces))
