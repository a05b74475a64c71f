# ruff: noqa: E501  (paragraphs of a page)
"""Real pairs: sections and compounds that were left out, and two data sets through `cf.benchmark`."""

from __future__ import annotations

import pandas as pd
from _methods import read

REAL = """
### Real pairs

`benchmarks/evidence/real_pairs.py`: FOSCTTM, chance .50. her2st: spots of sections that were left
out, half of each tile's spots for each modality: as they come (raw), each side less its mean over the
section (centred), and with depth and darkness regressed out of both sides too (out). CDRP-bio and CPJUMP1:
compounds that were left out, as they come, centred, and less the first principal axis of each side, which is
activity (less first). Mean ± standard deviation over folds and splits (in brackets their number), which are
not independent. How many components are kept was chosen by what is left out *of the sections (or compounds)
that were trained on*: whole sections (`left_out_by="section"`), compounds.

"""
READING = """
**Read as:** with a profile or two of each compound the closed form finds compounds that it never saw once it keeps
few components: with fifty it was at chance on CDRP-bio (.48). Part of that is one axis, activity: see "less
first". (PETRI on CPJUMP1: below, through `cf.benchmark`.) On a tissue section that is new altogether what was left out to choose the components matters: tiles of
the sections that were seen kept fifty of them (.355 as they come), whole sections keep fewer. PETRI, which
chooses likewise, is level with the closed form.

"""
COMPOUNDS = """
The same data through `cf.benchmark` (`cdrp.toml`, `jump.toml`: five seeds, a fifth of the compounds held out, a
fifth of 120 is 24 and of 300 is 60):

"""


def pairs() -> str:
    """Markdown of the section."""
    table = read("real_pairs")
    return ("" if table is None else _left_out(table) + READING) + _compounds()


def _left_out(table: pd.DataFrame) -> str:
    lines = ["| data | what | method | left out | permuted |", "|---|---|---|---|---|"]
    keys = ["data", "what", "method"]
    for (data, what, method), part in table.groupby(keys, sort=False):
        cells = []
        for permuted in (False, True):
            values = part.loc[part["permuted"] == permuted, "foscttm"]
            cells.append(f"{values.mean():.3f} ± {values.std():.3f} ({len(values)})")
        lines.append(f"| {data} | {what} | {method} | {cells[0]} | {cells[1]} |")
    return REAL + "\n".join(lines) + "\n"


def _compounds() -> str:
    rows = []
    for name, title in (("cdrp", "CDRP-bio"), ("jump", "CPJUMP1")):
        table = read(f"{name}_table")
        if table is None:
            continue
        table = table[table["alignment_foscttm"].notna() & (table["method"] != "ceiling")]
        for _, row in table.iterrows():
            cells = [
                f"{row[score]:.2f} [{row[f'{score}_low']:.2f}, {row[f'{score}_high']:.2f}]"
                for score in ("alignment_foscttm", "alignment_gap")
            ]
            rows.append(
                f"| {title} | {row['method']} | {row['correction']} | " + " | ".join(cells) + " |"
            )
    head = "| data | method | corrected | FOSCTTM | gap |\n|---|---|---|---|---|\n"
    return COMPOUNDS + head + "\n".join(rows) + "\n" if rows else ""
