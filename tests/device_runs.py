"""Short trainings of every model, by one process or two: `python device_runs.py NAME FOLDER`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import phenoseq_parts
import screens
import tide_parts

import cellfuse as cf

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
TINY = {"width": 16, "n_heads": 2, "n_latents": 2, "image_depth": 1, "n_cross": 1, "n_self": 1}
#: Held out so that the last batch of the validation set cannot be dealt to two devices evenly.
ODD = {"SemiClipped": 0.2, "CLIP": 0.3, "MAE": 0.2}
DECODERS = {"image_decoder_width": 8, "image_decoder_depth": 1, "image_decoder_heads": 2}


def phenoseq(**given: Any) -> cf.PhenoSeq:
    model = phenoseq_parts.build(dropout=0.0)
    model.train(2, validation_contexts=0.2, documents_per_context=4, batch_size=4, **QUIET, **given)
    return model


def semi_clipped(*, loss: str = "clip", **given: Any) -> cf.SemiClipped:
    mdata = screens.drug_screen()
    rng = np.random.default_rng(0)
    for adata in mdata.mod.values():
        adata.obs["plate"] = [f"p{i % 2}" for i in range(adata.n_obs)]
        adata.obsm["X"] = rng.normal(size=(adata.n_obs, 6)).astype("f4")
    cf.SemiClipped.setup_mudata(
        mdata,
        context_keys="compound",
        image_rep="X",
        rna_rep="X",
        batch_key="plate",
        control_key="compound",
        control="DMSO",
    )
    model = cf.SemiClipped(mdata, hidden=(8,), loss=loss, noise=0.1, dropout=0.1, seed=0)
    model.train(2, batch_size=8, validation_size=ODD["SemiClipped"], **QUIET, **given)
    return model


def clip(**given: Any) -> cf.CLIP:
    mdata = screens.sample_screen(9, 8)
    cf.CLIP.setup_mudata(mdata, context_keys="sample", image_rep="X_vit", rna_rep="X_scgpt")
    model = cf.CLIP(mdata, set_size=4, seed=0, **TINY)
    held = {"validation_size": ODD["CLIP"]}
    model.train(2, batch_size=8, documents_per_context=4, **QUIET, **given, **held)
    return model


def cross_modal(**given: Any) -> cf.CrossModalAE:
    mdata = screens.sample_screen(8, 8)
    setup = {"context_keys": "sample", "image_rep": "X_vit", "rna_rep": "X_scgpt"}
    cf.CrossModalAE.setup_mudata(mdata, **setup)
    model = cf.CrossModalAE(mdata, n_latent=4, seed=0, **TINY, **DECODERS)
    model.train(2, batch_size=8, documents_per_context=4, **QUIET, **given)
    return model


def tide(**given: Any) -> cf.TIDE:
    model = tide_parts.built(screens.drug_screen(), seed=0)
    model.train(2, response_epochs=1, batch_size=16, **QUIET, **given)
    return model


def dino(**given: Any) -> cf.DINO:
    images = screens.drug_screen()["image"]
    cf.DINO.setup_anndata(images, image_rep="crops")
    model = cf.DINO(images, seed=0, n_prototypes=16, **tide_parts.VIT)
    model.train(2, batch_size=16, **QUIET, **given)
    return model


def mae(**given: Any) -> cf.MAE:
    images = screens.drug_screen()["image"]
    cf.MAE.setup_anndata(images, image_rep="crops")
    model = cf.MAE(images, seed=0, **tide_parts.VIT)
    model.train(2, batch_size=16, validation_size=ODD["MAE"], **QUIET, **given)
    return model


RUNS: dict[str, Callable[..., Any]] = {
    "PhenoSeq": phenoseq,
    "SemiClipped": semi_clipped,
    "CLIP": clip,
    "CrossModalAE": cross_modal,
    "TIDE": tide,
    "DINO": dino,
    "MAE": mae,
}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    trained = RUNS[sys.argv[1]](devices=2, strategy="ddp")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        trained.save(sys.argv[2])
