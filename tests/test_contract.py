"""What every model keeps to, whatever its method. A new model joins with a line of `MODELS`."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from inspect import signature
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from screens import any_model_screen

import cellfuse as cf

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
ENCODER = {"width": 16, "n_heads": 2, "n_latents": 2, "image_depth": 1, "n_cross": 1, "n_self": 1}
DECODER = {"image_decoder_width": 8, "image_decoder_depth": 1, "image_decoder_heads": 2}
VIT = {"width": 12, "depth": 1, "n_heads": 2}
DENOISER = {"width": 16, "n_heads": 2, "depth": 1, "encoder_heads": 2, "time_width": 8}
HEADS = {"hidden": 16, "codebook_hidden": 16, "codebook_width": 8}
FLAT = {"context_keys": "guide", "image_rep": "flat", "rna_rep": "flat"}
IMAGES = {"image_rep": "crops"}
PIXELS = {"context_keys": "guide", "image_rep": "crops"}
CONTROLS = {"batch_key": "plate", "control_key": "compound", "control": "DMSO"}


@dataclass(frozen=True)
class Case:
    """How a model is set up, built and trained for a second, and what it embeds."""

    setup: dict[str, Any]
    init: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    roles: tuple[str, ...] = ("image", "rna")
    resumes: bool = True
    #: No gradient is descended: epochs, learning rates and checkpoints mean nothing.
    closed_form: bool = False


FEW = {"documents_per_context": 2, "batch_size": 8}
MODELS: dict[str, Case] = {
    "PETRI": Case(PIXELS, {"set_size": 3, **ENCODER, **DECODER}, FEW),
    "CLIP": Case(PIXELS, {"set_size": 3, **ENCODER}, FEW),
    "CrossModalAE": Case(PIXELS, {"n_latent": 4, **ENCODER, **DECODER}, FEW, resumes=False),
    "SemiClipped": Case(
        {**FLAT, **CONTROLS}, {"hidden": (8,), "begin": "random"}, {"batch_size": 8}
    ),
    "PhenoSeq": Case(FLAT, {"set_size": 3, **DENOISER}, FEW, roles=("image",)),
    "TIDE": Case(
        {"context_keys": ["compound", "cell_line"]},
        {"ssl": "mae", **VIT, **HEADS},
        {"batch_size": 8, "response_epochs": 1, "validation_images": 0},
        roles=("image",),
    ),
    "DINO": Case(
        {"image_rep": "crops"}, {"n_prototypes": 16, **VIT}, {"batch_size": 16}, ("image",)
    ),
    "MAE": Case(IMAGES, VIT, {"batch_size": 16}, roles=("image",)),
    "ImageRegressor": Case({**PIXELS, "rna_rep": "flat"}, VIT, FEW, roles=("image",)),
    "Concepts": Case({"use_rep": "flat"}, {"n_concepts": 32, "k": 4}, {"batch_size": 16}),
    "GROOVE": Case(FLAT, {"n_latent": 4, "hidden": (8,)}, FEW),
    "SharedAxes": Case(PIXELS, {"n_comps": 4, "n_draws": 5}, closed_form=True),
}
DESCENDING = [name for name, case in MODELS.items() if not case.closed_form]
each_model = pytest.mark.parametrize("name", MODELS)
each_descending_model = pytest.mark.parametrize("name", DESCENDING)
#: Named by Lightning where a resumed run writes its checkpoints elsewhere.
elsewhere = pytest.mark.filterwarnings("ignore:The dirpath has changed:UserWarning")


def built(name: str, mdata: Any = None, **changes: Any) -> Any:
    mdata = any_model_screen() if mdata is None else mdata
    getattr(cf, name).setup_mudata(mdata, **MODELS[name].setup)
    return getattr(cf, name)(mdata, **{"seed": 3, **MODELS[name].init, **changes})


def train(model: Any, max_epochs: int = 2, **changes: Any) -> Any:
    case = MODELS[type(model).__name__]
    if case.closed_form:
        model.train(**changes)
    else:
        model.train(max_epochs, **{**case.train, **QUIET, **changes})
    return model


@cache
def trained(name: str) -> Any:
    """A model trained for two epochs, which a test must leave as it is."""
    return train(built(name))


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def assert_equal(one: Any, other: Any) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        torch.testing.assert_close(value, b[name], rtol=0, atol=0, equal_nan=True, msg=name)


def assert_same_history(one: Any, other: Any) -> None:
    assert one.history.keys() == other.history.keys()
    for name, frame in one.history.items():
        pd.testing.assert_frame_equal(frame, other.history[name])


def embeddings(model: Any, data: Any = None) -> dict[str, np.ndarray]:
    out = {}
    for role in MODELS[type(model).__name__].roles:
        z = model.get_latent_representation(data, modality=role)
        out[role] = z.toarray() if hasattr(z, "toarray") else z
    return out


def test_every_model_of_the_library_is_held_to_it():
    models = {name for name in dir(cf) if hasattr(getattr(cf, name), "setup_mudata")}
    assert models == set(MODELS)


@pytest.mark.parametrize("given", [["image"], "image", {"image"}])
@each_model
def test_modalities_that_are_no_names_of_roles_are_refused(name, given):
    set_up = getattr(cf, name).setup_mudata
    if "modalities" not in signature(set_up).parameters:
        pytest.skip("its roles are fixed")
    with pytest.raises(TypeError, match="`modalities` names the modality of each role"):
        set_up(any_model_screen(), **MODELS[name].setup, modalities=given)


# -- saved and loaded -----------------------------------------------------------------------------


@each_model
def test_a_saved_model_is_the_same_and_nothing_is_unpickled(name, tmp_path, monkeypatch):
    model = trained(name)
    model.save(tmp_path / "saved")
    assert {p.suffix for p in (tmp_path / "saved").iterdir()} == {".json", ".safetensors"}

    def refuse(*args, **kwargs):
        raise AssertionError("a save was unpickled")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    loaded = getattr(cf, name).load(tmp_path / "saved")
    assert_equal(model, loaded)
    assert_same_history(model, loaded)
    assert loaded.init_arguments_.keys() == model.init_arguments_.keys()
    assert (loaded.seed, loaded.n_epochs_) == (3, model.n_epochs_)
    found = embeddings(loaded, any_model_screen())
    for role, z in embeddings(model).items():
        np.testing.assert_array_equal(found[role], z)


@each_model
def test_a_model_saved_before_there_was_one_base_loads(name, tmp_path):
    model, folder = trained(name), tmp_path / "saved"
    model.save(folder)
    stored = json.loads((folder / "cellfuse.json").read_text())
    del stored["epochs"]
    (folder / "cellfuse.json").write_text(json.dumps(stored))
    loaded = getattr(cf, name).load(folder, any_model_screen())
    assert loaded.n_epochs_ == model.n_epochs_
    assert_equal(model, loaded)
    if MODELS[name].closed_form:
        return
    train(loaded, 1)
    assert len(loaded.history["train_loss_epoch"]) == len(model.history["train_loss_epoch"]) + (
        2 if name == "CrossModalAE" else 1
    )


# -- trained on, resumed, repeated ----------------------------------------------------------------


@each_descending_model
@elsewhere
def test_a_training_resumed_in_an_epoch_ends_as_the_unbroken_one_history_and_all(name, tmp_path):
    if not MODELS[name].resumes:
        with pytest.raises(TypeError, match="no argument 'ckpt_path'"):
            train(built(name), ckpt_path="any.ckpt")
        return
    keep = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = train(built(name), callbacks=[keep])
    steps = sorted(int(path.stem.split("=")[1]) for path in tmp_path.glob("step=*.ckpt"))
    middle = steps[len(steps) // 2 - 2]  # in the first of two epochs, not at its end
    assert 0 < middle < len(steps) / 2
    keep = ModelCheckpoint(tmp_path / "more", every_n_train_steps=1)  # Lightning wants it again
    resumed = train(built(name), callbacks=[keep], ckpt_path=str(tmp_path / f"step={middle}.ckpt"))
    assert_equal(whole, resumed)
    joint = {n: f for n, f in whole.history.items() if not n.startswith("response_")}
    assert joint.keys() <= resumed.history.keys() | set()
    for number, frame in joint.items():
        pd.testing.assert_frame_equal(resumed.history[number], frame)


def keys_of(batch: Any) -> set[int]:
    first = next(iter(batch.values())) if isinstance(batch, Mapping) else batch
    return set(first.key.tolist())


@each_descending_model
def test_a_second_training_goes_on_with_new_documents_and_appends_to_the_history(name):
    model, seen = built(name), []
    losses = model._losses

    def noted(batch, augment):
        seen[-1] |= keys_of(batch) if augment else set()  # validation is the same every time
        return losses(batch, augment)

    model._losses = noted
    for epochs in (1, 2):
        seen.append(set())
        train(model, epochs)
    assert seen[0] and seen[1] and not seen[0] & seen[1]
    stages = model.n_stages
    assert model.history["train_loss_epoch"].index.tolist() == list(range(3 * stages))
    assert model.history["train_loss_epoch"].notna().all(axis=None)
    assert model.n_epochs_ == 3 * stages


@each_model
def test_the_same_seed_gives_the_same_model_to_the_bit_and_another_another(name):
    torch.rand(1)  # the caller's random state has no say
    again, other = train(built(name)), built(name, seed=4)
    assert_equal(trained(name), again)
    assert_same_history(trained(name), again)
    one, two = weights(built(name)), weights(other)
    assert any(not torch.equal(one[k], two[k]) for k in one)


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        (name, begin)
        for name in DESCENDING
        for begin in (None, "linear", "random")
        if begin is None or "begin" in signature(getattr(cf, name)).parameters
    ],
)
@pytest.mark.filterwarnings("ignore:the adapted embedding has collapsed")
def test_it_trains_in_the_mixed_precision_that_a_gpu_has_by_default(name, begin):
    changes = {} if begin is None else {"begin": begin}
    whole = train(built(name, **changes), 1)
    mixed = train(built(name, **changes), 1, precision="bf16-mixed")
    assert weights(mixed).keys() == weights(whole).keys()
    assert all(value.dtype == weights(whole)[key].dtype for key, value in weights(mixed).items())
    # bf16 has three digits.
    losses = [float(model.history["train_loss_epoch"].iloc[0, 0]) for model in (whole, mixed)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    for z in embeddings(mixed).values():
        assert z.dtype == np.float32 and np.isfinite(z).all()


# -- the user's data ------------------------------------------------------------------------------


def contents(mdata: Any) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, adata in mdata.mod.items():
        out[f"{name} obs"], out[f"{name} var"] = adata.obs.copy(), adata.var.copy()
        out[f"{name} uns"] = sorted(k for k in adata.uns if not k.startswith("_scvi"))
        out[f"{name} X"] = None if adata.X is None else np.array(adata.X.toarray())
        out |= {f"{name} {key}": np.array(value) for key, value in adata.obsm.items()}
    return out


@each_model
def test_the_data_are_left_as_they_were(name):
    mdata = any_model_screen()
    before = contents(mdata)
    model = train(built(name, mdata), 1)
    embeddings(model)
    after = contents(mdata)
    assert before.keys() == after.keys()
    for key, value in before.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, after[key])
        else:
            np.testing.assert_array_equal(value, after[key], err_msg=key)
    assert {key for key in mdata.uns if not key.startswith("_scvi")} == {"cellfuse"}


def test_setups_of_several_models_stand_side_by_side_on_one_object():
    mdata = any_model_screen()
    for name, case in MODELS.items():
        getattr(cf, name).setup_mudata(mdata, **case.setup)
    for name, case in MODELS.items():
        assert getattr(cf, name)(mdata, **case.init).inputs


def test_setups_of_several_image_models_stand_side_by_side_on_one_anndata():
    images = any_model_screen()["image"]
    for name in ("MAE", "DINO"):
        getattr(cf, name).setup_anndata(images, image_rep="crops")
    for name in ("MAE", "DINO"):
        assert getattr(cf, name)(images, **MODELS[name].init).inputs


# -- bad input ------------------------------------------------------------------------------------


@each_model
def test_arguments_that_nobody_has_are_refused_by_name(name):
    model = built(name)
    with pytest.raises(TypeError, match=rf"{name}\.train\(\).*argument 'lrr'"):
        train(model, lrr=1e-3)
    with pytest.raises(TypeError, match="sede"):
        built(name, sede=1)
    with pytest.raises(TypeError, match="context_key"):
        getattr(cf, name).setup_mudata(any_model_screen(), **MODELS[name].setup, context_keyss="x")


@each_descending_model
@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"lr": 0}, ValueError, "lr must be positive, found 0"),
        ({"lr": float("nan")}, ValueError, "lr must be positive"),
        ({"lr": "fast"}, TypeError, "lr must be a number, found 'fast'"),
        ({"warmup": 7}, ValueError, "warmup must be at least 0 and at most 1, found 7"),
        ({"weight_decay": -1}, (ValueError, TypeError), "weight_decay"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, found 2.5"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, found 0"),
        ({"max_epochs": 1.5}, TypeError, "max_epochs must be a whole number, found 1.5"),
        ({"max_epochs": 0}, ValueError, "max_epochs must be at least 1, found 0"),
    ],
    ids=str,
)
def test_a_training_that_means_nothing_is_refused_before_any_work(name, given, error, text):
    model = untrained(name)
    before = weights(model)
    with pytest.raises(error, match=text):
        train(model, **{"max_epochs": 1, **given})
    assert not model.is_trained_ and model.history == {}
    for key, value in weights(model).items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0, equal_nan=True)


@cache
def untrained(name: str) -> Any:
    """A model that nobody trains."""
    return built(name)


@each_model
@pytest.mark.parametrize(
    ("seed", "error"), [(1.5, TypeError), ("0", TypeError), (-1, ValueError), (2**31, ValueError)]
)
def test_a_seed_is_a_whole_number_from_0(name, seed, error):
    with pytest.raises(error, match=r"seed must be (a whole number|from 0)"):
        getattr(cf, name)(untrained(name).adata, **MODELS[name].init, seed=seed)


@each_model
def test_a_misspelt_modality_is_named_with_the_likely_one(name):
    wrong = {"image": "imag", "rna": "rn"}[MODELS[name].roles[-1]]
    with pytest.raises(KeyError, match=f"'{wrong}' is not in .*Did you mean"):
        trained(name).get_latent_representation(modality=wrong)


@each_model
@pytest.mark.parametrize(("size", "error"), [(2.5, TypeError), (0, ValueError)])
def test_cells_are_embedded_a_whole_number_at_a_time(name, size, error):
    role = MODELS[name].roles[-1]
    with pytest.raises(error, match="batch_size must be"):
        trained(name).get_latent_representation(modality=role, batch_size=size)


@each_model
def test_a_likelihood_is_refused_where_a_model_has_none(name):
    setup = getattr(cf, name).setup_mudata
    text = "rna_likelihood"
    if text in signature(setup).parameters:
        with pytest.raises(ValueError, match="rna_likelihood='zinb': expected one of 'nb', 'mse'"):
            setup(any_model_screen(), **MODELS[name].setup, rna_likelihood="zinb")
    else:
        with pytest.raises(TypeError, match=f"{text}"):
            setup(any_model_screen(), **MODELS[name].setup, rna_likelihood="nb")


@each_model
def test_an_untrained_model_and_one_without_data_say_so(name, tmp_path):
    model = untrained(name)
    with pytest.raises(RuntimeError, match=f"this {name} is not trained"):
        embeddings(model)
    model.save(tmp_path / "saved")
    with pytest.raises(ValueError, match="was loaded without data"):
        train(getattr(cf, name).load(tmp_path / "saved"))


# -- what a user reads ----------------------------------------------------------------------------


@each_model
@pytest.mark.parametrize("method", ["__init__", "setup_mudata", "train"])
def test_every_argument_is_shown_and_explained(name, method):
    model = getattr(cf, name)
    shown = getattr(model, method)
    text = model.__doc__ if method == "__init__" else shown.__doc__
    entries = {entry.strip().lstrip("*") for line in text.split("\n") for entry in line.split(",")}
    for parameter in signature(shown).parameters:
        assert parameter in entries | {"self"}, f"{parameter} of {name}.{method}"


@each_model
def test_a_model_tells_what_it_is(name, capsys):
    repr(trained(name))  # scvi-tools prints it
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"{name}: image") and "Trained" in shown


def test_weights_of_a_save_are_plain_tensors(tmp_path):
    trained("MAE").save(tmp_path / "saved")
    assert (
        load_file(tmp_path / "saved" / "weights.safetensors").keys()
        == weights(trained("MAE")).keys()
    )
