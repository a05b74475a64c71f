"""Semi-Clipped's recall."""

from __future__ import annotations

from typing import Any

from cellfuse.bench.recipes._call import Options, call

__all__ = ["semi_clipped_recall"]


def semi_clipped_recall(
    *,
    pairs: Any,
    rna_rep: str,
    image_rep: str,
    model: Options | None = None,
    train: Options | None = None,
    **screen: Any,
) -> dict[str, Any]:
    """Known relationships recalled by distilled expression (Semi-Clipped).

    The frozen embedding, Semi-Clipped with and without PEA, the other losses, and CLIP with two
    heads; recall of each source (CORUM, HuMAP, Reactome, SIGNOR, StringDB).

    Parameters
    ----------
    pairs
        Tables by source, such as :func:`cellfuse.datasets.reactome` and
        :func:`cellfuse.datasets.humap`; or ``"uns:key"``.
    rna_rep, image_rep
        obsm keys of the frozen embeddings (the paper: scVI and Phenom-1).
    model, train
        Arguments of every model and its training, in the place of the paper's.
    **screen
        The screen: ``context_keys``, ``control``, ``control_key``, ``target_key``, ``batch_key``.

    Returns
    -------
    Arguments of :func:`cellfuse.benchmark` beside the screen.
    """
    own = {"preset": "base", **(model or {})}
    rows: dict[str, dict[str, Any]] = {
        "Semi-Clipped": {},
        "Semi-Clipped without PEA": {"pea": ("none",)},
        "CLIP, two heads": {"trains": "heads"},
        "SigClip": {"loss": "sigmoid"},
        "VICReg": {"loss": "vicreg"},
        "KD": {"loss": "kd"},
        "MSE": {"loss": "mse"},
    }
    methods: dict[str, Any] = {"frozen": {"use_rep": rna_rep, "modalities": ["rna"]}}
    for name, row in rows.items():
        methods[name] = {"model": "SemiClipped", **own, **row, "train": dict(train or {})}
    design = {"image_rep": image_rep, "rna_rep": rna_rep, "rna_likelihood": "mse", **screen}
    metrics = {"relationship_recall": {"pairs": pairs}}
    return call(methods, metrics, design, seeds=3, against="frozen")
