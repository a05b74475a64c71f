"""TIDE: what it learns, what reaches inference, its choices and its state."""

from __future__ import annotations

import pickle

import anndata as ad
import matplotlib.pyplot as plt
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from screens import PAIRED, SMILES, drug_screen
from sklearn.neighbors import KNeighborsClassifier
from tide_parts import SHORT, SMALL, VIT, built, drawn, setup

import cellfuse as cf
from cellfuse.data.readers import DenseReader
from cellfuse.data.splits import few_of_each
from cellfuse.model.base import neighbours
from cellfuse.model.base.neighbours import Neighbours, neighbour_accuracy
from cellfuse.model.tide.capping import capped
from cellfuse.model.tide.response import _explained, response_report
from cellfuse.nn.response import RESPONSE_PRESETS
from cellfuse.pl._codebook import codebook as draw_codebook


@pytest.fixture(scope="module")
def screen():
    return drug_screen()


@pytest.fixture(scope="module")
def trained():
    model = built(drug_screen(), seed=0)
    model.train_response(50, lr=3e-3, enable_progress_bar=False)
    model.train(60, validation_images=0, lr=5e-3, enable_progress_bar=False)
    return model


# -- what it learns -------------------------------------------------------------------------------


def accuracy(model, mdata) -> float:
    images = mdata["image"][mdata["image"].obs["compound"].isin(model.drugs).to_numpy()].copy()
    found = model.predict(images).idxmax(axis=1)
    return float((found == images.obs["compound"]).mean())


def test_it_names_the_drugs_of_new_images_and_not_where_labels_were_dealt_at_random(trained):
    new = drug_screen(noise=1.0, seed=0)  # the same effects, other noise
    assert accuracy(trained, new) > 0.8  # chance is .25
    mixed = drug_screen()
    obs = mixed["image"].obs
    treated = np.flatnonzero(obs["compound"].isin(PAIRED))
    order = np.random.default_rng(0).permutation(treated)
    for column in ("compound", "smiles"):
        values = obs[column].to_numpy(dtype=object).copy()
        values[treated] = values[order]
        obs[column] = values
    model = built(mixed, seed=0)
    model.train(60, validation_images=0, lr=5e-3, **SHORT)
    assert accuracy(model, new) < 0.6


def test_the_transcriptome_helps_the_teacher_where_images_say_nothing():
    outcome = {}
    for told in (True, False):
        mdata = drug_screen()
        mdata["image"].obsm["flat"] = drawn(mdata["image"].n_obs, 8).numpy()
        if not told:
            mdata["rna"].obsm["X_values"] *= 0
        model = built(mdata, setup_with={"rna_rep": "X_values"}, seed=0)
        epochs = 15 if told else 1  # from nothing, nothing is learnt
        model.train_response(epochs, batch_size=16, lr=3e-3, enable_progress_bar=False)
        model.train(15, validation_images=0, lr=5e-3, batch_size=32, enable_progress_bar=False)
        outcome[told] = model.history["train_teacher_accuracy_epoch"].iloc[-1, 0]
    assert outcome[True] > outcome[False] + 0.2


def test_the_response_model_explains_training_drugs_and_is_judged_on_others(trained):
    report = trained.response_report_
    assert list(report.index) == ["held-out drugs", "training drugs"]
    assert report["n_drugs"].tolist() == [1, 4]
    assert report["n_conditions"].tolist() == [4, 16]
    assert report.loc["training drugs", "r2"] > 0.5
    assert report.loc["training drugs", "r2_over_mean_change"] > 0.3


def test_only_conditions_with_controls_are_reported():
    """A second batch without controls: its change is of nothing known, not of another batch's."""
    mdata = drug_screen()
    rna = mdata["rna"].obs
    late = (rna["dose_um"] == 30).to_numpy()
    for m in ("image", "rna"):
        mdata[m].obs["batch"] = "one"
    rna["batch"] = np.where(late, "two", "one")
    keys = ["compound", "cell_line", "batch"]
    model = built(mdata, setup_with={"context_keys": keys}, seed=0)
    model.train_response(1, enable_progress_bar=False)
    net, data = model.module.response, model._transcriptomes()
    of = {"held_out": [0], "use_dose": True}
    whole, _ = response_report(net, data, np.ones(len(late), bool), **of)
    torch.testing.assert_close(whole, response_report(net, data, ~late, **of)[0])
    assert whole[:, -1].tolist() == [2, 8]  # two cell lines, of one drug and of four


def test_what_is_explained_by_hand():
    change = np.array([[1.0, 0.0], [0.0, 2.0]])
    predicted = np.array([[1.0, 0.0], [0.0, 1.0]])
    mean = np.array([0.5, 1.0])
    r2, over_mean, of_mean, correlation = _explained(change, predicted, mean)
    assert r2 == pytest.approx(1 - 1 / 5)
    assert over_mean == pytest.approx(1 - 1 / 2.5)
    assert of_mean == pytest.approx(1 - 2.5 / 5)
    assert correlation == pytest.approx(np.corrcoef(change.ravel(), predicted.ravel())[0, 1])


def test_prototypes_are_of_the_drugs_with_both_and_drift(trained):
    assert trained.drugs == PAIRED
    book = trained.codebook
    assert list(book.obs_names) == PAIRED
    assert (book.obs["drift"] > 1e-3).all()
    bits = cf.pp.fingerprints(pd.DataFrame({"s": [SMILES[d] for d in PAIRED]}), "s")
    np.testing.assert_array_equal(book.obsm["fingerprint"], bits)
    for key in ("prototype", "initial_prototype"):
        np.testing.assert_allclose(np.linalg.norm(book.obsm[key], axis=1), 1, rtol=1e-5)
    pairs = book.uns["pairs"]
    assert len(pairs) == 6
    assert pairs["gain"].is_monotonic_decreasing
    cosine = book.obsm["prototype"] @ book.obsm["prototype"].T
    first = pairs.iloc[0]
    a, b = (PAIRED.index(first[side]) for side in ("source", "target"))
    assert first["cosine"] == pytest.approx(cosine[a, b], abs=1e-6)
    upper = cosine[np.triu_indices(4, 1)].astype(float)
    then = book.obsm["initial_prototype"] @ book.obsm["initial_prototype"].T
    other = then[np.triu_indices(4, 1)].astype(float)
    gain = (cosine[a, b] - upper.mean()) / upper.std() - (then[a, b] - other.mean()) / other.std()
    assert first["gain"] == pytest.approx(gain, rel=1e-3)
    on = bits.astype(bool)
    tanimoto = (on[a] & on[b]).sum() / (on[a] | on[b]).sum()
    assert first["tanimoto"] == pytest.approx(tanimoto)


def test_compounds_never_seen_have_a_place(trained):
    places = trained.embed_compounds([SMILES["aspirin"], "Nc1ccccc1", "CCO"])
    assert places.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(places, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(trained.embed_compounds("CCO")[0], places[2], rtol=1e-5)
    with pytest.raises(ValueError, match="does not read 1 SMILES: 'nonsense'"):
        trained.embed_compounds(["CCO", "nonsense"])


# -- what reaches inference -----------------------------------------------------------------------


def test_inference_reads_images_alone(trained):
    bare = ad.AnnData(obsm={"flat": drug_screen()["image"].obsm["flat"]})
    whole = drug_screen()
    whole["image"].obs["dose_um"] = 99.0
    whole["image"].obs["cell_line"] = "HeLa"
    whole["rna"].X = whole["rna"].X * 0
    p = trained.predict()
    assert list(p.columns) == PAIRED
    assert list(p.index) == list(drug_screen()["image"].obs_names)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-5)
    for data in (bare, whole, whole["image"]):
        np.testing.assert_array_equal(trained.predict(data).to_numpy(), p.to_numpy())
        for layer in (None, "joint", "encoder", "student"):
            np.testing.assert_array_equal(
                trained.get_latent_representation(data, at=layer),
                trained.get_latent_representation(at=layer),
            )
    with pytest.raises(ValueError, match="'average', 'student'"):
        trained.get_latent_representation(at="teacher")
    with pytest.raises(ValueError, match="only DINO keeps a running mean"):
        trained.get_latent_representation(at="average")


def test_the_student_meets_the_prototypes_in_their_space(trained):
    z = trained.get_latent_representation(at="student")
    logits = torch.from_numpy(z @ trained.codebook.obsm["prototype"].T) / 0.1
    np.testing.assert_allclose(logits.softmax(1), trained.predict(), atol=1e-5)


def test_the_dose_is_peeled_from_an_embedding(trained):
    mdata = drug_screen()
    h = trained.dose_conditioned_representation(mdata)
    z = trained.get_latent_representation(mdata, at="encoder")
    assert h.shape == (len(z), 8 + z.shape[1])  # eight plain features, and the encoder's
    mdata["image"].obs["other"] = mdata["image"].obs["dose_um"] * 100
    assert not np.allclose(trained.dose_conditioned_representation(mdata, dose_key="other"), h)


def test_expression_is_predicted_from_basal_state_structure_and_dose(trained):
    rna = drug_screen()["rna"]
    controls = rna[(rna.obs["compound"] == "DMSO").to_numpy()].copy()
    one = trained.predict_expression(controls, SMILES["colchicine"], 30.0)
    assert one.shape == controls.shape
    rows = trained.predict_expression(controls[:1].copy(), SMILES["colchicine"], [0.0, 1.0, 30.0])
    assert rows.shape == (3, rna.n_vars)
    np.testing.assert_allclose(rows[2], one[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(rows[0], rows[2])
    both = trained.predict_expression(controls[:2].copy(), [SMILES["colchicine"], "CCO"], 30.0)
    np.testing.assert_allclose(both[0], one[0], rtol=1e-4, atol=1e-5)
    # Nearer to what was measured than the untreated cells are; one of the drugs was held out.
    values = rna.X.toarray()
    log = np.log1p(values * 1e4 / values.sum(1, keepdims=True))
    basal = log[(rna.obs["compound"] == "DMSO").to_numpy()].mean(0)
    off = {"predicted": 0.0, "basal": 0.0}
    for drug in PAIRED:
        mine = ((rna.obs["compound"] == drug) & (rna.obs["dose_um"] == 30)).to_numpy()
        predicted = trained.predict_expression(controls, SMILES[drug], 30.0).mean(0)
        for name, guess in (("predicted", predicted), ("basal", basal)):
            off[name] += np.square(guess - log[mine].mean(0)).sum()
    assert off["predicted"] < 0.6 * off["basal"]


def test_what_predict_expression_refuses(trained):
    rna = drug_screen()["rna"][:3].copy()
    with pytest.raises(ValueError, match="lengths of 1 or 3, found"):
        trained.predict_expression(rna, ["CCO", "CCC"], 1.0)
    for dose in (-1.0, np.nan):
        with pytest.raises(ValueError, match="doses are numbers in uM"):
            trained.predict_expression(rna, "CCO", dose)
    with pytest.raises(ValueError, match="give `dose`"):
        trained.predict_expression(rna, "CCO")
    with pytest.raises(ValueError, match="numbers in uM from 0.*'10 uM'"):
        trained.predict_expression(rna, "CCO", "10 uM")
    with pytest.raises(ValueError, match=r"one for each row, found shape \(1, 3\)"):
        trained.predict_expression(rna, "CCO", [[1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="expected lengths of 1 or 3, found .*'smiles': 0"):
        trained.predict_expression(rna, [], 1.0)
    logged = rna.copy()
    logged.X = np.log1p(logged.X.toarray())
    with pytest.raises(ValueError, match="holds no raw counts"):
        trained.predict_expression(logged, "CCO", 1.0)
    with pytest.raises(RuntimeError, match="train_response"):
        built(drug_screen()).predict_expression(rna, "CCO", 1.0)


# -- zero pairs, caps, choices --------------------------------------------------------------------


@pytest.mark.parametrize("ssl", ["dino", "mae"])
def test_zero_pairs_are_the_self_supervised_method_alone(screen, ssl):
    model = built(screen, setup_with={"image_rep": "crops"}, ssl=ssl, n_paired=0, seed=3, **VIT)
    options = {"batch_size": 16, "enable_progress_bar": False}
    model.train(2, validation_images=0, **options)
    other = {"dino": cf.DINO, "mae": cf.MAE}[ssl]
    images = screen["image"].copy()
    other.setup_anndata(images, image_rep="crops")
    alone = other(images, seed=3, **VIT)
    alone.train(2, **options)
    np.testing.assert_allclose(
        model.get_latent_representation(),
        alone.get_latent_representation(),
        rtol=1e-4,
        atol=1e-5,
    )
    assert "train_distillation_loss_epoch" not in model.history
    with pytest.raises(RuntimeError, match="saw no pairs"):
        model.predict()


@pytest.mark.parametrize("ssl", ["dino", "mae", None])
@pytest.mark.parametrize("objective", ["tide", "drug", "rna"])
def test_every_term_trains_on_pixels(screen, ssl, objective):
    model = built(screen, setup_with={"image_rep": "crops"}, ssl=ssl, objective=objective, **VIT)
    model.train(1, batch_size=32, validation_images=0, **SHORT)
    assert np.isfinite(model.history["train_loss_epoch"]).all(axis=None)
    assert ("train_ssl_loss_epoch" in model.history) == (ssl is not None)
    z = model.get_latent_representation(screen["image"], at="encoder")
    assert z.shape[1] == 12
    if ssl == "dino":
        images = torch.from_numpy(screen["image"].obsm["crops"])
        net = model.module.eval()
        with torch.no_grad():
            mean = net.image.teacher[0].embed(net.scale(images)).numpy()
        found = model.get_latent_representation(screen["image"], at="average")
        np.testing.assert_allclose(found, mean, rtol=1e-4, atol=1e-5)
        assert not np.allclose(found, z)
    if objective == "rna":
        with pytest.raises(RuntimeError, match="no codebook"):
            model.predict()
    else:
        n_drugs = {"tide": 4, "drug": 5}[objective]  # CL(D) is told of those without RNA too
        assert model.predict().shape == (screen["image"].n_obs, n_drugs)


def test_the_loss_is_the_weighted_sum_of_its_terms(screen):
    given = {"ssl": "mae", "alpha": 0.5, "beta": 2.0, **VIT}
    model = built(screen, setup_with={"image_rep": "crops"}, **given)
    model.train(1, validation_images=0, batch_size=1000, **SHORT)
    of = {k: v.iloc[0, 0] for k, v in model.history.items()}
    total = of["train_distillation_loss_epoch"] + 0.5 * of["train_teacher_loss_epoch"]
    assert of["train_loss_epoch"] == pytest.approx(total + 2 * of["train_ssl_loss_epoch"], rel=1e-5)


def test_a_cap_keeps_so_many_profiles_of_each_paired_drug():
    compound = np.repeat([-1, 0, 1, 2], [5, 7, 3, 9])
    keep = capped(compound, [0, 1], 4, seed=0)
    assert [int(keep[compound == c].sum()) for c in (-1, 0, 1, 2)] == [5, 4, 3, 9]
    more = capped(compound, [0, 1], 5, seed=0)
    assert (more >= keep).all()  # the larger cap holds the smaller one's profiles
    assert capped(compound, [0], None, seed=0).all()


def test_caps_and_held_out_images_are_those_of_the_plain_loop():
    rng = np.random.default_rng(1)
    compound = rng.integers(-1, 6, 300)
    order = np.random.default_rng([4, 15_485_863]).permutation(300)
    keep = np.ones(300, bool)
    for drug in (1, 3, 5):
        keep[order[compound[order] == drug][7:]] = False
    np.testing.assert_array_equal(capped(compound, [1, 3, 5], 7, seed=4), keep)
    order = np.random.default_rng([4, 104_729]).permutation(300)
    held = np.zeros(300, bool)
    for drug in range(6):
        rows = order[compound[order] == drug]
        held[rows[: min(8, len(rows) // 5)]] = True
    np.testing.assert_array_equal(few_of_each(compound, 8, seed=4), held)
    assert not few_of_each(np.full(3, -1), 8, seed=4).any()


def test_profiles_beyond_the_cap_are_never_read(screen):
    def outcome(poke):
        mdata = drug_screen()
        model = built(mdata, n_paired=1, seed=0)
        used = model._stage().rows
        if poke:
            x = mdata["rna"].X.toarray()
            x[~used] = 7
            mdata["rna"].X = sp.csr_matrix(x)
            model = built(mdata, n_paired=1, seed=0)
        model.train(1, validation_images=0, **SHORT)
        return model.predict().to_numpy()

    np.testing.assert_array_equal(outcome(False), outcome(True))


def test_without_fine_tuning_the_response_model_stays_as_it_began(screen):
    model = built(screen, finetune_response=False, seed=0)
    before = {k: v.clone() for k, v in model.module.response.state_dict().items()}
    model.train(1, validation_images=0, **SHORT)
    for name, weight in model.module.response.state_dict().items():
        if name not in ("mean", "sd"):
            torch.testing.assert_close(weight, before[name])
    assert model.response_report_.isna().all(axis=None)
    assert not any(name.startswith("response_") for name in model.history)


def test_the_response_model_is_frozen_in_the_joint_training(screen):
    model = built(screen, seed=0)
    model.train_response(1, enable_progress_bar=False)
    before = {k: v.clone() for k, v in model.module.response.state_dict().items()}
    model.train(1, validation_images=0, **SHORT)
    for name, weight in model.module.response.state_dict().items():
        torch.testing.assert_close(weight, before[name])
    assert "response_train_loss_epoch" in model.history  # it is not trained a second time
    assert len(model.history["response_train_loss_epoch"]) == 1


def test_channels_may_be_left_out_of_a_channel_agnostic_model(screen):
    model = built(screen, setup_with={"image_rep": "crops"}, channel_agnostic=True, **VIT)
    model.train(1, validation_images=0, batch_size=32, **SHORT)
    one = ad.AnnData(obsm={"crops": screen["image"].obsm["crops"][:, 1:]})
    one.uns["channels"] = ["ER"]
    assert model.predict(one).shape == (screen["image"].n_obs, 4)
    one.uns["channels"] = ["AGP"]
    with pytest.raises(KeyError, match="'AGP' is not in the channels this TIDE has seen"):
        model.predict(one)


def test_one_cell_line_and_no_doses(screen):
    one = md.MuData({m: a[(a.obs["cell_line"] == "A549")].copy() for m, a in screen.mod.items()})
    with pytest.raises(ValueError, match="one cell line only, 'A549'.*`cell_line_key=None`"):
        setup(one)
    setup(one, context_keys="compound", cell_line_key=None, dose_key=None)
    with pytest.raises(ValueError, match="use_dose=False"):
        cf.TIDE(one)
    model = cf.TIDE(one, use_dose=False, **SMALL)
    model.train(1, **SHORT)
    assert model.predict().shape[1] == 4
    controls = one["rna"][-2:].copy()
    assert model.predict_expression(controls, "CCO").shape == controls.shape
    with pytest.raises(ValueError, match="knows no doses"):
        model.predict_expression(controls, "CCO", 1.0)


# -- which epoch is kept --------------------------------------------------------------------------


@pytest.mark.parametrize("block", [7, 512])
def test_neighbours_vote_as_scikit_learns_do(block, monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 6)) * 2
    label, asked_label = rng.integers(4, size=80), rng.integers(4, size=60)
    bank = centres[label] + rng.normal(size=(80, 6))
    asked = centres[asked_label] + rng.normal(size=(60, 6))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (asked, bank)]
    for k in (1, 7):
        expected = KNeighborsClassifier(k).fit(unit[1], label).score(unit[0], asked_label)
        tensors = [torch.from_numpy(x) for x in (asked, asked_label, bank, label)]
        assert neighbour_accuracy(*tensors, k=k) == pytest.approx(expected, abs=0.05)


def test_images_are_held_out_by_compound():
    compound = np.repeat([-1, 0, 1, 2], [9, 40, 10, 3])
    held = few_of_each(compound, 4, seed=0)
    assert [int(held[compound == c].sum()) for c in (-1, 0, 1, 2)] == [0, 4, 2, 0]


def test_neighbours_are_looked_for_among_all_training_images():
    label = np.repeat([-1, 0, 1, 2], [9, 40, 10, 6])
    held = few_of_each(label, 4, seed=0) | (label == 2)  # a compound that is held out whole
    score = Neighbours(lambda x: x, None, label, ~held, held)
    assert score.bank.tolist() == np.flatnonzero(~held & (label >= 0)).tolist()
    assert len(score.asked) == 4 + 2 and set(label[score.asked]) == {0, 1}
    assert score.new.tolist() == np.flatnonzero(label == 2).tolist()
    assert not Neighbours(lambda x: x, None, label, label >= 0, label < 0).is_there


def test_compounds_that_are_held_out_whole_are_asked_among_one_another():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(6), 12)
    x = rng.normal(size=(6, 8))[label] * 3 + rng.normal(size=(72, 8))
    held = label >= 4
    score = Neighbours(lambda part: part, DenseReader(x), label.astype(np.int64), ~held, held)
    unit = x[held] / np.linalg.norm(x[held], axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -9)
    near = np.argsort(-cosine, axis=1)[:, :20]
    votes = np.stack([(label[held][near] == c).sum(axis=1) for c in (4, 5)], axis=1)
    clear = votes[:, 0] != votes[:, 1]
    right = votes.argmax(axis=1) + 4 == label[held]
    found = score()["knn_accuracy"]
    assert right[clear].sum() / 24 <= found <= (right[clear].sum() + (~clear).sum()) / 24
    assert found > 0.6


def test_whole_compounds_can_be_held_out_and_the_looks_are_the_users():
    mdata = drug_screen(replicates=6)
    images = mdata["image"]
    images.obs["held"] = images.obs["compound"].isin(["vorinostat", "imaged only"]).to_numpy()
    model = built(mdata, seed=0)
    model.train(6, validation_images="held", evaluate_every=[2, 5], **SHORT)
    scores = model.history["validation_knn_accuracy"]["validation_knn_accuracy"]
    assert scores.index.tolist() == [1, 4]
    images.obs["none"] = False
    with pytest.raises(ValueError, match="marks 0 of"):
        model.train(1, validation_images="none", **SHORT)


def test_the_best_epoch_is_kept_and_held_out_images_are_not_trained_on():
    def outcome(poke):
        mdata = drug_screen(replicates=6)
        model = built(mdata, seed=0)
        held = few_of_each(model._image_fields()["compound"], 2, 0)
        if poke:
            mdata["image"].obsm["flat"][held] = 9.0
        model.train(6, validation_images=2, **SHORT)
        return model

    model, poked = outcome(False), outcome(True)
    scores = model.history["validation_knn_accuracy"]
    assert list(scores.index) == list(range(6))
    assert ((scores >= 0) & (scores <= 1)).all(axis=None)
    name = "train_loss_epoch"
    pd.testing.assert_frame_equal(model.history[name], poked.history[name])


# -- state ----------------------------------------------------------------------------------------


def test_a_saved_model_gives_the_same(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "model")
    monkeypatch.setattr(pickle, "load", None)
    monkeypatch.setattr(pickle, "loads", None)
    assert {p.suffix for p in (tmp_path / "model").iterdir()} == {".json", ".safetensors"}
    other = cf.TIDE.load(tmp_path / "model")
    images = drug_screen()["image"]
    np.testing.assert_array_equal(other.predict(images), trained.predict(images))
    pd.testing.assert_frame_equal(other.response_report_, trained.response_report_)
    np.testing.assert_array_equal(
        other.codebook.obsm["prototype"], trained.codebook.obsm["prototype"]
    )
    assert set(other.history) == set(trained.history)
    with pytest.raises(ValueError, match="loaded without data"):
        other.train(1)
    attached = cf.TIDE.load(tmp_path / "model", drug_screen())
    attached.train(1, **SHORT)


def test_what_is_trained_on_keeps_its_scales(screen, tmp_path):
    model = built(screen, finetune_response=False, seed=0)
    model.train(1, validation_images=0, **SHORT)
    model.save(tmp_path / "model")
    other = drug_screen(strength=9.0, seed=5)
    attached = cf.TIDE.load(tmp_path / "model", other)
    attached.train(1, validation_images=0, **SHORT)
    for part in ("response.mean", "response.sd", "mean", "sd"):
        torch.testing.assert_close(attached.module.get_buffer(part), model.module.get_buffer(part))


def test_the_same_seed_gives_the_same_model(screen):
    results = []
    for seed in (0, 0, 1):
        model = built(screen, setup_with={"image_rep": "crops"}, seed=seed, **VIT)
        model.train(1, batch_size=32, **SHORT)
        results.append(model.predict().to_numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.allclose(results[0], results[2])


@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize("step", [2, 5])  # in the middle of an epoch, and at its end
def test_a_resumed_training_ends_with_the_same_weights(screen, tmp_path, step):
    def made():
        return built(screen, setup_with={"image_rep": "crops"}, seed=0, **VIT)

    options = {"batch_size": 16, "validation_images": 2, **SHORT}
    whole = made()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole.train(2, callbacks=[keep], **options)
    resumed = made()
    keep = ModelCheckpoint(tmp_path / "more", every_n_train_steps=1)
    at = str(tmp_path / f"step={step}.ckpt")
    resumed.train(2, ckpt_path=at, callbacks=[keep], **options)
    np.testing.assert_array_equal(resumed.predict(), whole.predict())
    pd.testing.assert_frame_equal(resumed.response_report_, whole.response_report_)
    name = "validation_knn_accuracy"
    pd.testing.assert_frame_equal(resumed.history[name], whole.history[name])


# -- the figure -----------------------------------------------------------------------------------


def test_the_codebook_is_drawn_twice_with_its_pairs(trained):
    book = trained.codebook
    book.obs["kind"] = ["a", "b", "a", "b"]
    left, right = draw_codebook(book, color="kind", n_pairs=2)
    assert (left.get_title(), right.get_title()) == ("Fingerprints", "Codebook")
    assert len(right.lines) == 2
    points = np.concatenate([c.get_offsets() for c in right.collections])
    assert sorted(map(tuple, points.round(4))) == sorted(
        map(tuple, book.obsm["prototype_map"].astype(float).round(4))
    )
    first = book.uns["pairs"].iloc[0]
    assert {first["source"], first["target"]} <= {text.get_text() for text in right.texts}
    assert len(draw_codebook(book, n_pairs=0)[0].lines) == 0
    part = book[["aspirin", "colchicine", "vorinostat"]].copy()
    axes = draw_codebook(part, n_pairs=50)  # pairs with a drug that is not there are left out
    assert len(axes[0].lines) == 3
    ends = {tuple(line.get_xydata()[i].round(4)) for line in axes[0].lines for i in (0, 1)}
    assert ends <= set(map(tuple, part.obsm["fingerprint_map"].astype(float).round(4)))
    assert len(axes[0].texts) == 3
    with pytest.raises(KeyError, match="model.codebook"):
        draw_codebook(ad.AnnData(np.ones((2, 2))))
    plt.close("all")


def test_the_presets_are_there():
    assert set(RESPONSE_PRESETS) == {"small", "base"}
