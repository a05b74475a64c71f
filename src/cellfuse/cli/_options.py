"""The options that several commands share, each written once."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cellfuse.bench._settings import Settings
from cellfuse.cli._config import take_config

__all__ = [
    "Accelerator",
    "BackgroundKey",
    "BatchKey",
    "ColourKey",
    "Config",
    "Context",
    "Control",
    "ControlKey",
    "Crop",
    "Debug",
    "DocumentsPerContext",
    "DropMissing",
    "Edges",
    "ImageRep",
    "Likelihood",
    "MaxEpochs",
    "Modalities",
    "Modality",
    "Overwrite",
    "Preset",
    "Quiet",
    "RnaLayer",
    "RnaLikelihood",
    "RnaRep",
    "Role",
    "ScoreThreshold",
    "Seed",
    "SetSize",
    "Size",
    "TargetKey",
]

DATA, SCORES, TRAINING = "Your data", "Correction and scores", "Training"


class Role(StrEnum):
    """What a lone ``.h5ad`` holds."""

    image = "image"
    rna = "rna"


class Likelihood(StrEnum):
    """What values of expression are."""

    nb = "nb"
    mse = "mse"


class Size(StrEnum):
    """Size of a network."""

    small = "small"
    base = "base"


class Accelerator(StrEnum):
    """What a network is trained on."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"
    mps = "mps"


# -- the run --------------------------------------------------------------------------------------

Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        is_eager=True,
        callback=take_config,
        help="TOML file with any of these options (`max-epochs = 20`), or the settings.json of an "
        "earlier run; what stands on the command line wins.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the full traceback of an error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an earlier result of the same kind.")
]
Seed = Annotated[
    int,
    typer.Option(metavar="N", min=0, rich_help_panel=TRAINING, help="Seed of everything random."),
]

# -- data -----------------------------------------------------------------------------------------

Modality = Annotated[
    Role | None,
    typer.Option(rich_help_panel=DATA, help="What an .h5ad holds, as in `--modality rna`."),
]
Modalities = Annotated[
    str | None,
    typer.Option(
        metavar="ROLE=NAME,...",
        rich_help_panel=DATA,
        help="The MuData's modalities that are read as images and as expression, as in "
        "`--modalities image=image,rna=secretome`; one alone is fine. Default: those named image "
        "and rna.",
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=DATA,
        help="obs column, in every modality, that cells share, as in `--context guide`; several "
        "with commas, as in `--context background,guide`.",
    ),
]
ImageRep = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        rich_help_panel=DATA,
        help="obsm key of pixels (n, C, H, W), tokens (n, T, D) or a flat embedding (n, D), as in "
        "`--image-rep crops`. Default: X.",
    ),
]
RnaRep = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        rich_help_panel=DATA,
        help="obsm key of a flat embedding of expression, as in `--rna-rep X_scgpt`. Default: X.",
    ),
]
RnaLayer = Annotated[
    str | None,
    typer.Option(
        metavar="LAYER",
        rich_help_panel=DATA,
        help="Layer with the raw counts, as in `--rna-layer counts`. Default: X.",
    ),
]
RnaLikelihood = Annotated[
    Likelihood | None,
    typer.Option(
        rich_help_panel=DATA,
        help=f"nb for raw counts, mse for real values. Default: {Settings.rna_likelihood}.",
    ),
]
DropMissing = Annotated[
    bool,
    typer.Option(
        "--drop-missing",
        rich_help_panel=DATA,
        help="Leave out cells without a context (NaN or empty) instead of refusing them.",
    ),
]
Crop = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        min=1,
        rich_help_panel=DATA,
        help="Centre crop of the images, as in `--crop 96`. Default: the whole image.",
    ),
]

# -- correction and scores ------------------------------------------------------------------------

Control = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL",
        rich_help_panel=SCORES,
        help="Label of the control cells in --control-key, as in `--control non-targeting`; "
        "`none` takes all cells. Must be given.",
    ),
]
ControlKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=SCORES,
        help="obs column that tells the controls, as in `--control-key gene`.",
    ),
]
BatchKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=SCORES,
        help="obs column of the batches that are corrected apart, as in `--batch-key plate`, or "
        "by role, as in `--batch-key image=well,rna=`. Default: all cells together.",
    ),
]
BackgroundKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=SCORES,
        help="obs column of the backgrounds (cell lines, chemical backgrounds) that are corrected "
        "and scored apart, as in `--background-key background`. Default: one background.",
    ),
]
TargetKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=SCORES,
        help="obs column with what a context hits, as in `--target-key gene` for guides. Default: "
        "no scores.",
    ),
]
Edges = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=SCORES,
        help="Table of known pairs of targets with the columns source, target and optionally "
        "score, as in `--edges StringDB.csv.gz`.",
    ),
]
ScoreThreshold = Annotated[
    float,
    typer.Option(
        metavar="SCORE",
        rich_help_panel=SCORES,
        help="Score above which an edge counts as known; without scores every edge does.",
    ),
]
ColourKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        rich_help_panel=SCORES,
        help="obs column that colours the UMAP, as in `--colour-key complex`. Default: the target.",
    ),
]

# -- training -------------------------------------------------------------------------------------

MaxEpochs = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        rich_help_panel=TRAINING,
        help=f"Epochs, as in `--max-epochs 20`. Default: {Settings.max_epochs} (the paper: 100).",
    ),
]
DocumentsPerContext = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        rich_help_panel=TRAINING,
        help="Documents of each context per epoch. Default: "
        f"{Settings.documents_per_context} (the paper: 30).",
    ),
]
SetSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        rich_help_panel=TRAINING,
        help="Cells of each modality in a document, as in `--set-size 2` where contexts have two "
        f"wells. Default: {Settings.set_size}.",
    ),
]
Preset = Annotated[
    Size | None,
    typer.Option(
        rich_help_panel=TRAINING,
        help="Size of the network: small for two CPU cores, base for a GPU (the paper's). "
        f"Default: {Settings.preset}.",
    ),
]
