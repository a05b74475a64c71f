"""Masked autoencoder of images: what is hidden stays hidden, the loss is of the hidden alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cellfuse.nn.mae import ImageMAE, normalize_patches
from cellfuse.nn.masking import random_mask
from cellfuse.nn.vit import ViTSizes, make_vit

SIZES = ViTSizes(width=16, depth=1, n_heads=2, patch_size=4, image_size=16)
KEY = torch.tensor([11, 3])


def network(agnostic: bool = False, **changes: object) -> ImageMAE:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        encoder = make_vit(["a", "b"], SIZES, channel_agnostic=agnostic)
        mae = ImageMAE(encoder, decoder_width=16, decoder_depth=1, decoder_heads=2, **changes)
        for parameter in mae.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return mae


def images(n=2, channels=2, side=16, seed=1) -> Tensor:
    return torch.randn(n, channels, side, side, generator=torch.Generator().manual_seed(seed))


def masks(mae: ImageMAE, n_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    keep, mask = random_mask(KEY, 1, n_tokens, ratio=0.75, seed=0, purpose="image patches")
    hidden = torch.stack([row.nonzero()[:, 0] for row in mask])
    return keep, mask, hidden


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_loss_is_that_of_the_hidden_patches(agnostic, normalize):
    mae = network(agnostic, normalize_targets=normalize)
    x = images()
    patches = mae.encoder.patches(x)
    keep, mask, hidden = masks(mae, patches.shape[1])
    assert mask.float().mean() == 0.75
    prediction = mae.reconstruct(x, keep, hidden)
    target = normalize_patches(patches) if normalize else patches
    full = torch.zeros_like(target)
    full.scatter_(1, hidden[..., None].expand(-1, -1, full.shape[2]), prediction)
    per_patch = (full - target).square().mean(dim=2)
    expected = (per_patch * mask).sum() / mask.sum()
    torch.testing.assert_close(mae(x, KEY)["loss"], expected)


@pytest.mark.parametrize("agnostic", [False, True])
def test_hidden_pixels_change_no_prediction_and_their_tokens_are_not_computed(agnostic):
    mae = network(agnostic).eval()
    x = images()
    keep, mask, hidden = masks(mae, mae.encoder.patches(x).shape[1])
    side, channels = 4, 2 if agnostic else 1
    where = mask.view(2, channels, side, side).repeat_interleave(4, 2).repeat_interleave(4, 3)
    touched = torch.where(where.expand(2, 2, 16, 16), torch.full_like(x, 9.0), x)
    lengths = []
    mae.encoder.vit.blocks[0].register_forward_hook(lambda m, i, o: lengths.append(o.shape[1]))
    before, after = (mae.reconstruct(v, keep, hidden) for v in (x, touched))
    torch.testing.assert_close(before, after)
    assert lengths == [1 + keep.shape[1]] * 2
    assert not torch.allclose(mae.reconstruct(touched + 1, keep, hidden), before)


def test_a_prediction_belongs_to_its_place():
    mae = network().eval()
    x = images()
    keep, _, hidden = masks(mae, 16)
    order = torch.randperm(hidden.shape[1], generator=torch.Generator().manual_seed(0))
    mixed = mae.reconstruct(x, keep, hidden[:, order])
    torch.testing.assert_close(mixed, mae.reconstruct(x, keep, hidden)[:, order])


def test_normalised_patches_are_numpys():
    patches = images().flatten(2)
    array = patches.double().numpy()
    expected = (array - array.mean(2, keepdims=True)) / np.sqrt(
        array.var(2, ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(normalize_patches(patches).numpy(), expected, atol=1e-5)
    assert torch.isfinite(normalize_patches(torch.ones(1, 2, 5))).all()


def test_every_weight_of_it_learns_and_the_loss_falls():
    mae = network()
    x = images(8) * 0 + torch.linspace(-1, 1, 16)  # every row the same ramp
    optimizer = torch.optim.AdamW(mae.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = mae(x, torch.arange(8) + 8 * step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        assert step or all(p.grad is not None for p in mae.parameters() if p.ndim)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_masks_hang_on_the_image_not_on_its_batch():
    mae = network().eval()
    x = images(2)
    both = mae(x, KEY)["loss"]
    alone = torch.stack([mae(x[i : i + 1], KEY[i : i + 1])["loss"] for i in range(2)])
    torch.testing.assert_close(both, alone.mean())


def test_channels_by_name_and_any_number_of_them():
    mae = network(agnostic=True).eval()
    x = images()
    swapped = mae.embed(x.flip(1), channels=["b", "a"])
    torch.testing.assert_close(swapped, mae.embed(x), rtol=1e-4, atol=1e-5)
    assert torch.isfinite(mae(x[:, :1], KEY, channels=["b"])["loss"])
    assert torch.isfinite(mae(images(side=24), KEY)["loss"])
    plain = network().eval()
    torch.testing.assert_close(
        plain(x.flip(1), KEY, channels=["b", "a"])["loss"], plain(x, KEY)["loss"]
    )
    with pytest.raises(KeyError, match="'c' is not in the channels"):
        mae(x, KEY, channels=["a", "c"])
    with pytest.raises(ValueError, match="mask_ratio=1"):
        ImageMAE(mae.encoder, mask_ratio=1.0)
