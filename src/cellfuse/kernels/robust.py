"""Robust location and scale of columns, and their application to rows in place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads, row_blocks

__all__ = ["MAD_TO_SD", "Scale", "center_scale", "grouped_location_scale", "location_scale"]

Scale = Literal["iqr", "mad"]

#: Makes the median absolute deviation of a normal variable equal its standard deviation.
MAD_TO_SD = 1.4826
#: Bytes of the columns that a thread sorts at a time, in float64.
SORTED_BYTES = 32 << 20


def _quantile_of_sorted(ordered: NDArray, q: float) -> NDArray:
    """Quantile along the last axis of sorted rows, linear between order statistics (float64)."""
    position = (ordered.shape[1] - 1) * q
    low = int(position)
    high = min(low + 1, ordered.shape[1] - 1)
    a = ordered[:, low].astype(np.float64)
    b = ordered[:, high].astype(np.float64)
    return a + (b - a) * (position - low)


def location_scale(values: NDArray, *, scale: Scale = "iqr") -> tuple[NDArray, NDArray]:
    """Median and spread of each column.

    Parameters
    ----------
    values
        Shape (n, d), finite, n >= 1.
    scale
        ``"iqr"``: distance between the quartiles (linear interpolation, as numpy's default).
        ``"mad"``: 1.4826 times the median absolute deviation from the median.

    Returns
    -------
    Location and spread, shape (d,), float64. A spread that is no larger than the rounding of the
    values themselves is returned as 0.
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale={scale!r} is unknown; choose one of {list(get_args(Scale))}.")
    # Some columns at a time: a sorted copy of all would be a second matrix.
    step = max(1, SORTED_BYTES // (8 * max(1, len(values))))
    columns = [values[:, c : c + step] for c in range(0, values.shape[1], step)]
    fitted = in_threads(partial(_location_scale, scale=scale), columns)
    return np.concatenate([f[0] for f in fitted]), np.concatenate([f[1] for f in fitted])


def _location_scale(values: NDArray, *, scale: Scale) -> tuple[NDArray, NDArray]:
    # Whole sorts of contiguous rows run vectorised and are several times faster than partitions.
    # Whole numbers have no place for half a step, and unsigned ones none for what is below 0.
    dtype = values.dtype if values.dtype.kind == "f" else np.float64
    ordered = np.array(values.T, dtype=dtype, order="C", copy=True)
    ordered.sort(axis=1)
    median = _quantile_of_sorted(ordered, 0.5)
    if scale == "iqr":
        spread = _quantile_of_sorted(ordered, 0.75) - _quantile_of_sorted(ordered, 0.25)
    else:
        deviation = np.abs(ordered - median[:, None].astype(ordered.dtype))
        deviation.sort(axis=1)
        spread = MAD_TO_SD * _quantile_of_sorted(deviation, 0.5)
    kind = np.finfo(values.dtype if values.dtype.kind == "f" else np.float64)
    rounding = np.maximum(kind.eps * np.abs(median), float(kind.tiny))
    spread[spread <= rounding] = 0.0
    return median, spread


def grouped_location_scale(
    values: NDArray, rows: Sequence[NDArray | slice], *, scale: Scale = "iqr"
) -> tuple[NDArray, NDArray]:
    """Median and spread of each column within each group of rows.

    Parameters
    ----------
    values
        Shape (n, d).
    rows
        Row numbers of each group, or a slice of them; none empty.

    Returns
    -------
    Two arrays of shape (groups, d), float64.
    """
    if hasattr(values, "hold"):
        return _lazy_location_scale(values, rows, scale)

    def one(chosen: NDArray | slice) -> tuple[NDArray, NDArray]:
        return location_scale(values[chosen], scale=scale)

    fitted = in_threads(one, rows)
    return np.stack([f[0] for f in fitted]), np.stack([f[1] for f in fitted])


def _lazy_location_scale(values: Any, rows: Sequence[Any], scale: Scale) -> tuple[NDArray, NDArray]:
    """A matrix that is not in memory: its chosen rows are, or as many of their columns as fit."""
    every = np.concatenate(rows)
    ends = np.cumsum([len(chosen) for chosen in rows])
    groups = [slice(end - len(chosen), end) for chosen, end in zip(rows, ends, strict=True)]
    parts = [
        grouped_location_scale(values.gather(every, columns), groups, scale=scale)
        for columns in values.column_groups(len(every))
    ]
    return np.hstack([part[0] for part in parts]), np.hstack([part[1] for part in parts])


def center_scale(
    values: NDArray, codes: NDArray, location: NDArray, spread: NDArray, *, out: NDArray
) -> NDArray:
    """Write ``(values - location[codes]) / spread[codes]`` into `out`, which may be `values`.

    Columns with spread 0 in a group are centred and left unscaled there.
    """
    centre = location.astype(out.dtype)
    # What the centre lost to rounding: of an offset of 1e8 in float32 it is up to 4.
    rest = (centre - location).astype(out.dtype)
    factor = (1.0 / np.where(spread > 0, spread, 1.0)).astype(out.dtype)

    def one(block: slice) -> None:
        group = codes[block]
        target = out[block]
        if group[0] == group[-1] and np.all(group == group[0]):
            np.subtract(values[block], centre[group[0]], out=target)
            target += rest[group[0]]
            target *= factor[group[0]]
        else:
            np.subtract(values[block], centre[group], out=target)
            target += rest[group]
            target *= factor[group]

    in_threads(one, row_blocks(*values.shape))
    return out
