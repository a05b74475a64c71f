"""Treatment classification: the protocol, its settings, splits and what it refuses."""

from __future__ import annotations

from inspect import signature

import anndata as ad
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

import cellfuse as cf
from cellfuse.nn.heads import MLP, DualMLP
from cellfuse.tl import _head_training as training
from cellfuse.tl._examples import Samples, single_cells
from cellfuse.tl._folds import folds
from cellfuse.tl.classify import TABLE_6, _setting, classify_treatments

REPLICATES = ("rep1", "rep2", "rep3", "round2")
QUICK = {"setting": "small", "seeds": [0], "max_epochs": 40}


def screen(signal: dict[str, float], *, n_drugs: int = 3, cells: int = 6, seed: int = 0):
    """Cells of drugs and DMSO in four replicates, two wells each; the drug shifts the mean."""
    rng = np.random.default_rng(seed)
    drug = [*(f"d{i}" for i in range(n_drugs)), "DMSO"]
    rows = [
        (d, r, f"{d}-{r}-{w}") for d in drug for r in REPLICATES for w in range(2)
        for _ in range(cells)
    ]  # fmt: skip
    mods = {}
    for name, strength in signal.items():
        obs = pd.DataFrame(rows, columns=["drug", "rep", "well"])
        obs.index = [f"{name}-{i}" for i in range(len(rows))]
        effect = rng.normal(size=(len(drug), 8))
        x = 3 + strength * effect[obs["drug"].map(drug.index)] + rng.normal(size=(len(rows), 8))
        var = pd.DataFrame(index=[f"{name}{i}" for i in range(8)])
        mods[name] = ad.AnnData(x.astype("f4"), obs=obs, var=var)
    return md.MuData(mods)


def classify(mdata, inputs, **given):
    fixed = {"split_key": "rep", "sample_key": "well", "control": "DMSO"}
    names = {"train": "rep1", "val": "rep2"}
    return classify_treatments(mdata, "drug", inputs, **{**fixed, **names, **QUICK, **given})


def pool(values, rows):
    size = np.array([len(r) for r in rows])
    return training.Pools(values, np.concatenate(rows), np.cumsum(size) - size, size)


# -- heads ----------------------------------------------------------------------------------------


def test_an_mlp_is_equation_5():
    head = MLP(4, 3, hidden=5, depth=2)
    x = torch.randn(6, 4)
    y = x
    for layer in (0, 3):
        y = torch.relu(torch.nn.functional.layer_norm(head[layer](y), (5,)))
    torch.testing.assert_close(head(x), head[6](y))
    assert len(head) == 7


def test_the_dual_mlp_has_the_papers_widths():
    with torch.device("meta"):
        head = DualMLP([5120, 512], 28, hidden=TABLE_6["image+rna", "single"][0])
    shapes = [[tuple(p.shape) for p in part.parameters() if p.ndim == 2] for part in head.parts]
    assert shapes[0] == [(266, 5120), (266, 266), (266, 266), (913, 266)]
    assert shapes[1] == [(2748, 512), (2748, 2748), (2748, 2748), (913, 2748)]
    assert head.head.weight.shape == (28, 1826)


def test_the_ten_settings_of_table_6():
    assert len(TABLE_6) == 10
    for name in ("rna", "synthetic", "predicted"):
        assert _setting("paper", [name], "single").hidden == (3934,)
        assert _setting("paper", ["image", name], "multi").lr == 1.63e-4
    assert _setting("paper", ["image"], "multi").weight_decay == 5.79e-3
    assert _setting({"hidden": [8, 4]}, ["image", "rna"], "single").hidden == (8, 4)


# -- cells of a sample ----------------------------------------------------------------------------


def test_a_sample_is_the_mean_of_all_its_cells():
    values = torch.arange(12.0).view(6, 2)
    pools = pool(values, [np.array([0, 1]), np.array([2, 3, 5])])
    found = pools.draw(np.array([1, 0]), None, np.random.default_rng(0))
    torch.testing.assert_close(found, torch.stack([values[[2, 3, 5]].mean(0), values[:2].mean(0)]))


def test_drawn_cells_repeat_only_where_there_are_too_few():
    values = torch.eye(10)
    pools = pool(values, [np.arange(7), np.arange(7, 10)])
    rng = np.random.default_rng(0)
    for _ in range(20):
        many, few = pools.draw(np.array([0, 1]), 4, rng) * 4
        assert many.max() == 1 and many.sum() == 4 and many[7:].sum() == 0
        assert few.sum() == 4 and few[:7].sum() == 0 and few.max() >= 2
    a, b = (pools.draw(np.array([0]), 4, rng) for _ in range(2))
    assert not torch.equal(a, b)


def test_balanced_accuracy_is_scikit_learns():
    truth, found = np.array([0, 0, 0, 1, 2, 2]), np.array([0, 1, 0, 1, 2, 0])
    wanted = balanced_accuracy_score(truth, found)
    assert training.balanced_accuracy(truth, found) == pytest.approx(wanted)


# -- the table ------------------------------------------------------------------------------------


def test_informative_modalities_are_told_and_noise_is_not():
    mdata = screen({"image": 0.0, "rna": 5.0}, n_drugs=4, cells=8)
    inputs = [("image",), ("rna",), ("image", "rna")]
    table = classify(mdata, inputs, seeds=[0, 1], n_draws=10, batch_size=8).set_index(
        ["input", "test"]
    )
    assert table.index.tolist() == [
        (i, t) for i in ("image", "rna", "image+rna") for t in ("rep3", "round2")
    ]
    assert (table.loc["rna", "balanced_accuracy"] > 0.9).all()
    assert (table.loc["image+rna", "balanced_accuracy"] > 0.9).all()
    assert (table.loc["image", "balanced_accuracy"] < 0.75).all()
    assert (table["chance"] == 0.25).all() and (table["n_samples"] == 8).all()
    assert (table["n_runs"] == 2).all() and (table["n_classes"] == 4).all()
    assert table.loc["image", "gap_recovered"].tolist() == [0, 0]
    assert table.loc["image+rna", "gap_recovered"].tolist() == [1, 1]
    image, rna, both = (
        table.loc[(i, "rep3"), "balanced_accuracy"] for i in ("image", "rna", "image+rna")
    )
    share = table.loc[("rna", "rep3"), "gap_recovered"]
    assert share == pytest.approx((rna - image) / (both - image))


def test_means_and_sds_are_over_the_runs():
    mdata = screen({"image": 0.7})
    table = classify(mdata, [("image",)], seeds=[0, 1, 2, 3], n_cells=2)
    runs = pd.DataFrame(table.attrs["runs"])
    for test, part in runs.groupby("test"):
        row = table[table["test"] == test].iloc[0]
        for name in ("balanced_accuracy", "macro_f1", "weighted_f1"):
            assert row[name] == pytest.approx(part[name].mean())
            assert row[f"{name}_sd"] == pytest.approx(part[name].std(ddof=1))
    assert runs["balanced_accuracy"].nunique() > 1


def test_the_same_seed_gives_the_same_table():
    mdata = screen({"image": 0.5})
    one, same = (classify(mdata, [("image",)], n_cells=2) for _ in range(2))
    pd.testing.assert_frame_equal(one, same)
    torch.rand(1)  # the caller's random state has no say


def test_controls_are_no_class():
    mdata = screen({"image": 1.0})
    assert classify(mdata, [("image",)])["n_classes"].tolist() == [3, 3]
    assert classify(mdata, [("image",)], control=None)["n_classes"].tolist() == [4, 4]


def test_without_a_sample_column_a_treatment_is_one_sample_per_split():
    table = classify(screen({"image": 3.0}), [("image",)], sample_key=None)
    assert table["n_samples"].tolist() == [3, 3]


def test_nothing_of_the_test_cells_is_seen_in_training():
    mdata = screen({"image": 1.0})
    wanted = classify(mdata, [("image",)])
    test = mdata["image"].obs["rep"] == "round2"
    mdata["image"].X[test.to_numpy()] += 100
    found = classify(mdata, [("image",)])
    pd.testing.assert_frame_equal(found.iloc[:1], wanted.iloc[:1])


def test_the_best_validation_epoch_is_tested(monkeypatch):
    scores = iter([0.2, 0.9, 0.9, 0.4, 0.3, 0.1])  # the first of equals is kept
    monkeypatch.setattr(training, "balanced_accuracy", lambda *_: next(scores))
    kept = []
    load = MLP.load_state_dict
    monkeypatch.setattr(
        MLP, "load_state_dict", lambda self, state: (kept.append(state), load(self, state))[1]
    )
    pools = [pool(torch.randn(6, 3), [np.array([i]) for i in range(6)])]
    rows = {"train": np.arange(4), "val": np.array([4]), "new": np.array([5])}
    given = {"n_cells": None, "seed": 0, "batch_size": 4096, "n_draws": 1, "n_classes": 2}
    setting = training.Setting((4,), 1, 0.1, 0.0)
    codes = np.array([0, 1, 0, 1, 0, 1])
    training.train_head(
        pools, codes, rows, setting=setting, max_epochs=6, patience=3, **given
    )  # stops after three epochs that are no better than the second
    assert next(scores) == 0.1
    again = iter([0.2, 0.9])
    monkeypatch.setattr(training, "balanced_accuracy", lambda *_: next(again))
    training.train_head(pools, codes, rows, setting=setting, max_epochs=2, patience=3, **given)
    for name in kept[0]:
        assert torch.equal(kept[0][name], kept[1][name])


def test_labels_may_be_text_numbers_or_categories_and_rows_in_any_order():
    mdata = screen({"image": 0.7})
    wanted = classify(mdata, [("image",)]).drop(columns="test")
    obs = mdata["image"].obs
    numbers = {"drug": ["d0", "d1", "d2", "DMSO"], "rep": list(REPLICATES)}
    for column, labels in numbers.items():
        obs[column] = obs[column].map({label: k for k, label in enumerate(labels)})
    given = {"control": 3, "train": 0, "val": 1}
    pd.testing.assert_frame_equal(
        classify(mdata, [("image",)], **given).drop(columns="test"), wanted
    )
    for column in numbers:
        obs[column] = obs[column].astype("category").cat.add_categories([99])
    shuffled = mdata["image"][np.random.default_rng(0).permutation(len(obs))].copy()
    found = classify(md.MuData({"image": shuffled}), [("image",)], **given)
    pd.testing.assert_frame_equal(found.drop(columns="test"), wanted)


def test_a_modality_may_lack_the_controls():
    mdata = screen({"image": 1.0, "synthetic": 1.0})
    kept = (mdata["synthetic"].obs["drug"] != "DMSO").to_numpy()
    part = md.MuData({"image": mdata["image"], "synthetic": mdata["synthetic"][kept].copy()})
    table = classify(part, [("synthetic",), ("image", "synthetic")])
    assert table["n_classes"].tolist() == [3] * 4


def test_heads_are_trained_as_in_the_paper(monkeypatch):
    optimisers, clipped, sizes = [], [], []

    class Noted(torch.optim.AdamW):
        def __init__(self, *args, **kwargs):
            optimisers.append(kwargs)
            super().__init__(*args, **kwargs)

    clip, draw = torch.nn.utils.clip_grad_norm_, training.Pools.draw
    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda p, norm: (clipped.append(norm), clip(p, norm))
    )
    monkeypatch.setattr(
        training.Pools, "draw", lambda self, s, *a: (sizes.append(len(s)), draw(self, s, *a))[1]
    )
    given = {"max_epochs": 2, "batch_size": 4, "n_draws": 3, "seeds": [0]}
    classify(screen({"image": 1.0}), [("image",)], setting={"lr": 0.02}, **given)
    assert optimisers == [{"lr": 0.02, "weight_decay": 1e-4}]
    # Two epochs of six samples, thrice each, by fours; validation after each; then all parts.
    assert clipped == [0.5] * 10
    assert sizes == [4, 4, 4, 4, 2, 6] * 2 + [6, 6, 6, 6]


def test_the_papers_numbers_are_the_defaults():
    found = {p.name: p.default for p in signature(classify_treatments).parameters.values()}
    paper = {"seeds": (12345, 42, 1234, 99, 7), "batch_size": 4096, "max_epochs": 100}
    assert {**found, **paper, "patience": 25, "n_cells": None, "setting": "paper"} == found
    assert found["inputs"] == (("image",), ("rna",), ("image", "rna"))


def test_test_cells_are_drawn_alike_however_long_the_training():
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 9, size=(400, 3))).float()
    pools = [pool(x, list(np.arange(400).reshape(40, 10)))]
    rows = {"train": np.arange(4), "val": np.arange(4), "new": np.arange(40)}
    given = {"n_cells": 2, "seed": 0, "batch_size": 4, "patience": 9, "n_draws": 1, "n_classes": 2}
    given["setting"] = training.Setting((4,), 0, 0.0, 0.0)  # a rate of 0: the head stays as it is
    codes = np.tile([0, 1], 20)
    one, three = (
        training.train_head(pools, codes, rows, max_epochs=n, **given)["new"] for n in (1, 3)
    )
    assert np.array_equal(one, three) and 0 < one.mean() < 1


# -- folds ----------------------------------------------------------------------------------------


def test_cross_validation_takes_turns_as_in_the_paper():
    split = np.array(["3", "4", "5", "1+2"])
    found = folds(split, "train", "val", ["3", "4", "5"], "rep")
    named = [{part: split[rows].tolist() for part, rows in fold.items()} for fold in found]
    assert named == [
        {"train": [t], "val": [v], "held out": [w], "1+2": ["1+2"]}
        for t, v, w in (("3", "5", "4"), ("4", "3", "5"), ("5", "4", "3"))
    ]


def test_cross_validation_averages_over_folds():
    table = classify(screen({"image": 3.0}), [("image",)], cross_validate=["rep1", "rep2", "rep3"])
    assert table["test"].tolist() == ["held out", "round2"]
    assert table["n_runs"].tolist() == [3, 3]
    assert {run["fold"] for run in table.attrs["runs"]} == {0, 1, 2}


# -- bad input ------------------------------------------------------------------------------------


def other_names(mdata):
    mdata["rna"].obs["well"] = "x" + mdata["rna"].obs["well"]
    return mdata


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"inputs": [("images",)]}, KeyError, "Did you mean 'image'"),
        ({"inputs": ["image"]}, ValueError, "modalities for each classifier"),
        ({"train": "rep9"}, KeyError, "'rep9' is not in the samples' 'rep'"),
        ({"control": "dmso"}, KeyError, "Did you mean 'DMSO'"),
        ({"sample_key": "rep"}, ValueError, "4 samples of modality 'image' have cells of several"),
        ({"cross_validate": ["rep1", "rep2"]}, ValueError, "at least three replicates"),
        ({"setting": "big"}, ValueError, "expected 'paper', 'small' or a dict"),
        ({"setting": {"widths": 3}}, KeyError, "'widths' is not in"),
        ({"setting": {"hidden": [3, 3]}}, ValueError, "one width, or one for each"),
        ({"inputs": [()]}, ValueError, "an input names no modality"),
        ({"inputs": [("image",), ("image",)]}, ValueError, "inputs=.*twice"),
        ({"val": "rep1"}, ValueError, "`train` and `val` are both 'rep1'"),
        ({"cross_validate": ["rep1", "rep2", "rep3", "rep3"]}, ValueError, "at least three"),
        ({"setting": {"hidden": 0}}, ValueError, "widths from 1"),
        ({"setting": {"depth": -1}}, ValueError, "a depth from 0"),
        ({"n_cells": 0}, ValueError, "n_cells must be a whole number, at least 1; found 0"),
        ({"n_cells": 2.5}, ValueError, "n_cells must be a whole number, at least 1; found 2.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be"),
        ({"patience": 0}, ValueError, "patience must be"),
        ({"n_draws": 0}, ValueError, "n_draws=0: expected a whole"),
        ({"seeds": []}, ValueError, "seeds"),
        ({"seeds": 0}, ValueError, "seeds=0: expected one or several"),
        ({"seeds": (3, 3)}, ValueError, "seeds=.*twice"),
        ({"control": ["DMSO", "d0", "d1"]}, ValueError, "at least two treatments"),
    ],
)
def test_what_cannot_be_classified_is_refused(given, error, text):
    mdata = screen({"image": 1.0, "rna": 1.0})
    with pytest.raises(error, match=text):
        classify(mdata, **{"inputs": [("image",)], **given})


@pytest.mark.parametrize("label", ["train", "val"])
def test_a_test_set_that_goes_by_the_name_of_another_part_is_refused(label):
    mdata = screen({"image": 1.0})
    mdata["image"].obs["rep"] = mdata["image"].obs["rep"].replace({"round2": label})
    with pytest.raises(ValueError, match=f"has samples '{label}' that would be tested on"):
        classify(mdata, [("image",)])
    with pytest.raises(ValueError, match=f"has samples '{label}' that would be tested on"):
        classify(mdata, [("image",)], cross_validate=["rep1", "rep2", "rep3"])


def test_samples_that_do_not_match_are_refused():
    mdata = screen({"image": 1.0, "rna": 1.0})
    mdata["rna"].obs["drug"] = mdata["rna"].obs["drug"].replace({"d0": "d1", "d1": "d0"})
    with pytest.raises(ValueError, match="the same name but another 'drug'"):
        classify(mdata, [("image", "rna")])
    with pytest.raises(ValueError, match="share no sample"):
        classify(other_names(screen({"image": 1.0, "rna": 1.0})), [("image", "rna")])


def test_a_treatment_that_was_not_trained_on_is_refused():
    mdata = screen({"image": 1.0})
    kept = ~((mdata["image"].obs["drug"] == "d2") & (mdata["image"].obs["rep"] == "rep1"))
    part = md.MuData({"image": mdata["image"][kept.to_numpy()].copy()})
    with pytest.raises(ValueError, match="'d2'"):
        classify(part, [("image",)])


def test_a_split_without_a_test_is_refused():
    mdata = screen({"image": 1.0})
    kept = mdata["image"].obs["rep"].isin(["rep1", "rep2"]).to_numpy()
    with pytest.raises(ValueError, match="no split label is left to test on"):
        classify(md.MuData({"image": mdata["image"][kept].copy()}), [("image",)])


def test_nan_is_refused():
    mdata = screen({"image": 1.0})
    mdata["image"].X[3, 2] = np.nan
    with pytest.raises(ValueError, match="modality 'image' holds 1 NaN"):
        classify(mdata, [("image",)])


def test_features_that_are_all_constant_are_refused():
    mdata = screen({"image": 1.0, "rna": 1.0})
    mdata["rna"].X[:] = 3
    with pytest.raises(ValueError, match=r"input 'image\+rna': all features of a mod"):
        classify(mdata, [("image", "rna")])


def test_an_anndata_is_refused():
    with pytest.raises(TypeError, match="expected a MuData"):
        classify(screen({"image": 1.0})["image"], [("image",)])


# -- the tables of the paper ----------------------------------------------------------------------


def replicates(**signal):
    """Cells of three drugs and DMSO in the five replicates of two experiments."""
    mdata = screen(signal or {"image": 3.0}, cells=10)
    for adata in mdata.mod.values():
        well = adata.obs.groupby(["drug", "rep"], observed=True).cumcount()
        adata.obs["replicate"] = adata.obs["rep"].map(
            {"rep1": 3, "rep2": 5, "rep3": 4, "round2": 0}
        )
        adata.obs.loc[adata.obs["rep"] == "round2", "replicate"] = 1 + well % 2
    return mdata


TABLE = {
    "split_key": "replicate",
    "control": "DMSO",
    "train": 3,
    "val": 5,
    "test": {"WE": 4, "HE": [1, 2]},
    **QUICK,
}


def test_samples_are_treatments_in_replicates_and_the_held_out_experiment_is_pooled():
    mdata = replicates()
    table = classify_treatments(mdata, "drug", [["image"]], **TABLE).set_index("test")
    assert table.index.tolist() == ["WE", "HE"]
    assert table["n_samples"].tolist() == [3, 6]  # three drugs, in one and in two replicates
    np.testing.assert_allclose(table["accuracy"], table["balanced_accuracy"])  # classes are even


def test_every_cell_is_an_example_and_its_partner_comes_from_its_sample():
    mdata = replicates(image=1.0, rna=8.0)
    given = {**TABLE, "examples": "cells", "n_draws": 4}
    table = classify_treatments(mdata, "drug", [["image"], ["image", "rna"]], **given)
    assert table["n_samples"].tolist() == [60, 60, 60, 60]  # 3 drugs x 20 cells
    image, both = table.groupby("input", sort=False)["balanced_accuracy"].min()
    assert image < 0.95 < both  # the partner's treatment is the cell's own
    assert 0 < image
    numbers = table["balanced_accuracy"].to_numpy() * 3
    assert not np.allclose(numbers, np.round(numbers))  # no multiple of one over the samples
    assert "predictions" not in mdata.uns["classify_treatments"]


def test_partners_are_drawn_anew_and_never_from_another_sample():
    rows = [np.arange(7), np.arange(7, 10)]
    first, second = pool(torch.arange(10.0)[:, None], rows), pool(torch.arange(10.0)[:, None], rows)
    samples = Samples(
        [first, second], pd.Index(["a", "b"]), np.array([0, 1]), np.array(["x", "y"]), np.arange(2)
    )
    cells = single_cells(samples)
    assert (
        cells.codes.tolist() == [0] * 7 + [1] * 3 and cells.split.tolist() == ["x"] * 7 + ["y"] * 3
    )
    rng = np.random.default_rng(0)
    own, partner = (p.draw(np.arange(10), None, rng).ravel() for p in cells.pools)
    assert own.tolist() == list(range(10))
    again = cells.pools[1].draw(np.arange(10), None, rng).ravel()
    assert not torch.equal(partner, again)
    for drawn in (partner, again):
        assert drawn[:7].max() < 7 and drawn[7:].min() >= 7


def test_predictions_and_confusion_are_kept_and_go_to_files(tmp_path):
    mdata = replicates(image=0.5)
    classify_treatments(mdata, "drug", [["image"]], **{**TABLE, "seeds": [0, 1]})
    kept = mdata.uns["classify_treatments"]
    made, counts = kept["predictions"], kept["confusion"]
    assert len(made) == 2 * (3 + 6) and set(made["test"]) == {"WE", "HE"}
    right = made["label"] == made["predicted"]
    runs = kept["runs"].set_index(["test", "seed"])["accuracy"]
    for (test, seed), share in right.groupby([made["test"], made["seed"]]).mean().items():
        assert runs[test, seed] == pytest.approx(share)
    assert counts["n"].sum() == 18
    diagonal = counts.loc[counts["label"] == counts["predicted"], "n"].sum()
    assert diagonal == right.sum()
    mdata.write(tmp_path / "x.h5mu")
    with pytest.raises(ValueError, match="several of `test`: 'WE', 'HE'"):
        cf.pl.confusion(mdata, key="classify_treatments")
    axes = cf.pl.confusion(mdata, key="classify_treatments", test="HE", normalize=False)
    drawn = axes.images[0].get_array()
    assert drawn.sum() == 12 and [t.get_text() for t in axes.get_yticklabels()] == [
        "d0",
        "d1",
        "d2",
    ]
    plt.close("all")


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"examples": "wells"}, ValueError, "'samples', 'cells'"),
        ({"examples": "cells", "n_cells": 32}, ValueError, "each is one cell"),
        ({"test": {"HE": [1, 9]}}, KeyError, "'9' is not in"),
        ({"test": {"WE": 3}}, ValueError, "'WE' holds '3', which is for training"),
        ({"test": {"val": 4}}, ValueError, "'val' stands for another part"),
        ({"test": {}}, ValueError, "names no test set"),
        ({"val": [5, 3]}, ValueError, "both '3'"),
    ],
)
def test_tests_that_cannot_be_put_together_are_refused(given, error, text):
    with pytest.raises(error, match=text):
        classify_treatments(replicates(), "drug", [["image"]], **{**TABLE, **given})
