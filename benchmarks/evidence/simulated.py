"""PETRI and its baselines on simulated screens: train, score, write one table.

    python benchmarks/evidence/simulated.py train --jobs 2     # resumable, one model at a time
    python benchmarks/evidence/simulated.py score              # results/simulated.csv

Every model of a seed sees the same screen, the same number of steps and the same preset.
Embeddings are kept under `.evidence/` and a model that is there is not trained again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".evidence" / "simulated"
RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = range(5)
#: Steps of 4 documents of 16 + 16 cells with the small preset, about 0.1 s each on two cores.
N_STEPS = 1_500
BATCH_SIZE = 4
#: As in the paper's HepG2 screen (about 1 M cells of each modality over 9,104 contexts). With the
#: default of 25 the loss on held-out RNA stops falling after a few hundred steps: too few cells.
CELLS_PER_GUIDE = 100
CONTROL = "non-targeting"
BOTH = ("image", "rna")

MODELS: dict[str, dict] = {
    "PETRI": {},
    "PETRI permuted": {"permute_contexts": True},
    "PETRI Image": {"roles": ("image",)},
    "PETRI Omics": {"roles": ("rna",)},
    "ViT MAE": {"roles": ("image",), "n_set_layers": 0},
    "TrP MAE": {"roles": ("rna",), "n_set_layers": 0},
    # A floor: the same network with its weights as drawn.
    "untrained": {"untrained": True},
}


def screen(seed: int, shared: float):
    """The screen of a seed."""
    import cellfuse as cf

    return cf.datasets.simulated_screen(shared=shared, cells_per_guide=CELLS_PER_GUIDE, seed=seed)


def folder(name: str, seed: int, shared: float, n_steps: int) -> Path:
    """Where the embeddings of one model are kept."""
    return CACHE / f"shared-{shared:g}_steps-{n_steps}" / name.replace(" ", "-") / str(seed)


def train_one(name: str, seed: int, shared: float, n_steps: int) -> None:
    """Train one model and keep the embeddings of its cells."""
    import cellfuse as cf

    kwargs = dict(MODELS[name])
    roles = kwargs.pop("roles", BOTH)
    untrained = kwargs.pop("untrained", False)
    mdata = screen(seed, shared)
    cf.PETRI.setup_mudata(
        mdata, context_keys="guide", image_rep="crops", modalities={role: role for role in roles}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = cf.PETRI(mdata, preset="small", seed=seed, **kwargs)
        n_contexts = mdata[roles[0]].obs["guide"].nunique()
        started = time.perf_counter()
        model.train(
            max_epochs=1,
            batch_size=BATCH_SIZE,
            documents_per_context=max(1, round(n_steps * BATCH_SIZE / n_contexts)),
            lr=1e-12 if untrained else None,
            limit_train_batches=1 if untrained else 1.0,
            enable_progress_bar=False,
        )
    seconds = time.perf_counter() - started
    target = folder(name, seed, shared, n_steps)
    beside = target.with_name(f".{target.name}")
    beside.mkdir(parents=True, exist_ok=True)
    for role in roles:
        np.save(beside / f"{role}.npy", model.get_latent_representation(modality=role))
    losses = {key: float(frame.iloc[-1, 0]) for key, frame in model.history.items()}
    pd.Series({"seconds": seconds, **losses}).to_json(beside / "training.json")
    beside.rename(target)


def train_all(jobs: int, seeds: list[int], shared: float, n_steps: int) -> None:
    """Train what is missing, seed by seed, each model in a process of one thread."""
    todo = [
        (name, seed)
        for seed in seeds
        for name in MODELS
        if not folder(name, seed, shared, n_steps).exists()
    ]
    running: list[tuple[subprocess.Popen, str, int]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    while todo or running:
        while todo and len(running) < jobs:
            name, seed = todo.pop(0)
            command = [sys.executable, __file__, "one", "--model", name, "--seeds", str(seed)]
            command += ["--shared", str(shared), "--steps", str(n_steps)]
            process = subprocess.Popen(
                command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
            running.append((process, name, seed))
        time.sleep(1)
        for entry in list(running):
            if entry[0].poll() is not None:
                running.remove(entry)
                state = "done" if entry[0].returncode == 0 else f"FAILED ({entry[0].returncode})"
                print(
                    f"{time.strftime('%H:%M:%S')} {entry[1]} seed {entry[2]}: {state}", flush=True
                )


# -- scores ---------------------------------------------------------------------------------------


def corrected(mdata, use_rep: str, whitening: str) -> None:
    """Robust centre scaling against controls, then whitening, as the paper has it."""
    import cellfuse as cf

    cf.pp.robust_center_scale(
        mdata,
        use_rep=use_rep,
        control_key="gene",
        control=CONTROL,
        batch_key={"image": "well", "rna": None},
        key_added="X_corrected",
        overwrite=True,
    )
    if whitening != "none":
        cf.pp.whiten(
            mdata,
            use_rep="X_corrected",
            method="pca" if whitening == "pca" else "zca",
            joint=whitening == "joint",
            overwrite=True,
        )


def profiles(data, by: str):
    """Profiles of guides, or of genes as means of their guides' (A.5)."""
    import cellfuse as cf

    return cf.tl.aggregate(
        data, by=by, use_rep="X_corrected", within="guide" if by == "gene" else None
    )


def score(guides, genes, edges) -> dict[str, float]:
    """Share of consistent targets, and the edge scores."""
    import cellfuse as cf

    table = cf.tl.guide_consistency(guides, target_key="gene", control=CONTROL, n_null=20_000)
    found = cf.tl.edge_classification(genes, edges, control=CONTROL)
    found = found.iloc[0] if isinstance(found, pd.DataFrame) else found
    return {
        "guide_consistency": float(table["significant"].mean()),
        "tpr": float(found["tpr"]),
        "auc": float(found["auc"]),
    }


def _units(x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def late_fusion(parts: dict[str, tuple], edges, seed: int) -> dict[str, dict[str, float]]:
    """Concatenated profiles, and mean and maximum of the two cosine matrices (A.7)."""
    import anndata as ad

    out = {}
    (guides_a, genes_a), (guides_b, genes_b) = parts["image"], parts["rna"]

    def joined(a, b, transform):
        names = a.obs_names.intersection(b.obs_names)
        values = np.hstack([transform(a[names].X), transform(b[names].X)])
        return ad.AnnData(values.astype(np.float32), obs=a.obs.loc[names].copy())

    for label, transform in (("concatenation", np.asarray), ("mean cosine", _units)):
        # The cosine of two rows of concatenated unit vectors is the mean of the two cosines.
        fused = [joined(a, b, transform) for a, b in ((guides_a, guides_b), (genes_a, genes_b))]
        out[label] = score(*fused, edges)
    out["max cosine"] = _max_cosine(guides_a, guides_b, genes_a, genes_b, edges, seed)
    return out


def _max_cosine(guides_a, guides_b, genes_a, genes_b, edges, seed: int) -> dict[str, float]:
    from scipy.stats import false_discovery_control
    from sklearn.metrics import roc_auc_score, roc_curve

    def matrix(a, b):
        names = a.obs_names.intersection(b.obs_names)
        x, y = _units(a[names].X), _units(b[names].X)
        return a.obs.loc[names], np.maximum(x @ x.T, y @ y.T)

    obs, cosine = matrix(genes_a, genes_b)
    names = obs.index.to_numpy()
    in_network = np.isin(names, pd.unique(edges[["source", "target"]].to_numpy().ravel()))
    pairs = {frozenset(p) for p in edges[["source", "target"]].to_numpy().tolist()}
    chosen = np.flatnonzero(in_network & (names != CONTROL))
    both = list(combinations(chosen, 2))
    truth = [frozenset((names[i], names[j])) in pairs for i, j in both]
    values = [cosine[i, j] for i, j in both]
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)

    obs, cosine = matrix(guides_a, guides_b)
    gene = obs["gene"].astype(str).to_numpy()
    pool = np.flatnonzero(gene != CONTROL)
    rng = np.random.default_rng(seed)
    pvalues, nulls = [], {}
    for target in np.unique(gene[pool]):
        mine = np.flatnonzero(gene == target)
        k = len(mine)
        if k < 2:
            continue
        if k not in nulls:
            sets = []
            while len(sets) < 20_000:
                pick = rng.choice(pool, k, replace=False)
                if len(set(gene[pick])) == k:
                    sets.append(cosine[np.ix_(pick, pick)][np.triu_indices(k, 1)].mean())
            nulls[k] = np.array(sets)
        similarity = cosine[np.ix_(mine, mine)][np.triu_indices(k, 1)].mean()
        pvalues.append((np.sum(nulls[k] >= similarity) + 1) / (len(nulls[k]) + 1))
    return {
        "guide_consistency": float(np.mean(false_discovery_control(pvalues) < 0.05)),
        "tpr": float(np.interp(0.05, fpr, tpr)),
        "auc": float(roc_auc_score(truth, values)),
    }


def alignment(guides) -> dict[str, float]:
    """Do a context's image and RNA profiles agree, and do they find each other?"""
    image, rna = (_units(guides.obsm[f"profile_{role}"]) for role in BOTH)
    keep = (guides.obs["gene"] != CONTROL).to_numpy()
    cosine = image[keep] @ rna[keep].T
    own = np.diag(cosine)
    n = len(cosine)
    return {
        "cosine_own": float(own.mean()),
        "cosine_other": float((cosine.sum() - own.sum()) / (n * (n - 1))),
        "own_is_nearest": float(
            np.mean([(cosine >= own[:, None]).sum(1) == 1, (cosine >= own[None]).sum(0) == 1])
        ),
        "chance_nearest": 1 / n,
    }


def pca(mdata) -> dict[str, np.ndarray]:
    """PCA of log counts and of pixels, 50 components."""
    import scanpy as sc
    from sklearn.decomposition import PCA

    counts = mdata["rna"].copy()
    sc.pp.normalize_total(counts)
    sc.pp.log1p(counts)
    pixels = mdata["image"].obsm["crops"].reshape(mdata["image"].n_obs, -1).astype(np.float32)
    return {
        "rna": PCA(50, random_state=0).fit_transform(counts.X.toarray()),
        "image": PCA(50, random_state=0).fit_transform(pixels),
    }


def score_seed(seed: int, shared: float, n_steps: int) -> list[dict]:
    """All methods and whitenings of one seed."""
    mdata = screen(seed, shared)
    edges = mdata.uns["edges"]
    embeddings: dict[str, dict[str, np.ndarray]] = {}
    for name, kwargs in MODELS.items():
        where = folder(name, seed, shared, n_steps)
        if where.exists():
            roles = kwargs.get("roles", BOTH)
            embeddings[name] = {role: np.load(where / f"{role}.npy") for role in roles}
    for joint, parts in {
        "PETRI Image + Omics": ("PETRI Image", "PETRI Omics"),
        "ViT + TrP MAE": ("ViT MAE", "TrP MAE"),
    }.items():
        if all(part in embeddings for part in parts):
            embeddings[joint] = {
                "image": embeddings[parts[0]]["image"],
                "rna": embeddings[parts[1]]["rna"],
            }
    embeddings["PCA"] = pca(mdata)
    embeddings["truth"] = {role: mdata[role].obsm["latent"] for role in BOTH}
    rows = []
    for name, by_role in embeddings.items():
        for whitening in ("none", "zca", "joint", "pca"):
            if whitening == "joint" and len(by_role) < 2:
                continue
            rows += score_embedding(mdata, edges, name, by_role, whitening, seed)
    return rows


def score_embedding(mdata, edges, name, by_role, whitening, seed) -> list[dict]:
    """Each modality, their average, late fusion and alignment of one embedding."""
    import mudata as md

    subset = md.MuData({role: mdata[role].copy() for role in by_role})
    for role, values in by_role.items():
        subset[role].obsm["X_raw"] = np.asarray(values, dtype=np.float32)
    corrected(subset, "X_raw", whitening)
    base = {"method": name, "whitening": whitening, "seed": seed}
    parts = {
        role: (profiles(subset[role], "guide"), profiles(subset[role], "gene")) for role in by_role
    }
    rows = []
    if whitening != "joint":
        rows += [{**base, "profile": role, **score(*pair, edges)} for role, pair in parts.items()]
    if len(by_role) == 2:
        guides = profiles(subset, "guide")
        genes = profiles(subset, "gene")
        rows.append(
            {**base, "profile": "average", **score(guides, genes, edges), **alignment(guides)}
        )
        if name in ("ViT + TrP MAE", "PCA", "PETRI"):
            for label, scores in late_fusion(parts, edges, seed).items():
                rows.append({**base, "profile": label, **scores})
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "one", "score"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--shared", type=float, default=0.7)
    parser.add_argument("--steps", type=int, default=N_STEPS)
    args = parser.parse_args()
    if args.what == "one":
        train_one(args.model, args.seeds[0], args.shared, args.steps)
    elif args.what == "train":
        train_all(args.jobs, args.seeds, args.shared, args.steps)
    else:
        rows = []
        for seed in args.seeds:
            rows += score_seed(seed, args.shared, args.steps)
            print("seed", seed, "scored", flush=True)
        RESULTS.mkdir(exist_ok=True)
        table = pd.DataFrame(rows).assign(shared=args.shared, steps=args.steps)
        name = "simulated.csv" if args.shared == 0.7 else f"simulated_shared-{args.shared:g}.csv"
        table.round(5).to_csv(RESULTS / name, index=False)


if __name__ == "__main__":
    main()
