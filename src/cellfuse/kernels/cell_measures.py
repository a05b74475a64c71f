"""Handcrafted features of one cell's image, measured by scikit-image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["feature_names", "measure_cell"]

#: Percentile of a channel's pixels that stands for its bright parts.
BRIGHT = 99
#: Standard deviation of the smoothing before the nucleus is thresholded, in pixels.
SMOOTHING = 1.0
#: Pixels below which a nucleus or a droplet is a speck.
MIN_NUCLEUS, MIN_SPOT = 9, 2
NUCLEUS = ("area", "eccentricity", "solidity", "form_factor", "mean", "sd")
SPOTS = ("number", "area", "share")


def feature_names(channels: Sequence[str], nucleus: str | None, spots: Sequence[str]) -> list[str]:
    """Names of what :func:`measure_cell` gives, in its order."""
    names = [f"{c}_{what}" for c in channels for what in ("mean", "sd", "bright")]
    if nucleus is not None:
        names += [f"nucleus_{what}" for what in NUCLEUS]
    return names + [f"{c}_spot_{what}" for c in spots for what in SPOTS]


def measure_cell(
    pixels: NDArray, *, nucleus: int | None, spots: Sequence[int], spot_size: int
) -> list[float]:
    """Features of one image ``(C, H, W)``; see :func:`feature_names`.

    Parameters
    ----------
    nucleus
        Channel of the DNA.
    spots
        Channels with droplets or other spots.
    spot_size
        Largest radius of a spot in pixels; what is larger counts as background.

    Returns
    -------
    Numbers; NaN for a nucleus that was not found.
    """
    image = np.asarray(pixels, dtype=np.float32)
    found: list[float] = []
    for channel in image:
        bright = np.percentile(channel, BRIGHT)
        found += [float(channel.mean()), float(channel.std()), float(bright)]
    if nucleus is not None:
        found += _nucleus(image[nucleus])
    for channel in spots:
        found += _spots(image[channel], spot_size)
    return found


def _nucleus(channel: NDArray) -> list[float]:
    """Size, shape and stain of the nucleus: the piece above Otsu's threshold nearest the centre."""
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label, regionprops

    nothing = [np.nan] * len(NUCLEUS)
    if channel.min() == channel.max():
        return nothing
    smooth = gaussian(channel, SMOOTHING, preserve_range=True)
    pieces = label(smooth > threshold_otsu(smooth))
    centre = (np.array(channel.shape) - 1) / 2
    regions = [r for r in regionprops(pieces, intensity_image=channel) if r.area >= MIN_NUCLEUS]
    if not regions:
        return nothing
    # A piece that holds the centre has a pixel at distance 0.
    nearest = min(regions, key=lambda r: float(np.square(r.coords - centre).sum(axis=1).min()))
    perimeter = float(nearest.perimeter)
    inside = channel[tuple(nearest.coords.T)]
    return [
        float(nearest.area),
        float(nearest.eccentricity),
        float(nearest.solidity),
        4 * np.pi * float(nearest.area) / perimeter**2 if perimeter > 0 else np.nan,
        float(inside.mean()),
        float(inside.std()),
    ]


def _spots(channel: NDArray, size: int) -> list[float]:
    """Number of spots, their mean area, and their share of the channel's light."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label
    from skimage.morphology import disk, white_tophat

    bright = white_tophat(channel, disk(size))
    if bright.min() == bright.max():
        return [0.0, np.nan, 0.0]
    # Otsu alone would find spots in noise: they stand out from the channel's own spread too.
    bound = max(float(threshold_otsu(bright)), float(channel.std()))
    pieces = label(bright > bound)
    area = np.bincount(pieces.ravel())[1:]
    kept = np.flatnonzero(area >= MIN_SPOT) + 1
    total = float(channel.sum())
    light = float(bright[np.isin(pieces, kept)].sum())
    mean_area = float(area[kept - 1].mean()) if len(kept) else np.nan
    return [float(len(kept)), mean_area, light / total if total > 0 else 0.0]
