"""Training and validation losses by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from cellfuse._errors import listing
from cellfuse.pl._figure import Save, bare, finish, legend_above, line_style, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["training_curves"]

STAGES = ("train", "validation")


def training_curves(
    model: Any,
    *,
    ax: Axes | Sequence[Axes] | None = None,
    show: bool = False,
    save: Save = None,
) -> np.ndarray:
    """Draw each logged quantity by epoch, training and validation together.

    Parameters
    ----------
    model
        A trained model, or its ``history``: a dict from name to data frame or series by epoch.
        ``train_loss_epoch`` and ``validation_loss`` (or ``elbo_train`` and ``elbo_validation``)
        share a panel; values logged by step are left out where the same is there by epoch.
    ax
        Axes to draw into, one per quantity; None makes a figure.
    show
        Whether to call ``matplotlib.pyplot.show``.
    save
        Path to save the figure to.

    Returns
    -------
    Array of the axes, one per quantity, the total loss first.

    Raises
    ------
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
    quantities = _quantities(history)
    axes = panels(ax, len(quantities), (3.6, 3.0))
    for panel, (name, curves) in zip(axes, quantities.items(), strict=True):
        for stage, values in curves.items():
            style = line_style(STAGES.index(stage) if stage in STAGES else 0)
            marker = "o" if len(values) <= 25 else None
            label = {"train": "training"}.get(stage, stage)
            panel.plot(values.index, values, marker=marker, markersize=3, label=label, **style)
        panel.set(xlabel=str(values.index.name or "epoch"), ylabel=name.replace("_", " "))
        panel.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        bare(panel)
        if set(curves) & set(STAGES):
            legend_above(panel, 2)
    finish(axes, show=show, save=save)
    return axes


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
