#!/bin/sh
# Run the tests on the lowest versions that pyproject.toml declares, with Python 3.11 (by uv).
# Arguments go to pytest: scripts/lowest.sh -m "not slow" tests/test_tl.py
set -eu
cd "$(dirname "$0")/.."

command -v uv > /dev/null || python3 -m pip install --quiet --disable-pip-version-check uv
[ -x .venv-lowest/bin/python ] || uv venv --quiet --python 3.11 .venv-lowest
# uv takes the lowest of what is declared and the newest of what that brings: of torchvision, which
# timm brings, the newest would ask for the newest torch.
printf 'torchvision<0.23\n' > .venv-lowest/constraints.txt
uv pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct \
    --constraint .venv-lowest/constraints.txt --editable '.[test]'

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export NUMBA_NUM_THREADS="${NUMBA_NUM_THREADS:-1}"
export MPLBACKEND=Agg
# Old libraries beside new ones warn of one another: here a warning is no error.
.venv-lowest/bin/python -m pytest -q -W default "$@"
