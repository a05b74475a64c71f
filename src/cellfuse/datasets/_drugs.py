"""A simulated drug screen: images and expression of real structures at several doses."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from cellfuse._errors import listing
from cellfuse._mudata import make_mudata
from cellfuse.datasets._counts import draw_counts
from cellfuse.datasets._design import (
    BACKGROUND_SHARE,
    MODALITIES,
    background_shifts,
    draw_latents,
    mixed,
    stream,
)
from cellfuse.datasets._drug_table import MECHANISMS, drug_table
from cellfuse.datasets._render import CHANNELS, draw_features, render

__all__ = ["simulated_drugs"]

CONTROL = "DMSO"
#: Share of a drug's effect variance that is its mechanism's; the rest is its own.
MECHANISM_SHARE = 0.7
#: Median and log-standard deviation of the effects at full dose, per latent dimension.
STRENGTH = 0.9
STRENGTH_SPREAD = 0.3
#: Median half-effective dose in uM, its standard deviation in decades, and Hill coefficients.
EC50 = 1.0
EC50_SPREAD = 0.5
HILL = (0.8, 2.0)
#: Genes without a drug among the knock-outs, for each with one; what a knock-out has of its own.
DECOYS_PER_TARGET = 1
KNOCKOUT_SHARE = 0.7
MAX_MECHANISMS = len(MECHANISMS)
MAX_DRUGS = min(len(drugs) for _, drugs in MECHANISMS.values())


def simulated_drugs(
    n_genes: int = 300,
    *,
    n_mechanisms: int = 12,
    drugs_per_mechanism: int = 4,
    cell_lines: Sequence[str] = ("A549", "U2OS"),
    image_doses: Sequence[float] = (0.1, 1.0, 10.0),
    rna_doses: Sequence[float] = (0.3, 3.0),
    rna_share: float = 0.75,
    images_per_condition: int = 6,
    rna_per_condition: int = 4,
    controls: int = 48,
    images_per_knockout: int = 16,
    shared: float = 0.7,
    effect_size: float = 1.0,
    n_latent: int = 12,
    cells_per_profile: int = 100,
    n_plates: int = 4,
    image_size: int = 32,
    n_channels: int = 4,
    seed: int = 0,
) -> MuData:
    """Simulate a drug screen read out by microscopy and by expression, at different doses.

    The drugs and their structures are real, and so are their mechanisms; what they do to cells is
    drawn. A drug has a latent effect in each modality and cell line, 70% of its variance its
    mechanism's, and the modalities have the share `shared` in common::

        effect[m]  = strength * (sqrt(.7) * mechanism's part[m] + sqrt(.3) * drug's part[m])
        part[m]    = sqrt(shared) * common + sqrt(1 - shared) * own[m]
        cell       = response * hill(dose) * effect + own state + shift of its cell line
        hill(dose) = dose^h / (dose^h + ec50^h)

    A further cell line replaces 30% of each effect's variance by its own and shifts all cells. An
    image is of one cell; an expression profile is the sum of `cells_per_profile` cells, as of a
    well. Beside compounds there are images of knock-outs: of each mechanism's target, like the
    mechanism in 70% of the variance, and as many of other genes, which no drug hits.

    Nothing of a structure enters an effect but the mechanism's name: how much chemistry tells is
    how much the real fingerprints of a mechanism's drugs are alike. The constants (of
    ``cellfuse.datasets``' files) were set once, before any trained method was looked at, so that
    responses are graded and neither modality is void: on the default screen (seed 0, A549) a
    logistic regression names the drug of a profile in 14% of cases at 0.3 uM and in 57% at 3 uM
    (chance 3%), that of an image, from the very latent it was rendered from, in 2%, 9% and 26% at
    0.1, 1 and 10 uM (chance 2%). No number is to be changed until a method wins.

    Parameters
    ----------
    n_genes
        Measured genes.
    n_mechanisms, drugs_per_mechanism
        At most 12 and 4.
    cell_lines
        Names; the first is the reference.
    image_doses, rna_doses
        Doses in uM of the two modalities.
    rna_share
        Share of the drugs with expression; at least one.
    images_per_condition, rna_per_condition
        Images, and profiles, per drug, dose and cell line.
    controls
        Images, and profiles, of DMSO per cell line.
    images_per_knockout
        Images per gene and cell line; 0 leaves the knock-outs out.
    shared
        Share of the effect variance that the modalities have in common, 0 to 1.
    effect_size
        Factor on all effects; 0 for none.
    n_latent
        Latent dimensions of each modality.
    cells_per_profile
        Cells of which the counts of a profile are the sum.
    n_plates
        Plates of the images, over which every condition is dealt at random.
    image_size, n_channels
        Of the images; the channels are the first of DNA, actin, droplets, mitochondria, ER, RNA.
    seed
        Seed of everything.

    Returns
    -------
    MuData
        Modalities ``"image"`` and ``"rna"`` (X: CSR counts), both with ``obs``: ``compound`` (or
        ``"DMSO"``), ``cell_line``, ``dose_um`` (0 for DMSO), ``smiles``, ``mechanism``; and
        ``"knockout"``, images with ``gene`` and ``cell_line``. Images are in ``obsm["crops"]``,
        uint8 ``(n, n_channels, image_size, image_size)``, with ``uns["channels"]`` and
        ``obs["plate"]``; what everything was made from is ``obsm["latent"]``. ``uns`` holds
        ``"targets"`` (``source``, a compound; ``target``, a gene: for
        :func:`cellfuse.tl.target_discovery`) and ``"truth"``: ``drugs`` (a data frame: mechanism,
        target, smiles, strength, ec50, hill, has_rna), ``drug_effects`` (modality -> cell line ->
        data frame) and ``params``.

    Raises
    ------
    ValueError
        More drugs than there are, a size below 1, doses that are not above 0.

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_drugs(100, n_mechanisms=3, images_per_condition=1, seed=1)
    >>> list(mdata.mod)
    ['image', 'rna', 'knockout']
    >>> mdata["image"].obs["compound"].nunique(), mdata["rna"].obs["compound"].nunique()
    (13, 10)
    """
    params: dict[str, Any] = dict(locals())
    _check(params)
    drugs = _draw_drugs(n_mechanisms, drugs_per_mechanism, rna_share, effect_size, seed)
    parts = _mechanism_parts(drugs, len(cell_lines), n_latent, shared, seed)
    effects = _drug_effects(drugs, parts, n_latent, shared, seed)
    shifts = background_shifts(len(cell_lines), n_latent, shared=shared, seed=seed)
    lines, table = list(cell_lines), {}
    table["image"] = _conditions(drugs, lines, image_doses, images_per_condition, controls)
    measured = drugs[drugs["has_rna"]]
    table["rna"] = _conditions(measured, lines, rna_doses, rna_per_condition, controls)
    mean = {m: _mean_latents(table[m], drugs, effects[m]) for m in MODALITIES}

    genes, of_gene = _knockouts(drugs, parts["image"], n_latent, effect_size, seed)
    knockout = pd.DataFrame(
        [
            (g, line)
            for g in genes
            for line in range(len(lines))
            for _ in range(images_per_knockout)
        ],
        columns=["gene", "line"],
    )
    gene_number = pd.Index(genes).get_indexer(pd.Index(knockout["gene"]))
    mean["image"] = np.concatenate(
        [mean["image"], of_gene[knockout["line"].to_numpy(int), gene_number]]
    )
    line = np.concatenate([table["image"]["line"], knockout["line"]]).astype(int)
    pictures = _images(mean["image"], shifts["image"][line], n_plates, image_size, n_channels, seed)
    n_compound = len(table["image"])
    cells = {
        "image": _modality("image", table["image"], lines, drugs, pictures[:n_compound]),
        "rna": _profiles(
            table["rna"], lines, drugs, mean["rna"], shifts["rna"], n_genes, cells_per_profile, seed
        ),
    }
    if images_per_knockout:
        cells["knockout"] = _modality("knockout", knockout, lines, drugs, pictures[n_compound:])
    mdata = make_mudata(cells)
    mdata.uns["targets"] = pd.DataFrame(
        {"source": drugs.index.to_numpy(), "target": drugs["target"].to_numpy()}
    )
    frames = {
        m: {
            name: pd.DataFrame(of, index=drugs.index)
            for name, of in zip(lines, effects[m], strict=True)
        }
        for m in MODALITIES
    }
    mdata.uns["truth"] = {"drugs": drugs, "drug_effects": frames, "params": params}
    return mdata


def _check(params: dict[str, Any]) -> None:
    limits = {
        "n_mechanisms": (1, MAX_MECHANISMS),
        "drugs_per_mechanism": (1, MAX_DRUGS),
        "n_channels": (1, len(CHANNELS)),
        "image_size": (8, 1024),
        "images_per_knockout": (0, None),
        "controls": (1, None),
        "seed": (0, 2**63 - 1),
    }
    for name in ("rna_share", "shared", "effect_size"):
        value = params[name]
        if not isinstance(value, Real) or not 0 <= float(value) <= (
            np.inf if "size" in name else 1
        ):
            raise ValueError(f"`{name}` must be a number from 0; found {value!r}.")
    for name, value in params.items():
        if name in ("rna_share", "shared", "effect_size"):
            continue
        if name in ("image_doses", "rna_doses"):
            if np.ndim(value) != 1 or not len(value) or not all(dose > 0 for dose in value):
                raise ValueError(f"`{name}` must be doses above 0, in uM; found {value!r}.")
        elif name == "cell_lines":
            if isinstance(value, str) or not len(value) or len(set(value)) < len(value):
                found = repr(value) if isinstance(value, str) else listing(value)
                raise ValueError(f"`cell_lines` must be distinct names in a list; found {found}.")
        else:
            low, high = limits.get(name, (1, None))
            whole = isinstance(value, Integral) and not isinstance(value, bool)
            if not whole or value < low or (high is not None and value > high):
                span = f"from {low} to {high}" if high is not None else f"at least {low}"
                raise ValueError(f"`{name}` must be a whole number {span}; found {value!r}.")


# -- drugs and their effects ----------------------------------------------------------------------


def _draw_drugs(
    n_mechanisms: int, per_mechanism: int, rna_share: float, effect_size: float, seed: int
) -> pd.DataFrame:
    """Drugs with what is drawn of each: strength, dose response, whether it has expression."""
    drugs = drug_table(n_mechanisms, per_mechanism)
    n = len(drugs)
    log = STRENGTH_SPREAD * stream(seed, "drug strength").standard_normal(n)
    drugs["strength"] = effect_size * STRENGTH * np.exp(log)
    decades = EC50_SPREAD * stream(seed, "ec50").standard_normal(n)
    drugs["ec50"] = EC50 * 10**decades
    drugs["hill"] = stream(seed, "hill").uniform(*HILL, n)
    has_rna = np.zeros(n, bool)
    has_rna[stream(seed, "has rna").permutation(n)[: max(1, round(rna_share * n))]] = True
    drugs["has_rna"] = has_rna
    return drugs


def _by_line(
    seed: int, name: str, n: int, n_lines: int, n_latent: int, shared: float
) -> dict[str, np.ndarray]:
    """Draw unit-variance parts ``(lines, n, n_latent)``; a further line has 30% of its own."""
    out: dict[str, list[np.ndarray]] = {m: [] for m in MODALITIES}
    for number in range(n_lines):
        drawn = mixed(seed, f"{name} line {number}", n, n_latent, shared=shared)
        for m, own in drawn.items():
            if number:
                own = np.sqrt(1 - BACKGROUND_SHARE) * out[m][0] + np.sqrt(BACKGROUND_SHARE) * own
            out[m].append(own)
    return {m: np.stack(parts) for m, parts in out.items()}


def _mechanism_parts(
    drugs: pd.DataFrame, n_lines: int, n_latent: int, shared: float, seed: int
) -> dict[str, np.ndarray]:
    n = drugs["mechanism"].nunique()
    return _by_line(seed, "mechanism", n, n_lines, n_latent, shared)


def _drug_effects(
    drugs: pd.DataFrame, parts: dict[str, np.ndarray], n_latent: int, shared: float, seed: int
) -> dict[str, np.ndarray]:
    """Effects at full dose, ``(lines, drugs, n_latent)``."""
    number = pd.factorize(drugs["mechanism"])[0]
    n_lines = next(iter(parts.values())).shape[0]
    own = _by_line(seed, "drug", len(drugs), n_lines, n_latent, shared)
    strength = drugs["strength"].to_numpy()[:, None]
    return {
        m: strength
        * (np.sqrt(MECHANISM_SHARE) * part[:, number] + np.sqrt(1 - MECHANISM_SHARE) * own[m])
        for m, part in parts.items()
    }


def _knockouts(
    drugs: pd.DataFrame, part: np.ndarray, n_latent: int, effect_size: float, seed: int
) -> tuple[list[str], np.ndarray]:
    """Genes, and their effects on images, ``(lines, genes, n_latent)``; decoys come last."""
    targets = list(drugs["target"].unique())
    decoys = [f"GENE-{i + 1:02d}" for i in range(DECOYS_PER_TARGET * len(targets))]
    shape = (part.shape[0], len(targets) + len(decoys), n_latent)
    own = stream(seed, "knockout").standard_normal(shape)
    n = len(targets)
    own[:, :n] = np.sqrt(KNOCKOUT_SHARE) * part + np.sqrt(1 - KNOCKOUT_SHARE) * own[:, :n]
    return [*targets, *decoys], effect_size * STRENGTH * own


# -- samples --------------------------------------------------------------------------------------


def _conditions(
    drugs: pd.DataFrame, lines: list[str], doses: Sequence[float], replicates: int, controls: int
) -> pd.DataFrame:
    """One row per sample: ``compound``, ``line`` (a number), ``dose``."""
    names = drugs.index.to_numpy()
    grid = [(n, k, d) for n in names for k in range(len(lines)) for d in doses]
    rows = [row for row in grid for _ in range(replicates)]
    rows += [(CONTROL, k, 0.0) for k in range(len(lines)) for _ in range(controls)]
    return pd.DataFrame(rows, columns=["compound", "line", "dose"])


def _mean_latents(table: pd.DataFrame, drugs: pd.DataFrame, effects: np.ndarray) -> np.ndarray:
    """Mean latent of each sample: Hill's share of the drug's effect; 0 for controls."""
    which = drugs.index.get_indexer(pd.Index(table["compound"]))
    treated = which >= 0
    dose = table["dose"].to_numpy()[treated]
    of = drugs.iloc[which[treated]]
    power = dose ** of["hill"].to_numpy()
    share = power / (power + of["ec50"].to_numpy() ** of["hill"].to_numpy())
    mean = np.zeros((len(table), effects.shape[-1]))
    line = table["line"].to_numpy(int)[treated]
    mean[treated] = share[:, None] * effects[line, which[treated]]
    return mean


def _images(
    mean: np.ndarray, shift: np.ndarray, n_plates: int, image_size: int, n_channels: int, seed: int
) -> AnnData:
    """Cells with the given mean latents, rendered; compounds and knock-outs in one go."""
    latent, response = draw_latents(mean, shift, "image", seed=seed)
    phase = stream(seed, "phase", "image").uniform(0.0, 2.0 * np.pi, len(mean))
    plate = stream(seed, "in plate").integers(n_plates, size=len(mean))
    features = draw_features(latent, phase, seed=seed)
    adata = AnnData(
        obs=pd.DataFrame(
            {"plate": [f"plate-{p + 1:02d}" for p in plate], "response": response},
            index=pd.RangeIndex(len(mean)).astype(str),
        )
    )
    adata.obsm["latent"] = latent.astype(np.float32)
    adata.obsm["crops"] = render(
        features, plate, n_wells=n_plates, image_size=image_size, n_channels=n_channels, seed=seed
    )
    adata.uns["channels"] = list(CHANNELS[:n_channels])
    return adata


def _profiles(
    table: pd.DataFrame,
    lines: list[str],
    drugs: pd.DataFrame,
    mean: np.ndarray,
    shifts: np.ndarray,
    n_genes: int,
    n_cells: int,
    seed: int,
) -> AnnData:
    """Profiles, each the summed counts of its cells."""
    n = len(table)
    of_cell = np.repeat(np.arange(n), n_cells)
    shift = shifts[table["line"].to_numpy(int)]
    latent, _ = draw_latents(mean[of_cell], shift[of_cell], "rna", seed=seed)
    phase = stream(seed, "phase", "rna").uniform(0.0, 2.0 * np.pi, len(of_cell))
    counts, _ = draw_counts(
        latent, phase, np.zeros(len(of_cell), int), n_genes=n_genes, n_batches=1, seed=seed
    )
    pool = sparse.csr_matrix(
        (np.ones(len(of_cell), np.float32), (of_cell, np.arange(len(of_cell)))),
        shape=(n, len(of_cell)),
    )
    width = max(4, len(str(n_genes)))
    adata = AnnData(
        sparse.csr_matrix(pool @ counts, dtype=np.float32),
        obs=pd.DataFrame(index=pd.RangeIndex(n).astype(str)),
        var=pd.DataFrame(index=[f"GENE{i + 1:0{width}d}" for i in range(n_genes)]),
    )
    adata.obsm["latent"] = (latent.reshape(n, n_cells, -1).mean(axis=1)).astype(np.float32)
    return _modality("rna", table, lines, drugs, adata)


def _modality(
    name: str, table: pd.DataFrame, lines: list[str], drugs: pd.DataFrame, adata: AnnData
) -> AnnData:
    """Name the samples and say what they are."""
    adata = adata.copy()
    n = adata.n_obs
    index = pd.Index([f"{name}-{i + 1:0{max(4, len(str(n)))}d}" for i in range(n)])
    obs = pd.DataFrame(index=index)
    if "gene" in table:
        obs["gene"] = pd.Categorical(table["gene"].to_numpy())
    else:
        of = drugs.reindex(table["compound"])
        names = [*(d for d in drugs.index if d in set(table["compound"])), CONTROL]
        obs["compound"] = pd.Categorical(table["compound"].to_numpy(), categories=names)
        obs["dose_um"] = table["dose"].to_numpy()
        obs["smiles"] = pd.Categorical(of["smiles"].fillna("CS(C)=O").to_numpy())
        obs["mechanism"] = pd.Categorical(of["mechanism"].fillna("control").to_numpy())
    obs["cell_line"] = pd.Categorical.from_codes(
        table["line"].to_numpy(int), categories=pd.Index(lines)
    )
    for column in adata.obs:
        values = adata.obs[column].to_numpy()
        obs[column] = pd.Categorical(values) if column == "plate" else values
    adata.obs = obs
    return adata
