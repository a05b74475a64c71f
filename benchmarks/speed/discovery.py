"""Target discovery, one-shot transfer and splits on 100,000 profiles.

The peers are plain loops with scikit-learn's cosines and scores, on a part of the profiles that
they get through in reasonable time; both sides then work on that part. Run:
python benchmarks/speed/discovery.py (about ten minutes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _measure
import anndata as ad
import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

import cellfuse as cf

N, D, N_DOSES, N_GENES, N_CLASSES, N_SEEDS, N_RUNS = 100_000, 384, 4, 800, 500, 100, 50
_ = cf.tl  # imported before memory is counted


def vectors(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, D), dtype=np.float32)


def compounds(n: int) -> ad.AnnData:
    obs = pd.DataFrame(
        {
            "compound": [f"c{i // N_DOSES:05d}" for i in range(n)],
            "dose": [float(10 ** (i % N_DOSES)) for i in range(n)],
        },
        index=[f"p{i}" for i in range(n)],
    )
    return ad.AnnData(vectors(n, 0), obs=obs)


def genes() -> ad.AnnData:
    obs = pd.DataFrame(index=[f"G{i:03d}" for i in range(N_GENES)])
    return ad.AnnData(vectors(N_GENES, 1), obs=obs)


def targets(n: int) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    pairs = [
        (f"c{i:05d}", f"G{j:03d}")
        for i in range(n // N_DOSES)
        for j in rng.choice(N_GENES, 1 + i % 3, replace=False)
    ]
    return pd.DataFrame(pairs, columns=["source", "target"])


def discovery(n: int) -> Callable[[], Any]:
    a, b, known = compounds(n), genes(), targets(n)
    return lambda: cf.tl.target_discovery(
        a, b, known, n_draws=N_SEEDS, compound_key="compound", dose_key="dose"
    )


def discovery_loop(n: int) -> Callable[[], Any]:
    a, b, known = compounds(n), genes(), targets(n)

    def work() -> float:
        of = known.groupby("source")["target"].apply(set)
        pool = sorted(set(known["target"]))
        rows = {name: row for row, name in enumerate(b.obs_names)}
        rng, scores = np.random.default_rng(0), []
        for row, name in enumerate(a.obs["compound"]):
            mine = sorted(of[name])
            others = [gene for gene in pool if gene not in of[name]]
            for _ in range(N_SEEDS):
                drawn = rng.choice(others, max(2 * len(mine), 20), replace=False)
                among = [rows[gene] for gene in [*mine, *drawn]]
                score = np.abs(cosine_similarity(a.X[row : row + 1], b.X[among])[0])
                label = np.arange(len(among)) < len(mine)
                scores.append((average_precision_score(label, score), roc_auc_score(label, score)))
        return float(np.mean(scores))

    return work


def profiles(n: int) -> ad.AnnData:
    obs = pd.DataFrame(
        {"gene": [f"g{i % N_CLASSES}" for i in range(n)]}, index=[f"p{i}" for i in range(n)]
    )
    return ad.AnnData(vectors(n, 3), obs=obs)


def one_shot(n: int) -> Callable[[], Any]:
    a = profiles(n)
    return lambda: cf.tl.one_shot_transfer(a, use_rep=None, by="gene", n_draws=N_RUNS)


def one_shot_loop(n: int) -> Callable[[], Any]:
    a = profiles(n)

    def work() -> float:
        rng, label = np.random.default_rng(0), a.obs["gene"].to_numpy()
        rows = {name: np.flatnonzero(label == name) for name in np.unique(label)}
        hits = []
        for _ in range(N_RUNS):
            references = {name: rng.choice(of) for name, of in rows.items()}
            names = np.array(list(references))
            known = a.X[list(references.values())]
            for row in range(n):
                if row == references[label[row]]:
                    continue
                order = np.argsort(-cosine_similarity(a.X[row : row + 1], known)[0])
                hits.append((names[order[0]] == label[row], label[row] in names[order[:5]]))
        return float(np.mean(hits))

    return work


def divide(n: int) -> Callable[[], Any]:
    a = compounds(n)
    return lambda: cf.tl.split(a, by="compound")


JOBS = {
    "target_discovery, 100,000 profiles": lambda: discovery(N),
    "target_discovery, 200 profiles": lambda: discovery(200),
    "loop (scikit-learn), target discovery, 200 profiles": lambda: discovery_loop(200),
    "one_shot_transfer, 100,000 profiles": lambda: one_shot(N),
    "one_shot_transfer, 2,000 profiles": lambda: one_shot(2000),
    "loop (scikit-learn), one-shot transfer, 2,000 profiles": lambda: one_shot_loop(2000),
    "split, 100,000 profiles": lambda: divide(N),
}
COMPARISONS = [
    {
        "what": "target_discovery, 100,000 profiles, 100 draws",
        "ours": "target_discovery, 100,000 profiles",
        "at_most_seconds": 15,
    },
    {
        "what": "one_shot_transfer, 100,000 profiles, 500 classes, 50 runs",
        "ours": "one_shot_transfer, 100,000 profiles",
        "at_most_seconds": 30,
    },
    {
        "what": "split, 100,000 profiles",
        "ours": "split, 100,000 profiles",
        "at_most_seconds": 1,
    },
    {
        "what": "target_discovery over the loop, 200 profiles",
        "ours": "target_discovery, 200 profiles",
        "peer": "loop (scikit-learn), target discovery, 200 profiles",
        "at_least": 50,
    },
    {
        "what": "one_shot_transfer over the loop, 2,000 profiles",
        "ours": "one_shot_transfer, 2,000 profiles",
        "peer": "loop (scikit-learn), one-shot transfer, 2,000 profiles",
        "at_least": 20,
    },
]

if __name__ == "__main__":
    _measure.main(
        __file__,
        JOBS,
        COMPARISONS,
        slow=tuple(name for name in JOBS if name.startswith("loop")),
        packages=("scikit-learn",),
    )
