"""Diffusion against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, norm

from cellfuse.nn.diffusion import DDIM, DDPM, Diffusion, noise_schedule
from cellfuse.nn.keyed import normal

PREDICTIONS = ("noise", "x0", "v")


# -- schedules ------------------------------------------------------------------------------------


def test_the_cosine_schedule_is_its_closed_form_but_for_the_last_step():
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    found = noise_schedule(1000, "cosine")
    np.testing.assert_allclose(found[:-1], np.array(f[1:-1]) / f[0], rtol=1e-9)
    # The closed form ends at 0; a beta of at most .999 keeps a thousandth of the step before.
    assert found[-1] == pytest.approx(float(found[-2]) * 1e-3)
    assert found.dtype == torch.float64


def test_the_linear_schedule_is_that_of_ho_et_al():
    betas = np.linspace(1e-4, 0.02, 1000)
    np.testing.assert_allclose(noise_schedule(1000, "linear"), np.cumprod(1 - betas), rtol=1e-9)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("n_steps", [1, 2, 10, 1000])
def test_schedules_fall_from_below_1_and_stay_above_0(schedule, n_steps):
    ab = np.concatenate([[1.0], noise_schedule(n_steps, schedule)])
    assert (np.diff(ab) < 0).all() and ab[-1] > 0


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: noise_schedule(0), "at least one step"),
        (lambda: noise_schedule(10, "sigmoid"), r"schedule='sigmoid'.*cosine"),
        (lambda: Diffusion(prediction="score"), r"prediction='score'.*noise"),
        (lambda: DDIM(Diffusion(10), eta=1.5), "eta must be from 0 to 1, found 1.5"),
        (lambda: DDIM(Diffusion(10)).set_timesteps(0), "from 1 to 10 .* found 0"),
        (lambda: DDIM(Diffusion(10)).set_timesteps(11), "from 1 to 10 .* found 11"),
        (lambda: DDIM(Diffusion(10)).set_timesteps(2.5), "whole number"),
        (lambda: DDIM(Diffusion(10)).set_timesteps(None), "whole number .* found None"),
        (lambda: DDIM(Diffusion(10)).set_timesteps("5"), "whole number .* found '5'"),
        (lambda: DDIM(Diffusion(10)).set_timesteps(math.nan), "whole number .* found nan"),
        (lambda: DDIM(Diffusion(10)).set_timesteps(True), "whole number .* found True"),
    ],
)
def test_impossible_arguments_are_refused(call, text):
    with pytest.raises(ValueError, match=text):
        call()


# -- the forward process --------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("t", [0, 250, 999])
def test_noised_values_have_the_closed_forms_mean_and_variance(schedule, t):
    process = Diffusion(1000, schedule=schedule)
    n, start = 40_000, 1.5
    x0 = torch.full((n, 1), start)
    noise = normal(torch.arange(n), (1,), seed=0, purpose="noise")
    x = process.add_noise(x0, noise, torch.full((n,), t))[:, 0].double()
    ab = process.alpha_bar(t)
    assert kstest((x - math.sqrt(ab) * start) / math.sqrt(1 - ab), norm.cdf).pvalue > 1e-3


@pytest.mark.parametrize("prediction", PREDICTIONS)
@settings(max_examples=20, deadline=None)
@given(t=st.integers(0, 990), seed=st.integers(0, 1000))
def test_the_target_gives_back_what_was_mixed(prediction, t, seed):
    process = Diffusion(1000, prediction=prediction)
    x0, noise = torch.from_numpy(np.random.default_rng(seed).normal(size=(2, 3, 4))).float()
    at = torch.full((3,), t)
    x = process.add_noise(x0, noise, at)
    found_x0, found_noise = process.split(x.double(), process.target(x0, noise, at).double(), t)
    # One of them is divided by the little there is of it in the mixture.
    ab = process.alpha_bar(t)
    torch.testing.assert_close(found_x0.float(), x0, rtol=0, atol=1e-6 / math.sqrt(ab))
    torch.testing.assert_close(found_noise.float(), noise, rtol=0, atol=1e-6 / math.sqrt(1 - ab))


def test_v_at_hand_worked_angles():
    process = Diffusion(1000, prediction="v")
    t = torch.tensor([499])
    a, b = math.sqrt(process.alpha_bar(499)), math.sqrt(1 - process.alpha_bar(499))
    v = process.target(torch.tensor([[2.0]]), torch.tensor([[3.0]]), t)
    assert v.item() == pytest.approx(a * 3 - b * 2, rel=1e-5)


# -- steps ----------------------------------------------------------------------------------------


def test_fifty_steps_are_those_of_the_paper():
    sampler = DDIM(Diffusion(1000))
    sampler.set_timesteps(50)
    assert sampler.timesteps == list(range(980, -1, -20))


@settings(max_examples=60, deadline=None)
@given(total=st.integers(1, 300), share=st.floats(0, 1))
def test_exactly_the_steps_asked_for_are_taken(total, share):
    n = max(1, round(share * total))
    for kind in (DDIM, DDPM):
        sampler = kind(Diffusion(total))
        sampler.set_timesteps(n)
        assert len(set(sampler.timesteps)) == n
        assert sampler.timesteps == sorted(sampler.timesteps, reverse=True)
        assert sampler.timesteps[-1] == 0 and sampler.timesteps[0] < total
        assert [sampler.is_last(t) for t in sampler.timesteps] == [False] * (n - 1) + [True]


def test_a_step_that_was_not_set_is_refused():
    sampler = DDIM(Diffusion(1000))
    with pytest.raises(ValueError, match="set_timesteps"):
        sampler.step(torch.zeros(1), 5, torch.zeros(1))


@pytest.mark.parametrize("sampler", [DDIM(Diffusion(100), eta=0.5), DDPM(Diffusion(100))])
def test_a_random_step_without_noise_is_refused(sampler):
    sampler.set_timesteps(10)
    with pytest.raises(ValueError, match="noise"):
        sampler.step(torch.zeros(1), 90, torch.zeros(1))


def test_ddim_with_all_the_noise_is_ddpm():
    process = Diffusion(1000)
    ddim, ddpm = DDIM(process, eta=1.0), DDPM(process)
    x, predicted, noise = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 7)))
    for n in (7, 50, 1000):
        ddim.set_timesteps(n)
        ddpm.set_timesteps(n)
        for t in (ddim.timesteps[1], ddim.timesteps[-2], 0):
            a, b = (s.step(predicted, t, x, noise) for s in (ddim, ddpm))
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


# -- a target whose best denoiser is known --------------------------------------------------------

MEAN, SD = 1.5, 0.4


def best(process: Diffusion, x: torch.Tensor, t: int) -> torch.Tensor:
    """What the best denoiser of N(MEAN, SD^2) predicts: from the mean of x0 given x_t."""
    ab = process.alpha_bar(t)
    a, b = math.sqrt(ab), math.sqrt(1 - ab)
    x0 = MEAN + a * SD**2 / (ab * SD**2 + 1 - ab) * (x - a * MEAN)
    noise = (x - a * x0) / b
    return {"noise": noise, "x0": x0, "v": a * noise - b * x0}[process.prediction]


def run(sampler, n_steps: int, n: int = 20_000) -> torch.Tensor:
    sampler.set_timesteps(n_steps)
    key = torch.arange(n)
    x = normal(key, (1,), seed=0, purpose="first").double()
    for t in sampler.timesteps:
        noise = normal(key, (1,), seed=0, purpose=f"step {t}").double()
        x = sampler.step(best(sampler.diffusion, x, t), t, x, noise)
    return x[:, 0]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_ddim_gives_back_mean_and_variance_of_a_gaussian(prediction, schedule):
    x = run(DDIM(Diffusion(1000, schedule=schedule, prediction=prediction)), 200)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert x.std().item() == pytest.approx(SD, rel=0.05)
    assert kstest((x - x.mean()) / x.std(), norm.cdf).pvalue > 1e-3


def test_fifty_steps_come_near():
    x = run(DDIM(Diffusion(1000)), 50)
    assert x.mean().item() == pytest.approx(MEAN, abs=0.06)
    assert x.std().item() == pytest.approx(SD, rel=0.1)


def test_ddpm_on_all_steps_gives_back_mean_and_variance():
    x = run(DDPM(Diffusion(1000)), 1000, n=4000)
    assert x.mean().item() == pytest.approx(MEAN, abs=4 * SD / math.sqrt(4000))
    assert x.std().item() == pytest.approx(SD, rel=0.05)


def test_ddim_is_a_rising_function_of_its_first_noise():
    """Without noise of its own, the map from noise to data keeps the order."""
    sampler = DDIM(Diffusion(1000))
    sampler.set_timesteps(50)
    x = torch.linspace(-3, 3, 41, dtype=torch.float64)
    for t in sampler.timesteps:
        x = sampler.step(best(sampler.diffusion, x, t), t, x)
    assert (x.diff() > 0).all()


# -- noise by key ---------------------------------------------------------------------------------


def test_keyed_noise_is_normal_and_hangs_on_its_key_alone():
    many = normal(torch.arange(200), (31,), seed=3, purpose="noise")
    assert kstest(many.flatten().double(), norm.cdf).pvalue > 1e-3
    alone = normal(torch.tensor([7]), (31,), seed=3, purpose="noise")
    assert torch.equal(alone[0], many[7])
    correlation = np.corrcoef(many.numpy())
    assert np.abs(correlation - np.eye(200)).max() < 0.85
    for other in ({"seed": 4, "purpose": "noise"}, {"seed": 3, "purpose": "time"}):
        assert not torch.equal(normal(torch.tensor([7]), (31,), **other), alone)
