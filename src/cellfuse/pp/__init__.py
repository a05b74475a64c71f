"""Preprocessing: what is done to cells before they are compared."""

from cellfuse.pp.contexts import filter_contexts, map_contexts
from cellfuse.pp.scaling import robust_center_scale
from cellfuse.pp.whitening import whiten

__all__ = ["filter_contexts", "map_contexts", "robust_center_scale", "whiten"]
