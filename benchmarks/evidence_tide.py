"""TIDE and its baselines on simulated drug screens, and what of it real data can show.

    python benchmarks/evidence_tide.py [simulated pairs jump l1000 cellpainting] [--tiny]

Writes `benchmarks/results/tide_<name>.csv`, seed by seed; a seed that stands there is not run
again. Compounds are held out before anything is trained: one-shot transfer is judged on compounds
and knock-outs that no training saw. `--tiny` runs a screen of toy size for one seed and writes
nothing: it only shows that everything runs.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

import cellfuse as cf
from cellfuse.data import Contexts, make_reader
from cellfuse.datasets._drugs import simulated_drugs
from cellfuse.kernels.fingerprints import smiles_fingerprints
from cellfuse.model._tide_response import (
    REPORT,
    Transcriptomes,
    _explained,
    fit_response,
    response_report,
)
from cellfuse.model._training import seeded
from cellfuse.nn.codebook import Codebook
from cellfuse.nn.film import DoseFiLM
from cellfuse.nn.response import RESPONSE_PRESETS, ResponseNetwork
from cellfuse.nn.tide import FlatEncoder

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = range(5)
KEYS = ["compound", "cell_line"]


@dataclass
class Scale:
    """How large a run is; the defaults are the evidence."""

    epochs: int = 40
    response_epochs: int = 60
    validation_images: int = 0
    screen: dict[str, Any] = field(default_factory=dict)
    n_runs: int = 50
    n_seeds: int = 100
    pairs: tuple[int, ...] = (0, 1, 2, 4, 8, 16)
    sizes: dict[str, Any] = field(default_factory=dict)


TINY = Scale(
    epochs=1,
    response_epochs=1,
    screen={"n_mechanisms": 3, "images_per_condition": 2, "controls": 6, "images_per_knockout": 3},
    n_runs=3,
    n_seeds=3,
    pairs=(0, 2),
    sizes={"depth": 1, "width": 24, "n_heads": 2},
)

# -- a simulated screen ---------------------------------------------------------------------------


def split_screen(scale: Scale, seed: int) -> tuple[md.MuData, md.MuData]:
    """The whole screen, and what may be trained on: three drugs of each mechanism in four."""
    whole = simulated_drugs(seed=seed, **scale.screen)
    image = whole["image"]
    sizes = {"train": 0.75, "test": 0.25}
    cf.tl.split(image, by="compound", stratify="mechanism", sizes=sizes, control="DMSO", seed=seed)
    known = set(image.obs.loc[image.obs["split"] != "test", "compound"])
    part = {
        m: whole[m][whole[m].obs["compound"].isin(known).to_numpy()].copy()
        for m in ("image", "rna")
    }
    return whole, quiet(md.MuData, part)


def quiet(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


def tide(train: md.MuData, scale: Scale, seed: int, **given: Any) -> cf.TIDE:
    cf.TIDE.setup_mudata(train, context_keys=KEYS, image_rep="crops")
    model = cf.TIDE(train, seed=seed, **{**scale.sizes, **given})
    # A teacher with momentum .996 hardly moves in the few hundred steps there are.
    model.train(
        scale.epochs,
        response_epochs=scale.response_epochs,
        validation_images=scale.validation_images,
        momentum=0.95,
        enable_progress_bar=False,
    )
    return model


def alone(kind: str, train: md.MuData, scale: Scale, seed: int) -> Any:
    """The self-supervised method by itself; ``"untrained"`` is DINO at a rate of nothing."""
    images = train["image"].copy()
    model_class = cf.MAE if kind == "mae" else cf.DINO
    model_class.setup_anndata(images, image_rep="crops")
    model = model_class(images, seed=seed, **scale.sizes)
    given: dict[str, Any] = {} if kind == "mae" else {"momentum": 0.95}
    if kind == "untrained":
        model.train(1, lr=1e-12, enable_progress_bar=False, **given)
    else:
        model.train(scale.epochs, enable_progress_bar=False, **given)
    return model


#: Arguments of TIDE; the rest are the methods without it.
VARIANTS: dict[str, dict[str, Any]] = {
    "TIDE": {},
    "TIDE with MAE": {"ssl": "mae"},
    "TIDE without SSL": {"ssl": None},
    "TIDE, no dose": {"use_dose": False},
    "TIDE, response model not fine-tuned": {"finetune_response": False},
    "CL(D)": {"objective": "drug"},
    "CL(R)": {"objective": "rna"},
}
ALONE = {"untrained": "untrained", "MAE": "mae", "DINO": "dino"}


def all_images(whole: md.MuData, model: Any, **kwargs: Any) -> ad.AnnData:
    """Embeddings of compounds and knock-outs, centred and scaled by each cell line's DMSO."""
    parts = []
    for name in ("image", "knockout"):
        z = model.get_latent_representation(whole[name], **kwargs)
        part = ad.AnnData(z, obs=whole[name].obs.copy())
        part.obs["perturbation"] = part.obs["compound" if name == "image" else "gene"].astype(str)
        part.obs = part.obs[["perturbation", "cell_line"]].assign(
            kind=name, dose_um=part.obs.get("dose_um", 0.0)
        )
        parts.append(part)
    both = ad.concat(parts)
    both.obsm["X_z"] = np.asarray(both.X)
    cf.pp.robust_center_scale(
        both, use_rep="X_z", control_key="perturbation", control="DMSO", batch_key="cell_line"
    )
    return both


def score(whole: md.MuData, both: ad.AnnData, unseen: set[str], scale: Scale, seed: int) -> dict:
    """Both tasks on one embedding."""
    out: dict[str, float] = {}
    is_drug = (both.obs["kind"] == "image").to_numpy()
    name = both.obs["perturbation"].to_numpy()
    top_dose = both.obs["dose_um"].max()
    tasks = {
        "genes": ~is_drug,
        "unseen_compounds": is_drug
        & np.isin(name, list(unseen))
        & (both.obs["dose_um"] == top_dose).to_numpy(),
    }
    for task, rows in tasks.items():
        table = cf.tl.one_shot_transfer(
            both[rows].copy(),
            use_rep="X_z",
            target="perturbation",
            n_runs=scale.n_runs,
            n_boot=0,
            seed=seed,
        )
        for k in table.index:
            for column in ("accuracy", "chance"):
                out[f"one_shot_{task}_top{k}_{column}"] = float(table.loc[k, column])
    drugs = both[is_drug & (name != "DMSO")].copy()
    drugs = cf.tl.aggregate(drugs, by=["perturbation", "dose_um"], use_rep="X_z")
    genes = cf.tl.aggregate(both[~is_drug].copy(), by="perturbation", use_rep="X_z")
    for group, chosen in (
        ("all", drugs),
        ("unseen", drugs[drugs.obs["perturbation"].isin(unseen).to_numpy()].copy()),
    ):
        table = cf.tl.target_discovery(
            chosen,
            genes,
            whole.uns["targets"],
            dose_key="dose_um",
            compound_key="perturbation",
            n_seeds=scale.n_seeds,
            n_boot=0,
            seed=seed,
        )
        for column in ("ap", "auc", "hit", "ap_chance", "hit_chance"):
            out[f"targets_{group}_{column}"] = float(table.loc["mean", column])
    return out


def prototypes(model: cf.TIDE, whole: md.MuData) -> dict[str, float]:
    """Are prototypes of one mechanism nearer than others, and than their fingerprints say?"""
    book = model.codebook
    mechanism = whole.uns["truth"]["drugs"]["mechanism"].loc[book.obs_names].to_numpy()
    upper = np.triu_indices(len(mechanism), 1)
    same = (mechanism[:, None] == mechanism)[upper]
    out = {}
    for key in ("fingerprint", "initial_prototype", "prototype"):
        x = np.asarray(book.obsm[key], float)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        out[f"same_mechanism_auc_{key}"] = float(roc_auc_score(same, (x @ x.T)[upper]))
    return out


def explained(model: cf.TIDE) -> dict[str, float]:
    report = model.response_report_
    return {
        f"response_{part.split()[0]}_{column}": float(report.loc[part, column])
        for part in report.index
        for column in REPORT[:4]
    }


def simulated(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    whole, train = split_screen(scale, seed)
    unseen = set(whole["image"].obs["compound"]) - set(train["image"].obs["compound"])

    def row(method: str, model: Any, seconds: float, **kwargs: Any) -> dict:
        found = score(whole, all_images(whole, model, **kwargs), unseen, scale, seed)
        more = {}
        if isinstance(model, cf.TIDE) and not kwargs and model.objective == "tide":
            more = {**prototypes(model, whole), **explained(model)}
        return {"method": method, "seconds": seconds, **found, **more}

    for method in [*ALONE, *VARIANTS]:
        if method in there:
            continue
        start = time.perf_counter()
        if method in ALONE:
            model = quiet(alone, ALONE[method], train, scale, seed)
        else:
            model = quiet(tide, train, scale, seed, **VARIANTS[method])
        seconds = time.perf_counter() - start
        rows = [row(method, model, seconds)]
        if method in ("TIDE", "CL(D)"):
            rows.append(row(f"{method}, student's head", model, seconds, layer="student"))
        if isinstance(model, cf.TIDE) and model.ssl == "dino":
            # DINO's own embedding is its running mean: what it is to be compared with.
            rows.append(row(f"{method}, averaged", model, seconds, layer="average"))
        yield method, rows


def pairs(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    """Gain against the number of paired profiles per drug, for each cell line and for both."""
    whole, train = split_screen(scale, seed)
    unseen = set(whole["image"].obs["compound"]) - set(train["image"].obs["compound"])
    for n_paired in scale.pairs:
        for tuned in (True, False) if n_paired else (True,):
            run = f"{n_paired} profiles, {'fine-tuned' if tuned else 'not fine-tuned'}"
            if run in there:
                continue
            model = quiet(tide, train, scale, seed, n_paired=n_paired, finetune_response=tuned)
            both = all_images(whole, model, layer="average")
            rows = []
            for line in ("both", *both.obs["cell_line"].unique()):
                chosen = both
                if line != "both":
                    chosen = both[(both.obs["cell_line"] == line).to_numpy()].copy()
                found = score(whole, chosen, unseen, scale, seed)
                setting = {"n_paired": str(n_paired), "fine_tuned": tuned, "cell_line": line}
                rows.append({**setting, **found})
            yield run, rows


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
                    n_seeds=scale.n_seeds,
                    compound_key="compound",
                    gene_key="gene",
                    seed=seed,
                ).iloc[0]
                counts = genes.obs["gene"].astype(str).value_counts()
                often = genes.obs["gene"].astype(str).isin(counts.index[counts > 1])
                shots = cf.tl.one_shot_transfer(
                    genes[often.to_numpy()].copy(),
                    use_rep="X_p",
                    target="gene",
                    n_runs=scale.n_runs,
                    seed=seed,
                )
                rows.append(
                    {
                        "cell_line": line,
                        "hours_compound": drug_hours,
                        "hours_gene": gene_hours,
                        **{k: float(v) for k, v in table.items()},
                        **{
                            f"one_shot_top{k}_{column}": float(shots.loc[k, column])
                            for k in shots.index
                            for column in ("accuracy", "accuracy_low", "accuracy_high", "chance")
                        },
                    }
                )
    yield "all", rows


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
                report = response_report(net, data, everything, drugs, use_dose=use_dose)[0]
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


PARTS = {
    "simulated": simulated,
    "pairs": pairs,
    "jump": jump,
    "l1000": l1000,
    "cellpainting": cellpainting,
}
REAL = {"jump", "l1000", "cellpainting"}


def summary(table: pd.DataFrame) -> str:
    labels = [c for c in table if table[c].dtype in (object, bool) and c != "run"] or ["seed"]
    return table.groupby(labels).mean(numeric_only=True).round(3).T.to_string()


def main(names: list[str], scale: Scale, *, write: bool) -> Iterator[str]:
    for name in names:
        if name in REAL and not DATA.exists():
            yield f"{name}: {DATA} is not there, left out"
            continue
        path = RESULTS / f"tide_{name}.csv"
        done = pd.read_csv(path) if path.exists() and write else pd.DataFrame()
        for seed in SEEDS if write else [0]:
            there = set(done.loc[done["seed"] == seed, "run"]) if len(done) else set()
            start = time.perf_counter()
            for run, rows in PARTS[name](seed, scale, there):
                new = pd.DataFrame([{"run": run, "seed": seed, **row} for row in rows])
                done = pd.concat([done, new], ignore_index=True)
                if write:
                    RESULTS.mkdir(exist_ok=True)
                    beside = path.with_suffix(".tmp")
                    done.to_csv(beside, index=False, float_format="%.5g")
                    beside.replace(path)
                yield f"{name}, seed {seed}, {run}: {time.perf_counter() - start:.0f} s"
                start = time.perf_counter()
        yield summary(done)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    tiny = "--tiny" in sys.argv
    chosen = [name for name in sys.argv[1:] if not name.startswith("--")] or list(PARTS)
    for line in main(chosen, TINY if tiny else Scale(), write=not tiny):
        print(line, flush=True)
