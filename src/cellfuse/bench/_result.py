"""What a benchmark leaves."""

from __future__ import annotations

import json
import os
import platform
import re
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._errors import warn_user
from cellfuse._files import write_csv
from cellfuse.bench._hits import Best, best_of, hits_of
from cellfuse.bench._screen import Screen
from cellfuse.bench._store import SourceFailed
from cellfuse.bench._summary import comparisons, conclusion, table_of
from cellfuse.bench._tasks import Job, Task

__all__ = [
    "Benchmark",
    "collect",
    "notes_of",
    "reason",
    "shown",
    "text_table",
    "value_columns",
    "versions",
]

PACKAGES = (
    "cellfuse", "torch", "lightning", "scvi-tools", "scanpy", "anndata", "mudata", "numpy", "scipy",
    "scikit-learn",
)  # fmt: skip
#: Columns of the scores, one row per number.
COLUMNS = [
    "method", "seed", "correction", "view", "metric", "score", "value", "low", "high", "chance",
    "n", "ceiling", "of",
]  # fmt: skip


@dataclass(frozen=True)
class Benchmark:
    """What :func:`cellfuse.benchmark` gives.

    Parameters
    ----------
    table
        One row per method, correction and view (``"image"``, ``"rna"``, the fusion, or ``"both"``
        for metrics between the modalities): medians over seeds, and in ``<value>_low`` and
        ``<value>_high`` the lowest and highest seed (of a single seed the metric's own interval).
        The last row is the ceiling: the same metrics where the truth is known.
    scores
        Every number: method, seed, correction, view, metric, score, value, its interval, chance.
    comparisons
        Every method against `against`, paired over seeds and over targets; None without one.
    failures
        What could not be had: method, seed, correction, view, metric and why.
    runs
        One row per method and seed: seconds, notes (warnings), folder of the embeddings.
    conclusion
        One sentence on whether the second modality adds anything.
    folder
        Where everything was written; None if it was not kept.
    config
        What was asked for, as text.
    provenance
        Versions of what computed.
    best
        The method with the best profiles of both modalities together, and its profiles on the
        first seed's screen: ``best.fused.genes``, ``best.fused.guides``.
    hits
        Tables made of them: ``"perturbations"`` (how strong, active, consistent), ``"pairs"`` (the
        most similar) and ``"new"`` (the most similar that no edge lists).
    edges
        The known pairs that a metric was given.
    mdata, roles
        The first seed's screen as it was read, and the name of each role's modality.
    embeddings
        Embeddings of the first seed's cells by method and role, before any correction.

    Examples
    --------
    >>> import cellfuse as cf
    >>> result = cf.benchmark(mdata, ["PETRI", "PCA"], ["alignment"], ...)  # doctest: +SKIP
    >>> result.table, result.conclusion  # doctest: +SKIP
    """

    table: pd.DataFrame
    scores: pd.DataFrame
    comparisons: pd.DataFrame | None
    failures: pd.DataFrame
    runs: pd.DataFrame
    conclusion: str
    folder: Path | None
    config: dict[str, Any]
    provenance: dict[str, str] = field(default_factory=dict)
    best: Best | None = None
    hits: dict[str, pd.DataFrame] = field(default_factory=dict)
    edges: pd.DataFrame | None = None
    mdata: MuData | None = None
    roles: dict[str, str] = field(default_factory=dict)
    embeddings: dict[tuple[str, str], NDArray] = field(default_factory=dict)

    def __str__(self) -> str:
        """The table and the sentence."""
        return f"{text_table(self.table)}\n\n{self.conclusion}"

    @property
    def metrics(self) -> pd.DataFrame:
        """The table, under its old name."""
        warn_user("`metrics` is now called `table`; the old name goes next.", FutureWarning)
        return self.table

    def write(self, folder: str | Path) -> None:
        """Write the tables as CSV, and the configuration, into a folder."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        tables = {"table": self.table, "scores": self.scores, "failures": self.failures}
        tables |= {"runs": self.runs, **{f"hits_{k}": v for k, v in self.hits.items()}}
        if self.comparisons is not None:
            tables["comparisons"] = self.comparisons
        for name, table in tables.items():
            write_csv(table, target / f"{name}.csv")
        about = {
            "config": self.config, "conclusion": self.conclusion, "provenance": self.provenance
        }  # fmt: skip
        beside = target / ".benchmark.json.tmp"
        beside.write_text(json.dumps(about, indent=1, default=str) + "\n")
        beside.replace(target / "benchmark.json")


def collect(
    job: Job,
    tasks: list[Task],
    screen: Screen,
    *,
    against: str | None,
    folder: Path | None,
    config: dict[str, Any],
) -> Benchmark:
    """Read what the tasks left."""
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    cells: dict[tuple[str, int], Path] = {}
    for task in tasks:
        assert task.method is not None
        base = {"method": task.method.name, "seed": task.seed}
        found = job.store.read_cell(task.target)
        cells[task.method.name, task.seed] = task.target
        training, notes = _sources(task)
        runs.append(
            {
                **base,
                "embed_seconds": training,
                "score_seconds": found.get("seconds", float("nan")),
                "notes": "; ".join(dict.fromkeys([*notes, *found["notes"]])),
                "why": found["why"],
            }
        )
        if found["why"]:
            failures.append(
                {**base, "correction": "", "view": "", "metric": "", "why": found["why"]}
            )
        for row in found["rows"]:
            if row.get("why"):
                keys = ("correction", "view", "metric", "why")
                failures.append({**base, **{key: row[key] for key in keys}})
            else:
                rows.append({**base, "ceiling": False, "of": "", **row})
    scores = pd.DataFrame(rows, columns=COLUMNS)
    scores["ceiling"] = scores["ceiling"].astype(bool)
    paired = None
    if against is not None:
        paired = comparisons(scores, against, store=job.store, cells=cells)

    def units(method: str, correction: str, view: str, metric: str) -> pd.DataFrame | None:
        return job.store.read_units(cells[method, tasks[0].seed], f"{correction}_{view}_{metric}")

    best = best_of(job, tasks, screen, scores, tasks[0].seed)
    known = _edges_of(job, screen)
    return Benchmark(
        table=table_of(scores),
        scores=scores,
        comparisons=paired,
        failures=pd.DataFrame(
            failures, columns=["method", "seed", "correction", "view", "metric", "why"]
        ),
        runs=pd.DataFrame(runs),
        conclusion=conclusion(scores, units=units),
        folder=folder,
        config=config,
        provenance=versions(),
        best=best,
        hits={} if best is None else hits_of(best.fused, known),
        edges=known,
        mdata=screen.mdata,
        roles=screen.roles,
        embeddings=_embeddings(job, tasks),
    )


def _embeddings(job: Job, tasks: list[Task]) -> dict[tuple[str, str], NDArray]:
    found = {}
    for task in tasks:
        if task.seed != tasks[0].seed:
            continue
        for role, folder in task.parts:
            with suppress(SourceFailed):
                for name, array in job.store.read_embedding(folder)[0].items():
                    if role in ("", name):
                        found[task.label, name] = array
    return found


def _edges_of(job: Job, screen: Screen) -> pd.DataFrame | None:
    """The known pairs that a metric was given, above its threshold."""
    for metric in job.metrics:
        given = metric.options.get("edges")
        if isinstance(given, str):
            given = screen.mdata.uns.get(given.removeprefix("uns:"))
        if isinstance(given, pd.DataFrame):
            return given
    return None


def _sources(task: Task) -> tuple[float, list[str]]:
    """Seconds of training, and its warnings."""
    seconds, notes = 0.0, []
    for _, folder in task.parts:
        about = json.loads((folder / "about.json").read_text())
        seconds += about.get("seconds", 0.0)
        notes += about.get("notes", [])
    return seconds, notes


def notes_of(runs: pd.DataFrame) -> list[str]:
    """Warnings of the runs, each once with the methods that it came from."""
    found: dict[str, list[str]] = {}
    for _, row in runs.iterrows():
        for note in filter(None, str(row["notes"]).split("; ")):
            found.setdefault(note, []).append(str(row["method"]))
    return [f"{', '.join(dict.fromkeys(methods))}: {note}" for note, methods in found.items()]


def reason(why: str) -> str:
    """Why something failed, for readers: without the class of a user's error, which says little."""
    return re.sub(r"^(Key|Type|Value)Error: ", "", why)


def versions() -> dict[str, str]:
    """Versions of what computed, and the machine's kind."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return found


def text_table(table: pd.DataFrame) -> str:
    """The table for a terminal: medians, with their ends in brackets."""
    names = value_columns(table)
    heads = ["method", "correction", "view", *(name.replace("_", " ") for name in names)]
    rows = [
        [str(row[c]) for c in heads[:3]] + [shown(row, name) for name in names]
        for _, row in table.iterrows()
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for line in [heads, ["-" * w for w in widths], *rows]:
        parts = [
            text.ljust(width) if k < 3 else text.rjust(width)
            for k, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def value_columns(table: pd.DataFrame) -> list[str]:
    """Columns of values, without those of their ends."""
    return [c[: -len("_low")] for c in table.columns if c.endswith("_low")]


def shown(row: pd.Series, name: str) -> str:
    """A value with its ends, or a dash."""
    if pd.isna(row[name]):
        return "–"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f"{row[name]:.2f}" + ("" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]")
