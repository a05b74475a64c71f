"""The methods, as scvi-tools-style models on MuData."""

from cellfuse.model.petri import PETRI, Reconstruction

__all__ = ["PETRI", "Reconstruction"]
