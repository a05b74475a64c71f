# ruff: noqa: E501  (paragraphs of a page)
"""Real pairs: sections and compounds that were left out, through `cf.benchmark`."""

from __future__ import annotations

import pandas as pd
from _methods import read

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
**Read as:** joint spaces of several numbers of components side by side find spots of a section that is new
altogether, and compounds that were never seen, where one number of components errs more: fifty were at chance on CDRP-bio
(.48), and on her2st each single number is behind (see below). Part of what compounds share is one axis, activity: see "less first axis". PETRI begins
there, chooses likewise, and is level with it.

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
    return REAL + text + READING if text else ""


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
