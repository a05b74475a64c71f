"""Gene sets that a concept's cells have more or less of (PETRI, 4.3)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import false_discovery_control

from cellfuse._access import pair_labels
from cellfuse._counts import whole_counts
from cellfuse._decoupler import import_decoupler
from cellfuse._errors import listing, missing_key
from cellfuse.tl._concepts import keep_table, kept_table
from cellfuse.tl._summary import check_level

__all__ = ["concept_enrichment"]

logger = logging.getLogger("cellfuse")

#: Scores by chance among which a score is looked up, at least, and groups of sets by their size.
MIN_NULL, MAX_GROUPS = 10_000, 20

Sets = str | PathLike[str] | pd.DataFrame | Mapping[str, Sequence[str]]


@whole_counts
def concept_enrichment(
    data: MuData,
    sets: Sets,
    *,
    method: Literal["gsea", "ulm"] = "gsea",
    min_size: int = 5,
    max_size: int = 500,
    n_permutations: int = 1000,
    alpha: float = 0.05,
    key: str = "concept_features",
    key_added: str = "concept_enrichment",
    seed: int = 0,
) -> pd.DataFrame:
    """Test gene sets along each concept's ranking of the genes (PETRI, 4.3), by decoupler.

    Needs the extra ``pip install 'cellfuse[enrichment]'``.

    A p-value from one set's own permutations is never below 1 / their number, which with hundreds
    of concepts and thousands of sets no correction survives. So each concept's statistics are
    replaced by the normal quantiles of their ranks; then all concepts share one distribution by
    chance, and a normalised score is looked up among those that sets of about its size have on
    shuffled rankings, 10,000 and more of them.

    Parameters
    ----------
    data
        MuData on which :func:`concept_features` was run.
    sets
        A GMT file; a data frame with the columns ``source`` (the set) and ``target`` (the gene),
        such as ``decoupler.op.hallmark()`` gives; or ``{set: genes}``.
    method
        ``"gsea"``: pre-ranked (paper). ``"ulm"``: decoupler's univariate linear model, which is
        faster and whose p-values are not bound to the number of permutations.
    min_size, max_size
        Measured genes of a set; smaller ones say little, larger ones everything. 5 (decoupler)
        and 500 (GSEA).
    n_permutations
        Shuffled rankings, for ``"gsea"``.
    alpha
        False discovery rate, Benjamini-Hochberg over all concepts and sets.
    key
        Key of ``data.uns`` with the gene scores.
    key_added
        Key of ``data.uns`` for the result.
    seed
        Of the permutations.

    Returns
    -------
    One row per concept and set: ``concept``, ``term``, ``score`` (normalised enrichment score, or
    ulm's t; positive where the concept's cells have more of the genes), ``n_genes`` (measured),
    ``pvalue``, ``qvalue``, ``significant``; by concept and ``pvalue``. ``uns[key_added]`` keeps
    it as ``"table"``, with ``"params"``.

    Raises
    ------
    ImportError
        decoupler is not installed.
    KeyError
        :func:`concept_features` was not run, a column is absent.
    FileNotFoundError
        No such GMT file.
    ValueError
        Sets and data share no genes, or no set has enough of them.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> genes = [f"G{i}" for i in range(40)]
    >>> scores = pd.DataFrame([np.linspace(3, -3, 40)], index=["7"], columns=genes)
    >>> adata = ad.AnnData(shape=(1, 1), uns={"concept_features": {"scores": scores}})
    >>> sets = {"first": genes[:6], "any": genes[::6]}
    >>> table = cf.tl.concept_enrichment(adata, sets)
    >>> table.loc[table["term"] == "first", ["concept", "n_genes", "significant"]].values.tolist()
    [[7, 6, True]]
    """
    check_level(alpha)
    if method not in ("gsea", "ulm"):
        raise ValueError(f"method={method!r}: expected 'gsea' or 'ulm'.")
    if n_permutations < 10:
        raise ValueError(f"n_permutations={n_permutations}: expected at least 10.")
    if not 1 <= min_size <= max_size:
        raise ValueError(f"min_size={min_size}, max_size={max_size}: expected 1 <= min <= max.")
    kept = kept_table(data, key, run="cellfuse.tl.concept_features(mdata)")
    if "scores" not in kept:
        raise ValueError(
            f"uns[{key!r}] holds no gene scores: `concept_features` was run without expression."
        )
    scores: pd.DataFrame = kept["scores"]
    network = _network(sets)
    sizes = _sizes(network, scores.columns, min_size, max_size)
    network = network[network["source"].isin(sizes.index)]
    value, pvalue = _decoupled(scores, network, method, n_permutations, seed)
    table = pd.DataFrame(
        {
            "concept": np.repeat(scores.index.astype(np.int64), value.shape[1]),
            "term": np.tile(value.columns.astype(str), len(value)),
            "score": value.to_numpy().ravel(),
            "n_genes": np.tile(sizes.loc[value.columns].to_numpy(), len(value)),
            "pvalue": pvalue.ravel(),
        }
    )
    table["qvalue"] = false_discovery_control(table["pvalue"].to_numpy())
    table["significant"] = table["qvalue"] < alpha
    table = table.sort_values(["concept", "pvalue"], kind="stable", ignore_index=True)
    params = {
        "method": method,
        "alpha": alpha,
        "min_size": min_size,
        "max_size": max_size,
        "n_sets": len(sizes),
        "n_permutations": n_permutations if method == "gsea" else None,
        "sets": str(sets) if isinstance(sets, (str, Path)) else type(sets).__name__,
    }
    keep_table(data, key_added, {"table": table}, params)
    n_found = table[table["significant"]]["concept"].nunique()
    logger.info("concept_enrichment: %d of %d concepts have a term.", n_found, len(scores))
    return table


def _network(sets: Sets) -> pd.DataFrame:
    """Sets in decoupler's form: one row per set and gene."""
    if isinstance(sets, pd.DataFrame):
        for column in ("source", "target"):
            if column not in sets.columns:
                raise missing_key(column, list(sets.columns), what="the columns of `sets`")
        network = sets[["source", "target"]]
    elif isinstance(sets, Mapping):
        pairs = [(name, gene) for name, genes in sets.items() for gene in genes]
        network = pd.DataFrame(pairs, columns=["source", "target"])
    else:
        path = Path(sets)
        if not path.exists():
            raise FileNotFoundError(
                f"no GMT file {str(path)!r}. Gene sets come from a GMT file (MSigDB has them), or "
                "as a data frame, such as `decoupler.op.hallmark()`."
            )
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        pairs = [(parts[0], gene) for parts in lines for gene in parts[2:] if gene]
        network = pd.DataFrame(pairs, columns=["source", "target"])
    if network.empty:
        raise ValueError("`sets` holds no gene set.")
    return pair_labels(network).dropna().drop_duplicates(ignore_index=True)


def _sizes(network: pd.DataFrame, genes: pd.Index, low: int, high: int) -> pd.Series:
    """Measured genes of each set that is used."""
    measured = network[network["target"].isin(genes)]
    if measured.empty:
        raise ValueError(
            f"the gene sets ({listing(network['target'].unique(), 4)}) and the data "
            f"({listing(genes, 4)}) share no gene: symbols in one, identifiers or another case in "
            "the other?"
        )
    sizes = measured.groupby("source").size()
    used = sizes[(sizes >= low) & (sizes <= high)]
    if used.empty:
        raise ValueError(
            f"no gene set has {low} to {high} measured genes; the largest has {int(sizes.max())}. "
            "Change `min_size` or `max_size`."
        )
    if len(used) < len(sizes):
        logger.info("concept_enrichment: %d of %d sets have a usable size.", len(used), len(sizes))
    return used


def _decoupled(
    scores: pd.DataFrame, network: pd.DataFrame, method: str, n_permutations: int, seed: int
) -> tuple[pd.DataFrame, NDArray]:
    """Score and p-value of each concept (row) and set (column)."""
    dc = import_decoupler()
    rng = np.random.default_rng(seed)
    # Tied genes are ranked in the order in which they stand, which is made a random one.
    values = scores.iloc[:, rng.permutation(scores.shape[1])]
    genes, matrix = values.columns.to_numpy(str), values.to_numpy(np.float64)
    network = network[network["target"].isin(genes)]
    # The methods' own functions: their p-values are not yet corrected concept by concept.
    if method == "ulm":
        names, _, adjacency = dc.pp.adjmat(
            features=genes, net=network.assign(weight=1.0), verbose=False
        )
        value, pvalue = dc.mt.ulm.func(matrix, adjacency)
        return pd.DataFrame(value, columns=names), np.asarray(pvalue)
    names, members, starts, sizes = dc.pp.idxmat(features=genes, net=network, verbose=False)
    ranking = ndtri(np.arange(1, len(genes) + 1) / (len(genes) + 1))  # what every row holds
    shuffled = np.stack([rng.permutation(ranking) for _ in range(n_permutations)])
    ranked = ranking[np.argsort(np.argsort(matrix, axis=1, kind="stable"), axis=1)]
    value, null = (
        dc.mt.gsea.func(rows, members, starts, sizes, times=0)[0] for rows in (ranked, shuffled)
    )
    observed, null = (_normalised(part, null) for part in (value, null))
    return pd.DataFrame(observed, columns=names), _by_size(observed, null, sizes)


def _normalised(score: NDArray, null: NDArray) -> NDArray:
    """Scores of each set (column), divided by the mean size of those by chance of their sign."""
    out = np.zeros(score.shape)
    for sign in (1.0, -1.0):
        there = sign * null > 0
        mean = np.where(there, sign * null, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
        here = sign * score > 0
        out += np.where(here, score / np.where(mean > 0, mean, 1.0), 0.0)
    return out


def _by_size(observed: NDArray, null: NDArray, sizes: NDArray) -> NDArray:
    """Two-sided p of each score among those of shuffled rankings, of sets of about its size."""
    p = np.ones(observed.shape)
    n_sets = observed.shape[1]
    together = max(-(-MIN_NULL // len(null)), n_sets // MAX_GROUPS, 1)
    for columns in np.array_split(np.argsort(sizes, kind="stable"), max(1, n_sets // together)):
        part = observed[:, columns]
        for sign in (1.0, -1.0):
            chance = sign * null[:, columns]
            ordered = np.sort(chance[chance > 0])
            above = len(ordered) - np.searchsorted(ordered, sign * part, side="left")
            here = sign * part > 0
            p[:, columns] = np.where(here, (above + 1.0) / (len(ordered) + 1.0), p[:, columns])
    return p
