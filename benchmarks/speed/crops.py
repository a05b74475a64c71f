"""Cropping 100,000 cells of 5 x 80 x 80 from TIFF fields into zarr, against reading the files.

Fields of 5 x 1080 x 1080 uint16 with 250 cells, one file per channel and one of labels, made in a
temporary folder (about 12 GB with the stores) and removed in the end; once as plain TIFF, once
with deflate. The crops of 250 cells are 1.4 times as large as the field that they are cut from, so
beside merely reading, the peer reads the files and writes as many bytes of them to the same kind
of zarr. Memory is the peak of the process less what it held before; the bound is 1 GB.

Run: python benchmarks/speed/crops.py (CELLS=5000 for a short look, whose figures are not kept).
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure
import numpy as np
import tifffile

import cellfuse as cf
from cellfuse.pp._crop_store import CHUNK_BYTES, CHUNKS_AT_ONCE, layout
from cellfuse.pp.crops import crop_cells

CELLS = int(os.environ.get("CELLS", "100000"))
SIDE, SIZE, CHANNELS, PER_FIELD, DISTINCT = 1080, 80, 5, 250, 4
ROOT = Path(tempfile.gettempdir()) / f"cellfuse-crops-{CELLS}"
N_FIELDS = CELLS // PER_FIELD
_ = cf.pp, cf.io  # imported before memory is counted


def draw_field(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells on a jittered grid, brighter than a background of photon noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((SIDE, SIDE), np.uint16)
    per_row = int(np.ceil(np.sqrt(PER_FIELD)))
    step = SIDE / per_row
    y, x = np.mgrid[-20:21, -20:21]
    for cell in range(PER_FIELD):
        centre = (np.array(divmod(cell, per_row)) + 0.5) * step + rng.uniform(-6, 6, 2)
        top, left = np.clip(centre.astype(int) - 20, 0, SIDE - 41)
        disc = y**2 + x**2 < rng.uniform(10, 20) ** 2
        labels[top : top + 41, left : left + 41][disc] = cell + 1
    light = 200 + 1500 * (labels > 0)
    return rng.poisson(light, (CHANNELS, SIDE, SIDE)).astype(np.uint16), labels


def make_fields() -> None:
    for kind, options in (("plain", {}), ("deflate", {"compression": "zlib"})):
        folder = ROOT / kind
        folder.mkdir(parents=True)
        for seed in range(DISTINCT):
            pixels, labels = draw_field(seed)
            for i in range(seed, N_FIELDS, DISTINCT):
                for c in range(CHANNELS + 1):
                    name = f"w{i}_c{c}.tif" if c < CHANNELS else f"w{i}_labels.tif"
                    source = folder / name.replace(f"w{i}_", f"w{seed}_")
                    if i == seed:
                        tifffile.imwrite(source, pixels[c] if c < CHANNELS else labels, **options)
                    else:
                        shutil.copyfile(source, folder / name)


def fields(kind: str) -> cf.io.Fields:
    return cf.io.read_fields(
        ROOT / kind,
        pattern=r"^w(?P<well>\d+)_c(?P<channel>\d)",
        labels_pattern=r"^w(?P<well>\d+)_labels",
    )


def reading(kind: str) -> Callable[[], Any]:
    files = sorted((ROOT / kind).iterdir())

    def work() -> None:
        for file in files:
            tifffile.imread(file)

    return work


def reading_and_writing(kind: str) -> Callable[[], Any]:
    import zarr

    planned, folder = fields(kind), ROOT / "copy.zarr"
    shutil.rmtree(folder, ignore_errors=True)
    shape = (CHANNELS, SIZE, SIZE)
    chunk = CHUNK_BYTES // (2 * int(np.prod(shape)))

    def work() -> None:
        group = zarr.open_group(str(folder), mode="w", zarr_format=2)
        array = group.create_array(
            "x", shape=(CELLS, *shape), chunks=(chunk, *shape), dtype="uint16", **layout()
        )
        done, step = 0, chunk * CHUNKS_AT_ONCE
        for i, field in enumerate(planned, start=1):
            owed = i * PER_FIELD
            while owed - done >= step or (i == N_FIELDS and done < CELLS):
                n = min(step, CELLS - done)
                array[done : done + n] = np.resize(field.pixels, (n, *shape))
                done += n

    return work


def cropping(kind: str) -> Callable[[], Any]:
    planned, store = fields(kind), ROOT / "crops.zarr"
    shutil.rmtree(store, ignore_errors=True)

    def work() -> None:
        cells = crop_cells(planned, size=SIZE, store=store)
        assert cells.obsm["crops"].shape == (CELLS, CHANNELS, SIZE, SIZE)

    return work


KINDS = ("plain", "deflate")
JOBS: dict[str, Callable[[], Any]] = {}
COMPARISONS: list[dict[str, Any]] = []
for _kind in KINDS:
    JOBS[f"read the files, {_kind}"] = lambda kind=_kind: reading(kind)
    JOBS[f"read, write as many bytes, {_kind}"] = lambda kind=_kind: reading_and_writing(kind)
    JOBS[f"crop_cells into zarr, {_kind}"] = lambda kind=_kind: cropping(kind)
    COMPARISONS += [
        {
            "what": f"crop_cells over merely reading, {_kind}",
            "ours": f"crop_cells into zarr, {_kind}",
            "peer": f"read the files, {_kind}",
            "at_least": 0.5,
        },
        {
            "what": f"crop_cells over reading and writing as many bytes, {_kind}",
            "ours": f"crop_cells into zarr, {_kind}",
            "peer": f"read, write as many bytes, {_kind}",
            "at_least": 0.8,
        },
        {
            "what": f"crop_cells, peak memory in GB, {_kind}",
            "ours": f"crop_cells into zarr, {_kind}",
            "at_most_memory": 1,
            "input_bytes": 1e9,
        },
    ]

if __name__ == "__main__":
    if "--job" in sys.argv:
        _measure.main(__file__, JOBS, COMPARISONS)
    else:
        if CELLS != 100_000:
            _measure.RESULTS = Path(tempfile.mkdtemp())  # a short look is no result
        shutil.rmtree(ROOT, ignore_errors=True)
        try:
            make_fields()
            _measure.main(__file__, JOBS, COMPARISONS, packages=("tifffile", "zarr"))
        finally:
            shutil.rmtree(ROOT, ignore_errors=True)
