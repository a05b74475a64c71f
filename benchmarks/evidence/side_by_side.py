"""Joint spaces side by side beside one number of components, on the real pairs, fold by fold.

    python benchmarks/evidence/side_by_side.py [her2st cdrp jump] [--seeds 20] [--tiny]

`her2st.toml`, `cdrp.toml` and `jump.toml` with SharedAxes alone: as it chooses, with the one number
of components in which it counts axes (the fewest within the error of the best), and with each
number. Writes `results/side_by_side.csv`: FOSCTTM of what was left out, as it comes.
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import pandas as pd
from run import configs

import cellfuse as cf
from cellfuse.kernels import left_out
from cellfuse.kernels.left_out import N_COMPS
from cellfuse.model.base import joint

HERE = Path(__file__).resolve().parent
choose = left_out.choose_n_comps


def one_number(*args, **how) -> left_out.Chosen:
    """What was chosen, but for one number alone."""
    chosen = choose(*args, **how)
    return replace(chosen, joint=(chosen.axes,))


def scores_of(config: cf.bench.Config, way: str, n_comps: int | None, seeds: int) -> pd.Series:
    """FOSCTTM by seed."""
    entry = {**config.methods["SharedAxes"], "model": "SharedAxes"}
    if n_comps is not None:
        entry["n_comps"] = n_comps
    first, options = next(iter(config.metrics.items()))
    joint.choose_n_comps = one_number if way == "one number, chosen" else choose
    found = config.changed(
        methods={way: entry},
        metrics={first: options},
        arguments={**config.arguments, "seeds": seeds},
    ).run(against=None, progress=False)
    scores = found.scores
    scores = scores[(scores["score"] == "foscttm") & ~scores["ceiling"]]
    return scores.set_index("seed")["value"]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["her2st", "cdrp", "jump"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="two folds, and no results")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # a script of its own process
    ways = {"side by side": None, "one number, chosen": None} | {f"{n} alone": n for n in N_COMPS}
    rows = []
    for name, config in configs(given.names):
        for way, n_comps in ways.items():
            found = scores_of(config, way, n_comps, 2 if given.tiny else given.seeds)
            rows += [
                {"data": name, "way": way, "seed": seed, "foscttm": value}
                for seed, value in found.items()
            ]
            print(name, way, f"{found.mean():.4f}", flush=True)
    if rows and not given.tiny:
        table = pd.DataFrame(rows)
        table.round(5).to_csv(HERE / "results" / "side_by_side.csv", index=False)


if __name__ == "__main__":
    main()
