"""The matrix that a verb reads and the place where it writes, in one or all modalities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    Data,
    check_finite,
    check_key,
    layers_of,
    modalities,
    per_modality,
    refuse_view,
    representation,
    stored_x,
    where,
)
from cellfuse._provenance import record, recorded, refuse_twice
from cellfuse.kernels.robust import center_scale
from cellfuse.kernels.steps import AffineStep, ScaleStep
from cellfuse.kernels.whitening import apply_whitening

__all__ = ["Matrix", "as_lazy", "open_matrices"]


@dataclass(frozen=True)
class Matrix:
    """One modality's matrix, checked, with where its successor goes."""

    adata: AnnData
    modality: str
    key_in: str | None
    key_out: str | None
    values: Any
    writable: bool
    past: dict[str, Any]

    def target(self) -> NDArray:
        """Return the array to write into: the matrix itself where allowed, else an empty one."""
        if self.writable:
            return self.values
        dtype = self.values.dtype if self.values.dtype in (np.float32, np.float64) else np.float32
        return np.empty(self.values.shape, dtype=dtype)

    @property
    def lazy(self) -> bool:
        """Whether the matrix is not in memory; what is made of it is computed when it is read."""
        return not isinstance(self.values, np.ndarray)

    def scaled(self, codes: NDArray, location: NDArray, spread: NDArray) -> Any:
        """``(x - location) / spread`` by the group of each row."""
        if self.lazy:
            return self.values.after(ScaleStep(codes, location, spread)).as_dask()
        return center_scale(self.values, codes, location, spread, out=self.target())

    def mapped(self, parts: Sequence[tuple[NDArray | None, NDArray, NDArray]]) -> Any:
        """``(x - mean) @ matrix`` of each part: its rows (None: all), mean and matrix."""
        if self.lazy:
            codes = np.zeros(len(self.values), np.intp)
            for number, (rows, _, _) in enumerate(parts):
                codes[slice(None) if rows is None else rows] = number
            step = AffineStep(codes, [mean for _, mean, _ in parts], [w for _, _, w in parts])
            return self.values.after(step).as_dask()
        out = self.target()
        for rows, mean, matrix in parts:
            apply_whitening(self.values, mean, matrix, out=out, rows=rows)
        return out

    def store(self, array: Any, verb: str, params: Mapping[str, Any]) -> None:
        """Put `array` in its place and note what was done."""
        if self.key_out is None:
            self.adata.X = array
        elif self.adata.obsm.get(self.key_out) is not array:
            self.adata.obsm[self.key_out] = array
        record(self.adata, self.key_out, verb, params, past=self.past)


def open_matrices(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    key_added: str | None,
    verb: str,
    overwrite: bool,
    params: Mapping[str, Any] | None = None,
) -> list[Matrix]:
    """Check every modality's matrix before anything is computed or written.

    With `params`, those that will be noted, a second run that differs may go to another key.
    """
    if key_added is not None:
        check_key(key_added)
    mods = modalities(data)
    return [
        _open(
            adata,
            modality,
            per_modality(use_rep, modality, name="use_rep"),
            key_added,
            verb,
            overwrite,
            params,
            list(_slots(mods)),
        )
        for modality, adata in mods.items()
    ]


def _open(
    adata: AnnData,
    modality: str,
    use_rep: str | None,
    key_added: str | None,
    verb: str,
    overwrite: bool,
    params: Mapping[str, Any] | None,
    slots: list[NDArray],
) -> Matrix:
    key_in = None if use_rep == "X" else use_rep
    key_out = key_in if key_added is None else key_added
    refuse_view(adata, modality=modality)
    values = representation(adata, key_in, modality=modality)
    name = f"{'X' if key_in is None else f'obsm[{key_in!r}]'}{where(modality)}"
    values = as_lazy(values, name)
    if not isinstance(values, np.ndarray) and getattr(values, "sparse", True):
        raise TypeError(
            f"{name} is a {type(values).__name__}; {verb} centres its input, which leaves nothing "
            "sparse. Give a dense representation (an embedding in obsm)."
        )
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} has dtype {values.dtype}; expected numbers.")
    if isinstance(values, np.ndarray):
        check_finite(values, name)  # what is not in memory is looked at as it is read
    other = params if key_out != key_in else None
    refuse_twice(adata, key_in, verb, overwrite=overwrite, other=other)
    if key_out != key_in and key_out in adata.obsm and not overwrite:
        if verb not in recorded(adata, key_out):
            raise ValueError(
                f"obsm[{key_out!r}]{where(modality)} exists and was not written by {verb}; "
                "choose another `key_added`, or pass `overwrite=True`."
            )
    stored = stored_x(adata) if key_in is None else adata.obsm[key_in]
    writable = (
        isinstance(values, np.ndarray)
        and key_out == key_in
        and stored is values
        and values.dtype in (np.float32, np.float64)
        and values.flags.writeable
        and not _is_mapped(values)
        # The same memory in another slot (a raw copy that is none) must not change with it.
        and sum(np.may_share_memory(values, other) for other in slots) == 1
    )
    return Matrix(adata, modality, key_in, key_out, values, writable, recorded(adata, key_in))


def as_lazy(values: Any, name: str) -> Any:
    """An array that is on a disk, or of dask, as the kernels take it; others as they are."""
    if isinstance(values, np.ndarray) or hasattr(values, "tocsr"):
        return values
    from cellfuse.data.lazy import LazyMatrix  # it brings torch

    return LazyMatrix(values, name=name)


def _is_mapped(array: Any) -> bool:
    while array is not None:
        if isinstance(array, np.memmap):
            return True
        array = getattr(array, "base", None)
    return False


def _slots(mods: Mapping[str, AnnData]) -> Iterator[NDArray]:
    for adata in mods.values():
        yield from (
            array
            for array in [stored_x(adata), *adata.obsm.values(), *layers_of(adata).values()]
            if isinstance(array, np.ndarray)
        )
