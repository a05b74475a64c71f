"""PhenoSeq's sampler against a plain one: 50 steps of DDIM at the paper's size.

The plain side calls the whole network at every step, as the paper describes it; ours encodes the
context once and folds what is constant. Same weights, same precision, sides taking turns; before
anything is timed, both are checked to draw the same. Run:

    python benchmarks/speed/phenoseq_sampling.py                          # 1,000 samples on the CPU
    python benchmarks/speed/phenoseq_sampling.py --samples 32 --rounds 1  # a try

On a GPU, where there is one, bf16 and a compiled step are timed too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from _plain_phenoseq import PlainDenoiser, plain_sample, take_weights
from torch import Tensor

from cellfuse.model.phenoseq.sizes import PRESETS
from cellfuse.nn.denoiser import FoldedDenoiser
from cellfuse.nn.diffusion import DDIM
from cellfuse.nn.keyed import normal
from cellfuse.nn.phenoseq import PhenoSeqNetwork

RESULTS = Path(__file__).parent / "results"
IMAGE, RNA, STEPS, TARGET = 5120, 512, 50, 1.7


def build(device: str) -> tuple[PhenoSeqNetwork, PlainDenoiser]:
    torch.manual_seed(0)
    ours = PhenoSeqNetwork(IMAGE, RNA, PRESETS["base"], diffusion={}).to(device).eval()
    # A last layer of the size of a trained one: at its start the network predicts nearly nothing.
    torch.nn.init.normal_(ours.denoiser.out[-1].weight, std=0.02)
    plain = PlainDenoiser(IMAGE, RNA).to(device).eval()
    take_weights(plain, ours)
    return ours, plain


def clock(work: Callable[[], Tensor]) -> dict[str, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start, cpu = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def sides(ours, plain, means, batch: int) -> dict[str, Callable[[], Tensor]]:
    sampler = DDIM(ours.diffusion)
    sampler.set_timesteps(STEPS)
    first = normal(torch.zeros(1, dtype=torch.long), (RNA,), seed=0, purpose="first noise")
    first = first.to(means.device)

    @torch.inference_mode()
    def folded() -> Tensor:
        parts = means.split(batch)
        drawn = [ours.generate(p, None, sampler=sampler, n_samples=1, seed=0) for p in parts]
        return torch.cat(drawn)[:, 0]

    def called() -> Tensor:
        parts = means.split(batch)
        return torch.cat([plain_sample(plain, p, first.expand(len(p), -1), STEPS) for p in parts])

    return {"plain": called, "folded": folded}


def measure(work: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, dict[str, float]]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in work}
    for turn in range(rounds):
        for name in sorted(work, reverse=bool(turn % 2)):
            runs[name].append(clock(work[name]))
    return {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]}
        for name, found in runs.items()
    }


def compiled(function: Callable[..., Tensor]) -> None:
    """Compile the step of the folded denoiser in place."""
    FoldedDenoiser.__call__ = torch.compile(function, dynamic=False)  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours, plain = build(device)
    torch.manual_seed(1)
    means = torch.randn(arguments.samples, 1, IMAGE, device=device)
    few = sides(ours, plain, means[:8], 8)
    a, b = few["plain"](), few["folded"]()
    difference = float((a - b).abs().max() / a.abs().max())
    print(f"largest difference on 8 samples, relative to the largest value: {difference:.2g}")
    found = measure(sides(ours, plain, means, arguments.batch), arguments.rounds)
    result = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "torch": torch.__version__,
        "samples": arguments.samples,
        "batch": arguments.batch,
        "steps": STEPS,
        "parameters": sum(p.numel() for p in ours.parameters()),
        "largest_difference": difference,
        "sides": found,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }
    if device == "cuda":
        with torch.autocast("cuda", torch.bfloat16):
            result["bf16"] = measure(sides(ours, plain, means, arguments.batch), arguments.rounds)
            compiled(FoldedDenoiser.__call__)
            fast = {"compiled": sides(ours, plain, means, arguments.batch)["folded"]}
            fast["compiled"]()
            result["bf16"] |= measure(fast, arguments.rounds)
        result["peak_gpu_mb"] = torch.cuda.max_memory_allocated() / 1e6
    for precision, key in (("float32", "sides"), ("bf16", "bf16")):
        for name, times in result.get(key, {}).items():
            rate = arguments.samples / times["seconds"]
            print(f"{precision} {name:10s}{times['seconds']:9.2f} s {rate:9.1f} samples/s")
    ratio = {k: found["plain"][k] / found["folded"][k] for k in ("seconds", "cpu_seconds")}
    result["ratio"] = ratio
    result["targets"] = [
        {
            "what": f"{STEPS}-step DDIM of {arguments.samples} samples at 168.5 M parameters",
            "found": ratio["seconds"],
            "found_cpu": ratio["cpu_seconds"],
            "target": f"at least {TARGET} times faster than the plain sampler",
            "met": ratio["seconds"] >= TARGET,
        }
    ]
    print(f"{ratio['seconds']:.2f} times faster ({ratio['cpu_seconds']:.2f} in processor time)")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "phenoseq_sampling.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
