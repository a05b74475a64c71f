"""Which contexts take part, and other contexts made from a table."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from cellfuse._access import (
    Data,
    check_key,
    check_rows,
    context_labels,
    is_mudata,
    modalities,
    pair_labels,
    per_modality,
    refuse_view,
    where,
)
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import PROVENANCE
from cellfuse._renamed import renamed

__all__ = ["filter_contexts", "map_contexts"]

logger = logging.getLogger("cellfuse")


def filter_contexts(
    data: Data,
    *,
    context_keys: str | list[str],
    min_cells: int | Mapping[str, int],
    copy: bool = True,
) -> Data:
    """Keep the cells of contexts that have enough cells in each modality.

    Parameters
    ----------
    data
        AnnData, or MuData. It is not changed.
    context_keys
        obs column or columns, present in every modality, whose joint value is the context.
    min_cells
        Smallest number of cells of a context in each modality, or a dict per modality. A context
        that is absent from a modality has 0 there.
    copy
        Return an object of its own; False returns a view, which costs no memory and cannot be
        written to by the verbs of this library.

    Returns
    -------
    The same kind of object with the cells that are left. The message (logger ``"cellfuse"``)
    says how many contexts and cells went.

    Raises
    ------
    KeyError
        A column is absent.
    ValueError
        A label is missing, or no context has enough cells.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> cells = ad.AnnData(
    ...     np.ones((5, 1)), obs=pd.DataFrame({"guide": list("aaabb")}, index=list("vwxyz"))
    ... )
    >>> cf.pp.filter_contexts(cells, context_keys="guide", min_cells=3).n_obs
    3
    """
    mods = modalities(data)
    labels = {m: context_labels(a, context_keys, modality=m) for m, a in mods.items()}
    counts = pd.DataFrame({m: label.value_counts() for m, label in labels.items()}).fillna(0)
    needed = {m: int(per_modality(min_cells, m, name="min_cells")) for m in mods}
    enough = (counts >= pd.Series(needed)).all(axis=1)
    if not enough.any():
        largest = counts.loc[counts.min(axis=1).nlargest(3).index].astype(int)
        raise ValueError(
            f"none of {len(counts)} contexts has the cells that min_cells={min_cells!r} asks for "
            f"in each modality; the largest have {largest.to_dict('index')}."
        )
    kept = counts.index[enough]
    masks = {m: label.isin(kept).to_numpy() for m, label in labels.items()}
    logger.info(
        "filter_contexts: kept %d of %d contexts; cells kept: %s.",
        len(kept),
        len(counts),
        ", ".join(f"{m or 'all'} {int(k.sum())} of {len(k)}" for m, k in masks.items()),
    )
    check_rows(data)
    chosen = data[_global_mask(data, masks) if is_mudata(data) else masks[""]]
    return chosen.copy() if copy else chosen


def _global_mask(mdata: Data, masks: Mapping[str, NDArray]) -> NDArray:
    """Rows of the MuData whose cells are kept in every modality that has them."""
    keep = np.ones(mdata.n_obs, dtype=bool)
    for modality, mask in masks.items():
        # obsmap holds 1 + the cell's row in the modality, 0 where it is absent.
        position = np.asarray(mdata.obsmap[modality]).ravel().astype(np.intp)
        present = position > 0
        keep[present] &= mask[position[present] - 1]
    return keep


@renamed(key="by")
def map_contexts(
    data: Data,
    table: pd.DataFrame,
    *,
    by: str = "gene",
    source: str = "source",
    target: str = "target",
    key_added: str = "topics",
    overwrite: bool = False,
) -> None:
    """Give cells other topics, such as the complexes or pathways of their gene.

    A gene may belong to several topics, so a cell may too: the topics are a membership matrix,
    which takes an obs column's place wherever a context is asked for.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality gets the same topics in the same order).
    table
        One row per membership.
    by
        obs column that is matched to `source`; cells without a label have no topic.
    source, target
        Columns of `table`: the gene, and its topic.
    key_added
        obsm key of the result.
    overwrite
        Replace an obsm entry of that name.

    Returns
    -------
    None. ``obsm[key_added]`` is a CSR matrix of uint8, shape (cells, topics), 1 for membership;
    ``uns["cellfuse"]["topics"][key_added]`` holds the topics' names: those of the table that have
    cells here, sorted. The message counts the cells without a topic.

    Raises
    ------
    KeyError
        A column is absent.
    ValueError
        No gene of the table is among the cells, or the obsm key is taken.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> cells = ad.AnnData(
    ...     np.ones((3, 1)), obs=pd.DataFrame({"gene": list("ABA")}, index=list("xyz"))
    ... )
    >>> table = pd.DataFrame({"source": ["A", "A", "B"], "target": ["c1", "c2", "c2"]})
    >>> cf.pp.map_contexts(cells, table, key_added="complex")
    >>> cells.obsm["complex"].toarray().tolist()
    [[1, 1], [0, 1], [1, 1]]
    """
    for column in (source, target):
        if column not in table.columns:
            raise missing_key(column, list(table.columns), what="the columns of `table`")
    check_key(key_added)
    mods = modalities(data)
    labels = {}
    for modality, adata in mods.items():
        refuse_view(adata, modality=modality)
        if key_added in adata.obsm and not overwrite:
            raise ValueError(
                f"obsm[{key_added!r}]{where(modality)} exists; choose another `key_added`, or "
                "pass `overwrite=True`."
            )
        labels[modality] = context_labels(adata, by, modality=modality, missing=True)
    topics, members = _memberships(labels, pair_labels(table, (source, target)).dropna())
    if not topics:
        here = pd.unique(pd.concat(labels.values()).dropna())
        raise ValueError(
            f"no gene of the table's {source!r} is in obs[{by!r}]: the table has "
            f"{listing(table[source].unique(), 3)}, the cells have {listing(here, 3)}. Are they "
            "named in the same way (symbols or identifiers, upper or lower case)?"
        )
    for modality, adata in mods.items():
        _store_topics(adata, key_added, topics, members[modality])
        without = int((np.diff(members[modality].indptr) == 0).sum())
        logger.info(
            "map_contexts%s: %d topics; %d of %d cells are in none.",
            where(modality),
            len(topics),
            without,
            adata.n_obs,
        )


def _memberships(
    labels: Mapping[str, pd.Series], table: pd.DataFrame
) -> tuple[list[str], dict[str, sparse.csr_matrix]]:
    table = table.drop_duplicates()
    table.columns = pd.Index(["source", "target"])
    here = pd.unique(pd.concat(labels.values()).dropna())
    table = table[table["source"].isin(here)]
    topic, topics = pd.factorize(table["target"], sort=True)
    gene, genes = pd.factorize(table["source"], sort=True)
    # One empty row at the end stands for every gene without a topic.
    by_gene = sparse.csr_matrix(
        (np.ones(len(table), dtype=np.uint8), (gene, topic)), shape=(len(genes) + 1, len(topics))
    )
    rows = {m: pd.Index(genes).get_indexer(column) for m, column in labels.items()}
    return list(topics), {m: by_gene[np.where(r < 0, len(genes), r)] for m, r in rows.items()}


def _store_topics(
    adata: AnnData, key_added: str, topics: list[str], membership: sparse.csr_matrix
) -> None:
    adata.obsm[key_added] = membership
    named = adata.uns.setdefault(PROVENANCE, {}).setdefault("topics", {})
    named[key_added] = np.array(topics, dtype=object)
