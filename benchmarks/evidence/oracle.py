"""How much is left to learn on the headroom screen: the closed form on features no method has.

    python benchmarks/evidence/oracle.py [--seeds 10 11] [--cells 12 100] [--steps 2500]

The same closed form (`SharedAxes`) on ever better features of the same cells: plain statistics of
the pixels; the best linear map of them onto what the simulation drew its pixels from; a
convolutional network regressed on the same, which no user can do; those features themselves; and
the true latents. Maps and network see the targets that are not held out. For the counts, the
latents at which they are most likely, told the programs, levels, depths and dispersions that they
were drawn from: no encoder can know more of them. What lies between the
first row and the third is what an encoder of the images could win, between the first and "counts
read by their own law" what one of the counts could; what lies between the true features
and the last row is the noise of a dozen cells and of their counts, which no encoder takes away.
Writes `results/oracle.csv`.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import mudata as md
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import cellfuse as cf
from cellfuse.datasets._counts import Programs, programs_of
from cellfuse.datasets._render import draw_features
from cellfuse.nn import image_statistics

RESULTS = Path(__file__).resolve().parent / "results"
#: Features of the images and of the expression; None is the data themselves.
ROWS = {
    "statistics of the images": (None, None),
    "counts read by their own law": (None, "posterior"),
    "their best linear map onto the true features": ("linear", None),
    "network told the true features": ("network", None),
    "true features of the images": ("features", None),
    "true features, counts read by their own law": ("features", "posterior"),
    "true features, true latents of the expression": ("features", "latent"),
    "true latents of both": ("latent", "latent"),
}


class Network(nn.Module):
    """Convolutions beside the statistics."""

    def __init__(self, n_channels: int, n_statistics: int, n_out: int, width: int = 32) -> None:
        super().__init__()
        before = [n_channels, width, width, 2 * width, 2 * width, 4 * width]
        after, strides = [*before[1:], 4 * width], (1, 2, 1, 2, 1, 2)
        layers: list[nn.Module] = []
        for n, m, stride in zip(before, after, strides, strict=True):
            layers += [nn.Conv2d(n, m, 3, stride, 1), nn.GroupNorm(8, m), nn.GELU()]
        self.pixels = nn.Sequential(*layers)
        self.out = nn.Sequential(
            nn.Linear(8 * width + n_statistics, 4 * width), nn.GELU(), nn.Linear(4 * width, n_out)
        )

    def forward(self, images: Tensor, statistics: Tensor) -> Tensor:
        """Predicted features."""
        found = self.pixels(images)
        return self.out(torch.cat([found.mean((2, 3)), found.amax((2, 3)), statistics], dim=1))


def standardised(x: Tensor, over: tuple[int, ...]) -> Tensor:
    return (x - x.mean(over, keepdim=True)) / x.std(over, keepdim=True).clamp_min(1e-6)


def network_told(
    crops: np.ndarray, statistics: np.ndarray, truth: np.ndarray, seen: np.ndarray, steps: int
) -> np.ndarray:
    """Features that a network predicts of all cells, told the truth of those that are `seen`."""
    torch.manual_seed(0)
    images = torch.as_tensor(crops)
    some = images[:4096].float()
    mean, sd = some.mean((0, 2, 3), keepdim=True), some.std((0, 2, 3), keepdim=True)
    plain = standardised(torch.as_tensor(statistics).float(), (0,))
    target = standardised(torch.as_tensor(truth).float(), (0,))
    net = Network(images.shape[1], plain.shape[1], target.shape[1])
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    rng, rows = np.random.default_rng(0), np.flatnonzero(seen)
    for _ in range(steps):
        batch = rng.choice(rows, 128)
        x = torch.rot90((images[batch].float() - mean) / sd, int(rng.integers(4)), (2, 3))
        x = x.flip(3) if rng.random() < 0.5 else x
        loss = (net(x, plain[batch]) - target[batch]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    net.eval()
    with torch.inference_mode():
        parts = zip(images.split(512), plain.split(512), strict=True)
        return torch.cat([net((x.float() - mean) / sd, s) for x, s in parts]).numpy()


def likeliest_latents(rna: AnnData, programs: Programs, seen: np.ndarray) -> np.ndarray:
    """Latents (n, n_latent) of the highest posterior, given what the counts were drawn from."""
    phase = rna.obsm["nuisance"]["phase"].to_numpy()
    drivers = np.column_stack([rna.obsm["latent"], np.cos(phase), np.sin(phase)]).astype("f4")
    levels = programs.levels[rna.obs["batch"].cat.codes]
    total = np.exp(levels + drivers @ programs.loadings).sum(axis=1)
    # The expected depth of each cell, told as well.
    levels += (np.log(rna.obsm["nuisance"]["depth"].to_numpy() / total)).astype("f4")[:, None]
    precision = torch.as_tensor(np.linalg.inv(np.cov(drivers[seen].T)).astype("f4"))
    loadings = torch.as_tensor(programs.loadings)
    dispersion = torch.as_tensor(programs.inverse_dispersion.astype("f4"))
    parts = []
    for start in range(0, rna.n_obs, 4096):
        rows = slice(start, start + 4096)
        counts, base = torch.as_tensor(rna.X[rows].toarray()), torch.as_tensor(levels[rows])
        z = torch.zeros(len(counts), len(loadings))
        for _ in range(15):  # Fisher scoring
            mean = (base + z @ loadings).clamp(-12, 8).exp()
            weight = mean * dispersion / (mean + dispersion)
            slope = (weight * (counts / mean - 1)) @ loadings.T - z @ precision
            fisher = torch.stack([(weight * each) @ loadings.T for each in loadings], dim=1)
            z += torch.linalg.solve(fisher + precision, slope).clamp(-2, 2)
        parts.append(z[:, : rna.obsm["latent"].shape[1]].numpy())
    return np.concatenate(parts)


def screen_of(seed: int, cells: int, steps: int) -> md.MuData:
    """The headroom screen with all features, and a fifth of its targets held out."""
    mdata = cf.datasets.simulated_screen(n_targets=300, cells_per_guide=cells, seed=seed)
    genes = sorted(set(mdata["rna"].obs["gene"]) - {"non-targeting"})
    held = set(np.random.default_rng(seed).permutation(genes)[: len(genes) // 5])
    for m in mdata.mod:
        out = mdata[m].obs["gene"].isin(held).to_numpy()
        mdata[m].obs["part"] = np.where(out, "test", "train")
    image = mdata["image"]
    seen = (image.obs["part"] == "train").to_numpy()
    crops = np.asarray(image.obsm["crops"])
    parts = torch.as_tensor(crops).split(1024)
    statistics = torch.cat([image_statistics(part) for part in parts]).numpy()
    phase = image.obsm["nuisance"]["phase"].to_numpy()
    drawn = draw_features(image.obsm["latent"], phase, seed=seed)
    truth = np.log(np.column_stack(list(drawn.values())))
    linear = make_pipeline(StandardScaler(), RidgeCV(10.0 ** np.arange(-2, 4)))
    image.obsm["linear"] = linear.fit(statistics[seen], truth[seen]).predict(statistics)
    image.obsm["network"] = network_told(crops, statistics, truth, seen, steps)
    image.obsm["features"] = truth
    rna = mdata["rna"]
    n_latent, n_batches = rna.obsm["latent"].shape[1], len(rna.obs["batch"].cat.categories)
    programs = programs_of(n_latent, rna.n_vars, n_batches, seed=seed)
    rna.obsm["posterior"] = likeliest_latents(
        rna, programs, (rna.obs["part"] == "train").to_numpy()
    )
    return mdata


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[10, 11])
    parser.add_argument("--cells", type=int, nargs="*", default=[12, 100])
    parser.add_argument("--steps", type=int, default=2500)
    given = parser.parse_args()
    tables, file = [], RESULTS / "oracle.csv"
    # Of other numbers of cells.
    before = pd.read_csv(file) if file.exists() else pd.DataFrame({"cells": []})
    batch = {"image": "well", "rna": "batch"}
    for cells, seed in itertools.product(given.cells, given.seeds):
        mdata = screen_of(seed, cells, given.steps)
        methods = {}
        for name, (image, rna) in ROWS.items():
            setup = {"batch_key": batch, "image_rep": image or "crops", "rna_rep": rna}
            methods[name] = {"model": "SharedAxes", "setup": setup, "target_key": "gene"}
        result = cf.benchmark(
            mdata, methods, {"edges": {"edges": mdata.uns["edges"]}, "alignment": {}},
            context_keys="guide", control="non-targeting", control_key="gene", target_key="gene",
            image_rep="crops", batch_key=batch, hold_out="part", seeds=1,
        )  # fmt: skip
        tables.append(result.table.assign(screen=seed, cells=cells))
        print(tables[-1].to_string(), flush=True)
        # Written after each, since a hundred cells of each guide take an hour.
        kept = before[~before["cells"].isin([t["cells"].iloc[0] for t in tables])]
        pd.concat([kept, *tables]).round(4).to_csv(file, index=False)


if __name__ == "__main__":
    main()
