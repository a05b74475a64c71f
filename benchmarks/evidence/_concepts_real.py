"""Concepts of real tissue spots, of PERISCOPE's crops and of ECCITE-seq."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scanpy as sc
import torch
from anndata import AnnData
from sklearn.decomposition import PCA

import cellfuse as cf
from cellfuse.nn import image_statistics

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
QUIET = {"enable_progress_bar": False}
#: Marker genes of breast tissue by compartment, written down before anything was fitted.
MARKERS = {
    "tumour": "ERBB2 EPCAM KRT8 KRT18 KRT19 KRT7 CDH1 MUC1 ELF3 CLDN4 GRB7 TFF3",
    "immune": "PTPRC CD3D CD3E CD2 CD8A MS4A1 CD79A IGKC CD74 CXCR4 LTB CCL19 IL7R TRBC2",
    "stroma": "COL1A1 COL1A2 COL3A1 COL6A3 DCN LUM SPARC FN1 POSTN VIM THY1 FBLN1",
}


def fitted(
    mdata: md.MuData, rep: str, *, n_concepts: int, k: int, epochs: int, batch_size: int, seed: int
) -> cf.Concepts:
    """Concepts of every modality of `mdata`, in ``obsm["X_concepts"]``."""
    cf.Concepts.setup_mudata(mdata, use_rep=rep, modalities={name: name for name in mdata.mod})
    model = cf.Concepts(mdata, n_concepts=n_concepts, k=k, seed=seed)
    model.train(epochs, batch_size=batch_size, **QUIET)
    for name in mdata.mod:
        mdata[name].obsm["X_concepts"] = model.get_activations(modality=name)
    return model


# -- tissue ----------------------------------------------------------------------------------------


def her2st(seeds: list[int], *, tiny: bool) -> Iterator[dict]:
    """A row per multimodal concept: markers, and the same spot's other modality.

    The joint space knows tiles of nine spots, not pairs of spots; by these it is judged: how far a
    concept's activation in the image of a spot goes with that in its expression (`pairs`), and with
    the mean of the markers of the compartment that its expression is rich in (`pairs_markers`).
    `compartment_shuffled` is what is found when the concept's activations are dealt to other spots:
    genes that rise together are found by a test that takes genes as independent.
    """
    whole = md.read_h5mu(DATA / "her2st.h5mu")
    rna = whole["rna"]
    most = np.argsort(np.asarray(rna.X.mean(axis=0)).ravel())[::-1][: 200 if tiny else 3000]
    named = {s: [g for g in genes.split() if g in rna.var_names] for s, genes in MARKERS.items()}
    kept = np.union1d(most, rna.var_names.get_indexer([g for s in named.values() for g in s]))
    rna = rna[:, kept].copy()
    rna.layers["lognorm"] = sc.pp.log1p(sc.pp.normalize_total(rna, inplace=False)["X"])
    image = whole["image"].copy()
    cf.pp.measure_crops(image, channels=["red", "green", "blue"])
    order = rna.obs.reset_index().set_index("spot").index.get_indexer(image.obs["spot"])
    for seed in seeds:
        for permuted in (False, True):
            mdata = md.MuData({"image": image.copy(), "rna": rna.copy()})
            cf.SharedAxes.setup_mudata(mdata, context_keys="tile", image_rep="crops")
            model = cf.SharedAxes(mdata, n_comps=20, permute_contexts=permuted, seed=seed)
            model.train()
            for name in mdata.mod:
                mdata[name].obsm["X_joint"] = model.get_latent_representation(modality=name)
            options = {"n_concepts": 64, "k": 8, "epochs": 4 if tiny else 60, "batch_size": 256}
            fitted(mdata, "X_joint", **options, seed=seed)
            yield from _spots(mdata, named, order, {"seed": seed, "permuted": permuted})


def _spots(
    mdata: md.MuData, named: dict[str, list[str]], order: np.ndarray, row: dict
) -> Iterator[dict]:
    table = cf.tl.multimodal_concepts(mdata)
    concepts = np.flatnonzero(table["multimodal"])
    if not len(concepts):
        yield {**row, "concept": -1}
        return
    active = {name: mdata[name].obsm["X_concepts"].toarray() for name in mdata.mod}
    rng = np.random.default_rng(row["seed"])
    true = mdata["rna"].obsm["X_concepts"]
    mdata["rna"].obsm["X_concepts"] = true[rng.permutation(len(order))]
    shuffled = _compartments(mdata, named)
    mdata["rna"].obsm["X_concepts"] = true
    compartments = _compartments(mdata, named)
    genes = mdata.uns["concept_features"]["genes"]
    images = mdata.uns["concept_features"]["images"]
    lognorm = mdata["rna"].to_df("lognorm")
    markers = {s: lognorm[g].mean(axis=1).to_numpy() for s, g in named.items()}
    for concept in concepts:
        kind, score = compartments.get(concept, ("none", np.nan))
        seen, read = active["image"][:, concept], active["rna"][order, concept]
        top = genes[(genes["concept"] == concept) & (genes["score"] > 0)]
        look = images[(images["concept"] == concept) & images["significant"]]
        yield {
            **row,
            "concept": int(concept),
            "compartment": kind,
            "compartment_shuffled": shuffled.get(concept, ("none", np.nan))[0],
            "score": score,
            "pairs": _correlation(seen, read),
            "pairs_markers": np.nan if kind == "none" else _correlation(seen, markers[kind][order]),
            "genes": " ".join(top.sort_values("score", ascending=False)["gene"].head(6)),
            "image": "; ".join(
                f"{f} {d:+.1f}" for f, d in look.sort_values("pvalue")[["feature", "difference"]]
                .head(2).itertuples(index=False)
            ),
        }  # fmt: skip


def _compartments(mdata: md.MuData, named: dict[str, list[str]]) -> dict[int, tuple[str, float]]:
    """Set of markers that each concept's spots are richest in, and its score."""
    cf.tl.concept_features(mdata, rna_layer="lognorm", quantile=0.9)
    sets = cf.tl.concept_enrichment(mdata, named)
    found = sets[sets["significant"] & (sets["score"] > 0)].sort_values("score")
    return {
        int(concept): (str(term), float(score))
        for concept, term, score in found[["concept", "term", "score"]].itertuples(index=False)
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else np.nan


# -- one modality ----------------------------------------------------------------------------------


def perturbed(
    mdata: md.MuData, seed: int, batch_key: str | None, options: dict
) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Perturbations with a concept of their own, with true and with permuted labels."""
    (name,) = mdata.mod
    model = fitted(mdata, "X_plain", **options, seed=seed)
    explained = float(model.history["train_variance_explained_epoch"].iloc[-1, 0])
    truth = mdata[name].obs["gene"].astype(str).to_numpy()
    batch = truth if batch_key is None else mdata[name].obs[batch_key].astype(str).to_numpy()
    for permuted in (False, True):
        label = truth.copy()
        if permuted:
            rng = np.random.default_rng(seed)
            groups = [np.arange(len(label))] if batch_key is None else [
                np.flatnonzero(batch == b) for b in np.unique(batch)
            ]  # fmt: skip
            for rows in groups:
                label[rows] = rng.permutation(label[rows])
        mdata[name].obs["label"] = label
        table = cf.tl.differential_concepts(
            mdata, "label", control="non-targeting", batch_key=batch_key
        )
        counts = mdata.uns["differential_concepts"]["counts"][f"n_{name}"].dropna()
        row = {
            "seed": seed, "permuted": permuted, "explained": explained,
            "n_perturbations": len(counts), "n_with_a_concept": int((counts > 0).sum()),
            "perturbations": " ".join(counts.index[counts > 0]), "n_tests_found": len(table),
        }  # fmt: skip
        yield row, table


def periscope(seeds: list[int], *, tiny: bool) -> Iterator[dict]:
    """185 cells, plain statistics of the pixels; what the concepts of perturbations look like."""
    cells = ad.read_h5ad(DATA / "periscope_crops.h5ad")
    cf.pp.measure_crops(cells, nucleus="DNA")
    crops = torch.as_tensor(np.asarray(cells.obsm["crops"]))
    x = image_statistics(crops).numpy()
    x = (x - x.mean(0)) / (x.std(0) + 1e-6)
    cells.obsm["X_plain"] = PCA(20, random_state=0).fit_transform(x).astype("f4")
    options = {"n_concepts": 64, "k": 6, "epochs": 4 if tiny else 150, "batch_size": 64}
    for seed in seeds:
        mdata = md.MuData({"image": cells.copy()})
        for row, table in perturbed(mdata, seed, None, options):
            if len(table):
                cf.tl.concept_features(
                    mdata, concepts=sorted(set(table["concept"])), rna=None, quantile=0.8
                )
                images = mdata.uns["concept_features"]["images"]
                look = images[images["significant"]].sort_values("pvalue").head(4)
                row["look"] = "; ".join(
                    f"{c}: {f} {d:+.1f}" for c, f, d in
                    look[["concept", "feature", "difference"]].itertuples(index=False)
                )  # fmt: skip
            yield row


def eccite(seeds: list[int], *, tiny: bool) -> Iterator[dict]:
    """Components of the expression of THP-1 cells, without genes that are targets themselves."""
    cells = cf.datasets.papalexi_eccite(path=DATA / "papalexi_eccite.h5ad")
    cells = cells[(cells.obs["guide_max_frac"] > 0.8).to_numpy()]
    cells = cells[:, ~cells.var_names.isin(cells.obs["gene"].unique())]
    cells = _log_components(cells[:1500] if tiny else cells)
    options = {"n_concepts": 256, "k": 16, "epochs": 4 if tiny else 20, "batch_size": 1024}
    for seed in seeds:
        mdata = md.MuData({"rna": cells.copy()})
        for row, table in perturbed(mdata, seed, "bio_rep", options):
            if len(table):
                cf.tl.concept_features(
                    mdata, concepts=[int(table["concept"].value_counts().index[0])], images=None,
                    rna_layer="lognorm",
                )  # fmt: skip
                genes = mdata.uns["concept_features"]["genes"]
                up = genes[genes["score"] > 0].sort_values("score", ascending=False)
                row["look"] = " ".join(up["gene"].head(6))
            yield row


def _log_components(cells: AnnData) -> AnnData:
    cells = cells.copy()
    cells.layers["lognorm"] = sc.pp.log1p(sc.pp.normalize_total(cells, inplace=False)["X"])
    x = np.asarray(PCA(30, random_state=0).fit_transform(cells.layers["lognorm"].toarray()))
    cells.obsm["X_plain"] = x.astype("f4")
    return cells
