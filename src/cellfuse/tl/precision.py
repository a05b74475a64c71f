"""Mean average precision: whether profiles of a group find one another."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from cellfuse._access import check_key, context_labels, control_mask, profiles_only
from cellfuse._errors import listing
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.precision import (
    Ranking,
    chance_precision,
    null_precision,
    rank_positives,
)
from cellfuse.tl._similarity import similarity_of, source_name
from cellfuse.tl._summary import check_level, mean_with_interval, share_with_interval

__all__ = ["mean_average_precision"]

logger = logging.getLogger("cellfuse")

Keys = str | list[str]
#: Average precisions closer than this are equal.
TIE = 1e-9


@dataclass(frozen=True)
class _Design:
    """Who is asked for whom, as numbers of rows and labels."""

    labels: NDArray
    names: NDArray
    queries: NDArray
    pools: list[NDArray]
    stratum: NDArray
    apart: NDArray | None


@renamed(positives_by="by")
def mean_average_precision(
    adata: AnnData,
    *,
    by: Keys,
    negatives_by: Keys | None = None,
    control: str | list[str] | None = None,
    control_key: str | None = None,
    positives_across: Keys | None = None,
    use_rep: str | None = None,
    use_sim: str | None = None,
    per_profile: bool = False,
    n_null: int = 10_000,
    alpha: float = 0.05,
    n_boot: int = 1000,
    key_added: str = "mean_average_precision",
    seed: int = 0,
) -> pd.DataFrame:
    """Mean average precision of groups of profiles, with its null (copairs).

    For each profile, the others of its group (the positives) and the negatives are ranked by
    cosine; average precision is the mean, over positives, of the share of positives down to that
    rank. The mean over a group's profiles is its mAP. Two uses:

    - activity: do replicates of a compound find one another among the controls of their plate?
      ``by="compound", negatives_by="plate", control="DMSO"``
    - consistency: do compounds of a target find one another among all others?
      ``by="target"``

    Of tied similarities the mean over all orders is taken, where copairs puts one order first. The
    null are random rankings with as many positives and negatives; of a group, the mean over its
    profiles. These see one another and are not independent: a draw of the null is therefore at the
    same quantile for all of them, as if they rose and fell together (the price is a cautious p for
    groups of many profiles). copairs does so for profiles of equal sizes only, and takes those
    beside different numbers of controls for independent: with such draws, 9 to 13% of groups of
    noise had p < .05 in simulated screens.
    ``p = (k + 1) / (B + 1)`` with k null values at or above the observed one. copairs counts those
    above only, so that a perfect ranking of one positive and one negative, which chance gives half
    of the time, gets the smallest p-value. The null of given sizes depends on `seed` and the sizes
    only: on no cache, and on no other group.

    Parameters
    ----------
    adata
        One row per profile.
    by
        obs column or columns that the profiles of a group share.
    negatives_by
        obs column or columns in which negatives must equal the query, such as the plate. None:
        negatives from everywhere.
    control
        Label or labels of the controls: they are the negatives, and make no group. None: negatives
        are all profiles of other groups.
    control_key
        obs column with `control`; None is `by`.
    positives_across
        obs column or columns in which positives must differ from the query, such as the plate or
        the well position, so that what these share is not counted.
    use_rep
        obsm key; None is ``X``.
    use_sim
        obsp key of a matrix of similarities to use instead of cosines.
    per_profile
        Return one row per profile instead.
    n_null
        Random rankings for each pair of sizes.
    alpha
        Level on q-values (Benjamini-Hochberg).
    n_boot
        Bootstrap replicates over groups for the intervals of the two figures in ``attrs``.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table.

    Returns
    -------
    One row per group: ``map``, ``pvalue``, ``qvalue``, ``n`` (its profiles that have positives and
    negatives), ``chance`` (expected from random rankings), ``significant``. A group without such
    profiles is not tested: NaN. ``attrs["mean_map"]`` and ``attrs["share_significant"]``, with
    `n_boot` each with a ``_low`` and a ``_high``. Kept in ``adata.uns[key_added]``.

    With `per_profile` one row per profile, index obs_names: ``group``, ``precision``, ``pvalue``,
    ``qvalue``, ``chance``, ``n_positives``, ``n_negatives``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values, a profile of zeros, a plate without controls, or no profile with a
        positive and a negative.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(10, 16)), 4, axis=0)
    >>> obs = pd.DataFrame({"compound": np.repeat([f"c{i}" for i in range(10)], 4)})
    >>> wells = ad.AnnData(effect + rng.normal(size=(40, 16)) / 4, obs=obs.rename(str))
    >>> table = cf.tl.mean_average_precision(wells, by="compound")
    >>> float(table["map"].min()), bool(table["significant"].all())
    (1.0, True)
    """
    adata = profiles_only(adata)
    check_key(key_added)
    if n_null < 1:
        raise ValueError(f"n_null={n_null}: at least one random ranking is needed.")
    check_level(alpha)
    design = _design(adata, by, negatives_by, control, control_key, positives_across)
    similarity = similarity_of(adata, use_rep=use_rep, use_sim=use_sim)
    ranking = rank_positives(
        similarity,
        design.labels,
        design.queries,
        design.pools,
        design.stratum,
        apart=design.apart,
    )
    if not np.isfinite(ranking.precision).any():
        raise ValueError(_nothing(design, ranking, by))
    null = _Null(ranking, n_null, seed)
    if per_profile:
        return _profile_table(adata, design, ranking, null)
    table = _group_table(design, ranking, null, alpha)
    tested = {"": table[table["n"] > 0]}
    figures = {
        **mean_with_interval("mean_map", tested, "map", n_boot, seed),
        **share_with_interval(tested, alpha, n_boot, seed),
    }
    table.attrs.update(figures)
    params: dict[str, Any] = {
        "by": json.dumps(by),
        "negatives_by": json.dumps(negatives_by),
        "control": json.dumps(control),
        "control_key": json.dumps(control_key),
        "positives_across": json.dumps(positives_across),
        "use_rep": source_name(use_rep, use_sim),
        "n_null": n_null,
        "alpha": alpha,
        "n_boot": n_boot,
        "seed": seed,
        **figures,
    }
    adata.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info(
        "mean_average_precision: mean %.3f; %.1f%% of %d groups are significant (q < %g).",
        figures["mean_map"],
        100 * figures["share_significant"],
        len(tested[""]),
        alpha,
    )
    return table


def _design(
    adata: AnnData,
    by: Keys,
    negatives_by: Keys | None,
    control: str | list[str] | None,
    control_key: str | None,
    positives_across: Keys | None,
) -> _Design:
    # Numbers by sorted label: no order of rows or sets comes in.
    labels, names = pd.factorize(context_labels(adata, by).to_numpy(str), sort=True)
    stratum, strata = np.zeros(adata.n_obs, dtype=np.intp), np.array(["all"])
    if negatives_by is not None:
        stratum, strata = pd.factorize(context_labels(adata, negatives_by).to_numpy(str), sort=True)
    apart = None
    if positives_across is not None:
        apart = pd.factorize(context_labels(adata, positives_across), sort=True)[0]
    if control is None:
        if control_key is not None:
            raise ValueError(f"control_key={control_key!r} without `control`: name its label.")
        queries = np.arange(adata.n_obs)
        pools = group_rows(stratum, len(strata))
        return _Design(labels, names, queries, pools, stratum, apart)
    if control_key is None and not isinstance(by, str):
        raise ValueError("`control` needs `control_key`: `by` names several columns.")
    key = by if control_key is None else control_key
    assert isinstance(key, str)
    chosen = control_mask(adata, key, control)
    queries = np.flatnonzero(~chosen)
    pools = group_rows(np.where(chosen, stratum, -1), len(strata))
    bare = [strata[s] for s in np.unique(stratum[queries]) if not len(pools[s])]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(strata)} groups by {negatives_by!r} hold no control profiles "
            f"({key} = {control!r}): {listing(bare)}. Drop those profiles, or take a coarser "
            "`negatives_by` (None: all controls)."
        )
    # A control is a negative whatever its label by `by` is.
    labels = np.where(chosen, len(names) + np.arange(adata.n_obs), labels)
    return _Design(labels, names, queries, pools, stratum, apart)


def _nothing(design: _Design, ranking: Ranking, by: Keys) -> str:
    if not ranking.n_positive.any():
        return (
            f"no profile has a positive: each of the {len(design.names)} groups by "
            f"{by!r} holds one profile (or none apart by `positives_across`). Give one "
            "row per replicate, not per perturbation."
        )
    return (
        "no profile with a positive has a negative: all that it may be compared with share its "
        "group."
    )


class _Null:
    """Null precisions by their sizes, each drawn once and in ascending order."""

    def __init__(self, ranking: Ranking, n_null: int, seed: int) -> None:
        total = ranking.n_positive + ranking.n_negative
        tested = np.isfinite(ranking.precision)
        sizes = np.stack([ranking.n_positive, total], axis=1)
        self.sizes, at = np.unique(sizes[tested], axis=0, return_inverse=True)
        self.of = np.full(len(tested), -1)
        self.of[tested] = at
        null = [null_precision(int(k), int(n), n_null=n_null, seed=seed) for k, n in self.sizes]
        self.values = np.sort(np.array(null).reshape(len(null), n_null), axis=1)
        self.n_null = n_null

    def pvalue(self, observed: NDArray, null: NDArray) -> NDArray:
        extreme = len(null) - np.searchsorted(null, observed - TIE, side="left")
        return (extreme + 1.0) / (self.n_null + 1.0)

    def of_mix(self, mix: NDArray) -> NDArray:
        """Mean over profiles with these numbers of sizes, all at the same quantile."""
        found, count = np.unique(mix, return_counts=True)
        return (count / len(mix)) @ self.values[found]


def _profile_table(adata: AnnData, design: _Design, ranking: Ranking, null: _Null) -> pd.DataFrame:
    total = ranking.n_positive + ranking.n_negative
    pvalue = np.full(len(total), np.nan)
    for i, values in enumerate(null.values):
        rows = null.of == i
        pvalue[rows] = null.pvalue(ranking.precision[rows], values)
    tested = np.isfinite(pvalue)
    qvalue, chance = np.full(len(total), np.nan), np.full(len(total), np.nan)
    qvalue[tested] = false_discovery_control(pvalue[tested])
    chance[tested] = chance_precision(ranking.n_positive[tested], total[tested])
    return pd.DataFrame(
        {
            "group": design.names[design.labels[design.queries]].astype(object),
            "precision": ranking.precision,
            "pvalue": pvalue,
            "qvalue": qvalue,
            "chance": chance,
            "n_positives": ranking.n_positive,
            "n_negatives": ranking.n_negative,
        },
        index=adata.obs_names[design.queries],
    )


def _group_table(design: _Design, ranking: Ranking, null: _Null, alpha: float) -> pd.DataFrame:
    label = design.labels[design.queries]
    present = np.unique(label)
    tested = null.of >= 0
    group = np.searchsorted(present, label)[tested]
    chance = chance_precision(ranking.n_positive, ranking.n_positive + ranking.n_negative)
    n = np.bincount(group, minlength=len(present))
    with np.errstate(invalid="ignore"):  # a group that is not tested: 0 / 0
        observed = np.bincount(group, ranking.precision[tested], minlength=len(n)) / n
        expected = np.bincount(group, chance[tested], minlength=len(n)) / n
    pvalue = _group_pvalues(observed, group, null.of[tested], null)
    qvalue = np.full(len(n), np.nan)
    qvalue[n > 0] = false_discovery_control(pvalue[n > 0])
    return pd.DataFrame(
        {
            "map": observed,
            "pvalue": pvalue,
            "qvalue": qvalue,
            "n": n,
            "chance": expected,
            "significant": qvalue < alpha,
        },
        index=pd.Index(design.names[present].astype(object), name="group"),
    )


def _group_pvalues(observed: NDArray, group: NDArray, size: NDArray, null: _Null) -> NDArray:
    """p-values of the groups; those with profiles of the same sizes have the same null."""
    ordered = size[np.lexsort((size, group))]
    n = np.bincount(group, minlength=len(observed))
    alike: dict[bytes, list[int]] = {}
    for g, own in enumerate(np.split(ordered, np.cumsum(n)[:-1])):
        alike.setdefault(own.tobytes(), []).append(g)
    pvalue = np.full(len(observed), np.nan)
    for mix, groups in alike.items():
        if mix:
            drawn = null.of_mix(np.frombuffer(mix, dtype=ordered.dtype))
            pvalue[groups] = null.pvalue(observed[groups], drawn)
    return pvalue
