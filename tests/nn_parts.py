"""Small networks and inputs, shared by the tests of the layers."""

from __future__ import annotations

import torch
from torch import Tensor

from cellfuse.nn import (
    InputSpec,
    JointMaskedAutoencoder,
    Sizes,
)

SIZES = Sizes(
    width=16,
    n_heads=2,
    n_latents=3,
    image_depth=2,
    image_decoder_width=16,
    image_decoder_depth=1,
    image_decoder_heads=2,
    n_cross=2,
    n_self=1,
    gene_decoder_hidden=8,
    n_set_layers=2,
)
SPECS = {
    "pixels": InputSpec("pixels", (2, 16, 16)),
    "tokens": InputSpec("tokens", (6, 5)),
    "numbers": InputSpec("values", (12,)),
    "counts": InputSpec("counts", (12,)),
}
KEY = torch.tensor([4, 9, 1])
PURPOSE = {"seed": 0, "purpose": "test"}


def cells(spec: InputSpec, g: int = 3, s: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if spec.kind == "counts":
        return torch.poisson(torch.full((g, s, *spec.shape), 3.0), generator=generator)
    return torch.randn(g, s, *spec.shape, generator=generator)


def network(*kinds: str, **changes: object) -> JointMaskedAutoencoder:
    sizes = Sizes(**{**SIZES.__dict__, **changes})
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        made = JointMaskedAutoencoder(
            {k: SPECS[k] for k in kinds}, sizes, weights=dict.fromkeys(kinds, 1.0)
        )
        for parameter in made.parameters():  # away from zero biases and unit norms
            parameter.data += 0.05 * torch.randn(parameter.shape)
    return made.eval()


def present(*kinds: str, g: int = 3) -> dict[str, Tensor]:
    return {k: torch.ones(g, dtype=torch.bool) for k in kinds}


def poke(prepared: Tensor, mask: Tensor, value: float) -> Tensor:
    """Write `value` into one token of every cell where `mask` is True, the first such one."""
    changed = prepared.clone()
    for cell, row in enumerate(mask):
        changed[cell, int(row.nonzero()[0])] = value
    return changed
