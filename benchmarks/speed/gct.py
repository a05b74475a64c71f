"""One L1000 plate (377 wells x 978 genes): read_gct against cmapPy on the same file.

cmapPy reads no gzip, so the file is unpacked first; ours is timed on the gzip too, beside the
target. cmapPy is no dependency: without it the peer is left out, and the run says so.
Run: python benchmarks/speed/gct.py (about a minute).
"""

from __future__ import annotations

import gzip
import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure

import cellfuse as cf

PACKED = Path(__file__).resolve().parents[3] / "shared" / "data" / "l1000_ljp005_a375.gct.gz"
ROUNDS = 5  # reads within one job: one takes too little to be timed alone
_ = cf.io  # imported before the clock runs


def plain_file() -> str:
    file = Path(tempfile.gettempdir()) / "cellfuse-benchmark.gct"
    file.write_bytes(gzip.decompress(PACKED.read_bytes()))
    return str(file)


def repeated(read: Callable[[str], Any], file: str) -> Callable[[], Any]:
    read(file)  # lazy imports, and the file in the page cache
    return lambda: [read(file) for _ in range(ROUNDS)]


def cmappy() -> Callable[[], Any]:
    from cmapPy.pandasGEXpress.parse_gct import parse

    return repeated(parse, plain_file())


JOBS = {
    "read_gct, plain": lambda: repeated(cf.io.read_gct, plain_file()),
    "read_gct, gzip": lambda: repeated(cf.io.read_gct, str(PACKED)),
}
COMPARISONS: list[dict[str, Any]] = []
PACKAGES: tuple[str, ...] = ("pandas",)
if importlib.util.find_spec("cmapPy"):
    JOBS["cmapPy parse, plain"] = cmappy
    PACKAGES += ("cmapPy",)
    COMPARISONS.append(
        {
            "what": "read_gct over cmapPy, the same plain file",
            "ours": "read_gct, plain",
            "peer": "cmapPy parse, plain",
            "at_least": 1,
        }
    )

if __name__ == "__main__":
    if not PACKED.exists():
        sys.exit(f"skipped: {PACKED.name} is not in ../shared/data")
    if not COMPARISONS and "--job" not in sys.argv:
        print("cmapPy is not installed: read_gct alone (pip install --no-deps cmapPy)")
    _measure.main(__file__, JOBS, COMPARISONS, packages=PACKAGES)
