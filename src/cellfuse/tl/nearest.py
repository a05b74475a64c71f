"""What a perturbation looks like: the profiles most similar to its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_key, label_list, profile_labels, profiles_only
from cellfuse._counts import whole_counts
from cellfuse._errors import missing_key
from cellfuse.kernels.nulls import empirical_pvalue
from cellfuse.tl._labels import control_rows
from cellfuse.tl._similarity import Similarity, similarity_of, source_name

__all__ = ["nearest_perturbations"]

logger = logging.getLogger("cellfuse")

#: Rows of the similarity matrix that exist at a time.
ROWS = 256
#: Pairs that the null is made of, where there are more.
NULL_PAIRS = 1_000_000


@whole_counts
def nearest_perturbations(
    profiles: AnnData,
    names: str | Sequence[str] | None = None,
    *,
    k: int = 10,
    control: str | list[str] | None = None,
    use_rep: str | None = None,
    use_sim: str | None = None,
    key_added: str = "nearest_perturbations",
    seed: int = 0,
) -> pd.DataFrame:
    """Name the perturbations whose profiles are most similar.

    Beside each cosine stands how unusual it is: the share of all pairs of the map that are as
    similar, ``(b + 1) / (B + 1)``. It is not corrected for the number of pairs looked at.

    Parameters
    ----------
    profiles
        One row per perturbation (see :func:`aggregate`), named by its obs name.
    names
        Perturbations to ask for; None: all.
    k
        Neighbours of each.
    control
        Label or labels to leave out, as queries and as neighbours.
    use_rep
        obsm key; None is ``X``.
    use_sim
        obsp key of a matrix of similarities (see :func:`late_fusion`) to use instead of cosines.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Of the pairs that are drawn where the map has more than a million.

    Returns
    -------
    One row per query and neighbour: ``perturbation``, ``neighbour``, ``rank`` (1 is the nearest),
    ``similarity``, ``pvalue``. Kept in ``.uns[key_added]``.

    Raises
    ------
    KeyError
        No such perturbation, control or representation.
    ValueError
        NaN or infinite values, a profile of zeros, repeated names, or `k` out of range.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    >>> genes = ad.AnnData(x, obs=pd.DataFrame(index=["A", "B", "C", "D"]))
    >>> cf.tl.nearest_perturbations(genes, "A", k=2)["neighbour"].tolist()
    ['B', 'C']
    """
    profiles = profiles_only(profiles)
    check_key(key_added)
    every = profile_labels(profiles, None)
    if len(np.unique(every)) < len(every):
        raise ValueError(
            "names of perturbations occur twice: aggregate to one row each (`cf.tl.aggregate`)."
        )
    rows = np.arange(len(every))
    if control is not None:
        rows = rows[~control_rows(every, control)]
    kept = every[rows]
    if not 1 <= k < len(kept):
        raise ValueError(f"k={k}: expected 1 to {len(kept) - 1}, with {len(kept)} perturbations.")
    asked = list(kept) if names is None else label_list(names)
    place = {name: number for number, name in enumerate(kept)}
    for name in asked:
        if name not in place:
            raise missing_key(name, kept.tolist(), what="the perturbations")
    similarity = similarity_of(profiles, use_rep=use_rep, use_sim=use_sim, rows=rows)
    null = _null(similarity, seed)
    queries = np.array([place[name] for name in asked])
    parts = []
    for start in range(0, len(queries), ROWS):
        some = queries[start : start + ROWS]
        block = similarity.between(some, np.arange(len(kept)))
        block[np.arange(len(some)), some] = -np.inf
        # Of equally near ones the first by name, whatever the order of the rows.
        order = np.lexsort((np.broadcast_to(kept, block.shape), -np.round(block, 12)), axis=1)
        near = order[:, :k]
        value = np.take_along_axis(block, near, axis=1)
        parts.append(
            pd.DataFrame(
                {
                    "perturbation": np.repeat(kept[some], k).astype(object),
                    "neighbour": kept[near].ravel().astype(object),
                    "rank": np.tile(np.arange(1, k + 1), len(some)),
                    "similarity": value.ravel(),
                    "pvalue": empirical_pvalue(value.ravel(), null),
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    params = {"k": k, "use_rep": source_name(use_rep, use_sim), "seed": seed}
    profiles.uns[key_added] = {"table": table.copy(), "params": params}
    return table


def _null(similarity: Similarity, seed: int) -> NDArray:
    """Similarities of all pairs, or of so many drawn ones, in order."""
    n = len(similarity)
    if n * (n - 1) // 2 <= NULL_PAIRS:
        first, second = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng(seed)
        first = rng.integers(n, size=NULL_PAIRS)
        second = (first + rng.integers(1, n, size=NULL_PAIRS)) % n
    return np.sort(similarity.pairs(first, second))
