"""The networks that TIDE's arguments make."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cellfuse._errors import listing
from cellfuse.data import CellInput
from cellfuse.model.base.image_model import vit_sizes
from cellfuse.model.dino import HEADS
from cellfuse.model.mae import DECODERS
from cellfuse.model.tide.config import SSL, TideSizes
from cellfuse.nn import JointFeatures
from cellfuse.nn.codebook import Codebook
from cellfuse.nn.dino import Dino
from cellfuse.nn.mae import ImageMAE
from cellfuse.nn.plain_features import PlainFeatures
from cellfuse.nn.response import RESPONSE_PRESETS, ResponseNetwork
from cellfuse.nn.scgpt import ScGPT, ScGPTCheckpoint, read_scgpt
from cellfuse.nn.scgpt_response import ScGPTResponse
from cellfuse.nn.tide import FlatEncoder, ImageSide, Objective, TideNetwork
from cellfuse.nn.vit import make_vit

__all__ = ["make_image", "make_network", "make_response"]

logger = logging.getLogger("cellfuse")

#: Share of the genes that a checkpoint must know.
MIN_SHARE = 0.5
#: Components of plain and learnt features that are joined.
N_COMPS = 50


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
    linear: bool = False,
) -> tuple[ResponseNetwork, dict[str, Any] | None]:
    """Build the built-in gene transformer, or one around a checkpoint of scGPT.

    Returns
    -------
    The network, and what `stored` must be to build it again without the checkpoint's folder.
    """
    sizes = RESPONSE_PRESETS[preset]
    if checkpoint is None:
        return ResponseNetwork(cell_input.shape[0], n_bits, sizes, linear=linear), None
    if stored is None:
        found = read_scgpt(checkpoint)
        genes = _known_genes(cell_input, found.vocabulary)
        stored = _outline(found, genes)
    else:
        encoder = ScGPT(**stored["encoder"])
        found = ScGPTCheckpoint(encoder, {}, encoder.pad, stored["cls"], stored["pad_value"])
    genes = stored["genes"]
    network = ScGPTResponse(found, torch.tensor(genes), n_bits, sizes, linear=linear)
    return network, dict(stored)


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
    linear: bool,
    n_compounds: int,
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
    plain = None
    if linear:
        plain = PlainFeatures(inputs["image"].kind, inputs["image"].shape, crop=side)
    n_bits = fingerprints.shape[1]
    response, outline = make_response(
        inputs["rna"],
        n_bits,
        preset=preset,
        checkpoint=checkpoint,
        stored=stored,
        linear=linear,
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
        n_plain=0 if plain is None else plain.n_features,
        n_compounds=n_compounds,
    )
    if plain is not None:
        net.joint = JointFeatures(
            {"image": plain}, n_learnt=net.encoder.width, n_comps=N_COMPS, n_nuisances={}
        )
    return net, outline
