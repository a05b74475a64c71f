"""Concepts of simulated screens, whose shared and private factors are known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import scanpy as sc
import torch
from mudata import MuData
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import cellfuse as cf
from cellfuse.nn import image_statistics

QUIET = {"enable_progress_bar": False}
BATCH = {"image": "well", "rna": "batch"}
#: Size of the dictionary, chosen on seed 100.
SIZE = {"n_concepts": 256, "k": 16}
METHODS = ("SharedAxes", "SharedAxes@permuted", "CLIP", "CLIP@permuted")


def plain(mdata: MuData) -> None:
    """Statistics of the pixels and components of the log counts, for what is trained on vectors."""
    crops = torch.as_tensor(np.asarray(mdata["image"].obsm["crops"]))
    x = torch.cat([image_statistics(part) for part in crops.split(1024)]).numpy()
    mdata["image"].obsm["X_plain"] = ((x - x.mean(0)) / (x.std(0) + 1e-6)).astype("f4")
    cells = mdata["rna"].copy()
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=50)
    x = cells.obsm["X_pca"]
    mdata["rna"].obsm["X_plain"] = (x / x[:, 0].std()).astype("f4")


def embed(mdata: MuData, method: str, seed: int, epochs: int) -> str:
    """Embed the cells of both modalities; batches stay in, the well is asked for afterwards."""
    base, _, twin = method.partition("@")
    permuted = twin == "permuted"
    if base == "SharedAxes":
        cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
        model = cf.SharedAxes(mdata, permute_contexts=permuted, seed=seed)
        model.train()
    else:
        cf.CLIP.setup_mudata(mdata, context_keys="guide", image_rep="X_plain", rna_rep="X_plain")
        model = cf.CLIP(mdata, set_size=8, permute_contexts=permuted, seed=seed)
        model.train(epochs, documents_per_context=8, **QUIET)
    for name in mdata.mod:
        mdata[name].obsm["X_method"] = model.get_latent_representation(modality=name)
    return "X_method"


def guide_means(mdata: MuData, key: str) -> dict[str, pd.DataFrame]:
    """Mean activation of every concept by guide, guides of both modalities in one order."""
    means = {
        name: pd.DataFrame.sparse.from_spmatrix(mdata[name].obsm[key])
        .sparse.to_dense()
        .groupby(mdata[name].obs["guide"].astype(str).to_numpy())
        .mean()
        for name in mdata.mod
    }
    both = sorted(set.intersection(*(set(m.index) for m in means.values())))
    return {name: m.loc[both] for name, m in means.items()}


def correlations(a: NDArray, b: NDArray) -> NDArray:
    """Correlation of each column of one with each of the other; 0 where a column is constant."""
    a, b = (x - x.mean(axis=0) for x in (a, b))
    norm = np.linalg.norm(a, axis=0)[:, None] * np.linalg.norm(b, axis=0)
    return np.divide(a.T @ b, norm, out=np.zeros_like(norm), where=norm > 1e-12)


def matching(factors: NDArray, concepts: NDArray) -> float:
    """Mean correlation of factors with concepts, each with one of its own, best assigned."""
    found = np.abs(correlations(factors, concepts))
    return float(found[linear_sum_assignment(-found)].mean())


def against_truth(mdata: MuData, means: dict[str, pd.DataFrame]) -> dict[str, float]:
    """Matching scores with what both modalities' effects have in common, and with the rest."""
    effects = [
        mdata.uns["truth"]["guide_effects"][name]["background-1"].loc[means[name].index].to_numpy()
        for name in ("image", "rna")
    ]
    seen = np.all([m.to_numpy().std(axis=0) > 0 for m in means.values()], axis=0)
    z = [(m.loc[:, seen] - m.loc[:, seen].mean()) / m.loc[:, seen].std() for m in means.values()]
    concepts = (z[0] + z[1]).to_numpy()
    rng = np.random.default_rng(0)
    found: dict[str, float] = {}
    for name, factors in (
        ("shared", effects[0] + effects[1]),
        ("private", effects[0] - effects[1]),
    ):
        found[f"matching_{name}"] = matching(factors, concepts)
        found[f"matching_{name}_chance"] = float(
            np.mean([matching(rng.permutation(factors), concepts) for _ in range(10)])
        )
    return found


def agreement(means: dict[str, pd.DataFrame], which: NDArray[np.bool_]) -> float:
    """Median correlation over guides of a concept's activation in images and in expression."""
    if not which.any():
        return np.nan
    a, b = (m.to_numpy()[:, which] for m in means.values())
    return float(np.median(np.diag(correlations(a, b))))


def one_dictionary(mdata: MuData, seed: int, draws: int) -> dict[str, float]:
    """Fit concepts to the embedding and ask all that the tools answer."""
    cf.Concepts.setup_mudata(mdata, use_rep="X_method")
    model = cf.Concepts(mdata, **SIZE, seed=seed)
    model.train(20, **QUIET)
    for name in mdata.mod:
        mdata[name].obsm["X_concepts"] = model.get_activations(modality=name)
    table = cf.tl.multimodal_concepts(mdata)
    both = table["multimodal"].to_numpy(bool)
    shares = table[["fraction_image", "fraction_rna"]].to_numpy()
    means = guide_means(mdata, "X_concepts")
    row: dict[str, float] = {
        "explained": float(model.history["train_variance_explained_epoch"].iloc[-1, 0]),
        "n_multimodal": int(both.sum()),
        "n_in_both": int((shares > 0.01).all(axis=1).sum()),
        "agreement": agreement(means, both),
        "agreement_in_both": agreement(means, (shares > 0.01).all(axis=1)),
        **against_truth(mdata, means),
    }
    if not both.any():
        return row
    found = cf.tl.batch_predictability(mdata, BATCH, n_draws=draws, max_cells=4000, seed=seed)
    for name, line in found.iterrows():
        for column in ("accuracy", "accuracy_random", "difference", "pvalue", "chance"):
            row[f"{column}_{name}"] = float(line[column])
    return row


def simulated(seeds: list[int], *, tiny: bool) -> Iterator[dict]:
    """A row per seed and method."""
    for seed in seeds:
        size = {"n_targets": 8, "cells_per_guide": 12} if tiny else {}
        mdata = cf.datasets.simulated_screen(**size, seed=seed)
        plain(mdata)
        for method in METHODS:
            embed(mdata, method, seed, epochs=1 if tiny else 8)
            row = one_dictionary(mdata, seed, draws=4 if tiny else 20)
            yield {"seed": seed, "method": method, **row}


def gain(seeds: list[int], *, tiny: bool) -> Iterator[dict]:
    """Hidden droplets, rebuilt by PETRI with matched, random and mismatched expression.

    Strong effects that both modalities share: does the method use the other modality where there
    is all reason to? The emptying and the filling perturbation are those with the least and the
    most light in the channel. PETRI begins linear, as `small` does: begun at random it did not tell
    own from random expression in four times as many epochs, on seed 100 of a screen like these.
    """
    for seed in seeds:
        mdata = cf.datasets.simulated_screen(
            200, n_targets=8 if tiny else 24, guides_per_target=2, n_control_guides=2,
            cells_per_guide=10 if tiny else 40, complex_size=1, no_effect=0, shared=1.0,
            effect_size=2.0, image_size=16, n_channels=3, n_wells=1, n_batches=1, seed=seed,
        )  # fmt: skip
        gene = mdata["image"].obs["gene"].astype(str).to_numpy()
        light = pd.Series(mdata["image"].obsm["crops"][:, 2].mean(axis=(1, 2))).groupby(gene).mean()
        named = {"emptying": str(light.idxmin()), "filling": str(light.idxmax())}
        for permuted in (False, True):
            cf.PETRI.setup_mudata(mdata, context_keys="gene", image_rep="crops")
            model = cf.PETRI(mdata, set_size=8, permute_contexts=permuted, patch_size=4, seed=seed)
            epochs = {"documents_per_context": 4 if tiny else 40}
            model.train(1 if tiny else 2, **epochs, **QUIET)
            found = model.cross_modal_gain(
                channel="droplets", others=("none", "own", "random", *named.values()),
                max_cells=40 if tiny else 400, n_shown=400,
            )  # fmt: skip
            change = {
                name: _brightening(found, arm)
                for name, arm in {"random": "random", **named}.items()
            }
            tests = found.tests[found.tests["channel"].isin(["all", "droplets"])]
            for _, test in tests.iterrows():
                names = {v: k for k, v in named.items()}
                arm = names.get(test["arm"], test["arm"])
                yield {
                    "seed": seed, "permuted": permuted,
                    **test.to_dict(), "arm": arm, "brighter_than_own": change.get(arm, np.nan),
                }  # fmt: skip


def _brightening(found: cf.model.petri.evidence.CrossModalGain, arm: str) -> float:
    """Light that the holes of the channel are given with an arm, less that with the own cells'."""
    hidden = found.hidden
    light = found.restored[arm][:, 2] - found.restored["own"][:, 2]
    return float(np.mean([light[i][hidden[i]].mean() for i in range(len(hidden))]))
