"""Parts of the performance page: profiles of cells on a disk, steps from a store, two processes."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from _methods import TIMES, Table

#: What a store of crops that repeat shows, and what not.
FEW = (
    " Two million crops of 5 x 80 x 80 are few distinct ones, again and again, to find room on a "
    "small disk: they show what memory is taken, and not how fast real ones are decoded."
)


def beyond_memory(table: Table) -> list[str]:
    """Markdown of what was measured in this checkout."""
    text = []
    for name, write in (
        ("profiles_on_disk", _profiles),
        ("store_training", _training),
        ("readers", _readers),
        ("devices", _devices),
    ):
        path = TIMES / f"{name}.json"
        if path.exists():
            text.append(write(json.loads(path.read_text()), table))
    return text


def _met(met: bool) -> str:
    return "yes" if met else "**no**"


def _profiles(found: dict[str, Any], table: Table) -> str:
    rows = [
        ["scaling, whitening, profiles", f"{found['seconds']:.0f}", f"{found['peak_mb']:,.0f}"],
        ["three readings of the array", f"{3 * found['one_reading_seconds']:.0f}", ""],
        ["products of the covariance, float32", f"{found['products_seconds']:.0f}", ""],
    ]
    return (
        f"`python benchmarks/speed/profiles_on_disk.py`: {found['cells']:,} x 768 float32 in zarr "
        f"({found['bytes'] / 1e9:.1f} GB), never corrected on the disk nor in memory; the bound is "
        "what the three readings or the products take.\n\n"
        + table(pd.DataFrame(rows, columns=["what", "seconds", "peak MB"]))
        + f"\nOver its bound: {found['ratio']:.2f} (aimed at: 1.3, {_met(found['ratio'] <= 1.3)}). "
        f"The disk is not what it waits for: it takes {found['cpu_seconds']:.0f} s of processor on "
        "two cores. Features whose covariance is ill-conditioned, as these are, are multiplied in "
        "float64, which takes twice as long; the rest is copying, scaling and looking for NaN. "
        f"Memory (aimed at: 4,000 MB, {_met(found['peak_mb'] <= 4_000)}) grows with the "
        "number of cells, by what obs and its labels take.\n"
    )


def _training(found: dict[str, Any], table: Table) -> str:
    rows = [
        [
            f"{row['cells']:,} crops of {' x '.join(map(str, row['shape']))}",
            f"{row['speed_of_memory']:.2f}",
            f"{row['peak_mb']:,.0f}",
            f"{row['write_store_seconds']:.0f}",
        ]
        for row in sorted(found["rows"], key=lambda row: row["cells"])
    ]
    columns = ["store", "speed, of that in memory", "peak MB", "seconds to write it"]
    peak = max(row["peak_mb"] for row in found["rows"])
    few = any("tiles" in row for row in found["rows"])
    return (
        "`python benchmarks/speed/store_training.py`: steps of a small PETRI from a store, without "
        "worker processes.\n\n"
        + table(pd.DataFrame(rows, columns=columns))
        + f"\nMemory, the interpreter included (aimed at: 4,000 MB, {_met(peak <= 4_000)}), grows "
        "with the number of cells: by obs, names and order, and by the buffers of the arrays until "
        "these are full, at 1 GiB each." + FEW * few + "\n"
    )


def _readers(found: dict[str, Any], table: Table) -> str:
    readers = found["readers"]
    rows = [
        [
            name,
            f"{one['cells_per_second']:,.0f}",
            f"{one['cells_per_cpu_second']:,.0f}",
            f"{one['first_batch_seconds']:.2f}",
        ]
        for name, one in readers.items()
    ]
    columns = [
        "reader",
        "cells per second",
        "per second of processor",
        "seconds to the first batch",
    ]
    ours = readers["cellfuse"]["cells_per_second"]
    ahead = all(ours >= one["cells_per_second"] for one in readers.values())
    return (
        "`python benchmarks/speed/readers.py`: crops and counts by documents of 16 cells, from one "
        f"store of {found['cells']:,} cells of each, page cache empty.\n\n"
        + table(pd.DataFrame(rows, columns=columns))
        + f"\nAimed at: ahead of both ({_met(ahead)}). annbatch reads slices wherever they begin; "
        "cellfuse cells of one context, every context in turn, and gives them back to the user's "
        "order.\n"
    )


def _devices(found: dict[str, Any], table: Table) -> str:
    one, two = (1e3 * found["step_seconds"][n] for n in ("1", "2"))
    ratio, target = found["ratio"], found["target"]
    return (
        "`python benchmarks/speed/devices.py`: a step of a small PETRI (256 cells) takes "
        f"{one:.0f} ms in one process of one thread and {two:.0f} ms in two, {ratio:.2f} times as "
        f"fast (aimed at: {target}, {_met(ratio >= target)}): what is not shared out, AdamW, the "
        "sum of gradients and Python, weighs as much in a small batch."
        + (
            f" Two processes at once with half of a batch each and nothing to tell each other are "
            f"{found['ratio_allowed']:.2f} times as fast: so much the two cores allow.\n"
            if "ratio_allowed" in found
            else "\n"
        )
    )
