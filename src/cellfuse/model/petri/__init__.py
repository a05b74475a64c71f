"""PETRI: early fusion of unpaired images and counts by joint masked reconstruction."""

from cellfuse.model.petri.documents import Attention, Reconstruction
from cellfuse.model.petri.evidence import CrossModalGain
from cellfuse.model.petri.model import PETRI

__all__ = ["PETRI", "Attention", "CrossModalGain", "Reconstruction"]
