"""What real data can show of TIDE; called by `tide.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import torch
from _tide_scale import Scale, quiet
from scipy.stats import spearmanr

import cellfuse as cf
from cellfuse.data import Contexts, make_reader
from cellfuse.kernels.fingerprints import smiles_fingerprints
from cellfuse.model.base.training import seeded
from cellfuse.model.tide.response import REPORT, _explained, fit_response, response_report
from cellfuse.model.tide.transcriptomes import Transcriptomes
from cellfuse.nn.codebook import Codebook
from cellfuse.nn.film import DoseFiLM
from cellfuse.nn.response import RESPONSE_PRESETS, ResponseNetwork
from cellfuse.nn.tide import FlatEncoder

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

# -- CPJUMP1: phenotypes of compounds and of knock-outs -------------------------------------------


def jump(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    """Nothing is trained: the 15 phenotype probabilities, per cell line and time."""
    full = quiet(md.read_h5mu, DATA / "jump_target1.h5mu")["phenotype"]
    full.obsm["X_p"] = np.asarray(full.X, np.float32)
    kind = full.obs["perturbation_type"].astype(str)
    if "all" in there:
        return
    rows = []
    for line in ("A549", "U2OS"):
        here = full.obs["cell_line"] == line
        sets = {
            (name, hours): centred(full[(here & (kind == name) & (full.obs["hours"] == hours))])
            for name in ("compound", "crispr")
            for hours in sorted(full.obs["hours"][(here & (kind == name)).to_numpy()].unique())
        }
        for drug_hours in (h for name, h in sets if name == "compound"):
            drugs = sets["compound", drug_hours]
            of = drugs.obs[["compound", "target_gene"]].astype(str).drop_duplicates()
            known = of.rename(columns={"compound": "source", "target_gene": "target"})
            drugs = cf.tl.aggregate(drugs, by="compound", use_rep="X_p")
            for gene_hours in (h for name, h in sets if name == "crispr"):
                genes = sets["crispr", gene_hours]
                genes = genes[(genes.obs["gene"].astype(str) != "").to_numpy()].copy()
                profiles = cf.tl.aggregate(genes, by="gene", use_rep="X_p")
                table = cf.tl.target_discovery(
                    drugs,
                    profiles,
                    known,
                    n_draws=scale.n_seeds,
                    compound_key="compound",
                    gene_key="gene",
                    seed=seed,
                ).iloc[0]
                counts = genes.obs["gene"].astype(str).value_counts()
                often = genes.obs["gene"].astype(str).isin(counts.index[counts > 1])
                # One layout on all plates: by plate the position helps, by well the plate hinders.
                shots = {
                    key: cf.tl.one_shot_transfer(
                        genes[often.to_numpy()].copy(),
                        use_rep="X_p",
                        by="gene",
                        n_draws=scale.n_runs,
                        group_key=key,
                        seed=seed,
                    )
                    for key in ("plate", "well")
                }
                rows.append(
                    {
                        "cell_line": line,
                        "hours_compound": drug_hours,
                        "hours_gene": gene_hours,
                        "replicates_compound": replicates(sets["compound", drug_hours]),
                        "replicates_gene": replicates(sets["crispr", gene_hours]),
                        **{k: float(v) for k, v in table.items()},
                        **{
                            f"other_{key}_top{k}_{column}": float(found.loc[k, column])
                            for key, found in shots.items()
                            for k in found.index
                            for column in ("accuracy", "accuracy_low", "accuracy_high", "chance")
                        },
                    }
                )
    yield "all", rows


def replicates(part: ad.AnnData) -> float:
    """Median correlation of a feature over the same wells of two plates: what can be found."""
    obs = part.obs[["plate", "well"]].astype(str).reset_index(drop=True)
    tables = [
        pd.DataFrame(part.obsm["X_p"][rows.index], index=rows["well"])
        for _, rows in obs.groupby("plate")
    ]
    found = [a.corrwith(b).to_numpy() for i, a in enumerate(tables) for b in tables[i + 1 :]]
    return float(np.median(np.concatenate(found)))


def centred(part: ad.AnnData) -> ad.AnnData:
    """Perturbed wells, less the mean of their plate's negative controls (or of all its wells)."""
    part = part.copy()
    is_control = (part.obs["control_type"].astype(str) == "negcon").to_numpy()
    for plate in part.obs["plate"].unique():
        mine = (part.obs["plate"] == plate).to_numpy()
        base = mine & is_control if (mine & is_control).any() else mine
        part.obsm["X_p"][mine] -= part.obsm["X_p"][base].mean(axis=0)
    return part[~is_control].copy()


# -- L1000: the response model on held-out drugs and held-out doses -------------------------------


def l1000(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    if "all" in there:
        return
    adata = ad.read_h5ad(DATA / "l1000_ljp005_a375.h5ad")
    smiles = adata.obs["smiles"].astype(str)
    adata.obs["compound"] = adata.obs["compound_id"].astype(str)
    is_control = adata.obs["is_control"].to_numpy(bool)
    adata = adata[is_control | (smiles != "").to_numpy()].copy()
    is_control = adata.obs["is_control"].to_numpy(bool)
    adata.obs.loc[is_control, "compound"] = "DMSO"
    table = adata.obs.loc[~is_control].drop_duplicates("compound").set_index("compound")
    names = sorted(table.index)
    bits, read = smiles_fingerprints([str(table.loc[name, "smiles"]) for name in names])
    assert read.all()
    compound = pd.Index(names).get_indexer(pd.Index(adata.obs["compound"])).astype(np.int64)
    dose = np.where(is_control, 0, adata.obs["dose_um"].to_numpy(np.float32)).astype(np.float32)
    data = Transcriptomes(
        make_reader(np.asarray(adata.X, np.float32)),
        {"dose": dose, "compound": compound},
        Contexts.from_modalities({"rna": adata}, "compound"),
        torch.from_numpy(bits),
        False,
        "compound",
        "DMSO",
        8,
    )
    rng = np.random.default_rng(seed)
    drugs = rng.permutation(len(names))[: len(names) // 5]
    levels = np.unique(dose[~is_control])
    held_doses = levels[[1, 4]]  # one low, one high, neither at an end
    everything = np.ones(len(dose), bool)
    rows = []
    for task, held in (
        ("held-out drugs", np.isin(compound, drugs)),
        ("held-out doses", np.isin(dose, held_doses) & ~is_control),
    ):
        for use_dose in (True, False):
            with seeded(seed):
                net = ResponseNetwork(adata.n_vars, bits.shape[1], RESPONSE_PRESETS["small"])
            net.set_statistics(*data.statistics(np.flatnonzero(~held)))
            with seeded(seed, 1):
                quiet(
                    fit_response,
                    net,
                    data,
                    ~held,
                    use_dose=use_dose,
                    max_epochs=scale.response_epochs,
                    batch_size=64,
                    lr=1e-3,
                    weight_decay=0.05,
                    seed=seed,
                    enable_progress_bar=False,
                )
            # At held-out doses every drug is a training drug: the mean change is theirs at others.
            if task == "held-out drugs":
                report = response_report(net, data, everything, drugs, use_dose=use_dose)[0][0]
            else:
                report = at_doses(net, data, held, use_dose=use_dose)
            rows.append({"task": task, "use_dose": use_dose, **_named(report)})
    yield "all", rows


@torch.inference_mode()
def at_doses(
    net: ResponseNetwork, data: Transcriptomes, held: np.ndarray, *, use_dose: bool
) -> torch.Tensor:
    """The report on held-out doses, whose conditions are single wells."""
    controls = data.fields["compound"] < 0
    basal = data.means(np.where(controls, 0, -1), 1)[0]
    sd = net.sd.double().numpy()
    seen = np.flatnonzero(~held & ~controls)
    rows = np.flatnonzero(held)
    x = np.concatenate([part.double().numpy() for _, part in data.blocks(rows)])
    known = np.concatenate([part.double().numpy() for _, part in data.blocks(seen)])
    state = torch.as_tensor(basal, dtype=torch.float32).expand(len(rows), -1)
    effect = net.effect_of_drug(data.fingerprints(torch.from_numpy(data.fields["compound"][rows])))
    dose = torch.from_numpy(data.fields["dose"][rows]) if use_dose else None
    predicted = net.predict(state, effect, dose).double().numpy()
    mean_change = ((known - basal) / sd).mean(axis=0)
    found = _explained((x - basal) / sd, (predicted - basal) / sd, mean_change)
    n_drugs = len(np.unique(data.fields["compound"][rows]))
    return torch.tensor([*found, n_drugs, len(rows)])


def _named(report: torch.Tensor) -> dict[str, float]:
    return dict(zip(REPORT, report.tolist(), strict=True))


# -- LINCS Cell Painting: what FiLM takes off -----------------------------------------------------


def cellpainting(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    """Name the drug from an image and its dose; does distance from DMSO still tell the dose?

    One plate has no RNA: this is the teacher's image branch alone, encoder, FiLM and codebook.
    """
    if "all" in there:
        return
    adata = ad.read_h5ad(DATA / "lincs_cellpainting_sq00015054.h5ad")
    obs = adata.obs
    is_control = (obs["pert_type"] == "control").to_numpy()
    x = np.asarray(adata.X, np.float32)
    centre, spread = np.median(x[is_control], axis=0), x.std(axis=0)
    x = np.clip(np.where(spread > 0, (x - centre) / np.where(spread > 0, spread, 1), 0), -10, 10)
    usable = ~is_control & (obs["smiles"].astype(str) != "").to_numpy()
    names, drug = np.unique(obs["broad_sample"].astype(str)[usable], return_inverse=True)
    first = obs[usable].drop_duplicates("broad_sample").set_index("broad_sample")
    bits, read = smiles_fingerprints([str(first.loc[n, "smiles"]) for n in names])
    assert read.all()
    dose = obs["mmoles_per_liter"].to_numpy(np.float32)  # stock: only its order and ratio count
    images, doses = torch.from_numpy(x[usable]), torch.from_numpy(dose[usable])
    rows = []
    for film in (True, False):
        with seeded(seed):
            encoder = FlatEncoder(x.shape[1], width=128, hidden=256)
            book, peel = Codebook(torch.from_numpy(bits), width=128), DoseFiLM(128)
            parts = torch.nn.ModuleList([encoder, book, peel])
            optimiser = torch.optim.AdamW(parts.parameters(), 1e-3, weight_decay=0.05)
            for _ in range(10 * scale.epochs):
                h = peel(encoder.embed(images), doses if film else None)
                loss = torch.nn.functional.nll_loss(
                    book.log_probabilities(h), torch.from_numpy(drug)
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
        with torch.inference_mode():
            h = encoder.embed(images)
            still = encoder.embed(torch.from_numpy(x[is_control])).mean(dim=0)
            views = {"features": images, "embedding": h}
            if film:
                views["embedding, dose peeled"] = peel(h, doses)
        for name, view in views.items():
            base = {"features": torch.zeros(x.shape[1])}.get(name, still)
            far = (view - base).norm(dim=1).numpy()
            of = [drug == d for d in range(len(names))]
            of = [mine for mine in of if len(np.unique(dose[usable][mine])) > 3]
            rank = [spearmanr(dose[usable][mine], far[mine])[0] for mine in of]
            rows.append(
                {
                    "film": film,
                    "view": name,
                    "dose_rank_correlation": float(np.nanmean(rank)),
                    "n_drugs": len(of),
                    "train_loss": float(loss.detach()),
                }
            )
    yield "all", rows


REAL_PARTS = {"jump": jump, "l1000": l1000, "cellpainting": cellpainting}
