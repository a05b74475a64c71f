"""Concepts: how many are multimodal, what they know, and whether they are what is there.

    python benchmarks/evidence/concepts.py [simulated gain her2st periscope eccite] [--tiny]

simulated: screens with known shared and private factors (`simulated_screen`, seeds 0 to 2; the size
of the dictionary was chosen on seed 100), embedded by SharedAxes, by CLIP, and by both on permuted
contexts. Concepts active in 10 to 90% of the cells of both modalities; whether they
know the well less than random ones; correlation over guides with the factors, best assigned; and
whether a concept that both modalities have means one thing in both (correlation over guides of its
activation in images and in expression).
gain: hidden droplets rebuilt by PETRI with matched, random and mismatched expression, and by its
permuted twin (length of the training chosen on seed 100).
her2st, periscope, eccite: real data, see `_concepts_real.py`.
Writes `results/concepts_<part>.csv`; a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
from _concepts_real import eccite, her2st, periscope
from _concepts_simulated import gain, simulated

RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Command line."""
    parts: dict[str, Callable[..., Iterable[dict]]] = {
        "simulated": simulated,
        "gain": gain,
        "her2st": her2st,
        "periscope": periscope,
        "eccite": eccite,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(parts))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--tiny", action="store_true", help="look whether it runs; writes nothing")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # a script of its own process
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name in given.names:
        begin, rows = time.time(), []
        for row in parts[name](given.seeds[:1] if given.tiny else given.seeds, tiny=given.tiny):
            rows.append(row)
            print(
                {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True
            )
        print(f"{name}: {time.time() - begin:.0f} s", flush=True)
        if not given.tiny:
            RESULTS.mkdir(exist_ok=True)
            table = pd.DataFrame(rows)
            table.to_csv(RESULTS / f"concepts_{name}.csv", index=False, float_format="%.5g")


if __name__ == "__main__":
    main()
