"""Figures of fusion: what two modalities share, and which cells were matched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from cellfuse._access import context_labels
from cellfuse._errors import missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    COLOURS,
    MAX_TICK_LABELS,
    FigSize,
    Save,
    figure_of,
    finish,
    heading,
    one_axes,
)
from cellfuse.pl._similarity import similarity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["late_fusion", "propensity_matching"]


@drawn
def late_fusion(
    fused: AnnData,
    *,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw what the modalities share: canonical correlations, or the fused similarities.

    After CCA, the correlation of each pair of canonical variates. They are those of the profiles
    that the CCA was fitted on and are high for chance alone where dimensions are many. Otherwise
    the fused similarity of all pairs of profiles, as :func:`similarity` draws it.

    Parameters
    ----------
    fused
        What :func:`cellfuse.tl.late_fusion` gave.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        It was not made by :func:`cellfuse.tl.late_fusion`.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame(index=[f"gene{i}" for i in range(40)])
    >>> genes = {m: ad.AnnData(rng.normal(size=(40, 5)), obs=obs) for m in ("image", "rna")}
    >>> fused = cf.tl.late_fusion(genes, method="cca_mean", n_components=3)
    >>> cf.pl.late_fusion(fused).get_xlabel()
    'Canonical variate'
    """
    if "late_fusion" not in fused.uns:
        raise missing_key(
            "late_fusion",
            list(fused.uns),
            what="uns",
            fix="Give what `cellfuse.tl.late_fusion(profiles, method=...)` returned.",
        )
    params = fused.uns["late_fusion"]
    if "correlations" not in params:
        matrices = list(fused.obsp)
        drawn_axes: Any = similarity(
            fused, use_sim=matrices[0] if matrices else None, ax=ax, figsize=figsize
        )
        heading(drawn_axes, f"{params['method']} of {' and '.join(params['modalities'])}", title)
        return finish(drawn_axes, show=show, save=save, name="late_fusion", return_fig=return_fig)
    from matplotlib.ticker import MaxNLocator

    correlations = np.asarray(params["correlations"], dtype=float)
    ax = one_axes(ax, (4.6, 3.4), figsize)
    ax.bar(np.arange(1, len(correlations) + 1), correlations, color=COLOURS[0], width=0.8)
    ax.set(ylim=(0, 1.02), xlabel="Canonical variate", ylabel="Correlation")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    heading(ax, f"{' and '.join(params['modalities'])}, {fused.n_obs:,} profiles", title)
    return finish(ax, show=show, save=save, name="late_fusion", return_fig=return_fig)


@drawn
def propensity_matching(
    matching: sparse.sparray | sparse.spmatrix,
    mdata: MuData,
    by: str | list[str],
    *,
    modalities: tuple[str, str] | None = None,
    cmap: str | None = None,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw how much of each group's cells is matched to which group of the other modality.

    Matching keeps to the perturbation, so that another column says more: a cell type, a cell
    cycle phase, a plate. A row sums to 1 over the cells that were matched.

    Parameters
    ----------
    matching
        What :func:`cellfuse.tl.propensity_matching` returned.
    mdata
        The data that it was run on.
    by
        obs column or columns, in both modalities, whose groups are rows and columns.
    modalities
        Names of the two modalities, in the order of rows and columns; None: the only two.
    cmap
        Colour map; None is ``rcParams["image.cmap"]``.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        A column is absent.
    ValueError
        The matrix does not belong to the data.

    Examples
    --------
    >>> import anndata as ad, mudata, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> from scipy import sparse
    >>> obs = pd.DataFrame({"phase": ["G1", "G1", "S"]})
    >>> cells = {m: ad.AnnData(np.ones((3, 1)), obs=obs.rename(f"{m}{{}}".format)) for m in "ab"}
    >>> cells["b"].var_names = ["other"]
    >>> mdata = mudata.MuData(cells)
    >>> ax = cf.pl.propensity_matching(sparse.csr_array(np.eye(3)), mdata, "phase")
    >>> ax.images[0].get_array().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    names = list(mdata.mod) if modalities is None else list(modalities)
    first, second = (context_labels(mdata.mod[m], by, modality=m) for m in names[:2])
    if matching.shape != (len(first), len(second)):
        raise ValueError(
            f"the matching is {matching.shape[0]} x {matching.shape[1]}, the modalities have "
            f"{len(first)} and {len(second)} cells; give the data that it was made of."
        )
    rows, row_names = pd.factorize(first, sort=True)
    columns, column_names = pd.factorize(second, sort=True)
    entry = sparse.coo_array(matching)
    share = np.zeros((len(row_names), len(column_names)))
    np.add.at(share, (rows[entry.row], columns[entry.col]), entry.data)
    total = share.sum(axis=1, keepdims=True)
    share = np.divide(share, total, out=np.zeros_like(share), where=total > 0)
    side = [float(np.clip(1.8 + 0.22 * n, 3.4, 9.0)) for n in share.shape]
    ax = one_axes(ax, (side[1] + 1.0, side[0]), figsize)
    image = ax.imshow(share, vmin=0.0, cmap=cmap, aspect="auto", interpolation="none")
    for axis, labels, name in (
        (ax.yaxis, row_names, names[0]),
        (ax.xaxis, column_names, names[1]),
    ):
        axis.set_ticks(
            range(len(labels)) if len(labels) <= MAX_TICK_LABELS else [],
            list(labels) if len(labels) <= MAX_TICK_LABELS else [],
        )
        axis.set_label_text(name)
    ax.tick_params(axis="x", rotation=90)
    figure = figure_of(ax)
    if figure is not None:
        figure.colorbar(image, ax=ax, label="Share of the row's matched weight", shrink=0.8)
    heading(ax, f"{entry.nnz:,} pairs of cells", title)
    return finish(ax, show=show, save=save, name="propensity_matching", return_fig=return_fig)
