"""Fingerprints of the 6,798 drugs of the Drug Repurposing Hub, on what cores there are.

Reads ../shared/data/drugs.csv.gz beside the repository. Run:
python benchmarks/speed/fingerprints.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure
import pandas as pd

import cellfuse as cf

DRUGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "drugs.csv.gz"
_ = cf.pp  # imported before time is taken


def fingerprints(kind: str) -> Callable[[], Any]:
    import rdkit.Chem.rdFingerprintGenerator  # noqa: F401  # likewise

    drugs = pd.read_csv(DRUGS)
    return lambda: cf.pp.fingerprints(drugs, "smiles", kind=kind)


JOBS = {
    "FCFP4 of 6,798 drugs": lambda: fingerprints("fcfp4"),
    "ECFP4 of 6,798 drugs": lambda: fingerprints("ecfp4"),
}
COMPARISONS = [
    {"what": "FCFP4 of 6,798 drugs", "ours": "FCFP4 of 6,798 drugs", "at_most_seconds": 3},
]

if __name__ == "__main__":
    _measure.main(__file__, JOBS, COMPARISONS, packages=("rdkit",))
