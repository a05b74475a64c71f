"""Learnt features join the plain ones where contexts left out are found better with them."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from test_shared_axes import two_sides

import cellfuse as cf
from cellfuse.kernels.alignment import align
from cellfuse.model.base.joint import WEIGHTS, fit_joint_space
from cellfuse.model.phenoseq.closed_form import weight_of
from cellfuse.nn import JointSpace

N_NOISE = 6


def chosen(roles: tuple[str, ...], *, learnt_tell: bool, seed: int = 0) -> JointSpace:
    """Fit on features one half of which are noise: the learnt ones, or the plain ones."""
    mdata = two_sides(n_contexts=100)
    cf.SharedAxes.setup_mudata(
        mdata,
        context_keys="guide",
        image_rep="flat",
        rna_rep="flat",
        modalities={role: role for role in roles},
    )
    contexts = cf.SharedAxes(mdata)._contexts(None, list(roles))
    rng = np.random.default_rng(seed)
    features = {}
    for role in roles:
        telling = mdata[role].obsm["flat"]
        noise = rng.normal(size=telling.shape).astype("f4") * telling.std()
        both = (noise, telling) if learnt_tell else (telling, noise)
        features[role] = np.hstack(both)

    def blocks(role):
        rows = np.arange(len(features[role]))
        return lambda: ((part, features[role][part], None) for part in np.array_split(rows, 3))

    space = JointSpace({role: x.shape[1] for role, x in features.items()}, n_comps=N_NOISE)
    fit_joint_space(
        space,
        {role: blocks(role) for role in roles},
        contexts,
        n_comps=N_NOISE,
        powers=dict.fromkeys(roles, 1.0),
        n_learnt=8,
        n_draws=10,
    )
    return space


@pytest.mark.parametrize("roles", [("image", "rna"), ("rna",)])
def test_what_tells_of_contexts_is_taken_and_noise_is_not(roles):
    assert float(chosen(roles, learnt_tell=True).learnt_weight) in WEIGHTS[1:]
    without = chosen(roles, learnt_tell=False)
    assert float(without.learnt_weight) == 0
    # Left out is left out: no coordinate hangs on them.
    assert not without.cell("rna").joint[8:].any() and without.cell("rna").joint[:8].any()


def small_petri(mdata, **options) -> cf.PETRI:
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    sizes = {"set_size": 1, "width": 16, "n_heads": 2, "n_latents": 1, "image_depth": 1}
    model = cf.PETRI(mdata, **sizes, **options)
    model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    return model


def test_petri_without_what_it_learnt_is_the_closed_form(monkeypatch):
    mdata = cf.datasets.simulated_screen(100, n_targets=12, cells_per_guide=8, seed=0)
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    closed = cf.SharedAxes(mdata)
    closed.train()
    monkeypatch.setattr("cellfuse.model.base.joint.WEIGHTS", (0.0,))
    model = small_petri(mdata)
    assert model.learnt_weight == 0
    for role in ("image", "rna"):
        a, b = (x.get_latent_representation(modality=role) for x in (model, closed))
        scale = np.abs(a @ a.T).max()
        np.testing.assert_allclose(a @ a.T, b @ b.T, atol=1e-3 * scale)


def test_a_model_that_began_at_random_has_chosen_nothing():
    mdata = cf.datasets.simulated_screen(100, n_targets=6, cells_per_guide=6, seed=0)
    with pytest.raises(ValueError, match="begin linear"):
        _ = small_petri(mdata, begin="random").learnt_weight


# -- PhenoSeq: how much of the diffusion's mean is kept --------------------------------------------


def phenoseq(seed: int = 0, **training) -> tuple[md.MuData, cf.PhenoSeq]:
    """Twenty-four treatments whose RNA follows their images linearly."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(24, 6))
    cells = {}
    for name, turn in (("image", np.eye(6)), ("rna", rng.normal(size=(6, 4)))):
        label = np.repeat(np.arange(24), 8)
        x = effect[label] @ turn + 0.5 * rng.normal(size=(len(label), turn.shape[1]))
        obs = pd.DataFrame({"sample": [f"s{i}" for i in label]})
        obs.index = [f"{name}{i}" for i in range(len(label))]
        cells[name] = ad.AnnData(obs=obs, obsm={f"X_{name}": x.astype("f4")})
    mdata = md.MuData(cells)
    cf.PhenoSeq.setup_mudata(mdata, image_rep="X_image", rna_rep="X_rna")
    model = cf.PhenoSeq(mdata, set_size=4, width=16, depth=1, seed=0)
    model.train(2, validation_contexts=0.5, enable_progress_bar=False, **training)
    return mdata, model


@pytest.mark.filterwarnings("ignore")
def test_without_the_learnt_part_a_pair_of_draws_has_ridges_mean():
    mdata, model = phenoseq()
    network = model.module
    drawn = {}
    for weight in (0.0, 0.5, 1.0):
        network.learnt_weight.fill_(weight)
        drawn[weight] = model.sample(n_steps=5, n_samples=2).X.reshape(24, 2, 4)
    names = model.sample(n_steps=5).obs_names
    frame = pd.DataFrame(mdata["image"].obsm["X_image"], index=mdata["image"].obs["sample"])
    means = frame.groupby(level=0).mean().loc[names].to_numpy("f4")
    with torch.inference_mode():
        ridge = network.rna.restore(network.expected(torch.as_tensor(means)[:, None])).numpy()
    assert np.allclose(drawn[0.0].mean(axis=1), ridge, atol=1e-4)
    assert not np.allclose(drawn[1.0].mean(axis=1), ridge, atol=1e-2)
    half = (drawn[0.0] + drawn[1.0]) / 2
    assert np.allclose(drawn[0.5], half, atol=1e-4)
    spread = {weight: np.ptp(x, axis=1) for weight, x in drawn.items()}
    assert np.allclose(spread[0.0], spread[1.0], atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("antithetic", [True, False])
def test_a_draw_is_the_same_however_many_are_asked_for(antithetic):
    _, model = phenoseq()
    model.module.learnt_weight.fill_(0.25)
    many, one, three = (
        model.sample(n_steps=4, n_samples=n, antithetic=antithetic).X.reshape(24, n, 4)
        for n in (4, 1, 3)
    )
    assert np.allclose(many[:, :1], one, atol=1e-5)
    assert np.allclose(many[:, :3], three, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("useful", [True, False])
def test_held_out_treatments_say_whether_the_diffusion_adds_to_ridge(useful):
    """Ridge that knows nothing, and a diffusion that knows the truth; or the other way round."""
    truth, noise = np.random.default_rng(0).normal(size=(2, 40, 4))
    ridge, whole = (noise, truth) if useful else (truth, noise)
    assert weight_of(ridge, whole, truth) == (1.0 if useful else 0.0)


@pytest.mark.filterwarnings("ignore")
def test_a_weight_is_saved_and_few_treatments_leave_all(tmp_path):
    mdata, model = phenoseq()
    model.module.learnt_weight.fill_(0.25)
    model.save(tmp_path / "m")
    assert cf.PhenoSeq.load(tmp_path / "m", mdata).learnt_weight == 0.25
    model.train(1, validation_contexts=["s0", "s1"], enable_progress_bar=False)
    assert model.learnt_weight == 1.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("knows", ["ridge", "diffusion"])
def test_training_judges_what_was_learnt_by_treatments_that_it_did_not_see(monkeypatch, knows):
    """The weight comes of the held-out treatments alone, and of both predictions of them."""
    mdata, model = phenoseq()
    rna = pd.DataFrame(mdata["rna"].obsm["X_rna"], index=mdata["rna"].obs["sample"])
    seen = []

    def noted(ridge, whole, measured, together):
        seen.append((ridge, whole, measured, together))
        return 0.5

    monkeypatch.setattr("cellfuse.model.phenoseq.closed_form.weight_of", noted)
    held = [f"s{i}" for i in range(6)]
    part = dict(zip(held, "aababb", strict=True))
    given = {"validation_contexts": held}
    if knows == "diffusion":  # held out by another column
        for adata in mdata.mod.values():
            adata.obs["part"] = adata.obs["sample"].map(lambda name: part.get(name, "c"))
        given = {"validation_contexts": ["a", "b"], "validation_by": "part"}
    model.train(1, enable_progress_bar=False, **given)
    ((ridge, whole, measured, together),) = seen
    assert model.learnt_weight == 0.5
    wanted = rna.groupby(level=0).mean().loc[held].to_numpy("f4")
    scaled = model.module.rna.scale(torch.as_tensor(wanted)).numpy()
    order = [np.abs(measured - row).sum(axis=1).argmin() for row in scaled]
    assert sorted(order) == list(range(6)) and len(measured) == 6
    assert np.allclose(measured[order], scaled, atol=1e-4)
    if knows == "ridge":
        assert together is None
    else:
        assert list(together[order]) == list(part.values())
    assert ridge.shape == whole.shape == measured.shape and not np.allclose(ridge, whole)


@pytest.mark.filterwarnings("ignore")
def test_a_diffusion_of_fewer_steps_than_a_draw_has_is_weighed_too():
    mdata, _ = phenoseq()
    model = cf.PhenoSeq(mdata, set_size=4, width=16, depth=1, n_diffusion_steps=10, seed=0)
    model.train(1, validation_contexts=0.5, enable_progress_bar=False)
    assert model.learnt_weight in (0.0, 0.25, 0.5, 1.0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shuffled", [False, True])
def test_begun_linear_held_out_treatments_are_found_and_shuffled_ones_are_not(shuffled):
    """The permuted twin: cells of the RNA are dealt to treatments at random."""
    mdata, _ = phenoseq()
    truth = mdata["rna"].obs["sample"].to_numpy().copy()
    if shuffled:
        order = np.random.default_rng(0).permutation(24)
        mdata["rna"].obs["sample"] = [f"s{order[int(name[1:])]}" for name in truth]
    cf.PhenoSeq.setup_mudata(mdata, image_rep="X_image", rna_rep="X_rna")
    model = cf.PhenoSeq(mdata, set_size=4, width=16, depth=1, seed=0)
    held = [f"s{i}" for i in range(8)]
    model.train(2, validation_contexts=held, enable_progress_bar=False)
    drawn = model.sample(n_steps=10, n_samples=2)
    drawn.obs["sample"] = drawn.obs_names.str.split("-").str[0]
    predicted = pd.DataFrame(drawn.X, index=drawn.obs["sample"]).groupby(level=0).mean()
    real = pd.DataFrame(mdata["rna"].obsm["X_rna"], index=truth).groupby(level=0).mean()
    far = align(*(x.loc[held].to_numpy() - x.to_numpy().mean(0) for x in (predicted, real)))
    found = far.summary()["foscttm"]
    assert found > 0.3 if shuffled else found < 0.1
