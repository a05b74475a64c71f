"""kill -9 at random moments, the same call again, and the result against one that was not broken.

    python benchmarks/faults/kills.py [--kills 3]

Jobs: a training with `checkpoint=`, `write_store`, `get_latent_representation(out=)`,
`embed_images(store=)`, `crop_cells(store=)`. Each is killed some times, at moments drawn with a
seed, then left to end. Writes `results/kills.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "kills.json"


def _screen():
    import cellfuse as cf

    return cf.datasets.simulated_screen(n_targets=24, cells_per_guide=40, seed=0)


def digest(*arrays) -> str:
    """Fingerprint of arrays."""
    made = hashlib.blake2b(digest_size=8)
    for array in arrays:
        made.update(np.ascontiguousarray(array).tobytes())
    return made.hexdigest()


def _model(**given):
    import cellfuse as cf

    mdata = _screen()
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    return cf.PETRI(mdata, set_size=4, **given)


def train(folder: Path) -> str:
    """A training of some 100 steps."""
    model = _model()
    model.train(
        5,
        documents_per_context=2,
        batch_size=16,
        checkpoint=folder / "kept",
        accelerator="cpu",
        enable_progress_bar=False,
    )
    weights = model.module.state_dict()
    return digest(*(np.nan_to_num(weights[name].numpy()) for name in sorted(weights)))


def write_store(folder: Path) -> str:
    """A store of a file larger than the memory granted."""
    import cellfuse as cf

    source = folder / "screen.h5mu"
    if not source.exists():
        beside = source.with_suffix(".new.h5mu")
        _screen().write_h5mu(beside)
        beside.replace(source)
    path = folder / "store.zarr"
    if path.exists():
        stored = cf.io.open_store(path)
    else:
        stored = cf.io.write_store(source, path, context_keys="guide", memory=2 << 20)
    return digest(stored["image"].obsm["crops"][:], stored["rna"].X[:].toarray())


def embed(folder: Path) -> str:
    """An embedding into a store."""
    model = _model(begin="random")
    model.is_trained_ = True  # its first weights will do
    found = model.get_latent_representation(
        modality="image", batch_size=16, out=folder / "embedding.zarr"
    )
    return digest(found[:])


def images(folder: Path) -> str:
    """Images through a backbone, into a store."""
    import cellfuse as cf

    adata = _screen()["image"]
    cf.pp.embed_images(
        adata,
        store=folder / "images.zarr",
        backbone="test_vit",
        weights="random",
        batch_size=16,
        progress=False,
    )
    return digest(adata.obsm["X_vit"])


def crops(folder: Path) -> str:
    """Cells cut out of fields, in the place of a store that is there."""
    import cellfuse as cf

    fields = (_field(i) for i in range(60))
    cells = cf.pp.crop_cells(fields, size=48, store=folder / "crops.zarr", overwrite=True)
    return digest(cells.obsm["crops"][:])


def _field(number: int):
    import cellfuse as cf

    rng = np.random.default_rng(number)
    y, x = np.mgrid[:400, :400]
    labels = np.where((y % 40 < 20) & (x % 40 < 20), y // 40 * 10 + x // 40 + 1, 0)
    pixels = rng.integers(0, 4_000, (4, 400, 400)).astype("u2")
    return cf.io.Field(pixels, ("DNA", "ER", "RNA", "AGP"), {"well": f"A{number}"}, labels=labels)


JOBS = {
    "train": train,
    "write_store": write_store,
    "embed": embed,
    "embed_images": images,
    "crop_cells": crops,
}


def _start(job: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-W", "ignore", __file__, "--job", job, "--folder", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _finish(process: subprocess.Popen) -> str:
    out, error = process.communicate()
    if process.returncode:
        raise RuntimeError(error[-2_000:])
    return out.split()[-1]


def broken(job: str, n_times: int, rng: np.random.Generator, number: int = signal.SIGKILL) -> dict:
    """Run a job whole; then break it by a signal some times and let it end."""
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        begun = time.monotonic()
        whole = _finish(_start(job, Path(one)))
        seconds = time.monotonic() - begun
        n_broken = 0
        for _ in range(n_times):
            process = _start(job, Path(other))
            time.sleep(seconds * rng.uniform(0.5, 0.95))
            if process.poll() is None:
                os.kill(process.pid, number)
                n_broken += 1
            process.communicate()
        same = _finish(_start(job, Path(other))) == whole
        left = sorted(
            {p.name for p in Path(other).iterdir()} - {p.name for p in Path(one).iterdir()}
        )
    return {"killed": n_broken, "seconds": seconds, "same": same, "left": left}


def main() -> None:
    """Break, go on, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=JOBS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--kills", type=int, default=3)
    given = parser.parse_args()
    if given.job:
        warnings.simplefilter("ignore")
        print(JOBS[given.job](given.folder))
        return
    rng, found = np.random.default_rng(0), {}
    for job in JOBS:
        found[job] = broken(job, given.kills, rng)
        print(job, found[job], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")
    if not all(row["same"] for row in found.values()):
        raise SystemExit("something was lost")


if __name__ == "__main__":
    main()
