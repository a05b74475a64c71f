"""TVN, sphering and MAD scaling of 200,000 x 768 float32 in 20 batches, against their peers.

A tenth of the cells are controls. TVN's peer is EFAAR's algorithm, written plainly from its
definition: scikit-learn's scaler and PCA, scipy's fractional matrix power. pycytominer is the
installed one. Numbers are compared first, on a small matrix. Run:
python benchmarks/speed/normalisation.py (about ten minutes; SCALE=0.1 for a tenth of the cells).
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

N = int(200_000 * float(os.environ.get("SCALE", "1")))
D, BATCHES = 768, 20
INPUT_BYTES = 4 * N * D
CONTROLS = {"use_rep": "emb", "control_key": "gene", "control": "control"}
_ = cf.pp  # imported before memory is counted


def cells(n: int = N, d: int = D, dtype: type = np.float32) -> ad.AnnData:
    rng = np.random.default_rng(1)
    obs = pd.DataFrame(
        {
            "batch": rng.integers(0, BATCHES, n).astype(str),
            "gene": np.where(rng.random(n) < 0.1, "control", "gene"),
        },
        index=np.arange(n).astype(str),
    )
    values = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    return ad.AnnData(obs=obs, obsm={"emb": values.astype(dtype, copy=False)})


def efaar_tvn(data: ad.AnnData) -> np.ndarray:
    from scipy.linalg import fractional_matrix_power
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    x = data.obsm["emb"]
    control = (data.obs["gene"] == "control").to_numpy()
    for step in (StandardScaler(), PCA(), StandardScaler()):
        x = step.fit(x[control]).transform(x)
    for batch in data.obs["batch"].unique():
        rows = (data.obs["batch"] == batch).to_numpy()
        covariance = np.cov(x[rows & control], rowvar=False, ddof=1) + 0.5 * np.eye(x.shape[1])
        x[rows] = x[rows] @ fractional_matrix_power(covariance, -0.5).real
    return x


def pycytominer(data: ad.AnnData, method: str) -> pd.DataFrame:
    from pycytominer import normalize

    names = [f"f{j}" for j in range(data.obsm["emb"].shape[1])]
    frame = pd.DataFrame(data.obsm["emb"], columns=names, copy=False)
    frame["Metadata_gene"] = data.obs["gene"].to_numpy()
    return normalize(
        frame,
        features=names,
        meta_features=["Metadata_gene"],
        samples="Metadata_gene == 'control'",
        method="mad_robustize" if method == "mad" else "spherize",
        spherize_method="ZCA" if method == "mad" else method,
    ).drop(columns="Metadata_gene")


def ours(verb: Callable[..., None], **arguments: Any) -> Callable[[], Any]:
    data = cells()
    return lambda: verb(data, **CONTROLS, **arguments)


def theirs(peer: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    data = cells()
    return lambda: peer(data, *arguments)


def agree() -> None:
    """Largest differences from the peers on 6,000 x 24 float64."""
    data = cells(6000, 24, np.float64)
    cf.pp.tvn(data, **CONTROLS, batch_key="batch", key_added="tvn")
    cf.pp.mad_robustize(data, **CONTROLS, key_added="mad")
    found = {"tvn": (data.obsm["tvn"], efaar_tvn(cells(6000, 24, np.float64)))}
    found["mad"] = data.obsm["mad"], pycytominer(data, "mad").to_numpy()
    for method in ("ZCA-cor", "ZCA", "PCA-cor", "PCA"):
        cf.pp.sphere(data, **CONTROLS, method=method, key_added=method)
        pair = data.obsm[method], pycytominer(data, method).to_numpy()
        # The signs of principal axes are free.
        found[method] = tuple(np.abs(x) for x in pair) if method.startswith("PCA") else pair
    for name, (mine, peer) in found.items():
        difference = float(np.abs(mine - peer).max())
        print(f"{name:10s} differs from its peer by at most {difference:.1e}")
        assert difference < 1e-5


JOBS = {
    "tvn": lambda: ours(cf.pp.tvn, batch_key="batch"),
    "EFAAR's TVN": lambda: theirs(efaar_tvn),
    "sphere, ZCA-cor": lambda: ours(cf.pp.sphere),
    "pycytominer spherize, ZCA-cor": lambda: theirs(pycytominer, "ZCA-cor"),
    "mad_robustize": lambda: ours(cf.pp.mad_robustize),
    "pycytominer mad_robustize": lambda: theirs(pycytominer, "mad"),
}
COMPARISONS = [
    {"what": "tvn over EFAAR's", "ours": "tvn", "peer": "EFAAR's TVN", "at_least": 5},
    {
        "what": "tvn, peak memory with its input",
        "ours": "tvn",
        "at_most_memory": 2,
        "input_bytes": INPUT_BYTES,
    },
    {
        "what": "sphere over pycytominer",
        "ours": "sphere, ZCA-cor",
        "peer": "pycytominer spherize, ZCA-cor",
        "at_least": 1,
    },
    {
        "what": "mad_robustize over pycytominer",
        "ours": "mad_robustize",
        "peer": "pycytominer mad_robustize",
        "at_least": 1,
    },
]

if __name__ == "__main__":
    if "--job" not in sys.argv:
        agree()
    _measure.main(
        __file__,
        JOBS,
        COMPARISONS,
        slow=("EFAAR's TVN", "pycytominer spherize, ZCA-cor", "pycytominer mad_robustize"),
        packages=("pycytominer", "scikit-learn"),
    )
