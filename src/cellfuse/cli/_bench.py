"""``cellfuse score``, ``benchmark`` and ``report``: numbers of embeddings, and their page."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from cellfuse.bench._config_keys import check_content
from cellfuse.bench._folder import MARK
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

__all__ = ["benchmark", "report", "score"]

#: Tables of a result that the page shows, by the names of their files.
TABLES = ("table", "scores", "failures", "runs")


def score(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="MuData (.h5mu), or one modality (.h5ad).")
    ],
    use_rep: Annotated[
        str | None,
        typer.Option(
            metavar="KEY,...",
            rich_help_panel=o.DATA,
            help="obsm key of the embedding, in every modality that is scored; several with "
            "commas. Must be given.",
        ),
    ] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write.")] = "cellfuse_scores",
    modality: o.Modality = None,
    modalities: o.Modalities = None,
    context: o.Context = None,
    drop_missing: o.DropMissing = False,
    control: o.Control = None,
    control_key: o.ControlKey = None,
    batch_key: o.BatchKey = None,
    background_key: o.BackgroundKey = None,
    target_key: o.TargetKey = None,
    edges: o.Edges = None,
    score_threshold: o.ScoreThreshold = Settings.score_threshold,
    seed: o.Seed = 0,
    overwrite: o.Overwrite = False,
    config: o.Config = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Correct, aggregate and score embeddings that are in a file, beside random numbers.

    cellfuse score embedded.h5mu --use-rep X_petri --context guide --target-key gene
    --control-key gene --control non-targeting --edges pairs.csv --out scores
    """
    if use_rep is None or context is None:
        raise ValueError("a score needs --use-rep KEY and --context COLUMN.")
    label = control_of(control, control_key, "a score")
    if edges is not None and target_key is None:
        raise ValueError("--edges needs --target-key, the obs column with the names in the edges.")
    check_result(out, overwrite=overwrite)
    role = modality.value if modality is not None else None
    header = read_header(data, modality=role)
    roles = by_role(modalities, "--modalities image=NAME,rna=NAME") if modalities else None
    batch: Any = batch_key
    if batch_key and "=" in batch_key:
        pairs = by_role(batch_key, "--batch-key image=KEY")
        batch = {part: key or None for part, key in pairs.items()}
    parts = check_columns(
        header,
        roles=roles,
        every={
            "--context": context,
            "--target-key": target_key,
            "--background-key": background_key,
        },
        batch=batch,
        control=(control_key, label),
    )
    reps = columns(use_rep)
    for part in parts.values():
        for rep in reps:
            part.need_obsm(rep, "--use-rep")
    check_edges(edges)
    with verbosity(quiet):
        loading(quiet)
        from cellfuse.bench import read_screen, run_screen
        from cellfuse.bench._read import read_edges

        metrics: dict[str, Any] | None = None
        if edges is not None:
            known = {"edges": read_edges(edges), "score_threshold": score_threshold}
            metrics = {"guide_consistency": {}, "edges": known}
            if len(parts) > 1:
                metrics["alignment"] = {}
        keys = columns(context)
        run_screen(
            read_screen(data, modality=role),
            {**{rep: rep for rep in reps}, "random": {}},
            out,
            metrics=metrics,
            seeds=[seed],
            title=f"Scores of {', '.join(reps)} in {Path(data).name}",
            overwrite=overwrite,
            progress=not quiet,
            context_keys=keys[0] if len(keys) == 1 else keys,
            control=label,
            modalities={r: p.name for r, p in parts.items()},
            drop_missing=drop_missing,
            **given_only(
                control_key=control_key,
                batch_key=batch,
                background_key=background_key,
                target_key=target_key,
            ),
        )


def benchmark(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="TOML file with data, screen, methods, metrics.")
    ],
    out: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder to write. Default: the name of the file."),
    ] = None,
    n_jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes. Default: the file's, or 1.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Seeds. Default: the file's, or 1.")
    ] = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Compare methods on a screen: many methods, metrics and seeds in one table.

    What was finished is kept: the same command goes on where an earlier one stopped.

        cellfuse benchmark screen.toml --out results --n-jobs 2
    """
    content = _toml(config)
    folder = out or Path(config).stem
    check_result(folder, overwrite=overwrite)
    check_content(content, f"{config!r} (CONFIG)")
    if "file" in content["data"]:
        file = Path(config).parent / str(content["data"]["file"])
        read_header(file, modality=content["data"].get("modality"), option="file in [data]")
    with verbosity(quiet):
        loading(quiet)
        from cellfuse.bench import run_config

        changes = given_only(n_jobs=n_jobs, seeds=seeds)
        run_config(config, folder, overwrite=overwrite, progress=not quiet, **changes)


def report(
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="Result of demo, score or benchmark.")
    ],
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Page to write. Default: report.html in it.")
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Heading of the page.")] = None,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Write the page of a result again, from its tables and figures.

    cellfuse report cellfuse_demo --title "Screen of March" --out march.html
    """
    source = Path(folder)
    if not (source / MARK).is_file():
        what = "holds no result" if source.is_dir() else "is no folder"
        raise FileNotFoundError(f"{folder!r} {what} of demo, score or benchmark (no {MARK}).")
    absent = [name for name in TABLES if not (source / f"{name}.csv").is_file()]
    if absent:
        raise FileNotFoundError(f"{folder!r} lacks {absent[0]}.csv: the run did not end.")
    with verbosity(quiet):
        loading(quiet)
        from cellfuse.bench import report as write

        result, figures = _read_result(source)
        path = write(result, out, title=title or source.name, figures=figures)
        if not quiet:
            print(f"wrote {path}")


def _toml(path: str) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {path!r} (CONFIG).")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path!r} (CONFIG) is no valid TOML: {error}") from error


def _read_result(source: Path) -> tuple[Any, list[Any]]:
    """A result as its folder has it, and its figures."""
    import pandas as pd

    from cellfuse.bench import Benchmark
    from cellfuse.bench._figures import Figure

    try:
        about = json.loads((source / MARK).read_text(encoding="utf-8"))
        tables: dict[str, Any] = {name: pd.read_csv(source / f"{name}.csv") for name in TABLES}
        paired = source / "comparisons.csv"
        hits = {p.stem.removeprefix("hits_"): p for p in sorted(source.glob("hits_*.csv"))}
        result = Benchmark(
            **tables,
            comparisons=pd.read_csv(paired) if paired.is_file() else None,
            conclusion=about["conclusion"],
            folder=source,
            config=about["config"],
            provenance=about.get("provenance", {}),
            hits={name: pd.read_csv(path) for name, path in hits.items()},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{str(source)!r} could not be read: {error}") from error
    pictures = sorted((source / "figures").glob("*.png"))
    names = [path.stem.replace("_", " ").capitalize() for path in pictures]
    figures = [
        Figure(path.stem, name, "", path.read_bytes())
        for path, name in zip(pictures, names, strict=True)
    ]
    return result, figures
