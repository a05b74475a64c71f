"""What each head of a set transformer looks at (PETRI, Fig. 4c)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from cellfuse.nn.sets import SetTransformer

__all__ = ["attention_maps"]


@torch.no_grad()
def attention_maps(
    documents: SetTransformer, latents: Mapping[str, Tensor], present: Mapping[str, Tensor]
) -> Tensor:
    """Attention of every layer and head, rows adding up to 1.

    The transformer is run as it is; what each layer's attention was given is looked at on its way.

    Parameters
    ----------
    documents
        The set transformer.
    latents, present
        As it takes them.

    Returns
    -------
    ``(G, layers, heads, T, T)``, tokens modality by modality, cell by cell.
    """
    found: list[Tensor] = []

    def look(module: Any, arguments: tuple[Any, ...]) -> None:
        x, context, mask = (*arguments, None)[:3]
        query = module._heads(module.query(x))
        key = module._heads(module.key_value(context).chunk(2, dim=-1)[0])
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        found.append(scores.softmax(dim=-1))

    hooks = [
        block.attention.register_forward_pre_hook(look)  # type: ignore[operator, union-attr]
        for block in documents.blocks
    ]
    try:
        documents(latents, present)
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(found, dim=1)
