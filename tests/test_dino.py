"""DINO: hand-worked values, a plain implementation, views of an image."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cellfuse.nn.crops import CropSettings, multi_crop, random_crops
from cellfuse.nn.dino import (
    Dino,
    DinoHead,
    cosine_schedule,
    dino_loss,
    follow,
    next_center,
    teacher_target,
    warm_up,
)
from cellfuse.nn.vit import ChannelViT, PlainViT, ViTSizes, sample_channels

SIZES = ViTSizes(width=16, depth=1, n_heads=2, patch_size=4, image_size=16)
CROPS = CropSettings(global_size=16, local_size=8)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network(make=PlainViT, n_prototypes=12, hidden=16, bottleneck=8) -> Dino:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return Dino(
            make(["a", "b"], SIZES),
            n_prototypes=n_prototypes,
            hidden=hidden,
            bottleneck=bottleneck,
        )


def views(n: int = 3) -> tuple[Tensor, Tensor]:
    return multi_crop(drawn(n, 2, 20, 20), torch.arange(n), seed=0, settings=CROPS)


# -- schedules ------------------------------------------------------------------------------------


def test_the_schedules_are_dinos():
    assert cosine_schedule(0, 101, start=0.996, end=1.0) == pytest.approx(0.996)
    assert cosine_schedule(25, 101, start=0.04, end=0.4) == pytest.approx(
        0.4 - 0.18 * (1 + math.cos(math.pi / 4))
    )
    assert cosine_schedule(100, 101, start=0.04, end=0.4) == pytest.approx(0.4)
    assert cosine_schedule(500, 101, start=0.04, end=0.4) == pytest.approx(0.4)
    assert warm_up(0, 30, start=0.04, end=0.07) == pytest.approx(0.04)
    assert warm_up(10, 30, start=0.04, end=0.07) == pytest.approx(0.05)
    assert warm_up(99, 30, start=0.04, end=0.07) == pytest.approx(0.07)
    assert warm_up(0, 0, start=0.04, end=0.07) == pytest.approx(0.07)


# -- loss -----------------------------------------------------------------------------------------


def plain_loss(student, teacher, center, tau_s, tau_t):
    terms = []
    for g in range(len(teacher)):
        target = ((teacher[g] - center) / tau_t).softmax(-1)
        for v in range(len(student)):
            if v != g:
                log_p = (student[v] / tau_s).log_softmax(-1)
                terms.append(-(target * log_p).sum(-1).mean())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("n_views", [2, 6])
def test_the_loss_and_its_gradient_are_the_plain_ones(n_views):
    student, teacher, center = drawn(n_views, 5, 7), drawn(2, 5, 7, seed=1), drawn(7, seed=2)
    gradients = []
    for loss in (
        lambda x: dino_loss(x, teacher_target(teacher, center, temperature=0.05)),
        lambda x: plain_loss(x, teacher, center, 0.1, 0.05),
    ):
        x = student.clone().requires_grad_()
        value = loss(x)
        value.backward()
        gradients.append((value.detach(), x.grad))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_hand_worked_loss():
    # One image, two views. Teacher: half and half. Student at temperature 1: (3/4, 1/4).
    teacher = torch.zeros(1, 1, 2)
    student = torch.tensor([[[5.0, 5.0]], [[math.log(3.0), 0.0]]])
    loss = dino_loss(student, teacher_target(teacher, torch.zeros(2)), temperature=1.0)
    # The teacher's own view (the first) does not count.
    assert loss.item() == pytest.approx(-0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4), rel=1e-5)


def test_the_centre_is_taken_off_and_moves():
    teacher = torch.tensor([[[4.0, 0.0]], [[2.0, 0.0]]])
    center = next_center(torch.tensor([1.0, 1.0]), teacher)
    torch.testing.assert_close(center, torch.tensor([0.9 + 0.3, 0.9]))
    shifted = teacher_target(teacher + 5, torch.full((2,), 5.0), temperature=2.0)
    expected = torch.tensor([[[1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2))]]])
    torch.testing.assert_close(shifted[:1], expected)


# -- network --------------------------------------------------------------------------------------


def test_logits_are_cosines():
    with torch.random.fork_rng():
        head = DinoHead(6, n_prototypes=9, hidden=8, bottleneck=4)
    x = drawn(5, 6)
    expected = F.cosine_similarity(head.mlp(x)[:, None], head.prototypes[None], dim=-1)
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-6)


def test_the_networks_loss_is_that_of_its_parts():
    net = network().eval()
    for parameter in net.head.parameters():
        parameter.data += 0.1 * drawn(*parameter.shape)
    net.center += drawn(12) * 0.1
    wide, narrow = views()
    student = [net.head(net.encoder.embed(v)) for v in (*wide, *narrow)]
    encoder, head = net.teacher
    teacher = [head(encoder.embed(v)) for v in wide]
    expected = plain_loss(torch.stack(student), torch.stack(teacher), net.center, 0.1, 0.05)
    found = net(wide, narrow, teacher_temperature=0.05)
    torch.testing.assert_close(found["loss"], expected, rtol=1e-4, atol=1e-6)


def test_the_teacher_sees_global_views_only_and_holds_no_gradient():
    net = network()
    seen = []
    net.teacher[1].register_forward_hook(lambda m, x, y: seen.append((len(x[0]), y.requires_grad)))
    passes = []
    net.encoder.vit.norm.register_forward_hook(lambda m, x, y: passes.append(tuple(y.shape)))
    net(*views(3))["loss"].backward()
    assert seen == [(6, False)]
    assert [shape[:2] for shape in passes] == [(6, 17), (12, 5)]  # views of a size together
    assert all(p.grad is None and not p.requires_grad for p in net.teacher.parameters())
    assert all(p.grad is not None for p in (*net.encoder.parameters(), *net.head.parameters()))


def test_the_teacher_follows_by_its_momentum():
    net = network()
    before = [p.clone() for p in net.teacher.parameters()]
    for parameter in (*net.encoder.parameters(), *net.head.parameters()):
        parameter.data += 1.0
    net.follow(0.9)
    for old, new in zip(before, net.teacher.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
    follow(net.teacher[1], net.head, momentum=0.0)
    assert (net.teacher[1].prototypes == net.head.prototypes).all()


def test_the_centre_moves_in_training_only():
    net = network()
    net.eval()(*views())
    assert (net.center == 0).all()
    net.train()(*views())
    assert (net.center != 0).any()


def test_the_last_layer_is_held_in_the_first_epoch():
    net = network()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.4)
    before = net.head.prototypes.clone()
    first = net.head.mlp[0].weight.clone()
    net(*views())["loss"].backward()
    net.hold_last_layer()
    optimizer.step()
    assert (net.head.prototypes == before).all()
    assert (net.head.mlp[0].weight != first).any()
    net(*views())["loss"].backward()
    optimizer.step()
    assert (net.head.prototypes != before).any()


def test_one_output_for_all_is_seen_in_the_entropy():
    net = network().eval()
    net.teacher[1].prototypes.data[:] = 1.0  # all outputs alike: a flat distribution
    assert net(*views())["teacher_entropy"].item() == pytest.approx(1.0)
    net.center[:] = 50.0
    net.center[3] = -50.0
    assert net(*views())["teacher_entropy"] < 1e-3


def test_training_tells_images_apart():
    """Two kinds of images: after a few steps a view foretells its own kind, not the other."""
    net = network(n_prototypes=128, hidden=64, bottleneck=64)
    kinds = torch.tensor([[1.5, -1.5], [-1.5, 1.5]])[:, :, None, None]
    pictures = kinds.repeat(4, 1, 1, 1) + 0.5 * drawn(8, 2, 20, 20, seed=6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-4)
    for step in range(40):
        wide, narrow = multi_crop(pictures, torch.arange(8) + 8 * step, seed=0, settings=CROPS)
        out = net(wide, narrow, teacher_temperature=0.04)
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        net.follow(0.96)
    assert out["teacher_entropy"] > 0.14  # of two prototypes and more: log 2 / log 128
    net.eval()
    own = {"teacher_temperature": 0.04}
    matched = net(wide, narrow, **own)["loss"]
    crossed = net(torch.stack([wide[0], wide[1].roll(1, 0)]), narrow.roll(1, 1), **own)["loss"]
    assert matched < 0.8 * crossed


def test_channels_may_be_dropped_for_the_student_alone():
    net = network(ChannelViT)
    tokens = []
    net.encoder.vit.norm.register_forward_hook(lambda m, x, y: tokens.append(y.shape[1]))
    net.teacher[0].vit.norm.register_forward_hook(lambda m, x, y: tokens.append(y.shape[1]))
    kept = sample_channels(torch.arange(3), 2, step=0, seed=0)[:, :1]
    loss = net(*views(3), kept=kept)["loss"]
    assert tokens == [1 + 16, 1 + 4, 1 + 32]
    loss.backward()
    one = net(*[v[:, :, :1] for v in views(3)], channels=["b"])["loss"]
    assert torch.isfinite(one)


# -- views ----------------------------------------------------------------------------------------

STILL = CropSettings(rotate=False, intensity=0.0, noise=0.0)


def crops(x, key, settings=STILL, n_views=2, size=16, scale=(1.0, 1.0)):
    return random_crops(
        x, key, n_views=n_views, size=size, scale=scale, seed=0, purpose="t", settings=settings
    )


def coordinates(n, h, w) -> Tensor:
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    return torch.stack([y, x]).float().expand(n, -1, -1, -1).contiguous()


def test_the_whole_image_unchanged_is_the_image():
    x = drawn(3, 2, 16, 16)
    out = crops(x, torch.arange(3))
    torch.testing.assert_close(out, x.expand(2, -1, -1, -1, -1), rtol=1e-4, atol=1e-4)


def test_a_views_area_is_its_share_of_the_image():
    x = coordinates(400, 32, 40)
    out = crops(x, torch.arange(400), scale=(0.2, 0.5), n_views=1)[0]
    span = (out[..., -1, -1] - out[..., 0, 0]) * 16 / 15  # from pixel centre to pixel centre
    torch.testing.assert_close(span[:, 0], span[:, 1], rtol=1e-3, atol=1e-3)  # square
    share = (span[:, 0] / 32) ** 2
    assert 0.2 - 1e-3 < share.min() < 0.23
    assert 0.47 < share.max() < 0.5 + 1e-3
    assert out[:, 0].min() >= 0 and out[:, 0].max() <= 31  # inside
    middle = out.mean(dim=(2, 3))
    assert middle[:, 1].std() > 4  # anywhere


def test_turns_and_mirrors_are_even():
    x = coordinates(600, 33, 33) - 16
    how = CropSettings(intensity=0.0, noise=0.0)
    out = crops(x, torch.arange(600), how, n_views=1, size=9, scale=(0.1, 0.1))[0]
    right = (out[:, :, 4, 8] - out[:, :, 4, 0]) / 8
    down = (out[:, :, 8, 4] - out[:, :, 0, 4]) / 8
    torch.testing.assert_close((right * down).sum(1), torch.zeros(600), atol=1e-3, rtol=0)
    turned = torch.atan2(right[:, 0], right[:, 1]) / (2 * math.pi) + 0.5
    assert (turned.histc(6, 0, 1) - 100).abs().max() < 40
    mirrored = (right[:, 1] * down[:, 0] - right[:, 0] * down[:, 1]) < 0
    assert 0.4 < mirrored.float().mean() < 0.6


def test_each_channel_has_its_own_intensity():
    how = CropSettings(rotate=False, intensity=0.2, noise=0.0)
    out = crops(torch.ones(200, 3, 8, 8), torch.arange(200), how, size=8)
    assert (out - out[..., :1, :1]).abs().max() < 1e-5  # the same everywhere in a channel
    level = out[..., 0, 0]
    assert level.min() > 0.6 and level.max() < 1.4
    assert abs(torch.corrcoef(level.flatten(0, 1).T)[0, 1]) < 0.2
    assert (level[0] - level[1]).abs().mean() > 0.05  # another in each view


def test_noise_has_at_most_its_level():
    how = CropSettings(rotate=False, intensity=0.0, noise=0.3)
    out = crops(torch.zeros(100, 2, 16, 16), torch.arange(100), how)
    level = out.flatten(2).std(dim=2)
    assert level.max() < 0.33
    assert level.min() < 0.03
    assert 0.12 < level.mean() < 0.18


def test_views_do_not_hang_on_the_batch():
    x, key = drawn(4, 2, 20, 20), torch.tensor([9, 4, 2, 7])
    wide, narrow = multi_crop(x, key, seed=3, settings=CROPS)
    w, n = multi_crop(x[[2, 0]], key[[2, 0]], seed=3, settings=CROPS)
    torch.testing.assert_close(w, wide[:, [2, 0]])
    torch.testing.assert_close(n, narrow[:, [2, 0]])
    other, _ = multi_crop(x, key, seed=4, settings=CROPS)
    assert not torch.allclose(other, wide)
    assert not torch.allclose(wide[0], wide[1])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"n_global": 1, "n_local": 0}, "two views in all"),
        ({"local_scale": (0.5, 0.2)}, "local_scale"),
        ({"intensity": 1.0}, "intensity=1.0"),
    ],
)
def test_bad_settings_are_named(changes, text):
    with pytest.raises(ValueError, match=text):
        CropSettings(**changes)
