"""What the trainings of TIDE read, what they keep, and what they say of themselves."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from screens import PAIRED, SMILES, drug_screen
from tide_parts import SHORT, VIT, built
from torch import nn

import cellfuse as cf
from cellfuse.model.base import neighbours
from cellfuse.model.base.callbacks import KeepBest, Score
from cellfuse.model.tide.joint import JointTraining

VALUES = {"setup_with": {"rna_rep": "X_values"}}


def held_out(model, share: float) -> np.ndarray:
    """RNA rows of the compounds that the response model is not to see."""
    compound = model._transcriptomes().fields["compound"]
    names = np.unique(compound[compound >= 0])
    order = np.random.default_rng([model.seed, 32_452_843]).permutation(names)
    return np.isin(compound, order[: int(len(names) * share)])


# -- the response model ---------------------------------------------------------------------------


def test_held_out_drugs_leave_no_trace_in_the_response_model():
    def outcome(poke):
        mdata = drug_screen()
        model = built(mdata, **VALUES)
        held = held_out(model, 0.4)
        assert 0 < held.sum() < len(held) / 2
        if poke:
            mdata["rna"].obsm["X_values"][held] = 50.0
        report = model.train_response(2, holdout=0.4, enable_progress_bar=False)
        return model.module.response.state_dict(), report

    (one, report), (two, poked) = outcome(False), outcome(True)
    for name, weight in one.items():
        if name != "learnt_weight":  # which the held-out drugs are asked for
            torch.testing.assert_close(weight, two[name], rtol=0, atol=0)
    pd.testing.assert_series_equal(report.loc["training drugs"], poked.loc["training drugs"])
    assert report.loc["held-out drugs", "r2"] != poked.loc["held-out drugs", "r2"]


def test_the_report_is_the_plain_computation():
    mdata = drug_screen()
    model = built(mdata, **VALUES)
    report = model.train_response(4, lr=3e-3, holdout=0.4, enable_progress_bar=False)
    rna, x = mdata["rna"].obs, mdata["rna"].obsm["X_values"].astype(float)
    held = held_out(model, 0.4)
    sd = x[~held].std(axis=0)
    change, predicted, of_held = [], [], []
    for (name, line, dose), rows in rna.groupby(
        ["compound", "cell_line", "dose_um"]
    ).indices.items():
        if name == "DMSO":
            continue
        control = ((rna["compound"] == "DMSO") & (rna["cell_line"] == line)).to_numpy()
        basal = x[control].mean(axis=0)
        state = ad.AnnData(obsm={"X_values": basal[None].astype("f4")})
        change.append((x[rows].mean(axis=0) - basal) / sd)
        predicted.append((model.predict_expression(state, SMILES[name], dose)[0] - basal) / sd)
        of_held.append(held[rows].all())
    change, predicted, of_held = (np.array(part) for part in (change, predicted, of_held))
    mean = change[~of_held].mean(axis=0)
    for part, chosen in (("held-out drugs", of_held), ("training drugs", ~of_held)):
        nothing = np.square(change[chosen]).sum()
        model_error = np.square(change[chosen] - predicted[chosen]).sum()
        mean_error = np.square(change[chosen] - mean).sum()
        expected = {
            "r2": 1 - model_error / nothing,
            "r2_over_mean_change": 1 - model_error / mean_error,
            "mean_change_r2": 1 - mean_error / nothing,
            "correlation": np.corrcoef(change[chosen].ravel(), predicted[chosen].ravel())[0, 1],
        }
        for name, value in expected.items():
            assert report.loc[part, name] == pytest.approx(value, rel=1e-3, abs=1e-4)


def test_a_profile_is_shown_with_its_own_dose_beside_another_of_its_drug_and_line():
    mdata = drug_screen()
    model = built(mdata, **VALUES)
    seen = []
    model.module.response.register_forward_pre_hook(
        lambda net, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    model.train_response(1, batch_size=16, enable_progress_bar=False)
    obs, x = mdata["rna"].obs, torch.from_numpy(mdata["rna"].obsm["X_values"])
    key = (obs["compound"] + obs["cell_line"]).to_numpy()
    dose = torch.from_numpy(obs["dose_um"].fillna(0).to_numpy("f4"))
    other = 0
    for (basal, treated, bits, told), kwargs in seen:
        rows, shown = (torch.cdist(v, x).argmin(dim=1) for v in (treated, kwargs["shown"]))
        assert (key[rows] == key[shown]).all()
        torch.testing.assert_close(told, dose[rows])
        torch.testing.assert_close(kwargs["shown_dose"], dose[shown])
        other += int((dose[rows] != dose[shown]).sum())
        control = (obs["compound"].iloc[rows] == "DMSO").to_numpy()
        assert ((bits.sum(dim=1) == 0).numpy() == control).all()
        assert not torch.allclose(basal, treated)
    assert other > 5


def test_what_the_response_model_does_in_training_is_over_in_the_joint_one():
    model = built(drug_screen(), **VALUES)
    net = model.module
    net.response.encoder = nn.Sequential(
        nn.Linear(8, 64), nn.Dropout(0.5), nn.Unflatten(1, (1, 64))
    )
    net.train()
    rna, basal, dose = torch.randn(3, 8), torch.randn(3, 8), torch.ones(3)
    torch.testing.assert_close(
        net.transcriptome(rna, basal, dose), net.transcriptome(rna, basal, dose)
    )


# -- the joint training ---------------------------------------------------------------------------


def test_a_batch_pairs_images_with_rna_of_their_drug_and_line_and_tells_each_its_dose():
    mdata = drug_screen()
    model = built(mdata, **VALUES)
    net = model.module
    for film in (net.dose, net.response.take_dose):  # away from the identity
        nn.init.normal_(film.mlp[-1].weight)
    stage = model._stage()
    joint = model._joint = JointTraining(
        net,
        stage.data,
        model._image_fields(),
        model.images,
        None,
        rna=stage.rows,
        held=0,
        evaluate_every=None,
        n_paired=None,
        channel_dropout=False,
        seed=0,
    )
    found = joint.plans(model._contexts(None, ["image", "rna"]), joint.rows(), 32)
    plans, source = found.train, model._source()
    model._take_statistics(source, found)
    names = {draw.name: draw.modality for draw in plans["paired"].stream.draws}
    batch = source.read(plans["paired"].indices(0, 0), names).to("cpu")
    image, rna = (mdata[m].obs for m in ("image", "rna"))
    i, r = (batch.rows[m][:, 0].numpy() for m in ("image", "rna"))
    for column in ("compound", "cell_line"):
        assert (image[column].to_numpy()[i] == rna[column].to_numpy()[r]).all()
    assert set(image["compound"].iloc[i]) <= set(PAIRED)
    control = rna.iloc[batch.rows["basal"].flatten().numpy()]
    assert (control["compound"] == "DMSO").all()
    assert (
        control["cell_line"].to_numpy().reshape(32, -1).T == rna["cell_line"].to_numpy()[r]
    ).all()
    x = torch.from_numpy(mdata["rna"].obsm["X_values"])
    flat = torch.from_numpy(mdata["image"].obsm["flat"])
    with torch.no_grad():
        by_hand = net(
            (flat[i] - flat.mean(dim=0)) / flat.std(dim=0, correction=0),
            torch.from_numpy(image["dose_um"].to_numpy("f4")[i]),
            x[r],
            x[batch.rows["basal"]].mean(dim=1),
            torch.from_numpy(rna["dose_um"].to_numpy("f4")[r]),
            torch.tensor([PAIRED.index(name) for name in image["compound"].iloc[i]]),
            flat[i],  # plain features, whose scale nobody took
        )
        found = joint.losses({"paired": batch})
    for name, value in by_hand.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_zero_pairs_are_dino_with_dropped_channels_too():
    screen = drug_screen()
    given = {"channel_agnostic": True, "seed": 3, **VIT}
    model = built(screen, setup_with={"image_rep": "crops"}, n_paired=0, **given)
    options = {"batch_size": 32, "enable_progress_bar": False}
    model.train(1, validation_images=0, **options)
    images = screen["image"].copy()
    cf.DINO.setup_anndata(images, image_rep="crops")
    alone = cf.DINO(images, **given)
    alone.train(1, **options)
    np.testing.assert_allclose(
        model.get_latent_representation(), alone.get_latent_representation(), rtol=1e-4, atol=1e-5
    )
    loss = "train_loss_epoch"
    np.testing.assert_allclose(
        model.history[loss].to_numpy(), alone.history[loss].to_numpy(), rtol=1e-5
    )


# -- which epoch is kept --------------------------------------------------------------------------


def test_the_highest_score_is_kept_and_the_first_of_equal_ones():
    net, scores, logged = nn.Linear(1, 1), iter([0.2, 0.9, 0.9, 0.1]), {}
    module = SimpleNamespace(log_dict=lambda found, **_: logged.update(found))
    score = Score(net, lambda: {"knn": next(scores)}, every=2)
    keep, seen = KeepBest(net, "validation_knn"), {}
    for epoch in range(7):
        with torch.no_grad():
            net.weight.fill_(epoch)
        trainer = SimpleNamespace(current_epoch=epoch, max_epochs=7, callback_metrics=logged)
        for callback in (score, keep):
            callback.on_train_epoch_end(trainer, module)
        seen.update(dict.fromkeys([epoch] * len(logged), logged.get("validation_knn")))
    assert seen == {1: 0.2, 3: 0.9, 5: 0.9, 6: 0.1}  # the last is always looked at
    assert net.training
    keep.on_fit_end(None, None)
    assert net.weight.item() == 3


def test_a_training_ends_with_the_weights_of_its_best_epoch(monkeypatch):
    model, seen = built(drug_screen(replicates=6), seed=0), []

    def score(*_):
        seen.append({n: x.clone() for n, x in model.module.state_dict().items()})
        return {1: 0.3, 2: 0.8, 3: 0.5}[len(seen)]

    monkeypatch.setattr(neighbours, "neighbour_accuracy", score)
    model.train(3, validation_images=2, **SHORT)
    assert model.history["validation_knn_accuracy"]["validation_knn_accuracy"].tolist() == (
        pytest.approx([0.3, 0.8, 0.5])
    )
    for name, weight in model.module.state_dict().items():
        if not name.startswith("joint."):  # fitted after the last epoch, on what was kept
            torch.testing.assert_close(weight, seen[1][name], rtol=0, atol=0)
    assert not torch.equal(seen[2]["student.0.weight"], seen[1]["student.0.weight"])
    assert not model.module.training
