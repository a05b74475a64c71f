"""DINO and MAE as a user meets them: AnnData or MuData, splits, channels, save and load."""

from __future__ import annotations

import anndata as ad
import lightning as L
import numpy as np
import pytest
import torch

from cellfuse.model.dino import DINO
from cellfuse.model.mae import MAE

TINY = {"width": 12, "depth": 1, "n_heads": 2, "patch_size": 4}
SHORT = {"batch_size": 8, "enable_progress_bar": False}
MODELS = pytest.mark.parametrize("model_class", [DINO, MAE])
NAMES = ["DNA", "ER"]


@pytest.fixture
def images(screen) -> ad.AnnData:
    adata = screen()["image"].copy()
    adata.uns["channels"] = NAMES
    return adata


def extra(model_class) -> dict:
    if model_class is MAE:
        return {**TINY, "decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    return {**TINY, "n_prototypes": 16, "views": {"local_size": 8}}


def trained(model_class, data, *, epochs=1, train=None, **changes):
    if isinstance(data, ad.AnnData):
        model_class.setup_anndata(data, image_rep="crops")
    model = model_class(data, **{**extra(model_class), **changes})
    model.train(epochs, **{**SHORT, **(train or {})})
    return model


@MODELS
def test_every_image_has_an_embedding_of_its_own(model_class, images):
    before = images.obsm["crops"].copy()
    model = trained(model_class, images)
    z = model.get_latent_representation()
    assert z.shape == (24, 12)
    assert z.dtype == np.float32
    assert len(np.unique(z, axis=0)) == 24
    assert (images.obsm["crops"] == before).all()
    assert len(model.history["train_loss_epoch"]) == 1
    part = model.get_latent_representation(images[5:9], batch_size=3)
    np.testing.assert_allclose(part, z[5:9], atol=1e-5)


@MODELS
def test_a_modality_of_a_mudata_gives_the_same(model_class, screen, images):
    mdata = screen()
    mdata["image"].uns["channels"] = NAMES
    model_class.setup_mudata(mdata, image_rep="crops")
    one = trained(model_class, mdata).get_latent_representation()
    two = trained(model_class, images).get_latent_representation()
    np.testing.assert_array_equal(one, two)


@MODELS
def test_the_seed_alone_decides(model_class, images):
    one, two, other = (
        trained(model_class, images, seed=seed).get_latent_representation() for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert not np.allclose(one, other)


@MODELS
def test_a_saved_model_gives_the_same(model_class, images, tmp_path):
    model = trained(model_class, images)
    z = model.get_latent_representation()
    model.save(tmp_path / "model")
    for data in (None, images):
        loaded = model_class.load(tmp_path / "model", data)
        np.testing.assert_array_equal(loaded.get_latent_representation(images), z)
    np.testing.assert_array_equal(loaded.get_latent_representation(), z)


@MODELS
def test_only_the_training_split_is_trained_on(model_class, images):
    images.obs["split"] = np.where(np.arange(24) < 16, "train", "test")
    images.obs.loc[images.obs_names[:4], "split"] = "val"

    def of(data):
        model_class.setup_anndata(data, image_rep="crops", split_key="split")
        return trained_on(model_class, data)

    one = of(images)
    changed = images.copy()
    changed.obsm["crops"] = images.obsm["crops"].copy()
    changed.obsm["crops"][16:] = 255 - changed.obsm["crops"][16:]  # held-out images
    np.testing.assert_array_equal(
        one.get_latent_representation(images), of(changed).get_latent_representation(images)
    )
    assert "validation_loss" in one.history


def trained_on(model_class, data):
    model = model_class(data, **extra(model_class))
    model.train(1, **SHORT)
    return model


@MODELS
def test_a_share_may_be_held_out(model_class, images):
    model = trained(model_class, images, train={"validation_size": 0.25})
    assert np.isfinite(model.history["validation_loss"]["validation_loss"]).all()


@MODELS
def test_trained_on_some_channels_and_run_on_others(model_class, images):
    model = trained(model_class, images, channel_agnostic=True)
    z = model.get_latent_representation()
    swapped = images.copy()
    swapped.obsm["crops"] = images.obsm["crops"][:, ::-1].copy()
    swapped.uns["channels"] = NAMES[::-1]
    np.testing.assert_allclose(model.get_latent_representation(swapped), z, atol=1e-4)
    one = images.copy()
    one.obsm["crops"] = images.obsm["crops"][:, 1:].copy()
    one.uns["channels"] = ["ER"]
    assert model.get_latent_representation(one).shape == z.shape
    one.uns["channels"] = ["Er"]
    with pytest.raises(KeyError, match=f"'Er' is not in the channels this {model_class.__name__}"):
        model.get_latent_representation(one)
    del one.uns["channels"]
    with pytest.raises(ValueError, match="has 1 channels; the model was trained on 2"):
        model.get_latent_representation(one)


@MODELS
def test_a_plain_vit_refuses_other_channels(model_class, images):
    model = trained(model_class, images)
    other = images.copy()
    other.uns["channels"] = NAMES[::-1]
    with pytest.raises(ValueError, match="has channels 'ER', 'DNA'; the model was trained on"):
        model.get_latent_representation(other)


def test_the_teacher_follows_and_the_last_layer_is_held(images):
    DINO.setup_anndata(images, image_rep="crops")
    model = DINO(images, **extra(DINO))
    net = model.module.net
    start = net.head.prototypes.clone()
    teacher = [p.clone() for p in net.teacher.parameters()]
    decays = []

    class Spy(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            decays.append(trainer.optimizers[0].param_groups[0]["weight_decay"])

    model.train(2, freeze_epochs=2, callbacks=[Spy()], momentum=0.5, **SHORT)
    assert (net.head.prototypes == start).all()
    assert decays[0] == pytest.approx(0.04)
    assert decays[-1] == pytest.approx(0.4)
    moved = [not torch.equal(a, b) for a, b in zip(teacher, net.teacher.parameters(), strict=True)]
    assert sum(moved) > len(moved) - 3
    model.train(1, freeze_epochs=0, **SHORT)
    assert (net.head.prototypes != start).any()
    assert "train_teacher_entropy_epoch" in model.history


def test_temperature_and_momentum_follow_their_schedules(images, monkeypatch):
    DINO.setup_anndata(images, image_rep="crops")
    model = DINO(images, **extra(DINO))
    told, followed = [], []
    net = model.module.net
    plain = net.forward

    def forward(*args, **kwargs):
        told.append(kwargs["teacher_temperature"])
        return plain(*args, **kwargs)

    monkeypatch.setattr(net, "forward", forward)
    monkeypatch.setattr(net, "follow", followed.append)
    model.train(2, momentum=0.5, temperature=(0.04, 0.07), temperature_epochs=1, **SHORT)
    np.testing.assert_allclose(told, [0.04, 0.05, 0.06, 0.07, 0.07, 0.07])  # 3 steps an epoch
    share = np.arange(6) / 5
    np.testing.assert_allclose(followed, 1 - 0.25 * (1 + np.cos(np.pi * share)))


def test_what_changes_in_training_has_a_first_and_a_last(images):
    DINO.setup_anndata(images, image_rep="crops")
    model = DINO(images, **extra(DINO))
    for name, value in (("weight_decay", 0.05), ("temperature", (0.04, -1.0))):
        with pytest.raises(ValueError, match=f"{name}=.*: expected two numbers from 0"):
            model.train(1, **{name: value}, **SHORT)


def test_images_of_two_kinds_are_told_apart_by_mae(images):
    rng = np.random.default_rng(0)
    kind = np.arange(24) % 2
    pixels = rng.normal(120, 5, (24, 2, 16, 16))
    pixels[kind == 1, :, :, ::4] += 100  # stripes
    images.obsm["crops"] = pixels.clip(0, 255).astype(np.uint8)
    model = trained(MAE, images, epochs=10, train={"augment": False, "lr": 3e-3})
    z = model.get_latent_representation()
    z = z - z.mean(axis=0)
    within = np.linalg.norm(z[kind == 0] - z[kind == 0].mean(axis=0), axis=1).mean()
    between = np.linalg.norm(z[kind == 0].mean(axis=0) - z[kind == 1].mean(axis=0))
    assert between > 3 * within
    loss = model.history["train_loss_epoch"]["train_loss_epoch"]
    assert loss.iloc[-1] < loss.iloc[0]


@MODELS
def test_bad_input_is_named(model_class, images):
    with pytest.raises(ValueError, match="needs pixels"):
        model_class.setup_anndata(images, image_rep="flat")
    with pytest.raises(KeyError, match="'split' is not in obs"):
        model_class.setup_anndata(images, image_rep="crops", split_key="split")
    with pytest.raises(ValueError, match="is a view"):
        model_class.setup_anndata(images[:4], image_rep="crops")
    with pytest.raises(ValueError, match=r"not set up for .*setup_anndata\(adata, image_rep"):
        model_class(images)
    model_class.setup_anndata(images, image_rep="crops")
    with pytest.raises(ValueError, match="no multiple of the patch size 5"):
        model_class(images, patch_size=5)
    with pytest.raises(TypeError, match="no argument 'widht'"):
        model_class(images, widht=12)
    with pytest.raises(KeyError, match="'tiny' is not in the presets"):
        model_class(images, preset="tiny")
    with pytest.raises(ValueError, match="width=12 is no multiple of n_heads=5"):
        model_class(images, **{**TINY, "n_heads": 5})
    of_head = {"n_prototypes": 0} if model_class is DINO else {"decoder_depth": 0}
    with pytest.raises(ValueError, match="=0.*: expected whole numbers from 1"):
        model_class(images, **{**extra(model_class), **of_head})
    model = model_class(images, **extra(model_class))
    with pytest.raises(ValueError, match="batch_size must be at least 1, found 0"):
        model.train(1, batch_size=0, enable_progress_bar=False)
    with pytest.raises(RuntimeError, match="is not trained"):
        model.get_latent_representation()
    with pytest.raises(ValueError, match="max_epochs"):
        model.train(0)


def test_views_must_fit_the_patches(images):
    DINO.setup_anndata(images, image_rep="crops")
    with pytest.raises(ValueError, match="local_size=6 is no multiple"):
        DINO(images, **{**extra(DINO), "views": {"local_size": 6}})
    with pytest.raises(KeyError, match="'n_locals' is not in the fields.*Did you mean 'n_local'"):
        DINO(images, **{**extra(DINO), "views": {"n_locals": 6}})
    assert DINO(images, **TINY).views.local_size == 8


# -- which epoch is kept (TIDE) -------------------------------------------------------------------


@MODELS
def test_the_epoch_with_the_best_neighbours_is_kept(model_class, images, monkeypatch):
    seen, model = [], None
    values = iter([0.3, 0.8, 0.5])

    def score(*_, **__):
        seen.append({n: x.clone() for n, x in model.module.state_dict().items()})
        return next(values)

    monkeypatch.setattr("cellfuse.model.base.neighbours.neighbour_accuracy", score)
    model_class.setup_anndata(images, image_rep="crops")
    model = model_class(images, **extra(model_class))
    model.train(4, knn_key="guide", evaluate_every=[1, 3, 4], validation_size=0.25, **SHORT)
    history = model.history["validation_knn_accuracy"]["validation_knn_accuracy"]
    assert history.index.tolist() == [0, 2, 3] and history.tolist() == pytest.approx(
        [0.3, 0.8, 0.5]
    )
    for name, weight in model.module.state_dict().items():
        torch.testing.assert_close(weight, seen[1][name], rtol=0, atol=0)


@MODELS
def test_perturbations_that_are_held_out_whole_are_asked_among_one_another(model_class, images):
    images.obs["split"] = ["val" if g in ("g2", "g3") else "train" for g in images.obs["guide"]]
    model_class.setup_anndata(images, image_rep="crops", split_key="split")
    model = model_class(images, **extra(model_class))
    model.train(2, knn_key="guide", **SHORT)
    assert len(model.history["validation_knn_accuracy"]) == 2


@MODELS
def test_neighbours_want_images_that_are_held_out(model_class, images):
    model_class.setup_anndata(images, image_rep="crops")
    model = model_class(images, **extra(model_class))
    with pytest.raises(ValueError, match="none is held out"):
        model.train(1, knn_key="guide", **SHORT)
    with pytest.raises(ValueError, match="name that column"):
        model.train(1, evaluate_every=2, **SHORT)
    with pytest.raises(KeyError, match="Did you mean 'guide'"):
        model.train(1, knn_key="guides", validation_size=0.25, **SHORT)
