"""Semi-Clipped: expression learns from frozen images of the same perturbations (2505.21317)."""

from cellfuse.model.semi_clipped.model import SemiClipped

__all__ = ["SemiClipped"]
