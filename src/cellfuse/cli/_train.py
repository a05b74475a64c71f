"""``cellfuse train``: a model on the user's file, saved to a folder."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

import cellfuse as cf
from cellfuse._errors import missing_key
from cellfuse.cli import _options as o
from cellfuse.cli._choices import by_role, check_columns, columns, given_only
from cellfuse.cli._header import read_header
from cellfuse.cli._run import check_writable, loading, verbosity

__all__ = ["model_name", "train"]

#: Models that are not trained from a file in one call.
NOT_HERE = {"Concepts", "ImageRegressor", "TIDE"}


def train(
    context: typer.Context,
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="MuData (.h5mu), or one modality (.h5ad).")
    ],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Which method: PETRI, SharedAxes, CLIP, ...")
    ] = "PETRI",
    out: Annotated[
        str, typer.Option(metavar="DIR", help="Folder to save the model to.")
    ] = "cellfuse_model",
    modality: o.Modality = None,
    modalities: o.Modalities = None,
    context_keys: Annotated[
        str | None,
        typer.Option(
            "--context",
            metavar="COLUMN",
            rich_help_panel=o.DATA,
            help="obs column, in every modality, that cells share; several with commas. Must be "
            "given but for models of images alone.",
        ),
    ] = None,
    image_rep: o.ImageRep = None,
    rna_rep: o.RnaRep = None,
    rna_layer: o.RnaLayer = None,
    rna_likelihood: o.RnaLikelihood = None,
    crop: o.Crop = None,
    preset: o.Preset = None,
    set_size: o.SetSize = None,
    max_epochs: o.MaxEpochs = None,
    documents_per_context: o.DocumentsPerContext = None,
    accelerator: Annotated[
        o.Accelerator, typer.Option(rich_help_panel=o.TRAINING, help="What to train on.")
    ] = o.Accelerator.auto,
    seed: o.Seed = 0,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            rich_help_panel=o.TRAINING,
            help="Folder of the checkpoint: an interrupted training goes on where it stopped when "
            "the same command is given again.",
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Train a model on a file and save it.

    What a model takes beyond these options goes into the tables `[setup]`, `[model]` and `[train]`
    of a --config file.

        cellfuse train screen.h5mu --context guide --image-rep crops --out petri

        cellfuse embed screen.h5mu petri --out embedded.h5mu
    """
    name = model_name(model)
    free = context.obj or {}
    target = Path(out)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{out!r} exists; name another folder (--out), or give --overwrite.")
    check_writable(target, "--out")
    role = modality.value if modality is not None else None
    header = read_header(data, modality=role)
    roles = by_role(modalities, "--modalities image=NAME,rna=NAME") if modalities else None
    parts = check_columns(
        header,
        roles=roles,
        every={"--context": context_keys},
        image_rep=image_rep,
        rna_rep=rna_rep,
        rna_layer=rna_layer,
    )
    with verbosity(quiet):
        loading(quiet)
        from cellfuse._console import Steps
        from cellfuse.bench import read_screen

        steps = Steps(None if quiet else lambda text: print(text, flush=True))
        chosen: Any = getattr(cf, name)
        setup = given_only(
            image_rep=image_rep,
            rna_rep=rna_rep,
            rna_layer=rna_layer,
            rna_likelihood=rna_likelihood,
        )
        if context_keys is not None:
            keys = columns(context_keys)
            setup["context_keys"] = keys[0] if len(keys) == 1 else keys
        setup |= {"modalities": {r: p.name for r, p in parts.items()}} | free.get("setup", {})
        setup = _needed(_setup_of(chosen), setup, name)
        sizes = given_only(preset=preset, set_size=set_size, crop=crop, seed=seed)
        sizes = _taken(chosen.__init__, sizes, name) | free.get("model", {})
        training = given_only(
            max_epochs=max_epochs,
            documents_per_context=documents_per_context,
            accelerator=accelerator,
            checkpoint=checkpoint,
        )
        training = _taken(chosen.train, training, name) | free.get("train", {})
        with steps("reading"):
            mdata = read_screen(data, modality=role)
        _setup_of(chosen)(mdata, **setup)
        made = chosen(mdata, **sizes)
        with steps(f"training {name}"):
            made.train(**training)
        made.save(target, overwrite=overwrite)
        steps.say(f"saved to {out}; next: cellfuse embed {data} {out} --out embedded.h5mu")


def model_name(name: str) -> str:
    """Name of the model's class, in whatever case it was written."""
    names = [m for m in cf._MODELS if m not in NOT_HERE]
    found = {m.casefold(): m for m in names}.get(name.casefold().replace("-", ""))
    if found is None:
        raise missing_key(name, names, what="the models of `cellfuse train` (--model)")
    return found


def _setup_of(model: Any) -> Any:
    if not hasattr(model, "setup_mudata"):
        raise ValueError(
            f"{model.__name__} is not trained from a MuData; see its page in the docs."
        )
    return model.setup_mudata


def _needed(function: Any, arguments: dict[str, Any], name: str) -> dict[str, Any]:
    taken = _taken(function, arguments, name)
    for parameter in inspect.signature(function).parameters.values():
        required = parameter.default is parameter.empty and parameter.kind == parameter.KEYWORD_ONLY
        if required and parameter.name not in taken:
            option = {"context_keys": "--context"}.get(
                parameter.name, f"{parameter.name} (in [setup] of --config)"
            )
            raise ValueError(f"{name} needs {option}.")
    return taken


def _taken(function: Any, arguments: dict[str, Any], name: str) -> dict[str, Any]:
    """Arguments that the model has; one that it lacks was asked for in vain, and is refused."""
    parameters = inspect.signature(function).parameters
    for argument in arguments:
        if argument not in parameters and argument not in ("seed", "accelerator", "modalities"):
            option = argument.replace("_", "-")
            raise ValueError(f"{name} has no --{option}: leave it out.")
    return {a: v for a, v in arguments.items() if a in parameters}
