"""An embedding on its way to disk, batch by batch, that a killed run can go on with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse._files import put_in_place, writing

__all__ = ["EmbeddingStore", "digest_of"]

FORMAT = 1
#: What to do where the disk is full.
GO_ON = "Batches that are done are kept: make room, and the same call goes on after them."


def digest_of(*parts: Any) -> str:
    """Fingerprint of bytes or contiguous arrays, one after another."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(memoryview(part).cast("B") if getattr(part, "size", 1) else b"")
    return made.hexdigest()


class EmbeddingStore:
    """A zarr group with ``embedding``, one chunk per batch, and ``done``, a flag per batch.

    A batch's flag is set after its rows are written: what a killed run left half written is
    computed again.
    """

    def __init__(self, group: Any, place: Path) -> None:
        self._place = place
        self._rows, self._done = group["embedding"], group["done"]
        self.batch_size = int(self._rows.chunks[0])

    @classmethod
    def open(
        cls, path: str | Path, shape: tuple[int, int], batch_size: int, identity: Mapping[str, Any]
    ) -> EmbeddingStore:
        """Open the store at `path`, or make it; one that belongs to something else is refused."""
        import zarr

        place = Path(path)
        wanted = json.loads(json.dumps({"format": FORMAT, **identity}))
        if place.exists() and any(place.iterdir()):
            found = _identity_of(place)
            other = [k for k in sorted({*wanted, *found}) if wanted.get(k) != found.get(k)]
            if other:
                differs = "; ".join(
                    f"{key}: {_short(found.get(key))} there, {_short(wanted.get(key))} here"
                    for key in other[:4]
                )
                raise ValueError(
                    f"the store {str(place)!r} belongs to other cells, weights or settings "
                    f"({differs}). Give another `store`, or remove that folder."
                )
            return cls(zarr.open_group(place, mode="r+"), place)
        batch_size = min(batch_size, shape[0])
        # Beside, then in its place: where this ends half-way, the same call begins anew.
        beside = place.parent / f".{place.name}-writing"
        with writing(place):
            shutil.rmtree(beside, ignore_errors=True)
            try:
                group = zarr.open_group(beside, mode="w")
                group.create_array(
                    "embedding", shape=shape, chunks=(batch_size, shape[1]), dtype="float32"
                )
                n_batches = -(-shape[0] // batch_size)
                group.create_array("done", shape=(n_batches,), chunks=(1,), dtype="uint8")
                group.attrs["cellfuse"] = wanted
                put_in_place(beside, place)
            finally:
                shutil.rmtree(beside, ignore_errors=True)
        return cls(zarr.open_group(place, mode="r+"), place)

    @property
    def rows(self) -> Any:
        """The embedding as it lies on the disk."""
        return self._rows

    def is_done(self, part: slice) -> bool:
        """Whether the batch with these rows is finished."""
        return bool(self._done[part.start // self.batch_size])

    def write(self, part: slice, values: NDArray) -> None:
        """Keep a batch, then note that it is there."""
        with writing(self._place, GO_ON):
            self._rows[part] = values
            self._done[part.start // self.batch_size] = 1

    def read(self) -> NDArray[np.float32]:
        """The whole embedding."""
        return np.asarray(self._rows[:])


def _identity_of(place: Path) -> dict[str, Any]:
    import zarr

    try:
        found: Any = zarr.open_group(place, mode="r").attrs["cellfuse"]
    except (KeyError, FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{str(place)!r} is no store of embeddings (or one whose making was interrupted); "
            "give another `store`, or remove that folder."
        ) from error
    return dict(found)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
