"""Pictures of cells: channels in colour or grey, one scale for what is compared, a scale bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import take_rows
from cellfuse._errors import listing, missing_key

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Look", "crops_of", "draw_row", "limits_of", "look", "picked"]

#: Colours of channels laid over one another, in their order; and those that a name calls for.
LIGHTS = ("#0080FF", "#FF3030", "#40FF40", "#FF40FF", "#FFD000", "#00FFFF")
DNA = ("dna", "dapi", "hoechst", "hoescht", "nucleus", "nuclei")
#: Percentiles of a channel's pixels that are drawn black and bright.
CONTRAST = (1.0, 99.7)
#: Pixels between two crops.
GAP = 2
#: Lengths that a scale bar may have, times a power of ten.
ROUND = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Look:
    """How crops are drawn.

    Parameters
    ----------
    channels
        Positions of the channels.
    names
        Their names.
    colours
        Their colours where they are laid over one another; empty for grey pictures.
    limits
        Intensities that are black and bright, ``(channels, 2)``.
    pixel_size
        Micrometres per pixel; None labels the bar in pixels.
    """

    channels: list[int]
    names: list[str]
    colours: list[str]
    limits: NDArray[np.float64]
    pixel_size: float | None


def crops_of(
    adata: AnnData, image_rep: str, channels: Sequence[str] | str | None
) -> tuple[Any, list[int], list[str]]:
    """Images as they are stored, and the channels that are drawn."""
    if image_rep not in adata.obsm:
        raise missing_key(image_rep, list(adata.obsm), what="obsm")
    images = adata.obsm[image_rep]
    if getattr(images, "ndim", 0) != 4:
        raise ValueError(
            f"obsm[{image_rep!r}] has shape {getattr(images, 'shape', '?')}; expected images, "
            "(cells, channels, height, width)."
        )
    n = int(images.shape[1])
    stored = adata.uns.get("channels")
    names = [f"channel {i}" for i in range(n)] if stored is None else [str(c) for c in stored]
    wanted = names if channels is None else [channels] if isinstance(channels, str) else channels
    for name in wanted:
        if str(name) not in names:
            raise missing_key(name, names, what="the channels")
    return images, [names.index(str(name)) for name in wanted], [str(name) for name in wanted]


def limits_of(crops: Sequence[NDArray], channels: Sequence[int]) -> NDArray[np.float64]:
    """One black and one bright for each channel, over all the crops that are compared."""
    found = []
    for channel in channels:
        pixels = np.concatenate([part[:, channel].ravel() for part in crops if len(part)])
        low, high = np.percentile(pixels, CONTRAST)
        found.append((low, high if high > low else low + 1))
    return np.array(found, dtype=np.float64)


def look(
    crops: Sequence[NDArray],
    channels: list[int],
    names: list[str],
    *,
    composite: bool,
    colours: Mapping[str, str] | None = None,
    pixel_size: float | None = None,
) -> Look:
    """Choose limits and colours for the crops of a figure."""
    if pixel_size is not None and not pixel_size > 0:
        raise ValueError(f"pixel_size={pixel_size}: expected micrometres per pixel.")
    if composite and len(channels) > len(LIGHTS):
        raise ValueError(
            f"{len(channels)} channels cannot be told apart in one picture ({listing(names)}); "
            f"name up to {len(LIGHTS)} with `channels`, or pass `composite=False`."
        )
    return Look(
        channels,
        names,
        _lights(names, colours) if composite else [],
        limits_of(crops, channels),
        pixel_size,
    )


def _lights(names: Sequence[str], given: Mapping[str, str] | None) -> list[str]:
    """DNA is blue wherever it stands; the others take the colours that are left."""
    found = dict(given or {})
    for name in names:
        if name not in found and any(word in name.lower() for word in DNA):
            if LIGHTS[0] not in found.values():
                found[name] = LIGHTS[0]
    free = [c for c in (*LIGHTS[1:], LIGHTS[0]) if c not in found.values()]
    for name in names:
        if name not in found:
            found[name] = free.pop(0)
    return [found[name] for name in names]


def draw_row(ax: Axes, crops: NDArray, how: Look, *, n_columns: int, bar: bool = False) -> None:
    """Draw crops side by side in one picture; places of cells that are missing stay white."""
    height, width = crops.shape[2:]
    pitch = width + GAP
    canvas = np.ones((height, n_columns * pitch - GAP, 3))
    for k, crop in enumerate(crops[:n_columns]):
        canvas[:, k * pitch : k * pitch + width] = _picture(crop, how)
    ax.imshow(np.clip(canvas, 0, 1), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    if bar:
        _scale_bar(ax, width, height, min(len(crops), n_columns), pitch, how.pixel_size)


def _picture(crop: NDArray, how: Look) -> NDArray:
    from matplotlib.colors import to_rgb

    low, high = how.limits.T
    scaled = (crop[how.channels].astype(np.float64) - low[:, None, None]) / (high - low)[
        :, None, None
    ]
    scaled = np.clip(scaled, 0, 1)
    if not how.colours:
        return np.repeat(scaled.mean(axis=0)[..., None], 3, axis=2)
    lights = np.array([to_rgb(colour) for colour in how.colours])
    return np.clip(np.einsum("chw,cr->hwr", scaled, lights), 0, 1)


def _scale_bar(
    ax: Axes, width: int, height: int, n: int, pitch: int, pixel_size: float | None
) -> None:
    """Draw a bar of a round length, about a third of a crop, in the last one."""
    unit = pixel_size or 1.0
    wanted = width * unit / 3
    power = 10.0 ** np.floor(np.log10(wanted))
    length = max(r * power for r in ROUND if r * power <= wanted)
    right = (max(n, 1) - 1) * pitch + width * 0.95
    y = height * 0.93
    ax.plot([right - length / unit, right], [y, y], color="white", linewidth=2.5)
    ax.text(
        right - length / unit / 2,
        y - height * 0.04,
        f"{length:g} {'µm' if pixel_size else 'px'}",
        color="white",
        fontsize=6,
        ha="center",
        va="bottom",
    )


def picked(images: Any, rows: NDArray) -> NDArray:
    """Crops of some rows, in their order, from any kind of array."""
    if not len(rows):
        return np.zeros((0, *images.shape[1:]), np.float32)
    found = take_rows(images, rows)
    return np.asarray(found.compute() if hasattr(found, "compute") else found)
