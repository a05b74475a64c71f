"""Microscopy augmentation: orientation and place of a cell carry no meaning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfuse.nn.keyed import uniform

__all__ = ["center_crop", "random_affine"]


def center_crop(images: Tensor, size: int) -> Tensor:
    """Cut the middle ``(size, size)`` out of ``(N, C, H, W)``."""
    top = (images.shape[-2] - size) // 2
    left = (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def random_affine(
    images: Tensor, key: Tensor, *, seed: int, crop: int, translation: float = 0.05
) -> Tensor:
    """Flip, turn by any angle, shift, and crop around the centre, in one resampling (PETRI, A.4).

    Parameters
    ----------
    images
        ``(G, S, C, H, W)`` float.
    key
        Number of each document, ``(G,)``.
    seed
        Seed of the run.
    crop
        Side of the result in pixels.
    translation
        Largest shift as a share of the image side, 0.05 in the paper.

    Returns
    -------
    ``(G, S, C, crop, crop)``. Pixels outside the image mirror those inside.
    """
    g, s, c, h, w = images.shape
    u = uniform(key, (s, 5), seed=seed, purpose="augment").reshape(g * s, 5)
    angle = u[:, 0] * 2 * math.pi
    flip_x = torch.where(u[:, 1] < 0.5, 1.0, -1.0)
    flip_y = torch.where(u[:, 2] < 0.5, 1.0, -1.0)
    shift = (u[:, 3:] * 2 - 1) * 2 * translation  # the axes of grid_sample run from -1 to 1
    cos, sin = angle.cos(), angle.sin()
    # From a pixel of the result to its place in the image; the scale keeps pixels their size.
    row_x = torch.stack([cos * flip_x * crop / w, -sin * flip_y * crop / w, shift[:, 0]], dim=1)
    row_y = torch.stack([sin * flip_x * crop / h, cos * flip_y * crop / h, shift[:, 1]], dim=1)
    matrix = torch.stack([row_x, row_y], dim=1).to(images.dtype)
    grid = F.affine_grid(matrix, [g * s, c, crop, crop], align_corners=False)
    flat = images.reshape(g * s, c, h, w)
    out = F.grid_sample(flat, grid, padding_mode="reflection", align_corners=False)
    return out.view(g, s, c, crop, crop)
