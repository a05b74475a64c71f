"""The engine: sources are embedded, methods are scored, each cell of the table by itself.

Two kinds of tasks, both resumable and both alike in one process or several: *embed* a source for
a seed, *score* a method for a seed. A task that fails leaves a file that says why.
"""

from __future__ import annotations

import json
import logging
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import Parallel, delayed, parallel_config
from joblib.externals.loky.process_executor import BrokenProcessPool, TerminatedWorkerError

from cellfuse._errors import listing
from cellfuse.bench._embed import embed
from cellfuse.bench._metrics import Metric
from cellfuse.bench._scorers import Value
from cellfuse.bench._screen import Screen
from cellfuse.bench._store import SourceFailed
from cellfuse.bench._tasks import Job, Task, corrections_of
from cellfuse.bench._views import (
    View,
    correct,
    halves,
    halves_of_each,
    own_and_paired,
    redealt,
    views_of,
)

__all__ = ["check_metrics", "noted", "run_tasks", "score_arrays"]

#: Whose ceiling is that of guides that all do the same, and that of two halves of the data.
REDEALT = ("guide_consistency", "mean_average_precision")
HALVED = ("edges", "relationship_recall")


# -- running --------------------------------------------------------------------------------------


def run_tasks(
    job: Job,
    tasks: Sequence[tuple[Task, Screen]],
    *,
    n_jobs: int,
    say: Callable[[str], None],
) -> None:
    """Run what is not there yet; a process that dies takes its own cell along and no other."""
    todo = [(task, screen) for task, screen in tasks if not is_done(task)]
    for task, _ in todo:
        _file_of(task).unlink(missing_ok=True)  # what failed is tried again
    if n_jobs == 1 or len(todo) < 2:
        for task, screen in todo:
            say(_line(task, run_task(job, task, screen)))
        return
    try:
        for task, seconds in _in_processes(job, todo, n_jobs):
            say(_line(task, seconds))
    except BrokenProcessPool:
        for task, screen in todo:
            if not (_file_of(task)).is_file():
                _alone(job, task, screen, say)


def _alone(job: Job, task: Task, screen: Screen, say: Callable[[str], None]) -> None:
    try:
        for _, seconds in _in_processes(job, [(task, screen)], 2):
            say(_line(task, seconds))
    except BrokenProcessPool as error:
        died = "the process died, as one does that runs out of memory"
        fail(job, task, died if isinstance(error, TerminatedWorkerError) else _reason(error))
        say(_line(task, None))


def _in_processes(
    job: Job, todo: Sequence[tuple[Task, Screen]], n_jobs: int
) -> Iterator[tuple[Task, float | None]]:
    threads = max(1, (os.cpu_count() or 1) // n_jobs)
    with (
        parallel_config(backend="loky", inner_max_num_threads=threads),
        warnings.catch_warnings(),
    ):
        # A process whose memory has grown is replaced between two tasks, and none is lost.
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
            delayed(_returning)(job, task, screen) for task, screen in todo
        )


def _returning(job: Job, task: Task, screen: Screen) -> tuple[Task, float | None]:
    return task, run_task(job, task, screen)


def _line(task: Task, seconds: float | None) -> str:
    return f"  {task.what}: {'FAILED' if seconds is None else f'{seconds:.1f} s'}"


def _file_of(task: Task) -> Path:
    return task.target / "about.json" if task.source is not None else task.target


def is_done(task: Task) -> bool:
    """Whether a task left a result; what failed is none."""
    file = _file_of(task)
    return file.is_file() and not json.loads(file.read_text()).get("why")


#: What says a line for each verb or training, of which a benchmark has hundreds.
TALKERS = ("cellfuse", "lightning.pytorch", "lightning.fabric")


@contextmanager
def noted() -> Iterator[list[warnings.WarningMessage]]:
    """Keep warnings and lines of the verbs back; each task notes its own warnings."""
    loggers = [logging.getLogger(name) for name in TALKERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings(record=True, action="always") as caught:
            yield caught
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def run_task(job: Job, task: Task, screen: Screen) -> float | None:
    """Run one task; None where it failed, whose file says why."""
    start = time.perf_counter()
    with noted() as caught:
        try:
            if task.source is not None:
                _embed(job, task, screen, caught)
            else:
                _score(job, task, screen, caught)
        except Exception as error:  # noqa: BLE001  # whatever a method raises is its own row
            fail(job, task, _reason(error), notes=_notes(caught), trace=traceback.format_exc())
            return None
    return time.perf_counter() - start


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, SourceFailed):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _notes(caught: list[warnings.WarningMessage]) -> list[str]:
    """The library's own warnings, each once."""
    package = Path(__file__).parents[1]
    ours = [w for w in caught if package in Path(w.filename).parents or w.category is UserWarning]
    return list(dict.fromkeys(str(w.message) for w in ours))


def fail(job: Job, task: Task, why: str, *, notes: Sequence[str] = (), trace: str = "") -> None:
    """Leave the reason in the place of a result."""
    about = {"why": why, "trace": trace, "notes": list(notes), "seed": task.seed}
    if task.source is not None:
        job.store.write_embedding(task.target, {}, synthetic=None, about=about)
    else:
        assert task.method is not None
        job.store.write_cell(task.target, {**about, "method": task.method.name, "rows": []}, {})


def _embed(job: Job, task: Task, screen: Screen, caught: list[Any]) -> None:
    assert task.source is not None
    start = time.perf_counter()
    found = embed(task.source, screen, seed=task.seed, sample=job.draws)
    about = {
        "source": task.source.as_json(),
        "seed": task.seed,
        "seconds": time.perf_counter() - start,
        "training": found.training,
        "notes": _notes(caught),
        "widths": {role: array.shape[1] for role, array in found.arrays.items()},
    }
    job.store.write_embedding(
        task.target,
        found.arrays,
        synthetic=found.synthetic,
        about=about,
        model=found.model if job.keep_model else None,
    )


def _score(job: Job, task: Task, screen: Screen, caught: list[Any]) -> None:
    assert task.method is not None
    arrays: dict[str, Any] = {}
    synthetic = None
    for role, folder in task.parts:
        found, drawn = job.store.read_embedding(folder)
        arrays |= {r: a for r, a in found.items() if role in ("", r)}
        synthetic = drawn if drawn is not None else synthetic
    start = time.perf_counter()
    rows, units = score_arrays(
        replace(job, corrections=corrections_of(job, task.method)),
        screen,
        {screen.roles[role]: array for role, array in arrays.items()},
        fusion=task.method.fusion,
        seed=task.seed,
        synthetic=synthetic,
        ceiling=task.method.name in job.ceiling_of,
    )
    content = {
        "method": task.method.name,
        "fusion": task.method.fusion,
        "seed": task.seed,
        "why": "",
        "seconds": time.perf_counter() - start,
        "notes": _notes(caught),
        "rows": rows,
    }
    job.store.write_cell(task.target, content, units)


# -- scoring --------------------------------------------------------------------------------------


def score_arrays(
    job: Job,
    screen: Screen,
    arrays: dict[str, Any],
    *,
    fusion: str,
    seed: int,
    synthetic: Any = None,
    ceiling: bool = False,
    strict: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, pd.DataFrame]]:
    """Rows of all corrections, views and metrics of one embedding, and the tables behind them.

    `strict` raises what a metric raises; otherwise its row says why.
    """
    rows: list[dict[str, Any]] = []
    units: dict[str, pd.DataFrame] = {}
    for correction in job.corrections:
        if correction == "joint" and len(arrays) < 2:
            continue
        cells = screen.cells(arrays)
        correct(cells, screen, correction)
        cells, paired = own_and_paired(cells, screen)
        views = views_of(
            cells, screen, fusion=fusion, seed=seed, synthetic=synthetic, paired=paired
        )
        others = _other_views(job, views[-1], fusion) if ceiling else {}
        for metric in job.metrics:
            for view in views if metric.scope == "view" else views[-1:]:
                base = {"correction": correction, "view": view.name, "metric": metric.name}
                if metric.scope == "pair":
                    base["view"] = "both"
                found, table = _metric_rows(metric, view, strict=strict)
                rows += [{**base, **row} for row in found]
                if table is not None:
                    units["_".join(base.values())] = table
                if ceiling and view is views[-1]:
                    rows += [{**base, **row} for row in _ceiling_rows(metric, view, others)]
    return rows, units


def _metric_rows(
    metric: Metric, view: View, *, strict: bool
) -> tuple[list[dict[str, Any]], pd.DataFrame | None]:
    try:
        scores = metric(view)
    except Exception as error:  # a metric that cannot be had is a row, not an end
        if strict:
            raise
        return [{"score": "", "value": None, "why": _reason(error)}], None
    table = scores.units
    if table is not None:
        keys = [c for c in ("table", "source", "target") if c in table]
        table = table[[*keys, scores.of]]
    return [
        {"score": name, **value._asdict(), "of": scores.of} for name, value in scores.values.items()
    ], table


def _other_views(job: Job, view: View, fusion: str) -> dict[str, View]:
    """Views in which the truth is known, each made once for all metrics that ask for it."""
    names = {metric.base for metric in job.metrics}
    found = {}
    if view.genes is not None and names & set(REDEALT):
        found["redealt"] = redealt(view, fusion=fusion)
    if view.genes is not None and names & set(HALVED):
        found["halved"] = halves(view, fusion=fusion)
    return found


def _ceiling_rows(metric: Metric, view: View, others: Mapping[str, View]) -> list[dict[str, Any]]:
    """The same metric on data whose truth is known."""
    try:
        if metric.base in REDEALT and "redealt" in others:
            found = [metric(others["redealt"]).values]
        elif metric.base in HALVED and "halved" in others:
            found = [metric(others["halved"]).values]
        elif metric.base == "alignment" and metric.options.get("of") != "pairs":
            found = [metric(half).values for half in halves_of_each(view)]
        else:
            return []
    except Exception as error:  # noqa: BLE001
        return [{"score": "", "value": None, "why": _reason(error), "ceiling": True}]
    rows = []
    for name in found[0]:
        values = [part[name] for part in found if name in part]
        mean = Value(*(float(pd.Series(column).mean()) for column in zip(*values, strict=True)))
        rows.append({"score": name, **mean._asdict(), "ceiling": True})
    return rows


def check_metrics(job: Job, screen: Screen, seed: int) -> None:
    """Score random numbers: a wrong column or option is found before anything is trained.

    Raises
    ------
    KeyError, ValueError
        What the metric says of its options or of the screen.
    """
    from cellfuse.bench._plain import random_numbers

    arrays = {
        name: random_numbers(len(table), seed=seed, number=number)
        for number, (name, table) in enumerate(screen.tables.items())
    }
    plain = [m for m in job.metrics if not m.synthetic and (m.scope == "view" or len(arrays) == 2)]
    if not plain and not any(m.synthetic for m in job.metrics):
        raise ValueError(
            f"{listing([m.name for m in job.metrics])} need two modalities; this screen has "
            f"{listing(screen.roles)}."
        )
    trial = Job(job.design, job.corrections[:1], tuple(plain), job.store)
    score_arrays(trial, screen, arrays, fusion="average", seed=seed, strict=True)
