"""The examples that a classifier of treatments learns from: samples of cells, or single cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_finite, context_labels, per_modality, representation
from cellfuse._errors import listing

if TYPE_CHECKING:
    from cellfuse.tl._head_training import Pools

__all__ = ["Kind", "Samples", "samples_of", "single_cells", "standardised"]

Kind = Literal["samples", "cells"]


@dataclass(frozen=True)
class Samples:
    """Samples that every modality of an input has."""

    pools: list[Pools]
    classes: pd.Index
    codes: NDArray[np.int64]  # class of each sample
    split: NDArray  # split label of each sample
    names: NDArray  # of each sample


def samples_of(
    data: MuData,
    names: Sequence[str],
    by: str,
    split_key: str,
    sample_key: str | list[str] | None,
    controls: list[str],
    use_rep: str | None | Mapping[str, str | None],
) -> Samples:
    """Samples with cells in every modality of the input, controls left out."""
    from cellfuse.tl._head_training import Pools

    keys: str | list[str] = [by, split_key] if sample_key is None else sample_key
    tables, labels = [], []
    for name in names:
        adata = data.mod[name]
        obs = pd.DataFrame(
            {
                "sample": context_labels(adata, keys, modality=name).to_numpy(),
                "target": context_labels(adata, by, modality=name).to_numpy(),
                "split": context_labels(adata, split_key, modality=name).to_numpy(),
            }
        )
        tables.append(_one_each(obs, name, by, split_key))
        labels.append(obs["sample"].to_numpy())
    table = tables[0]
    for other, name in zip(tables[1:], names[1:], strict=True):
        table = table.loc[table.index.intersection(other.index)]
        if not table.equals(other.loc[table.index]):
            raise ValueError(
                f"samples of {names[0]!r} and {name!r} have the same name but another {by!r} "
                f"or {split_key!r}; name samples alike in all modalities (`sample_key`)."
            )
    if table.empty:
        raise ValueError(
            f"modalities {listing(names)} share no sample; name samples alike in all of them "
            "(`sample_key`)."
        )
    table = table[~table["target"].isin(controls)]
    if table["target"].nunique() < 2:
        raise ValueError(
            f"input {'+'.join(names)!r} has {len(table)} samples of "
            f"{listing(table['target'].unique())}: at least two treatments must be told apart."
        )
    codes, classes = pd.factorize(table["target"], sort=True)
    pools = []
    for name, label in zip(names, labels, strict=True):
        rep = per_modality(use_rep, name, name="use_rep")
        values = representation(data.mod[name], rep, modality=name)
        check_finite(values, f"the embedding of modality {name!r}")
        position = table.index.get_indexer(pd.Index(label))
        order = np.argsort(position, kind="stable")
        ends = np.searchsorted(position[order], np.arange(len(table) + 1))
        pools.append(Pools(values, order, ends[:-1], np.diff(ends)))
    return Samples(
        pools,
        pd.Index(classes),
        codes.astype(np.int64),
        table["split"].to_numpy(),
        table.index.to_numpy(object),
    )


def _one_each(obs: pd.DataFrame, modality: str, by: str, split_key: str) -> pd.DataFrame:
    """Treatment and split of each sample."""
    pairs = obs.drop_duplicates()
    double = pairs["sample"][pairs["sample"].duplicated()].unique()
    if len(double):
        raise ValueError(
            f"{len(double)} samples of modality {modality!r} have cells of several {by!r} or "
            f"{split_key!r}: {listing(double, 3)}. A sample has one of each."
        )
    return pairs.set_index("sample").sort_index()


def standardised(pool: Pools, train: NDArray, label: str) -> Pools:
    """Centre and scale by the cells of the training samples; constant features are centred."""
    import torch

    values: Any = pool.values
    rows = np.concatenate([pool.cells(s) for s in np.unique(pool.sample_of(train))])
    dense = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)
    mean, sd = dense[rows].mean(0, dtype=np.float64), dense[rows].std(0, dtype=np.float64)
    varies = sd > 1e-12 * np.abs(mean)
    if not varies.any():
        raise ValueError(
            f"input {label!r}: all features of a modality are constant over the training cells; "
            "nothing can be told from them."
        )
    scaled = (dense - mean) / np.where(varies, sd, 1.0)
    return replace(pool, values=torch.from_numpy(scaled.astype(np.float32)))


def single_cells(samples: Samples) -> Samples:
    """Make every cell of the first modality an example.

    Its cells in the other modalities are drawn from its sample, anew whenever it is shown.
    """
    first = samples.pools[0]
    sample = np.repeat(np.arange(len(samples.codes)), first.size)
    own = first.order[first.start[0] : first.start[0] + len(sample)]
    pools = [
        replace(pool, sample=sample, own=own if pool is first else None) for pool in samples.pools
    ]
    return Samples(
        pools,
        samples.classes,
        samples.codes[sample],
        samples.split[sample],
        samples.names[sample],
    )
