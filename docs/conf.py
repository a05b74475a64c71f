"""Sphinx configuration."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

# Sphinx reads nothing outside its own folder, and not every checkout keeps symbolic links.
_here = Path(__file__).resolve().parent
sys.path.insert(0, str(_here / "_ext"))
shutil.rmtree(_here / "tutorials", ignore_errors=True)
shutil.copytree(_here.parent / "tutorials", _here / "tutorials", ignore=lambda *_: ["README.md"])

project = "cellfuse"
author = "cellfuse developers"
copyright = "2026, cellfuse developers"
release = version = installed_version("cellfuse")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    # Ours, in _ext.
    "gallery",
    "mathml",
    "returns",
]
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"
html_math_renderer = "mathml"
templates_path = ["_templates"]
exclude_patterns = ["_build", "_ext", "results_reading*.md", "**.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Notebooks are stored executed: what a reader sees is what a run gave, and a build needs no hour.
nb_execution_mode = "off"

autosummary_generate = True
autodoc_member_order = "bysource"
# Docstrings carry the meaning, signatures the types: they are written once.
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"  # of what is returned: _ext/returns.py
napoleon_google_docstring = False
napoleon_use_rtype = False

# Fetched only where it is hosted: elsewhere a build must pass without a network.
intersphinx_mapping = (
    {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "lightning": ("https://lightning.ai/docs/pytorch/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scvi-tools": ("https://docs.scvi-tools.org/en/stable/", None),
        "sklearn": ("https://scikit-learn.org/stable/", None),
        "torch": ("https://pytorch.org/docs/stable/", None),
    }
    if os.environ.get("READTHEDOCS")
    else {}
)

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["cellfuse.css"]
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
html_title = "cellfuse"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the sidebar has the search already
}
