"""TIDE's presets, and what of its arguments means nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral
from typing import Any, Literal, get_args

from cellfuse._errors import listing, missing_key
from cellfuse.data import CellInput
from cellfuse.model.base import Recipe
from cellfuse.model.base.image_model import vit_sizes
from cellfuse.model.base.sizes import input_spec
from cellfuse.model.dino import DINO
from cellfuse.model.mae import MAE
from cellfuse.nn.tide import Objective
from cellfuse.nn.vit import VIT_PRESETS

__all__ = [
    "RECIPES",
    "SSL",
    "Begin",
    "TideSizes",
    "beginning",
    "check_arguments",
    "image_side",
    "sizes_of",
]

SSL = Literal["dino", "mae"]
Begin = Literal["linear", "random"]


@dataclass(frozen=True)
class TideSizes:
    """Sizes beside those of the ViT and the response network.

    Parameters
    ----------
    hidden
        Of the heads of teacher and student, and of the encoder of flat image features.
    codebook_hidden, codebook_width
        Of the MLP from fingerprints to prototypes, 2048-512-256.
    flat_width
        Width of the embedding of flat image features.
    """

    hidden: int = 512
    codebook_hidden: int = 512
    codebook_width: int = 256
    flat_width: int = 384


PRESETS = {"base": TideSizes(), "small": TideSizes(hidden=256, flat_width=128)}


#: The joint training learns as the self-supervised method does alone: with zero pairs TIDE then is
#: that method, step by step.
RECIPES: dict[str | None, Mapping[str, Recipe]] = {
    ssl: {name: replace(recipe, max_epochs=400) for name, recipe in method.recipes.items()}
    for ssl, method in (("dino", DINO), ("mae", MAE), (None, MAE))
}


def sizes_of(preset: str, given: Mapping[str, Any]) -> tuple[TideSizes, dict[str, Any]]:
    """TIDE's own sizes, and those left for the ViT."""
    if preset not in PRESETS:
        raise missing_key(preset, list(PRESETS), what="the presets")
    own = {field.name for field in fields(TideSizes)}
    for name, value in given.items():
        if name in own and not value > 0:
            raise ValueError(f"{name} must be positive, found {value}.")
    mine = {name: value for name, value in given.items() if name in own}
    return replace(PRESETS[preset], **mine), {k: v for k, v in given.items() if k not in own}


def check_arguments(
    ssl: SSL | None,
    objective: Objective,
    alpha: float,
    beta: float,
    n_paired: int | None,
    n_basal: int,
) -> None:
    """Refuse values that mean nothing."""
    if ssl is not None and ssl not in get_args(SSL):
        raise ValueError(f"ssl={ssl!r}: expected {listing(get_args(SSL))} or None.")
    if objective not in get_args(Objective):
        raise ValueError(f"objective={objective!r}: expected {listing(get_args(Objective))}.")
    whole = all(isinstance(n, Integral) for n in (n_basal, n_paired) if n is not None)
    some = n_basal >= 1 and (n_paired is None or n_paired >= 0)
    if not (alpha >= 0 and beta >= 0 and whole and some):
        raise ValueError(
            "expected alpha >= 0, beta >= 0, whole n_basal >= 1 and n_paired >= 0 or None; found "
            f"{alpha}, {beta}, {n_basal} and {n_paired}."
        )


def beginning(
    begin: Begin | None, preset: str, *, channel_agnostic: bool, n_paired: int | None
) -> Begin:
    """Where a training begins: in closed form by default where it is small and there is one."""
    if channel_agnostic and begin == "linear":
        raise ValueError(
            "begin='linear' begins at plain features of all channels, of which a channel-agnostic "
            "model may see some. Leave `begin` out, or give begin='random'."
        )
    if n_paired == 0 and begin == "linear":
        raise ValueError(
            "n_paired=0 is the self-supervised method alone, which begins at random. Leave `begin` "
            "out."
        )
    if begin is None:
        small = preset == "small" and not channel_agnostic and n_paired != 0
        return "linear" if small else "random"
    return begin


def image_side(
    cell_input: CellInput, preset: str, vit: Mapping[str, Any], crop: int | None
) -> int | None:
    """Side of the images in pixels; None for flat features."""
    if cell_input.kind == "values":
        if crop is not None:
            raise TypeError(f"crop={crop}: {cell_input.label} is a flat embedding, not pixels.")
        return None
    if cell_input.kind != "pixels":
        raise ValueError(
            f"{cell_input.label} has cells of shape {cell_input.shape}; TIDE reads pixels "
            "(channels, height, width) or a flat embedding."
        )
    sizes = vit_sizes("TIDE", preset, vit, side=VIT_PRESETS["base"].image_size)
    spec = input_spec(cell_input, crop=crop, normalize="dataset", patch_size=sizes.patch_size)
    return spec.crop or spec.shape[1]
