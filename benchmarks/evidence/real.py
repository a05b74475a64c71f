"""PETRI and simple baselines on the real data beside the repository (`../shared/data`).

    python benchmarks/evidence/real.py [jump papalexi periscope]

Writes one table per data set to `results/real_<name>.csv`. A data set that is not there
is left out, and said so.
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

import cellfuse as cf

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
RESULTS = Path(__file__).resolve().parent / "results"
SEEDS = range(3)
CONTROL = "non-targeting"


def consistency(profiles, *, target_key: str, control: str | None, seed: int) -> dict[str, float]:
    """Share of targets with similar guides (or compounds), and how similar they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        table = cf.tl.guide_consistency(
            profiles, target_key=target_key, control=control, n_null=100_000, seed=seed
        )
    tested = table["pvalue"].notna()
    return {
        "n_targets": int(tested.sum()),
        "share_significant": float(table.loc[tested, "significant"].mean()),
        "share_p_below_.05": float((table.loc[tested, "pvalue"] < 0.05).mean()),
        "mean_similarity": float(table.loc[tested, "similarity"].mean()),
        "null_similarity": float(table.loc[tested, "null_mean"].mean()),
    }


def quiet_train(model, **kwargs) -> None:
    """Train without a bar; the warning on scarce contexts is expected here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model.train(enable_progress_bar=False, **kwargs)


# -- CPJUMP1: image features and secretome of 300 compounds ----------------------------------------


def jump() -> Iterator[list[dict]]:
    """Do compounds with the same target come closer than chance?"""
    full = md.read_h5mu(DATA / "jump_target1.h5mu")
    image, rna = full["image"].copy(), full["secretome"].copy()
    shared = set(image.obs["compound"]) & set(rna.obs["compound"]) - {"DMSO"}
    image = image[image.obs["compound"].isin(shared).to_numpy()].copy()
    rna = rna[rna.obs["compound"].isin(shared).to_numpy()].copy()
    for adata in (image, rna):
        adata.X = np.asarray(adata.X, dtype=np.float32)
        adata.obs["compound"] = adata.obs["compound"].astype(str)
        adata.obs["target_gene"] = adata.obs["target_gene"].astype(str)
    _one_target(image, rna)
    mdata = md.MuData({"image": image, "rna": rna})
    for role in ("image", "rna"):
        mdata[role].obsm["raw"] = mdata[role].X
        n = min(50, mdata[role].n_vars)
        from sklearn.decomposition import PCA

        standardised = (mdata[role].X - mdata[role].X.mean(0)) / mdata[role].X.std(0)
        mdata[role].obsm["pca"] = PCA(n, random_state=0).fit_transform(standardised)
    for name in ("raw", "pca"):
        yield _jump_scores(mdata, name, name if name == "raw" else "PCA", seed=0)
    variants = {
        "PETRI": {},
        "PETRI permuted": {"permute_contexts": True},
        "PETRI Image": {"roles": ("image",)},
        "PETRI Omics": {"roles": ("rna",)},
    }
    for seed in SEEDS:
        for label, given in variants.items():
            arguments = dict(given)
            roles = arguments.pop("roles", ("image", "rna"))
            cf.PETRI.setup_mudata(
                mdata,
                context_keys="compound",
                rna_likelihood="mse",
                modalities={role: role for role in roles},
            )
            model = cf.PETRI(mdata, set_size=2, seed=seed, **arguments)
            quiet_train(model, max_epochs=5, documents_per_context=10, batch_size=32)
            part = md.MuData({role: mdata[role].copy() for role in roles})
            for role in roles:
                part[role].obsm["petri"] = model.get_latent_representation(modality=role)
            yield _jump_scores(part, "petri", label, seed=seed)
            print("jump", label, seed, flush=True)


def _one_target(*adatas: ad.AnnData) -> None:
    """A compound annotated with several targets is scored for none of them."""
    both = pd.concat([a.obs[["compound", "target_gene"]] for a in adatas])
    several = both.groupby("compound")["target_gene"].nunique().loc[lambda n: n > 1].index
    print(f"compounds with several targets, left unscored: {list(several)}")
    for adata in adatas:
        adata.obs.loc[adata.obs["compound"].isin(several), "target_gene"] = ""


def _jump_scores(mdata, rep: str, label: str, *, seed: int) -> list[dict]:
    rows = []
    for whitening in ("none", "zca", "joint"):
        widths = {mdata[role].obsm[rep].shape[1] for role in mdata.mod}
        if whitening == "joint" and (len(mdata.mod) < 2 or len(widths) > 1):
            continue
        part = md.MuData({role: mdata[role].copy() for role in mdata.mod})
        cf.pp.robust_center_scale(
            part, use_rep=rep, control_key=None, control=None, batch_key="plate", key_added="X_c"
        )
        if whitening != "none":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                cf.pp.whiten(part, use_rep="X_c", joint=whitening == "joint", overwrite=True)
        own = {role: cf.tl.aggregate(part[role], by="compound", use_rep="X_c") for role in part.mod}
        profiles = {role: own[role] for role in own if whitening != "joint"}
        if len(own) == 2:
            names = own["image"].obs_names.intersection(own["rna"].obs_names)
            a, b = own["image"][names], own["rna"][names]
            units = [x.X / np.linalg.norm(x.X, axis=1, keepdims=True) for x in (a, b)]
            profiles["concatenation"] = ad.AnnData(np.hstack(units), obs=a.obs.copy())
            if len(widths) == 1:
                profiles["average"] = cf.tl.aggregate(part, by="compound", use_rep="X_c")
        base = {"method": label, "whitening": whitening, "seed": seed}
        for profile, found in profiles.items():
            found = found[(found.obs["target_gene"] != "").to_numpy()].copy()
            scores = consistency(found, target_key="target_gene", control=None, seed=seed)
            rows.append({**base, "profile": profile, **scores})
    return rows


# -- ECCITE-seq: counts alone ----------------------------------------------------------------------


def papalexi() -> Iterator[list[dict]]:
    """PETRI Omics against PCA on log counts: guide consistency over 25 genes."""
    import scanpy as sc

    rna = ad.read_h5ad(DATA / "papalexi_eccite.h5ad")
    rna = rna[(rna.obs["guide_max_frac"] > 0.8).to_numpy()].copy()
    logged = rna.copy()
    sc.pp.normalize_total(logged)
    sc.pp.log1p(logged)
    rna.obsm["PCA"] = sc.pp.pca(logged, n_comps=50, copy=True, random_state=0).obsm["X_pca"]
    yield [dict(row, method="PCA", seed=0) for row in _papalexi_scores(rna, "PCA", 0)]
    for seed in SEEDS:
        for label, arguments in {"PETRI Omics": {}, "TrP MAE": {"n_set_layers": 0}}.items():
            mdata = md.MuData({"rna": rna})
            cf.PETRI.setup_mudata(mdata, context_keys="guide", modalities={"rna": "rna"})
            model = cf.PETRI(mdata, seed=seed, **arguments)
            # About 600 steps of 8 documents.
            n_documents = round(4_800 / rna.obs["guide"].nunique())
            quiet_train(model, max_epochs=1, documents_per_context=n_documents)
            rna.obsm["petri"] = model.get_latent_representation(modality="rna")
            scores = _papalexi_scores(rna, "petri", seed)
            yield [{**row, "method": label, "seed": seed} for row in scores]
            print("papalexi", label, seed, flush=True)


def _papalexi_scores(rna, rep: str, seed: int) -> list[dict]:
    rows = []
    for whitening in ("none", "zca"):
        part = rna.copy()
        cf.pp.robust_center_scale(
            part,
            use_rep=rep,
            control_key="gene",
            control=CONTROL,
            batch_key="bio_rep",
            key_added="X_c",
        )
        if whitening == "zca":
            cf.pp.whiten(part, use_rep="X_c", overwrite=True)
        guides = cf.tl.aggregate(part, by="guide", use_rep="X_c")
        scores = consistency(guides, target_key="gene", control=CONTROL, seed=seed)
        rows.append({"whitening": whitening, "profile": "rna", **scores})
    return rows


# -- PERISCOPE: images alone -----------------------------------------------------------------------


def periscope() -> Iterator[list[dict]]:
    """PETRI Image on 185 crops: it runs, and its guides against pixels' PCA."""
    from sklearn.decomposition import PCA

    image = ad.read_h5ad(DATA / "periscope_crops.h5ad")
    crops = image.obsm["crops"]
    pixels = crops[:, :, 2:98, 2:98].reshape(len(crops), 5, 12, 8, 12, 8).mean((3, 5))
    image.obsm["PCA"] = PCA(20, random_state=0).fit_transform(pixels.reshape(len(crops), -1))
    yield [dict(row, method="PCA", seed=0) for row in _periscope_scores(image, "PCA", 0)]
    for seed in SEEDS:
        for label, arguments in {"PETRI Image": {}, "ViT MAE": {"n_set_layers": 0}}.items():
            mdata = md.MuData({"image": image})
            cf.PETRI.setup_mudata(
                mdata, context_keys="guide", image_rep="crops", modalities={"image": "image"}
            )
            model = cf.PETRI(mdata, set_size=4, crop=96, seed=seed, **arguments)
            quiet_train(model, max_epochs=4, documents_per_context=30)
            image.obsm["petri"] = model.get_latent_representation(modality="image")
            scores = _periscope_scores(image, "petri", seed)
            yield [{**row, "method": label, "seed": seed} for row in scores]
            print("periscope", label, seed, flush=True)


def _periscope_scores(image, rep: str, seed: int) -> list[dict]:
    part = image.copy()
    cf.pp.robust_center_scale(
        part, use_rep=rep, control_key="gene", control=CONTROL, key_added="X_c"
    )
    guides = cf.tl.aggregate(part, by="guide", use_rep="X_c")
    scores = consistency(guides, target_key="gene", control=CONTROL, seed=seed)
    return [{"whitening": "none", "profile": "image", **scores}]


def main() -> None:
    """Command line."""
    files = {
        "jump": (jump, "jump_target1.h5mu"),
        "papalexi": (papalexi, "papalexi_eccite.h5ad"),
        "periscope": (periscope, "periscope_crops.h5ad"),
    }
    RESULTS.mkdir(exist_ok=True)
    for name in sys.argv[1:] or files:
        run, file = files[name]
        if not (DATA / file).exists():
            print(f"{name}: left out, {file} is not in ../shared/data")
            continue
        rows: list[dict] = []
        for part in run():  # written as it grows: an interrupted run leaves what it has
            rows += part
            pd.DataFrame(rows).round(5).to_csv(RESULTS / f"real_{name}.csv", index=False)


if __name__ == "__main__":
    main()
