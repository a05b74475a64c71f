"""Two processes on a CPU, one thread each, against one process of one thread: a small PETRI.

    python benchmarks/speed/devices.py [--steps 60]

The same screen, seed and documents: a step's batch is dealt to the two processes, gradients are
averaged (gloo). A step lasts from the end of one to the end of the next; medians over steps after
the first ten, and over three turns. Needs two cores without other work. Writes
`results/devices.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.callbacks import Callback

import cellfuse as cf

RESULTS = Path(__file__).parent / "results" / "devices.json"
LEFT_OUT, TURNS, TARGET = 10, 3, 1.6


class Clock(Callback):
    """When steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def run(n_devices: int, n_steps: int, out: str) -> None:
    """Train in this process, which may be one of two."""
    mdata = cf.datasets.simulated_screen(n_targets=60, cells_per_guide=16, seed=0)
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model, clock = cf.PETRI(mdata, begin="random", seed=0), Clock()
    several = {"devices": n_devices, "strategy": "ddp"} if n_devices > 1 else {}
    model.train(
        max_epochs=1_000, max_steps=n_steps + LEFT_OUT, accelerator="cpu", callbacks=[clock],
        enable_progress_bar=False, limit_val_batches=0, **several,
    )  # fmt: skip
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        steps = np.diff(clock.ends)[LEFT_OUT - 1 :]
        # Both must have come to the same weights.
        size = sum(float(p.detach().double().square().sum()) for p in model.module.parameters())
        Path(out).write_text(json.dumps({"step": statistics.median(steps), "weights": size}))


def apart(n_devices: int, n_steps: int) -> dict[str, float]:
    """The same in processes of their own."""
    start = [sys.executable]
    if n_devices > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_devices}"]
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "found.json")
        command = [*start, __file__, "--here", str(n_devices), str(n_steps), out]
        one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        subprocess.run(command, check=True, capture_output=True, env=os.environ | one)
        return json.loads(Path(out).read_text())


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--here", nargs=3, help="(for the processes that this starts)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.here:
        run(int(given.here[0]), int(given.here[1]), given.here[2])
        return
    turns: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(TURNS):
        for n, found in turns.items():
            found.append(apart(n, given.steps))
    weights = [turn["weights"] for found in turns.values() for turn in found]
    assert np.ptp(weights) < 1e-3 * weights[0], weights
    seconds = {n: statistics.median(turn["step"] for turn in found) for n, found in turns.items()}
    found = {
        "load": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
        "step_seconds": seconds,
        "turns": turns,
        "ratio": seconds[1] / seconds[2],
        "target": TARGET,
    }
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
