"""Learnt features join the plain ones where contexts left out are found better with them."""

from __future__ import annotations

import numpy as np
import pytest
from test_shared_axes import two_sides

import cellfuse as cf
from cellfuse.model.base.joint import WEIGHTS, fit_joint_space
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
