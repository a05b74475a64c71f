"""What the documentation's own extensions do to a docstring, and tables of its pages."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest

import cellfuse as cf

DOCS = Path(__file__).resolve().parents[1] / "docs"


def extension(name: str):
    pytest.importorskip("sphinx", reason="the documentation's tools: pip install cellfuse[docs]")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARAGRAPH = """\
Score something.

Returns
-------
One row per gene, as long as
this sentence is.

A second paragraph.

Raises
------
KeyError
    No.""".split("\n")


def test_a_paragraph_of_returns_stands_under_its_type():
    found = extension("returns").typed(PARAGRAPH, "DataFrame")
    start = found.index("Returns")
    assert found[start : start + 7] == [
        "Returns",
        "-------",
        "DataFrame",
        "    One row per gene, as long as",
        "    this sentence is.",
        "",
        "    A second paragraph.",
    ]
    assert found[found.index("Raises") :] == PARAGRAPH[PARAGRAPH.index("Raises") :]


def test_what_is_typed_already_is_left():
    lines = ["Returns", "-------", "int", "    The number."]
    assert extension("returns").typed(lines, "int") == lines


@pytest.mark.parametrize("what", ["attribute", "property"])
def test_a_colon_in_the_sentence_of_an_attribute_ends_no_type(what):
    returns = extension("returns")
    from sphinx.ext.napoleon import Config, NumpyDocstring

    def rendered(lines):
        found = NumpyDocstring(lines, Config(), what="attribute", name="n_comps")
        return "\n".join(found.lines())

    lines = ["Components at most; None: chosen by what is left out."]
    assert ":type:" in rendered(lines)  # what napoleon makes of it
    returns.process(None, what, "n_comps", None, None, lines)
    assert ":type:" not in rendered(lines) and "None: chosen" in rendered(lines)


def test_types_are_those_of_the_annotation_in_short():
    returns = extension("returns")
    assert returns.type_of(cf.tl.hits) == "DataFrame"
    assert returns.type_of(cf.tl.aggregate) == "AnnData"
    assert returns.type_of(pd.DataFrame.__init__) == ""


def test_every_function_of_pl_has_a_page_title_that_is_a_sentence():
    for name in cf.pl.__all__:
        summary = getattr(cf.pl, name).__doc__.split("\n")[0]
        assert summary.endswith("."), name


PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_rows_of_a_table_stand_together(page):
    """A blank line ends a table: the rows after it are shown as text, bars and all."""
    lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
    begun = [k for k, line in enumerate(lines) if line.startswith("|") and not lines[k - 1].strip()]
    for k in begun:
        assert re.fullmatch(r"\|[-:| ]+\|", lines[k + 1]), f"row without a table: {lines[k][:60]}"
