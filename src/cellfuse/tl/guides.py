"""Whether the guides of a gene agree more than unrelated guides do."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import false_discovery_control

from cellfuse._access import (
    check_key,
    context_labels,
    control_mask,
    label_list,
    one_column,
    profiles_only,
)
from cellfuse._counts import whole_counts
from cellfuse._errors import listing
from cellfuse._provenance import as_json
from cellfuse.kernels.cosine import mean_pairwise_cosine, mean_within
from cellfuse.kernels.nulls import Draw, empirical_pvalue, null_similarity
from cellfuse.tl._labels import apart_from_control, by_name, require_labels, several_labels
from cellfuse.tl._similarity import Similarity, similarity_of, source_name
from cellfuse.tl._summary import check_level, mean_with_interval, null_sets, share_with_interval

__all__ = ["guide_consistency", "agreement_test"]

logger = logging.getLogger("cellfuse")

#: Ends of the band of the null that a figure shows.
NULL_BAND = (0.025, 0.975)


@whole_counts
def guide_consistency(
    guides: AnnData,
    *,
    target_key: str,
    control: str | list[str] | None,
    n_null: int | None = None,
    alpha: float = 0.05,
    use_rep: str | None = None,
    use_sim: str | None = None,
    background_key: str | None = None,
    sep: str | None = None,
    n_boot: int = 1000,
    key_added: str = "guide_consistency",
    seed: int = 0,
) -> pd.DataFrame:
    """Test each target's guides for agreement against sets of unrelated guides (PETRI, 3.5).

    The statistic is the mean pairwise cosine of a target's guide profiles,
    ``(|sum u|^2 - k) / (k (k - 1))`` over its k unit vectors. The null has as many guides, all of
    different targets: they are drawn one after the other, uniformly from the guides of targets
    not yet in the set. The paper leaves open, and this settles: control guides are in no null
    set, ``p = (b + 1) / (n_null + 1)`` with b null sets at or above the target, and
    Benjamini-Hochberg over targets.

    Parameters
    ----------
    guides
        Profiles, one row per guide (see :func:`aggregate`).
    target_key
        obs column with the gene that a guide targets.
    control
        Label or labels of the control guides in `target_key`, which are left out. None, which
        must be written, if there are none.
    n_null
        Null sets per set size. The smallest p-value is ``1 / (n_null + 1)``. None: at least 10,000,
        and five times as many as it takes for a single one of the targets to be significant:
        56,900 for the 569 genes of the paper, of which with 10,000 sets none alone could be.
    alpha
        Level on q-values that makes a target significant.
    use_rep
        obsm key of the profiles; None is ``X``.
    use_sim
        obsp key of a matrix of similarities (see :func:`late_fusion`) to use instead of cosines.
    background_key
        obs column of the background: each is tested apart (its own null and correction), and the
        shares of significant targets are averaged.
    sep
        What stands between several targets of a guide, such as ``"|"`` in ``EGFR|ERBB2``: it is
        then a guide of each, and a null set holds no two that share any. None: the text is one
        target.
    n_boot
        Bootstrap replicates over targets for 95% percentile intervals of the share and of the
        mean similarity; 0 for none.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table, in whatever order the (differently named) guides come.

    Returns
    -------
    One row per target (and background, in a column of that name), index ``target``:
    ``similarity``, ``n_guides``, ``null_mean``, ``null_low`` and ``null_high`` (the middle 95% of
    the null sets), ``pvalue``, ``qvalue``, ``significant``. A target with one guide is not tested:
    NaN, and not significant. ``attrs["share_significant"]`` is the
    paper's figure, the share of tested targets that are significant, and
    ``attrs["mean_similarity"]`` the mean over them; with `n_boot` each has a ``_low`` and a
    ``_high``. :func:`compare` compares two such tables.

    The table is kept as ``guides.uns[key_added]["table"]``, beside ``"params"``.

    Raises
    ------
    KeyError
        A column or the control label is absent.
    ValueError
        NaN or infinite values, a profile of zeros, no target with two guides, or fewer targets
        than a null set has guides.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> effect = np.repeat(rng.normal(size=(20, 8)), 3, axis=0)
    >>> names = [f"gene{i // 3}_{i % 3}" for i in range(60)]
    >>> obs = pd.DataFrame({"gene": [name[:-2] for name in names]}, index=names)
    >>> guides = ad.AnnData(effect + rng.normal(size=(60, 8)) / 4, obs=obs)
    >>> table = cf.tl.guide_consistency(guides, target_key="gene", control=None)
    >>> table.attrs["share_significant"]
    1.0
    """
    guides = profiles_only(guides)
    check_key(key_added)
    check_level(alpha)
    targets = context_labels(guides, target_key, missing=control is not None).to_numpy(object)
    targets = apart_from_control(targets, sep, control)
    kept = np.ones(guides.n_obs, dtype=bool)
    if control is not None:
        kept &= ~control_mask(guides, target_key, control) & ~np.isin(targets, label_list(control))
    # A control guide may lack a target; any other must have one.
    require_labels(targets, kept, target_key)
    if background_key is None:
        groups = {"": np.flatnonzero(kept)}
    else:
        background_key = one_column(background_key, name="background_key")
        background = context_labels(guides, background_key)
        groups = {b: np.flatnonzero(kept & (background == b)) for b in sorted(background.unique())}
    names = targets[kept]
    if sep is not None:
        names = several_labels(pd.Series(names), sep, target_key)[1].to_numpy(object)
    n_null = null_sets(n_null, len(np.unique(names)), alpha)
    streams = np.random.SeedSequence(seed).spawn(len(groups))
    tables = {}
    for (name, found), stream in zip(groups.items(), streams, strict=True):
        rows = by_name(guides, found)
        similarity = similarity_of(guides, use_rep=use_rep, use_sim=use_sim, rows=rows)
        tables[name] = agreement_test(
            similarity,
            targets[rows],
            n_null=n_null,
            alpha=alpha,
            stream=stream,
            inside=f" in background {name!r}" if name else "",
            sep=sep,
        )
    table = _join(tables, background_key)
    figures = _figures(tables, alpha, n_boot, seed)
    table.attrs.update(figures)
    params: dict[str, Any] = {
        "target_key": target_key,
        "control": as_json(control),
        "n_null": n_null,
        "alpha": alpha,
        "use_rep": source_name(use_rep, use_sim) if use_sim else use_rep or "X",
        "sep": sep or "",
        "n_boot": n_boot,
        "seed": seed,
        **figures,
    }
    if background_key is not None:
        params["background_key"] = background_key
        params["share_by_background"] = {
            name: float(part.loc[part["n_guides"] > 1, "significant"].mean())
            for name, part in tables.items()
        }
    guides.uns[key_added] = {"table": table.copy(), "params": params}
    single = int((table["n_guides"] < 2).sum())
    logger.info(
        "guide_consistency: %.1f%% of %d targets are significant (q < %g)%s.",
        100 * params["share_significant"],
        len(table) - single,
        alpha,
        f"; {single} with one guide are not tested" if single else "",
    )
    return table


def agreement_test(
    similarity: Similarity,
    targets: NDArray,
    *,
    n_null: int,
    alpha: float,
    stream: np.random.SeedSequence,
    inside: str = "",
    words: tuple[str, str] = ("guide", "target"),
    sep: str | None = None,
    draw: Draw | None = None,
) -> pd.DataFrame:
    """Mean pairwise similarity of each target's rows, against sets of unrelated rows.

    Parameters
    ----------
    targets
        Target of each row.
    n_null
        Null sets; 0 leaves the p-values open.
    inside
        Where, for a message, such as ``" in background 'K562'"``.
    words
        What a row and a target are, for a message.
    sep
        What stands between several targets of a row; None: each has one.
    draw
        Draws the null sets, as in :func:`cellfuse.kernels.nulls.null_similarity`.

    Returns
    -------
    One row per target, as :func:`guide_consistency` has them.
    """
    entries = np.arange(len(targets))
    if sep is not None:  # a row is an entry for each of its targets
        entries, single = several_labels(pd.Series(targets), sep, words[1])
        targets = single.to_numpy(object)
    codes, labels = pd.factorize(targets, sort=True)
    n_guides = np.bincount(codes, minlength=len(labels))
    row, group = words
    if len(codes) < 2 or n_guides.max() < 2:
        raise ValueError(
            f"no {group} has two {row}s{inside}, found {len(codes)} {row}s of {len(labels)} "
            f"{group}s (controls left out): there is nothing to compare. Give one row per {row}."
        )
    largest = int(n_guides.max())
    if n_null and len(labels) < largest:
        raise ValueError(
            f"{str(labels[n_guides.argmax()])!r} has {largest} {row}s{inside}, but there are only "
            f"{len(labels)} {group}s ({listing(labels, 4)}): a null set takes each {row} from "
            f"another {group}. Give one row per {row}, and name controls by `control`."
        )
    given = similarity.given
    values = similarity.matrix() if given else similarity.values[similarity.rows]
    own = values if sep is None else values[np.ix_(entries, entries)] if given else values[entries]
    agreement = (mean_within if given else mean_pairwise_cosine)(own, codes, len(labels))
    sizes = [int(k) for k in np.unique(n_guides) if k > 1] if n_null else []
    null = {}
    if sizes:
        null = null_similarity(
            values,
            codes if sep is None else np.arange(len(values)),
            sizes,
            n_sets=n_null,
            seed=stream,
            given=given,
            draw=draw,
            related=None if sep is None else _related(entries, codes, len(values)),
        )
    null_mean, pvalue = np.full(len(labels), np.nan), np.full(len(labels), np.nan)
    null_ends = np.full((2, len(labels)), np.nan)
    for size in sizes:
        of_size = n_guides == size
        null_mean[of_size] = null[size].mean(dtype=np.float64)
        null_ends[:, of_size] = np.quantile(null[size], NULL_BAND)[:, None]
        pvalue[of_size] = empirical_pvalue(agreement[of_size], null[size])
    qvalue = np.full(len(labels), np.nan)
    tested = ~np.isnan(pvalue)
    if tested.any():
        qvalue[tested] = false_discovery_control(pvalue[tested])
    return pd.DataFrame(
        {
            "similarity": agreement,
            "n_guides": n_guides,
            "null_mean": null_mean,
            "null_low": null_ends[0],
            "null_high": null_ends[1],
            "pvalue": pvalue,
            "qvalue": qvalue,
            "significant": tested & (qvalue < alpha),
        },
        index=pd.Index(labels.astype(object), name="target"),
    )


def _related(entries: NDArray, codes: NDArray, n: int) -> NDArray:
    """Which rows share a target; each one is related to itself."""
    names = sparse.csr_array((np.ones(len(entries)), (entries, codes)), shape=(n, codes.max() + 1))
    related = (names @ names.T).toarray() > 0
    np.fill_diagonal(related, True)
    return related


def _join(tables: dict[str, pd.DataFrame], background_key: str | None) -> pd.DataFrame:
    if background_key is None:
        return tables[""].copy()
    return pd.concat(
        [pd.concat({name: table}, names=[background_key]) for name, table in tables.items()]
    ).reset_index(level=0)


def _figures(
    tables: dict[str, pd.DataFrame], alpha: float, n_boot: int, seed: int
) -> dict[str, float]:
    """Share of significant targets and mean similarity; backgrounds weigh the same."""
    tested = {name: table[table["n_guides"] > 1] for name, table in tables.items()}
    return {
        **share_with_interval(tested, alpha, n_boot, seed),
        **mean_with_interval("mean_similarity", tested, "similarity", n_boot, seed),
    }
