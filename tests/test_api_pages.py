"""What is public is documented, and has the shape of a public function."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import cellfuse

API = Path(__file__).resolve().parents[1] / "docs" / "api"
DOCUMENTED = [f"cellfuse.{name}" for name in cellfuse._SUBMODULES]


def api_entries() -> set[str]:
    """Full names listed in the autosummary blocks of the API pages."""
    entries = set()
    for page in API.glob("*.md"):
        module = ""
        for line in page.read_text().splitlines():
            if match := re.match(r"\.\. (?:current)?module:: (\S+)", line.strip()):
                module = match.group(1)
            elif match := re.fullmatch(r"\s+([A-Za-z_][\w.]*)", line):
                entries.add(f"{module}.{match.group(1)}")
    return entries


@pytest.mark.parametrize("module", DOCUMENTED)
def test_every_public_name_is_on_the_api_page(module):
    names = importlib.import_module(module).__all__
    assert {f"{module}.{name}" for name in names} - api_entries() == set()


def test_every_model_is_on_the_api_page():
    models = set(cellfuse._MODELS)
    others = set(importlib.import_module("cellfuse.model").__all__) - models
    wanted = {f"cellfuse.{name}" for name in models}
    wanted |= {f"cellfuse.model.{name}" for name in others}
    assert wanted - api_entries() == set()


@pytest.mark.parametrize("module", DOCUMENTED)
def test_public_names_have_a_docstring_and_few_positional_arguments(module):
    package = importlib.import_module(module)
    for name in package.__all__:
        thing = getattr(package, name)
        if not callable(thing):
            continue
        assert inspect.getdoc(thing), f"{module}.{name} has no docstring"
        if inspect.isfunction(thing):
            kinds = [p.kind for p in inspect.signature(thing).parameters.values()]
            n_positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
            assert n_positional <= 3, f"{module}.{name} takes {n_positional} positional arguments"


@pytest.mark.parametrize("entry", sorted(api_entries()))
def test_every_page_of_the_api_has_an_example(entry):
    module, _, name = entry.rpartition(".")
    thing = getattr(importlib.import_module(module), name)
    if callable(thing):
        assert ">>>" in (inspect.getdoc(thing) or ""), f"{entry}: no example in its docstring"
