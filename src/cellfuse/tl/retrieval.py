"""Finding a context's other modality."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    check_finite,
    check_key,
    context_labels,
    per_side,
    profiles_only,
    representation,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse._renamed import renamed
from cellfuse.kernels.bootstrap import draw_nodes, interval
from cellfuse.kernels.cosine import unit_rows
from cellfuse.kernels.retrieval import Places, first_match, places_of_matches
from cellfuse.tl._similarity import source_name

__all__ = ["retrieval"]

logger = logging.getLogger("cellfuse")

DIRECTIONS = ("a to b", "b to a")


@renamed(top_k="k", second_of={"use_rep_b": "use_rep"})
@whole_counts
def retrieval(
    a: AnnData,
    b: AnnData,
    by: str | list[str],
    *,
    use_rep: str | None | Mapping[str, str | None] | tuple[str | None, str | None],
    k: int | Sequence[int] = (1, 5, 10),
    per_query: bool = False,
    n_boot: int = 1000,
    key_added: str = "retrieval",
    seed: int = 0,
) -> pd.DataFrame:
    """Find the rows of the same label across two modalities that share a space.

    Every row of one modality is a query, all rows of the other are its candidates, ranked by
    cosine; those with the query's label are its matches. ``top{k}``: whether a match is among the
    first k. ``mrr``: one over the place of the first match. ``foscttm``: share of the other
    candidates that are closer than the true match (0 is perfect, chance .5), averaged over
    matches. Of tied candidates the expectation over all orders is taken, so that a collapsed
    embedding gets chance and no more. Queries without any match are left out; candidates without a
    query stay as distractors.

    Parameters
    ----------
    a, b
        The modalities: one row per cell, well or profile.
    by
        obs column or columns with the label, in both.
    use_rep
        obsm key of the shared space; None is ``X``. Where its name differs, a pair of keys, or a
        dict with ``"a"`` and ``"b"``.
    k
        Lengths of the list of ``top{k}``.
    per_query
        Return one row per query, which :func:`compare` takes: ``direction``, ``label``, ``top{k}``,
        ``mrr``, ``foscttm``, ``n_matches``.
    n_boot
        Bootstrap replicates over labels (contexts) for 95% percentile intervals; 0 for none. The
        candidates stay as they are.
    key_added
        Key of ``a.uns`` under which the table is kept.
    seed
        Same seed, same intervals.

    Returns
    -------
    One row per ``direction`` (``"a to b"``, ``"b to a"``, ``"mean"``) and ``metric``: ``value``,
    ``chance`` (the expectation for a random order), ``n_queries``, ``n_candidates`` (of both
    directions together in ``"mean"``), and with `n_boot` the ends ``value_low`` and
    ``value_high``. Kept, without its index, in ``a.uns[key_added]``.

    Raises
    ------
    KeyError
        A column or representation is absent.
    ValueError
        NaN or infinite values, a row of zeros, different widths, no shared label, or a k below 1.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> x = np.random.default_rng(0).normal(size=(20, 8))
    >>> obs = pd.DataFrame({"compound": [f"c{i}" for i in range(20)]})
    >>> image = ad.AnnData(x, obs=obs.rename("i{}".format))
    >>> rna = ad.AnnData(x[::-1].copy(), obs=obs[::-1].rename("r{}".format))
    >>> found = cf.tl.retrieval(image, rna, "compound", use_rep=None)
    >>> found.loc[("mean", "top1"), ["value", "chance"]].tolist()
    [1.0, 0.05]
    """
    ks = sorted(set(np.atleast_1d(k).tolist()))
    check_key(key_added)
    a, b = profiles_only(a), profiles_only(b)
    reps = per_side(use_rep, ("a", "b"), name="use_rep")
    units = [_units(a, reps[0], "a"), _units(b, reps[1], "b")]
    if units[0].shape[1] != units[1].shape[1]:
        raise ValueError(
            f"a and b have different widths, {units[0].shape[1]} and {units[1].shape[1]}: cosines "
            "need one shared space. Give its key as `use_rep`, or its two keys as a pair."
        )
    labels = [context_labels(x, by).to_numpy(str) for x in (a, b)]
    names = np.unique(np.concatenate(labels))
    codes = [np.searchsorted(names, label) for label in labels]
    if not np.intersect1d(codes[0], codes[1]).size:
        raise ValueError(
            f"no label by {by!r} is in both: those of a are like "
            f"{listing(np.unique(labels[0]), 3)}, those of b like "
            f"{listing(np.unique(labels[1]), 3)}."
        )
    queries = []
    for direction, (q, c) in zip(DIRECTIONS, ((0, 1), (1, 0)), strict=True):
        asked = np.flatnonzero(np.isin(codes[q], codes[c]))
        places = places_of_matches(units[q][asked], units[c], codes[q][asked], codes[c])
        table = _per_query(places, len(codes[c]), ks)
        table.insert(0, "direction", direction)
        table.insert(1, "label", names[codes[q][asked]].astype(object))
        table.index = (a, b)[q].obs_names[asked]
        queries.append(table)
        if len(asked) < len(codes[q]):
            logger.info(
                "retrieval %s: %d of %d rows have no match and are no queries.",
                direction,
                len(codes[q]) - len(asked),
                len(codes[q]),
            )
    if per_query:
        return pd.concat(queries)
    table = _summary(queries, [len(codes[1]), len(codes[0])], ks, n_boot, seed)
    params = {"by": as_json(by), "use_rep": [rep or "X" for rep in reps], "k": ks}
    a.uns[key_added] = {
        "table": table.reset_index(),
        "params": {**params, "n_boot": n_boot, "seed": seed},
    }
    return table


def _units(adata: AnnData, use_rep: str | None, side: str) -> NDArray:
    values = representation(adata, use_rep)
    name = f"{source_name(use_rep, None)} of {side}"
    check_finite(values, name)
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    empty = np.flatnonzero(~np.any(dense, axis=1))
    if len(empty):
        raise ValueError(
            f"{len(empty)} rows in {name} are all zeros and have no direction: "
            f"{listing(adata.obs_names[empty])}. Drop them."
        )
    return unit_rows(dense)


def _per_query(places: Places, n_candidates: int, ks: list[int]) -> pd.DataFrame:
    size = places.tied + places.tied_matches
    values = {f"top{k}": (places.above < k).astype(np.float64) for k in ks}
    values["mrr"] = 1.0 / (places.above + 1.0)
    for i in np.flatnonzero(places.tied):
        first = first_match(int(size[i]), int(places.tied_matches[i]))
        place = places.above[i] + 1 + np.arange(len(first))
        for k in ks:
            values[f"top{k}"][i] = first[place <= k].sum()
        values["mrr"][i] = (first / place).sum()
    return pd.DataFrame({**values, "foscttm": places.closer, "n_matches": places.n_matches})


def _chance(n_matches: NDArray, n_candidates: int, ks: list[int]) -> dict[str, float]:
    """Expectation of each metric for random orders, averaged over the queries."""
    sizes, count = np.unique(n_matches, return_counts=True)
    total = dict.fromkeys([*(f"top{k}" for k in ks), "mrr"], 0.0)
    for size, times in zip(sizes, count, strict=True):
        first = first_match(n_candidates, int(size))
        share = times / count.sum()
        for k in ks:
            total[f"top{k}"] += share * float(first[:k].sum())
        total["mrr"] += share * float((first / np.arange(1, len(first) + 1)).sum())
    return {**total, "foscttm": 0.5}


def _summary(
    queries: list[pd.DataFrame], n_candidates: list[int], ks: list[int], n_boot: int, seed: int
) -> pd.DataFrame:
    metrics = [*(f"top{k}" for k in ks), "mrr", "foscttm"]
    every = pd.Index(np.unique(np.concatenate([q["label"].to_numpy(str) for q in queries])))
    drawn = draw_nodes(len(every), n_boot, seed) if n_boot > 0 else np.empty((len(every), 0))
    rows, replicates = [], []
    for table, size in zip(queries, n_candidates, strict=True):
        chance = _chance(table["n_matches"].to_numpy(), size, ks)
        for metric in metrics:
            known = table[table[metric].notna()]
            rows.append((known[metric].mean(), chance[metric], len(known), size))
            code = every.get_indexer(known["label"].astype(str))
            total = np.bincount(code, known[metric].to_numpy(float), minlength=len(every))
            count = np.bincount(code, minlength=len(every))
            with np.errstate(invalid="ignore"):
                replicates.append((total @ drawn) / (count @ drawn))
    m = len(metrics)
    for a, b in list(zip(rows[:m], rows[m:], strict=True)):
        rows.append(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2, a[2] + b[2], a[3] + b[3]))
    replicates += [np.mean([replicates[i], replicates[m + i]], axis=0) for i in range(m)]
    found = pd.DataFrame(
        rows,
        columns=["value", "chance", "n_queries", "n_candidates"],
        index=pd.MultiIndex.from_product(
            [[*DIRECTIONS, "mean"], metrics], names=["direction", "metric"]
        ),
    )
    if n_boot > 0:
        found[["value_low", "value_high"]] = [interval(r) for r in replicates]
    return found
