"""Training: the same to the bit, resumed, over several processes, and actually learning."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import anndata as ad
import lightning as L
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

import cellfuse as cf

SETUP = {"context_keys": "guide", "image_rep": "crops"}


def weights(model: cf.PETRI) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def largest_difference(one: cf.PETRI, other: cf.PETRI) -> float:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a if a[name].numel())


@pytest.fixture
def tiny(tiny) -> dict:
    """The paper's PETRI, begun at random; one begun linear is in `test_begin.py`."""
    return {**tiny, "begin": "random"}


@pytest.fixture
def build(screen, tiny):
    """Build an untrained tiny PETRI on its own copy of the screen."""

    def built(mdata: md.MuData | None = None, **given) -> cf.PETRI:
        mdata = screen() if mdata is None else mdata
        cf.PETRI.setup_mudata(mdata, **SETUP)
        return cf.PETRI(mdata, **{**tiny, **given})

    return built


# -- the same seed --------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_to_the_bit(build, short):
    one, same, other = build(seed=3), build(seed=3), build(seed=4)
    assert largest_difference(one, same) == 0
    assert largest_difference(one, other) > 0
    for model in (one, same):
        torch.rand(1)  # the caller's random state has no say
        model.train(2, **short)
    assert largest_difference(one, same) == 0


def test_the_seed_draws_documents_masks_and_augmentation_too(build, short):
    one, other = build(seed=3), build(seed=3)
    other.seed = other.module.seed = 4
    for model in (one, other):
        model.train(1, **short)
    assert largest_difference(one, other) > 0


def test_workers_that_read_ahead_change_nothing(build, short):
    one, other = build(), build()
    one.train(1, **short)
    other.train(1, num_workers=1, **short)
    assert largest_difference(one, other) == 0


def test_lightnings_options_pass_through(build, short):
    seen = []

    class Steps(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            seen.append(trainer.global_step)

    model = build()
    model.train(1, callbacks=[Steps()], max_steps=1, **short)
    assert seen == [1]


# -- what is trained on ---------------------------------------------------------------------------


def test_statistics_are_those_of_the_training_cells(build, short):
    model = build()
    model.train(1, **short)
    crops = model.adata["image"].obsm["crops"]
    np.testing.assert_allclose(
        model.module.cell("image").mean, crops.mean(axis=(0, 2, 3)), rtol=1e-5
    )
    np.testing.assert_allclose(model.module.cell("image").sd, crops.std(axis=(0, 2, 3)), rtol=1e-5)


def test_held_out_cells_are_neither_trained_on_nor_looked_at(screen, build, short):
    def outcome(poke: bool) -> cf.PETRI:
        mdata = screen()
        model = build(mdata)
        from cellfuse.data import Contexts, training_rows

        contexts = Contexts.from_modalities(mdata.mod, "guide")
        held = training_rows(contexts, 0.34, 0)[1]
        assert held["image"].sum() == held["rna"].sum() == 8
        if poke:
            mdata["image"].obsm["crops"][held["image"]] = 0
            counts = mdata["rna"].X.toarray()
            counts[held["rna"]] = 1
            mdata["rna"].X = sp.csr_matrix(counts)
        model.train(1, validation_size=0.34, **short)
        return model

    one, other = outcome(False), outcome(True)
    assert largest_difference(one, other) == 0
    name = "validation_loss"
    assert one.history[name][name].iloc[-1] != other.history[name][name].iloc[-1]


def test_scarce_contexts_are_counted_in_a_warning(build, short):
    with pytest.warns(UserWarning, match=r"of 4 contexts.*set size 9 \(4 in 'image', 4 in 'rna'\)"):
        build(set_size=9).train(1, **short)


def test_constant_features_are_counted_in_a_warning(screen, build, short):
    mdata = screen()
    mdata["image"].obsm["crops"][:, 1] = 7
    model = build(mdata)
    with pytest.warns(UserWarning, match=r"1 of 2 features of obsm\['crops'\].*are constant"):
        model.train(1, **short)
    assert np.isfinite(model.get_latent_representation(modality="image")).all()


def test_the_warnings_point_at_the_users_call(build, short):
    with pytest.warns(UserWarning, match="set size 9") as caught:
        build(set_size=9).train(1, **short)
    assert [w.filename for w in caught if "set size 9" in str(w.message)] == [__file__]


# -- history --------------------------------------------------------------------------------------


def test_the_history_is_one_number_per_epoch(build, short):
    model = build()
    model.train(3, validation_size=0.34, **short)
    names = {
        f"{stage}_{loss}{suffix}"
        for stage, suffix in (("train", "_epoch"), ("validation", ""))
        for loss in ("loss", "image_loss", "rna_loss")
    }
    assert set(model.history) == names
    for name, frame in model.history.items():
        assert list(frame.columns) == [name]
        assert frame.index.tolist() == [0, 1, 2]
        assert np.isfinite(frame[name]).all()
    total = model.history["train_loss_epoch"].iloc[0, 0]
    parts = [model.history[f"train_{m}_loss_epoch"].iloc[0, 0] for m in ("image", "rna")]
    assert total == pytest.approx(parts[0] + 1.8 / 6 * parts[1], rel=1e-5)


def test_the_validation_loss_is_that_of_the_same_documents_every_epoch(build, short):
    model = build()
    model.train(2, validation_size=0.34, lr=1e-12, **short)
    losses = model.history["validation_loss"]["validation_loss"]
    assert losses.iloc[0] == pytest.approx(losses.iloc[1], rel=1e-6)


def test_a_modality_without_held_out_cells_has_no_validation_loss(screen, build, short):
    mdata = screen()
    few = md.MuData({"image": mdata["image"][:4].copy(), "rna": mdata["rna"]})  # one per guide
    model = build(few, set_size=1)
    model.train(1, validation_size=0.34, **short)
    assert "validation_rna_loss" in model.history
    assert "validation_image_loss" not in model.history
    assert "train_image_loss_epoch" in model.history


# -- interrupted and resumed ----------------------------------------------------------------------

#: A resumed run that writes its checkpoints elsewhere is told so by Lightning.
elsewhere = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")
#: Four contexts, six documents each, four per batch: six steps an epoch.
LONG = {"documents_per_context": 6, "batch_size": 4, "enable_progress_bar": False}


@elsewhere
@pytest.mark.parametrize("step", [2, 4, 6, 8, 12])
def test_a_training_resumed_at_any_step_ends_with_the_same_weights(build, tmp_path, step):
    whole = build()
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    whole.train(3, callbacks=[keep], validation_size=0.34, **LONG)
    resumed = build()
    at = str(tmp_path / f"step={step}.ckpt")
    keep = ModelCheckpoint(tmp_path / "more", every_n_train_steps=2)  # Lightning wants it again
    resumed.train(3, ckpt_path=at, callbacks=[keep], validation_size=0.34, **LONG)
    assert largest_difference(whole, resumed) == 0


@elsewhere
def test_a_training_resumed_after_an_epoch_ends_with_the_same_weights_and_history(build, tmp_path):
    whole = build()
    keep = ModelCheckpoint(tmp_path, "{epoch}", every_n_epochs=1, save_top_k=-1)
    whole.train(3, callbacks=[keep], **LONG)
    resumed = build()
    keep = ModelCheckpoint(tmp_path / "more", every_n_epochs=1)
    resumed.train(3, ckpt_path=str(tmp_path / "epoch=1.ckpt"), callbacks=[keep], **LONG)
    assert largest_difference(whole, resumed) == 0
    for name, frame in whole.history.items():
        pd.testing.assert_frame_equal(resumed.history[name], frame)


@elsewhere
def test_a_training_that_was_interrupted_goes_on_from_its_last_checkpoint(build, tmp_path):
    class Interrupt(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 9:
                raise KeyboardInterrupt

    def keep(folder: Path) -> ModelCheckpoint:
        return ModelCheckpoint(folder, "last", every_n_train_steps=4)

    whole, broken, resumed = build(), build(), build()
    whole.train(3, **LONG)
    on_interrupt = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="ckpt_path"):
        broken.train(3, callbacks=[keep(tmp_path), Interrupt()], **LONG)
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    assert not broken.is_trained_
    resumed.train(
        3, ckpt_path=str(tmp_path / "last.ckpt"), callbacks=[keep(tmp_path / "more")], **LONG
    )
    assert largest_difference(whole, resumed) == 0


class Payload:
    """What a pickle in a checkpoint could run."""

    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_a_checkpoint_that_would_run_code_is_refused(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = build()
    model.train(1, callbacks=[ModelCheckpoint(tmp_path, "one", every_n_epochs=1)], **LONG)
    state = torch.load("one.ckpt", weights_only=True)
    torch.save({**state, "more": Payload()}, "bad.ckpt")
    with pytest.raises(ValueError, match=r"'bad.ckpt' is damaged.*[Ww]eights.only"):
        build().train(2, ckpt_path="bad.ckpt", **LONG)
    assert not Path("ran").exists()


# -- several processes ----------------------------------------------------------------------------

SCRIPT = """
import importlib.util, os, sys, warnings
warnings.filterwarnings("ignore")
spec = importlib.util.spec_from_file_location("screens", sys.argv[1])
screens = importlib.util.module_from_spec(spec)
spec.loader.exec_module(screens)
import cellfuse as cf

mdata = screens.make_screen()
cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
model = cf.PETRI(mdata, begin="random", **screens.TINY)
model.train(2, validation_size=0.34, accelerator="cpu", devices=2, strategy="ddp",
            documents_per_context=2, batch_size=4, enable_progress_bar=False)
if os.environ.get("LOCAL_RANK", "0") == "0":
    model.save(sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_reach_the_weights_of_one(build, short, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    subprocess.run(
        [sys.executable, script, Path(__file__).with_name("screens.py"), tmp_path / "two"],
        check=True,
        timeout=240,
        capture_output=True,
    )
    two, one = cf.PETRI.load(tmp_path / "two"), build()
    one.train(2, validation_size=0.34, **short)
    for model in (one, two):
        for module in model.module.modules():
            if hasattr(module, "key_value"):
                # A shift of all keys changes no attention: the gradient of their bias is rounding
                # error, which Adam blows up to the size of a step.
                module.key_value.bias.data[: module.key_value.in_features] = 0
    assert largest_difference(one, two) < 1e-5
    assert one.history.keys() == two.history.keys()
    for name, frame in one.history.items():
        np.testing.assert_allclose(two.history[name], frame, rtol=1e-4)


# -- learning -------------------------------------------------------------------------------------


def toy(n_contexts: int = 4, n_cells: int = 24, seed: int = 0) -> md.MuData:
    """Each context has its own patch of the image bright and its own genes high.

    What is seen of an image (one patch of four) mostly does not tell which patch is bright; the
    counts always do.
    """
    rng = np.random.default_rng(seed)
    label = np.arange(n_contexts * n_cells) % n_contexts
    obs = {
        m: pd.DataFrame(
            {"guide": [f"g{i}" for i in label]}, index=[f"{m}{i}" for i in range(len(label))]
        )
        for m in ("image", "rna")
    }
    images = ad.AnnData(obs=obs["image"])
    crops = rng.normal(0, 0.3, (len(label), 1, 2, 8, 2, 8))
    crops[np.arange(len(label)), 0, label // 2, :, label % 2] += 2
    images.obsm["crops"] = crops.reshape(-1, 1, 16, 16).astype("f4")
    mean = np.where(np.arange(32) % n_contexts == label[:, None], 20.0, 1.0)
    counts = ad.AnnData(sp.csr_matrix(rng.poisson(mean).astype("f4")), obs=obs["rna"])
    return md.MuData({"image": images, "rna": counts})


#: A little wider than tiny, without which the genes are not told apart.
WIDER = {"width": 32, "gene_decoder_hidden": 64, "n_set_layers": 1, "set_size": 2}


@pytest.mark.slow
def test_matched_counts_help_to_rebuild_images_and_permuted_training_learns_no_such_thing(build):
    loss = {}
    for permuted in (False, True):
        model = build(toy(), permute_contexts=permuted, **WIDER)
        model.train(
            16,
            documents_per_context=64,
            batch_size=16,
            lr=3e-3,
            augment=False,
            enable_progress_bar=False,
        )
        for using in (("image", "rna"), ("image",)):
            rebuilt = model.reconstruct(modality="image", max_documents=96, using=using)
            loss[permuted, len(using)] = rebuilt.loss.mean()
        for role in ("image", "rna"):
            curve = model.history[f"train_{role}_loss_epoch"].iloc[:, 0]
            assert curve.iloc[-3:].mean() < 0.9 * curve.iloc[0]
    # Alone, a hidden patch is bright in one of three cases: the error is that of a guess.
    assert loss[False, 2] < 0.4 < 0.8 < loss[False, 1]
    assert loss[True, 2] == pytest.approx(loss[True, 1], rel=0.03)


def test_the_losses_go_down_on_a_simulated_screen(tiny):
    mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=16, seed=0)
    cf.PETRI.setup_mudata(mdata, **SETUP)
    model = cf.PETRI(mdata, **{**tiny, **WIDER})
    model.train(
        5,
        documents_per_context=8,
        batch_size=8,
        lr=2e-3,
        validation_size=0.3,
        enable_progress_bar=False,
    )
    # On the same held-out documents with the same masks every epoch. Most of the counts' loss is
    # their noise.
    for role, share in (("image", 0.9), ("rna", 0.999)):
        curve = model.history[f"validation_{role}_loss"].iloc[:, 0]
        assert curve.iloc[-1] < share * curve.iloc[0]
