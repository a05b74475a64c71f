"""Mean average precision of 10,000 profiles x 768, against copairs.

Two designs: replicates among the controls of their plate, and groups among all profiles; 10,000
random rankings. Numbers are compared first, on 600 profiles. Run:
python benchmarks/speed/precision.py (about ten minutes, of which copairs over all pairs takes six
and 4 GB; SCALE=0.15 for 1,500 profiles).
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import _measure
import anndata as ad
import numpy as np
import pandas as pd

import cellfuse as cf

N = int(10_000 * float(os.environ.get("SCALE", "1")))
D, REPLICATES, WELLS, NULL = 768, 4, 384, 10_000
_ = cf.tl  # imported before memory is counted


def profiles(n: int = N, d: int = D) -> ad.AnnData:
    rng = np.random.default_rng(0)
    group = np.arange(n) // REPLICATES
    x = rng.standard_normal((n, d), dtype=np.float32)
    x += 0.1 * rng.standard_normal((group[-1] + 1, d), dtype=np.float32)[group]
    compound = np.array([f"c{g}" for g in group], dtype=object)
    compound[rng.random(n) < 0.1] = "DMSO"
    plate = rng.permutation(n) % max(1, n // WELLS)
    obs = pd.DataFrame(
        {"Metadata_compound": compound, "Metadata_plate": plate.astype(str)},
        index=np.arange(n).astype(str),
    )
    return ad.AnnData(x, obs=obs)


def design(plates: bool) -> dict[str, Any]:
    control = {"negatives_by": "Metadata_plate", "control": "DMSO"} if plates else {}
    return {"by": "Metadata_compound", "n_null": NULL, "n_boot": 0, **control}


def by_copairs(data: ad.AnnData, plates: bool) -> pd.DataFrame:
    from copairs import map as copairs
    from copairs.matching import assign_reference_index

    meta, same = data.obs.reset_index(drop=True), ["Metadata_compound"]
    rules: list[list[str]] = [same, [], [], same]
    if plates:
        meta = assign_reference_index(meta, "Metadata_compound == 'DMSO'")
        both = [*same, "Metadata_Reference_Index"]
        rules = [both, [], ["Metadata_plate"], both]
    scores = copairs.average_precision(meta, data.X, *rules, progress_bar=False)
    if plates:
        scores = scores.query("Metadata_compound != 'DMSO'")
    with tempfile.TemporaryDirectory() as cache:  # its null is computed, not read
        return copairs.mean_average_precision(
            scores,
            same,
            null_size=NULL,
            threshold=0.05,
            seed=0,
            progress_bar=False,
            cache_dir=cache,
        ).set_index("Metadata_compound")


def ours(plates: bool) -> Callable[[], Any]:
    data = profiles()
    return lambda: cf.tl.mean_average_precision(data, **design(plates))


def theirs(plates: bool) -> Callable[[], Any]:
    data = profiles()
    return lambda: by_copairs(data, plates)


def agree() -> None:
    data = profiles(600, 64)
    for plates in (True, False):
        mine = cf.tl.mean_average_precision(data, **design(plates))
        peer = by_copairs(data, plates).reindex(mine.index)
        score = float((mine["map"] - peer["mean_average_precision"]).abs().max())
        pvalue = float((mine["pvalue"] - peer["p_value"]).abs().max())
        print(f"mAP differs from copairs by at most {score:.1e}, p by {pvalue:.1e}")
        assert score < 1e-5
        # Two draws of 10,000.
        assert pvalue < 0.03


JOBS = {
    "mean_average_precision, controls of the plate": lambda: ours(True),
    "copairs, controls of the plate": lambda: theirs(True),
    "mean_average_precision, all pairs": lambda: ours(False),
    "copairs, all pairs": lambda: theirs(False),
}
COMPARISONS = [
    {
        "what": "mean_average_precision over copairs, controls of the plate",
        "ours": "mean_average_precision, controls of the plate",
        "peer": "copairs, controls of the plate",
        "at_least": 10,
    },
    {
        "what": "mean_average_precision over copairs, all pairs",
        "ours": "mean_average_precision, all pairs",
        "peer": "copairs, all pairs",
        "at_least": 50,
    },
]

if __name__ == "__main__":
    if "--job" not in sys.argv:
        agree()
    _measure.main(
        __file__,
        JOBS,
        COMPARISONS,
        slow=("copairs, controls of the plate", "copairs, all pairs"),
        packages=("copairs",),
    )
