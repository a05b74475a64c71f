"""Patches that images consist of: found, counted in every turn, read beside the statistics."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from test_count_factors import side_by_side
from torch.nn import functional

import cellfuse as cf
from cellfuse.nn import PatchDictionary, PlainFeatures, image_statistics
from cellfuse.nn import patch_dictionary as module


def textured(kind: np.ndarray, *, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Images ``(n, 2, side, side)`` of bytes, twelve spots in either channel.

    Of kind 1 every spot of one channel has one of the other two pixels away, in any direction; of
    kind 0 they lie anywhere. Channel by channel, and pixel by pixel, the kinds are alike.
    """
    rng = np.random.default_rng(seed)
    images = np.abs(rng.normal(20, 8, (len(kind), 2, side, side)))
    ways = np.array([(0, 2), (2, 0), (0, -2), (-2, 0)])
    for image, which in zip(images, kind, strict=True):
        for _ in range(12):
            first, other = rng.integers(2, side - 2, (2, 2))
            if which:
                other = first + ways[rng.integers(4)]
            image[0, *first] += 120
            image[1, *other] += 120
    return torch.as_tensor(images.clip(0, 255).astype("u1"))


def learnt(images: torch.Tensor, n_patches: int = 8) -> PatchDictionary:
    dictionary = PatchDictionary(images.shape[1], min(images.shape[2:]), n_patches)
    dictionary.fit(images)
    return dictionary


def told_apart(features: torch.Tensor, kind: np.ndarray) -> float:
    """Share of the second half that a linear map of the first half puts on the right side."""
    x = ((features - features.mean(dim=0)) / features.std(dim=0).clamp_min(1e-6)).numpy()
    half = len(kind) // 2
    ridge = x[:half].T @ x[:half] + 10 * np.eye(x.shape[1])
    side = x[half:] @ np.linalg.solve(ridge, x[:half].T @ (2.0 * kind[:half] - 1))
    return float(((side > 0) == (kind[half:] == 1)).mean())


def test_what_lies_beside_what_is_told_by_patches_and_by_no_statistic():
    kind = np.arange(600) % 2
    images = textured(kind)
    found = learnt(textured(np.arange(300) % 2, seed=1), n_patches=24)(images)
    assert told_apart(found, kind) > 0.9
    assert told_apart(image_statistics(images), kind) < 0.65
    assert told_apart(found, np.random.default_rng(1).permutation(kind)) < 0.6


def test_patches_that_images_are_made_of_are_found_in_whatever_turn():
    rng = np.random.default_rng(0)
    true = functional.normalize(torch.as_tensor(rng.normal(size=(3, 72)), dtype=torch.float32))
    turns = module._turns(true.reshape(3, 2, 6, 6)).reshape(24, 72)
    amount = torch.as_tensor(rng.normal(0, 5, size=(4_000, 1)), dtype=torch.float32)
    x = amount * turns[rng.integers(24, size=4_000)]
    x = x + torch.as_tensor(rng.normal(0, 0.3, size=x.shape), dtype=torch.float32)
    begun = torch.as_tensor(rng.normal(size=(6, 2, 6, 6)), dtype=torch.float32)
    atoms = module._learnt(x, begun).reshape(6, -1)
    assert (atoms.norm(dim=1) - 1).abs().max() < 1e-4
    assert (turns @ atoms.T).abs().reshape(8, 3, 6).amax(dim=(0, 2)).min() > 0.95
    # From where it began nothing of that was to be seen.
    begun = functional.normalize(begun.flatten(1), dim=1)
    assert (turns @ begun.T).abs().max() < 0.6


def test_an_image_turned_or_mirrored_has_the_same_numbers():
    images = textured(np.arange(20) % 2)
    dictionary = learnt(images)
    found = dictionary(images)
    for turned in (images.rot90(1, (2, 3)), images.rot90(2, (2, 3)), images.flip(3), images.mT):
        torch.testing.assert_close(dictionary(turned), found, atol=1e-4, rtol=1e-4)
    assert (dictionary(textured(np.arange(20) % 2, seed=3)) - found).abs().max() > 0.01


def test_a_number_is_what_its_definition_says():
    """Place by place and turn by turn, with patches cut out and whitened by hand."""
    images = textured(np.array([0, 1]))
    dictionary = learnt(images, n_patches=2)
    found = dictionary(images)
    assert found.shape == (2, 4) == (2, dictionary.n_features)
    for scale, first in ((1, 0), (2, 2)):
        cells = dictionary.dictionaries[scale - 1]
        x = images.float() if scale == 1 else functional.avg_pool2d(images.float(), 2)
        assert cells.filters.shape == (16, 2, 6, 6)
        for patch in range(2):
            beyond = []
            for turn in range(8):
                f, offset = cells.filters[8 * patch + turn], cells.offset[8 * patch + turn]
                places = range(0, x.shape[2] - 5, 2)
                at = [
                    (x[:, :, r : r + 6, c : c + 6] * f).sum(dim=(1, 2, 3)) + offset
                    for r in places
                    for c in places
                ]
                beyond.append((torch.stack(at).abs() - 1.5).clamp_min(0))
            wanted = torch.stack(beyond).mean(dim=(0, 1)).sqrt()
            torch.testing.assert_close(found[:, first + patch], wanted, atol=1e-4, rtol=1e-3)


def test_filters_are_one_patch_in_eight_turns_of_unit_response():
    # Blurred, so that patches are far from white.
    images = functional.avg_pool2d(textured(np.arange(400) % 2).float(), 5, stride=1)
    cells = learnt(images).dictionaries[0]
    orbit = cells.filters.reshape(8, 8, 2, 6, 6)
    turns = module._turns(orbit[:, 0]).transpose(0, 1)
    torch.testing.assert_close(orbit, turns, atol=1e-4 * float(orbit.abs().max()), rtol=0.05)
    response = functional.conv2d(images, cells.filters, cells.offset, stride=2)
    assert response.mean(dim=(0, 2, 3)).abs().max() < 0.2
    # Variance one, but for the part that the ridge takes: a tenth of a pixel's variance.
    unit = images.std(dim=(0, 2, 3)).reshape(2, 1, 1)
    ridge = 0.1 * (cells.filters * unit).square().sum(dim=(1, 2, 3))
    total = response.var(dim=(0, 2, 3)) + ridge
    torch.testing.assert_close(total, torch.ones(64), atol=0.2, rtol=0)


def test_numbers_hang_on_neither_type_nor_block_nor_other_images(monkeypatch):
    images = textured(np.arange(30) % 2)
    dictionary = learnt(images)
    found = dictionary(images)
    torch.testing.assert_close(dictionary(images.float()), found)
    torch.testing.assert_close(dictionary(images[7:9]), found[7:9], atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(module, "BLOCK", 1)
    torch.testing.assert_close(dictionary(images), found, atol=1e-5, rtol=1e-4)
    assert dictionary(images[:0]).shape == (0, found.shape[1])
    again = learnt(images)
    torch.testing.assert_close(again(images), found, atol=0, rtol=0)


@pytest.mark.parametrize("kind", ["black", "one", "a channel", "tiny", "narrow"])
def test_images_that_say_nothing_give_numbers_that_are_finite(kind):
    images = textured(np.arange(40) % 2)
    if kind == "black":
        images = torch.zeros_like(images)
    elif kind == "one":
        images = images[:1]
    elif kind == "a channel":
        images[:, 1] = 7
    elif kind == "tiny":
        images = images[..., :8, :8]
    else:
        images = images[..., :9]
    found = learnt(images)(images)
    assert torch.isfinite(found).all() and found.shape[1] == (
        8 if kind in ("tiny", "narrow") else 16
    )
    if kind == "black":
        assert not found.any()
    else:
        assert found.any()


def test_a_large_image_is_looked_at_in_as_many_places():
    images = textured(np.arange(6) % 2, side=200)
    dictionary = learnt(images)
    shapes = []
    real = functional.conv2d

    def noted(*args, **how):
        shapes.append(real(*args, **how).shape[2])
        return real(*args, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.functional, "conv2d", noted)
        dictionary(images)
    assert max(shapes) <= 40


def test_plain_features_end_with_the_patches_of_pixels_and_of_nothing_else():
    images = textured(np.arange(100) % 2)
    plain = PlainFeatures("pixels", (2, 32, 32))
    both = PlainFeatures("pixels", (2, 32, 32), n_patches=8, n_factors=5)
    both.fit(images)
    n = plain.n_features
    assert both.n_second == 16 and both.n_features == n + 16 == both(images).shape[1]
    assert torch.equal(both(images)[:, :n], image_statistics(images))
    torch.testing.assert_close(both(images)[:, n:], learnt(images)(images))
    assert PlainFeatures("counts", (100,), n_patches=8).n_second == 0
    small = PlainFeatures("pixels", (2, 6, 6), n_patches=8)  # too small for any
    assert small.n_second == 0 and not small.looks_first
    small.fit(images[..., :6, :6])
    assert torch.equal(small(images[..., :6, :6]), image_statistics(images[..., :6, :6]))
    centre = PlainFeatures("pixels", (2, 32, 32), crop=20, n_patches=8)
    centre.fit(images)
    inner = images[..., 6:26, 6:26]
    torch.testing.assert_close(centre(images)[:, n:], learnt(inner)(inner))
    assert both.looks_first and not plain.looks_first


def screen(seed: int = 0, *, n_contexts: int = 40) -> md.MuData:
    """Images of one kind or the other by guide, and an embedding that knows which."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(n_contexts), 10)
    images = textured(code % 2, seed=seed).numpy()
    flat = rng.normal(size=(2, 12))[code % 2] + rng.normal(size=(len(code), 12))
    obs = pd.DataFrame(
        {"guide": [f"g{k}" for k in code]}, index=[f"c{i}" for i in range(len(code))]
    )
    return md.MuData(
        {
            "image": ad.AnnData(obs=obs.set_axis("i-" + obs.index), obsm={"crops": images}),
            "rna": ad.AnnData(obs=obs, obsm={"flat": flat.astype("f4")}),
        }
    )


def joined(mdata: md.MuData, image_rep: str = "crops", **arguments) -> cf.SharedAxes:
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep=image_rep, rna_rep="flat")
    held = arguments.pop("validation_contexts", None)
    model = cf.SharedAxes(mdata, n_comps=10, n_draws=20, **arguments)
    model.train(validation_contexts=held)
    return model


def test_both_readings_of_images_stand_side_by_side():
    mdata = screen()
    model = joined(mdata, n_patches=8)
    patches = model.module.features["image"].patches
    mdata["image"].obsm["patches"] = patches(torch.as_tensor(mdata["image"].obsm["crops"])).numpy()
    by_patches, plain = joined(mdata, "patches"), joined(mdata, n_patches=0)
    assert plain.module.features["image"].patches is None
    z = side_by_side(model, plain, by_patches)
    assert z["rna"].shape[1] == 30  # ten of each modality, and ten of patches
    pd.testing.assert_frame_equal(model.axes, plain.axes, atol=1e-5)


def test_guides_that_differ_by_texture_alone_are_found_by_patches_alone():
    def found(**how) -> float:
        models = (joined(screen(seed), validation_contexts=0.3, **how) for seed in range(2))
        return np.mean([m.history["validation_foscttm"].iloc[-1, 0] for m in models])

    # Half of the others are of the same kind, and as near as the true one: .25 at best.
    assert found() < 0.3
    assert found(n_patches=0) > 0.35 < found(permute_contexts=True)


def test_a_dictionary_is_learnt_on_training_cells_and_kept_with_the_model(tmp_path):
    mdata = screen()
    model = joined(mdata, validation_contexts=["g0", "g1"])
    filters = model.module.features["image"].patches.dictionaries[0].filters.clone()
    model.save(tmp_path / "model")
    loaded = cf.SharedAxes.load(tmp_path / "model", adata=mdata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(modality="image"),
        model.get_latent_representation(modality="image"),
    )
    held = mdata["image"].obs["guide"].isin(["g0", "g1"]).to_numpy()
    mdata["image"].obsm["crops"][held] = 255 - mdata["image"].obsm["crops"][held]
    again = joined(mdata, validation_contexts=["g0", "g1"])
    assert torch.equal(again.module.features["image"].patches.dictionaries[0].filters, filters)
    cf.SharedAxes.setup_mudata(
        mdata, context_keys="guide", image_rep="crops", modalities={"image": "image"}
    )
    assert cf.SharedAxes(mdata).module.features["image"].patches is None


@pytest.mark.parametrize("wrong", [-1, 2.5, True, "many"])
def test_a_number_of_patches_is_a_whole_number(wrong):
    with pytest.raises((TypeError, ValueError), match="n_patches"):
        joined(screen(n_contexts=4), n_patches=wrong)


def test_petri_reads_the_same_images_the_same_way():
    mdata = screen()
    closed = joined(mdata).module.features["image"].patches
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops", rna_rep="flat")
    model = cf.PETRI(mdata, set_size=2, width=16, n_heads=2, n_latents=1)
    model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    features = model.module.joint
    assert features.n_second == {"image": 48, "rna": 0}
    for ours, theirs in zip(
        features.plain["image"].patches.buffers(), closed.buffers(), strict=True
    ):
        torch.testing.assert_close(ours, theirs)
