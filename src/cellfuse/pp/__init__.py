"""Preprocessing: what is done to cells before they are compared."""

from cellfuse.pp.compounds import fingerprints
from cellfuse.pp.contexts import filter_contexts, map_contexts
from cellfuse.pp.crops import crop_cells
from cellfuse.pp.images import embed_images
from cellfuse.pp.pca import embed_pca
from cellfuse.pp.scaling import robust_center_scale
from cellfuse.pp.scgpt import embed_scgpt
from cellfuse.pp.whitening import whiten

__all__ = [
    "crop_cells",
    "embed_images",
    "embed_pca",
    "embed_scgpt",
    "filter_contexts",
    "fingerprints",
    "map_contexts",
    "robust_center_scale",
    "whiten",
]
