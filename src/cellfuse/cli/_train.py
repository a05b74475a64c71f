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
from cellfuse.cli._models import check_options, model_name
from cellfuse.cli._run import check_writable, loading, verbosity

__all__ = ["train"]


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
    setup = given_only(
        image_rep=image_rep, rna_rep=rna_rep, rna_layer=rna_layer, rna_likelihood=rna_likelihood
    )
    if context_keys is not None:
        keys = columns(context_keys)
        setup["context_keys"] = keys[0] if len(keys) == 1 else keys
    sizes = given_only(preset=preset, set_size=set_size, crop=crop)
    training = given_only(
        max_epochs=max_epochs, documents_per_context=documents_per_context, checkpoint=checkpoint
    )
    check_options(name, {**setup, **sizes, **training}, free.get("setup", {}))
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
        setup |= {"modalities": {r: p.name for r, p in parts.items()}}
        setup = _arguments(chosen.setup_mudata, setup, free, "setup")
        sizes = _arguments(chosen.__init__, sizes | {"seed": seed}, free, "model")
        training |= given_only(accelerator=accelerator)
        training = _arguments(chosen.train, training, free, "train")
        with steps("reading"):
            mdata = read_screen(data, modality=role)
        chosen.setup_mudata(mdata, **setup)
        made = chosen(mdata, **sizes)
        with steps(f"training {name}"):
            made.train(**training)
        made.save(target, overwrite=overwrite)
        steps.say(f"saved to {out}; next: cellfuse embed {data} {out} --out embedded.h5mu")


def _arguments(
    function: Any, options: dict[str, Any], free: dict[str, Any], table: str
) -> dict[str, Any]:
    """Options that the function has, and all of a table of the configuration."""
    parameters = inspect.signature(function).parameters
    more = free.get(table, {})
    if not any(one.kind == one.VAR_KEYWORD for one in parameters.values()):
        for argument in more:
            if argument not in parameters:
                what = f"what [{table}] of --config may hold for this model"
                raise missing_key(argument, [p for p in parameters if p != "self"], what=what)
    return {a: v for a, v in options.items() if a in parameters} | more
