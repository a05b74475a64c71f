"""Scaling, whitening and profiles of cells on a disk, against reading them and multiplying them.

    python benchmarks/speed/profiles_on_disk.py [--cells 10000000] [--folder .]

`cells` x 768 float32 in one zarr array (31 GB for ten million; written first, removed after). The
chain `robust_center_scale`, `whiten`, `aggregate` goes through it piece by piece and never writes a
corrected cell. Its floor, in the same run: bytes that it reads over the rate at which the array is
read, or the products of the whitening's covariance (n x 768 x 768) over the rate of such products,
whichever takes longer; both rates are measured before and after, and the higher ones count. The
chain reads the array three times: for the controls, for the covariance, for the profiles. Memory is
the peak of the process. Writes `results/profiles_on_disk.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr

import cellfuse as cf

RESULTS = Path(__file__).parent / "results" / "profiles_on_disk.json"
WIDTH, ROWS, PER_GUIDE = 768, 4_096, 500


def written(n: int, folder: Path) -> tuple[ad.AnnData, float]:
    """An array without compression, as floats have little to give, and its seconds."""
    rng = np.random.default_rng(0)
    array = zarr.create_array(
        folder / "x.zarr", shape=(n, WIDTH), chunks=(ROWS, WIDTH), dtype="f4", compressors=None
    )
    block = rng.normal(size=(8 * ROWS, WIDTH)).astype("f4") @ (
        np.eye(WIDTH) + 0.05 * rng.normal(size=(WIDTH, WIDTH))
    ).astype("f4")
    begun = time.perf_counter()
    for number, start in enumerate(range(0, n, len(block))):
        stop = min(n, start + len(block))
        array[start:stop] = np.roll(block, 97 * number, axis=0)[: stop - start]
    seconds = time.perf_counter() - begun
    codes = rng.integers(0, max(2, n // PER_GUIDE), n)
    names = np.array([f"g{i}" for i in range(codes.max() + 1)])
    names[0] = "non-targeting"
    obs = pd.DataFrame({"guide": pd.Categorical.from_codes(codes, names)})
    obs["control"] = pd.Categorical(np.where(codes % 20 == 0, "yes", "no"))
    obs.index = pd.RangeIndex(n).astype(str)
    return ad.AnnData(obs=obs, obsm={"emb": array}), seconds


def disk_rate(array: zarr.Array) -> float:
    """Bytes a second, read in pieces as the verbs read."""
    forget()
    n = min(array.shape[0], 1_000_000)
    begun = time.perf_counter()
    for start in range(0, n, 8 * ROWS):
        array[start : start + 8 * ROWS]
    return n * WIDTH * 4 / (time.perf_counter() - begun)


def matrix_rate() -> float:
    """Multiplications a second in products of this shape."""
    block = np.random.default_rng(0).normal(size=(8 * ROWS, WIDTH)).astype("f4")
    block.T @ block
    begun = time.perf_counter()
    for _ in range(5):
        block.T @ block
    return 5 * len(block) * WIDTH**2 / (time.perf_counter() - begun)


def forget() -> None:
    """Empty the page cache, if that is allowed."""
    try:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=given.folder))
    try:
        adata, seconds = written(given.cells, folder)
        array = adata.obsm["emb"]
        found = {"cells": given.cells, "load": os.getloadavg()[0], "write_seconds": seconds}
        rates = [(disk_rate(array), matrix_rate())]
        forget()
        begun, cpu = time.perf_counter(), time.process_time()
        control = {"control_key": "control", "control": "yes"}
        profiles = cf.tl.aggregate(
            adata, by="guide", use_rep="emb",
            transform=[partial(cf.pp.robust_center_scale, **control), cf.pp.whiten],
        )  # fmt: skip
        found["seconds"] = time.perf_counter() - begun
        found["cpu_seconds"] = time.process_time() - cpu
        assert profiles.shape[0] == adata.obs["guide"].nunique()
        found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rates.append((disk_rate(array), matrix_rate()))
        found["disk_bytes_per_second"], found["products_per_second"] = map(
            max, zip(*rates, strict=True)
        )
    finally:
        shutil.rmtree(folder)
    size = given.cells * WIDTH * 4
    found["bytes"] = size
    found["one_reading_seconds"] = size / found["disk_bytes_per_second"]
    found["n_readings"] = 3
    found["products_seconds"] = given.cells * WIDTH**2 / found["products_per_second"]
    floor = max(3 * found["one_reading_seconds"], found["products_seconds"])
    found["ratio"] = found["seconds"] / floor
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
