"""`cf.benchmark` of 12 methods x 5 metrics x 3 seeds on 15,000 + 15,000 cells, embeddings given.

300 targets of 4 guides, embeddings of 64 dimensions; scoring alone is timed, in two processes and
in one, and the same once more from the results folder. Run: python benchmarks/speed/benchmark.py
(about ten minutes; SCALE=0.1 for a tenth of the targets).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

import _measure
import anndata as ad
import numpy as np
import pandas as pd
from mudata import MuData

import cellfuse as cf
from cellfuse._mudata import make_mudata

SCALE = float(os.environ.get("SCALE", "1"))
N_TARGETS, N_GUIDES, N_CONTROLS, N_CELLS, WIDTH = int(300 * SCALE), 4, 50, 12, 64
#: Six embeddings, four late fusions of the first, two floors.
METHODS = [
    *(f"emb{i}" for i in range(6)),
    "emb0@max", "emb0@mean", "emb0@min", "emb0@cca_mean", "random", "position",
]  # fmt: skip
_ = cf.bench, cf.tl  # imported before the clock runs


def screen() -> MuData:
    rng = np.random.default_rng(0)
    genes = [*np.repeat([f"T{i}" for i in range(N_TARGETS)], N_GUIDES), *["NT"] * N_CONTROLS]
    guides = pd.DataFrame({"gene": genes, "guide": [f"g{i}" for i in range(len(genes))]})
    complexes = rng.normal(size=(N_TARGETS // 4 + 1, WIDTH))[np.arange(N_TARGETS) // 4]
    effect = np.vstack([np.repeat(complexes, N_GUIDES, axis=0), np.zeros((N_CONTROLS, WIDTH))])
    parts = {}
    for name in ("image", "rna"):
        obs = guides.loc[np.repeat(guides.index, N_CELLS)].reset_index(drop=True)
        obs.index = [f"{name}-{i}" for i in range(len(obs))]
        obs["plate"] = pd.Categorical(rng.integers(6, size=len(obs)).astype(str))
        cells = ad.AnnData(obs=obs)
        for i in range(6):
            noise = (1 + i) * rng.normal(size=(len(obs), WIDTH))
            cells.obsm[f"emb{i}"] = (np.repeat(effect, N_CELLS, axis=0) + noise).astype("f4")
        parts[name] = cells
    mdata = make_mudata(parts)
    i = np.arange(N_TARGETS - 1)
    i = i[i % 4 != 3]
    mdata.uns["pairs"] = pd.DataFrame(
        {"source": [f"T{k}" for k in i], "target": [f"T{k + 1}" for k in i]}
    )
    return mdata


def table(n_jobs: int, *, twice: bool = False) -> Callable[[], Any]:
    mdata = screen()
    folder = tempfile.mkdtemp()

    def run() -> Any:
        return cf.benchmark(
            mdata,
            METHODS,
            {
                "guide_consistency": {},
                "edges": {"edges": "uns:pairs"},
                "relationship_recall": {"pairs": "uns:pairs"},
                "mean_average_precision": {},
                "alignment": {},
            },
            context_keys="guide",
            control_key="gene",
            control="NT",
            target_key="gene",
            batch_key="plate",
            seeds=3,
            hold_out=0.2,
            against="emb1",
            folder=folder,
            n_jobs=n_jobs,
            progress=False,
        )

    if twice:
        run()
    return run


JOBS = {
    "two processes": lambda: table(2),
    "one process": lambda: table(1),
    "again, from its folder": lambda: table(2, twice=True),
}
COMPARISONS = [
    {"what": "12 x 5 x 3 on two cores", "ours": "two processes", "at_most_seconds": 600},
    {"what": "what is there is not computed again", "ours": "again, from its folder",
     "peer": "two processes", "at_least": 5},
]  # fmt: skip

if __name__ == "__main__":
    _measure.main(__file__, JOBS, COMPARISONS, slow=tuple(JOBS), packages=("scikit-learn",))
