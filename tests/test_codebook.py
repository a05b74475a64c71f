"""TIDE's parts: codebook, dose, and the network of perturbation responses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.codebook import Codebook, distillation_loss
from cellfuse.nn.film import DoseFiLM, log_dose
from cellfuse.nn.response import RESPONSE_PRESETS, ResponseNetwork, ResponseSizes

TINY = ResponseSizes(16, 2, n_latents=2, n_cross=1, n_self=1, depth=1, hidden=16)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, *args, **kwargs):
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return make(*args, **kwargs)


def book(n: int = 4, bits: int = 12) -> Codebook:
    return seeded(Codebook, (drawn(n, bits) > 0).float(), width=6, hidden=8)


# -- codebook -------------------------------------------------------------------------------------


def test_prototypes_start_at_their_chemistry():
    made = book()
    mlp = made.mlp
    by_hand = mlp[2](F.gelu(mlp[0](made.fingerprints)))
    by_hand = by_hand / by_hand.norm(dim=1, keepdim=True)
    torch.testing.assert_close(made(), by_hand)
    torch.testing.assert_close(made.initial, by_hand.detach())
    torch.testing.assert_close(made.embed(made.fingerprints), by_hand)
    assert (made.delta == 0).all()


def test_prototypes_drift_and_unseen_compounds_stay_with_their_chemistry():
    made = book()
    before = made.embed(made.fingerprints).detach()
    made.delta.data[1] += 0.5
    torch.testing.assert_close(made()[[0, 2, 3]], before[[0, 2, 3]])
    raw = made.mlp(made.fingerprints)[1] + 0.5
    torch.testing.assert_close(made()[1], raw / raw.norm())
    torch.testing.assert_close(made.embed(made.fingerprints), before)
    torch.testing.assert_close(made.initial, before)  # kept for the comparison
    assert made.initial.requires_grad is False
    assert "initial" in made.state_dict()


def test_the_sizes_are_the_settled_ones():
    made = Codebook(torch.zeros(2, 2048))
    shapes = [tuple(layer.weight.shape) for layer in made.mlp if isinstance(layer, nn.Linear)]
    assert shapes == [(512, 2048), (256, 512)]
    assert made.temperature == 0.1


def test_the_distribution_is_the_papers_formula():
    made, h = book(), drawn(5, 6, seed=3) * 10
    v = made()
    expected = (h @ v.T / (0.1 * h.norm(dim=1, keepdim=True))).softmax(dim=1)
    torch.testing.assert_close(made.log_probabilities(h).exp(), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(made.log_probabilities(3 * h, v), made.log_probabilities(h))


def test_labels_teach_the_mlp_and_the_drift():
    made = book()
    F.nll_loss(made.log_probabilities(drawn(4, 6)), torch.arange(4)).backward()
    assert made.delta.grad.abs().sum() > 0
    assert all(p.grad.abs().sum() > 0 for p in made.mlp.parameters())


def test_distillation_is_the_divergence_from_the_teacher():
    student = drawn(3, 5).log_softmax(1).requires_grad_()
    teacher = drawn(3, 5, seed=1).log_softmax(1).requires_grad_()
    loss = distillation_loss(student, teacher)
    p, q = teacher.exp(), student.exp()
    torch.testing.assert_close(loss, (p * (p / q).log()).sum(1).mean())
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)


def test_bad_codebooks_are_named():
    with pytest.raises(ValueError, match=r"\(drugs, bits\), found \(4,\)"):
        Codebook(torch.zeros(4))
    with pytest.raises(ValueError, match="temperature=0"):
        Codebook(torch.zeros(2, 4), temperature=0.0)


# -- dose -----------------------------------------------------------------------------------------


def test_dose_changes_nothing_at_the_start_and_then_scales_and_shifts():
    film = seeded(DoseFiLM, 4, hidden=5)
    h, dose = drawn(3, 4), torch.tensor([0.0, 0.1, 10.0])
    assert (film(h, dose) == h).all()
    for parameter in film.parameters():
        parameter.data += 0.3 * drawn(*parameter.shape)
    x = torch.log10(dose + 0.001)[:, None]
    gamma, beta = film.mlp[2](F.silu(film.mlp[0](x))).split(4, dim=1)
    torch.testing.assert_close(film(h, dose), h * (1 + gamma) + beta)
    assert (film(h, None) == h).all()
    torch.testing.assert_close(log_dose(torch.tensor([0.999])), torch.tensor([0.0]))


# -- response -------------------------------------------------------------------------------------


def response(n_genes=10, n_bits=12) -> ResponseNetwork:
    return seeded(ResponseNetwork, n_genes, n_bits, TINY)


def moved(net: ResponseNetwork) -> ResponseNetwork:
    """Weights away from their start, where the decoder says 0 and dose does nothing."""
    for number, parameter in enumerate(net.parameters()):
        parameter.data += 0.2 * drawn(*parameter.shape, seed=number)
    return net


def test_no_change_is_the_first_prediction():
    net = response()
    net.set_statistics(drawn(10), drawn(10).abs())
    basal, treated = drawn(3, 10, seed=1), drawn(3, 10, seed=2)
    losses = net(basal, treated, drawn(3, 12), torch.ones(3))
    expected = ((treated - basal) / net.unit).square().mean()
    torch.testing.assert_close(losses["drug_loss"], expected)
    torch.testing.assert_close(losses["profile_loss"], expected)
    torch.testing.assert_close(losses["loss"], 2 * expected)


def test_the_losses_are_those_of_the_predictions():
    net = moved(response())
    net.set_statistics(drawn(10), torch.tensor([0.0, *[2.0] * 9]))
    assert net.unit[0] == 1  # a constant gene
    basal, treated, shown = (drawn(3, 10, seed=i) for i in (1, 2, 3))
    drug, dose, other = drawn(3, 12), torch.tensor([0.1, 1.0, 10.0]), torch.ones(3)
    losses = net(basal, treated, drug, dose, shown=shown, shown_dose=other)
    for name, effect in (
        ("drug_loss", net.effect_of_drug(drug)),
        ("profile_loss", net.effect_and_state(shown, basal, other)[0]),
    ):
        error = (net.predict(basal, effect, dose) - treated) / net.unit
        torch.testing.assert_close(losses[name], error.square().mean(), rtol=1e-4, atol=1e-5)
    again = net(basal, treated, drug, dose)["profile_loss"]
    effect, _ = net.effect_and_state(treated, basal, dose)
    error = (net.predict(basal, effect, dose) - treated) / net.unit
    torch.testing.assert_close(again, error.square().mean(), rtol=1e-4, atol=1e-5)


def test_state_knows_no_treatment_and_effects_know_no_fingerprint():
    net = moved(response())
    basal, treated, dose = drawn(3, 10), drawn(3, 10, seed=1), torch.ones(3)
    effect, state = net.effect_and_state(treated, basal, dose)
    assert effect.shape == state.shape == (3, 16)
    torch.testing.assert_close(net.effect_and_state(2 * treated, basal, dose)[1], state)
    assert not torch.allclose(net.effect_and_state(treated, 2 * basal, dose)[1], state)
    without = net.predict(basal, net.effect_of_drug(drawn(3, 12)), None)
    assert not torch.allclose(without, net.predict(basal, net.effect_of_drug(drawn(3, 12)), dose))
    effect.square().sum().backward()
    assert all(p.grad is None for p in net.from_drug.parameters())


@pytest.fixture(scope="module")
def trained():
    """Six drugs with a direction each, whose strength grows with the logarithm of the dose."""
    direction, drugs = drawn(6, 10, seed=8), torch.eye(6)
    doses = torch.tensor([0.01, 0.1, 1.0, 10.0])
    strength = torch.tensor([0.0, 0.4, 0.8, 1.2])
    net = response(n_bits=6)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        drug = torch.randint(6, (32,), generator=generator)
        at, shown_at = torch.randint(4, (2, 32), generator=generator)
        basal = 0.3 * torch.randn(32, 10, generator=generator)
        treated, shown = (basal + strength[i][:, None] * direction[drug] for i in (at, shown_at))
        loss = net(basal, treated, drugs[drug], doses[at], shown=shown, shown_dose=doses[shown_at])[
            "loss"
        ]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval(), direction, drugs


def test_it_learns_a_graded_response_and_doses_in_between(trained):
    net, direction, drugs = trained
    basal = torch.zeros(6, 10)
    with torch.no_grad():
        for dose, strength in ((0.1, 0.4), (0.32, 0.6), (3.2, 1.0)):
            found = net.predict(basal, net.effect_of_drug(drugs), torch.full((6,), dose))
            error = (found - strength * direction).square().mean()
            assert error < 0.1 * (strength * direction).square().mean()


def test_an_effect_read_at_one_dose_foretells_another(trained):
    net, direction, _ = trained
    basal = torch.zeros(6, 10)
    with torch.no_grad():
        low, _ = net.effect_and_state(0.4 * direction, basal, torch.full((6,), 0.1))
        high, _ = net.effect_and_state(1.2 * direction, basal, torch.full((6,), 10.0))
        found = net.predict(basal, low, torch.full((6,), 10.0))
    assert (found - 1.2 * direction).square().mean() < 0.1 * (1.2 * direction).square().mean()
    # The effect hangs on the drug, hardly on the dose it was read at.
    distance = torch.cdist(low, high)
    assert distance.diag().mean() < 0.5 * distance[~torch.eye(6, dtype=torch.bool)].mean()


def test_presets():
    assert set(RESPONSE_PRESETS) == {"small", "base"}
    net = ResponseNetwork(978, 2048, RESPONSE_PRESETS["small"])
    assert sum(p.numel() for p in net.parameters()) < 2e6
