"""What PhenoSeq's synthetic profiles say, on simulated screens and on CPJUMP1.

    python benchmarks/evidence/phenoseq.py [simulated classify jump] [--tiny] [--seeds 0 1 2]

Writes `results/phenoseq_<part>.csv`, a row at a time; what is there already is not run
again (delete a file to begin anew). The real data lie beside the repository (`../shared/data`);
where they are not, that part is left out, and said so.

- simulated: synthetic profiles of held-out replicates, and of held-out treatments, ranked among
  the real ones; with a shared effect, with effects that the modalities do not share, and without
  any effect.
- classify: treatments told from images, RNA, synthetic RNA and both, on held-out replicates.
- jump: image features to secretome of 300 compounds, compounds or plates held out.

Every part has the same two baselines: ridge regression from the mean image features of a context
to the mean RNA embedding (penalty by cross-validation within the training contexts), and the mean
of the training contexts, the same for all.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import cellfuse as cf
from cellfuse.tl.classify import classify_treatments
from cellfuse.tl.synthetic import fidelity

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = [0, 1, 2]
SCREENS = ["shared", "partly shared", "not shared", "no effect"]
TINY = False


# -- what is kept ---------------------------------------------------------------------------------


class Table:
    """A file of rows that grows, and knows what it has."""

    def __init__(self, name: str, keys: list[str]) -> None:
        self.path = RESULTS / f"phenoseq_{name}{'_tiny' if TINY else ''}.csv"
        self.keys = keys
        RESULTS.mkdir(exist_ok=True)

    def has(self, **labels: object) -> bool:
        if not self.path.exists():
            return False
        found = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        # As the file has them: nothing is written for None.
        asked = {key: "" if labels[key] is None else str(labels[key]) for key in self.keys}
        same = [found[key] == asked[key] for key in self.keys]
        return bool(np.logical_and.reduce(same).any())

    def add(self, rows: list[dict]) -> None:
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            if new:
                writer.writeheader()
            for row in rows:
                writer.writerow(
                    {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}
                )


def scores(real: ad.AnnData, synthetic: ad.AnnData, by: str) -> dict[str, float]:
    table = fidelity(real, synthetic, by, n_boot=0)
    summary = table.attrs["summary"]
    return {
        "n": len(table),
        "accuracy_at_1": summary["accuracy_at_1"],
        "mrr": summary["mrr"],
        "chance_mrr": summary["chance_mrr"],
        "specificity": float(table["specificity"].mean()),
        "pearson": float(table["pearson"].mean()),
        "euclidean": float(table["euclidean"].mean()),
    }


# -- predictions of held-out contexts -------------------------------------------------------------


def means(adata: ad.AnnData, by: str) -> ad.AnnData:
    return cf.tl.aggregate(adata, by=by, use_rep=None)


def baselines(train: md.MuData, images: ad.AnnData, by: str, label: str) -> dict[str, ad.AnnData]:
    """Ridge and training mean: fitted by context `by`, asked for the contexts of `images`."""
    x, y = means(train["image"], by), means(train["rna"], by)
    both = x.obs_names.intersection(y.obs_names)
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 6, 17)))
    ridge.fit(x[both].X, y[both].X)
    new = means(images, by)
    obs = new.obs[[label]]
    mean = np.repeat(y[both].X.mean(0, keepdims=True), len(obs), axis=0)
    return {
        "ridge": ad.AnnData(ridge.predict(new.X), obs=obs),
        "training mean": ad.AnnData(mean, obs=obs.copy()),
    }


def train_phenoseq(mdata: md.MuData, *, seed: int, epochs: int, **setup) -> cf.PhenoSeq:
    given = {key: setup.pop(key) for key in ("set_size",) if key in setup}
    fit = {key: setup.pop(key) for key in ("documents_per_context",) if key in setup}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cf.PhenoSeq.setup_mudata(mdata, image_rep=None, rna_rep=None, **setup)
        model = cf.PhenoSeq(mdata, seed=seed, **given)
        model.train(2 if TINY else epochs, rna_per_document=8, enable_progress_bar=False, **fit)
    return model


#: Kind of conditioning, draws, and whether these come in pairs of opposite noise.
DRAWS = (("mean", 1, True), ("mean", 10, True), ("mean", 100, False), ("set", 10, True))


def drawn(model: cf.PhenoSeq, images: ad.AnnData) -> dict[str, ad.AnnData]:
    """Both kinds of conditioning, one draw and the mean of several."""
    out = {}
    for conditioning, n, antithetic in DRAWS:
        found = model.sample(images, conditioning=conditioning, n_samples=n, antithetic=antithetic)
        draws = "1 draw" if n == 1 else f"{n} draws" if antithetic else f"{n} independent draws"
        out[f"PhenoSeq {conditioning}, {draws}"] = found
    return out


# -- simulated screens ----------------------------------------------------------------------------


def image_features(crops: np.ndarray) -> np.ndarray:
    """Intensity and texture of each channel, and correlations between channels."""
    x = crops.astype(np.float32) / 255
    n, channels = x.shape[:2]
    flat = x.reshape(n, channels, -1)
    parts = [flat.mean(2), flat.std(2), *np.quantile(flat, [0.1, 0.5, 0.9, 0.99], axis=2)]
    for axis in (2, 3):
        parts.append(np.abs(np.diff(x, axis=axis)).mean((2, 3)))
    coarse = x.reshape(n, channels, x.shape[2] // 4, 4, x.shape[3] // 4, 4).mean((3, 5))
    parts.append(coarse.reshape(n, channels, -1).std(2))
    z = (flat - flat.mean(2, keepdims=True)) / (flat.std(2, keepdims=True) + 1e-6)
    correlation = np.einsum("ncp,ndp->ncd", z, z) / flat.shape[2]
    parts.append(correlation[:, *np.triu_indices(channels, 1)])
    return np.concatenate(parts, axis=1)


def simulated_screen(kind: str, seed: int) -> md.MuData:
    """Features of a screen whose cells are dealt to four replicates."""
    options = {
        "shared": {"shared": 1.0},
        "partly shared": {"shared": 0.7},
        "not shared": {"shared": 0.0},
        "no effect": {"effect_size": 0.0},
    }
    screen = cf.datasets.simulated_screen(
        300,
        n_targets=6 if TINY else 30,
        guides_per_target=2,
        n_control_guides=4,
        cells_per_guide=20 if TINY else 80,
        complex_size=1,
        no_effect=0.0,
        seed=seed,
        **options[kind],
    )
    rng = np.random.default_rng(seed)
    raw = {"image": image_features(screen["image"].obsm["crops"])}
    counts = np.asarray(screen["rna"].X.todense())
    raw["rna"] = np.log1p(1e3 * counts / np.maximum(counts.sum(1, keepdims=True), 1))
    mods = {}
    for name, values in raw.items():
        obs = screen[name].obs[["gene"]].astype(str)
        obs["replicate"] = [f"rep{k}" for k in rng.integers(1, 5, len(obs))]
        obs["sample"] = obs["gene"] + "-" + obs["replicate"]
        train = obs["replicate"].isin(["rep1", "rep2"]).to_numpy()
        scaled = StandardScaler().fit(values[train]).transform(values)
        pca = PCA(min(30, values.shape[1]), random_state=0).fit(scaled[train])
        var = pd.DataFrame(index=[f"{name}_{k}" for k in range(pca.n_components_)])
        mods[name] = ad.AnnData(pca.transform(scaled).astype("f4"), obs=obs, var=var)
    return md.MuData(mods)


def part_of(mdata: md.MuData, key: str, labels: list[str]) -> md.MuData:
    return md.MuData(
        {m: a[a.obs[key].isin(labels).to_numpy()].copy() for m, a in mdata.mod.items()}
    )


def simulated() -> None:
    table = Table("simulated", ["screen", "held_out", "seed"])
    for seed in SEEDS:
        for kind in SCREENS:
            for held_out in ("replicates", "treatments"):
                labels = {"screen": kind, "held_out": held_out, "seed": seed}
                if table.has(**labels):
                    continue
                start = time.perf_counter()
                mdata = simulated_screen(kind, seed)
                train, test, setup = split_simulated(mdata, held_out, seed)
                model = train_phenoseq(
                    mdata,
                    seed=seed,
                    epochs=80,
                    context_keys="sample",
                    documents_per_context=10,
                    **setup,
                )
                found = {
                    **drawn(model, test["image"]),
                    **baselines(train, test["image"], "sample", "gene"),
                }
                seconds = time.perf_counter() - start
                table.add(
                    [
                        {
                            **labels,
                            "method": m,
                            **scores(test["rna"], s, "gene"),
                            "seconds": seconds,
                        }
                        for m, s in found.items()
                    ]
                )
                print("simulated", *labels.values(), f"{seconds:.0f} s", flush=True)
        if TINY:
            break


def split_simulated(
    mdata: md.MuData, held_out: str, seed: int
) -> tuple[md.MuData, md.MuData, dict]:
    """Mark training, validation and test cells; controls stay in all of them."""
    if held_out == "replicates":
        part = {"rep1": "train", "rep2": "train", "rep3": "val", "rep4": "test"}
        for adata in mdata.mod.values():
            adata.obs["part"] = adata.obs["replicate"].map(part)
    else:
        # Training stops by another replicate of the treatments it learns from: by other treatments
        # the first epoch was the best of all (see the results page).
        genes = np.unique(mdata["rna"].obs["gene"])
        genes = np.random.default_rng(seed).permutation(genes[genes != "non-targeting"])
        held = genes[: len(genes) // 3]
        for adata in mdata.mod.values():
            stop = np.where(adata.obs["replicate"] == "rep4", "val", "train")
            adata.obs["part"] = np.where(adata.obs["gene"].isin(held), "test", stop)
    train = part_of(mdata, "part", ["train"])
    return train, part_of(mdata, "part", ["test"]), {"split_key": "part"}


def classify() -> None:
    """Tables 1 and 2 of the paper, on a simulated screen."""
    table = Table("classify", ["screen", "seed", "n_cells"])
    inputs = [("image",), ("rna",), ("synthetic",), ("image", "rna"), ("image", "synthetic")]
    for seed in SEEDS:
        for kind in ("shared", "partly shared", "not shared"):
            todo = [n for n in (None, 32) if not table.has(screen=kind, seed=seed, n_cells=n)]
            if not todo:
                continue
            mdata = simulated_screen(kind, seed)
            _, _, setup = split_simulated(mdata, "replicates", seed)
            model = train_phenoseq(
                mdata,
                seed=seed,
                epochs=80,
                context_keys="sample",
                documents_per_context=10,
                **setup,
            )
            synthetic = model.sample(n_samples=10)
            synthetic.var_names = [f"synthetic_{k}" for k in range(synthetic.n_vars)]
            synthetic.obs_names = "synthetic-" + synthetic.obs_names
            whole = md.MuData({**mdata.mod, "synthetic": synthetic})
            for n_cells in todo:
                found = classify_treatments(
                    whole,
                    "gene",
                    inputs,
                    split_key="part",
                    sample_key="sample",
                    control="non-targeting",
                    n_cells=n_cells,
                    seeds=(12345,) if TINY else (12345, 42, 1234),
                    setting={"hidden": 128, "depth": 1},
                    batch_size=32,
                    n_draws=5,
                )
                labels = {"screen": kind, "seed": seed, "n_cells": n_cells}
                table.add([{**labels, **row} for row in found.to_dict("records")])
                print("classify", *labels.values(), flush=True)
        if TINY:
            break


# -- CPJUMP1 --------------------------------------------------------------------------------------


def jump_data() -> md.MuData:
    full = md.read_h5mu(DATA / "jump_target1.h5mu")
    mods = {"image": full["image"], "rna": full["secretome"]}
    shared = set(mods["image"].obs["compound"]) & set(mods["rna"].obs["compound"]) - {"DMSO"}
    out = {}
    for name, adata in mods.items():
        part = adata[adata.obs["compound"].isin(shared).to_numpy()].copy()
        obs = part.obs[["compound", "plate"]].astype(str)
        out[name] = ad.AnnData(np.asarray(part.X, dtype=np.float32), obs=obs, var=part.var[[]])
        out[name].var_names = [f"{name}_{v}" for v in part.var_names]
    return md.MuData(out)


def jump_splits(mdata: md.MuData) -> Iterator[tuple[str, int, md.MuData, md.MuData, dict]]:
    """Five folds of compounds, and each image plate held out with half of the RNA plates."""
    compounds = np.unique(mdata["rna"].obs["compound"])
    order = np.random.default_rng(0).permutation(len(compounds)) % 5
    for fold in range(5):
        part = np.where(order == fold, "test", "train")
        of = dict(zip(compounds, part, strict=True))
        for adata in mdata.mod.values():
            adata.obs["part"] = adata.obs["compound"].map(of)
        train = part_of(mdata, "part", ["train"])
        test = part_of(mdata, "part", ["test"])
        yield "compounds", fold, train, test, {"split_key": "part", "val": None}
    plates = {m: np.unique(a.obs["plate"]) for m, a in mdata.mod.items()}
    for fold in range(2):
        for m, adata in mdata.mod.items():
            held = plates[m][fold :: len(plates["image"])]
            adata.obs["part"] = np.where(adata.obs["plate"].isin(held), "test", "train")
        train, test = (part_of(mdata, "part", [label]) for label in ("train", "test"))
        yield "plates", fold, train, test, {"split_key": "part", "val": None}


def jump() -> None:
    if not (DATA / "jump_target1.h5mu").exists():
        print(f"left out: there is no {DATA / 'jump_target1.h5mu'}")
        return
    table = Table("jump", ["held_out", "fold", "seed"])
    mdata = jump_data()
    for held_out, fold, train, test, setup in jump_splits(mdata):
        for seed in SEEDS:
            labels = {"held_out": held_out, "fold": fold, "seed": seed}
            if table.has(**labels):
                continue
            start = time.perf_counter()
            model = train_phenoseq(
                mdata,
                seed=seed,
                epochs=40,
                context_keys="compound",
                set_size=2,
                documents_per_context=5,
                **setup,
            )
            found = {
                **drawn(model, test["image"]),
                **baselines(train, test["image"], "compound", "compound"),
            }
            seconds = time.perf_counter() - start
            rows = []
            for method, synthetic in found.items():
                rows.append(
                    {
                        **labels,
                        "method": method,
                        **scores(test["rna"], synthetic, "compound"),
                        "seconds": seconds,
                    }
                )
            table.add(rows)
            print("jump", *labels.values(), f"{seconds:.0f} s", flush=True)
            if TINY:
                break


def main() -> None:
    global TINY, SEEDS, SCREENS
    parts = {"simulated": simulated, "classify": classify, "jump": jump}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *parts], help="default: all")
    parser.add_argument("--tiny", action="store_true", help="a try of every part, to files apart")
    parser.add_argument("--seeds", nargs="*", type=int, default=SEEDS)
    parser.add_argument("--screens", nargs="*", choices=SCREENS, default=SCREENS)
    arguments = parser.parse_args()
    TINY, SEEDS, SCREENS = arguments.tiny, arguments.seeds, arguments.screens
    warnings.filterwarnings("ignore", category=FutureWarning)
    for name in arguments.parts or parts:
        parts[name]()


if __name__ == "__main__":
    main()
