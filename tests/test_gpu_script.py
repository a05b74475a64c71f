"""The GPU benchmark runs from one command, here at its smallest."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_gpu_script_runs_without_a_gpu_and_leaves_its_numbers(tmp_path):
    run = subprocess.run(
        ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--tiny"],
        env={**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert len(parts) == 7 and not any("failed" in part for part in parts)
    assert all(part["seconds_per_step"] > 0 for part in parts)
