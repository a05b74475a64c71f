"""Whether one embedding scores higher than another on the same genes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from cellfuse._access import label_text, pair_labels
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse.kernels.bootstrap import (
    bootstrap_pvalue,
    draw_nodes,
    interval,
    pair_means,
    sign_flip_pvalue,
    weighted_means,
)

__all__ = ["compare"]

#: Columns that are compared where none is named, the first that is there.
VALUES = ("map", "precision", "similarity", "energy", "mrr")
#: Columns that split a table into parts, each compared apart.
PARTS = ("table", "direction")
#: Columns that name the gene or context of a row, where the index does not.
NODES = ("group", "label")
#: Fewer shared genes make no test.
MIN_SHARED = 5


@whole_counts
def compare(
    scores_a: pd.DataFrame,
    scores_b: pd.DataFrame,
    *,
    value: str | None = None,
    n_boot: int = 1000,
    n_permutations: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Test whether two embeddings score differently on the genes that they share.

    It takes two tables of the same function, one per embedding:

    - One row per gene (or perturbation, context): :func:`guide_consistency`,
      :func:`perturbation_consistency`, :func:`perturbation_magnitude`,
      :func:`mean_average_precision`, :func:`retrieval` with ``per_query=True``. Rows are paired by
      label, several rows of a label averaged first. p: the two scores of each gene are swapped
      at random (a sign-flip permutation test of the mean difference, two-sided,
      ``(k + 1) / (B + 1)``).
    - One row per pair of genes: :func:`relationship_recall` and :func:`edge_classification` with
      ``per_pair=True``. Pairs that share a gene are not independent, so genes are drawn, and a pair
      weighs the product of its genes' counts. p: twice the share of bootstrap differences on the
      other side of 0; cautious, as the intervals are, most where few pairs share a gene. Every
      table of pairs is a row of the result: with one table per pathway class, this is the recall
      gained in each class, corrected over classes.

    Intervals are 95% bootstrap percentiles of the difference over genes. They and the tests speak
    of other genes of the same kind, not of other screens or training seeds.

    Parameters
    ----------
    scores_a, scores_b
        The tables. What only one of them has is left out.
    value
        Column to compare, such as ``"significant"`` or ``"top1"``. None: ``"hit"`` of pairs, else
        the first of ``"map"``, ``"precision"``, ``"similarity"``, ``"energy"``, ``"mrr"``.
    n_boot
        Bootstrap replicates.
    n_permutations
        Swaps for tables of genes.
    seed
        Same seed, same result.

    Returns
    -------
    One row per part (table of pairs, direction of retrieval; else one): ``a``, ``b`` (means),
    ``difference`` (a - b) with its ends ``difference_low`` and ``difference_high``,
    ``pvalue``, ``qvalue`` (Benjamini-Hochberg over rows), ``n_genes``, ``n`` (pairs or genes
    compared).

    Raises
    ------
    TypeError
        Not two tables.
    KeyError
        The column is absent.
    ValueError
        Summaries instead of rows per gene or pair, repeated rows, or fewer than five shared genes.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> b = pd.DataFrame({"similarity": rng.normal(size=50)}, index=[f"g{i}" for i in range(50)])
    >>> a = b + 0.5 + rng.normal(size=(50, 1)) / 10
    >>> result = cf.tl.compare(a, b)
    >>> round(float(result["difference"].iloc[0]), 1), bool(result["pvalue"].iloc[0] < 0.001)
    (0.5, True)
    """
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        if not isinstance(scores, pd.DataFrame):
            raise TypeError(
                f"`{name}` is a {type(scores).__name__}; expected the table that a score returned."
            )
    if n_boot < 1 or n_permutations < 1:
        raise ValueError(
            f"expected n_boot and n_permutations of 1 and more, found {n_boot}, {n_permutations}."
        )
    pairwise = all({"source", "target", "hit"} <= set(s.columns) for s in (scores_a, scores_b))
    column = value or ("hit" if pairwise else _value(scores_a, scores_b))
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        if column not in scores.columns:
            raise missing_key(column, list(scores.columns), what=f"the columns of `{name}`")
    parts_a, parts_b = _parts(scores_a, column), _parts(scores_b, column)
    shared = [part for part in parts_a if part in parts_b]
    if not shared:
        raise ValueError(
            f"the tables share no part: a has {listing(parts_a, 3)}, b {listing(parts_b, 3)}."
        )
    rows = {}
    for part in shared:
        inside = f" in {part!r}" if len(parts_a) > 1 else ""
        if pairwise:
            rows[part] = _pairs(parts_a[part], parts_b[part], column, n_boot, seed, inside)
        else:
            rows[part] = _genes(
                parts_a[part], parts_b[part], column, n_boot, n_permutations, seed, inside
            )
    table = pd.DataFrame(rows).T.astype({"n_genes": int, "n": int})
    table.insert(6, "qvalue", false_discovery_control(table["pvalue"].to_numpy()))
    table.index.name = "part"
    return table


def _value(a: pd.DataFrame, b: pd.DataFrame) -> str:
    for name in VALUES:
        if name in a.columns and name in b.columns:
            return name
    if "n_pairs" in a.columns or "n_edges" in a.columns:
        raise ValueError(
            "a table with one row per source cannot be compared gene by gene; run the score with "
            "`per_pair=True`."
        )
    if "metric" in (a.index.names or []):
        raise ValueError("run `retrieval` with `per_query=True`: its summary has no row per query.")
    raise ValueError(
        f"no column of scores in both tables ({listing(a.columns)}; {listing(b.columns)}); name it "
        "by `value`."
    )


def _parts(scores: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    for key in PARTS:
        if key in scores.columns:
            return {str(name): part for name, part in scores.groupby(key, sort=False)}
    return {column: scores}


def _genes(
    a: pd.DataFrame,
    b: pd.DataFrame,
    column: str,
    n_boot: int,
    n_permutations: int,
    seed: int,
    inside: str,
) -> dict[str, float]:
    left, right = _per_gene(a, column), _per_gene(b, column)
    both = pd.concat([left, right], axis=1, join="inner", keys=["a", "b"]).dropna().sort_index()
    if len(both) < MIN_SHARED:
        raise ValueError(
            f"the tables share {len(both)} scored genes{inside}, too few to test (at least "
            f"{MIN_SHARED}): those of a are like {listing(left.index, 3)}, those of b like "
            f"{listing(right.index, 3)}."
        )
    difference = (both["a"] - both["b"]).to_numpy()
    replicates = weighted_means(difference, draw_nodes(len(both), n_boot, seed))
    pvalue = sign_flip_pvalue(difference, n_permutations, seed)
    return _row(both, difference.mean(), replicates, pvalue, len(both))


def _per_gene(scores: pd.DataFrame, column: str) -> pd.Series:
    values = scores[column].astype(float)
    for key in NODES:
        if key in scores.columns:
            return values.groupby(np.asarray(label_text(scores[key]))).mean()
    if scores.index.has_duplicates:
        double = scores.index[scores.index.duplicated()].unique()
        raise ValueError(
            f"{len(double)} labels have several rows: {listing(double, 3)}. Compare one background "
            "at a time."
        )
    return values.set_axis(label_text(scores.index))


def _pairs(
    a: pd.DataFrame, b: pd.DataFrame, column: str, n_boot: int, seed: int, inside: str
) -> dict[str, float]:
    both = pd.concat(
        [_per_pair(a, column), _per_pair(b, column)], axis=1, join="inner", keys=["a", "b"]
    ).sort_index()
    ends = [both.index.get_level_values(i).to_numpy(str) for i in (0, 1)]
    genes, codes = np.unique(np.concatenate(ends), return_inverse=True)
    if len(genes) < MIN_SHARED:
        raise ValueError(
            f"the tables share {len(both)} pairs of {len(genes)} genes{inside}, too few to test "
            f"(at least {MIN_SHARED} genes)."
        )
    first, second = codes.reshape(2, -1)
    difference = (both["a"] - both["b"]).to_numpy()
    replicates = pair_means(first, second, difference, draw_nodes(len(genes), n_boot, seed))
    return _row(both, difference.mean(), replicates, bootstrap_pvalue(replicates), len(genes))


def _per_pair(scores: pd.DataFrame, column: str) -> pd.Series:
    ends = np.sort(pair_labels(scores).to_numpy(str), axis=1)
    index = pd.MultiIndex.from_arrays([ends[:, 0], ends[:, 1]])
    if index.has_duplicates:
        raise ValueError(
            "a pair of genes has several rows; compare one table or background at a time."
        )
    return pd.Series(scores[column].to_numpy(float), index=index)


def _row(
    both: pd.DataFrame,
    difference: float,
    replicates: NDArray,
    pvalue: float,
    n_genes: int,
) -> dict[str, float]:
    low, high = interval(replicates)
    return {
        "a": both["a"].mean(),
        "b": both["b"].mean(),
        "difference": difference,
        "difference_low": low,
        "difference_high": high,
        "pvalue": pvalue,
        "n_genes": n_genes,
        "n": len(both),
    }
