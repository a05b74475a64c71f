"""Hostile inputs for every reader: right, or one clear error, in seconds and in bounded memory.

    python benchmarks/faults/hostile.py [--only WORD] [--every N]

Inputs are read one after another in a process that may take 2 GB beside what its imports take; one
that takes that process down, or is not done in 30 seconds, has failed, and the next goes on in
another. Nothing of an input may be executed, and nothing of another folder handed out. Writes
`results/hostile.json`; ends with 1 where one fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "hostile.json"
#: Bytes beside the imports, and seconds.
MEMORY, SECONDS = 2 << 30, 30
MAX_MESSAGE = 1_000


class TooLong(BaseException):
    """It hangs; no handler of the library's catches this."""


def _alarm(number: int, frame: object) -> None:
    raise TooLong


def _outcome(one: object, path: Path) -> dict[str, object]:
    """Read one input: passed or not, and why."""
    try:
        one.read(path)
    except (ValueError, KeyError, OSError, ImportError) as error:
        if isinstance(error, MemoryError):
            raise
        text = str(error)
        name = path.name if one.names is None else one.names
        passed = one.expect != "right" and name in text and len(text) < MAX_MESSAGE
        return {"came": "told", "passed": passed, "message": f"{type(error).__name__}: {text}"}
    except TooLong:
        return {"came": "hangs", "passed": False, "message": f"more than {SECONDS} s"}
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is the row
        text = f"{type(error).__name__}: {error}"
        return {"came": "raised", "passed": False, "message": text[:MAX_MESSAGE]}
    return {"came": "read", "passed": one.expect != "told", "message": ""}


def tried(one: object, root: Path) -> dict[str, object]:
    """Make one input in a folder of its own, read it, and look whether anything was executed."""
    from _input import CANARY, SECRET

    (root / "secret").write_bytes(SECRET * 64)
    folder = root / "input"
    folder.mkdir()
    begun = time.monotonic()
    try:
        path = one.make(folder)
        begun = time.monotonic()
        signal.alarm(SECONDS)
        row = _outcome(one, path)
    except BaseException as error:  # noqa: BLE001  # whatever it is, it is the row
        row = {"came": "not made", "passed": False, "message": repr(error)[:MAX_MESSAGE]}
    finally:
        signal.alarm(0)
    for place in (root, folder, Path("/tmp")):
        if (place / CANARY).exists():
            row |= {"came": "executed", "passed": False}
    row["message"] = str(row["message"]).replace(str(root), "FOLDER")
    return {"name": one.name, **row, "seconds": round(time.monotonic() - begun, 2)}


def work(names: list[str]) -> None:
    """Read inputs by name, a line of JSON before and after each."""
    warnings.simplefilter("ignore")
    inputs = load()
    import _hostile_text

    _hostile_text._benchmark()  # brings what else is imported, before memory is limited
    signal.signal(signal.SIGALRM, _alarm)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what readers print is not ours
    for name in names:
        print(json.dumps({"begun": name}), file=out, flush=True)
        with tempfile.TemporaryDirectory(prefix="hostile-") as root:
            print(json.dumps(tried(inputs[name], Path(root))), file=out, flush=True)


def load() -> dict[str, object]:
    """All inputs by name."""
    import _hostile_files  # noqa: F401  (each enters its inputs into the table)
    import _hostile_folders  # noqa: F401
    import _hostile_text  # noqa: F401
    from _input import INPUTS

    return INPUTS


def _watched(process: subprocess.Popen) -> Iterator[str]:
    """Lines of a process, which is ended where none comes: not every hang hears an alarm."""
    assert process.stdout is not None
    while True:
        # The first lines come after the imports.
        watch = threading.Timer(3 * SECONDS, process.kill)
        watch.start()
        line = process.stdout.readline()
        watch.cancel()
        if not line:
            return
        yield line


def read_all(names: list[str]) -> list[dict[str, object]]:
    """Read inputs in processes; one that takes its process down is a row too."""
    rows: list[dict[str, object]] = []
    left = list(names)
    while left:
        command = [sys.executable, "-W", "ignore", __file__, "--work"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(json.dumps(left))
        process.stdin.close()
        begun = None
        for line in _watched(process):
            row = json.loads(line)
            begun = row.get("begun", begun)
            if "passed" in row:
                rows.append(row)
                left.remove(row["name"])
                begun = None
                if not row["passed"]:
                    print("FAILED", row["name"], "|", row["came"], "|", row["message"], flush=True)
        code = process.wait()
        if begun is not None:
            left.remove(begun)
            message = f"the process ended with {code}"
            rows.append({"name": begun, "came": "crash", "passed": False, "message": message})
            print("FAILED", begun, "|", message, flush=True)
        elif left and code:
            raise RuntimeError(f"the process of {len(left)} inputs ended with {code}")
    return rows


def main() -> None:
    """Read all, print what fails, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--only", help="inputs whose name matches this")
    parser.add_argument("--every", type=int, default=1, help="each Nth input")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    if given.work:
        work(json.loads(sys.stdin.read()))
        return
    names = [n for n in load() if given.only is None or re.search(given.only, n)]
    rows = read_all(names[:: given.every])
    passed = sum(bool(row["passed"]) for row in rows)
    kinds = Counter(str(row["name"]).split(":")[0] for row in rows)
    found = {"passed": passed, "tried": len(rows), "by_reader": kinds, "inputs": rows}
    print(f"{passed} of {len(rows)} hostile inputs: right, or one clear error")
    if (given.only is None and given.every == 1) or given.out != RESULTS:
        given.out.parent.mkdir(exist_ok=True)
        given.out.write_text(json.dumps(found, indent=1) + "\n")
    if passed < len(rows) or not rows:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
