"""Transformer blocks of a network: what is compiled once, and what is dealt to devices."""

from __future__ import annotations

from torch import nn

from cellfuse.nn.blocks import Block, CrossBlock
from cellfuse.nn.denoiser import DenoisingBlock, SetLayer
from cellfuse.nn.scgpt import PostNormBlock

__all__ = ["repeated_layers"]

OURS = (Block, CrossBlock, DenoisingBlock, PostNormBlock, SetLayer)


def repeated_layers(network: nn.Module) -> list[nn.Module]:
    """Transformer blocks of a network, timm's among them, in its order.

    Examples
    --------
    >>> import cellfuse as cf
    >>> network = cf.nn.SetTransformer(["image"], width=16, depth=3, n_heads=2, mlp_ratio=2)
    >>> {type(block).__name__ for block in cf.nn.repeated_layers(network)}
    {'Block'}
    """
    return [each for each in network.modules() if isinstance(each, OURS) or _is_timms(each)]


def _is_timms(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith("timm.") and kind.__name__.endswith("Block")
