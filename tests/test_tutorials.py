"""The tutorials run from beginning to end, by what a reader has: nothing but the library."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.ipynb"))
#: What a tutorial needs beyond the library and its documentation's tools.
NEEDS = {"scanpy_pertpy_muon_scib": ("muon", "pertpy", "scib_metrics")}


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_runs(path, tmp_path, monkeypatch):
    absent = [name for name in NEEDS.get(path.stem, ()) if find_spec(name) is None]
    if absent:
        pytest.skip(f"{path.stem} needs {', '.join(absent)}")
    # The kernel is another process: it gets the figures' backend from its own inline one.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=where).execute()


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_stored_as_it_ran_and_reads_no_folder_of_ours(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        assert "shared/data" not in cell.source
        assert cell.execution_count, f"not executed: {cell.source[:60]}"
        texts = [str(output) for output in cell.outputs]
        assert not any(output.output_type == "error" for output in cell.outputs)
        assert not any(re.search(r"/(home|root|tmp|work)/", text) for text in texts)


def test_every_tutorial_is_in_the_sidebar_once():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^tutorials/(\w+)$", index, flags=re.M)
    assert sorted(listed) == [path.stem for path in TUTORIALS]
