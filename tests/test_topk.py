"""The BatchTopK autoencoder is its formula, learned sparsely."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from cellfuse.nn import BatchTopK
from cellfuse.nn.topk import largest


def sae(n_inputs=6, n_concepts=20, k=3, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BatchTopK(n_inputs, n_concepts, k, **options)
        with torch.no_grad():
            model.bias.uniform_(-0.2, 0.2)
            model.centre.uniform_(-0.2, 0.2)
    return model


def cells(n=40, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def plain(model, x):
    """The definition, with dense arrays."""
    z = (x - model.mean) / model.scale
    acts = F.relu((z - model.centre) @ model.encoder.T + model.bias)
    top = acts.flatten().topk(model.k * len(x))
    kept = torch.zeros_like(acts.flatten()).scatter(0, top.indices, top.values).view_as(acts)
    return z, acts, kept, kept @ model.decoder + model.centre


def test_loss_and_gradients_are_those_of_the_plain_formula():
    model, x = sae(), cells()
    model.set_statistics(x.mean(0), x.std(0, correction=0))
    out = model(x)
    out["loss"].backward()
    sparse = {name: p.grad.clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = None
    z, _, _, rebuilt = plain(model, x)
    loss = (rebuilt - z).square().mean()
    torch.testing.assert_close(out["loss"], loss)
    explained = 1 - loss / (z - z.mean(0)).square().mean()
    torch.testing.assert_close(out["variance_explained"], explained)
    loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(sparse[name], p.grad, msg=name)


def test_dead_units_alone_learn_from_what_is_left_over():
    model, x = sae(k_aux=2, dead_after=100), cells()
    model.idle[:8] = 150  # dead, and not yet long enough to begin anew
    with torch.no_grad():
        model.encoder[:8] *= 0.1  # positive here and there, and never among the largest
    z, acts, kept, rebuilt = plain(model, x)
    assert not kept[:, :8].any() and (acts[:, :8] > 0).any()
    top = acts[:, :8].topk(2, dim=1)
    dead = torch.zeros(len(x), 8).scatter(1, top.indices, top.values)
    expected = (dead @ model.decoder[:8] - (z - rebuilt).detach()).square().mean()
    out = model(x)
    torch.testing.assert_close(out["auxiliary_loss"], expected)
    assert out["n_dead"] == 8
    out["auxiliary_loss"].backward()
    assert model.decoder.grad[:8].any() and not model.decoder.grad[8:].any()
    assert model.encoder.grad[:8].any() and not model.encoder.grad[8:].any()


def test_decoder_rows_keep_length_one_and_their_gradient_is_across():
    model, x = sae(), cells()
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(5):
        optimizer.zero_grad()
        model(x)["loss"].backward()
        along = (model.decoder.grad * model.decoder).sum(1)
        torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-6, rtol=0)
        optimizer.step()
    model.normalise()
    torch.testing.assert_close(model.decoder.norm(dim=1), torch.ones(20))


def test_units_that_stay_dead_begin_anew_and_are_counted():
    model, x = sae(dead_after=40), cells()
    with torch.no_grad():
        model.bias[:5] = -100.0  # never positive: the auxiliary loss does not reach them
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    dead = []
    for _ in range(40):  # they begin quietly, and have to grow
        optimizer.zero_grad()
        out = model(x)
        out["loss"].backward()
        optimizer.step()
        dead.append(int(out["n_dead"]))
    assert dead[0] >= 5 and dead[-1] < dead[0]
    assert int(model.revived) >= 5 and (model.bias[:5] > -1).all()


def test_a_cell_has_the_same_concepts_alone_and_among_others():
    model, x = sae(), cells()
    for _ in range(3):
        model(x)
    model.eval()
    values, kept = model.activations(x)
    alone, places = model.activations(x[7:8])
    here = kept.row == 7
    assert len(alone) and torch.equal(places.column, kept.column[here])
    torch.testing.assert_close(alone, values[here])


def test_the_threshold_keeps_as_many_as_in_training():
    model, x = sae(16, 200, 10), cells(2000, 16)
    for batch in x.split(100):
        model(batch)
    model.eval()
    _, kept = model.activations(cells(2000, 16, seed=1))
    assert 9 < len(kept.row) / 2000 < 11


def test_rebuilding_is_on_the_scale_of_the_data():
    model, x = sae(), cells() * 7 + 3
    model.set_statistics(x.mean(0), x.std(0))
    model.eval()
    values, kept = model.activations(x)  # threshold 0: all that is positive
    z, acts, _, _ = plain(model, x)
    expected = (acts @ model.decoder + model.centre) * model.scale + model.mean
    torch.testing.assert_close(model.rebuild(values, kept), expected)


@pytest.mark.parametrize("n", [1, 17, 400, 5000, 9000])
@pytest.mark.parametrize("tied", [False, True])
def test_largest_finds_the_largest_positive_entries(n, tied):
    values = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    if tied:
        values = values.mul(2).round()
    places = largest(values, n)
    expected = values.topk(min(n, int((values > 0).sum()))).values.sort().values
    assert torch.equal(values[places].sort().values, expected)
    assert (places.diff() > 0).all()


def test_largest_survives_a_sample_that_misleads():
    values = torch.zeros(400_000)
    values[1::4] = 1.0  # the sample, every fourth, sees none of them
    assert len(largest(values, 1000)) == 1000


def test_k_above_the_number_of_units_is_refused():
    with pytest.raises(ValueError, match="k=21: expected a number from 1 to n_concepts=20"):
        BatchTopK(6, 20, 21)
