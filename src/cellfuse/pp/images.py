"""Images embedded by a pretrained backbone of timm."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._embedding_store import EmbeddingStore, digest_of
from cellfuse._provenance import record
from cellfuse.pp._embed import check_target, pick_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from cellfuse.data.readers import Reader

__all__ = ["embed_images"]

#: Range of pixel values that becomes [0, 1]: a pair, or one pair per channel.
Scale: TypeAlias = Literal["dtype"] | tuple[float, float] | Sequence[tuple[float, float]]

#: Cells looked at to see whether 16-bit images use their range.
N_PROBED = 64


def embed_images(
    adata: AnnData,
    image_rep: str = "crops",
    *,
    backbone: str = "vit_large_patch16_224",
    per_channel: bool = True,
    weights: str | Path = "hub",
    scale: Scale = "dtype",
    batch_size: int = 64,
    device: str | torch.device | None = None,
    key_added: str = "X_vit",
    store: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> None:
    """Embed each cell's image by a frozen backbone.

    The default is the input of PhenoSeq (section 2.1, figure 1): each channel by itself through a
    ViT-L trained on ImageNet, the outputs side by side, 5 x 1,024 = 5,120 for Cell Painting. A
    channel is repeated over the backbone's three input channels, a grey picture, as the authors of
    the embeddings that PhenoSeq takes (scGeneScope) do it: the first layer stays as it was
    trained. (One input channel with the layer's weights summed over the colours would be the same
    only where the colours are normalised alike.) Their notebook leaves the backbone's mean and
    standard deviation out; here they are applied.

    Every image is scaled to [0, 1], resized to the backbone's input size as a whole (timm's own
    evaluation would cut its margin off) with the backbone's interpolation, and normalised with
    the backbone's mean and standard deviation.

    Parameters
    ----------
    adata
        Cells with images.
    image_rep
        obsm key of the images, ``(cells, channels, height, width)``, in any kind of array that is
        read by rows (numpy, memmap, h5py, zarr, dask); one batch is read at a time.
    backbone
        Name of a model of timm (``timm.list_models()``), with or without the tag of its weights;
        or of a backbone trained on microscopy, which takes one channel at a time and normalises
        each image by its own mean and standard deviation:

        - ``"morphem"``: ViT-S, 384 features a channel (CHAMMI-75; weights MIT). Its authors put
          noise into saturated pixels first; here they are left as they are.
        - ``"channel-dino"``: ViT-L, 1,024 features a channel (weights FAIR Noncommercial Research
          License, given out on request: pass the file as `weights`).
        - ``"openphenom"`` is refused with what to do: its network is no timm model, and code of
          others is not executed here.
    per_channel
        Each channel alone, features side by side in the order of the channels. False: all channels
        at once; timm then adapts the first layer to their number (its weights are repeated over
        the channels and scaled), and a single mean and standard deviation, the backbone's average
        over colours, normalises every channel, unless there are three channels.
    weights
        ``"hub"``: timm's pretrained weights, downloaded once into the cache of huggingface_hub.
        A path: a checkpoint file of this backbone under timm's names, as the hub has it
        (``.safetensors``, or torch's, read with ``weights_only=True``). ``"random"``: none, drawn
        with `seed`.
    scale
        What becomes 0 and 1. ``"dtype"``: the range of the type, 0 to 255 or 0 to 65,535; floats
        must lie in [0, 1]. A pair ``(low, high)``, such as ``(0, 4095)`` for a camera with 12
        bits, or one pair per channel; values outside are clipped. Intensity is a phenotype: one
        scale holds for all images.
    batch_size
        Cells a batch.
    device
        torch device; None: a GPU where there is one.
    key_added
        obsm key of the result.
    store
        Folder of a zarr store that the batches are written to as they are finished. A run that
        was killed goes on where it was (with the batches of the first run); a store that belongs
        to other images, weights or settings is refused.
    seed
        For random weights.
    overwrite
        Replace an obsm entry of that name. A store is never overwritten.
    progress
        Show a progress bar.

    Returns
    -------
    None. ``obsm[key_added]``, float32, shape (cells, channels x features) or (cells, features).

    Raises
    ------
    KeyError
        `image_rep` or `backbone` does not exist.
    ConnectionError
        The weights could not be downloaded; the text says what to fetch and where to put it.
    FileNotFoundError
        The checkpoint file is missing.
    ValueError
        No images; float images outside [0, 1], NaN or infinite pixels; weights of another
        backbone; pickled code in the checkpoint; a store of something else.

    Warns
    -----
    UserWarning
        16-bit images use less than a sixteenth of their range and ``scale="dtype"``.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np
    >>> cells = ad.AnnData(obs={"well": ["a", "b"]})
    >>> pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 40, 40), dtype=np.uint8)
    >>> cells.obsm["crops"] = pixels
    >>> cf.pp.embed_images(cells, backbone="test_vit", weights="random", progress=False)
    >>> cells.obsm["X_vit"].shape  # 5 channels of 64 features
    (2, 320)
    """
    import torch

    from cellfuse.data.inputs import CellInput
    from cellfuse.nn.backbones import load_backbone
    from cellfuse.nn.microscopy import MICROSCOPY

    adata = check_target(adata, key_added, verb="embed_images", overwrite=overwrite)
    if batch_size < 1:
        raise ValueError(f"expected batch_size >= 1, found {batch_size}.")
    if backbone in MICROSCOPY and not per_channel:
        raise ValueError(f"{backbone!r} takes one channel at a time: leave `per_channel` True.")
    images = CellInput.resolve(adata, role="image", modality="", rep=image_rep)
    if images.kind != "pixels":
        raise ValueError(
            f"{images.label} has cells of shape {images.shape}; expected images, (channels, "
            "height, width)."
        )
    reader = images.reader(adata)
    low, high = _range(scale, reader, images.label, images.shape[0])
    in_chans = 3 if per_channel else images.shape[0]
    net, config = load_backbone(backbone, weights=weights, in_chans=in_chans, seed=seed)
    at = pick_device(device)
    model = _Embedder(net.to(at), config, per_channel, low, high, at)

    def embed(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        pixels = reader.read(rows)
        _check_pixels(pixels, images.label, rows, unit_range=isinstance(scale, str))
        return model(pixels)

    width = net.num_features * (images.shape[0] if per_channel else 1)
    settings = {
        "image_rep": image_rep,
        "backbone": backbone,
        "weights": "file" if weights not in ("hub", "random") else str(weights),
        "per_channel": per_channel,
        "channels": list(images.names) if images.names else images.shape[0],
        "scale": np.stack([low, high], axis=1).tolist(),
        "seed": seed if weights == "random" else None,
    }
    shape = (adata.n_obs, width)
    with torch.inference_mode():
        if store is None:
            out = np.empty(shape, dtype=np.float32)
            _run(embed, out.__setitem__, adata.n_obs, batch_size, progress)
        else:
            identity = {**settings, **_identity(adata, reader, net)}
            kept = EmbeddingStore.open(store, shape, batch_size, identity)
            _run(embed, kept.write, adata.n_obs, kept.batch_size, progress, kept.is_done)
            out = kept.read()
    adata.obsm[key_added] = out
    record(adata, key_added, "embed_images", settings, past={})


def _run(
    embed: Callable[[NDArray[np.int64]], NDArray],
    put: Callable[[slice, NDArray], None],
    n: int,
    batch_size: int,
    progress: bool,
    is_done: Callable[[slice], bool] = lambda part: False,
) -> None:
    from tqdm.auto import tqdm

    with tqdm(total=n, unit="cell", desc="images", disable=not progress) as bar:
        for start in range(0, n, batch_size):
            part = slice(start, min(start + batch_size, n))
            if not is_done(part):
                put(part, embed(np.arange(part.start, part.stop)))
            bar.update(part.stop - part.start)


# -- pixels ---------------------------------------------------------------------------------------


def _range(scale: Scale, reader: Reader, label: str, channels: int) -> tuple[NDArray, NDArray]:
    """Values of each channel that become 0 and 1."""
    if isinstance(scale, str):
        if scale != "dtype":
            raise ValueError(f"`scale` is 'dtype' or a pair (low, high), found {scale!r}.")
        return _range_of_dtype(reader, label, channels)
    pairs = np.asarray(scale, dtype=np.float64)
    if pairs.shape == (2,):
        pairs = np.tile(pairs, (channels, 1))
    if pairs.shape != (channels, 2) or not (pairs[:, 0] < pairs[:, 1]).all():
        raise ValueError(
            f"`scale` must be a pair (low, high) with low < high, or one for each of the "
            f"{channels} channels; found {scale!r}."
        )
    return pairs[:, 0], pairs[:, 1]


def _range_of_dtype(reader: Reader, label: str, channels: int) -> tuple[NDArray, NDArray]:
    if reader.dtype.kind == "f":
        top = 1.0
    elif reader.dtype in (np.uint8, np.uint16):
        top = float(np.iinfo(reader.dtype).max)
    else:
        raise ValueError(
            f"{label} has dtype {reader.dtype}, which says nothing about black and white; give "
            "`scale=(low, high)`, the values that become 0 and 1."
        )
    if reader.dtype == np.uint16:
        n = reader.shape[0]
        probed = np.unique(np.linspace(0, n - 1, min(n, N_PROBED)).astype(np.int64))
        brightest = max(int(reader.read(row[None]).max()) for row in probed)
        if brightest < top / 16:
            warnings.warn(
                f"the brightest pixel of {len(probed)} cells of {label} is {brightest} of "
                f"{top:.0f}: the backbone will see almost black images. If the camera has fewer "
                "bits, or the stain is weak, give `scale=(low, high)`, such as (0, 4095).",
                UserWarning,
                stacklevel=4,
            )
    return np.zeros(channels), np.full(channels, top)


def _check_pixels(
    pixels: NDArray, label: str, rows: NDArray[np.int64], *, unit_range: bool
) -> None:
    if pixels.dtype.kind != "f":
        return
    axes = tuple(range(1, pixels.ndim))
    bad = ~np.isfinite(pixels).all(axis=axes)
    if bad.any():
        raise ValueError(f"{label} holds NaN or infinite pixels in row {rows[bad][0]}.")
    if unit_range:
        out = (pixels.min(axis=axes) < 0) | (pixels.max(axis=axes) > 1)
        if out.any():
            raise ValueError(
                f"{label} is {pixels.dtype} with pixels from {pixels[out].min():g} to "
                f"{pixels[out].max():g} (row {rows[out][0]}), expected 0 to 1; give "
                "`scale=(low, high)`, the values that become 0 and 1."
            )


@dataclass(frozen=True)
class _Embedder:
    """Pixels in, features out: scaled, resized, normalised and run on the device."""

    net: nn.Module
    config: dict[str, Any]
    per_channel: bool
    low: NDArray
    high: NDArray
    device: torch.device

    def __call__(self, pixels: NDArray) -> NDArray[np.float32]:
        """``(B, C, H, W)`` of any type; gives ``(B, width)``."""
        import torch

        if pixels.dtype == np.uint16:
            pixels = pixels.astype(np.int32)  # torch computes little in uint16
        raw = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)
        if not self.per_channel:
            return self._features(raw, slice(None))
        parts = [self._features(raw[:, [c]], slice(c, c + 1)) for c in range(raw.shape[1])]
        return np.concatenate(parts, axis=1)

    def _features(self, raw: Tensor, channels: slice) -> NDArray[np.float32]:
        import torch
        import torch.nn.functional as F

        def column(values: Any) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=self.device)[:, None, None]

        low, high = column(self.low[channels]), column(self.high[channels])
        x = ((raw.to(torch.float32) - low) / (high - low)).clamp(0, 1)
        size = tuple(self.config["input_size"][1:])
        if self.config.get("each_image"):
            sds, means = torch.std_mean(x, dim=(2, 3), keepdim=True, correction=0)
            x = (x - means) / (sds + 1e-7)
            return self._run(F.interpolate(x, size=size, mode="bilinear", antialias=True))
        if x.shape[2:] != size:
            mode = "bilinear" if self.config["interpolation"] == "bilinear" else "bicubic"
            x = F.interpolate(x, size=size, mode=mode, antialias=True).clamp(0, 1)
        mean, sd = self.config["mean"], self.config["std"]
        if self.per_channel:
            x = x.expand(-1, len(mean), -1, -1)
        elif x.shape[1] != len(mean):
            mean, sd = [np.mean(mean)] * x.shape[1], [np.mean(sd)] * x.shape[1]
        return self._run((x - column(mean)) / column(sd))

    def _run(self, x: Tensor) -> NDArray[np.float32]:
        return self.net(x).float().cpu().numpy()


def _identity(adata: AnnData, reader: Reader, net: nn.Module) -> dict[str, Any]:
    """What makes a store this one: its cells, some of their images, and the weights."""
    n = adata.n_obs
    rows = np.unique(np.linspace(0, n - 1, min(n, N_PROBED)).astype(np.int64))
    state = net.state_dict()
    return {
        "cells": digest_of("\n".join(map(str, adata.obs_names)).encode()),
        "shape": list(reader.shape),
        "dtype": str(reader.dtype),
        "images": digest_of(*(np.ascontiguousarray(reader.read(row[None])) for row in rows)),
        "parameters": digest_of(*(state[name].cpu().contiguous().numpy() for name in state)),
    }
