"""The simulated screen against its own truth."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from cellfuse.datasets import _counts, _design, _render, simulated_screen

SMALL = {
    "n_genes": 60,
    "n_targets": 8,
    "guides_per_target": 2,
    "n_control_guides": 3,
    "cells_per_guide": 6,
    "image_size": 16,
}


@pytest.fixture(scope="module")
def screen():
    return simulated_screen(**SMALL, seed=3)


def crops(mdata):
    return mdata["image"].obsm["crops"]


# -- layout ---------------------------------------------------------------------------------------


def test_images_are_uint8_with_named_channels(screen):
    image = screen["image"]
    assert image.X is None
    assert image.shape == (len(crops(screen)), 0)
    assert crops(screen).dtype == np.uint8
    assert crops(screen).shape[1:] == (4, 16, 16)
    assert list(image.uns["channels"]) == ["DNA", "actin", "droplets", "mitochondria"]


def test_counts_are_whole_numbers_in_csr(screen):
    counts = screen["rna"].X
    assert sparse.issparse(counts) and counts.format == "csr"
    assert counts.dtype == np.float32
    assert counts.data.min() >= 1
    assert np.array_equal(counts.data, np.round(counts.data))
    assert screen["rna"].var_names[0] == "GENE0001"


def test_obs_names_are_disjoint(screen):
    assert screen["image"].obs_names.intersection(screen["rna"].obs_names).empty


@pytest.mark.parametrize(("modality", "nuisance"), [("image", "well"), ("rna", "batch")])
def test_obs_columns_are_categorical(screen, modality, nuisance):
    obs = screen[modality].obs
    assert list(obs) == ["guide", "gene", "complex", "background", nuisance]
    assert all(isinstance(dtype, pd.CategoricalDtype) for dtype in obs.dtypes)


def test_labels_of_a_cell_agree_with_the_guide_table(screen):
    guides = screen.uns["truth"]["guides"]
    for modality in screen.mod.values():
        of_cell = guides.loc[modality.obs["guide"].astype(str)]
        assert (of_cell["gene"].to_numpy() == modality.obs["gene"].to_numpy()).all()
        assert (of_cell["complex"].to_numpy() == modality.obs["complex"].to_numpy()).all()


def test_every_guide_has_a_cell_in_both_modalities():
    mdata = simulated_screen(**{**SMALL, "cells_per_guide": 0.3}, seed=0)
    for modality in mdata.mod.values():
        assert modality.obs["guide"].value_counts().min() >= 1


def test_a_rare_guide_is_rare_in_both_modalities():
    mdata = simulated_screen(**{**SMALL, "n_targets": 30, "cells_per_guide": 50}, seed=0)
    image, rna = (mdata[m].obs["guide"].value_counts(sort=False) for m in ("image", "rna"))
    assert np.corrcoef(image, rna)[0, 1] > 0.8
    assert abs(image.mean() - 50) < 10


def test_written_and_read_again_it_is_the_same(screen, tmp_path):
    screen.write(tmp_path / "screen.h5mu")
    again = mudata.read_h5mu(tmp_path / "screen.h5mu")
    assert np.array_equal(crops(again), crops(screen))
    assert (again["rna"].X != screen["rna"].X).nnz == 0
    truth, before = again.uns["truth"], screen.uns["truth"]
    assert truth["params"]["shared"] == 0.7
    for name in ("targets", "guides"):
        pd.testing.assert_frame_equal(truth[name], before[name])
    pd.testing.assert_frame_equal(
        truth["guide_effects"]["rna"]["background-1"],
        before["guide_effects"]["rna"]["background-1"],
    )
    assert again.uns["edges"]["source"].tolist() == screen.uns["edges"]["source"].tolist()


# -- seeds ----------------------------------------------------------------------------------------


def test_same_seed_same_data_to_the_bit(screen):
    again = simulated_screen(**SMALL, seed=3)
    assert np.array_equal(crops(again), crops(screen))
    assert (again["rna"].X != screen["rna"].X).nnz == 0
    assert again["rna"].obs.equals(screen["rna"].obs)


def test_another_seed_gives_other_data(screen):
    other = simulated_screen(**SMALL, seed=4)
    n = min(len(crops(other)), len(crops(screen)))
    assert not np.array_equal(crops(other)[:n], crops(screen)[:n])


def test_more_channels_leave_the_first_ones_as_they_are(screen):
    more = simulated_screen(**SMALL, n_channels=6, seed=3)
    assert crops(more).shape[1] == 6
    assert np.array_equal(crops(more)[:, :4], crops(screen))
    assert crops(more)[:, 4:].std(axis=(0, 2, 3)).min() > 1


def test_the_shared_share_leaves_the_cells_as_they_are(screen):
    other = simulated_screen(**SMALL, shared=0.0, seed=3)
    assert other["image"].obs.equals(screen["image"].obs)
    assert not np.array_equal(crops(other), crops(screen))


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_images_do_not_depend_on_the_chunk_size(chunk_size):
    rng = np.random.default_rng(0)
    features = _render.draw_features(rng.normal(size=(20, 5)), rng.uniform(0, 6, 20), seed=1)
    sizes = {"n_wells": 3, "image_size": 16, "n_channels": 6, "seed": 1}
    well = np.arange(20) % 3
    whole = _render.render(features, well, **sizes, chunk_size=20)
    assert np.array_equal(_render.render(features, well, **sizes, chunk_size=chunk_size), whole)


@pytest.mark.parametrize("chunk_size", [1, 7])
def test_counts_do_not_depend_on_the_chunk_size(chunk_size):
    rng = np.random.default_rng(0)
    cells = (rng.normal(size=(20, 5)), rng.uniform(0, 6, 20), np.arange(20) % 2)
    sizes = {"n_genes": 31, "n_batches": 2, "seed": 1}
    whole, _ = _counts.draw_counts(*cells, **sizes, chunk_size=20)
    parts, _ = _counts.draw_counts(*cells, **sizes, chunk_size=chunk_size)
    assert (whole != parts).nnz == 0


# -- truth ----------------------------------------------------------------------------------------


def test_edges_are_all_pairs_of_a_complex_with_an_effect(screen):
    targets = screen.uns["truth"]["targets"]
    expected = {
        (a, b)
        for a in targets.index
        for b in targets.index
        if a < b
        and targets["complex"][a] == targets["complex"][b]
        and targets["has_effect"][a]
        and targets["has_effect"][b]
    }
    edges = screen.uns["edges"]
    assert len(edges) == len(expected) > 0
    assert set(zip(edges["source"], edges["target"], strict=True)) == expected
    assert (edges["score"] == 1.0).all()


def test_a_target_left_alone_belongs_to_no_complex():
    targets = simulated_screen(**{**SMALL, "n_targets": 9}, seed=0).uns["truth"]["targets"]
    assert targets["complex"].iloc[8] == "none"
    assert targets["complex"].iloc[:8].value_counts().tolist() == [4, 4]


def test_the_asked_share_of_targets_is_silent():
    truth = simulated_screen(**SMALL, no_effect=0.5, seed=0).uns["truth"]
    silent = ~truth["targets"]["has_effect"]
    assert silent.sum() == 4
    effects = truth["target_effects"]["image"]["background-1"]
    assert (effects[silent] == 0).all(axis=None)
    assert (effects[~silent] != 0).all(axis=None)


def test_non_targeting_guides_do_nothing(screen):
    truth = screen.uns["truth"]
    controls = (truth["guides"]["gene"] == "non-targeting").to_numpy()
    assert controls.sum() == 3
    for modality in ("image", "rna"):
        effects = truth["guide_effects"][modality]["background-1"].to_numpy()
        assert (effects[controls] == 0).all()
        assert (effects[~controls] != 0).all()


def effects(shared, **kwargs):
    design = _design.draw_design(
        n_targets=2000,
        guides_per_target=1,
        n_control_guides=1,
        complex_size=2,
        no_effect=0.0,
        n_backgrounds=kwargs.get("n_backgrounds", 1),
        seed=5,
    )
    of_target = _design.target_effects(design, n_latent=4, shared=shared, effect_size=1.0, seed=5)
    strength = design.targets["strength"].to_numpy()[:, None]
    return {m: values / strength for m, values in of_target.items()}


@pytest.mark.parametrize("shared", [0.0, 0.4, 1.0])
def test_correlation_of_the_modalities_is_the_shared_share(shared):
    unit = effects(shared)
    a, b = unit["image"].ravel(), unit["rna"].ravel()
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(shared, abs=0.05)
    assert a.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("modality", ["image", "rna"])
def test_targets_of_a_complex_correlate_by_its_share(modality):
    unit = effects(0.3)[modality][0]
    within = np.corrcoef(unit[0::2].ravel(), unit[1::2].ravel())[0, 1]
    between = np.corrcoef(unit[0:-2].ravel(), unit[2:].ravel())[0, 1]
    assert within == pytest.approx(_design.COMPLEX_SHARE, abs=0.05)
    assert between == pytest.approx(0.0, abs=0.05)


def test_effects_of_backgrounds_partly_differ():
    unit = effects(0.3, n_backgrounds=2)["rna"]
    between = np.corrcoef(unit[0].ravel(), unit[1].ravel())[0, 1]
    assert between == pytest.approx(np.sqrt(1 - _design.BACKGROUND_SHARE), abs=0.05)
    assert unit[1].std() == pytest.approx(1.0, abs=0.05)


def test_a_well_has_one_background():
    mdata = simulated_screen(**SMALL, n_backgrounds=2, n_wells=3, seed=0)
    obs = mdata["image"].obs
    assert obs["background"].nunique() == 2
    assert obs["well"].nunique() == 6
    assert (obs.groupby("well", observed=True)["background"].nunique() == 1).all()


# -- what is measured follows the latent ----------------------------------------------------------


def linear_fit(x, y):
    """Correlation of y with its linear prediction on held-out rows."""
    half = len(x) // 2
    x = np.column_stack([x, np.ones(len(x))])
    weights = np.linalg.lstsq(x[:half], y[:half], rcond=None)[0]
    fit = x[half:] @ weights
    return np.array([np.corrcoef(fit[:, k], y[half:, k])[0, 1] for k in range(y.shape[1])])


@pytest.fixture(scope="module")
def wide():
    return simulated_screen(200, n_targets=24, cells_per_guide=20, n_latent=4, seed=0)


def test_counts_carry_the_latent(wide):
    rna = wide["rna"]
    counts = rna.X.toarray()
    logs = np.log1p(counts / counts.sum(axis=1, keepdims=True) * 200)
    assert linear_fit(logs, rna.obsm["latent"]).min() > 0.3


def test_images_carry_the_latent(wide):
    image = wide["image"]
    pixels = crops(wide).astype(float)
    moments = [pixels.mean((2, 3)), pixels.std((2, 3)), (pixels > 64).mean((2, 3))]
    found = linear_fit(np.concatenate(moments, axis=1), image.obsm["latent"])
    assert np.sort(found)[-3:].min() > 0.2


def test_counts_vary_more_than_poisson(wide):
    n = 4000
    latent, phase = np.zeros((n, 1)), np.full(n, np.pi / 2)
    counts, depth = _counts.draw_counts(
        latent, phase, np.zeros(n, dtype=int), n_genes=20, n_batches=1, seed=0
    )
    assert counts.sum(axis=1).mean() == pytest.approx(depth.mean(), rel=0.05)
    scaled = counts.toarray() / depth[:, None]
    mean, variance = scaled.mean(0), scaled.var(0)
    poisson = mean * (1 / depth).mean()
    inverse = mean**2 / (variance - poisson)
    assert 2 < np.median(inverse) < 8


def test_more_droplets_make_a_brighter_droplet_channel():
    n = 200
    features = {k: np.full(n, v, "f4") for k, (v, _) in _render.FEATURES.items()}
    sizes = {"n_wells": 1, "image_size": 24, "n_channels": 4, "seed": 0}
    well = np.zeros(n, dtype=int)
    few = _render.render(features, well, **sizes)
    many = _render.render({**features, "droplet_number": np.full(n, 12, "f4")}, well, **sizes)
    assert many[:, 2].mean() > 1.2 * few[:, 2].mean()
    assert np.array_equal(many[:, 0], few[:, 0])


@pytest.mark.parametrize("image_size", [16, 33, 96])
def test_a_cell_looks_the_same_at_every_image_size(image_size):
    n = 100
    features = {k: np.full(n, v, "f4") for k, (v, _) in _render.FEATURES.items()}
    sizes = {"n_wells": 1, "n_channels": 6, "seed": 0}
    well = np.zeros(n, dtype=int)
    images = _render.render(features, well, image_size=image_size, **sizes)
    large = _render.render(features, well, image_size=64, **sizes)
    assert images.shape == (n, 6, image_size, image_size)
    mean, expected = images.mean((0, 2, 3)), large.mean((0, 2, 3))
    np.testing.assert_allclose(mean, expected, rtol=0.1)


def test_features_stay_within_their_bounds():
    latent = 100 * np.random.default_rng(0).normal(size=(50, 3))
    features = _render.draw_features(latent, np.zeros(50), seed=0)
    for name, (typical, largest) in _render.FEATURES.items():
        low, high = typical * np.exp(-largest), typical * np.exp(largest)
        assert features[name].min() >= low * 0.999
        assert features[name].max() <= high * 1.001


def test_wells_differ_in_stain(wide):
    means = pd.DataFrame(crops(wide).mean((2, 3))).groupby(wide["image"].obs["well"].to_numpy())
    spread = means.mean().std() / means.mean().mean()
    assert spread.min() > 0.05


# -- bad arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value", "text"),
    [
        ("n_genes", 0, "`n_genes` must be at least 1"),
        ("n_targets", 2.5, "`n_targets` must be a whole number"),
        ("n_channels", 7, "`n_channels` must be from 1 to 6"),
        ("image_size", 4, "`image_size` must be from 8"),
        ("shared", 1.2, "`shared` is a share from 0 to 1"),
        ("shared", float("nan"), "`shared` must be a number"),
        ("no_effect", "half", "`no_effect` must be a number"),
        ("effect_size", -1.0, "`effect_size` not below 0"),
        ("cells_per_guide", 0, "`cells_per_guide` must be above 0"),
        ("seed", -1, "`seed` must be from 0"),
        ("n_wells", True, "`n_wells` must be a whole number"),
    ],
)
def test_bad_arguments_are_named(argument, value, text):
    with pytest.raises(ValueError, match=text):
        simulated_screen(**{**SMALL, argument: value})
