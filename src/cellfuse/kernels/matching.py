"""Matching of two sets of points in one space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellfuse.kernels.energy import distances

__all__ = ["shared_neighbours", "transport"]


def transport(x: NDArray, y: NDArray, *, eps: float, max_iter: int) -> NDArray:
    """Entropic optimal transport plan between uniform weights, rows scaled to sum to 1.

    Euclidean cost; iterated in the logarithm, which neither underflows nor overflows.

    Parameters
    ----------
    x, y
        Shapes (n, d) and (m, d).
    eps
        Weight of the entropy, in units of the cost.
    """
    import ot  # type: ignore[import-untyped]

    n, m = len(x), len(y)
    plan = ot.sinkhorn(
        np.full(n, 1 / n),
        np.full(m, 1 / m),
        distances(x, y),
        reg=eps,
        method="sinkhorn_log",
        numItermax=max_iter,
        stopThr=1e-6,
        warn=False,
    )
    return plan / plan.sum(axis=1, keepdims=True)


def shared_neighbours(x: NDArray, y: NDArray, *, k: int) -> sparse.csr_array:
    """Jaccard index of nearest neighbours in both sets, rows scaled to sum to 1.

    With N the k nearest neighbours of a point in each of the two sets (a point is its own
    nearest), ``S = |N(x) and N(y)|`` over both sets, weight ``S / (4 k - S)``. Equal distances go
    to the point that comes first in the set. Rows without a shared neighbour stay empty.

    Parameters
    ----------
    x, y
        Shapes (n, d) and (m, d); scaled to length 1 here.
    """
    x, y = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-300) for v in (x, y))
    kx, ky = min(k, len(x)), min(k, len(y))
    shared = _nearest(x, y, ky) @ _nearest(y, y, ky).T + _nearest(x, x, kx) @ _nearest(y, x, kx).T
    shared = sparse.csr_array(shared)
    shared.data = shared.data / (2 * kx + 2 * ky - shared.data)
    total = np.asarray(shared.sum(axis=1)).ravel()
    inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    return sparse.csr_array(sparse.diags_array(inverse) @ shared)


def _nearest(points: NDArray, among: NDArray, k: int) -> sparse.csr_array:
    distance = distances(points, among)
    order = np.argsort(np.round(distance, 12), axis=1, kind="stable")[:, :k]
    n = len(points)
    rows = np.repeat(np.arange(n), k)
    return sparse.csr_array((np.ones(n * k), (rows, order.ravel())), shape=distance.shape)
