"""Weights of others, read as tensors: nothing in the file is executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["read_tensors"]

#: Names under which training scripts wrap the weights.
WRAPPERS = ("state_dict", "model_state_dict", "model")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a checkpoint file as a flat dict of tensors on the CPU.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or one that `torch.save` wrote; the latter is unpickled with
        ``weights_only=True``, which knows tensors and plain containers and nothing else.

    Returns
    -------
    Tensors by name. A dict wrapped as ``state_dict``, ``model_state_dict`` or ``model`` is
    unwrapped, and the ``module.`` that data-parallel training puts before every name is removed.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file holds pickled code, no tensors, or is damaged.

    Examples
    --------
    >>> import tempfile, torch
    >>> from cellfuse.nn.checkpoints import read_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"state_dict": {"bias": torch.zeros(2)}}, f"{folder}/model.pt")
    ...     read_tensors(f"{folder}/model.pt")
    {'bias': tensor([0., 0.])}
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no checkpoint file {str(source)!r}.")
    found = _safetensors(source) if source.suffix == ".safetensors" else _torch_file(source)
    for name in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    tensors = (
        {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise ValueError(
            f"{str(source)!r} holds no weights: expected a dict of tensors (a state dict), found "
            f"{type(found).__name__}."
        )
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _safetensors(source: Path) -> dict[str, Tensor]:
    try:
        return load_file(source)
    except SafetensorError as error:
        raise ValueError(f"{str(source)!r} is damaged: {error}.") from error


def _torch_file(source: Path) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{str(source)!r} holds more than tensors (pickled code, which runs when it is "
            "loaded); it was not loaded and nothing in it was executed. Save its weights alone, "
            "where you trust the file: `torch.save(model.state_dict(), path)`. torch says: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{str(source)!r} is damaged, or no checkpoint: {error}.") from error
