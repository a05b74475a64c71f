"""Fits the joint space of a model from one pass over the features of its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from cellfuse._errors import warn_user
from cellfuse.data import Contexts
from cellfuse.kernels.alignment import align
from cellfuse.kernels.context_sums import ContextMoments, ContextSums
from cellfuse.kernels.shared_axes import Method, fit_basis, fit_shared_axes
from cellfuse.nn import JointSpace

__all__ = ["Blocks", "alignment_of", "fit_joint_space", "membership", "sum_contexts"]

#: Blocks of cells of a role: their rows, features ``(n, d)`` and nuisances ``(n, z)`` or None.
Blocks = Iterator[tuple[NDArray[np.int64], NDArray, NDArray | None]]


def membership(contexts: Contexts, role: str) -> sp.csr_matrix:
    """Which contexts each cell of a role is of, ``(cells, contexts)``."""
    members = contexts.members[role]
    ones = np.ones(len(members.rows), np.float32)
    shape = (contexts.n_rows[role], len(contexts))
    return sp.csr_matrix((ones, (members.rows, members.codes)), shape=shape)


def sum_contexts(blocks: Blocks, contexts: Contexts, role: str) -> ContextMoments:
    """Moments of a role's features within and between contexts, in one pass."""
    members = membership(contexts, role)
    sums = None
    for rows, features, nuisances in blocks:
        if sums is None:
            n_nuisances = 0 if nuisances is None else nuisances.shape[1]
            sums = ContextSums(features.shape[1], len(contexts), n_nuisances)
        sums.add(features, members[rows], nuisances)
    if sums is None:
        raise ValueError(f"modality {role!r} has no cells to fit the joint space on.")
    return sums.moments()


def fit_joint_space(
    space: JointSpace,
    cells: Mapping[str, Callable[[], Blocks]],
    contexts: Contexts,
    *,
    n_comps: int,
    method: Method = "within",
    n_learnt: int = 0,
    blocks: NDArray | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> None:
    """Fit the maps of `space` on the cells of `contexts`.

    Parameters
    ----------
    space
        Whose buffers are set.
    cells
        For each role, what gives its cells' features in blocks.
    contexts
        Who shares a context; held-out cells are in none.
    n_comps, method, n_draws, seed
        As in :mod:`cellfuse.kernels.shared_axes`.
    n_learnt
        Features of each role, the last ones, that a network has learnt.
    blocks
        Label of each context, such as its target: permuted together.

    Raises
    ------
    ValueError
        Fewer than three contexts in common; features that are all constant.

    Warns
    -----
    UserWarning
        A modality with one cell per context: nothing tells its noise.
    """
    moments = {role: sum_contexts(read(), contexts, role) for role, read in cells.items()}
    _check(moments)
    found = {
        role: fit_basis(each, n_comps=n_comps, method=method, n_one_scale=n_learnt)
        for role, each in moments.items()
    }
    fit = fit_shared_axes(list(found.values()), blocks=blocks, n_draws=n_draws, seed=seed)
    for number, (role, basis) in enumerate(found.items()):
        target = space.cell(role)
        each = moments[role]
        _put(target.offset, each.offset)
        _put(target.nuisance_mean, each.nuisance_means)
        for name, turn in (("joint", fit.joint[number]), ("shared", fit.shared[number])):
            _put(getattr(target, name), basis.project @ turn)
            _put(getattr(target, f"nuisance_{name}"), each.coefficients @ basis.project @ turn)
    if fit.test is not None:
        _put(space.axes, np.stack([fit.test.values, fit.test.null_mean, fit.test.pvalue]))


def alignment_of(
    held: Contexts, cells: Mapping[str, Iterator[tuple[NDArray[np.int64], NDArray]]]
) -> dict[str, float]:
    """Alignment of the profiles of contexts that were held out.

    Parameters
    ----------
    held
        Contexts with their cells.
    cells
        For each of two roles, rows and embeddings of cells in blocks.

    Returns
    -------
    ``gap``, ``foscttm``, ``mrr`` and ``top10``, see :class:`cellfuse.kernels.alignment.Alignment`.
    """
    here = np.flatnonzero(held.shared())
    means = []
    for role, blocks in cells.items():
        members = membership(held, role)
        total = None
        for rows, z in blocks:
            part = members[rows].T @ z.astype(np.float64)
            total = part if total is None else total + part
        assert total is not None
        counts = np.asarray(members.sum(axis=0)).ravel()
        means.append(total[here] / counts[here, None])
    return align(*means).summary()


def _check(moments: Mapping[str, ContextMoments]) -> None:
    for role, each in moments.items():
        if not np.diag(each.total).max() > 0:
            raise ValueError(f"all features of modality {role!r} are constant.")
        if each.n_free == 0:
            warn_user(
                f"no context has two cells of modality {role!r}: nothing tells noise from effect. "
                "Its features are whitened by the covariance of all cells instead of that within "
                "contexts, and half of it is taken for noise."
            )
    here = [each.counts > 0 for each in moments.values()]
    n_shared = int(np.logical_and.reduce(here).sum())
    if len(here) == 2 and n_shared < 3:
        raise ValueError(
            f"{n_shared} contexts have cells of both modalities; shared axes need three at least, "
            "and some tens to say anything."
        )


def _put(buffer: torch.Tensor, values: NDArray) -> None:
    """Fill a buffer from its first corner; what is left is zero (or NaN, of tests)."""
    buffer.fill_(torch.nan if buffer.isnan().any() else 0.0)
    where = tuple(slice(0, min(a, b)) for a, b in zip(buffer.shape, values.shape, strict=True))
    buffer[where] = torch.as_tensor(values[where], dtype=buffer.dtype)
