"""Image embeddings: what the backbone is shown, and a store that a killed run goes on with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import huggingface_hub
import mudata as md
import numpy as np
import pandas as pd
import pytest
import timm
import torch
import zarr
from safetensors.torch import save_file

from cellfuse._provenance import recorded
from cellfuse.nn.microscopy import MICROSCOPY
from cellfuse.pp import images as verb
from cellfuse.pp.images import embed_images

#: A backbone of 0.4 million weights, input 160 x 160, 64 features.
TINY = {"backbone": "test_vit", "weights": "random", "progress": False, "device": "cpu"}
WIDTH = 64
N, CHANNELS, SIDE = 7, 2, 20


def pixels(dtype: str = "uint8", *, channels: int = CHANNELS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.random((N, channels, SIDE, SIDE)).astype(dtype)
    top = np.iinfo(dtype).max
    return rng.integers(0, top, (N, channels, SIDE, SIDE), dtype=dtype, endpoint=True)


def cells(array: object = None) -> ad.AnnData:
    data = ad.AnnData(obs=pd.DataFrame(index=[f"cell{i}" for i in range(N)]))
    data.obsm["crops"] = pixels() if array is None else array
    return data


def embedding(array: object = None, **arguments: object) -> np.ndarray:
    data = cells(array)
    embed_images(data, **{**TINY, **arguments})
    return data.obsm["X_vit"]


def network(seed: int = 0, in_chans: int = 3) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return timm.create_model("test_vit", num_classes=0, in_chans=in_chans).eval()


def shown(unit: np.ndarray) -> torch.Tensor:
    """What the backbone must be shown of images in [0, 1]: resized, centred at .5, sd .5."""
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(unit.astype("f4")), size=(160, 160), mode="bicubic", antialias=True
    )
    return (resized.clamp(0, 1) - 0.5) / 0.5


# -- what the backbone is shown -------------------------------------------------------------------


@torch.inference_mode()
def test_each_channel_is_shown_as_a_grey_picture():
    found = embedding()
    assert found.shape == (N, CHANNELS * WIDTH)
    assert found.dtype == np.float32
    net, unit = network(), pixels() / 255
    for c in range(CHANNELS):
        grey = shown(unit[:, [c]]).expand(-1, 3, -1, -1)
        expected = net(grey).numpy()
        np.testing.assert_allclose(found[:, c * WIDTH : (c + 1) * WIDTH], expected, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("channels", [2, 3, 5])
def test_all_channels_at_once(channels):
    array = pixels(channels=channels)
    found = embedding(array, per_channel=False)
    expected = network(in_chans=channels)(shown(array / 255)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_colours_that_are_normalised_apart_are_grey_all_the_same(monkeypatch):
    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.mean(dim=(1, 2, 3))[:, None]

    config = {
        "input_size": (3, SIDE, SIDE),
        "interpolation": "bilinear",
        "mean": (0.1, 0.2, 0.6),
        "std": (1.0, 2.0, 4.0),
    }
    for per_channel in (True, False):
        model = verb._Embedder(
            Recorder(), config, per_channel, np.zeros(2), np.full(2, 255.0), torch.device("cpu")
        )
        model(pixels()[:1])
    unit = torch.from_numpy(pixels()[:1].astype("f4") / 255)
    for c in range(2):
        for colour, (mean, sd) in enumerate([(0.1, 1.0), (0.2, 2.0), (0.6, 4.0)]):
            torch.testing.assert_close(seen[c][:, colour], (unit[:, c] - mean) / sd)
    # Two channels are no three colours: one mean and one sd for both, the averages.
    torch.testing.assert_close(seen[2], (unit - 0.3) / (7 / 3))


@pytest.mark.parametrize(
    ("array", "scale", "same_as"),
    [
        (pixels("uint16"), "dtype", pixels("uint16") / 65535),
        (pixels("float32"), "dtype", pixels("float32")),
        (pixels("uint16") // 16, (0, 4095), (pixels("uint16") // 16) / 4095),
        (pixels("int32", seed=1) % 100, (20, 70), ((pixels("int32", seed=1) % 100) - 20) / 50),
        (pixels(), [(0, 255), (50, 150)], None),
    ],
    ids=["uint16", "float", "12 bits", "int32, clipped", "per channel"],
)
def test_the_scale_is_what_is_asked_for(array, scale, same_as):
    if same_as is None:
        same_as = np.stack([array[:, 0] / 255, (array[:, 1] - 50.0) / 100], axis=1)
    unit = np.clip(same_as, 0, 1).astype("f4")
    np.testing.assert_allclose(embedding(array, scale=scale), embedding(unit), atol=2e-4)


def test_images_that_use_little_of_16_bits_are_a_warning():
    dark = (pixels("uint16") // 17).astype("uint16")
    with pytest.warns(UserWarning, match=r"brightest pixel of 7 cells .* of 65535.*\(0, 4095\)"):
        embedding(dark)
    embedding(dark, scale=(0, 4095))


@pytest.mark.parametrize("kind", ["memmap", "h5py", "zarr"])
def test_images_are_read_wherever_they_lie(tmp_path, kind):
    array = pixels()
    if kind == "memmap":
        np.save(tmp_path / "a.npy", array)
        stored = np.load(tmp_path / "a.npy", mmap_mode="r")
    elif kind == "h5py":
        stored = h5py.File(tmp_path / "a.h5", "w").create_dataset("a", data=array)
    else:
        stored = zarr.create_array(
            tmp_path / "a.zarr", shape=array.shape, chunks=(3, *array.shape[1:]), dtype="uint8"
        )
        stored[:] = array
    np.testing.assert_allclose(embedding(stored, batch_size=2), embedding(), atol=1e-6)


def test_one_batch_is_read_at_a_time(monkeypatch):
    from cellfuse.data import readers

    read = []
    plain = readers.DenseReader.read

    def watched(self, rows):
        read.append(len(rows))
        return plain(self, rows)

    monkeypatch.setattr(readers.DenseReader, "read", watched)
    embedding(batch_size=3)
    assert read == [3, 3, 1]


# -- weights --------------------------------------------------------------------------------------


def test_random_weights_hang_on_the_seed_alone():
    before = torch.random.get_rng_state()
    first = embedding()
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(embedding(), first)
    assert not np.allclose(embedding(seed=1), first, atol=1e-3)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("head", [True, False], ids=["with classifier", "without"])
def test_weights_come_from_a_file(tmp_path, suffix, head):
    state = network(seed=3).state_dict()
    if head:
        state |= {"head.weight": torch.zeros(1000, WIDTH), "head.bias": torch.zeros(1000)}
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"model": state}, path)
    np.testing.assert_allclose(embedding(weights=path), embedding(seed=3), atol=1e-6)


def test_the_first_layer_of_a_file_is_adapted_to_the_channels(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = network(seed=3).state_dict()
    save_file(state, path)
    # Colours repeated over the channels and scaled to the same sum: red, green, for two channels.
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"][:, :2] * 3 / 2
    net = network(in_chans=2)
    net.load_state_dict(state)
    with torch.inference_mode():
        expected = net(shown(pixels() / 255)).numpy()
    found = embedding(weights=path, per_channel=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_of_another_backbone_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    for change, text in [
        ({"conv.weight": torch.zeros(2, 2)}, "unknown 'conv.weight'"),
        ({"norm.bias": torch.zeros(3)}, "of another shape 'norm.bias'"),
        ({"norm.bias": None}, "missing 'norm.bias'"),
    ]:
        state = {**network().state_dict(), **change}
        save_file({k: v for k, v in state.items() if v is not None}, path)
        with pytest.raises(ValueError, match=f"weights of 'test_vit'.*{text}"):
            embedding(weights=path)
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        embedding(weights=tmp_path / "absent.pt")


def test_pickled_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "executed"), "w")

    torch.save({"state_dict": network().state_dict(), "hook": Harm()}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="pickled code"):
        embedding(weights=tmp_path / "w.pt")
    assert not (tmp_path / "executed").exists()


def test_a_failed_download_says_what_to_fetch_and_where_to_put_it(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    text = r"no route to host.*huggingface\.co/timm/test_vit\.r160_in1k.*weights='path/to/model"
    with pytest.raises(ConnectionError, match=text):
        embedding(weights="hub")


def test_a_backbone_without_weights_says_so():
    name = next(m for m in timm.list_models() if not timm.is_model_pretrained(m))
    with pytest.raises(ValueError, match="no pretrained weights"):
        embedding(backbone=name, weights="hub")


# -- the store ------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a process that ends."""


def kill_after(monkeypatch, n_batches: int) -> list[int]:
    """Let the backbone run `n_batches` batches, and count them."""
    runs: list[int] = []
    plain = verb._Embedder.__call__

    def watched(self, batch):
        if len(runs) == n_batches:
            raise Killed
        runs.append(len(batch))
        return plain(self, batch)

    monkeypatch.setattr(verb._Embedder, "__call__", watched)
    return runs


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = embedding(batch_size=2)
    store = tmp_path / "store.zarr"
    data = cells()
    with monkeypatch.context() as context:
        runs = kill_after(context, 2)
        with pytest.raises(Killed):
            embed_images(data, store=store, batch_size=2, **TINY)
        assert runs == [2, 2]
    assert "X_vit" not in data.obsm
    with monkeypatch.context() as context:
        runs = kill_after(context, 99)
        embed_images(data, store=store, batch_size=5, **TINY)  # goes on with batches of two
        assert runs == [2, 1]
    np.testing.assert_array_equal(data.obsm["X_vit"], whole)
    with monkeypatch.context() as context:
        assert kill_after(context, 0) == []
        embed_images(data, store=store, overwrite=True, **TINY)
    np.testing.assert_array_equal(data.obsm["X_vit"], whole)


def test_a_batch_that_was_half_written_is_made_again(tmp_path):
    store = tmp_path / "store.zarr"
    whole = embedding(store=store, batch_size=2)
    group = zarr.open_group(store, mode="r+")
    group["embedding"][2:4] = 7.0
    group["done"][1] = 0
    np.testing.assert_array_equal(embedding(store=store), whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone": "test_vit2"}, "backbone: 'test_vit' there, 'test_vit2' here"),
        ({"seed": 1}, "parameters"),
        ({"scale": (0, 100)}, "scale"),
        ({"per_channel": False}, "per_channel"),
        ({"array": pixels(seed=5)}, "images"),
        ({"array": pixels("float32")}, "dtype"),
    ],
    ids=["backbone", "weights", "scale", "channels", "images", "dtype"],
)
def test_a_store_of_something_else_is_refused(tmp_path, change, named):
    store = tmp_path / "store.zarr"
    embedding(store=store)
    with pytest.raises(ValueError, match=f"belongs to other.*{named}"):
        embedding(store=store, **change)


def test_a_store_of_other_cells_is_refused(tmp_path):
    embedding(store=tmp_path / "store.zarr")
    data = cells()
    data.obs_names = [f"other{i}" for i in range(N)]
    with pytest.raises(ValueError, match="cells"):
        embed_images(data, store=tmp_path / "store.zarr", **TINY)


def test_a_folder_that_is_no_store_is_not_touched(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no store of embeddings"):
        embedding(store=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


# -- bad input ------------------------------------------------------------------------------------


def spoiled(value: float) -> np.ndarray:
    array = pixels("float32")
    array[5, 0, 3, 3] = value
    return array


@pytest.mark.parametrize(
    ("array", "arguments", "error", "text"),
    [
        (None, {"image_rep": "crop"}, KeyError, r"'crop' is not in obsm.*Did you mean 'crops'"),
        (None, {"backbone": "vit_larg_patch16_224"}, KeyError, "vit_large_patch16_224"),
        (np.zeros((N, 4)), {}, ValueError, r"cells of shape \(4,\); expected images"),
        (spoiled(np.nan), {"batch_size": 2}, ValueError, "NaN or infinite pixels in row 5"),
        (spoiled(3.0), {"batch_size": 2}, ValueError, r"to 3 \(row 5\), expected 0 to 1"),
        (pixels("int32"), {}, ValueError, "dtype int32, which says nothing about black"),
        (None, {"scale": "max"}, ValueError, "'dtype' or a pair"),
        (None, {"scale": (5, 5)}, ValueError, "low < high"),
        (None, {"scale": [(0, 1)] * 3}, ValueError, "each of the 2 channels"),
        (None, {"batch_size": 0}, ValueError, "batch_size >= 1"),
    ],
)
def test_bad_input_is_named(array, arguments, error, text):
    with pytest.raises(error, match=text):
        embedding(array, **arguments)


def test_a_mudata_a_view_and_a_taken_key_are_refused():
    data = cells()
    with pytest.raises(TypeError, match=r"embed_images\(mdata\['image'\]"):
        embed_images(md.MuData({"image": cells()}), **TINY)
    with pytest.raises(ValueError, match="is a view"):
        embed_images(data[:3], **TINY)
    embed_images(data, **TINY)
    note = recorded(data, "X_vit")["embed_images"]
    assert note["backbone"] == "test_vit"
    assert note["scale"] == [[0, 255], [0, 255]]
    with pytest.raises(ValueError, match="exists"):
        embed_images(data, **TINY)


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(
    not (DATA / "periscope_crops.h5ad").exists(), reason="../shared/data/periscope_crops.h5ad"
)
def test_real_crops_are_embedded():
    data = ad.read_h5ad(DATA / "periscope_crops.h5ad")[:16].copy()
    embed_images(data, **TINY)
    assert data.obsm["X_vit"].shape == (16, 5 * WIDTH)
    assert np.isfinite(data.obsm["X_vit"]).all()


# -- backbones trained on microscopy --------------------------------------------------------------

SMALL = {"depth": 4, "embed_dim": 24, "num_heads": 2}


def small(name: str, monkeypatch) -> None:
    known = MICROSCOPY[name]
    make = tuple({**SMALL, **dict(known.make)}.items())
    monkeypatch.setitem(MICROSCOPY, name, replace(known, make=make))


def test_a_microscopy_backbone_sees_each_channel_by_its_own_mean_and_sd(caplog, monkeypatch):
    small("morphem", monkeypatch)
    array = pixels()
    with caplog.at_level("INFO", "cellfuse"):
        found = embedding(array, backbone="morphem")
    assert found.shape == (N, CHANNELS * 24)
    assert "licence MIT" in caplog.text
    # Brighter by the same for all pixels is the same image.
    same = embedding(array, backbone="morphem", scale=(0, 1000))
    np.testing.assert_allclose(found, same, atol=1e-3)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = timm.create_model("vit_small_patch16_224", num_classes=0, in_chans=1, **SMALL).eval()
    x = torch.from_numpy(array[:, :1].astype("f4"))
    x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
    x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        np.testing.assert_allclose(found[:, :24], net(x).numpy(), atol=1e-4)


def test_a_file_of_dinov2_has_its_blocks_in_groups(tmp_path, monkeypatch):
    small("channel-dino", monkeypatch)
    net = timm.create_model(
        "vit_large_patch16_224", num_classes=0, in_chans=1, init_values=1.0, **SMALL
    ).eval()
    state = {
        re.sub(r"^blocks\.(\d+)", lambda m: f"blocks.{int(m[1]) // 2}.{m[1]}", key): value
        for key, value in net.state_dict().items()
    }
    assert "blocks.1.3.ls1.gamma" in state
    path = tmp_path / "channel_dino.pth"
    torch.save({**state, "mask_token": torch.zeros(1, 24)}, path)
    found = embedding(backbone="channel-dino", weights=path)
    assert found.shape == (N, CHANNELS * 24)
    with torch.inference_mode():
        x = torch.from_numpy(pixels()[:, 1:].astype("f4"))
        x = (x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), correction=0, keepdim=True)
        x = torch.nn.functional.interpolate(x, size=(224, 224), mode="bilinear", antialias=True)
        np.testing.assert_allclose(found[:, 24:], net(x).numpy(), atol=1e-4)
    del state["blocks.1.3.ls1.gamma"]
    torch.save(state, path)
    with pytest.raises(ValueError, match="'channel-dino': missing 'blocks.3.ls1.gamma'"):
        embedding(backbone="channel-dino", weights=path)


def test_what_cannot_be_fetched_is_told_with_its_licence(monkeypatch):
    with pytest.raises(FileNotFoundError, match="on request.*FAIR Noncommercial.*weights='path/"):
        embedding(backbone="channel-dino", weights="hub")

    def fail(*args):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(ConnectionError, match="CaicedoLab/MorphEm.*MIT.*weights='path/"):
        embedding(backbone="morphem", weights="hub")
    with pytest.raises(ValueError, match="no network of timm.*Non-Commercial"):
        embedding(backbone="openphenom", weights="hub")
    with pytest.raises(ValueError, match="one channel at a time"):
        embedding(backbone="morphem", per_channel=False)
    with pytest.raises(KeyError, match="Did you mean 'morphem'"):
        embedding(backbone="morfem")
