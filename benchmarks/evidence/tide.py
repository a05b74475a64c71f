"""TIDE and its baselines on simulated drug screens, and what of it real data can show.

    python benchmarks/evidence/tide.py [simulated variants pairs jump l1000 cellpainting] [--tiny]

Writes `results/tide_<name>.csv`, seed by seed; a seed that stands there is not run
again. Compounds are held out before anything is trained: one-shot transfer is judged on compounds
and knock-outs that no training saw. `--tiny` runs a screen of toy size for one seed and writes
nothing: it only shows that everything runs.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from _tide_real import DATA, REAL_PARTS
from _tide_scale import TINY, Scale, quiet
from sklearn.metrics import roc_auc_score

import cellfuse as cf
from cellfuse.datasets._drugs import simulated_drugs
from cellfuse.model.tide.response import REPORT

RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = range(5)
KEYS = ["compound", "cell_line"]

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


def tide(train: md.MuData, scale: Scale, seed: int, **given: Any) -> cf.TIDE:
    cf.TIDE.setup_mudata(train, context_keys=KEYS, image_rep="crops")
    # The paper's; where it begins linear is the subject of `tide_begin.py`.
    model = cf.TIDE(train, seed=seed, **{"begin": "random", **scale.sizes, **given})
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


class Reference:
    """No training: what the images were rendered from, or plain statistics of their pixels."""

    def __init__(self, what: str) -> None:
        self.what = what

    def get_latent_representation(self, adata: ad.AnnData) -> np.ndarray:
        if self.what == "true latent":
            return np.asarray(adata.obsm["latent"], np.float32)
        x = adata.obsm["crops"].astype(np.float32) / 255
        flat = x.reshape(*x.shape[:2], -1)
        sd = flat.std(axis=2, keepdims=True)
        z = (flat - flat.mean(axis=2, keepdims=True)) / (sd + 1e-6)
        correlation = np.einsum("ncp,ndp->ncd", z, z) / flat.shape[2]
        parts = [
            flat.mean(axis=2),
            sd[..., 0],
            *np.quantile(flat, [0.1, 0.5, 0.9, 0.99], axis=2),
            np.abs(np.diff(x, axis=2)).mean(axis=(2, 3)),
            correlation[:, *np.triu_indices(x.shape[1], 1)],
        ]
        return np.concatenate(parts, axis=1).astype(np.float32)


#: Arguments of TIDE; the rest are the methods without it.
METHODS: dict[str, dict[str, Any]] = {
    "TIDE": {},
    "CL(D)": {"objective": "drug"},
    "CL(R)": {"objective": "rna"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "TIDE, response model not fine-tuned": {"finetune_response": False},
    "TIDE, no dose": {"use_dose": False},
    "TIDE with MAE": {"ssl": "mae"},
    "TIDE without SSL": {"ssl": None},
}
ALONE = {"untrained": "untrained", "MAE": "mae", "DINO": "dino"}
REFERENCES = ("true latent", "image statistics")


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
            by="perturbation",
            n_draws=scale.n_runs,
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
            n_draws=scale.n_seeds,
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
    """TIDE and its baselines."""
    return compared([*REFERENCES, *ALONE, *METHODS], seed, scale, there)


def variants(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    """TIDE without doses, without fine-tuning, with another third term or without one."""
    return compared(list(VARIANTS), seed, scale, there)


def compared(
    methods: list[str], seed: int, scale: Scale, there: set[str]
) -> Iterator[tuple[str, list[dict]]]:
    whole, train = split_screen(scale, seed)
    unseen = set(whole["image"].obs["compound"]) - set(train["image"].obs["compound"])

    def row(method: str, model: Any, seconds: float, **kwargs: Any) -> dict:
        found = score(whole, all_images(whole, model, **kwargs), unseen, scale, seed)
        more = {}
        if isinstance(model, cf.TIDE) and not kwargs and model.objective == "tide":
            more = {**prototypes(model, whole), **explained(model)}
        return {"method": method, "seconds": seconds, **found, **more}

    for method in methods:
        if method in there:
            continue
        start = time.perf_counter()
        if method in REFERENCES:
            model = Reference(method)
        elif method in ALONE:
            model = quiet(alone, ALONE[method], train, scale, seed)
        else:
            model = quiet(tide, train, scale, seed, **{**METHODS, **VARIANTS}[method])
        seconds = time.perf_counter() - start
        rows = [row(method, model, seconds)]
        if method in ("TIDE", "CL(D)"):
            rows.append(row(f"{method}, student's head", model, seconds, at="student"))
        if isinstance(model, cf.TIDE) and model.ssl == "dino":
            # DINO's own embedding is its running mean: what it is to be compared with.
            rows.append(row(f"{method}, averaged", model, seconds, at="average"))
        yield method, rows


def pairs(seed: int, scale: Scale, there: set[str]) -> Iterator[tuple[str, list[dict]]]:
    """Gain against the number of paired profiles per drug, for each cell line and for both."""
    whole, train = split_screen(scale, seed)
    unseen = set(whole["image"].obs["compound"]) - set(train["image"].obs["compound"])
    for n_paired in scale.pairs:
        for tuned in (True, False) if n_paired == max(scale.pairs) else (True,):
            run = f"{n_paired} profiles, {'fine-tuned' if tuned else 'not fine-tuned'}"
            if run in there:
                continue
            model = quiet(tide, train, scale, seed, n_paired=n_paired, finetune_response=tuned)
            both = all_images(whole, model, at="average")
            rows = []
            for line in ("both", *both.obs["cell_line"].unique()):
                chosen = both
                if line != "both":
                    chosen = both[(both.obs["cell_line"] == line).to_numpy()].copy()
                found = score(whole, chosen, unseen, scale, seed)
                setting = {"n_paired": str(n_paired), "fine_tuned": tuned, "cell_line": line}
                rows.append({**setting, **found})
            yield run, rows


PARTS = {
    "simulated": simulated,
    "variants": variants,
    "pairs": pairs,
    **REAL_PARTS,
}


def summary(table: pd.DataFrame) -> str:
    labels = [c for c in table if table[c].dtype in (object, bool) and c != "run"] or ["seed"]
    return table.groupby(labels).mean(numeric_only=True).round(3).T.to_string()


def main(names: list[str], scale: Scale, *, write: bool) -> Iterator[str]:
    for name in names:
        if name in REAL_PARTS and not DATA.exists():
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
