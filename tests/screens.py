"""Small screens that tests share: one builder for each kind of experiment."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scipy.sparse as sp

#: A PETRI that trains in a fraction of a second.
TINY = {
    "set_size": 4,
    "width": 16,
    "n_heads": 2,
    "n_latents": 2,
    "image_depth": 1,
    "image_decoder_width": 16,
    "image_decoder_depth": 1,
    "image_decoder_heads": 2,
    "n_cross": 1,
    "n_self": 1,
    "n_set_layers": 2,
    "gene_decoder_hidden": 8,
}
#: A training of a few steps, without a progress bar.
SHORT = {"documents_per_context": 2, "batch_size": 4, "enable_progress_bar": False}
SMILES = {
    "aspirin": "CC(=O)Oc1ccccc1C(O)=O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "colchicine": "COc1cc2CCC(NC(C)=O)c3cc(=O)c(OC)ccc3-c2c(OC)c1OC",
    "vorinostat": "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
    "imaged only": "CCCC(CCC)C(O)=O",
    "sequenced only": "Nc1ccccc1",
}
PAIRED = ["aspirin", "caffeine", "colchicine", "vorinostat"]


def make_screen(
    *,
    n_cells: int = 24,
    n_contexts: int = 4,
    n_genes: int = 6,
    side: int = 16,
    channels: int = 2,
    seed: int = 0,
) -> md.MuData:
    """Images in ``obsm["crops"]`` and counts in X, of `n_cells` different cells each."""
    rng = np.random.default_rng(seed)
    label = np.arange(n_cells) % n_contexts
    obs = {
        m: pd.DataFrame(
            {"guide": [f"g{i}" for i in label], "plate": [f"p{i % 2}" for i in label]},
            index=[f"{m}-{i}" for i in range(n_cells)],
        )
        for m in ("image", "rna")
    }
    images = ad.AnnData(obs=obs["image"])
    images.obsm["crops"] = rng.integers(0, 256, (n_cells, channels, side, side), dtype=np.uint8)
    images.obsm["flat"] = rng.normal(size=(n_cells, 10)).astype("f4")
    images.obsm["tokens"] = rng.normal(size=(n_cells, 5, 7)).astype("f4")
    counts = ad.AnnData(
        sp.csr_matrix(rng.poisson(2, (n_cells, n_genes)).astype("f4")),
        obs=obs["rna"],
        var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]),
    )
    counts.obsm["flat"] = rng.normal(size=(n_cells, 10)).astype("f4")
    return md.MuData({"image": images, "rna": counts})


def flat_screen(*, n_contexts=8, n_cells=12, seed=0, paired=False) -> md.MuData:
    """Flat features of both modalities that the context moves, each in its own way."""
    rng = np.random.default_rng(seed)
    context = np.repeat(np.arange(n_contexts), n_cells)
    mods = {}
    for role, width in (("image", 5), ("rna", 6)):
        x = 2 * rng.normal(size=(n_contexts, width))[context]
        x = (x + 0.7 * rng.normal(size=x.shape)).astype(np.float32)
        prefix = "cell" if paired else role
        obs = pd.DataFrame(
            {"guide": [f"g{c}" for c in context]}, index=[f"{prefix}{i}" for i in range(len(x))]
        )
        var = pd.DataFrame(index=[f"{role}-f{i}" for i in range(width)])
        mods[role] = ad.AnnData(x, obs=obs, var=var, obsm={"flat": x.copy()})
    return md.MuData(mods)


#: Three components that both sides see, each through its own linear map, with noise.
N_SHARED = 3


def plate_screen(*, n_compounds=16, replicates=4, controls=6, shift=2.0, seed=0) -> md.MuData:
    """Two plates with offsets and controls; both sides see the compounds, each its own way."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(n_compounds, N_SHARED)) * 2
    maps = {"image": rng.normal(size=(N_SHARED, 6)), "rna": rng.normal(size=(N_SHARED, 8))}
    mods = {}
    for role, key in (("image", "X_img"), ("rna", "X_rna")):
        labels, plates, rows = [], [], []
        for plate in range(2):
            offset = rng.normal(size=maps[role].shape[1]) * shift
            for c in [*np.repeat(np.arange(n_compounds), replicates), *[-1] * controls]:
                signal = effect[c] @ maps[role] if c >= 0 else 0
                rows.append(signal + offset + 0.3 * rng.normal(size=maps[role].shape[1]))
                labels.append(f"drug{c}" if c >= 0 else "DMSO")
                plates.append(f"p{plate}")
        obs = pd.DataFrame(
            {"compound": labels, "plate": plates}, index=[f"{role}{i}" for i in range(len(rows))]
        )
        x = np.asarray(rows, np.float32)
        var = pd.DataFrame(index=[f"{role}-feature{i}" for i in range(x.shape[1])])
        mods[role] = ad.AnnData(x, obs=obs, var=var, obsm={key: x.copy()})
    return md.MuData(mods)


def sample_screen(
    n_samples: int = 6, cells: int = 8, *, image: int = 6, rna: int = 4, seed: int = 0
) -> md.MuData:
    """Samples of two treatments in three replicates; RNA is linear in the images' mean."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(n_samples), cells)
    effect = rng.normal(size=(n_samples, image))
    map_ = np.random.default_rng(99).normal(size=(image, rna))

    def modality(name, values):
        obs = pd.DataFrame(
            {
                "sample": [f"s{i}" for i in code],
                "treatment": [f"t{i % 2}" for i in code],
                "split": np.array(["train", "train", "val", "test"])[code % 4],
                "size": np.arange(len(code)),
            },
            index=[f"{name}-{i}" for i in range(len(code))],
        )
        return ad.AnnData(obs=obs, obsm={"X_vit" if name == "image" else "X_scgpt": values})

    images = effect[code] + 0.3 * rng.normal(size=(len(code), image))
    counts = 5 + 2 * (effect @ map_)[code] + 0.3 * rng.normal(size=(len(code), rna))
    return md.MuData(
        {
            "image": modality("image", images.astype("f4")),
            "rna": modality("rna", counts.astype("f4")),
        }
    )


def drug_screen(*, replicates=4, n_genes=8, side=16, strength=2.0, noise=0.5, seed=0) -> md.MuData:
    """Drugs that move images and expression along directions of their own; doses that differ."""
    rng = np.random.default_rng(seed)
    names = list(SMILES)
    place = {m: strength * rng.normal(size=(len(names), 8)) for m in ("image", "rna")}
    doses = {"image": (0.1, 10.0), "rna": (1.0, 30.0)}
    mods = {}
    for m in ("image", "rna"):
        skipped = {"image": "sequenced only", "rna": "imaged only"}[m]
        rows = [
            (name, line, dose)
            for name in names
            if name != skipped
            for line in ("A549", "U2OS")
            for dose in doses[m]
            for _ in range(replicates)
        ]
        rows += [("DMSO", line, np.nan) for line in ("A549", "U2OS") for _ in range(4)]
        obs = pd.DataFrame(rows, columns=["compound", "cell_line", "dose_um"])
        obs.index = [f"{m}-{i}" for i in range(len(obs))]
        obs["smiles"] = obs["compound"].map(SMILES)
        which = obs["compound"].map({n: i for i, n in enumerate(names)})
        effect = np.zeros((len(obs), 8))
        treated = which.notna().to_numpy()
        share = obs["dose_um"].to_numpy()[treated] / (1 + obs["dose_um"].to_numpy()[treated])
        effect[treated] = place[m][which[treated].astype(int)] * (0.5 + share[:, None] / 2)
        effect += (obs["cell_line"] == "U2OS").to_numpy()[:, None] * 0.5
        x = effect + noise * rng.normal(size=effect.shape)
        if m == "image":
            adata = ad.AnnData(obs=obs)
            adata.obsm["flat"] = x.astype("f4")
            adata.obsm["crops"] = rng.integers(0, 256, (len(obs), 2, side, side), dtype=np.uint8)
            adata.uns["channels"] = ["DNA", "ER"]
        else:
            counts = rng.poisson(50 * np.exp(0.3 * x[:, :n_genes]))
            var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
            adata = ad.AnnData(sp.csr_matrix(counts.astype("f4")), obs=obs, var=var)
            adata.obsm["X_values"] = x.astype("f4")
        mods[m] = adata
    return md.MuData(mods)


def any_model_screen(*, n_cells: int = 4, seed: int = 0) -> md.MuData:
    """What every model reads: crops, counts, flat embeddings, guides, plates, drugs with doses."""
    mdata = drug_screen(replicates=n_cells // 2, seed=seed)
    rng = np.random.default_rng(seed)
    for adata in mdata.mod.values():
        adata.obs["guide"] = (adata.obs["compound"] + "-" + adata.obs["cell_line"]).astype(str)
        adata.obs["plate"] = [f"p{i % 2}" for i in range(adata.n_obs)]
        adata.obsm["flat"] = rng.normal(size=(adata.n_obs, 6)).astype("f4")
    return mdata
