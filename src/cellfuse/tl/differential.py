"""Concepts that a perturbation switches on or off (PETRI, 4.3, Fig. 5a)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from cellfuse._access import (
    Data,
    context_labels,
    control_mask,
    modalities,
    one_column,
    per_modality,
    where,
)
from cellfuse.kernels.rank_tests import RankSums, rank_sums, two_sided
from cellfuse.tl._concepts import REP, activations_of, keep_table
from cellfuse.tl._summary import check_level

__all__ = ["differential_concepts"]

logger = logging.getLogger("cellfuse")

#: Groups whose p-values exist together.
BLOCK = 64


@dataclass(frozen=True)
class _Groups:
    """Perturbations with enough cells; code -1 is the control, -2 takes no part."""

    names: pd.Index
    codes: NDArray[np.int64]
    n_cells: pd.Series


def differential_concepts(
    data: Data,
    by: str,
    *,
    control: str | list[str],
    control_key: str | None = None,
    batch_key: str | None | Mapping[str, str | None] = None,
    alpha: float = 0.05,
    correct_over: Literal["all", "perturbation"] = "all",
    min_cells: int = 10,
    use_rep: str = REP,
    key_added: str = "differential_concepts",
) -> pd.DataFrame:
    """Test every concept of every perturbation against the controls (PETRI, 4.3, Fig. 5a).

    Mann-Whitney, two-sided, with ties and continuity corrected, for each modality by itself;
    Benjamini-Hochberg over all tests of the modality. The paper names neither the test nor what
    is corrected together; these are settled here.

    Parameters
    ----------
    data
        AnnData, or a MuData and then every modality of it.
    by
        obs column of the perturbation (gene, guide, compound).
    control
        Label or labels of the controls, in every modality.
    control_key
        obs column of `control`; None is `by`.
    batch_key
        obs column of the well or plate: cells are compared with the controls of their own batch,
        and the batches' statistics are added up (van Elteren without weights). Cells of one well
        are more alike than cells of two; without it a well that holds much of a perturbation and
        few controls looks like an effect. None compares all cells together (paper).
    alpha
        False discovery rate, .05.
    correct_over
        ``"all"``: perturbations and concepts of a modality together, so that a screen without
        effects has with 95% no hit at all. ``"perturbation"``: each perturbation by itself, so
        that one in twenty has a hit by chance.
    min_cells
        Perturbations with fewer cells in a modality are not tested there.
    use_rep
        obsm key of the activations (any non-negative matrix), ``(cells, concepts)``.
    key_added
        Key of ``data.uns``.

    Returns
    -------
    One row per significant test: ``group`` (the perturbation), ``modality``, ``concept``, ``auc``
    (chance that a cell of the perturbation has the higher activation than a control; .5 is no
    difference), ``fraction`` and ``fraction_control`` (cells in which it is active), ``pvalue``,
    ``qvalue``, ``significant``. By modality, group and ``pvalue``.

    ``uns[key_added]`` keeps it as ``"table"``; ``"counts"`` has a row per perturbation and the
    columns ``n_<modality>`` (significant concepts, NaN where not tested) and
    ``cells_<modality>``; and ``"params"``.

    Raises
    ------
    KeyError
        A column is absent, or a modality has no control.
    ValueError
        Fewer than `min_cells` controls, nothing to test, negative activations, a level that is
        none.

    Notes
    -----
    Cells are taken as independent, which they are not quite: `pvalue` is of these cells, not of
    further replicates of the screen.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, scipy.sparse as sp
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> guide = np.repeat(["control", "A", "B"], 100)
    >>> active = rng.random((300, 40)) * (rng.random((300, 40)) < 0.3)
    >>> active[guide == "A", 7] = 1.0
    >>> cells = ad.AnnData(obs=pd.DataFrame({"guide": guide}, index=np.arange(300).astype(str)))
    >>> cells.obsm["X_concepts"] = sp.csr_matrix(active)
    >>> table = cf.tl.differential_concepts(cells, "guide", control="control")
    >>> table[["group", "concept", "fraction"]].values.tolist()
    [['A', 7, 1.0]]
    """
    check_level(alpha)
    by = one_column(by, name="by")
    if correct_over not in ("all", "perturbation"):
        raise ValueError(f"correct_over={correct_over!r}: expected 'all' or 'perturbation'.")
    if min_cells < 2:
        raise ValueError(f"min_cells={min_cells}: expected at least 2.")
    tables, counts = [], []
    matrices = activations_of(data, use_rep)
    chosen = {
        name: _groups(adata, by, control, control_key or by, min_cells, name)
        for name, adata in modalities(data).items()
    }
    for name, adata in modalities(data).items():
        batch = per_modality(batch_key, name, name="batch_key")
        groups = chosen[name]
        found = _tested(adata, matrices[name], groups, batch, name)
        table = _significant(found, alpha, correct_over)
        n_found = np.bincount(table["group"].to_numpy(np.int64), minlength=len(groups.names))
        table["group"] = groups.names.to_numpy(object)[table["group"].to_numpy(np.int64)]
        table.insert(1, "modality", name)
        table.insert(5, "fraction_control", _share(matrices[name], groups.codes == -1, table))
        tables.append(table)
        suffix = f"_{name}" if name else ""
        counts.append(pd.Series(n_found, index=groups.names, name=f"n{suffix}", dtype="float64"))
        counts.append(groups.n_cells.rename(f"cells{suffix}"))
        logger.info(
            "differential_concepts%s: %d of %d perturbations have a concept (q < %g).",
            where(name),
            int((n_found > 0).sum()),
            len(groups.names),
            alpha,
        )
    result = pd.concat(tables, ignore_index=True)
    summary = pd.concat(counts, axis=1)
    summary.index.name = by
    params = {
        "by": by,
        "control_key": control_key or by,
        "alpha": alpha,
        "correct_over": correct_over,
        "min_cells": min_cells,
        "use_rep": use_rep,
        "modalities": list(matrices),
    }
    keep_table(data, key_added, {"table": result, "counts": summary}, params)
    return result


def _groups(
    adata: AnnData,
    by: str,
    control: str | list[str],
    control_key: str,
    min_cells: int,
    modality: str,
) -> _Groups:
    is_control = control_mask(adata, control_key, control, modality=modality)
    if is_control.sum() < min_cells:
        raise ValueError(
            f"only {int(is_control.sum())} control cells{where(modality)}; expected at least "
            f"min_cells={min_cells}."
        )
    label = context_labels(adata, by, modality=modality).to_numpy()
    n_cells = pd.Series(label[~is_control]).value_counts().sort_index()
    names = n_cells.index[n_cells >= min_cells]
    if not len(names):
        raise ValueError(
            f"no perturbation of obs[{by!r}]{where(modality)} has min_cells={min_cells} cells "
            f"beside the controls; the most are {int(n_cells.max()) if len(n_cells) else 0}."
        )
    codes = pd.Index(names).get_indexer(pd.Index(label)).astype(np.int64)
    codes[codes < 0] = -2
    codes[is_control] = -1
    return _Groups(pd.Index(names), codes, n_cells)


def _tested(
    adata: AnnData,
    values: sparse.csr_matrix,
    groups: _Groups,
    batch_key: str | None,
    modality: str,
) -> RankSums:
    """Statistics of all groups; with batches, the sums over them."""
    n = len(groups.names)
    if batch_key is None:
        return rank_sums(values, groups.codes, n)
    batch = context_labels(adata, batch_key, modality=modality).to_numpy()
    total: RankSums | None = None
    left_out = 0
    for name in np.unique(batch):
        rows = np.flatnonzero(batch == name)
        if not (groups.codes[rows] == -1).any():
            left_out += len(rows)
            continue
        part = rank_sums(values[rows], groups.codes[rows], n)
        total = part if total is None else _sum(total, part)
    assert total is not None  # some batch has the controls
    if left_out:
        logger.info(
            "differential_concepts%s: %d cells are in batches without controls and were not used.",
            where(modality),
            left_out,
        )
    return total


def _sum(a: RankSums, b: RankSums) -> RankSums:
    """Both batches together; the pairs that were compared are those within each."""
    a.shift[...] += b.shift
    a.variance[...] += b.variance
    a.positive[...] += b.positive
    return RankSums(
        a.shift,
        a.variance,
        a.positive,
        a.n_group + b.n_group,
        a.n_reference + b.n_reference,
        a.n_pairs + b.n_pairs,
    )


def _significant(found: RankSums, alpha: float, over: str) -> pd.DataFrame:
    """Significant tests; p-values that cannot be are dropped block by block."""
    n_groups, n_concepts = found.shift.shape
    parts: list[pd.DataFrame] = []
    n_tests = np.zeros(n_groups, np.int64)
    for start in range(0, n_groups, BLOCK):
        block = slice(start, min(start + BLOCK, n_groups))
        variance = found.variance[block]
        n_tests[block] = (variance > 0).sum(axis=1)  # a concept that nobody has is no test
        pvalue = two_sided(found.shift[block], variance)
        group, concept = np.nonzero((pvalue < alpha) & (variance > 0))
        parts.append(
            pd.DataFrame(
                {"group": group + start, "concept": concept, "pvalue": pvalue[group, concept]}
            )
        )
    table = pd.concat(parts, ignore_index=True)
    if over == "all":
        table["qvalue"] = _qvalues(table["pvalue"].to_numpy(), int(n_tests.sum()))
    else:
        q = np.empty(len(table))
        of_group = table["group"].to_numpy()
        for group in np.unique(of_group):
            rows = np.flatnonzero(of_group == group)
            q[rows] = _qvalues(table["pvalue"].to_numpy()[rows], int(n_tests[group]))
        table["qvalue"] = q
    table = table[table["qvalue"] < alpha].sort_values(["group", "pvalue"], kind="stable")
    group, concept = table["group"].to_numpy(), table["concept"].to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        table.insert(2, "auc", 0.5 + found.shift[group, concept] / found.n_pairs[group])
        table.insert(3, "fraction", found.positive[group, concept] / found.n_group[group])
    table["significant"] = True
    return table.reset_index(drop=True)


def _qvalues(pvalue: NDArray, n_tests: int) -> NDArray:
    """Benjamini-Hochberg of the smallest p-values of `n_tests`; right for every q below them all.

    A p that was left out is at least the level, and so is its p n / rank, which is all that it
    could do to the others.
    """
    order = np.argsort(pvalue, kind="stable")
    scaled = pvalue[order] * n_tests / np.arange(1, len(pvalue) + 1)
    q = np.empty(len(pvalue))
    q[order] = np.minimum.accumulate(scaled[::-1])[::-1] if len(pvalue) else scaled
    return np.minimum(q, 1.0)


def _share(values: sparse.csr_matrix, rows: NDArray[np.bool_], table: pd.DataFrame) -> NDArray:
    """Share of the cells in `rows` in which each row's concept is active."""
    part = values[np.flatnonzero(rows)]
    active = np.bincount(part.indices[part.data > 0], minlength=values.shape[1])
    return (active / max(1, part.shape[0]))[table["concept"].to_numpy(np.int64)]
