"""Tools: profiles of perturbations, how good they are, and what they say."""

from cellfuse.tl.alignment import alignment
from cellfuse.tl.attention import attention_blocks
from cellfuse.tl.batches import batch_predictability
from cellfuse.tl.classify import classify_treatments
from cellfuse.tl.combinations import combinations
from cellfuse.tl.compare import compare
from cellfuse.tl.concepts import find_concepts, multimodal_concepts
from cellfuse.tl.consistency import perturbation_consistency
from cellfuse.tl.differential import differential_concepts
from cellfuse.tl.discovery import target_discovery
from cellfuse.tl.doses import dose_response
from cellfuse.tl.edges import edge_classification
from cellfuse.tl.enrich import enrich
from cellfuse.tl.enrichment import concept_enrichment
from cellfuse.tl.explained import predictability
from cellfuse.tl.fusion import late_fusion
from cellfuse.tl.guides import guide_consistency
from cellfuse.tl.hits import hits
from cellfuse.tl.magnitude import perturbation_magnitude
from cellfuse.tl.matching import propensity_matching
from cellfuse.tl.nearest import nearest_perturbations
from cellfuse.tl.overlap import edge_overlap, similarity_density
from cellfuse.tl.phenotypes import concept_features
from cellfuse.tl.precision import mean_average_precision
from cellfuse.tl.profiles import aggregate
from cellfuse.tl.recall import relationship_recall
from cellfuse.tl.responders import responders
from cellfuse.tl.retrieval import retrieval
from cellfuse.tl.shared_axes import shared_axes_test
from cellfuse.tl.split import split
from cellfuse.tl.synthetic import fidelity, real_vs_synthetic
from cellfuse.tl.transfer import knn_accuracy, one_shot_transfer

__all__ = [
    "aggregate",
    "alignment",
    "attention_blocks",
    "batch_predictability",
    "classify_treatments",
    "combinations",
    "compare",
    "concept_enrichment",
    "concept_features",
    "differential_concepts",
    "dose_response",
    "edge_classification",
    "edge_overlap",
    "enrich",
    "fidelity",
    "find_concepts",
    "guide_consistency",
    "hits",
    "knn_accuracy",
    "late_fusion",
    "mean_average_precision",
    "multimodal_concepts",
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
    "shared_axes_test",
    "similarity_density",
    "split",
    "target_discovery",
]
