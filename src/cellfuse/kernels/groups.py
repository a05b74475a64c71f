"""Means and medians of groups of rows, by blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cellfuse.kernels.chunks import in_threads, over_pieces, row_blocks

__all__ = ["group_means", "group_medians", "group_rows"]

#: Bytes of averages of which affine steps are taken; beyond, they are taken of the rows.
MEANS_BYTES = 512 << 20


def group_rows(codes: NDArray, n_groups: int) -> list[NDArray]:
    """Row numbers of each group, ascending; rows with a negative code are in none."""
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(n_groups + 1))
    return [order[a:b] for a, b in zip(ends[:-1], ends[1:], strict=True)]


def group_means(values: Any, codes: NDArray, n_groups: int) -> NDArray:
    """Mean row of each group.

    Parameters
    ----------
    values
        Shape (n, d), dense or sparse; read by blocks, never copied as a whole.
    codes
        Group of each row, shape (n,); rows with a negative code are left out.
    n_groups
        Number of groups; one without rows gets NaN.

    Returns
    -------
    Shape (groups, d), float64.
    """
    if getattr(values, "steps", ()):
        found = _means_before_steps(values, codes, n_groups)
        if found is not None:
            return found
    d = values.shape[1]
    total = np.zeros((n_groups, d))

    def sums_of(piece: Any) -> tuple[NDArray, Any]:
        code = codes[piece]
        inside = np.flatnonzero(code >= 0)
        # Only the groups of this block, so that many groups cost no dense zeros per block.
        here, local = np.unique(code[inside], return_inverse=True)
        indicator = sparse.csr_array(
            (np.ones(len(inside)), (local, inside)), shape=(len(here), len(code))
        )
        if not len(inside):
            return here, np.zeros((0, d))
        part = values[piece]
        product = indicator @ (part if sparse.issparse(part) else np.asarray(part))
        return here, product.toarray() if sparse.issparse(product) else product

    if hasattr(values, "pieces"):
        blocks = values.pieces(np.flatnonzero(codes >= 0))
    else:
        blocks = list(row_blocks(*values.shape, block_bytes=8 << 20))
    lazy = hasattr(values, "run")
    for here, product in over_pieces(values, sums_of, blocks) if lazy else map(sums_of, blocks):
        total[here] += product
    count = np.bincount(codes[codes >= 0], minlength=n_groups)
    with np.errstate(invalid="ignore"):
        return total / count[:, None]


def _numbered(codes: NDArray) -> NDArray:
    """Codes from 0 on without gaps; by a table, as sorting takes several times their memory."""
    size = int(codes.max(initial=-1)) + 1
    if size > 4 * len(codes):
        return np.unique(codes, return_inverse=True)[1]
    seen = np.zeros(size, bool)
    seen[codes] = True
    return (np.cumsum(seen) - 1)[codes]


def _means_before_steps(values: Any, codes: NDArray, n_groups: int) -> NDArray | None:
    """Means of a matrix that is not in memory, with its affine steps taken of means, not of rows.

    A step differs between rows (by plate, say): rows of one group that all steps take alike are
    averaged, then the steps are taken, then these averages are weighed. None where no step is
    affine, or rows are so many kinds that their averages would take too much memory.
    """
    source, steps = values.before_affine()
    if not steps:
        return None
    inside = np.flatnonzero(codes >= 0)
    kind = codes[inside].astype(np.int64)
    for step in steps:
        own, n_own = step.codes, int(np.max(step.codes, initial=0)) + 1
        if n_own > 1:
            kind = _numbered(kind * n_own + own[inside])
    kind = _numbered(kind)
    first = np.empty(int(kind.max(initial=-1)) + 1, np.int64)
    first[kind[::-1]] = np.arange(len(kind))[::-1]
    if len(first) * values.shape[1] * 8 > MEANS_BYTES:
        return None
    of_row = np.full(len(codes), -1, np.int64)
    of_row[inside] = kind
    means = group_means(source, of_row, len(first))
    for step in steps:
        means = step(means, inside[first])
    owner, n = codes[inside[first]], np.bincount(kind, minlength=len(first))
    weighed = sparse.csr_array((n, (owner, np.arange(len(n)))), shape=(n_groups, len(n)))
    with np.errstate(invalid="ignore"):
        return (weighed @ means) / np.bincount(codes[inside], minlength=n_groups)[:, None]


def group_medians(values: Any, codes: NDArray, n_groups: int) -> NDArray:
    """Median of each column in each group; arguments and result as in :func:`group_means`."""
    out = np.full((n_groups, values.shape[1]), np.nan)
    if hasattr(values, "column_groups"):
        # All rows of some columns at a time: a pass for each GiB.
        rows = np.flatnonzero(codes >= 0)
        for columns in values.column_groups(len(rows)):
            held = values.gather(rows, columns)
            out[:, columns] = group_medians(held, codes[rows], n_groups)
        return out

    def one(job: tuple[int, NDArray]) -> None:
        group, rows = job
        if len(rows):
            part = values[rows]
            part = part.toarray() if sparse.issparse(part) else np.asarray(part)
            ordered = np.array(part.T, dtype=np.float64, order="C")
            ordered.sort(axis=1)
            middle = (len(rows) - 1) // 2
            out[group] = 0.5 * (ordered[:, middle] + ordered[:, len(rows) // 2])

    in_threads(one, enumerate(group_rows(codes, n_groups)))
    return out
