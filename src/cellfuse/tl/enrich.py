"""What the hits have in common: gene sets, mechanisms, complexes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pandas as pd
from anndata import AnnData

from cellfuse._access import check_key, label_list, label_text
from cellfuse._decoupler import import_decoupler
from cellfuse._errors import listing, missing_key
from cellfuse.tl._summary import check_level
from cellfuse.tl.enrichment import Sets, _network, _sizes

__all__ = ["enrich"]

logger = logging.getLogger("cellfuse")


def enrich(
    hits: AnnData | pd.DataFrame | Iterable[str],
    sets: Sets,
    *,
    background: Iterable[str] | None = None,
    column: str = "hit",
    min_size: int = 5,
    max_size: int = 500,
    alpha: float = 0.05,
    key: str = "hits",
    key_added: str = "enrich",
) -> pd.DataFrame:
    """Test which sets the hits are in more often than the other perturbations of the screen.

    Fisher's exact test of each set, by decoupler; the background are the perturbations that were
    tested, never the genome: a library of kinases is enriched for kinases before anything is
    measured. Needs the extra ``pip install 'cellfuse[enrichment]'``.

    Parameters
    ----------
    hits
        What :func:`hits` returned or was run on; any table with a column of True and False, one
        row per perturbation; or the names of the hits, with `background`.
    sets
        A GMT file; a data frame with the columns ``source`` (the set) and ``target`` (the gene or
        compound), such as ``decoupler.op.hallmark()`` or :func:`cellfuse.datasets.reactome`
        gives; or ``{set: names}``.
    background
        All perturbations that could have been hits; None: the rows of the table.
    column
        Column of the table that tells the hits, such as ``"active"``.
    min_size, max_size
        Perturbations of the screen in a set; smaller ones say little, larger ones everything.
    alpha
        Level on q-values (Benjamini-Hochberg).
    key
        Key of ``.uns`` with the table, where an AnnData is given.
    key_added
        Key of ``.uns`` for the result, where an AnnData is given.

    Returns
    -------
    One row per set, by p-value: ``term``, ``odds_ratio`` (log), ``n_hits`` (hits in the set),
    ``n_genes`` (perturbations of the screen in the set), ``expected`` (hits in it by chance),
    ``pvalue``, ``qvalue``, ``significant``, ``hits`` (their names).

    Raises
    ------
    ImportError
        decoupler is not installed.
    KeyError
        :func:`hits` was not run, or the column is absent.
    ValueError
        Names without a background, no hit, nothing but hits, or no set of a usable size.

    Examples
    --------
    >>> import cellfuse as cf
    >>> genes = [f"G{i}" for i in range(100)]
    >>> sets = {"ribosome": genes[:10], "other": genes[40:60]}
    >>> table = cf.tl.enrich(genes[:8] + genes[90:92], sets, background=genes)
    >>> table[["term", "n_hits", "significant"]].values.tolist()
    [['ribosome', 8, True], ['other', 0, False]]
    """
    check_level(alpha)
    check_key(key_added)
    found, every = _called(hits, background, column, key)
    network = _network(sets)
    sizes = _sizes(network, pd.Index(every), min_size, max_size)
    network = network[network["source"].isin(sizes.index) & network["target"].isin(every)]
    dc = import_decoupler()
    # Which sets are used was decided above.
    tested = dc.mt.query_set(features=found, net=network, n_bg=len(every), tmin=1)
    tested = tested.rename(
        columns={"source": "term", "stat": "odds_ratio", "pval": "pvalue", "padj": "qvalue"}
    )
    members = network[network["target"].isin(found)].groupby("source")["target"]
    names = members.agg(lambda part: ", ".join(sorted(part)))
    counts = members.size()
    table = tested[["term", "odds_ratio"]].copy()
    table["n_hits"] = counts.reindex(table["term"], fill_value=0).to_numpy()
    table["n_genes"] = sizes.loc[table["term"]].to_numpy()
    table["expected"] = table["n_genes"] * len(found) / len(every)
    table[["pvalue", "qvalue"]] = tested[["pvalue", "qvalue"]]
    table["significant"] = table["qvalue"] < alpha
    table["hits"] = names.reindex(table["term"], fill_value="").to_numpy()
    table = table.sort_values(["pvalue", "term"], kind="stable", ignore_index=True)
    params = {"column": column, "n_hits": len(found), "n_background": len(every), "alpha": alpha}
    if isinstance(hits, AnnData):
        hits.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info(
        "enrich: %d of %d sets among %d hits.",
        int(table["significant"].sum()),
        len(table),
        len(found),
    )
    return table


def _called(
    hits: AnnData | pd.DataFrame | Iterable[str],
    background: Iterable[str] | None,
    column: str,
    key: str,
) -> tuple[list[str], list[str]]:
    """Names of the hits, and of all that could have been."""
    if isinstance(hits, AnnData):
        if key not in hits.uns:
            raise missing_key(key, list(hits.uns), what="uns", fix="Run `cellfuse.tl.hits` first.")
        hits = hits.uns[key]["table"]
    if isinstance(hits, pd.DataFrame):
        if column not in hits.columns:
            raise missing_key(column, list(hits.columns), what="the columns of the table")
        every = label_text(hits.index).tolist() if background is None else label_list(background)
        found = label_text(hits.index)[hits[column].to_numpy(bool)].tolist()
    else:
        if background is None:
            raise ValueError(
                "names of hits need a `background`: the names of all perturbations that were "
                "tested."
            )
        found, every = label_list(hits), label_list(background)
    every = list(dict.fromkeys(every))
    strange = sorted(set(found) - set(every))
    if strange:
        raise ValueError(f"{len(strange)} hits are not in the background: {listing(strange)}.")
    found = sorted(set(found))
    if not found or len(found) == len(every):
        what = "no perturbation is a hit" if not found else "every perturbation is a hit"
        raise ValueError(f"{what}: there is nothing to test.")
    return found, every
