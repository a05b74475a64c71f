#!/bin/sh
# One H100 or H200, from a bare Python, under nine minutes: trainings and steps, as JSON in $OUT.
#     OUT=results benchmarks/gpu.sh          on a GPU
#     OUT=results benchmarks/gpu.sh --tiny   anywhere, to see that it runs
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! "$python" -c 'import cellfuse' 2>/dev/null; then
    [ -x .venv-gpu/bin/python ] || "$python" -m venv --system-site-packages .venv-gpu
    python=.venv-gpu/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check -e .
fi
mkdir -p "${OUT:-benchmarks/speed/results}"
exec "$python" benchmarks/speed/gpu.py --out "${OUT:-benchmarks/speed/results}/gpu.json" "$@"
