"""Which perturbations do something: active, consistent, replicated, in one table."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_key, column_list, context_labels, one_column, profiles_only
from cellfuse._counts import whole_counts
from cellfuse._provenance import as_json
from cellfuse.kernels.groups import group_means
from cellfuse.tl._labels import control_rows
from cellfuse.tl._rows import dense_rows
from cellfuse.tl._summary import check_level
from cellfuse.tl.consistency import perturbation_consistency
from cellfuse.tl.magnitude import perturbation_magnitude
from cellfuse.tl.nearest import nearest_perturbations
from cellfuse.tl.profiles import aggregate

__all__ = ["hits"]

logger = logging.getLogger("cellfuse")

#: Fewer replicates are compared with nothing.
MIN_REPLICATES = 2


@whole_counts
def hits(
    adata: AnnData,
    *,
    by: str,
    control: str | list[str],
    batch_key: str | list[str] | None = None,
    k: int = 3,
    n_null: int = 10_000,
    alpha: float = 0.05,
    use_rep: str | None = None,
    key_added: str = "hits",
    seed: int = 0,
) -> pd.DataFrame:
    """Call the hits of a screen: perturbations that are active, consistent and replicated.

    Three questions, each answered by a verb of its own with its own correction:

    - *active*: do its replicates differ from the controls? The energy distance of
      :func:`perturbation_magnitude`, with `batch_key` against the controls of the same batches.
    - *consistent*: do its replicates agree more than those of unrelated perturbations? The mean
      cosine of :func:`perturbation_consistency`.
    - *replicated*, with `batch_key`: is it the same in every batch? The same test on one profile
      per batch, so that replicates of one batch do not stand for another.

    A hit is what is all of these. Beside them stand how strong it is and what it looks like, its
    nearest perturbations.

    Parameters
    ----------
    adata
        One row per replicate: a well, a guide, or a profile per guide and batch (see
        :func:`aggregate`), corrected for batches. Single cells agree too little to be consistent.
    by
        obs column with the perturbation.
    control
        Label or labels of the controls in it, which are needed: activity is a distance to them.
    batch_key
        obs column or columns of the batch, plate or donor. None: not asked whether it replicates.
    k
        Nearest perturbations that are named.
    n_null
        Permutations, and null sets, of each test.
    alpha
        Level on each test's q-values (Benjamini-Hochberg).
    use_rep
        obsm key; None is ``X``.
    key_added
        Key of ``.uns`` under which the table is kept.
    seed
        Same seed, same table.

    Returns
    -------
    One row per perturbation, hits first, by falling effect: ``hit``, ``effect`` (length of its
    mean's difference from the controls' mean, in units of the controls' own spread), ``n``
    (replicates), ``energy``, ``q_active``, ``active``, ``similarity``, ``q_consistent``,
    ``consistent``, with `batch_key` ``across`` (mean cosine of the batches' profiles),
    ``q_replicated``, ``replicated``, and ``nearest``
    (names of the `k` most similar perturbations) with ``nearest_similarity`` (of the first).
    What was not tested, for too few replicates, is NaN and no hit. Kept in ``.uns[key_added]``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values, a batch without controls, or no perturbation with two replicates.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> genes = np.repeat(["NTC"] * 5 + [f"gene{i}" for i in range(20)], 4)
    >>> effect = np.repeat(rng.normal(size=(25, 8)) * (np.arange(25) > 14)[:, None], 4, axis=0)
    >>> obs = pd.DataFrame({"gene": genes}).rename(str)
    >>> guides = ad.AnnData(2 * effect + rng.normal(size=(100, 8)), obs=obs)
    >>> table = cf.tl.hits(guides, by="gene", control="NTC", n_null=999)
    >>> active = [f"gene{i}" for i in range(10, 20)]
    >>> bool(table["hit"].iloc[0]), bool(table.loc[active, "hit"].all())
    (True, True)
    """
    adata = profiles_only(adata)
    by = one_column(by, name="by")
    check_level(alpha)
    check_key(key_added)
    values = dense_rows(adata, use_rep)
    labels = context_labels(adata, by)
    is_control = control_rows(labels.to_numpy(str), control)
    columns = [by, *column_list(batch_key)]
    # The verbs keep their tables in `.uns`: on a work piece, so that only one is kept here.
    work = AnnData(values, obs=adata.obs[list(dict.fromkeys(columns))].copy())
    others = work[~is_control].copy()
    active = perturbation_magnitude(
        work,
        by=by,
        control=control,
        batch_key=batch_key,
        min_replicates=MIN_REPLICATES,
        n_null=n_null,
        alpha=alpha,
        n_boot=0,
        seed=seed,
    )
    agree = perturbation_consistency(
        others, by=by, control=None, n_null=n_null, alpha=alpha, n_boot=0, seed=seed
    )
    table = pd.DataFrame({"hit": False, "effect": np.nan, "n": active["n"]}, index=active.index)
    table.index.name = by
    table["energy"], table["q_active"] = active["energy"], active["qvalue"]
    table["active"] = active["significant"]
    table["similarity"], table["q_consistent"] = agree["similarity"], agree["qvalue"]
    table["consistent"] = agree["significant"].reindex(table.index, fill_value=False)
    hit = table["active"] & table["consistent"]
    if batch_key is not None:
        found = perturbation_consistency(
            _by_batch(others, by, batch_key),
            by=by,
            control=None,
            n_null=n_null,
            alpha=alpha,
            n_boot=0,
            seed=seed,
        )
        table["across"], table["q_replicated"] = found["similarity"], found["qvalue"]
        table["replicated"] = found["significant"].reindex(table.index, fill_value=False)
        hit &= table["replicated"]
    table["hit"] = hit.astype(bool)
    means = _effects(values, labels.to_numpy(str), is_control, table.index)
    table["effect"] = np.linalg.norm(means, axis=1)
    table = _with_nearest(table, means, k)
    table = table.sort_values(["hit", "effect"], ascending=False, kind="stable")
    params = {
        "by": by,
        "control": as_json(control),
        "batch_key": as_json(batch_key),
        "n_null": n_null,
        "alpha": alpha,
        "use_rep": use_rep or "X",
        "seed": seed,
    }
    adata.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info("hits: %d of %d perturbations.", int(table["hit"].sum()), len(table))
    return table


def _by_batch(adata: AnnData, by: str, batch_key: str | list[str]) -> AnnData:
    """One profile per perturbation and batch."""
    return aggregate(adata, by=[by, *column_list(batch_key)], use_rep=None)


def _effects(values: NDArray, labels: NDArray, is_control: NDArray, names: pd.Index) -> NDArray:
    """Mean of each perturbation, less the controls', in units of the controls' spread."""
    centre = values[is_control].mean(axis=0)
    spread = np.sqrt(((values[is_control] - centre) ** 2).sum(axis=1).mean())
    codes = names.get_indexer(pd.Index(labels))
    return (group_means(values, codes, len(names)) - centre) / (spread or 1.0)


def _with_nearest(table: pd.DataFrame, means: NDArray, k: int) -> pd.DataFrame:
    profiles = AnnData(means, obs=pd.DataFrame(index=table.index.astype(str)))
    near = nearest_perturbations(profiles, k=min(k, len(table) - 1))
    grouped = near.groupby("perturbation", sort=False)
    table["nearest"] = grouped["neighbour"].agg(", ".join).reindex(table.index.astype(str)).values
    first = grouped["similarity"].first().reindex(table.index.astype(str))
    table["nearest_similarity"] = first.to_numpy()
    return table
