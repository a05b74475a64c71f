"""Joint spaces side by side beside one number of components or view, on real pairs, fold by fold.

    python benchmarks/evidence/side_by_side.py [her2st cdrp jump] [--seeds 20] [--tiny]

`her2st.toml`, `cdrp.toml` and `jump.toml` with SharedAxes alone: as it chooses, without factors of
counts, without patches of images, with the one number of components in which it counts axes (the
fewest within the error of the best), and with each number. Writes `results/side_by_side.csv`:
FOSCTTM of what was left out, by the first and the last of `METRICS` that a configuration has; other
data sets' rows stay.
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
#: By which data sets are asked.
METRICS = ("spots", "alignment", "spots, depth and darkness out")
WAYS: dict[str, dict[str, int]] = {"side by side": {}, "one number, chosen": {}}
WAYS |= {f"{n} alone": {"n_comps": n} for n in N_COMPS}
WAYS["without factors of counts"] = {"n_factors": 0}
WAYS["without patches of images"] = {"n_patches": 0}
choose = left_out.choose_n_comps


def one_number(*args, **how) -> left_out.Chosen:
    """What was chosen, but for one number alone."""
    chosen = choose(*args, **how)
    return replace(chosen, joint=(chosen.axes,))


def scores_of(config: cf.bench.Config, way: str, seeds: int) -> pd.DataFrame:
    """FOSCTTM by metric and seed."""
    entry = {**config.methods["SharedAxes"], "model": "SharedAxes", **WAYS[way]}
    joint.choose_n_comps = one_number if way == "one number, chosen" else choose
    found = config.changed(
        methods={way: entry},
        metrics={name: config.metrics[name] for name in METRICS if name in config.metrics},
        arguments={**config.arguments, "seeds": seeds},
    ).run(against=None, progress=False)
    scores = found.scores
    scores = scores[(scores["score"] == "foscttm") & ~scores["ceiling"]]
    return scores[["metric", "seed", "value"]].rename(columns={"value": "foscttm"})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["her2st", "cdrp", "jump"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="two folds, and no results")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # a script of its own process
    file, tables = HERE / "results" / "side_by_side.csv", []
    for name, config in configs(given.names):
        for way in WAYS:
            if way.startswith("without") and config.arguments.get("rna_likelihood") == "mse":
                continue  # neither counts nor pixels
            found = scores_of(config, way, 2 if given.tiny else given.seeds)
            tables.append(found.assign(data=name, way=way))
            print(
                name, way, found.groupby("metric")["foscttm"].mean().round(4).to_dict(), flush=True
            )
    if tables and not given.tiny:
        before = pd.read_csv(file) if file.exists() else pd.DataFrame({"data": []})
        kept = before[~before["data"].isin([table["data"].iloc[0] for table in tables])]
        pd.concat([kept, *tables]).round(5).to_csv(file, index=False)


if __name__ == "__main__":
    main()
