"""TIDE: images that learnt from transcriptomes (2604.22832)."""

from cellfuse.model.tide.model import TIDE

__all__ = ["TIDE"]
