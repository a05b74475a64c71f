"""Random numbers that are a function of a key: a document's masks do not hang on its batch.

A counter-based generator (SplitMix64) in plain integer arithmetic, so that the same document gets
the same numbers on any device, in any batch, on any rank and after any restart.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

__all__ = ["normal", "uniform"]

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed number
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right without dragging the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _scramble(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def uniform(key: Tensor, shape: tuple[int, ...], *, seed: int, purpose: str) -> Tensor:
    """Uniform numbers in [0, 1), one block of `shape` for each key.

    Parameters
    ----------
    key
        Numbers of the documents, ``(G,)`` int64.
    shape
        Shape of the block of each document.
    seed
        Seed of the run.
    purpose
        What the numbers are for; different purposes get unrelated numbers.

    Returns
    -------
    ``(G, *shape)`` float32.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import uniform
    >>> both = uniform(torch.tensor([3, 8]), (2,), seed=0, purpose="mask")
    >>> bool((uniform(torch.tensor([8]), (2,), seed=0, purpose="mask")[0] == both[1]).all())
    True
    """
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=8).digest()
    salt = int.from_bytes(digest, "little", signed=True)
    document = _scramble(key.long() * _GOLDEN + salt)
    place = torch.arange(1, math.prod(shape) + 1, device=key.device) * _GOLDEN
    bits = _scramble(document[:, None] + place)
    return (_shift(bits, 40).float() * 2.0**-24).view(len(key), *shape)


def normal(key: Tensor, shape: tuple[int, ...], *, seed: int, purpose: str) -> Tensor:
    """Standard normal numbers, one block of `shape` for each key (Box and Muller's transform).

    Parameters
    ----------
    key, shape, seed, purpose
        As in :func:`uniform`.

    Returns
    -------
    ``(G, *shape)`` float32; from 24-bit uniforms, so none lies beyond 5.8.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn.keyed import normal
    >>> noise = normal(torch.arange(2), (5000,), seed=0, purpose="noise")
    >>> noise.mean(1).abs().max().item() < 0.05, (noise.std(1) - 1).abs().max().item() < 0.05
    (True, True)
    """
    n = math.prod(shape)
    half = -(-n // 2)
    u = uniform(key, (2, half), seed=seed, purpose=purpose)
    radius = torch.sqrt(-2 * torch.log1p(-u[:, 0]))  # 1 - u is never 0
    angle = 2 * math.pi * u[:, 1]
    both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)
    return both[:, :n].reshape(len(key), *shape)
