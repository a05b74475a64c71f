"""A benchmark as a TOML file: data, screen, methods, metrics; wrong keys are refused by name."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mudata import MuData

from cellfuse import datasets
from cellfuse._errors import missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench._benchmark import benchmark
from cellfuse.bench._condition import rows_where
from cellfuse.bench._config_keys import PLAIN, check_content
from cellfuse.bench._methods import read_methods
from cellfuse.bench._metrics import METRICS, read_metrics
from cellfuse.bench._read import read_edges, read_screen
from cellfuse.bench._result import Benchmark

__all__ = ["Config", "read_config"]

#: Options of metrics that name a table.
OF_TABLES = ("edges", "pairs", "targets")


@dataclass(frozen=True)
class Config:
    """A benchmark that was read from a file.

    Parameters
    ----------
    source
        The MuData, or a function of the seed that makes one.
    methods, metrics
        As :func:`cellfuse.benchmark` takes them.
    arguments
        Its further arguments.
    title, about, colour_key
        For the report.

    Examples
    --------
    >>> import cellfuse.bench
    >>> config = cellfuse.bench.read_config("table.toml")  # doctest: +SKIP
    >>> config.run("results").table  # doctest: +SKIP
    """

    source: MuData | Callable[[int], MuData]
    methods: dict[str, Any]
    metrics: dict[str, Any]
    arguments: dict[str, Any]
    title: str = "Benchmark"
    about: str = ""
    colour_key: str | None = None

    def run(self, folder: str | Path | None = None, **changes: Any) -> Benchmark:
        """Run it, with some arguments of :func:`cellfuse.benchmark` changed."""
        given = self.arguments | {"folder": folder} | changes
        return benchmark(self.source, self.methods, self.metrics, **given)

    def changed(self, **changes: Any) -> Config:
        """The same with other fields."""
        return replace(self, **changes)


def read_config(path: str | Path) -> Config:
    """Read a benchmark from a TOML file.

    Top level: ``title``, ``about``, ``seeds``, ``correction``, ``against``, ``ceiling_of``,
    ``hold_out``, ``hold_out_by``, ``n_jobs``, ``keep_models``, ``colour_key``. Tables:

    - ``[data]``: ``file`` (``.h5mu``, or ``.h5ad`` with ``modality``; relative to the file), or
      ``simulated = "simulated_screen"`` with its arguments; without ``seed`` among these another
      screen is made for each seed; ``modality`` for one of several alone, ``keep``, a condition on
      obs such as ``"n_genes > 500"``, for some of the cells;
    - ``[screen]``: ``context_keys``, ``control``, ``control_key``, ``target_key``, ``batch_key``,
      ``image_rep``, ... (a ``control`` of ``""`` takes all cells);
    - ``[methods]`` and ``[metrics]``: names with their options, which may be empty. ``edges``,
      ``pairs`` and ``targets`` name a table: a file, or ``"uns:key"`` of the screen.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    The configuration; ``.run(folder)`` runs it.

    Raises
    ------
    FileNotFoundError
        There is no such file, or none of those that it names.
    KeyError
        A key, method, metric or option that does not exist; the likely spelling is named.
    ValueError
        No valid TOML, or no data, methods, metrics or ``context_keys``.

    Examples
    --------
    >>> import cellfuse.bench
    >>> config = cellfuse.bench.read_config("table.toml")  # doctest: +SKIP
    >>> result = config.run("results", n_jobs=2)  # doctest: +SKIP
    """
    file = Path(path)
    if not file.is_file():
        near = sorted(p.name for p in file.parent.glob("*.toml"))
        raise FileNotFoundError(f"there is no file {str(file)!r}; its folder holds {near[:8]}.")
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, its letters, or its depth
        raise ValueError(f"{str(file)!r} is no valid TOML: {error}") from error
    return config_of(content, where=file)


def config_of(content: Mapping[str, Any], *, where: Path) -> Config:
    """A configuration from what a file holds."""
    check_content(content, repr(str(where)))
    screen = dict(content["screen"])
    screen["control"] = screen["control"] or None
    batch = screen.get("batch_key")
    if isinstance(batch, Mapping):  # TOML has no null: a role without batches is left out
        screen["batch_key"] = {"image": None, "rna": None} | dict(batch)
    own = {
        k: content[k] for k in PLAIN if k in content and k not in ("title", "about", "colour_key")
    }
    metrics = _metrics(content["metrics"], where)
    read_metrics(metrics)  # wrong words are found before the data are read
    _check_methods(content["methods"])
    return Config(
        _source(dict(content["data"]), where),
        dict(content["methods"]),
        metrics,
        {**screen, **own},
        title=str(content.get("title", "Benchmark")),
        about=str(content.get("about", "")),
        colour_key=content.get("colour_key"),
    )


def _check_methods(methods: Mapping[str, Any]) -> None:
    """Refuse unknown models and options; obsm keys are only known once the data are read."""
    for name, entry in methods.items():
        keys = {entry["use_rep"]} if isinstance(entry, Mapping) and "use_rep" in entry else set()
        if isinstance(entry, str):
            keys.add(entry.split("@")[0])
        if isinstance(entry, Mapping) and not ({"image", "rna"} & set(entry)):
            read_methods({name: entry}, obsm=keys)


def _metrics(given: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Metrics with the tables that they name read."""
    found = {}
    for name, options in given.items():
        if not isinstance(options, Mapping):
            raise TypeError(f"[metrics] {name}: expected a table of options, such as {{}}.")
        read = dict(options)
        for key in OF_TABLES:
            value = read.get(key)
            if isinstance(value, str) and not value.startswith("uns:"):
                read[key] = read_edges(where.parent / value)
        found[name] = read
    for name, options in found.items():
        base = str(options.get("metric", name))
        if base not in METRICS:
            raise missing_key(base, list(METRICS), what="the metrics")
    return found


def _source(data: dict[str, Any], where: Path) -> MuData | Callable[[int], MuData]:
    modality, keep = data.pop("modality", None), data.pop("keep", None)
    if "file" in data:
        file = where.parent / str(data.pop("file"))
        if data:
            raise missing_key(next(iter(data)), ["file", "modality", "keep"], what="[data]")
        if file.suffix == ".h5ad":  # its role is what has to be said
            return _part_of(read_screen(file, modality=modality), None, keep)
        return _part_of(read_screen(file), modality, keep)
    name = str(data.pop("simulated"))
    known = list(inspect.signature(getattr(datasets, name)).parameters)
    for key in data:
        if key not in known:
            raise missing_key(key, [*known, "modality", "keep"], what=f"the arguments of {name}")
    seed = data.pop("seed", None)
    source: Callable[[int], MuData] = partial(
        simulate, simulator=name, modality=modality, keep=keep, **data
    )
    return source if seed is None else source(seed)  # one screen for all seeds


def _part_of(mdata: MuData, modality: str | None, keep: str | None) -> MuData:
    """One modality of a screen, or those cells for which a condition holds."""
    if modality is not None:
        if modality not in mdata.mod:
            raise missing_key(modality, list(mdata.mod), what="the modalities of [data]")
        alone = make_mudata({modality: mdata[modality]})
        alone.uns.update(mdata.uns)
        mdata = alone
    return mdata if keep is None else _kept(mdata, str(keep))


def _kept(mdata: MuData, condition: str) -> MuData:
    """Cells for which a condition on obs holds, in the modalities that have its columns."""
    parts = {}
    for name, adata in mdata.mod.items():
        try:
            parts[name] = adata[rows_where(adata.obs, condition)].copy()
        except (KeyError, NameError):  # this modality lacks the column
            parts[name] = adata
    if all(parts[name] is adata for name, adata in mdata.mod.items()):
        raise ValueError(f"keep={condition!r} names no obs column of any modality.")
    kept = make_mudata(parts)
    kept.uns.update(mdata.uns)
    return kept


def simulate(
    seed: int, *, simulator: str, modality: str | None, keep: str | None, **options: Any
) -> MuData:
    """A simulated screen for a seed."""
    made = getattr(datasets, simulator)(**{**options, "seed": seed})
    return _part_of(made, modality, keep)
