"""A simulated perturbation screen, read out twice on different cells, with its truth."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfuse._mudata import make_mudata
from cellfuse.datasets import _design as design_
from cellfuse.datasets._counts import draw_counts
from cellfuse.datasets._design import CONTROL, MODALITIES, NO_COMPLEX, Design, stream
from cellfuse.datasets._render import CHANNELS, draw_features, render

__all__ = ["simulated_screen"]


def simulated_screen(
    n_genes: int = 500,
    *,
    n_targets: int = 48,
    guides_per_target: int = 4,
    n_control_guides: int = 12,
    cells_per_guide: float = 25,
    complex_size: int = 4,
    no_effect: float = 0.25,
    shared: float = 0.7,
    effect_size: float = 1.0,
    n_latent: int = 12,
    n_backgrounds: int = 1,
    n_wells: int = 6,
    n_batches: int = 2,
    image_size: int = 32,
    n_channels: int = 4,
    seed: int = 0,
) -> MuData:
    """Simulate a CRISPR screen read out by microscopy and by expression on different cells.

    Every target gene has a latent effect in each modality. Targets of one complex have 70% of its
    variance in common, and the two modalities the share `shared`::

        effect[m]  = sqrt(shared) * common + sqrt(1 - shared) * own[m]
        common     = strength * (sqrt(.7) * complex's part + sqrt(.3) * target's part)
        guide      = efficacy * effect + off-target part
        cell       = response * guide + own state + shift of its background

    where ``own[m]`` is made like ``common``. A cell of the image modality is rendered from bounded
    functions of its latent (sizes, shapes, intensities, textures, numbers of droplets); the counts
    of an expression cell are negative binomial, its latent acting on sparse gene programs. Beside
    it, cells differ in cell cycle, own morphology, orientation, position, well (stain intensity),
    sequencing depth and batch, none of which the guide changes.

    The numbers that are no arguments are constants of ``cellfuse.datasets``' files: strengths
    log-normal around 0.7 (log-sd 0.4) per latent dimension, beside a cell's own state of 0.7;
    response 0 for one cell in four, else 0.5 to 1.5; efficacy Beta(5, 2); off-target part 0.07;
    guide abundances log-normal (0.5); 1 count per gene and cell on average, an inverse dispersion
    of 4, a program on 10% of the genes with log-fold changes of 0.25 per unit. They were set once,
    so that plain profiles find part of the complexes in each modality: over seeds 0 to 4 of the
    default screen the true positive rate at 5% false positives was .48 to .59 for PCA of the
    counts (without and with whitening), .34 for whitened PCA of the pixels, .50 for simple image
    features, .85 for the true effects and .05 for chance. No trained method was looked at for it,
    and no number is to be changed until a method wins.

    Parameters
    ----------
    n_genes
        Measured genes. The targets' own counts do not drop: a knock-out need not change them.
    n_targets
        Target genes, in complexes of `complex_size` in their order (the last may be smaller; a
        target left alone belongs to none).
    guides_per_target
        Guides per target (4 in the paper, A.1).
    n_control_guides
        Non-targeting guides, which have no effect at all.
    cells_per_guide
        Mean number of cells per guide, background and modality; log-normal between guides, the
        same guides being rare in both modalities, at least 1.
    complex_size
        Targets per complex; 1 for no complexes.
    no_effect
        Share of targets without any effect (their guides have the off-target part alone).
    shared
        Share of the effect variance that the modalities have in common, 0 to 1.
    effect_size
        Factor on all effects; 0 for a screen without any (whose ``edges`` are then mere labels).
    n_latent
        Latent dimensions of each modality.
    n_backgrounds
        Chemical backgrounds. The first is the reference; each further one shifts all cells and
        replaces 30% of the effect variance by its own.
    n_wells
        Wells of the image modality, per background.
    n_batches
        Batches of the expression modality.
    image_size
        Height and width of the images in pixels.
    n_channels
        Channels, the first of DNA, actin, droplets, mitochondria, ER, RNA.
    seed
        Seed of everything; the same seed and arguments give the same data to the bit. Arguments
        that do not concern a draw leave it as it is.

    Returns
    -------
    MuData
        With the modalities ``"image"`` (no X; ``obsm["crops"]`` uint8
        ``(n, n_channels, image_size, image_size)``, ``uns["channels"]``) and ``"rna"`` (X: CSR
        counts as float32), on different cells. Both have

        - ``obs``: ``guide``, ``gene`` (target, or ``"non-targeting"``), ``complex`` (or
          ``"none"``), ``background``; ``well`` (image); ``batch`` (rna);
        - ``obsm["latent"]``: what the images and counts were made from, ``(n, n_latent)``;
        - ``obsm["nuisance"]``: data frame of ``response``, ``phase`` (cell cycle, radians), and
          ``depth`` (rna; expected counts).

        ``uns`` of the whole holds

        - ``"edges"``: data frame ``source``, ``target``, ``score``: every pair of targets of one
          complex of which both have an effect, once, with score 1.0;
        - ``"truth"``: ``targets`` and ``guides`` (data frames: complex, effect, strength,
          efficacy), ``target_effects`` and ``guide_effects`` (modality -> background -> data frame
          ``(n, n_latent)``), ``params`` (the arguments).

    Raises
    ------
    ValueError
        A size below 1, a share outside 0 to 1, more channels than there are.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(100, n_targets=8, cells_per_guide=5, seed=1)
    >>> mdata["image"].obsm["crops"].shape[1:]
    (4, 32, 32)
    >>> mdata["rna"].n_vars, mdata["rna"].X.format
    (100, 'csr')
    >>> mdata.uns["edges"].columns.tolist()
    ['source', 'target', 'score']
    """
    params: dict[str, Any] = dict(locals())
    _check(params)
    design = design_.draw_design(
        n_targets=n_targets,
        guides_per_target=guides_per_target,
        n_control_guides=n_control_guides,
        complex_size=complex_size,
        no_effect=no_effect,
        n_backgrounds=n_backgrounds,
        seed=seed,
    )
    of_target = design_.target_effects(
        design, n_latent=n_latent, shared=shared, effect_size=effect_size, seed=seed
    )
    of_guide = design_.guide_effects(
        design, of_target, shared=shared, effect_size=effect_size, seed=seed
    )
    shifts = design_.background_shifts(n_backgrounds, n_latent, shared=shared, seed=seed)

    cells = {}
    for m in MODALITIES:
        guide, background = design_.draw_cells(
            design, m, cells_per_guide=cells_per_guide, seed=seed
        )
        latent, response = design_.draw_latents(
            of_guide[m][background, guide], shifts[m][background], m, seed=seed
        )
        phase = stream(seed, "phase", m).uniform(0.0, 2.0 * np.pi, len(guide))
        cells[m] = _modality(design, m, guide, background, latent, response, phase)
    _add_images(
        cells["image"], n_wells=n_wells, image_size=image_size, n_channels=n_channels, seed=seed
    )
    cells["rna"] = _add_counts(cells["rna"], n_genes=n_genes, n_batches=n_batches, seed=seed)

    mdata = make_mudata(cells)
    mdata.uns["edges"] = design.edges()
    mdata.uns["truth"] = {
        "targets": design.targets,
        "guides": design.guides,
        "target_effects": _frames(of_target, design.targets.index, design),
        "guide_effects": _frames(of_guide, design.guides.index, design),
        "params": params,
    }
    return mdata


def _check(params: dict[str, Any]) -> None:
    """Refuse arguments of which no screen can be made."""
    shares = ("no_effect", "shared")
    for name in ("cells_per_guide", "effect_size", *shares):
        value = params[name]
        if isinstance(value, bool) or not isinstance(value, Real) or not np.isfinite(float(value)):
            raise ValueError(f"`{name}` must be a number; found {value!r}.")
    for name in shares:
        if not 0.0 <= params[name] <= 1.0:
            raise ValueError(f"`{name}` is a share from 0 to 1; found {params[name]!r}.")
    if params["cells_per_guide"] <= 0 or params["effect_size"] < 0:
        raise ValueError(
            "`cells_per_guide` must be above 0 and `effect_size` not below 0; found "
            f"{params['cells_per_guide']!r} and {params['effect_size']!r}."
        )
    limits = {"image_size": (8, 1024), "n_channels": (1, len(CHANNELS)), "seed": (0, 2**63 - 1)}
    for name, value in params.items():
        if name in ("cells_per_guide", "effect_size", *shares):
            continue
        low, high = limits.get(name, (1, None))
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise ValueError(f"`{name}` must be a whole number; found {value!r}.")
        if int(value) < low or (high is not None and int(value) > high):
            span = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"`{name}` must be {span}; found {value!r}.")


def _modality(
    design: Design,
    name: str,
    guide: np.ndarray,
    background: np.ndarray,
    latent: np.ndarray,
    response: np.ndarray,
    phase: np.ndarray,
) -> AnnData:
    """Cells without their measurement."""
    guides = design.guides
    genes = [*design.targets.index, CONTROL]
    complexes = [*(c for c in pd.unique(guides["complex"]) if c != NO_COMPLEX), NO_COMPLEX]
    index = pd.Index(
        [f"{name}-{i + 1:0{max(4, len(str(len(guide))))}d}" for i in range(len(guide))]
    )
    obs = pd.DataFrame(
        {
            "guide": pd.Categorical.from_codes(guide, categories=guides.index),
            "gene": pd.Categorical(guides["gene"].to_numpy()[guide], categories=genes),
            "complex": pd.Categorical(guides["complex"].to_numpy()[guide], categories=complexes),
            "background": pd.Categorical.from_codes(
                background, categories=pd.Index(design.backgrounds)
            ),
        },
        index=index,
    )
    adata = AnnData(obs=obs)
    adata.obsm["latent"] = latent.astype(np.float32)
    adata.obsm["nuisance"] = pd.DataFrame({"response": response, "phase": phase}, index=index)
    return adata


def _add_images(
    adata: AnnData, *, n_wells: int, image_size: int, n_channels: int, seed: int
) -> None:
    """Assign wells at random, each of one background, and render the cells."""
    background = adata.obs["background"].cat.codes.to_numpy()
    n_all = n_wells * len(adata.obs["background"].cat.categories)
    well = background * n_wells + stream(seed, "in well").integers(n_wells, size=adata.n_obs)
    adata.obs["well"] = _numbered("well", well, n_all)
    phase = adata.obsm["nuisance"]["phase"].to_numpy()
    features = draw_features(adata.obsm["latent"], phase, seed=seed)
    adata.obsm["crops"] = render(
        features, well, n_wells=n_all, image_size=image_size, n_channels=n_channels, seed=seed
    )
    adata.uns["channels"] = list(CHANNELS[:n_channels])


def _add_counts(cells: AnnData, *, n_genes: int, n_batches: int, seed: int) -> AnnData:
    """Assign batches at random and draw the counts."""
    batch = stream(seed, "in batch").integers(n_batches, size=cells.n_obs)
    cells.obs["batch"] = _numbered("batch", batch, n_batches)
    nuisance = cells.obsm["nuisance"]
    counts, nuisance["depth"] = draw_counts(
        cells.obsm["latent"],
        nuisance["phase"].to_numpy(),
        batch,
        n_genes=n_genes,
        n_batches=n_batches,
        seed=seed,
    )
    width = max(4, len(str(n_genes)))
    var = pd.DataFrame(index=[f"GENE{i + 1:0{width}d}" for i in range(n_genes)])
    return AnnData(counts, obs=cells.obs, var=var, obsm=dict(cells.obsm))


def _numbered(name: str, codes: np.ndarray, n: int) -> pd.Categorical[str]:
    width = max(2, len(str(n)))
    return pd.Categorical.from_codes(
        codes, categories=pd.Index([f"{name}-{i + 1:0{width}d}" for i in range(n)])
    )


def _frames(
    effects: dict[str, np.ndarray], index: pd.Index, design: Design
) -> dict[str, dict[str, pd.DataFrame]]:
    """Effects (backgrounds, rows, latent) as data frames by modality and background."""
    return {
        modality: {
            background: pd.DataFrame(
                values, index=index, columns=[f"latent-{k + 1}" for k in range(values.shape[1])]
            )
            for background, values in zip(design.backgrounds, parts, strict=True)
        }
        for modality, parts in effects.items()
    }
