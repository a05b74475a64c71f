"""Plots of what the tools and models wrote; nothing is computed here but the drawing.

Every function returns the matplotlib axes (with `return_fig` the figure) and takes scanpy's
arguments: `ax` (axes to draw into), `figsize`, `title`, `show` (call ``matplotlib.pyplot.show``;
off, as a notebook shows the figure by itself) and `save` (a path, or a suffix as in scanpy). All
draw in one style (:func:`style`), in which each method keeps its colour.
"""

from cellfuse.pl._accuracy import (
    classify_treatments,
    compare,
    knn_accuracy,
    one_shot_transfer,
    retrieval,
)
from cellfuse.pl._activity import mean_average_precision, perturbation_magnitude
from cellfuse.pl._alignment import alignment
from cellfuse.pl._answers import enrich, hits, nearest_perturbations, responders
from cellfuse.pl._benchmark import benchmark
from cellfuse.pl._cells import cells
from cellfuse.pl._codebook import codebook
from cellfuse.pl._concept import concept
from cellfuse.pl._concepts import batch_predictability, concept_map, differential_concepts
from cellfuse.pl._confusion import confusion
from cellfuse.pl._consistency import guide_consistency, perturbation_consistency
from cellfuse.pl._contexts import contexts, split
from cellfuse.pl._cross_modal import attention, attention_blocks, cross_modal_gain
from cellfuse.pl._discovery import target_discovery
from cellfuse.pl._doses import combinations, dose_response
from cellfuse.pl._fidelity import fidelity, real_vs_synthetic
from cellfuse.pl._fusion import late_fusion, propensity_matching
from cellfuse.pl._overlap import edge_overlap, predictability, similarity_density
from cellfuse.pl._scores import relationship_recall, roc
from cellfuse.pl._shared_axes import shared_axes_test
from cellfuse.pl._similarity import similarity
from cellfuse.pl._style import style
from cellfuse.pl._training import training_curves
from cellfuse.pl._umap import umap

__all__ = [
    "alignment",
    "attention",
    "attention_blocks",
    "batch_predictability",
    "benchmark",
    "cells",
    "classify_treatments",
    "codebook",
    "combinations",
    "compare",
    "concept",
    "concept_map",
    "confusion",
    "contexts",
    "cross_modal_gain",
    "differential_concepts",
    "dose_response",
    "edge_overlap",
    "enrich",
    "fidelity",
    "guide_consistency",
    "hits",
    "knn_accuracy",
    "late_fusion",
    "mean_average_precision",
    "nearest_perturbations",
    "one_shot_transfer",
    "perturbation_consistency",
    "perturbation_magnitude",
    "predictability",
    "propensity_matching",
    "real_vs_synthetic",
    "relationship_recall",
    "responders",
    "retrieval",
    "roc",
    "shared_axes_test",
    "similarity",
    "similarity_density",
    "split",
    "style",
    "target_discovery",
    "training_curves",
    "umap",
]
