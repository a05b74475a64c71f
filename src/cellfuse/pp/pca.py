"""The plain embedding of counts: logarithm and principal components."""

from __future__ import annotations

import logging

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from cellfuse._access import matrix_of
from cellfuse._errors import listing
from cellfuse._provenance import record
from cellfuse.pp._embed import check_target

__all__ = ["embed_pca"]

logger = logging.getLogger("cellfuse")

#: scanpy's default.
N_COMPS = 50


def embed_pca(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_comps: int | None = None,
    target_sum: float | None = None,
    n_top_genes: int | None = None,
    key_added: str = "X_pca",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Embed cells by the principal components of their log-normalised counts.

    The baseline beside learned embeddings, by scanpy: ``normalize_total``, ``log1p``, if asked
    for ``highly_variable_genes``, and ``pca`` with centring. It is done on a copy of the counts
    in CSR; neither is that copy made dense nor anything in `adata` changed but the new key.

    Parameters
    ----------
    adata
        Cells and genes.
    layer
        Layer of raw counts; None is ``X``.
    n_comps
        Number of components. None: 50 (scanpy's default), or what a small matrix allows, one
        below its shorter side.
    target_sum
        Counts of a cell after normalisation. None: the median of the cells' totals.
    n_top_genes
        Take the components of this number of highly variable genes only. None: of all genes.
    key_added
        obsm key of the result.
    seed
        For the start vector of the decomposition.
    overwrite
        Replace an obsm entry of that name.

    Returns
    -------
    None. ``obsm[key_added]``, float32, shape (cells, n_comps), by falling variance. The note in
    ``uns["cellfuse"]`` holds the share of the variance of each component.

    Raises
    ------
    KeyError
        `layer` is absent.
    ValueError
        Values are not whole numbers from 0 (a NaN among them), a cell has no counts, or `n_comps`
        is too large.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, scipy.sparse as sp
    >>> counts = np.random.default_rng(0).poisson(3, (20, 10)).astype("float32")
    >>> cells = ad.AnnData(sp.csr_matrix(counts))
    >>> cf.pp.embed_pca(cells, n_comps=4)
    >>> cells.obsm["X_pca"].shape
    (20, 4)
    """
    import scanpy as sc

    adata = check_target(adata, key_added, verb="embed_pca", overwrite=overwrite)
    counts = _counts(adata, layer)
    work = AnnData(counts, obs=adata.obs[[]].copy(), var=adata.var[[]].copy())
    sc.pp.normalize_total(work, target_sum=target_sum)
    sc.pp.log1p(work)
    if n_top_genes is not None:
        if not 2 <= n_top_genes <= adata.n_vars:
            raise ValueError(
                f"expected n_top_genes from 2 to {adata.n_vars}, the number of genes; found "
                f"{n_top_genes}."
            )
        sc.pp.highly_variable_genes(work, n_top_genes=n_top_genes)
        work = work[:, work.var["highly_variable"]].copy()
    most = min(work.shape) - 1
    if n_comps is None:
        n_comps = min(N_COMPS, most)
    if not 1 <= n_comps <= most:
        raise ValueError(
            f"n_comps={n_comps} of {work.n_obs} cells x {work.n_vars} genes: expected 1 to {most}, "
            "one below the shorter side."
        )
    sc.pp.pca(work, n_comps=n_comps, random_state=seed, svd_solver="arpack")
    adata.obsm[key_added] = np.ascontiguousarray(work.obsm["X_pca"], dtype=np.float32)
    shares = work.uns["pca"]["variance_ratio"]
    logger.info("embed_pca: %d components hold %.1f%% of the variance.", n_comps, 100 * sum(shares))
    params = {
        "layer": layer,
        "n_comps": n_comps,
        "target_sum": target_sum,
        "n_top_genes": n_top_genes,
        "seed": seed,
        "variance_ratio": [float(share) for share in shares],
    }
    record(adata, key_added, "embed_pca", params, past={})


def _counts(adata: AnnData, layer: str | None) -> sp.csr_matrix:
    """A CSR copy of the counts, checked."""
    from cellfuse.data.readers import make_reader

    stored, label = matrix_of(adata, layer)
    rows = np.arange(adata.n_obs)
    counts = sp.csr_matrix(make_reader(stored).read(rows)).astype(np.float32, copy=True)
    values = counts.data
    wrong = ~((values >= 0) & (values == np.floor(values)) & np.isfinite(values))
    if wrong.any():
        place = np.searchsorted(counts.indptr, np.flatnonzero(wrong)[0], side="right") - 1
        raise ValueError(
            f"{label} must hold counts, whole numbers from 0; found {values[wrong][0]:g} in cell "
            f"{str(adata.obs_names[place])!r} (row {place}). Name the layer of raw counts with "
            "`layer`; values that are normalised already go to `scanpy.pp.pca` as they are."
        )
    empty = np.flatnonzero(np.asarray(counts.sum(axis=1)).ravel() == 0)
    if len(empty):
        raise ValueError(
            f"{len(empty)} of {adata.n_obs} cells have no counts in {label}: "
            f"{listing(adata.obs_names[empty], 4)}. Leave them out "
            "(`sc.pp.filter_cells(adata, min_counts=1)`)."
        )
    return counts
