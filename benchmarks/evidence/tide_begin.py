"""TIDE begun at the closed form, begun at random, and the closed form, on simulated drug screens.

    python benchmarks/evidence/tide_begin.py [--tiny]

Writes `results/tide_begin.csv`; a seed that stands there is not run again. Both begin with the
same weights and have no self-supervised term, which would take most of the time. The settings were
fixed on seed 100.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from _tide_scale import TINY, Scale, quiet
from tide import Reference, explained, score, split_screen, tide

import cellfuse as cf

PATH = Path(__file__).resolve().parent / "results" / "tide_begin.csv"
SEEDS = range(5)
SCALE = Scale(epochs=8, response_epochs=20, n_runs=50, n_seeds=30)
#: From images to their embedding.
Embed = Callable[[ad.AnnData], np.ndarray]


def closed_form(train: md.MuData, seed: int) -> Any:
    """Shared axes of the images alone, by drug, cell line and dose: no expression, no network."""
    image = train["image"].copy()
    image.obs["at"] = image.obs["dose_um"].astype(str)
    mdata = quiet(md.MuData, {"image": image})
    keys = ["compound", "cell_line", "at"]
    cf.SharedAxes.setup_mudata(
        mdata, context_keys=keys, image_rep="crops", modalities={"image": "image"}
    )
    model = cf.SharedAxes(mdata, seed=seed)
    model.train()
    return model


def embedded(whole: md.MuData, embed: Embed, *, scaled: bool) -> ad.AnnData:
    """Compounds and knock-outs, each cell line by its DMSO: centred, and scaled where it is apt."""
    parts = []
    for name, label in (("image", "compound"), ("knockout", "gene")):
        obs = whole[name].obs
        table = {"perturbation": obs[label].astype(str), "cell_line": obs["cell_line"].astype(str)}
        doses = obs["dose_um"] if "dose_um" in obs else 0.0
        parts.append(
            ad.AnnData(
                obs=pd.DataFrame({**table, "kind": name, "dose_um": doses}),
                obsm={"X_z": embed(whole[name])},
            )
        )
    both = ad.concat(parts)
    by = {"control_key": "perturbation", "control": "DMSO", "batch_key": "cell_line"}
    if scaled:
        cf.pp.robust_center_scale(both, use_rep="X_z", **by)
        return both
    for line in both.obs["cell_line"].unique():
        rows = (both.obs["cell_line"] == line).to_numpy()
        control = rows & (both.obs["perturbation"] == "DMSO").to_numpy()
        both.obsm["X_z"][rows] -= np.median(both.obsm["X_z"][control], axis=0)
    return both


def rows_of(seed: int, scale: Scale) -> Iterator[dict[str, Any]]:
    whole, train = split_screen(scale, seed)
    unseen = set(whole["image"].obs["compound"]) - set(train["image"].obs["compound"])

    def row(method: str, embed: Embed, *, scaled: bool, **more: Any) -> dict[str, Any]:
        both = quiet(embedded, whole, embed, scaled=scaled)
        found = score(whole, both, unseen, scale, seed)
        return {"seed": seed, "method": method, **more, **found}

    yield row("image statistics", Reference("").get_latent_representation, scaled=True)
    axes = quiet(closed_form, train, seed)
    yield row(
        "closed form",
        lambda adata: axes.get_latent_representation(adata, modality="image"),
        scaled=False,
    )
    for begin in ("linear", "random"):
        start = time.perf_counter()
        model = quiet(tide, train, scale, seed, begin=begin, ssl=None)
        more: dict[str, Any] = {"seconds": time.perf_counter() - start, **explained(model)}
        if begin == "linear":
            weights = {
                "learnt_weight": model.learnt_weight,
                "response_learnt_weight": model.response_learnt_weight,
            }
            joint = model.get_latent_representation
            yield row("TIDE, begin linear", joint, scaled=False, **weights, **more)
        for at in ("encoder", "student"):
            yield row(
                f"TIDE, begin {begin}, {at}",
                lambda adata, at=at, model=model: model.get_latent_representation(adata, at=at),  # type: ignore[misc]
                scaled=True,
                **more,
            )


def main(*, tiny: bool) -> Iterator[str]:
    done = pd.read_csv(PATH) if PATH.exists() and not tiny else pd.DataFrame()
    for seed in [0] if tiny else SEEDS:
        if len(done) and (done["seed"] == seed).any():
            continue
        found = pd.DataFrame(rows_of(seed, TINY if tiny else SCALE))
        done = pd.concat([done, found], ignore_index=True)
        if not tiny:
            done.to_csv(PATH, index=False, float_format="%.5g")
        yield f"seed {seed} done"
    shown = [
        "one_shot_genes_top1_accuracy",
        "one_shot_unseen_compounds_top1_accuracy",
        "targets_all_ap",
        "targets_unseen_ap",
        "response_held-out_r2_over_mean_change",
    ]
    yield done.groupby(["method", "seed"])[shown].mean().round(3).to_string()


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for line in main(tiny="--tiny" in sys.argv):
        print(line, flush=True)
