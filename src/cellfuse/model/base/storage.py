"""A saved model: tensors and JSON in a folder, nothing that is executed on loading."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from cellfuse._errors import listing
from cellfuse._files import put_in_place, writing

__all__ = ["read_folder", "write_folder"]

FORMAT = 1
DESCRIPTION = "cellfuse.json"
WEIGHTS = "weights.safetensors"


def write_folder(
    folder: str | Path,
    *,
    description: dict[str, Any],
    tensors: dict[str, Tensor],
    history: dict[str, pd.DataFrame] | None,
    overwrite: bool = False,
) -> None:
    """Write beside, then rename: an interrupted save leaves what was there."""
    target = Path(folder)
    if target.exists():
        if not overwrite:
            raise FileExistsError(f"{str(target)!r} exists; pass overwrite=True to replace it.")
        if not (target / DESCRIPTION).is_file():
            raise FileExistsError(
                f"{str(target)!r} exists and is no saved model; it is not overwritten. "
                "Choose another folder."
            )
        others = sorted({path.name for path in target.iterdir()} - {DESCRIPTION, WEIGHTS})
        if others:
            raise FileExistsError(
                f"{str(target)!r} holds more than a saved model ({listing(others)}); it is not "
                "overwritten. Move those files, or choose another folder."
            )
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            curves = {name: frame[name].to_dict() for name, frame in (history or {}).items()}
            whole = {"format": FORMAT, **description, "history": curves}
            text = json.dumps(whole, indent=1, default=_plain)
            (beside / DESCRIPTION).write_text(text)
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, beside / WEIGHTS
            )
            beside.chmod(0o755)
            put_in_place(beside, target)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise


def _plain(value: Any) -> Any:
    """Write a numpy number, such as a seed out of an array, as the number it is; a path as text."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be saved.")


def _frames(curves: dict[str, dict[str, float]]) -> dict[str, pd.DataFrame]:
    return {
        name: pd.DataFrame({name: {int(epoch): v for epoch, v in values.items()}}).rename_axis(
            "epoch"
        )
        for name, values in curves.items()
    }


def read_folder(
    folder: str | Path, *, name: str
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, pd.DataFrame]]:
    """Read what :func:`write_folder` wrote, refusing anything else.

    Raises
    ------
    FileNotFoundError
        The folder or one of its files is missing.
    ValueError
        It holds another class of model, a newer format, or is damaged.
    """
    source = Path(folder)
    for part in (source, source / DESCRIPTION, source / WEIGHTS):
        if not (part.is_dir() if part == source else part.is_file()):
            raise FileNotFoundError(
                f"{str(part)!r} does not exist; a saved model is a folder with {DESCRIPTION!r} "
                f"and {WEIGHTS!r}, as `model.save` writes it."
            )
    try:
        description = json.loads((source / DESCRIPTION).read_text())
        found = description["model"]
        version = int(description["format"])
        lacking = {"setup", "init", "trained"} - set(description)
        lacking |= {"inputs", "context_keys"} - set(description["setup"])
        if lacking:
            raise ValueError(f"it lacks {listing(sorted(lacking))}")
        history = _frames(description.pop("history"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{str(source / DESCRIPTION)!r} is damaged: {error!r}.") from error
    if found != name:
        raise ValueError(f"{str(source)!r} holds a {found} model; load it with `cf.{found}.load`.")
    if version > FORMAT:
        raise ValueError(
            f"{str(source)!r} was saved in format {version}, this version of cellfuse reads up to "
            f"{FORMAT}: upgrade cellfuse."
        )
    try:
        tensors = load_file(source / WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{str(source / WEIGHTS)!r} is damaged: {error}.") from error
    return description, tensors, history
