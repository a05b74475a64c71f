# ruff: noqa: E501  (paragraphs of a page)
"""The page's first table: every learned method beside the closed form that it has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from _methods import by_seed, read
from scipy import stats

TEXT = """\
## Learned or closed form?

A learned method costs minutes to hours and can fail in silence; a closed form costs seconds. So each
stands beside the one that it has to beat, on perturbations (or wells, or plates) that neither was trained
on. *Difference*: learned less closed form, paired over seeds, with a 95% interval over them (seeds change the
screen where it is simulated, and folds and weights where it is real). *Level* means that the interval
holds 0. *Permuted*: the same method where contexts were dealt at random, or where that was not run, what
chance gives. FOSCTTM is better when it is lower (chance .50).

"""
READING = """
**Read as:** where nothing is said, `preset="small"` begins at the closed form, and what is learnt beside it is
kept by as much as held-out contexts are found better with. So a method is level with its closed form (in one row
below it, by less than .01) or
ahead of it, and **ahead of the ridge regression that is usual** (standardised features, means of contexts) on
CPJUMP1: Semi-Clipped on each question, PhenoSeq on held-out plates and compounds; and of expression alone, ahead of principal
components of the counts. **Factors of counts and patches of images, both learnt on the cells, find what logarithms and statistics
alone do not where pixels and counts are real** (first rows; simulated cells hold little that statistics do not); they
are part of `SharedAxes`, and so of PETRI. What networks add *beyond* the closed
form that they begin at is little at the sizes that two cores train on, and they say so (`learnt_weight`). Each
model's guide page says when to prefer the closed form alone; in short: up to some tens of cells per guide,
first.

"""


#: What the last digit of the page tells apart.
SHOWN = 0.0005


@dataclass
class Line:
    """A row of the table: scores by seed of both, and what chance or the permuted twin reaches."""

    method: str
    question: str
    data: str
    score: str
    learned: pd.Series
    closed: pd.Series
    closed_name: str
    null: float
    lower_is_better: bool = False
    unit: str = "seeds"

    def cells(self) -> list[str]:
        """As the page has them."""
        both = pd.concat([self.learned, self.closed], axis=1).dropna().to_numpy()
        difference = both[:, 0] - both[:, 1]
        n = len(difference)
        half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5 if n > 1 else np.nan
        better = -difference.mean() if self.lower_is_better else difference.mean()
        verdict = (
            "level"
            if abs(better) <= half or np.isnan(half)
            else "ahead"
            if better > 0
            else "behind"
        )
        learned, closed = both.mean(axis=0)
        return [
            self.method,
            f"{self.question} ({self.data}, {n} {self.unit[:-1] if n == 1 else self.unit})",
            self.score + (" ↓" if self.lower_is_better else ""),
            f"{learned:.3f}",
            f"{closed:.3f} ({self.closed_name})",
            f"{difference.mean():+.3f} ± {half:.3f}",
            f"{self.null:.3f}",
            f"**{verdict}**" if verdict == "ahead" else verdict,
        ]


def _of(
    name: str, learned: tuple[str, str], closed: tuple[str, str], score: str
) -> tuple[pd.Series, pd.Series] | None:
    """Scores by seed of a learned and of a closed method, each (method, view), where both ran."""
    found = []
    for method, view in (learned, closed):
        wide = by_seed(name, score, view)
        if wide is None or method not in wide:
            return None
        found.append(wide[method])
    return found[0], found[1]


def _twin(name: str, method: str, view: str, column: str) -> float:
    """What the permuted twin of a method reaches, from the table."""
    table = read(f"{name}_table")
    assert table is not None  # it lies beside the scores
    twins = table["method"].isin([f"{method}@permuted", f"{method} permuted"])
    # Scores of both modalities stand in the row of the fused view.
    here = table["view"].isin([view, "average"])
    return float(table.loc[twins & here, column].dropna().iloc[-1])


def _second(what: str, alone: str) -> Iterator[Line]:
    """Cells read a second time by what is learnt of them, in the same closed form without it."""
    method, closed = f"SharedAxes, {what}", f"SharedAxes, {alone} alone"
    less = f"{alone} alone"
    unseen = "{} that were never seen, across modalities"
    asked = {
        "consistent": ("share of targets", "guides of a target agree", "guide_consistency"),
        "auc": ("AUC", "pairs of one complex", "edges_auc"),
        "foscttm": ("FOSCTTM", unseen.format("targets"), "alignment_foscttm"),
    }
    for score, (name, question, column) in asked.items():
        view = "both" if score == "foscttm" else "average"
        found = _of("headroom", ("SharedAxes", view), (closed, view), score)
        if found is not None:
            yield Line(
                method, question, "simulated with headroom", name, *found, less,
                _twin("headroom", "SharedAxes", view, column), score == "foscttm",
            )  # fmt: skip
    frame = read("side_by_side")
    if frame is None or "metric" not in frame:
        return
    for metric in ("spots", "spots, depth and darkness out"):
        part = frame[(frame["data"] == "her2st") & (frame["metric"] == metric)]
        wide = part.pivot_table(index="seed", columns="way", values="foscttm")
        twin = by_seed("her2st", "foscttm", "both", metric=metric)
        if f"without {what}" in wide and twin is not None:
            question = unseen.format("spots of tissue sections") + metric.removeprefix("spots")
            yield Line(
                method, question, "her2st", "FOSCTTM", wide["side by side"],
                wide[f"without {what}"], less,
                float(twin["SharedAxes permuted"].mean()), True, "folds",
            )  # fmt: skip


def _petri() -> Iterator[Line]:
    pairs, unseen = "pairs of one complex", "targets that were never seen, across modalities"
    compounds = "compounds that were never seen, across modalities"
    for name, data, question in (
        ("headroom", "simulated with headroom", unseen),
        ("enough_cells", "simulated with enough cells", unseen),
        ("cdrp", "CDRP-bio", compounds),
        ("jump", "CPJUMP1", compounds),
    ):
        for score, asked, view, closed, label in (
            ("auc", pairs, "average", ("PCA", "concat"), "PCA, concatenated"),
            ("auc", pairs, "average", ("SharedAxes", "average"), "SharedAxes"),
            ("foscttm", question, "both", ("SharedAxes", "both"), "SharedAxes"),
        ):
            found = _of(name, ("PETRI", view), closed, score)
            if found is not None:
                column = "edges_auc" if score == "auc" else "alignment_foscttm"
                yield Line(
                    "PETRI", asked, data, score.upper(), *found, label,
                    _twin(name, "PETRI", view, column), score == "foscttm",
                )  # fmt: skip


def _sections() -> Iterator[Line]:
    """PETRI on sections of tissue that were left out, as they come."""
    wide = by_seed("her2st", "foscttm", "both", metric="spots")
    if wide is not None and "PETRI" in wide:
        yield Line(
            "PETRI", "spots of tissue sections that were never seen, across modalities", "her2st",
            "FOSCTTM", wide["PETRI"], wide["SharedAxes"], "SharedAxes",
            float(wide["PETRI permuted"].mean()), True, "folds",
        )  # fmt: skip


def _expression() -> Iterator[Line]:
    for name, data in (
        ("expression_headroom", "simulated with headroom, expression alone"),
        ("expression_enough_cells", "simulated with enough cells, expression alone"),
        ("eccite", "ECCITE-seq, not held out"),
    ):
        for method in ("PETRI Omics", "TrP MAE"):
            for score, question, what, null in (
                ("consistent", "guides of a target agree", "share of targets", 0.05),
                ("auc", "pairs of one complex", "AUC", 0.5),
            ):
                for closed in ("PCA", "SharedAxes"):
                    found = _of(name, (method, "rna"), (closed, "rna"), score)
                    if found is not None:
                        yield Line(method, question, data, what, *found, closed, null)


def _phenoseq() -> Iterator[Line]:
    learned = "PhenoSeq mean, 10 draws"
    frame = read("phenoseq_simulated")
    if frame is not None:
        for screen in ("shared", "partly shared"):
            for held in ("replicates", "treatments"):
                part = frame[(frame["screen"] == screen) & (frame["held_out"] == held)]
                wide = part.pivot_table(index="seed", columns="method", values="mrr")
                if learned in wide:
                    yield Line(
                        "PhenoSeq", f"expression of held-out {held} from images",
                        f"simulated, effect {screen}", "MRR", wide[learned], wide["ridge"], "ridge",
                        float(part["chance_mrr"].mean()),
                    )  # fmt: skip
    frame = read("phenoseq_jump")
    if frame is not None:
        for held in ("plates", "compounds"):
            part = frame[frame["held_out"] == held]
            wide = part.pivot_table(index="seed", columns="method", values="mrr")
            if learned in wide:
                yield Line(
                    "PhenoSeq", f"secretome of held-out {held} from images", "CPJUMP1", "MRR",
                    wide[learned], wide["ridge"], "ridge", float(part["chance_mrr"].mean()),
                )  # fmt: skip


def _semi_clipped() -> Iterator[Line]:
    learned = "Semi-Clipped, begun linear"
    frame = read("semi_clipped_jump")
    if frame is not None:
        wide = frame.pivot_table(index="seed", columns="method", dropna=False)
        for score, question, name, null, lower in (
            (
                "mrr",
                "images of held-out compounds from their secretome",
                "MRR",
                frame["mrr_chance"].mean(),
                False,
            ),
            ("foscttm", "the same", "FOSCTTM", 0.5, True),
            (
                "similar_to_phenotype_A549",
                "likeness of compounds in another data set",
                "rank correlation",
                0.0,
                False,
            ),
        ):
            if learned in wide[score]:
                yield Line(
                    "Semi-Clipped", question, "CPJUMP1", name, wide[score][learned],
                    wide[score]["ridge"], "ridge after TVN", float(null), lower,
                )  # fmt: skip
    frame = read("semi_clipped_simulated")
    if frame is not None:
        for group in ("compounds held out", "compounds seen"):
            part = frame[(frame["group"] == group) & (frame["inference"] == "center_scale")]
            wide = part.pivot_table(index="seed", columns="operations", values="mrr")
            if learned in wide and "ridge" in wide:
                yield Line(
                    "Semi-Clipped", f"images of {group} from one well of a held-out plate", "simulated",
                    "MRR", wide[learned], wide["ridge"], "ridge after centre scaling",
                    float(part["mrr_chance"].mean()),
                )  # fmt: skip


def _tide() -> Iterator[Line]:
    frame = read("tide_begin")
    if frame is None:
        return
    for score, null, question, name in (
        ("one_shot_genes_top1_accuracy", "one_shot_genes_top1_chance", "knock-outs never trained on, from one image", "top 1"),
        ("targets_all_ap", "targets_all_ap_chance", "targets of drugs among knock-outs", "AP"),
    ):  # fmt: skip
        wide = frame.pivot_table(index="seed", columns="method", values=score)
        chance = float(frame[null].mean())
        for closed, label in (
            ("closed form", "SharedAxes of images"),
            ("image statistics", "image statistics"),
        ):
            yield Line(
                "TIDE", question, "simulated drugs", name, wide["TIDE, begin linear"], wide[closed],
                label, chance,
            )  # fmt: skip
    own = frame[frame["method"] == "TIDE, begin linear"].set_index("seed")
    yield Line(
        "TIDE, response model", "change of held-out drugs", "simulated drugs", "R²",
        own["response_held-out_r2"], own["response_held-out_mean_change_r2"], "mean change", 0.0,
    )  # fmt: skip


PARTS: tuple[Callable[[], Iterator[Line]], ...] = (
    partial(_second, "factors of counts", "logarithms of counts"),
    partial(_second, "patches of images", "statistics of images"),
    _petri,
    _sections,
    _expression,
    _phenoseq,
    _semi_clipped,
    _tide,
)


def summary() -> str:
    """Markdown of the section."""
    head = ["method", "question", "score", "learned", "closed form", "difference", "permuted", ""]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for part in PARTS:
        lines += ["| " + " | ".join(line.cells()) + " |" for line in part()]
    return TEXT + "\n".join(lines) + "\n" + READING + _closed_forms()


def _closed_forms() -> str:
    """What the closed form itself is ahead of."""
    table = read("headroom_comparisons")
    if table is None:
        return ""
    own = (table["method"] == "SharedAxes") & (table["score"] == "auc") & (table["view"] == "fused")
    row = table[own & (table["against"] == "PCA") & (table["over"] == "seeds")].iloc[-1]
    return (
        f"The closed form is itself ahead of what it replaces: `SharedAxes` of concatenated principal "
        f"components by {row['difference']:+.3f} [{row['difference_low']:.3f}, {row['difference_high']:.3f}] "
        "AUC of known pairs (screens with headroom, paired over five seeds).\n"
    )
