"""The multimodal set transformer: cells of a document attend to each other (PETRI, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cellfuse.nn.blocks import Block, init_weights

__all__ = ["SetTransformer"]


class SetTransformer(nn.Module):
    """Self-attention over the latents of all cells of a document.

    A learned embedding tells the modalities apart; cells have no order. The modalities a document
    lacks are not attended to.
    """

    def __init__(
        self, modalities: Sequence[str], *, width: int, depth: int, n_heads: int, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.modality = nn.ParameterDict(
            {name: nn.Parameter(torch.randn(width) * 0.02) for name in modalities}
        )
        self.blocks = nn.ModuleList([Block(width, n_heads, mlp_ratio) for _ in range(depth)])
        self.apply(init_weights)

    @torch.no_grad()
    def begin_apart(self) -> None:
        """Begin with cells that do not look at each other: every layer gives what it takes."""
        for embedding in self.modality.values():
            embedding.zero_()
        for block in self.blocks:
            for layer in (block.attention.out, block.mlp[-1]):  # type: ignore[union-attr, index]
                nn.init.zeros_(layer.weight)  # type: ignore[union-attr, arg-type]
                nn.init.zeros_(layer.bias)  # type: ignore[union-attr, arg-type]

    def forward(
        self, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]
    ) -> list[dict[str, Tensor]]:
        """Run the documents through every layer.

        Parameters
        ----------
        latents
            For each modality ``(G, S, L, width)``.
        present
            For each modality ``(G,)``: whether the document has it.

        Returns
        -------
        The latents after each layer, shaped as they came; empty where there is no layer.
        """
        shapes = {name: x.shape for name, x in latents.items()}
        parts = [(x + self.modality[name]).flatten(1, 2) for name, x in latents.items()]
        lengths = [part.shape[1] for part in parts]
        here = [
            present[name][:, None].expand(-1, n) for name, n in zip(latents, lengths, strict=True)
        ]
        seen = torch.cat(here, dim=1)
        mask = None if bool(seen.all()) else seen[:, None, None, :]
        x = torch.cat(parts, dim=1)  # (G, sum of S * L, width)
        layers = []
        for block in self.blocks:
            x = block(x, mask)
            split = x.split(lengths, dim=1)
            layers.append(
                {name: part.view(shapes[name]) for name, part in zip(shapes, split, strict=True)}
            )
        return layers
