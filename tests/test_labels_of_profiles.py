"""Agreement of profiles with several labels, and null sets enough for the number of tests."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.kernels.nulls import draw_distinct
from cellfuse.tl._summary import null_sets


def test_one_gene_of_any_number_can_be_called():
    for n_groups in (2, 569, 20_000):
        n = null_sets(None, n_groups, 0.05)
        assert n >= 10_000 and 1 / (n + 1) < 0.05 / n_groups / 4
    assert null_sets(7, 569, 0.05) == 7
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match="n_null="):
            cf.tl.guide_consistency(guides(3, effect=1), target_key="gene", n_null=wrong)


def guides(n_genes, effect, seed=0):
    """Two guides a gene, of which the first gene alone has an effect."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n_genes, 30))
    x[:2] += effect * rng.normal(size=30)
    obs = pd.DataFrame({"gene": np.repeat([f"g{i:03}" for i in range(n_genes)], 2)})
    return ad.AnnData(x, obs=obs.rename("guide{}".format))


def test_a_single_gene_among_many_is_found_by_default_and_not_by_ten_thousand_sets():
    screen = guides(569, effect=30)
    given = {"target_key": "gene", "control": None, "n_boot": 0}
    few = cf.tl.guide_consistency(screen, **given, n_null=10_000)
    assert few["pvalue"].iloc[0] == 1 / 10_001 and not few["significant"].any()
    table = cf.tl.guide_consistency(screen, **given)
    assert table["significant"].sum() == 1 and table["significant"].iloc[0]


def with_targets(targets, seed=0):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame({"target": targets}, index=[f"c{i:02}" for i in range(len(targets))])
    return ad.AnnData(rng.normal(size=(len(targets), 8)), obs=obs)


def test_a_compound_with_two_targets_is_a_replicate_of_both():
    compounds = with_targets(["A", "A|B", "B", "B|C", "C", *"DEFGH"])
    table = cf.tl.perturbation_consistency(compounds, by="target", control=None, sep="|", n_boot=0)
    units = compounds.X / np.linalg.norm(compounds.X, axis=1, keepdims=True)
    cosine = units @ units.T
    assert table["n"].to_dict() == {"A": 2, "B": 3, "C": 2, **dict.fromkeys("DEFGH", 1)}
    assert table.loc["A", "similarity"] == pytest.approx(cosine[0, 1])
    three = cosine[np.ix_([1, 2, 3], [1, 2, 3])][np.triu_indices(3, 1)].mean()
    assert table.loc["B", "similarity"] == pytest.approx(three)
    whole = cf.tl.perturbation_consistency(
        with_targets(["A", "A", "A|B", "B"]), by="target", control=None, n_boot=0
    )
    assert "A|B" in whole.index


def test_unrelated_compounds_share_no_target_and_none_is_drawn_twice():
    shared = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 1]], dtype=bool)
    rng = np.random.default_rng(0)
    drawn = draw_distinct(np.arange(4), 3, 500, rng, related=shared)
    assert {tuple(sorted(s)) for s in drawn.T} == {(0, 2, 3)}
    with pytest.raises(ValueError, match="without a shared target"):
        draw_distinct(np.arange(4), 4, 5, rng, related=shared)


def test_given_similarities_are_split_alike():
    compounds = with_targets(["A", "A|B", "B", "B|C", "C", *"DEFGH"])
    units = compounds.X / np.linalg.norm(compounds.X, axis=1, keepdims=True)
    compounds.obsp["cosine"] = units @ units.T
    given = {"by": "target", "control": None, "sep": "|", "n_boot": 0}
    a = cf.tl.perturbation_consistency(compounds, **given)
    b = cf.tl.perturbation_consistency(compounds, **given, use_sim="cosine")
    np.testing.assert_allclose(a["similarity"], b["similarity"])
    np.testing.assert_allclose(a["pvalue"], b["pvalue"], atol=2e-3)


@pytest.mark.parametrize("beside", ["A|ctrl", "ctrl | A", "A|ctrl|ctrl"])
def test_a_control_beside_a_target_is_no_target_in_any_verb(beside):
    plain = with_targets(["A", "A", "B", "B|C", "C", *"DEFGH", "ctrl", "ctrl"])
    other = plain.copy()
    other.obs["target"] = ["A", beside, "B", "B|C", "C", *"DEFGH", "ctrl", "ctrl|ctrl"]
    some = {"control": "ctrl", "sep": "|", "n_boot": 0}
    calls = {
        "guides": lambda x: cf.tl.guide_consistency(x, target_key="target", n_null=200, **some),
        "sets": lambda x: cf.tl.perturbation_consistency(x, by="target", n_null=200, **some),
        "map": lambda x: cf.tl.mean_average_precision(x, by="target", **some),
    }
    for name, call in calls.items():
        expected, found = call(plain), call(other)
        assert "ctrl" not in found.index, name
        pd.testing.assert_frame_equal(found, expected, check_like=True, obj=name)


def test_a_guide_with_two_targets_is_a_guide_of_both():
    targets = ["A", "A | B", "B", "B|C", "C", *"DEFGH", "ctrl", "ctrl"]
    guides = with_targets(targets)
    table = cf.tl.guide_consistency(
        guides, target_key="target", control="ctrl", sep="|", n_null=200, n_boot=0
    )
    assert table["n_guides"].to_dict() == {"A": 2, "B": 3, "C": 2, **dict.fromkeys("DEFGH", 1)}
    units = guides.X / np.linalg.norm(guides.X, axis=1, keepdims=True)
    assert table.loc["A", "similarity"] == pytest.approx(units[0] @ units[1])
    treated = guides[:10].copy()
    same = cf.tl.perturbation_consistency(
        treated, by="target", control=None, sep="|", n_null=200, n_boot=0
    )
    np.testing.assert_array_equal(table["pvalue"], same["pvalue"])
    assert guides.uns["guide_consistency"]["params"]["sep"] == "|"
    with pytest.raises(ValueError, match="sep=''"):
        cf.tl.guide_consistency(guides, target_key="target", control="ctrl", sep="")
