"""Bad input to PETRI: a clear error at the call, nothing written, nothing lost."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scipy.sparse as sp
from safetensors.torch import load_file, save_file

import cellfuse as cf

SETUP = {"context_keys": "guide", "image_rep": "crops"}


def setup(mdata: md.MuData, **changes: object) -> None:
    cf.PETRI.setup_mudata(mdata, **{**SETUP, **changes})


def quiet_mudata(**mods: ad.AnnData) -> md.MuData:
    """A MuData of modalities whose names repeat, which MuData itself only warns about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return md.MuData(mods)


@pytest.fixture
def trained(screen, tiny, short) -> cf.PETRI:
    mdata = screen()
    setup(mdata)
    model = cf.PETRI(mdata, **tiny)
    model.train(1, **short)
    return model


# -- setup ----------------------------------------------------------------------------------------


def with_counts(mdata: md.MuData, row: int, column: int, value: float) -> None:
    counts = mdata["rna"].X.toarray()
    counts[row, column] = value
    mdata["rna"].X = sp.csr_matrix(counts)


def with_images(mdata: md.MuData, value: float) -> None:
    images = mdata["image"].obsm["crops"].astype("f4")
    images[3, 0, 1, 1] = value
    mdata["image"].obsm["crops"] = images


def with_guide(mdata: md.MuData, modality: str, values: object) -> None:
    mdata[modality].obs["guide"] = values


@pytest.mark.parametrize(
    ("change", "given", "error", "message"),
    [
        (
            None,
            {"context_keys": "guides"},
            KeyError,
            "'guides' is not in obs.*Did you mean 'guide'",
        ),
        (None, {"context_keys": []}, ValueError, "`context_keys` is empty"),
        (None, {"context_keys": ["guide", "guide"]}, ValueError, "names an obs column twice"),
        (None, {"image_rep": "crop"}, KeyError, "'crop' is not in obsm.*Did you mean 'crops'"),
        (None, {"image_rep": None}, ValueError, "X of modality 'image' is empty.*'crops'"),
        (None, {"rna_layer": "raw"}, KeyError, "'raw' is not in layers of modality 'rna'"),
        (None, {"rna_rep": "pca"}, KeyError, "'pca' is not in obsm of modality 'rna'"),
        (None, {"rna_likelihood": "zinb"}, ValueError, "'zinb': expected one of 'nb', 'mse'"),
        (None, {"modalities": {"image": "img"}}, KeyError, "'img' is not in the MuData's modal"),
        (None, {"modalities": {"protein": "rna"}}, KeyError, "'protein' is not in the roles"),
        (None, {"modalities": {}}, KeyError, "roles of `modalities`"),
        (
            lambda m: with_guide(m, "rna", ["g0"] * 23 + [None]),
            {},
            ValueError,
            "modality 'rna' is missing .NaN. for 1 of 24 cells",
        ),
        (
            lambda m: with_guide(m, "rna", np.arange(24)),
            {},
            ValueError,
            "share no context",
        ),
        (
            lambda m: with_guide(m, "rna", ["other"] * 24),
            {},
            ValueError,
            "share no context",
        ),
        (lambda m: with_counts(m, 2, 1, 0.5), {}, ValueError, "counts.*found 0.5.*rna_layer"),
        (lambda m: with_counts(m, 2, 1, -3), {}, ValueError, "counts.*found -3"),
        (lambda m: with_counts(m, 2, 1, np.nan), {}, ValueError, "1 NaN or infinite"),
        (
            lambda m: with_counts(m, 2, 1, np.inf),
            {"rna_likelihood": "mse"},
            ValueError,
            "X of modality 'rna' holds 1 NaN or infinite",
        ),
        (lambda m: with_images(m, np.nan), {}, ValueError, r"obsm\['crops'\] of modality 'image'"),
        (lambda m: with_images(m, np.inf), {}, ValueError, "1 NaN or infinite"),
    ],
)
def test_setup_refuses_bad_input_and_writes_nothing(screen, change, given, error, message):
    mdata = screen()
    if change:
        change(mdata)
    with pytest.raises(error, match=message):
        setup(mdata, **given)
    assert dict(mdata.uns) == {}


def test_fractions_are_welcome_where_no_counts_are_needed(screen):
    mdata = screen()
    with_counts(mdata, 2, 1, -0.5)
    setup(mdata, rna_likelihood="mse")


def test_an_anndata_is_refused_with_the_fix(screen):
    with pytest.raises(TypeError, match=r"mudata.MuData\(\{'rna': adata\}\)"):
        setup(screen()["rna"])
    with pytest.raises(NotImplementedError, match="setup_mudata"):
        cf.PETRI.setup_anndata(screen()["rna"])


def test_an_empty_modality_is_refused(screen):
    mdata = screen()
    empty = md.MuData({"image": mdata["image"], "rna": mdata["rna"][:0].copy()})
    with pytest.raises(ValueError, match="modality 'rna' has no cells"):
        setup(empty)


def test_names_that_stand_in_both_modalities_are_refused_with_the_fix(screen):
    mdata = screen()
    rna = mdata["rna"].copy()
    rna.obs_names = mdata["image"].obs_names
    with pytest.raises(
        ValueError, match=r"24 obs_names.*'rna' \+ '-' \+ adata.obs_names.*obs_names'"
    ):
        setup(quiet_mudata(image=mdata["image"], rna=rna))


def test_the_fix_for_names_in_both_modalities_works(screen):
    mdata = screen()
    image, rna = mdata["image"].copy(), mdata["rna"].copy()
    rna.obs_names = image.obs_names
    rna.obs_names = "rna" + "-" + rna.obs_names
    setup(md.MuData({"image": image, "rna": rna}))


def test_names_that_repeat_in_a_modality_are_refused_with_the_fix(screen):
    mdata = screen()
    rna = mdata["rna"].copy()
    rna.obs_names = ["twice", "twice", *rna.obs_names[2:]]
    with pytest.raises(ValueError, match=r"'rna' repeat \('twice'\).*obs_names_make_unique"):
        setup(quiet_mudata(image=mdata["image"], rna=rna))


def test_genes_that_repeat_are_refused(screen):
    mdata = screen()
    rna = mdata["rna"].copy()
    rna.var_names = ["A", "A", *rna.var_names[2:]]
    with pytest.raises(ValueError, match="var_names of modality 'rna' repeat: 'A'"):
        setup(quiet_mudata(image=mdata["image"], rna=rna))


# -- the model ------------------------------------------------------------------------------------


def test_a_model_needs_a_setup(screen):
    with pytest.raises(ValueError, match="not set up for PETRI.*setup_mudata"):
        cf.PETRI(screen())
    with pytest.raises(ValueError, match="setup_mudata"):
        cf.PETRI()
    with pytest.raises(TypeError, match="takes a MuData"):
        cf.PETRI(screen()["rna"])


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"preset": "smal"}, KeyError, "'smal' is not in the presets.*Did you mean 'small'"),
        ({"widht": 16}, TypeError, "no argument 'widht'.*'width'"),
        ({"width": 15}, ValueError, "width 15 is not a multiple of the number of heads 2"),
        ({"width": 0}, ValueError, "width must be positive, found 0"),
        ({"n_set_layers": -1}, ValueError, "n_set_layers.*found -1"),
        ({"mask_ratio": 1.0}, ValueError, "mask_ratio must lie between 0 and 1"),
        ({"set_size": 0}, ValueError, "set_size must be at least 1, found 0"),
        ({"seed": -1}, ValueError, "seed.*found -1"),
        ({"seed": 2**31}, ValueError, f"seed.*found {2**31}"),
        ({"crop": 24}, ValueError, "crop=24 is larger than the images, 16 x 16"),
        ({"crop": 12}, ValueError, "12 is no multiple of the patch size 8; give `crop=8`"),
        ({"crop": -8}, ValueError, "crop.*found -8"),
        ({"patch_size": 16}, ValueError, "one token.*patch_size"),
        ({"normalize": "batch"}, ValueError, "normalize='batch': expected"),
        ({"loss_weights": {"img": 1}}, KeyError, "'img' is not in the modalities of this model"),
    ],
)
def test_senseless_arguments_are_refused(screen, tiny, given, error, message):
    mdata = screen()
    setup(mdata)
    with pytest.raises(error, match=message):
        cf.PETRI(mdata, **{**tiny, **given})


def test_images_that_are_not_square_need_a_crop(screen, tiny):
    mdata = screen()
    mdata["image"].obsm["crops"] = np.zeros((24, 1, 16, 24), "u1")
    setup(mdata)
    with pytest.raises(ValueError, match="16 x 24 are not square; give `crop`"):
        cf.PETRI(mdata, **tiny)
    cf.PETRI(mdata, **tiny, crop=16)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_epochs": 0}, "max_epochs must be at least 1, found 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
        ({"documents_per_context": 0}, "documents_per_context"),
        ({"replace": False}, "'if_needed' or True"),
        ({"missing": "leave"}, "missing='leave'"),
        ({"validation_size": 1.0}, "validation_size"),
        ({"lr": 0.0}, "lr"),
    ],
)
def test_senseless_trainings_are_refused(screen, tiny, short, given, message):
    mdata = screen()
    setup(mdata)
    with pytest.raises(ValueError, match=message):
        cf.PETRI(mdata, **tiny).train(**{"max_epochs": 1, **short, **given})


def test_half_an_epoch_is_refused(screen, tiny, short):
    mdata = screen()
    setup(mdata)
    with pytest.raises(TypeError, match=r"max_epochs must be a whole number, found 1\.5"):
        cf.PETRI(mdata, **tiny).train(1.5, **short)


@pytest.mark.parametrize("layer", ["encoder", 1])
@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (2.5, TypeError)])
def test_senseless_batches_are_refused(trained, layer, size, error):
    with pytest.raises(error, match="batch_size must be"):
        trained.get_latent_representation(modality="rna", at=layer, batch_size=size)


def test_a_view_is_refused_where_it_is_set_up(screen):
    mdata = screen()
    with pytest.raises(ValueError, match="modality 'image' is a view of other data"):
        setup(quiet_mudata(image=mdata["image"][:12], rna=mdata["rna"]))
    setup(quiet_mudata(image=mdata["image"][:12].copy(), rna=mdata["rna"]))


def test_an_untrained_model_gives_nothing(screen, tiny):
    mdata = screen()
    setup(mdata)
    model = cf.PETRI(mdata, **tiny)
    for ask in (model.get_latent_representation, model.reconstruct):
        with pytest.raises(RuntimeError, match=r"not trained: call `model.train\(\)`"):
            ask(modality="rna")
    assert model.history == {}


def test_data_that_changed_after_the_setup_is_refused(screen, tiny):
    mdata = screen()
    setup(mdata)
    del mdata["image"].obsm["crops"]
    with pytest.raises(KeyError, match="'crops' is not in obsm"):
        cf.PETRI(mdata, **tiny)


# -- inference on other data ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "modality", "error", "message"),
    [
        (lambda m: with_counts(m, 1, 1, 0.5), "rna", ValueError, "found 0.5"),
        (lambda m: with_counts(m, 1, 1, np.nan), "rna", ValueError, "NaN"),
        (lambda m: with_images(m, np.nan), "image", ValueError, "NaN"),
    ],
)
def test_bad_values_in_other_data_are_refused(trained, screen, change, modality, error, message):
    other = screen(seed=1)
    change(other)
    with pytest.raises(error, match=message):
        trained.get_latent_representation(other, modality=modality)


def test_other_channels_genes_and_modalities_are_refused(trained, screen):
    with pytest.raises(ValueError, match="has 3 channels; the model was trained on 2"):
        trained.get_latent_representation(screen(channels=3), modality="image")
    with pytest.raises(KeyError, match="1 of the 6 genes.*'gene5'"):
        trained.get_latent_representation(screen(n_genes=5), modality="rna")
    only = md.MuData({"rna": screen()["rna"]})
    with pytest.raises(KeyError, match="'image' is not in the MuData's modalities"):
        trained.get_latent_representation(only, modality="image")
    with pytest.raises(ValueError, match="'rna' has no cells"):
        trained.get_latent_representation(screen()["rna"][:0].copy(), modality="rna")
    with pytest.raises(TypeError, match="expected an AnnData or a MuData"):
        trained.get_latent_representation(np.ones((3, 6)), modality="rna")


# -- saved models ---------------------------------------------------------------------------------


def test_genes_missing_on_loading_are_named(trained, screen, tmp_path):
    trained.save(tmp_path / "m")
    other = screen(n_genes=4)
    with pytest.raises(KeyError, match="2 of the 6 genes.*'gene4', 'gene5'"):
        cf.PETRI.load(tmp_path / "m", other)
    assert dict(other.uns) == {}


def test_genes_in_another_order_on_loading_are_put_right(trained, screen, tmp_path, short):
    trained.save(tmp_path / "m")
    mdata = screen()
    turned = md.MuData({"image": mdata["image"], "rna": mdata["rna"][:, [4, 0, 5, 2, 1, 3]].copy()})
    loaded = cf.PETRI.load(tmp_path / "m", turned)
    for model in (loaded, trained):
        model.train(1, **short)
    np.testing.assert_array_equal(
        loaded.get_latent_representation(modality="rna"),
        trained.get_latent_representation(modality="rna"),
    )


def test_other_channels_on_loading_are_refused(trained, screen, tmp_path):
    trained.save(tmp_path / "m")
    with pytest.raises(ValueError, match="has 1 channels; the model was trained on 2"):
        cf.PETRI.load(tmp_path / "m", screen(channels=1))


def test_a_modality_missing_on_loading_is_named(trained, screen, tmp_path):
    trained.save(tmp_path / "m")
    with pytest.raises(KeyError, match="'rna' is not in the MuData's modalities"):
        cf.PETRI.load(tmp_path / "m", md.MuData({"image": screen()["image"]}))
    with pytest.raises(TypeError, match="takes a MuData"):
        cf.PETRI.load(tmp_path / "m", screen()["rna"])


def test_colliding_names_on_loading_are_refused(trained, screen, tmp_path):
    trained.save(tmp_path / "m")
    mdata = screen()
    rna = mdata["rna"].copy()
    rna.obs_names = mdata["image"].obs_names
    with pytest.raises(ValueError, match="24 obs_names stand in both"):
        cf.PETRI.load(tmp_path / "m", quiet_mudata(image=mdata["image"], rna=rna))


def test_a_folder_that_is_not_there_or_no_model_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.*as `model.save` writes it"):
        cf.PETRI.load(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "model.pt").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="cellfuse.json"):
        cf.PETRI.load(tmp_path / "foreign")


def description(folder) -> dict:
    return json.loads((folder / "cellfuse.json").read_text())


def write(folder, **changes: object) -> None:
    found = {**description(folder), **changes}
    kept = {key: value for key, value in found.items() if value is not ...}
    (folder / "cellfuse.json").write_text(json.dumps(kept))


def damage_json(folder) -> None:
    text = (folder / "cellfuse.json").read_text()
    (folder / "cellfuse.json").write_text(text[: len(text) // 2])


def cut_weights(folder) -> None:
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: len(data) // 2])


def drop_a_weight(folder) -> None:
    tensors = load_file(folder / "weights.safetensors")
    tensors.pop("cells.rna.encoder.latents")
    save_file(tensors, folder / "weights.safetensors")


def reshape_a_weight(folder) -> None:
    tensors = load_file(folder / "weights.safetensors")
    tensors["cells.rna.encoder.latents"] = tensors["cells.rna.encoder.latents"][:1].clone()
    save_file(tensors, folder / "weights.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_json, "cellfuse.json.*damaged"),
        (cut_weights, "weights.safetensors.*damaged"),
        (drop_a_weight, "(?s)damaged.*cells.rna.encoder.latents"),
        (reshape_a_weight, "(?s)damaged.*cells.rna.encoder.latents"),
        (lambda f: (f / "cellfuse.json").write_text("[1, 2]"), "cellfuse.json.*damaged"),
        (lambda f: (f / "cellfuse.json").write_bytes(b"\x80\x04"), "cellfuse.json.*damaged"),
        (lambda f: write(f, setup=...), "cellfuse.json.*damaged.*setup"),
        (lambda f: write(f, init=...), "cellfuse.json.*damaged.*init"),
        (lambda f: write(f, trained=...), "cellfuse.json.*damaged.*trained"),
        (lambda f: write(f, history=[1]), "cellfuse.json.*damaged"),
        (lambda f: write(f, setup={}), "cellfuse.json.*damaged"),
        (lambda f: write(f, init={"no_such": 1}), "damaged|no argument"),
        (lambda f: write(f, model="TIDE"), r"holds a TIDE model; load it with `cf.TIDE.load`"),
        (lambda f: write(f, format=99), "saved in format 99.*upgrade cellfuse"),
        (lambda f: write(f, format="new"), "cellfuse.json.*damaged"),
    ],
)
def test_a_damaged_or_foreign_model_is_refused(trained, tmp_path, damage, message):
    trained.save(tmp_path / "m")
    damage(tmp_path / "m")
    with pytest.raises((ValueError, TypeError), match=message):
        cf.PETRI.load(tmp_path / "m")


def test_a_save_without_its_weights_is_named(trained, tmp_path):
    trained.save(tmp_path / "m")
    (tmp_path / "m" / "weights.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="weights.safetensors"):
        cf.PETRI.load(tmp_path / "m")


def test_a_model_is_replaced_only_when_asked(trained, tmp_path):
    trained.save(tmp_path / "m")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        trained.save(tmp_path / "m")
    trained.save(tmp_path / "m", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_foreign_folder_or_file_is_never_overwritten(trained, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("data", "file"):
        with pytest.raises(FileExistsError, match="is no saved model; it is not overwritten"):
            trained.save(tmp_path / name, overwrite=True)
    assert (tmp_path / "data" / "precious.txt").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "mine"


def test_a_saved_folder_that_holds_other_files_too_is_not_overwritten(trained, tmp_path):
    trained.save(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        trained.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_interrupted_save_leaves_the_model_that_was_there(
    trained, screen, tmp_path, monkeypatch, error, short
):
    trained.save(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    trained.train(1, **short)

    def fail(*_: object) -> None:
        raise error("no space left")

    monkeypatch.setattr("cellfuse.model.base.storage.save_file", fail)
    with pytest.raises(error):
        trained.save(tmp_path / "m", overwrite=True)
    with pytest.raises(error):
        trained.save(tmp_path / "new")
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    cf.PETRI.load(tmp_path / "m")


def test_a_model_that_cannot_be_put_in_place_leaves_the_old_one(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    rename = Path.rename

    def fail_on_the_new_one(self: Path, target: Path) -> Path:
        if Path(target) == tmp_path / "m" and not self.name.endswith("-old"):
            raise OSError("no permission")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new_one)
    with pytest.raises(OSError, match="no permission"):
        trained.save(tmp_path / "m", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_save_into_the_folder_of_the_process_works(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained.save("m")
    assert cf.PETRI.load("m").is_trained_
