"""Cosine of all pairs of profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import check_finite, obs_column, profiles_only, representation
from cellfuse._errors import listing
from cellfuse._renamed import renamed
from cellfuse.pl._figure import MAX_TICK_LABELS, Save, finish, one_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["similarity"]

#: Profiles above which the matrix is no figure any more (and no small array either).
MAX_PROFILES = 5000
#: Profiles up to which leaves are turned so that neighbours are similar, which takes n^2 memory
#: and up to n^3 time.
MAX_ORDERED = 500


@renamed(groupby="by")
def similarity(
    profiles: AnnData,
    *,
    use_rep: str | None = None,
    by: str | None = None,
    cluster: bool = True,
    vmax: float = 1.0,
    ax: Axes | None = None,
    show: bool = False,
    save: Save = None,
) -> Axes:
    """Draw the cosine of all pairs of profiles as a heat map.

    Parameters
    ----------
    profiles
        Profiles, one row each (see :func:`cellfuse.tl.aggregate`).
    use_rep
        obsm key of the profiles; None is ``X``.
    by
        obs column whose groups are put together, parted by lines and named; None orders all
        profiles at once.
    cluster
        Whether to order profiles (within the groups, if there are any) by average-linkage
        clustering of their cosines; False leaves them as they are.
    vmax
        Cosine at which the colours end, ``-vmax`` being the other end.
    ax
        Axes to draw into; None makes a figure.
    show
        Whether to call ``matplotlib.pyplot.show``.
    save
        Path to save the figure to.

    Returns
    -------
    The axes of the heat map.

    Raises
    ------
    KeyError
        The obsm key or obs column is absent.
    ValueError
        NaN or infinite values, a profile of zeros, or more than 5,000 profiles.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import cellfuse as cf
    >>> profiles = ad.AnnData(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]))
    >>> ax = cf.pl.similarity(profiles, cluster=False)
    >>> ax.images[0].get_array().round(2).tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.1], [1.0, 0.1, 1.0]]
    """
    profiles = profiles_only(profiles)
    if not vmax > 0:
        raise ValueError(f"vmax={vmax}: expected a cosine above 0.")
    if profiles.n_obs > MAX_PROFILES:
        raise ValueError(
            f"{profiles.n_obs:,} rows are too many for a heat map of all pairs (at most "
            f"{MAX_PROFILES:,}). Aggregate first: `cellfuse.tl.aggregate(data, by=...)`."
        )
    cosine = _cosine(profiles, use_rep)
    groups = None if by is None else obs_column(profiles, by)
    order, sizes = _order(cosine, groups, cluster)

    n = profiles.n_obs
    side = float(np.clip(1.6 + 0.13 * n, 4.0, 9.0))
    ax = one_axes(ax, (side + 1.2, side))
    image = ax.imshow(
        cosine[np.ix_(order, order)], cmap="RdBu_r", vmin=-vmax, vmax=vmax, interpolation="none"
    )
    extend = "both" if np.abs(cosine[~np.eye(n, dtype=bool)]).max(initial=0.0) > vmax else "neither"
    ax.figure.colorbar(image, ax=ax, label="Cosine", shrink=0.7, extend=extend)
    if by is not None:
        _draw_groups(ax, sizes, by)
    elif n <= MAX_TICK_LABELS:
        names = profiles.obs_names[order]
        ax.set_xticks(range(n), names, rotation=90, fontsize=7)
        ax.set_yticks(range(n), names, fontsize=7)
    else:
        ax.set(xticks=[], yticks=[], xlabel=f"{n:,} profiles", ylabel=f"{n:,} profiles")
    finish(ax, show=show, save=save)
    return ax


def _cosine(profiles: AnnData, use_rep: str | None) -> np.ndarray:
    values = representation(profiles, use_rep)
    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    check_finite(values, "the profiles")
    values = values.astype(np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    empty = length[:, 0] == 0
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} profiles are all zeros and have no direction: "
            f"{listing(profiles.obs_names[empty])}. Drop them."
        )
    values /= length
    return np.clip(values @ values.T, -1.0, 1.0)


def _order(
    cosine: np.ndarray, groups: pd.Series | None, cluster: bool
) -> tuple[np.ndarray, dict[str, int]]:
    """Rows in the order of drawing, and the groups' sizes."""
    if groups is None:
        rows = np.arange(len(cosine))
        return (_clustered(cosine, rows) if cluster else rows), {}
    parts, sizes = [], {}
    # A categorical's own order, else alphabetical: what a group-by gives.
    for name, members in groups.groupby(groups, observed=True).indices.items():
        rows = np.asarray(members)
        parts.append(_clustered(cosine, rows) if cluster else rows)
        sizes[str(name)] = len(rows)
    return np.concatenate(parts), sizes


def _clustered(cosine: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if len(rows) < 3:
        return rows
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = 1.0 - cosine[np.ix_(rows, rows)]
    np.fill_diagonal(distance, 0.0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    tree = linkage(condensed, method="average", optimal_ordering=len(rows) <= MAX_ORDERED)
    return rows[leaves_list(tree)]


def _draw_groups(ax: Axes, sizes: dict[str, int], by: str) -> None:
    ends = np.cumsum(list(sizes.values()))
    for end in ends[:-1]:
        ax.axhline(end - 0.5, color="black", linewidth=0.6)
        ax.axvline(end - 0.5, color="black", linewidth=0.6)
    if len(sizes) <= MAX_TICK_LABELS:
        middle = ends - np.array(list(sizes.values())) / 2 - 0.5
        ax.set_xticks(middle, list(sizes), rotation=90, fontsize=8)
        ax.set_yticks(middle, list(sizes), fontsize=8)
    else:
        ax.set(xticks=[], yticks=[])
    ax.set(xlabel=by, ylabel=by)
