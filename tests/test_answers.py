"""Hits, neighbours, responders, sets, doses, combinations: on screens whose truth is known."""

from __future__ import annotations

import importlib.util

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact, kstest

import cellfuse as cf
from cellfuse.tl.doses import hill


def wells(
    n_active=12,
    n_inert=28,
    n_batches=2,
    n_each=2,
    strength=2.0,
    seed=0,
    per_batch=False,
    n_features=12,
):
    """Wells of perturbations on plates; `per_batch` gives each plate its own effect."""
    rng = np.random.default_rng(seed)
    names = [f"active{i}" for i in range(12)] + [f"inert{i}" for i in range(28)]
    names += ["control"] * 4
    rows, x = [], []
    effects = {n: rng.normal(size=n_features) for n in names}
    for batch in range(n_batches):
        for name in names:
            effect = rng.normal(size=n_features) if per_batch else effects[name]
            for _ in range(n_each):
                rows.append({"gene": name, "plate": f"p{batch}"})
                on = 2.0 if name.startswith("active") else 0.0
                x.append(on * effect + rng.normal(size=n_features))
    return ad.AnnData(np.array(x), obs=pd.DataFrame(rows).rename(str))


# -- hits -----------------------------------------------------------------------------------------


def test_hits_are_those_that_do_something():
    table = cf.tl.hits(wells(), by="gene", control="control", batch_key="plate", n_null=999)
    active = table.index.str.startswith("active")
    assert table.loc[active, "hit"].mean() > 0.9
    assert table.loc[~active, "hit"].mean() < 0.05
    assert table["hit"].iloc[0] and table["effect"].iloc[0] > 2


def test_what_each_plate_does_differently_is_active_and_not_replicated():
    adata = wells(n_each=6, per_batch=True, n_features=60)  # effects of plates are unrelated
    table = cf.tl.hits(adata, by="gene", control="control", batch_key="plate", n_null=999)
    active = table.index.str.startswith("active")
    assert table.loc[active, "active"].mean() > 0.8
    assert table["replicated"].sum() <= 1 and table["hit"].sum() <= 1  # q < 5%


def test_hits_keep_one_table_and_leave_the_data():
    adata = wells()
    before = adata.copy()
    table = cf.tl.hits(adata, by="gene", control="control", n_null=99)
    assert list(adata.uns) == ["hits"]
    pd.testing.assert_frame_equal(adata.uns["hits"]["table"], table)
    np.testing.assert_array_equal(adata.X, before.X)
    assert "replicated" not in table


def test_the_order_of_the_rows_changes_no_hit():
    adata = wells()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    arguments = {"by": "gene", "control": "control", "n_null": 199}
    pd.testing.assert_frame_equal(
        cf.tl.hits(adata, **arguments), cf.tl.hits(shuffled, **arguments), rtol=1e-6
    )


# -- nearest --------------------------------------------------------------------------------------


def in_pairs(n=40, seed=0):
    """Profiles of genes of which 2i and 2i + 1 are alike."""
    rng = np.random.default_rng(seed)
    x = np.repeat(rng.normal(size=(n // 2, 20)), 2, axis=0) + 0.3 * rng.normal(size=(n, 20))
    return ad.AnnData(x, obs=pd.DataFrame(index=[f"g{i:02d}" for i in range(n)]))


def test_the_nearest_is_the_partner_and_rare():
    table = cf.tl.nearest_perturbations(in_pairs(), k=3)
    first = table[table["rank"] == 1]
    partner = [f"g{int(name[1:]) ^ 1:02d}" for name in first["perturbation"]]
    assert first["neighbour"].tolist() == partner
    assert (first["pvalue"] < 0.05).all()
    assert (table[table["rank"] == 3]["pvalue"] > first["pvalue"].max()).all()


def test_neighbours_are_those_of_scikit_learn():
    from sklearn.neighbors import NearestNeighbors

    genes = in_pairs()
    found = cf.tl.nearest_perturbations(genes, ["g03"], k=5)
    distance, place = (
        NearestNeighbors(metric="cosine", n_neighbors=6).fit(genes.X).kneighbors(genes.X[[3]])
    )
    assert found["neighbour"].tolist() == genes.obs_names[place[0, 1:]].tolist()
    np.testing.assert_allclose(found["similarity"], 1 - distance[0, 1:], atol=1e-6)


def test_controls_are_neither_asked_nor_found():
    table = cf.tl.nearest_perturbations(in_pairs(), k=5, control="g00")
    assert "g00" not in set(table["perturbation"]) | set(table["neighbour"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "expected a whole number, at least 1"),
        ({"k": 40}, "expected 1 to 39"),
        ({"names": "g3"}, "g03"),
    ],
)
def test_wrong_questions_for_neighbours_are_refused(arguments, message):
    with pytest.raises((KeyError, ValueError), match=message):
        cf.tl.nearest_perturbations(in_pairs(), **arguments)


# -- responders -----------------------------------------------------------------------------------


def cells(shares, n=300, shift=2.5, seed=0):
    rng = np.random.default_rng(seed)
    gene = np.repeat(["control", *shares], n)
    truth = rng.random(len(gene)) < np.repeat([0.0, *shares.values()], n)
    x = rng.normal(size=(len(gene), 8)) + shift * truth[:, None] * (np.arange(8) < 4)
    adata = ad.AnnData(x, obs=pd.DataFrame({"gene": gene, "truth": truth}).rename(str))
    return adata


def test_the_share_of_responders_is_found_and_the_cells_are_theirs():
    adata = cells({"all": 1.0, "half": 0.5, "few": 0.15, "none": 0.0})
    table = cf.tl.responders(adata, by="gene", control="control")
    assert table["significant"].to_dict() == {
        "all": True, "few": True, "half": True, "none": False,
    }  # fmt: skip
    for name, share in {"all": 1.0, "half": 0.5, "few": 0.15, "none": 0.0}.items():
        assert table.loc[name, "share"] == pytest.approx(share, abs=0.06)
    mine = (adata.obs["gene"] == "half").to_numpy()
    assert (adata.obs["responders"] == adata.obs["truth"])[mine].mean() > 0.95
    is_control = adata.obs["gene"] == "control"
    assert adata.obs.loc[is_control, "responders_score"].isna().all()
    assert not adata.obs.loc[is_control, "responders"].any()


def test_perturbations_without_effect_have_uniform_p_values():
    adata = cells({f"g{i:02d}": 0.0 for i in range(20)}, n=40, seed=3)
    table = cf.tl.responders(adata, by="gene", control="control")
    assert kstest(table["pvalue"], "uniform").pvalue > 0.01
    assert (table.loc[~table["significant"], "share"] == 0).all()


def test_the_order_of_the_cells_changes_no_responder():
    adata = cells({"a": 0.5, "b": 0.0}, n=60)
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    tables = [cf.tl.responders(x, by="gene", control="control") for x in (adata, shuffled)]
    pd.testing.assert_frame_equal(*tables)
    same = shuffled.obs["responders_score"].reindex(adata.obs_names)
    np.testing.assert_allclose(same, adata.obs["responders_score"], rtol=1e-9)


def test_small_perturbations_are_not_fitted_and_views_refused():
    adata = cells({"a": 1.0}, n=40)
    adata.obs["gene"] = np.where(np.arange(80) == 79, "rare", adata.obs["gene"])
    table = cf.tl.responders(adata, by="gene", control="control")
    assert np.isnan(table.loc["rare", "share"]) and not table.loc["rare", "significant"]
    with pytest.raises(ValueError, match="is a view"):
        cf.tl.responders(adata[:50], by="gene", control="control")
    with pytest.raises(ValueError, match="no perturbation has min_cells=1000|too few"):
        cf.tl.responders(adata, by="gene", control="control", min_cells=1000)


# -- sets -----------------------------------------------------------------------------------------

GENES = [f"G{i}" for i in range(120)]
SETS = {"mine": GENES[:12], "large": GENES[:60], "other": GENES[60:80], "tiny": GENES[:3]}


def needs_decoupler():
    """Skip without it; importing it here would change the settings of figures."""
    if importlib.util.find_spec("decoupler") is None:
        pytest.skip("decoupler is not installed")


def test_sets_are_tested_as_fisher_does():
    needs_decoupler()
    found = GENES[:10] + GENES[100:105]
    table = cf.tl.enrich(found, SETS, background=GENES).set_index("term")
    assert set(table.index) == {"mine", "large", "other"}  # `tiny` is below the least size
    for term in table.index:
        a = len(set(found) & set(SETS[term]))
        b, c = len(SETS[term]) - a, len(found) - a
        exact = fisher_exact([[a, b], [c, len(GENES) - a - b - c]], alternative="greater")
        assert table.loc[term, "pvalue"] == pytest.approx(exact.pvalue)
        assert table.loc[term, "n_hits"] == a
    assert table.index[0] == "mine" and table.loc["mine", "significant"]
    assert table.loc["mine", "hits"].split(", ") == sorted(GENES[:10])


def test_the_background_is_the_screen_not_the_genome():
    needs_decoupler()
    narrow = GENES[:20]  # a library of the set's own genes
    found = cf.tl.enrich(GENES[:4], {"mine": GENES[:12]}, background=narrow)
    assert not found["significant"].any()
    wide = cf.tl.enrich(GENES[:4], {"mine": GENES[:12]}, background=GENES)
    assert wide["significant"].all()


def test_hits_go_straight_into_sets():
    needs_decoupler()
    adata = wells()
    table = cf.tl.hits(adata, by="gene", control="control", n_null=199)
    sets = {"active": [n for n in table.index if n.startswith("active")], "any": table.index[::3]}
    found = cf.tl.enrich(adata, sets)
    assert found["term"].iloc[0] == "active" and adata.uns["enrich"]["table"].equals(found)


@pytest.mark.parametrize(
    ("hits", "background", "message"),
    [
        ([], GENES, "no perturbation is a hit"),
        (GENES, GENES, "every perturbation is a hit"),
        (["X"], GENES, "1 hits are not in the background: 'X'"),
        (GENES[:3], None, "need a `background`"),
        (pd.DataFrame({"active": [True]}), None, "'hit' is not in the columns"),
    ],
)
def test_hits_that_cannot_be_tested_are_refused(hits, background, message):
    with pytest.raises((KeyError, ValueError), match=message):
        cf.tl.enrich(hits, SETS, background=background)


# -- doses ----------------------------------------------------------------------------------------


def dosed(ec50s, noise=0.3, n_each=4, seed=0):
    rng = np.random.default_rng(seed)
    doses = np.repeat(np.geomspace(0.01, 100, 9), n_each)
    rows = [
        {"drug": drug, "dose": dose, "response": 1 + 3 * dose**1.5 / (dose**1.5 + middle**1.5)}
        for drug, middle in ec50s.items()
        for dose in doses
    ]
    rows += [{"drug": "DMSO", "dose": np.nan, "response": 1.0}] * 24
    obs = pd.DataFrame(rows).rename(str)
    obs["response"] += noise * rng.normal(size=len(obs))
    return ad.AnnData(obs=obs)


ARGUMENTS = {"by": "drug", "dose_key": "dose", "control": "DMSO", "value": "response"}


def test_the_curve_that_made_the_data_is_found():
    truth = {"potent": 0.1, "middling": 3.0, "weak": 40.0}
    table = cf.tl.dose_response(dosed(truth | {"inert": 1e12}), **ARGUMENTS)
    assert table["significant"].to_dict() == {
        "inert": False, "middling": True, "potent": True, "weak": True,
    }  # fmt: skip
    for drug, middle in truth.items():
        assert table.loc[drug, "ec50_low"] < middle < table.loc[drug, "ec50_high"]
    assert table.loc["potent", ["bottom", "top"]].tolist() == pytest.approx([1, 4], abs=0.2)
    assert table.loc["potent", "slope"] == pytest.approx(1.5, abs=0.5)


def test_without_an_effect_p_is_uniform():
    table = cf.tl.dose_response(dosed({f"d{i:02d}": 1e12 for i in range(40)}), **ARGUMENTS)
    assert (table["pvalue"] < 0.05).mean() < 0.12
    assert 0.2 < table["pvalue"].median() < 0.8


def test_a_middle_beyond_the_doses_is_marked():
    table = cf.tl.dose_response(dosed({"weak": 800.0, "potent": 1.0}, noise=0.01), **ARGUMENTS)
    assert table["inside"].to_dict() == {"potent": True, "weak": False}


def test_profiles_respond_by_their_distance_to_the_controls():
    adata = dosed({"potent": 0.1, "inert": 1e12}, noise=0.0)
    rng = np.random.default_rng(0)
    effect = adata.obs["response"].to_numpy() - 1
    adata = ad.AnnData(effect[:, None] * np.ones(6) + rng.normal(size=(len(effect), 6)), adata.obs)
    table = cf.tl.dose_response(adata, **{**ARGUMENTS, "value": None})
    assert table["significant"].to_dict() == {"inert": False, "potent": True}
    responses = adata.uns["dose_response"]["responses"]
    assert responses.loc[responses["dose"] == 0, "response"].mean() == pytest.approx(1.0)


def test_the_curve_is_the_log_logistic():
    dose = np.array([0.0, 0.1, 1.0, 10.0])
    expected = [2.0, *(2 + 3 / (1 + dose[1:] ** -2.0))]
    np.testing.assert_allclose(hill(dose, 2.0, 5.0, 0.0, 2.0), expected)


@pytest.mark.parametrize("dose", [0.0, -1.0, "high", np.nan])
def test_doses_that_are_no_numbers_are_refused(dose):
    adata = dosed({"a": 1.0})
    adata.obs["dose"] = adata.obs["dose"].astype(object)
    adata.obs.iloc[0, adata.obs.columns.get_loc("dose")] = dose
    with pytest.raises(ValueError, match="1 doses that are no numbers above 0"):
        cf.tl.dose_response(adata, **ARGUMENTS)


def test_two_doses_are_no_curve():
    adata = dosed({"a": 1.0})
    with pytest.raises(ValueError, match="no compound has 3 doses"):
        cf.tl.dose_response(adata[adata.obs["dose"].isin([0.01, 100]) | adata.obs["dose"].isna()],
                            **ARGUMENTS)  # fmt: skip


# -- combinations ---------------------------------------------------------------------------------


def crossed(factors, n=60, noise=1.5, seed=0):
    """Cells of single perturbations and of combinations that do `factor` times their sum."""
    rng = np.random.default_rng(seed)
    singles = {f"s{i:02d}": rng.normal(size=6) for i in range(len(factors) + 1)}
    effect = {"control": np.zeros(6), **singles}
    for i, factor in enumerate(factors):
        effect[f"s{i:02d}+s{i + 1:02d}"] = factor * (
            singles[f"s{i:02d}"] + singles[f"s{i + 1:02d}"]
        )
    labels = np.repeat(list(effect), n)
    x = np.array([effect[name] for name in labels]) + noise * rng.normal(size=(len(labels), 6))
    return ad.AnnData(x, obs=pd.DataFrame({"guide": labels}).rename(str))


def test_what_is_not_additive_is_found_with_its_sign():
    adata = crossed([1, 1, 1, 1, 2.2, 0.2], noise=0.5)
    table = cf.tl.combinations(adata, by="guide", control="control", alpha=0.01)
    assert table["significant"].tolist() == [False] * 4 + [True] * 2
    assert table["epistasis"].iloc[4] == pytest.approx(1.2, abs=0.3)
    assert table["epistasis"].iloc[5] == pytest.approx(-0.8, abs=0.3)
    assert (table["similarity"].iloc[:5] > 0.9).all()


def test_of_additive_combinations_few_are_called():
    table = cf.tl.combinations(crossed([1.0] * 60, n=25), by="guide", control="control")
    assert (table["pvalue"] < 0.05).mean() < 0.12
    assert not table["significant"].any()


def test_names_may_stand_in_any_order_and_parts_must_be_there():
    adata = crossed([0.2])
    adata.obs["guide"] = adata.obs["guide"].replace({"s00+s01": "s01+s00"})
    table = cf.tl.combinations(adata, by="guide", control="control")
    assert table.loc["s01+s00", ["first", "second"]].tolist() == ["s01", "s00"]
    alone = adata[adata.obs["guide"] != "s01"].copy()
    with pytest.raises(ValueError, match="measured alone"):
        cf.tl.combinations(alone, by="guide", control="control")


def test_the_order_of_the_cells_changes_no_combination():
    adata = crossed([1.0, 0.5])
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)].copy()
    tables = [cf.tl.combinations(x, by="guide", control="control") for x in (adata, shuffled)]
    pd.testing.assert_frame_equal(*tables)
