"""An interrupted training loses nothing, and the same call goes on as if it had not been broken."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

import cellfuse as cf
from cellfuse.model.base import keeping

TRAIN = {
    "max_epochs": 3,
    "batch_size": 2,
    "documents_per_context": 2,
    "accelerator": "cpu",
    "enable_progress_bar": False,
}


class Send(L.Callback):
    """Sends this process a signal after some steps."""

    def __init__(self, name: str, step: int) -> None:
        self.name, self.step = name, step

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), getattr(signal, self.name))


@pytest.fixture
def build(screen, tiny):
    """Build an untrained tiny PETRI on its own copy of the screen."""

    def built(**given) -> cf.PETRI:
        mdata = screen()
        cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
        return cf.PETRI(mdata, **{**tiny, **given})

    return built


def same(one, other) -> bool:
    a, b = one.module.state_dict(), other.module.state_dict()
    frames = all(np.allclose(one.history[name], other.history[name]) for name in one.history)
    return frames and all(
        torch.allclose(a[name], b[name], rtol=0, atol=0, equal_nan=True) for name in a
    )


def interrupted(model, folder, name: str, step: int, **more) -> str:
    with pytest.raises(KeyboardInterrupt) as error:
        model.train(**TRAIN, checkpoint=folder, callbacks=[Send(name, step)], **more)
    return str(error.value)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
def test_a_signal_leaves_a_checkpoint_from_which_the_same_call_goes_on(name, build, tmp_path):
    before = signal.getsignal(getattr(signal, name))
    whole, broken, resumed = build(), build(), build()
    whole.train(**TRAIN)
    text = interrupted(broken, tmp_path, name, 5)
    assert f"by {name}; what is done is in " in text
    assert str(tmp_path / "from-epoch-0.ckpt") in text
    assert signal.getsignal(getattr(signal, name)) is before
    resumed.train(**TRAIN, checkpoint=tmp_path)
    assert same(resumed, whole)


def test_a_training_that_was_kept_is_not_run_again_and_is_gone_on_with(build, tmp_path):
    whole, kept, again = build(), build(), build()
    for model in (whole, kept):
        model.train(**TRAIN, **({"checkpoint": str(tmp_path)} if model is kept else {}))
    again.train(**TRAIN, checkpoint=tmp_path, callbacks=[Send("SIGINT", 0)])  # no step is left
    assert same(kept, whole)
    assert same(again, whole)
    for model in (whole, again):
        model.train(**TRAIN, **({"checkpoint": str(tmp_path)} if model is again else {}))
    assert same(again, whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["from-epoch-0.ckpt", "from-epoch-3.ckpt"]


def test_a_checkpoint_of_another_training_is_refused(build, tmp_path):
    build().train(**TRAIN, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"from-epoch-0\.ckpt.* is a checkpoint of another"):
        build(seed=4).train(**TRAIN, checkpoint=tmp_path)


def test_without_a_folder_a_short_training_says_that_nothing_is_kept(build, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = interrupted(build(), None, "SIGTERM", 3)
    assert "nothing of it is kept; `checkpoint='folder'`" in text
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_a_long_training_leaves_a_checkpoint_all_the_same(
    build, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keeping, "LONG_SECONDS", 0.0)
    whole, resumed = build(), build()
    whole.train(**TRAIN)
    text = interrupted(build(), None, "SIGTERM", 3)
    (file,) = tmp_path.iterdir()
    assert f"ckpt_path={str(file)!r}" in text
    resumed.train(**TRAIN, ckpt_path=str(file))
    assert same(resumed, whole)


def test_a_checkpoint_that_cannot_be_written_is_named_and_the_last_one_stays(
    build, tmp_path, monkeypatch
):
    build().train(**{**TRAIN, "max_epochs": 3}, checkpoint=tmp_path, max_steps=4)
    file = tmp_path / "from-epoch-0.ckpt"
    before = file.read_bytes()

    def full(self, path, *_):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", full)
    with pytest.raises(OSError, match=r"from-epoch-0\.ckpt.*No space left.*before it is whole"):
        build().train(**TRAIN, checkpoint=tmp_path)
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [file.name]
