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
from cellfuse.nn.checkpoints import read_tensors
from cellfuse.nn.clip import SetCLIP, Temperature
from cellfuse.nn.codebook import Codebook, distillation_loss
from cellfuse.nn.contrastive import (
    clip_loss,
    from_all_devices,
    relational_distillation,
    same_context,
    sigmoid_loss,
    vicreg_loss,
)
from cellfuse.nn.count_factors import CountFactors
from cellfuse.nn.crops import CropSettings, multi_crop, random_crops
from cellfuse.nn.cross_modal import CrossModalAutoencoder, VariationalCell, reverse_gradient
from cellfuse.nn.dino import (
    Dino,
    DinoHead,
    cosine_schedule,
    dino_loss,
    follow,
    next_center,
    teacher_target,
    warm_up,
)
from cellfuse.nn.distill import Adapter, Distillation, collapse, perturb_embedding
from cellfuse.nn.film import DoseFiLM, log_dose
from cellfuse.nn.genes import GeneDecoder, GeneEncoder
from cellfuse.nn.image_statistics import image_statistics
from cellfuse.nn.joint_mae import JointMaskedAutoencoder
from cellfuse.nn.joint_space import JointFeatures, JointSpace
from cellfuse.nn.keyed import normal, uniform
from cellfuse.nn.losses import (
    masked_mean_squared_error,
    masked_nb_loss,
    masked_squared_error,
    nb_log_prob,
)
from cellfuse.nn.mae import ImageMAE, normalize_patches
from cellfuse.nn.masking import random_mask
from cellfuse.nn.patch_dictionary import PatchDictionary
from cellfuse.nn.plain_features import PlainFeatures
from cellfuse.nn.repeated import repeated_layers
from cellfuse.nn.response import RESPONSE_PRESETS, ResponseNetwork, ResponseSizes
from cellfuse.nn.ridge import RidgeMap
from cellfuse.nn.scgpt import ScGPT, ScGPTCheckpoint, read_scgpt
from cellfuse.nn.sets import SetTransformer
from cellfuse.nn.standardise import Standardise, Standardised
from cellfuse.nn.tokens import TokenDecoder, TokenEncoder, patchify, sincos_positions, unpatchify
from cellfuse.nn.topk import BatchTopK
from cellfuse.nn.vit import (
    VIT_PRESETS,
    ChannelViT,
    ImageEncoder,
    PlainViT,
    ViTSizes,
    make_vit,
    sample_channels,
)

__all__ = [
    "RESPONSE_PRESETS",
    "VIT_PRESETS",
    "Adapter",
    "BatchTopK",
    "CountFactors",
    "Block",
    "CellAutoencoder",
    "ChannelViT",
    "Codebook",
    "CropSettings",
    "CrossBlock",
    "CrossModalAutoencoder",
    "Dino",
    "DinoHead",
    "Distillation",
    "DoseFiLM",
    "GeneAutoencoder",
    "GeneDecoder",
    "GeneEncoder",
    "ImageEncoder",
    "ImageMAE",
    "InputSpec",
    "JointFeatures",
    "JointMaskedAutoencoder",
    "JointSpace",
    "PatchDictionary",
    "PlainFeatures",
    "PlainViT",
    "ResponseNetwork",
    "ResponseSizes",
    "RidgeMap",
    "ScGPT",
    "ScGPTCheckpoint",
    "SetCLIP",
    "SetTransformer",
    "Sizes",
    "Standardise",
    "Standardised",
    "Temperature",
    "TokenAutoencoder",
    "TokenDecoder",
    "TokenEncoder",
    "VariationalCell",
    "ViTSizes",
    "center_crop",
    "clip_loss",
    "collapse",
    "cosine_schedule",
    "dino_loss",
    "distillation_loss",
    "follow",
    "from_all_devices",
    "image_statistics",
    "log_dose",
    "make_vit",
    "masked_mean_squared_error",
    "masked_nb_loss",
    "masked_squared_error",
    "multi_crop",
    "nb_log_prob",
    "next_center",
    "normal",
    "normalize_patches",
    "patchify",
    "perturb_embedding",
    "random_affine",
    "random_crops",
    "random_mask",
    "read_scgpt",
    "read_tensors",
    "relational_distillation",
    "reverse_gradient",
    "same_context",
    "sample_channels",
    "sigmoid_loss",
    "sincos_positions",
    "teacher_target",
    "uniform",
    "unpatchify",
    "vicreg_loss",
    "warm_up",
    "repeated_layers",
]
