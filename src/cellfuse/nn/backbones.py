"""Pretrained image backbones, from their hub or from a file: timm's, and those of microscopy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cellfuse._errors import listing, missing_key

__all__ = ["load_backbone"]


def load_backbone(
    backbone: str, *, weights: str | Path, in_chans: int, seed: int
) -> tuple[Any, dict[str, Any]]:
    """Make a network of timm without its classifier, frozen and in evaluation mode.

    Parameters
    ----------
    backbone
        Name of a model of timm, or of :data:`cellfuse.nn.microscopy.MICROSCOPY`.
    weights
        ``"hub"``, ``"random"``, or the path of a checkpoint file under timm's names.
    in_chans
        Number of input channels; weights for another number are adapted as timm does it.
    seed
        For random weights.

    Returns
    -------
    The network, and timm's settings of its input: ``input_size``, ``interpolation``, ``mean``,
    ``std``.

    Raises
    ------
    KeyError
        timm has no such model.
    ConnectionError
        The weights could not be downloaded.
    FileNotFoundError
        The checkpoint file is missing.
    ValueError
        The hub has no weights for this model; the file holds other weights or pickled code.
    """
    import timm
    import torch

    from cellfuse.nn.microscopy import MICROSCOPY, load_microscopy

    if backbone in MICROSCOPY:
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(seed)
            net, config = load_microscopy(backbone, weights=weights)
        return net.eval().requires_grad_(False), config
    if not timm.is_model(backbone):
        raise missing_key(
            backbone,
            [*MICROSCOPY, *(timm.list_models(f"{backbone[:6]}*") or timm.list_models("vit_*"))],
            what="the microscopy backbones and timm's models",
            fix="`timm.list_models()` lists them all.",
        )
    make: dict[str, Any] = {"in_chans": in_chans, "num_classes": 0}
    # What is not loaded is drawn: by the seed, and without moving anybody else's generator.
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        if weights == "random":
            net = timm.create_model(backbone, **make)
        elif weights == "hub":
            net = _from_hub(backbone, make)
        else:
            net = timm.create_model(backbone, **make)
            _load_file(net, backbone, Path(weights), in_chans)
    return net.eval().requires_grad_(False), timm.data.resolve_model_data_config(net)


def _from_hub(backbone: str, make: dict[str, Any]) -> Any:
    import timm

    config = timm.get_pretrained_cfg(backbone)
    hub = config.hf_hub_id if config is not None else None
    if config is None or not config.has_weights:
        raise ValueError(
            f"timm has no pretrained weights for {backbone!r}; choose a tag of "
            f"`timm.list_pretrained({backbone.split('.')[0] + '*'!r})`, give a checkpoint file as "
            "`weights`, or ask for weights='random'."
        )
    try:
        return timm.create_model(backbone, pretrained=True, **make)
    except (RuntimeError, TypeError, KeyError):  # the weights are here and do not fit
        raise
    except Exception as error:
        # Which error a failed download gives depends on the versions of the hub's client.
        place = f"https://huggingface.co/{hub}" if hub else str(config.url)
        raise ConnectionError(
            f"the pretrained weights of {backbone!r} could not be downloaded ({error}). On a "
            f"machine with internet, fetch `model.safetensors` from {place}, copy it here and "
            "pass its path: `weights='path/to/model.safetensors'`."
        ) from error


def _load_file(net: Any, backbone: str, path: Path, in_chans: int) -> None:
    """Load every weight of the backbone, or none: timm itself lets missing ones pass."""
    from timm.models import adapt_input_conv

    from cellfuse.nn.checkpoints import read_tensors

    config: Any = net.pretrained_cfg
    tensors = read_tensors(path)
    for key in ("classifier", "first_conv"):
        named = config.get(key) or ()
        for layer in (named,) if isinstance(named, str) else named:
            if key == "classifier":  # the network ends before it
                tensors.pop(f"{layer}.weight", None)
                tensors.pop(f"{layer}.bias", None)
            elif f"{layer}.weight" in tensors:
                weight = tensors[f"{layer}.weight"]
                tensors[f"{layer}.weight"] = adapt_input_conv(in_chans, weight)
    expected = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    missing = [name for name in expected if name not in found]
    unknown = [name for name in found if name not in expected]
    shapes = [n for n in expected if n in found and found[n] != expected[n]]
    if missing or unknown or shapes:
        raise ValueError(
            f"{str(path)!r} does not hold the weights of {backbone!r} under timm's names: missing "
            f"{listing(missing, 3)}; unknown {listing(unknown, 3)}; of another shape "
            f"{listing(shapes, 3)}."
        )
    net.load_state_dict(tensors)
