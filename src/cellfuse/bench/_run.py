"""From a screen to a folder with embeddings, profiles, scores, figures and a report."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from cellfuse._mudata import columns_stay
from cellfuse.bench._baselines import plain_features
from cellfuse.bench._figures import draw_figures
from cellfuse.bench._folder import check_folder, result_folder
from cellfuse.bench._read import Screen, open_screen
from cellfuse.bench._report import finding, settings_table, summary_text, versions, write_report
from cellfuse.bench._scores import Both, Scored, correct, metrics_table, score
from cellfuse.bench._settings import Settings
from cellfuse.datasets import simulated_screen
from cellfuse.model import PETRI

__all__ = ["Result", "run_demo", "run_screen"]

CORRECTED = "X_petri_corrected"


@dataclass(frozen=True)
class Result:
    """What a run leaves.

    Parameters
    ----------
    folder
        Where everything was written.
    metrics
        One row per method and profile, as in ``metrics.csv``.
    mdata
        The modalities that were read, with their embeddings, as in ``screen.h5mu``.
    model
        The trained model.
    """

    folder: Path
    metrics: pd.DataFrame
    mdata: MuData
    model: PETRI


class Steps:
    """Says what is going on, and takes the time of it."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say, self.seconds = say, dict[str, float]()

    @contextmanager
    def __call__(self, name: str, detail: str = "") -> Iterator[None]:
        """Run a step."""
        self.say(f"{name} ...{f' {detail}' if detail else ''}")
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start
        self.say(f"  done in {self.seconds[name]:.1f} s")


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    pass


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
) -> Result:
    """Simulate a screen, train PETRI on it, score it beside plain features and write a report.

    Parameters
    ----------
    out
        Folder to write; see :func:`run_screen` for what is in it.
    quick
        A small screen and a few steps, to see that everything works: its numbers mean nothing.
    seed
        Seed of the screen, the training and the scores.
    max_epochs, documents_per_context, accelerator
        As in :class:`Settings`; None is its default.
    overwrite
        Replace an earlier result in `out`.
    progress
        Print a line per step and show the training's progress bar.

    Returns
    -------
    The folder, the metrics, the data and the model.

    Raises
    ------
    FileExistsError
        `out` holds something, or is the folder you are in.

    Examples
    --------
    >>> import cellfuse.bench
    >>> result = cellfuse.bench.run_demo("demo", seed=1)  # doctest: +SKIP
    """
    check_folder(out, overwrite=overwrite)
    steps = Steps(_say if progress else _silent)
    with steps("simulating a screen"):
        if quick:
            mdata = simulated_screen(
                100, n_targets=16, n_control_guides=8, cells_per_guide=12, no_effect=0.0, seed=seed
            )
        else:
            mdata = simulated_screen(seed=seed)
    settings = Settings(
        context_keys="guide",
        image_rep="crops",
        control_key="gene",
        control="non-targeting",
        batch_key={"image": "well", "rna": None},
        target_key="gene",
        edges=mdata.uns["edges"],
        colour_key="complex",
        accelerator=accelerator,
        seed=seed,
    )
    if quick:
        settings = replace(settings, max_epochs=2, documents_per_context=1, n_null=10_000)
    if max_epochs is not None:
        settings = replace(settings, max_epochs=max_epochs)
    if documents_per_context is not None:
        settings = replace(settings, documents_per_context=documents_per_context)
    about = (
        "A simulated screen: guides read out by images and by counts, on different cells, with "
        "known complexes of targets."
    )
    if quick:
        about += " Made with --quick: a few steps on a small screen, whose numbers mean nothing."
    return _run(
        mdata,
        Path(out),
        settings,
        title="cellfuse demo: PETRI on a simulated screen",
        about=about,
        steps=steps,
        overwrite=overwrite,
        progress=progress,
    )


def run_screen(
    mdata: MuData,
    out: str | Path,
    settings: Settings,
    *,
    title: str = "PETRI on a screen",
    overwrite: bool = False,
    progress: bool = True,
) -> Result:
    """Train PETRI on a screen, score it beside plain features and write a report.

    Before the training, the same scoring is run on random numbers: a wrong column is found at
    once, and chance is measured and not only stated.

    Parameters
    ----------
    mdata
        The screen. Its modalities get ``obsm["X_petri"]`` and ``obsm["X_petri_corrected"]``, unless
        `settings` drop cells: then copies do.
    out
        Folder to write: ``screen.h5mu`` (the modalities with both embeddings; the metrics in
        ``uns["metrics"]``), ``guides.h5ad`` and ``genes.h5ad`` (profiles with their scores),
        ``metrics.csv``, ``model/``, ``figures/``, ``settings.json``, ``report.html``. It is written
        beside and renamed at the end.
    settings
        What is read, trained and scored.
    title
        Heading of the report.
    overwrite
        Replace an earlier result in `out`.
    progress
        Print a line per step and show the training's progress bar.

    Returns
    -------
    The folder, the metrics, the data and the model.

    Raises
    ------
    FileExistsError
        `out` holds something, or is the folder you are in.
    KeyError, ValueError
        A column, key or label is missing or unfit; see the verbs and :class:`cellfuse.PETRI`.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import cellfuse.bench
    >>> mdata = cf.datasets.simulated_screen(n_targets=8, cells_per_guide=8, seed=0)
    >>> settings = cf.bench.Settings(
    ...     context_keys="guide",
    ...     image_rep="crops",
    ...     control_key="gene",
    ...     control="non-targeting",
    ...     target_key="gene",
    ...     edges=mdata.uns["edges"],
    ... )
    >>> cf.bench.run_screen(mdata, "result", settings).metrics  # doctest: +SKIP
    """
    return _run(
        mdata,
        Path(out),
        settings,
        title=title,
        about="Cells of the same context, read out by "
        f"{' and '.join(settings.modalities or mdata.mod)}; contexts by "
        f"{' and '.join(settings.contexts)}.",
        steps=Steps(_say if progress else _silent),
        overwrite=overwrite,
        progress=progress,
    )


def _run(
    mdata: MuData,
    out: Path,
    settings: Settings,
    *,
    title: str,
    about: str,
    steps: Steps,
    overwrite: bool,
    progress: bool,
) -> Result:
    target = check_folder(out, overwrite=overwrite)
    with _kept_warnings() as notes, result_folder(target, keep="model") as folder:
        with steps("checking the data, with random numbers in the place of embeddings"):
            screen = open_screen(mdata, settings)
            model = _model(screen)
            chance = _chance(screen, width=model.sizes.width)
        with steps("training PETRI", _plan(screen)):
            model.train(
                max_epochs=settings.max_epochs,
                documents_per_context=settings.documents_per_context,
                validation_size=_validation_size(screen),
                accelerator=settings.accelerator,
                enable_progress_bar=progress,
            )
            model.save(folder / "model")
        with steps("embedding, correcting and scoring"):
            cells, petri = _petri(screen, model)
        # After the training: scanpy's compiled loops reset the number of threads that torch uses.
        with steps("plain features of the same cells"):
            plain, kinds = _plain(screen, model)
            scored = [petri, plain, chance]
            kinds |= {f"PETRI/{name}": "cell embeddings" for name in petri.guides}
            metrics = metrics_table(scored, kinds)
        with steps("figures"):
            figures = draw_figures(
                folder / "figures",
                screen=screen.mdata,
                cells=cells,
                scored=scored,
                model=model,
                metrics=metrics,
                settings=settings,
            )
        with steps("writing"):
            _write(folder, screen=screen.mdata, petri=petri, metrics=metrics, settings=settings)
            write_report(
                folder / "report.html",
                title=title,
                about=about,
                metrics=metrics,
                figures=figures,
                figure_folder=folder / "figures",
                settings=settings,
                data=_data_table(screen.mdata),
                seconds=steps.seconds,
                notes=list(dict.fromkeys(notes)),
                snippet=_snippet(petri, settings),
            )
    steps.say(f"\n{summary_text(metrics)}\n\n{finding(metrics)}\n")
    total = sum(steps.seconds.values())
    steps.say(
        f"{total:.0f} s together. Open {target / 'report.html'}; it says what each number means."
    )
    return Result(target, metrics, screen.mdata, model)


def _model(screen: Screen) -> PETRI:
    settings = screen.settings
    PETRI.setup_mudata(
        screen.mdata,
        context_keys=settings.contexts,
        image_rep=settings.image_rep,
        rna_rep=settings.rna_rep,
        rna_layer=settings.rna_layer,
        rna_likelihood=settings.rna_likelihood,
        modalities=screen.roles,
    )
    return PETRI(
        screen.mdata,
        preset=settings.preset,
        set_size=settings.set_size,
        crop=settings.crop,
        seed=settings.seed,
    )


def _chance(screen: Screen, *, width: int) -> Scored:
    rng = np.random.default_rng(screen.settings.seed)
    arrays = {
        name: rng.normal(size=(len(table), width)).astype(np.float32)
        for name, table in screen.tables.items()
    }
    return _correct_and_score(screen, screen.cells(arrays), "random numbers", "average")


def _plain(screen: Screen, model: PETRI) -> tuple[Scored, dict[str, str]]:
    arrays, kinds = {}, {}
    for role, name in screen.roles.items():
        kinds[f"plain features/{role}"], arrays[name] = plain_features(
            screen.mdata.mod[name],
            model.inputs[role],
            crop=screen.settings.crop,
            seed=screen.settings.seed,
        )
    kinds["plain features/concatenation"] = "both of these"
    cells = screen.cells(arrays)
    return _correct_and_score(screen, cells, "plain features", "concatenation"), kinds


def _petri(screen: Screen, model: PETRI) -> tuple[MuData, Scored]:
    arrays = {}
    for role, name in screen.roles.items():
        adata = screen.mdata.mod[name]
        adata.obsm["X_petri"] = model.get_latent_representation(modality=role)
        arrays[name] = adata.obsm["X_petri"].copy()
    cells = screen.cells(arrays)
    scored = _correct_and_score(screen, cells, "PETRI", "average")
    for name in screen.roles.values():
        screen.mdata.mod[name].obsm[CORRECTED] = cells.mod[name].obsm["rep"]
    return cells, scored


def _correct_and_score(screen: Screen, cells: MuData, method: str, both: Both) -> Scored:
    correct(cells, screen.settings, screen.roles)
    return score(cells, screen.settings, method=method, roles=screen.roles, both=both)


def _plan(screen: Screen) -> str:
    settings = screen.settings
    tables = [table[settings.contexts].astype(str) for table in screen.tables.values()]
    n = len(pd.concat(tables).drop_duplicates())
    documents = settings.documents_per_context
    return f"{n:,} contexts x {documents} documents x {settings.max_epochs} epochs"


def _validation_size(screen: Screen) -> float:
    """None where the contexts of a modality are too small: its losses would be those of nothing."""
    share = screen.settings.validation_size
    for name, table in screen.tables.items():
        largest = table.groupby(screen.settings.contexts, observed=True).size().max()
        if 0 < share and largest * share < 1:
            warnings.warn(
                f"no context of modality {name!r} has the {math.ceil(1 / share)} cells of which "
                "one can be held out: no validation loss is taken.",
                UserWarning,
                stacklevel=3,
            )
            return 0.0
    return share


def _data_table(screen: MuData) -> dict[str, str]:
    return {
        name: f"{adata.n_obs:,} cells, {adata.n_vars:,} variables"
        + "".join(
            f", obsm[{key!r}] {' x '.join(map(str, np.shape(adata.obsm[key])[1:]))}"
            for key in adata.obsm
            if key not in ("X_petri", CORRECTED)
        )
        for name, adata in screen.mod.items()
    }


def _write(
    folder: Path, *, screen: MuData, petri: Scored, metrics: pd.DataFrame, settings: Settings
) -> None:
    metrics.to_csv(folder / "metrics.csv", index=False)
    screen.uns["metrics"] = metrics
    with columns_stay():
        screen.write(folder / "screen.h5mu")
    petri.guides[petri.best].write_h5ad(folder / "guides.h5ad")
    if petri.genes:
        petri.genes[petri.best].write_h5ad(folder / "genes.h5ad")
    text = {"settings": settings_table(settings), "versions": versions()}
    (folder / "settings.json").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def _snippet(petri: Scored, settings: Settings) -> str:
    lines = [
        "import anndata as ad, cellfuse as cf, mudata as md",
        'mdata = md.read_h5mu("screen.h5mu")',
    ]
    lines.append('model = cf.PETRI.load("model", mdata)')
    lines.append('guides = ad.read_h5ad("guides.h5ad")')
    if "guide_consistency" in petri.guides[petri.best].uns:
        lines.append('guides.uns["guide_consistency"]["table"]   # one row per target')
    if petri.genes:
        lines.append('genes = ad.read_h5ad("genes.h5ad")')
        if settings.edges is not None:
            lines.append("cf.pl.roc(genes)")
        lines.append("cf.pl.similarity(genes)")
    return "\n".join(lines)


@contextmanager
def _kept_warnings() -> Iterator[list[str]]:
    """Note the library's own warnings for the report; they are shown as ever."""
    notes: list[str] = []
    show, package = warnings.showwarning, Path(__file__).parents[1]

    def keep(message: Any, category: type[Warning], filename: str, *rest: Any, **more: Any) -> None:
        if package in Path(filename).parents:
            notes.append(str(message))
        show(message, category, filename, *rest, **more)

    with warnings.catch_warnings():
        warnings.showwarning = keep  # type: ignore[assignment]
        yield notes
