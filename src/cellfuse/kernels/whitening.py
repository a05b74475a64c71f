"""Whitening by the d x d covariance: no n x n matrix, float64 sums, row blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.chunks import over_pieces, pieces, row_blocks
from cellfuse.kernels.spectrum import spectrum_of

__all__ = [
    "Method",
    "Whitening",
    "apply_whitening",
    "fit_whitening",
    "mean_and_covariance",
    "pooled_covariance",
]

Method = Literal["zca", "pca", "zca-cor", "pca-cor"]

#: Rows of one block: large enough for the matrix product to run at full speed.
BLOCK_BYTES = 8 << 20
#: Pieces of a matrix that is not in memory whose mean the products are taken about.
N_NEAR = 8
#: How far off that mean may be, in variances, before products about it lose digits.
FAR = 25.0
#: Smallest over largest eigenvalue down to which float32 products keep five digits of each.
WELL_CONDITIONED = 1e-3


@dataclass(frozen=True)
class Whitening:
    """A fitted rotation and scaling, ``(x - mean) @ matrix``.

    Attributes
    ----------
    matrix
        Shape (d, d), float64.
    eigenvalues
        Of the covariance, largest first, shape (d,).
    n_dropped
        Directions without variance, whose output is 0.
    n_constant
        Features that do not vary, which are among those.
    """

    matrix: NDArray
    eigenvalues: NDArray
    n_dropped: int
    n_constant: int = 0


def mean_and_covariance(
    values: NDArray, rows: NDArray | None = None, *, dtype: type = np.float64
) -> tuple[NDArray, NDArray]:
    """Mean (d,) and covariance (d, d; n - 1 in the denominator), summed over blocks in float64.

    Two passes: the mean first, so that a large offset costs no digits of the covariance; the second
    takes back what the first lost to rounding, without which a column of 0.1 varies. A matrix that
    is not in memory is read once: the mean of some of its pieces is near enough. `dtype` is the
    precision of the products within a block.
    """
    n = values.shape[0] if rows is None else len(rows)
    if n < 2:
        raise ValueError(f"a covariance needs at least 2 rows, found {n}.")
    blocks = pieces(values, rows, block_bytes=BLOCK_BYTES)
    lazy = hasattr(values, "run")
    near = blocks[:: max(1, len(blocks) // N_NEAR)] if lazy else blocks

    def total_of(piece: Any) -> NDArray:
        return values[piece].sum(axis=0, dtype=np.float64)

    n_near = sum(map(len, near)) if lazy else n
    mean = np.sum(list(over_pieces(values, total_of, near)), axis=0) / n_near
    for _ in range(2):  # again where the pieces were far off
        centre = mean.astype(dtype)
        scatter, rest = _scatter(values, blocks, centre)
        mean = centre + rest / n
        off = np.square(rest / n)
        if (off <= FAR * (np.diag(scatter) / n - off)).all() or not lazy:
            break
    return mean, (scatter - rest[:, None] * (rest / n)) / (n - 1)


def _scatter(values: Any, blocks: list[Any], centre: NDArray) -> tuple[NDArray, NDArray]:
    """Sums of products and of values, about `centre` and in its precision within a block."""
    dtype = centre.dtype

    def scatter_of(piece: Any) -> tuple[NDArray, NDArray]:
        centred = np.subtract(values[piece], centre, dtype=dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # named below
            return centred.T @ centred, centred.sum(axis=0, dtype=np.float64)

    d = values.shape[1]
    scatter, rest = np.zeros((d, d)), np.zeros(d)
    # In memory one product after another, each on all threads of the linear algebra library.
    lazy = hasattr(values, "run")
    for part, total in over_pieces(values, scatter_of, blocks) if lazy else map(scatter_of, blocks):
        scatter += part
        rest += total
    beyond = np.flatnonzero(~np.isfinite(np.diag(scatter)))
    if len(beyond):
        raise ValueError(
            f"{len(beyond)} of {d} dimensions, such as number {beyond[0]} (from 0), hold values "
            f"whose squares are beyond {dtype}; scale the features first, such as by "
            "`cellfuse.pp.robust_center_scale`, or leave these out."
        )
    return scatter, rest


def _some_rows(values: Any, rows: NDArray | None) -> NDArray:
    """Some pieces of a matrix that is not in memory, enough rows for a covariance."""
    blocks = pieces(values, rows)
    step, wanted = max(1, len(blocks) // N_NEAR), 2 * values.shape[1]
    read: list[NDArray] = []
    for block in (*blocks[::step], *blocks):  # all, where pieces are of a few rows
        read.append(np.asarray(values[block]))
        if sum(map(len, read)) > wanted:
            break
    return np.concatenate(read)


def _well_conditioned(covariance: NDArray) -> bool:
    ends = np.linalg.eigvalsh(covariance)[[0, -1]]
    return bool(ends[0] > WELL_CONDITIONED * ends[1])


def pooled_covariance(
    matrices: Sequence[tuple[NDArray, NDArray | None]],
) -> tuple[list[NDArray], NDArray]:
    """Means of several matrices, and the equally weighted average of their covariances.

    Parameters
    ----------
    matrices
        Pairs of values (n, d) and the rows to use (None: all), one per modality.

    Returns
    -------
    The mean of each matrix, and the average covariance (d, d).
    """
    single = all(values.dtype == np.float32 for values, _ in matrices)
    # What is not in memory is not read twice for it: some pieces tell which precision it takes.
    probed = [_some_rows(values, rows) for values, rows in matrices if hasattr(values, "run")]
    if single and probed:
        single = _well_conditioned(np.mean([mean_and_covariance(some)[1] for some in probed], 0))
    for dtype in (np.float32, np.float64) if single else (np.float64,):
        fits = [mean_and_covariance(values, rows, dtype=dtype) for values, rows in matrices]
        covariance = np.mean([c for _, c in fits], axis=0)
        # Products in float32 take half the time, and carry small eigenvalues only so far.
        if dtype is np.float32 and _well_conditioned(covariance):
            break
    return [mean for mean, _ in fits], covariance


def fit_whitening(
    covariance: NDArray,
    *,
    method: Method = "zca",
    eps: float = 0.0,
    tolerance: float = 1e-9,
    constant: NDArray | None = None,
) -> Whitening:
    """Find the matrix W with ``W.T @ covariance @ W`` the identity.

    Parameters
    ----------
    covariance
        Shape (d, d).
    method
        ``"zca"``: the symmetric W, which changes the data least. ``"pca"``: principal axes,
        largest variance first, each signed so that its largest loading is positive. With
        ``"-cor"`` the features are brought to unit variance before: axes of the correlations.
    eps
        Added to every eigenvalue, as a share of their mean (0: full whitening). With it, a
        direction in which the fitted rows do not vary is kept, as one of the smallest variance.
    tolerance
        Directions whose variance is below this share of the largest, both on the scale of
        correlations, are rounding noise (of float32 data) and are dropped.
    constant
        Features to count as constant, shape (d,), whose output is 0.
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is unknown; choose one of {list(get_args(Method))}.")
    scaled = method.endswith("-cor")
    found = spectrum_of(covariance, scaled=scaled, constant=constant, tolerance=tolerance)
    d, varying = len(covariance), len(covariance) - found.n_constant
    kept = np.arange(d) < (varying if eps > 0 else found.rank)
    floor = eps * float(found.eigenvalues[kept].sum()) / d
    gain = np.zeros(d)
    gain[kept] = 1.0 / np.sqrt(np.maximum(found.eigenvalues[kept], 0.0) + floor)
    matrix = found.axes * gain
    if method.startswith("zca"):
        matrix = matrix @ found.axes.T
        matrix[:, found.sd == 0] = 0.0  # exactly
    if scaled:
        matrix = np.divide(1.0, found.sd, out=np.zeros(d), where=found.sd > 0)[:, None] * matrix
    matrix[found.sd == 0] = 0.0
    return Whitening(matrix, found.eigenvalues, int((~kept).sum()), found.n_constant)


def apply_whitening(
    values: NDArray,
    mean: NDArray,
    matrix: NDArray,
    *,
    out: NDArray,
    rows: NDArray | None = None,
) -> NDArray:
    """Write ``(values - mean) @ matrix`` into `out`, which may be `values`; for `rows` only."""
    n, d = (values.shape[0] if rows is None else len(rows)), values.shape[1]
    centre, weights = mean.astype(out.dtype), matrix.astype(out.dtype)
    # What the centre lost to rounding: of an offset of 1e8 in float32 it is up to 4.
    rest = ((centre - mean) @ matrix).astype(out.dtype)
    for block in row_blocks(n, d, block_bytes=BLOCK_BYTES):
        if rows is None:
            np.matmul(values[block] - centre, weights, out=out[block])
            out[block] += rest
        else:
            out[rows[block]] = (values[rows[block]] - centre) @ weights + rest
    return out
