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
**Side by side.** Each number of components errs in its own way. SharedAxes with joint spaces of several numbers
side by side, less the one number that left-out contexts choose, and each number alone
(`benchmarks/evidence/side_by_side.py`; FOSCTTM as they come, mean over folds; the difference with a 95% interval over
folds, which are not independent). That spaces stand side by side was decided on other deals of the same data (seeds
100 to 111) and on simulated screens of seeds 10 to 14:

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
    titles = {name: title for name, (title, _) in DATA.items()}
    ways = list(dict.fromkeys(table["way"]))
    lines = [
        "| data | folds | " + " | ".join(ways) + " | side by side less chosen |",
        "|---|---|" + "---|" * (len(ways) + 1),
    ]
    for name, part in table.groupby("data", sort=False):
        wide = part.pivot_table(index="seed", columns="way", values="foscttm")
        gain = wide["side by side"] - wide["one number, chosen"]
        half = stats.t.ppf(0.975, len(gain) - 1) * gain.std(ddof=1) / len(gain) ** 0.5
        cells = [f"{wide[way].mean():.3f}" for way in ways]
        lines.append(
            f"| {titles[str(name)]} | {len(gain)} | "
            + " | ".join(cells)
            + f" | {gain.mean():+.3f} ± {half:.3f} |"
        )
    return SIDE_BY_SIDE + "\n".join(lines) + "\n"


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
