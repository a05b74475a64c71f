"""Embeddings into a store: the same numbers, a killed call goes on, another model's is refused."""

from __future__ import annotations

import numpy as np
import pytest

import cellfuse as cf
from cellfuse.data.stored import StoredRows

TRAIN = {"max_epochs": 1, "documents_per_context": 1, "batch_size": 2}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(params=["random", "linear"])
def model(request, screen, tiny):
    mdata = screen()
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    made = cf.PETRI(mdata, **{**tiny, "begin": request.param})
    made.train(**TRAIN, **QUIET)
    return made


def test_a_killed_embedding_goes_on_and_gives_the_same(model, tmp_path, monkeypatch):
    expected = model.get_latent_representation(modality="image")
    call = {"modality": "image", "batch_size": 5, "out": tmp_path / "z.zarr"}
    which = "_features" if model.begin == "linear" else "_embed"
    real, seen = getattr(model, which), []

    def dying(*arguments):
        seen.append(1)
        if len(seen) > 3:
            raise MemoryError
        return real(*arguments)

    monkeypatch.setattr(model, which, dying)
    with pytest.raises(MemoryError):
        model.get_latent_representation(**call)
    monkeypatch.undo()
    later: list[int] = []

    def counted(*arguments):
        later.append(1)
        return real(*arguments)

    monkeypatch.setattr(model, which, counted)
    found = model.get_latent_representation(**call)
    assert isinstance(found, StoredRows)
    # Batches of another length sum float32 in another order.
    np.testing.assert_allclose(found[:], expected, rtol=1e-5, atol=1e-5)
    assert len(later) == 1 + 3  # the width; three of five batches
    monkeypatch.undo()
    adata = model.adata["image"]
    adata.obsm["z"] = found
    given = {"control_key": None, "control": None, "key_added": "centred"}
    cf.pp.center_scale(adata, use_rep="z", scale=False, **given)
    guides = cf.tl.aggregate(adata, by="guide", use_rep="centred")
    assert np.isfinite(guides.X).all()


def test_a_store_of_another_model_or_other_cells_is_refused(model, tmp_path):
    call = {"modality": "image", "out": tmp_path / "z.zarr"}
    model.get_latent_representation(**call)
    with pytest.raises(ValueError, match="cells: "):
        model.get_latent_representation(model.adata["image"][:7].copy(), **call)
    model.train(**TRAIN, **QUIET)
    with pytest.raises(ValueError, match=r"z\.zarr.* belongs to other .*weights: "):
        model.get_latent_representation(**call)


def test_cells_of_a_store_are_encoded_block_by_block(screen, tiny, tmp_path):
    mdata = screen()
    stored = cf.io.write_store(mdata, tmp_path / "s.zarr", context_keys="guide", chunk_cells=5)
    found = []
    for data in (mdata, stored):
        cf.PETRI.setup_mudata(data, context_keys="guide", image_rep="crops")
        made = cf.PETRI(data, **tiny)
        made.train(**TRAIN, **QUIET)
        found.append(made.get_latent_representation(modality="image", batch_size=6))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
