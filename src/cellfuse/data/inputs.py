"""Which array of a modality a model reads, what a cell of it is, and whether it may be read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import layers_of, stored_x, where
from cellfuse._errors import listing, missing_key
from cellfuse.data.readers import ColumnReader, Reader, make_reader

__all__ = ["CellInput", "check_values", "statistics"]

#: Cells looked at for the mean and standard deviation of a modality.
MAX_STATISTICS_CELLS = 50_000
#: Blocks that are read of an array on a disk; measured to give the mean to .1 of a grey level.
MIN_STATISTICS_BLOCKS = 220
#: Bytes read at a time when a whole array is gone through.
SWEEP_BYTES = 1 << 26
#: Width up to which images of unnamed channels look as if these came last.
MAX_LAST_CHANNELS = 8


@dataclass(frozen=True)
class CellInput:
    """One modality as a model reads it; plain values, so that it is saved as JSON.

    Parameters
    ----------
    role
        Name of the modality in the model.
    modality
        Name of the modality in the MuData.
    place, key
        ``"obsm"`` with its key, ``"layers"`` with its key, or ``"X"``.
    kind
        ``"pixels"``, ``"tokens"``, ``"values"`` or ``"counts"``.
    shape
        Shape of one cell.
    names
        Genes (X and layers) or channels (pixels, where ``.uns["channels"]`` names them).

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from cellfuse.data import CellInput
    >>> adata = ad.AnnData(np.ones((3, 2), dtype=np.float32))
    >>> found = CellInput.resolve(adata, role="rna", modality="rna", rep=None, counts=True)
    >>> found.kind, found.shape
    ('counts', (2,))
    """

    role: str
    modality: str
    place: str
    key: str | None
    kind: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None = None

    @classmethod
    def resolve(
        cls,
        adata: AnnData,
        *,
        role: str,
        modality: str,
        rep: str | None,
        layer: str | None = None,
        counts: bool = False,
    ) -> CellInput:
        """Find what `rep` (an obsm key; None: X or `layer`) holds for each cell.

        Raises
        ------
        KeyError
            The key is absent.
        ValueError
            No cells, no such shape, or names of genes that repeat.
        """
        if adata.n_obs == 0:
            raise ValueError(f"modality {modality!r} has no cells.")
        if rep is not None:
            if rep not in adata.obsm:
                raise missing_key(rep, list(adata.obsm), what=f"obsm{where(modality)}")
            place, key, array = "obsm", rep, adata.obsm[rep]
        elif layer is not None:
            if layer not in adata.layers:
                raise missing_key(layer, list(layers_of(adata)), what=f"layers{where(modality)}")
            place, key, array = "layers", layer, adata.layers[layer]
        else:
            place, key, array = "X", None, stored_x(adata)
            if array is None or adata.n_vars == 0:
                raise ValueError(
                    f"X{where(modality)} is empty; name the obsm key to read "
                    f"(there are {listing(adata.obsm)})."
                )
        shape = tuple(int(side) for side in array.shape[1:])
        kinds = {1: "counts" if counts and place != "obsm" else "values", 2: "tokens", 3: "pixels"}
        if len(shape) not in kinds:
            raise ValueError(
                f"{place} {key!r}{where(modality)} has shape {tuple(array.shape)}; expected "
                "(cells, features), (cells, tokens, width) or (cells, channels, height, width)."
            )
        kind = kinds[len(shape)]
        names: tuple[str, ...] | None = None
        if place != "obsm":
            _check_unique_genes(adata, modality)
            names = tuple(map(str, adata.var_names))
        elif kind == "pixels":
            label = f"obsm[{key!r}]{where(modality)}"
            names = _channel_names(adata, shape, label)
        return cls(role, modality, place, key, kind, shape, names)

    @property
    def label(self) -> str:
        """How an error text names the array."""
        inside = self.place if self.key is None else f"{self.place}[{self.key!r}]"
        return f"{inside}{where(self.modality)}"

    def reader(self, adata: AnnData) -> Reader:
        """Reader of this input in `adata`, which may be other data than was trained on.

        Raises
        ------
        KeyError
            The key or some genes are missing.
        ValueError
            Another number of channels, features or pixels, or other channels.
        """
        if self.place == "obsm":
            if self.key not in adata.obsm:
                raise missing_key(self.key, list(adata.obsm), what=f"obsm{where(self.modality)}")
            reader = make_reader(adata.obsm[self.key])
            self._check_shape(reader.shape[1:], adata)
            return reader
        if self.place == "layers" and self.key not in adata.layers:
            raise missing_key(
                self.key, list(layers_of(adata)), what=f"layers{where(self.modality)}"
            )
        reader = make_reader(adata.X if self.place == "X" else adata.layers[self.key])
        names = list(self.names or ())
        if list(map(str, adata.var_names)) == names:
            return reader
        _check_unique_genes(adata, self.modality)
        columns = adata.var_names.get_indexer(names)
        missing = [name for name, column in zip(names, columns, strict=True) if column < 0]
        if missing:
            raise missing_key(
                missing[0],
                list(adata.var_names),
                what=f"var_names{where(self.modality)}",
                fix=f"{len(missing)} of the {len(names)} genes the model was trained on are "
                f"missing: {listing(missing)}.",
            )
        return ColumnReader(reader, columns.astype(np.int64))

    def _check_shape(self, shape: tuple[int, ...], adata: AnnData) -> None:
        if self.kind == "pixels" and len(shape) == 3 and shape[0] != self.shape[0]:
            raise ValueError(
                f"{self.label} has {shape[0]} channels; the model was trained on "
                f"{self.shape[0]}{f' ({listing(self.names)})' if self.names else ''}."
            )
        if tuple(shape) != self.shape:
            raise ValueError(
                f"{self.label} has cells of shape {tuple(shape)}; the model was trained on "
                f"{self.shape}."
            )
        found = tuple(map(str, adata.uns.get("channels", ())))
        if self.kind == "pixels" and self.names and found and found != self.names:
            raise ValueError(
                f"{self.label} has channels {listing(found)}; the model was trained on "
                f"{listing(self.names)}, in that order."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> CellInput:
        """Read what :meth:`to_json` gave."""
        names = fields["names"]
        return cls(
            **{**fields, "shape": tuple(fields["shape"]), "names": tuple(names) if names else None}
        )


def _channel_names(adata: AnnData, shape: tuple[int, ...], label: str) -> tuple[str, ...] | None:
    """Names of the channels; images with the channels last, or masks among them, are refused."""
    names = tuple(map(str, adata.uns.get("channels", ())))
    last = len(names) == shape[2] if names else shape[2] <= MAX_LAST_CHANNELS < min(shape[:2])
    if last and shape[0] != shape[2]:
        raise ValueError(
            f"{label} has cells of shape {shape}, the channels"
            f"{f' ({listing(names)})' if names else ''} last; expected (channels, height, width): "
            "`np.moveaxis(crops, -1, 1)` puts them first."
        )
    is_mask = np.asarray(adata.uns.get("is_mask", ()), dtype=bool)
    if len(names) == shape[0] == len(is_mask) and is_mask.any():
        kept = [name for name, mask in zip(names, is_mask, strict=True) if not mask]
        raise ValueError(
            f"{label} holds masks among its channels ({listing(np.array(names)[is_mask])}), which "
            f"are no images: read the others, `cellfuse.io.read_crops(path, channels={kept})`."
        )
    return names if len(names) == shape[0] else None


def _check_unique_genes(adata: AnnData, modality: str) -> None:
    if not adata.var_names.is_unique:
        double = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"var_names{where(modality)} repeat: {listing(double)}; "
            "`adata.var_names_make_unique()` mends it."
        )


def _sweep(reader: Reader, rows: NDArray[np.int64] | None = None) -> Any:
    """Go through (some) rows in pieces of a bounded number of bytes, each block once."""
    rows = np.arange(reader.shape[0]) if rows is None else rows
    if reader.block_size > 1:
        rows = rows[np.argsort(reader.block_of(rows), kind="stable")]
    row_bytes = max(1, int(np.prod(reader.shape[1:], dtype=np.int64)) * reader.dtype.itemsize)
    step = max(reader.block_size, SWEEP_BYTES // row_bytes)
    for start in range(0, len(rows), step):
        part = np.sort(rows[start : start + step])
        yield part, reader.read(part)


def _sampled(reader: Reader, rows: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows to look at: whole blocks of an array on a disk, as one row costs as much as its block.

    As many cells as of an array in memory, but of at least `MIN_STATISTICS_BLOCKS`: neighbours are
    alike where they share a context, or a field of view.
    """
    if len(rows) <= MAX_STATISTICS_CELLS:
        return rows
    rng = np.random.default_rng(seed)
    if reader.block_size == 1:
        return np.sort(rng.choice(rows, MAX_STATISTICS_CELLS, replace=False))
    blocks = reader.block_of(rows)
    numbers, counts = np.unique(blocks, return_counts=True)
    order = rng.permutation(len(numbers))
    enough = int(np.searchsorted(np.cumsum(counts[order]), MAX_STATISTICS_CELLS)) + 1
    chosen = numbers[order[: max(enough, MIN_STATISTICS_BLOCKS)]]
    return rows[np.isin(blocks, chosen)]


def check_values(reader: Reader, kind: str, label: str, *, names: pd.Index | None = None) -> None:
    """Refuse NaN and infinite values, and what is no count where counts are needed.

    Parameters
    ----------
    reader
        What is read, a bounded number of bytes at a time.
    kind
        ``"pixels"``, ``"tokens"``, ``"values"`` or ``"counts"``.
    label
        What the error calls the array.
    names
        Names of the rows, of which the error gives the first ones that are concerned.

    Raises
    ------
    ValueError
        A value is NaN or infinite; with ``"counts"`` also one below 0 or no whole number.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import check_values, make_reader
    >>> check_values(make_reader(np.array([[0.0, 3.0]])), "counts", "X")
    """
    if kind != "counts" and reader.dtype.kind in "bui":
        return
    inner = reader.reader if isinstance(reader, ColumnReader) else reader
    finite, counts = getattr(inner, "checked", (False, False))
    if counts if kind == "counts" else finite:
        return  # seen when the store was written
    for rows, values in _sweep(reader):
        flat = values.data if sp.issparse(values) else values
        with np.errstate(over="ignore", invalid="ignore"):
            clean = np.isfinite(np.sum(flat, dtype=np.float64))
        # A sum is finite when every element is; one that is not may also have run over.
        bad = 0 if clean else int((~np.isfinite(flat)).sum())
        if bad:
            wrong = rows[_rows_that_are_not_finite(values)]
            which = f"rows {listing(wrong, 4)}" if names is None else listing(names[wrong], 4)
            raise ValueError(
                f"{label} holds {bad} NaN or infinite values between rows {rows[0]} and "
                f"{rows[-1]}, in {which}. Remove those cells or fill the values in."
            )
        if kind == "counts" and (np.any(flat < 0) or np.any(flat != np.floor(flat))):
            example = flat[(flat < 0) | (flat != np.floor(flat))].ravel()[0]
            raise ValueError(
                f"{label} must hold counts, whole numbers from 0; found {example:g}. Name the "
                "layer of raw counts with `rna_layer`, or use rna_likelihood='mse' for normalised "
                "values."
            )


def _rows_that_are_not_finite(values: Any) -> NDArray[np.int64]:
    if sp.issparse(values):
        return np.unique(values.tocoo().row[~np.isfinite(values.tocoo().data)])
    wrong = ~np.isfinite(values)
    return np.flatnonzero(wrong.any(axis=tuple(range(1, wrong.ndim))))


def statistics(
    reader: Reader, kind: str, rows: NDArray[np.int64], *, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation per channel (pixels), token dimension or feature.

    About 50,000 of `rows`, drawn with `seed`, are read where there are more; of an array on a disk
    whole blocks, at least 220.

    Parameters
    ----------
    reader
        What is read, ``(n, ...)``.
    kind
        ``"pixels"``, ``"tokens"``, ``"values"`` or ``"counts"``.
    rows
        Row numbers, those of the training cells.
    seed
        Seed of the choice where there are more.

    Returns
    -------
    Means and standard deviations (divided by n; 0 where constant), float64: ``(C,)`` for pixels,
    ``(D,)`` for tokens, ``(features,)`` else.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.data import make_reader, statistics
    >>> mean, sd = statistics(make_reader(np.array([[1.0], [3.0]])), "values", np.arange(2), seed=0)
    >>> mean.tolist(), sd.tolist()
    ([2.0], [1.0])
    """
    rows = _sampled(reader, rows, seed)
    axes = {"pixels": (0, 2, 3), "tokens": (0, 1)}.get(kind, (0,))
    total: Any = 0.0
    squares: Any = 0.0
    n = 0
    for _, values in _sweep(reader, rows):
        block = values.toarray() if sp.issparse(values) else np.asarray(values)
        if n == 0:
            # Shifted by the first block's mean: no cancellation when the mean is far from 0.
            shift = block.mean(axis=axes, dtype=np.float64, keepdims=True)
        centred = block - shift
        total = total + centred.sum(axis=axes)
        squares = squares + np.square(centred).sum(axis=axes)
        n += block.size // total.size
    variance = np.maximum(squares / n - (total / n) ** 2, 0)
    mean = shift.reshape(total.shape) + total / n
    # What is constant but for rounding has no scale.
    sd = np.where(variance > 1e-24 * mean**2, np.sqrt(variance), 0.0)
    return mean, sd
