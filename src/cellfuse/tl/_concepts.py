"""Activations of concepts as the tools read them, and the concepts that a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from cellfuse._access import Data, check_finite, check_key, modalities, representation, where
from cellfuse._errors import listing, missing_key

__all__ = ["activations_of", "chosen_concepts", "keep_table", "kept_table", "sparse_of"]

#: Where `Concepts` writes its activations, unless told otherwise.
REP = "X_concepts"


def activations_of(data: Data, use_rep: str) -> dict[str, sparse.csr_matrix]:
    """Activations of every modality as CSR, ``(cells, concepts)``; not negative, of one width."""
    found: dict[str, sparse.csr_matrix] = {}
    for name, adata in modalities(data).items():
        label = f"obsm[{use_rep!r}]{where(name)}"
        matrix = sparse_of(adata, use_rep, modality=name)
        if matrix.nnz and matrix.data.min() < 0:
            raise ValueError(
                f"{label} holds negative values, down to {matrix.data.min():g}: no activations. "
                "`use_rep` names what `Concepts.get_activations` gave, not the embedding."
            )
        found[name] = matrix
    widths = {name: matrix.shape[1] for name, matrix in found.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"the modalities have different numbers of concepts, {widths}: they were not written "
            "by one model."
        )
    return found


def sparse_of(adata: AnnData, use_rep: str, *, modality: str = "") -> sparse.csr_matrix:
    """Activations of one modality as CSR in memory, wherever they lie; NaN is refused."""
    values = representation(adata, use_rep, modality=modality, on_disk=True)
    label = f"obsm[{use_rep!r}]{where(modality)}"
    if isinstance(values, np.ndarray) or hasattr(values, "tocsr"):
        check_finite(values, label)
        return sparse.csr_matrix(values)
    from cellfuse.data.csr import read_csr  # it brings torch

    return read_csr(values, name=label)


def chosen_concepts(
    data: Data, concepts: Sequence[int] | None, n_concepts: int, *, key: str = "multimodal_concepts"
) -> np.ndarray:
    """Numbers of the concepts that are meant: those given, or the multimodal ones in ``.uns``."""
    if concepts is None:
        table = kept_table(data, key, run="cellfuse.tl.multimodal_concepts(mdata)")["table"]
        chosen = np.flatnonzero(table["multimodal"].to_numpy(bool))
        if not len(chosen):
            raise ValueError(
                f"uns[{key!r}] counts no multimodal concept; name the concepts with `concepts`."
            )
    else:
        chosen = np.asarray(concepts)
        if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind not in "iu":
            raise ValueError(f"concepts={concepts!r}: expected numbers of concepts, at least one.")
        if len(np.unique(chosen)) < len(chosen):
            raise ValueError("`concepts` names a concept twice.")
    outside = chosen[(chosen < 0) | (chosen >= n_concepts)]
    if len(outside):
        raise ValueError(
            f"there is no concept {listing(outside)}: they are numbered 0 to {n_concepts - 1}."
        )
    return chosen.astype(np.int64)


def keep_table(data: Data, key: str, tables: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    """Note tables and parameters in ``.uns[key]``, in forms that a file can hold."""
    data.uns[check_key(key)] = {
        **{
            name: table.copy() if isinstance(table, pd.DataFrame) else table
            for name, table in tables.items()
        },
        "params": {name: value for name, value in params.items() if value is not None},
    }


def kept_table(data: Data, key: str, *, run: str) -> Mapping[str, Any]:
    """What a tool kept in ``.uns[key]``; where it is not, the error says which tool to run."""
    if key not in data.uns:
        raise missing_key(key, list(data.uns), what="uns", fix=f"Run `{run}` first.")
    return data.uns[key]


def one_modality(data: Data, name: str) -> AnnData:
    """One modality by its name."""
    mods = modalities(data)
    if name not in mods:
        raise missing_key(name, list(mods), what="the MuData's modalities")
    return mods[name]
