"""Typical variation normalisation as one affine map per batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import in_threads
from cellfuse.kernels.moments import mean_sd
from cellfuse.kernels.whitening import fit_whitening, mean_and_covariance

__all__ = ["TVN", "fit_tvn", "inverse_root"]


@dataclass(frozen=True)
class TVN:
    """A fitted normalisation, ``(x - mean) @ matrices[b]`` for a row of batch b.

    Attributes
    ----------
    mean
        Of all controls, shape (d,).
    whitening
        The part that all batches share, shape (d, d): standardisation and principal axes of all
        controls, unit variance along each.
    matrices
        Shape (batches, d, d), float64: `whitening` times the batch's own correction.
    n_dropped
        Directions in which the controls do not vary, whose output is 0.
    """

    mean: NDArray
    whitening: NDArray
    matrices: NDArray
    n_dropped: int


def inverse_root(covariance: NDArray) -> NDArray:
    """Inverse square root of a symmetric matrix; 0 in directions whose eigenvalue is 0."""
    eigenvalues, axes = np.linalg.eigh(covariance)
    kept = eigenvalues > 1e-12 * eigenvalues[-1]
    gain = np.zeros_like(eigenvalues)
    gain[kept] = 1.0 / np.sqrt(eigenvalues[kept])
    return (axes * gain) @ axes.T


def fit_tvn(
    values: NDArray,
    controls: Sequence[NDArray],
    *,
    eps: float = 0.5,
    turned_back: bool = False,
    tolerance: float = 1e-9,
) -> TVN:
    """Fit the normalisation on the controls.

    Standardise by all controls, rotate to their principal axes, scale each to unit variance;
    then, for each batch, multiply with ``(cov(controls of b) + r I)^(-1/2)``. All of it is
    linear, so the covariance of a batch is carried through the shared part instead of its cells.

    Parameters
    ----------
    values
        Shape (n, d).
    controls
        Row numbers of each batch's controls, at least two each.
    eps
        r, added to the diagonal of a batch's covariance (0.5 in EFAAR).
    turned_back
        Turn the result from the principal axes back to the axes of the input: the same
        distances and cosines, in coordinates that mean what they meant.
    tolerance
        Directions whose variance is below this share of the largest are dropped.
    """
    if hasattr(values, "hold"):  # not in memory: its controls are, where they fit
        values, controls = values.hold(controls)
    every = np.sort(np.concatenate(controls))
    _, sd = mean_sd(values, every)
    mean, covariance = mean_and_covariance(values, every)
    gain = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > 0)
    n = len(every)
    # The standardisation divides by n, the covariance by n - 1.
    correlation = covariance * (gain[:, None] * gain) * ((n - 1) / n)
    fit = fit_whitening(correlation, method="pca", tolerance=tolerance)
    shared = gain[:, None] * fit.matrix
    back = np.eye(len(sd))
    if turned_back:
        scale = np.sqrt(np.maximum(fit.eigenvalues, 0.0))
        back = (fit.matrix * scale).T  # the axes themselves: 0 where dropped

    def of_batch(rows: NDArray) -> NDArray:
        _, own = mean_and_covariance(values, rows)
        whitened = shared.T @ own @ shared
        whitened[np.diag_indices_from(whitened)] += eps
        return shared @ inverse_root(whitened) @ back

    return TVN(
        mean,
        shared @ back,
        np.stack(
            [of_batch(rows) for rows in controls]
            if hasattr(values, "run")
            else in_threads(of_batch, controls, linear_algebra=True)
        ),
        fit.n_dropped,
    )
