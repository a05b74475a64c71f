"""PhenoSeq's network with its statistics: the loss of a document, and draws from noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cellfuse.nn.denoiser import ContextEncoder, Denoiser, DenoiserSizes, FoldedDenoiser
from cellfuse.nn.diffusion import DDIM, Diffusion
from cellfuse.nn.keyed import normal, uniform
from cellfuse.nn.ridge import RidgeMap
from cellfuse.nn.standardise import Standardise

__all__ = ["PhenoSeqNetwork"]


class PhenoSeqNetwork(nn.Module):
    """Context encoder, denoiser and diffusion.

    Parameters
    ----------
    image_width, rna_width
        Widths of the embeddings.
    sizes
        Sizes of the network.
    diffusion
        Arguments of :class:`cellfuse.nn.diffusion.Diffusion`.
    context_dropout
        Share of training documents whose context is left out.
    seed
        Seed of times, noise and left-out contexts.
    linear
        Begin at ridge regression on the mean of the image cells: the diffusion models what that
        leaves, its mean and its spread.
    """

    learnt_weight: Tensor

    def __init__(
        self,
        image_width: int,
        rna_width: int,
        sizes: DenoiserSizes,
        *,
        diffusion: Mapping[str, Any],
        context_dropout: float = 0.0,
        seed: int = 0,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.ridge = RidgeMap(image_width, rna_width) if linear else None
        #: Scale of what ridge leaves, per feature.
        self.rest = Standardise(rna_width) if linear else None
        #: How much the diffusion's mean, beside ridge, is kept of.
        self.register_buffer("learnt_weight", torch.ones(()), persistent=linear)
        self.image, self.rna = Standardise(image_width), Standardise(rna_width)
        self.encoder = ContextEncoder(image_width, sizes)
        self.denoiser = Denoiser(rna_width, sizes)
        self.diffusion = Diffusion(**diffusion)
        self.context_dropout, self.seed = context_dropout, seed

    def cell(self, role: str) -> Standardise:
        """What takes the statistics of a modality."""
        return self.image if role == "image" else self.rna

    def context(self, cells: Tensor, mask: Tensor | None = None) -> Tensor:
        """Image cells (G, N, features), as they were measured, to context tokens."""
        return self.encoder(self.image.scale(cells), mask)

    def expected(self, cells: Tensor, mask: Tensor | None = None) -> Tensor:
        """Standardised RNA ``(G, features)`` that ridge expects of image cells ``(G, N, ...)``."""
        assert self.ridge is not None
        x = self.image.scale(cells)
        if mask is None:
            return self.ridge(x.mean(dim=1))
        seen = mask[..., None].to(x.dtype)
        return self.ridge((x * seen).sum(dim=1) / seen.sum(dim=1).clamp_min(1))

    def loss(self, images: Tensor, rna: Tensor, key: Tensor) -> Tensor:
        """Mean squared error of what is predicted for noised RNA (PhenoSeq, Eq. 4).

        Parameters
        ----------
        images
            ``(G, N, features)``.
        rna
            ``(G, m, features)``: m cells, each with a time and noise of its own.
        key
            Numbers of the documents, ``(G,)``: times and noise are functions of them.
        """
        x0 = self.rna.scale(rna)
        if self.ridge is not None and self.rest is not None:
            x0 = self.rest.scale(x0 - self.expected(images)[:, None])
        size = x0.shape[1:]
        share = uniform(key, size[:1], seed=self.seed, purpose="time")
        t = (share * self.diffusion.n_steps).long()
        noise = normal(key, tuple(size), seed=self.seed, purpose="noise")
        context = self.context(images)
        if self.context_dropout and self.training:
            left_out = uniform(key, (1, 1), seed=self.seed, purpose="context")
            # No context is one of zeros, which the encoder never gives.
            context = torch.where(left_out < self.context_dropout, 0.0, context)
        predicted = self.denoiser(self.diffusion.add_noise(x0, noise, t), t, context)
        return (predicted - self.diffusion.target(x0, noise, t)).square().mean()

    def generate(
        self,
        cells: Tensor,
        mask: Tensor | None,
        *,
        sampler: DDIM,
        n_samples: int,
        seed: int,
        guidance: float = 1.0,
        antithetic: bool = True,
    ) -> Tensor:
        """Draw RNA embeddings for contexts, on the original scale.

        Parameters
        ----------
        cells, mask
            Image cells of each context, ``(G, N, features)``, and ``(G, N)`` where there is one.
        sampler
            Holds the steps.
        n_samples, seed
            Draws of each context. The noise is a function of the seed and the number of the draw
            alone: the same for every context, whatever stands beside it.
        guidance
            Weight of the context; 1 is the conditional model.
        antithetic
            Whether every second draw has the noise of the one before it, with its sign turned.

        Returns
        -------
        ``(G, n_samples, features)``.
        """
        n, pairs, every = n_samples, antithetic, 1
        weighed = self.ridge is not None and float(self.learnt_weight) != 1
        if weighed:  # each draw beside that of the opposite noise: their mean is the context's
            n, pairs, every = (n + n % 2, True, 1) if antithetic else (2 * n, True, 2)
        x = self._drawn(cells, mask, sampler, n, seed=seed, guidance=guidance, pairs=pairs)
        if weighed:
            mean = x.unflatten(1, (-1, 2)).mean(dim=2).repeat_interleave(2, dim=1)
            x = x - (1 - self.learnt_weight) * mean
        x = x[:, ::every][:, :n_samples]
        if self.ridge is not None and self.rest is not None:
            x = self.rest.restore(x) + self.expected(cells, mask)[:, None]
        return self.rna.restore(x)

    def _drawn(
        self,
        cells: Tensor,
        mask: Tensor | None,
        sampler: DDIM,
        n: int,
        *,
        seed: int,
        guidance: float,
        pairs: bool,
    ) -> Tensor:
        """`n` draws for each context, as the diffusion has them: standardised, without ridge."""
        context = self.context(cells, mask)
        steps = sampler.timesteps
        conditional = FoldedDenoiser(self.denoiser, context, steps, mask=mask)
        nothing = context.new_zeros(1, 1, context.shape[-1])
        free = FoldedDenoiser(self.denoiser, nothing, steps) if guidance != 1 else None
        key = torch.arange(n, device=context.device)

        def noise_of(purpose: str) -> Tensor:
            width = tuple(self.rna.mean.shape)
            if not pairs:
                return normal(key, width, seed=seed, purpose=purpose)
            # The map from noise to draws is nearly affine: what noise adds to a mean cancels.
            sign = 1.0 - 2.0 * (key % 2)
            return normal(key // 2, width, seed=seed, purpose=purpose) * sign[:, None]

        x = noise_of("first noise").expand(len(context), -1, -1)
        for t in steps:
            predicted = conditional(x, t)
            if free is not None:
                without = free(x, t)
                predicted = without + guidance * (predicted - without)
            noise = None
            if sampler.eta and not sampler.is_last(t):
                noise = noise_of(f"noise of step {t}")
            x = sampler.step(predicted, t, x, noise)
        return x
