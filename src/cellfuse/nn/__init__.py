"""Networks and losses: tensors in, tensors out."""

from cellfuse.nn.augment import center_crop, random_affine
from cellfuse.nn.autoencoders import (
    CellAutoencoder,
    GeneAutoencoder,
    InputSpec,
    Sizes,
    TokenAutoencoder,
)
from cellfuse.nn.blocks import Block, CrossBlock
from cellfuse.nn.genes import GeneDecoder, GeneEncoder
from cellfuse.nn.joint_mae import JointMaskedAutoencoder
from cellfuse.nn.keyed import uniform
from cellfuse.nn.losses import (
    masked_mean_squared_error,
    masked_nb_loss,
    masked_squared_error,
    nb_log_prob,
)
from cellfuse.nn.masking import random_mask
from cellfuse.nn.sets import SetTransformer
from cellfuse.nn.tokens import TokenDecoder, TokenEncoder, patchify, sincos_positions, unpatchify

__all__ = [
    "Block",
    "CellAutoencoder",
    "CrossBlock",
    "GeneAutoencoder",
    "GeneDecoder",
    "GeneEncoder",
    "InputSpec",
    "JointMaskedAutoencoder",
    "SetTransformer",
    "Sizes",
    "TokenAutoencoder",
    "TokenDecoder",
    "TokenEncoder",
    "center_crop",
    "masked_mean_squared_error",
    "masked_nb_loss",
    "masked_squared_error",
    "nb_log_prob",
    "patchify",
    "random_affine",
    "random_mask",
    "sincos_positions",
    "uniform",
    "unpatchify",
]
