"""Whether an embedding knows classes it was not trained on: one-shot transfer and neighbours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    check_key,
    column_list,
    context_labels,
    control_labels,
    control_mask,
    profiles_only,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json
from cellfuse._renamed import renamed
from cellfuse.kernels.bootstrap import draw_nodes, interval
from cellfuse.tl._confusion import confusion_of
from cellfuse.tl._intervals import crossed_intervals, mean_present
from cellfuse.tl._labels import require_labels
from cellfuse.tl._nearest import (
    Profiles,
    Votes,
    draw_references,
    neighbour_votes,
    reference_hits,
)
from cellfuse.tl._units import unit_profiles

__all__ = ["knn_accuracy", "one_shot_transfer"]

logger = logging.getLogger("cellfuse")


@renamed(target="by", n_runs="n_draws")
@whole_counts
def one_shot_transfer(
    adata: AnnData,
    *,
    use_rep: str | None,
    by: str,
    n_draws: int = 50,
    k: int | Sequence[int] = (1, 5),
    control: str | list[str] | None = None,
    group_key: str | list[str] | None = None,
    n_boot: int = 1000,
    key_added: str = "one_shot_transfer",
    seed: int = 0,
) -> pd.DataFrame:
    """Find each profile's class from one labelled example of every class (TIDE, task 1).

    In each run one profile of every class is drawn as its reference; all others are compared with
    the references by cosine. A profile is a hit when the reference of its own class is among the
    `k` nearest. Give the profiles of classes that no training has seen. The accuracy is the mean
    over runs and classes: a class counts alike whatever its size. References that are equally
    near share the places they compete for, so no result hangs on the order of the rows.

    Parameters
    ----------
    adata
        Profiles or cells.
    use_rep
        obsm key of the embedding; None is ``X``.
    by
        obs column with the class (gene, compound).
    n_draws
        Draws of references, 50 as in the paper.
    k
        Numbers of nearest references, 1 and 5 as in the paper.
    control
        Label or labels in `by` to leave out.
    group_key
        obs column or columns (well, plate) that must all differ: references that share one of them
        with a profile do not compete for it, and a profile that shares one with its own reference
        is not asked in that run. Where the replicates
        of a class are spread over plates, the figure is unfair without it: what a profile has in
        common with its plate points at other classes' references more often than at its own.
    n_boot
        Bootstrap replicates, over runs and classes, of the 95% intervals; 0 for none.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table, whatever the order of the rows.

    Returns
    -------
    One row per `k` (index ``k``): ``accuracy``, ``accuracy_low``, ``accuracy_high``, ``chance``
    (k over the references that compete), ``n_classes``, ``n_queries`` (mean per run).

    ``adata.uns[key_added]`` keeps it as ``"table"``, beside ``"classes"`` (the accuracy
    of each class) and ``"params"``.

    Raises
    ------
    KeyError
        A column or the control label is absent.
    ValueError
        NaN or infinite values, a profile of zeros, fewer than two classes, or no class with a
        profile to ask for.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.repeat(np.eye(4), 3, axis=0) + 0.01
    >>> obs = pd.DataFrame({"gene": np.repeat(list("ABCD"), 3)}, index=[f"p{i}" for i in range(12)])
    >>> table = cf.tl.one_shot_transfer(ad.AnnData(x, obs=obs), use_rep=None, by="gene", k=(1, 2))
    >>> table[["accuracy", "chance"]].to_numpy().tolist()
    [[1.0, 0.25], [1.0, 0.5]]
    """
    adata = profiles_only(adata)
    check_key(key_added)
    ks = sorted(set(np.atleast_1d(k).tolist()))
    profiles = _read(adata, use_rep, by, control, group_key)
    n_classes = len(profiles.classes)
    if n_classes < 2:
        raise ValueError(
            f"obs[{by!r}] holds one class, {listing(profiles.classes)}: there is nothing to "
            "tell it from."
        )
    references = draw_references(profiles, n_draws, seed)
    hits, by_chance, asked = reference_hits(profiles, references, ks)
    if not asked.any():
        what = f" in another {group_key!r} than their reference" if group_key else ""
        raise ValueError(
            f"no class in obs[{by!r}] has a second profile{what}: found {len(profiles.rows)} "
            f"profiles of {n_classes} classes. Give cells or replicates, not one row per class."
        )
    with np.errstate(invalid="ignore"):
        rates, chance = hits / asked, by_chance / asked  # NaN where a class was not asked for
    ends = crossed_intervals(rates, n_boot=n_boot, seed=seed)
    rows = []
    for position in range(len(ks)):
        rows.append(
            {
                "accuracy": mean_present(rates[position]),
                "accuracy_low": ends[position, 0],
                "accuracy_high": ends[position, 1],
                "chance": mean_present(chance[position]),
                "n_classes": n_classes,
                "n_queries": float(asked.sum(axis=1).mean()),
            }
        )
    table = pd.DataFrame(rows, index=pd.Index(ks, name="k"))
    adata.uns[key_added] = {
        "table": table.copy(),
        "classes": _by_class(profiles.classes, rates, [f"top_{n}" for n in ks]),
        "params": _params(use_rep, by, control, group_key, seed) | {"n_draws": n_draws},
    }
    logger.info(
        "one_shot_transfer: top-%d accuracy %.3f over %d classes (chance %.3f).",
        ks[0],
        table["accuracy"].iloc[0],
        n_classes,
        table["chance"].iloc[0],
    )
    return table


@renamed(target="by")
@whole_counts
def knn_accuracy(
    adata: AnnData,
    *,
    use_rep: str | None,
    by: str,
    k: int = 20,
    split_key: str | None = None,
    train: str | list[str] = "train",
    test: str | list[str] = "test",
    control: str | list[str] | None = None,
    group_key: str | list[str] | None = None,
    n_boot: int = 1000,
    key_added: str = "knn_accuracy",
    seed: int = 0,
) -> pd.DataFrame:
    """Classify profiles by the vote of their k nearest neighbours in cosine.

    TIDE chooses its checkpoint by this figure, at k = 20, on ten held-out images per perturbation.
    ``accuracy`` is the mean over classes (macro), ``accuracy_micro`` that over profiles. Neighbours
    that are equally far share the last places, and classes with equally many votes share the
    decision: no result hangs on the order of rows.

    Parameters
    ----------
    adata
        Profiles or cells.
    use_rep
        obsm key of the embedding; None is ``X``.
    by
        obs column with the class.
    k
        Neighbours, cut to what there is.
    split_key
        obs column with the split (see :func:`split`): profiles labelled `test` are asked, those
        labelled `train` are their neighbours. None: each profile is asked among all others.
    train, test
        Label or labels in `split_key`.
    control
        Label or labels in `by` to leave out.
    group_key
        obs column or columns (well, plate) that must all differ: a neighbour that shares one of
        them with the profile does not count. (``["compound", "batch"]`` for mechanisms of action
        is not-same-compound-or-batch matching.)
    n_boot
        Bootstrap replicates, over classes, of the 95% intervals; 0 for none.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same interval.

    Returns
    -------
    One row (index ``k``): ``accuracy`` and ``accuracy_micro``, each with its ``_low`` and
    ``_high``, ``chance`` (one over the classes among the neighbours), ``n_classes`` (classes asked
    for), ``n_queries``.

    ``adata.uns[key_added]`` keeps it as ``"table"``, beside ``"classes"`` (the accuracy of each),
    ``"predictions"`` (one row per profile asked: ``label``, ``predicted``, of tied classes the
    first by name, ``n_tied``, and ``credit``, the share of the decision that is right),
    ``"confusion"`` (``label``, ``predicted``, ``n``, ties shared), which
    :func:`cellfuse.pl.confusion` draws, and ``"params"``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values, a profile of zeros, one class only, or no neighbour to ask.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> x = np.repeat(np.eye(2), 4, axis=0) + 0.01
    >>> obs = pd.DataFrame({"gene": np.repeat(["A", "B"], 4)}, index=[f"p{i}" for i in range(8)])
    >>> table = cf.tl.knn_accuracy(ad.AnnData(x, obs=obs), use_rep=None, by="gene", k=3)
    >>> float(table["accuracy"].iloc[0])
    1.0
    """
    adata = profiles_only(adata)
    check_key(key_added)
    profiles = _read(adata, use_rep, by, control, group_key)
    everyone = np.arange(len(profiles.rows))
    asked, known = everyone, everyone
    if split_key is not None:
        split = context_labels(adata, split_key, missing=True).to_numpy(object)[profiles.rows]
        parts = control_labels(train, name="train"), control_labels(test, name="test")
        for label in parts[0] + parts[1]:
            if label not in split:
                raise missing_key(label, sorted(set(split) - {None}), what=f"obs[{split_key!r}]")
        known, asked = (np.flatnonzero(np.isin(split, part)) for part in parts)
    n_known = len(np.unique(profiles.codes[known]))
    if n_known < 2:
        raise ValueError(
            f"the neighbours are of {n_known} class ({listing(profiles.classes, 3)}): nothing to "
            "tell apart."
        )
    votes = neighbour_votes(profiles, asked, known, k)
    credit = votes.credit
    n_classes = len(profiles.classes)
    code, counted = profiles.codes[asked], ~np.isnan(credit)
    count = np.bincount(code[counted], minlength=n_classes)
    if not counted.any():
        raise ValueError(
            f"no profile has a neighbour in another group of {group_key!r}; leave `group_key` out "
            "or give data of several groups."
        )
    with np.errstate(invalid="ignore"):
        rates = (np.bincount(code[counted], credit[counted], n_classes) / count)[None]
    low, high = crossed_intervals(rates[None, :, count > 0], n_boot=n_boot, seed=seed)[0]
    micro = _micro(credit[counted], code[counted], n_boot, seed)
    row = {
        "accuracy": mean_present(rates),
        "accuracy_low": low,
        "accuracy_high": high,
        **micro,
        "chance": 1 / n_known,
        "n_classes": int((count > 0).sum()),
        "n_queries": int(counted.sum()),
    }
    table = pd.DataFrame([row], index=pd.Index([k], name="k"))
    adata.uns[key_added] = {
        "table": table.copy(),
        "classes": _by_class(profiles.classes, rates[None], ["accuracy"]),
        "predictions": _predictions(adata.obs_names[profiles.rows[asked]], votes, profiles.classes),
        "confusion": confusion_of(
            votes.own[votes.query], votes.winner, profiles.classes, votes.share
        ),
        "params": _params(use_rep, by, control, group_key, seed)
        | {"k": k, "split_key": split_key or "", "train": as_json(train), "test": as_json(test)},
    }
    logger.info("knn_accuracy: %.3f at k = %d (chance %.3f).", row["accuracy"], k, row["chance"])
    return table


def _micro(credit: NDArray, code: NDArray, n_boot: int, seed: int) -> dict[str, float]:
    """Accuracy over profiles, with its interval over classes."""
    row = {"accuracy_micro": float(credit.mean())}
    label, at = np.unique(code, return_inverse=True)
    hits, count = np.bincount(at, credit), np.bincount(at)
    if n_boot > 0:
        drawn = draw_nodes(len(label), n_boot, seed)
        low, high = interval((hits @ drawn) / (count @ drawn))
        row |= {"accuracy_micro_low": low, "accuracy_micro_high": high}
    else:
        row |= {"accuracy_micro_low": np.nan, "accuracy_micro_high": np.nan}
    return row


def _predictions(names: pd.Index, votes: Votes, classes: NDArray) -> pd.DataFrame:
    """What each profile was taken for."""
    first = np.full(len(names), -1)
    first[votes.query[::-1]] = votes.winner[::-1]  # the first of the tied stays
    known = np.array([*classes, None], dtype=object)
    return pd.DataFrame(
        {
            "label": classes.astype(object)[votes.own],
            "predicted": pd.Categorical(known[first], categories=classes.astype(object)),
            "n_tied": votes.n_winners,
            "credit": votes.credit,
        },
        index=names,
    )


# -- reading --------------------------------------------------------------------------------------


def _read(
    adata: AnnData,
    use_rep: str | None,
    by: str,
    control: str | list[str] | None,
    group_key: str | list[str] | None,
) -> Profiles:
    labels = context_labels(adata, by, missing=control is not None)
    kept = np.ones(adata.n_obs, bool)
    if control is not None:
        kept &= ~control_mask(adata, by, control)
        require_labels(labels.to_numpy(object), kept, by)  # a control may lack a label, nobody else
    rows = np.flatnonzero(kept)
    if not len(rows):
        raise ValueError(f"no profile is left: all of {adata.n_obs} are controls.")
    codes, classes = pd.factorize(labels.to_numpy(object)[rows], sort=True)
    order = np.lexsort((adata.obs_names.to_numpy(str)[rows], codes))
    rows, codes = rows[order], codes[order]
    units = unit_profiles(adata, use_rep, rows)
    if not adata.obs_names.is_unique:
        # Names that repeat leave the order of the rows open: their values settle it.
        names = adata.obs_names.to_numpy(str)[rows]
        value = np.unique(units, axis=0, return_inverse=True)[1].ravel()
        order = np.lexsort((value, names, codes))
        rows, codes, units = rows[order], codes[order], units[order]
    keys = column_list(group_key)
    groups = tuple(
        pd.factorize(context_labels(adata, key).to_numpy(object)[rows])[0] for key in keys
    )
    return Profiles(rows, units, codes, np.asarray(classes), groups)


def _params(
    use_rep: str | None,
    by: str,
    control: str | list[str] | None,
    group_key: str | list[str] | None,
    seed: int,
) -> dict[str, Any]:
    return {
        "use_rep": use_rep or "X",
        "by": by,
        "control": as_json(control),
        "group_key": as_json(group_key),
        "seed": seed,
    }


def _by_class(classes: NDArray, rates: NDArray, columns: list[str]) -> pd.DataFrame:
    """Mean over runs of each class; `rates` is ``(columns, runs, classes)``."""
    there = ~np.isnan(rates)
    with np.errstate(invalid="ignore"):
        means = np.where(there, rates, 0.0).sum(axis=1) / there.sum(axis=1)
    index = pd.Index(classes.astype(object), name="class")
    return pd.DataFrame(means.T, index=index, columns=columns)
