"""The methods, as scvi-tools-style models on MuData."""

from cellfuse.model.clip import CLIP
from cellfuse.model.concepts import Concepts
from cellfuse.model.cross_modal import CrossModalAE
from cellfuse.model.dino import DINO
from cellfuse.model.groove import GROOVE
from cellfuse.model.image_regressor import ImageRegressor
from cellfuse.model.mae import MAE
from cellfuse.model.petri import PETRI, Attention, CrossModalGain, Reconstruction
from cellfuse.model.phenoseq import PhenoSeq
from cellfuse.model.semi_clipped import SemiClipped
from cellfuse.model.shared_axes import SharedAxes
from cellfuse.model.tide import TIDE

__all__ = [
    "Attention",
    "CrossModalGain",
    "CLIP",
    "DINO",
    "GROOVE",
    "ImageRegressor",
    "MAE",
    "Concepts",
    "CrossModalAE",
    "PETRI",
    "PhenoSeq",
    "Reconstruction",
    "SemiClipped",
    "SharedAxes",
    "TIDE",
]
