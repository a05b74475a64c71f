"""What PhenoSeq refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phenoseq_parts import SETUP, SHORT, build, shortly_trained
from screens import sample_screen

import cellfuse as cf
from cellfuse.model.phenoseq.sizes import sizes_of
from cellfuse.nn.denoiser import DenoiserSizes


@pytest.fixture(autouse=True)
def _the_same_numbers_in_every_run():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def trained() -> cf.PhenoSeq:
    return shortly_trained()


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setup", "error", "text"),
    [
        ({"image_rep": "X_vitt"}, KeyError, "Did you mean 'X_vit'"),
        ({"context_keys": "well"}, KeyError, "'well' is not in obs"),
        ({"split_key": "splits"}, KeyError, "Did you mean 'split'"),
        ({"split_key": "split", "train": 1}, KeyError, "'1' is not in obs.*`train="),
        ({"split_key": "split", "train": "rep1"}, KeyError, "'rep1' is not in obs.*`train="),
        (
            {"split_key": "split", "val": "vall"},
            KeyError,
            "'vall' is not in obs.*or None for no",
        ),
        ({"split_key": "split", "train": "test", "val": "test"}, ValueError, "shares none"),
        ({"modalities": {"image": "image"}}, ValueError, "compares two modalities"),
        ({"modalities": {"picture": "image"}}, KeyError, "roles"),
    ],
)
def test_a_setup_that_cannot_work_is_refused(setup, error, text):
    with pytest.raises(error, match=text):
        cf.PhenoSeq.setup_mudata(sample_screen(), **{**SETUP, **setup})


def test_a_split_without_a_training_context_is_refused():
    mdata = sample_screen()
    mdata["rna"].obs["split"] = np.where(mdata["rna"].obs["sample"] == "s2", "train", "test")
    with pytest.raises(ValueError, match=r"no context has training cells.*both modalities"):
        cf.PhenoSeq.setup_mudata(mdata, **SETUP, split_key="split", val=None)


def test_a_validation_that_no_context_has_is_refused():
    mdata = sample_screen()
    obs = mdata["rna"].obs
    obs["sample"] = np.where(obs["split"] == "val", "other", obs["sample"])
    with pytest.raises(ValueError, match=r"no context has validation cells.*nothing says when"):
        cf.PhenoSeq.setup_mudata(mdata, **SETUP, split_key="split")
    cf.PhenoSeq.setup_mudata(mdata, **SETUP, split_key="split", val=None)


def test_several_labels_may_train():
    mdata = sample_screen()
    given = {"split_key": "split", "train": ["train", "test"], "val": ("val",)}
    cf.PhenoSeq.setup_mudata(mdata, **SETUP, **given)


@pytest.mark.parametrize("validation_contexts", [0.0, 0.2])
def test_a_training_that_diverges_is_told_and_draws_nothing(validation_contexts):
    model = build()
    with pytest.raises(ValueError, match=r"diverged.*smaller lr than 1e\+30"):
        model.train(2, lr=1e30, warmup=0.0, **{**SHORT, "validation_contexts": validation_contexts})
    with pytest.raises(RuntimeError, match="not trained"):
        model.sample(n_steps=2)


def test_pixels_are_no_embedding():
    mdata = sample_screen()
    mdata["image"].obsm["crops"] = np.zeros((48, 1, 4, 4), np.uint8)
    with pytest.raises(ValueError, match=r"obsm\['crops'\].*flat embeddings"):
        cf.PhenoSeq.setup_mudata(mdata, image_rep="crops", rna_rep="X_scgpt")


def test_nan_is_refused_in_setup_and_in_drawing(trained):
    mdata = sample_screen()
    mdata["rna"].obsm["X_scgpt"][3, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 NaN or infinite"):
        build(mdata)
    images = sample_screen()["image"]
    images.obsm["X_vit"][0, 0] = np.inf
    with pytest.raises(ValueError, match=r"1 NaN or infinite"):
        trained.sample(images)


def test_features_that_are_all_constant_are_refused():
    mdata = sample_screen()
    mdata["image"].obsm["X_vit"][:] = 1
    with (
        pytest.warns(UserWarning, match="6 of 6 features"),
        pytest.raises(ValueError, match=r"all features of obsm\['X_vit'\].*constant"),
    ):
        build(mdata).train(1, **SHORT)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"n_steps": 0}, ValueError, "from 1 to 1000 .* found 0"),
        ({"n_steps": 1001}, ValueError, "found 1001"),
        ({"n_samples": 0}, ValueError, "n_samples must be at least 1, found 0"),
        ({"n_samples": 2.5}, TypeError, "n_samples must be a whole number"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ({"guidance": float("nan")}, ValueError, "guidance must be finite"),
        ({"contexts": 9}, KeyError, "'9' is not in the contexts that have images"),
        ({"conditioning": "all"}, ValueError, "expected 'mean' or 'set'"),
        ({"eta": 2.0}, ValueError, "eta must be from 0 to 1"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"contexts": ["s9"]}, KeyError, "'s9' is not in the contexts that have images"),
        ({"contexts": []}, ValueError, "empty"),
    ],
)
def test_draws_that_cannot_be_made_are_refused(trained, given, error, text):
    with pytest.raises(error, match=text):
        trained.sample(**given)


def test_guidance_needs_a_model_that_has_seen_no_context():
    model = build()
    model.train(1, **SHORT)
    with pytest.raises(ValueError, match="context_dropout=0.1"):
        model.sample(guidance=2.0)


def test_another_width_is_refused(trained):
    images = sample_screen(image=7)["image"]
    with pytest.raises(ValueError, match=r"shape \(7,\); the model was trained on \(6,\)"):
        trained.sample(images)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"preset": "large"}, KeyError, "presets"),
        ({"heads": 2}, TypeError, "no argument 'heads'"),
        ({"depth": 0}, ValueError, "depth must be positive"),
        ({"dropout": 1.0}, ValueError, "below 1"),
        ({"context_dropout": 1.0}, ValueError, "context_dropout"),
        ({"set_size": 0}, ValueError, "set_size"),
        ({"n_heads": 3}, ValueError, "multiple"),
        ({"time_width": 7}, ValueError, "even"),
        ({"prediction": "eps"}, ValueError, "prediction='eps'"),
        ({"schedule": "quadratic"}, ValueError, "schedule='quadratic'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(given, error, text):
    with pytest.raises(error, match=text):
        build(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"max_epochs": 0}, "max_epochs"),
        ({"lr": 0.0}, "lr must be positive"),
        ({"lr": float("nan")}, "lr must be positive"),
        ({"ema_decay": 1.5}, "ema_decay must be at least 0 and at most 1, found 1.5"),
        ({"ema_decay": -0.1}, "ema_decay must be at least 0"),
        ({"weight_decay": -1e-5}, "weight_decay must be at least 0"),
        ({"warmup": -1}, "warmup must be at least 0"),
        ({"patience": -1}, "patience must be at least 0"),
        ({"validation_contexts": 1.0}, "validation_contexts"),
        ({"rna_per_document": 0}, "rna_per_document must be at least 1"),
    ],
)
def test_a_training_that_cannot_run_is_refused(given, text):
    with pytest.raises(ValueError, match=text):
        build().train(**{**SHORT, **given})


def test_an_argument_that_nobody_has_is_refused_with_the_likely_name():
    with pytest.raises(TypeError, match=r"PhenoSeq.train\(\) has no.*Did you mean 'warmup'"):
        build().train(1, warm_up=3)


def test_noise_of_more_features_than_the_width_is_warned_of():
    with pytest.warns(UserWarning, match="width 16 cannot tell noise of 20 RNA features"):
        model = build(sample_screen(rna=20), prediction="noise")
    assert model.module.diffusion.prediction == "noise"
    assert build(sample_screen(rna=20)).module.diffusion.prediction == "v"


def test_an_untrained_model_draws_nothing():
    with pytest.raises(RuntimeError, match="not trained"):
        build().sample()


def test_presets_and_single_sizes():
    assert sizes_of("base", {}) == DenoiserSizes()
    assert sizes_of("small", {"depth": 5}).depth == 5
