"""Recall of known relationships in the tails of all cosines."""

from __future__ import annotations

from itertools import combinations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf


def _map(n: int = 40, seed: int = 0) -> ad.AnnData:
    x = np.random.default_rng(seed).normal(size=(n, 6))
    return ad.AnnData(x, obs=pd.DataFrame(index=[f"g{i}" for i in range(n)]))


def _pairs(*pairs: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["source", "target"])


def _plain(genes: ad.AnnData, pairs: pd.DataFrame, low: float, high: float) -> float:
    """EFAAR's formula, pair by pair."""
    x = genes.X / np.linalg.norm(genes.X, axis=1, keepdims=True)
    null = np.sort([x[i] @ x[j] for i, j in combinations(range(len(x)), 2)])
    hits = []
    for a, b in {tuple(sorted(p)) for p in pairs.to_numpy().tolist() if p[0] != p[1]}:
        cosine = x[genes.obs_names.get_loc(a)] @ x[genes.obs_names.get_loc(b)]
        below = np.mean(null < cosine - 1e-9)
        at_most = np.mean(null <= cosine + 1e-9)
        hits.append(at_most <= low or below >= high)
    return float(np.mean(hits))


@pytest.mark.parametrize("tails", [(0.05, 0.95), (0.1, 0.9)])
def test_recall_is_the_formula_pair_by_pair(tails: tuple[float, float]) -> None:
    genes = _map()
    rng = np.random.default_rng(1)
    chosen = [tuple(f"g{i}" for i in rng.choice(40, 2, replace=False)) for _ in range(120)]
    pairs = _pairs(*chosen)
    found = cf.tl.relationship_recall(genes, pairs, tails=tails)
    assert found["recall"].iloc[0] == pytest.approx(_plain(genes, pairs, *tails))


def test_all_pairs_give_chance() -> None:
    genes = _map(60)
    everything = _pairs(*combinations(genes.obs_names, 2))
    found = cf.tl.relationship_recall(genes, everything).iloc[0]
    assert found["recall"] == pytest.approx(found["chance"], abs=0.002)
    # To the pair: of 1770 the 88 lowest have a share of at most .05 at or below them, and the 88
    # highest at least .95 (that is 1682) below them.
    assert found["lower_tail"] * 1770 == pytest.approx(88)
    assert found["upper_tail"] * 1770 == pytest.approx(88)


def test_direction_repeats_and_self_pairs_do_not_count() -> None:
    genes = _map()
    once = cf.tl.relationship_recall(genes, _pairs(("g0", "g1"), ("g2", "g3")))
    more = cf.tl.relationship_recall(
        genes, _pairs(("g0", "g1"), ("g1", "g0"), ("g2", "g3"), ("g4", "g4"), ("g5", "absent"))
    )
    pd.testing.assert_frame_equal(once, more)


def test_opposite_profiles_are_recalled_in_the_lower_tail() -> None:
    genes = _map()
    genes.X[1] = -genes.X[0]
    found = cf.tl.relationship_recall(genes, _pairs(("g0", "g1"))).iloc[0]
    assert (found["lower_tail"], found["upper_tail"]) == (1.0, 0.0)


def test_several_networks_share_one_null_and_are_kept(tmp_path) -> None:
    genes = _map()
    found = cf.tl.relationship_recall(
        genes, {"a": _pairs(("g0", "g1")), "b": _pairs(("g2", "g3"), ("g4", "g5"))}
    )
    assert found["n_pairs"].to_dict() == {"a": 1, "b": 2}
    genes.write_h5ad(tmp_path / "genes.h5ad")
    kept = ad.read_h5ad(tmp_path / "genes.h5ad").uns["relationship_recall"]["table"]
    assert kept["recall"].tolist() == found["recall"].tolist()


def test_controls_are_no_part_of_the_null() -> None:
    genes = _map()
    without = genes[2:].copy()
    pairs = _pairs(("g5", "g6"), ("g7", "g8"))
    a = cf.tl.relationship_recall(genes, pairs, control=["g0", "g1"])
    pd.testing.assert_frame_equal(a, cf.tl.relationship_recall(without, pairs))


def test_order_of_profiles_does_not_matter() -> None:
    genes = _map()
    genes.X[3] = genes.X[2]
    pairs = _pairs(("g2", "g3"), ("g4", "g5"), ("g6", "g7"))
    turned = genes[::-1].copy()
    pd.testing.assert_frame_equal(
        cf.tl.relationship_recall(genes, pairs), cf.tl.relationship_recall(turned, pairs)
    )


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"tails": (0.9, 0.1)}, ValueError, "lower < upper"),
        ({"tails": (5, 95)}, ValueError, "lower < upper"),
        ({"tails": 0.05}, ValueError, "expected two quantiles"),
        ({"pairs": [("g0", "g1")]}, TypeError, "`pairs` is a list; expected a data frame"),
        ({"pairs": {"x": [("g0", "g1")]}}, TypeError, r"`pairs\['x'\]` is a list"),
        ({"pairs": _pairs(("x", "y"))}, ValueError, "no pair"),
        ({"pairs": pd.DataFrame({"source": ["g0"], "targett": ["g1"]})}, KeyError, "targett"),
        ({"control": "g00"}, KeyError, "Did you mean"),
        ({"genes": _map(19)}, ValueError, "too few"),
        ({"gene_key": "name"}, KeyError, "name"),
    ],
    ids=[
        "tails",
        "percent",
        "one tail",
        "list",
        "dict",
        "names",
        "column",
        "control",
        "few",
        "gene_key",
    ],
)
def test_bad_input_is_named(change: dict, error: type[Exception], text: str) -> None:
    arguments = {"genes": _map(), "pairs": _pairs(("g0", "g1")), **change}
    with pytest.raises(error, match=text):
        cf.tl.relationship_recall(arguments.pop("genes"), arguments.pop("pairs"), **arguments)


def test_a_gene_with_two_profiles_is_refused() -> None:
    genes = _map()
    genes.obs["gene"] = ["a", "a", *genes.obs_names[2:]]
    with pytest.raises(ValueError, match="several profiles: 'a'"):
        cf.tl.relationship_recall(genes, _pairs(("g5", "g6")), gene_key="gene")
