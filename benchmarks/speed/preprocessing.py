"""Scaling and whitening of 200,000 x 768 float32 in 20 batches, against pycytominer and sklearn.

A tenth of the cells are controls. Run:
python benchmarks/speed/preprocessing.py (about six minutes).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import _measure
import anndata as ad
import numpy as np
import pandas as pd

import cellfuse as cf

N, D, BATCHES, CONTROLS = 200_000, 768, 20, 10_000
INPUT_BYTES = 4 * N * D
_ = cf.pp  # imported before memory is counted


def matrix() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((N, D), dtype=np.float32)


def labels() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "Metadata_batch": rng.permutation(np.repeat(np.arange(BATCHES), N // BATCHES)).astype(
                str
            ),
            "Metadata_gene": np.where(rng.random(N) < 0.1, "control", "gene"),
        },
        index=np.arange(N).astype(str),
    )


def cells() -> ad.AnnData:
    return ad.AnnData(obs=labels(), obsm={"emb": matrix()})


def scaling(scale: str) -> Callable[[], Any]:
    data = cells()
    return lambda: cf.pp.robust_center_scale(
        data,
        use_rep="emb",
        control_key="Metadata_gene",
        control="control",
        batch_key="Metadata_batch",
        scale=scale,
    )


def whitening(method: str) -> Callable[[], Any]:
    data = cells()
    return lambda: cf.pp.whiten(data, use_rep="emb", method=method)


def table() -> tuple[pd.DataFrame, list[str]]:
    names = [f"f{j}" for j in range(D)]
    frame = pd.DataFrame(matrix(), columns=names, copy=False)
    return frame.assign(**{k: v.to_numpy() for k, v in labels().items()}), names


def pycytominer_scaling(method: str) -> Callable[[], Any]:
    from pycytominer import normalize

    frame, names = table()

    def work() -> pd.DataFrame:
        return pd.concat(
            normalize(
                batch,
                features=names,
                meta_features=["Metadata_batch", "Metadata_gene"],
                samples="Metadata_gene == 'control'",
                method=method,
            )
            for _, batch in frame.groupby("Metadata_batch")
        )

    return work


def pycytominer_sphering() -> Callable[[], Any]:
    from pycytominer import normalize

    frame, names = table()
    frame["Metadata_fit"] = np.where(np.arange(N) < CONTROLS, "fit", "rest")
    return lambda: normalize(
        frame,
        features=names,
        meta_features=["Metadata_fit"],
        samples="Metadata_fit == 'fit'",
        method="spherize",
        spherize_method="ZCA",
    )


def sklearn_whitening() -> Callable[[], Any]:
    from sklearn.decomposition import PCA

    values = matrix()
    return lambda: PCA(whiten=True).fit_transform(values)


JOBS = {
    "robust_center_scale, IQR": lambda: scaling("iqr"),
    "robust_center_scale, MAD": lambda: scaling("mad"),
    "pycytominer robustize, per batch": lambda: pycytominer_scaling("robustize"),
    "pycytominer mad_robustize, per batch": lambda: pycytominer_scaling("mad_robustize"),
    "whiten, ZCA, all cells": lambda: whitening("zca"),
    "whiten, PCA, all cells": lambda: whitening("pca"),
    "scikit-learn PCA(whiten=True), all cells": sklearn_whitening,
    "pycytominer spherize ZCA, fitted on 10,000": pycytominer_sphering,
}
COMPARISONS = [
    {
        "what": "robust_center_scale (IQR) over pycytominer robustize",
        "ours": "robust_center_scale, IQR",
        "peer": "pycytominer robustize, per batch",
        "at_least": 6,
    },
    {
        "what": "robust_center_scale (MAD) over pycytominer mad_robustize",
        "ours": "robust_center_scale, MAD",
        "peer": "pycytominer mad_robustize, per batch",
        "at_least": 6,
    },
    {
        "what": "robust_center_scale, peak memory with its input",
        "ours": "robust_center_scale, IQR",
        "at_most_memory": 1.5,
        "input_bytes": INPUT_BYTES,
    },
    {
        "what": "whiten (ZCA) over pycytominer spherize",
        "ours": "whiten, ZCA, all cells",
        "peer": "pycytominer spherize ZCA, fitted on 10,000",
        "at_least": 5,
    },
    {
        "what": "whiten (PCA) over scikit-learn",
        "ours": "whiten, PCA, all cells",
        "peer": "scikit-learn PCA(whiten=True), all cells",
        "at_least": 1,
    },
    {
        "what": "whiten, peak memory with its input",
        "ours": "whiten, ZCA, all cells",
        "at_most_memory": 1.5,
        "input_bytes": INPUT_BYTES,
    },
]

if __name__ == "__main__":
    _measure.main(
        __file__,
        JOBS,
        COMPARISONS,
        slow=("pycytominer spherize ZCA, fitted on 10,000",),
        packages=("pycytominer", "scikit-learn"),
    )
