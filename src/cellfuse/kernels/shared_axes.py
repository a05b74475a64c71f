"""What two modalities share of their contexts: axes of the cross-covariance of context means.

Noise within a context is independent between the modalities, so that the cross-covariance of
their context means is free of it. Whitened within contexts, a singular value says how much two
directions have in common in units of single cells. Kin: inter-battery factor analysis (Tucker
1958), PLS-SVD, canonical correlations of group means.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.context_sums import ContextMoments

__all__ = [
    "AxesTest",
    "Basis",
    "SharedFit",
    "bases_of_sides",
    "fit_bases",
    "fit_basis",
    "fit_shared_axes",
    "pairing",
    "tells_noise",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Method = Literal["within", "ibfa", "cca"]

#: Directions with less than this share of the largest variance are rounding.
RANK = 1e-6
#: In the joint space a direction of one modality is divided by (1 + signal / noise) to this power.
#: Where one strong axis hides all others (interferon, cell death) the others are seen beside it; a
#: direction below the noise stays as it is. Set on simulated screens of seeds that are not reported
#: and on ECCITE-seq.
EVEN = 0.25


@dataclass(frozen=True)
class Basis:
    """Linear coordinates of one modality, and what is known in them.

    Attributes
    ----------
    project
        From centred features to coordinates, ``(features, d)``.
    means, counts
        Context means in coordinates ``(contexts, d)``, and cells of each context.
    noise
        Covariance of single cells within contexts, ``(d, d)``.
    between
        Covariance of the contexts' true effects, noise taken off, ``(d, d)``.
    """

    project: Floats
    means: Floats
    counts: Floats
    noise: Floats
    between: Floats


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


def _symmetric_power(matrix: Floats, power: float, *, rank: float = RANK) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    keep = values > rank * max(values.max(), 0.0)
    scaled = np.where(keep, np.where(keep, values, 1.0) ** power, 0.0)
    return (vectors * scaled) @ vectors.T


def _positive(matrix: Floats) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def fit_basis(moments: ContextMoments, *, n_comps: int, **how: Any) -> Basis:
    """As :func:`fit_bases`, of one number of components."""
    return fit_bases(moments, [n_comps], **how)[0]


def fit_bases(
    moments: ContextMoments,
    n_comps: Sequence[int],
    *,
    method: Method = "within",
    power: float = 1.0,
    n_one_scale: int = 0,
    weight: float = 1.0,
) -> list[Basis]:
    """Principal components of standardised features, then the scale in which axes are sought.

    Parameters
    ----------
    moments
        Of one modality.
    n_comps
        Numbers of components that are kept at most. Fewer where the rank is lower.
    method
        ``"within"``: whitened by the covariance within contexts. ``"cca"``: by the covariance of
        context means. ``"ibfa"``: components as they are (Tucker's inter-battery method).
    power
        Features are divided by this power of their standard deviation: 1 makes all of one size, 0
        leaves them as they are.
    n_one_scale
        Last features, learnt ones, that share one scale (their root mean square): a dimension that
        a network leaves empty is not blown up to the size of the others.
    weight
        Of these last features beside the others; 0 leaves them out.

    Returns
    -------
    Coordinates for each number. Where no context has two cells nothing tells noise from effect:
    the covariance of all cells stands in for the one within contexts, and half of it is taken for
    noise. Where few have, the covariance within contexts is drawn towards that of all cells.
    """
    components = _components(moments, max(n_comps), power, n_one_scale, weight)
    return [_in_scale(moments, components[:, :n], method) for n in n_comps]


def bases_of_sides(
    moments: Sequence[ContextMoments],
    n_comps: Sequence[int],
    *,
    powers: Sequence[float],
    **how: Any,
) -> list[list[Basis]]:
    """For each number of components the coordinates of every modality, see :func:`fit_bases`."""
    sides = [
        fit_bases(each, n_comps, power=power, **how)
        for each, power in zip(moments, powers, strict=True)
    ]
    return [list(bases) for bases in zip(*sides, strict=True)]


def _components(
    moments: ContextMoments, n_comps: int, power: float, n_one_scale: int, weight: float
) -> Floats:
    """From features to their principal components, ``(features, n)``, largest first."""
    sd = np.sqrt(np.diag(moments.total))
    plain, learnt = sd[: len(sd) - n_one_scale], sd[len(sd) - n_one_scale :]
    # Whatever the power, plain and learnt features are of one size on the whole.
    unit = np.concatenate(
        [plain**power * _typical(plain) ** (1 - power), np.full(n_one_scale, _typical(learnt))]
    )
    varies = (sd > 1e-6 * max(sd.max(), 1e-30)) & (unit > 0)
    scale = np.where(varies, 1.0 / np.where(varies, unit, 1.0), 0.0)
    scale[len(plain) :] *= weight
    correlation = moments.total * scale[:, None] * scale
    values, vectors = np.linalg.eigh(correlation)
    order = np.argsort(values)[::-1][:n_comps]
    order = order[values[order] > RANK * values.max()]
    return np.asarray(scale[:, None] * vectors[:, order])


def _in_scale(moments: ContextMoments, components: Floats, method: Method) -> Basis:
    """Coordinates in the scale of a method, and what is known in them."""
    project = components
    total = project.T @ moments.total @ project
    within = project.T @ moments.within @ project
    replicated = tells_noise(moments)
    within = _drawn_to(total, within, moments.n_free) if replicated else total
    if method == "within":
        turn = _symmetric_power(within, -0.5)
    elif method == "cca":
        seen = moments.counts > 0
        weighted = moments.means * moments.counts[:, None]
        of_means = project.T @ (moments.means.T @ weighted) @ project / moments.counts.sum()
        # A ridge of what sampling adds to a mean: directions without effects are not blown up.
        ridge = np.trace(within) / len(within) * seen.sum() / moments.counts.sum()
        turn = _symmetric_power(of_means + ridge * np.eye(len(within)), -0.5)
    else:
        turn = np.eye(len(within))
    project = project @ turn
    noise = turn.T @ (within if replicated else total / 2) @ turn
    means = moments.means @ project
    between = _between(means, moments.counts, noise)
    return Basis(project, means, moments.counts, (noise + noise.T) / 2, between)


def tells_noise(moments: ContextMoments) -> bool:
    """Whether cells of a context differ; rows that only stand there twice tell of no noise."""
    spread = np.trace(moments.within), np.trace(moments.total)
    return bool(moments.n_free > 0 and spread[0] > RANK * spread[1])


def _drawn_to(total: Floats, within: Floats, n_free: float) -> Floats:
    """A covariance from few replicates, drawn towards a multiple of that of all cells.

    In coordinates in which all cells are white the multiple is a sphere, and how far to draw is the
    oracle approximating shrinkage of Chen, Wiesel, Eldar and Hero (2010), equation 23, as
    :func:`sklearn.covariance.oas` has it. With thousands of replicates next to nothing is drawn.
    """
    white, back = _symmetric_power(total, -0.5), _symmetric_power(total, 0.5)
    seen = white @ within @ white
    n = len(seen)
    sphere = np.trace(seen) / n
    squares = float(np.square(seen).mean())
    excess = (n_free + 1) * (squares - sphere**2 / n)
    share = 1.0 if excess <= 0 else min((squares + sphere**2) / excess, 1.0)
    return np.asarray(back @ ((1 - share) * seen + share * sphere * np.eye(n)) @ back)


def _typical(sd: Floats) -> float:
    return float(np.sqrt(np.square(sd).mean())) if len(sd) else 1.0


def _between(means: Floats, counts: Floats, noise: Floats) -> Floats:
    """Covariance of true context effects: that of the means, less what sampling adds."""
    seen = counts > 0
    n = counts.sum()
    center = counts @ means / n
    spread = (means[seen] - center) * np.sqrt(counts[seen] / n)[:, None]
    return _positive(spread.T @ spread - noise * seen.sum() / n)


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
            # A block of another size is gone through in cycles.
            order[here] = np.resize(rng.permutation(members[there]), len(here))
        orders.append(order)
    return orders


def axes_test(
    first: Basis,
    second: Basis,
    *,
    blocks: NDArray | None = None,
    n_draws: int = 200,
    max_axes: int = 20,
    seed: int = 0,
) -> AxesTest:
    """Test how many axes two modalities share, against permuted contexts.

    The k-th singular value is compared with the largest of permuted contexts once the k - 1 axes
    before it are taken off both sides: comparing it with the k-th permuted one would find axes in
    noise whenever a strong axis stands before it.
    """
    use = (first.counts > 0) & (second.counts > 0)
    cross, _ = pairing(first, second)
    left, values, right = np.linalg.svd(cross)
    k = len(values)
    nulls = [
        pairing(first, second, order)[0]
        for order in permuted_orders(use, blocks, n_draws=n_draws, seed=seed)
    ]
    null_mean = np.mean([np.linalg.svd(null, compute_uv=False) for null in nulls], axis=0)
    pvalue = np.ones(k)
    worst = 0.0
    for axis in range(min(k, max_axes)):
        a, b = left[:, axis:], right[axis:].T
        above = sum(np.linalg.norm(a.T @ null @ b, 2) >= values[axis] for null in nulls)
        worst = max(worst, (above + 1) / (n_draws + 1))
        pvalue[axis] = worst
    return AxesTest(values, null_mean, pvalue)


def fit_shared_axes(
    bases: Sequence[Basis],
    *,
    blocks: NDArray | None = None,
    n_draws: int = 200,
    max_axes: int = 20,
    cells_per_context: float | None = None,
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
    seed
        Seed of the permutations.
    """
    sizes = [basis.project.shape[1] for basis in bases]
    test = None
    shared: tuple[Floats, ...] = tuple(np.eye(size) for size in sizes)
    prior = _block_diagonal([basis.between for basis in bases])
    if len(bases) == 2:
        first, second = bases
        test = axes_test(
            first, second, blocks=blocks, n_draws=n_draws, max_axes=max_axes, seed=seed
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
    prior = _positive(prior)
    edges = np.cumsum([0, *sizes])
    noise = _block_diagonal(
        [
            basis.noise / (cells_per_context or float(np.median(basis.counts[basis.counts > 0])))
            for basis in bases
        ]
    )
    posterior = prior @ np.linalg.pinv(prior + noise, hermitian=True)
    slices = [slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    even = tuple(_evened(prior[part, part], noise[part, part]) for part in slices)
    scale = _block_diagonal(even)
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


def _block_diagonal(blocks: Sequence[Floats]) -> Floats:
    sizes = np.cumsum([0, *(len(block) for block in blocks)])
    out = np.zeros((sizes[-1], sizes[-1]))
    for block, start in zip(blocks, sizes[:-1], strict=True):
        out[start : start + len(block), start : start + len(block)] = block
    return out
