"""Tools: profiles of perturbations, and how good they are."""

from cellfuse.tl.classify import classify_treatments
from cellfuse.tl.edges import edge_classification
from cellfuse.tl.guides import guide_consistency
from cellfuse.tl.profiles import aggregate
from cellfuse.tl.recall import relationship_recall
from cellfuse.tl.synthetic import fidelity, real_vs_synthetic

__all__ = [
    "aggregate",
    "classify_treatments",
    "edge_classification",
    "fidelity",
    "guide_consistency",
    "real_vs_synthetic",
    "relationship_recall",
]
