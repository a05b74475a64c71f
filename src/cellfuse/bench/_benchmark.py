"""One call: methods x metrics x seeds, with controls, floors, ceilings and intervals."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import fields
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias

from mudata import MuData

from cellfuse._errors import missing_key
from cellfuse._files import writing
from cellfuse.bench._design import Design
from cellfuse.bench._engine import check_metrics, noted, run_tasks
from cellfuse.bench._folder import GO_ON
from cellfuse.bench._methods import Method, Source, fingerprint, read_methods
from cellfuse.bench._metrics import read_metrics
from cellfuse.bench._result import Benchmark, collect, notes_of, reason
from cellfuse.bench._screen import Screen, open_screen
from cellfuse.bench._store import Store, check_results
from cellfuse.bench._tasks import Job, Task, data_of, tasks_of
from cellfuse.bench._views import CORRECTIONS

__all__ = ["benchmark"]

_NONE = Source("", "")
Screens: TypeAlias = MuData | Callable[[int], MuData]


def benchmark(
    mdata: Screens,
    methods: Iterable[Any] | Mapping[str, Any],
    metrics: Iterable[Any] | Mapping[str, Any] = ("guide_consistency",),
    *,
    context_keys: str | Iterable[str],
    control: str | None,
    control_key: str | None = None,
    target_key: str | None = None,
    seeds: int | Iterable[int] = 3,
    correction: str | Iterable[str] = "zca",
    against: str | None = None,
    ceiling_of: str | None = None,
    folder: str | Path | None = None,
    n_jobs: int = 1,
    keep_models: bool = False,
    progress: bool = True,
    **design: Any,
) -> Benchmark:
    """Score many methods by many metrics over seeds, all on the same cells.

    Every method sees the same cells, contexts, held-out contexts and controls, goes through the
    same correction and is averaged to profiles in the same way. A failed method is a row that says
    why and stops no other.

    Parameters
    ----------
    mdata
        The screen; or a function of the seed that gives one, such as a simulated screen for each
        seed.
    methods
        A list of names, or a dict from the name that is shown to what it is:

        - a model of the library, by name or class: ``"PETRI"``, ``cf.CLIP``; the variants of
          PETRI's Table 1: ``"PETRI Image"``, ``"PETRI Omics"``, ``"ViT MAE"``, ``"TrP MAE"``;
        - an obsm key with an embedding that you bring;
        - ``"PCA"`` of each modality; ``"features"``, which takes moments of pixels instead;
          ``"scVI"``;
        - the floors ``"random"`` (random numbers) and ``"position"`` (the plate, well or batch of
          `batch_key` and nothing else);
        - twins and fusions behind an ``@``: ``"PETRI@permuted"`` (contexts dealt at random),
          ``"PETRI@untrained"``, ``"PCA@max"``, ``"PCA@cca_mean"`` (PETRI, A.7);
        - a dict: ``dict(model="PETRI", permuted=True, n_latents=4, train=dict(max_epochs=3))``,
          whose further entries are arguments of the model, with those of ``setup_mudata`` in
          ``setup`` and of ``get_latent_representation`` in ``embed``; or one entry per modality,
          ``dict(image="ViT MAE", rna="TrP MAE", fusion="max")``;
        - a function ``f(mdata, *, seed)`` that gives a dict of arrays by modality.
    metrics
        A list of names, or a dict from a name to its options: ``guide_consistency``, ``edges``
        (needs ``edges``), ``relationship_recall`` (``pairs``), ``mean_average_precision``,
        ``alignment``, ``transfer``, ``target_discovery``, ``fidelity``, ``classification``. A
        function of a :class:`cellfuse.bench.View` that gives a number, or a dict of numbers, is a
        metric too.
    context_keys
        obs column or columns, in every modality, that cells share: the guide, the compound.
    control, control_key
        Label of the control cells and its obs column. None, which must be written, takes all cells.
    target_key
        obs column, constant within a context, with what a context hits: the gene of a guide.
    seeds
        Seeds of training and draws, or their number.
    correction
        What is done to the cells of every embedding: ``"zca"`` (robust centring and scaling by the
        controls, then ZCA whitening), ``"pca"``, ``"joint"`` (one whitening for both modalities),
        ``"rcc"`` (no whitening) or ``"none"`` (PETRI, Table S1). Several are all scored.
    against
        Method that all others are compared with, paired.
    ceiling_of
        Method whose embedding gives the ceiling; None takes the best of all methods but the floors.
    folder
        Where embeddings and scores are kept. A cell that is there is not computed again, unless
        anything that it hangs on has changed. None keeps nothing.
    n_jobs
        Processes.
    keep_models
        Save the trained models beside their embeddings.
    progress
        Print a line per cell.
    **design
        What else all methods share: `modalities` (name of the roles ``"image"`` and ``"rna"``),
        `image_rep`, `rna_rep`, `rna_layer`, `rna_likelihood`, `crop`, `batch_key` (obs column of
        the batches that are corrected apart, or a dict by role), `background_key`, `drop_missing`;
        `hold_out` (share of the values of `hold_out_by`, by default of the targets, that no model
        sees, drawn for each seed; a whole number of folds, of which each seed holds out the next;
        an obs column whose ``"test"`` rows are held out; or a dict ``{column: label}``);
        `pair_key` (obs column of the pair, where cells were measured in both modalities: models
        and profiles see each pair from one side, drawn for each seed, and
        ``alignment(of="pairs")`` scores the pairs of held-out contexts); `n_genes` (how many
        genes are read, those with most counts in the cells that models see; None reads all).

    Returns
    -------
    Table, scores, comparisons, failures and one sentence; see :class:`cellfuse.bench.Benchmark`.

    Raises
    ------
    KeyError
        An unknown method, metric, option or column.
    FileExistsError
        `folder` holds something else than results.
    ValueError, TypeError
        An option that does not fit, a screen that cannot be scored.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(40, n_targets=8, cells_per_guide=6, seed=0)
    >>> result = cf.benchmark(
    ...     mdata,
    ...     ["PCA", "random"],
    ...     {"edges": {"edges": mdata.uns["edges"]}},
    ...     context_keys="guide",
    ...     image_rep="crops",
    ...     control_key="gene",
    ...     control="non-targeting",
    ...     target_key="gene",
    ...     seeds=1,
    ...     progress=False,
    ... )
    >>> result.table["method"].unique().tolist()
    ['PCA', 'random', 'ceiling']
    """
    chosen = _design(
        context_keys=context_keys,
        control=control,
        control_key=control_key,
        target_key=target_key,
        **design,
    )
    numbers = _seeds(seeds)
    corrections = _corrections(correction)
    scored = tuple(read_metrics(metrics))
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs < 1:
        raise ValueError(f"n_jobs={n_jobs!r}: expected a whole number of processes from 1.")
    say = _say if progress else _silent
    with ExitStack() as stack:
        kept = None if folder is None else check_results(folder)
        place = kept or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        first = _screen(mdata, chosen, numbers[0])
        rows = read_methods(methods, obsm=_obsm(first))
        ceilings = _ceilings(against, ceiling_of, rows)
        job = Job(chosen, corrections, scored, Store(place), ceilings, keep_models)
        with noted():
            check_metrics(job, first, numbers[0])
        with nullcontext() if kept is None else writing(kept, GO_ON):
            tasks = _run(mdata, job, rows, numbers, first, n_jobs=n_jobs, say=say)
        with noted():
            result = collect(
                job,
                tasks,
                first,
                against=against,
                folder=kept,
                config={
                    "design": chosen.as_json(),
                    "methods": {m.name: m.as_json() for m in rows},
                    "metrics": {m.name: m.as_json()["options"] for m in scored},
                    "seeds": numbers,
                    "correction": corrections,
                    "against": against,
                },
            )
        if kept is not None:
            with writing(kept, GO_ON):
                result.write(kept)
    for _, row in result.failures.drop_duplicates(["method", "metric", "why"]).iterrows():
        say(f"  {row['method']} {row['metric']}: {reason(row['why'])}")
    for note in notes_of(result.runs):
        say(f"  note: {note}")
    return result


def _run(
    source: Screens,
    job: Job,
    methods: list[Method],
    seeds: list[int],
    first: Screen,
    *,
    n_jobs: int,
    say: Callable[[str], None],
) -> list[Task]:
    """Embed, then score; a screen that is made for each seed is made once, and let go."""
    everything: list[Task] = []
    groups = [[seed] for seed in seeds] if callable(source) else [seeds]
    for group in groups:
        embeds, scores = [], []
        for seed in group:
            screen = first if seed == seeds[0] else _screen(source, job.design, seed)
            data = {"function": fingerprint(source)} if callable(source) else data_of(screen)
            to_embed, to_score = tasks_of(job, methods, screen, seed, data=data)
            embeds += [(task, screen) for task in to_embed]
            scores += [(task, screen) for task in to_score]
        run_tasks(job, embeds, n_jobs=n_jobs, say=say)
        run_tasks(job, scores, n_jobs=n_jobs, say=say)
        everything += [task for task, _ in scores]
    return everything


# -- arguments ------------------------------------------------------------------------------------


def _design(**given: Any) -> Design:
    known = [f.name for f in fields(Design)]
    for name in given:
        if name not in known:
            raise missing_key(name, known, what="the arguments of cf.benchmark")
    keys = given["context_keys"]
    given["context_keys"] = keys if isinstance(keys, str) else tuple(keys)
    if given["control"] is not None and given.get("control_key") is None:
        raise ValueError(
            f"control={given['control']!r} needs `control_key`, the obs column that holds it."
        )
    return Design(**given)


def _seeds(given: int | Iterable[int]) -> list[int]:
    seeds = list(range(given)) if isinstance(given, Integral) else list(given)  # type: ignore[call-overload,arg-type]
    wrong = [s for s in seeds if isinstance(s, bool) or not isinstance(s, Integral) or s < 0]
    if wrong or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"seeds={given!r}: expected whole numbers from 0, each once, or how many from 1."
        )
    return [int(seed) for seed in seeds]


def _corrections(given: str | Iterable[str]) -> tuple[str, ...]:
    found = (given,) if isinstance(given, str) else tuple(given)
    for name in found:
        if name not in CORRECTIONS:
            raise missing_key(name, CORRECTIONS, what="the corrections")
    if not found:
        raise ValueError("no correction was named; write correction='none' for raw embeddings.")
    return found


def _screen(source: Screens, design: Design, seed: int) -> Screen:
    return open_screen(source(seed) if callable(source) else source, design, seed=seed)


def _obsm(screen: Screen) -> set[str]:
    return {str(key) for adata in screen.mdata.mod.values() for key in adata.obsm}


def _ceilings(against: str | None, ceiling_of: str | None, methods: list[Method]) -> frozenset[str]:
    """Methods whose halves are looked at: the named one, or all but the floors."""
    names = [method.name for method in methods]
    for argument, name in (("against", against), ("ceiling_of", ceiling_of)):
        if name is not None and name not in names:
            raise missing_key(name, names, what=f"the methods (`{argument}`)")
    if ceiling_of is not None:
        return frozenset([ceiling_of])
    floors = ("random", "position")
    return frozenset(m.name for m in methods if m.sources.get("", _NONE).kind not in floors)


def _say(text: str) -> None:
    print(text, flush=True)


def _silent(text: str) -> None:
    pass
