"""Alignment: what it says of spaces that are known, and whether there is anything to fuse."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.kernels.alignment import align, closer_of_all


def space(*, shared: float, n: int = 80, n_cells: int = 6, noise: float = 0.5, seed: int = 0):
    """Two modalities of `n` contexts whose profiles have a share of their variance in common."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n, 10))
    mods = {}
    for m in ("image", "rna"):
        effect = np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=(n, 10))
        code = np.repeat(np.arange(n), n_cells)
        depth = rng.normal(size=n)[code]
        obs = pd.DataFrame(
            {"guide": [f"g{i}" for i in code], "gene": [f"t{i // 4}" for i in code]},
            index=[f"{m}-{i}" for i in range(len(code))],
        )
        obs["depth"] = depth
        x = effect[code] + noise * rng.normal(size=(len(code), 10))
        mods[m] = ad.AnnData(obs=obs, obsm={"z": x.astype("f4")})
    return md.MuData(mods)


def test_a_shared_space_is_aligned_and_an_unshared_one_is_at_chance():
    good = cf.tl.alignment(space(shared=0.9), "guide", use_rep="z", n_draws=99)
    bad = cf.tl.alignment(space(shared=0.0), "guide", use_rep="z", n_draws=99)
    assert good.loc["embedding", "foscttm"] < 0.05 and good.loc["embedding", "gap"] > 0.6
    assert good.loc["embedding", "pvalue"] == 0.01
    assert abs(bad.loc["embedding", "foscttm"] - 0.5) < 0.06
    assert abs(bad.loc["embedding", "gap"]) < 0.06
    assert bad.loc["embedding", "pvalue"] > 0.05


def test_the_ceiling_is_what_noise_alone_leaves():
    noisy = cf.tl.alignment(space(shared=1.0, noise=3.0), "guide", use_rep="z", n_draws=9)
    clear = cf.tl.alignment(space(shared=1.0, noise=0.1), "guide", use_rep="z", n_draws=9)
    assert clear.loc["halves of image", "foscttm"] < 0.01
    assert noisy.loc["halves of image", "foscttm"] > 0.05


def test_a_nuisance_that_both_share_is_taken_out():
    mdata = space(shared=0.0)
    depth = np.random.default_rng(1).normal(size=80)
    for m in ("image", "rna"):
        number = mdata[m].obs["guide"].str[1:].astype(int).to_numpy()
        mdata[m].obs["depth"] = depth[number]
        mdata[m].obsm["z"] += 4 * depth[number][:, None].astype("f4")
    raw = cf.tl.alignment(mdata, "guide", use_rep="z", n_draws=9, n_boot=0)
    out = cf.tl.alignment(mdata, "guide", use_rep="z", regress_out="depth", n_draws=9, n_boot=0)
    assert raw.loc["embedding", "foscttm"] < 0.3
    assert abs(out.loc["embedding", "foscttm"] - 0.5) < 0.07


def test_intervals_over_targets_are_wider_than_over_guides_and_hold_the_value():
    mdata = space(shared=0.3)
    for m in ("image", "rna"):  # guides of a target are one and the same
        number = mdata[m].obs["guide"].str[1:].astype(int).to_numpy()
        mdata[m].obsm["z"] = mdata[m].obsm["z"][np.argsort(np.argsort(number // 4 * 4))]
    wide = cf.tl.alignment(mdata, "guide", use_rep="z", target_key="gene", n_draws=9)
    row = wide.loc["embedding"]
    assert row["foscttm_low"] <= row["foscttm"] <= row["foscttm_high"]


def test_only_the_contexts_that_are_named_are_compared():
    mdata = space(shared=0.9)
    held = [f"g{i}" for i in range(20)]
    table = cf.tl.alignment(mdata, "guide", use_rep="z", contexts=held, n_draws=9)
    assert table.loc["embedding", "n_contexts"] == 20
    assert (table["n_contexts"] <= 20).all()
    with pytest.raises(KeyError, match="g99"):
        cf.tl.alignment(mdata, "guide", use_rep="z", contexts=["g99"])


def test_cosines_by_hand():
    a = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    b = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    found = align(a, b)
    np.testing.assert_allclose(found.own, [0, 1, 1], atol=1e-12)
    # a's first is farther from its own than from the third, level with the second: (1 + 1/2) / 2.
    np.testing.assert_allclose(found.closer[0], [0.75, 0.25, 0.0], atol=1e-12)
    rows, columns = closer_of_all(a, b)
    np.testing.assert_allclose(np.diag(rows), found.closer[0])
    np.testing.assert_allclose(np.diag(columns), found.closer[1])


def test_profiles_without_a_direction_are_at_chance():
    found = align(np.zeros((5, 3)), np.ones((5, 3))).summary()
    assert found["foscttm"] == 0.5 and found["gap"] == 0


def test_the_screen_with_something_to_fuse_is_told_from_the_one_without():
    verdicts = {}
    for shared in (0.8, 0.0):
        mdata = space(shared=shared, n=120, noise=1.0)
        table = cf.tl.shared_axes_test(
            mdata, "guide", use_rep="z", target_key=None, n_comps=10, n_draws=60
        )
        verdicts[shared] = table.attrs
    assert verdicts[0.8]["n_axes"] >= 5 and verdicts[0.8]["foscttm"] < 0.15
    assert verdicts[0.0]["n_axes"] <= 1 and abs(verdicts[0.0]["foscttm"] - 0.5) < 0.1
    assert abs(verdicts[0.8]["foscttm_permuted"] - 0.5) < 0.12
    assert "closer than the true one" in verdicts[0.8]["verdict"]


@pytest.mark.parametrize("verb", [cf.tl.alignment, cf.tl.shared_axes_test])
def test_what_cannot_be_compared_is_refused(verb):
    mdata = space(shared=0.5)
    with pytest.raises(ValueError, match="two modalities"):
        verb(md.MuData({"image": mdata["image"]}), "guide", use_rep="z")
    with pytest.raises(KeyError, match="guid"):
        verb(mdata, "guid", use_rep="z")
    mdata["rna"].obs["guide"] = "x" + mdata["rna"].obs["guide"].astype(str)
    with pytest.raises(ValueError, match="contexts by 'guide' have cells of both"):
        verb(mdata, "guide", use_rep="z")


def test_the_figure_shows_the_space_and_its_twin():
    mdata = space(shared=0.9)
    for m in ("image", "rna"):
        mdata[m].obsm["twin"] = np.random.default_rng(0).permutation(mdata[m].obsm["z"])
    cf.tl.alignment(mdata, "guide", use_rep="z", permuted_rep="twin", n_draws=9)
    ax = cf.pl.alignment(mdata)
    texts = [t.get_text() for t in ax.get_legend().get_texts()]
    assert texts[0].startswith("embedding, FOSCTTM 0.0") and texts[1].startswith("permuted")


def test_of_no_contexts_nothing_is_said():
    found = align(np.zeros((0, 3)), np.zeros((0, 3)))
    assert found.own.shape == (0,) and found.closer.shape == found.place.shape == (2, 0)


def test_what_differs_by_rounding_alone_ties_in_every_pairing():
    """Copies of one profile, through sums in another order, are no closer than one another."""
    rng = np.random.default_rng(0)
    a, one = rng.normal(size=(6, 40)), rng.normal(size=40)
    copies = np.stack([one * factor / factor for factor in rng.uniform(0.1, 9, 6)])
    by_row, _ = closer_of_all(a, copies)
    assert np.array_equal(by_row, np.full((6, 6), np.float32(0.5)))
    assert np.array_equal(align(a, copies).closer[0], np.full(6, 0.5))
