"""Real screens by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import mudata as md
import pandas as pd
from anndata import AnnData
from mudata import MuData

from cellfuse._access import context_labels
from cellfuse._errors import listing
from cellfuse._mudata import columns_stay, make_mudata
from cellfuse.datasets._fetch import Remote, locate, path_needed
from cellfuse.io.profiles import read_profiles

__all__ = ["lincs_pilot1", "papalexi_eccite", "perturb_multi", "scgenescope"]

PAPALEXI = Remote(
    "PapalexiSatija2021_eccite_RNA.h5ad",
    "https://zenodo.org/records/7041849/files/PapalexiSatija2021_eccite_RNA.h5ad",
    "scPerturb",
    "sha256:03e9602d124c261281936717d5795445805e6e704a52b0310bcde94225aa0929",
)
ROSETTA = (
    "https://cellpainting-gallery.s3.amazonaws.com/cpg0003-rosetta/broad/workspace/"
    "preprocessed_data/LINCS-Pilot1"
)
#: Canonical split of scGeneScope by replicate (PhenoSeq, A.2).
SPLIT = {"1": "HE", "2": "HE", "3": "train", "4": "WE", "5": "val"}
#: obsm keys under which PhenoSeq looks for the embeddings that its paper takes.
REPRESENTATIONS = {"imaging/imagenet/vit-l": "X_vit", "rnaseq/scgpt": "X_scgpt"}
LINCS_FILES = {
    "image": "CellPainting/replicate_level_cp_normalized_variable_selected.csv.gz",
    "rna": "L1000/replicate_level_l1k.csv.gz",
}


def papalexi_eccite(*, path: str | Path | None = None, checksum: str | None = None) -> AnnData:
    """Perturb-seq of 25 genes in stimulated THP-1 cells (Papalexi et al., Nature Genetics 2021).

    Parameters
    ----------
    path
        Your own h5ad file, with ``guide`` and ``gene`` in obs or as scPerturb has it
        (``guide_id``, ``hto``). None: scPerturb's file (Zenodo record 7041849), fetched once and
        held against its checksum.
    checksum
        In place of the known one.

    Returns
    -------
    Cells and genes, raw counts; obs has ``guide``, ``gene`` (``"non-targeting"`` for controls)
    and, where the file has it, ``bio_rep``; they are missing for cells without a guide.

    Raises
    ------
    ConnectionError
        The download failed; the text names the file and the place for it.
    ValueError
        The file has neither form.

    Examples
    --------
    >>> import cellfuse as cf
    >>> cells = cf.datasets.papalexi_eccite()  # doctest: +SKIP
    """
    source = locate(PAPALEXI, path, checksum=checksum)
    cells = ad.read_h5ad(source)
    if {"guide", "gene"} <= set(cells.obs.columns):
        return cells
    if "guide_id" not in cells.obs.columns:
        raise ValueError(
            f"{str(source)!r} is no such screen: obs has neither 'guide' and 'gene' nor "
            f"scPerturb's 'guide_id', but {listing(cells.obs.columns)}."
        )
    # A cell without a guide has no gene either: missing, and not a perturbation called "nan".
    guide = context_labels(cells, "guide_id", missing=True)
    gene = guide.str.replace(r"g\d+$", "", regex=True)
    cells.obs["guide"] = guide
    cells.obs["gene"] = gene.where(~gene.isin(["NT", "control"]), "non-targeting")
    if "hto" in cells.obs.columns:
        cells.obs["bio_rep"] = cells.obs["hto"].astype(object).str.removesuffix("-tx")
    return cells


def lincs_pilot1(*, path: str | Path | None = None) -> MuData:
    """Cell Painting and L1000 of the same 1,327 drugs at six doses in A549 (Way et al. 2022).

    In the form of the Rosetta collection (Haghighi et al., Nature Methods 2022): one row per well.

    Parameters
    ----------
    path
        Folder with ``CellPainting/replicate_level_cp_normalized_variable_selected.csv.gz`` and
        ``L1000/replicate_level_l1k.csv.gz``. It is not fetched: the files are large, and no
        checksum of them is known here.

    Returns
    -------
    MuData with ``image`` and ``rna``, read by :func:`cellfuse.io.read_profiles`: what is no number,
    or begins with ``Metadata_``, is in obs.

    Raises
    ------
    FileNotFoundError
        `path` is not given, or a file is missing.

    Examples
    --------
    >>> import cellfuse as cf
    >>> screen = cf.datasets.lincs_pilot1(path="LINCS-Pilot1")  # doctest: +SKIP
    """
    if path is None:
        raise path_needed(
            "LINCS-Pilot1",
            why="its files are large, and no checksum of them is known here",
            where=f"{ROSETTA} (Cell Painting Gallery)",
            layout=f"a folder with {listing(LINCS_FILES.values())}",
        )
    parts = {m: read_profiles(_inside(path, name)) for m, name in LINCS_FILES.items()}
    return make_mudata(parts)


def scgenescope(
    *,
    path: str | Path | None = None,
    image: str = "imaging/imagenet/vit-l",
    rna: str = "rnaseq/scgpt",
    rounds: Sequence[int] = (1, 2),
) -> MuData:
    """Cell Painting and single-cell RNA of 28 drugs in U2-OS (Dapello et al. 2026; PhenoSeq's).

    Parameters
    ----------
    path
        The data set's folder, with ``features/<image>/round_1.h5ad`` and so on. It is not
        fetched: its licence (CC BY-NC 4.0) is accepted with an account of the hub.
    image, rna
        Embeddings to read, folders below ``features``: ViT-L on ImageNet and scGPT, as PhenoSeq
        takes them. Others are ``imaging/imagenet/resnet50``, ``rnaseq/pca/n2000``, ...
    rounds
        Experimental rounds to read.

    Returns
    -------
    MuData with ``image`` and ``rna``, the embeddings in X and, under the names that PhenoSeq reads
    by default, in ``obsm["X_vit"]`` and ``obsm["X_scgpt"]`` (other embeddings: ``X_`` and the last
    part of their folder). obs as in the files (``Treatment``, ``Replicate``, ``batch``, ...) and:

    - ``treatment``: the same, the control called ``"DMSO"``;
    - ``round``, and ``replicate``, ``"1"`` to ``"5"``;
    - ``sample``: cells of one treatment and replicate, ``"DMSO_3"``, in both modalities;
    - ``split``: the canonical one (PhenoSeq, A.2): replicate 3 ``"train"``, 5 ``"val"``, 4 ``"WE"``
      (within the experiment), 1 and 2 ``"HE"`` (held-out experiment).

    Obs names begin with modality and round, names of the dimensions with the modality.

    Raises
    ------
    FileNotFoundError
        `path` is not given, or a file is missing.
    ValueError
        A file says no treatment or replicate of its cells, or replicates are not 1 to 5.

    Examples
    --------
    >>> import cellfuse as cf
    >>> screen = cf.datasets.scgenescope(path="scGeneScope")  # doctest: +SKIP
    >>> cf.PhenoSeq.setup_mudata(screen, split_key="split")  # doctest: +SKIP
    >>> cf.tl.classify_treatments(
    ...     screen, "treatment", split_key="split", sample_key="sample", control="DMSO"
    ... )  # doctest: +SKIP
    """
    if path is None:
        raise path_needed(
            "scGeneScope",
            why="its licence (CC BY-NC 4.0) is accepted with an account of the hub",
            where="https://huggingface.co/datasets/altoslabs/scGeneScope",
            layout="its folder, with features/imaging/... and features/rnaseq/...",
        )
    mods = {}
    for modality, features in {"image": image, "rna": rna}.items():
        parts = []
        for number in rounds:
            file = _inside(path, f"features/{features}/round_{number}.h5ad")
            part = ad.read_h5ad(file)
            part.obs["round"] = str(number)
            _settle(part, file)
            part.obsm[REPRESENTATIONS.get(features, f"X_{Path(features).name}")] = part.X
            part.obs_names = [f"{modality}-{number}-{name}" for name in part.obs_names]
            part.var_names = [f"{modality}-{name}" for name in part.var_names]
            parts.append(part)
        mods[modality] = ad.concat(parts) if len(parts) > 1 else parts[0]
    return make_mudata(mods)


def _settle(cells: AnnData, file: Path) -> None:
    """Give the columns of scGeneScope's files the names and values that the models take."""
    found = {name: _column(cells, name, file) for name in ("treatment", "replicate")}
    labels = found["treatment"].astype(object)
    cells.obs["treatment"] = labels.where(~labels.str.upper().isin(["CONTROL", "DMSO"]), "DMSO")
    number = found["replicate"].astype(str).str.extract(r"([0-9]+)(?:\.0)?$", expand=False)
    wrong = ~number.isin(list(SPLIT))
    if wrong.any():
        raise ValueError(
            f"{str(file)!r} has the replicates {listing(found['replicate'][wrong].unique())}; "
            f"expected {listing(SPLIT)}."
        )
    cells.obs["replicate"] = number
    cells.obs["sample"] = cells.obs["treatment"] + "_" + number
    cells.obs["split"] = number.map(SPLIT)


def _column(cells: AnnData, name: str, file: Path) -> pd.Series:
    found = next((c for c in cells.obs.columns if c.lower() == name), None)
    if found is None:
        raise ValueError(
            f"{str(file)!r} says no {name} of its cells: obs has {listing(cells.obs.columns)}."
        )
    return cells.obs[found]


def perturb_multi(*, path: str | Path | None = None) -> AnnData | MuData:
    """MERFISH and protein images of the same mouse hepatocytes (Saunders et al., Cell 2025).

    Parameters
    ----------
    path
        Your own h5ad or h5mu file. It is not fetched: the images are too large, and no checksum
        is known for the rest.

    Returns
    -------
    What the file holds. Modalities of the same cells may share obs names: give the models
    ``context_keys="obs_names"``.

    Raises
    ------
    FileNotFoundError
        `path` is not given, or there is no such file.

    Examples
    --------
    >>> import cellfuse as cf
    >>> screen = cf.datasets.perturb_multi(path="hepatocytes.h5mu")  # doctest: +SKIP
    """
    if path is None:
        raise path_needed(
            "Perturb-Multi",
            why="its images are too large, and no checksum is known for the rest",
            where="the places named in its article (Saunders et al., Cell 2025, data availability)",
            layout="one h5ad or h5mu file",
        )
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {str(source)!r}.")
    with columns_stay():
        return md.read_h5mu(source) if source.suffix == ".h5mu" else ad.read_h5ad(source)


def _inside(folder: str | Path, name: str) -> Path:
    found = Path(folder) / name
    if not found.is_file():
        raise FileNotFoundError(f"{str(folder)!r} has no {name!r}.")
    return found
