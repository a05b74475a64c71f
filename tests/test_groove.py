"""GROOVE: its losses by hand, and that cells of a context meet."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from screens import flat_screen
from test_alignment import space

import cellfuse as cf
from cellfuse.nn import clip_loss, same_context


def built(**arguments) -> cf.GROOVE:
    mdata = flat_screen()
    cf.GROOVE.setup_mudata(mdata, context_keys="guide", image_rep="flat", rna_rep="flat")
    return cf.GROOVE(mdata, n_latent=4, hidden=(8,), **arguments)


def test_the_losses_are_those_written_out():
    model = built(weight_back=0.5, weight_group=2.0)
    net, context = model.module, torch.tensor([0, 0, 1])
    x = {role: torch.randn(3, 1, i.shape[0]) for role, i in model.inputs.items()}
    image, rna = net.cell("image"), net.cell("rna")
    a, b = image.encoder(x["image"][:, 0]), rna.encoder(x["rna"][:, 0])
    rebuilt = F.mse_loss(image.decoder(a), x["image"][:, 0])
    rebuilt = rebuilt + F.mse_loss(rna.decoder(b), x["rna"][:, 0])
    back = F.mse_loss(image.decoder(rna.encoder(rna.decoder(a).detach())), x["image"][:, 0])
    back = back + F.mse_loss(rna.decoder(image.encoder(image.decoder(b).detach())), x["rna"][:, 0])
    group = clip_loss(a, b, net.temperature(), weight=same_context(context))
    found = net(x, context)
    torch.testing.assert_close(found["loss"], rebuilt + 0.5 * back + 2 * group)


def test_a_translation_is_data_to_the_decoder_that_made_it():
    model = built(weight_group=0.0)
    x = {role: torch.randn(3, 1, i.shape[0]) for role, i in model.inputs.items()}
    found = model.module(x, torch.arange(3))
    found["back_loss"].backward()
    # Only through the way back are weights taught: the first encoder gets nothing of its own way.
    assert model.module.cell("image").encoder[0].weight.grad is not None
    rna_decoder = model.module.cell("rna").decoder[-1].weight.grad
    assert rna_decoder is not None


@pytest.mark.parametrize("permuted", [False, True])
def test_held_out_contexts_meet_unless_contexts_are_permuted(permuted):
    mdata = space(shared=0.95, n=200)
    held = [f"g{i}" for i in range(40)]
    cf.GROOVE.setup_mudata(mdata, context_keys="guide", image_rep="z", rna_rep="z")
    model = cf.GROOVE(mdata, n_latent=16, hidden=(64,), permute_contexts=permuted, seed=0)
    model.train(
        max_epochs=8, documents_per_context=20, enable_progress_bar=False, validation_contexts=held
    )
    for m in ("image", "rna"):
        mdata[m].obsm["X_groove"] = model.get_latent_representation(modality=m)
    table = cf.tl.alignment(mdata, "guide", use_rep="X_groove", contexts=held, n_draws=9, n_boot=0)
    foscttm = table.loc["embedding", "foscttm"]
    assert foscttm < 0.15 if not permuted else foscttm > 0.3
