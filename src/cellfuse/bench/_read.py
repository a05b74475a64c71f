"""A screen, and known pairs, from files."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
from mudata import MuData

from cellfuse._access import has_label
from cellfuse._errors import listing, missing_key
from cellfuse._mudata import columns_stay, make_mudata
from cellfuse.bench._screen import ROLES
from cellfuse.io._hdf5 import check_sparse, inspect, reading
from cellfuse.io._tables import read_table

__all__ = ["read_edges", "read_screen"]


def read_screen(path: str | Path, *, modality: str | None = None) -> MuData:
    """Read a screen from a file.

    Parameters
    ----------
    path
        ``.h5mu``, or ``.h5ad`` for one modality alone.
    modality
        Role of an ``.h5ad``: ``"image"`` or ``"rna"``.

    Returns
    -------
    The MuData.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Another kind of file, a damaged one, or an ``.h5ad`` without `modality`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=2, seed=0)
    >>> file = Path(tempfile.mkdtemp()) / "rna.h5ad"
    >>> mdata["rna"].write_h5ad(file)
    >>> list(cf.bench.read_screen(file, modality="rna").mod)
    ['rna']
    """
    file = Path(path)
    if file.suffix not in (".h5mu", ".h5ad"):
        raise ValueError(f"{str(file)!r} is neither .h5mu nor .h5ad.")
    if not file.is_file():
        near = [p.name for kind in ("*.h5mu", "*.h5ad") for p in sorted(file.parent.glob(kind))]
        raise FileNotFoundError(
            f"there is no file {str(file)!r}; its folder holds {listing(near)} of these kinds."
        )
    if file.suffix == ".h5ad" and modality not in ROLES:
        raise ValueError(
            f"an .h5ad is one modality: say which, 'image' or 'rna' (--modality); found "
            f"{modality!r}."
        )
    if file.suffix == ".h5mu" and modality is not None:
        raise ValueError(
            "`modality` (--modality) is for .h5ad; of an .h5mu name them with `modalities` "
            f"(--modalities {modality}=NAME)."
        )
    with reading(file):
        with h5py.File(file) as opened:
            inspect(opened, file)
        if modality is not None:
            mdata = make_mudata({modality: ad.read_h5ad(file)})
        else:
            with columns_stay():
                mdata = md.read_h5mu(file)
        for adata in mdata.mod.values():
            check_sparse(adata, file)
    return mdata


def read_edges(path: str | Path) -> pd.DataFrame:
    """Read pairs from a table with the columns ``source``, ``target`` and optionally ``score``."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r} (--edges).")
    try:
        edges = read_table(file, numeric=lambda name: name == "score")
    except ValueError as error:
        raise ValueError(f"{str(file)!r} (--edges) is no readable table: {error}") from error
    for column in ("source", "target"):
        if column not in edges:
            raise missing_key(column, list(edges), what=f"the columns of {str(file)!r} (--edges)")
    named = has_label(edges["source"]) & has_label(edges["target"])
    if not named.all():
        raise ValueError(
            f"{int((~named).sum())} of {len(edges)} pairs in {str(file)!r} (--edges) lack a name, "
            f"the first in row {int(np.argmin(named)) + 1}. Take them out."
        )
    if "score" in edges:
        score = pd.to_numeric(edges["score"], errors="coerce")
        if score.isna().any():
            raise ValueError(
                f"{int(score.isna().sum())} of {len(edges)} scores in {str(file)!r} (--edges) are "
                f"no numbers, the first in row {int(np.argmax(score.isna())) + 1}. Take these "
                "pairs out, or the whole column, for pairs that all count."
            )
        edges["score"] = score
    return edges
