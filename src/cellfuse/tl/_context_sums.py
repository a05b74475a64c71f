"""One pass over a modality's cells: features summed by context and by fold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_finite, context_codes, context_labels, is_mudata
from cellfuse._errors import listing, mixed_contexts
from cellfuse.kernels.context_sums import ContextSums

__all__ = ["codes_by_modality", "sums_by_part", "labels_of_contexts", "two_modalities"]

#: Cells read at a time.
BLOCK = 4_096


def codes_by_modality(
    adatas: dict[str, AnnData], by: str | list[str]
) -> tuple[pd.Index, dict[str, NDArray[np.int64]]]:
    """Contexts of all modalities in order, and each cell's number among them."""
    own = {m: context_codes(a, by, modality=m) for m, a in adatas.items()}
    names = pd.Index(sorted(set().union(*(found for _, found in own.values()))), dtype=object)
    of = {m: names.get_indexer(pd.Index(found, dtype=object)) for m, (_, found) in own.items()}
    return names, {m: of[m][codes] for m, (codes, _) in own.items()}


def sums_by_part(
    values: object,
    code: NDArray[np.int64],
    part: NDArray[np.int64],
    *,
    n_contexts: int,
    n_parts: int,
    name: str,
    features: Callable[[NDArray], NDArray] | None = None,
    nuisances: NDArray | None = None,
) -> list[ContextSums]:
    """Sums of each part of the cells, such as folds or halves; cells of part -1 are left out.

    Parameters
    ----------
    values
        Array of the cells, in memory or not, read in blocks.
    code, part
        Context and part of each cell.
    n_contexts, n_parts
        Sizes.
    name
        What the array is called in an error text.
    features
        From a block of cells to features ``(n, d)``; None: the cells as they are.
    nuisances
        ``(n, z)``.
    """
    from cellfuse.data.readers import make_reader  # brings torch

    reader = make_reader(values)
    found: list[ContextSums] = []
    for start in range(0, reader.shape[0], BLOCK):
        rows = np.arange(start, min(start + BLOCK, reader.shape[0]))
        cells: Any = reader.read(rows)
        dense = cells.toarray() if sp.issparse(cells) else np.asarray(cells)
        x = dense if features is None else features(dense)
        check_finite(x, name)
        z = np.empty((len(x), 0), np.float32) if nuisances is None else nuisances[rows]
        if not found:
            shift = np.hstack([z, x]).mean(axis=0, dtype=np.float64).astype(np.float32)
            found = [
                ContextSums(x.shape[1], n_contexts, z.shape[1], shift=shift) for _ in range(n_parts)
            ]
        for number, sums in enumerate(found):
            here = part[rows] == number
            if here.any():
                members = sp.csr_matrix(
                    (np.ones(here.sum(), np.float32), (np.arange(here.sum()), code[rows][here])),
                    shape=(int(here.sum()), n_contexts),
                )
                sums.add(x[here], members, z[here])
    return found


def two_modalities(mdata: MuData, verb: str) -> dict[str, AnnData]:
    """The two modalities of a MuData."""
    if not is_mudata(mdata) or len(mdata.mod) != 2:
        what = listing(mdata.mod) if is_mudata(mdata) else type(mdata).__name__
        raise ValueError(
            f"{verb} compares two modalities of a MuData; found {what}. Take two of them: "
            "`MuData({name: mdata[name] for name in (...)})`."
        )
    return dict(mdata.mod)


def labels_of_contexts(
    adatas: Mapping[str, AnnData],
    codes: Mapping[str, NDArray[np.int64]],
    names: pd.Index,
    *,
    key: str | None,
    name: str,
) -> NDArray | None:
    """Value of an obs column, given as the argument `name`, in each context; None for no column."""
    if key is None:
        return None
    out = np.empty(len(names), object)
    labels = {
        m: context_labels(adata, key, modality=m).to_numpy(str) for m, adata in adatas.items()
    }
    for m, each in labels.items():
        out[codes[m]] = each
    for m, each in labels.items():
        mixed = np.unique(codes[m][out[codes[m]] != each])
        if len(mixed):
            raise mixed_contexts(key, names[mixed], name=name, modality=m)
    return out
