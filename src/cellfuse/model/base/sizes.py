"""Sizes of PETRI's encoders and decoders, which others share, and what they read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Literal

from cellfuse._errors import listing, missing_key
from cellfuse.data import CellInput
from cellfuse.nn import InputSpec, Sizes

__all__ = ["PRESETS", "default_weights", "input_spec", "input_specs", "sizes_of"]

#: ``"base"`` is the paper's (A.2); ``"small"`` trains on two CPU cores.
PRESETS: dict[str, Sizes] = {
    "base": Sizes(),
    "small": Sizes(
        width=96,
        n_heads=4,
        n_latents=4,
        image_depth=3,
        image_decoder_width=64,
        image_decoder_depth=2,
        image_decoder_heads=4,
        n_cross=1,
        n_self=1,
        n_set_layers=2,
    ),
}


def sizes_of(preset: str, given: Mapping[str, Any], *, model: str = "PETRI") -> Sizes:
    """Sizes of a preset with single ones on top."""
    if preset not in PRESETS:
        raise missing_key(preset, list(PRESETS), what="the presets")
    known = [field.name for field in fields(Sizes)]
    for name in given:
        if name not in known:
            raise TypeError(
                f"{model} has no argument {name!r}; sizes that can be given are "
                f"{listing(known, 20)}."
            )
    sizes = replace(PRESETS[preset], **given)
    if not 0 < sizes.mask_ratio < 1:
        raise ValueError(f"mask_ratio must lie between 0 and 1, found {sizes.mask_ratio}.")
    for name, value in asdict(sizes).items():
        if value < 0 or (value == 0 and name not in ("n_set_layers", "n_self")):
            raise ValueError(f"{name} must be positive, found {value}.")
    return sizes


def input_spec(
    cell_input: CellInput,
    *,
    crop: int | None,
    normalize: Literal["dataset", "instance"],
    patch_size: int,
) -> InputSpec:
    """Check that a cell is several tokens, and that pixels can be cut into patches."""
    if normalize not in ("dataset", "instance"):
        raise ValueError(f"normalize={normalize!r}: expected 'dataset' or 'instance'.")
    if cell_input.kind != "pixels":
        if cell_input.shape[0] < 2:
            raise ValueError(
                f"a cell of {cell_input.label} is one token: nothing is left of it once that is "
                "hidden."
            )
        return InputSpec(cell_input.kind, cell_input.shape)  # type: ignore[arg-type]
    _, height, width = cell_input.shape
    if crop is None and height != width:
        raise ValueError(f"images of {height} x {width} are not square; give `crop`.")
    side = height if crop is None else crop
    if side < 1:
        raise ValueError(f"crop must be positive, found {crop}.")
    if side > min(height, width):
        raise ValueError(f"crop={side} is larger than the images, {height} x {width}.")
    if side % patch_size:
        fits = side // patch_size * patch_size
        raise ValueError(
            f"an image side of {side} is no multiple of the patch size {patch_size}; give "
            f"`crop={fits}` or another `patch_size`."
        )
    if side == patch_size:
        raise ValueError(
            f"an image of {side} x {side} is one token: nothing is left of it once that is hidden. "
            "Give a smaller `patch_size`."
        )
    return InputSpec("pixels", cell_input.shape, crop, normalize)


def input_specs(
    inputs: Mapping[str, CellInput],
    *,
    crop: int | None,
    normalize: Literal["dataset", "instance"],
    patch_size: int,
) -> dict[str, InputSpec]:
    """Check the input of each modality, see :func:`input_spec`."""
    return {
        role: input_spec(i, crop=crop, normalize=normalize, patch_size=patch_size)
        for role, i in inputs.items()
    }


def default_weights(
    inputs: Mapping[str, CellInput], given: Mapping[str, float] | None
) -> dict[str, float]:
    """Weight of each modality's reconstruction, with those that were given."""
    per_kind = {"counts": 1.8, "values": 2.1}
    weights = {
        r: per_kind[i.kind] / i.shape[0] if i.kind in per_kind else 1.0 for r, i in inputs.items()
    }
    for role, weight in (given or {}).items():
        if role not in weights:
            raise missing_key(role, list(weights), what="the modalities of this model")
        weights[role] = float(weight)
    return weights
