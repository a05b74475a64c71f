"""Which guide each cell got, from a matrix of assignments."""

from __future__ import annotations

import logging
import re
import warnings
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from cellfuse._access import check_key, check_rows, stored_x, text_of
from cellfuse._errors import listing, missing_key

__all__ = ["guides_from_matrix"]

logger = logging.getLogger("cellfuse")

Multiple: TypeAlias = Literal["drop", "combine", "deal"]
#: What stands between the guides of a combination.
PLUS = "+"
#: obs column of how many guides a cell has.
N_GUIDES = "n_guides"


def guides_from_matrix(
    adata: AnnData,
    guides: str | AnnData | pd.DataFrame,
    *,
    multiple: Multiple = "drop",
    min_count: float = 1,
    key_added: str = "guide",
    unassigned: Literal["keep", "drop"] = "keep",
) -> AnnData:
    """Give each cell its guide, from a matrix of cells x guides.

    Parameters
    ----------
    adata
        Cells. It is not changed.
    guides
        The matrix: counts, or 0 and 1 of an assignment that was made before (crispat, CellRanger,
        mixtures). A data frame or an AnnData, whose cells are found by their names, in any order,
        or an obsm key of `adata`; as a bare array its guides are called by their number.
    multiple
        What becomes of a cell with several guides: ``"drop"`` it; ``"combine"``: its guide is
        ``A+B``, in one order whatever the matrix has; ``"deal"``: it stands in the result once for
        each, with a warning, since scores that take cells for independent do not know of it.
    min_count
        Value from which on a cell has a guide; 1 takes every count.
    key_added
        obs column that gets the guide.
    unassigned
        Cells without a guide: ``"keep"`` them, their guide missing, or ``"drop"`` them.

    Returns
    -------
    AnnData
        Copy of the cells that are kept, with ``obs[key_added]``, and ``obs["n_guides"]``, how many
        the cell has. Cells that were dealt out are called ``cell-A`` and ``cell-B``.

    Raises
    ------
    KeyError
        The obsm key is absent.
    ValueError
        Cells are missing in the matrix, a cell or guide stands twice, values are NaN or negative, a
        name holds a ``+`` where guides are combined, or no cell is left.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> cells = ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=["x", "y", "z"]))
    >>> calls = pd.DataFrame({"B": [1, 0, 1], "A": [0, 1, 1]}, index=["x", "y", "z"])
    >>> cf.io.guides_from_matrix(cells, calls, multiple="combine").obs["guide"].tolist()
    ['B', 'A', 'A+B']
    """
    if multiple not in get_args(Multiple) or unassigned not in ("keep", "drop"):
        raise ValueError(
            f"expected multiple among {listing(get_args(Multiple))} and unassigned 'keep' or "
            f"'drop'; found {multiple!r} and {unassigned!r}."
        )
    if not min_count > 0:
        raise ValueError(f"min_count={min_count}: expected a number above 0.")
    check_key(key_added)
    if key_added == N_GUIDES:
        raise ValueError(f"key_added={N_GUIDES!r} is the column of how many guides a cell has.")
    matrix, names = _matrix(adata, guides)
    calls = sparse.csr_array(matrix >= min_count)
    calls.eliminate_zeros()
    calls.sort_indices()
    counts = np.diff(calls.indptr)
    rows, labels = _assigned(calls, counts, names, multiple)
    if unassigned == "keep":
        free = np.flatnonzero(counts == 0)
        rows = np.concatenate([rows, free])
        labels = np.concatenate([labels, np.full(len(free), np.nan, dtype=object)])
    order = np.argsort(rows, kind="stable")
    rows, labels = rows[order], labels[order]
    if not len(rows):
        raise ValueError(f"no cell of {adata.n_obs} is left: {_summary(counts)}.")
    once = len(np.unique(rows)) == len(rows)
    check_rows(adata)
    out = adata[rows].copy() if once else _repeated(adata, rows, labels)
    out.obs[key_added] = pd.Categorical(labels)
    out.obs[N_GUIDES] = counts[rows]
    logger.info("guides_from_matrix: %d of %d cells; %s.", len(rows), adata.n_obs, _summary(counts))
    return out


def _summary(counts: NDArray[np.int64]) -> str:
    none, one = int((counts == 0).sum()), int((counts == 1).sum())
    more = len(counts) - none - one
    return f"{none} have no guide, {one} have one, {more} several"


def _matrix(adata: AnnData, guides: str | AnnData | pd.DataFrame) -> tuple[Any, list[str]]:
    """(cells, guides) in the order of the cells, sparse or dense, and the names of the guides."""
    if isinstance(guides, str):
        if guides not in adata.obsm:
            raise missing_key(guides, list(adata.obsm), what="obsm")
        stored = adata.obsm[guides]
        if not isinstance(stored, pd.DataFrame):
            values = stored if sparse.issparse(stored) else np.asarray(stored)
            return _checked(values), [str(i) for i in range(values.shape[1])]
        guides = stored
    if isinstance(guides, AnnData):
        values = stored_x(guides)
        if values is None:
            raise ValueError("the AnnData of guides has no X, in which their counts are expected.")
        cells, names = guides.obs_names, guides.var_names
    elif isinstance(guides, pd.DataFrame):
        cells, names, values = guides.index.astype(str), guides.columns, _numbers(guides)
    else:
        raise TypeError(
            f"`guides` is a {type(guides).__name__}; expected an obsm key, a data frame or an "
            "AnnData, which name their cells and guides."
        )
    for what, index in (("cells", cells), ("guides", names)):
        if not index.is_unique:
            raise ValueError(
                f"{what} stand twice in the matrix: {listing(index[index.duplicated()].unique())}."
            )
    rows = cells.get_indexer(adata.obs_names)
    if (rows < 0).any():
        raise ValueError(
            f"{int((rows < 0).sum())} of {adata.n_obs} cells are not in the matrix: "
            f"{listing(adata.obs_names[rows < 0], 4)}; its cells are called like "
            f"{listing(cells, 3)}."
        )
    matrix: Any = sparse.csr_array(values) if sparse.issparse(values) else np.asarray(values)
    return _checked(matrix[rows]), _named(names)


def _named(names: pd.Index) -> list[str]:
    """Guides by the one rule for labels; one without a name would be no guide."""
    nameless = [place for place, name in enumerate(names) if pd.isna(name) or name == ""]
    if nameless:
        raise ValueError(
            f"{len(nameless)} of {len(names)} guides of the matrix have no name, such as that in "
            f"column {nameless[0]} (from 0). Name them, or leave their columns out."
        )
    texts = [text_of(name) for name in names]
    if len(set(texts)) < len(texts):
        twice = [text for text in dict.fromkeys(texts) if texts.count(text) > 1]
        raise ValueError(
            f"guides of the matrix are one label in several columns: {listing(twice, 4)} (7157 and "
            "7157.0 are the same). Add their columns up, or rename them."
        )
    return texts


def _numbers(guides: pd.DataFrame) -> NDArray:
    """Counts of a data frame as numpy has them: nullable integers and booleans are no text."""
    guides = guides.infer_objects()
    if all(pd.api.types.is_numeric_dtype(kind) for kind in guides.dtypes):  # bool is as well
        return guides.to_numpy(dtype=np.float64, na_value=np.nan)
    return guides.to_numpy()


def _checked(values: Any) -> Any:
    data = values.data if sparse.issparse(values) else values
    if data.dtype == object or not (data >= 0).all():  # NaN is not either
        raise ValueError("the matrix of guides holds NaN, negative values or text; give counts.")
    return values


def _assigned(
    calls: sparse.csr_array, counts: NDArray[np.int64], names: list[str], multiple: Multiple
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Row and guide of each cell that has one; of a cell with several what `multiple` says."""
    label = np.array(names, dtype=object)
    several = np.flatnonzero(counts > 1)
    if multiple == "deal":
        if len(several):
            warnings.warn(
                f"{len(several)} cells with several guides stand once for each of them: scores "
                "that take cells for independent, and splits by cell, do not know of it.",
                UserWarning,
                stacklevel=3,
            )
        return np.repeat(np.arange(len(counts)), counts), label[calls.indices]
    one = np.flatnonzero(counts == 1)
    labels = label[calls.indices[calls.indptr[one]]]
    if multiple == "drop":
        return one, labels
    joined = [name for name in names if PLUS in name]
    if joined:
        raise ValueError(
            f"names of guides hold a {PLUS!r}, which stands between those of a combination: "
            f"{listing(joined, 4)}. Rename them."
        )
    rank = np.empty(len(names), dtype=np.int64)
    rank[sorted(range(len(names)), key=lambda i: _natural(names[i]))] = np.arange(len(names))
    combined = np.empty(len(several), dtype=object)
    for place, row in enumerate(several):
        found = calls.indices[calls.indptr[row] : calls.indptr[row + 1]]
        combined[place] = PLUS.join(label[found[np.argsort(rank[found])]])
    return np.concatenate([one, several]), np.concatenate([labels, combined])


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Guide 2 comes before guide 10."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def _repeated(adata: AnnData, rows: NDArray[np.int64], labels: NDArray[Any]) -> AnnData:
    """Cells that stand more than once, named by their guide."""
    n_times = np.bincount(rows, minlength=adata.n_obs)[rows]
    names = adata.obs_names.to_numpy(dtype=object)[rows]
    new = [f"{n}-{g}" if k > 1 else n for n, g, k in zip(names, labels, n_times, strict=True)]
    obs = adata.obs.iloc[rows].copy()
    obs.index = pd.Index(new)
    if adata.obs_names.is_unique and not obs.index.is_unique:
        twice = listing(obs.index[obs.index.duplicated()].unique(), 4)
        raise ValueError(
            f"cells that are dealt out would be called like others: {twice}. Rename the cells."
        )
    return AnnData(
        None if stored_x(adata) is None else adata.X[rows],
        obs=obs,
        var=adata.var.copy(),
        uns=dict(adata.uns),
        obsm={key: _taken(values, rows, obs.index) for key, values in adata.obsm.items()},
        # anndata 0.13 has X among the layers, under None.
        layers={key: adata.layers[key][rows] for key in adata.layers if key is not None},
        varm=dict(adata.varm),
    )


def _taken(values: Any, rows: NDArray[np.int64], names: pd.Index) -> Any:
    return values.iloc[rows].set_axis(names) if isinstance(values, pd.DataFrame) else values[rows]
