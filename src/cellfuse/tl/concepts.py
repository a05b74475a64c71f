"""Concepts that both modalities have (PETRI, 4.3), and the search for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData

from cellfuse._access import Data, is_mudata
from cellfuse.tl._concepts import REP, activations_of, keep_table

__all__ = ["find_concepts", "multimodal_concepts"]


def multimodal_concepts(
    data: MuData,
    *,
    low: float = 0.1,
    high: float = 0.9,
    use_rep: str = REP,
    key_added: str = "multimodal_concepts",
) -> pd.DataFrame:
    """Find the concepts that are active in some cells of every modality (PETRI, 4.3, Fig. 5b).

    A concept is multimodal if the share of cells in which it is active (above 0) lies between
    `low` and `high` in each modality: what all cells have says as little as what none has.

    Parameters
    ----------
    data
        MuData whose modalities hold the activations of one :class:`cellfuse.Concepts`.
    low, high
        Shares of cells, .1 and .9 in the paper, ends included.
    use_rep
        obsm key of the activations, ``(cells, concepts)``, sparse.
    key_added
        Key of ``data.uns``.

    Returns
    -------
    One row per concept: ``fraction_<modality>``, the share of cells in which it is active, and
    ``multimodal``. ``uns[key_added]`` keeps it as ``"table"``, with ``"params"``.

    Raises
    ------
    KeyError
        A modality lacks the activations.
    ValueError
        Fewer than two modalities, activations that are negative, NaN or of different numbers of
        concepts, shares out of order.

    Examples
    --------
    >>> import anndata as ad, mudata as md, numpy as np, scipy.sparse as sp
    >>> import cellfuse as cf
    >>> active = {"image": [[1, 0, 2], [1, 3, 0]], "rna": [[4, 0, 0], [1, 1, 0]]}
    >>> mods = {}
    >>> for name, rows in active.items():
    ...     mods[name] = ad.AnnData(obsm={"X_concepts": sp.csr_matrix(np.array(rows, "f4"))})
    ...     mods[name].obs_names = [f"{name}{i}" for i in range(2)]
    >>> mdata = md.MuData(mods)
    >>> cf.tl.multimodal_concepts(mdata)
             fraction_image  fraction_rna  multimodal
    concept
    0                   1.0           1.0       False
    1                   0.5           0.5        True
    2                   0.5           0.0       False
    """
    if not is_mudata(data) or len(data.mod) < 2:
        raise ValueError("a concept is multimodal in a MuData with at least two modalities.")
    if not 0 <= low <= high <= 1:
        raise ValueError(f"low={low}, high={high}: expected shares, 0 <= low <= high <= 1.")
    matrices = activations_of(data, use_rep)
    fractions = {
        f"fraction_{name}": np.bincount(m.indices[m.data > 0], minlength=m.shape[1]) / m.shape[0]
        for name, m in matrices.items()
    }
    table = pd.DataFrame(fractions)
    table.index.name = "concept"
    shares = table.to_numpy()
    table["multimodal"] = np.all((shares >= low) & (shares <= high), axis=1)
    params = {"low": low, "high": high, "use_rep": use_rep, "modalities": list(matrices)}
    keep_table(data, key_added, {"table": table}, params)
    return table


#: Where a concept is looked for: key of `.uns`, table in it, column with the names, column with
#: the direction, kind of the find, and the tool that writes it.
PLACES = (
    ("concept_enrichment", "table", "term", "score", "term"),
    ("concept_features", "genes", "gene", "score", "gene"),
    ("concept_features", "images", "feature", "difference", "image feature"),
    ("differential_concepts", "table", "group", "auc", "perturbation"),
)


def find_concepts(
    data: Data,
    query: str,
    *,
    keys: Mapping[str, str] | None = None,
    significant: bool = True,
) -> pd.DataFrame:
    """Search concepts by a word in their terms, genes, image features and perturbations.

    What is searched is what the tools have written into ``.uns``:
    :func:`concept_enrichment` (terms), :func:`concept_features` (genes and image features) and
    :func:`differential_concepts` (perturbations).

    Parameters
    ----------
    data
        Data on which the tools were run.
    query
        Part of a name, in any case: ``"lipid"`` finds ``GOBP_LIPID_STORAGE``.
    keys
        Keys of ``.uns`` where they differ from the tools' own, such as
        ``{"concept_enrichment": "hallmarks"}``.
    significant
        Only what is significant (paper); False searches everything that was tested.

    Returns
    -------
    One row per find: ``concept``, ``kind`` (``"term"``, ``"gene"``, ``"image feature"``,
    ``"perturbation"``), ``name``, ``modality``, ``direction`` (1 where the concept's cells have
    more of it, -1 where they have less), ``qvalue`` and, where that is known, ``multimodal``.
    Names that are the query itself come first, then by ``qvalue``.

    Raises
    ------
    KeyError
        None of the tools was run.
    ValueError
        An empty query.

    Examples
    --------
    >>> import anndata as ad, pandas as pd
    >>> import cellfuse as cf
    >>> adata = ad.AnnData(shape=(1, 1))
    >>> table = pd.DataFrame(
    ...     {"concept": [3, 5], "term": ["LIPID_STORAGE", "CELL_CYCLE"], "score": [2.1, -1.7]}
    ... ).assign(qvalue=0.01, significant=True)
    >>> adata.uns["concept_enrichment"] = {"table": table}
    >>> cf.tl.find_concepts(adata, "lipid")[["concept", "name", "direction"]].values.tolist()
    [[3, 'LIPID_STORAGE', 1]]
    """
    word = str(query).strip().casefold()
    if not word:
        raise ValueError("the query is empty; give a part of a term, a gene or a perturbation.")
    names = dict(keys or {})
    searched, finds = False, []
    for key, part, column, direction, kind in PLACES:
        kept = data.uns.get(names.get(key, key), {})
        if part not in kept:
            continue
        searched = True
        table = kept[part]
        hit = table[column].astype(str).str.casefold().str.contains(word, regex=False)
        if significant:
            hit &= table["significant"].astype(bool)
        finds.append(_finds(table[hit.to_numpy()], column, direction, kind))
    if not searched:
        raise KeyError(
            "nothing to search: run `cellfuse.tl.concept_enrichment`, `concept_features` or "
            "`differential_concepts` first (or name their keys with `keys`)."
        )
    found = pd.concat(finds, ignore_index=True)
    known = data.uns.get(names.get("multimodal_concepts", "multimodal_concepts"))
    if known is not None:
        multimodal = known["table"]["multimodal"].to_numpy(bool)
        found["multimodal"] = multimodal[found["concept"].to_numpy(np.int64)]
    exact = found["name"].str.casefold() != word
    order = pd.DataFrame({"a": exact, "q": found["qvalue"]}).sort_values(["a", "q"], kind="stable")
    return found.loc[order.index].reset_index(drop=True)


def _finds(table: pd.DataFrame, column: str, direction: str, kind: str) -> pd.DataFrame:
    values = table[direction].to_numpy(np.float64)
    centre = 0.5 if direction == "auc" else 0.0
    found: dict[str, Any] = {
        "concept": table["concept"].to_numpy(np.int64),
        "kind": kind,
        "name": table[column].astype(str).to_numpy(),
        "modality": table["modality"].to_numpy() if "modality" in table else "",
        "direction": np.sign(values - centre).astype(np.int64),
        "qvalue": table["qvalue"].to_numpy(np.float64),
    }
    return pd.DataFrame(found)
