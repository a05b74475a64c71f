"""What two modalities share of their contexts: axes of the cross-covariance of context means.

Noise within a context is independent between the modalities, so that the cross-covariance of
their context means is free of it. Whitened within contexts, a singular value says how much two
directions have in common in units of single cells. Kin: inter-battery factor analysis (Tucker
1958), PLS-SVD, canonical correlations of group means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag

from cellfuse.kernels.context_bases import Basis, positive_part

__all__ = [
    "AxesTest",
    "SharedFit",
    "axes_test",
    "fit_shared_axes",
    "pairing",
    "permuted_orders",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: In the joint space a direction of one modality is divided by (1 + signal / noise) to this power.
#: Where one strong axis hides all others (interferon, cell death) the others are seen beside it; a
#: direction below the noise stays as it is. Set on simulated screens of seeds that are not reported
#: and on ECCITE-seq.
EVEN = 0.25


@dataclass(frozen=True)
class AxesTest:
    """Singular values beside those of permuted contexts.

    Attributes
    ----------
    values
        Of the context means as they are, ``(k,)``, largest first.
    null_mean
        Mean over permutations, ``(k,)``.
    pvalue
        Chance of as large a value where nothing is shared beyond the axes before it, ``(k,)``.
        A later axis is never more certain than an earlier one.
    """

    values: Floats
    null_mean: Floats
    pvalue: Floats


@dataclass(frozen=True)
class SharedFit:
    """Maps of each modality's coordinates into one space.

    Attributes
    ----------
    shared
        Per modality ``(d, k)``: its coordinates on the axes that both have.
    joint
        Per modality ``(d, width)``: expected effect of the context in all directions of both
        modalities, as far as its cells tell, in the scale `even`. The sum over the modalities is
        the posterior mean.
    even
        Per modality ``(d, d)``: scale in which strong directions come nearer to weak ones.
    prior
        Variance of the contexts along each column of `joint`, ``(width,)``, largest first.
    test
        Singular values against permuted contexts; None for one modality alone.
    """

    shared: tuple[Floats, ...]
    joint: tuple[Floats, ...]
    even: tuple[Floats, ...]
    prior: Floats
    test: AxesTest | None


def pairing(
    first: Basis, second: Basis, order: Ints | None = None, *, use: NDArray[np.bool_] | None = None
) -> tuple[Floats, float]:
    """Cross-covariance of context means, ``(d1, d2)``, and the sum of its weights.

    Contexts count by ``n1 n2 / (n1 + n2)``, the inverse variance of a difference of their means.

    Parameters
    ----------
    first, second
        Coordinates of the two modalities, over the same contexts.
    order
        Context of `second` that stands beside each context of `first`; None: its own.
    use
        Contexts that take part; by default all that both have.
    """
    both = (first.counts > 0) & (second.counts > 0)
    rows = np.flatnonzero(both if use is None else both & use)
    others = rows if order is None else order[rows]
    n1, n2 = first.counts[rows], second.counts[others]
    weight = n1 * n2 / np.maximum(n1 + n2, 1e-12)
    total = weight.sum()
    a = first.means[rows] - weight @ first.means[rows] / total
    b = second.means[others] - weight @ second.means[others] / total
    return (a * weight[:, None]).T @ b, float(total)


def permuted_orders(
    seen: NDArray[np.bool_], blocks: NDArray | None, *, n_draws: int, seed: int
) -> list[Ints]:
    """Orders of contexts in which whole blocks (the guides of a target) change places.

    Guides of a target resemble each other: were they permuted one by one, the null would hold more
    independent contexts than there are, and look too narrow.
    """
    rng = np.random.default_rng(seed)
    rows = np.flatnonzero(seen)
    labels = rows if blocks is None else np.asarray(blocks)[rows]
    _, code = np.unique(labels.astype(str) if blocks is not None else labels, return_inverse=True)
    members = np.split(rows[np.argsort(code, kind="stable")], np.cumsum(np.bincount(code))[:-1])
    orders = []
    for _ in range(n_draws):
        order = np.arange(len(seen))
        for here, there in zip(members, rng.permutation(len(members)), strict=True):
            drawn = rng.permutation(members[there])
            # A block of another size is gone through in cycles.
            order[here] = drawn if len(drawn) == len(here) else np.resize(drawn, len(here))
        orders.append(order)
    return orders


def axes_test(
    first: Basis,
    second: Basis,
    *,
    blocks: NDArray | None = None,
    n_draws: int = 200,
    max_axes: int = 20,
    orders: Sequence[Ints] | None = None,
    seed: int = 0,
) -> AxesTest:
    """Test how many axes two modalities share, against permuted contexts.

    The k-th singular value is compared with the largest of permuted contexts once the k - 1 axes
    before it are taken off both sides: comparing it with the k-th permuted one would find axes in
    noise whenever a strong axis stands before it. `orders` as in :func:`fit_shared_axes`.
    """
    if orders is None:
        seen = (first.counts > 0) & (second.counts > 0)
        orders = permuted_orders(seen, blocks, n_draws=n_draws, seed=seed)
    cross, _ = pairing(first, second)
    left, values, right = np.linalg.svd(cross)
    k = len(values)
    nulls = [pairing(first, second, order)[0] for order in orders]
    null_mean = np.mean([np.linalg.svd(null, compute_uv=False) for null in nulls], axis=0)
    pvalue = np.ones(k)
    worst = 0.0
    for axis in range(min(k, max_axes)):
        a, b = left[:, axis:], right[axis:].T
        above = sum(np.linalg.norm(a.T @ null @ b, 2) >= values[axis] for null in nulls)
        worst = max(worst, (above + 1) / (len(nulls) + 1))
        pvalue[axis] = worst
    return AxesTest(values, null_mean, pvalue)


def fit_shared_axes(
    bases: Sequence[Basis],
    *,
    blocks: NDArray | None = None,
    n_draws: int = 200,
    max_axes: int = 20,
    cells_per_context: float | None = None,
    orders: Sequence[Ints] | None = None,
    seed: int = 0,
) -> SharedFit:
    """Join one or two modalities.

    Parameters
    ----------
    bases
        Coordinates of each modality, over the same contexts.
    blocks
        Label of each context, such as its target, whose contexts are permuted together.
    n_draws, max_axes
        Permutations, and axes that are tested; the p-values of further ones are 1.
    cells_per_context
        Number of cells of the profile that the joint space shrinks for. Default: the median.
    orders
        The permutations, of :func:`permuted_orders`, where several fits of the same contexts share
        them. None: they are drawn.
    seed
        Seed of the permutations.
    """
    sizes = [basis.project.shape[1] for basis in bases]
    test = None
    shared: tuple[Floats, ...] = tuple(np.eye(size) for size in sizes)
    prior = block_diag(*(basis.between for basis in bases))
    if len(bases) == 2:
        first, second = bases
        test = axes_test(
            first,
            second,
            blocks=blocks,
            n_draws=n_draws,
            max_axes=max_axes,
            orders=orders,
            seed=seed,
        )
        cross, weight = pairing(first, second)
        left, values, right = np.linalg.svd(cross, full_matrices=False)
        # What permuted contexts reach too is taken off, axis by axis.
        above = values > test.null_mean
        ratio = np.divide(test.null_mean, values, out=np.ones_like(values), where=above)
        kept = 1.0 - ratio**2
        effect = (left * (values * kept / weight)) @ right
        prior[: sizes[0], sizes[0] :] = effect
        prior[sizes[0] :, : sizes[0]] = effect.T
        strength = np.sqrt(kept)
        shared = (left * strength, right.T * strength)
    prior = positive_part(prior)
    edges = np.cumsum([0, *sizes])
    noise = block_diag(
        *(
            basis.noise / (cells_per_context or float(np.median(basis.counts[basis.counts > 0])))
            for basis in bases
        )
    )
    posterior = prior @ np.linalg.pinv(prior + noise, hermitian=True)
    slices = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    even = tuple(_evened(prior[part, part], noise[part, part]) for part in slices)
    scale = block_diag(*even)
    values, vectors = np.linalg.eigh(scale @ prior @ scale)
    order = np.argsort(values)[::-1]
    turned = vectors[:, order].T @ scale @ posterior  # (width, all coordinates)
    joint = tuple(turned[:, part].T.copy() for part in slices)
    return SharedFit(shared, joint, even, np.maximum(values[order], 0.0), test)


def _evened(prior: Floats, noise: Floats) -> Floats:
    """Scale ``(d, d)`` of one modality, see `EVEN`."""
    values, vectors = np.linalg.eigh(prior)
    signal = np.maximum(values, 0.0) / np.einsum("ij,ik,kj->j", vectors, noise, vectors)
    return (vectors * (1.0 + signal) ** -EVEN) @ vectors.T
