"""Fields of view on their way into crops, whatever way they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfuse._embedding_store import digest_of

__all__ = ["Cells", "FieldLike", "Fields", "Waiting", "waiting"]


class FieldLike(Protocol):
    """A field of view, as :class:`cellfuse.io.Field` is one."""

    @property
    def pixels(self) -> NDArray[Any]:
        """(channels, height, width)."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What every cell of the field gets in obs."""
        ...

    @property
    def labels(self) -> NDArray[Any] | None:
        """(height, width), 0 outside cells."""
        ...

    @property
    def name(self) -> str:
        """Short name, for obs names and messages."""
        ...


Cells: TypeAlias = NDArray[Any] | pd.DataFrame
Fields: TypeAlias = FieldLike | Iterable[FieldLike] | Iterable[tuple[FieldLike, Cells]]


@dataclass(frozen=True)
class Waiting:
    """A field before its turn."""

    #: Fingerprint by which a later run knows it again.
    mark: Callable[[], str]
    #: The field, read if it was not, with its labels or centroids.
    take: Callable[[], tuple[FieldLike, Cells]]


def waiting(fields: Any, labels: Cells | None) -> Iterator[Waiting]:
    """Fields in order, each with its labels or centroids; a field of files is not read yet."""
    if hasattr(fields, "pixels"):
        yield _in_memory(fields, labels)
        return
    if labels is not None:
        raise ValueError(
            "`labels` belongs to one field; for several give pairs `(field, labels)`, or fields "
            "that hold their labels."
        )
    if hasattr(fields, "mark_of"):  # files that are read when they are asked for
        for number in range(len(fields)):
            yield Waiting(partial(fields.mark_of, number), partial(_read, fields, number))
        return
    for item in fields:
        field, own = item if isinstance(item, tuple) else (item, None)
        yield _in_memory(field, own)


def _read(fields: Any, number: int) -> tuple[FieldLike, Cells]:
    field = fields[number]
    return field, _given(field, None)


def _in_memory(field: FieldLike, labels: Cells | None) -> Waiting:
    own = _given(field, labels)
    return Waiting(partial(_mark, field, own), lambda: (field, own))


def _given(field: FieldLike, labels: Cells | None) -> Cells:
    if labels is None:
        labels = field.labels
    if labels is None:
        raise ValueError(
            f"field {field.name!r} has no labels; give a label image or centroids, or read the "
            "field with `labels`."
        )
    return labels


def _mark(field: FieldLike, labels: Cells) -> str:
    """Fingerprint of all that the crops and their table are made of."""
    about = repr((tuple(field.channels), dict(field.metadata), field.name))
    if isinstance(labels, pd.DataFrame):
        about += repr((list(labels.columns), [str(dtype) for dtype in labels.dtypes]))
        cells: NDArray[Any] = pd.util.hash_pandas_object(labels, index=False).to_numpy()
    else:
        cells = np.asarray(labels)
    arrays = [np.ascontiguousarray(array) for array in (field.pixels, cells)]
    about += repr([(array.shape, str(array.dtype)) for array in arrays])
    return digest_of(about.encode(), *arrays)
