"""How well a treatment is told from a sample's cells, by modality (PhenoSeq, A.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_key, context_labels, is_mudata, label_list
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json
from cellfuse._renamed import renamed
from cellfuse.tl._examples import Kind, Samples, samples_of, single_cells, standardised
from cellfuse.tl._folds import folds

if TYPE_CHECKING:
    from cellfuse.tl._head_training import Pools, Setting

__all__ = ["TABLE_6", "classify_treatments"]

#: Seeds of the paper (A.2).
SEEDS = (12345, 42, 1234, 99, 7)
#: Hidden width (image/RNA where there are two), depth, learning rate, weight decay: the ten
#: settings of the paper's Table 6, by input and profile (one mean of all cells, or of 32 drawn).
TABLE_6: dict[tuple[str, str], tuple[tuple[int, ...], int, float, float]] = {
    ("image", "single"): ((512,), 5, 1e-3, 1e-4),
    ("rna", "single"): ((3934,), 3, 1.49e-4, 9.24e-5),
    ("synthetic", "single"): ((3934,), 3, 1.49e-4, 9.24e-5),
    ("image+rna", "single"): ((266, 2748), 3, 1.37e-5, 4.52e-5),
    ("image+synthetic", "single"): ((266, 2748), 3, 1.37e-5, 4.52e-5),
    ("image", "multi"): ((279,), 2, 5.20e-5, 5.79e-3),
    ("rna", "multi"): ((1922,), 4, 1.63e-4, 1.90e-6),
    ("synthetic", "multi"): ((1922,), 4, 1.63e-4, 1.90e-6),
    ("image+rna", "multi"): ((266, 2748), 3, 1.63e-4, 4.52e-5),
    ("image+synthetic", "multi"): ((266, 2748), 3, 1.63e-4, 4.52e-5),
}
METRICS = ("balanced_accuracy", "macro_f1", "weighted_f1")


@renamed(target="by", validation="val", repeats="n_draws")
@whole_counts
def classify_treatments(
    data: MuData,
    by: str,
    inputs: Sequence[Sequence[str]] = (("image",), ("rna",), ("image", "rna")),
    *,
    split_key: str,
    sample_key: str | list[str] | None = None,
    control: str | list[str] | None = None,
    use_rep: str | None | Mapping[str, str | None] = None,
    examples: Kind = "samples",
    n_cells: int | None = None,
    train: str | Sequence[str] = "train",
    val: str | Sequence[str] = "val",
    test: Mapping[str, str | Sequence[str]] | None = None,
    cross_validate: Sequence[str] | None = None,
    seeds: Sequence[int] = SEEDS,
    setting: Literal["paper", "small"] | Mapping[str, Any] = "paper",
    batch_size: int = 4096,
    max_epochs: int = 100,
    patience: int = 25,
    n_draws: int = 1,
    key_added: str = "classify_treatments",
) -> pd.DataFrame:
    """Train classifiers of the treatment on each input, and test them on held-out replicates.

    One modality is read by an MLP, several by an MLP each whose outputs are joined (DualMLP).
    An example is the mean of a sample's cells, or a single cell, standardised by the training
    cells; the modalities' cells are drawn independently within the sample. AdamW, cross-entropy,
    gradient clip 0.5; the weights with the best balanced accuracy on validation are tested.

    Parameters
    ----------
    data
        MuData with the modalities of `inputs`; synthetic RNA is one of them, such as
        ``"synthetic"``.
    by
        obs column of the treatment.
    inputs
        Modalities that a classifier reads, for each classifier.
    split_key
        obs column of the replicate or split.
    sample_key
        obs column or columns of the sample, the same labels in all modalities: cells are averaged
        within it. None: all cells of a treatment under one split label are a sample, so that with
        the replicate as `split_key` a sample is a treatment in a replicate, as in the paper.
    control
        Label or labels of `by` that are no class (DMSO in the paper); None if there are none.
        A modality, such as synthetic RNA, may lack them.
    use_rep
        obsm key of the embedding; None is ``X``; or one for each modality.
    examples
        ``"samples"``, one example for each, or ``"cells"``: each cell of an input's first modality
        is an example, with a cell of every other modality drawn from its sample whenever it is
        shown. The paper describes its "single profile" (Table 1) as the mean of all cells, yet its
        numbers are none that 28 means per replicate and five seeds can give (multiples of 1/140):
        they are of single cells, as in the benchmark that it repeats. Table 2's are of samples.
    n_cells
        With samples. None: the mean of all cells. A number (32 in the paper): so many are drawn in
        every pass, with replacement only where a sample has fewer ("multi profile").
    train, val
        Labels of `split_key` to learn from and to stop by, one or several.
    test
        Test sets by name, each of one or several labels: ``{"WE": "4", "HE": ["1", "2"]}`` pools
        the two replicates of the held-out experiment, as the paper does. Labels that are in no set
        are left out. None: every other label is a test set of its own.
    cross_validate
        Replicate labels that take turns instead: one is tested on (``"held out"`` in the table),
        the next one validates, the rest trains. Labels not among them are test sets in every
        fold. The paper does so with replicates 3, 4, 5 and one seed.
    seeds
        Seeds of weights and draws (the paper's five).
    setting
        ``"paper"``: Table 6. ``"small"``: hidden 64, depth 1, learning rate 1e-3, for few
        samples. A dict with any of ``hidden``, ``depth``, ``lr``, ``weight_decay``, ``width``
        replaces those of ``"small"``. In Table 6 a modality named ``"image"`` is read as images,
        any other as RNA.
    batch_size, max_epochs, patience
        4,096, 100 and 25 (paper).
    n_draws
        Times that each sample is shown in an epoch, with fresh draws of its cells. With few
        samples an epoch is a single step, and Table 6's small learning rates hardly learn: a
        smaller `batch_size` and more draws give more steps.
    key_added
        Key of ``data.uns`` under which the table is kept.

    Returns
    -------
    One row per input and test set: ``balanced_accuracy``, ``macro_f1``, ``weighted_f1`` (means
    over seeds and folds), each with its ``_sd`` (over runs, n - 1), ``gap_recovered`` (balanced
    accuracy above the image's, as a share of what ``image+rna`` has above it), ``n_samples``
    (examples), ``n_classes``, ``chance``, ``n_runs`` and ``accuracy`` (micro: the share of
    examples, where the balanced one is the mean over classes). ``attrs["runs"]`` has every single
    run, as records. ``data.uns[key_added]`` keeps it as ``"table"``, beside ``"runs"``,
    ``"params"``, ``"confusion"`` (``input``, ``test``, ``label``, ``predicted``, ``n`` over all
    runs), which :func:`cellfuse.pl.confusion` draws, and of samples ``"predictions"``.

    Raises
    ------
    KeyError
        A modality, column or label is missing.
    ValueError
        A sample with several treatments or splits, a test treatment that was not trained on, fewer
        than two classes, NaN, features that are all constant, numbers out of range.

    Examples
    --------
    >>> import anndata as ad, mudata as md, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> drug = np.repeat(["a", "b"], 30)
    >>> obs = pd.DataFrame({"drug": drug, "rep": np.tile(["train", "val", "new"], 20)})
    >>> obs.index = [f"cell{i}" for i in range(60)]
    >>> x = rng.normal(size=(60, 3)) + (drug == "a")[:, None]
    >>> mdata = md.MuData({"image": ad.AnnData(x, obs=obs)})
    >>> table = cf.tl.classify_treatments(
    ...     mdata, "drug", [["image"]], split_key="rep", setting="small", seeds=[0]
    ... )
    >>> table[["input", "test", "balanced_accuracy"]].values.tolist()
    [['image', 'new', 1.0]]
    """
    if examples not in get_args(Kind):
        raise ValueError(f"examples={examples!r}: choose one of {list(get_args(Kind))}.")
    if examples == "cells" and n_cells is not None:
        raise ValueError(
            f"n_cells={n_cells} draws cells of samples; with examples='cells' each is one cell."
        )
    _check_arguments(
        data,
        inputs,
        seeds,
        n_cells=n_cells,
        batch_size=batch_size,
        max_epochs=max_epochs,
        patience=patience,
        n_draws=n_draws,
    )
    controls = _controls(data, inputs, by, control)
    check_key(key_added)
    runs: list[dict[str, Any]] = []
    decisions: list[pd.DataFrame] = []
    for names in inputs:
        samples = samples_of(data, names, by, split_key, sample_key, controls, use_rep)
        if examples == "cells":
            samples = single_cells(samples)
        label = "+".join(names)
        turns = folds(samples.split, train, val, cross_validate, split_key, test=test)
        for fold, parts in enumerate(turns):
            _check_parts(samples, parts, label)
            chosen = _setting(setting, names, "single" if n_cells is None else "multi")
            pools = [standardised(pool, parts["train"], label) for pool in samples.pools]
            for seed in seeds:
                found = _one_run(
                    samples,
                    pools,
                    parts,
                    {"input": label, "fold": fold, "seed": int(seed)},
                    setting=chosen,
                    n_cells=n_cells,
                    seed=int(seed),
                    batch_size=batch_size,
                    max_epochs=max_epochs,
                    patience=patience,
                    n_draws=n_draws,
                )
                runs += found[0]
                decisions += found[1]
    table = _table(pd.DataFrame(runs))
    table.attrs["runs"] = runs
    data.uns[key_added] = {
        "table": table.copy(),
        "runs": pd.DataFrame(runs),
        "confusion": _confusion(decisions),
        "params": {
            "by": by,
            "split_key": split_key,
            "control": as_json(controls),
            "examples": examples,
            "n_cells": n_cells or "all",
            "test": as_json(dict(test or {})),
            "seeds": [int(seed) for seed in seeds],
            "n_draws": n_draws,
        },
    }
    if examples == "samples":
        data.uns[key_added]["predictions"] = pd.concat(decisions, ignore_index=True)
    return table


def _confusion(decisions: list[pd.DataFrame]) -> pd.DataFrame:
    columns = ["input", "test", "label", "predicted"]
    counts = [part.groupby(columns, sort=False, observed=True).size() for part in decisions]
    total = pd.concat(counts).groupby(columns, sort=False, observed=True).sum()
    return total.rename("n").astype(float).reset_index()


def _check_arguments(
    data: MuData,
    inputs: Sequence[Sequence[str]],
    seeds: Sequence[int],
    **counts: int | None,
) -> None:
    if not is_mudata(data):
        raise TypeError("expected a MuData with the modalities of `inputs`, found an AnnData.")
    if isinstance(inputs, str) or not len(inputs) or any(isinstance(i, str) for i in inputs):
        raise ValueError(
            f"inputs={inputs!r}: expected modalities for each classifier, such as "
            "[('image',), ('image', 'rna')]."
        )
    for names in inputs:
        if not len(names):
            raise ValueError("an input names no modality; each classifier reads at least one.")
        for name in names:
            if name not in data.mod:
                raise missing_key(name, list(data.mod), what="the MuData's modalities")
    if np.ndim(seeds) == 0 or not len(seeds):
        raise ValueError(f"seeds={seeds!r}: expected one or several numbers, such as [0, 1].")
    # A run that is counted twice would make the standard deviation over runs too small.
    for what, given in (("inputs", [tuple(names) for names in inputs]), ("seeds", list(seeds))):
        if len(set(given)) < len(given):
            raise ValueError(f"{what}={given!r} names one of them twice.")
    for name, value in counts.items():
        if value is not None and (int(value) != value or value < 1):
            raise ValueError(f"{name} must be a whole number, at least 1; found {value}.")


def _controls(
    data: MuData,
    inputs: Sequence[Sequence[str]],
    by: str,
    control: str | list[str] | None,
) -> list[str]:
    """Labels that are no class, each of which some modality has: synthetic RNA may lack them."""
    if control is None:
        return []
    labels = label_list(control)
    found: set[str] = set()
    for name in {name for names in inputs for name in names}:
        found |= set(context_labels(data.mod[name], by, modality=name))
    for label in labels:
        if label not in found:
            raise missing_key(label, sorted(found), what=f"obs[{by!r}]")
    return labels


def _check_parts(samples: Samples, parts: Mapping[str, NDArray], label: str) -> None:
    if len(parts) < 3:
        raise ValueError(
            "every sample is for training or validation: no split label is left to test on."
        )
    trained = set(samples.codes[parts["train"]])
    for name, rows in parts.items():
        new = sorted(set(samples.codes[rows]) - trained)
        if new:
            raise ValueError(
                f"input {label!r}: {len(new)} treatments of {name!r} have no training sample and "
                f"cannot be told: {listing(samples.classes[new], 5)}. Leave them out."
            )


def _setting(
    setting: Literal["paper", "small"] | Mapping[str, Any], names: Sequence[str], profile: str
) -> Setting:
    from cellfuse.tl._head_training import Setting

    small = {"hidden": 64, "depth": 1, "lr": 1e-3, "weight_decay": 1e-4, "width": 64}
    if setting == "paper":
        kinds = ["image" if name == "image" else "rna" for name in names]
        key = ("+".join(kinds), profile)
        if key not in TABLE_6:
            raise ValueError(
                f"Table 6 has no setting for the input {'+'.join(names)!r}; give `setting`."
            )
        return Setting(*TABLE_6[key])
    given = {} if setting == "small" else setting
    if not isinstance(given, Mapping):
        raise ValueError(f"setting={setting!r}: expected 'paper', 'small' or a dict.")
    for name in given:
        if name not in small:
            raise missing_key(name, list(small), what="what a `setting` can hold")
    merged = {**small, **given}
    hidden = merged.pop("hidden")
    widths = (hidden,) * len(names) if isinstance(hidden, int) else tuple(hidden)
    if len(widths) != len(names):
        raise ValueError(f"hidden={hidden!r}: expected one width, or one for each of {names!r}.")
    if min(widths) < 1 or merged["width"] < 1 or merged["depth"] < 0:
        raise ValueError(f"setting={setting!r}: expected widths from 1 and a depth from 0.")
    return Setting(hidden=widths, **merged)


def _one_run(
    samples: Samples,
    pools: list[Pools],
    parts: dict[str, NDArray],
    notes: dict[str, Any],
    **given: Any,
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    """Train once; one record, and the decisions, for each test set."""
    from sklearn.metrics import f1_score

    from cellfuse.tl._head_training import balanced_accuracy, train_head

    predicted = train_head(pools, samples.codes, parts, n_classes=len(samples.classes), **given)
    records, decisions = [], []
    for name, found in predicted.items():
        if name in ("train", "val"):
            continue
        truth = samples.codes[parts[name]]
        f1 = {
            f"{kind}_f1": float(f1_score(truth, found, average=kind, zero_division=0))
            for kind in ("macro", "weighted")
        }
        score = {"balanced_accuracy": balanced_accuracy(truth, found), **f1}
        score["accuracy"] = float((truth == found).mean())
        sizes = {"n_samples": len(truth), "n_classes": len(samples.classes)}
        records.append({**notes, "test": name, **score, **sizes})
        decisions.append(
            pd.DataFrame(
                {
                    **notes,
                    "test": name,
                    "sample": samples.names[parts[name]],
                    "label": samples.classes.to_numpy(object)[truth],
                    "predicted": samples.classes.to_numpy(object)[found],
                }
            )
        )
    return records, decisions


def _table(runs: pd.DataFrame) -> pd.DataFrame:
    groups = runs.groupby(["input", "test"], sort=False)
    table = groups[list(METRICS)].mean()
    for name in METRICS:
        table[f"{name}_sd"] = groups[name].std()
    accuracy = groups["accuracy"].mean()
    table["n_samples"] = groups["n_samples"].mean()
    table["n_classes"] = groups["n_classes"].first()
    table["chance"] = 1 / table["n_classes"]
    table["n_runs"] = groups.size()
    table["accuracy"] = accuracy
    table = table.reset_index()
    by = table.set_index(["input", "test"])["balanced_accuracy"]
    ends = {
        name: np.array([by.get((name, test), np.nan) for test in table["test"]], dtype=float)
        for name in ("image", "image+rna")
    }
    scores = table["balanced_accuracy"].to_numpy(dtype=float)
    table.insert(5, "gap_recovered", gap_recovered(scores, ends["image"], ends["image+rna"]))
    return table


def gap_recovered(score: NDArray, image: NDArray, ceiling: NDArray) -> NDArray:
    """Share of what the real second modality adds to images that `score` has of it."""
    gap = np.asarray(ceiling - image, dtype=np.float64)
    return (score - image) / np.where(gap == 0, np.nan, gap)
