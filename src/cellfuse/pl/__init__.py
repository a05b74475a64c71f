"""Plots of what the tools and models wrote; nothing is computed here but the drawing.

Every function returns the matplotlib axes, takes `ax` (axes to draw into), `show` (call
``matplotlib.pyplot.show``; off, as a notebook shows the figure by itself) and `save` (a path).
"""

from cellfuse.pl._codebook import codebook
from cellfuse.pl._contexts import contexts
from cellfuse.pl._fidelity import fidelity, real_vs_synthetic
from cellfuse.pl._scores import guide_consistency, roc
from cellfuse.pl._similarity import similarity
from cellfuse.pl._training import training_curves

__all__ = [
    "codebook",
    "contexts",
    "fidelity",
    "guide_consistency",
    "real_vs_synthetic",
    "roc",
    "similarity",
    "training_curves",
]
