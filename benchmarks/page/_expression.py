# ruff: noqa: E501  (paragraphs of a page)
"""Expression alone: guide consistency and known pairs, and how much of what can be learnt is learnt."""

from __future__ import annotations

import pandas as pd
from _methods import read

SCREENS = """
### Expression alone

`benchmarks/evidence/{expression_headroom,expression_enough_cells}.toml`: the same simulated screens, five seeds.
ECCITE-seq (`eccite.toml`): 16,093 THP-1 cells, 299 genes, 25 targets, for which no pairs are known. The joint space
comes without whitening; its evening of strong axes was set with ECCITE-seq in view (and on seeds 10 and 11), so that
that screen is no test of it.

"""
LEARNT = """
### What the encoders learn

`benchmarks/evidence/learnable.py`: share of the learnable likelihood (expression) and of the learnable variance
(images) of hidden tokens, on cells of held-out guides of screens with enough cells: 0 is a constant, 1 a linear
autoencoder in closed form (principal components of what is visible, regression of what is hidden). Begun at it
and at random, small preset, on one thread of a busy machine; {seeds}.

"""


def expression() -> str:
    """Markdown of both sections."""
    return _screens() + _learnt()


def _screens() -> str:
    rows = []
    for name, title in (
        ("expression_headroom", "headroom"),
        ("expression_enough_cells", "enough cells"),
        ("eccite", "ECCITE-seq"),
    ):
        table = read(f"{name}_table")
        if table is None:
            continue
        for _, row in table[table["view"] == "rna"].iterrows():
            cells = [
                _range(row, score) for score in ("guide_consistency", "edges_tpr", "edges_auc")
            ]
            rows.append(
                f"| {title} | {row['method']} | {row['correction']} | " + " | ".join(cells) + " |"
            )
    if not rows:
        return ""
    head = "| screen | method | corrected | consistent targets | known pairs, TPR | AUC |\n|---|---|---|---|---|---|\n"
    return SCREENS + head + "\n".join(rows) + "\n"


def _range(row: pd.Series, score: str) -> str:
    value = row.get(score)
    if value is None or pd.isna(value):
        return "–"
    return f"{value:.2f} [{row[f'{score}_low']:.2f}, {row[f'{score}_high']:.2f}]"


def _learnt() -> str:
    table = read("learnable")
    if table is None:
        return ""
    seconds = sorted(table["seconds"].unique())
    head = "| modality | begun | " + " | ".join(f"after {s:.0f} s" for s in seconds) + " |\n"
    head += "|---" * (2 + len(seconds)) + "|\n"
    rows = []
    for (role, begin), part in table.groupby(["role", "begin"], sort=False):
        cells = []
        for s in seconds:
            share = part.loc[part["seconds"] == s, "share"]
            span = f" [{share.min():.2f}, {share.max():.2f}]" if len(share) > 1 else ""
            cells.append(f"{share.mean():.2f}{span}")
        rows.append(f"| {role} | {begin} | " + " | ".join(cells) + " |")
    n = table["seed"].nunique()
    text = LEARNT.format(seeds="one seed" if n == 1 else f"mean and range of {n} seeds")
    return text + head + "\n".join(rows) + "\n"
