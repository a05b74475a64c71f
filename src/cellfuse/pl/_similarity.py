"""Cosine of all pairs of profiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._access import check_finite, obs_column, profiles_only, representation
from cellfuse._errors import listing, missing_key
from cellfuse._renamed import renamed
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import FigSize, Save, figure_of, finish, heading, one_axes
from cellfuse.pl._style import DIVERGING, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["similarity"]

#: Profiles above which the matrix is no figure any more (and no small array either).
MAX_PROFILES = 5000
#: Profiles up to which leaves are turned so that neighbours are similar, which takes n^2 memory
#: and up to n^3 time.
MAX_ORDERED = 500
#: Profiles up to which every row has its name.
MAX_NAMED = 120
#: Groups whose names have room.
MAX_GROUPS = 60
DIAGONAL = "#D0D0D0"


@renamed(groupby="by")
@drawn
def similarity(
    profiles: AnnData,
    *,
    use_rep: str | None = None,
    use_sim: str | None = None,
    by: str | None = None,
    cluster: bool = True,
    vmax: float | None = None,
    cmap: str = DIVERGING,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw the cosine of all pairs of profiles as a heat map.

    The diagonal, a profile with itself, is grey: it says nothing, and would take the colours'
    range. Up to 120 profiles have their names beside the rows.

    Parameters
    ----------
    profiles
        Profiles, one row each (see :func:`cellfuse.tl.aggregate`).
    use_rep
        obsm key of the profiles; None is ``X``.
    use_sim
        obsp key of a matrix of similarities (see :func:`cellfuse.tl.late_fusion`) to draw instead.
    by
        obs column whose groups are put together, parted by lines and named; None orders all
        profiles at once.
    cluster
        Whether to order profiles (within the groups, if there are any) by average-linkage
        clustering of their cosines; False leaves them as they are.
    vmax
        Cosine at which the colours end, ``-vmax`` being the other end; None: the 99th percentile
        of the pairs' absolute cosines.
    cmap
        Diverging colour map.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes of the heat map.

    Raises
    ------
    KeyError
        The obsm or obsp key or the obs column is absent.
    ValueError
        NaN or infinite values, a profile of zeros, or more than 5,000 profiles.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import cellfuse as cf
    >>> profiles = ad.AnnData(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]))
    >>> ax = cf.pl.similarity(profiles, cluster=False)
    >>> ax.images[0].get_array().round(2).tolist()
    [[None, 0.0, 1.0], [0.0, None, 0.1], [1.0, 0.1, None]]
    """
    profiles = profiles_only(profiles)
    if vmax is not None and not vmax > 0:
        raise ValueError(f"vmax={vmax}: expected a cosine above 0.")
    if profiles.n_obs > MAX_PROFILES:
        raise ValueError(
            f"{profiles.n_obs:,} rows are too many for a heat map of all pairs (at most "
            f"{MAX_PROFILES:,}). Aggregate first: `cellfuse.tl.aggregate(data, by=...)`."
        )
    cosine = _cosine(profiles, use_rep) if use_sim is None else _given(profiles, use_sim, use_rep)
    groups = None if by is None else obs_column(profiles, by)
    order, sizes = _order(cosine, groups, cluster)

    n = profiles.n_obs
    side = float(np.clip(1.6 + 0.13 * n, 4.0, 12.0 if n <= MAX_NAMED else 8.0))
    ax = one_axes(ax, (side + 1.2, side), figsize)
    pairs = np.abs(cosine[~np.eye(n, dtype=bool)])
    end = vmax or max(float(np.quantile(pairs, 0.99)) if len(pairs) else 1.0, 0.05)
    shown = np.ma.masked_array(cosine[np.ix_(order, order)], mask=np.eye(n, dtype=bool))
    image = ax.imshow(shown, cmap=cmap, vmin=-end, vmax=end, interpolation="none")
    ax.set_facecolor(DIAGONAL)
    ax.spines[:].set_visible(False)
    extend = "both" if pairs.max(initial=0.0) > end else "neither"
    figure = figure_of(ax)
    if figure is not None:
        label = "Cosine" if use_sim is None else "Similarity"
        figure.colorbar(image, ax=ax, label=label, shrink=0.7, extend=extend)
    if by is not None:
        _draw_groups(ax, sizes, by)
    if n <= MAX_NAMED:
        _name_rows(ax, profiles.obs_names[order].astype(str), both=by is None)
    elif by is None:
        ax.set(xticks=[], yticks=[], xlabel=f"{n:,} profiles", ylabel=f"{n:,} profiles")
    if title is not None:
        heading(ax, "", title)
    return finish(ax, show=show, save=save, name="similarity", return_fig=return_fig)


def _name_rows(ax: Axes, names: pd.Index, *, both: bool) -> None:
    n = len(names)
    size = 7 if n <= 60 else 5
    if both:
        ax.set_xticks(range(n), names, rotation=90, fontsize=size)
        ax.set_yticks(range(n), names, fontsize=size)
    else:  # the groups' names are at the left and below: the profiles' stand at the right
        right = ax.secondary_yaxis("right")
        right.set_yticks(range(n), names, fontsize=size)
        right.tick_params(length=0, labelcolor=GREY)
        right.spines[:].set_visible(False)


def _given(profiles: AnnData, use_sim: str, use_rep: str | None) -> np.ndarray:
    if use_rep is not None:
        raise ValueError("give `use_rep` (cosines of vectors) or `use_sim` (a matrix), not both.")
    if use_sim not in profiles.obsp:
        raise missing_key(use_sim, list(profiles.obsp), what="obsp")
    matrix = profiles.obsp[use_sim]
    matrix = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    check_finite(matrix, f"obsp[{use_sim!r}]")
    return matrix.astype(np.float64)


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
    if len(sizes) <= MAX_GROUPS:
        middle = ends - np.array(list(sizes.values())) / 2 - 0.5
        ax.set_xticks(middle, list(sizes), rotation=90, fontsize=8)
        ax.set_yticks(middle, list(sizes), fontsize=8)
    else:
        ax.set(xticks=[], yticks=[])
    ax.set(xlabel=by, ylabel=by)
