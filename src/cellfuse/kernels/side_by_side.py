"""Joint spaces of several numbers of components side by side, as one space.

Five components see what is strong in few contexts, fifty what is faint in many; each errs in its
own way. Side by side their similarities are added, and so errors average (bagging, Breiman 1996,
over the truncation): what was left out is found better than by any one of them, or as well as by
the one that would have been chosen (`benchmarks/evidence/side_by_side.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["side_by_side"]

Floats = NDArray[np.float64]


def side_by_side(
    maps: Sequence[Sequence[Floats]], totals: Sequence[Floats], *, width: int
) -> list[Floats]:
    """Maps into the space in which those of all members stand side by side, turned to fit `width`.

    Parameters
    ----------
    maps
        For each member and modality from features to its joint space, ``(features, w)``.
    totals
        Covariance of the cells' features of each modality.
    width
        Directions that the features leave at most: the components of all modalities. Members share
        their components, so that no more are needed, however many members there are.

    Returns
    -------
    Per modality ``(features, width)`` at most, directions of most variance first. Distances and
    cosines are those of the members side by side. One member stays as it is.
    """
    if len(maps) == 1:
        return list(maps[0])
    wide = [np.hstack(each) for each in zip(*maps, strict=True)]
    spread = np.sum([x.T @ total @ x for x, total in zip(wide, totals, strict=True)], axis=0)
    _, vectors = np.linalg.eigh((spread + spread.T) / 2)
    turn = vectors[:, ::-1][:, :width]
    return [x @ turn for x in wide]
