"""Backbones trained on microscopy, by name: whose they are, under which licence, what they take."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cellfuse._errors import listing
from cellfuse.nn.checkpoints import read_tensors

__all__ = ["MICROSCOPY", "MicroscopyBackbone", "load_microscopy"]

logger = logging.getLogger("cellfuse")

#: In files of DINOv2 blocks are grouped, ``blocks.<group>.<block>``; timm counts them through.
GROUPED = re.compile(r"^blocks\.\d+\.(\d+)\.")
#: Of training alone: what stands for hidden patches.
UNUSED = ("mask_token",)


@dataclass(frozen=True)
class MicroscopyBackbone:
    """A backbone that others trained on microscopy.

    Parameters
    ----------
    licence
        Of the weights.
    place, file
        Where the file of the weights is found, and its name.
    repo_id
        On the Hugging Face hub, where it may be fetched by anyone; ``""`` for on request only.
    network
        The network under timm's name; ``""`` where timm has none.
    make
        Further arguments of timm.
    """

    licence: str
    place: str
    file: str
    repo_id: str = ""
    network: str = ""
    make: tuple[tuple[str, Any], ...] = ()


#: One channel at a time, 224 pixels, each image by its own mean and sd (`load_microscopy`).
MICROSCOPY = {
    "morphem": MicroscopyBackbone(
        licence="MIT",
        place="huggingface.co/CaicedoLab/MorphEm",
        file="model.safetensors",
        repo_id="CaicedoLab/MorphEm",
        network="vit_small_patch16_224",
    ),
    "channel-dino": MicroscopyBackbone(
        licence="FAIR Noncommercial Research License",
        place="github.com/facebookresearch/dinov2 (Channel-Adaptive DINO; on request)",
        file="channel_adaptive_dino_vitl16_pretrain_cells-ef7c17ff.pth",
        network="vit_large_patch16_224",
        make=(("init_values", 1.0),),
    ),
    "openphenom": MicroscopyBackbone(
        licence="Recursion's Non-Commercial End User License Agreement",
        place="huggingface.co/recursionpharma/OpenPhenom",
        file="model.safetensors",
    ),
}


def load_microscopy(name: str, *, weights: str | Path) -> tuple[Any, dict[str, Any]]:
    """Make a backbone of :data:`MICROSCOPY`; its weights are of the file, the hub or random.

    Returns
    -------
    The network, and its input: ``input_size``, ``interpolation``, and ``each_image`` for that every
    image is normalised by its own mean and standard deviation, before it is resized.

    Raises
    ------
    ValueError
        The network is not to be had through timm; the file holds another network's weights.
    ConnectionError, FileNotFoundError
        The weights are not here; the text says what to fetch and where to put it.
    """
    import timm

    known = MICROSCOPY[name]
    if not known.network:
        raise ValueError(
            f"{name!r} is no network of timm: its channels attend to each other in code of its "
            f"authors ({known.place}; {known.licence}), which is not executed here. Embed the "
            "images with that code (256 x 256 pixels, up to 11 channels), put the result into "
            "`adata.obsm['X_openphenom']`, and go on from there."
        )
    make: dict[str, Any] = {"in_chans": 1, "num_classes": 0, **dict(known.make)}
    if weights == "random":
        net = timm.create_model(known.network, **make)
    else:
        path = _file(name, known) if weights == "hub" else Path(weights)
        tensors = _as_in_timm(read_tensors(path))
        if any(key.endswith("ls1.gamma") for key in tensors):
            make["init_values"] = 1.0
        net = timm.create_model(known.network, **make)
        _load(net, tensors, path, name)
    logger.info("%r: weights under the licence %s (%s).", name, known.licence, known.place)
    return net, {"input_size": (1, 224, 224), "interpolation": "bilinear", "each_image": True}


def _file(name: str, known: MicroscopyBackbone) -> Path:
    """Weights from the hub, where it has them for anyone."""
    fetch = (
        f"fetch {known.file!r} from {known.place} (licence: {known.licence}), copy it here and "
        "pass its path: `weights='path/to/" + known.file + "'`."
    )
    if not known.repo_id:
        raise FileNotFoundError(f"the weights of {name!r} are given out on request: {fetch}")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(known.repo_id, known.file))
    except Exception as error:
        # Which error it is depends on the version of the hub's client and its transport.
        raise ConnectionError(
            f"the weights of {name!r} could not be downloaded ({error}). On a machine with "
            f"internet, {fetch}"
        ) from error


def _as_in_timm(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as timm has them: blocks counted through, without what only training uses."""
    return {
        GROUPED.sub(r"blocks.\1.", key): value
        for key, value in tensors.items()
        if key not in UNUSED
    }


def _load(net: Any, tensors: dict[str, Tensor], path: Path, name: str) -> None:
    """Load every weight of the network, or none."""
    expected = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        missing = [key for key in expected if key not in found]
        unknown = [key for key in found if key not in expected]
        shapes = [k for k in expected if k in found and found[k] != expected[k]]
        raise ValueError(
            f"{str(path)!r} does not hold the weights of {name!r}: missing {listing(missing, 3)}; "
            f"unknown {listing(unknown, 3)}; of another shape {listing(shapes, 3)}."
        )
    net.load_state_dict(tensors)
