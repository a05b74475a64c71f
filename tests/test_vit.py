"""Vision transformers: timm's numbers, channels by name, tokens that are left out."""

from __future__ import annotations

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cellfuse.nn.vit import (
    VIT_PRESETS,
    ChannelViT,
    PlainViT,
    ViTSizes,
    make_vit,
    sample_channels,
)

SIZES = ViTSizes(width=24, depth=2, n_heads=3, patch_size=4, image_size=16)
NAMES = ["DNA", "ER", "RNA"]


def seeded(make, *args):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        made = make(*args)
        for parameter in made.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval()


def images(n=2, channels=3, side=16) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", [16, 24, 8])
def test_the_plain_vit_is_timms_at_any_image_size(side):
    ours = seeded(PlainViT, NAMES, SIZES)
    theirs = VisionTransformer(
        img_size=16,
        patch_size=4,
        in_chans=3,
        num_classes=0,
        embed_dim=24,
        depth=2,
        num_heads=3,
        dynamic_img_size=True,
    ).eval()
    theirs.load_state_dict(ours.vit.state_dict())
    x = images(side=side)
    torch.testing.assert_close(ours(x), theirs.forward_features(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.embed(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_presets_have_the_papers_sizes():
    vit = make_vit(["a", "b", "c", "d", "e"], VIT_PRESETS["base"])
    blocks = sum(p.numel() for p in vit.vit.blocks.parameters())
    assert 21.2e6 < blocks < 21.4e6  # ViT-Small: 12 layers of 384
    assert sum(p.numel() for p in make_vit(NAMES, VIT_PRESETS["small"]).parameters()) < 1e6


@pytest.mark.parametrize("agnostic", [False, True])
def test_tokens_that_are_not_kept_are_never_seen(agnostic):
    vit = seeded(lambda: make_vit(NAMES, SIZES, channel_agnostic=agnostic))
    x = images()
    n_tokens = 16 * (3 if agnostic else 1)
    everything = torch.arange(n_tokens).expand(2, -1)
    torch.testing.assert_close(vit(x, keep=everything), vit(x))
    keep = torch.tensor([[0, 5, 9], [15, 2, 3]])  # places in the first channel
    out = vit(x, keep=keep)
    assert out.shape == (2, 4, 24)
    hidden = torch.ones(2, 16, dtype=torch.bool).scatter_(1, keep, False).view(2, 1, 4, 4)
    hidden = hidden.repeat_interleave(4, 2).repeat_interleave(4, 3)
    touched = torch.where(hidden, torch.full_like(x, 7.0), x)
    if agnostic:
        touched[:, 1:] = 7.0
    torch.testing.assert_close(vit(touched, keep=keep), out)
    assert not torch.allclose(vit(x + 1, keep=keep), out)


def test_kept_tokens_keep_their_place():
    vit = seeded(PlainViT, NAMES, SIZES)
    same = torch.ones(1, 3, 16, 16)  # every patch holds the same pixels
    here, there = (vit(same, keep=torch.tensor([[k]])) for k in (0, 9))
    assert not torch.allclose(here, there)


# -- channels -------------------------------------------------------------------------------------


def test_a_channel_vit_knows_channels_by_name_not_by_place():
    vit = seeded(ChannelViT, NAMES, SIZES)
    x = images()
    mixed = vit.embed(x[:, [2, 0, 1]], channels=["RNA", "DNA", "ER"])
    torch.testing.assert_close(mixed, vit.embed(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(vit.embed(x[:, [2, 0, 1]]), vit.embed(x), atol=1e-3)
    two = vit(x[:, 1:], channels=["ER", "RNA"])
    assert two.shape == (2, 1 + 2 * 16, 24)


def test_dropped_channels_are_as_if_they_had_not_been_there():
    vit = seeded(ChannelViT, NAMES, SIZES)
    x = images()
    picked, which = vit.pick(x, torch.tensor([[0, 2], [1, 2]]), None)
    out = vit.embed(picked, channels=which)
    torch.testing.assert_close(out[:1], vit.embed(x[:1, [0, 2]], channels=["DNA", "RNA"]))
    torch.testing.assert_close(out[1:], vit.embed(x[1:, 1:], channels=["ER", "RNA"]))
    named, which = vit.pick(x[:, 1:], torch.tensor([[1], [0]]), ["RNA", "DNA"])
    assert which.tolist() == [[0], [2]]
    assert (named[:, 0] == torch.stack([x[0, 2], x[1, 1]])).all()


def test_a_plain_vit_orders_channels_and_refuses_others():
    vit = seeded(PlainViT, NAMES, SIZES)
    x = images()
    torch.testing.assert_close(vit(x[:, [2, 0, 1]], channels=["RNA", "DNA", "ER"]), vit(x))
    with pytest.raises(ValueError, match="trained on the channels 'DNA', 'ER', 'RNA' and needs"):
        vit(x[:, :2], channels=["DNA", "ER"])
    with pytest.raises(ValueError, match="channel-agnostic"):
        vit.pick(x, torch.zeros(2, 1, dtype=torch.long), None)


def test_every_number_of_channels_occurs_and_channels_are_even():
    key = torch.arange(400)
    drawn = [sample_channels(key, 5, step=s, seed=0) for s in range(60)]
    assert {d.shape[1] for d in drawn} == {1, 2, 3, 4, 5}
    two = next(d for d in drawn if d.shape[1] == 2)
    assert (two[:, 0] < two[:, 1]).all()
    assert two.flatten().bincount(minlength=5).min() > 120  # 160 expected
    again = sample_channels(key[[7, 3]], 5, step=3, seed=0)
    assert (again == drawn[3][[7, 3]]).all()


def test_bad_input_is_named():
    vit = make_vit(NAMES, SIZES, channel_agnostic=True)
    with pytest.raises(KeyError, match=r"'Er' is not in the channels.*Did you mean 'ER'"):
        vit(images(channels=1), channels=["Er"])
    with pytest.raises(ValueError, match="have 2 channels, but 3 are named"):
        vit(images(channels=2))
    with pytest.raises(ValueError, match="18.*patches of 4"):
        vit(images(side=18))
    with pytest.raises(ValueError, match="distinct channel names"):
        vit(images(channels=2), channels=["ER", "ER"])
    with pytest.raises(ValueError, match="distinct channel names, found none"):
        PlainViT([], SIZES)
