"""`cf.benchmark`: the same cells, splits and controls for every method; failures are rows."""

from __future__ import annotations

import inspect
import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

import cellfuse as cf
from cellfuse.bench import _views
from cellfuse.bench._design import Design
from cellfuse.bench._methods import read_methods
from cellfuse.bench._screen import open_screen
from cellfuse.bench._summary import CEILING, conclusion
from cellfuse.bench._views import views_of

BOTH = ("image", "rna")


@pytest.fixture(scope="module")
def screen():
    mdata = cf.datasets.simulated_screen(
        30,
        n_targets=12,
        complex_size=3,
        guides_per_target=3,
        n_control_guides=6,
        cells_per_guide=10,
        n_wells=2,
        image_size=16,
        no_effect=0.0,
        seed=0,
    )
    rng = np.random.default_rng(0)
    for m in BOTH:
        mdata[m].obsm["truth"] = mdata[m].obsm["latent"]
        mdata[m].obsm["noise"] = rng.normal(size=(mdata[m].n_obs, 8))
    return mdata


@pytest.fixture(scope="module")
def design():
    """What the screen is."""
    return {
        "context_keys": "guide",
        "image_rep": "crops",
        "control_key": "gene",
        "control": "non-targeting",
        "target_key": "gene",
        "batch_key": {"image": "well", "rna": None},
        "progress": False,
    }


CONSISTENT = {"guide_consistency": {"n_null": 300, "n_boot": 20}}


def edges_of(mdata):
    return {"edges": {"edges": mdata.uns["edges"], "n_boot": 20}}


@pytest.fixture(scope="module")
def result(screen, design, tmp_path_factory):
    """Two seeds of given embeddings and floors."""
    return cf.benchmark(
        screen,
        ["truth", "noise", "random", "position", "PCA", "PCA@max"],
        {**CONSISTENT, **edges_of(screen), "alignment": {}},
        **design,
        seeds=2,
        hold_out=0.25,
        against="noise",
        ceiling_of="truth",
        folder=tmp_path_factory.mktemp("bench") / "out",
    )


def of(result, method, view, column):
    table = result.table
    return table.loc[(table["method"] == method) & (table["view"] == view), column].item()


# -- the table ------------------------------------------------------------------------------------


def test_truth_is_found_and_random_numbers_are_not(result):
    assert of(result, "truth", "concat", "edges_auc") > 0.9
    assert 0.2 < of(result, "random", "average", "edges_auc") < 0.8
    assert of(result, "truth", "concat", "guide_consistency") > 0.8
    assert of(result, "random", "average", "guide_consistency") < 0.2
    assert of(result, "position", "image", "guide_consistency") < 0.2


def test_every_modality_and_both_together_are_scored(result):
    views = result.table.groupby("method", sort=False)["view"].apply(list)
    assert views["truth"] == ["image", "rna", "concat"]
    assert views["PCA@max"] == ["image", "rna", "max"]


def test_medians_lie_between_the_lowest_and_the_highest_seed(result):
    table = result.table[result.table["method"] != CEILING]
    for name in ("guide_consistency", "edges_tpr", "edges_auc"):
        assert table[name].between(table[f"{name}_low"], table[f"{name}_high"]).all()
    one = result.scores.query("method == 'random' and metric == 'edges' and score == 'auc'")
    own = one[one["view"] == "average"]["value"]
    assert of(result, "random", "average", "edges_auc_high") == own.max()


def test_the_ceiling_of_good_features_is_above_what_noise_reaches(result):
    top = of(result, CEILING, "both", "edges_auc")
    assert of(result, "random", "average", "edges_auc") < top <= 1
    assert of(result, CEILING, "both", "alignment_foscttm") < 0.4
    # Guides that all do the same agree no less than guides with off-target effects.
    highest = of(result, CEILING, "both", "guide_consistency")
    assert highest >= of(result, "truth", "concat", "guide_consistency")


def test_cells_dealt_anew_stay_with_their_target_and_guides_keep_their_numbers(screen, design):
    opened = open_screen(screen, Design(**{k: v for k, v in design.items() if k != "progress"}))
    cells = opened.cells({m: screen[m].obsm["truth"] for m in BOTH})
    (*_, fused) = views_of(cells, opened, fusion="concat", seed=0)
    seen = {}

    def looked_at(view, parts, fusion):
        seen.update(parts)
        return view

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_views, "_same_view", looked_at)
        _views.redealt(fused, fusion="concat")
    for m in BOTH:
        old, new = screen[m].obs, seen[m].obs
        assert new["guide"].value_counts().to_dict() == old["guide"].value_counts().to_dict()
        of_guide = old.groupby("guide", observed=True)["gene"].first()
        assert (of_guide[new["guide"]].to_numpy() == old["gene"].to_numpy()).all()
        assert 0.05 < (new["guide"].astype(str) == old["guide"].astype(str)).mean() < 0.7


def test_a_metric_that_a_method_cannot_have_is_a_row_that_says_why(screen, design):
    found = cf.benchmark(
        screen, {"mixed": {"image": "truth", "rna": "noise"}}, ["alignment"], **design, seeds=1
    )
    assert found.failures["metric"].tolist() == ["alignment"]
    assert "12 and 8 dimensions" in found.failures["why"].item()


def test_files_hold_what_the_result_holds(result):
    names = {p.name for p in result.folder.iterdir()}
    assert {"table.csv", "scores.csv", "comparisons.csv", "failures.csv", "runs.csv"} <= names
    read = pd.read_csv(result.folder / "table.csv")
    pd.testing.assert_frame_equal(read, result.table, check_dtype=False)


def test_the_table_prints_with_its_sentence(result):
    text = str(result)
    assert "truth" in text and result.conclusion in text and "[" in text


# -- fairness -------------------------------------------------------------------------------------


class Spy:
    """A model that remembers what it was shown and embeds by the truth."""

    seen: dict[str, set] = {}

    def __init__(self, adata, *, seed=0):
        self.adata, self.history = adata, {}

    @classmethod
    def setup_mudata(cls, mdata, *, context_keys, modalities=None):
        cls.keys = context_keys

    def train(self, max_epochs=1):
        Spy.seen = {m: set(a.obs_names) for m, a in self.adata.mod.items()}
        Spy.labels = {m: a.obs["guide"].astype(str) for m, a in self.adata.mod.items()}

    def get_latent_representation(self, data=None, *, modality=None):
        return data[modality].obsm["truth"]


class Wavering(Spy):
    """A model whose trainings are worse and better: truth with noise by the seed."""

    trained: list[int] = []

    def __init__(self, adata, *, seed=0):
        super().__init__(adata)
        self.seed = seed

    def train(self, max_epochs=1):
        Wavering.trained.append(self.seed)

    def get_latent_representation(self, data=None, *, modality=None):
        truth = data[modality].obsm["truth"]
        rng = np.random.default_rng([self.seed, len(modality)])
        return truth + {0: 9.0, 1: 0.1, 2: 2.0}[self.seed] * rng.normal(size=truth.shape)


def test_values_are_medians_of_three_trainings(screen, design):
    Wavering.trained.clear()
    found = cf.benchmark(screen, {"wavering": Wavering}, edges_of(screen), **design, seeds=3)
    assert Wavering.trained == [0, 1, 2]
    scores = found.scores[found.scores["score"] == "auc"].sort_values("seed")
    for view in ("image", "rna"):
        own = scores.loc[(scores["view"] == view) & ~scores["ceiling"].astype(bool), "value"]
        values = own.to_numpy(float)
        assert values[0] < values[2] < values[1]  # the third training is in the middle
        assert of(found, "wavering", view, "edges_auc") == values[2]
        assert of(found, "wavering", view, "edges_auc_low") == values[0]
        assert of(found, "wavering", view, "edges_auc_high") == values[1]
    assert cf.benchmark.__kwdefaults__["seeds"] == 3
    for name in ("petri_table1", "petri_s1", "petri_s2", "petri_s3", "petri_s4"):
        assert getattr(cf.bench.recipes, name)()["seeds"] == 3


def test_no_model_is_shown_a_held_out_target(screen, design):
    found = cf.benchmark(
        screen,
        {"spy": Spy},
        ["alignment"],
        **design,
        seeds=1,
        hold_out=0.25,
        hold_out_by="gene",
        folder=None,
    )
    for m in BOTH:
        obs = screen[m].obs
        shown = set(obs.loc[sorted(Spy.seen[m]), "gene"])
        hidden = set(obs.loc[~obs.index.isin(Spy.seen[m]), "gene"])
        assert len(hidden) == 3 and not shown & hidden and "non-targeting" in shown
    n = found.scores.query("score == 'foscttm' and not ceiling")["n"].item()
    assert n == 9  # three guides of each held-out gene: no other context is compared


def test_contexts_of_one_cell_have_no_ceiling_and_it_says_why():
    mdata = cf.datasets.simulated_screen(60, n_targets=12, cells_per_guide=1, seed=0)
    for m in BOTH:
        obs = mdata[m].obs
        first = ~obs["guide"].duplicated().to_numpy()
        mdata.mod[m] = mdata[m][first].copy()
        mdata[m].obsm["emb"] = np.random.default_rng(0).normal(size=(first.sum(), 4))
    mdata.update()
    found = cf.benchmark(
        mdata, ["emb"], ["alignment"], context_keys="guide", control_key="gene",
        control="non-targeting", seeds=1, progress=False,
    )  # fmt: skip
    why = found.failures.query("metric == 'alignment'")["why"]
    assert why.str.contains("no ceiling: no context has two cells of modality 'image'").all()
    assert len(why) and found.table["alignment_foscttm"].notna().any()


def test_a_column_says_what_is_held_out(screen, design):
    mdata = screen.copy()
    cf.tl.split(mdata, by="gene", sizes={"train": 0.7, "test": 0.3}, control="non-targeting")
    cf.benchmark(mdata, {"spy": Spy}, ["alignment"], **design, seeds=1, hold_out="split")
    for m in BOTH:
        assert (mdata[m].obs.loc[sorted(Spy.seen[m]), "split"] != "test").all()


def test_contexts_that_cross_the_split_are_refused(screen, design):
    with pytest.raises(ValueError, match="have held-out and other cells"):
        cf.benchmark(screen, ["truth"], **design, hold_out={"batch_like": "a"}, seeds=1) if (
            _with_column(screen)
        ) else None


def _with_column(screen):
    for m in BOTH:
        n = screen[m].n_obs
        screen[m].obs["batch_like"] = np.where(np.arange(n) % 2, "a", "b")
    return True


def test_the_permuted_twin_of_a_model_without_that_argument_sees_dealt_contexts(screen, design):
    cf.benchmark(screen, {"spy": {"model": Spy, "permuted": True}}, CONSISTENT, **design, seeds=1)
    true = screen["rna"].obs["guide"].astype(str)
    agree = (Spy.labels["rna"] == true[Spy.labels["rna"].index]).mean()
    assert agree < 0.3 and sorted(Spy.labels["rna"]) == sorted(true)


def test_the_users_data_stay_as_they_are(screen, design):
    before = {m: (screen[m].obs.copy(), set(screen[m].obsm), dict(screen[m].uns)) for m in BOTH}
    cf.benchmark(screen, ["PCA", "truth"], CONSISTENT, **design, seeds=1)
    for m in BOTH:
        pd.testing.assert_frame_equal(screen[m].obs, before[m][0])
        assert set(screen[m].obsm) == before[m][1] and set(screen[m].uns) == set(before[m][2])


def test_a_screen_may_be_made_for_each_seed(design):
    asked = []

    def made(seed):
        asked.append(seed)
        mdata = cf.datasets.simulated_screen(30, n_targets=8, cells_per_guide=6, seed=seed)
        for m in BOTH:
            mdata[m].obsm["truth"] = mdata[m].obsm["latent"]
        return mdata

    options = {"edges": {"edges": "uns:edges", "n_boot": 0}}
    found = cf.benchmark(made, ["truth"], options, **design, seeds=[3, 4])
    assert asked == [3, 4]
    values = found.scores.query("view == 'concat' and score == 'auc' and not ceiling")
    assert values["seed"].tolist() == [3, 4] and values["value"].nunique() == 2


def test_a_method_may_have_a_correction_of_its_own(screen, design):
    own = {"use_rep": "truth", "correction": "none"}
    found = cf.benchmark(
        screen, {"raw": own, "truth": {}}, edges_of(screen), **design, seeds=1, against="truth",
        correction=["zca", "rcc"],
    )  # fmt: skip
    assert found.table.groupby("method")["correction"].unique()["raw"].tolist() == ["none"]
    plain = cf.benchmark(screen, ["truth"], edges_of(screen), **design, seeds=1, correction="none")
    of_raw = found.scores[(found.scores["method"] == "raw") & ~found.scores["ceiling"]]
    of_plain = plain.scores[~plain.scores["ceiling"]]
    assert of_raw["value"].tolist() == of_plain["value"].tolist()
    # It is compared with the other under each of its corrections.
    assert set(found.comparisons["correction"]) == {"zca", "rcc"}


def test_what_lies_in_a_joint_space_is_not_whitened():
    found = read_methods(["PETRI", {"model": "PETRI", "preset": "base", "name": "base"}], obsm=[])
    small, base = (method.correction for method in found)
    begins = "begin" in inspect.signature(cf.PETRI.__init__).parameters
    assert small == ("none" if begins else None) and base is None


# -- fusions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["concat", "max", "min"])
def test_late_fusions_are_those_of_the_library(screen, design, fusion):
    found = cf.benchmark(
        screen, [f"truth@{fusion}"], edges_of(screen), **design, seeds=1, correction="none"
    )
    # Controls are a profile like any other where a fusion is fitted.
    whole = {
        m: cf.tl.aggregate(screen[m], by="gene", within="guide", use_rep="truth") for m in BOTH
    }
    fused = cf.tl.late_fusion(whole, method=fusion)
    fused = fused[fused.obs_names != "non-targeting"].copy()
    use_sim = None if fusion == "concat" else "cosine"
    expected = cf.tl.edge_classification(fused, screen.uns["edges"], use_sim=use_sim, n_boot=0)
    row = found.scores.query(f"view == '{fusion}' and score == 'auc' and not ceiling")
    assert row["value"].item() == pytest.approx(expected["auc"].item(), abs=1e-6)


def test_the_average_needs_one_space(screen, design):
    found = cf.benchmark(
        screen,
        {"apart": {"image": "truth", "rna": "noise", "fusion": "average"}, "truth": {}},
        CONSISTENT,
        **design,
        seeds=1,
    )
    assert "needs one space" in found.failures.iloc[0]["why"]
    assert "truth" in set(found.table["method"])


# -- failures, resuming, processes ----------------------------------------------------------------


def failing(mdata, *, seed):
    raise RuntimeError("no luck today")


def test_a_failed_method_is_a_row_that_says_why_and_stops_no_other(screen, design):
    found = cf.benchmark(screen, {"bad": failing, "truth": {}}, CONSISTENT, **design, seeds=2)
    assert found.failures["method"].unique().tolist() == ["bad"]
    assert "no luck today" in found.failures["why"].iloc[0]
    assert found.table["method"].tolist().count("truth") == 3


def test_what_is_there_is_not_computed_again(screen, design, tmp_path):
    calls = []

    def embed(mdata, *, seed):
        calls.append(seed)
        return {m: mdata[m].obsm["truth"] for m in BOTH}

    given = dict(design, seeds=2, folder=tmp_path / "out")
    first = cf.benchmark(screen, {"own": embed}, CONSISTENT, **given)
    again = cf.benchmark(screen, {"own": embed}, CONSISTENT, **given)
    assert calls == [0, 1]
    pd.testing.assert_frame_equal(first.scores, again.scores)
    # Another metric needs other scores, but no other embedding.
    cf.benchmark(screen, {"own": embed}, {**CONSISTENT, **edges_of(screen)}, **given)
    assert calls == [0, 1]
    # Other data are another embedding.
    other = screen.copy()
    other["image"].obsm["crops"] = 255 - other["image"].obsm["crops"]
    cf.benchmark(other, {"own": embed}, CONSISTENT, **given)
    assert calls == [0, 1, 0, 1]


def test_what_failed_is_tried_again(screen, design, tmp_path):
    state = SimpleNamespace(broken=True)

    def embed(mdata, *, seed):
        if state.broken:
            raise RuntimeError("disk full")
        return {m: mdata[m].obsm["truth"] for m in BOTH}

    given = dict(design, seeds=1, folder=tmp_path / "out")
    assert len(cf.benchmark(screen, {"own": embed}, CONSISTENT, **given).failures)
    state.broken = False
    assert not len(cf.benchmark(screen, {"own": embed}, CONSISTENT, **given).failures)


def test_a_folder_with_other_things_is_refused(screen, design, tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"thesis\.tex"):
        cf.benchmark(screen, ["truth"], CONSISTENT, **design, folder=tmp_path)


@pytest.mark.slow
def test_a_process_that_dies_takes_no_other_along(screen, design):
    def dying(mdata, *, seed):
        os._exit(9)

    methods = {"truth": {}, "dies": dying, "noise": {}}
    found = cf.benchmark(screen, methods, CONSISTENT, **design, seeds=1, n_jobs=2)
    assert found.failures["method"].tolist() == ["dies"]
    assert "the process died" in found.failures["why"].item()
    alone = cf.benchmark(screen, ["truth", "noise"], CONSISTENT, **design, seeds=1)
    pd.testing.assert_frame_equal(found.scores, alone.scores)


def test_a_process_that_is_replaced_between_two_tasks_is_no_news(
    screen, design, monkeypatch, recwarn
):
    class Replacing:
        def __init__(self, **_):
            pass

        def __call__(self, jobs):
            for function, given, named in jobs:
                warnings.warn("A worker stopped while some jobs were given to", stacklevel=1)
                yield function(*given, **named)

    monkeypatch.setattr("cellfuse.bench._engine.Parallel", Replacing)
    found = cf.benchmark(screen, ["truth", "noise"], CONSISTENT, **design, seeds=1, n_jobs=2)
    assert set(found.scores["method"]) == {"truth", "noise"}
    assert not [w for w in recwarn if "worker stopped" in str(w.message)]


# -- comparisons and conclusions ------------------------------------------------------------------


def test_methods_are_compared_pair_by_pair(result):
    paired = result.comparisons.query("method == 'truth' and metric == 'edges' and score == 'tpr'")
    fused = paired[paired["view"] == "fused"].set_index("over")
    assert fused.loc["targets", "difference"] > 0.3
    assert fused.loc["targets", "difference_low"] > 0
    assert np.isnan(fused.loc["seeds", "difference_low"])  # two seeds have no interval


def rows(method, values, *, metric="edges", score="auc"):
    return [
        {
            "method": method, "seed": seed, "correction": "zca", "view": view, "metric": metric,
            "score": score, "value": value, "low": np.nan, "high": np.nan, "chance": 0.5, "n": 9,
            "ceiling": False, "of": "",
        }
        for view, numbers in values.items()
        for seed, value in enumerate(numbers)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fused", "expected"),
    [
        ([0.90, 0.92, 0.91], "Images add to expression"),
        ([0.70, 0.72, 0.71], "Images take away from expression"),
        ([0.85, 0.78, 0.82], "Whether images add to expression is not shown"),
    ],
)
def test_one_sentence_says_whether_the_second_modality_adds(fused, expected):
    given = rows("m", {"image": [0.6, 0.6, 0.6], "rna": [0.80, 0.81, 0.82], "average": fused})
    text = conclusion(pd.DataFrame(given))
    assert text.startswith(expected) and "0.81 for expression alone" in text


def test_one_seed_settles_nothing():
    given = rows("m", {"image": [0.6], "rna": [0.8], "average": [0.99]})
    assert "not settled by 1 seed" in conclusion(pd.DataFrame(given))


# -- what a user gives ----------------------------------------------------------------------------


def test_a_metric_may_be_a_function(screen, design):
    def spread(view):
        return {"sd": float(np.std(view.guides.X)), "n": view.guides.n_obs}

    found = cf.benchmark(screen, ["truth"], {"spread": spread}, **design, seeds=1)
    assert {"spread_sd", "spread_n"} <= set(found.table.columns)
    assert (found.table["spread_n"].dropna() == 42).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": ["PETRY"]}, "Did you mean 'PETRI'"),
        ({"methods": ["PCA@permutted"]}, "Did you mean 'permuted'"),
        ({"methods": ["PCA@permuted"]}, "'permuted' is not in the options of method"),
        ({"methods": ["truth@permuted"]}, "has no options or twins"),
        ({"methods": {"a": {"model": "PETRI", "train": {"epochs": 3}}}}, None),
        ({"methods": {"a": {"model": "PCA", "n_comp": 3}}}, "Did you mean 'n_comps'"),
        ({"methods": {"a": {"model": "SemiClipped", "hiden": 3}}}, "Did you mean 'hidden'"),
        ({"methods": {"a": {"model": "PETRI", "setup": {"image_repp": 3}}}}, "image_rep"),
        ({"methods": []}, "no method was named"),
        ({"methods": "PETRI"}, "expected a list of names"),
        ({"methods": ["truth", "truth"]}, "stand twice"),
        ({"metrics": ["guide_consistancy"]}, "Did you mean 'guide_consistency'"),
        ({"metrics": {"edges": {}}}, "needs `edges`"),
        ({"metrics": {"guide_consistency": {"n_nul": 3}}}, "Did you mean 'n_null'"),
        ({"metrics": {"edges": {"edges": "uns:edge"}}}, "Did you mean 'edges'"),
        ({"target_key": "genes"}, "Did you mean 'gene'"),
        ({"control": "non-targetting"}, "Did you mean 'non-targeting'"),
        ({"control_key": None}, "needs `control_key`"),
        ({"correction": "zcaa"}, "Did you mean 'zca'"),
        ({"against": "PCA"}, r"the methods \(`against`\)"),
        ({"seeds": 0}, "whole numbers from 0"),
        ({"seeds": [1, 1]}, "each once"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"hold_out": 1.5}, "share between 0 and 1"),
        ({"image_repp": "crops"}, "Did you mean 'image_rep'"),
    ],
)
def test_wrong_words_are_refused_by_name_before_anything_runs(screen, design, change, message):
    given = {"methods": ["truth"], "metrics": CONSISTENT, "seeds": 1, **design, **change}
    if message is None:  # PETRI.train takes Lightning's arguments too, and refuses at the training
        assert read_methods(given["methods"], obsm=[])
        return
    with pytest.raises((KeyError, TypeError, ValueError), match=message):
        cf.benchmark(screen, given.pop("methods"), given.pop("metrics"), **given)


def test_an_at_means_options():
    found = read_methods(["PETRI@permuted", "emb@max", "TrP MAE"], obsm=["emb"])
    permuted, late, variant = found
    assert permuted.sources[""].permuted and permuted.fusion == "average"
    assert late.sources[""].name == "emb" and late.fusion == "max"
    assert variant.sources[""].options == {"n_set_layers": 0}
    assert variant.sources[""].roles == ("rna",)


def test_one_source_is_embedded_once_for_all_its_fusions(screen, design, tmp_path):
    cf.benchmark(
        screen, ["PCA", "PCA@max", "PCA@mean"], CONSISTENT, **design, seeds=1,
        folder=tmp_path / "out",
    )  # fmt: skip
    assert len(list(Path(tmp_path / "out" / "embeddings").iterdir())) == 1


# -- models ---------------------------------------------------------------------------------------

TINY = {
    "set_size": 2, "width": 16, "n_heads": 2, "n_latents": 2, "image_depth": 1, "n_set_layers": 1,
    "train": {"max_epochs": 1, "documents_per_context": 1, "accelerator": "cpu"},
}  # fmt: skip


@pytest.mark.slow
def test_concepts_of_both_modalities_are_counted(screen, design):
    options = {"n_concepts": 16, "k": 4, "train": {"max_epochs": 10}}
    found = cf.benchmark(
        screen, ["truth", "random"], {"concepts": options}, **design, seeds=1, correction="none"
    )
    assert found.failures.empty
    assert of(found, "truth", "both", "concepts") > 0


def test_scvi_embeds_the_counts_alone(screen, design, tmp_path):
    scvi = {"n_latent": 5, "max_epochs": 2}
    with torch.random.fork_rng():
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        found = cf.benchmark(
            screen,
            {"scVI": scvi, "again": {"model": "scVI", **scvi, "batch_key": "batch"}, "random": {}},
            CONSISTENT,
            **design,
            seeds=1,
            hold_out=0.25,
            folder=tmp_path / "out",
        )
        assert torch.rand(1) == expected  # scvi-tools' seed is not everybody's
    assert found.failures.empty, found.failures["why"].tolist()
    rows = found.table[found.table["method"].isin(["scVI", "again"])]
    assert rows["view"].tolist() == ["rna", "rna"]  # it reads no images
    every = [np.load(path) for path in (tmp_path / "out" / "embeddings").glob("*/rna.npy")]
    arrays = [array for array in every if array.shape[1] == 5]
    assert len(arrays) == 2 and not np.allclose(*arrays)  # one of them takes the batch out
    assert arrays[0].shape == (screen["rna"].n_obs, 5)


def test_scvi_is_given_by_its_seed_and_knows_the_state_of_cells():
    from cellfuse.bench._scvi import scvi_embedding

    adata = cf.datasets.simulated_screen(60, n_targets=4, effect_size=3.0, image_size=8, seed=0)[
        "rna"
    ]
    train = np.arange(adata.n_obs) % 4 > 0
    first, again, other = (
        scvi_embedding(adata, train, layer=None, seed=seed, n_latent=5, max_epochs=40)
        for seed in (0, 0, 1)
    )
    np.testing.assert_allclose(first, again, atol=1e-4)
    assert not np.allclose(first, other, atol=0.1)
    fit = Ridge().fit(first[train], adata.obsm["latent"][train])
    assert fit.score(first[~train], adata.obsm["latent"][~train]) > 0.02


@pytest.mark.slow
def test_models_are_trained_with_their_twins(screen, design, tmp_path):
    found = cf.benchmark(
        screen,
        {
            "PETRI": {"model": "PETRI", **TINY, "begin": "random"},
            "permuted": {"model": "PETRI@permuted", **TINY, "begin": "random"},
            "untrained": {"model": "PETRI@untrained", **TINY, "begin": "random"},
            "TrP MAE": {k: v for k, v in TINY.items() if k != "n_set_layers"},
        },
        {**CONSISTENT, "alignment": {}},
        **design,
        seeds=1,
        hold_out=0.25,
        folder=tmp_path / "out",
    )
    assert found.failures["method"].tolist() == ["TrP MAE"]  # one modality aligns with nothing
    assert found.table["method"].unique().tolist()[:4] == [
        "PETRI", "permuted", "untrained", "TrP MAE"
    ]  # fmt: skip
    folders = {p.name.split("_seed")[0]: p for p in (tmp_path / "out" / "embeddings").iterdir()}
    arrays = [np.load(p / "rna.npy") for p in sorted((tmp_path / "out" / "embeddings").iterdir())]
    assert len(arrays) == 4 and folders
    assert not any(np.allclose(arrays[0][:, :16], other[:, :16]) for other in arrays[1:])


def test_progress_tells_a_permuted_twin_from_its_model(screen, design, capsys):
    methods = {"plain": "PCA", "axes": "SharedAxes", "control": "SharedAxes@permuted"}
    asked = design | {"progress": True}
    cf.benchmark(screen, methods, ["guide_consistency"], seeds=1, **asked)
    lines = capsys.readouterr().out.splitlines()
    named = [line.split(",")[0].split()[1] for line in lines if line.strip().startswith("embed ")]
    assert named == ["plain", "axes", "control"]
