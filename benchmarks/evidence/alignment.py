"""What moves the alignment of PETRI's modalities: one change at a time, on one simulated screen.

    python benchmarks/evidence/alignment.py run --jobs 2     # resumable

Writes `results/alignment.csv`.

Each row is one training: matched or permuted contexts, and one departure from the setting of
`simulated.py`. Reported are the gap between the cosine of a guide's own image and RNA
profiles and that of other guides', and by how much a hidden patch or gene is predicted better when
the document holds the other modality too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from simulated import BOTH, CACHE, CELLS_PER_GUIDE, CONTROL, RESULTS, alignment, corrected

SEED = 0
#: Settings that are trained on permuted contexts too.
WITH_CONTROL = ("as in the table", "sets of 4, share 1")
#: Departures: arguments of the screen, the model and the training.
SETTINGS: dict[str, dict] = {
    "as in the table": {},
    "shared share 1": {"screen": {"shared": 1.0}},
    "sets of 4, share 1": {"model": {"set_size": 4}, "batch": 16, "screen": {"shared": 1.0}},
    "sets of 4 cells": {"model": {"set_size": 4}, "batch": 16},
    "RNA weight x 10": {"rna_weight": 10.0},
}


def run_one(name: str, permuted: bool, target: Path) -> None:
    import cellfuse as cf

    setting = SETTINGS[name]
    mdata = cf.datasets.simulated_screen(
        **{"shared": 0.7, **setting.get("screen", {})}, cells_per_guide=CELLS_PER_GUIDE, seed=SEED
    )
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    weight = setting.get("rna_weight", 1.0) * 1.8 / mdata["rna"].n_vars
    batch, steps = setting.get("batch", 4), setting.get("steps", 1500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = cf.PETRI(
            mdata,
            preset="small",
            seed=SEED,
            permute_contexts=permuted,
            loss_weights={"rna": weight},
            **setting.get("model", {}),
        )
        n_contexts = mdata["image"].obs["guide"].nunique()
        started = time.perf_counter()
        model.train(
            1,
            batch_size=batch,
            documents_per_context=max(1, round(steps * batch / n_contexts)),
            lr=setting.get("lr"),
            enable_progress_bar=False,
        )
        row = {
            "setting": name,
            "permuted": permuted,
            "seconds": time.perf_counter() - started,
            **{key: float(frame.iloc[-1, 0]) for key, frame in model.history.items()},
        }
        for role in BOTH:
            mdata[role].obsm["X_raw"] = model.get_latent_representation(modality=role)
            both, alone = (
                model.reconstruct(modality=role, using=using, max_documents=100, seed=1).loss
                for using in (None, [role])
            )
            gained = (alone - both) / alone.mean()
            row[f"{role}_gain"] = float(gained.mean())
            row[f"{role}_gain_se"] = float(gained.std() / np.sqrt(len(gained)))
        for whitening in ("none", "zca"):
            corrected(mdata, "X_raw", whitening)
            found = alignment(cf.tl.aggregate(mdata, by="guide", use_rep="X_corrected"))
            row[f"gap_{whitening}"] = found["cosine_own"] - found["cosine_other"]
            row[f"nearest_{whitening}"] = found["own_is_nearest"]
    assert CONTROL
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_suffix(".tmp")
    beside.write_text(json.dumps(row))
    beside.rename(target)


def place(name: str, permuted: bool) -> Path:
    label = name.replace(" ", "-").replace("/", "over")
    return CACHE.parent / "alignment" / f"{label}_{'permuted' if permuted else 'matched'}.json"


def run_all(jobs: int) -> None:
    wanted = [(n, p) for n in SETTINGS for p in (False, True) if not p or n in WITH_CONTROL]
    todo = [(n, p) for n, p in wanted if not place(n, p).exists()]
    running: list[subprocess.Popen] = []
    while todo or running:
        while todo and len(running) < jobs:
            name, permuted = todo.pop(0)
            command = [sys.executable, __file__, "one", "--setting", name]
            running.append(
                subprocess.Popen(
                    [*command, *(["--permuted"] if permuted else [])],
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    stdout=subprocess.DEVNULL,
                )
            )
        time.sleep(1)
        running = [process for process in running if process.poll() is None]
        rows = [json.loads(place(n, p).read_text()) for n, p in wanted if place(n, p).exists()]
        if rows:
            pd.DataFrame(rows).to_csv(RESULTS / "alignment.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=("run", "one"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--setting")
    parser.add_argument("--permuted", action="store_true")
    given = parser.parse_args()
    if given.action == "run":
        run_all(given.jobs)
    else:
        run_one(given.setting, given.permuted, place(given.setting, given.permuted))
