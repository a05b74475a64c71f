# ruff: noqa: E501  (paragraphs of a page)
"""What concepts know, and whether PETRI uses the other modality."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from _learning import RESULTS

TEXT = """\
## Concepts, and what the other modality is used for

`benchmarks/evidence/concepts.py`, a quarter of an hour on one core. Three numbers of the paper (298 multimodal
concepts of PETRI, none of its permuted twin, one of CLIP; their well is harder to predict than from
random ones) are asked here of small data of which the truth is known, or which are real.

"""
SIMULATED = """\
### Simulated screens

`simulated_screen()`, seeds 0 to 2 (the size of the dictionary, 256 concepts of which a cell has 16, was
chosen on seed 100); mean over seeds, in brackets the lowest and the highest. *Multimodal*: active in 10 to
90% of the cells of both modalities. *One meaning*: median correlation over guides of a multimodal
concept's activation in images and in expression. *Matching*: correlation over guides with the twelve
factors that both modalities share, each factor with a concept of its own (chance: guides permuted), and
with those that only one of them has.

"""
GAIN = """
### Hidden droplets

PETRI (`preset="small"`, two epochs, 16-pixel crops) on screens of strong effects that both
modalities share entirely, seeds 0 to 2: patches with bright droplets are hidden and rebuilt, with no
expression, with cells of the own perturbation, of a random one, and of those that have the least and the
most light in the channel (*emptying*, *filling*). Share of the loss without expression that is gained, by
seed; and how much brighter the holes are filled than with the own expression (grey levels).

"""
TISSUE = """
### Tissue: her2st

Joint space of 732 spots that knows tiles of nine spots and no pairs, 64 concepts, three seeds. A concept
belongs to the compartment whose markers (a dozen each, written down before) its expression is richest in,
at a false discovery rate of 5%. *Same spot*: correlation of the concept's activation in the image of a spot
with that in the spot's own expression, which no model saw; *markers*: with the mean of the compartment's
markers in the spot's expression. Sizes were set beforehand.

"""
ONE = """
### One modality: ECCITE-seq, PERISCOPE

Perturbations with at least one concept that differs from the controls (q < .05), by seed of the
dictionary; beside them the same with labels permuted. Genes that are targets themselves are left out of
ECCITE-seq's expression.

"""


def concepts() -> str:
    """Markdown of the section."""
    parts: dict[str, Callable[[pd.DataFrame], str]] = {
        "simulated": _simulated, "gain": _gain, "her2st": _tissue,
    }  # fmt: skip
    text = TEXT
    for name, write in parts.items():
        file = RESULTS / f"concepts_{name}.csv"
        text += write(pd.read_csv(file)) if file.exists() else f"`{file.name}` is missing.\n"
    return text + _one_modality()


def _range(values: pd.Series, digits: int = 2) -> str:
    values = values.dropna()
    if not len(values):
        return "–"
    return f"{values.mean():.{digits}f} [{values.min():.{digits}f}, {values.max():.{digits}f}]"


def _rows(head: str, rows: list[list[str]]) -> str:
    lines = [head, "|---" * head.count(" | ") + "|---|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def _simulated(table: pd.DataFrame) -> str:
    rows = []
    for method, part in table.groupby("method", sort=False):
        chance = part["matching_shared_chance"].mean()
        rows.append([
            str(method).replace("@", ", "), _range(part["n_multimodal"], 0),
            _range(part["agreement"]), f"{_range(part['matching_shared'])} ({chance:.2f})",
            f"{_range(part['matching_private'])}", _range(part["accuracy_image"]),
            _range(part["accuracy_random_image"]),
        ])  # fmt: skip
    head = (
        "| embedding | multimodal | one meaning | matching, shared (chance) | matching, private "
        "| well from multimodal | well from random |"
    )
    own = table[table["method"] == "SharedAxes"].set_index("seed")
    twin = table[table["method"] == "SharedAxes@permuted"].set_index("seed")
    less = (own["accuracy_image"] < own["accuracy_random_image"]).sum()
    reading = (
        "\n**Read as:** the number of multimodal concepts tells a method from its permuted twin "
        f"here hardly ({own['n_multimodal'].mean():.0f} against {twin['n_multimodal'].mean():.0f}): "
        "a centred embedding has directions that cells of both modalities lie along, whether they "
        "mean the same or not. What the concept means in either does tell them apart (*one "
        f"meaning*). Multimodal concepts know the well less than random ones on {less} of "
        f"{len(own)} seeds of SharedAxes: the paper's finding is not found. They are active in "
        "more cells than random ones, which may be why. The twin's know it more than the method's. "
        "CLIP, whose modalities lie apart, has concepts that mean one thing, and they differ in "
        "number by seed.\n"
    )
    return SIMULATED + _rows(head, rows) + reading


def _gain(table: pd.DataFrame) -> str:
    table = table[table["channel"] == "droplets"]
    rows = []
    for permuted, name in ((False, "PETRI"), (True, "permuted twin")):
        for arm, against in (
            ("own", "none"), ("random", "none"), ("emptying", "none"), ("filling", "none"),
            ("own", "random"),
        ):  # fmt: skip
            part = table[
                (table["permuted"] == permuted)
                & (table["arm"] == arm)
                & (table["against"] == against)
            ]
            p = ", ".join("< .001" if v < 0.001 else f"{v:.3f}" for v in part["pvalue_contexts"])
            light = part["brighter_than_own"].dropna()
            rows.append([
                name, f"{arm}, against {against}",
                ", ".join(f"{v:+.1%}" for v in part["relative"]), p,
                ", ".join(f"{v:+.1f}" for v in light) or "–",
            ])  # fmt: skip
    head = "| model | expression | gain | p over perturbations | brighter than with own |"
    return GAIN + _rows(head, rows) + _read_gain(table)


def _read_gain(table: pd.DataFrame) -> str:
    def light(arm: str, permuted: bool) -> np.ndarray:
        which = (table["arm"] == arm) & (table["permuted"] == permuted)
        return table.loc[which, "brighter_than_own"].to_numpy(float)

    n = int((light("emptying", False) < 0).sum())
    m = int((light("filling", False) > 0).sum())
    own = table[(table["arm"] == "own") & (table["against"] == "random") & ~table["permuted"]]
    clear = int((own["pvalue_contexts"] < 0.05).sum())
    largest = max(np.abs(light(arm, True)).max() for arm in ("emptying", "filling"))
    return (
        "\n**Read as:** expression of another perturbation changes what is drawn into the hole, "
        f"and in the right direction: darker with that of the emptying one on {n} of {len(own)} "
        f"seeds, brighter with that of the filling one on {m}; the twin changes it by {largest:.1f} "
        "at most. Most of what the own expression gains, any expression gains, and the rest is "
        f"clear over perturbations on {clear} of {len(own)} seeds.\n"
    )


def _tissue(table: pd.DataFrame) -> str:
    rows = []
    for permuted in (False, True):
        for kind in ("tumour", "immune", "stroma", "none"):
            part = table[(table["permuted"] == permuted) & (table["compartment"] == kind)]
            best = part.nlargest(1, "score")
            genes = str(best["genes"].iloc[0]) if len(best) and kind != "none" else "–"
            rows.append([
                "permuted" if permuted else "tiles", kind, str(len(part)),
                f"{part['pairs'].mean():+.2f}",
                "–" if kind == "none" else f"{part['pairs_markers'].mean():+.2f}", genes,
            ])  # fmt: skip
    head = "| contexts | compartment | concepts | same spot | markers | genes of the clearest |"
    own, twin = (table[table["permuted"] == permuted] for permuted in (False, True))

    def share(part: pd.DataFrame, column: str = "compartment") -> str:
        return f"{(part[column] != 'none').mean():.0%}"

    reading = (
        f"\n**Read as:** by their genes {share(own)} of the concepts belong to a compartment "
        f"({share(own, 'compartment_shuffled')} when their activations are dealt to other spots), "
        f"and {share(twin)} of the permuted twin's: expression alone gives them, as it should. What "
        "the tiles add is little: a concept's activation in a spot's image goes with that in its "
        f"expression at a mean correlation of {own['pairs'].mean():.2f} ({twin['pairs'].mean():.2f} "
        "in the twin), and hardly with the markers of its compartment. Crops of a concept that is "
        "named by its genes do not show the compartment here.\n"
    )
    return TISSUE + _rows(head, rows) + reading


def _one_modality() -> str:
    rows = []
    for name, label in (("eccite", "ECCITE-seq"), ("periscope", "PERISCOPE, 185 cells")):
        file = RESULTS / f"concepts_{name}.csv"
        if not file.exists():
            continue
        table = pd.read_csv(file)
        cells = [
            ", ".join(map(str, table.loc[table["permuted"] == permuted, "n_with_a_concept"]))
            for permuted in (False, True)
        ]
        own = table[~table["permuted"]]["perturbations"].dropna().str.split()
        always = sorted(set.intersection(*map(set, own))) if len(own) else []
        found = " ".join(always) if len(own) == (~table["permuted"]).sum() else "none"
        rows.append([label, str(int(table["n_perturbations"].iloc[0])), *cells, found])
    head = "| data | perturbations | with a concept | permuted | on every seed |"
    return (ONE + _rows(head, rows)) if rows else ""
