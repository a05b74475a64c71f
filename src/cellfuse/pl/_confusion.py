"""Who was taken for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfuse._errors import listing, missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import FigSize, Save, finish, heading, one_axes, stored

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["confusion"]

#: Classes up to which each is named on both axes.
NAMED = 60


@drawn
def confusion(
    data: AnnData | MuData | pd.DataFrame,
    *,
    key: str = "knn_accuracy",
    input: str | None = None,
    test: str | None = None,
    normalize: bool = True,
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw which class was taken for which: true ones in rows, predictions in columns.

    Parameters
    ----------
    data
        What :func:`cellfuse.tl.knn_accuracy` or :func:`cellfuse.tl.classify_treatments` was run on,
        or a table with the columns ``label``, ``predicted`` and ``n``.
    key
        Key of ``.uns``; ``"classify_treatments"`` for those.
    input, test
        Which input and test set of :func:`cellfuse.tl.classify_treatments`; None: the only one.
    normalize
        Draw shares of each row instead of numbers.
    ax
        Axes to draw into; None makes a figure.
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        Nothing was classified under that key, or there is no such input or test set.
    ValueError
        Several inputs or test sets, and none was named.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.repeat(np.eye(2), 4, axis=0) + 0.01
    >>> obs = pd.DataFrame({"gene": np.repeat(["A", "B"], 4)}, index=[f"p{i}" for i in range(8)])
    >>> profiles = ad.AnnData(x, obs=obs)
    >>> _ = cf.tl.knn_accuracy(profiles, use_rep=None, by="gene", k=3)
    >>> cf.pl.confusion(profiles).get_xlabel()
    'Predicted'
    """
    table = data
    if not isinstance(data, pd.DataFrame):
        run = f"cellfuse.tl.{key}(...)"
        table = stored(data, key, ("confusion",), run=run)["confusion"]
    assert isinstance(table, pd.DataFrame)
    for name, wanted in (("input", input), ("test", test)):
        table = _part(table, name, wanted)
    names = sorted({*table["label"].astype(str), *table["predicted"].astype(str)})
    place = pd.Index(names)
    counts = np.zeros((len(names), len(names)))
    at = (
        place.get_indexer(table["label"].astype(str)),
        place.get_indexer(table["predicted"].astype(str)),
    )
    np.add.at(counts, at, table["n"].to_numpy(dtype=float))
    total = counts.sum(axis=1, keepdims=True)
    shown = counts / np.where(total > 0, total, 1.0) if normalize else counts
    side = min(2.4 + 0.19 * len(names), 11.0)
    ax = one_axes(ax, (side + 0.9, side), figsize)
    image = ax.imshow(shown, cmap="magma_r", vmin=0, vmax=1 if normalize else None)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label("Share of the true class" if normalize else "Number")
    ax.set(xlabel="Predicted", ylabel="True")
    if len(names) <= NAMED:
        ax.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
        ax.set_yticks(range(len(names)), names, fontsize="small")
    right = np.trace(counts)
    macro = np.diag(counts)[total[:, 0] > 0] / total[total[:, 0] > 0, 0]
    heading(
        ax,
        f"{right / counts.sum():.0%} of {counts.sum():g} right, {macro.mean():.0%} over classes",
        title,
    )
    return finish(ax, show=show, save=save, name="confusion", return_fig=return_fig)


def _part(table: pd.DataFrame, name: str, wanted: str | None) -> pd.DataFrame:
    """Rows of one input or test set."""
    if name not in table.columns:
        if wanted is not None:
            raise missing_key(name, list(table.columns), what="the columns of the confusion")
        return table
    found = list(dict.fromkeys(table[name].astype(str)))
    if wanted is None:
        if len(found) > 1:
            raise ValueError(f"there are several of `{name}`: {listing(found)}; name one.")
        return table
    if wanted not in found:
        raise missing_key(wanted, found, what=f"the confusion's {name!r}")
    return table[table[name].astype(str) == wanted]
