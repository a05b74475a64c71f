"""Crops and counts by document from one store: beside annbatch and scDataset, in the same run.

    pip install annbatch scDataset zarrs          # beside cellfuse, Python 3.12 and later
    python benchmarks/speed/readers.py [--cells 200000] [--batches 390]

A store of `write_store`: crops of 4 x 48 x 48 (9.2 kB) and counts of 500 genes, 200 cells a
context, cells of a context beside each other. Every reader gives batches of 256 cells of either
modality, as 16 documents of 16 cells that lie beside each other, documents in random order.
cellfuse reads documents as training draws them (each of one context, every context in turn) through
the loader that training has; the others, through theirs, read blocks of 16 rows, wherever these
begin, with a buffer of 64 blocks and the codecs (zarrs) that their pages name. Each reader is a
process of its own that begins with an empty page cache, where this process may empty it, and is
timed from its second batch on (the first opens the store); they take turns, three of each, and the
medians count. Writes `results/readers.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import zarr
from store_training import forgotten, screen

import cellfuse as cf

RESULTS = Path(__file__).parent / "results" / "readers.json"
SIZE, DOCUMENTS, BLOCKS = 16, 16, 64
BATCH = SIZE * DOCUMENTS


def ours(path: Path) -> Iterator[Any]:
    """Documents of both modalities, as training draws them, read ahead by one thread."""
    from cellfuse.data import Contexts, DocumentLoader, DocumentPlan, Draw, Source, Stream
    from cellfuse.data import make_reader as reader_of

    mdata = cf.io.open_store(path)
    readers = {
        "image": reader_of(mdata["image"].obsm["crops"], cache_bytes=256 << 20),
        "rna": reader_of(mdata["rna"].X, cache_bytes=64 << 20),
    }
    contexts = Contexts.from_modalities(dict(mdata.mod), "guide")
    draws = (Draw("image", SIZE), Draw("rna", SIZE))
    plan = DocumentPlan(contexts, Stream(draws, DOCUMENTS)).along(readers)
    epoch = itertools.count()
    loader = DocumentLoader(plan, Source(readers), epoch=epoch.__next__)
    while True:
        yield from loader


def arrays(path: Path) -> tuple[Any, Any]:
    """Crops and counts as the other readers take them, through the fastest codecs at hand."""
    if find_spec("zarrs") is not None:
        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    mods = zarr.open_group(str(path), mode="r")["mod"]
    return mods["image/obsm/crops"], ad.io.sparse_dataset(mods["rna/X"])


def by_annbatch(path: Path) -> Iterator[Any]:
    """Blocks of 16 rows, gathered by 64 and shuffled."""
    from annbatch import Loader

    loaders = []
    for array in arrays(path):
        loader = Loader(chunk_size=SIZE, preload_nchunks=BLOCKS, batch_size=BATCH, shuffle=True)
        loaders.append(loader.add_dataset(array))
    while True:
        yield from zip(*loaders, strict=False)


class Rows:
    """An array with the length that scDataset asks for."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __len__(self) -> int:
        return int(self.array.shape[0])


def by_scdataset(path: Path) -> Iterator[Any]:
    """The same blocks through scDataset, which fetches rows in their order."""
    from scdataset import BlockShuffling, scDataset

    def fetch(rows: Rows, order: np.ndarray) -> Any:
        order = np.sort(order)
        array = rows.array
        return array.oindex[order] if isinstance(array, zarr.Array) else array[order]

    sets = [
        scDataset(
            Rows(array), BlockShuffling(block_size=SIZE), batch_size=BATCH,
            fetch_factor=BLOCKS // DOCUMENTS, fetch_callback=fetch,
        )
        for array in arrays(path)
    ]  # fmt: skip
    while True:
        yield from zip(*sets, strict=False)


READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "cellfuse": ours,
    "annbatch": by_annbatch,
    "scDataset": by_scdataset,
}


def run(name: str, path: Path, n_batches: int) -> dict[str, float]:
    """Cells of both modalities per second, from the second batch on, and seconds of the first."""
    warnings.simplefilter("ignore")
    opened = time.perf_counter()
    batches = READERS[name](path)
    next(batches)
    opened = time.perf_counter() - opened
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(n_batches):
        next(batches)
    n = 2 * BATCH * n_batches
    return {
        "first_batch_seconds": opened,
        "cells_per_second": n / (time.perf_counter() - clock),
        "cells_per_cpu_second": n / (time.process_time() - cpu),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--batches", type=int, default=390)
    parser.add_argument("--run", nargs=2, help="(for the processes that this starts)")
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(given.run[0], Path(given.run[1]), given.batches)))
        return
    there = [n for n in READERS if n == "cellfuse" or find_spec(n.lower()) is not None]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in there}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.zarr"
        made = screen(given.cells, Path(folder), (4, 48, 48), 2_000)
        cf.io.write_store(made, path, context_keys="guide")
        load, cold = os.getloadavg()[0], True
        for _ in range(3):
            for name in there:
                cold = forgotten() and cold
                command = [sys.executable, __file__, "--batches", str(given.batches)]
                out = subprocess.run(
                    [*command, "--run", name, str(path)], check=True, capture_output=True, text=True
                ).stdout
                found[name].append(json.loads(out.splitlines()[-1]))
    medians = {
        name: {key: statistics.median(t[key] for t in turns) for key in turns[0]}
        for name, turns in found.items()
    }
    result = {"cells": given.cells, "load": load, "cold": cold, "readers": medians}
    print(json.dumps(result, indent=2))
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
