"""One self-contained page of a benchmark: what came out, what to conclude, what was found."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from cellfuse._files import writing
from cellfuse.bench._figures import Figure, figures_of
from cellfuse.bench._metrics import METRICS
from cellfuse.bench._result import Benchmark, notes_of, reason, shown, value_columns
from cellfuse.bench._summary import CEILING

__all__ = ["report"]

#: Rows of a table of hits in the page.
MAX_ROWS = 400
#: Settings that say nothing.
NOTHING: tuple[Any, ...] = (None, False, "", [], {})
#: Columns of the table whose names in code say little.
HEADS = {
    "edges_tpr": "known pairs, TPR",
    "edges_auc": "known pairs, AUC",
    "alignment_foscttm": "FOSCTTM",
    "alignment_gap": "cosine gap",
    "mean_average_precision_map": "mean average precision",
    "relationship_recall_recall": "relationship recall",
    "guide_consistency_consistent": "consistent guides",
    "guide_consistency_similarity": "similarity of guides",
}


def report(
    result: Benchmark,
    path: str | Path | None = None,
    *,
    title: str = "Benchmark",
    about: str = "",
    concepts: pd.DataFrame | None = None,
    colour_key: str | None = None,
    figures: Sequence[Figure] | None = None,
    snippet: str = "",
) -> Path:
    """Write a benchmark as one page that needs no network and no other file.

    Its parts: the sentence on whether the second modality adds anything, the table (with floors
    and ceiling), paired comparisons, what each number means, the hits (active and consistent
    perturbations, the most similar and the new pairs, searchable), figures, an atlas of concepts
    where there is one, failures, and what computed all of it.

    Parameters
    ----------
    result
        What :func:`cellfuse.benchmark` gave.
    path
        File to write; None is ``report.html`` in the result's folder.
    title, about
        Heading, and a line on the data.
    concepts
        Atlas of concepts: one row per concept, any columns with text (its genes, terms,
        perturbations), such as joined tables of :func:`cellfuse.tl.concept_features` and
        :func:`cellfuse.tl.concept_enrichment`. A column ``image`` may hold PNGs as bytes.
    colour_key
        obs column that colours the map of cells and groups the similarities; None is the target.
    figures
        Figures in the place of those that the report draws itself.
    snippet
        Code to go on with, shown at the end.

    Returns
    -------
    The file that was written.

    Raises
    ------
    TypeError
        Not the result of a benchmark.
    ValueError
        Neither `path` nor a folder.

    Examples
    --------
    >>> import cellfuse as cf
    >>> result = cf.benchmark(mdata, ["PETRI", "PCA"], ...)  # doctest: +SKIP
    >>> cf.report(result, "report.html")  # doctest: +SKIP
    """
    if not isinstance(result, Benchmark):
        raise TypeError(f"expected the result of `cf.benchmark`, found {type(result).__name__}.")
    if path is None:
        if result.folder is None:
            raise ValueError("this result was kept in no folder: give `path`.")
        path = result.folder / "report.html"
    if figures is None:
        figures = figures_of(result.table, result.best, result.edges, colour_key=colour_key)
    environment = Environment(
        loader=PackageLoader("cellfuse.bench"),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["code"] = _code
    page = environment.get_template("report.html.j2").render(
        title=title,
        about=about,
        conclusion=result.conclusion,
        scores=_scores(result.table),
        comparisons=_comparisons(result.comparisons),
        meanings=_meanings(result),
        hits=_hits(result),
        best=result.best,
        figures=[(f, base64.b64encode(f.png).decode()) for f in figures],
        concepts=_concepts(concepts),
        failures=_failures(result.failures),
        notes=notes_of(result.runs),
        snippet=snippet,
        config=_config(result.config),
        provenance={**result.provenance, "command": _command()},
        times=_times(result.runs),
    )
    target = Path(path)
    beside = target.with_name(f".{target.name}.tmp")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            beside.write_text(page, encoding="utf-8")
            beside.replace(target)
        finally:
            beside.unlink(missing_ok=True)
    return target


# -- tables as rows of text -----------------------------------------------------------------------


def _scores(table: pd.DataFrame) -> dict[str, Any]:
    """Headings and rows; the best value of each column, the ceiling aside, is marked."""
    names = value_columns(table)
    methods = table[table["method"] != CEILING]
    best = {}
    for name in names:
        column = methods[name].dropna()
        low = name.endswith("foscttm")
        if len(column) > 1 and column.nunique() > 1:
            best[name] = column.min() if low else column.max()
    rows = []
    previous = None
    for _, row in table.iterrows():
        cells = [{"text": shown(row, n), "top": best.get(n) == row[n]} for n in names]
        if row["method"] == CEILING:
            cells = [{**cell, "top": False} for cell in cells]
        rows.append(
            {
                "method": row["method"], "view": row["view"], "correction": row["correction"],
                "first": row["method"] != previous, "cells": cells,
            }
        )  # fmt: skip
        previous = row["method"]
    several = table["correction"].nunique() > 1 if len(table) else False
    return {"heads": [_head(n) for n in names], "rows": rows, "corrections": several}


def _head(name: str) -> str:
    return HEADS.get(name, name.replace("_", " "))


def _comparisons(paired: pd.DataFrame | None) -> dict[str, Any] | None:
    """Differences of both modalities together from the named method."""
    if paired is None or paired.empty:
        return None
    kept = paired[paired["view"].isin(["fused", "both"])].dropna(subset=["difference_low"])
    rows = []
    for _, row in kept.iterrows():
        low, high = row["difference_low"], row["difference_high"]
        rows.append(
            {
                "method": row["method"],
                "what": _head(f"{row['metric']}_{row['score']}"),
                "correction": row["correction"],
                "over": f"{int(row['n'])} {row['over']}",
                "difference": f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]",
                "pvalue": "–" if pd.isna(row["pvalue"]) else f"{row['pvalue']:.2g}",
                "apart": bool(low > 0 or high < 0),
            }
        )
    several = kept["correction"].nunique() > 1
    against = paired["against"].iloc[0]
    return {"against": against, "rows": rows, "corrections": several} if rows else None


def _meanings(result: Benchmark) -> dict[str, str]:
    used = [str(name) for name in result.scores["metric"].unique()]
    return {m.replace("_", " "): METRICS[m].about for m in used if m in METRICS}


def _failures(failures: pd.DataFrame) -> list[str]:
    """What could not be had, the seeds and the methods of one reason together."""
    methods: dict[tuple[str, str, str], list[str]] = {}
    for (view, metric, why, method), rows in failures.groupby(
        ["view", "metric", "why", "method"], sort=False
    ):
        where = f", {metric} ({view})" if metric else ""
        of = ", ".join(map(str, sorted(rows["seed"].unique())))
        methods.setdefault((where, of, reason(str(why))), []).append(str(method))
    return [
        f"{', '.join(names)}{where}, seed {of}: {why}"
        for (where, of, why), names in methods.items()
    ]


HEADINGS = {
    "perturbations": (
        "Perturbations",
        "Active: the profile is longer than 95% of the controls'. Consistent: its profiles agree "
        "more than those of unrelated targets, at a false discovery rate of 5%.",
    ),
    "pairs": ("Most similar pairs", "By the cosine of their profiles."),
    "new": ("Similar and not known", "The most similar pairs that no edge lists."),
}


def _hits(result: Benchmark) -> list[dict[str, Any]]:
    found = []
    for name, table in result.hits.items():
        title, text = HEADINGS[name]
        heads = list(table.columns)
        rows = [[_text(v) for v in row] for row in table.head(MAX_ROWS).to_numpy(object)]
        found.append(
            {"name": name, "title": title, "text": text, "heads": heads, "rows": rows,
             "n": len(table)}
        )  # fmt: skip
    return found


def _text(value: Any) -> str:
    if isinstance(value, bool) or type(value).__name__ == "bool_":
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value)


def _concepts(table: pd.DataFrame | None) -> dict[str, Any] | None:
    """Cards of concepts: what is text, and their pictures."""
    if table is None or table.empty:
        return None
    cards = []
    for label, row in table.iterrows():
        picture = row.get("image")
        cards.append(
            {
                "name": str(label),
                "image": base64.b64encode(picture).decode() if isinstance(picture, bytes) else "",
                "facts": {
                    str(k): _text(v) for k, v in row.items() if k != "image" and _text(v) != "–"
                },
            }
        )
    return {"cards": cards, "n": len(cards)}


def _config(config: dict[str, Any]) -> dict[str, str]:
    """What was set, a line each; defaults that say nothing are left out."""
    said = {name: _said(value) for name, value in config.items()}
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=str, indent=1)
        for name, value in said.items()
        if value not in NOTHING
    }


def _said(value: Any) -> Any:
    """A setting without its empty parts."""
    if isinstance(value, dict):
        parts = {name: _said(part) for name, part in value.items()}
        return {name: part for name, part in parts.items() if part not in NOTHING} or value
    return value


def _code(text: str) -> Markup:
    """Names between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _times(runs: pd.DataFrame) -> list[dict[str, str]]:
    if runs.empty:
        return []
    means = runs.groupby("method", sort=False)[["embed_seconds", "score_seconds"]].mean()
    return [
        {"method": str(m), "embed": f"{row.iloc[0]:.1f} s", "score": f"{row.iloc[1]:.1f} s"}
        for m, row in means.iterrows()
    ]


def _command() -> str:
    return " ".join(Path(a).name if k == 0 else a for k, a in enumerate(sys.argv))
