"""Whether interacting genes have similar profiles."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    check_key,
    context_labels,
    one_column,
    pair_labels,
    profile_labels,
    profiles_only,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json
from cellfuse.kernels.bootstrap import draw_nodes, interval
from cellfuse.kernels.quantiles import count_at_least
from cellfuse.kernels.roc import area_under, bootstrap_roc, roc_curve, thin_curve, tpr_at
from cellfuse.tl._labels import control_rows
from cellfuse.tl._similarity import Similarity, similarity_of, source_name

__all__ = ["edge_classification"]

logger = logging.getLogger("cellfuse")

#: Points of a curve that are kept.
CURVE_POINTS = 2000
#: Rows of the similarity matrix that exist at a time.
ROWS = 256


@dataclass(frozen=True)
class _Network:
    """Undirected pairs of genes, each once, with what they count as."""

    genes: NDArray
    first: NDArray  # numbers into genes
    second: NDArray
    positive: NDArray


@dataclass(frozen=True)
class _Edges:
    """Edges among the genes that are scored, as numbers into them."""

    first: NDArray
    second: NDArray
    positive: NDArray


@dataclass(frozen=True)
class _Scores:
    """Scores and node numbers of the positive and negative pairs of one background."""

    positives: tuple[NDArray, NDArray, NDArray]
    negatives: tuple[NDArray, NDArray, NDArray]
    genes: NDArray


@whole_counts
def edge_classification(
    genes: AnnData,
    edges: pd.DataFrame,
    *,
    gene_key: str | None = None,
    score_threshold: float = 0.95,
    fpr: float = 0.05,
    control: str | list[str] | None = None,
    use_rep: str | None = None,
    use_sim: str | None = None,
    background_key: str | None = None,
    per_pair: bool = False,
    n_boot: int = 1000,
    key_added: str = "edge_classification",
    seed: int = 0,
) -> pd.DataFrame:
    """Classify gene pairs as interacting by the cosine of their profiles (PETRI, 3.5).

    Positives are pairs whose `score` is above the threshold, negatives are pairs without any
    edge; pairs with a weaker edge are left out, and so are genes that occur nowhere in the
    network. In a network without scores all listed pairs are positives. Edges are undirected;
    self pairs are dropped, a pair that is listed twice counts once, with its higher score.

    Parameters
    ----------
    genes
        Profiles, one row per gene (see :func:`aggregate`).
    edges
        Columns ``source``, ``target`` and, for a scored network, ``score`` between 0 and 1.
    gene_key
        obs column with the gene; None is obs_names.
    score_threshold
        Score above which an edge is a positive (one of exactly 0.95 is none), as in
        :func:`cellfuse.datasets.stringdb`. The paper names StringDB's physical network and no cut;
        0.95 is this library's.
    fpr
        False positive rate at which the true positive rate is read, linearly between the points
        of scikit-learn's ROC curve. A random ranking gives a TPR of `fpr`.
    control
        Label or labels among the genes to leave out.
    use_rep
        obsm key of the profiles; None is ``X``.
    use_sim
        obsp key of a matrix of similarities (see :func:`late_fusion`) to use instead of cosines.
    background_key
        obs column of the background: each is scored apart, and the results are averaged. The
        genes' names are then usually in a column: give `gene_key`.
    per_pair
        Return one row per positive pair, which :func:`compare` takes: ``source``, ``target``,
        ``similarity`` and ``hit``, whether fewer than `fpr` of the negatives score as high (their
        share is the TPR, but for its interpolation).
    n_boot
        Bootstrap replicates over genes (not pairs, which are not independent) for 95% percentile
        intervals; 0 for none, which genome-wide maps (200 million pairs) may want: each
        replicate looks at every pair.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same intervals.

    Returns
    -------
    One row, or with `background_key` one per background and a last row ``"mean"``: ``tpr``,
    ``auc``, ``n_edges``, ``n_negatives``, ``n_genes``, and with `n_boot` ``tpr_low``,
    ``tpr_high``, ``auc_low``, ``auc_high``.

    ``genes.uns[key_added]`` keeps it as ``"summary"``, with the (mean) ROC curve in
    ``"fpr"`` and ``"tpr"``, thinned to 2,000 points, and ``"params"``.

    Raises
    ------
    KeyError
        A column or the control label is absent.
    ValueError
        NaN or infinite values, a gene with several rows, a profile of zeros, scores outside
        [0, 1], or no usable edge or negative pair.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> x = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.2]])
    >>> genes = ad.AnnData(x, obs=pd.DataFrame(index=["A", "B", "C", "D"]))
    >>> edges = pd.DataFrame({"source": ["A", "C"], "target": ["B", "D"]})
    >>> result = cf.tl.edge_classification(genes, edges)
    >>> result.loc["all", ["tpr", "auc"]].tolist()  # A-B is first, C-D second among six pairs
    [1.0, 1.0]
    """
    genes = profiles_only(genes)
    check_key(key_added)
    if not 0 < fpr < 1:
        raise ValueError(f"fpr={fpr}: expected a rate between 0 and 1.")
    network = _network(edges, score_threshold)
    names = profile_labels(genes, gene_key)
    kept = np.ones(genes.n_obs, dtype=bool)
    if control is not None:
        kept &= ~control_rows(names, control)
    if background_key is None:
        groups = {"all": np.flatnonzero(kept)}
    else:
        background_key = one_column(background_key, name="background_key")
        background = context_labels(genes, background_key)
        groups = {b: np.flatnonzero(kept & (background == b)) for b in sorted(background.unique())}
    scored = {}
    for name, rows in groups.items():
        inside = f" in background {name!r}" if background_key else ""
        rows, pairs = _usable(names, rows, network, inside)
        similarity = similarity_of(
            genes, use_rep=use_rep, use_sim=use_sim, rows=rows, names=names[rows]
        )
        scored[name] = _scores(similarity, pairs, names[rows], with_nodes=n_boot > 0)
    if per_pair:
        return _pair_table(scored, fpr, background_key)
    resampled = _bootstrap(scored, fpr, n_boot, seed)  # first: the curves sort the negatives
    curves = {name: roc_curve(s.positives[0], s.negatives[0]) for name, s in scored.items()}
    summary = _summary(scored, curves, fpr, resampled, background_key)
    curve = _mean_curve(list(curves.values()))
    params: dict[str, Any] = {
        "score_threshold": score_threshold,
        "fpr": fpr,
        "control": as_json(control),
        "use_rep": source_name(use_rep, use_sim) if use_sim else use_rep or "X",
        "gene_key": gene_key or "obs_names",
        "n_boot": n_boot,
        "seed": seed,
    }
    if background_key is not None:
        params["background_key"] = background_key
    genes.uns[key_added] = {
        "summary": summary.copy(),
        "fpr": curve[0],
        "tpr": curve[1],
        "params": params,
    }
    last = summary.iloc[-1]
    logger.info(
        "edge_classification: TPR %.3f at FPR %g, AUC %.3f; %d edges among %d genes.",
        last["tpr"],
        fpr,
        last["auc"],
        last["n_edges"],
        last["n_genes"],
    )
    return summary


def _network(edges: pd.DataFrame, score_threshold: float) -> _Network:
    if not isinstance(edges, pd.DataFrame):
        raise TypeError(
            f"`edges` is a {type(edges).__name__}; expected a data frame with the columns 'source' "
            "and 'target' (and 'score')."
        )
    for column in ("source", "target"):
        if column not in edges.columns:
            raise missing_key(column, list(edges.columns), what="the columns of `edges`")
    if edges[["source", "target"]].isna().any(axis=None):
        raise ValueError("`edges` has rows without source or target; drop them (`edges.dropna()`).")
    score = np.full(len(edges), np.inf)
    if "score" in edges.columns:
        score = edges["score"].to_numpy(dtype=np.float64)
        if not np.all((score >= 0) & (score <= 1)):
            raise ValueError(
                f"edges['score'] must lie between 0 and 1, found {np.fmin.reduce(score):g} to "
                f"{np.fmax.reduce(score):g} and {int(np.isnan(score).sum())} missing. STRING's "
                "own files hold 0 to 1000: divide by 1000."
            )
    pairs = pair_labels(edges)
    ends = pd.concat([pairs["source"], pairs["target"]])
    proper = np.tile((pairs["source"] != pairs["target"]).to_numpy(), 2)
    codes, genes = pd.factorize(ends[proper], sort=True)
    if not len(genes):
        raise ValueError("`edges` holds no pair of two different genes.")
    low, high = np.sort(codes.reshape(2, -1), axis=0)
    pair = low * len(genes) + high
    order = np.argsort(pair, kind="stable")
    starts = np.flatnonzero(np.diff(pair[order], prepend=-1))
    highest = np.maximum.reduceat(score[proper[: len(edges)]][order], starts)
    low, high = np.divmod(pair[order][starts], len(genes))
    return _Network(genes.to_numpy(str), low, high, highest > score_threshold)


def _usable(
    names: NDArray, rows: NDArray, network: _Network, inside: str
) -> tuple[NDArray, _Edges]:
    """Rows of the genes that are in the network, sorted by name, and the edges among them."""
    label, count = np.unique(names[rows], return_counts=True)
    if (count > 1).any():
        raise ValueError(
            f"{int((count > 1).sum())} genes have several profiles{inside}: "
            f"{listing(label[count > 1])}. Aggregate to one row per gene, or score backgrounds "
            "apart with `background_key`."
        )
    n_profiles = len(rows)
    # Genes in the order of their names: no result depends on the order of the rows.
    rows = rows[np.argsort(names[rows])]
    rows = rows[np.isin(names[rows], network.genes)]
    position = pd.Index(names[rows]).get_indexer(pd.Index(network.genes))
    first, second = position[network.first], position[network.second]
    both = (first >= 0) & (second >= 0)
    edges = _Edges(first[both], second[both], network.positive[both])
    if not edges.positive.any():
        raise ValueError(
            f"no usable edge{inside}: none of the network's {int(network.positive.sum())} edges "
            f"above the threshold joins two of the {n_profiles} profiles. The network's genes are "
            f"like {listing(network.genes, 3)}, the profiles' like {listing(label, 3)}. "
            "Are they named in the same way? `gene_key` names the obs column with the genes."
        )
    if len(rows) * (len(rows) - 1) // 2 == len(edges.first):
        raise ValueError(f"all pairs of the {len(rows)} genes{inside} have an edge: no negatives.")
    return rows, edges


def _scores(similarity: Similarity, edges: _Edges, genes: NDArray, *, with_nodes: bool) -> _Scores:
    """Similarities of the positive and of all edgeless pairs, by blocks of rows."""
    n = len(similarity)
    n_negative = n * (n - 1) // 2 - len(edges.first)
    low = np.minimum(edges.first, edges.second)
    high = np.maximum(edges.first, edges.second)
    order = np.argsort(low, kind="stable")
    low, high, positive = low[order], high[order], edges.positive[order]
    hit = np.empty(len(low))
    score = np.empty(n_negative)
    # Only the bootstrap needs to know which pair a score belongs to.
    nodes = np.empty((2, n_negative if with_nodes else 0), dtype=np.int32)
    at = 0
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        block = similarity.block(start, stop)
        edge = slice(*np.searchsorted(low, [start, stop]))
        hit[edge] = block[low[edge] - start, high[edge] - start]
        free = np.arange(start, n)[None, :] > np.arange(start, stop)[:, None]
        free[low[edge] - start, high[edge] - start] = False
        part = block[free]
        end = at + len(part)
        score[at:end] = part
        if with_nodes:
            i, j = np.nonzero(free)
            nodes[0, at:end], nodes[1, at:end] = i + start, j + start
        at = end
    chosen = np.flatnonzero(positive)
    return _Scores((hit[chosen], low[chosen], high[chosen]), (score, nodes[0], nodes[1]), genes)


def _pair_table(scored: dict[str, _Scores], fpr: float, background_key: str | None) -> pd.DataFrame:
    """One row per positive pair, with whether it stands above the negatives."""
    parts = []
    for name, scores in scored.items():
        similarity, first, second = scores.positives
        negatives = scores.negatives[0]
        at = max(count_at_least(1.0 - fpr, len(negatives)) - 1, 0)
        threshold = np.partition(negatives, at)[at]
        part = pd.DataFrame(
            {
                "source": scores.genes[first].astype(object),
                "target": scores.genes[second].astype(object),
                "similarity": similarity,
                "hit": similarity > threshold,
            }
        )
        if background_key is not None:
            part.insert(0, background_key, name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _bootstrap(
    scored: dict[str, _Scores], fpr: float, n_boot: int, seed: int
) -> dict[str, tuple[NDArray, NDArray]]:
    """Replicates of TPR and AUC; all backgrounds are resampled by the same genes."""
    if n_boot < 1:
        return {}
    every = np.unique(np.concatenate([s.genes for s in scored.values()]))
    drawn = draw_nodes(len(every), n_boot, seed)
    return {
        name: bootstrap_roc(
            s.positives, s.negatives, drawn[np.searchsorted(every, s.genes)], level=fpr
        )
        for name, s in scored.items()
    }


def _summary(
    scored: dict[str, _Scores],
    curves: dict[str, tuple[NDArray, NDArray]],
    fpr: float,
    resampled: dict[str, tuple[NDArray, NDArray]],
    background_key: str | None,
) -> pd.DataFrame:
    table = pd.DataFrame(
        {
            "tpr": [tpr_at(*curve, fpr) for curve in curves.values()],
            "auc": [area_under(*curve) for curve in curves.values()],
            "n_edges": [len(s.positives[0]) for s in scored.values()],
            "n_negatives": [len(s.negatives[0]) for s in scored.values()],
            "n_genes": [len(s.genes) for s in scored.values()],
        },
        index=pd.Index(list(scored), name=background_key or "background", dtype=object),
    )
    if background_key is not None:
        mean = pd.DataFrame([table.mean()], index=pd.Index(["mean"], name=background_key))
        table = pd.concat([table, mean])
        if resampled:
            resampled["mean"] = tuple(  # type: ignore[assignment]
                np.mean([pair[k] for pair in resampled.values()], axis=0) for k in (0, 1)
            )
    for k, name in enumerate(("tpr", "auc")):
        if resampled:
            ends = [interval(resampled[row][k]) for row in table.index]
            table[f"{name}_low"], table[f"{name}_high"] = np.transpose(ends)
    return table


def _mean_curve(curves: list[tuple[NDArray, NDArray]]) -> tuple[NDArray, NDArray]:
    """Mean true positive rate at each false one; where a curve rises straight up, so does it."""
    thin = [thin_curve(*curve, CURVE_POINTS) for curve in curves]
    if len(thin) == 1:
        return thin[0]
    grid = np.unique(np.concatenate([[0.0, 1.0], *(fpr for fpr, _ in thin)]))
    # At a false positive rate that stands twice a curve goes from the first value to the last.
    first = [np.interp(-grid, -fpr[::-1], tpr[::-1]) for fpr, tpr in curves]
    last = [np.interp(grid, fpr, tpr) for fpr, tpr in curves]
    rise = np.mean([first, last], axis=1)
    return thin_curve(np.repeat(grid, 2), rise.T.ravel(), CURVE_POINTS)
