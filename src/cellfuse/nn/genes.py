"""Long lists of numbers, one per gene: a Perceiver that resamples them, and the decoder back."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.blocks import Block, CrossBlock, init_weights

__all__ = ["GeneDecoder", "GeneEncoder"]


class GeneTokenizer(nn.Module):
    """A token per gene: its learned embedding and its value through a two-layer MLP (3.2).

    The first layer acts on ``[embedding, value]``. It is linear, so that its part on the embedding
    is worked out once per gene and not once per cell and gene.
    """

    def __init__(self, n_genes: int, width: int) -> None:
        super().__init__()
        # Gene and value must both be told from the first step on: at one scale, not at the scale
        # of 1 among width + 1 inputs (see `GeneEncoder`).
        self.embedding = nn.Parameter(torch.randn(n_genes, width))
        self.first = nn.Linear(width + 1, width)
        self.second = nn.Linear(width, width)

    def forward(self, values: Tensor, genes: Tensor | None = None) -> Tensor:
        """``values`` (..., K) of ``genes`` (..., K), all in order for None: (..., K, width)."""
        by_gene = F.linear(self.embedding, self.first.weight[:, :-1], self.first.bias)
        if genes is not None:
            by_gene = F.embedding(genes, by_gene)
        return self.second(F.gelu(by_gene + values[..., None] * self.first.weight[:, -1]))


def distinct_pairs(values: Tensor, genes: Tensor | None) -> tuple[Tensor, Tensor, Tensor] | None:
    """Distinct pairs of gene and value, and which of them each cell's genes are.

    A count of 3 of one gene is the same token in every cell, and most counts are small: a batch
    has several times fewer tokens than cells times genes. Worked out on a CPU only: a GPU would
    wait for the number of pairs longer than it takes to compute all tokens.

    Returns
    -------
    Values ``(M,)`` and genes ``(M,)`` of the pairs, and the pair of each of `values`, ``(N, K)``;
    None where there is little to save.
    """
    if values.device.type != "cpu" or values.dtype != torch.float32 or values.requires_grad:
        return None
    few = values[:8]  # measurements that are no counts differ everywhere: not worth the sorting
    if 2 * few.unique().numel() > few.numel():
        return None
    if genes is None:
        genes = torch.arange(values.shape[-1]).expand_as(values)
    bits = values.contiguous().view(torch.int32).long() & 0xFFFFFFFF
    pairs, places = torch.unique((genes << 32) | bits, return_inverse=True)
    if 2 * len(pairs) > places.numel():
        return None
    return (pairs & 0xFFFFFFFF).int().view(torch.float32), pairs >> 32, places


class GeneEncoder(nn.Module):
    """Perceiver: latents read the gene tokens, then talk among themselves, several times."""

    def __init__(
        self,
        n_genes: int,
        *,
        width: int,
        n_cross: int,
        n_self: int,
        n_heads: int,
        n_latents: int,
    ) -> None:
        super().__init__()
        self.tokenize = GeneTokenizer(n_genes, width)
        self.latents = nn.Parameter(torch.randn(n_latents, width) * 0.02)
        self.cross = nn.ModuleList([CrossBlock(width, n_heads) for _ in range(n_cross)])
        self.self_blocks = nn.ModuleList(
            [nn.ModuleList([Block(width, n_heads) for _ in range(n_self)]) for _ in range(n_cross)]
        )
        self.norm = nn.LayerNorm(width)
        self.apply(init_weights)
        nn.init.normal_(self.tokenize.first.weight[:, -1])

    def forward(self, values: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode ``values`` (N, n_genes), of which ``keep`` (N, K) are seen.

        Returns
        -------
        Latents, ``(N, n_latents, width)``.
        """
        if keep is not None:
            values = values.gather(1, keep)
        pairs = distinct_pairs(values, keep)
        shown, genes, places = (values, keep, None) if pairs is None else pairs
        tokens = self.tokenize(shown, genes)
        x = self.latents.expand(len(values), -1, -1).to(tokens.dtype)
        for cross, blocks in zip(self.cross, self.self_blocks, strict=True):
            x = cross(x, tokens, places)
            for block in blocks:  # type: ignore[attr-defined]  # a ModuleList of ModuleLists
                x = block(x)
        return self.norm(x)


class GeneDecoder(nn.Module):
    """Mean of a cell's latents through a three-layer MLP: one number per gene (3.4)."""

    def __init__(self, n_genes: int, *, latent_width: int, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(latent_width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, n_genes),
        )
        self.apply(init_weights)

    @torch.no_grad()
    def set_bias(self, values: Tensor) -> None:
        """Begin at `values`, ``(n_genes,)``, whatever the cell."""
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(values)

    def forward(self, latents: Tensor) -> Tensor:
        """Decode ``latents`` (N, L, latent_width) to ``(N, n_genes)``."""
        return self.mlp(latents.mean(dim=1))
