"""Cells measured in both modalities (PETRI on Perturb-Multi): one cell, one document, once."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.data import Contexts, training_rows


def hepatocytes(n=40, seed=0):
    """Two images' worth of channels and nine log-normalised genes of the same cells."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {"gene": [f"g{i % 4}" for i in range(n)]}, index=[f"cell{i:03}" for i in range(n)]
    )
    images = ad.AnnData(obs=obs.copy())
    images.obsm["crops"] = rng.integers(0, 256, (n, 2, 16, 16), dtype=np.uint8)
    images.obsm["flat"] = rng.normal(size=(n, 10)).astype("f4")
    genes = ad.AnnData(
        np.log1p(rng.poisson(2, (n, 9))).astype("f4"),
        obs=obs.copy(),
        var=pd.DataFrame(index=[f"gene{j}" for j in range(9)]),
    )
    return md.MuData({"image": images, "rna": genes})


def rows_of_an_epoch(model, monkeypatch, **given):
    """Rows of each modality in the training batches of one epoch."""
    seen = {"image": [], "rna": []}
    losses = type(model)._losses

    def noted(self, batch, *args, **kwargs):
        if self.module.training:
            for role in seen:
                seen[role] += batch.rows[role].ravel().tolist()
        return losses(self, batch, *args, **kwargs)

    monkeypatch.setattr(type(model), "_losses", noted)
    model.train(1, enable_progress_bar=False, **given)
    return seen


@pytest.mark.parametrize("name", ["PETRI", "CLIP"])
def test_every_cell_is_shown_once_with_its_own_other_half(name, tiny, monkeypatch):
    mdata = hepatocytes()
    method = getattr(cf, name)
    rep = "crops" if name == "PETRI" else "flat"
    method.setup_mudata(mdata, context_keys="obs_names", image_rep=rep, rna_likelihood="mse")
    sizes = {k: v for k, v in tiny.items() if k != "set_size"} if name == "PETRI" else {}
    sizes |= {"begin": "random"} if name == "PETRI" else {}  # as in the paper
    model = method(mdata, **sizes)
    assert model.set_size == 1
    seen = rows_of_an_epoch(model, monkeypatch, batch_size=8)
    assert sorted(seen["image"]) == list(range(40))  # of documents in batches, none is twice
    assert seen["image"] == seen["rna"]


def test_cells_are_held_out_of_both_modalities():
    mdata = hepatocytes()
    contexts = Contexts.from_modalities(mdata.mod, "obs_names")
    train, held = training_rows(contexts, 0.2, seed=0)
    assert held["image"].sum() == 8
    np.testing.assert_array_equal(held["image"], held["rna"])
    np.testing.assert_array_equal(train["image"], ~held["image"])
    other = training_rows(contexts, 0.2, seed=1)[1]
    assert not np.array_equal(held["image"], other["image"])


def test_held_out_cells_are_validated_on_and_not_trained_on(tiny, monkeypatch):
    mdata = hepatocytes()
    cf.PETRI.setup_mudata(mdata, context_keys="obs_names", image_rep="crops", rna_likelihood="mse")
    model = cf.PETRI(mdata, begin="random", **{k: v for k, v in tiny.items() if k != "set_size"})
    seen = rows_of_an_epoch(model, monkeypatch, batch_size=6, validation_size=0.25)
    contexts = Contexts.from_modalities(mdata.mod, "obs_names")
    train = training_rows(contexts, 0.25, seed=model.seed)[0]["image"]
    assert sorted(seen["image"]) == np.flatnonzero(train).tolist()
    assert any(key.startswith("validation") for key in model.history)


def test_a_set_of_one_cell_has_no_other_size(tiny):
    mdata = hepatocytes()
    cf.PETRI.setup_mudata(mdata, context_keys="obs_names", image_rep="crops", rna_likelihood="mse")
    with pytest.raises(ValueError, match="set_size=4: with context_keys='obs_names'"):
        cf.PETRI(mdata, **tiny)
