"""Concepts: what was put into embeddings is found in them, and other embeddings are refused."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
import zarr

import cellfuse as cf
from cellfuse.data.splits import Held

WIDTH, N_TRUE = 24, 24
QUICK = {"max_epochs": 20, "batch_size": 128, "lr": 0.02, "enable_progress_bar": False}


def embeddings(n=700, seed=0, key="X_emb"):
    """Sums of few of 24 directions: 0 to 7 of both modalities, the others of one of them."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(N_TRUE, WIDTH))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    mods = {}
    for k, name in enumerate(("image", "rna")):
        rng = np.random.default_rng([seed, k])
        own = np.r_[0:8, 8 + 8 * k : 16 + 8 * k]
        active = np.zeros((n, N_TRUE))
        active[:, own] = (rng.random((n, 16)) < 0.15) * (1 + rng.random((n, 16)))
        adata = ad.AnnData(shape=(n, 0))
        adata.obs_names = [f"{name}-{i}" for i in range(n)]
        adata.obsm[key] = (active @ directions + 0.5).astype("f4")
        mods[name] = adata
    return md.MuData(mods), directions


def model_of(mdata, **options):
    cf.Concepts.setup_mudata(mdata, use_rep="X_emb")
    return cf.Concepts(mdata, **{"n_concepts": 64, "k": 3, "seed": 0, **options})


@pytest.fixture(scope="module")
def fitted():
    mdata, directions = embeddings()
    model = model_of(mdata)
    model.train(**QUICK, validation_size=0.1)
    for name in ("image", "rna"):
        mdata[name].obsm["X_concepts"] = model.get_activations(modality=name)
    return mdata, directions, model


def test_true_directions_are_found_and_shared_ones_are_multimodal(fitted):
    mdata, directions, model = fitted
    learned = model.get_directions()
    np.testing.assert_allclose(np.linalg.norm(learned, axis=1), 1, rtol=1e-5)
    cosine = directions @ learned.T
    assert np.mean(cosine.max(axis=1) > 0.85) > 0.8
    table = cf.tl.multimodal_concepts(mdata, low=0.05)
    best = cosine.argmax(axis=1)
    fraction = table.loc[best, ["fraction_image", "fraction_rna"]].to_numpy()
    assert (fraction[:8].min(axis=1) > 0.05).mean() > 0.8  # of both
    assert (fraction[8:].min(axis=1) < 0.05).mean() > 0.8  # of one


def test_history_tells_what_is_explained_and_dead(fitted):
    _, _, model = fitted
    explained = model.history["train_variance_explained_epoch"].iloc[:, 0]
    assert explained.iloc[-1] > 0.7 and explained.iloc[-1] > explained.iloc[0]
    assert {"train_n_dead_epoch", "validation_loss", "train_auxiliary_loss_epoch"} <= set(
        model.history
    )


def test_activations_are_sparse_and_do_not_hang_on_the_block(fitted):
    mdata, _, model = fitted
    whole = mdata["rna"].obsm["X_concepts"]
    assert sp.issparse(whole) and whole.format == "csr" and (whole.data > 0).all()
    assert 2 < whole.nnz / whole.shape[0] < 7
    parts = model.get_activations(modality="rna", batch_size=37)
    np.testing.assert_array_equal(parts.indices, whole.indices)
    np.testing.assert_allclose(parts.data, whole.data, rtol=1e-4)
    one = model.get_activations(mdata["rna"][5:6].copy(), modality="rna")
    np.testing.assert_allclose(one.toarray(), whole[5:6].toarray(), rtol=1e-4)


def test_activations_are_written_in_blocks_and_read_from_the_folder(fitted, tmp_path):
    mdata, _, model = fitted
    stored = model.get_activations(modality="image", path=tmp_path / "acts", batch_size=100)
    whole = mdata["image"].obsm["X_concepts"]
    back = stored.to_memory()
    assert back.shape == whole.shape
    np.testing.assert_allclose(back.toarray(), whole.toarray(), rtol=1e-4)
    with pytest.raises(FileExistsError, match="exists"):
        model.get_activations(modality="image", path=tmp_path / "acts")
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="no folder of activations"):
        model.get_activations(modality="image", path=tmp_path / "mine", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["acts", "mine"]


@pytest.mark.parametrize("kind", ["zarr", "dask"])
def test_embeddings_that_are_not_in_memory_are_fitted_and_read_the_same(kind, tmp_path):
    mdata, _ = embeddings(n=300)
    there = md.MuData({name: ad.AnnData(obs=mdata[name].obs) for name in mdata.mod})
    for name in mdata.mod:
        x = mdata[name].obsm["X_emb"]
        if kind == "dask":
            array = pytest.importorskip("dask.array").from_array(x, chunks=(77, 5))
        else:
            array = zarr.create_array(tmp_path / name, shape=x.shape, chunks=(50, 24), dtype="f4")
            array[:] = x
        there[name].obsm["X_emb"] = array
    found = []
    for data in (mdata, there):
        model = model_of(data, n_concepts=32)
        model.train(**{**QUICK, "max_epochs": 2})
        found.append(model.get_activations(modality="rna").toarray())
    np.testing.assert_array_equal(*found)
    assert (found[0] > 0).any() and not isinstance(there["rna"].obsm["X_emb"], np.ndarray)
    folder = model.get_activations(modality="rna", path=tmp_path / "acts", batch_size=64)
    there["rna"].obsm["X_concepts"] = folder  # what was written is what the tools read
    there["image"].obsm["X_concepts"] = model.get_activations(modality="image")
    share = cf.tl.multimodal_concepts(there)["fraction_rna"]
    np.testing.assert_allclose(share, (found[1] > 0).mean(axis=0))


@pytest.mark.parametrize("gap", [0.0, 30.0], ids=["alike", "apart"])
def test_embeddings_of_few_dimensions_are_fitted_too(gap):
    """Most units die there; were they to begin anew at full length, they would add up."""
    mdata, _ = embeddings(n=1500)
    for k, name in enumerate(("image", "rna")):
        x = mdata[name].obsm["X_emb"]
        few = np.random.default_rng(1).normal(size=(3, WIDTH))
        mdata[name].obsm["X_emb"] = (x[:, :3] @ few + gap * few[0] * (-1) ** k).astype("f4")
    model = model_of(mdata, n_concepts=128, k=16)
    model.train(max_epochs=20, batch_size=256, enable_progress_bar=False)
    explained = model.history["train_variance_explained_epoch"].iloc[-1, 0]
    assert int(model.module.revived) > 5 and explained > 0.8


def test_saved_and_loaded_it_gives_the_same(fitted, tmp_path):
    mdata, _, model = fitted
    model.save(tmp_path / "m")
    loaded = cf.Concepts.load(tmp_path / "m")
    found = loaded.get_activations(mdata, modality="rna")
    np.testing.assert_array_equal(found.toarray(), mdata["rna"].obsm["X_concepts"].toarray())


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 5,
        lambda x: x / 5,
        lambda x: x @ np.linalg.qr(np.random.default_rng(3).normal(size=(WIDTH, WIDTH)))[0],
        lambda x: np.random.default_rng(3).normal(size=x.shape),
    ],
    ids=["larger", "smaller", "turned", "another"],
)
def test_embeddings_of_another_kind_are_refused_at_the_call(fitted, change):
    mdata, _, model = fitted
    other = mdata["rna"].copy()
    other.obsm["X_emb"] = np.asarray(change(other.obsm["X_emb"]), "f4")
    with pytest.raises(ValueError, match="not of the kind this model was fitted on"):
        model.get_activations(other, modality="rna")
    assert model.get_activations(other, modality="rna", check=False).shape == (700, 64)


def test_cells_of_another_experiment_are_taken(fitted):
    _, _, model = fitted
    fresh, _ = embeddings(n=50, seed=9)
    assert model.get_activations(fresh, modality="image").shape == (50, 64)


def test_another_width_is_refused(fitted):
    mdata, _, model = fitted
    other = mdata["rna"].copy()
    other.obsm["X_emb"] = other.obsm["X_emb"][:, :7]
    with pytest.raises(ValueError, match="7"):
        model.get_activations(other, modality="rna")


def test_modalities_count_alike_whatever_their_numbers():
    mdata, _ = embeddings()
    small = md.MuData({"image": mdata["image"], "rna": mdata["rna"][:90].copy()})
    model = model_of(small)
    plans = model._plans(
        model._contexts(None, ["image", "rna"]),
        model._rows(model._contexts(None, ["image", "rna"]), Held()),
        model.recipe,
    )
    assert {role: plan.stream.batch_size for role, plan in plans.train.items()} == {
        "image": 512,
        "rna": 512,
    }


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: model_of(m, k=65), "k=65: expected a number from 1 to n_concepts=64"),
        (lambda m: model_of(m, n_concepts=0), "n_concepts"),
        (lambda m: model_of(m, preset="large"), "'large' is not in the presets"),
        (lambda m: cf.Concepts.setup_mudata(m, use_rep="X_em"), "Did you mean 'X_emb'"),
        (lambda m: model_of(m).get_activations(modality="rna"), "not trained"),
        (lambda m: model_of(m).train(replace=True), "no argument 'replace'"),
    ],
)
def test_bad_input_is_named(act, message):
    mdata, _ = embeddings(n=30)
    with pytest.raises((ValueError, KeyError, TypeError, RuntimeError), match=message):
        act(mdata)


def test_nan_and_different_widths_are_refused():
    mdata, _ = embeddings(n=30)
    mdata["rna"].obsm["X_emb"][3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model_of(mdata)
    mdata["rna"].obsm["X_emb"] = np.zeros((30, 5), "f4")
    with pytest.raises(ValueError, match="embeddings of one width"):
        model_of(mdata)
