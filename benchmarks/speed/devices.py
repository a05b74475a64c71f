"""Two processes on a CPU, one thread each, against one process of one thread: a small PETRI.

    python benchmarks/speed/devices.py [--steps 60]

The same screen, seed and documents: a step's batch is dealt to the two processes, gradients are
averaged (gloo). A step lasts from the end of one to the end of the next; medians over steps after
the first ten, and over three turns. Beside them what the machine itself allows: two processes at
once that know nothing of each other, each with half of a batch. Needs two cores without other work.
Writes `results/devices.json`.
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
#: Documents of a step, the recipe's own.
BATCH = cf.PETRI.recipes["small"].batch_size


class Clock(Callback):
    """When steps end."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.ends.append(time.perf_counter())


def run(n_devices: int, n_steps: int, batch_size: int, out: str) -> None:
    """Train in this process, which may be one of two."""
    mdata = cf.datasets.simulated_screen(n_targets=60, cells_per_guide=16, seed=0)
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model, clock = cf.PETRI(mdata, begin="random", seed=0), Clock()
    several = {"devices": n_devices, "strategy": "ddp"} if n_devices > 1 else {}
    model.train(
        max_epochs=1_000, max_steps=n_steps + LEFT_OUT, accelerator="cpu", callbacks=[clock],
        enable_progress_bar=False, limit_val_batches=0, batch_size=batch_size, **several,
    )  # fmt: skip
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        steps = np.diff(clock.ends)[LEFT_OUT - 1 :]
        # Both must have come to the same weights.
        size = sum(float(p.detach().double().square().sum()) for p in model.module.parameters())
        Path(out).write_text(json.dumps({"step": statistics.median(steps), "weights": size}))


def apart(
    n_devices: int, n_steps: int, *, batch_size: int = BATCH, n_at_once: int = 1
) -> dict[str, float]:
    """The same in processes of their own; the slowest of those that run at once."""
    start = [sys.executable]
    if n_devices > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_devices}"]
    one = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.json" for number in range(n_at_once)]
        given = ["--here", str(n_devices), str(n_steps), str(batch_size)]
        running = [
            subprocess.Popen(
                [*start, __file__, *given, str(file)],
                env=one,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for file in files
        ]
        if any(process.wait() for process in running):
            raise RuntimeError(f"a training of {n_devices} devices failed.")
        return max((json.loads(f.read_text()) for f in files), key=lambda found: found["step"])


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--here", nargs=4, help="(for the processes that this starts)")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.here:
        run(*map(int, given.here[:3]), given.here[3])
        return
    turns: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    halves = []
    for _ in range(TURNS):
        for n, found in turns.items():
            found.append(apart(n, given.steps))
        halves.append(apart(1, given.steps, batch_size=BATCH // 2, n_at_once=2)["step"])
    weights = [turn["weights"] for found in turns.values() for turn in found]
    assert np.ptp(weights) < 1e-3 * weights[0], weights
    seconds = {n: statistics.median(turn["step"] for turn in found) for n, found in turns.items()}
    found = {
        "load": os.getloadavg()[0],
        "cores": len(os.sched_getaffinity(0)),
        "step_seconds": seconds,
        "turns": turns,
        "halves_at_once": halves,
        "ratio": seconds[1] / seconds[2],
        "ratio_allowed": seconds[1] / statistics.median(halves),
        "target": TARGET,
    }
    print(json.dumps(found, indent=2))
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
