"""Documents from a store, cold: cells per second, bytes read, against the plain ways.

    python benchmarks/speed/store.py [--cells 200000]

One array of crops (4 x 48 x 48, 9.2 kB) in 200 cells a context is read as documents of 16 cells:
from a store of `write_store`, as training draws them and drawn at random; from the shuffled zarr
array that it was made of, in the same two ways; and one chunk of the store through zarr itself. The
bound is decompression: of one chunk, alone. Figures are per second on the clock and per second of
processor time, for a machine that has other work. Writes `results/store.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import zarr

import cellfuse as cf
from cellfuse.data import Contexts, DocumentPlan, Draw, Stream, gather, make_reader

RESULTS = Path(__file__).parent / "results" / "store.json"
SHAPE, PER_CONTEXT, SIZE, BATCH = (4, 48, 48), 200, 16, 16


def crops(n: int, folder: Path) -> ad.AnnData:
    """A shuffled zarr array, written as `crop_cells` does: chunks of 2 MiB."""
    rng = np.random.default_rng(0)
    some = rng.poisson(12, (2_000, *SHAPE)).astype("u1")
    y, x = np.mgrid[:48, :48]
    some += (120 * np.exp(-((y - 24) ** 2 + (x - 24) ** 2) / 120)).astype("u1")
    array = zarr.create_array(
        folder / "shuffled.zarr", shape=(n, *SHAPE), chunks=(227, *SHAPE), dtype="u1"
    )
    for start in range(0, n, 227 * 32):
        stop = min(n, start + 227 * 32)
        array[start:stop] = some[rng.integers(0, len(some), stop - start)]
    codes = rng.permutation(np.arange(n) // PER_CONTEXT)
    guide = pd.Categorical.from_codes(codes, [f"g{i}" for i in range(codes.max() + 1)])
    obs = pd.DataFrame({"guide": guide}, index=pd.RangeIndex(n).astype(str))
    return ad.AnnData(obs=obs, obsm={"crops": array})


def documents(adata: ad.AnnData, *, along: bool, n_steps: int) -> dict[str, float]:
    """Read documents of the first epoch with an empty buffer."""
    contexts = Contexts.from_modalities({"image": adata}, "guide")
    reader = make_reader(adata.obsm["crops"], cache_bytes=256 << 20)
    plan = DocumentPlan(contexts, Stream((Draw("image", SIZE),), BATCH))
    plan = plan.along({"image": reader}) if along else plan
    plan.indices(0, 0)
    fetch, read = reader._blocks.fetch, [0]

    def counted(first: int, last: int, number: int):
        read[0] += last - first
        return fetch(first, last, number)

    reader._blocks.fetch = counted
    clock, cpu = time.perf_counter(), time.process_time()
    for step in range(n_steps):
        gather(reader, plan.indices(0, step).rows["image"])
    n = n_steps * BATCH * SIZE
    return {
        "cells_per_second": n / (time.perf_counter() - clock),
        "cells_per_cpu_second": n / (time.process_time() - cpu),
        "cells_decoded_per_cell": read[0] / n,
    }


def chunk_alone(array: zarr.Array) -> dict[str, float]:
    """One chunk through zarr, through our reader, and its decompression alone."""
    from numcodecs import Blosc

    from cellfuse.data.chunk_files import ChunkFiles

    files = ChunkFiles.of(array)
    rows, n = files.rows, array.shape[0] // files.rows - 1
    chosen = np.random.default_rng(1).integers(0, n, 200)
    codec = Blosc("lz4", 5, Blosc.BITSHUFFLE)
    packed = codec.encode(files.read(0))
    ways = {
        "zarr": lambda number: array[number * rows : (number + 1) * rows],
        "chunk file": files.read,
        "decompression alone": lambda number: codec.decode(packed),
    }
    found = {}
    for name, way in ways.items():
        cpu = time.process_time()
        for number in chosen:
            way(int(number))
        found[name] = len(chosen) * rows / (time.process_time() - cpu)
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200_000)
    n = parser.parse_args().cells
    with tempfile.TemporaryDirectory() as folder:
        shuffled = crops(n, Path(folder))
        begun = time.perf_counter()
        stored = cf.io.write_store(shuffled, Path(folder) / "s.zarr", context_keys="guide")
        found = {
            "cells": n,
            "load": os.getloadavg()[0],
            "write_store_seconds": time.perf_counter() - begun,
            "store, as drawn in training": documents(stored, along=True, n_steps=400),
            "store, drawn at random": documents(stored, along=False, n_steps=40),
            "shuffled, as drawn in training": documents(shuffled, along=True, n_steps=100),
            "shuffled, drawn at random": documents(shuffled, along=False, n_steps=4),
            "cells_of_a_chunk_per_cpu_second": chunk_alone(stored.obsm["crops"].stored),
        }
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
