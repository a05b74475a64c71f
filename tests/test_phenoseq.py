"""PhenoSeq: what is trained on, drawing, saving, and what it finds on simulated screens."""

from __future__ import annotations

import logging
from inspect import signature

import anndata as ad
import lightning as L
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from phenoseq_parts import SHORT, build, difference, network, shortly_trained
from screens import sample_screen

import cellfuse as cf
from cellfuse.data.splits import Held
from cellfuse.model.base.training import fit
from cellfuse.model.phenoseq.sizes import PREDICTIONS
from cellfuse.nn.denoiser import FoldedDenoiser
from cellfuse.nn.diffusion import DDIM


@pytest.fixture(autouse=True)
def _the_same_numbers_in_every_run():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def trained() -> cf.PhenoSeq:
    return shortly_trained()


def split(model: cf.PhenoSeq, share: float) -> tuple[cf.data.Contexts, cf.data.Contexts]:
    """Contexts with the cells of training, and those of validation."""
    contexts = model._contexts(None, ["image", "rna"])
    rows = model._rows(contexts, Held(contexts=share))
    return contexts.restricted(rows.train), contexts.restricted(rows.held_out)


# -- what is trained on ---------------------------------------------------------------------------


@pytest.mark.parametrize("split_key", [None, "split"])
def test_no_statistic_and_no_weight_sees_held_out_cells(split_key):
    def outcome(poke: bool) -> cf.PhenoSeq:
        mdata = sample_screen(8)
        model = build(mdata, setup={"split_key": split_key})
        train, held_out = split(model, 0.25)
        assert train.shared().sum() + held_out.shared().sum() == (8 if split_key is None else 6)
        if poke:
            for role, rep in (("image", "X_vit"), ("rna", "X_scgpt")):
                rows = train.of_row(role) < 0
                assert rows.sum() == (16 if split_key is None else 32)
                mdata[role].obsm[rep][rows] += 50
        model.train(1, validation_contexts=0.25, **SHORT)
        return model

    one, other = outcome(False), outcome(True)
    assert difference(one, other) == 0
    assert (
        one.history["validation_loss"].iloc[-1, 0] != other.history["validation_loss"].iloc[-1, 0]
    )


def test_statistics_are_those_of_the_training_cells():
    mdata = sample_screen()
    model = build(mdata, setup={"split_key": "split"})
    model.train(1, **SHORT)
    rows = (mdata["rna"].obs["split"] == "train").to_numpy()
    x = mdata["rna"].obsm["X_scgpt"][rows]
    np.testing.assert_allclose(model.module.rna.mean, x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(model.module.rna.sd, x.std(0), rtol=1e-4)


def test_contexts_of_one_modality_are_left_out_and_told(caplog):
    mdata = sample_screen()
    kept = (mdata["image"].obs["sample"] != "s3").to_numpy()
    mdata = md.MuData({"image": mdata["image"][kept].copy(), "rna": mdata["rna"].copy()})
    model = build(mdata)
    with caplog.at_level(logging.WARNING, "cellfuse"):
        train, _ = split(model, 0.0)
    assert "1 of 6 training contexts have cells of one modality" in caplog.text
    assert "'s3'" in caplog.text
    assert (train.of_row("rna") >= 0).sum() == 5 * 8


def test_the_same_seed_gives_the_same_weights_to_the_bit():
    one, same, other = (build(seed=seed) for seed in (3, 3, 4))
    for model in (one, same, other):
        torch.rand(1)  # the caller's random state has no say
        model.train(2, **SHORT)
    assert difference(one, same) == 0
    assert difference(one, other) > 0


#: A resumed run that writes its checkpoints elsewhere is told so by Lightning.
@pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path, step):
    """Documents, times, noise and dropout, the average and the best epoch: three steps an epoch."""
    given = {**SHORT, "validation_contexts": 0.2, "documents_per_context": 3}
    whole, resumed = build(dropout=0.3), build(dropout=0.3)
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole.train(3, callbacks=[keep], **given)
    keep = ModelCheckpoint(tmp_path / "more", every_n_train_steps=1)
    resumed.train(3, ckpt_path=str(tmp_path / f"step={step}.ckpt"), callbacks=[keep], **given)
    assert difference(whole, resumed) == 0
    losses = [m.history["validation_loss"]["validation_loss"] for m in (whole, resumed)]
    pd.testing.assert_series_equal(losses[1], losses[0].loc[losses[1].index])


def test_the_average_follows_its_formula_and_is_what_draws():
    seen = []

    class Weights(L.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            seen.append(module.network.denoiser.norm.weight.detach().clone())

    model = build()
    first = model.module.denoiser.norm.weight.detach().clone()
    model.train(4, validation_contexts=0, lr=0.05, callbacks=[Weights()], **SHORT)
    average = first
    for n, weight in enumerate(seen, start=1):
        decay = min(0.9999, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * weight
    assert len(seen) == 4 * 3
    torch.testing.assert_close(model.module.denoiser.norm.weight.detach(), average)
    assert (average - seen[-1]).abs().max() > 1e-4


def test_training_stops_early_and_keeps_the_best_epochs_average():
    model = build()
    states = []

    class Keep(L.Callback):
        def on_validation_end(self, trainer, module):
            if not trainer.sanity_checking:
                average = next(c for c in trainer.callbacks if type(c).__name__ == "Averaged")
                states.append(average.average["denoiser.norm.weight"].clone())

    model.train(200, lr=0.3, warmup=0.0, patience=3, callbacks=[Keep()], **SHORT)
    loss = model.history["validation_loss"]["validation_loss"]
    assert len(loss) < 200
    assert loss.argmin() == len(loss) - 4
    assert torch.equal(model.module.denoiser.norm.weight.detach(), states[loss.argmin()])


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
def test_training_learns_what_images_say_of_rna(prediction):
    mdata = sample_screen(12)
    model = build(
        mdata, prediction=prediction, width=24, time_width=16, dropout=0.0, n_diffusion_steps=50
    )
    model.train(
        30, rna_per_document=8, documents_per_context=8, batch_size=32, lr=5e-3,
        validation_contexts=0, enable_progress_bar=False,
    )  # fmt: skip
    found = model.sample(n_steps=10, n_samples=4)
    synthetic = found.to_df().groupby(found.obs["sample"]).mean()
    rna = mdata["rna"]
    real = pd.DataFrame(rna.obsm["X_scgpt"]).groupby(rna.obs["sample"].values).mean()
    assert np.corrcoef(synthetic.to_numpy().ravel(), real.to_numpy().ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("best", "max_epochs", "told"), [(0, 10, True), (4, 10, True), (5, 10, False), (4, 8, False)]
)
def test_weights_from_the_warm_up_are_warned_of(best, max_epochs, told, monkeypatch, recwarn):
    """Five epochs of warm-up, and at most half of the training."""
    loss = np.where(np.arange(8) == best, 0.5, 1.0)

    def trained_as_if(*args, **kwargs):
        history = fit(*args, **{**kwargs, "max_epochs": 1})
        return {**history, "validation_loss": pd.DataFrame({"validation_loss": loss})}

    monkeypatch.setattr("cellfuse.model.base.document_model.fit", trained_as_if)
    build().train(max_epochs, **SHORT)
    found = [str(w.message) for w in recwarn if "during warm-up" in str(w.message)]
    assert len(found) == told
    assert not told or f"epoch {best} of 8" in found[0]


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "share"), [(20, -1, 0.25), (6, -1, 0.5), (100, 60, 0.25)]
)
def test_the_warm_up_is_counted_in_epochs(max_epochs, max_steps, share, monkeypatch):
    """Three steps an epoch: 60 steps are 20 epochs, whatever `max_epochs` says."""
    seen = []

    def noted(training, *args, **kwargs):
        seen.append(training.warmup)
        return fit(training, *args, **{**kwargs, "max_epochs": 1})

    monkeypatch.setattr("cellfuse.model.base.document_model.fit", noted)
    build().train(max_epochs, max_steps=max_steps, validation_contexts=0, **SHORT)
    assert seen == [pytest.approx(share)]


def test_what_is_asked_of_the_training_reaches_it(monkeypatch):
    seen = {}

    def noted(training, plan, **kwargs):
        seen.update(training=training, plan=plan, **kwargs)
        return fit(training, plan, **kwargs)

    monkeypatch.setattr("cellfuse.model.base.document_model.fit", noted)
    asked = {"lr": 0.02, "weight_decay": 0.3, "ema_decay": 0.5, "patience": 7, "replace": True}
    build().train(1, rna_per_document=3, **asked, **SHORT)
    training = seen["training"]
    assert (training.lr, training.weight_decay, training.betas) == (0.02, 0.3, (0.9, 0.999))
    assert training.momentum is None
    averaged, stop = seen["callbacks"]
    assert averaged.decay == 0.5 and averaged.monitor == stop.monitor == "validation_loss"
    assert stop.patience == 7 and stop.mode == "min"
    plan, validation = seen["plan"].train, seen["plan"].validation
    assert [draw.size for draw in plan.stream.draws] == [4, 3] and plan.replace is True
    # Losses of different trainings compare: the same cells, whatever the training draws.
    assert [draw.size for draw in validation.stream.draws] == [4, 8]
    assert validation.documents_per_context == 4 and validation.replace == "if_needed"


def test_the_papers_numbers_are_the_defaults():
    def defaults(function):
        found = signature(function).parameters.values()
        return {p.name: p.default for p in found if p.default is not p.empty}

    assert PREDICTIONS["base"] == "noise"
    recipe = cf.PhenoSeq.recipes["base"]
    assert (recipe.max_epochs, recipe.batch_size, recipe.lr) == (5000, 256, 1e-4)
    assert (recipe.weight_decay, recipe.warmup_epochs) == (1e-5, 5)
    paper = {"ema_decay": 0.9999, "patience": 50}
    assert {**defaults(cf.PhenoSeq.train), **paper, "rna_per_document": 1} == defaults(
        cf.PhenoSeq.train
    )
    paper = {"n_steps": 50, "n_samples": 1, "conditioning": "mean", "eta": 0, "seed": 0}
    assert {**defaults(cf.PhenoSeq.sample), **paper, "guidance": 1} == defaults(cf.PhenoSeq.sample)
    paper = {"set_size": 16, "n_diffusion_steps": 1000, "schedule": "cosine", "context_dropout": 0}
    assert {**defaults(cf.PhenoSeq), **paper} == defaults(cf.PhenoSeq)
    paper = {"context_keys": "sample", "image_rep": "X_vit", "rna_rep": "X_scgpt"}
    setup = defaults(cf.PhenoSeq.setup_mudata)
    assert {**setup, **paper, "split_key": None} == setup


def test_early_stopping_needs_no_validation():
    model = build()
    model.train(2, validation_contexts=0, **SHORT)
    assert "validation_loss" not in model.history and len(model.history["train_loss_epoch"]) == 2


# -- drawing --------------------------------------------------------------------------------------


def test_one_row_per_sample_with_what_is_constant_in_it(trained):
    found = trained.sample(n_steps=4)
    assert found.obs_names.tolist() == [f"s{i}" for i in range(6)]
    assert found.obs["treatment"].tolist() == ["t0", "t1"] * 3
    assert found.obs["n_cells"].tolist() == [8] * 6 and found.obs["draw"].tolist() == [0] * 6
    assert "size" not in found.obs
    assert found.X.dtype == np.float32 and found.uns["phenoseq"]["n_steps"] == 4


@pytest.mark.parametrize("conditioning", ["mean", "set"])
def test_a_profile_hangs_on_its_images_alone(trained, conditioning):
    given = {"n_steps": 6, "n_samples": 2, "conditioning": conditioning}
    images = trained.adata["image"]
    whole = trained.sample(**given).to_df()
    assert whole.index[:2].tolist() == ["s0-0", "s0-1"]
    assert (whole.loc["s0-0"] - whole.loc["s0-1"]).abs().max() > 1e-4
    assert np.ptp(whole.to_numpy()[::2], axis=0).min() > 1e-4
    part = images[images.obs["sample"].isin(["s4", "s1"])].copy()
    part = part[::-1].copy()  # other neighbours, another order
    part.obs["sample"] = part.obs["sample"].map({"s4": "a", "s1": "z"})  # and other names
    for batch_size in (1, 7):
        found = trained.sample(part, batch_size=batch_size, **given).to_df()
        for new, old in (("a", "s4"), ("z", "s1")):
            for draw in range(2):
                np.testing.assert_allclose(
                    found.loc[f"{new}-{draw}"], whole.loc[f"{old}-{draw}"], atol=1e-5
                )


def test_mean_conditioning_is_the_mean_cell_as_a_set_of_one(trained):
    images = trained.adata["image"]
    mean = ad.AnnData(
        obs=pd.DataFrame({"sample": ["one"]}, index=["one"]),
        obsm={"X_vit": images.obsm["X_vit"][:8].mean(0, keepdims=True)},
    )
    a = trained.sample(n_steps=5, contexts=["s0"]).X
    b = trained.sample(mean, n_steps=5, conditioning="set").X
    np.testing.assert_allclose(a, b, atol=1e-5)
    assert np.abs(a - trained.sample(n_steps=5, contexts=["s0"], conditioning="set").X).max() > 1e-5


def test_sets_of_different_size_do_not_disturb_each_other(trained):
    images = trained.adata["image"]
    part = images[np.r_[0:8, 8:11, 16:17]].copy()
    whole = trained.sample(part, n_steps=5, conditioning="set").to_df()
    for name in ("s0", "s1", "s2"):
        alone = trained.sample(part, n_steps=5, conditioning="set", contexts=[name]).to_df()
        np.testing.assert_allclose(alone.loc[name], whole.loc[name], atol=1e-5)


def test_a_context_named_twice_is_an_error(trained):
    with pytest.raises(ValueError, match="names 's1' twice.*n_samples"):
        trained.sample(n_steps=3, contexts=["s1", "s0", "s1"])


def test_the_seed_and_eta_say_which_noise(trained):
    one = trained.sample(n_steps=5, seed=1).X
    assert np.array_equal(one, trained.sample(n_steps=5, seed=1).X)
    assert np.abs(one - trained.sample(n_steps=5, seed=2).X).max() > 1e-4
    noisy = trained.sample(n_steps=5, seed=1, eta=1.0).X
    assert np.array_equal(noisy, trained.sample(n_steps=5, seed=1, eta=1.0).X)
    assert np.abs(one - noisy).max() > 1e-4


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_pairs_of_draws_have_opposite_noise(eta):
    ours = network()
    ours.diffusion.prediction = "v"  # of which 0 keeps the scale of the noise
    ours.rna.mean += torch.arange(ours.rna.mean.numel(), dtype=torch.float32)
    for part in ours.denoiser.out.parameters():
        torch.nn.init.zeros_(part)  # what is drawn is then the noise, scaled

    def drawn(n, **given):
        sampler = DDIM(ours.diffusion, eta=eta)
        sampler.set_timesteps(5)
        with torch.inference_mode():
            images = torch.randn(3, 1, 6)
            return ours.generate(images, None, sampler=sampler, n_samples=n, seed=0, **given)

    pairs, free = drawn(5), drawn(5, antithetic=False)
    assert (pairs[:, 0] - pairs[:, 1]).abs().min() > 1e-4
    for k in (0, 2):
        torch.testing.assert_close(pairs[:, k : k + 2].mean(1), ours.rna.mean.expand(3, -1))
    assert (pairs[:, 0] - pairs[:, 2]).abs().min() > 1e-5
    torch.testing.assert_close(pairs[:, [0, 2, 4]], free[:, :3])  # the first of each pair is free
    assert (free[:, :2].mean(1) - ours.rna.mean).abs().min() > 1e-5
    torch.testing.assert_close(drawn(1), free[:, :1])


def test_whether_draws_come_in_pairs_is_the_callers_choice(trained):
    pairs, free = (trained.sample(n_steps=5, n_samples=4, antithetic=a) for a in (True, False))
    assert pairs.uns["phenoseq"]["antithetic"] and not free.uns["phenoseq"]["antithetic"]
    assert pairs.obs["noise_pair"].tolist()[:5] == ["s0-0", "s0-0", "s0-1", "s0-1", "s1-0"]
    assert "noise_pair" not in free.obs and "noise_pair" not in trained.sample(n_steps=2).obs
    assert np.array_equal(pairs.X[0::4], free.X[0::4])
    assert np.array_equal(pairs.X[2::4], free.X[1::4])
    assert np.abs(pairs.X[1::4] - free.X[1::4]).max() > 1e-4


def test_guidance_is_a_line_through_both_predictions():
    ours = network()
    images = torch.randn(3, 1, 6)
    sampler = DDIM(ours.diffusion)
    sampler.set_timesteps(1)
    with torch.inference_mode():
        zero, one, two = (
            ours.generate(images, None, sampler=sampler, n_samples=1, seed=0, guidance=w)
            for w in (0.0, 1.0, 2.0)
        )
    torch.testing.assert_close(two - one, one - zero, rtol=0, atol=1e-5)
    torch.testing.assert_close(zero[0], zero[2])
    assert (one - zero).abs().max() > 1e-3


def test_images_alone_of_new_treatments_are_enough(trained):
    new = sample_screen(3, 5, seed=9)["image"]
    new.obs["sample"] = new.obs["sample"].map(lambda s: f"new-{s}")
    new.obs["well"] = new.obs["sample"]
    del new.obs["treatment"]
    assert trained.sample(md.MuData({"image": new}), n_steps=3).n_obs == 3
    del new.obs["sample"]
    found = trained.sample(new, n_steps=3, by="well")
    assert found.obs["well"].tolist() == ["new-s0", "new-s1", "new-s2"]
    with pytest.raises(KeyError, match="'sample' is not in obs"):
        trained.sample(new, n_steps=3)


def test_rna_without_images_is_told(trained, caplog):
    mdata = trained.adata
    kept = (mdata["image"].obs["sample"] != "s3").to_numpy()
    part = md.MuData({"image": mdata["image"][kept].copy(), "rna": mdata["rna"].copy()})
    with caplog.at_level(logging.WARNING, "cellfuse"):
        assert trained.sample(part, n_steps=2).n_obs == 5
    assert "1 contexts of the RNA have no images" in caplog.text and "'s3'" in caplog.text


def test_rna_without_a_label_is_no_hindrance(trained, caplog):
    mdata = sample_screen()
    obs = mdata["rna"].obs
    obs["sample"] = obs["sample"].where(obs["sample"] != "s2").replace({"s4": "s9"})
    with caplog.at_level(logging.WARNING, "cellfuse"):
        found = trained.sample(mdata, n_steps=3)
    assert np.array_equal(found.X, trained.sample(n_steps=3).X)
    assert "1 contexts of the RNA have no images" in caplog.text and "'s9'" in caplog.text
    obs["sample"] = None
    assert trained.sample(mdata, n_steps=3).n_obs == 6


def test_cells_in_several_contexts_make_several_profiles():
    mdata = sample_screen()
    for adata in mdata.mod.values():
        code = adata.obs["sample"].str[1:].astype(int).to_numpy()
        adata.obs["half"] = np.where(code < 4, "low", "high")
        # All cells of the first context are in the second too.
        inside = np.stack([code < 2, code < 4, code >= 4], axis=1).astype(float)
        adata.obsm["topics"] = sp.csr_matrix(inside)
        adata.uns["cellfuse"] = {"topics": {"topics": ["a", "b", "c"]}}
    model = build(mdata, setup={"context_keys": "topics"})
    model.train(1, **SHORT)
    found = model.sample(n_steps=2).obs
    assert found.index.tolist() == ["a", "b", "c"]
    assert found["n_cells"].tolist() == [16, 32, 16]
    assert found["half"].tolist() == ["low", "low", "high"]


@pytest.mark.parametrize("kind", ["numbers", "categories", "sparse", "float64", "other order"])
def test_the_same_screen_written_otherwise_draws_the_same(trained, kind):
    mdata = sample_screen()
    for (name, adata), rep in zip(mdata.mod.items(), ("X_vit", "X_scgpt"), strict=True):
        sample = adata.obs["sample"].str[1:]
        if kind == "numbers":
            adata.obs["sample"] = sample.astype(int)
        elif kind == "categories":
            adata.obs["sample"] = sample.astype("category").cat.add_categories(["none"])
        elif kind == "sparse":
            adata.obsm[rep] = sp.csr_matrix(adata.obsm[rep])
        elif kind == "float64":
            adata.obsm[rep] = adata.obsm[rep].astype(np.float64)
        elif name == "image":  # what is drawn, not what is trained on
            images = adata[::-1].copy()
            images.obs_names = ["x"] * images.n_obs
    if kind == "other order":
        with pytest.warns(UserWarning, match="not unique"):
            images = images.copy()
        found = trained.sample(images, n_steps=4)
    else:
        model = build(mdata, context_dropout=0.1)
        model.train(3, **SHORT)
        found = model.sample(n_steps=4)
    np.testing.assert_allclose(found.X, trained.sample(n_steps=4).X, rtol=1e-5)


def test_a_constant_feature_keeps_its_constant():
    mdata = sample_screen()
    mdata["rna"].obsm["X_scgpt"][:, 2] = 7
    model = build(mdata)
    with pytest.warns(UserWarning, match="1 of 4 features of obsm"):
        model.train(1, **SHORT)
    found = model.sample(n_steps=5).X
    assert np.all(found[:, 2] == 7) and np.isfinite(found).all()


def test_the_data_are_left_as_they_were_even_when_interrupted(monkeypatch):
    mdata = sample_screen()
    model = build(mdata)
    model.train(1, **SHORT)
    before = {m: mdata[m].copy() for m in mdata.mod}
    model.sample(n_steps=3)

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(FoldedDenoiser, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.sample(n_steps=3)
    for m, old in before.items():
        assert mdata[m].obs.equals(old.obs) and list(mdata[m].obsm) == list(old.obsm)
        for key, value in old.obsm.items():
            assert np.array_equal(mdata[m].obsm[key], value)


def test_context_tokens_of_single_cells(trained):
    z = trained.get_latent_representation()
    assert z.shape == (48, 16)
    part = trained.adata["image"][5:9].copy()
    np.testing.assert_allclose(trained.get_latent_representation(part), z[5:9], atol=1e-5)
    with pytest.raises(KeyError, match="'rna' is not in the modalities that this PhenoSeq embeds"):
        trained.get_latent_representation(modality="rna")


# -- saving ---------------------------------------------------------------------------------------


def test_a_loaded_model_draws_the_same_without_its_data(trained, tmp_path):
    trained.save(tmp_path / "model")
    loaded = cf.PhenoSeq.load(tmp_path / "model")
    images = trained.adata["image"]
    given = {"n_steps": 5, "guidance": 2.0}
    assert np.array_equal(loaded.sample(images, **given).X, trained.sample(images, **given).X)
    assert loaded.sizes == trained.sizes and loaded.history.keys() == trained.history.keys()
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.sample()
    with_data = cf.PhenoSeq.load(tmp_path / "model", sample_screen())
    assert with_data.sample(n_steps=2).n_obs == 6


def test_the_split_is_saved_with_the_model(tmp_path):
    model = build(setup={"split_key": "split", "val": None})
    model.train(1, **SHORT)
    model.save(tmp_path / "model")
    again = cf.PhenoSeq.load(tmp_path / "model", sample_screen())
    contexts, rows = again._dealt(Held())
    assert not any(held.any() for held in rows.held_out.values())
    assert contexts.restricted(rows.train).shared().sum() == 4


# -- what is found on simulated screens -----------------------------------------------------------


def replicates(images_know: bool, seed: int = 0) -> md.MuData:
    """Ten treatments in three replicates; RNA follows the images' effect, or no image knows it."""
    rng = np.random.default_rng(seed)
    treatment, replicate, _ = (part.ravel() for part in np.indices((10, 3, 12)))
    effect = rng.normal(size=(10, 6))
    expression = effect @ rng.normal(size=(6, 5))
    mods = {}
    for name, rep, values in (
        ("image", "X_vit", effect if images_know else np.zeros((10, 6))),
        ("rna", "X_scgpt", expression),
    ):
        obs = pd.DataFrame({"treatment": [f"t{i}" for i in treatment]})
        obs["part"] = np.array(["train", "train", "test"])[replicate]
        obs["sample"] = obs["treatment"] + [f"-{i}" for i in replicate]
        obs.index = [f"{name}-{i}" for i in range(len(obs))]
        noisy = values[treatment] + 0.5 * rng.normal(size=(len(obs), values.shape[1]))
        mods[name] = ad.AnnData(obs=obs, obsm={rep: noisy.astype("f4")})
    return md.MuData(mods)


@pytest.mark.parametrize("images_know", [True, False])
def test_held_out_replicates_rank_first_only_where_images_know_the_treatment(images_know):
    mdata = replicates(images_know)
    setup = {"split_key": "part", "val": None}
    model = build(mdata, setup=setup, width=24, time_width=16, dropout=0.0, n_diffusion_steps=50)
    model.train(
        20, rna_per_document=8, documents_per_context=4, batch_size=16, lr=5e-3,
        enable_progress_bar=False,
    )  # fmt: skip
    held_out = {m: a[(a.obs["part"] == "test").to_numpy()].copy() for m, a in mdata.mod.items()}
    synthetic = model.sample(held_out["image"], n_steps=10, n_samples=8)
    table = cf.tl.fidelity(
        held_out["rna"], synthetic, "treatment", use_rep=("X_scgpt", None), n_boot=0
    )
    summary = table.attrs["summary"]
    if images_know:
        assert summary["accuracy_at_1"] >= 0.7
    else:
        # Ten ranks by chance: a mean reciprocal rank of .29, with a standard error of .09.
        assert abs(summary["mrr"] - summary["chance_mrr"]) < 0.2
