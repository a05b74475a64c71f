"""Time jobs in fresh interpreters, side by side, and keep the figures.

A job is a function that builds its input and returns what is to be timed. Sides take turns over
the rounds, so that a busy moment of the machine falls on all of them; figures are medians over
rounds. Processor time (of all threads) stands beside the time on the clock, for a machine that
has other work. Memory is the peak of the process, less what it held before the input was made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Job = Callable[[], Callable[[], Any]]


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def run_job(job: Job) -> dict[str, float]:
    """Run in this process: seconds of the work alone, and peak memory with its input."""
    before = _peak_bytes()
    work = job()
    start, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "bytes": _peak_bytes() - before,
    }


def fresh(script: str, name: str) -> dict[str, float]:
    """Run one job in an interpreter of its own."""
    run = subprocess.run(
        [sys.executable, script, "--job", name], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise RuntimeError(f"{name} failed:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def main(
    script: str,
    jobs: Mapping[str, Job],
    comparisons: list[dict[str, Any]],
    *,
    slow: tuple[str, ...] = (),
    packages: tuple[str, ...] = (),
) -> None:
    """Measure all jobs, print the table of comparisons and write it to results/.

    A comparison has ``what``, ``ours``, and ``peer`` with ``at_least`` (ratio of their seconds to
    ours), or ``at_most_seconds``, or ``at_most_memory`` with ``input_bytes``.
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--job", choices=list(jobs), help="run this one here and print its figures")
    parser.add_argument("--rounds", type=int, default=5, help="slow peers run once")
    arguments = parser.parse_args()
    if arguments.job:
        print(json.dumps(run_job(jobs[arguments.job])))
        return
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for turn in range(arguments.rounds):
        for name in jobs:
            if turn == 0 or name not in slow:
                measured[name].append(fresh(script, name))
    sides = {
        name: {
            "seconds": statistics.median(run["seconds"] for run in runs),
            "cpu_seconds": statistics.median(run["cpu_seconds"] for run in runs),
            "peak_mb": max(run["bytes"] for run in runs) / 1e6,
            "runs": len(runs),
        }
        for name, runs in measured.items()
    }
    for name, side in sides.items():
        print(
            f"{name:54s}{side['seconds']:9.3f} s {side['cpu_seconds']:9.3f} s cpu"
            f"{side['peak_mb']:8.0f} MB  x{side['runs']}"
        )
    rows = [_judge(comparison, sides) for comparison in comparisons]
    for row in rows:
        cpu = f", {row['found_cpu']:.3g} in processor time" if "found_cpu" in row else ""
        print(f"{row['what']}: {row['found']:.3g}{cpu} ({row['target']}); met: {row['met']}")
    result = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "packages": {name: version(name) for name in ("numpy", "scipy", *packages)},
        "sides": sides,
        "targets": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{Path(script).stem}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


def _judge(comparison: dict[str, Any], sides: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    ours = sides[comparison["ours"]]
    row: dict[str, Any] = {"what": comparison["what"]}
    if "at_least" in comparison:
        peer = sides[comparison["peer"]]
        found = peer["seconds"] / ours["seconds"]
        row["found_cpu"] = peer["cpu_seconds"] / ours["cpu_seconds"]
        bound, text = comparison["at_least"], f"at least {comparison['at_least']} times faster"
        met = found >= bound
    elif "at_most_seconds" in comparison:
        found, bound = ours["seconds"], comparison["at_most_seconds"]
        row["found_cpu"] = ours["cpu_seconds"]
        met, text = found < bound, f"under {bound} s"
    else:
        found = ours["peak_mb"] * 1e6 / comparison["input_bytes"]
        bound = comparison["at_most_memory"]
        met, text = found < bound, f"under {bound} times the input"
    return {**row, "found": found, "target": text, "met": bool(met)}
