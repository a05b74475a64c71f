"""Counts drawn from a negative binomial whose mean follows a cell's latent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

from cellfuse.datasets._design import stream

#: Mean counts per gene and cell; log-normal gene levels make most genes sparser than that.
COUNTS_PER_GENE = 1.0
#: Log-standard deviations of the genes' levels and of the cells' library sizes.
GENE_SPREAD = 1.2
DEPTH_SPREAD = 0.35
#: Share of genes on which one latent dimension (or the cell cycle) acts, and the standard
#: deviation of the log-fold change that one unit of it makes there.
PROGRAM_SHARE = 0.1
PROGRAM_SCALE = 0.25
CYCLE_SCALE = 0.6
#: Log-standard deviation of a batch's effect on single genes and on depth.
BATCH_GENE = 0.15
BATCH_DEPTH = 0.2
#: Median and log-standard deviation of the genes' inverse dispersions.
INVERSE_DISPERSION = 4.0
DISPERSION_SPREAD = 0.5


def draw_programs(
    n_programs: int, n_genes: int, *, scale: float, seed: int, name: str
) -> np.ndarray:
    """Sparse loadings (n_programs, n_genes): normal on one gene in ten, zero elsewhere."""
    rng = stream(seed, name)
    on = rng.random((n_programs, n_genes)) < PROGRAM_SHARE
    return scale * on * rng.standard_normal((n_programs, n_genes))


class Programs(NamedTuple):
    """What a screen's counts are drawn from, beside its cells."""

    #: Change of the genes' logarithms per unit of latent, of cosine and sine of the phase.
    loadings: np.ndarray
    #: Logarithmic level of each gene in each batch (n_batches, n_genes).
    levels: np.ndarray
    #: Factor of each batch on depth (n_batches,).
    batch_depth: np.ndarray
    #: Inverse dispersion of each gene (n_genes,).
    inverse_dispersion: np.ndarray


def programs_of(n_latent: int, n_genes: int, n_batches: int, *, seed: int) -> Programs:
    """Draw the programs of a screen."""
    parts = {"programs": (n_latent, PROGRAM_SCALE), "cycle programs": (2, CYCLE_SCALE)}
    loadings = [
        draw_programs(n, n_genes, scale=scale, seed=seed, name=name)
        for name, (n, scale) in parts.items()
    ]
    level = (GENE_SPREAD * stream(seed, "levels").standard_normal(n_genes)).astype(np.float32)
    batch_rng = stream(seed, "rna batches")
    of_batch = BATCH_GENE * batch_rng.standard_normal((n_batches, n_genes))
    batch_depth = np.exp(BATCH_DEPTH * batch_rng.standard_normal(n_batches))
    spread = DISPERSION_SPREAD * stream(seed, "dispersion").standard_normal(n_genes)
    return Programs(
        np.concatenate(loadings).astype(np.float32),
        level + of_batch.astype(np.float32),
        batch_depth,
        INVERSE_DISPERSION * np.exp(spread),
    )


def draw_counts(
    latent: np.ndarray,
    phase: np.ndarray,
    batch: np.ndarray,
    *,
    n_genes: int,
    n_batches: int,
    seed: int,
    chunk_size: int | None = None,
) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Draw counts (n, n_genes) as CSR float32, and each cell's expected library size (n,).

    Parameters
    ----------
    latent
        Latent of every cell (n, n_latent).
    phase
        Cell-cycle phase in radians (n,).
    batch
        Batch number (n,).
    n_genes, n_batches
        Sizes.
    seed
        Seed.
    chunk_size
        Cells of which a dense block exists at a time; the counts do not depend on it.
    """
    n, n_latent = latent.shape
    drivers = np.column_stack([latent, np.cos(phase), np.sin(phase)]).astype(np.float32)
    loadings, of_batch, batch_depth, inverse_dispersion = programs_of(
        n_latent, n_genes, n_batches, seed=seed
    )
    depth = (
        COUNTS_PER_GENE
        * n_genes
        * batch_depth[batch]
        * np.exp(DEPTH_SPREAD * stream(seed, "depth").standard_normal(n))
    )

    gammas, poissons = stream(seed, "gamma"), stream(seed, "poisson")
    chunk = chunk_size or max(1, 2**21 // n_genes)
    blocks = []
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        mean = of_batch[batch[rows]]
        # One program at a time: a matrix product rounds differently for another number of rows.
        for driver, loading in zip(drivers[rows].T, loadings, strict=True):
            genes = np.flatnonzero(loading)
            mean[:, genes] += driver[:, None] * loading[genes]
        np.exp(mean, out=mean)
        mean *= (depth[rows] / mean.sum(axis=1, dtype=np.float64)).astype(np.float32)[:, None]
        rate = gammas.standard_gamma(inverse_dispersion, size=mean.shape)
        rate *= mean / inverse_dispersion
        blocks.append(sparse.csr_matrix(poissons.poisson(rate).astype(np.float32)))
    return sparse.vstack(blocks, format="csr"), depth
