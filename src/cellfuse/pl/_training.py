"""Training and validation losses by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfuse._errors import listing, missing_key
from cellfuse.pl._drawn import drawn
from cellfuse.pl._figure import (
    GREY,
    FigSize,
    Save,
    finish,
    legend_above,
    line_style,
    panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["training_curves"]

STAGES = ("train", "validation")


@drawn
def training_curves(
    model: Any,
    *,
    quantities: Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    figsize: FigSize = None,
    title: str | None = None,
    show: bool = False,
    save: Save = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    """Draw each logged quantity by epoch, training and validation together.

    The panels stand below each other and share the epochs; each has its own scale, so that
    heights are compared within a panel only. The grey line is the epoch with the best total loss
    in validation.

    Parameters
    ----------
    model
        A trained model, or its ``history``: a dict from name to data frame or series by epoch.
        ``train_loss_epoch`` and ``validation_loss`` (or ``elbo_train`` and ``elbo_validation``)
        share a panel; values logged by step are left out where the same is there by epoch.
    quantities
        Which to draw, such as ``["loss", "image_loss"]``; None draws all.
    ax
        Axes to draw into, one per quantity; None makes a figure.
    {drawing}

    Returns
    -------
    Array of the axes, one per quantity, the total loss first.

    Raises
    ------
    KeyError
        A quantity that was not logged.
    ValueError
        The model was not trained, or another number of axes than quantities.
    TypeError
        Neither a model nor a history.

    Examples
    --------
    >>> import pandas as pd
    >>> import cellfuse as cf
    >>> history = {
    ...     "train_loss_epoch": pd.Series([3.0, 2.0, 1.5]),
    ...     "validation_loss": pd.Series([3.1, 2.3, 2.0]),
    ... }
    >>> [panel.get_ylabel() for panel in cf.pl.training_curves(history)]
    ['loss']
    """
    history = model if isinstance(model, Mapping) else getattr(model, "history", model)
    if history is None or (isinstance(history, Mapping) and not history):
        raise ValueError("there is no training history; run `model.train()` first.")
    if not isinstance(history, Mapping):
        raise TypeError(
            "expected a trained model or its `history` (a dict of data frames or series), found "
            f"{type(model).__name__}."
        )
    found = _quantities(history)
    if quantities is not None:
        for name in quantities:
            if name not in found:
                raise missing_key(name, list(found), what="what was logged")
        found = {name: found[name] for name in quantities}
    n_columns = 1 if len(found) <= 4 else 2
    height = 3.2 if len(found) == 1 else 1.8
    axes = panels(ax, len(found), (5.2, height), figsize, n_columns=n_columns, share_x=True)
    best = _best_epoch(found)
    shown: set[str] = set()
    for panel, (name, curves) in zip(axes, found.items(), strict=True):
        for stage, values in curves.items():
            style = line_style(STAGES.index(stage) if stage in STAGES else 0)
            marker = "o" if len(values) <= 25 else None
            label = {"train": "training"}.get(stage, stage)
            panel.plot(values.index, values, marker=marker, markersize=3, label=label, **style)
        if best is not None:
            panel.axvline(best, color=GREY, linewidth=0.8, zorder=0)
        panel.set(ylabel=name.replace("_", " "))
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if ax is not None or panel in axes[-n_columns:]:
            epochs = next(iter(curves.values())).index
            panel.set_xlabel(str(epochs.name or "epoch"))
        # One legend for all panels that show the same stages.
        if set(curves) & set(STAGES) and set(curves) != shown:
            legend_above(panel, 2)
            shown = set(curves)
    return finish(
        axes, show=show, save=save, name="training_curves", title=title, return_fig=return_fig
    )


def _best_epoch(found: Mapping[str, Mapping[str, pd.Series]]) -> Any:
    """Epoch of the lowest total loss in validation, where there is a course to choose from."""
    first = next(iter(found.items()))
    values = first[1].get("validation")
    if first[0] != "loss" or values is None or len(values) < 3:
        return None
    return values.idxmin()


def _quantities(history: Mapping[str, Any]) -> dict[str, dict[str, pd.Series]]:
    """Curves by quantity and stage; the total loss comes first."""
    found: dict[str, dict[str, pd.Series]] = {}
    for name in sorted(history, key=lambda n: str(n).endswith("_step")):
        values = _series(name, history[name])
        parts = [part for part in str(name).split("_") if part]
        if len(parts) > 1 and parts[-1] in ("epoch", "step"):
            parts = parts[:-1]
        stage = next((s for s in STAGES if s in parts), "")
        quantity = "_".join(part for part in parts if part != stage) or stage
        if len(values) and stage not in found.get(quantity, {}):
            found.setdefault(quantity, {})[stage] = values
    if not found:
        raise ValueError(f"the history holds no finite number (names: {listing(history)}).")
    order = sorted(found, key=lambda quantity: (quantity != "loss", "" not in found[quantity]))
    stages = ("train", "validation", "")
    order = sorted(order, key=lambda quantity: set(found[quantity]) == {""})
    return {q: {s: found[q][s] for s in stages if s in found[q]} for q in order}


def _series(name: str, values: Any) -> pd.Series:
    if isinstance(values, pd.DataFrame):
        values = values.iloc[:, 0]
    if not isinstance(values, pd.Series):
        raise TypeError(f"history[{name!r}] is a {type(values).__name__}; expected a data frame.")
    return pd.to_numeric(values).dropna()
