"""Autoencoders that begin at the closed form: a linear readout of what is visible, depth on top.

A cell's latents are ``readout(visible) + gate * deep(visible)``, what is rebuilt is
``out(mean latent) + gate * deep decoder(latents)``. Readout and output begin at principal
components, the gates at 0: at the first step the network is a linear autoencoder, and depth comes
in through numbers of its own, where it helps.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from cellfuse.nn.autoencoders import (
    CellAutoencoder,
    GeneAutoencoder,
    InputSpec,
    Sizes,
    TokenAutoencoder,
)
from cellfuse.nn.losses import moment_dispersion
from cellfuse.nn.masking import random_mask

__all__ = ["LinearFirst", "build_linear_first"]

#: Principal components that readout and output begin at; latents beyond them begin at 0.
N_COMPONENTS = 32
#: Cells by which their number is chosen, one half for the fit, the other for the loss.
N_CHOOSING = 4_000
#: Dispersions of counts that are begun at.
DISPERSION = (0.1, 1_000.0)


def principal_components(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Standard deviations ``(k,)`` and directions ``(d, k)`` of centred ``(N, d)``, k <= `n`.

    By random projection with a seed of its own and a few power iterations, exact to rounding for
    what is kept; directions without variance are left out.
    """
    n = min(n, *x.shape)
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(x.shape[1], min(n + 10, *x.shape), generator=generator).to(x.device)
    for _ in range(6):
        wide, _ = torch.linalg.qr(x.T @ (x @ wide))
    _, values, turned = torch.linalg.svd(x @ wide, full_matrices=False)
    sd = values[:n] / max(len(x) - 1, 1) ** 0.5
    keep = sd > 1e-6 * sd.max().clamp_min(1e-12)
    return sd[keep], (wide @ turned.T[:, :n])[:, keep]


if TYPE_CHECKING:  # what the mixin stands before
    _Base = CellAutoencoder
else:
    _Base = object


class LinearFirst(_Base):
    """Adds the linear path to an autoencoder; a subclass says what of a cell is visible, flat."""

    readout: nn.Linear
    out: nn.Linear
    gate_in: nn.Parameter
    gate_out: nn.Parameter

    def _add_linear(self, n_flat: int, sizes: Sizes) -> None:
        width, self.mask_ratio = sizes.width, sizes.mask_ratio
        self.readout, self.out = nn.Linear(n_flat, width), nn.Linear(width, n_flat)
        for layer in (self.readout, self.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.gate_in = nn.Parameter(torch.zeros(width))
        self.gate_out = nn.Parameter(torch.zeros(()))

    def visible(self, prepared: Tensor, keep: Tensor | None) -> Tensor:
        """Flat cells ``(N, n_flat)``: centred, zero where hidden, as large as if nothing were."""
        raise NotImplementedError

    def encode(self, prepared: Tensor, keep: Tensor | None = None) -> Tensor:
        """Latents ``(N, L, width)`` of the tokens that are kept (all for None)."""
        linear = self.readout(self.visible(prepared, keep))
        return linear[:, None] + self.gate_in * super().encode(prepared, keep)

    def decode(self, latents: Tensor) -> Tensor:
        """Prediction for every token."""
        deep = super().decode(latents)
        return self.out(latents.mean(dim=1)).view_as(deep) + self.gate_out * deep

    @torch.no_grad()
    def begin_at(self, cells: Tensor) -> None:
        """Begin at the principal components of some cells ``(N, ...)`` as they were read."""
        key = torch.zeros(1, dtype=torch.long, device=cells.device)
        prepared = self.prepare(cells[None], key, seed=0, augment=False)
        flat = self.visible(prepared, None)
        center = flat.mean(dim=0)
        flat = flat - center
        sd, v = principal_components(flat, min(N_COMPONENTS, len(self.readout.bias)))
        n = len(sd)
        self.readout.weight[:n] = v.T / sd[:, None]
        self.readout.bias[:n] = -(self.readout.weight[:n] @ center)
        # What hidden tokens are, given components of as few visible ones as in training: of all
        # tokens, components would carry the noise of the very ones that are to be rebuilt.
        keep, mask = random_mask(
            torch.arange(len(cells), device=cells.device),
            1,
            self.n_tokens,
            ratio=self.mask_ratio,
            seed=0,
            purpose="where a linear autoencoder begins",
        )
        z = self.readout(self.visible(prepared, keep))[:, :n]
        self._begin_out(prepared, z[:, : self._choose_n(prepared, z, mask)], mask)

    def begun(self, cells: Tensor) -> Self:
        """Copy that is at the linear autoencoder again, however far this one was trained."""
        found = copy.deepcopy(self)
        for parameter in (*found.readout.parameters(), *found.out.parameters()):
            parameter.data.zero_()
        found.gate_in.data.zero_()
        found.gate_out.data.zero_()
        found.begin_at(cells)
        return found

    def constant(self) -> Self:
        """Copy that rebuilds every cell as the output's offset, whatever of it is visible."""
        found = copy.deepcopy(self)
        found.out.weight.data.zero_()
        found.gate_out.data.zero_()
        return found

    def _choose_n(self, prepared: Tensor, z: Tensor, mask: Tensor) -> int:
        """Components that rebuild other cells best; more of them would be fitted to noise."""
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(len(z), generator=generator)[:N_CHOOSING].to(z.device)
        prepared, z, mask = prepared[chosen], z[chosen], mask[chosen]
        half = len(z) // 2
        if half < 2:
            return z.shape[1]
        losses = {}
        for n in sorted({min(n, z.shape[1]) for n in (0, 1, 2, 4, 8, 16, z.shape[1])}):
            self._begin_out(prepared[:half], z[:half, :n], mask[:half])
            rebuilt = self.out(z.new_zeros(len(z) - half, self.out.in_features))
            rebuilt = rebuilt + z[half:, :n] @ self.out.weight[:, :n].T
            found = self.loss(prepared[half:], rebuilt.view_as(prepared[half:]), mask[half:])
            losses[n] = float(found.mean())
        self.out.weight.zero_()
        return min(losses, key=losses.__getitem__)

    def _begin_out(self, prepared: Tensor, z: Tensor, mask: Tensor) -> None:
        """Begin what is rebuilt at the regression of hidden tokens on components ``(N, n)``."""
        target = prepared.flatten(1)
        hidden = mask.repeat_interleave(target.shape[1] // mask.shape[1], dim=1)
        self.out.bias.copy_(target.mean(dim=0))
        self.out.weight[:, : z.shape[1]] = _slopes(target - target.mean(dim=0), z, hidden)


def _slopes(target: Tensor, z: Tensor, hidden: Tensor) -> Tensor:
    """Regression of centred targets ``(N, d)`` on `z` ``(N, n)``, over what is hidden: (d, n).

    Slopes of a target are shrunk by 1 - 1 / F (James and Stein): those of a rare gene are noise.
    """
    n_cells = hidden.sum(dim=0).clamp_min(1)
    z = z - z.mean(dim=0)
    across = (target * hidden).T @ z / n_cells[:, None]
    among = z.T @ z / len(z)
    ridge = 1e-6 * among.diagonal().mean().clamp_min(1e-12) * torch.eye(len(among)).to(z)
    slopes = torch.linalg.solve(among + ridge, across.T).T
    explained = (slopes * across).sum(dim=1)
    left = ((target.square() * hidden).sum(dim=0) / n_cells - explained).clamp_min(0)
    noise = left * z.shape[1] / (n_cells - z.shape[1]).clamp_min(1)
    return slopes * (1 - noise / explained.clamp_min(1e-12)).clamp(0, 1)[:, None]


class LinearFirstTokens(LinearFirst, TokenAutoencoder):
    """Patches and tokens; see :class:`LinearFirst`."""

    def __init__(self, spec: InputSpec, sizes: Sizes) -> None:
        TokenAutoencoder.__init__(self, spec, sizes)
        self._add_linear(self.n_tokens * self.encoder.embed.in_features, sizes)

    def visible(self, prepared: Tensor, keep: Tensor | None) -> Tensor:
        """Patches one after the other; standardised, so that 0 is their mean."""
        if keep is None:
            return prepared.flatten(1)
        seen = prepared.new_zeros(prepared.shape[:2]).scatter_(
            1, keep, self.n_tokens / keep.shape[1]
        )
        return (prepared * seen[..., None]).flatten(1)


class LinearFirstGenes(LinearFirst, GeneAutoencoder):
    """Genes; see :class:`LinearFirst`. Counts are read as logarithms of shares."""

    share: Tensor
    depth: Tensor
    center: Tensor

    def __init__(self, spec: InputSpec, sizes: Sizes) -> None:
        GeneAutoencoder.__init__(self, spec, sizes)
        n_genes = spec.shape[0]
        self._add_linear(n_genes, sizes)
        self.register_buffer("share", torch.full((n_genes,), 1 / n_genes))
        self.register_buffer("depth", torch.ones(()))
        self.register_buffer("center", torch.zeros(n_genes))

    def set_statistics(self, mean: Tensor, sd: Tensor) -> None:
        """Take mean shares of counts, at which the output begins, or the scale of values."""
        if self.spec.kind != "counts":
            return GeneAutoencoder.set_statistics(self, mean, sd)
        self.share.copy_((mean / mean.sum().clamp_min(1e-12)).clamp_min(1e-8))
        self.out.bias.data.copy_(self.share.log())
        return None

    def visible(self, prepared: Tensor, keep: Tensor | None) -> Tensor:
        """Genes that are kept; of counts the logarithm at a depth that these alone tell."""
        seen = torch.ones_like(prepared)
        if keep is not None:
            seen = torch.zeros_like(prepared).scatter_(1, keep, 1.0)
        if self.spec.kind == "counts":
            counts = prepared * seen
            # Total of the whole cell, as far as the visible genes say.
            total = counts.sum(dim=1, keepdim=True) / (seen @ self.share)[:, None]
            logs = (counts * (self.depth / total.clamp_min(1e-6))).log1p()
            prepared = (logs - self.center) * seen
        else:
            prepared = prepared * seen
        return prepared * (seen.shape[1] / seen.sum(dim=1, keepdim=True))

    @torch.no_grad()
    def begin_at(self, cells: Tensor) -> None:
        """Begin at the principal components of some cells ``(N, n_genes)`` as they were read."""
        if self.spec.kind == "counts":
            total = cells.float().sum(dim=1)
            if (total > 0).any():
                self.depth.copy_(total[total > 0].median())
            self.center.zero_()
            self.center.copy_(self.visible(cells.float(), None).mean(dim=0))
        super().begin_at(cells)

    def _begin_out(self, prepared: Tensor, z: Tensor, mask: Tensor) -> None:
        if self.spec.kind != "counts":
            return super()._begin_out(prepared, z, mask)
        total = prepared.sum(dim=1, keepdim=True).clamp_min(1e-6)
        shares = prepared / total
        mean = shares.mean(dim=0).clamp_min(1e-8)
        # d log(mean share) / dz, to first order: what a softmax of logits then gives.
        self.out.weight[:, : z.shape[1]] = _slopes(shares - mean, z, mask) / mean[:, None]
        self.out.bias.copy_(mean.log())
        self.log_dispersion.copy_(moment_dispersion(prepared, total * mean, DISPERSION).log())
        return None


def build_linear_first(spec: InputSpec, sizes: Sizes) -> CellAutoencoder:
    """Choose the autoencoder for a kind of input, see :func:`cellfuse.nn.autoencoders.build`."""
    if spec.kind in ("pixels", "tokens"):
        return LinearFirstTokens(spec, sizes)
    return LinearFirstGenes(spec, sizes)
