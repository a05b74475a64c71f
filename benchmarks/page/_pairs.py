# ruff: noqa: E501  (paragraphs of a page)
"""Real pairs: sections and compounds that were left out, through `cf.benchmark`."""

from __future__ import annotations

import pandas as pd
from _methods import read
from scipy import stats

REAL = """
### Real pairs

`benchmarks/evidence/{her2st,cdrp,jump}.toml`: FOSCTTM, chance .50, mean ± standard deviation over folds (in
brackets their number), which are not independent. **her2st**: spots of sections that were left out, half of each
tile's spots for each modality: as they come, each side less its mean over the section (centred), and with depth and
darkness regressed out of both sides too. How many components are kept is chosen by whole sections that are left
out *of those that were trained on* (`left_out_by="section"`). **CDRP-bio** and **CPJUMP1**: compounds that were left
out in folds, as they come, centred, and less the first principal axis of each side, which is activity.

"""
READING = """
**Read as:** part of what compounds share is one axis, activity: see "less first axis". PETRI begins at the closed
form, chooses likewise, and is level with it.

"""
SIDE_BY_SIDE = """
**Side by side.** Each number of components errs in its own way, and so do two ways to read counts, or images. SharedAxes with all
of these side by side, without the factors of counts, without the patches of images, with the one number that left-out contexts choose, and with
each number alone (`benchmarks/evidence/side_by_side.py`; FOSCTTM, mean over folds; differences with a 95% interval
over folds, which are not independent). That spaces stand side by side was decided on other deals of the same data
(seeds 100 to 119) and on simulated screens of seeds 10 to 14:

"""
#: Of each configuration its name and the ways in which it is asked, by the metric's name.
DATA = {
    "her2st": (
        "her2st",
        {
            "spots": "as they come",
            "spots, centred": "centred",
            "spots, depth and darkness out": "depth and darkness out",
        },
    ),
    "cdrp": (
        "CDRP-bio",
        {
            "alignment": "as they come",
            "alignment, centred": "centred",
            "alignment, less first axis": "less first axis",
        },
    ),
}
DATA["jump"] = ("CPJUMP1", DATA["cdrp"][1])


def pairs() -> str:
    """Markdown of the section."""
    parts = [_table(name, *what) for name, what in DATA.items()]
    text = "\n".join(part for part in parts if part)
    return REAL + text + READING + _side_by_side() if text else ""


def _side_by_side() -> str:
    """Several numbers of components beside one."""
    table = read("side_by_side")
    if table is None:
        return ""
    table["metric"] = table.get("metric", pd.Series(index=table.index, dtype=object))
    table["metric"] = table["metric"].fillna("alignment")
    first = "side by side"
    ways = [first, *dict.fromkeys(way for way in table["way"] if way != first)]
    against = ["one number, chosen", "without factors of counts", "without patches of images"]
    against = [way for way in against if way in ways]
    head = [*ways, *(f"less {way}" for way in against)]
    lines = ["| data | folds | " + " | ".join(head) + " |", "|---|---|" + "---|" * len(head)]
    for name, (title, asked) in DATA.items():
        for metric, words in asked.items():
            part = table[(table["data"] == name) & (table["metric"] == metric)]
            if part.empty:
                continue
            wide = part.pivot_table(index="seed", columns="way", values="foscttm")
            cells = [f"{wide[way].mean():.3f}" if way in wide else "–" for way in ways]
            cells += [_paired(wide[first] - wide[way]) if way in wide else "–" for way in against]
            lines.append(f"| {title}, {words} | {len(wide)} | " + " | ".join(cells) + " |")
    return SIDE_BY_SIDE + "\n".join(lines) + "\n"


def _paired(gain: pd.Series) -> str:
    half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
    return f"{gain.mean():+.3f} ± {half:.3f}"


def _table(name: str, title: str, asked: dict[str, str]) -> str:
    """FOSCTTM of each method, a column for each way of asking."""
    scores = read(f"{name}_scores")
    if scores is None:
        return ""
    of = scores[(scores["score"] == "foscttm") & ~scores["ceiling"] & scores["value"].notna()]
    lines = [
        f"| {title} | corrected | " + " | ".join(asked.values()) + " |",
        "|---|---|" + "---|" * len(asked),
    ]
    for (method, correction), part in of.groupby(["method", "correction"], sort=False):
        cells = [_mean(part.loc[part["metric"] == metric, "value"]) for metric in asked]
        lines.append(f"| {method} | {correction} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(values: pd.Series) -> str:
    return f"{values.mean():.3f} ± {values.std():.3f} ({len(values)})" if len(values) else "–"
