"""Networks: what is hidden stays hidden, and each layer is what the paper writes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nn_parts import KEY, PURPOSE, SPECS, cells, network, poke, present
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from cellfuse.nn import (
    GeneDecoder,
    GeneEncoder,
    InputSpec,
    JointMaskedAutoencoder,
    SetTransformer,
    Sizes,
    TokenDecoder,
    TokenEncoder,
    random_mask,
    sincos_positions,
    uniform,
)
from cellfuse.nn.genes import distinct_pairs

# -- keyed random numbers -------------------------------------------------------------------------


def test_a_documents_numbers_do_not_hang_on_its_batch():
    keys = torch.tensor([5, 0, 2**40, 17])
    whole = uniform(keys, (3, 4), **PURPOSE)
    for order in ([2, 0], [3], [1, 1, 3]):
        assert (uniform(keys[order], (3, 4), **PURPOSE) == whole[order]).all()


def test_keyed_numbers_are_uniform():
    numbers = uniform(torch.arange(500), (40,), **PURPOSE).double().numpy()
    assert 0 <= numbers.min()
    assert numbers.max() < 1
    assert stats.kstest(numbers.ravel(), "uniform").pvalue > 1e-3
    assert stats.kstest(numbers[:, 0], "uniform").pvalue > 1e-3
    assert stats.kstest(numbers[0], "uniform").pvalue > 1e-3


def test_neighbouring_keys_and_places_are_unrelated():
    numbers = uniform(torch.arange(500), (200,), **PURPOSE).double().numpy()
    assert abs(np.corrcoef(numbers[1:].ravel(), numbers[:-1].ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(numbers[:, 1:].ravel(), numbers[:, :-1].ravel())[0, 1]) < 0.02
    assert len(np.unique(numbers)) > 0.99 * numbers.size


@pytest.mark.parametrize("other", [{"seed": 1}, {"purpose": "another"}, {"seed": 2**31 - 1}])
def test_seeds_and_purposes_are_unrelated(other):
    key = torch.arange(500)
    one = uniform(key, (40,), **PURPOSE).numpy().ravel()
    two = uniform(key, (40,), **{**PURPOSE, **other}).numpy().ravel()
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03
    assert not np.isin(one[:50], two).any()


@pytest.mark.parametrize("seed", [0, 2**31, 2**63, 2**64 - 1])
def test_every_seed_has_its_numbers(seed):
    assert uniform(torch.arange(3), (2,), seed=seed, purpose="test").shape == (3, 2)


# -- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_tokens", "ratio", "n_hidden"), [(100, 0.75, 75), (4, 0.75, 3), (2, 0.01, 1), (2, 0.99, 1)]
)
def test_each_cell_has_its_share_hidden(n_tokens, ratio, n_hidden):
    keep, mask = random_mask(torch.arange(5), 3, n_tokens, ratio=ratio, **PURPOSE)
    assert mask.shape == (15, n_tokens)
    assert (mask.sum(dim=1) == n_hidden).all()
    assert keep.shape == (15, n_tokens - n_hidden)
    assert not mask.gather(1, keep).any()
    assert all(len(row.unique()) == len(row) for row in keep)


def test_cells_and_documents_are_masked_differently_and_evenly():
    _, mask = random_mask(torch.arange(200), 5, 16, ratio=0.75, **PURPOSE)
    assert len(mask.unique(dim=0)) > 700  # of 1,000 cells, in 1,820 possible masks
    hidden = mask.sum(dim=0).numpy()
    assert stats.chisquare(hidden).pvalue > 1e-3


def test_modalities_are_masked_independently():
    module = network("numbers", "counts")
    key = torch.arange(300)
    one, two = (module.mask(name, key, 4)[1].float().flatten() for name in ("numbers", "counts"))
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


# -- no leakage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(SPECS))
def test_hidden_tokens_do_not_reach_the_latents_and_seen_ones_do(kind):
    module = network(kind)
    cell = module.cell(kind)
    prepared = cell.prepare(cells(SPECS[kind]), KEY, seed=0, augment=False)
    keep, mask = module.mask(kind, KEY, 2)
    latents = cell.encode(prepared, keep)
    for value in (7.0, float("nan"), float("inf")):
        assert torch.equal(cell.encode(poke(prepared, mask, value), keep), latents)
    seen = cell.encode(poke(prepared, ~mask, 7.0), keep)
    assert ((seen - latents).abs().amax(dim=(1, 2)) > 1e-4).all()


@pytest.mark.parametrize("kind", ["tokens", "numbers", "counts"])
def test_hidden_values_do_not_change_any_prediction(kind):
    kinds = ("pixels", kind)
    module = network(*kinds)
    x = {k: cells(SPECS[k]) for k in kinds}
    _, mask = module.mask(kind, KEY, 2)
    hidden, seen = dict(x), dict(x)
    hidden[kind] = poke(x[kind].flatten(0, 1), mask, 7.0).view_as(x[kind])
    seen[kind] = poke(x[kind].flatten(0, 1), ~mask, 7.0).view_as(x[kind])
    here = present(*kinds)
    before = module.reconstruct(x, KEY, here)
    after = module.reconstruct(hidden, KEY, here)
    changed = module.reconstruct(seen, KEY, here)
    for k in kinds:
        assert torch.equal(after[k][1], before[k][1])
        # What is seen reaches the other modality too: the cells of a document attend to each other.
        assert not torch.allclose(changed[k][1], before[k][1], atol=1e-6)


def test_a_hidden_patch_does_not_change_any_prediction():
    module = network("pixels", "counts")
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    _, mask = module.mask("pixels", KEY, 2)
    before = module.reconstruct(x, KEY, present("pixels", "counts"))
    for hidden in (True, False):
        changed = x["pixels"].clone()
        for number, row in enumerate(mask):
            patch = int((row == hidden).nonzero()[0])
            top, left = divmod(patch, 2)
            image = changed.view(-1, 2, 16, 16)[number]
            image[:, 8 * top : 8 * top + 8, 8 * left : 8 * left + 8] = 5.0
        after = module.reconstruct({**x, "pixels": changed}, KEY, present("pixels", "counts"))
        for k in x:
            assert torch.equal(after[k][1], before[k][1]) is hidden


def test_the_mask_that_is_handed_out_is_the_one_that_was_used():
    module = network("counts")
    rebuilt = module.reconstruct({"counts": cells(SPECS["counts"])}, KEY, present("counts"))
    assert torch.equal(rebuilt["counts"][2], module.mask("counts", KEY, 2)[1])


# -- the layers, against a plain writing-out of the paper -----------------------------------------


def attend(layer: nn.Module, x: Tensor, context: Tensor, seen: Tensor | None = None) -> Tensor:
    """Multi-head softmax attention, written out head by head."""
    width = x.shape[-1]
    q = x @ layer.query.weight.T + layer.query.bias
    kv = context @ layer.key_value.weight.T + layer.key_value.bias
    k, v = kv[..., :width], kv[..., width:]
    heads = []
    for part in torch.arange(width).view(layer.n_heads, -1):
        scores = torch.einsum("nqd,nkd->nqk", q[..., part], k[..., part]) / len(part) ** 0.5
        if seen is not None:
            scores = scores.masked_fill(~seen[:, None, :], -torch.inf)
        weights = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        heads.append(weights @ v[..., part])
    return torch.cat(heads, dim=-1) @ layer.out.weight.T + layer.out.bias


def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    scale = (centred.square().mean(dim=-1, keepdim=True) + layer.eps).sqrt()
    return centred / scale * layer.weight + layer.bias


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    for layer in layers:
        x = x @ layer.weight.T + layer.bias if isinstance(layer, nn.Linear) else F.gelu(x)
    return x


def block(layer: nn.Module, x: Tensor, seen: Tensor | None = None) -> Tensor:
    normed = norm(layer.norm_attention, x)
    x = x + attend(layer.attention, normed, normed, seen)
    return x + mlp(layer.mlp, norm(layer.norm_mlp, x))


def perturbed(module: nn.Module) -> nn.Module:
    """Weights of a trained network's size: nothing is zero, nothing one."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def test_the_token_encoder_is_a_vit_whose_appended_latents_are_kept():
    encoder = perturbed(TokenEncoder(5, (3, 4), width=16, depth=2, n_heads=4, n_latents=3))
    tokens = torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[7, 0, 3], [11, 2, 5]])
    seen = torch.stack([tokens[i, keep[i]] for i in range(2)])
    x = seen @ encoder.embed.weight.T + encoder.embed.bias
    x = x + torch.stack([sincos_positions((3, 4), 16)[k] for k in keep])
    x = torch.cat([x, encoder.latents.expand(2, 3, 16)], dim=1)
    for layer in encoder.blocks:
        x = block(layer, x)
    torch.testing.assert_close(
        encoder(tokens, keep), norm(encoder.norm, x[:, -3:]), rtol=0, atol=1e-5
    )


def test_the_token_decoder_has_latents_beside_a_full_sequence_of_mask_tokens():
    decoder = perturbed(TokenDecoder(5, (12,), latent_width=16, width=8, depth=2, n_heads=2))
    latents = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    queries = (decoder.mask_token + sincos_positions((12,), 8)).expand(2, 12, 8)
    embedded = latents @ decoder.embed.weight.T + decoder.embed.bias
    x = torch.cat([queries, embedded], dim=1)
    for layer in decoder.blocks:
        x = block(layer, x)
    x = norm(decoder.norm, x[:, :12]) @ decoder.out.weight.T + decoder.out.bias
    torch.testing.assert_close(decoder(latents), x, rtol=0, atol=1e-5)


def test_the_gene_encoder_is_a_perceiver_over_embedding_and_value():
    encoder = perturbed(GeneEncoder(9, width=16, n_cross=2, n_self=2, n_heads=4, n_latents=3))
    values = torch.randn(2, 9, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[8, 0, 3, 4], [1, 2, 5, 7]])
    tokenizer = encoder.tokenize
    # A token: [embedding, value] through two linear layers (3.2).
    seen = torch.stack([values[i, keep[i]] for i in range(2)])[..., None]
    both = torch.cat([tokenizer.embedding[keep], seen], dim=-1)
    hidden = F.gelu(both @ tokenizer.first.weight.T + tokenizer.first.bias)
    tokens = hidden @ tokenizer.second.weight.T + tokenizer.second.bias
    x = encoder.latents.expand(2, 3, 16)
    for cross, layers in zip(encoder.cross, encoder.self_blocks, strict=True):
        x = x + attend(cross.attention, norm(cross.norm_query, x), norm(cross.norm_context, tokens))
        x = x + mlp(cross.mlp, norm(cross.norm_mlp, x))
        for layer in layers:
            x = block(layer, x)
    torch.testing.assert_close(encoder(values, keep), norm(encoder.norm, x), rtol=0, atol=1e-5)


def test_a_gene_token_that_repeats_is_made_once_and_nothing_else_changes(monkeypatch):
    encoder = perturbed(GeneEncoder(9, width=16, n_cross=2, n_self=1, n_heads=4, n_latents=3))
    made = []
    encoder.tokenize.register_forward_hook(lambda *args: made.append(args[2].shape[:-1].numel()))
    rng = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.ones(40, 9), generator=rng)
    counts[0] = torch.tensor([-1.0, -0.0, 3e38, 1e-40, 0, 0, 0, 0, 0])
    keep = torch.rand(40, 9, generator=rng).argsort(dim=1)[:, :6]

    def found(keep):
        encoder.zero_grad()
        out = encoder(counts.clamp(max=9), keep)
        out.square().sum().backward()
        return [out.detach(), *(p.grad.clone() for p in encoder.parameters())]

    for kept in (None, keep):
        made.clear()
        once = found(kept)
        assert made[0] < 60
        with monkeypatch.context() as patch:
            patch.setattr("cellfuse.nn.genes.distinct_pairs", lambda *_: None)
            each = found(kept)
        assert made[1] == 40 * (9 if kept is None else 6)
        for a, b in zip(once, each, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    # What all differ in is not looked up, nor what a gradient is asked of.
    assert distinct_pairs(torch.rand(40, 9), None) is None
    assert distinct_pairs(torch.zeros(40, 9, requires_grad=True), None) is None
    values, genes, places = distinct_pairs(counts, None)
    assert (values[places] == counts).all()
    assert (genes[places] == torch.arange(9)).all()


def test_the_gene_decoder_is_an_mlp_on_the_mean_latent():
    decoder = perturbed(GeneDecoder(9, latent_width=16, hidden=8))
    latents = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decoder(latents), mlp(decoder.mlp, latents.mean(dim=1)))
    assert [layer.out_features for layer in decoder.mlp if isinstance(layer, nn.Linear)] == [
        8,
        8,
        9,
    ]


@pytest.mark.parametrize("missing", [False, True])
def test_the_set_transformer_attends_over_all_latents_of_a_document(missing):
    module = perturbed(
        SetTransformer(["image", "rna"], width=16, depth=2, n_heads=4, mlp_ratio=1.0)
    )
    generator = torch.Generator().manual_seed(0)
    latents = {
        "image": torch.randn(3, 2, 4, 16, generator=generator),
        "rna": torch.randn(3, 5, 4, 16, generator=generator),
    }
    here = present("image", "rna")
    if missing:
        here["rna"] = torch.tensor([True, False, True])
    parts = [(latents[m] + module.modality[m]).reshape(3, -1, 16) for m in ("image", "rna")]
    x = torch.cat(parts, dim=1)
    seen = torch.cat(
        [here["image"][:, None].expand(3, 8), here["rna"][:, None].expand(3, 20)], dim=1
    )
    layers = module(latents, here)
    assert len(layers) == 2
    for layer, found in zip(module.blocks, layers, strict=True):
        x = block(layer, x, seen)
        torch.testing.assert_close(found["image"], x[:, :8].view(3, 2, 4, 16), rtol=0, atol=1e-5)
        torch.testing.assert_close(found["rna"], x[:, 8:].view(3, 5, 4, 16), rtol=0, atol=1e-5)


def test_the_set_transformer_knows_no_order_of_cells():
    module = perturbed(
        SetTransformer(["image", "rna"], width=16, depth=2, n_heads=4, mlp_ratio=1.0)
    )
    generator = torch.Generator().manual_seed(0)
    latents = {m: torch.randn(2, 5, 3, 16, generator=generator) for m in ("image", "rna")}
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = {**latents, "image": latents["image"][:, order]}
    here = present("image", "rna", g=2)
    before, after = module(latents, here)[-1], module(turned, here)[-1]
    torch.testing.assert_close(after["image"], before["image"][:, order], rtol=0, atol=1e-5)
    torch.testing.assert_close(after["rna"], before["rna"], rtol=0, atol=1e-5)


def test_documents_of_a_batch_do_not_see_each_other():
    module = network("pixels", "counts")
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    other = {k: v.clone() for k, v in x.items()}
    other["counts"][2] += 5
    here = present("pixels", "counts")
    before, after = module.reconstruct(x, KEY, here), module.reconstruct(other, KEY, here)
    for k in x:
        torch.testing.assert_close(after[k][1][:4], before[k][1][:4], rtol=0, atol=1e-6)
        assert not torch.allclose(after[k][1][4:], before[k][1][4:], atol=1e-6)


# -- absent modalities ----------------------------------------------------------------------------


def test_fillers_of_an_absent_modality_influence_nothing():
    module = network("pixels", "counts")
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    here = present("pixels", "counts")
    here["counts"] = torch.tensor([True, False, True])
    other = {**x, "counts": x["counts"].clone()}
    other["counts"][1] = 50.0
    before, after = module.reconstruct(x, KEY, here), module.reconstruct(other, KEY, here)
    assert torch.equal(after["pixels"][1], before["pixels"][1])
    assert torch.equal(after["counts"][1][[0, 1, 4, 5]], before["counts"][1][[0, 1, 4, 5]])
    one, two = module(x, KEY, here), module(other, KEY, here)
    assert all(torch.equal(one[name], two[name]) for name in one)
    one["loss"].backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    two["loss"].backward()
    for p, g in zip(module.parameters(), gradients, strict=True):
        assert torch.equal(p.grad, g)


def test_the_loss_of_a_modality_is_the_mean_over_its_present_cells():
    module = network("pixels", "counts")
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    here = present("pixels", "counts")
    here["counts"] = torch.tensor([True, False, True])
    target, prediction, mask = module.reconstruct(x, KEY, here)["counts"]
    per_cell = module.cell("counts").loss(target, prediction, mask)
    expected = per_cell[[0, 1, 4, 5]].mean()
    torch.testing.assert_close(module(x, KEY, here)["counts_loss"], expected)


def test_a_batch_without_a_modality_has_no_loss_of_it():
    module = network("pixels", "counts")
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    here = {**present("pixels"), "counts": torch.zeros(3, dtype=torch.bool)}
    losses = module(x, KEY, here)
    assert losses["counts_loss"] == 0
    assert losses["loss"] == losses["pixels_loss"] > 0


def test_the_loss_is_the_weighted_sum_of_the_modalities_losses():
    module = network("pixels", "counts")
    module.weights = {"pixels": 3.0, "counts": 0.25}
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    losses = module(x, KEY, present("pixels", "counts"))
    expected = 3 * losses["pixels_loss"] + 0.25 * losses["counts_loss"]
    torch.testing.assert_close(losses["loss"], expected)


# -- the whole ------------------------------------------------------------------------------------


def test_an_embedding_is_the_mean_latent_with_nothing_hidden():
    module = network("pixels", "counts")
    x = cells(SPECS["counts"])[0]
    latents = module.cell("counts").encoder(x.log1p())
    torch.testing.assert_close(module.embed("counts", x), latents.mean(dim=1))


def test_without_set_layers_cells_do_not_see_each_other():
    module = network("pixels", "counts", n_set_layers=0)
    assert module.documents is None
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    other = {**x, "counts": x["counts"] + 5}
    here = present("pixels", "counts")
    before, after = (module.reconstruct(v, KEY, here)["pixels"][1] for v in (x, other))
    assert torch.equal(before, after)


def test_every_parameter_learns():
    module = network("pixels", "counts").train()
    x = {k: cells(SPECS[k]) for k in ("pixels", "counts")}
    module(x, KEY, present("pixels", "counts"))["loss"].backward()
    idle = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    # Attention of one query to keys that share a bias does not depend on it.
    assert [n for n in idle if "key_value.bias" not in n] == []


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_the_default_sizes_are_those_of_the_paper():
    with torch.device("meta"):
        specs = {"image": InputSpec("pixels", (4, 80, 80)), "rna": InputSpec("counts", (18_082,))}
        module = JointMaskedAutoencoder(specs, Sizes(), weights={"image": 1.0, "rna": 1.0})
    image, rna = module.cell("image"), module.cell("rna")
    assert millions(image.encoder) == pytest.approx(86, abs=1)  # "85M" (A.2)
    assert millions(rna.encoder) == pytest.approx(131, rel=0.03)
    assert rna.encoder.tokenize.embedding.numel() / 1e6 == pytest.approx(14, abs=2)
    assert millions(module.documents) == pytest.approx(14, abs=0.5)
    assert millions(image.decoder) == pytest.approx(26, abs=0.5)
    assert millions(rna.decoder) == pytest.approx(2.4, abs=0.1)
    assert (image.n_tokens, rna.n_tokens) == (100, 18_082)
