"""Principal axes of a covariance whose features may have very different scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spectrum", "constant_features", "spectrum_of"]

#: Smallest over largest eigenvalue down to which the covariance itself gives six digits of each.
RESOLVED = 1e-10
#: Roundings of a value that a feature which does not vary may show.
ROUNDINGS = 4


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues and axes of a covariance, largest first.

    Attributes
    ----------
    eigenvalues
        Shape (d,).
    axes
        Shape (d, d), one per column, each signed so that its largest loading is positive.
    rank
        Directions that vary: the first so many.
    sd
        Standard deviation of each feature, 0 where it is constant, shape (d,).
    """

    eigenvalues: NDArray
    axes: NDArray
    rank: int
    sd: NDArray

    @property
    def n_constant(self) -> int:
        """Features that do not vary."""
        return int((self.sd == 0).sum())


def constant_features(mean: NDArray, covariance: NDArray, dtype: np.dtype) -> NDArray[np.bool_]:
    """Mark the features whose spread is no more than the rounding of their values."""
    kind = np.finfo(dtype if dtype.kind == "f" else np.float64)
    rounding = np.maximum(ROUNDINGS * kind.eps * np.abs(mean), float(kind.tiny))
    return np.sqrt(np.maximum(np.diag(covariance), 0.0)) <= rounding


def spectrum_of(
    covariance: NDArray,
    *,
    scaled: bool = False,
    constant: NDArray | None = None,
    tolerance: float = 1e-9,
) -> Spectrum:
    """Principal axes of a covariance, its rank judged on the scale of correlations.

    An area in pixels may have 10^10 times the variance of a texture: whether a direction varies is
    therefore asked of the correlations, where all features are alike.

    Parameters
    ----------
    covariance
        Shape (d, d).
    scaled
        Give the axes of the correlations instead of those of the covariance.
    constant
        Features that do not vary, shape (d,); those of variance 0 are among them in any case.
    tolerance
        Directions whose variance is below this share of the largest, both of the correlations,
        hold rounding noise.
    """
    variance = np.diag(covariance)
    varies = variance > 0
    if constant is not None:
        varies &= ~constant
    sd = np.sqrt(np.where(varies, variance, 0.0))
    inverse = np.divide(1.0, sd, out=np.zeros_like(sd), where=varies)
    eigenvalues, axes = _descending(covariance * (inverse[:, None] * inverse))
    rank = int((eigenvalues > max(tolerance * eigenvalues[0], 0.0)).sum())
    if not scaled:
        eigenvalues, axes = _rescaled(covariance, sd, eigenvalues, axes, rank)
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(len(axes))]
    return Spectrum(eigenvalues, axes * np.where(largest < 0, -1.0, 1.0), rank, sd)


def _descending(symmetric: NDArray) -> tuple[NDArray, NDArray]:
    eigenvalues, axes = np.linalg.eigh(symmetric)
    return eigenvalues[::-1].copy(), axes[:, ::-1]


def _rescaled(
    covariance: NDArray, sd: NDArray, eigenvalues: NDArray, axes: NDArray, rank: int
) -> tuple[NDArray, NDArray]:
    """Axes of the covariance, from those of its correlations where it spans too many digits."""
    varies = sd > 0
    own, own_axes = _descending(np.where(varies[:, None] & varies, covariance, 0.0))
    if not rank or own[rank - 1] > RESOLVED * own[0]:
        return own, own_axes
    # A root of the covariance: its singular values need half the digits that eigenvalues do.
    root = (axes[:, :rank] * np.sqrt(eigenvalues[:rank])).T * sd
    _, singular, rows = np.linalg.svd(root)
    return np.pad(singular**2, (0, len(sd) - rank)), rows.T
