"""A benchmark with everything that is looked at: embeddings, profiles, figures and the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mudata import MuData

from cellfuse import tl
from cellfuse._access import is_mudata
from cellfuse._errors import warn_user
from cellfuse._files import writing
from cellfuse._mudata import write_file
from cellfuse.bench._benchmark import benchmark
from cellfuse.bench._config import Config, read_config
from cellfuse.bench._engine import noted
from cellfuse.bench._figures import figures_of
from cellfuse.bench._folder import GO_ON, check_folder
from cellfuse.bench._report import report
from cellfuse.bench._result import Benchmark
from cellfuse.bench._settings import Settings
from cellfuse.bench._store import MARK
from cellfuse.bench._views import REP, View

__all__ = ["run_config", "run_demo", "run_screen", "run_settings"]

#: What :func:`run_screen` compares where nothing is named.
MODELS = {"PETRI": {}, "plain features": {"model": "features"}, "random": {}}
DEMO = Path(__file__).with_name("configs") / "demo.toml"
#: The demo made so small that its numbers mean nothing.
QUICK = {"n_targets": 16, "n_control_guides": 8, "cells_per_guide": 12, "no_effect": 0.0}


def run_demo(
    out: str | Path,
    *,
    quick: bool = False,
    seed: int = 0,
    max_epochs: int | None = None,
    documents_per_context: int | None = None,
    accelerator: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
) -> Benchmark:
    """Compare PETRI, its permuted twin and plain features on a simulated screen; leave a report.

    It is one configuration, ``cellfuse/bench/configs/demo.toml``, to be copied and changed.

    Parameters
    ----------
    out
        Folder to write; see :func:`run_screen` for what is in it.
    quick
        A small screen and a few steps, to see that everything works: its numbers mean nothing.
    seed
        Seed of the screen, the training and the scores.
    max_epochs, documents_per_context, accelerator
        Of the trainings; None is the configuration's.
    overwrite
        Replace an earlier result in `out`; otherwise it is taken up where it ended.
    progress
        Print a line per step.

    Returns
    -------
    The benchmark; see :func:`cellfuse.benchmark`.

    Raises
    ------
    FileExistsError
        `out` holds something else, or is the folder you are in.

    Examples
    --------
    >>> import cellfuse.bench
    >>> result = cellfuse.bench.run_demo("demo", seed=1)  # doctest: +SKIP
    """
    config = read_config(DEMO)
    training: dict[str, Any] = {"accelerator": accelerator}
    if quick:
        training |= {"max_epochs": 1, "documents_per_context": 1}
    if max_epochs is not None:
        training["max_epochs"] = max_epochs
    if documents_per_context is not None:
        training["documents_per_context"] = documents_per_context
    methods = {name: _trained(entry, training) for name, entry in config.methods.items()}
    config = config.changed(methods=methods)
    if quick:
        source = config.source
        assert callable(source)
        config = config.changed(
            source=partial(source, **QUICK),
            about=f"{config.about} Made with --quick: its numbers mean nothing.",
            metrics=config.metrics | {"guide_consistency": {"n_null": 10_000, "n_boot": 50}},
        )
    if progress:
        print(f"Is there anything to fuse? {_verdict(config, seed)}", flush=True)
    return run_config(config, out, seeds=[seed], overwrite=overwrite, progress=progress)


def _verdict(config: Config, seed: int) -> str:
    """What :func:`cellfuse.tl.shared_axes_test` says of the demo's screen, before any training."""
    assert callable(config.source)
    table = tl.shared_axes_test(
        config.source(seed),
        "guide",
        use_rep={"image": "crops", "rna": None},
        target_key="gene",
        batch_key={"image": "well", "rna": "batch"},
        n_draws=100,
        seed=seed,
    )
    return str(table.attrs["verdict"])


def _trained(entry: Any, training: Mapping[str, Any]) -> Any:
    """A method with other arguments of its training, if it is trained."""
    if not isinstance(entry, Mapping) or "train" not in entry:
        return entry
    return {**entry, "train": {**entry["train"], **training}}


def run_config(
    config: Config | str | Path,
    out: str | Path,
    *,
    overwrite: bool = False,
    **changes: Any,
) -> Benchmark:
    """Run a configuration and leave tables, embeddings, profiles, figures and the report.

    Parameters
    ----------
    config
        A configuration, or the TOML file that holds it (see :func:`read_config`).
    out
        Folder to write; an earlier result of the same benchmark is taken up where it ended.
    overwrite
        Remove an earlier result first.
    **changes
        Arguments of :func:`cellfuse.benchmark` in the place of the configuration's.

    Returns
    -------
    The benchmark.

    Examples
    --------
    >>> import cellfuse.bench
    >>> result = cellfuse.bench.run_config("table.toml", "results")  # doctest: +SKIP
    """
    read = config if isinstance(config, Config) else read_config(config)
    folder = _cleared(out, overwrite=overwrite)
    result = read.run(folder, **changes)
    _finish(
        result, title=read.title, about=read.about, colour_key=read.colour_key,
        say=changes.get("progress", True),
    )  # fmt: skip
    return result


def run_screen(
    mdata: MuData,
    models: Mapping[str, Any] | Iterable[Any] | None = None,
    out: str | Path | None = None,
    *,
    metrics: Mapping[str, Any] | Iterable[Any] | None = None,
    edges: Any = None,
    seeds: int | Iterable[int] = 1,
    title: str = "Benchmark of a screen",
    about: str | None = None,
    colour_key: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **arguments: Any,
) -> Benchmark:
    """Compare models and embeddings on a screen, and leave everything that one looks at next.

    Parameters
    ----------
    mdata
        The screen; nothing is written into it.
    models
        As `methods` of :func:`cellfuse.benchmark`, such as
        ``{"PETRI": {}, "CLIP": {}, "mine": "X_obsm"}``. None: PETRI, plain features and random
        numbers.
    out
        Folder to write, which must be named: ``report.html``; the tables as CSV; ``screen.h5mu``
        (the screen with each method's embedding of the first seed in ``obsm["X_<method>"]``);
        ``guides.h5ad`` and ``genes.h5ad`` (profiles of the best method); ``figures/``;
        ``embeddings/`` (of every seed, with the trained models) and ``cells/``. A run that was
        interrupted is taken up where it ended.
    metrics
        As in :func:`cellfuse.benchmark`. None: what the screen allows, ``guide_consistency`` with
        targets, ``edges`` with `edges`, ``alignment`` with two modalities.
    edges
        Known pairs of targets: a data frame with ``source``, ``target`` and optionally ``score``.
    seeds
        Seeds, or their number.
    title, about, colour_key
        For the report, see :func:`cellfuse.report`.
    overwrite
        Remove an earlier result in `out` first.
    progress
        Print a line per step.
    **arguments
        Of :func:`cellfuse.benchmark`: `context_keys`, `control`, `target_key`, ...

    Returns
    -------
    The benchmark.

    Raises
    ------
    FileExistsError
        `out` holds something else than results, or the folder you are in.
    KeyError, ValueError
        As :func:`cellfuse.benchmark`.

    Warns
    -----
    FutureWarning
        Called as before, ``run_screen(mdata, out, Settings(...))``.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import cellfuse.bench
    >>> mdata = cf.datasets.simulated_screen(n_targets=8, cells_per_guide=8, seed=0)
    >>> result = cf.bench.run_screen(  # doctest: +SKIP
    ...     mdata,
    ...     {"PETRI": {}, "CLIP": {}, "PCA": {}},
    ...     "result",
    ...     context_keys="guide",
    ...     image_rep="crops",
    ...     control_key="gene",
    ...     control="non-targeting",
    ...     target_key="gene",
    ...     edges=mdata.uns["edges"],
    ... )
    """
    settings = next((v for v in (out, arguments.get("settings")) if isinstance(v, Settings)), None)
    if settings is not None:
        warn_user(
            "run_screen(mdata, out, Settings(...)) is now run_screen(mdata, models, out, "
            "context_keys=..., control=..., ...); the old form goes with the next version.",
            FutureWarning,
        )
        place = models if isinstance(models, (str, Path)) else arguments["out"]
        return run_settings(
            mdata, place, settings, title=title, overwrite=overwrite, progress=progress
        )
    if out is None:
        raise ValueError("run_screen writes a folder: name it with `out`.")
    is_mudata(mdata)
    if metrics is None:
        metrics = _default_metrics(mdata, arguments, edges)
    elif edges is not None:
        raise ValueError("give `edges` among the options of `metrics`, or leave `metrics` out.")
    folder = _cleared(out, overwrite=overwrite)
    result = benchmark(
        mdata,
        MODELS if models is None else models,
        metrics,
        seeds=seeds,
        folder=folder,
        progress=progress,
        **({"keep_models": True} | arguments),
    )
    _finish(
        result,
        title=title,
        about=about or f"Cells of the same context, read out by {' and '.join(mdata.mod)}.",
        colour_key=colour_key,
        say=progress,
    )
    return result


def _default_metrics(mdata: MuData, design: Mapping[str, Any], edges: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if design.get("target_key") is not None:
        found["guide_consistency"] = {}
        if edges is not None:
            found["edges"] = {"edges": edges}
    elif edges is not None:
        raise ValueError("`edges` are of targets: name their obs column with `target_key`.")
    if len(design.get("modalities") or mdata.mod) > 1:
        found["alignment"] = {}
    return found or {"profiles": n_profiles}


def n_profiles(view: View) -> int:
    """How many profiles there are, where nothing is to be scored."""
    return view.guides.n_obs


def run_settings(
    mdata: MuData,
    out: str | Path,
    settings: Settings,
    *,
    title: str = "PETRI on a screen",
    overwrite: bool = False,
    progress: bool = True,
) -> Benchmark:
    """Run PETRI beside plain features as :class:`Settings` say, for what was written with them."""
    chosen = {
        name: getattr(settings, name)
        for name in (
            "context_keys", "control", "control_key", "target_key", "modalities", "image_rep",
            "rna_rep", "rna_layer", "rna_likelihood", "crop", "batch_key", "background_key",
            "drop_missing",
        )
    }  # fmt: skip
    petri = {
        "preset": settings.preset,
        "set_size": settings.set_size,
        "train": {
            "max_epochs": settings.max_epochs,
            "documents_per_context": settings.documents_per_context,
            "accelerator": settings.accelerator,
        },
    }
    metrics: dict[str, Any] = {}
    if settings.target_key is not None:
        metrics["guide_consistency"] = {"n_null": settings.n_null, "n_boot": settings.n_boot}
        if settings.edges is not None:
            metrics["edges"] = {
                "edges": settings.edges,
                "score_threshold": settings.score_threshold,
                "n_boot": settings.n_boot,
            }
    result = run_screen(
        mdata,
        MODELS | {"PETRI": petri},
        out,
        metrics=metrics or None,
        seeds=[settings.seed],
        title=title,
        colour_key=settings.colour_key,
        overwrite=overwrite,
        progress=progress,
        **chosen,
    )
    assert result.folder is not None
    kept = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name != "edges"}
    text = json.dumps({"settings": kept}, indent=1, default=str) + "\n"
    (result.folder / "settings.json").write_text(text, encoding="utf-8")
    return result


# -- what is left -------------------------------------------------------------------------------


def _cleared(out: str | Path, *, overwrite: bool) -> Path:
    """The folder: new, an earlier result to take up, or with `overwrite` emptied of one."""
    target = check_folder(out)
    if overwrite and (target / MARK).is_file():
        shutil.rmtree(target)
    return target


def _finish(
    result: Benchmark, *, title: str, about: str, colour_key: str | None, say: bool
) -> None:
    folder = result.folder
    assert folder is not None
    with noted():
        figures = figures_of(result.table, result.best, result.edges, colour_key=colour_key)
    with writing(folder, GO_ON):
        (folder / "figures").mkdir(exist_ok=True)
        for figure in figures:
            (folder / "figures" / f"{figure.name}.png").write_bytes(figure.png)
    _write_screen(result, folder)
    report(
        result, title=title, about=about, figures=figures, colour_key=colour_key,
        snippet=_snippet(result),
    )  # fmt: skip
    if say:
        print(f"\n{result}\n\nOpen {folder / 'report.html'}; it says what each number means.")


def _write_screen(result: Benchmark, folder: Path) -> None:
    """The screen with embeddings, and the best method's profiles."""
    best = result.best
    if best is not None:
        write_file(best.fused.guides, folder / "guides.h5ad")
        if best.fused.genes is not None:
            write_file(best.fused.genes, folder / "genes.h5ad")
    if result.mdata is None:
        return
    screen = result.mdata.copy()
    for (method, role), array in result.embeddings.items():
        name = result.roles[role]
        key = method if method.startswith("X_") else f"X_{method}"
        if screen.mod[name].n_obs == len(array):
            screen.mod[name].obsm[key.replace("/", "_")] = np.asarray(array)
    if best is not None:
        for role, name in best.fused.roles.items():
            del role
            screen.mod[name].obsm["X_best_corrected"] = best.fused.cells.mod[name].obsm[REP]
    write_file(screen, folder / "screen.h5mu")


def _snippet(result: Benchmark) -> str:
    lines = [
        "import anndata as ad, cellfuse as cf, mudata as md, pandas as pd",
        'mdata = md.read_h5mu("screen.h5mu")       # obsm["X_<method>"]: embeddings of the cells',
        'scores = pd.read_csv("scores.csv")        # every number, seed by seed',
    ]
    if result.best is not None and result.best.fused.genes is not None:
        lines.append(
            f'genes = ad.read_h5ad("genes.h5ad")        # profiles of {result.best.method}'
        )
        lines.append("cf.pl.similarity(genes)")
    return "\n".join(lines)
