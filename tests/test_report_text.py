"""What a report concludes and says of what it could not have, from tables written by hand."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.collections import PathCollection

import cellfuse as cf
from cellfuse.bench._metrics import METRICS
from cellfuse.bench._report import _comparisons, _failures, _head
from cellfuse.bench._summary import conclusion


def scores_of(foscttm: dict[str, list[float]]) -> pd.DataFrame:
    """Scores of alignment alone, a method's seeds in order."""
    rows = [
        {"method": method, "seed": seed, "correction": "none", "view": "both", "value": value}
        for method, values in foscttm.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(metric="alignment", score="foscttm", ceiling=False)


def test_where_alignment_alone_was_scored_the_headline_says_what_it_shows():
    found = conclusion(scores_of({"PCA": [0.45, 0.52, 0.44], "PETRI": [0.30, 0.34, 0.29]}))
    assert found.startswith("Held-out contexts are found across the modalities: FOSCTTM 0.30 of")
    assert "PETRI, chance .50; mean 0.31 [0.24, 0.38] over 3 seeds, the best of 2." in found
    level = conclusion(scores_of({"PCA": [0.45, 0.52, 0.51], "PETRI": [0.52, 0.50, 0.55]}))
    assert level.startswith("Held-out contexts are not shown to be found")
    assert conclusion(scores_of({"PCA": [0.45]})).startswith("1 seed, held-out contexts")


def test_the_headline_speaks_of_no_twin_and_no_floor_and_counts_the_methods_it_chose_from():
    controls = {"PETRI permuted": [0.1, 0.12, 0.11], "random": [0.2, 0.2, 0.21]}
    text = conclusion(scores_of({**controls, "PETRI": [0.49, 0.51, 0.5]}))
    assert "of PETRI, chance" in text and "not shown" in text
    sure = conclusion(scores_of({"PETRI": [0.41, 0.44, 0.38]}))
    many = {f"other {k}": [0.5, 0.52, 0.51] for k in range(9)}
    unsure = conclusion(scores_of({"PETRI": [0.41, 0.44, 0.38], **many}))
    assert "are found" in sure and "not shown" in unsure


def test_one_reason_of_many_methods_is_one_line_of_the_report():
    rows = [
        {
            "method": method,
            "view": "both",
            "metric": "alignment",
            "seed": seed,
            "why": "V: no ceiling",
        }
        for method in ("PETRI", "PCA")
        for seed in (0, 1)
    ]
    rows.append({**rows[0], "method": "CLIP", "seed": 1})
    lines = _failures(pd.DataFrame(rows))
    assert len(lines) == 2
    assert lines[0].startswith("PETRI, PCA, alignment (both), seed 0, 1: ")
    assert lines[1].startswith("CLIP, alignment (both), seed 1: ")


def test_comparisons_under_several_corrections_say_which():
    row = {
        "method": "PETRI", "against": "PCA", "metric": "alignment", "score": "foscttm",
        "view": "both", "over": "seeds", "difference": -0.1, "difference_low": -0.2,
        "difference_high": -0.05, "pvalue": 0.01, "n": 5,
    }  # fmt: skip
    both = _comparisons(pd.DataFrame([{**row, "correction": c} for c in ("zca", "rcc")]))
    assert [r["correction"] for r in both["rows"]] == ["zca", "rcc"] and both["corrections"]
    assert not _comparisons(pd.DataFrame([{**row, "correction": "zca"}]))["corrections"]


@pytest.mark.parametrize(("correction", "value"), [(None, 0.8), ("zca", 0.8), ("rcc", 0.7)])
def test_a_method_without_the_correction_is_drawn_beside_those_with_it(correction, value):
    table = pd.DataFrame(
        {
            "method": ["PETRI", "PCA", "PCA"],
            "correction": ["none", "zca", "rcc"],
            "view": "average",
            "edges_auc": [0.9, 0.8, 0.7],
            "edges_auc_low": [0.9, 0.8, 0.7],
            "edges_auc_high": [0.9, 0.8, 0.7],
        }
    )
    (ax,) = cf.pl.benchmark(table, correction=correction)
    dots = [one for one in ax.collections if isinstance(one, PathCollection)]
    drawn = sorted(float(x) for one in dots for x, _ in one.get_offsets())
    assert drawn == [value, 0.9]


def test_no_heading_says_a_thing_twice():
    for name, metric in METRICS.items():
        for score in metric.main:
            head = _head(f"{name}_{score}")
            stems = [word[:7] for word in head.lower().replace(",", "").split()]
            assert len(stems) == len(set(stems)), head
            initials = "".join(word[0] for word in head.split()[:-1])
            assert not initials.lower().startswith(head.split()[-1].lower()), head
