"""Whether known relationships stand in the tails of all similarities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_finite, obs_column, profiles_only, representation
from cellfuse._errors import listing, missing_key
from cellfuse.kernels.cosine import unit_rows
from cellfuse.tl._labels import control_rows

__all__ = ["relationship_recall"]

#: With fewer profiles the tails hold too few pairs to mean anything (EFAAR's limit).
MIN_GENES = 20
#: Decimals of a cosine: below this, rounding would break ties by the order of the input.
DECIMALS = 12


def relationship_recall(
    profiles: AnnData,
    pairs: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    tails: tuple[float, float] = (0.05, 0.95),
    gene_key: str | None = None,
    control: str | list[str] | None = None,
    use_rep: str | None = None,
) -> pd.DataFrame:
    """Share of known pairs among the most or the least similar pairs of the map.

    The null are the cosines of all pairs of profiles, known ones included. A known pair is
    recalled when its cosine lies in the lower or in the upper tail of the null. A random map gives
    the two tails' share, .10 at the default (EFAAR's definition and default).

    Parameters
    ----------
    profiles
        One row per gene (or compound).
    pairs
        Columns ``source`` and ``target``; a dict of several such tables by name is scored on one
        null. Direction, pairs of a gene with itself, repeats, and pairs with an end outside the
        map do not count.
    tails
        Lower and upper quantile.
    gene_key
        obs column with the genes; None is obs_names.
    control
        Labels to leave out of map and null.
    use_rep
        obsm key; None is X.

    Returns
    -------
    One row per table of pairs: ``recall``, ``recall_low`` and ``recall_high`` (the tails' parts),
    ``chance``, ``n_pairs``, ``n_genes``. Kept in ``profiles.uns["relationship_recall"]``.

    Raises
    ------
    KeyError
        A column or label is missing.
    ValueError
        Tails out of range, genes with several profiles, fewer than 20 genes, no usable pair.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.random.default_rng(0).normal(size=(30, 8))
    >>> x[1] = x[0]
    >>> genes = ad.AnnData(x, obs=pd.DataFrame(index=[f"g{i}" for i in range(30)]))
    >>> pairs = pd.DataFrame({"source": ["g0"], "target": ["g1"]})
    >>> float(cf.tl.relationship_recall(genes, pairs)["recall"].iloc[0])
    1.0
    """
    profiles = profiles_only(profiles)
    low, high = tails
    if not 0 <= low < high <= 1:
        raise ValueError(f"tails={tails}: expected two quantiles, 0 <= lower < upper <= 1.")
    names = (
        profiles.obs_names if gene_key is None else pd.Index(obs_column(profiles, gene_key))
    ).astype(str)
    values = representation(profiles, use_rep)
    check_finite(values, "X" if use_rep is None else f"obsm[{use_rep!r}]")
    if control is not None:
        keep = ~control_rows(names.to_numpy(str), control)
        names, values = names[keep], values[keep]
    double = names[names.duplicated()].unique()
    if len(double):
        raise ValueError(
            f"{len(double)} genes have several profiles: {listing(double)}. Aggregate to one row "
            "per gene with `cf.tl.aggregate`."
        )
    if len(names) < MIN_GENES:
        raise ValueError(
            f"{len(names)} profiles are too few for tails of all pairs; at least {MIN_GENES}."
        )
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    units = unit_rows(dense)
    null = _all_cosines(units)
    tables = {"pairs": pairs} if isinstance(pairs, pd.DataFrame) else dict(pairs)
    rows = {name: _recall(units, names, table, null, tails, name) for name, table in tables.items()}
    found = pd.DataFrame(rows).T.astype({"n_pairs": int, "n_genes": int})
    found.index.name = "source"
    profiles.uns["relationship_recall"] = {
        "table": found.copy(),
        "params": {"tails": np.array(tails), "use_rep": use_rep or "X"},
    }
    return found


def _all_cosines(units: NDArray) -> NDArray:
    """Sorted cosines of all pairs, written row by row: never the square matrix."""
    n = len(units)
    null = np.empty(n * (n - 1) // 2)
    end = 0
    for row in range(n - 1):
        start, end = end, end + n - 1 - row
        np.dot(units[row + 1 :], units[row], out=null[start:end])
    np.round(null, DECIMALS, out=null)
    null.sort()
    return null


def _recall(
    units: NDArray,
    names: pd.Index,
    pairs: pd.DataFrame,
    null: NDArray,
    tails: tuple[float, float],
    table: str,
) -> dict[str, Any]:
    for column in ("source", "target"):
        if column not in pairs.columns:
            raise missing_key(column, list(pairs.columns), what=f"the columns of {table!r}")
    ends = np.stack(
        [names.get_indexer(pd.Index(pairs[c].astype(str))) for c in ("source", "target")]
    )
    inside = (ends >= 0).all(axis=0) & (ends[0] != ends[1])
    both = np.unique(np.sort(ends[:, inside], axis=0), axis=1)
    if not both.size:
        raise ValueError(
            f"no pair of {table!r} joins two of the {len(names)} profiles: its names are like "
            f"{listing(pairs['source'].astype(str).unique(), 3)}, the profiles' like "
            f"{listing(names, 3)}."
        )
    cosine = np.round(np.einsum("ij,ij->i", units[both[0]], units[both[1]]), DECIMALS)
    left = np.searchsorted(null, cosine, side="left") / len(null)
    right = np.searchsorted(null, cosine, side="right") / len(null)
    lower, upper = right <= tails[0], left >= tails[1]
    return {
        "recall": float((lower | upper).mean()),
        "recall_low": float(lower.mean()),
        "recall_high": float(upper.mean()),
        "chance": tails[0] + 1 - tails[1],
        "n_pairs": both.shape[1],
        "n_genes": len(names),
    }
