"""The networks of CLIP and of the cross-modal autoencoder."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from cellfuse.nn import (
    CrossModalAutoencoder,
    InputSpec,
    SetCLIP,
    Sizes,
    Temperature,
    clip_loss,
    reverse_gradient,
    same_context,
)

SIZES = Sizes(
    width=8,
    n_heads=2,
    n_latents=2,
    patch_size=4,
    image_depth=1,
    image_decoder_width=8,
    image_decoder_depth=1,
    image_decoder_heads=2,
    n_cross=1,
    n_self=1,
    gene_decoder_hidden=8,
)
SPECS = {"image": InputSpec("pixels", (2, 8, 8)), "rna": InputSpec("counts", (5,))}


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def documents():
    g, s = 4, 3
    return {
        "x": {
            "image": torch.rand(g, s, 2, 8, 8),
            "rna": torch.poisson(torch.full((g, s, 5), 3.0)),
        },
        "key": torch.arange(g),
        "context": torch.tensor([7, 7, 1, 2]),
    }


def embedded(net, documents):
    return [
        net.embed(name, cells.flatten(0, 1)).view(4, 3, -1)
        for name, cells in documents["x"].items()
    ]


def test_sets_are_averaged_before_they_are_compared(documents):
    net = SetCLIP(SPECS, SIZES, temperature=0.5)
    a, b = embedded(net, documents)
    wanted = clip_loss(a.mean(1), b.mean(1), 2.0)
    assert net(**documents)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)
    # The order of cells in a set means nothing.
    turned = {**documents, "x": {**documents["x"], "rna": documents["x"]["rna"].flip(1)}}
    assert net(**turned)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_without_averaging_every_pair_of_cells_of_a_context_is_positive(documents):
    net = SetCLIP(SPECS, SIZES, average=False, positives="context", temperature=0.5)
    a, b = (z.flatten(0, 1) for z in embedded(net, documents))
    same = same_context(documents["context"].repeat_interleave(3))
    assert same.sum() == 36 + 9 + 9
    wanted = clip_loss(a, b, 2.0, weight=same)
    assert net(**documents)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_similar_cells_are_partly_positive_for_the_first_modality_only(documents):
    net = SetCLIP(SPECS, SIZES, positives="similar", temperature=0.5)
    a, b = (z.mean(1) for z in embedded(net, documents))
    alike = (1 + F.cosine_similarity(a[:, None], a[None], dim=2)) / 2
    wanted = clip_loss(a, b, 2.0, weight=alike.detach(), weight_back=torch.eye(4))
    loss = net(**documents)["loss"]
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    # The weights are what is learnt from, and teach nothing themselves.
    image = list(net.cell("image").parameters())
    for ours, theirs in zip(*(torch.autograd.grad(x, image) for x in (loss, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)


def test_accuracy_counts_finds_of_the_own_context():
    net = SetCLIP(SPECS, SIZES)
    a = torch.eye(3)
    net.embed = lambda name, *_, **__: a if name == "image" else a[[1, 0, 2]]
    x = {"image": torch.zeros(3, 1, 1), "rna": torch.zeros(3, 1, 1)}
    accuracy = net(x, torch.arange(3), torch.tensor([5, 5, 6]))["accuracy"]
    assert accuracy.item() == 1.0  # 0 and 1 find each other's, of the same context
    accuracy = net(x, torch.arange(3), torch.tensor([4, 5, 6]))["accuracy"]
    assert accuracy.item() == pytest.approx(1 / 3)


def test_nothing_of_the_decoders_is_left(documents):
    net = SetCLIP(SPECS, SIZES)
    assert not [name for name, _ in net.named_parameters() if "decoder" in name or "disp" in name]
    net.cell("rna").set_statistics(torch.ones(5), torch.ones(5))  # has no decoder to tell
    net(**documents)["loss"].backward()
    assert all(p.grad is not None for p in net.parameters())


def test_the_temperature_is_bounded():
    temperature = Temperature(0.1)
    assert temperature().item() == pytest.approx(10)
    with torch.no_grad():
        temperature.log_scale.fill_(math.log(1e6))
    assert temperature().item() == pytest.approx(100)
    for wrong in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and at least 0.01"):
            Temperature(wrong)


def test_a_reversed_gradient_is_the_gradient_reversed():
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert torch.equal(y, x)
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad.tolist() == [-1.5, -2.0]


@pytest.fixture
def autoencoder():
    return CrossModalAutoencoder(
        SPECS, SIZES, n_contexts=8, n_latent=4, weights={"image": 1.0, "rna": 0.3}
    )


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_trains_its_own_parts_alone(stage, autoencoder, documents):
    autoencoder.set_stage(stage)
    autoencoder(**documents)["loss"].backward()
    touched = {name for name, p in autoencoder.named_parameters() if p.grad is not None}
    heads = {name.split(".")[1 if name.startswith("vaes") else 0] for name in touched}
    assert heads == ({"image", "classifier"} if stage == 0 else {"rna", "discriminator"})


def test_the_loss_is_the_sum_of_its_named_parts(autoencoder, documents):
    autoencoder.set_stage(1)
    out = autoencoder(**documents)
    wanted = (
        0.3 * out["rna_loss"] + 1e-3 * out["rna_kl"] + out["rna_class"] + out["discriminator_loss"]
    )
    assert out["loss"].item() == pytest.approx(wanted.item(), rel=1e-6)


def test_every_cell_is_to_be_told_by_the_context_of_its_document(autoencoder, documents):
    autoencoder.set_stage(0)
    z = autoencoder._pass("image", documents["x"]["image"], documents["key"], False)[3]
    log_p = autoencoder.classifier(z).log_softmax(dim=1).view(4, 3, -1)
    contexts = enumerate(documents["context"].tolist())
    wanted = -torch.stack([log_p[g, :, context].mean() for g, context in contexts]).mean()
    found = autoencoder(**documents)["image_class"]
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_the_encoder_is_pushed_against_the_discriminator(autoencoder, documents):
    autoencoder.set_stage(1)
    autoencoder.weights["rna"] = autoencoder.weight_kl = autoencoder.weight_class = 0.0
    before = autoencoder(**documents)["discriminator_loss"]
    before.backward()
    with torch.no_grad():
        for name, p in autoencoder.named_parameters():
            if p.grad is not None and name.startswith("vaes.rna"):
                p -= 1e-2 * p.grad  # a step down its own gradient
    after = autoencoder(**documents)["discriminator_loss"]
    assert after.item() > before.item()


def test_kl_by_hand_and_noise_that_hangs_on_the_key(autoencoder, documents):
    _, mean, log_var, z = autoencoder._pass("rna", documents["x"]["rna"], documents["key"], False)
    kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
    autoencoder.set_stage(1)
    assert autoencoder(**documents)["rna_kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    noise = (z - mean) / (log_var / 2).exp()
    part = {"x": documents["x"]["rna"][2:3], "key": documents["key"][2:3]}
    alone = autoencoder._pass("rna", part["x"], part["key"], False)[3]
    assert torch.allclose(alone, z[6:9], atol=1e-5)
    many = autoencoder._pass("rna", torch.ones(500, 3, 5), torch.arange(500), False)
    noise = (many[3] - many[1]) / (many[2] / 2).exp()
    assert noise.mean().abs().item() < 0.05
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert noise[:, 0].sub(noise[:, 1]).abs().min().item() > 0
