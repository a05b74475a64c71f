"""Retrieval across modalities: places by hand, ties, chance, intervals."""

from __future__ import annotations

from itertools import permutations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from cellfuse.kernels.retrieval import first_match
from cellfuse.tl.retrieval import retrieval


def side(x: np.ndarray, labels: list[str], prefix: str) -> ad.AnnData:
    names = [f"{prefix}{i}" for i in range(len(x))]
    return ad.AnnData(np.asarray(x, dtype=float), obs=pd.DataFrame({"c": labels}, index=names))


def angle(*degrees: float) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_places_by_hand():
    a = side(angle(0), ["A"], "a")
    b = side(angle(10, 20, 30, 40), ["B", "A", "C", "A"], "b")
    one = retrieval(a, b, "c", use_rep=None, k=(1, 2), per_query=True).iloc[0]
    assert one[["top1", "top2", "mrr", "n_matches"]].tolist() == [0, 1, 0.5, 2]
    # B is closer than the match at 20 degrees, B and C than the one at 40.
    assert one["foscttm"] == pytest.approx((1 / 2 + 2 / 2) / 2)
    back = retrieval(a, b, "c", use_rep=None, k=1, per_query=True)
    assert back["direction"].tolist() == ["a to b", "b to a", "b to a"]


def test_a_perfect_and_a_reversed_space():
    x = np.random.default_rng(0).normal(size=(30, 5))
    labels = [f"c{i}" for i in range(30)]
    same = retrieval(side(x, labels, "a"), side(x, labels, "b"), "c", use_rep=None)
    assert same.loc[("mean", "top1"), "value"] == 1 and same.loc[("mean", "foscttm"), "value"] == 0
    turned = retrieval(side(x, labels, "a"), side(-x, labels, "b"), "c", use_rep=None)
    assert turned.loc[("mean", "top1"), "value"] == 0
    assert turned.loc[("mean", "foscttm"), "value"] == 1


def test_a_collapsed_space_gets_exactly_chance_in_any_order():
    labels = ["A", "A", "B", "C", "D", "D"]
    a, b = side(np.ones((6, 3)), labels, "a"), side(np.ones((6, 3)), labels, "b")
    found = retrieval(a, b, "c", use_rep=None, k=(1, 3))
    np.testing.assert_allclose(found["value"], found["chance"])
    again = retrieval(a, b[::-1].copy(), "c", use_rep=None, k=(1, 3))
    pd.testing.assert_frame_equal(found, again)


def test_what_differs_by_rounding_is_tied():
    x = np.random.default_rng(0).normal(size=(30, 7))
    labels = [f"c{i}" for i in range(30)]
    both = side(np.concatenate([x * 1.1, x * 0.7]), [*labels, *["other"] * 30], "b")
    found = retrieval(side(x, labels, "a"), both, "c", use_rep=None, k=1, per_query=True)
    assert (found.loc[found["direction"] == "a to b", "top1"] == 0.5).all()


def test_random_spaces_are_at_chance():
    rng = np.random.default_rng(0)
    labels = [f"c{i % 20}" for i in range(400)]
    a, b = (side(rng.normal(size=(400, 8)), labels, p) for p in "ab")
    found = retrieval(a, b, "c", use_rep=None)
    assert np.abs(found.loc["mean", "value"] / found.loc["mean", "chance"] - 1).max() < 0.1


@pytest.mark.parametrize(("n", "r"), [(1, 1), (4, 1), (5, 2), (5, 5), (6, 4)])
def test_the_place_of_the_first_match(n, r):
    places = [order.index(True) for order in permutations([True] * r + [False] * (n - r))]
    expected = np.bincount(places, minlength=n - r + 1) / len(places)
    np.testing.assert_allclose(first_match(n, r), expected)


def test_distractors_stay_and_queries_without_match_go():
    a = side(angle(0, 90), ["A", "X"], "a")
    b = side(angle(5, 1), ["A", "Y"], "b")
    found = retrieval(a, b, "c", use_rep=None, k=(1,))
    assert found.loc[("a to b", "top1"), ["value", "n_queries", "n_candidates"]].tolist() == [
        0,
        1,
        2,
    ]


def test_intervals_are_over_labels():
    rng = np.random.default_rng(0)
    labels = np.repeat([f"c{i}" for i in range(40)], 3)
    z = rng.normal(size=(40, 8)).repeat(3, axis=0)
    a, b = (side(z + rng.normal(size=z.shape), list(labels), p) for p in "ab")
    found = retrieval(a, b, "c", use_rep=None, n_boot=300)
    assert ((found["value_low"] <= found["value"]) & (found["value"] <= found["value_high"])).all()
    same, other = (retrieval(a, b, "c", use_rep=None, n_boot=300, seed=s) for s in (0, 1))
    pd.testing.assert_frame_equal(same, found)
    assert (other["value_low"] != found["value_low"]).any()
    # Copies of every row add no information: the interval does not shrink.
    twice = [ad.concat([s, s], keys=["1", "2"], index_unique="-") for s in (a, b)]
    again = retrieval(*twice, "c", use_rep=None, n_boot=300)
    width, width_twice = (f["value_high"] - f["value_low"] for f in (found, again))
    assert width_twice["mean", "foscttm"] == pytest.approx(width["mean", "foscttm"], rel=0.05)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"by": "d"}, KeyError, "'d' is not in obs"),
        ({"k": (0,)}, ValueError, "expected a whole number, at least 1"),
        ({"labels": ["x", "y", "z"]}, ValueError, "no label by 'c' is in both"),
        ({"x": np.ones((3, 4))}, ValueError, "different widths, 2 and 4"),
        ({"x": np.zeros((3, 2))}, ValueError, "3 rows in X of b are all zeros"),
        ({"x": np.full((3, 2), np.nan)}, ValueError, "6 NaN"),
    ],
    ids=["by", "k", "labels", "width", "zeros", "nan"],
)
def test_bad_input_is_named(change, error, text):
    a = side(angle(0, 10, 20), list("ABC"), "a")
    b = side(change.get("x", angle(0, 10, 20)), change.get("labels", list("ABC")), "b")
    with pytest.raises(error, match=text):
        retrieval(a, b, change.get("by", "c"), use_rep=None, k=change.get("k", (1,)))
