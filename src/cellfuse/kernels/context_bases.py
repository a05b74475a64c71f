"""Coordinates of one modality in which its contexts are compared: components, then their scale.

Whitened within contexts, a direction is as long as single cells scatter along it, and what contexts
add to that is effect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.context_sums import ContextMoments

__all__ = [
    "Basis",
    "Method",
    "View",
    "bases_of_sides",
    "bases_of_views",
    "fit_bases",
    "fit_basis",
    "positive_part",
    "tells_noise",
]

Floats = NDArray[np.float64]
Method = Literal["within", "ibfa", "cca"]

#: Directions with less than this share of the largest variance are rounding.
RANK = 1e-6


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
class View:
    """One way to look at the cells: which features of each modality, and in which scale.

    Attributes
    ----------
    columns
        Features of each modality that take part.
    powers
        Of each modality's features, as `power` of :func:`fit_bases`.
    """

    columns: tuple[NDArray[np.int64], ...]
    powers: tuple[float, ...]


def _symmetric_power(matrix: Floats, power: float, *, rank: float = RANK) -> Floats:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    keep = values > rank * max(values.max(), 0.0)
    scaled = np.where(keep, np.where(keep, values, 1.0) ** power, 0.0)
    return (vectors * scaled) @ vectors.T


def positive_part(matrix: Floats) -> Floats:
    """A symmetric matrix without its negative eigenvalues."""
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


def bases_of_views(
    moments: Sequence[ContextMoments], n_comps: Sequence[int], views: Sequence[View], **how: Any
) -> list[list[Basis]]:
    """As :func:`bases_of_sides`, for each view all numbers; other features' coordinates are 0."""
    found = []
    for view in views:
        given = [each.of_features(of) for each, of in zip(moments, view.columns, strict=True)]
        for bases in bases_of_sides(given, n_comps, powers=view.powers, **how):
            sizes = [len(each.offset) for each in moments]
            wide = zip(bases, view.columns, sizes, strict=True)
            found.append([_widened(basis, columns, size) for basis, columns, size in wide])
    return found


def _widened(basis: Basis, columns: NDArray[np.int64], n_features: int) -> Basis:
    """Coordinates of some features as coordinates of all."""
    if len(columns) == n_features:
        return basis
    project = np.zeros((n_features, basis.project.shape[1]))
    project[columns] = basis.project
    return replace(basis, project=project)


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
    return positive_part(spread.T @ spread - noise * seen.sum() / n)
