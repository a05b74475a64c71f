"""Mean average precision: whether profiles of a group find one another."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import false_discovery_control

from cellfuse._access import (
    check_key,
    context_codes,
    context_labels,
    control_mask,
    label_list,
    profiles_only,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.precision import (
    Ranking,
    chance_precision,
    rank_positives,
)
from cellfuse.tl._labels import apart_from_control, several_labels
from cellfuse.tl._layout_null import LayoutNull, plates_apart, positions
from cellfuse.tl._precision_null import Null, PrecisionNull
from cellfuse.tl._similarity import Similarity, similarity_of, source_name
from cellfuse.tl._summary import check_level, mean_with_interval, share_with_interval

__all__ = ["mean_average_precision"]

logger = logging.getLogger("cellfuse")

Keys = str | list[str]


@dataclass(frozen=True)
class _Design:
    """Who is asked for whom, as numbers of entries and labels.

    An entry is a profile under one of its labels: a profile with two labels is two entries.
    """

    rows: NDArray  # profile of each entry
    labels: NDArray
    names: NDArray
    queries: NDArray
    pools: list[NDArray]
    stratum: NDArray
    apart: NDArray | None  # (entries, columns)
    shared: sparse.csr_array | None  # (entries, labels), where profiles have several


@renamed(positives_by="by")
@whole_counts
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
    sep: str | None = None,
    per_profile: bool = False,
    null: Null = "joint",
    well_key: str = "well",
    batch_key: Keys | None = None,
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

    Of tied similarities the mean over all orders is taken, where copairs puts one order first.

    The null of a profile are rankings in random order with as many positives and negatives: all of
    them where there are no more than `n_null` (six controls and two positives have 28), and the
    p-value is then exact, ``k / B``; else `n_null` random ones, ``p = (k + 1) / (B + 1)`` with k
    values at or above the observed one. copairs counts those above only, so that a perfect ranking
    of one positive and one negative, which chance gives half of the time, gets the smallest
    p-value. The profiles of a group see one another, and their precisions rise and fall together;
    three nulls of their mean are offered. Of groups of noise, at p < .05 were called:

    ================ ===================== ================= ===================
    null             4 on equal plates     4 on unequal      8 on unequal plates
    ================ ===================== ================= ===================
    ``"joint"``      5%                    5%                5%
    ``"copairs"``    1%                    8%                9%
    ``"comonotone"`` 1%                    1%                0%
    ================ ===================== ================= ===================

    ``"joint"`` draws the similarities of a group's pairs once for both their profiles, which is
    what makes them dependent; ``"copairs"``, its rule, takes profiles of equal sizes for the same
    and those beside different numbers of controls for independent; ``"comonotone"`` takes all for
    the same. (Simulated noise of 50 dimensions, 16 controls a plate, or 6 to 64. With 5 dimensions
    or features of very unequal variance ``"joint"`` gave 3 to 6%, of groups of 16 profiles up to
    8%. On four real plates of 64 controls, groups made of controls: 7%, 2% and 1%; of their 300
    compounds 175, 130 and 130 were significant.) ``"joint"`` is the default because it alone keeps
    the level on equal and on unequal plates; take ``"comonotone"`` to be on the safe side. Groups
    of more than 100 profiles always get that one. The null depends on `seed` and the group's own
    design only: on no cache, and on no other group.

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
        the well position, so that what these share is not counted. Of several, in each one.
    use_rep
        obsm key; None is ``X``.
    use_sim
        obsp key of a matrix of similarities to use instead of cosines.
    sep
        What stands between several labels of a profile in the (one) column `by`, such as ``"|"``
        in ``EGFR|ERBB2``. The profile is then asked for each of its labels; its negatives are
        those that share no label with it. None: the text is one label.
    per_profile
        Return one row per profile (and label) instead.
    null
        ``"joint"``, ``"comonotone"`` or ``"copairs"``, as above. Or ``"layout"``: the same score of
        sets of wells that lie next to one another (within a row and a column) and are of different
        perturbations, for screens in which a perturbation has the same position on all plates. On
        simulated surfaces over a plate that made ``"joint"`` call 46% (95%) of groups of noise at
        p < .05 it called 8% (20%): what differs between neighbours it cannot know.
    well_key, batch_key
        obs columns of the well (``A01``) and of the plate, for ``null="layout"``: where the wells
        of a group are on different plates, those of a null set are, too.
    n_null
        Random draws for each design of a group or profile.
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
    check_level(alpha)
    design = _design(adata, by, negatives_by, control, control_key, positives_across, sep)
    similarity = similarity_of(adata, use_rep=use_rep, use_sim=use_sim)
    if sep is not None:  # an entry for each label of a profile
        similarity = replace(similarity, rows=similarity.rows[design.rows])
    ranking = rank_positives(
        similarity,
        design.labels,
        design.queries,
        design.pools,
        design.stratum,
        apart=design.apart,
        names=design.shared,
    )
    if not np.isfinite(ranking.precision).any():
        raise ValueError(_nothing(design, ranking, by))
    chance = PrecisionNull(ranking, null, n_null, seed)
    if null == "layout":
        if per_profile or sep is not None:
            raise ValueError("null='layout' is of groups: it takes no `per_profile` and no `sep`.")
        chance.by_size = _on_layout(adata, design, similarity, well_key, batch_key, n_null, seed)
    if per_profile:
        return _profile_table(adata, design, ranking, chance)
    table = _group_table(design, ranking, chance, alpha)
    tested = {"": table[table["n"] > 0]}
    figures = {
        **mean_with_interval("mean_map", tested, "map", n_boot, seed),
        **share_with_interval(tested, alpha, n_boot, seed),
    }
    table.attrs.update(figures)
    params: dict[str, Any] = {
        "by": as_json(by),
        "negatives_by": as_json(negatives_by),
        "control": as_json(control),
        "control_key": as_json(control_key),
        "positives_across": as_json(positives_across),
        "use_rep": source_name(use_rep, use_sim),
        "sep": sep or "",
        "null": null,
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
    sep: str | None,
) -> _Design:
    across = _column_names(positives_across)
    both = sorted(set(across) & set(_column_names(by)))
    if both:
        raise ValueError(
            f"positives share {listing(both)} (`by`) and cannot differ in it "
            "(`positives_across`); leave it out of one."
        )
    n = adata.n_obs
    stratum, strata = np.zeros(n, dtype=np.intp), np.array(["all"])
    if negatives_by is not None:
        stratum, strata = context_codes(adata, negatives_by)
    apart = None
    if across:
        columns = [context_codes(adata, key)[0] for key in across]
        apart = np.stack(columns, axis=1)
    chosen = _controls(adata, by, control, control_key)
    # Numbers by sorted label: no order of rows or sets comes in.
    text = context_labels(adata, by)
    rows = np.arange(n)
    if sep is not None:
        if control is not None and control_key in (None, by):
            text = pd.Series(apart_from_control(text.to_numpy(object), sep, control))
            chosen |= text.isin(label_list(control)).to_numpy()
        rows, text = _entries(text, sep, by, chosen)
    labels, names = pd.factorize(text.to_numpy(str), sort=True)
    shared = None
    if sep is not None:
        shape = (n, len(names))
        profiles = sparse.csr_array((np.ones(len(rows)), (rows, labels)), shape=shape)
        shared = profiles[rows]
        stratum, chosen = stratum[rows], chosen[rows]
        apart = None if apart is None else apart[rows]
    if control is None:
        queries, candidates = np.arange(len(rows)), np.ones(len(rows), dtype=bool)
    else:
        queries, candidates = np.flatnonzero(~chosen), chosen
    # A profile is a negative once, however many labels it has.
    first = np.zeros(len(rows), dtype=bool)
    first[np.unique(rows, return_index=True)[1]] = True
    pools = group_rows(np.where(candidates & first, stratum, -1), len(strata))
    bare = [strata[s] for s in np.unique(stratum[queries]) if not len(pools[s])]
    if bare:
        raise ValueError(
            f"{len(bare)} of {len(strata)} groups by {negatives_by!r} hold no control profiles "
            f"({control_key or by} = {control!r}): {listing(bare)}. Drop those profiles, or take "
            "a coarser `negatives_by` (None: all controls)."
        )
    # A control is a negative whatever its label by `by` is.
    labels = np.where(chosen, len(names) + np.arange(len(rows)), labels)
    if shared is not None and control is not None:
        shared = shared.multiply(~chosen[:, None]).tocsr()
    return _Design(rows, labels, names, queries, pools, stratum, apart, shared)


def _column_names(keys: Keys | None) -> list[str]:
    return [] if keys is None else [keys] if isinstance(keys, str) else list(keys)


def _controls(
    adata: AnnData, by: Keys, control: str | list[str] | None, control_key: str | None
) -> NDArray[np.bool_]:
    """Mask of the controls."""
    if control is None:
        if control_key is not None:
            raise ValueError(f"control_key={control_key!r} without `control`: name its label.")
        return np.zeros(adata.n_obs, dtype=bool)
    key = by if control_key is None else control_key
    if not isinstance(key, str):
        raise ValueError("`control` needs `control_key`: `by` names several columns.")
    return control_mask(adata, key, control)


def _entries(
    text: pd.Series, sep: str, by: Keys, controls: NDArray[np.bool_]
) -> tuple[NDArray, pd.Series]:
    """Profile and label of each entry; a control is one entry."""
    treated = np.flatnonzero(~controls)
    rows, labels = several_labels(text.iloc[treated], sep, by)
    rows = np.concatenate([treated[rows], np.flatnonzero(controls)])
    every = np.concatenate([labels.to_numpy(object), text.to_numpy(object)[controls]])
    order = np.argsort(rows, kind="stable")
    return rows[order], pd.Series(every[order], dtype=object)


def _on_layout(
    adata: AnnData,
    design: _Design,
    similarity: Similarity,
    well_key: str,
    batch_key: Keys | None,
    n_null: int,
    seed: int,
) -> Callable[[int], NDArray]:
    """Null of neighbouring wells, by the size of a group."""
    queries = design.queries
    row, column = (place[queries] for place in positions(adata, well_key))
    codes = design.labels[queries]
    plate = None
    if batch_key is not None:
        plate = pd.factorize(context_labels(adata, batch_key))[0][queries]
    columns = [codes, *plates_apart(codes, plate)]
    if design.apart is not None:
        columns += list(design.apart[queries].T)
    return LayoutNull(
        similarity,
        design.labels,
        queries,
        design.pools,
        design.stratum,
        row,
        column,
        np.stack(columns, axis=1),
        n_null=n_null,
        seed=seed,
    ).of


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


def _profile_table(
    adata: AnnData, design: _Design, ranking: Ranking, null: PrecisionNull
) -> pd.DataFrame:
    total = ranking.n_positive + ranking.n_negative
    pvalue = null.of_profiles(ranking.precision)
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
        index=adata.obs_names[design.rows[design.queries]],
    )


def _group_table(
    design: _Design, ranking: Ranking, null: PrecisionNull, alpha: float
) -> pd.DataFrame:
    label = design.labels[design.queries]
    present = np.unique(label)
    tested = null.tested
    everyone = np.searchsorted(present, label)
    group = everyone[tested]
    chance = chance_precision(ranking.n_positive, ranking.n_positive + ranking.n_negative)
    n = np.bincount(group, minlength=len(present))
    with np.errstate(invalid="ignore"):  # a group that is not tested: 0 / 0
        observed = np.bincount(group, ranking.precision[tested], minlength=len(n)) / n
        expected = np.bincount(group, chance[tested], minlength=len(n)) / n
    apart = None if design.apart is None else design.apart[design.queries]
    pvalue = null.of_groups(observed, everyone, apart)
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
