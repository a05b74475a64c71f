"""Plain numbers of an image: what its intensities are, where they lie, how they vary."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["image_statistics", "n_image_statistics"]

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
#: Distances between the neighbours that are compared: texture by scale.
STEPS = (1, 2, 4)
N_RINGS = 6
#: Mean, sd, skewness; quantiles; rings; textures; mass, extent, elongation.
PER_CHANNEL = 3 + len(QUANTILES) + N_RINGS + len(STEPS) + 3


def n_image_statistics(n_channels: int) -> int:
    """Length of :func:`image_statistics`."""
    return PER_CHANNEL * n_channels + n_channels * (n_channels - 1) // 2


def image_statistics(images: Tensor) -> Tensor:
    """Numbers of each image that stay (nearly) as they are when it is turned or mirrored.

    Per channel: mean, standard deviation and (cube root of the) skewness; seven quantiles; means of
    six rings around the centre of mass; mean absolute differences of pixels 1, 2 and 4 apart;
    logarithms of mass, extent and elongation of what is brighter than the background, the 10%
    quantile. Per pair of channels: their correlation over pixels.

    Parameters
    ----------
    images
        ``(n, C, H, W)``, any numbers.

    Returns
    -------
    ``(n, 22 C + C (C - 1) / 2)``, float32.

    Examples
    --------
    >>> import torch
    >>> from cellfuse.nn import image_statistics
    >>> image_statistics(torch.ones(2, 3, 16, 16)).shape
    torch.Size([2, 69])
    """
    x = images.float()
    n, n_channels, height, width = x.shape
    flat = x.flatten(2)
    n_pixels = flat.shape[2]
    mean = flat.mean(dim=2)
    centred = flat - mean[..., None]
    sd = centred.square().mean(dim=2).sqrt()
    third = (centred.square() * centred).mean(dim=2)
    skew = third.abs().pow(1 / 3) * third.sign()
    ordered = flat.sort(dim=2).values
    quantiles = [ordered[..., round(q * (n_pixels - 1))] for q in QUANTILES]
    textures = [_differences(x, step) for step in STEPS]
    of_channel = [mean, sd, skew, *quantiles, *textures, *_shape(x, quantiles[0])]
    unit = centred / sd.clamp_min(1e-12)[..., None]
    correlation = unit @ unit.transpose(1, 2) / n_pixels
    a, b = torch.tril_indices(n_channels, n_channels, offset=-1)
    return torch.cat([*of_channel, correlation[:, a, b]], dim=1)


def _differences(x: Tensor, step: int) -> Tensor:
    if step >= min(x.shape[2:]):
        return x.new_zeros(x.shape[:2])
    down = (x[:, :, step:] - x[:, :, :-step]).abs().mean(dim=(2, 3))
    right = (x[..., step:] - x[..., :-step]).abs().mean(dim=(2, 3))
    return (down + right) / 2


def _shape(x: Tensor, background: Tensor) -> list[Tensor]:
    """Rings around the centre of mass, then log mass, log extent and log elongation."""
    height, width = x.shape[2:]
    light = (x - background[..., None, None]).clamp_min(0) + 1e-6
    mass = light.sum(dim=(2, 3))
    # Moments are products of small matrices: no array of coordinates per image.
    down = torch.arange(height, dtype=x.dtype, device=x.device)
    right = torch.arange(width, dtype=x.dtype, device=x.device)
    by_row, by_column = light.sum(dim=3) / mass[..., None], light.sum(dim=2) / mass[..., None]
    cy, cx = by_row @ down, by_column @ right
    yy = by_row @ down.square() - cy.square()
    xx = by_column @ right.square() - cx.square()
    xy = (light @ right) @ down / mass - cx * cy
    middle = (yy + xx) / 2
    apart = ((yy - xx).square() / 4 + xy.square()).sqrt()
    long, short = (middle + apart).clamp_min(1e-3), (middle - apart).clamp_min(1e-3)
    # One centre per image: rings of all channels lie on each other.
    away = torch.hypot(
        down[:, None] - cy.mean(dim=1)[:, None, None], right - cx.mean(dim=1)[:, None, None]
    )
    ring = (away / (min(height, width) / 2) * N_RINGS).long().clamp_max(N_RINGS)
    inside = torch.nn.functional.one_hot(ring.flatten(1), N_RINGS + 1)[..., :N_RINGS].to(x.dtype)
    sums = x.flatten(2) @ inside  # (n, C, rings)
    rings = sums / inside.sum(dim=1).clamp_min(1)[:, None]
    return [*rings.unbind(dim=2), mass.log(), middle.clamp_min(1e-3).log(), (long / short).log()]
