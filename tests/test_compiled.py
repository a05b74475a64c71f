"""Compiled blocks: the same weights by the same names; a network without blocks says so."""

from __future__ import annotations

import numpy as np
import pytest
from screens import make_screen
from torch import nn

import cellfuse as cf


@pytest.fixture
def without_code(monkeypatch):
    """Trace the blocks and leave the making of machine code out, which takes minutes."""
    whole, seen = nn.Module.compile, []

    def compile(module, **given):
        seen.append(module)
        whole(module, backend="eager", **given)

    monkeypatch.setattr(nn.Module, "compile", compile)
    return seen


def trained(**given):
    mdata = make_screen()
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, set_size=2, seed=0)
    model.train(1, batch_size=4, max_steps=2, enable_progress_bar=False, **given)
    return mdata, model


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_training_is_the_same_training(without_code, tmp_path):
    _, plain = trained()
    mdata, compiled = trained(compile_blocks=True)
    assert without_code == cf.nn.repeated_layers(compiled.module)
    assert len(without_code) > 2
    a, b = plain.module.state_dict(), compiled.module.state_dict()
    assert list(a) == list(b)
    far = {k: float((a[k].float() - b[k].float()).abs().max()) for k in a if a[k].numel()}
    assert max(far.values()) < 1e-3, {k: v for k, v in far.items() if v > 1e-5}
    compiled.save(tmp_path / "model")
    loaded = cf.PETRI.load(tmp_path / "model", mdata)
    z = (m.get_latent_representation(modality="rna") for m in (loaded, compiled))
    assert np.allclose(*z, atol=1e-5)


def test_timms_blocks_are_found():
    vit = cf.nn.PlainViT(
        ["a"], cf.nn.ViTSizes(image_size=16, patch_size=8, width=16, depth=2, n_heads=2)
    )
    assert len(cf.nn.repeated_layers(vit)) == 2


def test_a_network_without_blocks_says_so():
    mdata = cf.datasets.simulated_screen(60, n_targets=4, cells_per_guide=8, seed=0)
    cf.GROOVE.setup_mudata(mdata, context_keys="guide", image_rep="latent", rna_rep="latent")
    with pytest.raises(ValueError, match="GROOVE has no transformer block to compile"):
        cf.GROOVE(mdata, n_latent=4).train(1, compile_blocks=True)
