"""PETRI as a user meets it: setup, variants, embeddings, reconstruction, save and load."""

from __future__ import annotations

import gc
import json
import random
import weakref

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import cellfuse as cf

SETUP = {"context_keys": "guide", "image_rep": "crops"}


@pytest.fixture
def tiny(tiny) -> dict:
    """The paper's PETRI, begun at random; one begun linear is in `test_begin.py`."""
    return {**tiny, "begin": "random"}


@pytest.fixture
def train(tiny, short):
    """Set up, build and train a tiny PETRI in one call."""

    def trained(mdata: md.MuData, *, setup: dict | None = None, seed: int = 0, **sizes) -> cf.PETRI:
        cf.PETRI.setup_mudata(mdata, **(SETUP if setup is None else setup))
        model = cf.PETRI(mdata, seed=seed, **{**tiny, **sizes})
        model.train(1, **short)
        return model

    return trained


@pytest.fixture
def trained(screen, train) -> cf.PETRI:
    return train(screen())


def latents(model: cf.PETRI, data=None) -> dict[str, np.ndarray]:
    return {role: model.get_latent_representation(data, modality=role) for role in model.inputs}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


# -- embeddings -----------------------------------------------------------------------------------


def test_every_cell_has_a_finite_embedding_of_its_own(trained):
    for z in latents(trained).values():
        assert z.shape == (24, 16)
        assert z.dtype == np.float32
        assert np.isfinite(z).all()
        assert len(np.unique(z, axis=0)) == 24


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_the_embedding_of_a_cell_does_not_hang_on_its_batch(trained, batch_size):
    for role, z in latents(trained).items():
        part = trained.get_latent_representation(modality=role, batch_size=batch_size)
        np.testing.assert_allclose(part, z, rtol=0, atol=1e-5)


def test_no_more_cells_than_the_batch_are_encoded_at_once(trained, monkeypatch):
    import dask.array as da

    mdata = trained.adata
    images = ad.AnnData(obs=mdata["image"].obs)
    images.obsm["crops"] = da.from_array(mdata["image"].obsm["crops"], chunks=(24, -1, -1, -1))
    sizes = []
    embed = trained.module.embed
    monkeypatch.setattr(
        trained.module, "embed", lambda role, x: sizes.append(len(x)) or embed(role, x)
    )
    z = trained.get_latent_representation(images, modality="image", batch_size=5)
    assert max(sizes) == 5
    monkeypatch.undo()
    np.testing.assert_allclose(z, latents(trained)["image"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [1, 2])
def test_layers_of_the_set_transformer_cover_every_cell(trained, layer):
    encoder = latents(trained)
    for role in ("image", "rna"):
        z = trained.get_latent_representation(modality=role, at=layer)
        assert z.shape == (24, 16)
        assert np.isfinite(z).all()
        assert np.abs(z - encoder[role]).max() > 1e-3


def test_a_layer_is_the_mean_over_the_documents_of_a_cell(trained):
    """Recomputed document by document, from the enumeration of A.6."""
    from cellfuse.data import Contexts, enumerate_documents

    mdata, module = trained.adata, trained.module.eval()
    contexts = Contexts.from_modalities(mdata.mod, "guide")
    documents = enumerate_documents(contexts, ["image", "rna"], set_size=4, seed=0)
    images = torch.from_numpy(mdata["image"].obsm["crops"])
    counts = torch.from_numpy(mdata["rna"].X.toarray())
    values: dict[int, list[np.ndarray]] = {row: [] for row in range(24)}
    with torch.inference_mode():
        for i in range(len(documents.key)):
            rows = {m: documents.rows[m][i] for m in ("image", "rna")}
            encoded = {
                "image": module.latents("image", images[rows["image"]])[None],
                "rna": module.latents("rna", counts[rows["rna"]])[None],
            }
            here = {m: torch.ones(1, dtype=torch.bool) for m in rows}
            out = module.fuse(encoded, here)[2]["rna"][0].mean(dim=1).numpy()
            for row, value in zip(rows["rna"], out, strict=True):
                values[row].append(value)
    expected = np.stack([np.mean(v, axis=0) for v in values.values()])
    found = trained.get_latent_representation(modality="rna", at=2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [0, 3, "decoder", True])
def test_a_layer_that_is_not_there_is_named(trained, layer):
    with pytest.raises(ValueError, match="'encoder' or a number from 1 to 2"):
        trained.get_latent_representation(modality="rna", at=layer)


def test_layers_may_be_given_as_numpy_numbers(trained):
    z = trained.get_latent_representation(modality="rna", at=np.int64(1))
    np.testing.assert_array_equal(z, trained.get_latent_representation(modality="rna", at=1))


def test_the_modality_must_be_named_where_there_are_two(trained):
    with pytest.raises(ValueError, match="name the modality: one of 'image', 'rna'"):
        trained.get_latent_representation()
    with pytest.raises(KeyError, match="'img' is not in the modalities that this PETRI embeds"):
        trained.get_latent_representation(modality="img")


# -- other data -----------------------------------------------------------------------------------


def test_another_mudata_one_anndata_and_cells_without_labels_are_embedded(trained, screen):
    other = screen(seed=5, n_cells=10)
    whole = latents(trained, other)
    assert whole["image"].shape == (10, 16)
    for role in ("image", "rna"):
        lone = other[role].copy()
        lone.obs = lone.obs[[]]
        z = trained.get_latent_representation(lone, modality=role)
        np.testing.assert_array_equal(z, whole[role])
        only = md.MuData({role: lone})
        z = trained.get_latent_representation(only, modality=role)
        np.testing.assert_array_equal(z, whole[role])


def test_the_layers_of_other_data_need_its_contexts(trained, screen):
    other = screen(seed=5, n_cells=10)
    z = trained.get_latent_representation(other, modality="rna", at=1)
    assert z.shape == (10, 16)
    assert np.isfinite(z).all()
    with pytest.raises(ValueError, match="MuData"):
        trained.get_latent_representation(other["rna"], modality="rna", at=1)


def test_genes_in_another_order_give_the_same_embedding(trained, screen):
    mdata = screen()
    order = [4, 0, 5, 2, 1, 3]
    turned = mdata["rna"][:, order].copy()
    z = trained.get_latent_representation(turned, modality="rna")
    np.testing.assert_array_equal(z, latents(trained)["rna"])


def test_arrays_on_disk_give_the_same_embedding_and_training(screen, train, tmp_path):
    import zarr

    stored, plain = screen(), screen()
    crops = stored["image"].obsm["crops"]
    on_disk = zarr.create_array(
        tmp_path / "crops.zarr", shape=crops.shape, chunks=(5, 2, 16, 16), dtype="u1"
    )
    on_disk[:] = crops
    stored["image"].obsm["crops"] = on_disk
    one, two = train(stored), train(plain)
    assert_same(latents(one), latents(two))


# -- variants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["image", "rna"])
@pytest.mark.parametrize("n_set_layers", [0, 1])
def test_one_modality_alone_makes_a_model(screen, train, role, n_set_layers):
    setup = {"context_keys": "guide", "modalities": {role: role}}
    if role == "image":
        setup["image_rep"] = "crops"
    model = train(screen(), setup=setup, n_set_layers=n_set_layers)
    z = model.get_latent_representation()
    assert z.shape == (24, 16)
    assert np.isfinite(z).all()
    assert set(model.history) == {"train_loss_epoch", f"train_{role}_loss_epoch"}
    assert model.reconstruct().rows.tolist() == list(range(24))


def test_without_set_layers_the_other_modality_changes_nothing(screen, train):
    model = train(screen(), n_set_layers=0)
    both, alone = (
        model.reconstruct(modality="image"),
        model.reconstruct(modality="image", using=["image"]),
    )
    np.testing.assert_array_equal(both.prediction, alone.prediction)
    with pytest.raises(ValueError, match="at=1"):
        model.get_latent_representation(modality="image", at=1)


def test_permuted_contexts_are_a_training_of_their_own(screen, train):
    matched, permuted = train(screen()), train(screen(), permute_contexts=True)
    assert np.abs(latents(matched)["rna"] - latents(permuted)["rna"]).max() > 1e-4


def test_modalities_of_other_names_take_their_roles(screen, train):
    mdata = screen()
    named = md.MuData({"OPS": mdata["image"], "perturb-seq": mdata["rna"]})
    setup = {**SETUP, "modalities": {"image": "OPS", "rna": "perturb-seq"}}
    model = train(named, setup=setup)
    assert_same(latents(model), latents(train(screen())))


def test_contexts_over_two_columns(screen, train):
    model = train(screen(), setup={**SETUP, "context_keys": ["plate", "guide"]}, set_size=2)
    assert model.get_latent_representation(modality="rna", at=1).shape == (24, 16)
    assert model.context_keys == ["plate", "guide"]


def test_topics_are_contexts(screen, train):
    mdata = screen()
    table = pd.DataFrame({"source": ["g0", "g1", "g1", "g2"], "target": ["A", "A", "B", "B"]})
    cf.pp.map_contexts(mdata, table, by="guide", key_added="complex")
    model = train(mdata, setup={**SETUP, "context_keys": "complex"})
    z = model.get_latent_representation(modality="rna", at=1)
    outside = (mdata["rna"].obs["guide"] == "g3").to_numpy()
    assert np.isnan(z[outside]).all()  # no topic, no document
    assert np.isfinite(z[~outside]).all()


def test_paired_cells_are_contexts_of_one_cell_each(screen, train):
    mdata = screen()
    rna = mdata["rna"].copy()
    rna.obs_names = mdata["image"].obs_names
    paired = md.MuData({"image": mdata["image"], "rna": rna[::-1].copy()})
    model = train(paired, setup={**SETUP, "context_keys": "obs_names"}, set_size=1)
    assert np.isfinite(model.get_latent_representation(modality="rna", at=1)).all()


@pytest.mark.parametrize("rep", ["flat", "tokens"])
def test_flat_and_token_embeddings_are_read(screen, train, rep):
    setup = {"context_keys": "guide", "image_rep": rep, "rna_likelihood": "mse"}
    model = train(screen(), setup=setup)
    rebuilt = model.reconstruct(modality="image")
    target = model.adata["image"].obsm[rep]
    np.testing.assert_allclose(rebuilt.target, target[rebuilt.rows], rtol=1e-4, atol=1e-5)
    assert rebuilt.prediction.shape == target.shape


def test_rna_embeddings_are_read_from_obsm(screen, train):
    model = train(screen(), setup={**SETUP, "rna_rep": "flat"})
    assert model.inputs["rna"].kind == "values"
    assert np.isfinite(latents(model)["rna"]).all()


def test_counts_are_read_from_the_layer_that_is_named(screen, train):
    plain, layered = screen(), screen()
    layered["rna"].layers["raw"] = layered["rna"].X.copy()
    layered["rna"].X = layered["rna"].X * 0.5
    model = train(layered, setup={**SETUP, "rna_layer": "raw"})
    assert_same(latents(model), latents(train(plain)))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16", "float32", "float64"])
@pytest.mark.parametrize("channels", [1, 5])
def test_images_of_any_type_and_channel_count_train_alike(screen, train, dtype, channels):
    mdata, plain = screen(channels=channels), screen(channels=channels)
    mdata["image"].obsm["crops"] = mdata["image"].obsm["crops"].astype(dtype)
    z = latents(train(mdata))["image"]
    np.testing.assert_allclose(z, latents(train(plain))["image"], rtol=0, atol=1e-5)


def test_images_are_cropped_around_their_centre(screen, train):
    model = train(screen(side=24), crop=16)
    rebuilt = model.reconstruct(modality="image")
    crops = model.adata["image"].obsm["crops"]
    np.testing.assert_allclose(rebuilt.target, crops[rebuilt.rows, :, 4:20, 4:20], atol=1e-3)


def test_a_context_of_one_modality_trains_it(screen, train, short):
    mdata = screen()
    kept = mdata["rna"][mdata["rna"].obs["guide"] != "g0"].copy()
    one_sided = md.MuData({"image": mdata["image"], "rna": kept})
    model = train(one_sided)
    z = model.get_latent_representation(modality="image", at=2)
    assert np.isfinite(z).all()
    model.train(1, missing="drop", **short)


# -- reconstruction -------------------------------------------------------------------------------


def test_a_reconstruction_holds_cells_masks_and_losses(trained):
    images, counts = (trained.reconstruct(modality=m) for m in ("image", "rna"))
    assert images.rows.tolist() == counts.rows.tolist() == list(range(24))
    crops = trained.adata["image"].obsm["crops"]
    np.testing.assert_allclose(images.target, crops, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(counts.target, trained.adata["rna"].X.toarray())
    assert images.prediction.shape == crops.shape
    assert images.mask.shape == (24, 4)
    assert counts.mask.shape == (24, 6)
    assert (images.mask.sum(axis=1) == 3).all()
    # The loss is that of the hidden patches, on the standardised scale.
    sd = trained.module.cell("image").sd.numpy()[:, None, None]
    error = ((images.prediction - images.target) / sd) ** 2
    patches = error.reshape(24, 2, 2, 8, 2, 8).mean(axis=(1, 3, 5)).reshape(24, 4)
    expected = (patches * images.mask).sum(axis=1) / images.mask.sum(axis=1)
    np.testing.assert_allclose(images.loss, expected, rtol=1e-3)
    # Expected counts at the cell's total.
    np.testing.assert_allclose(counts.prediction.sum(axis=1), counts.target.sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_leaving_a_modality_out_keeps_cells_and_masks(trained, screen, elsewhere):
    # More counts than images in a context: the enumeration repeats the images.
    data = screen(seed=3, n_cells=40) if elsewhere else None
    if elsewhere:
        data = md.MuData({"image": data["image"][:20].copy(), "rna": data["rna"]})
    both = trained.reconstruct(data, modality="image")
    alone = trained.reconstruct(data, modality="image", using=["image"])
    np.testing.assert_array_equal(both.rows, alone.rows)
    np.testing.assert_array_equal(both.mask, alone.mask)
    np.testing.assert_array_equal(both.target, alone.target)
    assert np.abs(both.prediction - alone.prediction).max() > 1e-3


def test_one_modality_is_rebuilt_from_an_anndata(trained):
    images = trained.adata["image"]
    rebuilt = trained.reconstruct(images, modality="image", using=["image"])
    assert rebuilt.rows.tolist() == list(range(24))
    only = trained.reconstruct(md.MuData({"image": images}), modality="image", using=["image"])
    np.testing.assert_array_equal(only.prediction, rebuilt.prediction)
    with pytest.raises(ValueError, match="MuData"):
        trained.reconstruct(images, modality="image")


def test_documents_to_rebuild_are_drawn_by_the_seed(trained):
    one, again, other = (
        trained.reconstruct(modality="rna", max_documents=2, seed=s) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one.prediction, again.prediction)
    assert len(one.rows) == 8
    assert not np.array_equal(one.mask, other.mask)


def test_what_is_rebuilt_must_be_used(trained):
    with pytest.raises(ValueError, match="`using` must hold 'image'"):
        trained.reconstruct(modality="image", using=["rna"])


# -- save and load --------------------------------------------------------------------------------


def state(model: cf.PETRI) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in model.module.state_dict().items()}


@pytest.mark.parametrize("with_data", [False, True])
def test_a_saved_model_is_the_same_to_the_bit(trained, tmp_path, with_data, screen):
    trained.save(tmp_path / "model")
    loaded = cf.PETRI.load(tmp_path / "model", screen() if with_data else None)
    assert_same(state(loaded), state(trained))
    assert_same(latents(loaded, trained.adata), latents(trained))
    if with_data:
        assert_same(latents(loaded), latents(trained))
    assert loaded.is_trained_
    assert loaded.seed == trained.seed
    for name, frame in trained.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], frame)


def test_a_loaded_model_is_saved_and_loaded_again(trained, tmp_path):
    trained.save(tmp_path / "one")
    cf.PETRI.load(tmp_path / "one").save(tmp_path / "two")
    again = cf.PETRI.load(tmp_path / "two")
    assert_same(state(again), state(trained))


def test_a_loaded_model_trains_on_as_the_one_in_memory(trained, tmp_path, screen, short):
    trained.save(tmp_path / "model")
    loaded = cf.PETRI.load(tmp_path / "model", screen())
    for model in (trained, loaded):
        model.train(1, **short)
    assert_same(state(loaded), state(trained))


def test_every_argument_comes_back(screen, tiny, short, tmp_path):
    mdata = screen(side=24)
    cf.PETRI.setup_mudata(mdata, **SETUP)
    given = {
        "crop": 16,
        "normalize": "instance",
        "loss_weights": {"image": 2, "rna": np.float32(0.5)},
        "permute_contexts": True,
        "seed": np.int64(3),
        "mask_ratio": 0.5,
    }
    model = cf.PETRI(mdata, **tiny, **given)
    model.train(1, **short)
    model.save(tmp_path / "model")
    loaded = cf.PETRI.load(tmp_path / "model")
    assert loaded.sizes == model.sizes
    assert loaded.module.weights == {"image": 2.0, "rna": 0.5}
    assert (loaded.seed, loaded.set_size, loaded.permute_contexts) == (3, 4, True)
    assert_same(latents(loaded, mdata), latents(model))


def test_an_untrained_model_is_saved_as_such(screen, tiny, tmp_path):
    mdata = screen()
    cf.PETRI.setup_mudata(mdata, **SETUP)
    cf.PETRI(mdata, **tiny).save(tmp_path / "model")
    loaded = cf.PETRI.load(tmp_path / "model")
    with pytest.raises(RuntimeError, match="not trained"):
        loaded.get_latent_representation(modality="rna")


def test_a_save_holds_tensors_and_json_only(trained, tmp_path):
    trained.save(tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["cellfuse.json", "weights.safetensors"]
    json.loads((tmp_path / "model" / "cellfuse.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_model_loaded_without_data_asks_for_it(trained, tmp_path, short):
    trained.save(tmp_path / "model")
    loaded = cf.PETRI.load(tmp_path / "model")
    with pytest.raises(ValueError, match="pass `data`"):
        loaded.get_latent_representation(modality="rna")
    with pytest.raises(ValueError, match="adata=mdata"):
        loaded.train(1, **short)


# -- the user's data and state --------------------------------------------------------------------


def contents(mdata: md.MuData) -> dict[str, object]:
    """Copies of everything a MuData holds, `.uns` of the whole aside."""
    held: dict[str, object] = {"obs": mdata.obs.copy(), "var": mdata.var.copy()}
    held["obsm"] = {key: np.array(value) for key, value in mdata.obsm.items()}
    for name, adata in mdata.mod.items():
        held[f"{name} obs"], held[f"{name} var"] = adata.obs.copy(), adata.var.copy()
        held[f"{name} uns"] = json.dumps(dict(adata.uns), default=str)
        for key, value in adata.obsm.items():
            held[f"{name} obsm {key}"] = value.copy()
        for key, value in adata.layers.items():
            held[f"{name} layer {key}"] = value.copy()
        if adata.X is not None:
            held[f"{name} X"] = adata.X.copy()
    return held


def assert_unchanged(mdata: md.MuData, before: dict[str, object]) -> None:
    after = contents(mdata)
    assert after.keys() == before.keys()
    for key, old in before.items():
        new = after[key]
        if isinstance(old, pd.DataFrame):
            pd.testing.assert_frame_equal(new, old)
        elif sp.issparse(old):
            for part in ("data", "indices", "indptr"):
                np.testing.assert_array_equal(getattr(new, part), getattr(old, part))
        elif isinstance(old, np.ndarray):
            assert new.dtype == old.dtype
            np.testing.assert_array_equal(new, old)
        elif isinstance(old, dict):
            assert new.keys() == old.keys()
        else:
            assert new == old


def test_the_users_data_is_as_it_was(screen, tiny, short, tmp_path):
    mdata = screen()
    mdata.uns["mine"] = {"a": 1}
    mdata.uns["cellfuse"] = {"topics": {"of": "before"}}
    before = contents(mdata)
    cf.PETRI.setup_mudata(mdata, **SETUP)
    assert_unchanged(mdata, before)
    model = cf.PETRI(mdata, **tiny)
    assert_unchanged(mdata, before)
    model.train(1, **short)
    assert_unchanged(mdata, before)
    latents(model)
    model.get_latent_representation(modality="rna", at=1)
    model.reconstruct(modality="image")
    model.save(tmp_path / "model")
    assert_unchanged(mdata, before)
    assert mdata.uns["mine"] == {"a": 1}
    assert mdata.uns["cellfuse"]["topics"] == {"of": "before"}
    new = set(mdata.uns) - {"mine", "cellfuse"}
    assert all(key.startswith("_scvi") for key in new)


def test_a_mudata_that_was_set_up_is_written_and_read(screen, tiny, short, tmp_path, train):
    mdata = screen()
    model = train(mdata)
    mdata.write_h5mu(tmp_path / "screen.h5mu")
    again = md.read_h5mu(tmp_path / "screen.h5mu")
    other = cf.PETRI(again, **tiny)  # the setup is in the file
    other.train(1, **short)
    assert_same(latents(other), latents(model))


def test_two_models_from_one_setup_stand_side_by_side(screen, tiny, short):
    mdata = screen()
    cf.PETRI.setup_mudata(mdata, **SETUP)
    one, two = cf.PETRI(mdata, **tiny), cf.PETRI(mdata, **tiny, seed=1)
    one.train(1, **short)
    before = latents(one)
    two.train(1, **short)
    assert_same(latents(one), before)
    assert np.abs(latents(two)["rna"] - before["rna"]).max() > 1e-3
    cf.PETRI.setup_mudata(mdata, context_keys="plate", image_rep="flat")
    assert_same(latents(one), before)  # a new setup is for new models


def test_the_data_goes_when_the_model_goes(screen, train):
    mdata = screen()
    model = train(mdata)
    latents(model)
    gone = [weakref.ref(mdata), weakref.ref(mdata["image"]), weakref.ref(model.module)]
    del model, mdata
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3


def test_the_callers_random_states_do_not_move(screen, train, short):
    torch.rand(3), np.random.rand(3), random.random()
    mdata = screen()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    model = train(mdata)
    model.train(1, validation_size=0.2, num_workers=1, **short)
    latents(model)
    model.reconstruct(modality="image")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]


def test_the_random_state_of_gpus_does_not_move(screen, train, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    train(screen())
    assert seeded == []


def test_a_model_says_what_it_is(trained, capsys):
    repr(trained)  # scvi-tools prints it
    shown = " ".join(capsys.readouterr().out.split())
    assert "PETRI: image pixels (2, 16, 16), rna counts (6,); contexts by guide" in shown
    assert "set_size=4" in shown


def test_the_papers_sizes_have_a_quarter_of_a_billion_parameters():
    """HepG2's 18,082 genes and five channels; nothing is allocated."""
    rng = np.random.default_rng(0)
    obs = {m: pd.DataFrame({"guide": ["a", "b"]}, index=[f"{m}0", f"{m}1"]) for m in ("i", "r")}
    crops = rng.integers(0, 255, (2, 5, 80, 80)).astype("u1")
    counts = sp.csr_matrix(rng.poisson(1, (2, 18_082)).astype("f4"))
    mdata = md.MuData(
        {
            "image": ad.AnnData(obs=obs["i"], obsm={"crops": crops}),
            "rna": ad.AnnData(counts, obs=obs["r"]),
        }
    )
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    with torch.device("meta"):
        model = cf.PETRI(mdata, preset="base")
    millions = sum(p.numel() for p in model.module.parameters()) / 1e6
    assert millions == pytest.approx(256.3, abs=0.1)
