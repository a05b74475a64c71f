"""Evidence as configurations: run the TOML files beside this one, each resumable.

    python benchmarks/evidence/run.py [headroom enough_cells eccite jump cdrp periscope] [--jobs 2]

Embeddings and scores are kept under `.evidence/NAME` (what is there is not computed again); the
table, the scores of each seed, the paired comparisons and the failures go to
`results/NAME_table.csv`, `_scores.csv`, `_comparisons.csv`,
`_failures.csv`. A data set that is not beside the repository is left out, and said so. `--tiny`
trains one epoch for one seed, to see that everything works, and writes no results.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import cellfuse as cf

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
KEPT = HERE.parents[1] / ".evidence"


def tiny(config: cf.bench.Config) -> cf.bench.Config:
    """One epoch of everything that is trained, one seed."""
    methods: dict[str, Any] = {}
    for name, entry in config.methods.items():
        if isinstance(entry, dict) and "train" in entry:
            entry = {**entry, "train": {"max_epochs": 1, "documents_per_context": 1}}
        methods[name] = entry
    return config.changed(methods=methods, arguments=config.arguments | {"seeds": 1})


def configs(names: Iterable[str]) -> Iterator[tuple[str, cf.bench.Config]]:
    """Configurations by name; one whose data are not here is left out, and said so."""
    for name in names:
        try:
            yield name, cf.bench.read_config(HERE / f"{name}.toml")
        except FileNotFoundError as error:
            print(f"{name}: left out, {error}", flush=True)


def main() -> None:
    """Command line."""
    names = sorted(path.stem for path in HERE.glob("*.toml"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=names)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    for name, config in configs(given.names):
        print(f"{name}:", flush=True)
        if given.tiny:
            with tempfile.TemporaryDirectory() as folder:
                print(tiny(config).run(Path(folder) / name, n_jobs=given.jobs))
            continue
        result = config.run(KEPT / name, n_jobs=given.jobs)
        cf.report(result, title=config.title, about=config.about)
        RESULTS.mkdir(exist_ok=True)
        tables = {"table": result.table, "scores": result.scores, "failures": result.failures}
        if result.comparisons is not None:
            tables["comparisons"] = result.comparisons
        for what, table in tables.items():
            table.round(5).to_csv(RESULTS / f"{name}_{what}.csv", index=False)
        print(result, flush=True)


if __name__ == "__main__":
    main()
