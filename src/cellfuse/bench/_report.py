"""One self-contained page: what was run, what came out, what the numbers mean."""

from __future__ import annotations

import base64
import html
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from cellfuse.bench._settings import Settings

__all__ = ["finding", "settings_table", "summary_text", "versions", "write_report"]

PACKAGES = (
    "cellfuse", "torch", "lightning", "scvi-tools", "scanpy", "anndata", "mudata", "numpy", "scipy",
    "scikit-learn",
)  # fmt: skip

#: Dots per inch that figures are saved with, and that a browser counts.
FIGURE_DPI, SCREEN_DPI = 150, 96

#: Column -> heading, and what it means with what chance is.
MEANINGS = {
    "tpr": (
        "TPR at 5% FPR",
        "Share of the known pairs of targets that are found when 5% of the pairs without an edge "
        "pass too. Chance is 0.05. In brackets: 95% bootstrap interval over genes.",
    ),
    "auc": (
        "AUC",
        "Probability that a known pair is more similar than a pair without an edge. Chance is 0.5.",
    ),
    "n_edges": ("pairs", "Known pairs of which both targets have a profile."),
    "share_consistent": (
        "consistent targets",
        "Share of targets whose profiles agree more than profiles of unrelated targets do, at a "
        "false discovery rate of 5%; behind it, how many targets have two profiles and were "
        "tested. Chance is close to 0: in 19 of 20 screens without any effect no target is found.",
    ),
    "n_profiles": ("profiles", "Contexts that every modality has, controls included."),
}

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1c2430;
  max-width: 64rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem;
  border-top: 1px solid #e2e6ec; }
.sub { color: #5b6675; margin: 0 0 1.4rem; }
.finding { background: #f1f6fb; border-left: 4px solid #0072b2; padding: .8rem 1rem;
  margin: 1rem 0; }
.note { background: #fff7e8; border-left: 4px solid #e69f00; padding: .5rem 1rem; margin: .5rem 0;
  font-size: .92rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .32rem .55rem; border-bottom: 1px solid #e8ebf0;
  white-space: nowrap; }
th { color: #46505e; font-weight: 600; vertical-align: bottom; }
td.text, th.text { text-align: left; }
td.long { white-space: normal; overflow-wrap: anywhere; }
tr.first td { border-top: 2px solid #b9c2ce; }
td.top { font-weight: 700; }
dt { font-weight: 600; margin-top: .5rem; } dd { margin: 0 0 0 1.2rem; color: #3a4554; }
figure { margin: 1.6rem 0 2.2rem; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #46505e; font-size: .92rem; max-width: 46rem; margin-top: .4rem; }
h3 { font-size: 1.02rem; margin: 0 0 .5rem; }
pre, code { font: .86rem/1.5 ui-monospace, SFMono-Regular, Menlo, monospace; }
pre { background: #f6f7f9; padding: .8rem 1rem; overflow-x: auto; }
"""


def versions() -> dict[str, str]:
    """Versions of what computed, and the machine's kind."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    found["machine"] = f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores"
    return found


def settings_table(settings: Settings) -> dict[str, str]:
    """All settings as text."""
    table = {}
    for field in fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, pd.DataFrame):
            value = f"table of {len(value):,} pairs"
        elif isinstance(value, Mapping):
            value = ", ".join(f"{k}: {v}" for k, v in value.items())
        elif not isinstance(value, str) and isinstance(value, Sequence):
            value = ", ".join(map(str, value))
        table[field.name] = str(value)
    return table


def finding(metrics: pd.DataFrame) -> str:
    """One sentence on how the method stands to the floor, whichever way it goes."""
    for column, what in (("tpr", "known pairs"), ("share_consistent", "consistent targets")):
        if column not in metrics or metrics[column].isna().all():
            continue
        falling = metrics.sort_values(column, ascending=False)
        by = {row["method"]: row for _, row in falling[::-1].iterrows()}  # the best comes last
        petri, plain = by["PETRI"], by["plain features"]
        name = MEANINGS[column][0]
        text = (
            f"{name}: the best PETRI profile ({petri['profile']}) reaches {petri[column]:.2f}"
            f"{_interval(petri, column)}, the best plain one ({plain['profile']}: {plain['what']}) "
            f"{plain[column]:.2f}{_interval(plain, column)}, random numbers "
            f"{by['random numbers'][column]:.2f}."
        )
        gap = petri[column] - plain[column]
        who = "PETRI finds more" if gap > 0 else "the plain features find more"
        text += f" On {what} {who} here." if abs(gap) >= 0.005 else " Neither leads."
        if f"{column}_low" in metrics:
            apart = max(petri[f"{column}_low"], plain[f"{column}_low"]) > min(
                petri[f"{column}_high"], plain[f"{column}_high"]
            )
            text += "" if apart else " The intervals overlap: one run does not settle it."
        return text
    return "Nothing was scored: give a target column (--target-key), and edges (--edges)."


def _interval(row: pd.Series, column: str) -> str:
    if f"{column}_low" not in row:
        return ""
    return f" [{row[f'{column}_low']:.2f}, {row[f'{column}_high']:.2f}]"


def _cell(row: pd.Series, column: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    if column.startswith("n_"):
        return f"{int(value):,}"
    if column == "share_consistent":
        return f"{value:.2f} of {int(row['n_targets']):,}"
    return f"{value:.2f}" + _interval(row, column)


def _shown(metrics: pd.DataFrame) -> list[str]:
    shown = ("method", "profile", "what", *MEANINGS)
    return [column for column in shown if column in metrics]


def summary_text(metrics: pd.DataFrame) -> str:
    """The table for a terminal."""
    columns = [c for c in _shown(metrics) if c != "what"]
    heads = [MEANINGS[c][0] if c in MEANINGS else c for c in columns]
    rows = [[_cell(row, c) for c in columns] for _, row in metrics.iterrows()]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    lines = []
    for line in [heads, ["-" * w for w in widths], *rows]:
        parts = [
            t.ljust(w) if k < 2 else t.rjust(w)
            for k, (t, w) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def _metrics_html(metrics: pd.DataFrame) -> str:
    columns = _shown(metrics)
    text = ("method", "profile", "what")
    head = "".join(
        f"<th{' class=text' if c in text else ''}>"
        f"{html.escape(MEANINGS[c][0] if c in MEANINGS else c.replace('what', 'made of'))}</th>"
        for c in columns
    )
    top = {c: metrics[c].max() for c in ("tpr", "auc", "share_consistent") if c in metrics}
    top = {c: best for c, best in top.items() if best > metrics[c].min()}
    body, previous = "", None
    for _, row in metrics.iterrows():
        cells = ""
        for c in columns:
            kind = "text" if c in text else ("top" if c in top and row[c] == top[c] else "")
            cells += f'<td class="{kind}">{html.escape(_cell(row, c))}</td>'
        body += f"<tr{' class=first' if row['method'] != previous else ''}>{cells}</tr>\n"
        previous = row["method"]
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _pairs_html(pairs: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><td class="text">{html.escape(str(k))}</td>'
        f'<td class="text long">{html.escape(str(v))}</td></tr>\n'
        for k, v in pairs.items()
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def write_report(
    path: Path,
    *,
    title: str,
    about: str,
    metrics: pd.DataFrame,
    figures: Mapping[str, tuple[str, str]],
    figure_folder: Path,
    settings: Settings,
    data: Mapping[str, str],
    seconds: Mapping[str, float],
    notes: Sequence[str],
    snippet: str,
) -> None:
    """Write the page; figures are inside it, and nothing is loaded from elsewhere."""
    shown = [column for column in _shown(metrics) if column in MEANINGS]
    meanings = "".join(
        f"<dt>{html.escape(MEANINGS[c][0])}</dt><dd>{html.escape(MEANINGS[c][1])}</dd>"
        for c in shown
    )
    pictures = ""
    for name, (heading, caption) in figures.items():
        content = (figure_folder / name).read_bytes()
        # A PNG's width stands in bytes 16 to 20; shown at the size it was drawn for.
        width = round(int.from_bytes(content[16:20], "big") * SCREEN_DPI / FIGURE_DPI)
        pictures += (
            f"<figure><h3>{html.escape(heading)}</h3>"
            f'<img alt="{html.escape(heading)}" width="{width}" '
            f'src="data:image/png;base64,{base64.b64encode(content).decode()}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>\n"
        )
    warned = "".join(f'<p class="note">Note: {html.escape(note)}</p>\n' for note in notes)
    times = {step: f"{s:.1f} s" for step, s in seconds.items()}
    times["together"] = f"{sum(seconds.values()):.0f} s"
    command = " ".join(Path(a).name if k == 0 else a for k, a in enumerate(sys.argv))
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>
<body>
<h1>{html.escape(title)}</h1>
<p class="sub">{html.escape(about)}</p>
<p class="finding">{html.escape(finding(metrics))}</p>
<h2>Scores</h2>
{_metrics_html(metrics)}
{warned}
<h2>What the numbers mean</h2>
<dl>{meanings}</dl>
<p>The three blocks of the table are the trained model, plain features of the same cells (the floor
that a trained model should pass), and random numbers in the place of embeddings (chance as it
comes out in this very screen). All go through the same steps: centring and scaling by the controls,
ZCA whitening of each modality, means over cells. All rows are scored on the same contexts.</p>
<h2>Figures</h2>
{pictures}
<h2>Go on</h2>
<pre>{html.escape(snippet)}</pre>
<h2>Data</h2>
{_pairs_html(data)}
<h2>Settings</h2>
{_pairs_html(settings_table(settings))}
<h2>Time</h2>
{_pairs_html(times)}
<h2>Versions</h2>
{_pairs_html(versions() | {"command": command})}
</body></html>
"""
    path.write_text(page, encoding="utf-8")
