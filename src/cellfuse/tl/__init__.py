"""Tools: profiles of perturbations, and how good they are."""

from cellfuse.tl.classify import classify_treatments
from cellfuse.tl.compare import compare
from cellfuse.tl.consistency import perturbation_consistency
from cellfuse.tl.discovery import target_discovery
from cellfuse.tl.edges import edge_classification
from cellfuse.tl.fusion import late_fusion
from cellfuse.tl.guides import guide_consistency
from cellfuse.tl.magnitude import perturbation_magnitude
from cellfuse.tl.matching import propensity_matching
from cellfuse.tl.precision import mean_average_precision
from cellfuse.tl.profiles import aggregate
from cellfuse.tl.recall import relationship_recall
from cellfuse.tl.retrieval import retrieval
from cellfuse.tl.split import split
from cellfuse.tl.synthetic import fidelity, real_vs_synthetic
from cellfuse.tl.transfer import knn_accuracy, one_shot_transfer

__all__ = [
    "aggregate",
    "classify_treatments",
    "compare",
    "edge_classification",
    "fidelity",
    "guide_consistency",
    "knn_accuracy",
    "late_fusion",
    "mean_average_precision",
    "one_shot_transfer",
    "perturbation_consistency",
    "perturbation_magnitude",
    "propensity_matching",
    "real_vs_synthetic",
    "relationship_recall",
    "retrieval",
    "split",
    "target_discovery",
]
