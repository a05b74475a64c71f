"""The small inputs beside the repository, each with its right value, hold as they are written.

Nothing of them is copied: a script makes its input, calls the library and asserts the right value.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import mudata
import pandas as pd
import pytest
import torch
from packaging.version import Version

import cellfuse

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "cases"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
#: Where the library lies.
PACKAGE = Path(cellfuse.__file__).parent
#: They start processes, which must not be children of the tests' own process and its threads.
ALONE = ("set_start_method", "ddp_")
#: They train a network of the paper's size; a small one is trained twice in other tests.
LARGE = ("24_history_of_second_training",)
#: Scripts set an option that mudata 0.4 has no more (it pulls nothing): there it does nothing.
WITHOUT_OPTIONS = """
import contextlib, mudata
if not hasattr(mudata, "set_options"):
    mudata.set_options = lambda **_: contextlib.nullcontext()
"""


def _alone(script: Path) -> bool:
    return any(word in script.read_text(encoding="utf-8") for word in ALONE)


def _cases() -> list[object]:
    if not SCRIPTS:
        reason = "the inputs are not here: shared/cases beside the repository"
        return [pytest.param(FOLDER, marks=pytest.mark.skip(reason=reason), id="none")]
    return [
        pytest.param(script, marks=pytest.mark.slow if _is_slow(script) else (), id=script.stem)
        for script in SCRIPTS
    ]


def _is_slow(script: Path) -> bool:
    return _alone(script) or script.stem in LARGE


def _nothing(**_: object) -> contextlib.nullcontext[None]:
    """Stand in for an option that is gone."""
    return contextlib.nullcontext()


@contextlib.contextmanager
def _settings_of_the_process() -> Iterator[None]:
    """Put back what the scripts set for themselves."""
    n_threads = torch.get_num_threads()
    options = getattr(mudata, "set_options", None)
    quiet = options(pull_on_update=False) if options else contextlib.nullcontext()
    with warnings.catch_warnings(), quiet:
        warnings.simplefilter("ignore")
        try:
            yield
        except SystemExit as end:  # a script that ends early, where it holds
            assert not end.code, end.code
        finally:
            torch.set_num_threads(n_threads)


@pytest.mark.parametrize("script", _cases())
def test_the_case_holds(script, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if _alone(script):
        (tmp_path / "sitecustomize.py").write_text(WITHOUT_OPTIONS, encoding="utf-8")
        path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
        found = subprocess.run(
            [sys.executable, "-W", "ignore", str(script)],
            env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert found.returncode == 0, found.stderr[-2000:]
        return
    code = compile(script.read_text(encoding="utf-8"), str(script), "exec")
    with _settings_of_the_process():
        monkeypatch.setattr(
            mudata, "set_options", getattr(mudata, "set_options", _nothing), raising=False
        )
        try:
            exec(code, {"__name__": "__main__"})
        except (AttributeError, IndexError) as error:
            if _wants_older_libraries(script, error):
                pytest.skip(f"a line of its own is for older libraries: {error}")
            raise


def _wants_older_libraries(script: Path, error: Exception) -> bool:
    """Whether a script fell over a line that asks nothing of this library."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    newer = Version(pd.__version__).major >= 3
    return newer and not any(str(PACKAGE) in name for name in frames)
