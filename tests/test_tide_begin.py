"""TIDE begins at closed forms: the mean change, and plain features of images."""

from __future__ import annotations

import json
from types import SimpleNamespace

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from screens import PAIRED, SMILES, drug_screen
from tide_parts import SHORT, VIT, built

import cellfuse as cf
from cellfuse.data import Contexts
from cellfuse.model.base.joint import fit_joint_space
from cellfuse.model.tide.embedding import LEAST_JUDGES, image_conditions, join_learnt
from cellfuse.model.tide.response import _weights
from cellfuse.nn import JointFeatures
from cellfuse.nn.plain_features import PlainFeatures

VALUES = {"setup_with": {"rna_rep": "X_values"}}
QUIET = {"enable_progress_bar": False}


# -- the response model ---------------------------------------------------------------------------


def mean_change(mdata, named) -> dict[str, np.ndarray]:
    """Plain loop: mean over conditions of what drugs changed, in units of sd; and basal states."""
    rna, x = mdata["rna"].obs, mdata["rna"].obsm["X_values"].astype(float)
    control = (rna["compound"] == "DMSO").to_numpy()
    basal = {
        line: x[control & (rna["cell_line"] == line).to_numpy()].mean(axis=0)
        for line in ("A549", "U2OS")
    }
    keys = ["compound", "cell_line", "dose_um"]
    changes = [
        x[rows].mean(axis=0) - basal[line]
        for (name, line, _), rows in rna.groupby(keys).indices.items()
        if name in named
    ]
    return {**basal, "change": np.mean(changes, axis=0)}


def seen_names(model) -> set[str]:
    return {n for n, s in zip(model.compounds, model.module.response_seen, strict=True) if s}


def test_before_it_has_learnt_anything_the_mean_change_is_foretold():
    mdata = drug_screen()
    model = built(mdata, **VALUES)
    model.train_response(1, lr=1e-9, holdout=0.4, **QUIET)
    named = seen_names(model)
    assert len(named) == 3
    expected = mean_change(mdata, named)
    for line in ("A549", "U2OS"):
        state = ad.AnnData(obsm={"X_values": expected[line][None].astype("f4")})
        for smiles in (SMILES[next(iter(named))], "CCO"):
            for dose in (1.0, 30.0):
                found = model.predict_expression(state, smiles, dose)[0]
                np.testing.assert_allclose(found - expected[line], expected["change"], atol=1e-4)
    report = model.response_report_
    assert report["r2_over_mean_change"].to_numpy() == pytest.approx(0, abs=1e-5)


def test_what_unseen_drugs_are_foretold_worse_with_is_left_out_of_theirs_alone():
    mdata = drug_screen()
    model = built(mdata, **VALUES)
    model.train_response(2, lr=0.3, holdout=0.4, **QUIET)  # steps of that size lead anywhere
    assert model.response_learnt_weight == 0
    held = model.response_report_.loc["held-out drugs"]
    assert held["n_drugs"] == 2 and held["r2_over_mean_change"] == pytest.approx(0, abs=1e-5)
    named = seen_names(model)
    expected = mean_change(mdata, named)
    state = ad.AnnData(obsm={"X_values": expected["A549"][None].astype("f4")})
    unseen = next(name for name in PAIRED if name not in named)
    for smiles, is_seen in ((SMILES[unseen], False), (SMILES[min(named)], True)):
        found = model.predict_expression(state, smiles, 1.0)[0] - expected["A549"]
        assert np.allclose(found, expected["change"], atol=1e-3) != is_seen


def test_each_drug_is_foretold_with_the_weight_that_the_others_choose():
    rng = np.random.default_rng(0)
    compound = np.repeat(np.arange(6), 3)
    left = rng.normal(size=(18, 40))
    weight, of_others = _weights(left, left + 0.1 * rng.normal(size=left.shape), compound)
    assert weight == 1 and (of_others == 1).all()
    weight, of_others = _weights(left, rng.normal(size=left.shape), compound)
    assert weight == 0 and (of_others == 0).all()
    # One drug that is foretold terribly: it decides for all others and has no say in its own.
    learnt = left.copy()
    learnt[compound == 2] *= -30
    weight, of_others = _weights(left, learnt, compound)
    assert weight == 0
    assert (of_others == np.where(compound == 2, 1.0, 0.0)).all()
    assert _weights(left[:3], left[:3], compound[:3])[0] == 0  # one drug judges nothing
    assert _weights(left[:0], left[:0], compound[:0])[0] == 0


def test_controls_are_told_from_no_change():
    model = built(drug_screen(), **VALUES)
    net = model.module.response
    net.mean_change.fill_(3.0)
    basal = torch.zeros(2, 8)
    bits = torch.stack([torch.zeros(2048), torch.ones(2048)])
    still, moved = basal, basal + 3.0 * net.unit
    for treated in (torch.stack([still[0], moved[1]]), still):
        loss = net(basal, treated, bits, None)["drug_loss"]
        assert float(loss) == pytest.approx(0.0 if treated is not still else 9 / 2, abs=1e-6)


# -- the embedding --------------------------------------------------------------------------------


def gram(z: np.ndarray) -> np.ndarray:
    return z @ z.T


@pytest.mark.parametrize("rep", ["flat", "crops"])
def test_without_drugs_to_judge_by_the_embedding_is_the_closed_form(rep):
    mdata = drug_screen(replicates=6)
    model = built(mdata, setup_with={"image_rep": rep}, seed=0, **({} if rep == "flat" else VIT))
    model.train(1, validation_images=0, **SHORT)
    assert model.learnt_weight == 0
    obs = mdata["image"].obs
    obs["at"] = obs["dose_um"].fillna(0).astype(str)
    keys = {"context_keys": ["compound", "cell_line", "at"], "modalities": {"image": "image"}}
    cf.SharedAxes.setup_mudata(mdata, image_rep=rep, **keys)
    closed = cf.SharedAxes(mdata)
    closed.train()
    a, b = (gram(x.get_latent_representation()) for x in (model, closed))
    np.testing.assert_allclose(a, b, atol=2e-3 * np.abs(b).max())


@pytest.mark.parametrize("rep", ["flat", "crops"])
def test_teacher_and_student_read_plain_features_at_their_own_scale(rep):
    """An encoder that says nothing: what the student tells apart it tells by plain features."""
    mdata = drug_screen(replicates=6)
    model = built(mdata, setup_with={"image_rep": rep}, seed=0, **({} if rep == "flat" else VIT))
    model.train(1, validation_images=0, **SHORT)
    net, images = model.module, mdata["image"]
    x = torch.as_tensor(images.obsm[rep])
    plain = x.float() if rep == "flat" else cf.nn.image_statistics(x)
    told = net.plain_scale.scale(plain)
    np.testing.assert_allclose(told.mean(dim=0), 0, atol=1e-3)
    wide = net.plain_scale.sd > 1e-3 * net.plain_scale.sd.max()
    np.testing.assert_allclose(told.std(dim=0, correction=0)[wide], 1, atol=1e-2)
    net.features = lambda x, channels=None: torch.zeros(len(x), net.encoder.width)
    with torch.no_grad():
        heads = torch.cat([told, torch.zeros(len(x), net.encoder.width)], dim=1)
        expected = torch.nn.functional.normalize(net.student(heads), dim=1)
    found = model.get_latent_representation(at="student")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert found.std(axis=0).max() > 1e-3


N_WIDTH = 6


def joined(learnt_of_judges: float, learnt_of_named: float, seed: int = 0) -> JointFeatures:
    """Plain features that tell a little of all drugs, learnt ones that tell of one group's."""
    rng = np.random.default_rng(seed)
    drug, is_judge = np.repeat(np.arange(40), 12), np.repeat(np.arange(40) >= 28, 12)
    effect = rng.normal(size=(2, 40, N_WIDTH))[:, drug]
    strength = np.where(is_judge, learnt_of_judges, learnt_of_named)[:, None]
    plain = 0.3 * effect[0] + rng.normal(size=effect[0].shape)
    learnt = strength * effect[1] + rng.normal(size=effect[1].shape)
    obs = pd.DataFrame({"compound": [f"d{d:02d}" for d in drug]}).rename("i{}".format)
    contexts = Contexts.from_modalities({"image": ad.AnnData(obs=obs)}, "compound")
    features = torch.as_tensor(np.hstack([plain, learnt]), dtype=torch.float32)
    joint = JointFeatures(
        {"image": PlainFeatures("values", (N_WIDTH,))}, n_learnt=N_WIDTH, n_comps=50, n_nuisances={}
    )
    net = SimpleNamespace(joint=joint, encoder=SimpleNamespace(width=N_WIDTH), eval=lambda: None)
    images = SimpleNamespace(net=net, features=lambda x: x, joined=lambda x, h: x)
    reader = cf.data.readers.DenseReader(features.numpy())
    conditions = image_conditions(contexts, np.zeros(len(drug), np.float32))
    join_learnt(
        images, reader, conditions, trained=np.ones(len(drug), bool), judges=is_judge,
        compound_key="compound", power=1.0, seed=seed,
    )  # fmt: skip
    joint.features_, joint.contexts_ = features.numpy(), contexts
    return joint


def test_what_was_learnt_joins_where_drugs_that_were_never_named_are_found_better():
    assert float(joined(1.5, 1.5).space.learnt_weight) > 0
    assert float(joined(0.0, 0.0).space.learnt_weight) == 0


def test_what_was_learnt_by_heart_does_not_join():
    """It tells of named drugs alone: left out of the fit, these would vouch for it."""
    joint = joined(0.0, 1.5)
    assert float(joint.space.learnt_weight) == 0
    assert not joint.space.cell("image").joint[N_WIDTH:].any()
    x = joint.features_

    def blocks():
        yield np.arange(len(x)), x, None

    named = joint.contexts_.restricted({"image": np.repeat(np.arange(40) < 28, 12)})
    fit_joint_space(
        joint.space, {"image": blocks}, named, n_comps=50, powers={"image": 1.0}, n_learnt=N_WIDTH
    )
    assert float(joint.space.learnt_weight) > 0


def test_judges_are_the_drugs_that_nobody_was_told_of():
    mdata = drug_screen(replicates=6)
    images = mdata["image"]
    images.obs["held"] = (images.obs["compound"] == "vorinostat").to_numpy()
    model = built(mdata, seed=0)
    model.train(1, validation_images="held", **SHORT)
    found = set(images.obs["compound"][model._joint.never_named()])
    assert found == {"vorinostat", "imaged only"}
    assert len(found) < LEAST_JUDGES and model.learnt_weight == 0
    model.train(1, validation_images=2, **SHORT)
    assert set(images.obs["compound"][model._joint.never_named()]) == {"imaged only"}


def test_each_dose_is_a_condition_of_its_own():
    obs = pd.DataFrame({"compound": list("aabbb")}, index=list("vwxyz"))
    contexts = Contexts.from_modalities({"image": ad.AnnData(obs=obs)}, "compound")
    contexts = contexts.restricted({"image": np.array([1, 1, 1, 1, 0], bool)})
    found = image_conditions(contexts, np.array([1, 10, 1, 1, 1], np.float32))
    assert found.table["compound"].tolist() == ["a", "a", "b"]
    assert found.of_row("image").tolist() == [0, 1, 2, 2, -1]


# -- CL(D) ----------------------------------------------------------------------------------------


def test_cld_is_told_of_every_drug_with_images_and_structure():
    mdata = drug_screen()
    # One paired drug loses its RNA in one line: its images there say as much of its structure.
    rna = mdata["rna"]
    lost = (rna.obs["compound"] == "aspirin") & (rna.obs["cell_line"] == "U2OS")
    mdata = md.MuData({"image": mdata["image"], "rna": rna[~lost.to_numpy()].copy()})
    # 2 lines x 2 doses x 4 images are 16 of a drug; five drugs, one of them never sequenced.
    counts = {"drug": 5 * 16, "tide": 4 * 16 - 8, "rna": 4 * 16 - 8}
    for objective, n in counts.items():
        model = built(mdata, objective=objective, seed=0)
        told, shown = [], []
        model.module.register_forward_pre_hook(
            lambda net, args, told=told, shown=shown: (
                told.extend(args[5].tolist()), shown.append(args[2])
            ) and None
        )  # fmt: skip
        model.train(1, batch_size=8, validation_images=0, **SHORT)
        assert len(told) == n
        names = pd.Series([model.drugs[d] for d in told]).value_counts()
        assert names["colchicine"] == 16
        assert names.get("imaged only", 0) == (16 if objective == "drug" else 0)
        assert names["aspirin"] == (16 if objective == "drug" else 8)
        assert all((x is None) == (objective == "drug") for x in shown)
    assert "imaged only" in built(mdata, objective="drug").codebook.obs_names


# -- where it begins, and state -------------------------------------------------------------------


def test_where_it_begins_by_default_and_what_is_refused():
    mdata = drug_screen()
    crops = {"setup_with": {"image_rep": "crops"}, **VIT}
    assert built(mdata).begin == "linear"
    assert built(mdata, preset="base").begin == "random"
    assert built(mdata, channel_agnostic=True, **crops).begin == "random"
    assert built(mdata, n_paired=0, **crops).begin == "random"
    with pytest.raises(ValueError, match="plain features of all channels"):
        built(mdata, channel_agnostic=True, begin="linear", **crops)
    with pytest.raises(ValueError, match="n_paired=0 is the self-supervised method alone"):
        built(mdata, n_paired=0, begin="linear", **crops)
    with pytest.raises(ValueError, match="begin"):
        built(mdata, begin="cold")
    model = built(mdata, begin="random")
    model.train(1, validation_images=0, **SHORT)
    for name in ("learnt_weight", "response_learnt_weight"):
        with pytest.raises(ValueError, match=f"{name} is of models that begin linear"):
            getattr(model, name)
    with pytest.raises(ValueError, match="at='joint' is of models that begin linear"):
        model.get_latent_representation(at="joint")
    np.testing.assert_array_equal(
        model.get_latent_representation(), model.get_latent_representation(at="encoder")
    )
    with pytest.raises(RuntimeError, match="not trained"):
        _ = built(mdata).learnt_weight
    with pytest.raises(RuntimeError, match="train_response"):
        _ = built(mdata).response_learnt_weight


def test_a_model_that_began_linear_is_saved_and_loaded(tmp_path):
    mdata = drug_screen()
    model = built(mdata, seed=0)
    model.train(1, validation_images=0, **SHORT)
    model.save(tmp_path / "model")
    again = cf.TIDE.load(tmp_path / "model")
    assert again.begin == "linear" and again.learnt_weight == model.learnt_weight
    np.testing.assert_array_equal(
        again.get_latent_representation(mdata), model.get_latent_representation()
    )
    controls = mdata["rna"][-2:].copy()
    for smiles in (SMILES["aspirin"], SMILES["colchicine"], "CCO"):
        np.testing.assert_array_equal(
            again.predict_expression(controls, smiles, 1.0),
            model.predict_expression(controls, smiles, 1.0),
        )


def test_what_was_saved_before_there_was_a_beginning_loads_as_it_was(tmp_path):
    mdata = drug_screen()
    keep = (mdata["image"].obs["compound"] != "imaged only").to_numpy()
    mdata = md.MuData({"image": mdata["image"][keep].copy(), "rna": mdata["rna"]})
    model = built(mdata, objective="drug", begin="random", seed=0)
    model.train(1, validation_images=0, **SHORT)
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "cellfuse.json"
    text = json.loads(file.read_text())
    del text["init"]["begin"], text["setup"]["imaged"]
    file.write_text(json.dumps(text))
    again = cf.TIDE.load(tmp_path / "model")
    assert again.begin == "random" and again.drugs == PAIRED
    np.testing.assert_array_equal(again.predict(mdata), model.predict())
