"""CLIP and the cross-modal autoencoder as models: what they learn, and where they must fail."""

from __future__ import annotations

import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from screens import flat_screen

import cellfuse as cf

TINY = {"width": 16, "n_heads": 2, "n_latents": 2, "image_depth": 1, "n_cross": 1, "n_self": 1}
DECODERS = {"image_decoder_width": 8, "image_decoder_depth": 1, "image_decoder_heads": 2}
QUIET = {"enable_progress_bar": False}


@pytest.fixture
def flat():
    return flat_screen()


def set_up(model, mdata, **changes):
    setup = {"context_keys": "guide", "image_rep": "flat", "rna_rep": "flat"}
    getattr(cf, model).setup_mudata(mdata, **{**setup, **changes})


def clip(mdata, *, epochs=12, setup=None, **kwargs):
    set_up("CLIP", mdata, **(setup or {}))
    model = cf.CLIP(mdata, **{"set_size": 4, "seed": 0, **TINY, **kwargs})
    model.train(epochs, batch_size=8, documents_per_context=8, **QUIET)
    return model


def finds_its_context(model, mdata) -> float:
    """Share of contexts whose mean image vector is nearest to their own mean RNA vector."""
    means = []
    for role in ("image", "rna"):
        z = model.get_latent_representation(modality=role)
        means.append(pd.DataFrame(z).groupby(mdata[role].obs["guide"].to_numpy()).mean())
    a, b = (x.to_numpy() / np.linalg.norm(x, axis=1, keepdims=True) for x in means)
    return float(((a @ b.T).argmax(axis=1) == np.arange(len(a))).mean())


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"average": False, "positives": "context"},
        {"positives": "similar"},
    ],
    ids=["CLIP", "GroupCLIP", "CellCLIP"],
)
def test_the_sets_of_a_context_find_each_other(flat, kwargs):
    model = clip(flat, **kwargs)
    assert finds_its_context(model, flat) >= 0.75  # chance is 1 / 8
    losses = model.history["train_loss_epoch"]["train_loss_epoch"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_permuted_contexts_teach_nothing(flat):
    assert finds_its_context(clip(flat, permute_contexts=True), flat) <= 0.5


def test_cells_measured_twice_are_pairs():
    mdata = flat_screen(paired=True)
    model = clip(mdata, setup={"context_keys": "obs_names"}, set_size=1, epochs=3)
    assert model.get_latent_representation(modality="image").shape == (96, 16)
    assert finds_its_context(model, mdata) >= 0.5


def test_pixels_and_counts_train_too_and_survive_a_save(screen, tmp_path):
    mdata = screen()
    cf.CLIP.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.CLIP(mdata, set_size=3, seed=0, **TINY)
    model.train(1, documents_per_context=2, validation_size=0.3, **QUIET)
    assert {"validation_loss", "validation_accuracy"} <= set(model.history)
    model.save(tmp_path / "clip")
    loaded = cf.CLIP.load(tmp_path / "clip")
    for role in ("image", "rna"):
        np.testing.assert_array_equal(
            loaded.get_latent_representation(mdata[role], modality=role),
            model.get_latent_representation(modality=role, batch_size=24),
        )


def test_the_same_seed_gives_the_same_clip(flat):
    one, two = (clip(flat, epochs=1) for _ in range(2))
    np.testing.assert_array_equal(
        one.get_latent_representation(modality="rna"), two.get_latent_representation(modality="rna")
    )


def test_clip_errors(flat):
    with pytest.raises(ValueError, match="compares two modalities"):
        set_up("CLIP", flat, modalities={"rna": "rna"})
    set_up("CLIP", flat)
    with pytest.raises(ValueError, match="positives='all'"):
        cf.CLIP(flat, positives="all")
    with pytest.raises(TypeError, match="CLIP has no argument 'widht'"):
        cf.CLIP(flat, widht=3)
    with pytest.raises(ValueError, match="one document"):
        cf.CLIP(flat, set_size=2, **TINY).train(1, batch_size=1, **QUIET)
    with pytest.raises(ValueError, match="finite"):
        cf.CLIP(flat, temperature=float("inf"), **TINY)


def test_validation_compares_within_whole_batches_only(flat, monkeypatch):
    set_up("CLIP", flat)
    model = cf.CLIP(flat, set_size=2, seed=0, **TINY)
    sizes, forward = [], model.module.forward

    def spy(x, key, context, **kwargs):
        if not torch.is_grad_enabled():
            sizes.append(len(key))
        return forward(x, key, context, **kwargs)

    monkeypatch.setattr(model.module, "forward", spy)
    model.train(1, batch_size=3, documents_per_context=1, validation_size=0.3, **QUIET)
    assert set(sizes) == {3}  # of 8 contexts, 6
    assert "validation_loss" in model.history


def test_held_out_cells_that_share_no_context_make_no_validation():
    mdata = flat_screen(n_contexts=4, n_cells=4)
    keep = {"image": [0, 1], "rna": [2, 3]}  # contexts with enough cells to hold one out
    for role, full in keep.items():
        guide = mdata[role].obs["guide"].str[1:].astype(int).to_numpy()
        first = np.arange(len(guide)) % 4 == 0
        mdata.mod[role] = mdata[role][np.isin(guide, full) | first].copy()
    mdata = md.MuData(dict(mdata.mod))
    set_up("CLIP", mdata)
    model = cf.CLIP(mdata, set_size=1, seed=0, **TINY)
    model.train(1, documents_per_context=2, validation_size=0.3, **QUIET)
    assert "validation_loss" not in model.history


# -- cross-modal autoencoder ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined():
    mdata = flat_screen()
    set_up("CrossModalAE", mdata, rna_likelihood="mse")
    model = cf.CrossModalAE(mdata, n_latent=8, seed=0, weight_adversary=0.3, **TINY, **DECODERS)
    model.train(40, batch_size=32, documents_per_context=12, lr=1e-2, **QUIET)
    return mdata, model


def test_expression_lands_where_the_images_of_its_context_are(joined):
    mdata, model = joined
    assert finds_its_context(model, mdata) >= 0.75


def test_the_history_goes_on_from_stage_to_stage(joined):
    _, model = joined
    assert model.history["train_image_loss_epoch"].index.tolist() == list(range(40))
    assert model.history["train_rna_loss_epoch"].index.tolist() == list(range(40, 80))
    assert model.history["train_loss_epoch"].index.tolist() == list(range(80))
    for role in ("image", "rna"):
        losses = model.history[f"train_{role}_loss_epoch"].iloc[:, 0]
        assert losses.iloc[-1] < losses.iloc[0]


def test_the_images_autoencoder_is_frozen_in_the_second_stage():
    mdata = flat_screen(n_contexts=3, n_cells=4)
    set_up("CrossModalAE", mdata, rna_likelihood="mse")
    model = cf.CrossModalAE(mdata, n_latent=4, seed=0, **TINY, **DECODERS)
    kept = {}

    def watch(stage):
        kept[stage] = {k: v.clone() for k, v in model.module.vaes["image"].state_dict().items()}

    set_stage = model.module.set_stage
    model.module.set_stage = lambda stage: (watch(stage), set_stage(stage))
    model.train(1, batch_size=4, **QUIET)
    watch(2)
    assert any(not torch.equal(kept[0][k], kept[1][k]) for k in kept[0])
    assert all(torch.equal(kept[1][k], kept[2][k]) for k in kept[1])


def test_cross_modal_survives_a_save(joined, tmp_path):
    mdata, model = joined
    model.save(tmp_path / "ae")
    loaded = cf.CrossModalAE.load(tmp_path / "ae")
    np.testing.assert_array_equal(
        loaded.get_latent_representation(mdata["rna"], modality="rna"),
        model.get_latent_representation(modality="rna"),
    )


def test_cross_modal_errors(flat):
    with pytest.raises(ValueError, match="compares two modalities"):
        set_up("CrossModalAE", flat, modalities={"image": "image"})
    set_up("CrossModalAE", flat, rna_likelihood="mse")
    with pytest.raises(ValueError, match="n_latent must be at least 1"):
        cf.CrossModalAE(flat, n_latent=0)
    with pytest.raises(TypeError, match="no argument 'ckpt_path'"):
        cf.CrossModalAE(flat, n_latent=4, **TINY, **DECODERS).train(1, ckpt_path="x", **QUIET)


def test_cross_modal_goes_on_only_with_the_contexts_it_tells_apart(joined, tmp_path):
    _, model = joined
    model.save(tmp_path / "ae")
    loaded = cf.CrossModalAE.load(tmp_path / "ae", flat_screen(n_contexts=9))
    with pytest.raises(ValueError, match="9 contexts; the model tells 8 apart"):
        loaded.train(1, **QUIET)
