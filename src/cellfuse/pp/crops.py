"""Single cells cut out of fields of view."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key
from cellfuse._files import writing
from cellfuse.kernels.label_images import foreign_background
from cellfuse.pp._crop_fields import Cells, FieldLike, Fields, Waiting, waiting
from cellfuse.pp._crop_journal import DoneField, FieldNotes
from cellfuse.pp._crop_store import MemoryCrops, Sink, ZarrCrops, refuse_existing

__all__ = ["crop_cells"]

logger = logging.getLogger("cellfuse")

#: Types in which crops are kept: what a camera gives, and half of it.
DTYPES = ("uint8", "uint16")
CENTROID = ("centroid_y", "centroid_x")


@dataclass(frozen=True)
class Cut:
    """How cells are cut; the arguments of :func:`crop_cells`."""

    size: int
    mask_neighbours: bool
    edge: str
    min_area: int
    dtype: np.dtype | None
    rescale: tuple[float, float] | None


def crop_cells(
    fields: Fields,
    labels: Cells | None = None,
    *,
    size: int,
    mask_neighbours: bool = False,
    edge: str = "pad",
    min_area: int = 1,
    dtype: str | None = None,
    rescale: tuple[float, float] | None = None,
    store: str | Path | None = None,
    overwrite: bool = False,
) -> AnnData:
    """Cut a square around each cell.

    Parameters
    ----------
    fields
        A :class:`cellfuse.io.Field`; or any iterable of them (:func:`cellfuse.io.read_fields`, a
        generator), or of pairs ``(field, labels)``. Fields are taken one at a time, the next one
        being read while one is cut.
    labels
        For one field: its label image (height, width), of integers, 0 outside cells; or centroids
        (cells, 2) as y, x in pixels; or a data frame of them with the columns ``centroid_y`` and
        ``centroid_x``, whose further columns, such as the guide, go to obs. Default: the labels
        that the field has.
    size
        Height and width of the crops, in pixels.
    mask_neighbours
        Set the pixels of other cells to 0; the background stays as it is. Needs a label image.
    edge
        What to do with cells whose crop leaves the field: ``"pad"`` it with 0, or ``"drop"`` it.
    min_area
        Leave out labels of fewer pixels (specks of a mask).
    dtype
        ``"uint8"`` or ``"uint16"``; default the type of the pixels, which must be one of them.
        Other types are converted when this says so: values that do not fit are an error.
    rescale
        Intensities (low, high) that become 0 and the largest value of the type; what lies beyond
        is clipped. For pixels between 0 and 1: ``rescale=(0, 1), dtype="uint16"``.
    store
        Folder of a zarr store to be made: crops are written there in chunks of whole cells, and
        never held in memory together. Default: all in memory. It is written beside, in
        ``.NAME-writing``, and renamed when it is whole: a call that was killed or stopped by an
        error goes on after the fields that it had finished when it comes again with the same
        settings. A field counts as the same where its files have the name, size and time that they
        had (:func:`cellfuse.io.read_fields`, whose finished fields are not read again), or where
        pixels and labels are equal.
    overwrite
        Replace a store that this function has written.

    Returns
    -------
    AnnData
        ``obsm["crops"]``: (cells, channels, size, size), numpy, or `zarr.Array` with `store`.
        obs: the field's metadata (well, site, ...), ``label`` (for centroids their number),
        ``centroid_y``, ``centroid_x``, ``area`` (in pixels; not for centroids) and ``edge``,
        whether the crop was padded. ``uns["channels"]`` names the channels. The cell with label
        12 of site 3 in well B7 is called ``B7_3_12``. The pixel nearest to a cell's centroid is
        at ``[size // 2, size // 2]`` of its crop. X is empty. Open a store later with
        :func:`cellfuse.io.read_crops`.

    Raises
    ------
    FileExistsError
        `store` exists, and `overwrite` is not set or it is something else than crops.
    ValueError
        Labels and pixels differ in size, centroids lie outside the field, pixels are of another
        type, two fields have the same name, fields differ in channels, or there is no cell.
    KeyError
        The data frame of centroids lacks a column.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import numpy as np
    >>> pixels = np.arange(2 * 8 * 8, dtype=np.uint16).reshape(2, 8, 8)
    >>> labels = np.zeros((8, 8), int)
    >>> labels[1:4, 2:5] = 1
    >>> field = cf.io.Field(pixels, ("DNA", "ER"), {"well": "A1"})
    >>> cells = cf.pp.crop_cells(field, labels, size=4)
    >>> cells.obsm["crops"].shape, cells.obs["area"].tolist(), cells.obs_names.tolist()
    ((1, 2, 4, 4), [9], ['A1_1'])
    >>> int(cells.obsm["crops"][0, 0, 2, 2]) == int(pixels[0, 2, 3])
    True
    """
    cut = _checked(size, mask_neighbours, edge, min_area, dtype, rescale)
    if store is None:
        return _into(MemoryCrops(), fields, labels, cut)
    refuse_existing(Path(store), overwrite=overwrite)
    with writing(store):
        return _into(ZarrCrops(Path(store), _settings(cut)), fields, labels, cut)


def _into(sink: Sink, fields: Any, labels: Cells | None, cut: Cut) -> AnnData:
    try:
        obs, channels = _cut_all(waiting(fields, labels), cut, sink)
        return sink.finish(obs, channels)
    except BaseException as error:
        if kept := sink.discard():
            error.add_note(kept)
        raise


def _settings(cut: Cut) -> dict[str, Any]:
    """How cells are cut, as it is written down."""
    return {**asdict(cut), "dtype": None if cut.dtype is None else str(cut.dtype)}


def _checked(
    size: int,
    mask_neighbours: bool,
    edge: str,
    min_area: int,
    dtype: str | None,
    rescale: tuple[float, float] | None,
) -> Cut:
    if int(size) != size or size < 1:
        raise ValueError(f"size={size!r}; expected a number of pixels, at least 1.")
    if edge not in ("pad", "drop"):
        raise ValueError(f"edge={edge!r}; expected 'pad' or 'drop'.")
    if dtype is not None and str(np.dtype(dtype)) not in DTYPES:
        raise ValueError(f"dtype={dtype!r}; expected one of {listing(DTYPES)}.")
    if rescale is not None and not (len(rescale) == 2 and rescale[0] < rescale[1]):
        raise ValueError(f"rescale={rescale!r}; expected (low, high) with low < high.")
    return Cut(
        int(size),
        mask_neighbours,
        edge,
        int(min_area),
        None if dtype is None else np.dtype(dtype),
        rescale,
    )


def _ahead(fields: Iterator[Waiting], sink: Sink) -> Iterator[tuple[str, Any]]:
    """Take the next field in a thread, while the last one is cut and written.

    Gives its fingerprint, and the field with its labels; or what an earlier run has made of it,
    which is then not read.
    """

    def step() -> tuple[str, Any] | None:
        for field in fields:
            mark = sink.mark(field.mark)
            return mark, sink.done(mark) or field.take()
        return None

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(step)
        while (item := coming.result()) is not None:
            coming = pool.submit(step)
            yield item


def _cut_all(
    fields: Iterator[Waiting], cut: Cut, sink: Sink
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    tables: list[pd.DataFrame] = []
    names: dict[str, FieldNotes] = {}
    n_found = 0
    for mark, item in _ahead(fields, sink):
        if isinstance(item, DoneField):
            notes, table, crops = item.notes, item.table, None
        else:
            field, labels = item
            table, found = _cells_of(field, labels, cut)
            crops = _cut_field(field, labels, table, found, cut)
            notes = FieldNotes(
                mark, field.name, tuple(field.channels), str(crops.dtype), len(found)
            )
        _check_fits(notes, names, None if crops is None else field)
        names[notes.name] = notes
        n_found += notes.n_found
        if crops is not None:
            sink.add(crops, notes, table)
        if len(table):
            tables.append(table)
    if not tables:
        raise ValueError(
            f"no cell to cut: {len(names)} fields with {n_found} cells of {cut.min_area} pixels or "
            f"more, with edge={cut.edge!r}."
        )
    obs = pd.concat(tables)
    logger.info("crop_cells: %d of %d cells of %d fields.", len(obs), n_found, len(names))
    return obs, notes.channels


def _check_fits(
    notes: FieldNotes, names: Mapping[str, FieldNotes], field: FieldLike | None
) -> None:
    """Refuse a field that is called like another, or holds something else."""
    if notes.name in names:
        about = "" if field is None else f", after their metadata {dict(field.metadata)}"
        raise ValueError(
            f"two fields are called {notes.name!r}{about}: add what tells them apart, such as the "
            "plate or the site, as a named group of the pattern."
        )
    first = next(iter(names.values()), notes)
    if (notes.channels, notes.dtype) != (first.channels, first.dtype):
        raise ValueError(
            f"fields differ: {first.name!r} has {listing(first.channels)} as {first.dtype}, "
            f"{notes.name!r} has {listing(notes.channels)} as {notes.dtype}."
        )


# -- where the cells are --------------------------------------------------------------------------


def _cells_of(field: FieldLike, labels: Cells, cut: Cut) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Table of the cells that are cut, and the labels of all that were found."""
    height, width = field.pixels.shape[1:]
    if isinstance(labels, pd.DataFrame) or not _is_image(labels, (height, width)):
        if cut.mask_neighbours:
            raise ValueError("`mask_neighbours` needs a label image; centroids were given.")
        table = _from_centroids(field, labels)
    else:
        table = _measured(np.asarray(labels), field.name)
        table = table[table["area"] >= cut.min_area]
    top, left = _corners(table, cut.size)
    inside = (top >= 0) & (left >= 0) & (top + cut.size <= height) & (left + cut.size <= width)
    table["edge"] = ~inside
    for key, value in reversed(list(field.metadata.items())):
        if key not in table:
            table.insert(0, key, value)
    table.index = pd.Index([f"{field.name}_{label}" for label in table["label"]])
    found = table["label"].to_numpy()
    return (table[inside] if cut.edge == "drop" else table), found


def _is_image(labels: Any, shape: tuple[int, int]) -> bool:
    """Labels have the size of the field; anything else with two columns is centroids."""
    found = np.shape(labels)
    if found == shape:
        return True
    if len(found) == 2 and found[1] == 2:
        return False
    raise ValueError(
        f"labels of shape {found} for a field of {shape}; expected a label image of the size of "
        "the field, or centroids of shape (cells, 2)."
    )


def _measured(labels: NDArray[Any], name: str) -> pd.DataFrame:
    """Area and centroid of every label, in one pass over the pixels of cells."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"the labels of field {name!r} are {labels.dtype}; expected integers, one number per "
            "cell (`cellfuse.io.read_labels(..., connected=True)` numbers the pieces of a mask)."
        )
    found = foreign_background(labels)
    if found is not None:
        raise ValueError(
            f"the labels of field {name!r} have no background of 0; {found[0]} covers "
            f"{100 * found[1]:.0f}% of it. If that is the background: "
            f"`np.where(labels == {found[0]}, 0, labels)`, or `cellfuse.io.read_labels(..., "
            f"background={found[0]})`."
        )
    place = np.flatnonzero(labels)
    value = labels.ravel()[place]
    if len(value) and value.min() < 0:
        raise ValueError(f"the labels of field {name!r} are negative, down to {value.min()}.")
    y, x = np.divmod(place, labels.shape[1])
    # Numbers of a whole slide run far above the number of pixels of one field.
    if len(value) and int(value.max()) > labels.size:
        number, value = np.unique(value, return_inverse=True)
    else:
        number = np.arange(int(value.max(initial=0)) + 1)
    value = value.astype(np.intp)
    area = np.bincount(value, minlength=len(number))
    there = np.flatnonzero(area)
    sums = [np.bincount(value, weights=along, minlength=len(number))[there] for along in (y, x)]
    return pd.DataFrame(
        {
            "label": number[there].astype(np.int64),
            "centroid_y": sums[0] / area[there],
            "centroid_x": sums[1] / area[there],
            "area": area[there],
        }
    )


def _from_centroids(field: FieldLike, cells: Cells) -> pd.DataFrame:
    if isinstance(cells, pd.DataFrame):
        for column in CENTROID:
            if column not in cells.columns:
                raise missing_key(column, list(cells.columns), what="the columns of the centroids")
        table = cells.reset_index(drop=True)
        if "label" in table and not table["label"].is_unique:
            raise ValueError(f"labels of centroids of field {field.name!r} occur twice.")
    else:
        table = pd.DataFrame(np.asarray(cells, dtype=np.float64), columns=list(CENTROID))
    if "label" not in table:
        table.insert(0, "label", np.arange(len(table)))
    yx = table[list(CENTROID)].to_numpy(dtype=np.float64)
    # Negated, so that NaN is outside too.
    outside = ~((np.floor(yx + 0.5) >= 0) & (np.floor(yx + 0.5) < field.pixels.shape[1:])).all(1)
    if outside.any():
        row = int(np.argmax(outside))
        raise ValueError(
            f"{int(outside.sum())} of {len(table)} centroids lie outside field {field.name!r} of "
            f"{field.pixels.shape[1:]} pixels, first row {row}: (y, x) = "
            f"({yx[row, 0]:g}, {yx[row, 1]:g}). Are y and x exchanged, or in micrometres?"
        )
    return table


def _corners(table: pd.DataFrame, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row and column of each crop."""
    # Half up, not to the even neighbour: a cell moved by a pixel moves its crop by a pixel.
    y, x = (np.floor(table[key].to_numpy(np.float64) + 0.5).astype(np.int64) for key in CENTROID)
    return y - size // 2, x - size // 2


# -- what is cut ----------------------------------------------------------------------------------


def _cut_field(
    field: FieldLike, labels: Cells, table: pd.DataFrame, found: NDArray[np.int64], cut: Cut
) -> NDArray[Any]:
    pixels = _converted(field.pixels, field.name, cut) if len(table) else field.pixels[:0]
    n_channels, (height, width) = len(field.pixels), field.pixels.shape[1:]
    dtype = cut.dtype or field.pixels.dtype
    crops = np.zeros((len(table), n_channels, cut.size, cut.size), dtype)
    masks = np.asarray(labels) if cut.mask_neighbours else None
    corners = zip(*_corners(table, cut.size), table["label"], strict=True)
    for crop, (top, left, label) in zip(crops, corners, strict=True):
        rows = slice(max(top, 0), min(top + cut.size, height))
        columns = slice(max(left, 0), min(left + cut.size, width))
        part = crop[
            :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
        ]
        part[...] = pixels[:, rows, columns]
        if masks is not None:
            near = masks[rows, columns]
            part[:, (near != 0) & (near != label)] = 0
    return crops


def _converted(pixels: NDArray[Any], name: str, cut: Cut) -> NDArray[Any]:
    """Pixels in the type asked for; nothing is cut off without a word."""
    if cut.dtype is None and str(pixels.dtype) not in DTYPES:
        raise ValueError(
            f"the pixels of field {name!r} are {pixels.dtype}; crops are kept as "
            f"{' or '.join(DTYPES)}. Pass `dtype`, and `rescale=(low, high)` where the values do "
            "not fit as they are."
        )
    dtype = np.dtype(cut.dtype or pixels.dtype)
    top = np.iinfo(dtype).max
    if cut.rescale is not None:
        low, high = cut.rescale
        scaled = (pixels.astype(np.float32) - low) * (top / (high - low))
        pixels = np.clip(scaled, 0, top)
    elif pixels.dtype == dtype:
        return pixels
    if not np.issubdtype(pixels.dtype, np.integer):
        pixels = np.floor(pixels + np.float32(0.5))
    # Written so that NaN does not pass.
    if not (pixels.min() >= 0 and pixels.max() <= top):
        raise ValueError(
            f"the pixels of field {name!r} reach from {pixels.min()} to {pixels.max()} and do not "
            f"fit {dtype}; give `rescale=(low, high)`."
        )
    return pixels.astype(dtype)
