"""The card of one concept (PETRI, Fig. 5d)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from mudata import MuData
from scipy import sparse

from cellfuse._access import representation
from cellfuse._errors import listing, missing_key
from cellfuse.pl._crops import crops_of, draw_row, look, picked
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import COLOURS, FigSize, Save, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["concept"]

#: Bars of each kind.
N_BARS = 5
#: Letters of a term.
N_LETTERS = 34


@drawn
def concept(
    data: MuData,
    number: int,
    *,
    images: str = "image",
    image_rep: str = "crops",
    channels: str | Sequence[str] | None = None,
    n_cells: int = 6,
    quantile: float = 0.99,
    pixel_size: float | None = None,
    use_rep: str = "X_concepts",
    keys: Mapping[str, str] | None = None,
    seed: int = 0,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw the card of a concept (PETRI, Fig. 5d): its cells, genes, terms and perturbations.

    At the left, for each channel, crops of cells without the concept above crops of cells with
    the highest activations, on one scale of intensities. At the right what the tools have found,
    the most significant first; bars to the right of zero are what cells with the concept have
    more of.

    Parameters
    ----------
    data
        MuData with activations and crops; :func:`cellfuse.tl.concept_features`,
        :func:`~cellfuse.tl.concept_enrichment` and :func:`~cellfuse.tl.differential_concepts`
        fill the right side, as far as they were run.
    number
        The concept.
    images
        Modality with the crops.
    image_rep
        obsm key of the crops.
    channels
        Channels to draw; None: all.
    n_cells
        Cells in a row.
    quantile
        Activation from which on cells have the concept, .99 (paper). The cells drawn are a random
        choice of those.
    pixel_size
        Micrometres per pixel, for the scale bar; None labels it in pixels.
    use_rep
        obsm key of the activations.
    keys
        Keys of ``.uns`` where they differ from the tools' own.
    seed
        Of the choice of cells.
    {drawing}

    Returns
    -------
    Array of the axes: a row of crops without and with for each channel, then genes, terms,
    perturbations.

    Raises
    ------
    KeyError
        No such modality, images, activations or channel.
    ValueError
        A number out of range, or no cell of the images that has the concept.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import numpy as np, scipy.sparse as sp
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=3, seed=0)
    >>> for m in mdata.mod.values():
    ...     m.obsm["X_concepts"] = sp.csr_matrix(np.arange(m.n_obs)[:, None] % 4.0)
    >>> axes = cf.pl.concept(mdata, 0, channels=["DNA", "droplets"])
    >>> axes[1].get_ylabel()
    'with'
    """
    if images not in data.mod:
        raise missing_key(images, list(data.mod), what="the MuData's modalities")
    adata = data.mod[images]
    stored, places, names = crops_of(adata, image_rep, channels)
    value = _activation(adata, use_rep, number)
    rows = _rows(value, number, n_cells, quantile, seed)
    crops = [picked(stored, part) for part in rows]
    how = look(crops, places, names, composite=False, pixel_size=pixel_size)
    import matplotlib.pyplot as plt

    bars = _bars(data, number, keys or {})
    side = 0.8
    width = side * n_cells + 0.9
    height = max(2 * len(names) * side + 0.6, 4.8)
    figure = plt.figure(figsize=figsize or (width + 4.4, height), layout="constrained")
    halves: Any = figure.subfigures(1, 2, width_ratios=[width, 4.4])
    left, right = halves
    grid = left.subplots(2 * len(names), 1, squeeze=False)[:, 0]
    for k, name in enumerate(names):
        one = replace(how, channels=[places[k]], names=[name], limits=how.limits[k : k + 1])
        for j, part in enumerate(crops):
            ax = grid[2 * k + j]
            last = k == len(names) - 1 and j == 1
            draw_row(ax, part, one, n_columns=n_cells, bar=last)
            ax.set_ylabel(("without", "with")[j], rotation=0, ha="right", va="center", fontsize=7)
        grid[2 * k].set_title(name, loc="left", fontsize="small", pad=2)
    charts = right.subplots(3, 1)
    for ax, (heading_, table) in zip(charts, bars.items(), strict=True):
        _chart(ax, heading_, table)
    text = f"Concept {number}" + _shares(data, number, keys or {}) if title is None else title
    figure.suptitle(text, x=0.01, ha="left", fontsize="medium")
    axes = np.array([*grid, *charts], dtype=object)
    return finish(axes, show=show, save=save, name="concept", return_fig=return_fig)


def _activation(adata: Any, use_rep: str, number: int) -> np.ndarray:
    values = representation(adata, use_rep, on_disk=True)
    if not 0 <= int(number) < values.shape[1]:
        raise ValueError(
            f"there is no concept {number}: they are numbered 0 to {values.shape[1] - 1}."
        )
    if hasattr(values, "to_memory"):  # sparse, in a file
        values = values.to_memory()
    part = values[:, int(number) : int(number) + 1]
    part = part.compute() if hasattr(part, "compute") else part
    column = np.asarray(part.toarray() if sparse.issparse(part) else part)[:, 0]
    if not (column > 0).any():
        raise ValueError(f"no cell of the images has concept {number}.")
    return column


def _rows(
    value: np.ndarray, number: int, n_cells: int, quantile: float, seed: int
) -> list[np.ndarray]:
    """Cells without the concept, and cells of the highest activations."""
    bound = np.quantile(value, quantile)
    high = np.flatnonzero(value >= bound if bound > 0 else value > 0)
    if len(high) < n_cells:  # few cells: those that have most of it
        high = np.argsort(-value, kind="stable")[: min(n_cells, int((value > 0).sum()))]
    rng = np.random.default_rng([seed, number])
    found = []
    for rows in (np.flatnonzero(value == 0), high):
        if len(rows) > n_cells:
            rows = rng.choice(rows, n_cells, replace=False)
        found.append(np.sort(rows))
    return found


def _bars(data: MuData, number: int, keys: Mapping[str, str]) -> dict[str, pd.Series]:
    """Bars of genes, terms and perturbations, as far as they are known."""
    wanted = (
        ("Genes (test statistic)", "concept_features", "genes", "gene", "score"),
        ("Gene sets (normalised score)", "concept_enrichment", "table", "term", "score"),
        ("Perturbations (AUC less .5)", "differential_concepts", "table", "group", "auc"),
    )
    found = {}
    for text, key, part, name, value in wanted:
        kept = data.uns.get(keys.get(key, key), {})
        if part not in kept:
            found[f"{text}: `{key}` was not run"] = pd.Series(dtype=float)
            continue
        table = kept[part]
        table = table[(table["concept"] == number) & table["significant"].astype(bool)]
        table = table.sort_values("pvalue", kind="stable").drop_duplicates(name)[:N_BARS]
        shown = table[value].to_numpy(float) - (0.5 if value == "auc" else 0.0)
        found[text] = pd.Series(shown, index=table[name].astype(str))
    return found


def _chart(ax: Axes, text: str, bars: pd.Series) -> None:
    ax.set_title(text, loc="left", fontsize="small")
    if bars.empty:
        ax.set_axis_off()
        ax.set_title(text if "not run" in text else f"{text}: none", loc="left", fontsize="small")
        return
    y = N_BARS - 1 - np.arange(len(bars))  # bars of one thickness, however many
    values = bars.to_numpy(float)
    colours = [COLOURS[1] if v > 0 else COLOURS[0] for v in values]
    ax.barh(y, values, color=colours, height=0.7)
    ax.axvline(0, color="black", linewidth=0.6)
    names = [_short(str(name)) for name in bars.index]
    ax.set_yticks(y, names, fontsize=7)
    ax.tick_params(axis="x", labelsize=7)
    ax.set_ylim(-0.6, N_BARS - 0.4)


def _short(name: str) -> str:
    plain = name.replace("_", " ")
    return plain if len(plain) <= N_LETTERS else plain[: N_LETTERS - 1] + "…"


def _shares(data: MuData, number: int, keys: Mapping[str, str]) -> str:
    kept = data.uns.get(keys.get("multimodal_concepts", "multimodal_concepts"))
    if kept is None:
        return ""
    row = kept["table"].iloc[int(number)]
    parts = [
        f"{float(row[c]):.0%} of {str(c).removeprefix('fraction_')} cells"
        for c in kept["table"].columns
        if str(c).startswith("fraction_")
    ]
    return f": active in {listing(parts).replace(chr(39), '')}"
