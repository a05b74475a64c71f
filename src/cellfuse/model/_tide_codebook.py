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
    """Pairs whose prototypes came nearest to each other, largest gain first."""
    on = bits.astype(np.float32)
    n_on = on.sum(axis=1)
    kept: list[tuple[NDArray, ...]] = []
    for start in range(0, len(names), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(names)))
        gain = now[rows] @ now.T - then[rows] @ then.T
        gain[rows[:, None] >= np.arange(len(names))] = -np.inf
        flat = np.argsort(-gain, axis=None, kind="stable")[:n_pairs]
        a, b = np.unravel_index(flat, gain.shape)
        real = np.isfinite(gain[a, b])
        kept.append((rows[a[real]], b[real], gain[a, b][real]))
    a, b, gain = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    best = np.argsort(-gain, kind="stable")[:n_pairs]
    a, b, gain = a[best], b[best], gain[best]
    shared = (on[a] * on[b]).sum(axis=1)
    either = np.maximum(n_on[a] + n_on[b] - shared, 1)
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
