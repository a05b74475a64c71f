"""Sphering with a constant added to the singular values, as profiling pipelines do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.shrinkage import fourth_moment, ledoit_wolf, ridge_of
from cellfuse.kernels.spectrum import constant_features, spectrum_of
from cellfuse.kernels.whitening import mean_and_covariance

__all__ = ["RankError", "Sphering", "SpheringMethod", "fit_sphering"]

SpheringMethod = Literal["ZCA-cor", "ZCA", "PCA-cor", "PCA"]


class RankError(ValueError):
    """Rows that span fewer directions than they should."""

    def __init__(self, text: str, *, n_dropped: int, n_constant: int) -> None:
        super().__init__(text)
        self.n_dropped = n_dropped
        self.n_constant = n_constant


@dataclass(frozen=True)
class Sphering:
    """A fitted map ``(x - mean) @ matrix``, shapes (d,) and (d, d), float64.

    Attributes
    ----------
    variance
        Of the features as they were turned, shape (d,), 0 where they do not vary.
    ridge
        What was, in effect, added to the eigenvalues.
    """

    mean: NDArray
    matrix: NDArray
    variance: NDArray
    ridge: float

    def outweighed(self, share: float) -> int:
        """Features that vary, with less than `share` of the ridge."""
        return int(((self.variance > 0) & (self.variance < share * self.ridge)).sum())


def fit_sphering(
    values: NDArray,
    rows: NDArray | None = None,
    *,
    method: SpheringMethod = "ZCA-cor",
    eps: float | Literal["auto"] = 1e-6,
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
        Added to each singular value. ``"auto"`` draws the eigenvalues towards their mean instead,
        by Ledoit and Wolf's share; features may then be dependent.

    Raises
    ------
    ValueError
        An unknown method, a constant feature (``"-cor"``), or (a :class:`RankError`) dependent
        features, as judged on the scale of correlations.
    """
    if method not in get_args(SpheringMethod):
        raise ValueError(
            f"method={method!r} is unknown; choose one of {list(get_args(SpheringMethod))}."
        )
    n, d = (len(values) if rows is None else len(rows)), values.shape[1]
    mean, covariance = mean_and_covariance(values, rows)
    constant = constant_features(mean, covariance, values.dtype)
    scaled = method.endswith("-cor")
    if scaled and constant.any():
        raise ValueError(
            f"{int(constant.sum())} of {d} features do not vary among the {n} rows to fit on "
            f"(first: number {int(np.argmax(constant))}); {method!r} divides by their spread. Drop "
            "them (`cellfuse.pp.select_features`)."
        )
    gain = np.ones(d)
    if scaled:
        gain = 1.0 / np.sqrt(np.diag(covariance) * ((n - 1) / n))
        covariance = covariance * (gain[:, None] * gain)
    # Squaring the data leaves half the digits: below this an eigenvalue is rounding.
    tolerance = max(n, d) * np.finfo(np.float64).eps
    found = spectrum_of(covariance, constant=constant, tolerance=tolerance)
    eigenvalues, rank, ridge = found.eigenvalues, found.rank, eps
    added = 0.0 if eps == "auto" else float(eps) ** 2 / (n - 1)
    if eps == "auto":
        if not rank:
            raise RankError(
                f"none of {d} features varies among the {n} rows to fit on",
                n_dropped=d,
                n_constant=found.n_constant,
            )
        fourth = fourth_moment(values, mean, rows=rows, inverse=gain)
        share, ridge = ledoit_wolf(covariance, fourth, n), 0.0
        added = min(ridge_of(share), 1.0) * float(eigenvalues.mean())
        eigenvalues = (1 - share) * np.maximum(eigenvalues, 0.0) + share * eigenvalues.mean()
        rank = d
    elif rank < min(d, n - 1):
        raise RankError(
            f"the {n} rows to fit on span {rank} of {d} dimensions, expected {min(d, n - 1)}",
            n_dropped=d - rank,
            n_constant=found.n_constant,
        )
    singular = np.sqrt(np.maximum(eigenvalues, 0.0) * (n - 1))
    singular[rank:] = singular[rank - 1]
    matrix = found.axes * (np.sqrt(n - 1) / (singular + float(ridge)))
    if method.startswith("ZCA"):
        matrix = matrix @ found.axes.T
    variance = np.where(constant, 0.0, np.diag(covariance))
    return Sphering(mean, gain[:, None] * matrix, variance, added)
