"""TIDE's presets, and the networks its arguments make."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from cellfuse._errors import listing, missing_key
from cellfuse.data import CellInput
from cellfuse.model.base import Recipe
from cellfuse.model.base.image_model import vit_sizes
from cellfuse.model.base.sizes import input_spec
from cellfuse.model.dino import DINO, HEADS
from cellfuse.model.mae import DECODERS, MAE
from cellfuse.nn.codebook import Codebook
from cellfuse.nn.dino import Dino
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.response import RESPONSE_PRESETS, ResponseNetwork
from cellfuse.nn.scgpt import ScGPT, ScGPTCheckpoint, read_scgpt
from cellfuse.nn.tide import FlatEncoder, ImageSide, Objective, ScGPTResponse, TideNetwork
from cellfuse.nn.vit import VIT_PRESETS, make_vit

__all__ = [
    "RECIPES",
    "SSL",
    "TideSizes",
    "check_arguments",
    "image_side",
    "log_normalize",
    "make_image",
    "make_network",
    "make_response",
    "sizes_of",
]

logger = logging.getLogger("cellfuse")

SSL = Literal["dino", "mae"]
#: Share of the genes that a checkpoint must know.
MIN_SHARE = 0.5


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


def make_image(
    cell_input: CellInput,
    channels: Sequence[str],
    *,
    side: int | None,
    preset: str,
    ssl: SSL | None,
    channel_agnostic: bool,
    sizes: TideSizes,
    vit: Mapping[str, Any],
    seed: int,
) -> ImageSide:
    """Build the image encoder, inside its self-supervised method."""
    if side is None:
        if vit or channel_agnostic:
            raise TypeError(
                f"{listing(vit or ['channel_agnostic'])}: a flat embedding goes through an MLP, "
                "not a ViT; its sizes are 'hidden' and 'flat_width'."
            )
        return FlatEncoder(cell_input.shape[0], width=sizes.flat_width, hidden=sizes.hidden)
    encoder = make_vit(
        channels,
        vit_sizes("TIDE", preset, vit, side=side),
        channel_agnostic=channel_agnostic,
    )
    if ssl == "dino":
        n_prototypes, hidden, bottleneck = HEADS[preset]
        return Dino(encoder, n_prototypes=n_prototypes, hidden=hidden, bottleneck=bottleneck)
    if ssl == "mae":
        width, depth, heads = DECODERS[preset]
        return ImageMAE(
            encoder, decoder_width=width, decoder_depth=depth, decoder_heads=heads, seed=seed
        )
    return encoder


def make_response(
    cell_input: CellInput,
    n_bits: int,
    *,
    preset: str,
    checkpoint: str | Path | None,
    stored: Mapping[str, Any] | None = None,
) -> tuple[ResponseNetwork, dict[str, Any] | None]:
    """Build the built-in gene transformer, or one around a checkpoint of scGPT.

    Returns
    -------
    The network, and what `stored` must be to build it again without the checkpoint's folder.
    """
    sizes = RESPONSE_PRESETS[preset]
    if checkpoint is None:
        return ResponseNetwork(cell_input.shape[0], n_bits, sizes), None
    if stored is None:
        found = read_scgpt(checkpoint)
        genes = _known_genes(cell_input, found.vocabulary)
        stored = _outline(found, genes)
    else:
        encoder = ScGPT(**stored["encoder"])
        found = ScGPTCheckpoint(encoder, {}, encoder.pad, stored["cls"], stored["pad_value"])
    genes = stored["genes"]
    return ScGPTResponse(found, torch.tensor(genes), n_bits, sizes), dict(stored)


def _known_genes(cell_input: CellInput, vocabulary: Mapping[str, int]) -> list[int]:
    """Token number of each gene, -1 where the vocabulary lacks it."""
    if cell_input.names is None:
        raise ValueError(
            f"a checkpoint of scGPT reads genes by name; {cell_input.label} has none. Set up with "
            "`rna_rep=None` (X or `rna_layer`)."
        )
    genes = [vocabulary.get(name, -1) for name in cell_input.names]
    unknown = [n for n, g in zip(cell_input.names, genes, strict=True) if g < 0]
    logger.info(
        "TIDE: %d of %d genes are in the checkpoint's vocabulary; the others are left out of what "
        "it reads.",
        len(genes) - len(unknown),
        len(genes),
    )
    if len(unknown) > (1 - MIN_SHARE) * len(genes):
        raise ValueError(
            f"the checkpoint lacks {len(unknown)} of the {len(genes)} genes of {cell_input.label}: "
            f"{listing(unknown)}; it must know at least half of them. Its names are gene symbols: "
            "are these?"
        )
    return genes


def _outline(found: ScGPTCheckpoint, genes: list[int]) -> dict[str, Any]:
    """What of a checkpoint is no weight."""
    encoder = found.encoder
    block: Any = encoder.blocks[0]
    return {
        "encoder": {
            "n_tokens": encoder.genes.embedding.num_embeddings,
            "width": encoder.width,
            "n_heads": block.attention.n_heads,
            "hidden": block.first.out_features,
            "n_layers": len(encoder.blocks),
            "pad": encoder.pad,
            "dropout": block.dropout.p,
        },
        "cls": found.cls,
        "pad_value": found.pad_value,
        "genes": genes,
    }


def log_normalize(x: Tensor, *, counts: bool) -> Tensor:
    """``log(1 + counts per 10,000)`` of raw counts; values as they are."""
    x = x.float()
    if not counts:
        return x
    return torch.log1p(x * (1e4 / x.sum(dim=-1, keepdim=True).clamp(min=1)))


def make_network(
    inputs: Mapping[str, CellInput],
    channels: Sequence[str],
    fingerprints: Tensor,
    *,
    preset: str,
    side: int | None,
    ssl: SSL | None,
    channel_agnostic: bool,
    sizes: TideSizes,
    vit: Mapping[str, Any],
    checkpoint: str | Path | None,
    stored: Mapping[str, Any] | None,
    objective: Objective,
    weights: Mapping[str, float],
    use_dose: bool,
    seed: int,
) -> tuple[TideNetwork, dict[str, Any] | None]:
    """Build the network; the image encoder first, so that it starts as DINO's and MAE's do.

    Returns
    -------
    The network, and what of a checkpoint is no weight.
    """
    image = make_image(
        inputs["image"],
        channels,
        side=side,
        preset=preset,
        ssl=ssl,
        channel_agnostic=channel_agnostic,
        sizes=sizes,
        vit=vit,
        seed=seed,
    )
    n_bits = fingerprints.shape[1]
    response, outline = make_response(
        inputs["rna"], n_bits, preset=preset, checkpoint=checkpoint, stored=stored
    )
    codebook = Codebook(
        fingerprints,
        width=sizes.codebook_width,
        hidden=sizes.codebook_hidden,
        temperature=weights["tau"],
    )
    net = TideNetwork(
        image,
        response,
        codebook,
        n_channels=inputs["image"].shape[0],
        hidden=sizes.hidden,
        objective=objective,
        alpha=weights["alpha"],
        beta=weights["beta"],
        use_dose=use_dose,
    )
    return net, outline
