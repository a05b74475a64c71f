"""Canonical correlation analysis in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.whitening import fit_whitening, mean_and_covariance

__all__ = ["CCA", "fit_cca"]


@dataclass(frozen=True)
class CCA:
    """Two linear maps, ``(x - mean_x) @ weights_x`` and the same for y.

    Attributes
    ----------
    weights_x, weights_y
        Shapes (dx, k) and (dy, k): variates of unit variance, without shrinkage uncorrelated within
        each side.
    correlations
        Of the k pairs of variates; without shrinkage the largest first.
    rank_x, rank_y
        Dimensions that the data span.
    """

    mean_x: NDArray
    mean_y: NDArray
    weights_x: NDArray
    weights_y: NDArray
    correlations: NDArray
    rank_x: int
    rank_y: int

    def transform(self, x: NDArray, y: NDArray) -> tuple[NDArray, NDArray]:
        """Variates of both sides, shape (n, k) each."""
        return (x - self.mean_x) @ self.weights_x, (y - self.mean_y) @ self.weights_y


def fit_cca(x: NDArray, y: NDArray, *, n_components: int, eps: float = 0.0) -> CCA:
    """Fit by the singular values of the whitened cross-covariance.

    Parameters
    ----------
    x, y
        Shapes (n, dx) and (n, dy), rows paired.
    n_components
        k, at most the smaller rank.
    eps
        Share of each covariance that is replaced by its mean variance times the identity.

    Raises
    ------
    ValueError
        More variates than a side has dimensions.
    """
    mean_x, own_x = mean_and_covariance(x)
    mean_y, own_y = mean_and_covariance(y)
    ranks = [_rank(covariance) for covariance in (own_x, own_y)]
    if n_components > min(ranks):
        # A further variate would be rounding, blown up to unit variance.
        raise ValueError(
            f"n_components={n_components}: the data span {ranks[0]} and {ranks[1]} dimensions "
            f"(features are constant or repeat others), which have at most {min(ranks)} canonical "
            "variates."
        )
    fits = []
    for covariance in (own_x, own_y):
        d = len(covariance)
        shrunk = (1 - eps) * covariance
        shrunk[np.diag_indices(d)] += eps * np.trace(covariance) / d
        fits.append(fit_whitening(shrunk, method="zca"))
    cross = (x - mean_x).T @ (y - mean_y) / (len(x) - 1)
    left, _, right = np.linalg.svd(fits[0].matrix @ cross @ fits[1].matrix)
    k = n_components
    # The sign of a pair is free: the largest loading of x is positive.
    largest = left[np.abs(left).argmax(axis=0), np.arange(left.shape[1])]
    sign = np.where(largest < 0, -1.0, 1.0)[:k]
    weights = [fits[0].matrix @ left[:, :k] * sign, fits[1].matrix @ right[:k].T * sign]
    for w, covariance in zip(weights, (own_x, own_y), strict=True):
        # Shrunk covariances whiten only nearly: unit variance is that of the data.
        w /= np.sqrt(np.einsum("ij,ik,kj->j", w, covariance, w, optimize=True))
    return CCA(
        mean_x,
        mean_y,
        weights[0],
        weights[1],
        np.einsum("ij,ik,kj->j", weights[0], cross, weights[1], optimize=True),
        *ranks,
    )


def _rank(covariance: NDArray) -> int:
    return len(covariance) - fit_whitening(covariance).n_dropped
