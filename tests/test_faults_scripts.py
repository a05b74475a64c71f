"""The commands of `benchmarks/faults`: a few faults and inputs each time, the rest when slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "faults"
linux = pytest.mark.skipif(sys.platform != "linux", reason="mounts, limits and signals of Linux")


def run(script: str, out: Path, *arguments: str, seconds: int = 240) -> dict:
    """Run a command and read what it wrote; one that fails ends with 1."""
    command = [sys.executable, "-W", "ignore", FOLDER / script, "--out", out, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return json.loads(out.read_text())


@linux
def test_a_few_faults_lose_nothing(tmp_path):
    found = run("faults.py", tmp_path / "f.json", "--quick")
    assert found["passed"] == found["tried"] >= 4


@linux
def test_some_hostile_inputs_are_right_or_told(tmp_path):
    found = run("hostile.py", tmp_path / "h.json", "--every", "37")
    assert found["passed"] == found["tried"] >= 10


@linux
@pytest.mark.slow
def test_what_is_damaged_on_the_disk_is_told(tmp_path):
    found = run(
        "faults.py", tmp_path / "f.json", "--only", "^(a |an |the |weights|contexts)(?!.*proc)"
    )
    assert found["passed"] == found["tried"] >= 25  # a process and a cluster are of others


def test_the_results_are_those_of_all_faults_and_inputs():
    """What the page prints: at least as many as were promised, and none that failed."""
    for name, least in (("faults", 30), ("hostile", 200)):
        found = json.loads((FOLDER / "results" / f"{name}.json").read_text())
        assert found["passed"] == found["tried"] >= least, name


@linux
@pytest.mark.slow
def test_a_check_fails_where_the_protection_is_taken_away(tmp_path):
    """A missing chunk is read as zeros, and a save is written in place: both are seen."""
    script = """
import sys, tempfile
from pathlib import Path
sys.path.insert(0, {folder!r})
import _table, _damage
from cellfuse.data import blocks, chunk_files
from cellfuse.model.base import storage
import cellfuse._files

def fails(name):
    with tempfile.TemporaryDirectory() as place:
        try:
            _table.FAULTS[name].tried(Path(place))
        except AssertionError:
            return True
    return False

assert not fails("a chunk is missing: array")
chunk_files.ChunkFiles.of = classmethod(lambda cls, array: None)
blocks._refuse_missing = lambda *given: None
assert fails("a chunk is missing: array")

name = "an overwriting save that fails leaves the model that was there"
assert not fails(name)
import shutil
def in_place(new, target):
    shutil.rmtree(target, ignore_errors=True)
    new.rename(target)
storage.put_in_place = in_place
assert fails(name)
print("seen")
"""
    command = [sys.executable, "-W", "ignore", "-c", script.format(folder=str(FOLDER))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "seen", done.stderr[-2000:]
