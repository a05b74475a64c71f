"""Null sets of neighbouring wells: what replicates share by their position is no agreement."""

from __future__ import annotations

from itertools import product

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.kernels.layout import neighbour_sets
from cellfuse.tl._layout_null import LayoutNull
from cellfuse.tl._similarity import similarity_of

CONTROLS = {"by": "compound", "control": "DMSO", "n_boot": 0}


def screen(*, gradient=1.0, effect=0.0, seed=0):
    """One layout on four plates: 64 compounds and 32 controls, a surface over the plate."""
    rng = np.random.default_rng(seed)
    names = [f"{row}{column:02}" for row, column in product("ABCDEFGH", range(1, 13))]
    compound = np.array([f"c{i:02}" for i in range(64)] + ["DMSO"] * 32)[rng.permutation(96)]
    row, column = np.divmod(np.arange(96), 12)
    phase = 3 * rng.normal(size=(20, 2))
    waves = np.stack([np.sin(row / 2 + a) * np.cos(column / 3 + b) for a, b in phase])
    surface = gradient * waves.T
    own = effect * rng.normal(size=20) * (compound == "c00")[:, None]
    x = np.concatenate([surface + own + rng.normal(size=(96, 20)) for _ in range(4)])
    obs = pd.DataFrame(
        {"compound": np.tile(compound, 4), "well": names * 4, "plate": np.repeat(list("pqrs"), 96)}
    )
    return ad.AnnData(x, obs=obs.rename("w{}".format))


def called(verb, wells, null, **given):
    table = verb(wells, **CONTROLS, null=null, **given)
    return (table["pvalue"].dropna() < 0.05).mean()


def test_replicates_that_share_nothing_but_their_position_are_not_called():
    mean_precision = cf.tl.mean_average_precision
    consistency = cf.tl.perturbation_consistency
    there = {"well_key": "well", "batch_key": "plate"}
    wells = [screen(seed=s) for s in range(2)]
    plain = [called(mean_precision, w, "joint", negatives_by="plate") for w in wells]
    layout = [called(mean_precision, w, "layout", negatives_by="plate", **there) for w in wells]
    assert np.mean(plain) > 0.3 and np.mean(layout) < 0.15
    plain = [called(consistency, w, "unrelated") for w in wells]
    layout = [called(consistency, w, "layout", **there) for w in wells]
    assert np.mean(plain) > 0.3 and np.mean(layout) < 0.15


def test_without_a_surface_the_layout_null_keeps_its_level_and_an_effect_stands_out():
    wells = screen(gradient=0.0, effect=6.0)
    given = {"well_key": "well", "batch_key": "plate"}
    for verb in (cf.tl.mean_average_precision, cf.tl.perturbation_consistency):
        table = verb(wells, **CONTROLS, null="layout", **given)
        assert table["pvalue"].idxmin() == "c00" and table.loc["c00", "significant"]
        assert (table["pvalue"].drop("c00") < 0.05).mean() < 0.12


def test_wells_of_a_set_are_neighbours_that_differ_in_all_that_is_named():
    row, column = (np.tile(n, 3) for n in np.divmod(np.arange(96), 12))
    plate = np.repeat(np.arange(3), 96)
    label = np.tile(np.arange(96) // 2, 3)
    apart = np.stack([label, plate], axis=1)
    sets = neighbour_sets(row, column, apart, 3, 400, np.random.default_rng(0))
    for s in sets.T:
        assert len(set(plate[s])) == 3 and len(set(label[s])) == 3
        assert np.abs(row[s] - row[s[0]]).max() <= 1 and np.abs(column[s] - column[s[0]]).max() <= 1
    counts = np.bincount(sets[0], minlength=288)
    assert (counts > 0).mean() > 0.6  # anywhere on the plates
    with pytest.raises(ValueError, match="too rare to be drawn"):
        neighbour_sets(row, column, apart, 4, 5, np.random.default_rng(0))


@pytest.mark.parametrize("control", [None, "DMSO"])
def test_the_score_of_a_set_is_that_of_a_group(control, monkeypatch):
    """The wells of one set, given a label of their own, against the verb itself."""
    wells = screen(gradient=1.0)
    if control is None:
        wells = wells[wells.obs["compound"] != "DMSO"].copy()
    drawn = []

    def noted(*args, **kwargs):
        drawn.append(neighbour_sets(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr("cellfuse.tl._layout_null.neighbour_sets", noted)
    nulls = []
    of = LayoutNull.of
    monkeypatch.setattr(LayoutNull, "of", lambda self, m: nulls.append(of(self, m)) or nulls[-1])
    cf.tl.mean_average_precision(
        wells,
        by="compound",
        negatives_by="plate",
        control=control,
        null="layout",
        well_key="well",
        batch_key="plate",
        n_null=3,
        n_boot=0,
    )
    size4 = next(i for i, sets in enumerate(drawn) if len(sets) == 4)
    queries = np.arange(wells.n_obs)
    if control is not None:
        queries = np.flatnonzero(wells.obs["compound"] != "DMSO")
    units = similarity_of(wells, use_rep=None)
    labels, plate = wells.obs["compound"].to_numpy(), wells.obs["plate"].to_numpy()
    scores = []
    for members in queries[drawn[size4]].T:
        precision = []
        for i in members:
            others = members[members != i]
            apart = ~np.isin(np.arange(len(labels)), members) & (labels != labels[i])
            pool = np.flatnonzero((plate == plate[i]) & apart)
            if control is not None:
                pool = pool[labels[pool] == "DMSO"]
            positive = -np.sort(-units.between(np.array([i]), others)[0])
            above = (units.between(np.array([i]), pool) > positive[:, None]).sum(axis=1)
            order = np.arange(1, 4)
            precision.append(np.mean(order / (order + above)))
        scores.append(np.mean(precision))
    np.testing.assert_allclose(np.sort(scores), nulls[size4])


@pytest.mark.parametrize(
    ("verb", "given", "text"),
    [
        ("mean_average_precision", {"per_profile": True}, "no `per_profile`"),
        ("mean_average_precision", {"sep": "|"}, "no `sep`"),
        ("mean_average_precision", {"well_key": "plate"}, "name no well: 'p'"),
        ("perturbation_consistency", {"sep": "|"}, "neither `sep`"),
        ("perturbation_consistency", {"null": "lay"}, "'unrelated', 'layout'"),
    ],
)
def test_a_layout_null_that_cannot_be_is_refused(verb, given, text):
    with pytest.raises(ValueError, match=text):
        getattr(cf.tl, verb)(screen(), **{**CONTROLS, "null": "layout", **given})
