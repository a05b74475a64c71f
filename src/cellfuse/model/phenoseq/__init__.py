"""PhenoSeq: transcriptomic embeddings from images by conditional diffusion."""

from cellfuse.model.phenoseq.model import PhenoSeq

__all__ = ["PhenoSeq"]
