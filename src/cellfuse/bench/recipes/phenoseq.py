"""PhenoSeq's tables."""

from __future__ import annotations

from typing import Any, Literal

from cellfuse.bench.recipes._call import Options, call

__all__ = ["phenoseq_table1", "phenoseq_table2", "phenoseq_table3"]

#: scGeneScope as :func:`cellfuse.datasets.scgenescope` reads it; ``split`` is the user's column of
#: train (replicate 3), val (5), WE (4) and HE (1 and 2 pooled).
PHENOSEQ_SCREEN: dict[str, Any] = {
    "context_keys": ["Treatment", "Replicate"],
    "control": None,
    "target_key": "Treatment",
    "rna_likelihood": "mse",
}
INPUTS = (("image",), ("rna",), ("synthetic",), ("image", "rna"), ("image", "synthetic"))


def phenoseq_table1(
    *,
    split_key: str = "split",
    examples: Literal["cells", "samples"] = "cells",
    n_cells: int | None = None,
    model: Options | None = None,
    train: Options | None = None,
    classifier: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """Treatments from images, RNA and synthetic RNA, single profile (PhenoSeq, Table 1).

    Five seeds of the generator and of the classifiers; no correction, as in the paper. Its numbers
    are of single cells (see :func:`cellfuse.tl.classify_treatments`), with partners of the other
    modality drawn within treatment and replicate.

    Parameters
    ----------
    split_key
        obs column, in both modalities, with ``"train"``, ``"val"`` and the test sets, such as
        ``"WE"`` and ``"HE"``.
    examples
        ``"cells"``, or ``"samples"`` (the mean of all cells, as the paper describes it).
    n_cells
        Cells that are drawn of a sample and averaged; None is all.
    model, train
        Arguments of PhenoSeq and its training, in the place of the paper's.
    classifier
        Arguments of :func:`cellfuse.tl.classify_treatments`.
    **screen
        What differs: ``context_keys``, ``image_rep``, ``rna_rep``, ``target_key``, ...

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    design = PHENOSEQ_SCREEN | screen
    options = {
        "split_key": split_key, "inputs": INPUTS, "examples": examples, "n_cells": n_cells,
        "sample_key": list(design["context_keys"]), **(classifier or {}),
    }  # fmt: skip
    return call(
        {"PhenoSeq": _phenoseq(split_key, model, train)},
        {"classification": options}, design, seeds=5, correction="none",
    )  # fmt: skip


def phenoseq_table2(**options: Any) -> dict[str, Any]:
    """The same of 32 cells drawn from each sample, averaged (PhenoSeq, Table 2).

    Parameters
    ----------
    **options
        As :func:`phenoseq_table1`.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    return phenoseq_table1(**{"examples": "samples", "n_cells": 32, **options})


def phenoseq_table3(
    *,
    split_key: str = "split",
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """Fidelity of synthetic profiles, treatment by treatment (PhenoSeq, Table 3).

    Parameters
    ----------
    split_key, model, train, **screen
        As :func:`phenoseq_table1`.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    design = PHENOSEQ_SCREEN | screen
    method = _phenoseq(split_key, model, train)
    method["sample"] = {"by": design["target_key"]}
    metrics = {"fidelity": {"by": design["target_key"]}}
    return call({"PhenoSeq": method}, metrics, design, seeds=5, correction="none")


def _phenoseq(split_key: str, model: Options | None, train: Options | None) -> dict[str, Any]:
    return {
        "model": "PhenoSeq",
        "setup": {"split_key": split_key},
        **{"preset": "base", **(model or {})},
        "train": dict(train or {}),
    }
