"""Edge classification and guide consistency at the size of a genome-wide screen.

The peer is the plain loop: one cosine per pair of genes (scikit-learn's cosine_similarity, or
scipy's lighter distance), a lookup of the pair in the network, scikit-learn's ROC curve. Run:
python benchmarks/speed/scores.py (about two minutes).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import _measure
import anndata as ad
import numpy as np
import pandas as pd
from scipy.spatial.distance import cosine
from sklearn.metrics import roc_curve
from sklearn.metrics.pairwise import cosine_similarity

import cellfuse as cf

D, EDGES_PER_GENE = 768, 20
_ = cf.tl  # imported before memory is counted


def genes(n: int) -> ad.AnnData:
    values = np.random.default_rng(0).standard_normal((n, D), dtype=np.float32)
    return ad.AnnData(values, obs=pd.DataFrame(index=[f"G{i}" for i in range(n)]))


def edges(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    source, target = rng.integers(0, n, (2, n * EDGES_PER_GENE))
    return pd.DataFrame(
        {
            "source": [f"G{i}" for i in source],
            "target": [f"G{i}" for i in target],
            "score": rng.random(len(source)),
        }
    )


def classification(n: int, n_boot: int = 0) -> Callable[[], Any]:
    profiles, network = genes(n), edges(n)
    return lambda: cf.tl.edge_classification(profiles, network, n_boot=n_boot)


def by_scikit_learn(a: np.ndarray, b: np.ndarray) -> float:
    return float(cosine_similarity(a[None], b[None])[0, 0])


def by_scipy(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - cosine(a, b)


def pair_loop(n: int, similarity_of: Callable[..., float]) -> Callable[[], Any]:
    profiles, network = genes(n), edges(n)

    def work() -> float:
        scores: dict[frozenset[str], float] = {}
        for row in network.itertuples():
            pair = frozenset((row.source, row.target))
            scores[pair] = max(scores.get(pair, 0.0), row.score)
        labels, similarity = [], []
        rows = dict(zip(profiles.obs_names, profiles.X, strict=True))
        for a, b in combinations(rows, 2):
            score = scores.get(frozenset((a, b)))
            if score is None or score > 0.95:
                labels.append(score is not None)
                similarity.append(similarity_of(rows[a], rows[b]))
        fpr, tpr, _ = roc_curve(labels, similarity)
        return float(np.interp(0.05, fpr, tpr))

    return work


def consistency(n_genes: int, n_guides: int, n_null: int) -> Callable[[], Any]:
    n = n_genes * n_guides
    values = np.random.default_rng(0).standard_normal((n, D), dtype=np.float32)
    obs = pd.DataFrame(
        {"gene": [f"G{i // n_guides}" for i in range(n)]}, index=np.arange(n).astype(str)
    )
    guides = ad.AnnData(values, obs=obs)
    return lambda: cf.tl.guide_consistency(
        guides, target_key="gene", control=None, n_null=n_null, n_boot=0
    )


JOBS = {
    "edge_classification, 1,000 genes": lambda: classification(1000),
    "loop over pairs (scikit-learn), 1,000 genes": lambda: pair_loop(1000, by_scikit_learn),
    "loop over pairs (scipy), 1,000 genes": lambda: pair_loop(1000, by_scipy),
    "edge_classification, 5,000 genes": lambda: classification(5000),
    "edge_classification, 1,000 genes, 1,000 bootstraps": lambda: classification(1000, 1000),
    "guide_consistency, 2,000 x 4 guides, 1,000,000 sets": lambda: consistency(2000, 4, 1_000_000),
}
COMPARISONS = [
    {
        "what": "edge_classification over the loop, 1,000 genes",
        "ours": "edge_classification, 1,000 genes",
        "peer": "loop over pairs (scikit-learn), 1,000 genes",
        "at_least": 200,
    },
    {
        "what": "edge_classification, 5,000 genes",
        "ours": "edge_classification, 5,000 genes",
        "at_most_seconds": 3,
    },
    {
        "what": "guide_consistency, 2,000 genes x 4 guides, 1,000,000 null sets",
        "ours": "guide_consistency, 2,000 x 4 guides, 1,000,000 sets",
        "at_most_seconds": 3,
    },
]

if __name__ == "__main__":
    _measure.main(
        __file__,
        JOBS,
        COMPARISONS,
        slow=(
            "loop over pairs (scikit-learn), 1,000 genes",
            "loop over pairs (scipy), 1,000 genes",
        ),
        packages=("scikit-learn",),
    )
