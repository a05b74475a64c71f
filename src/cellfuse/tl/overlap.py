"""Which pairs of genes several maps find, and how their similarities agree (PETRI, Fig. 3b, S3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import profile_labels, profiles_only
from cellfuse._errors import listing
from cellfuse.tl._concepts import keep_table
from cellfuse.tl._similarity import similarity_of
from cellfuse.tl.edges import edge_classification

__all__ = ["edge_overlap", "similarity_density"]

#: Genes above which the pairs are a sample.
MAX_GENES = 3000


def edge_overlap(
    maps: Mapping[str, AnnData],
    edges: pd.DataFrame,
    *,
    fpr: float = 0.05,
    key_added: str = "edge_overlap",
    **arguments: Any,
) -> pd.DataFrame:
    """Count the interacting pairs that several maps find, together and alone (PETRI, Fig. S3).

    A pair is found by a map if fewer than `fpr` of its pairs without an edge are as similar, see
    :func:`edge_classification`.

    Parameters
    ----------
    maps
        Profiles of genes by name, such as ``{"PETRI": genes, "permuted": twin}``, two or more.
    edges
        The network.
    fpr
        False positive rate at which a pair counts as found; .05, as the paper's score (it does
        not name the threshold of its Venn diagrams).
    key_added
        Key of ``.uns`` of the first map.
    **arguments
        Further ones of :func:`edge_classification`, such as `gene_key`, `use_rep`, `control`.

    Returns
    -------
    One row per combination of maps: a bool column per map (found by it), ``n_pairs``,
    ``n_expected`` (were the maps independent) and ``ratio`` of the two. Only pairs whose genes all
    maps have are counted. ``uns[key_added]`` of the first map keeps it as ``"table"``, with
    ``"pairs"`` (``source``, ``target``, a bool per map). Every map keeps its ROC curve too, for
    :func:`cellfuse.pl.roc`.

    Raises
    ------
    ValueError
        Fewer than two maps, or no pair that all of them have.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> names = pd.DataFrame(index=["A", "B", "C", "D"])
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    >>> maps = {"one": ad.AnnData(x, obs=names), "two": ad.AnnData(x[::-1].copy(), obs=names)}
    >>> edges = pd.DataFrame({"source": ["A", "C"], "target": ["B", "D"]})
    >>> cf.tl.edge_overlap(maps, edges)["n_pairs"].sum()
    np.int64(2)
    """
    if not isinstance(maps, Mapping) or len(maps) < 2:
        raise ValueError("`maps` needs two maps or more, by name.")
    names = [str(name) for name in maps]
    pairs: pd.DataFrame | None = None
    for name, one in zip(names, maps.values(), strict=True):
        edge_classification(one, edges, fpr=fpr, **arguments)
        found = edge_classification(one, edges, fpr=fpr, per_pair=True, **arguments)
        ends = np.sort(found[["source", "target"]].to_numpy(str), axis=1)
        part = pd.DataFrame({"source": ends[:, 0], "target": ends[:, 1], name: found["hit"]})
        pairs = part if pairs is None else pairs.merge(part, on=["source", "target"])
    assert pairs is not None
    if pairs.empty:
        raise ValueError("the maps have no interacting pair in common: are their genes the same?")
    hits = pairs[names].to_numpy(bool)
    table = pd.DataFrame(
        [[bool(k >> j & 1) for j in range(len(names))] for k in range(1, 2 ** len(names))],
        columns=names,
    )
    table["n_pairs"] = [int((hits == row).all(axis=1).sum()) for row in table[names].to_numpy()]
    rate = hits.mean(axis=0)
    expected = np.prod(np.where(table[names].to_numpy(bool), rate, 1 - rate), axis=1) * len(pairs)
    table["n_expected"] = expected
    with np.errstate(invalid="ignore", divide="ignore"):
        table["ratio"] = table["n_pairs"] / expected
    first = next(iter(maps.values()))
    keep_table(
        first, key_added, {"table": table, "pairs": pairs}, {"fpr": fpr, "n_pairs": len(pairs)}
    )
    return table


def similarity_density(
    fused: AnnData,
    first: AnnData,
    second: AnnData,
    *,
    names: tuple[str, str, str] = ("fused", "first", "second"),
    gene_key: str | None = None,
    use_rep: str | None = None,
    n_bins: int = 40,
    key_added: str = "similarity_density",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the similarities of a fused map with those of two single ones (PETRI, Fig. 3b).

    All pairs of the genes that the three maps share are sorted into squares by their cosines in
    the two single maps; a map that fuses them is most similar where both are.

    Parameters
    ----------
    fused, first, second
        Profiles of genes: the fused map, and one of each modality.
    names
        What the three are called.
    gene_key
        obs column with the gene; None is obs_names.
    use_rep
        obsm key of the profiles; None is ``X``.
    n_bins
        Squares along each axis, from the smallest to the largest cosine.
    key_added
        Key of ``fused.uns``.
    seed
        Of the choice of 3,000 genes where there are more.

    Returns
    -------
    One row per square that holds a pair: ``first`` and ``second`` (its middle), ``n_pairs``,
    ``similarity`` (mean cosine in the fused map). ``uns[key_added]`` keeps it as ``"table"``, with
    the correlations of the fused map's cosines with those of either in ``"params"``.

    Raises
    ------
    ValueError
        Fewer than three genes in common, or profiles of zeros.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> a, b = (ad.AnnData(rng.normal(size=(20, 5))) for _ in range(2))
    >>> both = ad.AnnData(np.hstack([a.X, b.X]))
    >>> table = cf.tl.similarity_density(both, a, b, n_bins=5)
    >>> int(table["n_pairs"].sum())
    190
    """
    if n_bins < 2:
        raise ValueError(f"n_bins={n_bins}: expected at least 2.")
    labels = []
    for one in (fused, first, second):
        one = profiles_only(one)
        column = pd.Index(profile_labels(one, gene_key).astype(object))
        if not column.is_unique:
            raise ValueError(
                f"genes have several profiles: {listing(column[column.duplicated()].unique(), 4)}. "
                "Aggregate to one row per gene (`cellfuse.tl.aggregate`)."
            )
        labels.append(column)
    shared = labels[0].intersection(labels[1]).intersection(labels[2])
    if len(shared) < 3:
        raise ValueError(f"the three maps share {len(shared)} genes; expected at least 3.")
    if len(shared) > MAX_GENES:
        chosen = np.random.default_rng(seed).choice(len(shared), MAX_GENES, replace=False)
        shared = shared[np.sort(chosen)]
    upper = np.triu_indices(len(shared), 1)
    cosines = [
        _cosines(one, column.get_indexer(shared), use_rep)[upper]
        for one, column in zip((fused, first, second), labels, strict=True)
    ]
    edges = [np.linspace(c.min(), c.max() + 1e-12, n_bins + 1) for c in cosines[1:]]
    place = [
        np.clip(np.searchsorted(e, c, side="right") - 1, 0, n_bins - 1)
        for e, c in zip(edges, cosines[1:], strict=True)
    ]
    square = place[0] * n_bins + place[1]
    count = np.bincount(square, minlength=n_bins**2)
    total = np.bincount(square, weights=cosines[0], minlength=n_bins**2)
    there = np.flatnonzero(count)
    middle = [(e[:-1] + e[1:]) / 2 for e in edges]
    table = pd.DataFrame(
        {
            "first": middle[0][there // n_bins],
            "second": middle[1][there % n_bins],
            "n_pairs": count[there],
            "similarity": total[there] / count[there],
        }
    )
    params = {
        "names": list(names),
        "n_bins": n_bins,
        "n_genes": len(shared),
        "correlation_first": float(np.corrcoef(cosines[0], cosines[1])[0, 1]),
        "correlation_second": float(np.corrcoef(cosines[0], cosines[2])[0, 1]),
    }
    keep_table(fused, key_added, {"table": table}, params)
    return table


def _cosines(adata: AnnData, rows: NDArray, use_rep: str | None) -> NDArray:
    similarity = similarity_of(adata, use_rep=use_rep, rows=rows)
    every = np.arange(len(rows))
    return similarity.between(every, every)
