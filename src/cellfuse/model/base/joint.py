"""Fits the joint space of a model from one pass over the features of its cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from cellfuse._errors import warn_user
from cellfuse.data import Contexts, Reader
from cellfuse.data.readers import read_dense
from cellfuse.kernels.alignment import Alignment, align
from cellfuse.kernels.choosing import better_beyond_error
from cellfuse.kernels.context_bases import Basis, Method, View, bases_of_views, tells_noise
from cellfuse.kernels.context_sums import ContextMoments, ContextSums
from cellfuse.kernels.left_out import (
    MANY_CONTEXTS,
    N_COMPS,
    N_DRAWS,
    added,
    align_left_out_each,
    choose_n_comps,
    folds_of,
    missed,
)
from cellfuse.kernels.shared_axes import fit_shared_axes
from cellfuse.kernels.side_by_side import side_by_side
from cellfuse.nn import JointSpace, RidgeMap
from cellfuse.nn.joint_space import LinearMap

__all__ = [
    "Blocks",
    "alignment_of",
    "compared",
    "fit_joint_space",
    "fit_ridge",
    "membership",
    "read_blocks",
    "sum_contexts",
]

#: Blocks of cells of a role: their rows, features ``(n, d)`` and nuisances ``(n, z)`` or None.
Blocks = Iterator[tuple[NDArray[np.int64], NDArray, NDArray | None]]
#: Cells read at a time.
BLOCK = 2_048
#: Weights of learnt features that are tried, the plain features' being 1.
WEIGHTS = (0.0, 0.5, 1.0)
#: Folds of contexts by which the weight is chosen.
N_FOLDS = 4


@torch.inference_mode()
def read_blocks(
    reader: Reader,
    contexts: Contexts,
    role: str,
    features: Callable[[torch.Tensor, NDArray[np.int64]], torch.Tensor],
    *,
    nuisances: NDArray | None = None,
    device: torch.device | None = None,
) -> Blocks:
    """Features of the cells of a role that have a context, in blocks.

    Parameters
    ----------
    reader, contexts, role
        What reads the cells, and which of them are in a context.
    features
        Cells as they were read, and their rows, to features ``(n, d)``.
    nuisances
        Numbers of every cell of the role, ``(cells, z)``.
    device
        Where cells are read to.
    """
    every = np.flatnonzero(contexts.of_row(role) >= 0)
    for start in range(0, len(every), BLOCK):
        rows = every[start : start + BLOCK]
        x = features(read_dense(reader, rows, device=device), rows)
        yield rows, x.float().cpu().numpy(), None if nuisances is None else nuisances[rows]


def membership(contexts: Contexts, role: str) -> sp.csr_matrix:
    """Which contexts each cell of a role is of, ``(cells, contexts)``."""
    members = contexts.members[role]
    ones = np.ones(len(members.rows), np.float32)
    shape = (contexts.n_rows[role], len(contexts))
    return sp.csr_matrix((ones, (members.rows, members.codes)), shape=shape)


def sum_contexts(blocks: Blocks, contexts: Contexts, role: str) -> ContextMoments:
    """Moments of a role's features within and between contexts, in one pass."""
    return sum_parts(blocks, contexts, role)[0][0].moments()


def fit_ridge(
    ridge: RidgeMap,
    x: ContextMoments,
    y: ContextMoments,
    both: NDArray[np.bool_],
    *,
    unit: NDArray[np.float64] | float = 1.0,
) -> None:
    """Fit a ridge from mean to mean of the contexts `both`, each weighed by its replicates.

    Parameters
    ----------
    ridge
        Whose weights are set.
    x, y
        Moments of either side; `x` may be whitened by what its cells of one context differ by.
    both
        Contexts that either side has.
    unit
        Of `y`, by which errors are weighed where the penalty is chosen.
    """
    n, m = (part.counts[both] for part in (x, y))
    ridge.fit(x.profiles[both], y.profiles[both] * unit, within=x.within, n=n * m / (n + m))
    ridge.rescale(1 / np.broadcast_to(unit, y.profiles.shape[1:]))


def sum_parts(
    blocks: Blocks,
    contexts: Contexts,
    role: str,
    *,
    fold: NDArray | None = None,
    half: NDArray | None = None,
) -> list[list[ContextSums]]:
    """Sums of a role's features, in one pass.

    Parameters
    ----------
    blocks
        Cells in blocks.
    contexts, role
        Whose cells they are.
    fold
        Fold of each context; None: all are of one.
    half
        Half of each cell, 0 or 1; None: one whole.

    Returns
    -------
    For each half its folds' sums.
    """
    members = membership(contexts, role)
    fold = np.zeros(len(contexts), np.int64) if fold is None else fold
    n_halves = 1 if half is None else 2
    of_fold = [sp.diags((fold == k).astype(np.float32)) for k in range(fold.max() + 1)]
    found: list[list[ContextSums]] = []
    for rows, features, nuisances in blocks:
        z = np.empty((len(rows), 0), np.float32) if nuisances is None else nuisances
        if not found:
            shift = np.hstack([z, features]).mean(axis=0, dtype=np.float64).astype(np.float32)
            sizes = features.shape[1], len(contexts), z.shape[1]
            found = [[ContextSums(*sizes, shift=shift) for _ in of_fold] for _ in range(n_halves)]
        for number, sums in enumerate(found):
            mine = np.ones(len(rows), bool) if half is None else half[rows] == number
            for one, chosen in zip(sums, of_fold, strict=True):
                part = members[rows] @ chosen
                here = mine & (np.asarray(part.sum(axis=1)).ravel() > 0)
                if here.any():
                    one.add(features[here], part[here], z[here])
    if not found:
        raise ValueError(f"modality {role!r} has no cells to fit the joint space on.")
    return found


def fit_joint_space(
    space: JointSpace,
    cells: Mapping[str, Callable[[], Blocks]],
    contexts: Contexts,
    *,
    n_comps: int | None,
    powers: Mapping[str, float],
    method: Method = "within",
    n_second: Mapping[str, int] | None = None,
    n_learnt: int = 0,
    weight: float | None = None,
    blocks: NDArray | None = None,
    left_out: NDArray | None = None,
    n_draws: int = 200,
    seed: int = 0,
) -> tuple[int, ...]:
    """Fit the maps of `space` on the cells of `contexts`.

    Parameters
    ----------
    space
        Whose buffers are set.
    cells
        For each role, what gives its cells' features in blocks.
    contexts
        Who shares a context; held-out cells are in none.
    n_comps
        Components of each modality. None: where there are two modalities, joint spaces of several
        numbers of them side by side, see :func:`cellfuse.kernels.left_out.choose_n_comps`. One
        alone has no cross-covariance whose error would average: side by side would but weigh its
        strongest axes more, which cost ECCITE-seq 4 of 19 consistent targets.
    method, n_draws, seed
        As in :func:`cellfuse.kernels.context_bases.fit_bases`.
    powers
        Of each role's plain features, see :func:`cellfuse.nn.plain_features.power_of`.
    n_second
        Features of each role, after the plain ones, that stand in their place in a second view of
        the cells (:class:`cellfuse.nn.PlainFeatures`), whose joint spaces stand beside those of the
        first. Shared axes are those of the first.
    n_learnt
        Features of each role, the last ones, that a network has learnt.
    weight
        Of these. None: it is chosen by contexts left out of the fit, 0 where the plain features do
        without them.
    blocks
        Label of each context, such as its target: permuted together, left out together.
    left_out
        Label of each context that is left out together in place of `blocks`, such as its donor.

    Returns
    -------
    Numbers of components whose joint spaces stand side by side.

    Raises
    ------
    ValueError
        Fewer than three contexts in common; features that are all constant.

    Warns
    -----
    UserWarning
        A modality with one cell per context: nothing tells its noise.
    """
    labels = next(x for x in (left_out, blocks, np.arange(len(contexts))) if x is not None)
    chooses = bool(n_learnt) and weight is None
    chooses_n = n_comps is None and len(cells) == 2 and len(contexts) <= MANY_CONTEXTS
    fold = folds_of(labels, N_FOLDS if chooses or chooses_n else 1, seed)
    # One modality alone: its contexts are found again in other cells of it.
    halved = chooses and len(cells) == 1
    rng = np.random.default_rng(seed)
    halves = {}
    for role, read in cells.items():
        half = rng.integers(0, 2, contexts.n_rows[role]) if halved else None
        halves[role] = sum_parts(read(), contexts, role, fold=fold, half=half)
    parts = [[added(both) for both in zip(*each, strict=True)] for each in halves.values()]
    moments = {role: added(p).moments() for role, p in zip(cells, parts, strict=True)}
    _check(moments)
    views = _views(moments, powers, n_second or {}, n_learnt)

    def bases_of_each(
        given: list[ContextMoments], weight: float, numbers: Sequence[int]
    ) -> list[list[Basis]]:
        options: dict[str, Any] = {"method": method, "n_one_scale": n_learnt, "weight": weight}
        return bases_of_views(given, numbers, views, **options)

    how: dict[str, Any] = {"labels": labels, "blocks": blocks, "seed": seed}
    how["profiles"] = next(iter(halves.values())) if halved else None
    n_axes = n_comps or N_COMPS[0]
    numbers: tuple[int, ...] = (n_axes,)
    if chooses_n:
        begun = 0.0 if chooses else 1.0 if weight is None else weight
        chosen = choose_n_comps(
            parts,
            lambda given, numbers: bases_of_each(given, begun, numbers),
            n_views=len(views),
            **how,
        )
        numbers, n_axes = chosen.joint, chosen.axes
    if chooses:
        weight = _choose_weight(
            parts,
            lambda given, weight: bases_of_each(given, weight, numbers),
            together=[range(len(numbers) * len(views))],
            **how,
        )
    weight = 1.0 if weight is None else weight
    _put(space.learnt_weight, np.asarray(weight))
    given = list(moments.values())
    every = tuple(dict.fromkeys((*numbers, n_axes)))
    maps = []
    fits = product(range(len(views)), every)
    for (view, number), bases in zip(fits, bases_of_each(given, weight, every), strict=True):
        # Axes are counted and tested once; what permuted contexts reach takes few draws.
        counts_axes = view == 0 and number == n_axes
        tested: dict[str, Any] = {"n_draws": n_draws}
        if not counts_axes:
            tested = {"n_draws": N_DRAWS, "max_axes": 0}
        fit = fit_shared_axes(bases, blocks=blocks, seed=seed, **tested)
        if number in numbers:
            maps.append([b.project @ turn for b, turn in zip(bases, fit.joint, strict=True)])
        if counts_axes:
            shared = [b.project @ turn for b, turn in zip(bases, fit.shared, strict=True)]
            if fit.test is not None:
                axes = np.stack([fit.test.values, fit.test.null_mean, fit.test.pvalue])
                _put(space.axes, axes)
    joint = side_by_side(maps, [each.total for each in given], width=space.width)
    for (role, each), *both in zip(moments.items(), joint, shared, strict=True):
        _write(space.cell(role), each, *both)
    return numbers


def _views(
    moments: Mapping[str, ContextMoments],
    powers: Mapping[str, float],
    n_second: Mapping[str, int],
    n_learnt: int,
) -> list[View]:
    """Plain features; and, where cells are read twice, the second reading in their place."""
    plain, again = [], []
    for role, each in moments.items():
        every = np.arange(len(each.offset))
        learnt, n = every[len(every) - n_learnt :], n_second.get(role, 0)
        before = every[: len(every) - n_learnt]
        first, second = before[: len(before) - n], before[len(before) - n :] if n else before
        plain.append((np.r_[first, learnt], powers[role]))
        again.append((np.r_[second, learnt], 1.0 if n else powers[role]))
    sides = [plain, again] if any(n_second.values()) else [plain]
    return [View(*(tuple(each) for each in zip(*side, strict=True))) for side in sides]


def _choose_weight(
    parts: list[list[ContextSums]],
    bases_of: Callable[[list[ContextMoments], float], list[list[Basis]]],
    *,
    labels: NDArray,
    **how: Any,
) -> float:
    """Weight by which left-out contexts are found best; above 0 where that is beyond its error.

    Contexts of one of the `labels` are left out together and are one piece of evidence together.
    """

    def closer(weight: float) -> NDArray[np.float64]:
        (found,) = align_left_out_each(parts, lambda given: bases_of(given, weight), **how)
        return missed(found, labels)

    return better_beyond_error(closer, WEIGHTS[0], WEIGHTS[1:])


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
    return compared(held, cells).summary()


def compared(
    held: Contexts, cells: Mapping[str, Iterator[tuple[NDArray[np.int64], NDArray]]]
) -> Alignment:
    """As :func:`alignment_of`, one number per context."""
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
    return align(*means)


def _check(moments: Mapping[str, ContextMoments]) -> None:
    for role, each in moments.items():
        if not np.diag(each.total).max() > 0:
            raise ValueError(f"all features of modality {role!r} are constant.")
        if not tells_noise(each):
            warn_user(
                f"no context has two different cells of modality {role!r}: nothing tells noise "
                "from effect. Its features are whitened by the covariance of all cells instead of "
                "that within contexts, and half of it is taken for noise."
            )
    here = [each.counts > 0 for each in moments.values()]
    n_shared = int(np.logical_and.reduce(here).sum())
    if len(here) == 2 and n_shared < 3:
        raise ValueError(
            f"{n_shared} contexts have cells of both modalities; shared axes need three at least, "
            "and some tens to say anything."
        )


def _write(target: LinearMap, of: ContextMoments, joint: NDArray, shared: NDArray) -> None:
    """Keep a modality's maps, and what they take out."""
    _put(target.offset, of.offset)
    _put(target.nuisance_mean, of.nuisance_means)
    for name, to in (("joint", joint), ("shared", shared)):
        _put(getattr(target, name), to)
        _put(getattr(target, f"nuisance_{name}"), of.coefficients @ to)


def _put(buffer: torch.Tensor, values: NDArray) -> None:
    """Fill a buffer from its first corner; what is left is zero (or NaN, of tests)."""
    buffer.fill_(torch.nan if buffer.isnan().any() else 0.0)
    where = tuple(slice(0, min(a, b)) for a, b in zip(buffer.shape, values.shape, strict=True))
    buffer[where] = torch.as_tensor(values[where], dtype=buffer.dtype)
