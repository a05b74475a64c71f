"""The metrics of a benchmark, in one dict by name.

A metric takes a :class:`View` and its own options and gives :class:`Scores`; a user's function may
give a number, or numbers by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal

import pandas as pd

from cellfuse._errors import missing_key
from cellfuse.bench import _scorers
from cellfuse.bench._alignment import alignment
from cellfuse.bench._methods import fingerprint
from cellfuse.bench._scorers import Scores, Value
from cellfuse.bench._views import View

__all__ = ["METRICS", "Metric", "read_metrics"]


@dataclass(frozen=True)
class Metric:
    """A metric and its options.

    Parameters
    ----------
    name
        As it is shown.
    function
        Takes a :class:`View`.
    options
        Keyword arguments of the function.
    scope
        ``"view"``: each modality and both together are scored. ``"pair"``: both sides at once.
    main
        Values that the table shows; the rest stands in the scores.
    better
        Whether ``"high"`` or ``"low"`` values are good.
    about
        What it says and what chance is.
    """

    name: str
    function: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    scope: Literal["view", "pair"] = "view"
    main: tuple[str, ...] = ()
    better: Literal["high", "low"] = "high"
    about: str = ""
    synthetic: bool = False
    #: The library's metric that it is, under whatever name; "" of a user's.
    base: str = ""

    def __call__(self, view: View) -> Scores:
        """Score a view."""
        found = self.function(view, **self.options)
        if isinstance(found, Scores):
            return found
        if isinstance(found, Real):
            found = {self.name: found}
        if not isinstance(found, Mapping):
            raise TypeError(
                f"metric {self.name!r} gave a {type(found).__name__}; expected a number, a dict of "
                "numbers, or `cf.bench.Scores`."
            )
        return Scores({k: v if isinstance(v, Value) else Value(float(v)) for k, v in found.items()})

    def as_json(self) -> dict[str, Any]:
        """All that makes one scoring another; tables by their content."""
        return {
            "function": fingerprint(self.function),
            "options": {k: _described(v) for k, v in self.options.items()},
        }


def _described(value: Any) -> Any:
    if isinstance(value, pd.DataFrame):
        return f"table {int(pd.util.hash_pandas_object(value, index=False).sum()):x}"
    if isinstance(value, Mapping):
        return {str(k): _described(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_described(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "guide_consistency", _scorers.guide_consistency, main=("consistent",),
            about="Share of targets whose profiles agree more than profiles of unrelated targets, "
            "at a false discovery rate of 5%. Chance is close to 0.",
        ),
        Metric(
            "edges", _scorers.edges, main=("tpr", "auc"),
            about="Known pairs of targets: the share found when 5% of the pairs without an edge "
            "pass too (TPR, chance .05), and the probability that a known pair is more similar "
            "than a pair without an edge (AUC, chance .5).",
        ),
        Metric(
            "relationship_recall", _scorers.relationship_recall, main=("recall",),
            about="Share of known pairs among the 5% most and the 5% least similar pairs of the "
            "map. Chance is .10.",
        ),
        Metric(
            "mean_average_precision", _scorers.mean_average_precision, main=("map",),
            about="Do profiles of a target find one another among all others?",
        ),
        Metric(
            "alignment", alignment, scope="pair", main=("foscttm", "gap"), better="low",
            about="On contexts that no model saw: the share of other contexts that are closer to "
            "an image profile than its own expression profile, and the reverse (FOSCTTM, 0 is "
            "perfect, chance .5); cosine of a context's own two profiles less that of others.",
        ),
        Metric(
            "transfer", _scorers.transfer, main=("top1", "top5"),
            about="Targets that no model saw, recognised from one example of each.",
        ),
        Metric(
            "target_discovery", _scorers.target_discovery, main=("ap", "auc"),
            about="Known targets of a compound, ranked by the similarity of their knock-outs.",
        ),
        Metric(
            "concepts", _scorers.concepts, scope="pair", main=("multimodal",),
            about="Concepts of a sparse dictionary of all cells' embeddings that 10 to 90% of the "
            "cells of both modalities have.",
        ),
        Metric(
            "fidelity", _scorers.fidelity, scope="pair", main=("mrr",), synthetic=True,
            about="Does the expression drawn for a context's images find its own context among "
            "the real ones?",
        ),
        Metric(
            "classification", _scorers.classification, scope="pair", synthetic=True,
            about="Balanced accuracy of classifiers of the treatment on held-out replicates.",
        ),
    )
}  # fmt: skip


def read_metrics(metrics: Iterable[Any] | Mapping[str, Any]) -> list[Metric]:
    """Read the `metrics` of a benchmark: names, functions, or options (or a function) by name.

    Raises
    ------
    KeyError
        An unknown metric or option.
    """
    if isinstance(metrics, (str, bytes)):
        raise TypeError(f"metrics={metrics!r}: expected a list of names, or a dict by name.")
    if isinstance(metrics, Mapping):
        entries = [(str(name), value) for name, value in metrics.items()]
    else:
        entries = [(getattr(m, "__name__", str(m)), m if callable(m) else {}) for m in metrics]
    found = [_metric(name, value) for name, value in entries]
    if not found:
        raise ValueError("no metric was named.")
    return found


def _metric(name: str, value: Any) -> Metric:
    if callable(value):
        return Metric(name, value)
    options = {} if value is None else value
    if not isinstance(options, Mapping):
        raise TypeError(
            f"metric {name!r}: expected a dict of options or a function, found "
            f"{type(options).__name__}."
        )
    options = dict(options)
    base = str(options.pop("metric", name))  # two settings of one metric under two names
    function = options.pop("function", None)
    if function is not None:
        return Metric(name, function, options)
    if base not in METRICS:
        raise missing_key(base, list(METRICS), what="the metrics")
    known = METRICS[base]
    parameters = inspect.signature(known.function).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise missing_key(
                    option, [p for p in parameters if p != "view"], what=f"the options of {base!r}"
                )
    for option, parameter in parameters.items():
        if option != "view" and parameter.default is parameter.empty and option not in options:
            if parameter.kind is parameter.KEYWORD_ONLY:
                raise ValueError(f"metric {name!r} needs `{option}`.")
    return Metric(
        name, known.function, options, known.scope, known.main, known.better, known.about,
        known.synthetic, base,
    )  # fmt: skip
