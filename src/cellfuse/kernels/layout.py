"""Positions on plates, and what rows and columns of a plate add to each feature."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["median_polish", "neighbour_sets", "well_positions"]

WELL = re.compile(r"^\s*([A-Za-z]{1,2})[\s_:-]?0*(\d{1,3})\s*$")
#: Share of a feature's spread below which a change of the effects ends the polish.
TOLERANCE = 1e-4
#: Rounds in which members of a set that clash are drawn again, and times that a set is begun again.
ROUNDS, ATTEMPTS = 100, 50


def well_positions(names: Sequence[str]) -> tuple[NDArray, NDArray]:
    """Row and column, from 0, of wells named such as ``A01``, ``P24``, ``AF48`` or ``b7``.

    Raises
    ------
    ValueError
        Names that are none, the first few of them as its argument.
    """
    found = [WELL.match(name) for name in names]
    wrong = [name for name, match in zip(names, found, strict=True) if match is None]
    if wrong:
        raise ValueError(wrong[:3])
    row = np.empty(len(names), dtype=np.intp)
    column = np.empty(len(names), dtype=np.intp)
    for i, match in enumerate(found):
        assert match is not None
        number = 0
        for letter in match[1].upper():
            number = 26 * number + ord(letter) - ord("A") + 1
        row[i], column[i] = number - 1, int(match[2]) - 1
    return row, column


def median_polish(
    values: NDArray, row: NDArray, column: NDArray, *, n_iter: int = 10
) -> tuple[NDArray, NDArray]:
    """Tukey's median polish of one plate, all features at once.

    The medians of rows and of columns are taken away in turn until they are 0.

    Parameters
    ----------
    values
        One row per well, shape (wells, d).
    row, column
        Number of each well's row and column, from 0, shape (wells,); none may be left out between.
    n_iter
        Most rounds.

    Returns
    -------
    What the rows (rows, d) and the columns (columns, d) add, each with median 0.
    """
    n_rows, n_columns = int(row.max()) + 1, int(column.max()) + 1
    table = np.full((n_rows, n_columns, values.shape[1]), np.nan)
    table[row, column] = values
    of_row, of_column = np.zeros((n_rows, len(table[0, 0]))), np.zeros((n_columns, table.shape[2]))
    spread = np.nanmedian(np.abs(table - np.nanmedian(table, axis=(0, 1))), axis=(0, 1))
    for _ in range(n_iter):
        row_step = np.nanmedian(table, axis=1)
        row_step -= np.median(row_step, axis=0)
        table -= row_step[:, None]
        column_step = np.nanmedian(table, axis=0)
        column_step -= np.median(column_step, axis=0)
        table -= column_step[None]
        of_row += row_step
        of_column += column_step
        change = np.maximum(np.abs(row_step).max(axis=0), np.abs(column_step).max(axis=0))
        if np.all(change <= TOLERANCE * spread):
            break
    return of_row - np.median(of_row, axis=0), of_column - np.median(of_column, axis=0)


def neighbour_sets(
    row: NDArray,
    column: NDArray,
    apart: NDArray,
    size: int,
    n_sets: int,
    rng: np.random.Generator,
    *,
    radius: int = 1,
    attempts: int = ATTEMPTS,
) -> NDArray:
    """Draw sets of wells that lie next to one another on the layout, on whatever plates.

    The first well of a set is any; the others have rows and columns within `radius` of its own.

    Parameters
    ----------
    row, column
        Position of each well, shape (n,).
    apart
        Numbers in all of which the members of a set differ (perturbation, plate), shape (n, c).
    attempts
        Times that sets are begun again to which no further well fits.

    Returns
    -------
    Row numbers, shape (size, n_sets). The first k members of a set are a set of size k.
    """
    n = len(row)
    near = (np.abs(row[:, None] - row) <= radius) & (np.abs(column[:, None] - column) <= radius)
    count = near.sum(axis=1)
    start = np.cumsum(count) - count
    wells = np.nonzero(near)[1]
    first_of = np.unique(np.stack([row, column]), axis=1, return_index=True)[1]
    most = max(len(np.unique(apart[near[i], 0])) for i in first_of)
    if most < size:
        raise ValueError(
            f"sets of {size} neighbouring wells cannot be drawn: the most of different "
            f"perturbations that lie together are {most}"
        )
    members = np.empty((size, n_sets), dtype=np.int64)
    members[0] = rng.integers(n, size=n_sets)
    for j in range(1, size):
        todo = np.arange(n_sets)
        for _ in range(ROUNDS):
            if not len(todo):
                break
            first = members[0, todo]
            place = (rng.random(len(todo)) * count[first]).astype(np.int64)
            members[j, todo] = wells[start[first] + place]
            clash = np.zeros(len(todo), dtype=bool)
            for i in range(j):
                clash |= (apart[members[i, todo]] == apart[members[j, todo]]).any(axis=1)
            todo = todo[clash]
        if len(todo) and not attempts:
            raise ValueError(f"sets of {size} neighbouring wells are too rare to be drawn")
        if len(todo):
            members[: j + 1, todo] = neighbour_sets(
                row,
                column,
                apart,
                j + 1,
                len(todo),
                rng,
                radius=radius,
                attempts=attempts - 1,
            )
    return members
