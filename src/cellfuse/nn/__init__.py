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
from cellfuse.nn.clip import SetCLIP, Temperature
from cellfuse.nn.contrastive import (
    clip_loss,
    from_all_devices,
    relational_distillation,
    same_context,
    sigmoid_loss,
    vicreg_loss,
)
from cellfuse.nn.cross_modal import CrossModalAutoencoder, VariationalCell, reverse_gradient
from cellfuse.nn.distill import Adapter, Distillation, collapse, perturb_embedding
from cellfuse.nn.genes import GeneDecoder, GeneEncoder
from cellfuse.nn.joint_mae import JointMaskedAutoencoder
from cellfuse.nn.keyed import normal, uniform
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
    "Adapter",
    "Block",
    "CellAutoencoder",
    "CrossBlock",
    "CrossModalAutoencoder",
    "Distillation",
    "GeneAutoencoder",
    "GeneDecoder",
    "GeneEncoder",
    "InputSpec",
    "JointMaskedAutoencoder",
    "SetCLIP",
    "SetTransformer",
    "Sizes",
    "Temperature",
    "TokenAutoencoder",
    "TokenDecoder",
    "TokenEncoder",
    "VariationalCell",
    "center_crop",
    "clip_loss",
    "collapse",
    "from_all_devices",
    "masked_mean_squared_error",
    "masked_nb_loss",
    "masked_squared_error",
    "nb_log_prob",
    "normal",
    "patchify",
    "perturb_embedding",
    "random_affine",
    "random_mask",
    "relational_distillation",
    "reverse_gradient",
    "same_context",
    "sigmoid_loss",
    "sincos_positions",
    "uniform",
    "unpatchify",
    "vicreg_loss",
]
