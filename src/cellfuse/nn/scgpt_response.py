"""scGPT as the encoder of TIDE's response model."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cellfuse.nn.response import ResponseNetwork, ResponseSizes
from cellfuse.nn.scgpt import ScGPT, ScGPTCheckpoint

__all__ = ["ScGPTResponse"]


class ScGPTResponse(ResponseNetwork):
    """:class:`ResponseNetwork` whose profiles are read by scGPT.

    Parameters
    ----------
    checkpoint
        What :func:`~cellfuse.nn.scgpt.read_scgpt` gave.
    genes
        Token number of each gene, -1 where the vocabulary lacks it, ``(n_genes,)``.
    n_bits, sizes, linear
        As in :class:`ResponseNetwork`.
    n_bins
        Bins of expression with that of zero, 51 as in scGPT's pretraining.
    """

    def __init__(
        self,
        checkpoint: ScGPTCheckpoint,
        genes: Tensor,
        n_bits: int,
        sizes: ResponseSizes,
        *,
        linear: bool = False,
        n_bins: int = 51,
    ) -> None:
        super().__init__(len(genes), n_bits, sizes, linear=linear)
        self.encoder = _ScGPTProfiles(checkpoint, genes, sizes.width, n_bins)  # type: ignore[assignment]

    def encode(self, expression: Tensor) -> Tensor:
        """Latents of profiles ``(N, n_genes)``, ``(N, 2, width)``: ``<cls>`` and the mean gene."""
        values = self.scale(expression)
        # scGPT bins a profile by its own order of genes: it takes the values as they were measured.
        return self.encoder(expression.float()) + self.direct(values)[:, None]


class _ScGPTProfiles(nn.Module):
    """Bulk or single-cell profiles as scGPT's tokens, in the order of their columns."""

    columns: Tensor
    tokens: Tensor

    def __init__(self, checkpoint: ScGPTCheckpoint, genes: Tensor, width: int, n_bins: int) -> None:
        super().__init__()
        self.scgpt: ScGPT = checkpoint.encoder
        self.pad_value, self.n_bins = checkpoint.pad_value, n_bins
        columns = (genes >= 0).nonzero()[:, 0]
        self.register_buffer("columns", columns)
        first = torch.tensor([checkpoint.cls])
        self.register_buffer("tokens", torch.cat([first, genes[columns]]))
        self.project = nn.Linear(self.scgpt.width, width)

    def forward(self, expression: Tensor) -> Tensor:
        values = self.bins(expression[:, self.columns])
        values = F.pad(values, (1, 0), value=self.pad_value)
        out = self.scgpt(self.tokens.expand(len(values), -1), values)
        return self.project(torch.stack([out[:, 0], out[:, 1:].mean(dim=1)], dim=1))

    def bins(self, x: Tensor) -> Tensor:
        """Bin of each value among the profile's own other than zero; 0 for zeros.

        Equal values get one bin, that of the middle of their ranks: no bin hangs on the order of
        the genes.
        """
        zero = x == 0
        x = x.masked_fill(zero, -torch.inf).contiguous()
        ordered = x.sort(dim=1).values
        ends = [torch.searchsorted(ordered, x, right=right) for right in (False, True)]
        rank = (ends[0] + ends[1] - 1) // 2
        n_zero = zero.sum(dim=1, keepdim=True)
        n_other = (x.shape[1] - n_zero).clamp(min=1)
        bins = 1 + (rank - n_zero) * (self.n_bins - 1) // n_other
        return bins.masked_fill(zero, 0).float()
