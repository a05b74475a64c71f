"""What a GPU makes of the models: PETRI trained to 20,000 steps, and steps at the papers' sizes.

Run by `benchmarks/gpu.sh`. Each part is written when it is done, so that a run that is cut short
leaves what it had. Shares of the peak are the matrix products and convolutions that torch's
profiler counts (attention's own are left out) over the bf16 peak
of the card (H100, H200: 989 TFLOP/s, dense).
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.profiler import ProfilerActivity, profile

import cellfuse as cf

PEAK = 989e12
SCREENS: dict[str, dict[str, Any]] = {
    "headroom": {"n_targets": 300, "cells_per_guide": 12},
    "enough cells": {"cells_per_guide": 100},
}


class Clock(Callback):
    """Seconds of each step after the first few, and what was waited for between them."""

    def __init__(self, skip: int) -> None:
        self.skip, self.steps, self.waits = skip, [], []
        self._end: float | None = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._start = now()
        if self._end is not None and trainer.global_step > self.skip:
            self.waits.append(self._start - self._end)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end = now()
        if trainer.global_step > self.skip:
            self.steps.append(self._end - self._start)

    def summary(self) -> dict[str, float]:
        """Median step, and the share of the time that was waited for data."""
        step, wait = float(np.median(self.steps)), float(np.sum(self.waits))
        return {"seconds_per_step": step, "loader_share": wait / (wait + float(np.sum(self.steps)))}


def now() -> float:
    """Time once the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def alignment(mdata: Any, model: Any, held: list[str]) -> dict[str, float]:
    """Of held-out guides in the model's embedding."""
    for m in ("image", "rna"):
        mdata[m].obsm["X_gpu"] = model.get_latent_representation(modality=m)
    table = cf.tl.alignment(mdata, "guide", use_rep="X_gpu", contexts=held, n_boot=0, n_draws=99)
    return {k: float(table.loc["embedding", k]) for k in ("gap", "foscttm", "mrr")}


def trained(screen: str, *, permuted: bool, tiny: bool) -> dict[str, Any]:
    """PETRI small for 20,000 steps, beside SharedAxes on the same cells."""
    options = {"n_targets": 12, "cells_per_guide": 8} if tiny else SCREENS[screen]
    mdata = cf.datasets.simulated_screen(**options, seed=0)
    genes = mdata["rna"].obs.groupby("guide", observed=True)["gene"].first()
    targets = sorted(set(genes) - {"non-targeting"})
    chosen = np.random.default_rng(0).permutation(targets)[: max(1, len(targets) // 5)]
    held = [str(guide) for guide in genes.index[genes.isin(chosen)]]
    setup = {"context_keys": "guide", "image_rep": "crops",
             "batch_key": {"image": "well", "rna": "batch"}}  # fmt: skip
    found: dict[str, Any] = {"screen": screen, "permuted": permuted, "n_held": len(held)}
    cf.SharedAxes.setup_mudata(mdata, **setup)
    floor = cf.SharedAxes(mdata, target_key="gene", permute_contexts=permuted, n_draws=50)
    floor.train(validation_contexts=held)
    found["SharedAxes"] = alignment(mdata, floor, held)
    cf.PETRI.setup_mudata(mdata, **setup)
    model = cf.PETRI(mdata, target_key="gene", permute_contexts=permuted)
    start = now()
    clock = Clock(skip=5)
    model.train(
        max_epochs=10_000, max_steps=8 if tiny else 20_000, validation_contexts=held,
        documents_per_context=30, num_workers=0 if tiny else 4, enable_progress_bar=False,
        limit_val_batches=0, callbacks=[clock],
    )  # fmt: skip
    losses = {k: float(v.iloc[-1, 0]) for k, v in model.history.items()}
    return found | {"PETRI": alignment(mdata, model, held), "seconds": now() - start,
                    "losses": losses, **clock.summary()}  # fmt: skip


def steps(name: str, *, tiny: bool) -> dict[str, Any]:
    """Steps at the papers' sizes on cells that are made up."""
    rng = np.random.default_rng(0)
    preset = "small" if tiny else "base"
    n, side, genes = (64, 32, 200) if tiny else (4_096, 80, 18_082)
    import anndata as ad
    import mudata as md
    import scipy.sparse as sp

    n_guides = n // (8 if tiny else 32)
    guides = np.array([f"g{i % n_guides}" for i in range(n)])
    image = ad.AnnData(obs={"guide": guides})
    image.obs_names = [f"image-{i}" for i in range(n)]
    image.obsm["crops"] = rng.integers(0, 256, (n, 5, side, side), dtype=np.uint8)
    rna = ad.AnnData(sp.random(n, genes, 0.1, "csr", "f4", 0, data_rvs=lambda k: np.ones(k, "f4")))
    rna.obs["guide"], rna.obs_names = guides, [f"rna-{i}" for i in range(n)]
    for adata in (image, rna):
        adata.obsm["flat"] = rng.normal(size=(n, 768 if not tiny else 16)).astype("f4")
    mdata = md.MuData({"image": image, "rna": rna})
    clock = Clock(skip=3)
    short = {"max_epochs": 100, "max_steps": 6 if tiny else 40, "enable_progress_bar": False,
             "callbacks": [clock]}  # fmt: skip
    if name == "PETRI":
        cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
        model = cf.PETRI(mdata, preset=preset)
        cells = min(96 if not tiny else 8, n_guides * 30) * 16
    elif name == "PhenoSeq":
        reps = {"image_rep": "flat", "rna_rep": "flat"}
        cf.PhenoSeq.setup_mudata(mdata, context_keys="guide", **reps)
        model = cf.PhenoSeq(mdata, preset=preset)
        short["validation_contexts"] = 0  # stopped by steps alone
        cells = model.recipe.batch_size * 16
    else:
        cf.DINO.setup_anndata(image, image_rep="crops")
        model = cf.DINO(image, preset=preset)
        cells = model.recipe.batch_size
    with profile(activities=[ProfilerActivity.CPU], with_flops=True) as seen:
        model.train(**{**short, "max_steps": 1, "callbacks": []})
    flops = float(sum(event.flops or 0 for event in seen.key_averages()))
    model.train(**short)
    found = {"model": name, "preset": preset, "cells_per_step": cells, "flops_per_step": flops}
    found |= clock.summary()
    found["cells_per_second"] = cells / found["seconds_per_step"]
    if torch.cuda.is_available():
        found["share_of_bf16_peak"] = flops / found["seconds_per_step"] / PEAK
        found["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {"device": card, "torch": torch.__version__, "parts": []}
    parts = [
        lambda name=name: steps(name, tiny=given.tiny) for name in ("PETRI", "PhenoSeq", "DINO")
    ]
    parts += [
        lambda s=screen, p=permuted: trained(s, permuted=p, tiny=given.tiny)
        for screen in SCREENS
        for permuted in (False, True)
    ]
    for part in parts:
        try:
            result["parts"].append(part())
        except (RuntimeError, ValueError) as error:  # the others still say something
            result["parts"].append({"failed": f"{type(error).__name__}: {error}"})
        print(json.dumps(result["parts"][-1]), flush=True)
        given.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
