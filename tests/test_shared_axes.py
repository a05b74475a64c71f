"""The closed form: what it must find, what it must not, and what it refuses."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import roc_auc_score

import cellfuse as cf
from cellfuse.kernels.context_bases import fit_basis
from cellfuse.kernels.context_sums import ContextSums
from cellfuse.kernels.shared_axes import fit_shared_axes, pairing, permuted_orders


def members_of(code: np.ndarray, n: int) -> sp.csr_matrix:
    return sp.csr_matrix((np.ones(len(code), "f4"), (np.arange(len(code)), code)), (len(code), n))


def two_sides(
    *, n_contexts: int = 150, n_cells: int = 12, n_shared: int = 2, width: int = 8, seed: int = 0
) -> md.MuData:
    """Flat embeddings whose contexts have `n_shared` directions in common, and one each alone."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_contexts, n_shared))
    mods = {}
    for m in ("image", "rna"):
        own = rng.normal(size=(n_contexts, 1))
        mix = rng.normal(size=(n_shared + 1, width))
        code = np.repeat(np.arange(n_contexts), n_cells)
        batch = rng.integers(0, 2, len(code))
        x = np.hstack([common, own])[code] @ mix + 2 * rng.normal(size=(len(code), width))
        x += 3.0 * batch[:, None]
        obs = pd.DataFrame(
            {
                "guide": [f"g{i}" for i in code],
                "gene": [f"t{i // 2}" for i in code],
                "batch": [f"b{i}" for i in batch],
                "depth": rng.normal(size=len(code)),
            },
            index=[f"{m}-{i}" for i in range(len(code))],
        )
        mods[m] = ad.AnnData(obs=obs, obsm={"flat": x.astype("f4")})
    return md.MuData(mods)


def fitted(mdata: md.MuData, *, setup: dict | None = None, **arguments) -> cf.SharedAxes:
    keys = {"context_keys": "guide", "image_rep": "flat", "rna_rep": "flat"}
    cf.SharedAxes.setup_mudata(mdata, **keys, **(setup or {}))
    held = arguments.pop("held", {})
    model = cf.SharedAxes(mdata, **{"n_draws": 50, **arguments})
    model.train(**held)
    return model


# -- sums in one pass -----------------------------------------------------------------------------


def test_sums_in_blocks_give_the_moments_of_residuals_written_out():
    rng = np.random.default_rng(1)
    n, width, contexts = 90, 4, 7
    code = rng.integers(0, contexts, n)
    z = np.column_stack([rng.normal(size=n), rng.integers(0, 2, n)])
    x = rng.normal(size=(n, width)) + 1e3 + z @ rng.normal(size=(2, width))
    sums = ContextSums(width, contexts, 2)
    for rows in np.array_split(np.arange(n), 4):
        sums.add(x[rows], members_of(code, contexts)[rows], z[rows])
    found = sums.moments()

    design = np.column_stack([np.ones(n), z])
    residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
    means = np.stack([residual[code == g].mean(axis=0) for g in range(contexts)])
    within = residual - means[code]
    np.testing.assert_allclose(found.means, means, atol=1e-3)
    np.testing.assert_allclose(found.within, within.T @ within / (n - contexts), atol=2e-3)
    np.testing.assert_allclose(found.total, np.cov(residual.T), atol=2e-3)
    np.testing.assert_allclose(found.center(x, z), residual, atol=1e-2)


def test_cells_without_a_context_count_for_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    code = np.repeat([0, 1], 10)
    some, all_of_some = ContextSums(3, 2), ContextSums(3, 2)
    members = members_of(code, 2).tolil()
    members[5:10] = 0
    some.add(x, members.tocsr())
    kept = np.r_[0:5, 10:20]
    all_of_some.add(x[kept], members_of(code[kept], 2))
    np.testing.assert_allclose(some.moments().within, all_of_some.moments().within, atol=1e-5)


def test_nuisances_that_explain_everything_are_refused():
    x = np.random.default_rng(0).normal(size=(30, 2))
    sums = ContextSums(2, 3, 2)
    sums.add(x, members_of(np.arange(30) % 3, 3), x @ np.array([[1.0, 2.0], [0.0, 1.0]]))
    with pytest.raises(ValueError, match="explain everything"):
        sums.moments()


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1234.567, -7e-5])
def test_constant_features_have_no_variance_and_stand_in_no_coordinate(value):
    rng = np.random.default_rng(0)
    members = members_of(np.arange(60) % 5, 5)
    for width in range(1, 6):
        x = rng.normal(size=(60, width + 3)).astype(np.float32)
        x[:, width:] = value * np.arange(1, 4)
        # Other cells, of contexts that are left out, have other values: the shift is not theirs.
        sums = ContextSums(width + 3, 5, shift=x.mean(axis=0) * np.float32(0.97))
        for rows in np.array_split(np.arange(60), 7):
            sums.add(x[rows], members[rows])
        found = sums.moments()
        assert np.all(np.diag(found.total) >= 0)
        basis = fit_basis(found, n_comps=20)
        assert basis.project.shape[1] == width and np.isfinite(basis.project).all()
        assert not basis.project[width:].any()


def test_contexts_of_one_block_change_places_together():
    blocks = np.array(["a", "a", "b", "b", "b", "c"])
    for order in permuted_orders(np.ones(6, bool), blocks, n_draws=20, seed=0):
        for block in "abc":
            assert len(set(blocks[order[blocks == block]])) == 1


# -- axes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_shared", [1, 2, 3])
def test_as_many_axes_are_found_as_are_shared(n_shared):
    model = fitted(two_sides(n_shared=n_shared), n_draws=100, setup={"batch_key": "batch"})
    assert (model.axes["pvalue"] < 0.02).sum() == n_shared


def test_no_axis_is_found_where_nothing_is_shared():
    found = []
    for seed in range(20):
        mdata = two_sides(n_contexts=60, n_cells=4, n_shared=1, seed=seed)
        mdata["rna"].obs["guide"] = np.random.default_rng(seed).permutation(
            mdata["rna"].obs["guide"].unique()
        )[pd.factorize(mdata["rna"].obs["guide"])[0]]
        found.append(fitted(mdata, setup={"batch_key": "batch"}).axes["pvalue"].iloc[0])
    assert np.mean(np.array(found) < 0.05) <= 0.2


def test_a_second_axis_is_not_found_behind_a_strong_first():
    # Against the second permuted value alone, noise behind a strong axis passes most of the time.
    found = [
        fitted(two_sides(n_contexts=60, n_cells=4, n_shared=1, seed=seed)).axes["pvalue"].iloc[1]
        for seed in range(15)
    ]
    assert np.mean(np.array(found) < 0.05) <= 0.2


def test_held_out_contexts_meet_and_those_of_the_permuted_twin_do_not():
    held = {"validation_contexts": 0.2, "validation_by": "gene"}
    values = {}
    for permuted in (False, True):
        mdata = two_sides(n_shared=3)
        setup = {"batch_key": "batch"}
        model = fitted(mdata, setup=setup, permute_contexts=permuted, held=held)
        values[permuted] = model.history["validation_foscttm"].iloc[0, 0]
    assert values[False] < 0.2
    assert 0.3 < values[True] < 0.7


def test_held_out_cells_change_nothing():
    held = {"validation_contexts": ["g0", "g1", "g2"]}
    a, b = two_sides(), two_sides()
    for m in ("image", "rna"):
        rows = b[m].obs["guide"].isin(held["validation_contexts"]).to_numpy()
        b[m].obsm["flat"][rows] += 100.0
    z = [fitted(x, held=held).module.state_dict() for x in (a, b)]
    assert all((z[0][name] == z[1][name]).all() for name in z[0] if "axes" not in name)


def test_the_sum_over_modalities_is_the_posterior_mean():
    """Beside the formula written out: prior (prior + noise / n)^-1 means, in the evened scale."""
    mdata = two_sides(n_shared=2, width=5)
    bases = []
    for m in ("image", "rna"):
        code = pd.factorize(mdata[m].obs["guide"])[0]
        sums = ContextSums(5, 150)
        sums.add(mdata[m].obsm["flat"], members_of(code, 150))
        bases.append(fit_basis(sums.moments(), n_comps=5))
    fit = fit_shared_axes(bases, n_draws=20)
    # Permutations that several fits share are those that each would draw.
    orders = permuted_orders(np.ones(150, bool), None, n_draws=20, seed=0)
    again = fit_shared_axes(bases, orders=orders)
    np.testing.assert_array_equal(again.test.null_mean, fit.test.null_mean)
    np.testing.assert_array_equal(again.test.pvalue, fit.test.pvalue)
    fewer = fit_shared_axes(bases, orders=orders[:5])
    assert not np.array_equal(fewer.test.null_mean, fit.test.null_mean)

    cross, weight = pairing(*bases)
    left, values, right = np.linalg.svd(cross)
    kept = np.maximum(1 - (fit.test.null_mean / values) ** 2, 0)
    effect = (left * (values * kept / weight)) @ right
    prior = np.block([[bases[0].between, effect], [effect.T, bases[1].between]])
    scale, turn = np.linalg.eigh(prior)
    prior = (turn * np.maximum(scale, 0)) @ turn.T  # no direction has less than no variance
    noise = np.eye(10) / 12  # whitened within contexts of twelve cells
    means = np.hstack([basis.means for basis in bases])
    posterior = means @ np.linalg.solve(prior + noise, prior)
    for part in (slice(0, 5), slice(5, 10)):  # (1 + signal / noise)^-1/4, one modality at a time
        signal, turn = np.linalg.eigh(prior[part, part])
        posterior[:, part] = posterior[:, part] @ turn * (1 + 12 * signal) ** -0.25 @ turn.T
    found = sum(basis.means @ joint for basis, joint in zip(bases, fit.joint, strict=True))
    np.testing.assert_allclose(found @ found.T, posterior @ posterior.T, atol=1e-4)

    z = {m: fitted(mdata, n_comps=5).get_latent_representation(modality=m) for m in mdata.mod}
    assert z["image"].shape == z["rna"].shape == (1800, 10)


def test_a_strong_axis_does_not_hide_the_weak_ones():
    """Most contexts move along one axis; what tells their targets apart is far weaker."""
    rng = np.random.default_rng(0)
    n_targets, n_guides, n_cells, width = 30, 4, 40, 12
    weak = rng.normal(size=(n_targets, width)) / 4
    weak[:, 0] = 6 * rng.normal(size=n_targets)
    effect = np.repeat(weak * rng.choice([0.5, 1.0], n_targets)[:, None], n_guides, axis=0)
    code = np.repeat(np.arange(n_targets * n_guides), n_cells)
    x = effect[code] + rng.normal(size=(len(code), width))
    sums = ContextSums(width, n_targets * n_guides)
    sums.add(x, members_of(code, n_targets * n_guides))
    basis = fit_basis(sums.moments(), n_comps=width)
    fit = fit_shared_axes([basis])

    target = np.arange(len(effect)) // n_guides
    first, second = np.triu_indices(len(effect), 1)

    def told_apart(profiles):
        unit = profiles / np.linalg.norm(profiles, axis=1, keepdims=True)
        same = target[first] == target[second]
        return roc_auc_score(same, (unit @ unit.T)[first, second])

    evened = basis.means @ fit.joint[0]
    plain = basis.means @ (fit.joint[0] @ np.linalg.pinv(fit.even[0]))
    assert told_apart(evened) > told_apart(plain) + 0.03


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_features_are_divided_by_a_power_of_their_spread(power):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 3)) * [1.0, 4.0, 16.0]
    sums = ContextSums(3, 10)
    sums.add(x, members_of(np.arange(3000) % 10, 10))
    basis = fit_basis(sums.moments(), n_comps=1, method="ibfa", power=power)
    loading = np.abs(basis.project[:, 0]) * [1.0, 4.0, 16.0]
    # Spread of each feature within the first component, by power: alike, or all of the last.
    assert (loading.max() / loading.sum() > 0.95) == (power < 1)
    learnt = fit_basis(sums.moments(), n_comps=3, method="ibfa", power=power, n_one_scale=2)
    sizes = 1 / np.linalg.norm(learnt.project, axis=1)
    assert sizes[1] == pytest.approx(sizes[2])  # learnt features have one scale


def test_what_is_taken_out_is_out():
    mdata = two_sides()
    with_batches = fitted(mdata).get_latent_representation(modality="image")
    without = fitted(mdata, setup={"batch_key": "batch", "regress_out": "depth"})
    z = without.get_latent_representation(modality="image")
    of_batch = (mdata["image"].obs["batch"] == "b1").to_numpy(float)
    depth = mdata["image"].obs["depth"].to_numpy()

    def correlation(x):
        x = x[:, x.std(axis=0) > 0]  # fewer components may be kept than there is room for
        return np.abs(np.corrcoef(np.column_stack([of_batch, depth, x]).T)[:2, 2:]).max(axis=1)

    assert correlation(with_batches)[0] > 0.3
    assert (correlation(z) < 1e-3).all()
    new = mdata["image"][:10].copy()
    np.testing.assert_allclose(
        without.get_latent_representation(new, modality="image"), z[:10], atol=1e-5
    )
    new.obs["batch"] = "another"
    with pytest.raises(ValueError, match="'another'"):
        without.get_latent_representation(new, modality="image")


def test_one_modality_alone_is_shrunk_and_aligned_with_nothing():
    mdata = two_sides()
    cf.SharedAxes.setup_mudata(
        mdata, context_keys="guide", rna_rep="flat", modalities={"rna": "rna"}
    )
    model = cf.SharedAxes(mdata)
    model.train()
    assert model.get_latent_representation(modality="rna").shape == (1800, 8)


@pytest.mark.parametrize("method", ["within", "cca", "ibfa"])
def test_variants_align_held_out_contexts(method):
    held = {"validation_contexts": 0.2}
    setup = {"batch_key": "batch"}
    model = fitted(two_sides(n_shared=3), method=method, setup=setup, held=held)
    assert model.history["validation_foscttm"].iloc[0, 0] < 0.35  # by chance .5


def test_save_and_load_give_the_same_embedding(tmp_path):
    mdata = two_sides()
    model = fitted(mdata, setup={"batch_key": "batch"})
    model.save(tmp_path / "model")
    again = cf.SharedAxes.load(tmp_path / "model")
    for axes in ("joint", "shared"):
        np.testing.assert_array_equal(
            again.get_latent_representation(mdata, modality="rna", axes=axes),
            model.get_latent_representation(modality="rna", axes=axes),
        )
    pd.testing.assert_frame_equal(again.axes, model.axes)


def test_pixels_and_counts_are_read_and_nothing_of_the_user_changes():
    mdata = cf.datasets.simulated_screen(60, n_targets=12, cells_per_guide=6, seed=0)
    before = mdata["rna"].X.copy(), mdata["image"].obsm["crops"].copy()
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.SharedAxes(mdata, n_comps=10, n_draws=10, target_key="gene")
    model.train()
    z = model.get_latent_representation(modality="image")
    assert np.isfinite(z).all() and z.std() > 0
    assert (mdata["rna"].X != before[0]).nnz == 0
    assert (mdata["image"].obsm["crops"] == before[1]).all()


def test_one_cell_per_context_is_said():
    mdata = two_sides(n_cells=1)
    with pytest.warns(UserWarning, match="no context has two different cells"):
        model = fitted(mdata)
    assert np.isfinite(model.get_latent_representation(modality="image")).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m.obs.__setitem__("guide", "one"), "contexts have cells of both"),
        (lambda m: m.obsm.__setitem__("flat", np.ones((m.n_obs, 4), "f4")), "constant"),
        (lambda m: m.obsm["flat"].__setitem__((0, 0), np.nan), "NaN"),
    ],
    ids=["one context", "constant features", "NaN"],
)
def test_bad_data_is_refused(change, match):
    mdata = two_sides()
    for m in ("image", "rna"):
        change(mdata[m])
    with pytest.raises(ValueError, match=match):
        fitted(mdata)


def test_bad_arguments_are_refused():
    mdata = two_sides()
    with pytest.raises(KeyError, match="bach"):
        fitted(mdata, setup={"batch_key": "bach"})
    with pytest.raises(KeyError, match="dept"):
        fitted(mdata, setup={"regress_out": ["dept"]})
    with pytest.raises(ValueError, match="'ica'"):
        fitted(mdata, method="ica")
    with pytest.raises(ValueError, match="n_comps"):
        fitted(mdata, n_comps=0)
    with pytest.raises(ValueError, match="axes='both'"):
        fitted(mdata).get_latent_representation(modality="rna", axes="both")
