"""Dropout at a third of its cost on a CPU, where drawing what to drop takes longest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Dropout", "dropout"]

#: A number of 16 bits decides about each value, so that the share dropped is true to 8e-6.
LEVELS = 1 << 16


def dropout(x: Tensor, share: float) -> Tensor:
    """Set a random share of the values to 0 and scale up the others, as in training.

    On a CPU four values share one draw of 64 bits; elsewhere this is torch's own.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.dropout import dropout
    >>> dropout(torch.ones(4, 8), 0.5).unique().tolist()
    [0.0, 2.0]
    """
    n_dropped = round(share * LEVELS)
    if x.device.type != "cpu" or not 0 < n_dropped < LEVELS:
        return F.dropout(x, share)
    n = x.numel()
    draws = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    level = draws.view(torch.int16)[:n].view(x.shape).float()
    kept = level.ge_(n_dropped - LEVELS // 2).mul_(LEVELS / (LEVELS - n_dropped))
    return x * kept.to(x.dtype)


class Dropout(nn.Dropout):
    """torch's layer with :func:`dropout` in it."""

    def forward(self, x: Tensor) -> Tensor:
        """Values of the shape of `x`."""
        return dropout(x, self.p) if self.training and self.p else x
