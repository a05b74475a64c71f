"""Factors of counts: what they must recover, and how they join the closed form."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.distributions import NegativeBinomial

import cellfuse as cf
from cellfuse.kernels.left_out import N_DRAWS
from cellfuse.nn import CountFactors, PlainFeatures


def drawn(
    n: int = 800, *, depth: float = 150.0, size: float = 3.0, seed: int = 0
) -> tuple[torch.Tensor, np.ndarray]:
    """Counts (n, 100) of three factors, and these."""
    rng = np.random.default_rng(seed)
    z, loadings = rng.normal(size=(n, 3)), 0.5 * rng.normal(size=(3, 100))
    share = np.exp(rng.normal(size=100) + z @ loadings)
    of_cell = depth * np.exp(0.4 * rng.normal(size=n))
    mean = of_cell[:, None] * share / share.sum(axis=1, keepdims=True)
    return torch.as_tensor(rng.poisson(rng.gamma(size, mean / size)).astype("f4")), z


def learnt(counts: torch.Tensor, n_factors: int = 5) -> CountFactors:
    factors = CountFactors(counts.shape[1], n_factors)
    factors.fit(counts)
    return factors


def explained(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true factors' variance that a linear map of `found` tells, on other cells."""
    half = len(found) // 2
    return float(
        LinearRegression().fit(found[:half], truth[:half]).score(found[half:], truth[half:])
    )


def test_scores_are_the_likeliest_ones():
    counts, _ = drawn(200)
    factors = learnt(counts)
    z = factors(counts).requires_grad_()
    mean = counts.sum(dim=1, keepdim=True) * (factors.level + z @ factors.loadings).exp()
    size = factors.dispersion
    law = NegativeBinomial(size, logits=(mean / size).log())
    total = law.log_prob(counts).sum() - z.square().sum() / 2
    (slope,) = torch.autograd.grad(total, z)
    assert slope.abs().max() < 0.02
    elsewhere = (z.detach() + 0.3).requires_grad_()
    mean = counts.sum(dim=1, keepdim=True) * (factors.level + elsewhere @ factors.loadings).exp()
    law = NegativeBinomial(size, logits=(mean / size).log())
    assert law.log_prob(counts).sum() - elsewhere.square().sum() / 2 < total - 10


@pytest.mark.parametrize(("depth", "ahead"), [(60.0, 0.02), (300.0, 0.01)])
def test_true_factors_are_recovered_better_than_by_components_of_logarithms(depth, ahead):
    gains = []
    for seed in range(3):
        counts, truth = drawn(depth=depth, seed=seed)
        shares = (counts * counts.sum(1).median() / counts.sum(1, keepdim=True)).log1p().numpy()
        components = PCA(5).fit_transform(shares)
        found = explained(learnt(counts)(counts).numpy(), truth)
        gains.append(found - explained(components, truth))
        assert found > 0.4
    assert min(gains) > ahead


def test_of_shuffled_counts_nothing_is_recovered():
    counts, truth = drawn()
    shuffled = torch.stack([gene[torch.randperm(len(gene))] for gene in counts.T], dim=1)
    assert explained(learnt(shuffled)(shuffled).numpy(), truth) < 0.02


def test_a_cell_of_few_counts_stays_near_the_mean():
    counts, _ = drawn(depth=2_000.0)
    factors = learnt(counts)
    few = torch.as_tensor(np.random.default_rng(0).binomial(counts.numpy().astype(int), 0.002))
    many, faint = (factors(x).norm(dim=1).mean() for x in (counts, few))
    assert faint < 0.6 * many
    assert factors(torch.zeros(2, 100)).abs().max() < 1.0


@pytest.mark.parametrize(("size", "low", "high"), [(1.0, 0.6, 1.6), (5.0, 3.0, 8.0), (1e6, 15, 51)])
def test_dispersions_are_those_drawn_from(size, low, high):
    counts, _ = drawn(3_000, depth=400.0, size=size)
    assert low < float(learnt(counts).dispersion.median()) < high


def test_learning_hangs_on_the_cells_alone_and_takes_what_is_odd():
    counts, _ = drawn(300)
    counts[:, 0], counts[:, 1], counts[7] = 0, 3, 0
    before = torch.random.get_rng_state()
    first, second = learnt(counts), learnt(counts)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.loadings, second.loadings)
    assert torch.isfinite(first(counts)).all()
    # Far fewer cells than factors and genes.
    assert torch.isfinite(learnt(counts[:4], 20)(counts)).all()


ODD = {
    "deep": lambda rng: rng.poisson(1e5 * np.exp(rng.normal(size=(10, 200)))),
    "bulk": lambda rng: rng.poisson(1e7 * rng.dirichlet(np.full(500, 0.1), size=60)),
    "alike": lambda rng: np.tile(rng.poisson(50, size=(1, 200)), (50, 1)),
    "empty": lambda rng: np.zeros((50, 200)),
    "sparse": lambda rng: rng.poisson(0.001, size=(500, 500)),
    "one cell of a million": lambda rng: np.vstack(
        [rng.poisson(1, size=(500, 100)), np.full((1, 100), 10**6)]
    ),
}


@pytest.mark.parametrize("kind", list(ODD))
def test_counts_of_any_kind_are_read(kind):
    counts = torch.as_tensor(ODD[kind](np.random.default_rng(0))).float()
    factors = learnt(counts, 20)
    scores = factors(counts)
    assert torch.isfinite(scores).all() and torch.isfinite(factors.loadings).all()
    assert scores.abs().max() < 10  # what a standard normal prior lets through
    if kind in ("alike", "empty"):
        assert not scores.any()


def test_plain_features_end_with_the_factors_of_counts_and_of_nothing_else():
    counts, _ = drawn(300)
    plain, both = PlainFeatures("counts", (100,)), PlainFeatures("counts", (100,), n_factors=5)
    for features in (plain, both):
        features.fit(counts)
    assert both.n_features == 105 == both(counts).shape[1]
    assert torch.equal(both(counts)[:, :100], plain(counts))
    torch.testing.assert_close(both(counts)[:, 100:], learnt(counts)(counts))
    assert PlainFeatures("counts", (12,), n_factors=20).n_second == 6
    assert PlainFeatures("values", (100,), n_factors=5).n_features == 100
    assert PlainFeatures("pixels", (4, 16, 16), n_factors=5).n_second == 0


def screen(seed: int = 0) -> md.MuData:
    """Counts of forty guides, and an embedding that knows the guides' factors."""
    rng = np.random.default_rng(seed)
    code = np.repeat(np.arange(40), 20)
    counts, truth = drawn(800, seed=seed)
    effect = np.array([truth[code == k].mean(axis=0) for k in range(40)])
    obs = pd.DataFrame({"guide": [f"g{k}" for k in code]}, index=[f"c{i}" for i in range(800)])
    flat = effect[code] @ rng.normal(size=(3, 30)) + 0.1 * rng.normal(size=(800, 30))
    image = ad.AnnData(obs=obs.set_axis("i-" + obs.index), obsm={"flat": flat.astype("f4")})
    return md.MuData({"image": image, "rna": ad.AnnData(counts.numpy(), obs=obs)})


def joined(mdata: md.MuData, rna_rep: str | None = None, **arguments) -> cf.SharedAxes:
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="flat", rna_rep=rna_rep)
    model = cf.SharedAxes(mdata, n_comps=10, n_draws=N_DRAWS, **arguments)
    model.train()
    return model


def side_by_side(
    model: cf.SharedAxes, one: cf.SharedAxes, two: cf.SharedAxes
) -> dict[str, np.ndarray]:
    """Embeddings of a model whose similarities are those of two others added."""
    z, first, second = (
        {m: each.get_latent_representation(modality=m) for m in ("image", "rna")}
        for each in (model, one, two)
    )
    for a, b in (("image", "image"), ("image", "rna"), ("rna", "rna")):
        expected = first[a] @ first[b].T + second[a] @ second[b].T
        np.testing.assert_allclose(z[a] @ z[b].T, expected, atol=1e-3 * np.abs(expected).max())
    return z


def test_both_ways_to_read_counts_stand_side_by_side():
    mdata = screen()
    model = joined(mdata)
    factors = model.module.features["rna"].factors
    mdata["rna"].obsm["factors"] = factors(torch.as_tensor(mdata["rna"].X)).numpy()
    by_factors = joined(mdata, "factors")
    plain = joined(mdata, n_factors=0)
    assert plain.module.features["rna"].factors is None
    z = side_by_side(model, plain, by_factors)
    assert z["rna"].shape[1] == 30  # ten of each modality, and ten factors more
    # Shared axes are counted in plain features.
    pd.testing.assert_frame_equal(model.axes, plain.axes, atol=1e-5)


def test_factors_are_kept_with_the_model_and_belong_to_two_modalities(tmp_path):
    mdata = screen()
    model = joined(mdata)
    model.save(tmp_path / "model")
    loaded = cf.SharedAxes.load(tmp_path / "model", adata=mdata)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(modality="rna"),
        model.get_latent_representation(modality="rna"),
    )
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", modalities={"rna": "rna"})
    assert cf.SharedAxes(mdata).module.features["rna"].factors is None


@pytest.mark.parametrize("wrong", [-1, 2.5, True, "many"])
def test_a_number_of_factors_is_a_whole_number(wrong):
    mdata = screen()
    with pytest.raises((TypeError, ValueError), match="n_factors"):
        joined(mdata, n_factors=wrong)


def test_petri_reads_the_same_counts_the_same_way():
    mdata = screen()
    closed = joined(mdata).module.features["rna"].factors
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="flat")
    sizes = {"set_size": 2, "width": 16, "n_heads": 2, "n_latents": 1}
    model = cf.PETRI(mdata, **sizes)
    model.train(max_epochs=1, documents_per_context=1, enable_progress_bar=False)
    features = model.module.joint
    assert features.n_second == {"image": 0, "rna": 20}
    torch.testing.assert_close(features.plain["rna"].factors.loadings, closed.loadings)
