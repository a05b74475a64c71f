"""Whether a context's two profiles lie together: own cosines beside others', and the summary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from mudata import MuData

from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    GREY,
    FigSize,
    Save,
    finish,
    heading,
    legend_beside,
    one_axes,
    stored,
)
from cellfuse.pl._style import Palette, colours_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["alignment"]


@drawn
def alignment(
    mdata: MuData,
    *,
    key: str = "alignment",
    ax: Axes | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    palette: Palette = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Draw own against other contexts' cosines between two modalities (PETRI, Fig. 4b).

    One curve per space that :func:`cellfuse.tl.alignment` compared, the permuted twin grey; dashed
    is the mean cosine with other contexts. The legend gives FOSCTTM (chance .5) and the ceilings.

    Parameters
    ----------
    mdata
        That :func:`cellfuse.tl.alignment` was run on.
    key
        Key of the table in ``uns``.
    ax
        Axes to draw into; None makes a figure.
    {palette}
    {drawing}

    Returns
    -------
    The axes.

    Raises
    ------
    KeyError
        The tool was not run.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(60, n_targets=8, cells_per_guide=6, seed=0)
    >>> table = cf.tl.alignment(mdata, "guide", use_rep="latent", n_boot=0, n_draws=20)
    >>> cf.pl.alignment(mdata).get_xlabel()
    "cosine between a context's two profiles"
    """
    kept = stored(mdata, key, ["table"], run="cf.tl.alignment")
    table = kept["table"].set_index("space")
    ax = one_axes(ax, (3.6, 2.8), figsize)
    bins = np.linspace(-1, 1, 41).tolist()
    shown = [name for name in ("embedding", "permuted") if f"cosines_{name}" in kept]
    colours = colours_of(shown, palette)
    for name in shown:
        cosines = kept[f"cosines_{name}"]
        colour = GREY if name == "permuted" else colours[name]
        label = f"{name}, FOSCTTM {table.loc[name, 'foscttm']:.2f}"
        ax.hist(
            cosines["own"], bins, density=True, histtype="stepfilled", alpha=0.45, color=colour,
            label=label,
        )  # fmt: skip
        ax.axvline(float(np.mean(cosines["other"])), color=colour, linestyle="--", linewidth=1)
    for name in table.index.difference(shown, sort=False):
        ax.plot([], [], " ", label=f"{name}, FOSCTTM {table.loc[name, 'foscttm']:.2f}")
    ax.set(xlabel="cosine between a context's two profiles", ylabel="density", xlim=(-1, 1))
    legend_beside(ax)  # the bars may be anywhere
    heading(ax, "alignment", title)
    return finish(ax, show=show, save=save, return_fig=return_fig, name="alignment")
