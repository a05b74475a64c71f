"""Time `import cellfuse` over what it stands on, `import anndata, mudata`.

Every import runs in an interpreter of its own. The statements take turns and every round begins
with another one, so that a busy moment, or being first, falls on all of them. Beside the wall time
stands the CPU time, which other programs on the machine disturb less. Quartiles are
reported: a negative lower one says how far noise reaches. Run: python benchmarks/speed/imports.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "imports.json"
STATEMENTS = {
    "anndata, mudata": "import anndata, mudata",
    "cellfuse": "import anndata, mudata, cellfuse",
    "cellfuse.pp": "import anndata, mudata, cellfuse; cellfuse.pp",
    "cellfuse.tl": "import anndata, mudata, cellfuse; cellfuse.tl",
    "cellfuse.pl": "import anndata, mudata, cellfuse; cellfuse.pl",
    "cellfuse.PETRI": "import anndata, mudata, cellfuse; cellfuse.PETRI",
}
TARGET_SECONDS = 0.3


def seconds(statement: str) -> tuple[float, float]:
    """Wall and CPU seconds of a statement in a fresh interpreter."""
    code = (
        "import time; w, c = time.perf_counter(), time.process_time(); "
        f"{statement}; print(time.perf_counter() - w, time.process_time() - c)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    wall, cpu = map(float, run.stdout.split())
    return wall, cpu


def modules(statement: str) -> set[str]:
    """Names of all modules that are loaded after a statement: the part that noise cannot move."""
    code = f"{statement}; import sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def quartiles(values: np.ndarray) -> list[float]:
    return [round(float(q), 3) for q in np.percentile(values, [25, 50, 75])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    repeats = parser.parse_args().repeats

    names = list(STATEMENTS)
    for name in names:  # the first import compiles and fills the disk cache
        seconds(STATEMENTS[name])
    load_before = os.getloadavg()[0]
    times = np.empty((repeats, len(names), 2))
    for turn in range(repeats):
        for offset in range(len(names)):
            i = (turn + offset) % len(names)
            times[turn, i] = seconds(STATEMENTS[names[i]])

    # Within a round the imports saw much the same machine: the differences are taken there.
    extra = times - times[:, :1]
    base_modules = modules(STATEMENTS[names[0]])
    rows = []
    for i, name in enumerate(names):
        row = {
            "import": name,
            "wall_seconds": quartiles(times[:, i, 0]),
            "cpu_seconds": quartiles(times[:, i, 1]),
            "extra_wall_seconds": quartiles(extra[:, i, 0]),
            "extra_cpu_seconds": quartiles(extra[:, i, 1]),
            "extra_modules": len(modules(STATEMENTS[name]) - base_modules),
        }
        rows.append(row)
        print(f"{name:16s}", {key: value for key, value in row.items() if key != "import"})
    own = rows[names.index("cellfuse")]
    result = {
        "repeats": repeats,
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "load_before": load_before,
        "load_after": os.getloadavg()[0],
        "quartiles": [25, 50, 75],
        "target_extra_seconds": TARGET_SECONDS,
        # The upper quartile: a median that noise carried under the target is not enough.
        "met": own["extra_wall_seconds"][2] <= TARGET_SECONDS,
        "rows": rows,
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"target for cellfuse: at most {TARGET_SECONDS} s extra; met: {result['met']}")


if __name__ == "__main__":
    main()
