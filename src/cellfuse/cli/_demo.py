"""``cellfuse demo``: from a screen to a scored report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cellfuse.bench._settings import Settings
from cellfuse.cli import _options as o
from cellfuse.cli._choices import (
    by_role,
    check_columns,
    check_edges,
    columns,
    control_of,
    given_only,
)
from cellfuse.cli._header import read_header
from cellfuse.cli._run import check_result, loading, verbosity

__all__ = ["demo", "settings_of"]


def demo(
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder to make; written beside and renamed at the end.",
        ),
    ] = "cellfuse_demo",
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A small simulated screen (or your data) and a few steps, to see that everything "
            "works; its numbers mean nothing.",
        ),
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=o.DATA,
            help="MuData (.h5mu), or one modality (.h5ad) with --modality; without it a screen is "
            "simulated.",
        ),
    ] = None,
    modality: o.Modality = None,
    modalities: o.Modalities = None,
    context: o.Context = None,
    image_rep: o.ImageRep = None,
    rna_rep: o.RnaRep = None,
    rna_layer: o.RnaLayer = None,
    rna_likelihood: o.RnaLikelihood = None,
    drop_missing: o.DropMissing = False,
    crop: o.Crop = None,
    control: o.Control = None,
    control_key: o.ControlKey = None,
    batch_key: o.BatchKey = None,
    background_key: o.BackgroundKey = None,
    target_key: o.TargetKey = None,
    edges: o.Edges = None,
    score_threshold: o.ScoreThreshold = Settings.score_threshold,
    colour_key: o.ColourKey = None,
    preset: o.Preset = None,
    set_size: o.SetSize = None,
    max_epochs: o.MaxEpochs = None,
    documents_per_context: o.DocumentsPerContext = None,
    accelerator: Annotated[
        o.Accelerator, typer.Option(rich_help_panel=o.TRAINING, help="What to train on.")
    ] = o.Accelerator.auto,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """From a screen to a scored report.

    Simulates a screen (or reads yours, with --data), trains PETRI on it, corrects and aggregates
    its embeddings to profiles, scores these beside plain features and random numbers, and leaves
    a report: report.html, metrics.csv, screen.h5mu, guides.h5ad, genes.h5ad, model/, figures/ and
    settings.json in DIR.

        cellfuse demo --quick --out try

        cellfuse demo --data screen.h5mu --context guide --image-rep crops --control-key gene
        --control non-targeting --batch-key image=well,rna= --target-key gene --edges pairs.csv
    """
    training: dict[str, Any] = given_only(
        max_epochs=max_epochs,
        documents_per_context=documents_per_context,
        accelerator=accelerator,
        seed=seed,
    )
    own = given_only(
        modality=modality,
        modalities=modalities,
        context=context,
        image_rep=image_rep,
        rna_rep=rna_rep,
        rna_layer=rna_layer,
        rna_likelihood=rna_likelihood,
        crop=crop,
        control=control,
        control_key=control_key,
        batch_key=batch_key,
        background_key=background_key,
        target_key=target_key,
        edges=edges,
        colour_key=colour_key,
        preset=preset,
        set_size=set_size,
    )
    if drop_missing:
        own["drop_missing"] = True
    check_result(out, overwrite=overwrite)
    if data is None:
        if own:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(own))
            raise ValueError(f"{flags}: only together with --data FILE.")
        with verbosity(quiet):
            loading(quiet)
            from cellfuse.bench import run_demo

            run_demo(out, quick=quick, overwrite=overwrite, progress=not quiet, **training)
        return
    if quick:
        training = {"max_epochs": 2, "documents_per_context": 1} | training
    choices = settings_of(data, own | {"score_threshold": score_threshold}) | training
    with verbosity(quiet):
        loading(quiet)
        from cellfuse.bench import Settings, read_screen, run_settings
        from cellfuse.bench._read import read_edges

        if edges is not None:
            choices["edges"] = read_edges(edges)
        mdata = read_screen(data, modality=own.get("modality"))
        run_settings(
            mdata,
            out,
            Settings(**choices),
            title=f"PETRI on {Path(data).name}",
            overwrite=overwrite,
            progress=not quiet,
        )


def settings_of(data: str, own: dict[str, Any]) -> dict[str, Any]:
    """Fields of :class:`cellfuse.bench.Settings` from options, checked against the file."""
    if "context" not in own:
        raise ValueError(
            "--data needs --context, the obs column that cells share (guide, compound)."
        )
    label = control_of(own.get("control"), own.get("control_key"), "--data")
    if "edges" in own and "target_key" not in own:
        raise ValueError("--edges needs --target-key, the obs column with the names in the edges.")
    header = read_header(data, modality=own.get("modality"), option="--data")
    roles = None
    if "modalities" in own:
        roles = by_role(own["modalities"], "--modalities image=NAME,rna=NAME")
    batch = own.get("batch_key")
    if batch and "=" in batch:
        pairs = by_role(batch, "--batch-key image=KEY")
        batch = {role: key or None for role, key in pairs.items()}
    parts = check_columns(
        header,
        roles=roles,
        every={
            "--context": own["context"],
            "--target-key": own.get("target_key"),
            "--background-key": own.get("background_key"),
            "--colour-key": own.get("colour_key"),
        },
        image_rep=own.get("image_rep"),
        rna_rep=own.get("rna_rep"),
        rna_layer=own.get("rna_layer"),
        batch=batch,
        control=(own.get("control_key"), label),
    )
    check_edges(own.get("edges"))
    keys = columns(own["context"])
    kept = ("modality", "context", "edges", "control", "batch_key", "modalities")
    return {name: value for name, value in own.items() if name not in kept} | {
        "context_keys": keys[0] if len(keys) == 1 else keys,
        "control": label,
        "batch_key": batch or None,
        "modalities": {role: part.name for role, part in parts.items()},
    }
