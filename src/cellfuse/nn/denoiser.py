"""PhenoSeq's network: image cells are encoded as a set, on which a denoiser of RNA attends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.blocks import Attention
from cellfuse.nn.dropout import Dropout, dropout

__all__ = ["ContextEncoder", "Denoiser", "DenoiserSizes", "FoldedDenoiser"]

#: Longest period of the time embedding (Vaswani et al.).
MAX_PERIOD = 10_000
#: Standard deviation of the last layer's weights: the first prediction is nearly 0.
LAST_SD = 1e-4

Memory = list[tuple[Tensor, Tensor]]  # keys and values of the context, one pair per block


@dataclass(frozen=True)
class DenoiserSizes:
    """Sizes of the network; the defaults are the paper's (Table 4), 168.5 M parameters.

    Parameters
    ----------
    width
        Width of all layers, `model_dim`.
    n_heads, depth
        Attention heads and blocks of the denoiser.
    encoder_heads, encoder_depth
        Those of the context encoder.
    time_width
        Width of the time embedding.
    ff_ratio
        Width of the feed-forward layers, relative to `width`.
    dropout
        In attention and feed-forward layers, in training.
    """

    width: int = 1024
    n_heads: int = 8
    depth: int = 6
    encoder_heads: int = 4
    encoder_depth: int = 2
    time_width: int = 256
    ff_ratio: int = 4
    dropout: float = 0.1


class MemoryAttention(Attention):
    """Attention whose keys and values can be computed once and asked many times."""

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__(width, n_heads)
        self.dropout = dropout

    def memory(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `context` (G, N, width): (G, heads, N, width / heads) each."""
        k, v = (self._heads(t) for t in self.key_value(context).chunk(2, dim=-1))
        return k, v

    def ask(self, x: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None = None) -> Tensor:
        """Attention of `x` (G, m, width); `mask` (G, N) is True where there is a token."""
        seen = None if mask is None else mask[:, None, None, :]
        out = F.scaled_dot_product_attention(
            self._heads(self.query(x)),
            *memory,
            attn_mask=seen,
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out(out.transpose(1, 2).flatten(2))


class SetLayer(nn.Module):
    """Self-attention and feed-forward over the cells of a set, pre-norm."""

    def __init__(self, width: int, n_heads: int, ff_ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = MemoryAttention(width, n_heads, dropout)
        self.norm_ff = nn.LayerNorm(width)
        self.widen = nn.Linear(width, ff_ratio * width)
        self.narrow = nn.Linear(ff_ratio * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        normed = self.norm_attention(x)
        memory = self.attention.memory(normed)
        x = x + self.dropout(self.attention.ask(normed, memory, mask))
        hidden = self.dropout(F.gelu(self.widen(self.norm_ff(x))))
        return x + self.dropout(self.narrow(hidden))


class ContextEncoder(nn.Module):
    """A set of image cells as a set of context tokens (PhenoSeq, A.1 (i)).

    Parameters
    ----------
    n_features
        Width of a cell's image embedding.
    sizes
        Width, heads, depth and dropout.
    """

    def __init__(self, n_features: int, sizes: DenoiserSizes) -> None:
        super().__init__()
        width = sizes.width
        self.project = nn.Sequential(
            nn.Linear(n_features, width), nn.Mish(), nn.LayerNorm(width), Dropout(sizes.dropout)
        )
        self.layers = nn.ModuleList(
            [
                SetLayer(width, sizes.encoder_heads, sizes.ff_ratio, sizes.dropout)
                for _ in range(sizes.encoder_depth)
            ]
        )

    def forward(self, cells: Tensor, mask: Tensor | None = None) -> Tensor:
        """`cells` (G, N, features) to (G, N, width); `mask` (G, N) True where there is a cell."""
        x = self.project(cells)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class AdaptiveNorm(nn.Module):
    """Layer norm whose scale and shift are a function of time."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Sequential(nn.Mish(), nn.Linear(time_width, 2 * width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """`x` (..., width) at the time embeddings `time` (..., time_width)."""
        scale, shift = self.modulation(time).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class OneTokenAttention(nn.Module):
    """Self-attention of a sequence of one token.

    The softmax over one element is 1, so that this is a linear map: values, then output. Queries
    and keys have no effect and no gradient; they are kept, frozen, so that the network has the
    paper's parameters.
    """

    def __init__(self, width: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.query_key = nn.Linear(width, 2 * width).requires_grad_(False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        if self.training and self.dropout:
            # Dropout of attention weights: here of whole heads.
            kept = dropout(value.new_ones(*value.shape[:-1], self.n_heads, 1), self.dropout)
            value = (value.unflatten(-1, (self.n_heads, -1)) * kept).flatten(-2)
        return self.out(value)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one linear map that this is without dropout."""
        with torch.autocast(self.out.weight.device.type, enabled=False):
            weight = self.out.weight @ self.value.weight
            return weight, self.out.weight @ self.value.bias + self.out.bias


class GatedFeedForward(nn.Module):
    """Layer norm, GEGLU, linear."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 2 * ratio * width)
        self.narrow = nn.Linear(ratio * width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.widen(self.norm(x)).chunk(2, dim=-1)
        return self.dropout(self.narrow(self.dropout(value * F.gelu(gate))))


class DenoisingBlock(nn.Module):
    """Attention to the context, attention to itself, feed-forward; each after an adaptive norm."""

    def __init__(self, sizes: DenoiserSizes) -> None:
        super().__init__()
        width, time_width, dropout = sizes.width, sizes.time_width, sizes.dropout
        self.norm_cross = AdaptiveNorm(width, time_width)
        self.norm_context = nn.LayerNorm(width)
        self.cross = MemoryAttention(width, sizes.n_heads, dropout)
        self.norm_self = AdaptiveNorm(width, time_width)
        self.attention = OneTokenAttention(width, sizes.n_heads, dropout)
        self.norm_ff = AdaptiveNorm(width, time_width)
        self.ff = GatedFeedForward(width, sizes.ff_ratio, dropout)

    def memory(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the context."""
        return self.cross.memory(self.norm_context(context))

    def forward(
        self, x: Tensor, time: Tensor, memory: tuple[Tensor, Tensor], mask: Tensor | None
    ) -> Tensor:
        x = x + self.cross.ask(self.norm_cross(x, time), memory, mask)
        x = x + self.attention(self.norm_self(x, time))
        return x + self.ff(self.norm_ff(x, time))


class Denoiser(nn.Module):
    """What was added to RNA embeddings, given their time and their context (PhenoSeq, A.1 (iii)).

    Each RNA embedding is a sequence of one token; those of a document share the context and do not
    see each other.

    Parameters
    ----------
    n_features
        Width of an RNA embedding.
    sizes
        Width, heads, depth and dropout.
    """

    def __init__(self, n_features: int, sizes: DenoiserSizes) -> None:
        super().__init__()
        width, time_width = sizes.width, sizes.time_width
        if time_width % 2:
            raise ValueError(f"time_width must be even, found {time_width}.")
        self.time_width = time_width
        self.time = nn.Sequential(
            nn.Linear(time_width, 4 * time_width), nn.Mish(), nn.Linear(4 * time_width, time_width)
        )
        self.project = nn.Sequential(nn.Linear(n_features, width), nn.Mish(), nn.LayerNorm(width))
        self.blocks = nn.ModuleList([DenoisingBlock(sizes) for _ in range(sizes.depth)])
        self.norm = nn.LayerNorm(width)
        last = nn.Linear(width, n_features)
        nn.init.normal_(last.weight, std=LAST_SD)
        nn.init.zeros_(last.bias)
        self.out = nn.Sequential(nn.Linear(width, width), nn.Mish(), last)

    def embed_time(self, t: Tensor) -> Tensor:
        """Steps `t` (...) to (..., time_width)."""
        half = self.time_width // 2
        place = torch.arange(half, device=t.device, dtype=torch.float32) / half
        angle = t[..., None].float() * torch.exp(-math.log(MAX_PERIOD) * place)
        return self.time(torch.cat([angle.sin(), angle.cos()], dim=-1))

    def forward(self, x: Tensor, t: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """Predict for the noisy embeddings of documents.

        Parameters
        ----------
        x
            ``(G, m, features)``: m embeddings of each document.
        t
            Step of each, ``(G, m)``.
        context
            Tokens of :class:`ContextEncoder`, ``(G, N, width)``.
        mask
            ``(G, N)``, True where there is a token; None where all are there.

        Returns
        -------
        ``(G, m, features)``.
        """
        time = self.embed_time(t)
        x = self.project(x)
        for block in self.stack:
            x = block(x, time, block.memory(context), mask)
        return self.out(self.norm(x))

    @property
    def stack(self) -> list[DenoisingBlock]:
        """The blocks in order."""
        return [cast(DenoisingBlock, block) for block in self.blocks]


class FoldedDenoiser:
    """A denoiser made ready for many steps on the same contexts, exactly.

    What does not change over the steps is computed here, once: the embeddings of all times and
    the scales and shifts that follow from them, the keys and values of the context, and the one
    linear map that self-attention of a single token is. Attention to a single context token is a
    constant too, whatever asks. Call it under ``torch.inference_mode``, with the denoiser in
    ``eval()``.

    Parameters
    ----------
    denoiser
        The network.
    context
        ``(G, N, width)``; G may be 1 for a context that all documents share.
    steps
        Steps of the diffusion that will be asked for.
    mask
        ``(G, N)``, True where there is a token.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.denoiser import Denoiser, DenoiserSizes, FoldedDenoiser
    >>> sizes = DenoiserSizes(width=16, n_heads=2, depth=1, time_width=8)
    >>> denoiser = Denoiser(4, sizes).eval()
    >>> x, context = torch.randn(3, 1, 4), torch.randn(3, 1, 16)
    >>> with torch.inference_mode():
    ...     folded = FoldedDenoiser(denoiser, context, steps=[20, 0])
    ...     plain = denoiser(x, torch.full((3, 1), 20), context)
    ...     torch.allclose(folded(x, 20), plain, atol=1e-6)
    True
    """

    def __init__(
        self,
        denoiser: Denoiser,
        context: Tensor,
        steps: Sequence[int],
        *,
        mask: Tensor | None = None,
    ) -> None:
        self.denoiser, self.mask = denoiser, mask
        self._position = {int(t): k for k, t in enumerate(steps)}
        time = denoiser.embed_time(torch.as_tensor(list(steps), device=context.device))
        one_token = context.shape[1] == 1 and mask is None
        self._memory: Memory = []
        self._constant: list[Tensor] = []
        self._maps: list[tuple[Tensor, Tensor]] = []
        self._modulation: list[list[tuple[Tensor, Tensor]]] = []
        for block in denoiser.stack:
            memory = block.memory(context)
            if one_token:
                value = memory[1].transpose(1, 2).flatten(2)  # (G, 1, width)
                self._constant.append(block.cross.out(value))
            else:
                self._memory.append(memory)
            self._maps.append(block.attention.folded())
            norms = (block.norm_cross, block.norm_self, block.norm_ff)
            parts = [norm.modulation(time).chunk(2, dim=-1) for norm in norms]
            self._modulation.append([(1 + scale, shift) for scale, shift in parts])

    def __call__(self, x: Tensor, t: int) -> Tensor:
        """Predict for `x` (G, m, features), all at step `t`."""
        k = self._position[t]
        x = self.denoiser.project(x)
        width = x.shape[-1:]
        for number, block in enumerate(self.denoiser.stack):
            cross, own, ff = [(scale[k], shift[k]) for scale, shift in self._modulation[number]]
            if self._constant:
                x = x + self._constant[number]
            else:
                asked = F.layer_norm(x, width) * cross[0] + cross[1]
                x = x + block.cross.ask(asked, self._memory[number], self.mask)
            x = x + F.linear(F.layer_norm(x, width) * own[0] + own[1], *self._maps[number])
            x = x + block.ff(F.layer_norm(x, width) * ff[0] + ff[1])
        return self.denoiser.out(self.denoiser.norm(x))
