"""Preprocessing: what is done to cells before they are compared."""

from cellfuse.pp.activity import filter_active
from cellfuse.pp.augmentation import perturbation_embedding_augmentation
from cellfuse.pp.center_scale import center_scale, mad_robustize
from cellfuse.pp.compound_identity import identify_compounds
from cellfuse.pp.compounds import fingerprints
from cellfuse.pp.contexts import filter_contexts, map_contexts
from cellfuse.pp.crops import crop_cells
from cellfuse.pp.features import select_features
from cellfuse.pp.images import embed_images
from cellfuse.pp.inverse_normal import inverse_normal
from cellfuse.pp.layout import correct_layout
from cellfuse.pp.measures import measure_crops
from cellfuse.pp.pca import embed_pca
from cellfuse.pp.scaling import robust_center_scale
from cellfuse.pp.scgpt import embed_scgpt
from cellfuse.pp.sphere import sphere
from cellfuse.pp.tvn import tvn
from cellfuse.pp.whitening import whiten

__all__ = [
    "center_scale",
    "correct_layout",
    "crop_cells",
    "embed_images",
    "embed_pca",
    "embed_scgpt",
    "filter_active",
    "filter_contexts",
    "fingerprints",
    "identify_compounds",
    "inverse_normal",
    "mad_robustize",
    "map_contexts",
    "measure_crops",
    "perturbation_embedding_augmentation",
    "robust_center_scale",
    "select_features",
    "sphere",
    "tvn",
    "whiten",
]
