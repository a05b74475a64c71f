"""Pre-norm transformer blocks: self-attention and cross-attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Block", "CrossBlock", "init_weights"]


def init_weights(module: nn.Module) -> None:
    """Initialise a linear layer as MAE does: Xavier weights, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Attention(nn.Module):
    """Multi-head attention of `x` to `context`, or to itself."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not a multiple of the number of heads {n_heads}.")
        self.n_heads = n_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        q = self._heads(self.query(x))
        k, v = (self._heads(t) for t in self.key_value(context).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (N, heads, T, width / heads)


class Mlp(nn.Sequential):
    """Two layers with GELU."""

    def __init__(self, width: int, ratio: float) -> None:
        hidden = int(width * ratio)
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Block(nn.Module):
    """Self-attention, then MLP, each on the normalised input and added to it."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`x` (N, T, width); `mask` True where a token may be attended to."""
        normed = self.norm_attention(x)
        x = x + self.attention(normed, normed, mask)
        return x + self.mlp(self.norm_mlp(x))


class CrossBlock(nn.Module):
    """Attention of `x` to `context`, then MLP."""

    def __init__(self, width: int, n_heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm_query = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.attention = Attention(width, n_heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """`x` (N, L, width) asks, `context` (N, T, width) answers."""
        x = x + self.attention(self.norm_query(x), self.norm_context(context))
        return x + self.mlp(self.norm_mlp(x))
