"""Semi-Clipped and PEA on real and on simulated screens.

    python benchmarks/evidence/semi_clipped.py [jump simulated]

Writes `results/semi_clipped_<name>.csv`, seed by seed; a method (or choice of operations) that
stands there for a seed is not run again. Compounds are held out in five folds: every embedding that
is scored comes from a model that never saw the compound.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from scipy.stats import spearmanr
from sklearn.cross_decomposition import CCA
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold

import cellfuse as cf

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = range(5)
N_FOLDS = 5
EPOCHS = 100
PENALTIES = tuple(10.0**k for k in range(-1, 6))
ALL = ("none", "center", "center_scale", "tvn")
#: What the model does where nothing is said: it begins at ridge regression.
DEFAULT = "Semi-Clipped, begun linear"
#: Arguments of the model on the real screen, whose images have no controls; begun at random but for
#: the first.
VARIANTS: dict[str, dict] = {
    DEFAULT: {"begin": "linear"},
    "Semi-Clipped, PEA": {},
    "Semi-Clipped, TVN only": {"pea": ("tvn",)},
    "Semi-Clipped, no correction": {"pea": ("none",)},
    "sigmoid": {"loss": "sigmoid"},
    "VICReg": {"loss": "vicreg"},
    "KD": {"loss": "kd"},
    "MSE": {"loss": "mse"},
    "both heads": {"trains": "heads"},
    "plain negatives": {"multi_positive": False},
}


def fit_model(mdata: md.MuData, seed: int, *, begin: str = "random", **kwargs):
    """Train without a bar; a warning of a collapse is a result and shows in the scores."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = cf.SemiClipped(mdata, seed=seed, begin=begin, **kwargs)
        model.train(EPOCHS, enable_progress_bar=False)
    return model


def means(x: np.ndarray, labels: np.ndarray, names: list[str]) -> np.ndarray:
    """Mean row of each name."""
    frame = pd.DataFrame(np.asarray(x, dtype=float)).groupby(labels).mean()
    return frame.loc[names].to_numpy()


def profiles(x: np.ndarray, names: list[str], obs: pd.DataFrame | None = None) -> ad.AnnData:
    frame = pd.DataFrame({"compound": names}, index=names)
    return ad.AnnData(x.astype(np.float32), obs=frame if obs is None else frame.join(obs))


# -- CPJUMP1: secretome learns from images ---------------------------------------------------------


def read_jump() -> tuple[ad.AnnData, ad.AnnData, ad.AnnData, pd.Series]:
    """Images, secretome and phenotypes of the shared compounds, and the target of each."""
    full = md.read_h5mu(DATA / "jump_target1.h5mu")
    image, rna, phenotype = (full[m].copy() for m in ("image", "secretome", "phenotype"))
    shared = set(image.obs["compound"].astype(str)) & set(rna.obs["compound"].astype(str))
    shared -= {"DMSO"}
    for adata in (image, rna, phenotype):
        adata.obs["compound"] = adata.obs["compound"].astype(str)
        adata.X = np.asarray(adata.X, dtype=np.float32)
    image = image[image.obs["compound"].isin(shared).to_numpy()].copy()
    image.obsm["X_emb"] = (image.X - image.X.mean(0)) / image.X.std(0)
    keep = rna.obs["compound"].isin(shared | {"DMSO"}).to_numpy()
    rna = rna[keep].copy()
    rna.obsm["X_emb"] = rna.X.copy()
    of = pd.concat([a.obs[["compound", "target_gene"]].astype(str) for a in (image, rna)])
    of = of[of["target_gene"] != ""].groupby("compound")["target_gene"].agg(set)
    target = of[of.map(len) == 1].map(lambda s: next(iter(s)))
    return image, rna, phenotype, target


def position_features(obs: pd.DataFrame) -> np.ndarray:
    """Row and column of the well, one-hot: all that a position knows."""
    wells = obs["well"].astype(str)
    return pd.get_dummies(
        pd.DataFrame({"row": wells.str[0], "column": wells.str[1:]}, index=obs.index)
    ).to_numpy(dtype=float)


def fold_embeddings(
    image, rna, train: list[str], test: list[str], seed: int, done: set[str]
) -> dict[str, tuple]:
    """For each method: RNA profiles of the held-out compounds, and images' in the same space."""
    labels = {m: a.obs["compound"].to_numpy() for m, a in (("image", image), ("rna", rna))}
    picture = means(image.obsm["X_emb"], labels["image"], test)
    learnt = means(image.obsm["X_emb"], labels["image"], train)
    out: dict[str, tuple] = {}
    keep = {m: np.isin(labels[m], [*train, "DMSO"]) for m in labels}
    mdata = md.MuData({"image": image[keep["image"]].copy(), "rna": rna[keep["rna"]].copy()})
    cf.SemiClipped.setup_mudata(
        mdata,
        context_keys="compound",
        image_rep="X_emb",
        rna_rep="X_emb",
        batch_key={"image": None, "rna": "plate"},
        control_key={"image": None, "rna": "compound"},
        control={"image": None, "rna": "DMSO"},
    )
    # The plates' controls come along: inference corrects by them.
    held = rna[np.isin(labels["rna"], [*test, "DMSO"])].copy()
    for name, kwargs in VARIANTS.items():
        if name in done:
            continue
        model = fit_model(mdata, seed, image_correction="none", **kwargs)
        linear = model.begin == "linear"  # its ridge is of the model's own correction
        z = model.get_latent_representation(
            held, correction=None if linear else model.operations[-1]
        )
        theirs = picture
        if kwargs.get("trains") == "heads":
            seen = md.MuData({"image": image, "rna": held})
            head = model.get_latent_representation(seen, modality="image")
            theirs = means(head, labels["image"], test)
        out[name] = means(z, held.obs["compound"].to_numpy(), test), theirs
    corrected = rna.copy()
    cf.pp.tvn(
        corrected,
        use_rep="X_emb",
        batch_key="plate",
        control_key="compound",
        control="DMSO",
        input_axes=True,
    )
    features = {
        "ridge": corrected.obsm["X_emb"],
        "position alone": position_features(rna.obs),
    }
    for name, x in features.items():
        seen, unseen = (means(x, labels["rna"], part) for part in (train, test))
        scale = seen.std(0) + 1e-9
        ridge = RidgeCV(PENALTIES).fit((seen - seen.mean(0)) / scale, learnt)
        out[name] = ridge.predict((unseen - seen.mean(0)) / scale), picture
    seen, unseen = (means(corrected.obsm["X_emb"], labels["rna"], part) for part in (train, test))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cca = CCA(n_components=20, max_iter=2000).fit(seen, learnt)
        out["CCA"] = cca.transform(unseen, picture)
    out["unadapted"] = unseen, None
    out["raw"] = means(rna.obsm["X_emb"], labels["rna"], test), None
    return out


def mantel(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two similarity matrices."""
    upper = np.triu_indices(len(a), 1)
    return float(spearmanr(np.corrcoef(a)[upper], np.corrcoef(b)[upper])[0])


def jump(seed: int, done: set[str]) -> list[dict]:
    if not {*VARIANTS} - done:
        return []
    image, rna, phenotype, target = read_jump()
    names = np.array(sorted(set(image.obs["compound"])))
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=seed)
    parts: dict[str, list] = {}
    found: dict[str, list] = {}
    for train, test in folds.split(names, groups=names):
        held = names[test].tolist()
        for method, (z, theirs) in fold_embeddings(
            image, rna, names[train].tolist(), held, seed, done
        ).items():
            if method in done:
                continue
            parts.setdefault(method, []).append(pd.DataFrame(z, index=held))
            if theirs is not None:
                table = cf.tl.retrieval(
                    profiles(z, held), profiles(theirs, held), "compound", use_rep=None
                )
                found.setdefault(method, []).append(table.loc["a to b"])
    other = _phenotypes(phenotype, names.tolist())
    images = means(image.obsm["X_emb"], image.obs["compound"].to_numpy(), names.tolist())
    rows = []
    for method, frames in parts.items():
        # CCA's axes are another fold's own: nothing is compared across its folds.
        if method == "CCA":
            rows.append({"method": method, "seed": seed, **_retrieved(found[method])})
            continue
        frame = pd.concat(frames).loc[names]
        row = {"method": method, "seed": seed, **_of_targets(frame, target)}
        row["similar_to_images"] = mantel(frame.to_numpy(), images)
        for line, x in other.items():
            row[f"similar_to_phenotype_{line}"] = mantel(frame.loc[x.index].to_numpy(), x)
        rows.append({**row, **(_retrieved(found[method]) if method in found else {})})
    if "images themselves" not in done:
        frame = pd.DataFrame(images, index=names)
        rows.append({"method": "images themselves", "seed": seed, **_of_targets(frame, target)})
    return rows


def _phenotypes(phenotype: ad.AnnData, names: list[str]) -> dict[str, pd.DataFrame]:
    """Mean phenotype of each compound in each cell line, a data set not trained on."""
    out = {}
    kind = phenotype.obs["perturbation_type"].astype(str)
    for line in ("A549", "U2OS"):
        mine = (
            (kind == "compound")
            & (phenotype.obs["cell_line"].astype(str) == line)
            & phenotype.obs["compound"].isin(names)
        ).to_numpy()
        x = pd.DataFrame(np.asarray(phenotype.X)[mine])
        out[line] = x.groupby(phenotype.obs["compound"].to_numpy()[mine]).mean()
    return out


def _of_targets(frame: pd.DataFrame, target: pd.Series) -> dict[str, float]:
    """Do compounds of one target come closer than others?"""
    frame = frame.loc[frame.index.intersection(target.index)]
    x = profiles(
        frame.to_numpy(), frame.index.tolist(), pd.DataFrame({"target": target.loc[frame.index]})
    )
    table = cf.tl.guide_consistency(x, target_key="target", control=None, n_null=20_000)
    tested = table["pvalue"].notna()
    return {
        "n_targets": int(tested.sum()),
        "share_p_below_.05": float((table.loc[tested, "pvalue"] < 0.05).mean()),
        "share_significant": float(table.loc[tested, "significant"].mean()),
        "similarity_over_null": float(
            (table.loc[tested, "similarity"] - table.loc[tested, "null_mean"]).mean()
        ),
    }


def _retrieved(tables: list[pd.DataFrame]) -> dict[str, float]:
    joint = pd.concat(tables).groupby(level=0)[["value", "chance"]].mean()
    return {
        "mrr": joint.loc["mrr", "value"],
        "mrr_chance": joint.loc["mrr", "chance"],
        "top5": joint.loc["top5", "value"],
        "foscttm": joint.loc["foscttm", "value"],
    }


# -- a simulated drug screen with strong batch effects ---------------------------------------------

#: Operations drawn from; each single one and each left out.
ABLATIONS = {
    "all four": ALL,
    **{f"{name} alone": (name,) for name in ALL},
    **{f"without {name}": tuple(o for o in ALL if o != name) for name in ALL},
}


def simulate(seed: int, *, n_compounds=120, n_plates=8, controls=24) -> dict[str, ad.AnnData]:
    """Embeddings of compounds that share eight components, on plates that shift, scale and tilt."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(n_compounds, 8)) * rng.gamma(1.0, 1.0, size=(n_compounds, 1))
    out = {}
    for role, width in (("image", 64), ("rna", 96)):
        loadings = rng.normal(size=(8, width)) / np.sqrt(8)
        own = rng.normal(size=(n_compounds, width)) * 0.5  # what only this readout sees
        rows, labels, plates = [], [], []
        for plate in range(n_plates):
            shift = rng.normal(size=width) * 2
            gain = np.exp(0.4 * rng.normal(size=width))
            tilt = np.eye(width) + 0.3 * rng.normal(size=(width, width)) / np.sqrt(width)
            which = np.concatenate([np.arange(n_compounds), np.full(controls, -1)])
            signal = np.where(which[:, None] >= 0, np.tanh(effect[which]) @ loadings * 2, 0)
            signal = signal + np.where(which[:, None] >= 0, own[which], 0)
            noise = rng.normal(size=signal.shape)
            rows.append(((signal + noise) * gain) @ tilt + shift)
            labels += [f"drug{i}" if i >= 0 else "DMSO" for i in which]
            plates += [f"plate{plate}"] * len(which)
        obs = pd.DataFrame({"compound": labels, "plate": plates})
        obs.index = [f"{role}-{i}" for i in range(len(obs))]
        x = np.concatenate(rows).astype(np.float32)
        names = pd.DataFrame(index=[f"{role}-{i}" for i in range(width)])
        out[role] = ad.AnnData(x, obs=obs, var=names, obsm={"X_emb": x.copy()})
    return out


def simulated(seed: int, done: set[str]) -> list[dict]:
    """Held-out plates and held-out compounds, for each choice of operations, and ridge."""
    if not {*ABLATIONS, DEFAULT, "ridge"} - done:
        return []
    screen = simulate(seed)
    names = sorted(set(screen["rna"].obs["compound"]) - {"DMSO"})
    rng = np.random.default_rng([seed, 1])
    held_drugs = set(rng.permutation(names)[: len(names) // 4])
    held_plates = {"plate5", "plate6", "plate7"}
    keep = {
        m: ~a.obs["compound"].isin(held_drugs) & ~a.obs["plate"].isin(held_plates)
        for m, a in screen.items()
    }
    mdata = md.MuData({m: a[keep[m].to_numpy()].copy() for m, a in screen.items()})
    cf.SemiClipped.setup_mudata(
        mdata,
        context_keys="compound",
        image_rep="X_emb",
        rna_rep="X_emb",
        batch_key="plate",
        control_key="compound",
        control="DMSO",
    )
    new = {m: a[a.obs["plate"].isin(held_plates).to_numpy()].copy() for m, a in screen.items()}
    found: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    for label, operations in {**ABLATIONS, DEFAULT: ALL}.items():
        if label in done:
            continue
        begin = "linear" if label == DEFAULT else "random"
        model = fit_model(mdata, seed, pea=operations, begin=begin)
        images = model.get_latent_representation(md.MuData(new), modality="image")
        picture = means(images, new["image"].obs["compound"].to_numpy(), names)
        # The strongest that was trained with is the default; the others are shown beside it.
        for correction in operations:
            z = model.get_latent_representation(new["rna"], correction=correction)
            found.append((label, correction, z, picture))
    if "ridge" not in done:
        found += [("ridge", *each) for each in ridges(mdata, new, names)]
    return [
        {"operations": label, "inference": correction, "seed": seed, **row}
        for label, correction, z, picture in found
        for row in _held_out(z, new["rna"].obs, picture, names, held_drugs)
    ]


def ridges(
    mdata: md.MuData, new: dict[str, ad.AnnData], names: list[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Ridge of the compounds' mean images on their mean RNA, for each correction of the RNA."""
    options = {"batch_key": "plate", "control_key": "compound", "control": "DMSO"}

    def corrected(adata: ad.AnnData, operation: str) -> np.ndarray:
        cf.pp.perturbation_embedding_augmentation(
            adata,
            use_rep="X_emb",
            key_added="X_c",
            operations=(operation,),
            overwrite=True,
            **options,
        )
        return adata.obsm["X_c"]

    train = {m: mdata[m].copy() for m in ("image", "rna")}
    of = {m: a.obs["compound"].to_numpy() for m, a in train.items()}
    learnt = sorted(set(of["rna"]) & set(of["image"]) - {"DMSO"})
    taught = means(corrected(train["image"], "tvn"), of["image"], learnt)
    images = new["image"].copy()
    picture = means(corrected(images, "tvn"), images.obs["compound"].to_numpy(), names)
    for operation in ALL:
        x = means(corrected(train["rna"], operation), of["rna"], learnt)
        scale = x.std(0) + 1e-9
        ridge = RidgeCV(PENALTIES).fit((x - x.mean(0)) / scale, taught)
        unseen = corrected(new["rna"].copy(), operation)
        yield operation, ridge.predict((unseen - x.mean(0)) / scale), picture


def _held_out(
    z: np.ndarray, obs: pd.DataFrame, picture: np.ndarray, names: list[str], held: set[str]
) -> Iterator[dict]:
    """One well against the mean images: the batch effect of a plate is not averaged out."""
    for group, chosen in (
        ("compounds seen", sorted(set(names) - held)),
        ("compounds held out", sorted(held)),
    ):
        mine = obs["compound"].isin(chosen).to_numpy()
        wells = ad.AnnData(z[mine], obs=obs[mine].copy())
        theirs = profiles(picture[[names.index(c) for c in chosen]], chosen)
        table = cf.tl.retrieval(wells, theirs, "compound", use_rep=None).loc["a to b"]
        yield {
            "group": group,
            "mrr": table.loc["mrr", "value"],
            "mrr_chance": table.loc["mrr", "chance"],
            "top1": table.loc["top1", "value"],
        }


PARTS = {"jump": jump, "simulated": simulated}
LABELS = {"jump": "method", "simulated": "operations"}


def main(names: list[str]) -> Iterator[str]:
    for name in names:
        path = RESULTS / f"semi_clipped_{name}.csv"
        done = pd.read_csv(path) if path.exists() else pd.DataFrame({"seed": []})
        for seed in SEEDS:
            mine = done[done["seed"] == seed]
            if name == "jump" and not DATA.exists():
                yield f"{name}: {DATA} is not there, left out"
                break
            ready = set(mine.get(LABELS[name], ()))
            done = pd.concat([done, pd.DataFrame(PARTS[name](seed, ready))], ignore_index=True)
            beside = path.with_suffix(".tmp")
            done.to_csv(beside, index=False, float_format="%.5g")
            beside.rename(path)
            yield f"{name}: seed {seed} done"


if __name__ == "__main__":
    import logging

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for line in main(sys.argv[1:] or list(PARTS)):
        print(line, flush=True)
