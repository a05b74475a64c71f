"""`cf.benchmark` on cells that were measured in both modalities; folds; genes; what is stale."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

import cellfuse as cf
from cellfuse.bench._design import Design
from cellfuse.bench._pairs import dealt_cells, pair_rows
from cellfuse.bench._screen import open_screen

BOTH = ("image", "rna")
N = 5 * 4 * 9  # sections, tiles of each, spots of each


@pytest.fixture
def tissue():
    """Spots in tiles in sections, each as pixels and as counts, in another order on each side."""
    rng = np.random.default_rng(0)
    spot = np.arange(N)
    section, tile = spot // 36, spot // 9
    state = rng.normal(size=(N, 3)) + rng.normal(size=(20, 3))[tile]
    depth = rng.normal(size=N)
    mods = {}
    for m in BOTH:
        obs = pd.DataFrame(
            {
                "section": [f"s{k}" for k in section],
                "tile": [f"t{k}" for k in tile],
                "spot": [f"spot{k}" for k in spot],
            },
            index=[f"{m}-{k}" for k in spot],
        )
        x = np.column_stack([state + 0.3 * rng.normal(size=(N, 3)), depth])
        adata = ad.AnnData(obs=obs, obsm={"state": x.astype("f4")})
        if m == "rna":
            counts = rng.poisson(np.exp(2 + 0.3 * depth)[:, None] * np.r_[np.ones(6), 9, 9, 5])
            adata = ad.AnnData(counts.astype("f4"), obs=obs, obsm=adata.obsm)
            adata.var_names = [f"gene{j}" for j in range(9)]
        else:
            bright = np.clip(100 + 20 * depth, 0, 255)[:, None, None, None]
            adata.obsm["crops"] = np.broadcast_to(bright, (N, 1, 8, 8)).astype("u1")
        mods[m] = adata[rng.permutation(N)].copy()
    return md.MuData(mods)


DESIGN = {"context_keys": "tile", "control": None, "pair_key": "spot", "progress": False}


class Spy:
    """A model that notes which cells it was shown."""

    seen: dict[str, set[str]] = {}

    def __init__(self, mdata, *, seed=0):
        Spy.seen = {m: set(mdata[m].obs_names) for m in BOTH}
        self.history = {}

    @classmethod
    def setup_mudata(cls, mdata, *, context_keys):
        pass

    def train(self):
        pass

    def get_latent_representation(self, data, *, modality):
        return np.asarray(data[modality].obsm["state"])[:, :3]


def spots(names):
    return {name.split("-")[1] for name in names}


def test_a_pair_is_seen_from_one_side_and_held_out_ones_from_none(tissue):
    found = cf.benchmark(
        tissue, {"spy": Spy}, {"spots": {"metric": "alignment", "of": "pairs"}}, **DESIGN, seeds=1,
        hold_out=5, hold_out_by="section", correction="none",
    )  # fmt: skip
    image, rna = (spots(Spy.seen[m]) for m in BOTH)
    assert not image & rna and len(image | rna) == N - 36
    assert not found.scores["ceiling"].any()  # a cell has no halves
    row = found.scores.query("score == 'foscttm'").iloc[0]
    assert row["n"] == 36  # both sides of the spots of the section left out
    assert found.conclusion.startswith(
        "1 seed, held-out contexts across the modalities: FOSCTTM 0."
    )
    held = {str(k) for k in range(N)} - image - rna
    x, y = (tissue[m][[f"{m}-{k}" for k in sorted(held)]].obsm["state"][:, :3] for m in BOTH)
    assert row["value"] == pytest.approx(by_hand(x, y), abs=1e-6) and row["value"] < 0.2


def by_hand(x, y):
    """Share of other spots whose other side has a larger cosine than the own one, both ways."""
    x, y = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (x, y))
    cosine = x @ y.T
    places = [np.diag(rankdata(-c, axis=1)) - 1 for c in (cosine, cosine.T)]
    return float(np.mean(places) / (len(x) - 1))


def test_half_of_each_context_goes_each_way_and_another_half_with_another_seed(tissue):
    design = Design(context_keys="tile", control=None, pair_key="spot")
    parts = {m: tissue[m] for m in BOTH}
    deals = [dealt_cells(parts, design, seed) for seed in range(20)]
    first = []
    for own in deals:
        sides = {m: set(parts[m].obs["spot"][own[m]]) for m in BOTH}
        assert not sides["image"] & sides["rna"] and len(sides["image"] | sides["rna"]) == N
        per_tile = parts["image"].obs["tile"][own["image"]].value_counts()
        assert set(per_tile) == {4, 5}  # nine spots: the odd one goes to either side
        first.append(sides["image"])
    shares = np.mean([[f"spot{k}" in side for side in first] for k in range(N)], axis=1)
    assert 0.05 < shares.min() < shares.max() < 0.95
    assert dealt_cells(parts, design, 3)["rna"].tolist() == deals[3]["rna"].tolist()


def test_profiles_know_a_cell_by_one_side(tissue):
    seen = {}

    def look(view):
        seen["cells"] = {m: view.cells.mod[m].n_obs for m in BOTH}
        seen["guides"] = int(view.guides.obs["n_cells"].sum()) if view.name == "image" else 0
        return 0.0

    cf.benchmark(tissue, ["state"], {"look": look}, **DESIGN, seeds=1, correction="none")
    assert seen["cells"]["image"] + seen["cells"]["rna"] == N


def test_cells_without_a_partner_stay_and_are_no_pair(tissue):
    tissue["image"].obs.loc[tissue["image"].obs.index[:10], "spot"] = np.nan
    design = Design(context_keys="tile", control=None, pair_key="spot")
    screen = open_screen(tissue, design)
    assert screen.own["image"][:10].all()
    rows = pair_rows(screen)
    assert len(rows["image"]) == len(rows["rna"]) == N - 10
    labels = [screen.mdata[m].obs["spot"].iloc[rows[m]].tolist() for m in BOTH]
    assert labels[0] == labels[1] and len(set(labels[0])) == N - 10


def test_each_fold_is_left_out_in_turn_and_dealt_anew_after_a_round(tissue):
    out = []
    for seed in range(6):
        screen = open_screen(
            tissue, Design(context_keys="tile", control=None, hold_out=3, hold_out_by="section"),
            seed=seed,
        )  # fmt: skip
        out.append(frozenset(screen.mdata["rna"].obs["section"][~screen.train["rna"]]))
    for turn in (out[:3], out[3:]):
        assert sorted(len(fold) for fold in turn) == [1, 2, 2]
        assert frozenset().union(*turn) == {f"s{k}" for k in range(5)}
    assert set(out[:3]) != set(out[3:])


def test_genes_are_chosen_by_the_cells_that_models_see(tissue):
    held = tissue["rna"].obs["section"] == "s0"
    x = np.asarray(tissue["rna"].X)
    x[held.to_numpy(), 0] = 1e6
    design = Design(context_keys="tile", control=None, hold_out={"section": "s0"}, n_genes=3)
    screen = open_screen(tissue, design)
    assert screen.mdata["rna"].var_names.tolist() == ["gene6", "gene7", "gene8"]
    assert tissue["rna"].n_vars == 9


def test_what_both_sides_share_beside_their_state_is_taken_out_of_both(tissue):
    """Depth makes images bright and counts many: pairs are found by it, and not once it is out."""
    for m in BOTH:
        noise = np.random.default_rng(1).normal(size=(N, 4))
        tissue[m].obsm["depth"] = 3 * np.roll(tissue[m].obsm["state"], 1, axis=1) * [1, 0, 0, 0]
        tissue[m].obsm["depth"] = (tissue[m].obsm["depth"] + 0.1 * noise[:, :4]).astype("f4")
    ways = {
        "raw": {},
        "out": {"regress_out": ["log_counts", "brightness"]},
        "axis": {"less_axes": 1},
        "column": {"regress_out": "depth_of_spot"},
    }
    tissue["rna"].obs["depth_of_spot"] = tissue["rna"].obsm["depth"][:, 0]
    found = cf.benchmark(
        tissue, ["depth"],
        {k: {"metric": "alignment", "of": "pairs", **v} for k, v in ways.items()},
        **DESIGN, seeds=1, image_rep="crops", correction="none",
    )  # fmt: skip
    assert found.failures[~found.failures["metric"].isin(ways)].empty
    value = found.scores.query("score == 'foscttm' and not ceiling").set_index("metric")["value"]
    assert value["raw"] < 0.3
    assert value[["out", "axis", "column"]].min() > 0.4


@pytest.mark.parametrize(
    ("change", "metrics", "message"),
    [
        ({"pair_key": "spo"}, {}, "Did you mean 'spot'"),
        ({"pair_key": "tile"}, {}, "several cells of modality 'image'"),
        ({"pair_key": "own"}, {}, "no label of .* stands in both"),
        ({"context_keys": "side"}, {}, "lie in another context"),
        ({"pair_key": None}, {"alignment": {"of": "pairs"}}, r"name the obs column .*pair_key"),
        ({}, {"alignment": {"of": "spots"}}, "Did you mean|'spots' is not in"),
        ({}, {"alignment": {"regress_out": "spot"}}, "of='pairs'"),
        ({}, {"alignment": {"less_axes": -1}}, "whole number of axes from 0"),
        ({}, {"alignment": {"of": "pairs", "regress_out": "sektion"}}, "Did you mean 'section'"),
        ({"hold_out": 9, "hold_out_by": "section"}, {}, "9 folds of 5 values"),
        ({"hold_out": 1, "hold_out_by": "section"}, {}, "expected 2 to 5 folds"),
        ({"n_genes": 0}, {}, "whole number of genes"),
        ({"n_genes": 3, "rna_rep": "state"}, {}, "chooses genes of the expression's counts"),
    ],
)
def test_wrong_words_are_refused_before_anything_runs(tissue, change, metrics, message):
    for m in BOTH:
        tissue[m].obs["own"] = [f"{m} {k}" for k in range(N)]
        tissue[m].obs["side"] = m
    with pytest.raises((KeyError, ValueError), match=message):
        cf.benchmark(
            tissue, ["state"], metrics or {"alignment": {}}, **{**DESIGN, **change}, seeds=1
        )


def test_one_modality_has_no_pairs(tissue):
    alone = md.MuData({"rna": tissue["rna"]})
    with pytest.raises(ValueError, match="cells of two modalities"):
        open_screen(alone, Design(context_keys="tile", control=None, pair_key="spot"))


def test_a_column_that_an_option_names_is_part_of_the_result(tissue, tmp_path):
    """Another labelling under the same name is another result; another column is not."""
    lines = []

    def run():
        Spy.seen = {}
        cf.benchmark(
            tissue, {"a": {"model": Spy, "setup": {"context_keys": "tile"}}},
            {"alignment": {"of": "pairs", "regress_out": "score"}}, **DESIGN, seeds=1,
            hold_out=2, hold_out_by="section", folder=tmp_path / "out", correction="none",
        )  # fmt: skip
        cells = len(list((tmp_path / "out" / "cells").glob("*.json")))
        lines.append((bool(Spy.seen), cells))

    tissue["rna"].obs["score"] = 1.0
    run()
    tissue["rna"].obs["other"] = 2.0
    run()
    tissue["rna"].obs["score"] = np.arange(float(N))
    run()  # scored anew, not embedded anew
    tissue["image"].obs["section"] = tissue["image"].obs["section"].replace("s0", "s9")
    tissue["rna"].obs["section"] = tissue["rna"].obs["section"].replace("s0", "s9")
    run()  # what is held out may be another
    assert lines == [(True, 1), (False, 1), (False, 2), (True, 3)]


def test_centred_takes_away_what_lies_between_the_modalities(tissue):
    """Far from the origin, and on either side of it, cosines say little of the state."""
    for m, offset in zip(BOTH, (20, -20), strict=True):
        tissue[m].obsm["far"] = tissue[m].obsm["state"][:, :3] + np.float32([offset, 0, 0])
    ways = {"raw": {}, "centred": {"centred": True}}
    found = cf.benchmark(
        tissue, ["far"], {k: {"metric": "alignment", "of": "pairs", **v} for k, v in ways.items()},
        **DESIGN, seeds=1, correction="none",
    )  # fmt: skip
    value = found.scores.query("score == 'foscttm'").set_index("metric")["value"]
    assert value["centred"] < 0.1 < 0.2 < value["raw"]
