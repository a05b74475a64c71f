"""Write the pages of results and performance, and their figures, from what the benchmarks left.

    python benchmarks/page/make_results_page.py

Every number on the page comes from a file there; a part whose file is missing says so.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from _beyond_memory import beyond_memory
from _concepts import concepts
from _faults import faults
from _landing import landing
from _learning import learning
from _methods import EVIDENCE, TIMES, alignment, semi_clipped
from _phenoseq_tide import curves, phenoseq, tide
from _summary import summary
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
FIGURES = DOCS / "figures"
WHITENINGS = {"zca": "ZCA each", "joint": "joint", "pca": "PCA each", "none": "none"}
COLOURS = {
    "PETRI": "#0072B2",
    "PETRI permuted": "#56B4E9",
    "PETRI Image + Omics": "#009E73",
    "ViT + TrP MAE": "#E69F00",
    "PCA": "#CC79A7",
    "untrained": "#999999",
    "truth": "#000000",
}
#: Benchmarks with a table of sides and one of targets.
SPEED = (
    "preprocessing", "normalisation", "scores", "recall", "precision", "discovery", "crops",
    "gct", "fingerprints", "phenoseq_sampling", "phenoseq_training", "ssl_steps",
    "model_steps", "concepts", "benchmark",
)  # fmt: skip
#: What is to be said of a benchmark's figures.
NOTES = {
    "model_steps": "Of PETRI's step, what is not a product is GELU and layer norm, Python and the "
    "augmentation. On the CPU that this was measured on, bf16 takes less for the other products "
    "and more for the backward pass of attention, longer in all: float32 stays the default "
    "without a GPU. "
    "A step of PhenoSeq or Semi-Clipped has few products; the rest is Python, many small "
    "operations and the optimiser, which larger batches and sizes spread.\n",
}
METRICS = {"tpr": "TPR at 5% FPR", "auc": "AUC", "guide_consistency": "consistent targets"}


def interval(values: pd.Series) -> tuple[float, float]:
    """Mean and half width of the 95% t interval over seeds."""
    values = values.dropna()
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else np.nan
    return (float(values.mean()) if len(values) else np.nan), float(half)


def cell(values: pd.Series) -> str:
    """Mean and interval as text."""
    mean, half = interval(values)
    return "" if np.isnan(mean) else f"{mean:.2f} ± {half:.2f}" if half == half else f"{mean:.2f}"


def table(frame: pd.DataFrame) -> str:
    """Markdown table of strings."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * frame.shape[1]]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in frame.to_numpy()]
    return "\n".join(lines) + "\n"


def paired(frame: pd.DataFrame, a: dict, b: dict, metric: str) -> str:
    """Difference of two rows of the table over the same seeds, with its interval."""

    def pick(where: dict) -> pd.Series:
        keep = np.logical_and.reduce([frame[k] == v for k, v in where.items()])
        return frame[keep].set_index("seed")[metric]

    difference = (pick(a) - pick(b)).dropna()
    mean, half = interval(difference)
    if len(difference) < 2:
        return f"{mean:+.3f} (one seed)" if len(difference) else ""
    verdict = "no difference shown" if not abs(mean) > half else "ahead" if mean > 0 else "behind"
    return f"{mean:+.3f} ± {half:.3f} ({verdict}, {len(difference)} seeds)"


# -- simulated screens -----------------------------------------------------------------------------


def simulated() -> str:
    """PETRI and its baselines against the truth."""
    path = EVIDENCE / "simulated.csv"
    if not path.exists():
        return "Not measured in this checkout.\n"
    frame = pd.read_csv(path)
    n_seeds, n_steps = frame["seed"].nunique(), int(frame["steps"].iloc[0])
    text = [
        f"`cf.datasets.simulated_screen(cells_per_guide=100)`, otherwise at its defaults, "
        f"{n_seeds} of 5 seeds (screen and model change together); every "
        f"model has the `small` preset and {n_steps:,} steps of 4 "
        "documents. "
        "± is the half width of a 95% t interval over seeds. Chance is .05 for the true positive "
        "rate at 5% false positives. *truth* are the simulated effects themselves, the ceiling; "
        "*untrained* is PETRI's network with its weights as drawn, the floor; *PCA* are 50 "
        "components of log counts, and of pixels.\n",
        _main_table(frame),
        "### Claim (a): averaging PETRI's modalities against averaging two separate models\n",
        _claim_a(frame),
        "![Average profile by whitening](figures/whitening.png)\n",
        "### Claim (b): matched against permuted training\n",
        _claim_b(frame),
        "![Alignment of the modalities](figures/alignment.png)\n",
        _more_alignment(),
        alignment(table),
    ]
    _draw_whitening(frame)
    _draw_alignment(frame)
    return "\n".join(text)


def _main_table(frame: pd.DataFrame) -> str:
    rows = []
    order = [
        ("PCA", "rna"),
        ("TrP MAE", "rna"),
        ("PETRI Omics", "rna"),
        ("PETRI", "rna"),
        ("PCA", "image"),
        ("ViT MAE", "image"),
        ("PETRI Image", "image"),
        ("PETRI", "image"),
        ("ViT + TrP MAE", "concatenation"),
        ("ViT + TrP MAE", "mean cosine"),
        ("ViT + TrP MAE", "max cosine"),
        ("ViT + TrP MAE", "average"),
        ("PETRI Image + Omics", "average"),
        ("PCA", "average"),
        ("PCA", "concatenation"),
        ("PETRI permuted", "average"),
        ("PETRI", "average"),
        ("PETRI", "concatenation"),
        ("untrained", "average"),
        ("untrained", "concatenation"),
        ("truth", "average"),
    ]
    for method, profile in order:
        part = frame[
            (frame["method"] == method)
            & (frame["profile"] == profile)
            & (frame["whitening"] == "zca")
        ]
        if len(part):
            rows.append([method, profile, *(cell(part[metric]) for metric in METRICS)])
    return "After robust centre scaling and ZCA of each modality:\n\n" + table(
        pd.DataFrame(rows, columns=["method", "profile", *METRICS.values()])
    )


def _claim_a(frame: pd.DataFrame) -> str:
    lines = ["Difference of the averages, PETRI minus the other, paired by seed:\n"]
    rows = []
    for whitening, label in WHITENINGS.items():
        for other in ("ViT + TrP MAE", "PETRI permuted", "untrained"):
            mine = {"method": "PETRI", "profile": "average", "whitening": whitening}
            theirs = {**mine, "method": other}
            rows.append([label, other, *(paired(frame, mine, theirs, m) for m in ("tpr", "auc"))])
    lines.append(table(pd.DataFrame(rows, columns=["whitening", "PETRI minus", "TPR", "AUC"])))
    return "\n".join(lines)


def _claim_b(frame: pd.DataFrame) -> str:
    rows = []
    for whitening in ("none", "zca"):
        for method in ("PETRI", "PETRI permuted", "ViT + TrP MAE", "untrained", "truth"):
            part = frame[
                (frame["method"] == method)
                & (frame["profile"] == "average")
                & (frame["whitening"] == whitening)
            ]
            if len(part):
                gap = part["cosine_own"] - part["cosine_other"]
                rows.append(
                    [
                        WHITENINGS[whitening],
                        method,
                        cell3(part["cosine_own"]),
                        cell3(part["cosine_other"]),
                        cell3(gap),
                        cell3(part["own_is_nearest"]),
                    ]
                )
    chance = frame["chance_nearest"].dropna().mean()
    columns = ["whitening", "method", "cosine, own", "cosine, others", "gap", "own is nearest"]
    return (
        "Guide profiles of the encoders (before the set transformer): cosine of a guide's image "
        "and RNA profile, of its image profile and other guides' RNA profiles, and how often its "
        f"nearest profile in the other modality is its own (chance {chance:.4f}).\n\n"
        + table(pd.DataFrame(rows, columns=columns))
    )


def cell3(values: pd.Series) -> str:
    """Three digits."""
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}" if half == half else f"{mean:.3f}"


def _more_alignment() -> str:
    """Longer training and a larger shared effect, where they were run."""
    parts = []
    for path in sorted(EVIDENCE.glob("simulated_*.csv")):
        frame = pd.read_csv(path)
        head = f"shared share {frame['shared'].iloc[0]:g}, {int(frame['steps'].iloc[0]):,} steps"
        parts.append(f"#### {head}\n\n" + _claim_b(frame))
    return "\n".join(parts)


def _draw_whitening(frame: pd.DataFrame) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    methods = [m for m in COLOURS if m in set(frame["method"])]
    width = 0.8 / len(methods)
    for axis, (metric, label) in zip(axes, METRICS.items(), strict=True):
        for number, method in enumerate(methods):
            for place, whitening in enumerate(("zca", "joint", "pca")):
                part = frame[
                    (frame["method"] == method)
                    & (frame["whitening"] == whitening)
                    & (frame["profile"] == "average")
                ]
                mean, half = interval(part[metric])
                x = place + (number - len(methods) / 2 + 0.5) * width
                axis.errorbar(x, mean, half, fmt="none", ecolor=COLOURS[method], alpha=0.7)
                axis.plot(x, mean, "o", color=COLOURS[method], label=method if place == 0 else None)
        axis.set_xticks(range(3), ["ZCA each", "joint", "PCA each"])
        axis.set_ylabel(label)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(FIGURES / "whitening.png", dpi=150)
    plt.close(figure)


def _draw_alignment(frame: pd.DataFrame) -> None:
    methods = ["PETRI", "PETRI permuted", "ViT + TrP MAE", "untrained"]
    part = frame[(frame["profile"] == "average") & (frame["whitening"] == "zca")]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, metric, label in (
        (axes[0], "cosine_own", "cosine of a guide's image\nand RNA profile"),
        (axes[1], "own_is_nearest", "own profile is nearest\nin the other modality"),
    ):
        for place, method in enumerate(m for m in methods if m in set(part["method"])):
            values = part.loc[part["method"] == method, metric]
            axis.plot([place] * len(values), values, "o", color=COLOURS[method], alpha=0.5)
            mean, half = interval(values)
            axis.errorbar(place, mean, half, fmt="_k", ms=18, capsize=4)
        axis.set_xticks(range(len(methods)), [m.replace(" ", "\n", 1) for m in methods])
        floor = 0 if metric == "cosine_own" else part["chance_nearest"].mean()
        axis.axhline(floor, color="0.6", lw=1, ls="--", label="chance")
        axis.set_ylabel(label)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(FIGURES / "alignment.png", dpi=150)
    plt.close(figure)


# -- real data -------------------------------------------------------------------------------------


def real(name: str, intro: str) -> str:
    """One real data set."""
    path = EVIDENCE / f"real_{name}.csv"
    if not path.exists():
        return "Not measured in this checkout.\n"
    frame = pd.read_csv(path)
    rows = []
    for (method, profile, whitening), part in frame.groupby(
        ["method", "profile", "whitening"], sort=False
    ):
        rows.append(
            [
                method,
                profile,
                WHITENINGS[whitening],
                int(part["n_targets"].iloc[0]),
                cell(part["share_significant"]),
                cell(part["share_p_below_.05"]),
                cell3(part["mean_similarity"]),
                cell3(part["null_similarity"]),
                len(part),
            ]
        )
    columns = ["method", "profile", "whitening", "targets", "significant (q < .05)"]
    columns += ["p < .05", "similarity", "null", "seeds"]
    return intro + "\n\n" + table(pd.DataFrame(rows, columns=columns))


# -- speed -----------------------------------------------------------------------------------------


def speed() -> str:
    """Tables of the benchmarks."""
    text = []
    for name in SPEED:
        path = TIMES / f"{name}.json"
        if not path.exists():
            text.append(f"`benchmarks/speed/{name}.py`: not measured in this checkout.\n")
            continue
        found = json.loads(path.read_text())
        sides = [
            [
                side,
                f"{v['seconds']:.{2 if v['seconds'] >= 0.2 else 3}f}",
                f"{v['peak_mb']:,.0f}" if "peak_mb" in v else "",
            ]
            for side, v in found.get("sides", {}).items()
        ]
        text.append(
            f"`python benchmarks/speed/{name}.py` (medians, {found.get('cores', 2)} cores, "
            f"load {found['load']:.1f}):\n"
        )
        if sides:
            text.append(table(pd.DataFrame(sides, columns=["what", "seconds", "peak MB"])))
        targets = [
            [t["what"], f"{t['found']:.2f}", t["target"], "yes" if t["met"] else "**no**"]
            for t in found["targets"]
        ]
        text.append(table(pd.DataFrame(targets, columns=["what", "found", "target", "met"])))
        if name in NOTES:
            text.append(NOTES[name])
    text.append(curves(table, cell3))
    path = TIMES / "documents.json"
    if path.exists():
        text.append(_documents(json.loads(path.read_text())))
    text += beyond_memory(table)
    path = TIMES / "store.json"
    if path.exists():
        text.append(_store(json.loads(path.read_text())))
    path = TIMES / "imports.json"
    if path.exists():
        rows = json.loads(path.read_text())["rows"]
        lines = [
            [r["import"], f"{r['wall_seconds'][1]:.2f}", f"{r['extra_wall_seconds'][1]:+.2f}"]
            for r in rows
        ]
        text.append("`python benchmarks/speed/imports.py`:\n")
        columns = ["import", "seconds", "more than `anndata, mudata`"]
        text.append(table(pd.DataFrame(lines, columns=columns)))
    return "\n".join(text)


def _documents(found: dict) -> str:
    rows = [
        [label, f"{1000 * v['seconds']:.1f}", f"{100 * v['share_of_step']:.1f}%"]
        for label, v in found.items()
        if isinstance(v, dict) and "share_of_step" in v
    ]
    step = 1000 * found["step_seconds"]
    text = [
        "`python benchmarks/speed/documents.py`: planning, reading and making dense one batch of "
        f"the small preset (8 documents of 16 + 16 cells), against its training step "
        f"({step:.0f} ms):\n",
        table(pd.DataFrame(rows, columns=["crops lie", "ms", "share of a step"])),
    ]
    if "large" in found:
        large = found["large"]
        text.append(
            "100,000 contexts over 10 million cells of each modality: "
            f"{large['contexts_seconds']:.1f} s to group them, "
            f"{large['epoch_seconds']:.1f} s for the indices of an epoch of "
            f"{large['documents']:,} documents.\n"
        )
    return "\n".join(text)


def _store(found: dict) -> str:
    ways = [
        [way, f"{v['cells_per_cpu_second']:,.0f}", f"{v['cells_decoded_per_cell']:.2f}"]
        for way, v in found.items()
        if isinstance(v, dict) and "cells_decoded_per_cell" in v
    ]
    chunks = [
        [f"one chunk: {way}", f"{rate:,.0f}", ""]
        for way, rate in found["cells_of_a_chunk_per_cpu_second"].items()
    ]
    columns = ["crops, cold", "cells per second of processor time", "cells decoded for one used"]
    return (
        f"`python benchmarks/speed/store.py`: {found['cells']:,} crops of 4 x 48 x 48, read by "
        "document from a store of `write_store` and from the shuffled zarr array it was made of "
        f"(load {found['load']:.1f}, so by processor time); decompression is the bound:\n\n"
        + table(pd.DataFrame(ways + chunks, columns=columns))
    )


JUMP = (
    "`jump_target1.h5mu`: 300 compounds in Cell Painting (U2OS, 128 learned features) and in a "
    "secretome assay (A549, 191 proteins), documents by compound, set size 2. Do "
    "compounds with the same annotated target come closer than compounds of "
    "different targets? The question "
    "is `guide_consistency` with compounds in the place of guides; features are centred and scaled "
    "by plate over all wells. Both assays share one plate layout, which any profile can pick up."
)
PAPALEXI = (
    "`papalexi_eccite.h5ad`: cells with one clear guide (`guide_max_frac` above .8), counts of 299 "
    "genes, 25 targets. PETRI Omics and the TrP MAE against PCA on log counts, scaled by the "
    "non-targeting cells of each replicate. About 600 steps."
)
PERISCOPE = (
    "`periscope_crops.h5ad`: 185 HeLa cells of 24 guides, five channels. It shows that the image "
    "path takes real crops; five targets of about eight cells per guide decide nothing. "
    "360 steps."
)


#: Pages below `results/`: what they are called in the overview, and who writes their sections.
OVERVIEW = """\
# Results

As they came out, also where a simple baseline wins. Every number is written by
`benchmarks/page/make_results_page.py` from what the scripts in `benchmarks/` left beside them.
The first table compares every learned method with its closed form; the second, methods on the same
screens. The rest is on the page of each method.

| page | in a sentence |
|---|---|
| [PETRI](results/petri.md) | begun at random: one space on simulated and real screens |
| [PhenoSeq](results/phenoseq.md) | begun at ridge regression, and level with it or ahead |
| [Semi-Clipped](results/semi_clipped.md) | ahead of the usual ridge; PEA helps against batches |
| [TIDE](results/tide.md) | begun at the closed form ahead of image statistics, at random not |
| [Concepts](results/concepts.md) | what a concept means tells more than how many there are |

How long things take, and how much memory, is on the page of {doc}`performance`.

```{toctree}
:hidden:

results/petri
results/phenoseq
results/semi_clipped
results/tide
results/concepts
```
"""
PERFORMANCE = """\
# Speed and memory

Measured by the scripts of `benchmarks/speed`, against the plain way to do the same (a loop, the
reference library), on two cores; *load* is that of the machine meanwhile, shared with other jobs. A
target that was missed says **no**. What to expect of a whole run:

| | on two cores |
|---|---|
| `cf.SharedAxes`, `cf.tl.shared_axes_test` | seconds |
| `cf.PETRI(preset="small")` on 5,000 + 5,000 cells | minutes |
| `cf.pp`, `cf.tl` on 100,000 profiles | seconds |
| `cf.benchmark`: 12 methods, 5 metrics, 3 seeds | below ten minutes, once |

Memory stays flat where arrays lie on a disk ({doc}`user_guide/larger_than_memory`); several devices
are shown in {doc}`user_guide/several_devices`.
"""


def reading(name: str) -> str:
    """What a person wrote below the tables."""
    return (DOCS / f"results_reading{name}.md").read_text()


def pages() -> dict[str, str]:
    """Text of every page by its file; sections are written one level below their page."""
    petri = [
        "## PETRI\n",
        "Up to version 0.1 every model began at random weights; so did all below, but for what "
        "says otherwise.\n",
        "### Begun at random, on simulated screens with enough cells\n",
        simulated(),
        reading(""),
        "### Compounds, image features and secretome\n",
        real("jump", JUMP),
        "### Perturb-seq counts\n",
        real("papalexi", PAPALEXI),
        "### Image crops\n",
        real("periscope", PERISCOPE),
    ]
    below = {
        "petri": petri,
        "phenoseq": ["## PhenoSeq\n", phenoseq(table, cell3), reading("_phenoseq")],
        "semi_clipped": [
            "## Semi-Clipped and PEA\n",
            semi_clipped(table, cell, cell3),
            reading("_semi_clipped"),
        ],
        "tide": ["## TIDE\n", tide(table, cell3), reading("_tide")],
        "concepts": [concepts()],
    }
    found = {f"results/{name}.md": _raised("\n".join(parts)) for name, parts in below.items()}
    found["results.md"] = "\n".join([OVERVIEW, summary(), learning()])
    found["performance.md"] = PERFORMANCE + "\n" + speed() + "\n" + faults()
    return found


def _raised(text: str) -> str:
    """Headings one level up, and figures seen from the folder below."""
    text = re.sub(r"^#(#+ )", r"\1", text, flags=re.M)
    return text.replace("](figures/", "](../figures/")


def readable(text: str) -> str:
    """What was not measured is a dash, and a number keeps its interval on its line."""
    return text.replace("| nan ", "| – ").replace(" ± ", "\u00a0±\u00a0")


def main() -> None:
    """Write the pages and their figures."""
    FIGURES.mkdir(exist_ok=True)
    (DOCS / "results").mkdir(exist_ok=True)
    landing(EVIDENCE / "headroom_table.csv", FIGURES)
    for name, text in pages().items():
        (DOCS / name).write_text(readable(text))
        print(f"wrote docs/{name}")


if __name__ == "__main__":
    main()
