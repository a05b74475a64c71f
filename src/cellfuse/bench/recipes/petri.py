"""PETRI's tables."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import cellfuse
from cellfuse.bench.recipes._call import Options, call

__all__ = ["petri_s1", "petri_s2", "petri_s3", "petri_s4", "petri_table1"]

#: Arguments of PETRI that are no sizes of networks.
NO_SIZES = ("begin", "set_size", "max_epochs", "documents_per_context")
#: PETRI's screen as its tables have it (A.5): images by the controls of their well, expression by
#: all controls.
PETRI_SCREEN: dict[str, Any] = {
    "context_keys": "guide",
    "control_key": "gene",
    "control": "non-targeting",
    "target_key": "gene",
    "image_rep": "crops",
    "batch_key": {"image": "well", "rna": None},
}


def petri_table1(
    *,
    edges: Any = "uns:edges",
    scgpt: str | None = None,
    dino: str | None = None,
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """PETRI against unimodal and multimodal baselines (Table 1).

    Fifteen rows, medians of three seeds; robust centring and scaling, then whitening (ZCA, which
    the paper leaves open). CLIP averages a document's cells (A.3); a paired screen
    (``context_keys="obs_names"``) compares pairs.

    Parameters
    ----------
    edges
        StringDB's pairs with their ``score`` (:func:`cellfuse.datasets.stringdb`), or ``"uns:key"``
        of the screen.
    scgpt, dino
        obsm keys of the pretrained embeddings (:func:`cellfuse.pp.embed_scgpt`,
        :func:`cellfuse.pp.embed_images`); their rows are left out without.
    model, train
        Arguments of every model and its training, in the place of the paper's.
    **screen
        What differs from the paper's screen: ``context_keys``, ``control``, ``image_rep``, ...

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import cellfuse.bench
    >>> recipe = cf.bench.recipes.petri_table1()
    >>> list(recipe["methods"])[-1]
    'PETRI'
    """
    methods: dict[str, Any] = {"PCA": {"model": "PCA", "modalities": ["rna"]}}
    if scgpt is not None:
        methods["scGPT"] = {"use_rep": scgpt, "modalities": ["rna"]}
    methods |= _petri({"TrP MAE": {}, "PETRI Omics": {}}, model, train)
    if dino is not None:
        methods["DINOv2"] = {"use_rep": dino, "modalities": ["image"]}
    methods |= _petri({"ViT MAE": {}, "PETRI Image": {}}, model, train)
    parts = _late(model, train)
    for fusion, name in (("concat", "Concat."), ("mean", "Mean Cos."), ("max", "Max Cos.")):
        methods[f"TrP + ViT MAE {name}"] = {**parts, "fusion": fusion}
    methods |= _petri(
        {
            "Cross-modal AE": {"model": "CrossModalAE"},
            "CLIP": {"model": "CLIP"},
            "PETRI permuted": {"model": "PETRI@permuted"},
            "PETRI": {},
        },
        model,
        train,
    )
    metrics = {"guide_consistency": {"n_null": 100_000}, "edges": {"edges": edges}}
    return call(methods, metrics, PETRI_SCREEN | screen, seeds=3, against="PETRI")


def petri_s1(**options: Any) -> dict[str, Any]:
    """Embeddings without any preprocessing (Table S1): those of Table 1, raw, by their edges.

    Parameters
    ----------
    **options
        As :func:`petri_table1`.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    recipe = petri_table1(**options)
    left_out = [n for n in recipe["methods"] if n.startswith("TrP + ") or n == "Cross-modal AE"]
    methods = {n: entry for n, entry in recipe["methods"].items() if n not in left_out}
    metrics = {"edges": recipe["metrics"]["edges"]}
    return {**recipe, "methods": methods, "metrics": metrics, "correction": "none"}


def petri_s2(
    *,
    edges: Any = "uns:edges",
    n_layers: int = 4,
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """Embeddings before the set transformer and after each of its layers (Table S2).

    Parameters
    ----------
    edges, model, train, **screen
        As :func:`petri_table1`.
    n_layers
        Layers of the set transformer.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    # The network's depth is `at`; it was `layer`, which is AnnData's word.
    known = inspect.signature(cellfuse.PETRI.get_latent_representation).parameters
    at = "at" if "at" in known else "layer"
    layers: dict[str, dict[str, Any]] = {"before the set transformer": {"model": "PETRI"}}
    for layer in range(1, n_layers + 1):
        layers[f"after its layer {layer}"] = {"model": "PETRI", "embed": {at: layer}}
    metrics = {"guide_consistency": {"n_null": 100_000}, "edges": {"edges": edges}}
    return call(
        _petri(layers, model, train), metrics, PETRI_SCREEN | screen, seeds=3,
        against="before the set transformer",
    )  # fmt: skip


def petri_s3(
    *,
    edges: Any = "uns:edges",
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """The seven late fusions of TrP MAE and ViT MAE (Table S3, A.7).

    Parameters
    ----------
    edges, model, train, **screen
        As :func:`petri_table1`.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    names = {
        "concat": "Concat.", "cca_concat": "CCA Concat.", "cca_mean": "CCA Mean",
        "min": "Min Cos.", "mean": "Mean Cos.", "median": "Median Cos.", "max": "Max Cos.",
    }  # fmt: skip
    parts = _late(model, train)
    methods = {f"TrP + ViT MAE {name}": {**parts, "fusion": f} for f, name in names.items()}
    metrics = {"guide_consistency": {"n_null": 100_000}, "edges": {"edges": edges}}
    return call(methods, metrics, PETRI_SCREEN | screen, seeds=3)


def petri_s4(
    *,
    edges: Any = "uns:edges",
    n_latents: Sequence[int] = (4, 8, 16),
    set_sizes: Sequence[int] = (4, 8, 16, 32),
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """Latent tokens x cells in a document (Fig. S4, A.10); the paper's default is 8 x 16.

    Parameters
    ----------
    edges, model, train, **screen
        As :func:`petri_table1`.
    n_latents, set_sizes
        The grid, which the paper's text does not give.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    grid = {
        f"{latents} latents, {cells} cells": {
            "model": "PETRI", "n_latents": latents, "set_size": cells
        }
        for latents in n_latents
        for cells in set_sizes
    }  # fmt: skip
    metrics = {"guide_consistency": {"n_null": 100_000}, "edges": {"edges": edges}}
    return call(_petri(grid, model, train), metrics, PETRI_SCREEN | screen, seeds=3)


def _petri(
    rows: Mapping[str, Options], model: Options | None, train: Options | None
) -> dict[str, Any]:
    """Rows of PETRI and its kin in the paper's size, each told what all are told."""
    # Weights begin at random, as in the paper, whatever the size.
    own = {"preset": "base", "begin": "random", **(model or {})}
    found = {}
    for name, entry in rows.items():
        cls = getattr(cellfuse, str(entry.get("model", "PETRI")).split("@")[0])
        taken = inspect.signature(cls.__init__).parameters
        more = {key: value for key, value in own.items() if _takes(taken, key)}
        if name in ("TrP MAE", "ViT MAE"):
            more.pop("n_set_layers", None)
        known = inspect.signature(cls.train).parameters
        trained = {k: v for k, v in (train or {}).items() if _takes(known, k)}
        found[name] = {**more, **entry, "train": {**trained, **entry.get("train", {})}}
    return found


def _takes(parameters: Mapping[str, Any], key: str) -> bool:
    """Whether a function takes an argument; sizes of networks go by way of ``**sizes``."""
    if key in parameters:
        return True
    return "sizes" in parameters and key not in NO_SIZES


def _late(model: Options | None, train: Options | None) -> dict[str, Any]:
    rows = _petri({"ViT MAE": {}, "TrP MAE": {}}, model, train)
    return {
        "image": {**rows["ViT MAE"], "model": "ViT MAE"},
        "rna": {**rows["TrP MAE"], "model": "TrP MAE"},
    }
