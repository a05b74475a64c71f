"""What a run has to do: sources to embed and methods to score, each known by all that makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cellfuse.bench._design import Design
from cellfuse.bench._methods import Method, Source
from cellfuse.bench._metrics import Metric
from cellfuse.bench._screen import Screen
from cellfuse.bench._store import Store, digest_of, fingerprint_of, key_of

__all__ = ["Job", "Task", "corrections_of", "data_of", "tasks_of"]


@dataclass(frozen=True)
class Job:
    """What all tasks of a run share."""

    design: Design
    corrections: tuple[str, ...]
    metrics: tuple[Metric, ...]
    store: Store
    ceiling_of: frozenset[str] = frozenset()
    keep_model: bool = False

    @property
    def draws(self) -> bool:
        """Whether a metric looks at drawn profiles."""
        return any(metric.synthetic for metric in self.metrics)


@dataclass(frozen=True)
class Task:
    """One cell of work: embed a source, or score a method; `target` is what it leaves."""

    seed: int
    label: str
    target: Path
    source: Source | None = None
    method: Method | None = None
    #: Embedding folders by role, or under ``""``.
    parts: tuple[tuple[str, Path], ...] = ()

    @property
    def what(self) -> str:
        """For a line of progress."""
        return f"{'embed' if self.source else 'score'} {self.label}, seed {self.seed}"


def tasks_of(
    job: Job, methods: Sequence[Method], screen: Screen, seed: int, *, data: dict[str, Any]
) -> tuple[list[Task], list[Task]]:
    """Tasks of a seed: sources to embed, each once, and methods to score."""
    described = {"design": job.design.as_json(), "data": data}
    asked = {m.name: m.as_json() for m in job.metrics}
    columns = _columns(asked, screen)
    sources: dict[Path, Task] = {}
    scores = []
    for method in methods:
        parts = []
        for role, source in method.sources.items():
            own = source.as_json()
            made_by = {"source": own, "columns": _columns(own, screen), "seed": seed}
            key = key_of({**described, **made_by, "draws": job.draws})
            target = job.store.embedding_folder(source.name, seed, key)
            # By the method that wants it first: a model and its permuted twin have one name.
            label = method.name if len(method.sources) == 1 else f"{source.name} ({method.name})"
            sources.setdefault(target, Task(seed, label, target, source=source))
            parts.append((role, target))
        key = key_of(
            {
                "parts": [(role, target.name) for role, target in parts],
                "fusion": method.fusion,
                "corrections": corrections_of(job, method),
                "metrics": asked,
                "columns": columns,
                "ceiling": method.name in job.ceiling_of,
            }
        )
        target = job.store.cell_file(method.name, seed, key)
        scores.append(Task(seed, method.name, target, method=method, parts=tuple(parts)))
    return list(sources.values()), scores


def corrections_of(job: Job, method: Method) -> tuple[str, ...]:
    """The benchmark's corrections, or the method's own."""
    return job.corrections if method.correction is None else (method.correction,)


def data_of(screen: Screen) -> dict[str, str]:
    """What tells this screen from another."""
    design = screen.design
    batch, out = design.batch_key, design.hold_out
    keys = [*design.contexts, design.target_key, design.control_key, design.background_key]
    keys += list(batch.values()) if isinstance(batch, Mapping) else [batch]
    keys += [design.pair_key, design.hold_out_by, *(out if isinstance(out, Mapping) else [out])]
    named = [key for key in keys if isinstance(key, str)]
    return fingerprint_of(screen.mdata, dict.fromkeys(screen.mdata.mod, named))


def _columns(options: Any, screen: Screen) -> dict[str, str]:
    """Digests of the obs columns that options name: the same name may hold other labels."""
    parts = screen.mdata.mod
    named = {
        name: sorted(_words(options) & {c for c in adata.obs if isinstance(c, str)})
        for name, adata in parts.items()
    }
    return {name: digest_of(parts[name].obs, keys) for name, keys in named.items() if keys}


def _words(options: Any) -> set[str]:
    """Every text among options, however deep."""
    if isinstance(options, str):
        return {options}
    if isinstance(options, Mapping):
        return set().union(*(_words(value) for value in options.values()))
    if isinstance(options, (list, tuple)):
        return set().union(*(_words(value) for value in options))
    return set()
