"""What a concept looks like: image features and genes of its cells (PETRI, 4.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse
from scipy.stats import false_discovery_control, mannwhitneyu

from cellfuse._access import matrix_of
from cellfuse._errors import missing_key
from cellfuse.tl._concepts import REP, activations_of, chosen_concepts, keep_table, one_modality
from cellfuse.tl._summary import check_level

__all__ = ["concept_features"]

logger = logging.getLogger("cellfuse")

#: Cells of either side below which a concept is not tested in a modality.
MIN_CELLS = 5


def concept_features(
    data: MuData,
    *,
    concepts: Sequence[int] | None = None,
    images: str | None = "image",
    rna: str | None = "rna",
    measures: str = "X_measures",
    rna_layer: str | None = None,
    quantile: float = 0.99,
    method: Literal["t-test", "t-test_overestim_var", "wilcoxon"] = "t-test",
    max_cells: int = 10_000,
    alpha: float = 0.05,
    use_rep: str = REP,
    key_added: str = "concept_features",
    seed: int = 0,
) -> pd.DataFrame:
    """Compare the cells that have a concept with those that do not (PETRI, 4.3).

    In each modality, cells above the `quantile` of a concept's activation against cells with none
    at all: image features by Mann-Whitney, genes by scanpy's test. Benjamini-Hochberg over all
    concepts and features of a modality.

    Parameters
    ----------
    data
        MuData with activations of concepts in its modalities.
    concepts
        Numbers of the concepts; None: the multimodal ones (:func:`multimodal_concepts`).
    images, rna
        Names of the two modalities; None leaves one out.
    measures
        obsm key of the image features, as :func:`cellfuse.pp.measure_crops` writes them.
    rna_layer
        Layer of log-normalised expression; None is X. Counts are refused.
    quantile
        Cells from it on have the concept, .99 (paper); taken over all cells of the modality. A
        concept that fewer have: all cells in which it is active. With few cells, where one in a
        hundred is no group, take .9.
    method
        Test of ``scanpy.tl.rank_genes_groups``. Welch's by default, as scanpy's own: Wilcoxon
        takes minutes per concept on a whole transcriptome.
    max_cells
        Cells of either side; more are drawn from at random.
    alpha
        False discovery rate.
    use_rep
        obsm key of the activations.
    key_added
        Key of ``data.uns``.
    seed
        Of the draw where there are more than `max_cells`.

    Returns
    -------
    One row per concept: ``n_image_features`` and ``n_genes`` (significant ones), ``n_high`` and
    ``n_zero`` cells of each modality. ``uns[key_added]`` keeps it as ``"table"``, and

    - ``"images"``: a row per concept and feature: ``concept``, ``modality``, ``feature``,
      ``difference`` (in standard deviations), ``auc``, ``pvalue``, ``qvalue``, ``significant``;
    - ``"genes"``: the significant ones: ``concept``, ``modality``, ``gene``, ``score`` (the test
      statistic), ``logfoldchange``, ``pvalue``, ``qvalue``, ``significant``;
    - ``"scores"``: statistic of every gene, ``(concepts, genes)``, for
      :func:`concept_enrichment`.

    Raises
    ------
    KeyError
        A modality, measures or layer is absent; no concepts were counted or named.
    ValueError
        Counts instead of log-normalised expression, a concept out of range, no concept with
        enough cells on either side.

    Examples
    --------
    >>> import anndata as ad, mudata as md, numpy as np, pandas as pd, scipy.sparse as sp
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> active = (np.arange(60) < 20).astype("f4")[:, None]
    >>> image = ad.AnnData(obs=pd.DataFrame(index=[f"i{k}" for k in range(60)]))
    >>> image.obsm["X_measures"] = pd.DataFrame(
    ...     {"nucleus_area": rng.normal(size=60) + 3 * active[:, 0]}, index=image.obs_names
    ... )
    >>> image.obsm["X_concepts"] = sp.csr_matrix(active)
    >>> mdata = md.MuData({"image": image})
    >>> cf.tl.concept_features(mdata, concepts=[0], rna=None)["n_image_features"].tolist()
    [1]
    """
    check_level(alpha)
    if not 0 < quantile < 1:
        raise ValueError(f"quantile={quantile}: expected a share between 0 and 1.")
    if max_cells < MIN_CELLS:
        raise ValueError(f"max_cells={max_cells}: expected at least {MIN_CELLS}.")
    if images is None and rna is None:
        raise ValueError("`images` and `rna` are both None: nothing to compare.")
    named = {"image": images, "rna": rna}
    sides = {role: one_modality(data, name) for role, name in named.items() if name is not None}
    matrices = activations_of(data, use_rep)
    chosen = chosen_concepts(data, concepts, next(iter(matrices.values())).shape[1])
    table = pd.DataFrame(index=pd.Index(chosen, name="concept"))
    kept: dict[str, pd.DataFrame] = {}
    for role, adata in sides.items():
        name = str(named[role])
        cells = _cells(matrices[name], chosen, quantile, max_cells, seed)
        table[f"n_high_{name}"] = [len(high) for high, _ in cells]
        table[f"n_zero_{name}"] = [len(zero) for _, zero in cells]
        if role == "image":
            found = _image_tests(adata, measures, chosen, cells, alpha)
            kept["images"] = found.assign(modality=name)
            column = "n_image_features"
        else:
            kept["scores"], found = _gene_tests(adata, rna_layer, chosen, cells, method, alpha)
            kept["genes"] = found.assign(modality=name)
            column = "n_genes"
        count = found[found["significant"]].groupby("concept").size()
        table[column] = count.reindex(chosen, fill_value=0).to_numpy()
    both = [c for c in ("n_image_features", "n_genes") if c in table]
    logger.info(
        "concept_features: %d of %d concepts have %s.",
        int((table[both] > 0).all(axis=1).sum()),
        len(table),
        " and ".join(name[2:].replace("_", " ") for name in both),
    )
    params = {
        "quantile": quantile,
        "method": method,
        "alpha": alpha,
        "use_rep": use_rep,
        "measures": measures,
        "images": images,
        "rna": rna,
    }
    keep_table(data, key_added, {"table": table, **kept}, params)
    return table


Cells = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def _cells(
    values: sparse.csr_matrix, concepts: NDArray, quantile: float, max_cells: int, seed: int
) -> Cells:
    """Rows above the quantile and rows at zero, for each concept."""
    columns = values[:, concepts].tocsc()
    rng = np.random.default_rng(seed)
    n = columns.shape[0]
    found = []
    for j in range(len(concepts)):
        value = np.zeros(n, np.float32)
        part = slice(columns.indptr[j], columns.indptr[j + 1])
        value[columns.indices[part]] = columns.data[part]
        bound = float(np.quantile(value, quantile))
        high = value >= bound if bound > 0 else value > 0
        sides = []
        for rows in (np.flatnonzero(high), np.flatnonzero(value == 0)):
            if len(rows) > max_cells:
                rows = np.sort(rng.choice(rows, max_cells, replace=False))
            sides.append(rows)
        found.append((sides[0], sides[1]))
    return found


def _enough(high: NDArray, zero: NDArray) -> bool:
    return min(len(high), len(zero)) >= MIN_CELLS


def _image_tests(
    adata: AnnData, key: str, concepts: NDArray, cells: Cells, alpha: float
) -> pd.DataFrame:
    if key not in adata.obsm:
        raise missing_key(
            key,
            list(adata.obsm),
            what="obsm of the images",
            fix="Measure the crops first: `cellfuse.pp.measure_crops(mdata['image'], ...)`.",
        )
    features = adata.obsm[key]
    if not isinstance(features, pd.DataFrame):
        features = pd.DataFrame(np.asarray(features))
    values = features.to_numpy(np.float64)
    names = features.columns.astype(str).to_numpy(object)
    with np.errstate(invalid="ignore"):
        sd = np.nanstd(np.where(np.isfinite(values), values, np.nan), axis=0)
    parts = []
    for concept, (high, zero) in zip(concepts, cells, strict=True):
        if not _enough(high, zero):
            continue
        a, b = values[high], values[zero]
        usable = _usable(a) & _usable(b) & (sd > 0)
        if not usable.any():
            continue
        test = mannwhitneyu(
            a[:, usable], b[:, usable], method="asymptotic", nan_policy="omit", axis=0
        )
        n = np.isfinite(a[:, usable]).sum(axis=0) * np.isfinite(b[:, usable]).sum(axis=0)
        difference = np.nanmean(a[:, usable], axis=0) - np.nanmean(b[:, usable], axis=0)
        parts.append(
            pd.DataFrame(
                {
                    "concept": concept,
                    "feature": names[usable],
                    "difference": difference / sd[usable],
                    "auc": np.asarray(test.statistic) / n,
                    "pvalue": np.asarray(test.pvalue),
                }
            )
        )
    return _corrected(parts, alpha, "images")


def _usable(values: NDArray) -> NDArray[np.bool_]:
    """Features that enough of the cells have."""
    return np.isfinite(values).sum(axis=0) >= MIN_CELLS


def _corrected(parts: list[pd.DataFrame], alpha: float, what: str) -> pd.DataFrame:
    if not parts:
        raise ValueError(
            f"no concept has {MIN_CELLS} cells with it and {MIN_CELLS} without it among the {what}."
        )
    table = pd.concat(parts, ignore_index=True)
    table["pvalue"] = table["pvalue"].fillna(1.0)  # a feature that is constant in both
    table["qvalue"] = false_discovery_control(table["pvalue"].to_numpy())
    table["significant"] = table["qvalue"] < alpha
    return table


def _gene_tests(
    adata: AnnData,
    layer: str | None,
    concepts: NDArray,
    cells: Cells,
    method: str,
    alpha: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Statistic of every gene, and the significant ones."""
    import scanpy as sc

    values = _expression(adata, layer)
    genes = adata.var_names.astype(str)
    scores = np.zeros((len(concepts), len(genes)), np.float32)
    pvalues = np.ones(scores.shape)
    changes = np.zeros(scores.shape, np.float32)
    tested = np.zeros(len(concepts), bool)
    for k, (high, zero) in enumerate(cells):
        if not _enough(high, zero):
            continue
        side = pd.Categorical.from_codes(
            np.repeat([0, 1], [len(high), len(zero)]), categories=pd.Index(["high", "zero"])
        )
        names = pd.Index(np.arange(len(side)).astype(str))
        part = AnnData(
            values[np.concatenate([high, zero])],
            obs=pd.DataFrame({"side": side}, index=names),
            var=pd.DataFrame(index=genes),
        )
        sc.tl.rank_genes_groups(part, "side", groups=["high"], reference="zero", method=method)
        frame = sc.get.rank_genes_groups_df(part, "high").set_index("names").reindex(genes)
        scores[k] = frame["scores"].fillna(0.0).to_numpy()
        pvalues[k] = frame["pvals"].fillna(1.0).to_numpy()
        changes[k] = frame["logfoldchanges"].replace([np.inf, -np.inf], np.nan).fillna(0.0)
        tested[k] = True
    if not tested.any():
        _corrected([], alpha, "expression profiles")
    q = np.ones_like(pvalues)
    q[tested] = false_discovery_control(pvalues[tested].ravel()).reshape(-1, len(genes))
    row, column = np.nonzero(q < alpha)
    table = pd.DataFrame(
        {
            "concept": concepts[row],
            "gene": genes.to_numpy(object)[column],
            "score": scores[row, column],
            "logfoldchange": changes[row, column],
            "pvalue": pvalues[row, column],
            "qvalue": q[row, column],
            "significant": True,
        }
    ).sort_values(["concept", "pvalue"], kind="stable", ignore_index=True)
    index = pd.Index(concepts[tested].astype(str), name="concept")
    return pd.DataFrame(scores[tested], index=index, columns=genes), table


def _expression(adata: AnnData, layer: str | None) -> sparse.csr_matrix:
    """Log-normalised expression; counts would let deep cells look like concepts."""
    stored, name = matrix_of(adata, layer, fix="give `rna_layer`")
    values = sparse.csr_matrix(stored)
    probe = values.data[:100_000]
    if not np.isfinite(values.data).all():
        raise ValueError(f"{name} of the expression holds NaN or infinite values.")
    if len(probe) and (probe == np.floor(probe)).all():
        raise ValueError(
            f"{name} holds counts; this test wants log-normalised expression: "
            "`sc.pp.normalize_total(adata); sc.pp.log1p(adata)` on a copy or layer, named by "
            "`rna_layer`."
        )
    return values
