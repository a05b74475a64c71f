"""Whether known relationships stand in the tails of all similarities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_key, pair_labels, profile_labels, profiles_only
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse.kernels.bootstrap import draw_nodes, interval, pair_means
from cellfuse.kernels.quantiles import N_PILOT, count_at_least, count_at_most, order_statistics
from cellfuse.tl._labels import control_rows
from cellfuse.tl._similarity import Similarity, similarity_of, source_name

__all__ = ["relationship_recall"]

#: With fewer profiles the tails hold too few pairs to mean anything (EFAAR's limit).
MIN_GENES = 20
#: Rows of the similarity matrix that exist at a time.
ROWS = 256


@dataclass(frozen=True)
class _Pairs:
    """The known pairs of one table that are in the map, each once."""

    first: NDArray  # numbers into the map's names
    second: NDArray
    cosine: NDArray
    lower: NDArray
    upper: NDArray


@whole_counts
def relationship_recall(
    profiles: AnnData,
    pairs: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    tails: tuple[float, float] = (0.05, 0.95),
    gene_key: str | None = None,
    control: str | list[str] | None = None,
    use_rep: str | None = None,
    use_sim: str | None = None,
    per_pair: bool = False,
    n_boot: int = 1000,
    key_added: str = "relationship_recall",
    seed: int = 0,
) -> pd.DataFrame:
    """Share of known pairs among the most or the least similar pairs of the map.

    The null are the cosines of all pairs of profiles, known ones included. A known pair is
    recalled when its cosine lies in the lower or in the upper tail of the null. A random map gives
    the two tails' share, .10 at the default (EFAAR's definition and default).

    All similarities are looked at, in blocks, and none is kept: 20,000 genes need no more memory
    than their profiles.

    Parameters
    ----------
    profiles
        One row per gene (or compound).
    pairs
        Columns ``source`` and ``target``; a dict of several such tables by name is scored on one
        null. The classes of one table, such as pathways, make such a dict:
        ``dict(iter(pairs.groupby("pathway")))``. Direction, pairs of a gene with itself, repeats,
        and pairs with an end outside the map do not count.
    tails
        Lower and upper quantile.
    gene_key
        obs column with the genes; None is obs_names.
    control
        Labels to leave out of map and null.
    use_rep
        obsm key; None is X.
    use_sim
        obsp key of a matrix of similarities (see :func:`late_fusion`) to use instead of cosines.
    per_pair
        Return one row per known pair, which :func:`compare` takes: ``table``, ``source``,
        ``target``, ``similarity``, ``hit``.
    n_boot
        Bootstrap replicates over genes for 95% percentile intervals; 0 for none. A pair weighs the
        product of its genes' counts, which is cautious (in simulated maps of 80 genes, intervals
        about 1.5 times as wide as they need be), most where few pairs share a gene. The null's two
        thresholds stay as they are: they rest on all pairs of the map, and drawing them again
        changes the intervals by a few percent.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same intervals.

    Returns
    -------
    One row per table of pairs: ``recall``, ``lower_tail`` and ``upper_tail`` (its two parts),
    ``chance``, ``n_pairs``, ``n_genes``, and with `n_boot` the ends ``recall_low`` and
    ``recall_high``. Kept in ``profiles.uns[key_added]``. Or with `per_pair` the pairs.

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
    check_key(key_added)
    if np.shape(tails) != (2,) or not 0 <= tails[0] < tails[1] <= 1:
        raise ValueError(f"tails={tails}: expected two quantiles, 0 <= lower < upper <= 1.")
    low, high = tails
    names, rows = _map_names(profiles, gene_key, control)
    tables = _tables(pairs)
    ends = {str(name): _ends(table, names, str(name)) for name, table in tables.items()}
    similarity = similarity_of(profiles, use_rep=use_rep, use_sim=use_sim, rows=rows)
    bounds = _bounds(similarity, tails)
    found = {name: _recalled(similarity, *both, bounds) for name, both in ends.items()}
    if per_pair:
        return _pair_table(found, names)
    # Drawn by name: neither the order of the rows nor the table of pairs changes the replicates.
    drawn = draw_nodes(len(names), n_boot, seed)[np.argsort(np.argsort(names))] if n_boot else None
    table = _summary(found, len(names), low + 1 - high, drawn)
    profiles.uns[key_added] = {
        "table": table.copy(),
        "params": {
            "tails": np.array(tails),
            "use_rep": source_name(use_rep, use_sim) if use_sim else use_rep or "X",
            "n_boot": n_boot,
            "seed": seed,
        },
    }
    return table


def _tables(pairs: object) -> dict[str, pd.DataFrame]:
    tables = {"pairs": pairs} if isinstance(pairs, pd.DataFrame) else pairs
    if not isinstance(tables, Mapping):
        raise TypeError(
            f"`pairs` is a {type(pairs).__name__}; expected a data frame with the columns 'source' "
            "and 'target', or a dict of such."
        )
    if not tables:
        raise ValueError("`pairs` is an empty dict; give at least one table of pairs.")
    for name, table in tables.items():
        if not isinstance(table, pd.DataFrame):
            raise TypeError(
                f"`pairs[{name!r}]` is a {type(table).__name__}; expected a data frame with the "
                "columns 'source' and 'target'."
            )
    return dict(tables)


def _map_names(
    profiles: AnnData, gene_key: str | None, control: str | list[str] | None
) -> tuple[pd.Index, NDArray]:
    names = pd.Index(profile_labels(profiles, gene_key).astype(object))
    rows = np.arange(len(names))
    if control is not None:
        rows = np.flatnonzero(~control_rows(names.to_numpy(str), control))
        names = names[rows]
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
    return names, rows


def _ends(pairs: pd.DataFrame, names: pd.Index, table: str) -> tuple[NDArray, NDArray]:
    """Numbers of the two profiles of each pair, each pair once."""
    for column in ("source", "target"):
        if column not in pairs.columns:
            raise missing_key(column, list(pairs.columns), what=f"the columns of {table!r}")
    labels = pair_labels(pairs)
    ends = np.stack([names.get_indexer(pd.Index(labels[c])) for c in ("source", "target")])
    inside = (ends >= 0).all(axis=0) & (ends[0] != ends[1])
    low, high = np.sort(ends[:, inside], axis=0)
    both = np.unique(low.astype(np.int64) * len(names) + high)
    if not both.size:
        raise ValueError(
            f"no pair of {table!r} joins two of the {len(names)} profiles: its names are like "
            f"{listing(labels['source'].dropna().unique(), 3)}, the profiles' like "
            f"{listing(names, 3)}."
        )
    first, second = np.divmod(both, len(names))
    return first, second


def _bounds(similarity: Similarity, tails: tuple[float, float]) -> tuple[float, float]:
    """Similarity below which a pair is in the lower tail, and above which in the upper one."""
    n = len(similarity)
    n_pairs = n * (n - 1) // 2
    at_most, at_least = count_at_most(tails[0], n_pairs), count_at_least(tails[1], n_pairs)

    def blocks() -> Iterator[NDArray]:
        for start in range(0, n, ROWS):
            block = similarity.block(start, min(start + ROWS, n))
            height = len(block)
            yield block[:, height:]
            yield block[:, :height][np.triu_indices(height, 1)]

    rng = np.random.default_rng(0)  # only a guess: the result does not depend on it
    first = rng.integers(0, n, min(N_PILOT, n_pairs))
    second = (first + rng.integers(1, n, len(first))) % n
    # R <= lower: fewer than `at_most` + 1 are at or below q. L >= upper: `at_least` are below q.
    ranks = [at_most, at_least - 1]
    pilot = similarity.pairs(first, second)
    low, high = order_statistics(blocks, ranks, pilot=pilot, n=n_pairs)
    return low, high


def _recalled(
    similarity: Similarity, first: NDArray, second: NDArray, bounds: tuple[float, float]
) -> _Pairs:
    cosine = similarity.pairs(first, second)
    return _Pairs(first, second, cosine, cosine < bounds[0], cosine > bounds[1])


def _pair_table(found: Mapping[str, _Pairs], names: pd.Index) -> pd.DataFrame:
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "table": table,
                    "source": names[pairs.first],
                    "target": names[pairs.second],
                    "similarity": pairs.cosine,
                    "hit": pairs.lower | pairs.upper,
                }
            )
            for table, pairs in found.items()
        ],
        ignore_index=True,
    )


def _summary(
    found: Mapping[str, _Pairs], n_genes: int, chance: float, drawn: NDArray | None
) -> pd.DataFrame:
    rows: dict[str, dict[str, Any]] = {}
    for name, pairs in found.items():
        hit = pairs.lower | pairs.upper
        rows[name] = {
            "recall": float(hit.mean()),
            "lower_tail": float(pairs.lower.mean()),
            "upper_tail": float(pairs.upper.mean()),
            "chance": chance,
            "n_pairs": len(hit),
            "n_genes": n_genes,
        }
        if drawn is not None:
            replicates = pair_means(pairs.first, pairs.second, hit, drawn)
            rows[name]["recall_low"], rows[name]["recall_high"] = interval(replicates)
    table = pd.DataFrame(rows).T.astype({"n_pairs": int, "n_genes": int})
    table.index.name = "source"
    return table
