"""What drawing and reading documents costs, against a training step of the small preset.

    python benchmarks/speed/documents.py

Target: under 10% of a step, in memory and from zarr. Writes `results/documents.json`.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import zarr
from anndata import AnnData

import cellfuse as cf
from cellfuse.data import (
    BlockReader,
    Contexts,
    DocumentPlan,
    Draw,
    Source,
    Stream,
    make_reader,
)
from cellfuse.model.petri import PETRI

RESULTS = Path(__file__).parent / "results" / "documents.json"
N_STEPS = 30


def median_seconds(act, n: int = N_STEPS) -> float:
    """Median wall time of `act(i)` after three warm-up calls."""
    for i in range(3):
        act(i)
    times = []
    for i in range(3, n + 3):
        start = time.perf_counter()
        act(i)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def training_step(mdata, plan: DocumentPlan, source: Source) -> float:
    """Seconds of forward, backward and update on one batch."""
    PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = PETRI(mdata, seed=0)
    batch = source.read(plan.indices(0, 0)).to("cpu")
    optimizer = torch.optim.AdamW(model.module.parameters())

    def act(_: int) -> None:
        losses = model.module(batch.x, batch.key, batch.present, augment=True)
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()

    return median_seconds(act, 15)


def reading(plan: DocumentPlan, source: Source) -> float:
    """Seconds of planning, reading and making dense one batch."""
    return median_seconds(lambda step: source.read(plan.indices(0, step)).to("cpu"))


def large_plan() -> dict[str, float]:
    """Seconds for all indices of an epoch of 100,000 contexts over 10 million cells."""
    rng = np.random.default_rng(0)
    names = pd.Categorical.from_codes(
        rng.integers(100_000, size=10_000_000), [f"c{i}" for i in range(100_000)]
    )
    adatas = {}
    for role in ("image", "rna"):
        obs = pd.DataFrame({"guide": names}, index=pd.RangeIndex(len(names)).astype(str))
        adatas[role] = AnnData(obs=obs)
    start = time.perf_counter()
    contexts = Contexts.from_modalities(adatas, "guide")
    grouped = time.perf_counter()
    stream = Stream((Draw("image", 16), Draw("rna", 16)), batch_size=4_096)
    plan = DocumentPlan(contexts, stream, documents_per_context=30)
    for step in range(plan.n_steps):
        plan.indices(0, step)
    return {
        "contexts_seconds": grouped - start,
        "epoch_seconds": time.perf_counter() - grouped,
        "documents": plan.n_documents,
    }


def main() -> None:
    """Measure, print, write."""
    mdata = cf.datasets.simulated_screen(n_targets=120, cells_per_guide=40, seed=0)
    contexts = Contexts.from_modalities(mdata.mod, "guide")
    stream = Stream((Draw("image", 16), Draw("rna", 16)), batch_size=8)
    plan = DocumentPlan(contexts, stream)
    crops, counts = mdata["image"].obsm["crops"], make_reader(mdata["rna"].X)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        stored = zarr.create_array(
            store=f"{folder}/crops.zarr",
            shape=crops.shape,
            chunks=(32, *crops.shape[1:]),
            dtype=crops.dtype,
        )
        stored[:] = crops
        images = {
            "in memory": make_reader(crops),
            "zarr, blocks kept (default)": make_reader(stored),
            "zarr, no block kept": BlockReader(stored, cache_bytes=0),
        }
        found["step_seconds"] = training_step(
            mdata, plan, Source({"image": images["in memory"], "rna": counts})
        )
        for label, reader in images.items():
            source = Source({"image": reader, "rna": counts})
            if label.startswith("zarr, blocks"):
                # What a training pays once: every block is read for the first time.
                start = time.perf_counter()
                for first in range(0, len(crops), 32):
                    reader.read(np.arange(first, min(first + 32, len(crops))))
                found["zarr_first_pass_seconds"] = time.perf_counter() - start
            seconds = reading(plan, source)
            found[label] = {"seconds": seconds, "share_of_step": seconds / found["step_seconds"]}
    if "--no-large" not in sys.argv:
        found["large"] = large_plan()
    found["cells"] = {"image": len(crops), "rna": mdata["rna"].n_obs}
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
