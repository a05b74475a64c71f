"""The codebook of a trained TIDE as an AnnData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["codebook_adata"]

#: Rows of all-pairs matrices that exist at a time.
BLOCK = 1024


def codebook_adata(
    drugs: Sequence[str],
    smiles: Mapping[str, str],
    *,
    fingerprints: Tensor,
    prototypes: Tensor,
    initial: Tensor,
    n_pairs: int = 50,
) -> AnnData:
    """Fingerprints and prototypes of the drugs, maps of both, and the pairs that moved together."""
    bits = fingerprints.detach().cpu().numpy().astype(np.uint8)
    now, then = (x.detach().cpu().numpy().astype(np.float32) for x in (prototypes, initial))
    names = pd.Index(list(drugs), name="drug")
    obs = pd.DataFrame(
        {"smiles": [smiles[name] for name in drugs], "drift": 1 - (now * then).sum(axis=1)},
        index=names,
    )
    obsm = {
        "fingerprint": bits,
        "prototype": now,
        "initial_prototype": then,
        "fingerprint_map": _plane(bits),
        "prototype_map": _plane(now),
    }
    adata = AnnData(obs=obs, obsm=obsm)
    adata.uns["pairs"] = _pairs(np.array(list(drugs)), bits, now, then, n_pairs)
    return adata


def _plane(x: NDArray) -> NDArray[np.float32]:
    """First two principal components, ``(n, 2)``, each with its largest loading positive."""
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    left, size, right = np.linalg.svd(centred, full_matrices=False)
    k = min(2, len(size))
    sign = np.sign(right[np.arange(k), np.abs(right[:k]).argmax(axis=1)])
    plane = np.zeros((len(x), 2), np.float32)
    plane[:, :k] = left[:, :k] * size[:k] * np.where(sign == 0, 1, sign)
    return plane


def _pairs(
    names: NDArray, bits: NDArray, now: NDArray, then: NDArray, n_pairs: int
) -> pd.DataFrame:
    """Pairs whose prototypes came nearer to each other than other pairs did, largest gain first.

    All prototypes start near each other and spread in training, so that a cosine is measured by
    the mean and standard deviation of all pairs' at its time.
    """
    (mean_now, sd_now), (mean_then, sd_then) = _spread(now), _spread(then)
    kept: list[tuple[NDArray, ...]] = []
    for start in range(0, len(names), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(names)))
        gain = (now[rows] @ now.T - mean_now) / sd_now - (then[rows] @ then.T - mean_then) / sd_then
        gain[rows[:, None] >= np.arange(len(names))] = -np.inf
        flat = np.argsort(-gain, axis=None, kind="stable")[:n_pairs]
        a, b = np.unravel_index(flat, gain.shape)
        real = np.isfinite(gain[a, b])
        kept.append((rows[a[real]], b[real], gain[a, b][real]))
    a, b, gain = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    best = np.argsort(-gain, kind="stable")[:n_pairs]
    a, b, gain = a[best], b[best], gain[best]
    on = bits.astype(np.float32)
    shared = (on[a] * on[b]).sum(axis=1)
    either = np.maximum(on[a].sum(axis=1) + on[b].sum(axis=1) - shared, 1)
    return pd.DataFrame(
        {
            "source": names[a],
            "target": names[b],
            "tanimoto": shared / either,
            "cosine_initial": (then[a] * then[b]).sum(axis=1),
            "cosine": (now[a] * now[b]).sum(axis=1),
            "gain": gain,
        },
        index=pd.RangeIndex(len(a)).astype(str),
    )


def _spread(unit: NDArray) -> tuple[float, float]:
    """Mean and standard deviation of the cosines of all pairs, without writing them down."""
    x = unit.astype(np.float64)
    n = len(x)
    n_pairs = n * (n - 1)
    mean = (np.square(x.sum(axis=0)).sum() - np.square(x).sum()) / n_pairs
    own = np.square(np.square(x).sum(axis=1)).sum()
    square = (np.square(x.T @ x).sum() - own) / n_pairs
    return float(mean), float(np.sqrt(max(square - mean**2, 1e-12)))
