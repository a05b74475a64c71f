"""Parts of the results page for the methods after PETRI; called by `make_results_page.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd

BENCHMARKS = Path(__file__).resolve().parents[1]
#: What `speed/` and `evidence/` left.
TIMES, EVIDENCE = (BENCHMARKS / room / "results" for room in ("speed", "evidence"))
Cell = Callable[[pd.Series], str]
Table = Callable[[pd.DataFrame], str]
NONE = "Not measured in this checkout.\n"


def read(name: str, *, folder: Path = EVIDENCE) -> pd.DataFrame | None:
    path = folder / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else None


def by_seed(name: str, score: str, view: str, *, metric: str | None = None) -> pd.DataFrame | None:
    """A score of one of `run.py`'s configurations, by seed and method, without the ceilings.

    `metric` tells several of one score apart; None takes the one that has the score.
    """
    scores = read(f"{name}_scores")
    if scores is None:
        return None
    of = scores[(scores["score"] == score) & (scores["view"] == view) & ~scores["ceiling"]]
    # Under one correction each: a joint space has none, the others are whitened by the controls.
    of = of[of["correction"] != "rcc"]
    metrics = of["metric"].unique()
    if metric is None and len(metrics) > 1:
        metric = str(metrics[0])  # as it comes: what is taken out stands behind it
    of = of if metric is None else of[of["metric"] == metric]
    return of.pivot_table(index="seed", columns="method", values="value")


def pivot(frame: pd.DataFrame, by: list[str], columns: dict[str, str], cell: Cell) -> pd.DataFrame:
    """One row per group, each number as mean and interval over seeds."""
    rows = []
    for key, part in frame.groupby(by, sort=False):
        rows.append([*key, *(cell(part[c].astype(float)) for c in columns)])
    return pd.DataFrame(rows, columns=[*by, *columns.values()])


def alignment(table: Table) -> str:
    """What moves the alignment of PETRI's modalities, one change at a time."""
    frame = read("alignment")
    if frame is None:
        return ""
    rows = [
        [
            row["setting"],
            "permuted" if row["permuted"] else "matched",
            f"{row['gap_none']:+.3f}",
            f"{row['gap_zca']:+.3f}",
            f"{row['nearest_none']:.3f}",
            f"{100 * row['image_gain']:.2f} ± {196 * row['image_gain_se']:.2f}",
            f"{100 * row['rna_gain']:.3f} ± {196 * row['rna_gain_se']:.3f}",
        ]
        for _, row in frame.iterrows()
    ]
    columns = ["setting", "contexts", "gap", "gap after ZCA", "own is nearest"]
    columns += ["image loss saved, %", "RNA loss saved, %"]
    return (
        "One change at a time on seed 0. *Saved* is by how much hidden tokens are predicted better "
        "when the document holds the other modality too (± 1.96 standard errors over cells): what "
        "the model reads across. `python benchmarks/evidence/alignment.py run`.\n\n"
        + table(pd.DataFrame(rows, columns=columns))
    )


def semi_clipped(table: Table, cell: Cell, cell3: Cell) -> str:
    """Semi-Clipped on CPJUMP1 and on a simulated drug screen."""
    text = []
    frame = read("semi_clipped_jump")
    text.append("### Secretome learns from images (CPJUMP1)\n")
    if frame is None:
        text.append(NONE)
    else:
        columns = {
            "mrr": "MRR",
            "top5": "top 5",
            "foscttm": "FOSCTTM",
            "similarity_over_null": "similarity of a target over null",
            "share_p_below_.05": "targets with p < .05",
            "similar_to_images": "like the images",
            "similar_to_phenotype_A549": "like phenotypes, A549",
            "similar_to_phenotype_U2OS": "like phenotypes, U2OS",
        }
        chance = frame["mrr_chance"].dropna().mean()
        text.append(
            f"{frame['seed'].nunique()} seeds, five folds of compounds each; every embedding "
            "comes from a model that did not see the compound. Retrieval: a held-out compound's "
            f"secretome among the images of its fold's 60 (MRR {chance:.3f} by chance, top 5 .083, "
            "FOSCTTM .5). *Like the images, like phenotypes*: rank correlation of the compounds' "
            "similarities with those in the image features, and in a data set not trained on "
            "(single-cell phenotypes of both cell lines). *Position alone* knows row and column of "
            "the well and nothing else; all plates share one layout. *Unadapted* is "
            "TVN-corrected. Rows but *begun linear* begin at random weights.\n"
        )
        text.append(table(pivot(frame, ["method"], columns, cell3)))
    frame = read("semi_clipped_simulated")
    text.append("### Batch correction as augmentation (simulated drug screen)\n")
    if frame is None:
        text.append(NONE)
        return "\n".join(text)
    text.append(
        f"{frame['seed'].nunique()} seeds: 120 compounds, eight plates that shift, scale and tilt "
        "the embeddings, 24 controls per plate; three plates and a quarter of the compounds held "
        "out. MRR of one well of a held-out plate among the mean images of the group's compounds "
        "(chance "
        + ", ".join(
            f"{part['mrr_chance'].mean():.2f} for {group}"
            for group, part in frame.groupby("group", sort=False)
        )
        + "). Rows: operations that training drew from, and the correction at inference.\n"
    )
    wide = frame.pivot_table(
        index=["operations", "inference", "seed"], columns="group", values="mrr", sort=False
    ).reset_index()
    groups = {g: g for g in frame["group"].unique()}
    text.append(table(pivot(wide, ["operations", "inference"], groups, cell)))
    return "\n".join(text)
