"""A MuData is made, written and read alike by mudata 0.3 and 0.4: columns stay where they are."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import mudata
from anndata import AnnData
from mudata import MuData

from cellfuse._files import put_in_place, writing

__all__ = ["columns_stay", "make_mudata", "write_file"]

#: What HDF5 takes beside the arrays themselves.
OVERHEAD = 1 << 20


def columns_stay() -> AbstractContextManager[Any]:
    """Keep mudata 0.3 from copying the modalities' columns; 0.4 has neither habit nor option."""
    options = getattr(mudata, "set_options", None)
    return nullcontext() if options is None else options(pull_on_update=False)


def make_mudata(parts: Mapping[str, AnnData]) -> MuData:
    """Make a MuData of `parts` without copying them."""
    with columns_stay():
        return MuData(dict(parts))


def write_file(data: AnnData | MuData, target: Path) -> None:
    """Write an ``.h5ad`` or ``.h5mu`` beside, then in its place.

    Whether there is room is asked before: a disk that fills up under HDF5 makes it say so once for
    every array, and end the process with a crash.

    Raises
    ------
    OSError
        The disk is full, with `target` in the text.
    """
    beside = target.with_name(f".{target.name}.part")
    with writing(target):
        if shutil.disk_usage(target.parent).free < _bytes_of(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with columns_stay():
                data.write(beside)
            put_in_place(beside, target)
        finally:
            beside.unlink(missing_ok=True)


def _bytes_of(data: AnnData | MuData) -> int:
    """Bytes of a file of `data`, about."""
    parts = [*data.mod.values()] if isinstance(data, MuData) else []
    own = [data, *parts]
    arrays = [one.X for one in own if isinstance(one, AnnData)]
    arrays += [a for one in own if isinstance(one, AnnData) for a in one.layers.values()]
    arrays += [a for one in own for a in (*one.obsm.values(), *one.varm.values())]
    arrays += [table for one in own for table in (one.obs, one.var)]
    return OVERHEAD + sum(_bytes_of_array(array) for array in arrays if array is not None)


def _bytes_of_array(array: Any) -> int:
    if hasattr(array, "memory_usage"):  # a data frame
        return int(array.memory_usage(deep=True).sum())
    if hasattr(array, "indptr"):
        return sum(int(part.nbytes) for part in (array.data, array.indices, array.indptr))
    return int(getattr(array, "nbytes", 0))
