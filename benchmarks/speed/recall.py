"""Relationship recall of 5,000 genes on five sources, and of 20,000 genes on one.

The peer is EFAAR's algorithm, written plainly from its definition: pairs put in order and freed of
repeats row by row, the matrix of all cosines, its upper triangle sorted anew for each source, one
look-up per pair. A source lists 58,000 pairs of 18,000 genes in both directions, as StringDB's
physical network does. Run: python benchmarks/speed/recall.py (about two minutes;
SCALE=0.2 for a fifth of the genes).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import _measure
import anndata as ad
import numpy as np
import pandas as pd

import cellfuse as cf

SCALE = float(os.environ.get("SCALE", "1"))
N, MANY, D = int(5000 * SCALE), int(20_000 * SCALE), 768
SOURCES, PAIRS, UNIVERSE = 5, 58_000, 18_000
_ = cf.tl  # imported before memory is counted


def genes(n: int) -> ad.AnnData:
    values = np.random.default_rng(0).standard_normal((n, D), dtype=np.float32)
    return ad.AnnData(values, obs=pd.DataFrame(index=[f"G{i}" for i in range(n)]))


def sources(n: int) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(1)
    tables = {}
    for k in range(SOURCES):
        ends = rng.integers(0, max(n, UNIVERSE), (PAIRS, 2))
        names = np.char.add("G", np.concatenate([ends, ends[:, ::-1]]).astype(str))
        tables[f"source {k}"] = pd.DataFrame(names, columns=["source", "target"])
    return tables


def efaar_recall(profiles: ad.AnnData, tables: dict[str, pd.DataFrame]) -> dict[str, float]:
    from sklearn.metrics.pairwise import cosine_similarity

    names = profiles.obs_names
    matrix = pd.DataFrame(cosine_similarity(profiles.X), index=names, columns=names)
    null = matrix.to_numpy()[np.triu_indices(len(names), k=1)]
    recall = {}
    for source, listed in tables.items():
        ends = listed.apply(lambda row: tuple(sorted([row["source"], row["target"]])), axis=1)
        pairs = pd.DataFrame(ends.tolist(), columns=["a", "b"]).query("a != b").drop_duplicates()
        pairs = pairs[pairs["a"].isin(names) & pairs["b"].isin(names)]
        query = np.array([matrix.loc[a, b] for a, b in pairs.itertuples(index=False)])
        ordered = np.sort(null)
        left = np.searchsorted(ordered, query, side="left") / len(ordered)
        right = np.searchsorted(ordered, query, side="right") / len(ordered)
        recall[source] = float(np.mean((right <= 0.05) | (left >= 0.95)))
    return recall


def ours(n: int, **arguments: Any) -> Callable[[], Any]:
    profiles, tables = genes(n), sources(n)
    return lambda: cf.tl.relationship_recall(profiles, tables, **{"n_boot": 0, **arguments})


def theirs(n: int) -> Callable[[], Any]:
    profiles, tables = genes(n), sources(n)
    return lambda: efaar_recall(profiles, tables)


def agree() -> None:
    profiles, tables = genes(600), sources(600)
    mine = cf.tl.relationship_recall(profiles, tables, n_boot=0)["recall"]
    difference = max(abs(mine[s] - r) for s, r in efaar_recall(profiles, tables).items())
    print(f"recall differs from its peer by at most {difference:.1e}")
    # The peer's cosines are float32: a pair at the very edge may fall to the other side.
    assert difference < 1e-3


JOBS = {
    "relationship_recall, 5,000 genes": lambda: ours(N),
    "EFAAR's, 5,000 genes": lambda: theirs(N),
    "relationship_recall, 5,000 genes, 1,000 bootstraps": lambda: ours(N, n_boot=1000),
    "relationship_recall, 20,000 genes": lambda: ours(MANY),
}
COMPARISONS = [
    {
        "what": "relationship_recall over EFAAR's, 5,000 genes, five sources",
        "ours": "relationship_recall, 5,000 genes",
        "peer": "EFAAR's, 5,000 genes",
        "at_least": 10,
    },
    {
        "what": "relationship_recall, 20,000 genes, peak memory over 2 GB",
        "ours": "relationship_recall, 20,000 genes",
        "at_most_memory": 1,
        "input_bytes": 2e9,
    },
]

if __name__ == "__main__":
    if "--job" not in sys.argv:
        agree()
    _measure.main(
        __file__,
        JOBS,
        COMPARISONS,
        slow=("EFAAR's, 5,000 genes",),
        packages=("scikit-learn",),
    )
