#!/bin/sh
# Set up .venv and run everything that must pass: style, types, tests, doctests, documentation.
# PYTHON=python3.13 scripts/test.sh does so with another interpreter (3.11 or newer), in an
# environment of its own; "scripts/test.sh fast" runs the fast tests alone.
set -eu
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "cellfuse needs Python 3.11 or newer; $python is $("$python" --version 2>&1)." >&2
    echo "Give another one: PYTHON=python3.11 scripts/test.sh" >&2
    exit 1
}
step() { printf '\n== %s (%s)\n' "$1" "$(date +%H:%M:%S)"; }

venv=.venv
[ -z "${PYTHON:-}" ] || venv=.venv-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

step "environment: $venv"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
PATH="$PWD/$venv/bin:$PATH"
export PATH
python -m pip install --quiet --disable-pip-version-check --upgrade pip
# Editable, so that the doctests run on the very files that are checked.
python -m pip install --quiet --disable-pip-version-check -e '.[test,docs]'

# One thread: on small arrays more of them cost time, and several runs do not crowd each other.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# numba would set the threads of everything that shares its OpenMP, torch among it.
export NUMBA_NUM_THREADS="${NUMBA_NUM_THREADS:-1}"
export MPLBACKEND=Agg

if [ "${1:-}" = fast ]; then
    step "tests: fast"
    exec pytest -q -n 2 --dist loadfile -m "not slow"
fi

step "style: ruff"
ruff check .
ruff format --check .

step "types: mypy"
mypy

step "tests: fast"
pytest -q -n 2 --dist loadfile -m "not slow"

step "tests: slow"
pytest -q -n 2 --dist loadfile -m slow --durations 12 || [ $? -eq 5 ] # 5: there is none

step "documentation: sphinx"
scripts/docs.sh

step "all passed"
