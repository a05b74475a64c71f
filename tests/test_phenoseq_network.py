"""PhenoSeq's network against a plain one, and its folded form."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from phenoseq_parts import TINY, network

from cellfuse.model.phenoseq.sizes import PRESETS
from cellfuse.nn.denoiser import FoldedDenoiser, OneTokenAttention
from cellfuse.nn.diffusion import DDIM
from cellfuse.nn.keyed import normal, uniform
from cellfuse.nn.phenoseq import PhenoSeqNetwork


@pytest.fixture(autouse=True)
def _the_same_numbers_in_every_run():
    torch.manual_seed(0)


# -- the network of the paper ---------------------------------------------------------------------


def test_the_papers_network_has_168_5_million_parameters():
    with torch.device("meta"):
        made = PhenoSeqNetwork(5120, 512, PRESETS["base"], diffusion={})
    assert sum(p.numel() for p in made.parameters()) == 168_499_968
    idle = sum(p.numel() for p in made.parameters() if not p.requires_grad)
    assert idle == 6 * 2 * (1024 * 1024 + 1024)


@pytest.fixture(scope="module")
def plain():
    """Plain implementation of the paper's algorithm, kept with the benchmarks."""
    path = Path(__file__).parents[1] / "benchmarks" / "speed" / "_plain_phenoseq.py"
    if not path.exists():
        pytest.skip("the plain implementation lies in benchmarks/, which is not here")
    spec = importlib.util.spec_from_file_location("_plain_phenoseq", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def both(plain, **sizes):
    ours = network(**sizes)
    theirs = plain.PlainDenoiser(6, 4, **{**TINY, **sizes}).eval()
    plain.take_weights(theirs, ours)
    return ours, theirs


@pytest.mark.parametrize("n_cells", [1, 5])
def test_a_prediction_is_that_of_the_plain_network(plain, n_cells):
    ours, theirs = both(plain)
    x, images, t = torch.randn(7, 4), torch.randn(7, n_cells, 6), torch.arange(7) * 140
    with torch.no_grad():
        found = ours.denoiser(x[:, None], t[:, None], ours.context(images))[:, 0]
        wanted = theirs(x, images, t)
    assert wanted.std() > 0.1
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_loss_and_gradients_are_those_of_the_plain_step(plain):
    ours, theirs = both(plain)
    images, rna, key = torch.randn(5, 4, 6), torch.randn(5, 1, 4), torch.arange(5)
    loss = ours.loss(images, rna, key)
    t = (uniform(key, (1,), seed=0, purpose="time") * 1000).long()[:, 0]
    noise = normal(key, (1, 4), seed=0, purpose="noise")[:, 0]
    wanted = plain.plain_loss(theirs, rna[:, 0], images, t, noise)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)
    loss.backward()
    wanted.backward()
    for a, b in [
        (ours.encoder.project[0].weight, theirs.project_image[0].weight),
        (ours.denoiser.blocks[0].ff.widen.weight, theirs.blocks[0].widen.weight),
        (ours.denoiser.time[0].weight, theirs.time[0].weight),
    ]:
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=1e-5)
    # Queries and keys of the single token, frozen here, learn nothing there either.
    assert theirs.blocks[0].own.in_proj_weight.grad[:32].abs().max() < 1e-6


@pytest.mark.parametrize("n_steps", [1, 3, 50])
def test_draws_are_those_of_the_plain_sampler(plain, n_steps):
    ours, theirs = both(plain)
    images = torch.randn(3, 1, 6)
    sampler = DDIM(ours.diffusion)
    sampler.set_timesteps(n_steps)
    with torch.inference_mode():
        found = ours.generate(images, None, sampler=sampler, n_samples=2, seed=5, antithetic=False)
    first = normal(torch.arange(2), (4,), seed=5, purpose="first noise")
    for draw in range(2):
        wanted = plain.plain_sample(theirs, images, first[draw].expand(3, 4), n_steps)
        torch.testing.assert_close(found[:, draw], wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("n_cells", [1, 5])
def test_folding_changes_nothing(n_cells, masked):
    ours = network()
    context = ours.context(torch.randn(3, n_cells, 6))
    mask = torch.ones(3, n_cells, dtype=torch.bool) if masked else None
    if masked and n_cells > 1:
        mask[0, 2:] = False
    x = torch.randn(3, 2, 4)
    with torch.inference_mode():
        folded = FoldedDenoiser(ours.denoiser, context, [900, 30], mask=mask)
        for t in (900, 30):
            wanted = ours.denoiser(x, torch.full((3, 2), t), context, mask)
            torch.testing.assert_close(folded(x, t), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_cells", [1, 5])
def test_half_precision_draws_nearly_the_same(n_cells):
    ours = network()
    images = torch.randn(3, n_cells, 6)
    sampler = DDIM(ours.diffusion)
    sampler.set_timesteps(10)
    given = {"sampler": sampler, "n_samples": 2, "seed": 0}
    with torch.inference_mode():
        wanted = ours.generate(images, None, **given)
        with torch.autocast("cpu", torch.bfloat16):
            found = ours.generate(images, None, **given)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_filler_cells_of_a_set_count_for_nothing():
    ours = network()
    cells = torch.randn(1, 3, 6)
    padded = torch.cat([cells, 100 * torch.ones(1, 2, 6)], dim=1)
    mask = torch.tensor([[True, True, True, False, False]])
    found = ours.context(padded, mask)[:, :3]
    torch.testing.assert_close(found, ours.context(cells), rtol=0, atol=1e-6)


def test_rna_cells_of_a_document_do_not_see_each_other():
    ours = network()
    images, x, t = torch.randn(2, 4, 6), torch.randn(2, 3, 4), torch.randint(0, 1000, (2, 3))
    context = ours.context(images)
    together = ours.denoiser(x, t, context)
    for k in range(3):
        alone = ours.denoiser(x[:, k : k + 1], t[:, k : k + 1], context)
        torch.testing.assert_close(together[:, k : k + 1], alone, rtol=0, atol=1e-6)


def test_a_document_of_many_rna_cells_is_the_mean_over_them():
    ours = network()
    images, rna, key = torch.randn(2, 4, 6), torch.randn(2, 3, 4), torch.tensor([5, 9])
    t = (uniform(key, (3,), seed=0, purpose="time") * 1000).long()
    noise = normal(key, (3, 4), seed=0, purpose="noise")
    context = ours.context(images)
    parts = [
        (ours.denoiser(ours.diffusion.add_noise(rna, noise, t), t, context) - noise)[:, k]
        for k in range(3)
    ]
    wanted = torch.stack([p.square().mean() for p in parts]).mean()
    assert ours.loss(images, rna, key).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_dropout_is_drawn_in_training_alone():
    ours = network(dropout=0.5)
    images, rna, key = torch.randn(2, 4, 6), torch.randn(2, 1, 4), torch.arange(2)
    assert ours.loss(images, rna, key) == ours.loss(images, rna, key)
    ours.train()
    assert ours.loss(images, rna, key) != ours.loss(images, rna, key)


def test_dropout_of_the_single_token_leaves_out_whole_heads():
    """Attention weights are one number for each head: 1, or with dropout 0 or 1 / (1 - p)."""
    attention = OneTokenAttention(8, 4, 0.5).train()
    for layer in (attention.value, attention.out):
        torch.nn.init.eye_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    with torch.no_grad():
        found = attention(torch.ones(200, 1, 8)).view(200, 4, 2)
    assert found.unique().tolist() == [0.0, 2.0]
    assert torch.equal(found[..., 0], found[..., 1])
    assert (found[..., 0].std(dim=1) > 0).sum() > 100


def test_left_out_contexts_are_those_of_their_key():
    ours = network(dropout=0.0).train()
    ours.context_dropout = 0.5
    rna, key = torch.randn(40, 1, 4), torch.arange(40)
    images = torch.randn(40, 4, 6, requires_grad=True)
    ours.loss(images, rna, key).backward()
    seen = images.grad.abs().sum((1, 2)) > 0
    left_out = uniform(key, (1, 1), seed=0, purpose="context")[:, 0, 0] < 0.5
    assert torch.equal(seen, ~left_out) and 5 < left_out.sum() < 35
