# ruff: noqa: E501  (paragraphs of a page)
"""Simulated screens: methods beside their closed form and permuted twin, and what could be learnt."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from _expression import expression
from _methods import by_seed
from _pairs import pairs

RESULTS = Path(__file__).resolve().parents[1] / "evidence" / "results"

TEXT = """\
## Screens with headroom

Screens with room above plain features: `simulated_screen(n_targets=300, cells_per_guide=12)`, five
seeds (screen and model change together), a fifth of the targets seen by no model
(`benchmarks/evidence/headroom.toml`). Settings of the closed form were chosen on seeds 10 to 13, PETRI's on seed 10. Medians, in
brackets the lowest and the highest seed. *permuted* is the same method on contexts that were dealt at
random: what it reaches needs no correspondence between images and expression. *Known pairs* are pairs
of targets of one complex, TPR at 5% false positives and AUC; *alignment* is of targets that were held
out: share of other guides whose profile in the other modality is closer than the own one (FOSCTTM,
chance .50), and own less others' cosine (gap, chance 0). The ceiling compares two halves of the data,
which have half of the cells each. Joint spaces of 50, 20, 10 and 5 components stand side
by side in SharedAxes and PETRI, or the largest of them where these find guides better that they leave out; and cells
are read twice, counts as logarithms and by factors of their own law, pixels by statistics and by the patches of a
dictionary (but in the rows that say *alone*).

"""
READING = """
**Read as:** whitening within guides, statistics and patches of pixels, logarithms and factors of counts, and shrinkage (`SharedAxes`, half
a minute) find more known pairs than concatenated principal components, and align targets that were
never seen; permuted twins are at chance of alignment. PETRI begins there and weighs what it learnt by
guides that are left out of the closed form (`model.learnt_weight`): **it is level with the closed form,
not ahead of it**: {petri}. In minutes on two cores its latents added nothing to plain features here, and
it said so by a weight of 0, on {weights}.
"""
ENOUGH = """
### With enough cells

`benchmarks/evidence/enough_cells.toml`: 48 targets, a hundred cells of each guide and modality, five seeds, a
fifth of the targets seen by no model; set up as the screens with headroom. *truth* are the simulated effects of the
cells. The 36 held-out guides are of nine targets, so that a permuted twin's FOSCTTM scatters widely around .50. Run
before images were read by patches too, and with any set of numbers of components where it found left-out guides better.

"""
ORACLE = """
### How much is there to learn?

The same closed form on ever better features of the same cells (`benchmarks/evidence/oracle.py`; seeds 10
and 11, on which settings were chosen; held-out targets for FOSCTTM; 300 targets). The network is told what the
simulation drew its pixels from, and *their own law* are the latents at which a cell's counts are most likely,
told the programs, levels, depths and dispersions that they were drawn from: no user can know either, so that what
these win is what *any* encoder could win. The rest, down to the true latents, is the noise of the cells and of their
counts, which no encoder takes away. {reading} Run before joint spaces stood side by side and cells were read twice,
by learnt factors and patches, which is why they are: these rows promised it.
"""
SCORES = (
    "guide_consistency", "edges_tpr", "edges_auc", "alignment_foscttm", "alignment_gap",
)  # fmt: skip
ROWS = [
    ("PCA", "concat"), ("features", "concat"), ("SharedAxes", "average"),
    ("SharedAxes, logarithms of counts alone", "average"),
    ("SharedAxes, statistics of images alone", "average"), ("SharedAxes, shared axes", "average"),
    ("SharedAxes@permuted", "average"), ("PETRI", "average"),
    ("SharedAxes permuted", "average"), ("PETRI@permuted", "average"), ("PETRI permuted", "average"),
    ("PETRI untrained", "average"), ("truth", "average"), ("random", "average"), ("position", "average"),
]  # fmt: skip


def learning() -> str:
    """Markdown of the section."""
    text = TEXT + _screen("headroom")
    text += READING.format(petri=_against_closed_form("headroom"), weights=_weights("headroom"))
    if (RESULTS / "enough_cells_table.csv").exists():
        text += ENOUGH + _screen("enough_cells")
        against = _against_closed_form("enough_cells")
        text += f"\n{against}. Its latents were left out on {_weights('enough_cells')}.\n"
    file = RESULTS / "oracle.csv"
    text += _oracle(pd.read_csv(file)) if file.exists() else ""
    return text + expression() + pairs()


def _screen(name: str) -> str:
    """Table of a screen: both scores of one row come from the views that have them."""
    file = RESULTS / f"{name}_table.csv"
    if not file.exists():
        return f"`{file.name}` is missing.\n"
    table = pd.read_csv(file)
    lines = ["| method | profile | consistent targets | known pairs, TPR | AUC | FOSCTTM | gap |",
             "|---|---|---|---|---|---|---|"]  # fmt: skip
    for method, view in ROWS:
        row = table[(table["method"] == method) & (table["view"] == view)]
        if len(row):
            row = row.iloc[-1]
            cells = [_cell(row, score) for score in SCORES]
            lines.append(f"| {method} | {view} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: pd.Series, score: str) -> str:
    value, low, high = row[score], row.get(f"{score}_low"), row.get(f"{score}_high")
    return "–" if pd.isna(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _against_closed_form(name: str) -> str:
    """PETRI less SharedAxes, by seed, from the scores of single seeds where they are kept."""
    parts = []
    for score, view, title in (("auc", "average", "AUC"), ("foscttm", "both", "FOSCTTM")):
        wide = by_seed(name, score, view)
        if wide is None:
            return "see the table"
        difference = wide["PETRI"] - wide["SharedAxes"]
        half = 2.776 * difference.std() / len(difference) ** 0.5
        parts.append(f"{title} {difference.mean():+.3f} ± {half:.3f}")
    return "PETRI less SharedAxes, paired over five seeds (95% interval): " + ", ".join(parts)


def _weights(name: str) -> str:
    """Seeds on which PETRI left its latents out: its scores are those of the closed form."""
    wide = by_seed(name, "auc", "average")
    if wide is None:
        return "seeds that were not kept"
    same = (wide["PETRI"] - wide["SharedAxes"]).abs() < 1e-4
    return f"{int(same.sum())} of {len(same)} seeds"


def _oracle(table: pd.DataFrame) -> str:
    average = table[table["view"] == "average"]
    text = ""
    for cells, rows in average.groupby("cells"):
        text += f"\n**{cells} cells of each guide**\n\n"
        text += "| features | known pairs, TPR | AUC | FOSCTTM | gap |\n|---|---|---|---|---|\n"
        for method, part in rows.groupby("method", sort=False):
            row = [
                " / ".join(f"{value:.3f}" for value in part[score])
                for score in ("edges_tpr", "edges_auc", "alignment_foscttm", "alignment_gap")
            ]
            text += f"| {method} | " + " | ".join(row) + " |\n"
    return ORACLE.format(reading=_room(average)) + text


def _room(average: pd.DataFrame) -> str:
    """What better features could win, in a sentence for each number of cells."""
    parts = {
        "a network told the true features of the images": "network told the true features",
        "counts read by their own law": "counts read by their own law",
    }
    text = []
    for cells, rows in average.groupby("cells"):
        mean = rows.groupby("method")[["edges_auc", "alignment_foscttm"]].mean()
        won = {
            what: mean.loc[row] - mean.loc["statistics of the images"]
            for what, row in parts.items()
        }
        found = [
            f"{what} {gain['edges_auc']:+.3f} AUC and {gain['alignment_foscttm']:+.3f} FOSCTTM"
            for what, gain in won.items()
        ]
        text.append(f"With {cells} cells of each guide this is, of " + "; of ".join(found) + ".")
    return " ".join(text)
