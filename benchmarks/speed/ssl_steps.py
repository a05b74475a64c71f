"""Training steps of DINO and MAE against the matrix products they cannot do without.

    python benchmarks/speed/ssl_steps.py            (about five minutes on two cores)

ViT-Small with patches of 8 pixels, 64 images of 5 x 64 x 64; DINO with 2 global views of 64 and 4
local views of 32 pixels, MAE with 75% hidden. A step is forward, backward, gradient clipping,
AdamW and, for DINO, the teacher's. The floor does the same matrix products and attentions, forward
and backward, and nothing else; both are timed in turns in one process. Where there is a GPU, images
per second in bf16 are added. Writes `results/ssl_steps.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from cellfuse.nn.crops import CropSettings, multi_crop
from cellfuse.nn.dino import Dino
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.vit import VIT_PRESETS, PlainViT

RESULTS = Path(__file__).parent / "results" / "ssl_steps.json"
CHANNELS = ["DNA", "RNA", "ER", "AGP", "Mito"]
BATCH, SIDE, PATCH, RATIO = 64, 64, 8, 0.75
#: Ratio to the floor to stay below, on CPU.
TARGET = 1.3

Act = Callable[[], None]


class Floor:
    """The products that a step takes with weights of given shapes."""

    def __init__(self, device: str) -> None:
        self.device = device

    def linear(self, rows: int, n_in: int, n_out: int, *, backward: bool = True) -> Act:
        """Product of a layer; of its backward pass those for the input and for the weight."""
        x = torch.randn(rows, n_in, device=self.device)
        weight = torch.randn(n_out, n_in, device=self.device)
        y = torch.randn(rows, n_out, device=self.device)
        out, dx, dw = torch.empty_like(y), torch.empty_like(x), torch.empty_like(weight)

        def act() -> None:
            torch.mm(x, weight.T, out=out)
            if backward:
                torch.mm(y, weight, out=dx)
                torch.mm(y.T, x, out=dw)

        return act

    def attention(self, n: int, heads: int, tokens: int, width: int, *, backward: bool) -> Act:
        """Fused attention, as the network calls it."""
        shape = (n, heads, tokens, width // heads)
        q, k, v = (torch.randn(shape, device=self.device, requires_grad=backward) for _ in range(3))
        gradient = torch.randn(shape, device=self.device)

        def act() -> None:
            out = F.scaled_dot_product_attention(q, k, v)
            if backward:
                torch.autograd.grad(out, (q, k, v), gradient)

        return act

    def transformer(
        self, n: int, tokens: int, width: int, heads: int, depth: int, *, backward: bool = True
    ) -> list[Act]:
        """All layers of a transformer on `n` sequences."""
        rows = n * tokens
        layer = [
            self.linear(rows, width, 3 * width, backward=backward),
            self.attention(n, heads, tokens, width, backward=backward),
            self.linear(rows, width, width, backward=backward),
            self.linear(rows, width, 4 * width, backward=backward),
            self.linear(rows, 4 * width, width, backward=backward),
        ]
        return layer * depth


def dino_floor(device: str, n_prototypes: int) -> Act:
    floor, size = Floor(device), VIT_PRESETS["base"]
    wide, narrow = (SIDE // PATCH) ** 2, (SIDE // 2 // PATCH) ** 2
    pixels = len(CHANNELS) * PATCH**2
    acts = []
    for views, places, backward in ((2, wide, True), (4, narrow, True), (2, wide, False)):
        n = views * BATCH
        acts.append(floor.linear(n * places, pixels, size.width, backward=backward))
        acts += floor.transformer(
            n, places + 1, size.width, size.n_heads, size.depth, backward=backward
        )
    for views, backward in ((6, True), (2, False)):
        widths = [size.width, 2048, 2048, 256, n_prototypes]
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            acts.append(floor.linear(views * BATCH, a, b, backward=backward))
    return lambda: [act() for act in acts] and None


def mae_floor(device: str) -> Act:
    floor, size = Floor(device), VIT_PRESETS["base"]
    places = (SIDE // PATCH) ** 2
    kept = round(places * (1 - RATIO))
    pixels = len(CHANNELS) * PATCH**2
    acts = [floor.linear(BATCH * kept, pixels, size.width)]
    acts += floor.transformer(BATCH, kept + 1, size.width, size.n_heads, size.depth)
    acts += [floor.linear(BATCH * (kept + 1), size.width, 512)]
    acts += floor.transformer(BATCH, places + 1, 512, 16, 8)
    acts += [floor.linear(BATCH * (places - kept), 512, pixels)]
    return lambda: [act() for act in acts] and None


def images(device: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, len(CHANNELS), SIDE, SIDE, generator=generator).to(device)


def dino_step(device: str, n_prototypes: int) -> Act:
    net = Dino(PlainViT(CHANNELS, VIT_PRESETS["base"]), n_prototypes=n_prototypes).to(device)
    learned = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-4, weight_decay=0.04, fused=True)
    x, key = images(device), torch.arange(BATCH, device=device)

    def act() -> None:
        wide, narrow = multi_crop(x, key, seed=0, settings=CropSettings())
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            loss = net(wide, narrow)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 3.0)
        optimizer.step()
        net.follow(0.996)

    return act


def mae_step(device: str) -> Act:
    net = ImageMAE(PlainViT(CHANNELS, VIT_PRESETS["base"])).to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
    x, key = images(device), torch.arange(BATCH, device=device)

    def act() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
            loss = net(x, key)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    return act


def timed(act: Act, device: str) -> dict[str, float]:
    start, cpu = time.perf_counter(), time.process_time()
    act()
    if device != "cpu":
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def compare(name: str, step: Act, floor: Act, rounds: int) -> tuple[dict, dict[str, object]]:
    """Median seconds of step and floor, in turns after a round of warm-up; and the target."""
    sides: dict[str, list[dict[str, float]]] = {f"{name} step": [], f"{name} floor": []}
    for turn in range(rounds + 1):
        for side, act in zip(sides, (step, floor), strict=True):
            measured = timed(act, "cpu")
            if turn:
                sides[side].append(measured)
    medians = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for side, runs in sides.items()
    }
    a, b = medians.values()
    ratio = {key: a[key] / b[key] for key in ("seconds", "cpu_seconds")}
    return medians, target(name, ratio)


def target(name: str, ratio: dict[str, float]) -> dict[str, object]:
    """How a step's ratio to its floor compares with what is aimed at."""
    return {
        "what": f"{name} step over its matrix products",
        "found": ratio["seconds"],
        "found_cpu": ratio["cpu_seconds"],
        "target": f"at most {TARGET} times",
        "met": ratio["seconds"] <= TARGET,
    }


def gpu_rate(act: Act, n: int = 20) -> float:
    for _ in range(5):
        act()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(n):
        act()
    torch.cuda.synchronize()
    return n * BATCH / (time.perf_counter() - start)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prototypes", type=int, default=65_536)
    parser.add_argument("--only", choices=["dino", "mae"])
    parser.add_argument("--no-write", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, object] = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "prototypes": arguments.prototypes,
    }
    sides: dict[str, object] = {}
    targets = []
    if arguments.only != "mae":
        n = arguments.prototypes
        step, floor = dino_step("cpu", n), dino_floor("cpu", n)
        medians, reached = compare("DINO", step, floor, arguments.rounds)
        sides |= medians
        targets.append(reached)
    if arguments.only != "dino":
        medians, reached = compare("MAE", mae_step("cpu"), mae_floor("cpu"), arguments.rounds)
        sides |= medians
        targets.append(reached)
    found |= {"sides": sides, "targets": targets}
    if torch.cuda.is_available():
        found["gpu"] = {
            "device": torch.cuda.get_device_name(),
            "dino_images_per_second": gpu_rate(dino_step("cuda", arguments.prototypes)),
            "mae_images_per_second": gpu_rate(mae_step("cuda")),
        }
    print(json.dumps(found, indent=2))
    if not arguments.no_write:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
