"""TIDE's two tasks."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import cellfuse
from cellfuse.bench.recipes._call import Options, call

__all__ = ["tide_task1", "tide_task2"]

#: Drugs and cell lines as :func:`cellfuse.datasets.simulated_drugs` has them.
TIDE_SCREEN: dict[str, Any] = {
    "context_keys": ["compound", "cell_line"],
    "control_key": "compound",
    "control": "DMSO",
    "target_key": "compound",
    "image_rep": "crops",
    "batch_key": {"image": "cell_line", "rna": None},
}
BACKBONES = {"ViT": False, "CA-ViT": True}


def tide_task1(
    *,
    backbones: Sequence[str] = tuple(BACKBONES),
    hold_out: Any = 0.2,
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """One-shot transfer to interventions that no training saw (TIDE, task 1).

    MAE, DINO, CL(D), CL(R) and TIDE, each with the ViT and the channel-agnostic ViT; interventions
    are held out as wholes; images are compared one by one. All methods keep the epoch by one rule:
    the accuracy of the held-out images' 20 nearest neighbours among all training images.

    Parameters
    ----------
    backbones
        ``"ViT"``, ``"CA-ViT"`` or both.
    hold_out
        Share of the interventions, or the obs column (see :func:`cellfuse.benchmark`).
    model, train
        Arguments of every model and its training, in the place of the paper's.
    **screen
        What differs: ``context_keys``, ``target_key``, ...

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    metrics = {"transfer": {"k": (1, 5), "level": "cells"}}
    return call(
        _tide(backbones, model, train, screen), metrics, TIDE_SCREEN | screen, seeds=3,
        correction="rcc", hold_out=hold_out,
    )  # fmt: skip


def tide_task2(
    *,
    targets: Any = "uns:targets",
    kind_key: str = "kind",
    negatives: Literal["sampled", "all"] = "sampled",
    backbones: Sequence[str] = tuple(BACKBONES),
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """Drug-target discovery without training for it (TIDE, task 2).

    The images are of compounds and of knock-outs, which `kind_key` tells apart; models are trained
    on the compounds' alone.

    Parameters
    ----------
    targets
        Known targets, columns ``source`` (compound) and ``target`` (gene), or ``"uns:key"``.
    kind_key
        obs column with ``"compound"`` and ``"gene"``, in both modalities.
    negatives
        ``"sampled"``: targets of other compounds, at least 20, in 100 draws (RxRx3-core's ranking);
        ``"all"``: every gene, once (CPG-Pilot's, the JUMP pilot).
    backbones, model, train, **screen
        As :func:`tide_task1`; ``target_key`` holds the compound's or the gene's name.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    metrics = {"target_discovery": {
        "targets": targets, "kind_key": kind_key, "n_draws": 100, "negatives": negatives,
    }}  # fmt: skip
    return call(
        _tide(backbones, model, train, screen), metrics, TIDE_SCREEN | screen, seeds=3,
        correction="rcc", hold_out={kind_key: "gene"},
    )  # fmt: skip


def _tide(
    backbones: Sequence[str], model: Options | None, train: Options | None, screen: Options
) -> dict[str, Any]:
    by = (TIDE_SCREEN | dict(screen))["target_key"]
    rule = {"knn_key": by, "validation_size": 0.1}  # TIDE and its kin have it by themselves
    rows: dict[str, dict[str, Any]] = {
        "MAE": {"model": "MAE"},
        "DINO": {"model": "DINO"},
        "CL(D)": {"model": "TIDE", "objective": "drug"},
        "CL(R)": {"model": "TIDE", "objective": "rna"},
        "TIDE": {"model": "TIDE"},
    }
    found = {}
    for backbone in backbones:
        for name, row in rows.items():
            cls = getattr(cellfuse, row["model"])
            known = inspect.signature(cls.train).parameters
            found[f"{name}, {backbone}"] = {
                **{"preset": "base", **(model or {})},
                **row,
                "channel_agnostic": BACKBONES[backbone],
                "train": {
                    **({} if row["model"] == "TIDE" else rule),
                    **{k: v for k, v in (train or {}).items() if k in known},
                },
            }
    return found
