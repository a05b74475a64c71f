"""Several views of each image, as microscopy allows: turned, cut, brightened, noisy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from cellfuse._errors import missing_key
from cellfuse.nn.keyed import normal, uniform

__all__ = ["CropSettings", "multi_crop", "random_crops"]


@dataclass(frozen=True)
class CropSettings:
    """How views are cut and changed.

    Parameters
    ----------
    n_global, n_local
        Views of each kind; 2 and 4 are this library's (what is known of TIDE names none).
    global_size, local_size
        Sides of the views in pixels.
    global_scale, local_scale
        Area of a view as a share of the image, drawn evenly between the two (DINO's defaults).
    rotate
        Turn by any angle and mirror: a cell has no upright.
    intensity
        Each channel is multiplied by ``1 +- intensity`` and shifted by ``+- intensity`` (in units
        of its standard deviation): staining and exposure differ between plates.
    noise
        Largest standard deviation of the pixel noise, in the same units; each view draws its own.
    """

    n_global: int = 2
    n_local: int = 4
    global_size: int = 64
    local_size: int = 32
    global_scale: tuple[float, float] = (0.4, 1.0)
    local_scale: tuple[float, float] = (0.05, 0.4)
    rotate: bool = True
    intensity: float = 0.2
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.n_global < 1 or self.n_local < 0 or self.n_global + self.n_local < 2:
            raise ValueError(
                f"n_global={self.n_global}, n_local={self.n_local}: expected at least one global "
                "view and two views in all."
            )
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name}={(low, high)}: expected shares, 0 < low <= high <= 1.")
        if not 0 <= self.intensity < 1 or self.noise < 0:
            raise ValueError(
                f"intensity={self.intensity}, noise={self.noise}: expected 0 <= intensity < 1 and "
                "noise >= 0."
            )

    @classmethod
    def for_images(cls, side: int, patch_size: int, **given: Any) -> Self:
        """Views of whole patches: global ones of the image's side, local ones of half of it."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                raise missing_key(name, known, what="the fields of CropSettings")
        half = max(patch_size, side // 2 // patch_size * patch_size)
        settings = cls(**{"global_size": side, "local_size": half, **given})
        for name in ("global_size", "local_size"):
            size = getattr(settings, name)
            if size < 1 or size % patch_size:
                raise ValueError(
                    f"{name}={size} is no multiple of the patch size {patch_size}; change one of "
                    "them."
                )
        return settings


def random_crops(
    images: Tensor,
    key: Tensor,
    *,
    n_views: int,
    size: int,
    scale: tuple[float, float],
    seed: int,
    purpose: str,
    settings: CropSettings,
) -> Tensor:
    """Cut `n_views` square views out of each image, in one resampling.

    Parameters
    ----------
    images
        ``(N, C, H, W)`` float, standardised per channel.
    key
        Number of each image, ``(N,)``: the same number gives the same views in any batch.
    n_views, size, scale
        Number of views, their side in pixels, and their area as a share of the image.
    seed, purpose
        Passed to :func:`~cellfuse.nn.uniform`.
    settings
        Rotation, intensity and noise.

    Returns
    -------
    ``(n_views, N, C, size, size)``. Pixels outside the image mirror those inside.
    """
    n, c, h, w = images.shape
    u = uniform(key, (n_views, 6), seed=seed, purpose=purpose).transpose(0, 1)  # (V, N, 6)
    side = (scale[0] + (scale[1] - scale[0]) * u[..., 0]).sqrt()
    angle = u[..., 1] * (2 * math.pi if settings.rotate else 0.0)
    flip_x, flip_y = torch.ones_like(side), torch.ones_like(side)
    if settings.rotate:
        flip_x, flip_y = (torch.where(u[..., i] < 0.5, 1.0, -1.0) for i in (2, 3))
    # The axes of grid_sample run from -1 to 1: a view of side s fits where |shift| <= 1 - s.
    shift = (u[..., 4:] * 2 - 1) * (1 - side)[..., None]
    cos, sin = angle.cos() * side, angle.sin() * side
    short = min(h, w)
    row_x = torch.stack([cos * flip_x * short / w, -sin * flip_y * short / w, shift[..., 0]], -1)
    row_y = torch.stack([sin * flip_x * short / h, cos * flip_y * short / h, shift[..., 1]], -1)
    matrix = torch.stack([row_x, row_y], dim=-2).to(images.dtype)  # (V, N, 2, 3)
    views = images.new_empty(n_views, n, c, size, size)
    for view, cut in zip(views, matrix, strict=True):  # no copy of the images per view
        grid = F.affine_grid(cut, [n, c, size, size], align_corners=False)
        view.copy_(F.grid_sample(images, grid, padding_mode="reflection", align_corners=False))
    return _change_intensity(views, key, seed=seed, purpose=purpose, settings=settings)


def _change_intensity(
    views: Tensor, key: Tensor, *, seed: int, purpose: str, settings: CropSettings
) -> Tensor:
    """Gain and offset per channel, then noise; in place."""
    n_views, _, c, h, w = views.shape
    if settings.intensity > 0:
        u = uniform(key, (n_views, c, 2), seed=seed, purpose=f"{purpose}: intensity")
        change = ((u * 2 - 1) * settings.intensity).transpose(0, 1).to(views.dtype)
        views.mul_(1 + change[..., 0, None, None]).add_(change[..., 1, None, None])
    if settings.noise > 0:
        u = uniform(key, (n_views,), seed=seed, purpose=f"{purpose}: noise level")
        level = (u * settings.noise).T.to(views.dtype)  # (V, N)
        drawn = normal(key, (n_views, c, h, w), seed=seed, purpose=f"{purpose}: noise")
        views.addcmul_(drawn.transpose(0, 1).to(views.dtype), level[..., None, None, None])
    return views


@torch.no_grad()
def multi_crop(
    images: Tensor, key: Tensor, *, seed: int, settings: CropSettings | None = None
) -> tuple[Tensor, Tensor]:
    """Global and local views of each image (DINO's multi-crop, for cells).

    Parameters
    ----------
    images
        ``(N, C, H, W)`` float, standardised per channel.
    key
        Number of each image, ``(N,)``.
    seed
        Seed of the run.
    settings
        See :class:`CropSettings`.

    Returns
    -------
    Global views ``(n_global, N, C, S, S)`` and local views ``(n_local, N, C, s, s)``.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import multi_crop
    >>> wide, narrow = multi_crop(torch.zeros(3, 5, 64, 64), torch.arange(3), seed=0)
    >>> tuple(wide.shape), tuple(narrow.shape)
    ((2, 3, 5, 64, 64), (4, 3, 5, 32, 32))
    """
    how = CropSettings() if settings is None else settings
    wide = random_crops(
        images,
        key,
        n_views=how.n_global,
        size=how.global_size,
        scale=how.global_scale,
        seed=seed,
        purpose="global views",
        settings=how,
    )
    narrow = random_crops(
        images,
        key,
        n_views=how.n_local,
        size=how.local_size,
        scale=how.local_scale,
        seed=seed,
        purpose="local views",
        settings=how,
    )
    return wide, narrow
