"""What each metric does with a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

import cellfuse
from cellfuse import tl
from cellfuse._access import context_labels, representation
from cellfuse._errors import missing_key
from cellfuse._mudata import make_mudata
from cellfuse.bench._views import REP, View

__all__ = [
    "Scores",
    "Value",
    "classification",
    "concepts",
    "edges",
    "fidelity",
    "guide_consistency",
    "mean_average_precision",
    "relationship_recall",
    "target_discovery",
    "transfer",
]

NAN = float("nan")
#: Bootstrap replicates of the intervals within a seed.
N_BOOT = 1000


class Value(NamedTuple):
    """A number, the ends of its interval, what chance gives, and of how many things it is.

    Examples
    --------
    >>> from cellfuse.bench import Value
    >>> Value(0.3, low=0.2, high=0.4, chance=0.05, n=300).chance
    0.05
    """

    value: float
    low: float = NAN
    high: float = NAN
    chance: float = NAN
    n: float = NAN


@dataclass(frozen=True)
class Scores:
    """What a metric gives: values by name, and a row per target or pair for paired comparisons.

    Examples
    --------
    A metric of one's own, with the share of contexts above 0 and the number of each context, by
    which methods are compared in pairs:

    >>> import pandas as pd
    >>> from cellfuse.bench import Scores, Value
    >>> def first_axis(view):
    ...     units = pd.DataFrame({"first": view.guides.X[:, 0]}, index=view.guides.obs_names)
    ...     share = float((units["first"] > 0).mean())
    ...     return Scores({"share": Value(share, chance=0.5, n=len(units))}, units, of="first")
    """

    values: dict[str, Value]
    units: pd.DataFrame | None = None
    #: Column of `units` that is compared.
    of: str = ""


# -- do profiles of a target agree, do known pairs stand out --------------------------------------


def guide_consistency(view: View, *, n_null: int = 10_000, n_boot: int = N_BOOT) -> Scores:
    """Share of targets whose profiles agree (PETRI, 3.5)."""
    table = tl.guide_consistency(
        view.tested(view.guides),
        target_key=view.target_key,
        control=None,
        background_key=view.design.background_key,
        use_sim=view.use_sim,
        n_null=n_null,
        n_boot=n_boot,
        seed=view.seed,
    )
    known, n = table.attrs, float(table["pvalue"].notna().sum())
    return Scores(
        {
            "consistent": _with_ends(known, "share_significant", chance=0.0, n=n),
            "similarity": _with_ends(
                known, "mean_similarity", chance=float(table["null_mean"].mean()), n=n
            ),
        },
        table,
        "significant",
    )


def edges(
    view: View,
    *,
    edges: pd.DataFrame | str,
    score_threshold: float = 0.95,
    fpr: float = 0.05,
    n_boot: int = N_BOOT,
) -> Scores:
    """Known pairs of targets against pairs without an edge (PETRI, 3.5)."""
    genes = _targets(view)
    options: dict[str, Any] = {
        "gene_key": None if view.design.background_key is None else view.target_key,
        "background_key": view.design.background_key,
        "score_threshold": score_threshold,
        "fpr": fpr,
        "use_sim": view.use_sim,
        "seed": view.seed,
    }
    known = _table(edges, view) if view.pairs is None else view.pairs
    row = tl.edge_classification(genes, known, n_boot=n_boot, **options).iloc[-1]
    pairs = None
    if view.pairs is None:
        pairs = tl.edge_classification(genes, known, per_pair=True, n_boot=0, **options)
    n = float(row["n_edges"])
    return Scores(
        {
            "tpr": _with_ends(row, "tpr", chance=fpr, n=n),
            "auc": _with_ends(row, "auc", chance=0.5, n=n),
        },
        pairs,
        "hit",
    )


def relationship_recall(
    view: View,
    *,
    pairs: pd.DataFrame | Mapping[str, pd.DataFrame] | str,
    tails: tuple[float, float] = (0.05, 0.95),
    n_boot: int = N_BOOT,
) -> Scores:
    """Share of known pairs among the most or least similar ones (EFAAR)."""
    genes = _targets(view)
    options: dict[str, Any] = {"tails": tuple(tails), "use_sim": view.use_sim, "seed": view.seed}
    known = _table(pairs, view) if view.pairs is None else view.pairs
    table = tl.relationship_recall(genes, known, n_boot=n_boot, **options)
    units = None
    if view.pairs is None:
        units = tl.relationship_recall(genes, known, per_pair=True, n_boot=0, **options)
    several = len(table) > 1
    values = {}
    for name, row in table.iterrows():
        label = f"recall {name}" if several else "recall"
        values[label] = _with_ends(row, "recall", chance=row["chance"], n=row["n_pairs"])
    if several:
        values = {
            "recall": Value(float(table["recall"].mean()), chance=float(table["chance"].iloc[0]))
        } | values
    return Scores(values, units, "hit")


def mean_average_precision(
    view: View, *, n_null: int = 10_000, n_boot: int = N_BOOT, **options: Any
) -> Scores:
    """Whether profiles of a target find one another among all others (copairs)."""
    tested = view.tested(view.guides)
    options = {"by": view.target_key, **options}
    table = tl.mean_average_precision(
        tested, use_sim=view.use_sim, n_null=n_null, n_boot=n_boot, seed=view.seed, **options
    )
    n = float(len(table))
    known = {**table.attrs, "map": float(table["map"].mean())}
    values = {"map": _with_ends(known, "map", chance=_mean_of(table, "null_mean"), n=n)}
    if "significant" in table:
        values["significant"] = Value(float(table["significant"].mean()), chance=0.0, n=n)
    return Scores(values, table, "map")


def transfer(
    view: View,
    *,
    k: Sequence[int] = (1, 5),
    level: Literal["profiles", "cells"] = "profiles",
    n_draws: int = 50,
    n_boot: int = N_BOOT,
    **options: Any,
) -> Scores:
    """One-shot transfer to held-out targets (TIDE, task 1), of profiles or of cells."""
    if level == "cells" and view.name not in view.roles:
        return Scores({})  # cells are of one modality
    examples = _examples(view, level)
    table = tl.one_shot_transfer(
        examples,
        use_rep=None,
        by=view.target_key,
        k=list(k),
        n_draws=n_draws,
        n_boot=n_boot,
        seed=view.seed,
        **options,
    )
    return Scores(
        {
            f"top{place}": _with_ends(row, "accuracy", chance=row["chance"], n=row["n_classes"])
            for place, row in table.iterrows()
        }
    )


def _examples(view: View, level: str) -> AnnData:
    """Profiles or cells of targets that no model saw."""
    if level == "profiles":
        if view.use_sim is not None:
            raise ValueError("transfer compares embeddings; this fusion has similarities alone.")
        return view.unseen(view.tested(view.guides))
    if level != "cells":
        raise missing_key(level, ["profiles", "cells"], what="the levels of transfer")
    adata = view.cells.mod[view.roles[view.name]]
    adata = AnnData(np.asarray(adata.obsm[REP]), obs=adata.obs.copy())
    tested = view.tested(adata)
    if view.held_out:
        labels = context_labels(tested, view.design.contexts)
        tested = tested[labels.isin(view.held_out).to_numpy()].copy()
    return tested


def target_discovery(
    view: View,
    *,
    targets: pd.DataFrame | str,
    kind_key: str,
    compound: str = "compound",
    gene: str = "gene",
    dose_key: str | None = None,
    n_draws: int = 100,
    k: int = 5,
    negatives: Literal["sampled", "all"] = "sampled",
    n_boot: int = N_BOOT,
) -> Scores:
    """Rank a compound's known targets by the similarity of their knock-outs (TIDE, task 2).

    `kind_key` is the obs column that says which contexts are compounds and which genes.
    """
    profiles = view.tested(view.guides)
    kind = context_labels(profiles, kind_key)
    sides = []
    for label in (compound, gene):
        if label not in set(kind):
            raise missing_key(label, sorted(set(kind)), what=f"obs[{kind_key!r}]")
        sides.append(profiles[(kind == label).to_numpy()].copy())
    table = tl.target_discovery(
        sides[0],
        sides[1],
        _table(targets, view),
        compound_key=view.target_key,
        gene_key=view.target_key,
        dose_key=dose_key,
        n_draws=n_draws,
        k=k,
        negatives=negatives,
        n_boot=n_boot,
        seed=view.seed,
    )
    row = table.iloc[-1]
    n = float(row["n_compounds"])
    return Scores(
        {
            name: _with_ends(row, name, chance=row[f"{name}_chance"], n=n)
            for name in ("ap", "auc", "hit")
        }
    )


# -- do the two modalities meet -------------------------------------------------------------------


def fidelity(view: View, *, by: str | None = None, n_boot: int = N_BOOT) -> Scores:
    """Whether a drawn profile finds its own context among the real ones (PhenoSeq, A.3)."""
    if view.synthetic is None:
        raise ValueError("this method draws no profiles of expression.")
    real, drawn = _measured(view, "rna"), view.synthetic.copy()
    for adata in (real, drawn):
        adata.obs["context"] = context_labels(adata, by or view.design.contexts).to_numpy()
    if view.held_out and by is None:
        drawn = drawn[drawn.obs["context"].isin(view.held_out).to_numpy()].copy()
    drawn = drawn[drawn.obs["context"].isin(set(real.obs["context"])).to_numpy()].copy()
    table = tl.fidelity(real, drawn, "context", use_rep=(REP, "X"), n_boot=n_boot, seed=view.seed)
    known = table.attrs["summary"]
    n = float(known["n_ranked"])
    return Scores(
        {
            "mrr": _with_ends(known, "mrr", chance=known["chance_mrr"], n=n),
            "top1": _with_ends(known, "accuracy_at_1", chance=known["chance_accuracy_at_1"], n=n),
            "specificity": Value(float(table["specificity"].mean()), chance=0.0, n=n),
        },
        table,
        "specificity",
    )


def classification(
    view: View,
    *,
    split_key: str,
    inputs: Sequence[Sequence[str]] = (("image",), ("rna",), ("image", "rna")),
    **options: Any,
) -> Scores:
    """Classifiers of the treatment on each input, tested on held-out replicates (PhenoSeq, 3.2)."""
    if view.synthetic is None:
        parts = {role: view.cells.mod[name] for role, name in view.roles.items()}
    else:
        drawn = view.synthetic
        parts = {role: _measured(view, role) for role in view.screen.roles}
        parts["synthetic"] = AnnData(
            obs=drawn.obs.set_axis([f"synthetic-{i}" for i in range(drawn.n_obs)]),
            obsm={REP: np.asarray(drawn.X)},
        )
    usable = [list(chosen) for chosen in inputs if set(chosen) <= set(parts)]
    table = tl.classify_treatments(
        make_mudata(parts), view.target_key, usable, split_key=split_key, use_rep=REP,
        **{"seeds": (view.seed,), **options},
    )  # fmt: skip
    values = {}
    for label, row in table.reset_index().iterrows():
        names = [str(row[c]) for c in ("input", "test") if c in row]
        values[" ".join(names) or str(label)] = Value(
            float(row["balanced_accuracy"]), chance=float(row["chance"]), n=float(row["n_samples"])
        )
    return Scores(values)


def concepts(
    view: View,
    *,
    low: float = 0.1,
    high: float = 0.9,
    train: Mapping[str, Any] | None = None,
    **options: Any,
) -> Scores:
    """Concepts of a sparse dictionary that cells of both modalities have (PETRI, 4.3)."""
    if len(view.roles) != 2:
        raise ValueError(f"multimodal concepts need two modalities; found {list(view.roles)}.")
    cells = make_mudata(
        {role: AnnData(obsm={REP: view.cells.mod[n].obsm[REP]}) for role, n in view.roles.items()}
    )
    for role, name in view.roles.items():
        cells.mod[role].obs_names = view.cells.mod[name].obs_names
    cellfuse.Concepts.setup_mudata(cells, use_rep=REP)
    model = cellfuse.Concepts(cells, seed=view.seed, **options)
    model.train(**{"enable_progress_bar": False, **(train or {})})
    for role in view.roles:
        cells.mod[role].obsm["X_concepts"] = model.get_activations(modality=role)
    table = tl.multimodal_concepts(cells, low=low, high=high)
    n = float(len(table))
    return Scores({"multimodal": Value(float(table["multimodal"].sum()), chance=0.0, n=n)})


# -- helpers --------------------------------------------------------------------------------------


def _table(given: Any, view: View) -> Any:
    """A table as it was given, or ``"uns:key"`` of the screen, which may be another by seed."""
    if not isinstance(given, str):
        return given
    key = given.removeprefix("uns:")
    if key not in view.screen.mdata.uns or not given.startswith("uns:"):
        raise missing_key(
            key,
            list(view.screen.mdata.uns),
            what="uns of the screen",
            fix="Give a table, or 'uns:' and the key of one.",
        )
    return view.screen.mdata.uns[key]


def _targets(view: View) -> AnnData:
    if view.genes is None:
        raise ValueError("this metric needs targets: name their obs column (`target_key`).")
    return view.tested(view.genes)


def _measured(view: View, role: str) -> AnnData:
    """The cells of a modality with the embedding that models read, as it came."""
    design = view.design
    name = view.screen.roles[role]
    key = design.image_rep if role == "image" else design.rna_rep
    values = representation(view.screen.mdata.mod[name], key, modality=name)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return AnnData(obs=view.screen.tables[name].copy(), obsm={REP: dense})


def _with_ends(known: Any, name: str, *, chance: float, n: float) -> Value:
    """A figure with the ends that stand beside it under ``<name>_low`` and ``<name>_high``."""
    low, high = (
        known[f"{name}_{end}"] if f"{name}_{end}" in known else NAN for end in ("low", "high")
    )
    return Value(float(known[name]), float(low), float(high), float(chance), float(n))


def _mean_of(table: pd.DataFrame, column: str) -> float:
    return float(table[column].mean()) if column in table else NAN
