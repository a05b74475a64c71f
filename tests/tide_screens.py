"""Screens that TIDE learns in a second, shared by its tests."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

import cellfuse as cf
from cellfuse.nn.response import ResponseSizes

SMILES = {
    "aspirin": "CC(=O)Oc1ccccc1C(O)=O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "colchicine": "COc1cc2CCC(NC(C)=O)c3cc(=O)c(OC)ccc3-c2c(OC)c1OC",
    "vorinostat": "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
    "imaged only": "CCCC(CCC)C(O)=O",
    "sequenced only": "Nc1ccccc1",
}
PAIRED = ["aspirin", "caffeine", "colchicine", "vorinostat"]
KEYS = ["compound", "cell_line"]
SMALL = {"hidden": 16, "codebook_hidden": 16, "codebook_width": 8}
VIT = {"width": 12, "depth": 1, "n_heads": 2}
SHORT = {"response_epochs": 1, "enable_progress_bar": False}
TINY = ResponseSizes(8, 2, n_latents=2, n_cross=1, n_self=1, depth=1, hidden=8)


def make_screen(*, replicates=4, n_genes=8, side=16, strength=2.0, noise=0.5, seed=0) -> md.MuData:
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


def setup(mdata, **given):
    cf.TIDE.setup_mudata(mdata, **{"context_keys": KEYS, "image_rep": "flat", **given})


def built(mdata, *, setup_with=None, **given):
    setup(mdata, **(setup_with or {}))
    return cf.TIDE(mdata, **{**SMALL, **given})


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
