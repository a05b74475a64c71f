"""Sphering with a constant added to the singular values, as profiling pipelines do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.moments import mean_sd
from cellfuse.kernels.whitening import mean_and_covariance

__all__ = ["Sphering", "SpheringMethod", "fit_sphering"]

SpheringMethod = Literal["ZCA-cor", "ZCA", "PCA-cor", "PCA"]


@dataclass(frozen=True)
class Sphering:
    """A fitted map ``(x - mean) @ matrix``, shapes (d,) and (d, d), float64."""

    mean: NDArray
    matrix: NDArray


def fit_sphering(
    values: NDArray,
    rows: NDArray | None = None,
    *,
    method: SpheringMethod = "ZCA-cor",
    eps: float = 1e-6,
) -> Sphering:
    """Fit a sphering on rows of a matrix.

    With S the singular values and V the right singular vectors of the centred rows (for
    ``"-cor"`` also divided by their standard deviation), ``W = V diag(1 / (S + eps))
    sqrt(n - 1)``, and for ``"ZCA"`` this times the transpose of V. With no more rows than columns
    the missing singular values are set to the smallest that is there.

    Parameters
    ----------
    values
        Shape (n, d).
    rows
        Row numbers to fit on; None is all.
    method
        ``"ZCA"`` changes the data least, ``"PCA"`` turns it to the principal axes, largest
        variance first, each signed so that its largest loading is positive.
    eps
        Added to each singular value.

    Raises
    ------
    ValueError
        An unknown method, a constant feature (``"-cor"``), or dependent features.
    """
    if method not in get_args(SpheringMethod):
        raise ValueError(
            f"method={method!r} is unknown; choose one of {list(get_args(SpheringMethod))}."
        )
    n, d = (len(values) if rows is None else len(rows)), values.shape[1]
    mean, covariance = mean_and_covariance(values, rows)
    gain = np.ones(d)
    if method.endswith("-cor"):
        _, sd = mean_sd(values, rows)
        if not sd.all():
            raise ValueError(
                f"{int((sd == 0).sum())} of {d} features do not vary among the {n} rows to fit on "
                f"(first: number {int(np.argmin(sd))}); {method!r} divides by their spread. Drop "
                "them."
            )
        gain = 1.0 / sd
        covariance = covariance * (gain[:, None] * gain)
    eigenvalues, axes = np.linalg.eigh(covariance)
    eigenvalues, axes = eigenvalues[::-1], axes[:, ::-1]
    singular = np.sqrt(np.maximum(eigenvalues, 0.0) * (n - 1))
    # Squaring the data leaves half the digits: below this an eigenvalue is rounding.
    rank = int((eigenvalues > max(n, d) * np.finfo(np.float64).eps * eigenvalues[0]).sum())
    if rank < min(d, n - 1):
        raise ValueError(
            f"the {n} rows to fit on span {rank} of {d} dimensions, expected {min(d, n - 1)}: some "
            "features are combinations of others, or rows are copies. Drop them, or use "
            "`cellfuse.pp.whiten`, which sets such directions to 0."
        )
    singular[rank:] = singular[rank - 1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(d)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)
    matrix = axes * (np.sqrt(n - 1) / (singular + eps))
    if method.startswith("ZCA"):
        matrix = matrix @ axes.T
    return Sphering(mean, gain[:, None] * matrix)
