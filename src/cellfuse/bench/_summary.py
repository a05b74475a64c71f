"""From scores of every seed to a table, paired comparisons and one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from cellfuse import tl
from cellfuse.bench._methods import without_controls
from cellfuse.bench._metrics import METRICS
from cellfuse.bench._store import Store

__all__ = ["CEILING", "better_of", "comparisons", "conclusion", "mains_of", "table_of"]

#: Row of the table that holds what the noise of the data lets a metric give.
CEILING = "ceiling"
#: Columns that make a row of the table.
ROW = ["method", "correction", "view"]
#: Seeds from which differences between seeds have an interval.
MIN_SEEDS = 3


def mains_of(scores: pd.DataFrame, metric: str) -> list[str]:
    """Values of a metric that the table shows: those it names, or all that it gave."""
    given = scores.loc[(scores["metric"] == metric) & (scores["score"] != ""), "score"].unique()
    named = METRICS[base_of(metric)].main if base_of(metric) in METRICS else ()
    return [name for name in named if name in given] or list(given)


def base_of(metric: str) -> str:
    """The metric behind a name such as ``"edges (physical)"``."""
    return metric.split(" ")[0] if metric not in METRICS else metric


def better_of(score: str) -> int:
    """1 where a high value is good, -1 where a low one is."""
    return -1 if score in ("foscttm", "euclidean") else 1


def column_of(metric: str, score: str, several: bool) -> str:
    """Heading of a value in the table."""
    return f"{metric}_{score}" if several else metric


def table_of(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per method, correction and view: medians over seeds, and lowest and highest seed.

    Of a single seed the ends are those of the metric's own interval, where it has one.
    """
    known = scores[scores["score"] != ""].copy()
    known = _one_row(known)
    known = pd.concat([known[~known["ceiling"]], _ceiling(known[known["ceiling"]])])
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for metric in known["metric"].unique():
        mains = mains_of(known, metric)
        for score in mains:
            name = column_of(metric, score, len(mains) > 1)
            part = known[(known["metric"] == metric) & (known["score"] == score)]
            for key, group in part.groupby(ROW, sort=False):
                rows.setdefault(key, {}).update(_over_seeds(group, name))
    order = {name: k for k, name in enumerate([*scores["method"].unique(), CEILING])}
    table = pd.DataFrame([dict(zip(ROW, key, strict=True)) | row for key, row in rows.items()])
    if table.empty:
        return pd.DataFrame(columns=ROW)
    place = table["method"].map(order)
    return table.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _ceiling(scores: pd.DataFrame) -> pd.DataFrame:
    """Of each value the best that any method's embedding gave where the truth is known."""
    rows = []
    keys = ["seed", "correction", "metric", "score"]
    for (*_, score), group in scores.dropna(subset=["value"]).groupby(keys, sort=False):
        signed = group["value"].astype(float) * better_of(str(score))
        rows.append(group.loc[[signed.idxmax()]].assign(method=CEILING, view="both"))
    return pd.concat(rows) if rows else scores


def _one_row(scores: pd.DataFrame) -> pd.DataFrame:
    """Put values between the modalities into the row of both together, where there is one."""
    singles = ["image", "rna", "both"]
    fused = scores[~scores["view"].isin(singles)].drop_duplicates(["method", "view"])
    names = fused.set_index("method")["view"]
    both = scores["view"] == "both"
    scores.loc[both, "view"] = scores.loc[both, "method"].map(names).fillna("both")
    return scores


def _over_seeds(group: pd.DataFrame, name: str) -> dict[str, float]:
    values = group["value"].astype(float)
    if len(values) > 1:
        low, high = values.min(), values.max()
    else:
        low, high = (float(group[end].iloc[0]) for end in ("low", "high"))
    return {name: float(values.median()), f"{name}_low": float(low), f"{name}_high": float(high)}


# -- paired comparisons ---------------------------------------------------------------------------


def comparisons(
    scores: pd.DataFrame, against: str, *, store: Store, cells: dict[tuple[str, int], Any]
) -> pd.DataFrame:
    """Every method against a named one, value by value: paired over seeds, and over targets.

    Over seeds: the mean difference with Student's interval. Over targets (or pairs of targets): the
    tables of both, all seeds together, by :func:`cellfuse.tl.compare`. Views of both together are
    compared with each other whatever their fusion.
    """
    known = scores[(scores["score"] != "") & ~scores["ceiling"]].copy()
    known["side"] = known["view"].where(known["view"].isin(["image", "rna", "both"]), "fused")
    theirs = known[known["method"] == against]
    rows: list[dict[str, Any]] = []
    for method in known["method"].unique():
        if method == against:
            continue
        mine = known[known["method"] == method]
        for metric in mine["metric"].unique():
            for score in mains_of(known, metric):
                for (correction, side), pair in _pairs(mine, theirs, metric, score):
                    base = {
                        "method": method, "against": against, "metric": metric, "score": score,
                        "correction": correction, "view": side,
                    }  # fmt: skip
                    difference = (pair["value"] - pair["value_of"]).astype(float).dropna()
                    rows.append({**base, **_of_seeds(difference)})
                    rows += _of_units(base, pair, store, cells)
    columns = [
        "method", "against", "metric", "score", "correction", "view", "over", "difference",
        "difference_low", "difference_high", "pvalue", "n",
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def _pairs(
    mine: pd.DataFrame, theirs: pd.DataFrame, metric: str, score: str
) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Values of two methods side by side, by the other's correction and side.

    A method with a correction of its own is compared with the other under each correction.
    """
    a, b = (part[(part["metric"] == metric) & (part["score"] == score)] for part in (mine, theirs))
    for correction in b["correction"].unique():
        own = a["correction"].unique()
        if correction not in own and len(own) != 1:
            continue
        ours = a[a["correction"] == (correction if correction in own else own[0])]
        both = ours.merge(
            b[b["correction"] == correction], on=["side", "seed"], suffixes=("", "_of")
        )
        for side, pair in both.groupby("side", sort=False):
            yield (correction, str(side)), pair


def _of_seeds(difference: pd.Series) -> dict[str, Any]:
    n = len(difference)
    row = {"over": "seeds", "difference": float(difference.mean()) if n else np.nan, "n": n}
    if n < MIN_SEEDS or difference.std() < 1e-9:
        return {**row, "difference_low": np.nan, "difference_high": np.nan, "pvalue": np.nan}
    half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / np.sqrt(n)
    return {
        **row,
        "difference_low": row["difference"] - half,
        "difference_high": row["difference"] + half,
        "pvalue": float(stats.ttest_1samp(difference, 0.0).pvalue),
    }


def _of_units(
    base: dict[str, Any], pair: pd.DataFrame, store: Store, cells: dict[tuple[str, int], Any]
) -> list[dict[str, Any]]:
    """The comparison over targets, where both kept a table and the value is its mean."""
    of = pair["of"].iloc[0]
    if not of or base["score"] not in ("consistent", "tpr", "recall", "map", "foscttm"):
        return []
    tables = []
    for side, of_side in ((base["method"], ""), (base["against"], "_of")):
        found = []
        for _, row in pair.iterrows():
            correction, view = row[f"correction{of_side}"], row[f"view{of_side}"]
            name = f"{correction}_{view}_{base['metric']}"
            table = store.read_units(cells[side, int(row["seed"])], name)
            if table is not None:
                found.append(table)
        if len(found) != len(pair):
            return []
        tables.append(_mean_table(found))
    try:
        table = tl.compare(*tables, value=of)
    except ValueError:
        return []  # fewer than five shared targets
    row = table.iloc[0]
    ends = ("difference_low", "difference_high") if "difference_low" in row else ("low", "high")
    return [
        {
            **base, "over": "targets", "difference": float(row["difference"]),
            "difference_low": float(row[ends[0]]), "difference_high": float(row[ends[1]]),
            "pvalue": float(row["pvalue"]), "n": int(row["n_genes"]),
        }
    ]  # fmt: skip


def _mean_table(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The tables of several seeds as one, their values averaged by target or pair."""
    if len(tables) == 1:
        return tables[0]
    keys = [c for c in ("table", "source", "target") if c in tables[0]]
    whole = pd.concat(tables)
    if keys:
        return whole.groupby(keys, sort=False).mean(numeric_only=False).reset_index()
    return whole.groupby(level=0, sort=False).mean(numeric_only=False)


# -- what to conclude -----------------------------------------------------------------------------


Units = Callable[[str, str, str, str], pd.DataFrame | None]


def conclusion(scores: pd.DataFrame, *, units: Units | None = None) -> str:
    """One sentence on whether the second modality adds anything, whichever way it goes.

    `units` gives the table behind a method's (correction's, view's, metric's) score: where seeds
    have no interval, the targets' is taken.
    """
    known = without_controls(scores[(scores["score"] != "") & ~scores["ceiling"]])
    for metric, score, what in (
        ("edges", "auc", "AUC of known pairs"),
        ("edges", "tpr", "share of known pairs"),
        ("guide_consistency", "consistent", "share of consistent targets"),
        ("mean_average_precision", "map", "mAP"),
    ):
        part = known[(known["metric"] == metric) & (known["score"] == score)]
        text = _gain(part, what, metric, units)
        if text:
            return text
    if known.empty:
        return "Nothing was scored."
    aligned = known[known["score"] == "foscttm"]
    if not aligned.empty:  # under whatever name; of several the first
        return _found_again(aligned[aligned["metric"] == aligned["metric"].iloc[0]])
    views = set(known["view"])
    if not {"image", "rna"} <= views:
        return "One modality was scored: whether another adds anything is not asked."
    return "No metric scored each modality beside both together: whether they add is not known."


def _found_again(aligned: pd.DataFrame) -> str:
    """Whether contexts that no model saw are found from one modality in the other."""
    medians = aligned.groupby(["method", "correction"], sort=False)["value"].median().dropna()
    if medians.empty:
        return "No context that was held out could be aligned."
    method, correction = (str(part) for part in medians.index[int(medians.argmin())])
    mine = aligned[(aligned["method"] == method) & (aligned["correction"] == correction)]
    value = mine["value"].dropna()
    row = _of_seeds(value - 0.5)
    numbers = f"FOSCTTM {value.median():.2f} of {method}, chance .50"
    n = row["n"]
    if np.isnan(row["difference_high"]):
        return f"{n} seed{'s' * (n > 1)}, held-out contexts across the modalities: {numbers}."
    low, high = 0.5 + row["difference_low"], 0.5 + row["difference_high"]
    # The best of several is called after a correction for their number (Bonferroni).
    sure = high < 0.5 and row["pvalue"] * len(medians) < 0.05
    found = "are found" if sure else "are not shown to be found"
    return (
        f"Held-out contexts {found} across the modalities: {numbers}; mean "
        f"{0.5 + row['difference']:.2f} [{low:.2f}, {high:.2f}] over {n} seeds, the best of "
        f"{len(medians)}."
    )


def _gain(part: pd.DataFrame, what: str, metric: str, units: Units | None) -> str:
    """The fused profile against the better single one, of the method that is best when fused."""
    part = part.dropna(subset=["value"])
    fused = part[~part["view"].isin(["image", "rna", "both"])]
    alone = part[part["view"].isin(["image", "rna"])]
    both = sorted(set(fused["method"]) & set(alone["method"]))
    fused = fused[fused["method"].isin(both)]
    if fused.empty:
        return ""
    medians = fused.groupby(ROW, sort=False)["value"].median()
    method, correction, view = (str(part) for part in medians.index[int(medians.argmax())])
    mine = part[(part["method"] == method) & (part["correction"] == correction)]
    of = {v: mine[mine["view"] == v].set_index("seed")["value"] for v in (view, "image", "rna")}
    single, second = sorted(("image", "rna"), key=lambda v: -of[v].median())
    words = {"image": "images", "rna": "expression"}
    own, other = words[single], words[second]
    row = _of_seeds((of[view] - of[single]).dropna())
    low, high = row["difference_low"], row["difference_high"]
    numbers = (
        f"{what} {of[view].median():.2f} for both ({method}, {view}), {of[single].median():.2f} "
        f"for {own} alone, {of[second].median():.2f} for {other} alone; "
        f"difference {row['difference']:+.3f}"
    )
    over = f"over {row['n']} seeds"
    if np.isnan(low) and units is not None and metric in ("edges", "guide_consistency"):
        tables = [units(method, correction, v, metric) for v in (view, single)]
        low, high, over = _over_targets(tables, metric)
        numbers += over
    elif not np.isnan(low):
        numbers += f" [{low:+.3f}, {high:+.3f}] {over}"
    if np.isnan(low):
        n = row["n"]
        verdict = f"whether {other} add to {own} is not settled by {n} seed{'s' * (n > 1)}"
    elif low > 0:
        verdict = f"{other} add to {own}"
    elif high < 0:
        verdict = f"{other} take away from {own}"
    else:
        verdict = f"whether {other} add to {own} is not shown"
    for word in ("add", "take"):
        verdict = verdict.replace(f"expression {word}", f"expression {word}s")
    return f"{verdict[0].upper()}{verdict[1:]}: {numbers}."


def _over_targets(tables: list[pd.DataFrame | None], metric: str) -> tuple[float, float, str]:
    """Interval over targets of the difference of two views, and words for it."""
    of = "hit" if metric == "edges" else "significant"
    if any(table is None for table in tables):
        return np.nan, np.nan, ""
    try:
        row = tl.compare(*tables, value=of).iloc[0]  # type: ignore[arg-type]
    except ValueError:  # fewer than five targets
        return np.nan, np.nan, ""
    low, high = float(row["difference_low"]), float(row["difference_high"])
    what = "known pairs found" if metric == "edges" else "consistent targets"
    share = f"; {what} {row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return low, high, f"{share} over {int(row['n_genes'])} targets of one screen"
