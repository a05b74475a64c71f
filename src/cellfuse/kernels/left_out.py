"""Alignment of contexts that were left out of the closed form, a fold of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.alignment import align
from cellfuse.kernels.choosing import better_beyond_error, mean_of_each, simplest_within_error
from cellfuse.kernels.context_bases import Basis
from cellfuse.kernels.context_sums import ContextMoments, ContextSums
from cellfuse.kernels.shared_axes import fit_shared_axes, permuted_orders

__all__ = [
    "MANY_CONTEXTS",
    "N_COMPS",
    "N_DRAWS",
    "Chosen",
    "LeftOut",
    "added",
    "align_left_out",
    "align_left_out_each",
    "choose_n_comps",
    "folds_of",
    "missed",
]

#: Numbers of components where none is given. With few contexts of few cells (a profile or two of a
#: hundred compounds) the covariances of fifty components are noise, and five find contexts that
#: fifty miss; on simulated screens of guides 20 and 50 do.
N_COMPS = (50, 20, 10, 5)
#: Above it the first is taken: so many contexts are enough for fifty.
MANY_CONTEXTS = 4_000
#: Permutations behind the weights of shared axes in one fold's fit.
N_DRAWS = 20


def folds_of(labels: NDArray, n_folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of each context; those of one label, such as a target's guides, are in one."""
    distinct, code = np.unique(labels.astype(str), return_inverse=True)
    if len(distinct) < 2 <= min(n_folds, len(labels)):
        raise ValueError(
            f"all contexts are of {str(distinct[0])!r}, and contexts of one value are left out "
            "together (`left_out_by`, by default `target_key`): none would be left to fit on. "
            "Name a column of at least two values, or none."
        )
    order = np.random.default_rng(seed).permutation(len(distinct))
    return (order % n_folds)[code]


def added(parts: Sequence[ContextSums]) -> ContextSums:
    """Sums over all parts."""
    total = parts[0]
    for one in parts[1:]:
        total = total.plus(one)
    return total


@dataclass(frozen=True)
class LeftOut:
    """Contexts of a fold, looked for among each other in a space that was fitted on the others.

    Attributes
    ----------
    contexts
        Which they are, ``(n,)``.
    closer
        FOSCTTM of each: share of the fold's other contexts that are closer, mean of both ways.
    """

    contexts: NDArray[np.int64]
    closer: NDArray[np.float64]


def align_left_out(
    parts: Sequence[Sequence[ContextSums]],
    bases_of: Callable[[list[ContextMoments]], list[Basis]],
    **how: Any,
) -> list[LeftOut]:
    """As :func:`align_left_out_each`, of one fit alone."""
    return align_left_out_each(parts, lambda moments: [bases_of(moments)], **how)[0]


def align_left_out_each(
    parts: Sequence[Sequence[ContextSums]],
    bases_of: Callable[[list[ContextMoments]], list[list[Basis]]],
    *,
    profiles: Sequence[Sequence[ContextSums]] | None = None,
    together: Sequence[Sequence[int]] | None = None,
    blocks: NDArray | None = None,
    folds: Sequence[int] | None = None,
    permute: bool = False,
    seed: int = 0,
) -> list[list[LeftOut]]:
    """Fit on all folds but one, align the contexts of that one; each in turn, in several ways.

    Parameters
    ----------
    parts
        Per modality the sums of each fold's contexts.
    bases_of
        From the moments of each modality to its coordinates, for each of several fits.
    profiles
        Two sets of sums by fold whose context means are aligned, where they are others than the two
        modalities: the halves of the cells of one.
    together
        For each way the fits whose joint spaces stand side by side; None: each fit alone.
    blocks
        Label of each context, permuted together.
    folds
        Those that are left out; None: each in turn.
    permute
        Fit on permuted contexts: the twin that must fail.
    seed
        Seed of the permutations.

    Returns
    -------
    For each way the contexts of each fold; one of fewer than three is passed over.
    """
    found: list[list[LeftOut]] = []
    for left in range(len(parts[0])) if folds is None else folds:
        rest = [[p for number, p in enumerate(each) if number != left] for each in parts]
        moments = [added(each).moments() for each in rest]
        sides: list[list[NDArray]] = []  # of each fit, both profiles of the contexts left out
        seen = np.logical_and.reduce([each.counts > 0 for each in moments])
        orders = permuted_orders(seen, blocks, n_draws=N_DRAWS, seed=seed)
        for bases in bases_of(moments):
            if permute:
                bases = _permuted(bases, blocks, seed + left)
            # What permuted axes reach is asked, but no p-value.
            fit = fit_shared_axes(bases, orders=orders, max_axes=0)
            pair = []
            for number, each in enumerate(parts if profiles is None else profiles):
                of = number if profiles is None else 0
                means, counts = each[left].profiles(moments[of])
                pair.append((means @ bases[of].project @ fit.joint[of], counts > 0))
            test = pair[0][1] & pair[1][1]
            sides.append([pair[0][0][test], pair[1][0][test]])
        ways = [(fit,) for fit in range(len(sides))] if together is None else together
        found = found or [[] for _ in ways]
        here = np.flatnonzero(test)
        if len(here) >= 3:
            for way, members in enumerate(ways):
                a, b = (np.hstack([sides[fit][side] for fit in members]) for side in (0, 1))
                found[way].append(LeftOut(here, align(a, b).closer.mean(axis=0)))
    return found


def _permuted(bases: list[Basis], blocks: NDArray | None, seed: int) -> list[Basis]:
    """Coordinates of which those of the second modality were dealt to other contexts."""
    first, second = bases
    seen = np.logical_and.reduce([basis.counts > 0 for basis in bases])
    order = permuted_orders(seen, blocks, n_draws=1, seed=seed)[0]
    return [first, replace(second, means=second.means[order], counts=second.counts[order])]


def missed(found: Sequence[LeftOut], labels: NDArray | None = None) -> NDArray[np.float64]:
    """FOSCTTM of what was left out, in one way.

    Parameters
    ----------
    found
        Contexts left out.
    labels
        Label of every context: what is left out together (the guides of a target, the tiles of a
        section) is one number, the mean of its contexts, since they err together. None: one number
        of each context.
    """
    closer = np.concatenate([one.closer for one in found] or [np.zeros(0)])
    if labels is None or not len(closer):
        return closer
    return mean_of_each(closer, labels[np.concatenate([one.contexts for one in found])])


@dataclass(frozen=True)
class Chosen:
    """Numbers of components that contexts left out of the fit speak for.

    Attributes
    ----------
    joint
        Those whose joint spaces stand side by side: all that were tried, unless the largest of them
        find left-out contexts better beyond error without the smaller ones.
    axes
        The one in which shared axes are counted: the fewest that find left-out contexts as well as
        the best, within its error.
    left_out
        The contexts left out, side by side.
    """

    joint: tuple[int, ...]
    axes: int
    left_out: list[LeftOut]


def choose_n_comps(
    parts: Sequence[Sequence[ContextSums]],
    bases_of: Callable[[list[ContextMoments], Sequence[int]], list[list[Basis]]],
    *,
    n_views: int = 1,
    labels: NDArray | None = None,
    **how: Any,
) -> Chosen:
    """Choose among `N_COMPS`, as far as there are so many features.

    `bases_of` gives coordinates for each of several numbers, in each of `n_views` ways to look at
    the cells, the numbers of the first way first: all ways of a number stand or fall together.
    `labels` as in :func:`missed`, the rest as in :func:`align_left_out_each`.
    """
    most = max(each[0].n_features for each in parts)
    numbers = [n for n, fewer in zip(N_COMPS, (*N_COMPS[1:], 0), strict=True) if fewer < most]
    # Few ways, each within the last: among all fifteen sets of four numbers one is better beyond
    # its error three times in four where none is, and new compounds are found a little worse.
    nested = [range(n) for n in range(len(numbers), 0, -1)]
    alone = [[n] for n in range(len(numbers))]
    views = [len(numbers) * view for view in range(n_views)]
    fits = [[n + view for view in views for n in some] for some in (*nested, *alone)]
    found = align_left_out_each(parts, lambda given: bases_of(given, numbers), together=fits, **how)
    miss = [missed(each, labels) for each in found]
    best = better_beyond_error(miss.__getitem__, 0, range(1, len(nested)))
    axes = numbers[simplest_within_error(miss[len(nested) :])]
    return Chosen(tuple(numbers[n] for n in nested[best]), axes, found[best])
