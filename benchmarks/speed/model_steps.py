"""Training steps of the models against the matrix products that they cannot do without.

    python benchmarks/speed/model_steps.py            (about three minutes on two cores)

Presets `small` at their own batch size, on one simulated screen. A step is what `train` does
between two batches: forward, backward, clipping, AdamW. Its floor are the matrix products,
convolutions and attentions of that very step, forward and backward, written down while it runs and
then done again on numbers of the same shapes, and nothing else. Steps and floors take turns.
Where the CPU multiplies bf16, both are measured in `precision="bf16-mixed"` too. Writes
`results/model_steps.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils._python_dispatch import TorchDispatchMode

import cellfuse as cf

RESULTS = Path(__file__).parent / "results" / "model_steps.json"
#: Ratio to the floor to stay below; and milliseconds of PETRI's step at 256 cells.
TARGET, TARGET_MS = 1.5, 90

#: Everything that multiplies matrices, by the name of its operator.
PRODUCTS = {
    "mm", "addmm", "bmm", "baddbmm", "matmul", "convolution", "convolution_backward",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention_for_cpu_backward",
}  # fmt: skip

Act = Callable[[], Any]


class Written(TorchDispatchMode):
    """Write down the matrix products that are done, with the shapes they are done on."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket.__name__ in PRODUCTS:
            self.products.append((func, tuple(map(_like, args)), dict(kwargs)))
        return func(*args, **kwargs)

    def floor(self) -> Act:
        """Do all of them again."""
        return lambda: [func(*args, **kwargs) for func, args, kwargs in self.products] and None


def _like(argument: Any) -> Any:
    """Numbers of the same shape and layout, which keep none of the step's own memory alive."""
    if not isinstance(argument, torch.Tensor):
        return argument
    made = torch.empty_strided(argument.shape, argument.stride(), dtype=argument.dtype)
    return made.copy_(argument.detach())


class Clock(Callback):
    """Seconds of each step after the first, and of its products alone, which follow it at once.

    The products of the first step are written down. What else the machine does falls on both.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.floors: list[dict[str, float]] = []
        self.written: Written | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Of several stages the last one counts."""
        self.steps, self.floors, self.written = [], [], None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if self.written is None:
            self.written = Written()
            self.written.__enter__()
        self._start = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self.written is not None
        if self.steps or trainer.global_step > 1:
            self.steps.append(since(*self._start))
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                self.floors.append(timed(self._floor))
        else:
            self.written.__exit__(None, None, None)
            self._floor = self.written.floor()


def since(wall: float, cpu: float) -> dict[str, float]:
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}


def timed(act: Act) -> dict[str, float]:
    start = time.perf_counter(), time.process_time()
    act()
    return since(*start)


def petri() -> tuple[Any, dict[str, Any], int]:
    mdata = cf.datasets.simulated_screen(n_targets=60, cells_per_guide=16, seed=0)
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, begin="random", seed=0)
    return model, {"limit_val_batches": 0}, model.recipe.batch_size * 2 * model.set_size


def on_profiles(mdata: Any) -> Any:
    rng = np.random.default_rng(0)
    for m in ("image", "rna"):
        mdata[m].obsm["X_flat"] = rng.normal(size=(mdata[m].n_obs, 384)).astype("f4")
    return mdata


def phenoseq() -> tuple[Any, dict[str, Any], int]:
    mdata = on_profiles(cf.datasets.simulated_screen(n_targets=60, cells_per_guide=16, seed=0))
    cf.PhenoSeq.setup_mudata(mdata, context_keys="guide", image_rep="X_flat", rna_rep="X_flat")
    model = cf.PhenoSeq(mdata, seed=0, begin="random")
    return model, {"validation_contexts": 0}, model.recipe.batch_size


def semi_clipped() -> tuple[Any, dict[str, Any], int]:
    mdata = on_profiles(cf.datasets.simulated_screen(n_targets=60, cells_per_guide=16, seed=0))
    cf.SemiClipped.setup_mudata(mdata, context_keys="guide", image_rep="X_flat", rna_rep="X_flat")
    model = cf.SemiClipped(mdata, seed=0, begin="random")
    return model, {}, model.recipe.batch_size


def tide() -> tuple[Any, dict[str, Any], int]:
    mdata = cf.datasets.simulated_drugs(n_mechanisms=12, images_per_condition=16, seed=0)
    cf.TIDE.setup_mudata(mdata, context_keys=["compound", "cell_line"], image_rep="crops")
    model = cf.TIDE(mdata, seed=0, ssl=None, begin="random")
    return model, {"response_epochs": 1}, model.recipe.batch_size


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any], int]]] = {
    "PETRI": petri,
    "PhenoSeq": phenoseq,
    "SemiClipped": semi_clipped,
    "TIDE": tide,
}


def measure(name: str, precision: str, n_steps: int) -> dict[str, Any]:
    """Median step and floor of one model."""
    model, short, cells = MODELS[name]()
    clock = Clock()
    model.train(
        max_epochs=10_000, max_steps=n_steps + 1, precision=precision, accelerator="cpu",
        enable_progress_bar=False, callbacks=[clock], **short,
    )  # fmt: skip
    found: dict[str, Any] = {"model": name, "precision": precision, "cells": cells}
    for side, runs in (("step", clock.steps[2:]), ("floor", clock.floors[2:])):
        for key in ("seconds", "cpu_seconds"):
            found[f"{side}_{key}"] = statistics.median(run[key] for run in runs)
    found["products"] = len(clock.written.products) if clock.written else 0
    for name, key in (("ratio", "seconds"), ("ratio_cpu", "cpu_seconds")):
        pairs = zip(clock.steps[2:], clock.floors[2:], strict=True)
        found[name] = statistics.median(step[key] / floor[key] for step, floor in pairs)
    return found


def targets(row: dict[str, Any]) -> list[dict[str, Any]]:
    """How a step in float32 compares with what is aimed at."""
    if row["precision"] != "32-true":
        return []
    found = [
        {
            "what": f"{row['model']} step over its matrix products",
            "found": row["ratio"],
            "found_cpu": row["ratio_cpu"],
            "target": f"at most {TARGET} times",
            "met": row["ratio"] <= TARGET,
        }
    ]
    if row["model"] == "PETRI":
        ms = 1e3 * row["step_seconds"]
        what = f"PETRI step of {row['cells']} cells, ms"
        target = f"under {TARGET_MS} ms"
        found.append({"what": what, "found": ms, "target": target, "met": ms < TARGET_MS})
    return found


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", choices=list(MODELS))
    parser.add_argument("--no-write", action="store_true")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    precisions = ["32-true"]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        precisions.append("bf16-mixed")
    rows = []
    for name in [given.only] if given.only else MODELS:
        for precision in precisions:
            rows.append(measure(name, precision, given.steps))
            print(json.dumps(rows[-1]), flush=True)
    result = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "rows": rows,
        "sides": {
            f"{row['model']} {side}, {row['precision']}": {"seconds": row[f"{side}_seconds"]}
            for row in rows
            for side in ("step", "floor")
        },
        "targets": [target for row in rows for target in targets(row)],
    }
    if not given.no_write:
        RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
