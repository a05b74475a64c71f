"""Steps of a small PETRI from a store on the disk, against the same steps from memory.

    python benchmarks/speed/store_training.py [--cells 200000 1000000] [--steps 120]

Both modalities in 200 cells a context: crops of 4 x 48 x 48 (9.2 kB) and counts of 500 genes, in a
store of `write_store`. A step lasts from the end of one to the end of the next, waiting for its
cells included; the first 20 are left out, since they fill the buffer. Memory and store take turns,
three of each, and the median of the three ratios is what counts. The page cache is emptied
before, where this process may. In memory: the first 20,000 cells of each modality. Each run is a
process of its own, without worker processes; its peak is what was in memory, the interpreter (about
500 MB) included. Fewer than 64 `--tiles` make crops of 5 x 80 x 80 of which few are distinct, so
that millions of them find room on a small disk. Writes `results/store_training.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from lightning.pytorch.callbacks import Callback

import cellfuse as cf
from cellfuse._mudata import make_mudata

RESULTS = Path(__file__).parent / "results" / "store_training.json"
PER_CONTEXT, N_GENES, IN_MEMORY, LEFT_OUT = 200, 500, 20_000, 20
BLOCK = 8_000


def pixels(rng: np.random.Generator, n: int, shape: tuple[int, ...]) -> np.ndarray:
    """Cells with a bright middle, which compress as real ones do (to about 60%)."""
    y, x = np.mgrid[: shape[1], : shape[2]] - shape[1] / 2
    bright = 120 * np.exp(-(y**2 + x**2) / 120)
    return (rng.poisson(12, (n, *shape)) + bright).astype("u1")


def screen(n: int, folder: Path, shape: tuple[int, ...], tiles: int) -> Any:
    """Crops in a zarr array by context, counts in memory: what `write_store` is given."""
    rng = np.random.default_rng(0)
    some = pixels(rng, tiles, shape)
    chunk = max(1, (2 << 20) // int(np.prod(shape)))
    crops = zarr.create_array(
        folder / "crops.zarr", shape=(n, *shape), chunks=(chunk, *shape), dtype="u1"
    )
    for start in range(0, n, BLOCK // chunk * chunk):
        stop = min(n, start + BLOCK // chunk * chunk)
        order = rng.integers(0, tiles, stop - start)
        # Few distinct tiles in turn, so that chunks hold the same again and again.
        crops[start:stop] = some[order if tiles > 64 else np.arange(start, stop) % tiles]
    guide = pd.Categorical.from_codes(
        np.arange(n) // PER_CONTEXT, [f"g{i}" for i in range(-(-n // PER_CONTEXT))]
    )
    parts = {}
    for role in ("image", "rna"):
        obs = pd.DataFrame({"guide": guide}, index=role[0] + pd.RangeIndex(n).astype(str))
        parts[role] = ad.AnnData(obs=obs)
    parts["image"].obsm["crops"] = crops
    row = np.sort(rng.integers(0, N_GENES, (5_000, 50)), axis=1)
    index = np.tile(row, (-(-n // 5_000), 1))[:n].astype("i4")
    counts = sp.csr_matrix(
        (np.ones(index.size, "f4"), index.ravel(), np.arange(0, index.size + 1, 50)), (n, N_GENES)
    )
    counts.sum_duplicates()
    parts["rna"] = ad.AnnData(counts, obs=parts["rna"].obs)
    return make_mudata(parts)


class Clock(Callback):
    """From the end of a step to the end of the next."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def run(path: Path, n: int, where: str, n_steps: int) -> dict[str, float]:
    """Train for some steps in this process."""
    mdata = cf.io.open_store(path)
    if where == "memory":
        mdata = make_mudata(
            {m: ad.AnnData(a.X[: IN_MEMORY] if m == "rna" else None, obs=a.obs.iloc[:IN_MEMORY],
                           obsm={"crops": a.obsm["crops"][:IN_MEMORY]} if m == "image" else {})
             for m, a in mdata.mod.items()}
        )  # fmt: skip
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, begin="random", seed=0)
    clock = Clock()
    begun = time.perf_counter()
    model.train(
        max_epochs=1_000, max_steps=n_steps + LEFT_OUT, accelerator="cpu",
        enable_progress_bar=False, callbacks=[clock], limit_val_batches=0,
    )  # fmt: skip
    steps = np.diff(clock.ends)[LEFT_OUT - 1 :]
    return {
        "step_seconds": statistics.median(steps),
        "mean_seconds": float(steps.mean()),
        "before_first_step": clock.ends[0] - begun,
        "cells_per_step": model.recipe.batch_size * 2 * model.set_size,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def forgotten() -> bool:
    """Empty the page cache, if that is allowed."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        return False
    return True


def apart(path: Path, n: int, where: str, n_steps: int) -> dict[str, Any]:
    """The same in a process of its own."""
    cold = forgotten()
    command = [sys.executable, __file__, "--run", str(path), where, str(n), str(n_steps)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {"where": where, "cold": cold, **json.loads(out.splitlines()[-1])}


def measured(n: int, n_steps: int, tiles: int) -> dict[str, Any]:
    """Write a store of `n` cells, train from it and from memory, in turns."""
    shape = (5, 80, 80) if tiles <= 64 else (4, 48, 48)
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        given = screen(n, Path(folder), shape, tiles)
        made = time.perf_counter()
        path = Path(folder) / "s.zarr"
        cf.io.write_store(given, path, context_keys="guide")
        written = time.perf_counter()
        shutil.rmtree(Path(folder) / "crops.zarr")
        turns = [apart(path, n, where, n_steps) for where in 3 * ("memory", "store")]
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    # Turn by turn, so that what else the machine does meanwhile falls on both.
    speeds = [
        a["mean_seconds"] / b["mean_seconds"] for a, b in zip(turns[::2], turns[1::2], strict=True)
    ]
    return {
        "cells": n, "shape": shape, "bytes_on_disk": size, "make_seconds": made - begun,
        "write_store_seconds": written - made, "turns": turns,
        "speeds_of_memory": speeds, "speed_of_memory": statistics.median(speeds),
        "peak_mb": max(t["peak_mb"] for t in turns if t["where"] == "store"),
        **({"tiles": tiles} if tiles <= 64 else {}),
    }  # fmt: skip


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[200_000, 1_000_000])
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--tiles", type=int, default=2_000)
    parser.add_argument("--run", nargs=4, help="(for the processes that this starts)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.run:
        path, where, n, n_steps = given.run
        print(json.dumps(run(Path(path), int(n), where, int(n_steps))))
        return
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for n in given.cells:
        found = {"load": os.getloadavg()[0], **measured(n, given.steps, given.tiles)}
        rows = [r for r in rows if (r["cells"], r["shape"]) != (n, list(found["shape"]))] + [found]
        print(json.dumps(found, indent=1), flush=True)
        RESULTS.write_text(json.dumps({"rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
