"""Cross-modal autoencoder (Yang et al. 2021): two VAEs, the second into the space of the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.autoencoders import CellAutoencoder, InputSpec, Sizes, build
from cellfuse.nn.keyed import normal

__all__ = ["CrossModalAutoencoder", "VariationalCell", "reverse_gradient"]


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


def reverse_gradient(x: Tensor, weight: float = 1.0) -> Tensor:
    """`x` itself; its gradient comes back with the sign turned and times `weight`."""
    return cast("Tensor", _Reverse.apply(x, weight))


class VariationalCell(nn.Module):
    """One modality: a cell to a normal distribution in the shared space, and back to the cell."""

    def __init__(self, spec: InputSpec, sizes: Sizes, n_latent: int) -> None:
        super().__init__()
        self.cell: CellAutoencoder = build(spec, sizes)
        self.n_latents, self.width = sizes.n_latents, sizes.width
        self.moments = nn.Linear(sizes.width, 2 * n_latent)
        self.expand = nn.Linear(n_latent, sizes.n_latents * sizes.width)

    def encode(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance ``(N, n_latent)`` of prepared cells."""
        mean, log_var = self.moments(self.cell.encode(prepared).mean(dim=1)).float().chunk(2, dim=1)
        return mean, log_var.clamp(-10, 10)

    def decode(self, z: Tensor) -> Tensor:
        """Every token of the cell."""
        return self.cell.decode(self.expand(z).unflatten(1, (self.n_latents, self.width)))

    def reconstruction(self, prepared: Tensor, z: Tensor) -> Tensor:
        """Loss of every token, per cell ``(N,)``."""
        everything = torch.ones(
            len(prepared), self.cell.n_tokens, dtype=torch.bool, device=prepared.device
        )
        return self.cell.loss(prepared, self.decode(z), everything)


class CrossModalAutoencoder(nn.Module):
    """Two VAEs, a classifier of the context and a discriminator of the modality.

    Stage 0 trains the first modality's VAE and the classifier. Stage 1 freezes both and trains the
    second VAE into the space: reconstruction, KL, the frozen classifier, and a discriminator that
    must not tell the two modalities apart.

    Parameters
    ----------
    specs
        Input of the two modalities; the first one's space is the shared one.
    sizes
        Sizes of PETRI's encoders and decoders; there is no set transformer.
    n_contexts
        Classes of the classifier.
    n_latent
        Dimensions of the shared space.
    weights
        Weight of each modality's reconstruction.
    weight_kl, weight_class, weight_adversary
        Weights of the other terms.
    seed
        Seed of noise and augmentation.
    """

    def __init__(
        self,
        specs: Mapping[str, InputSpec],
        sizes: Sizes,
        *,
        n_contexts: int,
        n_latent: int,
        weights: Mapping[str, float],
        weight_kl: float = 1e-3,
        weight_class: float = 1.0,
        weight_adversary: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.roles = list(specs)
        self.weights, self.weight_kl = dict(weights), weight_kl
        self.weight_class, self.weight_adversary = weight_class, weight_adversary
        self.seed, self.stage = seed, 0
        self.vaes = nn.ModuleDict(
            {name: VariationalCell(spec, sizes, n_latent) for name, spec in specs.items()}
        )
        self.classifier = nn.Linear(n_latent, n_contexts)
        self.discriminator = nn.Sequential(
            nn.Linear(n_latent, n_latent), nn.LeakyReLU(0.2), nn.Linear(n_latent, 1)
        )

    def vae(self, modality: str) -> VariationalCell:
        """Return the autoencoder of a modality."""
        return cast("VariationalCell", self.vaes[modality])

    def cell(self, modality: str) -> CellAutoencoder:
        """Return what reads and rebuilds a modality."""
        return self.vae(modality).cell

    def set_stage(self, stage: int) -> None:
        """Freeze what the stage does not train."""
        self.stage = stage
        trained: list[nn.Module] = (
            [self.vaes[self.roles[0]], self.classifier]
            if stage == 0
            else [self.vaes[self.roles[1]], self.discriminator]
        )
        self.requires_grad_(False)
        for part in trained:
            part.requires_grad_(True)

    def embed(self, modality: str, x: Tensor) -> Tensor:
        """Mean ``(N, n_latent)`` of cells ``(N, ...)``."""
        key = torch.zeros(1, dtype=torch.long, device=x.device)
        prepared = self.cell(modality).prepare(x[None], key, seed=self.seed, augment=False)
        return self.vae(modality).encode(prepared)[0]

    def _pass(
        self, role: str, x: Tensor, key: Tensor, augment: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Prepared cells, mean, log variance and a keyed draw."""
        s = x.shape[1]
        prepared = self.cell(role).prepare(x, key, seed=self.seed, augment=augment)
        mean, log_var = self.vae(role).encode(prepared)
        noise = normal(key, (s, mean.shape[1]), seed=self.seed, purpose=f"vae {role}")
        return prepared, mean, log_var, mean + noise.flatten(0, 1) * (log_var / 2).exp()

    def forward(
        self, x: Mapping[str, Tensor], key: Tensor, context: Tensor, *, augment: bool = False
    ) -> dict[str, Tensor]:
        """Losses of the stage's modality; cells ``(G, S, ...)``, key and context ``(G,)``."""
        role = self.roles[self.stage]
        prepared, mean, log_var, z = self._pass(role, x[role], key, augment)
        labels = context.repeat_interleave(x[role].shape[1])
        rebuilt = self.vae(role).reconstruction(prepared, z).mean()
        kl = (mean.square() + log_var.exp() - 1 - log_var).sum(dim=1).mean() / 2
        named = F.cross_entropy(self.classifier(z), labels)
        loss = self.weights[role] * rebuilt + self.weight_kl * kl + self.weight_class * named
        out = {f"{role}_loss": rebuilt, f"{role}_kl": kl, f"{role}_class": named}
        if self.stage == 1:
            with torch.no_grad():
                first = self._pass(self.roles[0], x[self.roles[0]], key, augment=False)[3]
            own = self.discriminator(reverse_gradient(z)).squeeze(1)
            other = self.discriminator(first).squeeze(1)
            zeros, ones = torch.zeros_like(own), torch.ones_like(other)
            told = F.binary_cross_entropy_with_logits
            adversary = (told(own, zeros) + told(other, ones)) / 2
            loss = loss + self.weight_adversary * adversary
            out["discriminator_loss"] = adversary
        return {"loss": loss, **out}
