"""What the tests of TIDE share."""

from __future__ import annotations

import torch

import cellfuse as cf
from cellfuse.nn.response import ResponseSizes

KEYS = ["compound", "cell_line"]
SMALL = {"hidden": 16, "codebook_hidden": 16, "codebook_width": 8}
VIT = {"width": 12, "depth": 1, "n_heads": 2}
SHORT = {"response_epochs": 1, "enable_progress_bar": False}
TINY = ResponseSizes(8, 2, n_latents=2, n_cross=1, n_self=1, depth=1, hidden=8)


def setup(mdata, **given):
    cf.TIDE.setup_mudata(mdata, **{"context_keys": KEYS, "image_rep": "flat", **given})


def built(mdata, *, setup_with=None, **given):
    setup(mdata, **(setup_with or {}))
    return cf.TIDE(mdata, **{**SMALL, **given})


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
