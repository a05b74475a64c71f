"""The command line: ``cellfuse demo``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from cellfuse import __version__
from cellfuse.bench import Settings

__all__ = ["main"]

#: What a wrong argument, column or file raises; anything else is a fault of the program.
USER_ERRORS = (KeyError, OSError, TypeError, ValueError)

DEMO = """\
Simulate a screen (or read yours), train PETRI on it, correct and aggregate its embeddings to
profiles, score these beside plain features and random numbers, and leave a report.
"""
EXAMPLES = """\
examples:
  cellfuse demo
  cellfuse demo --quick --out try
  cellfuse demo --data screen.h5mu --context guide --image-rep crops --control-key gene \\
      --control non-targeting --batch-key image=well,rna= --target-key gene --edges pairs.csv
  cellfuse demo --data compounds.h5mu --context compound --modalities image=image,rna=secretome \\
      --rna-likelihood mse --set-size 2 --control none --target-key target_gene
  cellfuse demo --data perturbseq.h5ad --modality rna --context guide --control-key gene \\
      --control non-targeting --target-key gene

In DIR: report.html, metrics.csv, screen.h5mu (embeddings), guides.h5ad and genes.h5ad (profiles
and scores), model/, figures/, settings.json.
"""
#: Options that are fields of `Settings` under the same name.
FIELDS = (
    "image_rep", "rna_rep", "rna_layer", "rna_likelihood", "control_key", "background_key",
    "target_key", "score_threshold", "colour_key", "preset", "set_size", "crop", "max_epochs",
    "documents_per_context", "accelerator", "seed",
)  # fmt: skip
#: Of these, the ones that the simulated screen takes too.
OF_DEMO = ("max_epochs", "documents_per_context", "accelerator", "seed")


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is, and leave with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all commands."""
    parser = _Parser(prog="cellfuse", description="Perturbation screens read out twice.")
    parser.add_argument("--version", action="version", version=f"cellfuse {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="from a screen to a scored report",
        description=DEMO,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_general(demo)
    _add_data(demo)
    _add_scores(demo)
    _add_training(demo)
    return parser


def _add_general(demo: argparse.ArgumentParser) -> None:
    group = demo.add_argument_group("result")
    group.add_argument(
        "--out",
        metavar="DIR",
        default="cellfuse_demo",
        help="folder to make; written beside and renamed at the end (default: %(default)s)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace an earlier result in DIR")
    group.add_argument(
        "--quick",
        action="store_true",
        help="a small simulated screen (or your data) and a few steps, to see that everything "
        "works; its numbers mean nothing",
    )
    group.add_argument("--debug", action="store_true", help="show the full traceback of an error")


def _add_data(demo: argparse.ArgumentParser) -> None:
    group = demo.add_argument_group("your data (without --data a screen is simulated)")
    add = group.add_argument
    add("--data", metavar="FILE", help="MuData (.h5mu), or one modality (.h5ad) with --modality")
    add("--modality", choices=("image", "rna"), help="what an .h5ad holds, as in --modality rna")
    add(
        "--modalities",
        metavar="ROLE=NAME,...",
        help="the MuData's modalities that are read as images and as expression, as in "
        "--modalities image=image,rna=secretome; one alone is fine (default: image and rna)",
    )
    add(
        "--context",
        metavar="COLUMN",
        help="obs column, in every modality, that cells share, as in --context guide; several "
        "with commas, as in --context background,guide",
    )
    add(
        "--image-rep",
        metavar="KEY",
        help="obsm key of pixels (n, C, H, W), tokens (n, T, D) or a flat embedding (n, D), as "
        "in --image-rep crops (default: X)",
    )
    add(
        "--rna-rep",
        metavar="KEY",
        help="obsm key of a flat embedding of expression, as in --rna-rep X_scgpt (default: X)",
    )
    add(
        "--rna-layer",
        metavar="LAYER",
        help="layer with the raw counts, as in --rna-layer counts (default: X)",
    )
    add(
        "--rna-likelihood",
        choices=("nb", "mse"),
        help="nb for raw counts, mse for real values, as in --rna-likelihood mse "
        f"(default: {Settings.rna_likelihood})",
    )
    add(
        "--drop-missing",
        action="store_true",
        help="leave out cells without a context (NaN or empty) instead of refusing them",
    )
    add(
        "--crop",
        type=int,
        metavar="PIXELS",
        help="centre crop of the images, as in --crop 96 (default: the whole image)",
    )


def _add_scores(demo: argparse.ArgumentParser) -> None:
    group = demo.add_argument_group("correction and scores of your data")
    add = group.add_argument
    add(
        "--control",
        metavar="LABEL",
        help="label of the control cells in --control-key, as in --control non-targeting; "
        "'none' takes all cells; must be given",
    )
    add(
        "--control-key",
        metavar="COLUMN",
        help="obs column that tells the controls, as in --control-key gene",
    )
    add(
        "--batch-key",
        metavar="COLUMN",
        help="obs column of the batches that are corrected apart, as in --batch-key plate, or by "
        "role, as in --batch-key image=well,rna= (default: all cells together)",
    )
    add(
        "--background-key",
        metavar="COLUMN",
        help="obs column of the backgrounds (cell lines, chemical backgrounds) that are corrected "
        "and scored apart, their scores averaged, as in --background-key background with "
        "--context background,guide (default: one background)",
    )
    add(
        "--target-key",
        metavar="COLUMN",
        help="obs column with what a context hits, as in --target-key gene for guides (default: "
        "no scores)",
    )
    add(
        "--edges",
        metavar="FILE",
        help="table of known pairs of targets with the columns source, target and optionally "
        "score, as in --edges StringDB.csv.gz",
    )
    add(
        "--score-threshold",
        type=float,
        metavar="SCORE",
        help="score above which an edge counts as known, as in --score-threshold 0.9 "
        f"(default: {Settings.score_threshold:g}; without scores every edge does)",
    )
    add(
        "--colour-key",
        metavar="COLUMN",
        help="obs column that colours the UMAP, as in --colour-key complex (default: the target)",
    )


def _add_training(demo: argparse.ArgumentParser) -> None:
    group = demo.add_argument_group("training")
    add = group.add_argument
    add("--seed", type=int, metavar="N", help=f"of everything random (default: {Settings.seed})")
    add(
        "--max-epochs",
        type=int,
        metavar="N",
        help=f"as in --max-epochs 20 (default: {Settings.max_epochs}; the paper: 100)",
    )
    add(
        "--documents-per-context",
        type=int,
        metavar="N",
        help="documents of each context per epoch, as in --documents-per-context 10 (default: "
        f"{Settings.documents_per_context}; the paper: 30)",
    )
    add(
        "--set-size",
        type=int,
        metavar="N",
        help="cells of each modality in a document, as in --set-size 2 where contexts have two "
        f"wells (default: {Settings.set_size}; your data only)",
    )
    add(
        "--preset",
        choices=("small", "base"),
        help="size of the network: small for two CPU cores, base for a GPU (the paper's) "
        f"(default: {Settings.preset}; your data only)",
    )
    add(
        "--accelerator",
        choices=("auto", "cpu", "gpu", "mps"),
        help=f"what to train on (default: {Settings.accelerator})",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv
        Arguments; None takes the process's.

    Returns
    -------
    Exit status: 0, 2 for a wrong argument, column or file, 130 for an interrupt.
    """
    arguments = build_parser().parse_args(argv)
    with warnings.catch_warnings():
        _show_notes()
        try:
            _demo(vars(arguments))
        except USER_ERRORS as error:
            if getattr(arguments, "debug", False):
                raise
            return _fail(error)
        except KeyboardInterrupt as error:
            print(f"\ncellfuse demo: interrupted.{_kept(error)}", file=sys.stderr)
            return 130
    return 0


def _fail(error: BaseException) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    print(
        f"cellfuse demo: error: {text}{_kept(error)} (--debug shows the traceback)", file=sys.stderr
    )
    return 2


def _kept(error: BaseException) -> str:
    return "".join(f" {note}" for note in getattr(error, "__notes__", ()))


def _show_notes() -> None:
    """Print the library's own warnings as notes, without the line of code they come from."""
    show, package = warnings.showwarning, Path(__file__).parent
    said = set()

    def note(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if package in Path(filename).parents:
            if str(message) not in said:
                print(f"  note: {message}", file=sys.stderr, flush=True)
            said.add(str(message))
        else:
            show(message, category, filename, *rest, **more)

    warnings.showwarning = note  # type: ignore[assignment]


def _demo(given: dict[str, Any]) -> None:
    """Check what was given against each other before anything heavy is imported."""
    out, overwrite = given["out"], "overwrite" in given
    if "data" not in given:
        extra = set(given) - {*OF_DEMO, "command", "out", "overwrite", "quick", "debug"}
        if extra:
            flags = ", ".join(sorted(f"--{name.replace('_', '-')}" for name in extra))
            raise ValueError(f"{flags}: only together with --data FILE.")
        _loading()
        from cellfuse.bench import run_demo

        chosen = {name: given[name] for name in OF_DEMO if name in given}
        run_demo(out, quick="quick" in given, overwrite=overwrite, **chosen)
        return
    choices = _choices(given)
    _loading()
    from cellfuse.bench import read_screen, run_screen
    from cellfuse.bench._folder import check_folder
    from cellfuse.bench._read import read_edges

    check_folder(out, overwrite=overwrite)
    if "edges" in given:
        choices["edges"] = read_edges(given["edges"])
    mdata = read_screen(given["data"], modality=given.get("modality"))
    title = f"PETRI on {Path(given['data']).name}"
    run_screen(mdata, out, Settings(**choices), title=title, overwrite=overwrite)


def _loading() -> None:
    # torch and scvi-tools take seconds, in which nothing else is shown.
    print(f"cellfuse {__version__}: loading ...", flush=True)


def _choices(given: dict[str, Any]) -> dict[str, Any]:
    """Turn options into the fields of `Settings`."""
    if "context" not in given:
        raise ValueError(
            "--data needs --context, the obs column that cells share (guide, compound)."
        )
    if "control" not in given:
        raise ValueError(
            "--data needs --control: the label of the control cells with --control-key, or "
            "'--control none' to take all cells."
        )
    if "edges" in given and "target_key" not in given:
        raise ValueError("--edges needs --target-key, the obs column with the names in the edges.")
    all_cells = given["control"] == "none"
    if all_cells and "control_key" in given:
        raise ValueError("--control none takes all cells: leave --control-key out.")
    if not all_cells and "control_key" not in given:
        raise ValueError(
            f"--control {given['control']} needs --control-key, the obs column that holds it."
        )
    choices = {name: given[name] for name in FIELDS if name in given}
    if "quick" in given:
        choices = {"max_epochs": 2, "documents_per_context": 1} | choices
    contexts = [part.strip() for part in given["context"].split(",")]
    choices["context_keys"] = contexts[0] if len(contexts) == 1 else contexts
    choices["control"] = None if all_cells else given["control"]
    choices["drop_missing"] = "drop_missing" in given
    if "modalities" in given:
        choices["modalities"] = _by_role(given["modalities"], "--modalities image=NAME,rna=NAME")
    if "batch_key" in given:
        text = given["batch_key"]
        choices["batch_key"] = (
            {role: key or None for role, key in _by_role(text, "--batch-key image=KEY").items()}
            if "=" in text
            else text or None
        )
    return choices


def _by_role(text: str, form: str) -> dict[str, str]:
    parts = [part.partition("=") for part in text.split(",")]
    if not all(sign for _, sign, _ in parts):
        raise ValueError(f"found {text!r}; expected the form {form}.")
    return {role.strip(): name.strip() for role, _, name in parts}


if __name__ == "__main__":
    sys.exit(main())
