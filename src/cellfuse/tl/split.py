"""Splits by intervention, well or plate, of which nothing crosses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    Data,
    check_key,
    context_labels,
    control_labels,
    modalities,
    obs_column,
    refuse_view,
    where,
)
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json

__all__ = ["split"]

logger = logging.getLogger("cellfuse")

#: Shares of the splits when none are given.
SIZES = {"train": 0.7, "val": 0.1, "test": 0.2}
#: Label of the rows that take no part.
CONTROL = "control"


def split(
    adata: Data,
    *,
    by: str | list[str] = "compound",
    stratify: str | list[str] | None = None,
    sizes: Mapping[str, float] | None = None,
    apart: str | Sequence[str | tuple[str, ...]] = (),
    control: str | list[str] | None = None,
    key_added: str = "split",
    overwrite: bool = False,
    seed: int = 0,
) -> pd.Series:
    """Divide a screen by intervention (or well, or plate), never by cell.

    All rows with the same value of `by` go to one split, in every modality of a MuData: a model is
    then tested on interventions of which it has seen nothing. Which value goes where depends on
    the values and the seed alone, not on the order of the rows.

    Parameters
    ----------
    adata
        An AnnData, or a MuData of which every modality is divided alike.
    by
        obs column, or columns whose joint value counts: ``["plate", "well"]`` where well names
        recur on every plate.
    stratify
        obs column (mechanism, cell line), or columns, constant within each value of `by`: every
        split gets its share of each stratum.
    sizes
        Share of the values of `by` in each split, by name; the shares sum to 1. Default
        ``{"train": 0.7, "val": 0.1, "test": 0.2}``.
    apart
        obs column or columns none of whose values may occur in two splits, a tuple for a joint
        value, such as ``["replicate", ("plate", "well")]``. This is checked, within each modality:
        a well that holds two compounds would cross.
    control
        Label or labels of `by` (a single column) that take no part; their rows are labelled
        ``"control"``.
    key_added
        obs column to write.
    overwrite
        Replace a column of that name which this verb has not written.
    seed
        Same seed, same split.

    Returns
    -------
    The split of each row (categorical, in the order of `sizes`), as written to
    ``obs[key_added]``; of a MuData the modalities one after the other.
    ``uns["split"][key_added]`` holds the parameters.

    Raises
    ------
    KeyError
        A column or the control label is absent.
    ValueError
        Shares that do not sum to 1, fewer values than splits, a stratum that changes within a
        value, a column that is already there, or a well (or replicate) that would cross.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"compound": list("aabbccddee")}, index=[f"w{i}" for i in range(10)])
    >>> made = cf.tl.split(ad.AnnData(obs=obs), sizes={"train": 0.6, "test": 0.4})
    >>> made.value_counts().to_dict()
    {'train': 6, 'test': 4}
    """
    shares = _checked_sizes(SIZES if sizes is None else sizes)
    check_key(key_added)
    mods = modalities(adata)
    for name, mod in mods.items():
        refuse_view(mod, modality=name)
        _refuse_foreign(mod, key_added, overwrite, name)
    labels = {name: context_labels(mod, by, modality=name) for name, mod in mods.items()}
    excluded = _controls(labels, by, control)
    values = np.unique(np.concatenate([series.to_numpy(str) for series in labels.values()]))
    values = values[~np.isin(values, excluded)]
    if len(values) < len(shares):
        raise ValueError(
            f"{len(values)} values of {by!r} ({listing(values, 4)}) cannot fill {len(shares)} "
            f"splits ({listing(shares)})."
        )
    strata = _strata(mods, labels, values, stratify, by)
    names = list(shares)
    chosen = _deal(strata, np.array(list(shares.values())), seed)
    missed = [name for number, name in enumerate(names) if number not in chosen]
    if missed:
        raise ValueError(
            f"{len(values)} values of {by!r} leave no value for {listing(missed)} at shares "
            f"{dict(shares)}: enlarge the share."
        )
    split_of = pd.Series(np.array(names, dtype=object)[chosen], index=values)
    if len(excluded):
        names.append(CONTROL)
        split_of = pd.concat([split_of, pd.Series(CONTROL, index=excluded, dtype=object)])
    parts = {name: _column(series, split_of, names) for name, series in labels.items()}
    for name, mod in mods.items():
        for columns in [apart] if isinstance(apart, str) else apart:
            _check_apart(mod, columns, parts[name], name)
    note = as_json(
        {"by": by, "stratify": stratify, "sizes": shares, "control": control, "seed": seed}
    )
    for name, mod in mods.items():
        mod.obs[key_added] = parts[name]
        mod.uns.setdefault("split", {})[key_added] = note
    made = pd.concat(list(parts.values())) if len(parts) > 1 else next(iter(parts.values()))
    logger.info("split: %s", ", ".join(f"{n} {c}" for n, c in made.value_counts().items()))
    return made.rename(key_added)


def _checked_sizes(sizes: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(sizes, Mapping):
        raise TypeError(
            f"sizes={sizes!r}: expected the share of each split by name, such as "
            "{'train': 0.8, 'test': 0.2}."
        )
    shares = {str(name): float(share) for name, share in sizes.items()}
    if not shares or any(not share > 0 for share in shares.values()):
        raise ValueError(f"sizes={dict(sizes)}: expected a positive share for every split.")
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise ValueError(
            f"sizes={dict(sizes)} sum to {sum(shares.values()):g}; shares must sum to 1."
        )
    if CONTROL in shares:
        raise ValueError(f"{CONTROL!r} names the rows that take no part; name the split otherwise.")
    return shares


def _refuse_foreign(mod: AnnData, key: str, overwrite: bool, modality: str) -> None:
    notes = mod.uns.get("split", {})
    if not isinstance(notes, Mapping):
        raise ValueError(
            f"uns['split']{where(modality)} is a {type(notes).__name__}, and this verb keeps its "
            "parameters there; rename that entry."
        )
    ours = key in notes
    if key in mod.obs.columns and not ours and not overwrite:
        raise ValueError(
            f"obs[{key!r}]{where(modality)} is there already and was not written by this verb; "
            "choose another name with `key_added`, or pass `overwrite=True`."
        )


def _controls(
    labels: dict[str, pd.Series], by: str | list[str], control: str | list[str] | None
) -> NDArray:
    if control is None:
        return np.array([], dtype=str)
    if not isinstance(by, str) and len(by) > 1:
        raise ValueError(
            f"`control` names labels of one column, and `by` has {len(by)} ({by}); leave the "
            "controls out first."
        )
    wanted = control_labels(control)
    found = np.unique(np.concatenate([series.to_numpy(str) for series in labels.values()]))
    for label in wanted:
        if label not in found:
            raise missing_key(label, found.tolist(), what=f"obs[{by!r}]")
    return np.array(wanted)


def _strata(
    mods: dict[str, AnnData],
    labels: dict[str, pd.Series],
    values: NDArray,
    stratify: str | list[str] | None,
    by: str | list[str],
) -> NDArray:
    """Stratum number of each value of `by`; all 0 without `stratify`."""
    if stratify is None:
        return np.zeros(len(values), np.int64)
    stratum = pd.concat([context_labels(m, stratify, modality=n) for n, m in mods.items()])
    pairs = pd.DataFrame(
        {"value": pd.concat(list(labels.values())).to_numpy(str), "stratum": stratum.to_numpy(str)}
    ).drop_duplicates()
    pairs = pairs[pairs["value"].isin(values)]
    mixed = pairs["value"][pairs["value"].duplicated()].unique()
    if len(mixed):
        raise ValueError(
            f"{stratify!r} changes within {len(mixed)} values of {by!r}: {listing(mixed)}. A value "
            "goes to one split as a whole, so its stratum must be one; leave `stratify` out or "
            "add the column to `by`."
        )
    return pd.factorize(pairs.set_index("value")["stratum"].loc[values], sort=True)[0]


def _deal(strata: NDArray, shares: NDArray, seed: int) -> NDArray:
    """Split number of each value: stratum after stratum, always to the split that lacks most.

    Any run of values, a stratum or all of them, is then shared out in proportion, to within about
    one; small strata do not all fall to the largest split.
    """
    rng = np.random.default_rng([seed, 32_452_843])
    n_strata = int(strata.max()) + 1
    order = np.lexsort((rng.random(len(strata)), rng.permutation(n_strata)[strata]))
    chosen = np.empty(len(strata), np.int64)
    given = np.zeros(len(shares))
    for number, value in enumerate(order, start=1):
        chosen[value] = np.argmax(np.round(number * shares - given, 9))
        given[chosen[value]] += 1
    return chosen


def _column(labels: pd.Series, split_of: pd.Series, names: list[str]) -> pd.Series:
    made = pd.Categorical(split_of.reindex(labels.to_numpy(str)).to_numpy(), categories=names)
    return pd.Series(made, index=labels.index)


def _check_apart(
    mod: AnnData, columns: str | tuple[str, ...], made: pd.Series, modality: str
) -> None:
    keys = [columns] if isinstance(columns, str) else list(columns)
    for key in keys:
        obs_column(mod, key, modality=modality)
    label = context_labels(mod, keys, modality=modality).to_numpy(str)
    takes_part = (made != CONTROL).to_numpy()
    pairs = pd.DataFrame({"label": label[takes_part], "split": made[takes_part].to_numpy(str)})
    once = pairs.drop_duplicates()
    crossing = np.sort(once["label"][once["label"].duplicated()].unique())
    if len(crossing):
        raise ValueError(
            f"{len(crossing)} values of {' | '.join(keys)!r}{where(modality)} would lie in two "
            f"splits: {listing(crossing)}. Split by that column (`by={keys}`), or give "
            "the joint column where names recur (`('plate', 'well')`)."
        )
