"""Small models and networks, shared by the tests of PhenoSeq."""

from __future__ import annotations

import mudata as md
import torch
from screens import sample_screen

import cellfuse as cf
from cellfuse.nn.denoiser import DenoiserSizes
from cellfuse.nn.phenoseq import PhenoSeqNetwork

TINY = {"width": 16, "n_heads": 2, "depth": 2, "encoder_heads": 2, "time_width": 8}
SETUP = {"image_rep": "X_vit", "rna_rep": "X_scgpt"}
SHORT = {"documents_per_context": 2, "batch_size": 4, "enable_progress_bar": False}


def build(mdata: md.MuData | None = None, *, setup=None, **given) -> cf.PhenoSeq:
    mdata = sample_screen() if mdata is None else mdata
    cf.PhenoSeq.setup_mudata(mdata, **{**SETUP, **(setup or {})})
    return cf.PhenoSeq(mdata, **{"set_size": 4, **TINY, **given})


def shortly_trained() -> cf.PhenoSeq:
    model = build(context_dropout=0.1)
    model.train(3, **SHORT)
    return model


def difference(one: cf.PhenoSeq, other: cf.PhenoSeq) -> float:
    a, b = one.module.state_dict(), other.module.state_dict()
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def network(image: int = 6, rna: int = 4, **sizes) -> PhenoSeqNetwork:
    """A network whose output is not nearly 0, as it is at the start of training."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = PhenoSeqNetwork(image, rna, DenoiserSizes(**{**TINY, **sizes}), diffusion={})
        torch.nn.init.normal_(made.denoiser.out[-1].weight, std=0.3)
    return made.eval()
