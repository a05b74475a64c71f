"""Pre-norm transformer blocks: self-attention and cross-attention."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["Block", "CrossBlock", "init_weights"]


def init_weights(module: nn.Module) -> None:
    """Initialise a linear layer as MAE does: Xavier weights, no bias."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class MeanTokens(torch.autograd.Function):
    """Means of tokens, weighed by the softmax of how well they match each question.

    Tokens are read twice, as keys and as values. Their two gradients are one product here, so that
    what is as large as all tokens is made once instead of three times.
    """

    @staticmethod
    def forward(ctx: Any, questions: Tensor, tokens: Tensor) -> Tensor:
        """Questions (N, Q, width) and tokens (N, T, width) to means (N, Q, width)."""
        shares = (questions @ tokens.transpose(1, 2)).softmax(dim=-1)
        ctx.save_for_backward(questions, tokens, shares)
        device = tokens.device.type
        # Gradients are computed after the precision of the forward pass has been put back.
        ctx.precision = {
            "device_type": device,
            "dtype": torch.get_autocast_dtype(device),
            "enabled": torch.is_autocast_enabled(device),
        }
        return shares @ tokens

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_means: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of questions and tokens."""
        questions, tokens, shares = ctx.saved_tensors
        with torch.autocast(**ctx.precision):
            of_shares = of_means @ tokens.transpose(1, 2)
            mean = (of_shares * shares).sum(dim=-1, keepdim=True)
            of_scores = shares * (of_shares - mean)
            both = torch.cat([of_scores, shares], dim=1)
            times = torch.cat([questions, of_means.to(questions.dtype)], dim=1)
            return of_scores @ tokens, both.transpose(1, 2) @ times


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
        if mask is None and self._asks_little(x, context):
            return self.out(self._asked(x, context))
        q = self._heads(self.query(x))
        k, v = (self._heads(t) for t in self.key_value(context).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))

    def _asks_little(self, x: Tensor, context: Tensor) -> bool:
        """Whether fewer questions are asked, over all heads, than keys and values would cost."""
        asked, width = x.shape[1] * self.n_heads, x.shape[2]
        return 2 * asked <= width and context.shape[1] > asked

    def _asked(self, x: Tensor, context: Tensor) -> Tensor:
        """The same, with no key or value ever made for a token of `context`.

        A score is ``q . K c = (K' q) . c``, and a mean of values is the value of the mean token:
        both layers act on the few questions and answers instead of on every token. The keys' bias
        adds the same to all scores of a question and drops out of the softmax.
        """
        width = x.shape[2]
        q = self._heads(self.query(x))  # (N, heads, L, width / heads)
        key, value = self.key_value.weight.view(2, self.n_heads, -1, width)
        questions = torch.einsum("nhld,hdw->nhlw", q * q.shape[-1] ** -0.5, key).flatten(1, 2)
        answers = MeanTokens.apply(questions, context).unflatten(1, (self.n_heads, -1))
        out = torch.einsum("nhlw,hdw->nlhd", answers, value).flatten(2)
        return out + self.key_value.bias[width:]

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

    def forward(self, x: Tensor, context: Tensor, places: Tensor | None = None) -> Tensor:
        """`x` (N, L, width) asks, `context` (N, T, width) answers.

        Where tokens repeat, `context` may be (M, width) and ``places`` (N, T) say which of them.
        """
        normed = self.norm_context(context)
        if places is not None:
            normed = F.embedding(places, normed)
        x = x + self.attention(self.norm_query(x), normed)
        return x + self.mlp(self.norm_mlp(x))
