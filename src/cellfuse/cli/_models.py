"""Which options of ``cellfuse train`` each model has: answered before any model is imported."""

from __future__ import annotations

from collections.abc import Iterable

from cellfuse._errors import missing_key

__all__ = ["LACKS", "NEEDS", "OF_TRAIN", "check_options", "model_name"]

#: Arguments of models that are options of ``cellfuse train``, but for those that all have.
OF_TRAIN = (
    *("context_keys", "image_rep", "rna_rep", "rna_layer", "rna_likelihood"),
    *("preset", "set_size", "crop", "max_epochs", "documents_per_context", "checkpoint"),
)
_OF_IMAGES = (
    "context_keys",
    "rna_rep",
    "rna_layer",
    "rna_likelihood",
    "set_size",
    "documents_per_context",
)
#: Arguments that a model has no use for; the tests hold them against the models' own.
LACKS: dict[str, tuple[str, ...]] = {
    "CLIP": (),
    "CrossModalAE": ("set_size",),
    "DINO": _OF_IMAGES,
    "GROOVE": ("preset", "set_size", "crop"),
    "MAE": _OF_IMAGES,
    "PETRI": (),
    "PhenoSeq": ("rna_layer", "rna_likelihood", "crop"),
    "SemiClipped": ("rna_likelihood", "set_size", "crop", "documents_per_context"),
    "SharedAxes": ("preset", "set_size", "max_epochs", "documents_per_context", "checkpoint"),
}
#: Arguments without which a model cannot be set up.
NEEDS: dict[str, tuple[str, ...]] = {
    "CLIP": ("context_keys",),
    "CrossModalAE": ("context_keys",),
    "DINO": ("image_rep",),
    "GROOVE": ("context_keys",),
    "MAE": ("image_rep",),
    "PETRI": ("context_keys",),
    "PhenoSeq": (),
    "SemiClipped": ("context_keys", "image_rep", "rna_rep"),
    "SharedAxes": ("context_keys",),
}


def model_name(name: str) -> str:
    """Name of the model's class, in whatever case it was written."""
    found = {m.casefold(): m for m in LACKS}.get(name.casefold().replace("-", ""))
    if found is None:
        raise missing_key(name, list(LACKS), what="the models of `cellfuse train` (--model)")
    return found


def check_options(model: str, given: Iterable[str], in_setup: Iterable[str]) -> None:
    """Refuse an option that the model lacks, and the want of one that it needs.

    Parameters
    ----------
    model
        Name of the class.
    given, in_setup
        Arguments that were given as options, and in the table ``[setup]`` of a configuration.
    """
    options = {argument: _option(argument) for argument in (*LACKS[model], *NEEDS[model])}
    there = {*given, *in_setup}
    for argument in LACKS[model]:
        if argument in given:
            raise ValueError(f"{model} has no {options[argument]}: leave it out.")
    for argument in NEEDS[model]:
        if argument not in there:
            raise ValueError(f"{model} needs {options[argument]}.")


def _option(argument: str) -> str:
    return "--context" if argument == "context_keys" else f"--{argument.replace('_', '-')}"
