"""Faults, each tried for real: what was there is intact, and a run that goes on loses nothing.

    python benchmarks/faults/faults.py [--only WORD] [--quick]

Disks that are full or only read are mounted in a namespace of this process's own, by `unshare`.
Writes `results/faults.json`, a row for each fault with what was said; ends with 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

from _table import FAULTS, OWN, NotTried  # finds the tests, of which the others are made

RESULTS = Path(__file__).parent / "results" / "faults.json"


def with_own_mounts() -> None:
    """Run this command again where mounts are its own and end with it."""
    if OWN in os.environ or shutil.which("unshare") is None:
        return
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, "--mount"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        return  # not allowed here: what needs a disk of its own is not tried
    os.environ[OWN] = "1"
    os.execvp("unshare", [*command, sys.executable, *sys.argv])


def tried(fault: object, folder: Path) -> dict[str, object]:
    """One row."""
    begun = time.monotonic()
    row: dict[str, object] = {"name": fault.name, "tried": True}
    try:
        message, passed = fault.tried(folder), True
    except NotTried as error:
        message, passed = str(error), False
        row["tried"] = False
    except Exception:  # noqa: BLE001  # whatever it is, it is the row
        message, passed = traceback.format_exc()[-1_500:], False
    message = re.sub(rf"{tempfile.gettempdir()}/[^/'\"\s]+", "FOLDER", message)
    return {**row, "passed": passed, "message": message, "seconds": time.monotonic() - begun}


def main() -> None:
    """Try all, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="faults whose name matches this")
    parser.add_argument("--quick", action="store_true", help="the few that the tests try")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    with_own_mounts()
    warnings.simplefilter("ignore")
    import _damage  # noqa: F401
    import _disk  # noqa: F401  (each enters its faults into the table)
    import _kept  # noqa: F401
    import _machines  # noqa: F401

    chosen = [f for f in FAULTS.values() if f.quick or not given.quick]
    chosen = [f for f in chosen if given.only is None or re.search(given.only, f.name)]
    rows = []
    for fault in chosen:
        with tempfile.TemporaryDirectory(prefix="fault-") as folder:
            rows.append(tried(fault, Path(folder)))
        row = rows[-1]
        print("passed" if row["passed"] else "FAILED", fault.name, f"{row['seconds']:.1f} s")
        if not row["passed"]:
            print(row["message"])
        sys.stdout.flush()
    real = [row for row in rows if row["tried"]]
    passed = sum(bool(row["passed"]) for row in real)
    found = {
        "passed": passed,
        "tried": len(real),
        "not_tried": len(rows) - len(real),
        "faults": rows,
    }
    print(f"{passed} of {len(real)} faults with nothing lost")
    if given.only is None or given.out != RESULTS:
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if passed < len(real) or not real:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
