#!/bin/sh
# Build the documentation into docs/_build/html; a warning is an error.
set -eu
cd "$(dirname "$0")/.."
# autosummary keeps the pages of names that are gone: start from none.
rm -rf docs/api/generated docs/_build
sphinx-build -q -W --keep-going -b html docs docs/_build/html
echo "docs/_build/html/index.html"
