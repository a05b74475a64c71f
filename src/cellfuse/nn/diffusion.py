"""Gaussian diffusion: noise schedules, what a network predicts, and samplers; no network inside."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor, nn

__all__ = ["DDIM", "DDPM", "Diffusion", "Prediction", "Schedule", "noise_schedule"]

Schedule = Literal["cosine", "linear"]
Prediction = Literal["noise", "x0", "v"]

#: Offset of the cosine schedule (Nichol and Dhariwal; PhenoSeq, A.1).
COSINE_OFFSET = 0.008
#: No step adds less or more than this share of noise; of the cosine's steps only the last does.
BETA_LIMITS = (1e-5, 0.999)
#: First and last beta of the linear schedule at 1,000 steps (Ho et al.).
LINEAR_BETAS = (1e-4, 0.02)


def noise_schedule(n_steps: int, schedule: Schedule = "cosine") -> Tensor:
    """Share of signal variance that is left after each step, ``alpha_bar``.

    Parameters
    ----------
    n_steps
        Steps of the forward process, `T`.
    schedule
        ``"cosine"``: ``cos^2((t/T + s) / (1 + s) * pi/2)`` with s = 0.008, relative to t = 0;
        ``"linear"``: betas evenly spaced from 1e-4 to 0.02 at 1,000 steps, scaled by 1000 / T so
        that as much noise is added in all.

    Returns
    -------
    ``(T,)`` float64; entry t is the value after t + 1 steps.

    Raises
    ------
    ValueError
        No steps, or an unknown schedule.

    Examples
    --------
    >>> from cellfuse.nn.diffusion import noise_schedule
    >>> noise_schedule(1000)[[0, 499, 979]].numpy().round(4).tolist()
    [1.0, 0.4938, 0.001]
    """
    if n_steps < 1:
        raise ValueError(f"a diffusion needs at least one step, found n_steps={n_steps}.")
    if schedule == "cosine":
        time = torch.arange(n_steps + 1, dtype=torch.float64) / n_steps
        signal = torch.cos((time + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2
        beta = 1 - signal[1:] / signal[:-1]
    elif schedule == "linear":
        low, high = (b * 1000 / n_steps for b in LINEAR_BETAS)
        beta = torch.linspace(low, high, n_steps, dtype=torch.float64)
    else:
        raise ValueError(f"schedule={schedule!r}: expected one of {get_args(Schedule)}.")
    return torch.cumprod(1 - beta.clamp(*BETA_LIMITS), dim=0)


class Diffusion(nn.Module):
    """The forward process, and the three ways of saying what was added.

    ``x_t = sqrt(ab_t) x_0 + sqrt(1 - ab_t) noise`` with ``ab = alpha_bar`` and t from 0 to T - 1
    (PhenoSeq, A.1, whose steps 1 to T are these plus one).

    Parameters
    ----------
    n_steps
        Steps of the forward process, 1,000 (paper).
    schedule
        See :func:`noise_schedule`.
    prediction
        What a network predicts: the ``"noise"`` (paper), the clean ``"x0"``, or
        ``"v" = sqrt(ab_t) noise - sqrt(1 - ab_t) x_0``.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.diffusion import Diffusion
    >>> process = Diffusion(1000, prediction="v")
    >>> x0, noise, t = torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([400])
    >>> x_t = process.add_noise(x0, noise, t)
    >>> again, _ = process.split(x_t, process.target(x0, noise, t), 400)
    >>> torch.allclose(again, x0)
    True
    """

    signal: Tensor
    noise: Tensor

    def __init__(
        self,
        n_steps: int = 1000,
        *,
        schedule: Schedule = "cosine",
        prediction: Prediction = "noise",
    ) -> None:
        super().__init__()
        if prediction not in get_args(Prediction):
            raise ValueError(f"prediction={prediction!r}: expected one of {get_args(Prediction)}.")
        self.n_steps, self.prediction = n_steps, prediction
        alpha_bar = noise_schedule(n_steps, schedule)
        # Numbers of the schedule, not weights: on the device with the rest, in no saved file.
        self.register_buffer("signal", alpha_bar.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - alpha_bar).sqrt().float(), persistent=False)
        self._alpha_bar = alpha_bar.tolist() if alpha_bar.device.type != "meta" else []

    def alpha_bar(self, t: int) -> float:
        """Share of signal variance at step t; 1 before the first, at t = -1."""
        return 1.0 if t < 0 else self._alpha_bar[t]

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """`x0` (..., D) at steps `t` (...), with `noise` (..., D) added."""
        return self.signal[t][..., None] * x0 + self.noise[t][..., None] * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the network should predict at steps `t` (...)."""
        if self.prediction == "noise":
            return noise
        if self.prediction == "x0":
            return x0
        return self.signal[t][..., None] * noise - self.noise[t][..., None] * x0

    def split(self, x: Tensor, predicted: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Clean values and noise in `x` at step `t`, from what the network predicted."""
        a = math.sqrt(self.alpha_bar(t))
        b = math.sqrt(1 - self.alpha_bar(t))
        if self.prediction == "noise":
            return (x - b * predicted) / a, predicted
        if self.prediction == "x0":
            return predicted, (x - a * predicted) / b
        return a * x - b * predicted, b * x + a * predicted


class Sampler(ABC):
    """Walks from noise to data in exactly the number of steps asked for."""

    def __init__(self, diffusion: Diffusion) -> None:
        self.diffusion = diffusion
        self.timesteps: list[int] = []
        self._previous: dict[int, int] = {}

    def set_timesteps(self, n: int) -> None:
        """Choose `n` steps ``floor(i T / n)``, from the last: 980, 960, ..., 0 for 50 of 1,000.

        Raises
        ------
        ValueError
            No step, or more than the forward process has.
        """
        total = self.diffusion.n_steps
        whole = isinstance(n, Real) and not isinstance(n, bool) and float(n).is_integer()
        if not whole or not 1 <= n <= total:
            raise ValueError(
                f"n_steps must be a whole number from 1 to {total} (the steps of the diffusion), "
                f"found {n!r}."
            )
        self.timesteps = [i * total // int(n) for i in reversed(range(int(n)))]
        self._previous = dict(zip(self.timesteps, [*self.timesteps[1:], -1], strict=True))

    def _around(self, t: int) -> tuple[float, float]:
        """``alpha_bar`` at step `t` and at the one that comes after it, nearer to the data."""
        if t not in self._previous:
            raise ValueError(f"{t} is none of the sampler's steps; call `set_timesteps` first.")
        return self.diffusion.alpha_bar(t), self.diffusion.alpha_bar(self._previous[t])

    def is_last(self, t: int) -> bool:
        """Whether step `t` gives the data, to which nothing is added."""
        return self._previous.get(t) == -1

    @abstractmethod
    def step(self, predicted: Tensor, t: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """From `x` at step `t` and what the network predicted there to the next step."""


class DDIM(Sampler):
    """Song et al.'s sampler; without `eta` the data are a function of the first noise.

    Parameters
    ----------
    diffusion
        The forward process and what its network predicts.
    eta
        Share of the noise that DDPM would add, 0 to 1.

    Examples
    --------
    >>> from cellfuse.nn.diffusion import DDIM, Diffusion
    >>> sampler = DDIM(Diffusion(1000))
    >>> sampler.set_timesteps(50)
    >>> sampler.timesteps[:2], sampler.timesteps[-1], len(sampler.timesteps)
    ([980, 960], 0, 50)
    """

    def __init__(self, diffusion: Diffusion, *, eta: float = 0.0) -> None:
        super().__init__(diffusion)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be from 0 to 1, found {eta}.")
        self.eta = eta

    def step(self, predicted: Tensor, t: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See :meth:`Sampler.step`; `noise` is needed where `eta` is not 0, but at the last."""
        here, after = self._around(t)
        x0, eps = self.diffusion.split(x, predicted, t)
        sigma = self.eta * math.sqrt((1 - after) / (1 - here) * (1 - here / after))
        out = math.sqrt(after) * x0 + math.sqrt(1 - after - sigma**2) * eps
        if not sigma:
            return out
        if noise is None:
            raise ValueError("with eta above 0 a step takes `noise`.")
        return out + sigma * noise


class DDPM(Sampler):
    """Ho et al.'s ancestral sampler, on all steps or some of them.

    The variance of a step is that of the posterior given x_0 (Ho et al.'s smaller choice).
    """

    def step(self, predicted: Tensor, t: int, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """See :meth:`Sampler.step`; `noise` is needed but at the last."""
        here, after = self._around(t)
        x0, _ = self.diffusion.split(x, predicted, t)
        alpha = here / after
        beta = 1 - alpha
        of_x0 = math.sqrt(after) * beta / (1 - here)
        of_x = math.sqrt(alpha) * (1 - after) / (1 - here)
        mean = of_x0 * x0 + of_x * x
        if self.is_last(t):
            return mean
        if noise is None:
            raise ValueError("a step of DDPM takes `noise`.")
        return mean + math.sqrt(beta * (1 - after) / (1 - here)) * noise
