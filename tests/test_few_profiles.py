"""The closed form on few contexts and replicates: what is kept, what is left out together."""

from __future__ import annotations

import re
from functools import partial

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from scipy.linalg import eigvalsh
from sklearn.covariance import oas
from test_shared_axes import fitted, members_of, two_sides

import cellfuse as cf
import cellfuse.kernels.left_out as kernel
from cellfuse.kernels.context_bases import _drawn_to, fit_bases, fit_basis
from cellfuse.kernels.context_sums import ContextSums
from cellfuse.kernels.left_out import N_DRAWS, LeftOut

# -- how many components ---------------------------------------------------------------------------


def profiles(n_contexts: int, *, noise: int = 60, seed: int = 0) -> md.MuData:
    """One profile of each context: three directions that both have, and many that are noise."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_contexts, 3))
    mods = {}
    for m in ("image", "rna"):
        x = common @ rng.normal(size=(3, noise)) + 1.5 * rng.normal(size=(n_contexts, noise))
        names = [f"{m}-{i}" for i in range(n_contexts)]
        obs = pd.DataFrame({"guide": [f"g{i}" for i in range(n_contexts)]}, index=names)
        mods[m] = ad.AnnData(obs=obs, obsm={"flat": x.astype("f4")})
    return md.MuData(mods)


def found_again(mdata: md.MuData, seed: int = 0, **arguments) -> float:
    """FOSCTTM of a fifth of the contexts, which the fit has not seen."""
    held = {"validation_contexts": 0.2}
    model = fitted(mdata, held=held, seed=seed, **arguments)
    return float(model.history["validation_foscttm"].iloc[-1, 0])


@pytest.mark.filterwarnings("ignore:no context has two different cells")
def test_of_few_profiles_numbers_side_by_side_find_contexts_that_fifty_miss(caplog):
    chosen, fifty, twin = [], [], []
    for seed in range(8):
        mdata = profiles(100, seed=seed)
        if seed < 4:
            with caplog.at_level("INFO", "cellfuse"):
                chosen.append(found_again(mdata, seed))
            fifty.append(found_again(mdata, seed, n_comps=50))
        twin.append(found_again(mdata, seed, permute_contexts=True))
    assert np.mean(chosen) < np.mean(fifty) - 0.1
    assert np.mean(twin) == pytest.approx(0.5, abs=0.1)
    assert "SharedAxes: 5, 10, 20, 50 principal components of each modality" in caplog.text


@pytest.mark.filterwarnings("ignore:no context has two different cells")
def test_the_test_of_shared_axes_chooses_too_and_its_permuted_fits_find_nothing():
    mdata = profiles(100)
    reps = {"image": "flat", "rna": "flat"}
    table = cf.tl.shared_axes_test(mdata, "guide", use_rep=reps, n_draws=50)
    fifty = cf.tl.shared_axes_test(mdata, "guide", use_rep=reps, n_draws=50, n_comps=50)
    assert table.attrs["n_comps"] < 50 == fifty.attrs["n_comps"]
    assert table.attrs["foscttm"] < fifty.attrs["foscttm"] - 0.1
    assert table.attrs["n_axes"] >= 1
    assert table.attrs["foscttm_permuted"] > 0.4


def test_contexts_of_many_cells_lose_nothing_by_fewer_components_beside_fifty(caplog):
    mdata = two_sides(n_shared=45, width=60, n_cells=20, n_contexts=400)
    with caplog.at_level("INFO", "cellfuse"):
        chosen = found_again(mdata)
    assert "50 principal components of each modality" in caplog.text
    assert chosen < found_again(mdata, n_comps=50) + 0.002


def test_a_space_of_several_numbers_is_their_spaces_side_by_side(caplog):
    mdata = two_sides(n_shared=45, width=60, n_cells=20, n_contexts=400)
    with caplog.at_level("INFO", "cellfuse"):
        model = fitted(mdata, n_draws=N_DRAWS)
    numbers = [int(n) for n in re.findall(r"\d+", caplog.messages[-1].split("principal")[0])]
    assert len(numbers) > 1 and "joint spaces side by side" in caplog.text
    alone = [fitted(mdata, n_comps=n, n_draws=N_DRAWS) for n in numbers]
    z = {m: model.get_latent_representation(modality=m) for m in ("image", "rna")}
    members = {
        m: np.hstack([each.get_latent_representation(modality=m) for each in alone])
        for m in ("image", "rna")
    }
    for first, second in (("image", "image"), ("image", "rna"), ("rna", "rna")):
        expected = members[first] @ members[second].T
        atol = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(z[first] @ z[second].T, expected, atol=atol)
    assert z["image"].shape[1] == 100  # as wide as that of fifty alone, however many there are
    spread = np.concatenate(list(z.values())).var(axis=0)
    assert (np.diff(spread) < 1e-6 * spread[0]).all()


def test_numbers_that_no_feature_is_left_for_are_not_tried(caplog):
    with caplog.at_level("INFO", "cellfuse"):
        fitted(two_sides(n_shared=3, width=8, n_cells=10, n_contexts=60))
    (line,) = [m for m in caplog.messages if "principal components" in m]
    assert "20" not in line and "50" not in line


def left_out(*missed: list[float]) -> list[list[LeftOut]]:
    """One fold of each way whose contexts are missed by so much."""
    return [[LeftOut(np.arange(len(m)), np.array(m))] for m in missed]


#: Ways that are compared: numbers side by side, fewer of them each time, then each alone.
WAYS = [(50, 20, 10, 5), (50, 20, 10), (50, 20), (50,), "50", "20", "10", "5"]


def test_all_numbers_stand_unless_fewer_are_better_beyond_the_error(monkeypatch):
    sums = [[ContextSums(60, 30, 0, shift=np.zeros(60, "f4"))]]

    def chosen(better: dict[object, list[float]]):
        ways = [better.get(each, [0.4, 0.2, 0.3, 0.3]) for each in WAYS]
        monkeypatch.setattr(kernel, "align_left_out_each", lambda *_, **__: left_out(*ways))
        return kernel.choose_n_comps(sums, None)

    assert chosen({}).joint == (50, 20, 10, 5)
    assert chosen({(50, 20): [0.1, 0.5, 0.1, 0.4]}).joint == (50, 20, 10, 5)  # .025 +- .1
    found = chosen({(50, 20): [0.3, 0.1, 0.2, 0.2]})
    assert found.joint == (50, 20) and found.left_out[0].closer.mean() == pytest.approx(0.2)
    assert found.axes == 5  # single numbers are alike: the fewest
    found = chosen({"20": [0.3, 0.1, 0.2, 0.2]})
    assert found.axes == 20 and found.joint == (50, 20, 10, 5)


def test_all_ways_to_look_at_a_number_stand_or_fall_together(monkeypatch):
    fits = []

    def noted(*_, together, **__):
        fits.extend(sorted(each) for each in together)
        return left_out(*[[0.3, 0.3]] * len(together))

    monkeypatch.setattr(kernel, "align_left_out_each", noted)
    sums = [[ContextSums(60, 30, 0, shift=np.zeros(60, "f4"))]]
    kernel.choose_n_comps(sums, None, n_views=2)
    # Four numbers of the first way, then of the second.
    assert fits[:4] == [[*range(8)], [0, 1, 2, 4, 5, 6], [0, 1, 4, 5], [0, 4]]
    assert fits[4:] == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_chance_does_not_choose_among_the_numbers(monkeypatch):
    """Where no number is better than another, all of them stand as a rule."""
    sums = [[ContextSums(60, 100, 0, shift=np.zeros(60, "f4"))]]
    rng, stood = np.random.default_rng(0), 0
    for _ in range(200):
        # What each number errs by; side by side their errors average.
        of = dict(zip((50, 20, 10, 5), rng.normal(0.4, 0.2, (4, 100)), strict=True))
        ways = [list(np.mean([of[n] for n in some], axis=0)) for some in WAYS[:4]]
        ways += [list(of[n]) for n in of]
        monkeypatch.setattr(kernel, "align_left_out_each", lambda *_, w=ways, **__: left_out(*w))
        stood += len(kernel.choose_n_comps(sums, None).joint) == 4
    assert stood > 120  # of all fifteen sets another one would be taken three times in four


def test_what_is_left_out_together_is_one_piece_of_evidence():
    fold = LeftOut(np.array([0, 2, 3]), np.array([0.1, 0.3, 0.5]))
    other = LeftOut(np.array([1, 4, 5]), np.array([0.6, 0.0, 0.2]))
    labels = np.array(["a", "b", "a", "c", "b", "d"])
    np.testing.assert_allclose(kernel.missed([fold, other], labels), [0.2, 0.3, 0.5, 0.2])
    np.testing.assert_allclose(kernel.missed([fold, other]), [0.1, 0.3, 0.5, 0.6, 0.0, 0.2])
    assert len(kernel.missed([], labels)) == 0


def test_a_section_of_many_contexts_chooses_no_numbers_alone(monkeypatch):
    n = 60
    sums = [[ContextSums(60, n, 0, shift=np.zeros(60, "f4"))]]
    labels = np.repeat(["a", "b", "c"], n // 3)
    # One section is found better without the smaller ones, by far; the two others a little worse.
    without = np.where(labels == "a", 0.2, 0.31)
    ways = [list(without) if each == (50,) else [0.3] * n for each in WAYS]
    monkeypatch.setattr(kernel, "align_left_out_each", lambda *_, **__: left_out(*ways))
    assert kernel.choose_n_comps(sums, None).joint == (50,)
    assert kernel.choose_n_comps(sums, None, labels=labels).joint == (50, 20, 10, 5)


@pytest.mark.parametrize("by", [None, "target_key", "left_out_by"])
def test_models_and_the_test_count_what_is_left_out_together(monkeypatch, by):
    seen = []

    def noted(found, labels=None):
        seen.append(labels)
        return kernel_missed(found, labels)

    kernel_missed = kernel.missed
    monkeypatch.setattr(kernel, "missed", noted)
    mdata = two_sides(n_shared=3, width=8, n_cells=10, n_contexts=60)
    for m in ("image", "rna"):
        number = mdata[m].obs["guide"].str.extract(r"(\d+)", expand=False).astype(int)
        mdata[m].obs["section"] = [f"s{k % 3}" for k in number]
    how = {} if by is None else {by: "section"}
    fitted(mdata, **how)
    reps = {"image": "flat", "rna": "flat"}
    cf.tl.shared_axes_test(mdata, "guide", use_rep=reps, n_draws=5, **how)
    assert len({len(np.unique(labels)) for labels in seen}) == 1 and len(seen) > 4
    assert len(np.unique(seen[0])) == (60 if by is None else 3)


def one_side(mdata: md.MuData, **arguments) -> cf.SharedAxes:
    keys = {"context_keys": "guide", "image_rep": "flat", "modalities": {"image": "image"}}
    cf.SharedAxes.setup_mudata(mdata, **keys)
    model = cf.SharedAxes(mdata, **arguments)
    model.train()
    return model


def test_one_modality_alone_has_fifty_components():
    mdata = two_sides(n_shared=20, width=60, n_cells=20, n_contexts=200)
    usual, fifty = one_side(mdata), one_side(mdata, n_comps=50)
    np.testing.assert_array_equal(
        usual.get_latent_representation(), fifty.get_latent_representation()
    )


@pytest.mark.parametrize("method", ["within", "cca", "ibfa"])
def test_bases_of_several_sizes_are_those_of_each(method):
    rng = np.random.default_rng(0)
    sums = ContextSums(12, 30, 0, shift=np.zeros(12, "f4"))
    code = rng.integers(0, 30, 400)
    sums.add(
        rng.normal(size=(400, 12)).astype("f4"), members_of(code, 30), np.empty((400, 0), "f4")
    )
    moments = sums.moments()
    for n, basis in zip((8, 3), fit_bases(moments, (8, 3), method=method), strict=True):
        alone = fit_basis(moments, n_comps=n, method=method)
        for name in ("project", "means", "noise", "between"):
            np.testing.assert_allclose(getattr(basis, name), getattr(alone, name), atol=1e-10)
        assert basis.project.shape == (12, n)


# -- few replicates, and what is left out together -------------------------------------------------


def moments_of(n_cells: int, *, turn: np.ndarray | None = None, seed: int = 0):
    """Moments of cells, two of each context, whose noise is ten times as large along one axis."""
    rng = np.random.default_rng(seed)
    effects = np.repeat(rng.normal(size=(n_cells // 2, 12)), 2, axis=0)
    noise = rng.normal(size=(n_cells, 12)) * np.r_[10**0.5, np.ones(11)]
    x = effects + noise if turn is None else (effects + noise) @ turn
    code = np.repeat(np.arange(n_cells // 2), 2)
    sums = ContextSums(12, n_cells // 2, 0, shift=np.zeros(12, "f4"))
    sums.add(x.astype("f4"), members_of(code, n_cells // 2), np.empty((n_cells, 0), "f4"))
    return sums.moments()


def off(found: np.ndarray, true: np.ndarray) -> float:
    """How far whitening by a covariance is from whitening by the true one."""
    return float(np.square(np.log(eigvalsh(found, true))).sum())


def test_noise_of_few_replicates_is_drawn_towards_all_cells_and_that_of_many_is_not():
    true = np.diag(np.r_[10.0, np.ones(11)])
    few = [moments_of(40, seed=seed) for seed in range(5)]
    drawn = np.mean([off(_drawn_to(m.total, m.within, m.n_free), true) for m in few])
    assert drawn < np.mean([off(m.within, true) for m in few]) / 2
    many = moments_of(20_000)
    np.testing.assert_allclose(
        _drawn_to(many.total, many.within, many.n_free), many.within, atol=0.02 * many.within.max()
    )


def test_how_far_noise_is_drawn_is_the_same_in_other_units():
    turn = np.random.default_rng(1).normal(size=(12, 12))
    plain, turned = moments_of(40), moments_of(40, turn=turn)
    expected = turn.T @ _drawn_to(plain.total, plain.within, plain.n_free) @ turn
    found = _drawn_to(turned.total, turned.within, turned.n_free)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_the_shrinkage_is_that_of_scikit_learn():
    x = np.random.default_rng(0).normal(size=(30, 12)) * np.linspace(0.5, 2, 12)
    expected, _ = oas(x, assume_centered=True)
    found = _drawn_to(np.eye(12), x.T @ x / len(x), len(x))
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.filterwarnings("ignore:no context has two different cells")
def test_rows_that_stand_there_twice_tell_of_no_noise():
    mdata = profiles(60)
    twice = {}
    for m, adata in mdata.mod.items():
        again = adata[:5].copy()
        again.obs_names = again.obs_names + "-again"
        twice[m] = ad.concat([adata, again])
    z = [fitted(data, n_comps=5).get_latent_representation(modality="image")[:60]
         for data in (mdata, md.MuData(twice))]  # fmt: skip
    assert np.abs(z[1]).max() > 0
    same = [np.corrcoef(a, b)[0, 1] for a, b in zip(*(x @ x.T for x in z), strict=True)]
    assert np.median(same) > 0.7


def donors(seed: int = 0, n: int = 100) -> md.MuData:
    """Profiles of which three directions are common to all donors, and six are one donor's own."""
    rng = np.random.default_rng(seed)
    donor = np.repeat(np.arange(4), n)
    common = rng.normal(size=(4 * n, 3))
    own = 3 * rng.normal(size=(4 * n, 6))
    mods = {}
    for m in ("image", "rna"):
        turns = np.stack([np.linalg.qr(rng.normal(size=(60, 60)))[0][:, :6] for _ in range(4)])
        x = (common + rng.normal(size=common.shape)) @ rng.normal(size=(3, 60))
        x += np.einsum("nk,ndk->nd", own, turns[donor]) + 0.5 * rng.normal(size=x.shape)
        obs = pd.DataFrame(
            {"guide": [f"g{i}" for i in range(4 * n)], "donor": [f"d{k}" for k in donor]},
            index=[f"{m}-{i}" for i in range(4 * n)],
        )
        mods[m] = ad.AnnData(obs=obs, obsm={"flat": x.astype("f4")})
    return md.MuData(mods)


def test_a_new_donor_is_asked_for_fewer_components_than_new_contexts_of_the_same():
    reps = {"image": "flat", "rna": "flat"}
    ask = partial(cf.tl.shared_axes_test, donors(), "guide", use_rep=reps, n_draws=5)
    same, new = (ask(left_out_by=by).attrs for by in (None, "donor"))
    assert new["n_comps"] < same["n_comps"]
    # What is one donor's own finds contexts of the same donor, and is no promise for a new one.
    assert same["foscttm"] < 0.1 < 0.2 < new["foscttm"] < 0.4


@pytest.mark.filterwarnings("ignore:no context has two different cells")
def test_the_model_chooses_by_what_is_left_out_together(monkeypatch):
    chosen = []

    def noted(*args, **how):
        chosen.append(kernel.choose_n_comps(*args, **how))
        return chosen[-1]

    monkeypatch.setattr("cellfuse.model.base.joint.choose_n_comps", noted)
    for by in (None, "donor"):
        fitted(donors(), left_out_by=by)
    same, new = chosen
    assert new.axes < same.axes  # what one donor has does not help with the next


@pytest.mark.filterwarnings("ignore:no context has two different cells")
def test_what_is_left_out_together_has_two_values_and_each_context_one():
    mdata = donors()
    for m in ("image", "rna"):
        mdata[m].obs["all"] = "one"
    mdata["rna"].obs["half"] = np.resize(["a", "b"], 400)
    mdata["image"].obs["half"] = np.resize(["b", "a"], 400)
    reps = {"image": "flat", "rna": "flat"}
    test = partial(cf.tl.shared_axes_test, mdata, "guide", use_rep=reps, n_draws=5)
    for ask in (partial(fitted, mdata), test):
        with pytest.raises(ValueError, match="all contexts are of 'one'.*left_out_by"):
            ask(left_out_by="all")
        with pytest.raises(ValueError, match="varies within 400 contexts.*`left_out_by`"):
            ask(left_out_by="half")
        with pytest.raises(KeyError, match="doner"):
            ask(left_out_by="doner")
    assert test(left_out_by="donor").attrs["foscttm_permuted"] > 0.4
