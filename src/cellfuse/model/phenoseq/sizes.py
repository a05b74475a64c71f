"""Sizes of PhenoSeq's network, by preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from cellfuse._errors import listing, missing_key
from cellfuse.nn.denoiser import DenoiserSizes
from cellfuse.nn.diffusion import Prediction

__all__ = ["PREDICTIONS", "PRESETS", "sizes_of"]

#: ``"base"`` is the paper's (Table 4); ``"small"`` trains on two CPU cores in about a
#: minute (some fifty contexts).
PRESETS: dict[str, DenoiserSizes] = {
    "base": DenoiserSizes(),
    "small": DenoiserSizes(
        width=128, n_heads=4, depth=3, encoder_heads=4, encoder_depth=1, time_width=64
    ),
}
#: What is predicted. Noise of more dimensions than a network is wide does not pass through it, and
#: DDIM's first steps multiply what is missed by 30 and more: v, which is never divided by the
#: little signal there is, asks less of a small network.
PREDICTIONS: dict[str, Prediction] = {"base": "noise", "small": "v"}


def sizes_of(preset: str, given: Mapping[str, Any]) -> DenoiserSizes:
    """Sizes of a preset with single ones replaced."""
    if preset not in PRESETS:
        raise missing_key(preset, list(PRESETS), what="the presets")
    known = [field.name for field in fields(DenoiserSizes)]
    for name in given:
        if name not in known:
            raise TypeError(
                f"PhenoSeq has no argument {name!r}; sizes that can be given are "
                f"{listing(known, 20)}."
            )
    sizes = replace(PRESETS[preset], **given)
    for name, value in asdict(sizes).items():
        if value < 0 or (value == 0 and name not in ("dropout", "encoder_depth")):
            raise ValueError(f"{name} must be positive, found {value}.")
    if sizes.dropout >= 1:
        raise ValueError(f"dropout must be below 1, found {sizes.dropout}.")
    return sizes
