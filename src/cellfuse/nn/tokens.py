"""Images as tokens: patches, a ViT that resamples them into latents, and the decoder back."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cellfuse.nn.blocks import Block, init_weights

__all__ = ["TokenDecoder", "TokenEncoder", "patchify", "sincos_positions", "unpatchify"]


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut images ``(N, C, H, W)`` into tokens ``(N, T, C * p * p)``, row by row."""
    n, c, h, w = images.shape
    p = patch_size
    x = images.reshape(n, c, h // p, p, w // p, p)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(n, (h // p) * (w // p), c * p * p)


def unpatchify(tokens: Tensor, patch_size: int, shape: tuple[int, int, int]) -> Tensor:
    """Put tokens back into images of ``shape = (C, H, W)``."""
    c, h, w = shape
    p = patch_size
    x = tokens.reshape(len(tokens), h // p, w // p, c, p, p)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), c, h, w)


def sincos_positions(grid: tuple[int, ...], width: int) -> Tensor:
    """Fixed sine and cosine positions of a grid of one or two axes, ``(T, width)``."""
    axes = len(grid)
    n = width // (2 * axes)
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(n) / max(n, 1))
    where = torch.meshgrid(*(torch.arange(size).float() for size in grid), indexing="ij")
    parts = []
    for axis in where:
        angles = axis.reshape(-1, 1) * frequencies
        parts += [angles.sin(), angles.cos()]
    out = torch.cat(parts, dim=1)
    return nn.functional.pad(out, (0, width - out.shape[1]))


class TokenEncoder(nn.Module):
    """ViT with latent-token resampling (PETRI, 3.2).

    Latent tokens are appended to the tokens that are kept; after the transformer only the latents
    remain. Tokens that are not kept are never embedded.
    """

    def __init__(
        self,
        token_dim: int,
        grid: tuple[int, ...],
        *,
        width: int,
        depth: int,
        n_heads: int,
        n_latents: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(token_dim, width)
        self.positions: Tensor
        self.register_buffer("positions", sincos_positions(grid, width), persistent=False)
        self.latents = nn.Parameter(torch.randn(n_latents, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, n_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.apply(init_weights)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode ``tokens`` (N, T, token_dim), of which ``keep`` (N, K) are seen.

        Returns
        -------
        Latents, ``(N, n_latents, width)``.
        """
        positions = self.positions.expand(len(tokens), -1, -1)
        if keep is not None:
            tokens = tokens.gather(1, keep[..., None].expand(-1, -1, tokens.shape[-1]))
            positions = self.positions[keep]
        x = self.embed(tokens) + positions
        latents = self.latents.expand(len(x), -1, -1).to(x.dtype)
        x = torch.cat([x, latents], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, -latents.shape[1] :])


class TokenDecoder(nn.Module):
    """Latents beside a full sequence of mask tokens, decoded to every token (PETRI, 3.4)."""

    def __init__(
        self,
        token_dim: int,
        grid: tuple[int, ...],
        *,
        latent_width: int,
        width: int,
        depth: int,
        n_heads: int,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(latent_width, width)
        self.positions: Tensor
        self.register_buffer("positions", sincos_positions(grid, width), persistent=False)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, n_heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, token_dim)
        self.apply(init_weights)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``latents`` (N, L, latent_width) to ``(N, T, token_dim)``."""
        latents = self.embed(latents)
        queries = (self.mask_token + self.positions).to(latents.dtype)
        x = torch.cat([queries.expand(len(latents), -1, -1), latents], dim=1)
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x[:, : len(self.positions)]))
