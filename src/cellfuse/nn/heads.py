"""Classifier heads on embeddings (PhenoSeq, A.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["MLP", "DualMLP"]


class MLP(nn.Sequential):
    """`depth` blocks of linear, layer norm and ReLU, then a linear layer (PhenoSeq, Eq. 5).

    Parameters
    ----------
    n_in, n_out
        Width of the input, and of the output (classes).
    hidden, depth
        Width and number of the hidden layers.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.heads import MLP
    >>> MLP(5, 3, hidden=8, depth=2)(torch.zeros(4, 5)).shape
    torch.Size([4, 3])
    """

    def __init__(self, n_in: int, n_out: int, *, hidden: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(n_in, hidden), nn.LayerNorm(hidden), nn.ReLU()]
            n_in = hidden
        super().__init__(*layers, nn.Linear(n_in, n_out))


class DualMLP(nn.Module):
    """An MLP for each modality, their outputs side by side, a linear layer (Eqs. 6 to 8).

    Parameters
    ----------
    n_in
        Width of each input.
    n_out
        Classes.
    hidden
        Width of each input's hidden layers: 266 for images, 2,748 for RNA (paper).
    depth
        Hidden layers of each, 3 (paper).
    width
        Output of each MLP, 913 (paper).

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.heads import DualMLP
    >>> head = DualMLP([5, 2], 3, hidden=[8, 6], depth=1, width=4)
    >>> head(torch.zeros(7, 5), torch.zeros(7, 2)).shape
    torch.Size([7, 3])
    """

    def __init__(
        self,
        n_in: Sequence[int],
        n_out: int,
        *,
        hidden: Sequence[int],
        depth: int = 3,
        width: int = 913,
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [MLP(n, width, hidden=h, depth=depth) for n, h in zip(n_in, hidden, strict=True)]
        )
        self.head = nn.Linear(width * len(n_in), n_out)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs ``(B, n_in[k])`` to ``(B, n_out)``."""
        parts = [part(x) for part, x in zip(self.parts, inputs, strict=True)]
        return self.head(torch.cat(parts, dim=-1))
