"""Numbers as numpy and pandas give them, and no float64 on a device (Apple's GPUs know none)."""

from __future__ import annotations

import re
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

import cellfuse as cf
from cellfuse.data.loader import Batch
from cellfuse.data.readers import DenseReader, read_dense

PACKAGE = Path(cf.__file__).parent


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
def test_a_model_trains_by_the_numbers_of_numpy_and_resumes(screen, tiny, tmp_path):
    mdata = screen()
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    sizes = {name: np.int64(value) for name, value in tiny.items()}
    keep = L.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path, save_last=True)
    given = {
        "documents_per_context": np.int64(2),
        "batch_size": np.int32(4),
        "lr": np.float32(1e-3),
        "weight_decay": np.float64(0.05),
        "warmup": np.float16(0.25),
        "accelerator": "cpu",
        "enable_progress_bar": False,
    }
    model = cf.PETRI(mdata, seed=np.int64(3), **sizes)
    model.train(max_epochs=np.int64(1), callbacks=[keep], **given)
    same = cf.PETRI(mdata, seed=3, **tiny)
    same.train(max_epochs=1, **{**given, "lr": float(np.float32(1e-3)), "batch_size": 4})
    a, b = (m.get_latent_representation(modality="rna") for m in (model, same))
    np.testing.assert_array_equal(a, b)
    model.save(tmp_path / "saved")
    assert cf.PETRI.load(tmp_path / "saved", mdata).set_size == tiny["set_size"]
    longer = cf.PETRI(mdata, seed=np.int64(3), **sizes)
    again = L.pytorch.callbacks.ModelCheckpoint(dirpath=tmp_path)
    last = str(tmp_path / "last.ckpt")
    longer.train(max_epochs=np.int64(2), callbacks=[again], ckpt_path=last, **given)
    assert len(longer.history["train_loss_epoch"]) == 2


def test_what_goes_to_a_device_is_no_float64():
    x = np.arange(6.0).reshape(3, 2)
    assert read_dense(DenseReader(x), np.arange(3)).dtype == torch.float64
    there = torch.device("meta")  # a device on any machine
    assert read_dense(DenseReader(x), np.arange(3), device=there).dtype == torch.float32
    rows = torch.arange(3)
    batch = Batch(
        rows,
        rows,
        {"rna": rows},
        {"rna": rows > 0},
        {"rna": torch.from_numpy(x)},
        {"rna": {"dose": torch.ones(3, dtype=torch.float64)}},
    )
    moved = batch.to(there)
    assert moved.x["rna"].dtype == moved.obs["rna"]["dose"].dtype == torch.float32
    assert moved.key.dtype == torch.int64
    assert batch.to("cpu").x["rna"].dtype == torch.float64


@pytest.mark.parametrize(
    "path", [*PACKAGE.glob("model/**/*.py"), *PACKAGE.glob("nn/*.py")], ids=lambda p: p.stem
)
def test_a_tensor_leaves_its_device_before_it_becomes_float64(path):
    assert not re.search(r"\.double\(\)\s*\.cpu\(\)|dtype=torch\.float64.*\.to\(", path.read_text())
