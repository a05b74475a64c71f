"""Losses of hidden tokens, patches, statistics of inputs, augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nn_parts import KEY, SIZES, SPECS, cells, network, poke, present
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

from cellfuse.nn import (
    InputSpec,
    JointMaskedAutoencoder,
    center_crop,
    masked_mean_squared_error,
    masked_nb_loss,
    masked_squared_error,
    nb_log_prob,
    patchify,
    random_affine,
    sincos_positions,
    unpatchify,
)

# -- losses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean", [1e-6, 0.01, 1.0, 30.0, 5000.0])
@pytest.mark.parametrize("dispersion", [0.01, 1.0, 50.0, 2000.0, 1e6, 1e9])
def test_the_negative_binomial_is_that_of_scipy(mean, dispersion):
    counts = np.array([0, 1, 2, 7, 40, 900, 6000])
    # scipy loses its digits at large dispersions; there the distribution is the Poisson one.
    if dispersion < 1e6:
        expected = stats.nbinom.logpmf(counts, dispersion, dispersion / (dispersion + mean))
    else:
        excess = ((counts - mean) ** 2 - counts) / (2 * dispersion)
        expected = stats.poisson.logpmf(counts, mean) + excess
        counts, expected = counts[:5], expected[:5]
    found = nb_log_prob(
        torch.tensor(counts, dtype=torch.float32),
        torch.tensor(mean).log(),
        torch.tensor(dispersion).log(),
    )
    np.testing.assert_allclose(found.numpy(), expected, rtol=5e-4, atol=2e-4)


def test_the_negative_binomial_has_the_gradient_of_its_differences():
    counts = torch.tensor([0.0, 3.0, 80.0], dtype=torch.float64)
    for log_dispersion in (-2.0, 0.5, 4.0, 9.0, 15.0):
        inputs = (
            torch.tensor([0.1, 1.0, 4.0], dtype=torch.float64, requires_grad=True),
            torch.full((3,), log_dispersion, dtype=torch.float64, requires_grad=True),
        )
        assert torch.autograd.gradcheck(lambda m, d: nb_log_prob(counts, m, d), inputs)


def test_the_masked_nb_loss_sums_hidden_genes_at_the_cells_total():
    counts = torch.tensor([[2.0, 0.0, 6.0]])
    logits = torch.tensor([[0.0, np.log(2.0), 0.0]])  # shares 1/4, 1/2, 1/4 of 8 counts
    mask = torch.tensor([[True, True, False]])
    dispersion = torch.tensor([1.0, 2.0, 4.0])
    found = masked_nb_loss(counts, logits, dispersion.log(), mask)
    expected = -stats.nbinom.logpmf(2, 1, 1 / 3) - stats.nbinom.logpmf(0, 2, 2 / 6)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_cell_without_counts_has_a_finite_loss_and_gradient():
    logits = torch.zeros(1, 3, requires_grad=True)
    loss = masked_nb_loss(torch.zeros(1, 3), logits, torch.zeros(3), torch.ones(1, 3).bool())
    loss.sum().backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert logits.grad.isfinite().all()


def test_the_squared_error_sums_hidden_features():
    target = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    prediction = torch.tensor([[2.0, 5.0, 9.0], [1.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False], [False, False, True]])
    assert masked_squared_error(target, prediction, mask).tolist() == [10, 1]


def test_the_mean_squared_error_is_over_hidden_tokens():
    target = torch.zeros(1, 3, 2)
    prediction = torch.tensor([[[1.0, 3.0], [2.0, 2.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert masked_mean_squared_error(target, prediction, mask).tolist() == [4.5]  # (5 + 4) / 2


@pytest.mark.parametrize("kind", list(SPECS))
def test_seen_tokens_do_not_count_in_the_loss(kind):
    module = network(kind)
    cell = module.cell(kind)
    target, prediction, mask = module.reconstruct({kind: cells(SPECS[kind])}, KEY, present(kind))[
        kind
    ]
    before = cell.loss(target, prediction, mask)
    # A logit enters every gene's share, so counts are poked in what remains of their loss.
    if kind == "counts":
        prediction = prediction.detach().requires_grad_()
        share = prediction.log_softmax(dim=1)
        assert torch.isfinite(before).all()
        log_mean = share + target.sum(dim=1, keepdim=True).log()
        terms = nb_log_prob(target, log_mean, cell.log_dispersion)
        expected = -torch.where(mask, terms, torch.zeros(())).sum(dim=1)
        torch.testing.assert_close(before, expected)
        return
    assert torch.equal(cell.loss(target, poke(prediction, ~mask, 9.0), mask), before)
    assert (cell.loss(target, poke(prediction, mask, 9.0), mask) != before).all()


# -- patches, statistics, augmentation ------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 8), (5, 24, 16)])
def test_unpatchify_is_the_inverse_of_patchify(shape):
    images = torch.randn(4, *shape)
    tokens = patchify(images, 8)
    assert tokens.shape == (4, shape[1] * shape[2] // 64, shape[0] * 64)
    assert torch.equal(unpatchify(tokens, 8, shape), images)


def test_patches_run_row_by_row():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert patchify(image, 2)[0, 1].tolist() == [2, 3, 6, 7]
    assert patchify(image, 2)[0, 2].tolist() == [8, 9, 12, 13]


@pytest.mark.parametrize("grid", [(7,), (3, 5)])
@pytest.mark.parametrize("width", [16, 18])
def test_every_place_of_a_grid_has_its_own_position(grid, width):
    positions = sincos_positions(grid, width)
    assert positions.shape == (np.prod(grid), width)
    distances = torch.cdist(positions, positions) + torch.eye(len(positions))
    assert distances.min() > 1e-2


@pytest.mark.parametrize("kind", ["pixels", "tokens", "numbers"])
def test_inputs_are_standardised_and_restored(kind):
    spec = SPECS[kind]
    cell = network(kind).cell(kind)
    n = len(cell.mean)
    cell.set_statistics(torch.linspace(-3, 5, n), torch.linspace(0.5, 2, n))
    x = cells(spec)
    prepared = cell.prepare(x, KEY, seed=0, augment=False)
    assert prepared.shape[:2] == (6, cell.n_tokens)
    torch.testing.assert_close(cell.rebuilt(prepared, prepared), x.flatten(0, 1))
    axis = {"pixels": 1, "tokens": 2, "numbers": 1}[kind]
    shape = [1] * (x.ndim - 1)
    shape[axis] = n
    scaled = (x.flatten(0, 1) - cell.mean.view(shape)) / cell.sd.view(shape)
    if kind == "pixels":
        scaled = patchify(scaled, 8)
    torch.testing.assert_close(prepared, scaled)


def test_counts_are_restored_as_shares_of_the_cells_total():
    cell = network("counts").cell("counts")
    counts = cells(SPECS["counts"]).flatten(0, 1)
    restored = cell.rebuilt(counts, torch.randn_like(counts))
    torch.testing.assert_close(restored.sum(dim=1), counts.sum(dim=1))


def test_a_constant_feature_is_not_scaled():
    cell = network("numbers").cell("numbers")
    cell.set_statistics(torch.ones(12), torch.zeros(12))
    prepared = cell.prepare(torch.ones(1, 1, 12), KEY[:1], seed=0, augment=False)
    assert (prepared == 0).all()


def test_instance_normalisation_standardises_each_image():
    spec = InputSpec("pixels", (2, 16, 16), normalize="instance")
    module = JointMaskedAutoencoder({"image": spec}, SIZES, weights={"image": 1.0})
    prepared = module.cell("image").prepare(cells(spec) * 7 + 30, KEY, seed=0, augment=False)
    images = unpatchify(prepared, 8, (2, 16, 16))
    torch.testing.assert_close(images.mean(dim=(2, 3)), torch.zeros(6, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(images.std(dim=(2, 3)), torch.ones(6, 2), rtol=0, atol=1e-4)


def test_the_centre_is_cropped():
    image = torch.arange(36.0).view(1, 1, 6, 6)
    assert center_crop(image, 2).flatten().tolist() == [14, 15, 20, 21]


def blob(side: int = 32, scale: float = 4.0) -> Tensor:
    """A round spot in the middle of a document of two images of two channels."""
    axis = torch.arange(side) - (side - 1) / 2
    spot = torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * scale**2))
    return torch.stack([spot, 3 * spot]).expand(1, 2, 2, side, side)


def test_a_round_spot_in_the_middle_stays_under_flips_and_turns():
    images = blob()
    axis = torch.arange(32) - 15.5
    inside = axis[:, None] ** 2 + axis[None] ** 2 < 15.5**2  # corners turn out of the image
    for key in range(5):
        turned = random_affine(images, torch.tensor([key]), seed=0, crop=32, translation=0.0)
        torch.testing.assert_close(turned * inside, images * inside, rtol=0, atol=0.05)


def test_pixels_keep_their_size_under_a_crop():
    images = blob()
    turned = random_affine(images, torch.tensor([3]), seed=0, crop=16, translation=0.0)
    torch.testing.assert_close(turned, center_crop(images, 16), rtol=0, atol=0.05)
    wide = F.pad(images, (8, 8))  # 32 x 48: the sides differ, the pixels do not
    turned = random_affine(wide, torch.tensor([3]), seed=0, crop=16, translation=0.0)
    torch.testing.assert_close(turned, center_crop(images, 16), rtol=0, atol=0.05)


def test_augmentation_without_a_transformation_is_the_centre_crop(monkeypatch):
    # Angle 0, no flips, no shift: u = (0, <.5, <.5, .5, .5).
    still = torch.tensor([0.0, 0.2, 0.2, 0.5, 0.5])
    monkeypatch.setattr(
        "cellfuse.nn.augment.uniform", lambda key, shape, **_: still.expand(len(key), *shape)
    )
    images = torch.rand(3, 2, 4, 24, 24)
    torch.testing.assert_close(random_affine(images, KEY, seed=0, crop=16), center_crop(images, 16))
    torch.testing.assert_close(random_affine(images, KEY, seed=0, crop=24), images)


def test_the_spot_is_shifted_by_no_more_than_is_allowed():
    axis = torch.arange(32) - 15.5
    shifts = []
    for key in range(40):
        image = random_affine(blob(), torch.tensor([key]), seed=0, crop=32)[0, 0, 0]
        weight = image / image.sum()
        shifts.append([(weight.sum(0) * axis).sum().item(), (weight.sum(1) * axis).sum().item()])
    # 5% of 32 pixels is 1.6 along each axis of the image, which is turned before it is seen.
    largest = np.linalg.norm(shifts, axis=1).max()
    assert 1.2 < largest < 1.6 * 2**0.5 + 0.1


def test_the_mean_intensity_stays():
    images = blob()
    for key in range(5):
        turned = random_affine(images, torch.tensor([key]), seed=0, crop=32)
        torch.testing.assert_close(
            turned.mean(dim=(3, 4)), images.mean(dim=(3, 4)), rtol=0.02, atol=0
        )


def test_cells_documents_and_seeds_are_turned_differently_channels_alike():
    images = torch.rand(1, 1, 1, 32, 32).expand(2, 2, 3, 32, 32)
    turned = random_affine(images, torch.tensor([0, 1]), seed=0, crop=32)
    assert torch.equal(turned[:, :, 0], turned[:, :, 2])
    flat = turned[:, :, 0].reshape(4, -1)
    assert (torch.cdist(flat, flat) + 10 * torch.eye(4)).min() > 1
    again = random_affine(images, torch.tensor([0, 1]), seed=0, crop=32)
    other = random_affine(images, torch.tensor([0, 1]), seed=1, crop=32)
    assert torch.equal(again, turned)
    assert not torch.allclose(other, turned, atol=0.1)


def test_only_training_images_are_augmented():
    module = network("pixels", "counts")
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    here = present("pixels", "counts")
    plain = module.reconstruct(x, KEY, here)["pixels"][0]
    assert torch.equal(unpatchify(plain, 8, (2, 16, 16)), x["pixels"].flatten(0, 1))
    turned = module.reconstruct(x, KEY, here, augment=True)["pixels"][0]
    assert not torch.allclose(turned, plain, atol=0.1)
