"""Tools: profiles of perturbations, and how good they are."""

from cellfuse.tl.edges import edge_classification
from cellfuse.tl.guides import guide_consistency
from cellfuse.tl.profiles import aggregate
from cellfuse.tl.recall import relationship_recall

__all__ = ["aggregate", "edge_classification", "guide_consistency", "relationship_recall"]
