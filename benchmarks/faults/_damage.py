"""Files that were cut short, lost, changed, or of another version: named, never read as cells."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import test_contract
import zarr
from _disk import weights_of
from _table import contents, fault, said
from screens import make_screen

import cellfuse as cf

#: What every error on a chunk holds: which rows are concerned.
ROWS = "rows "
SHORT = {"documents_per_context": 1, "batch_size": 4, "accelerator": "cpu"}
QUIET = {**SHORT, "enable_progress_bar": False}
TINY = test_contract.MODELS["PETRI"].init


@cache
def _screen() -> Any:
    return make_screen(n_cells=96, side=32)


def _train(mdata: Any) -> Any:
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, begin="random", **TINY)
    model.train(2, **QUIET)
    return model


def _files_of(array: Path) -> list[Path]:
    return sorted(
        p for p in array.rglob("*") if p.is_file() and "json" not in p.name and "." != p.name[0]
    )


def _plain(folder: Path, **more: Any) -> tuple[Any, Path]:
    """A screen whose crops are a plain zarr array, as anybody writes one."""
    mdata, path = _screen().copy(), folder / "crops.zarr"
    crops = mdata["image"].obsm["crops"]
    stored = zarr.create_array(
        path, shape=crops.shape, chunks=(16, *crops.shape[1:]), dtype=crops.dtype, **more
    )
    stored[:] = crops
    mdata["image"].obsm["crops"] = zarr.open(path, mode="r")
    return mdata, path


def _stored(folder: Path) -> tuple[Any, Path]:
    """A screen in a store of `write_store`."""
    path = folder / "screen.zarr"
    return cf.io.write_store(_screen(), path, context_keys="guide", chunk_cells=8), path


def lose(file: Path) -> None:
    """Take a file away."""
    file.unlink()


def cut(file: Path) -> None:
    """Keep the first half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path) -> None:
    """Change one bit, a third into the file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(bytes(data))


def empty(file: Path) -> None:
    """Leave the name, and nothing in it."""
    file.write_bytes(b"")


def chunk(harm: Callable[[Path], None], kind: str, folder: Path) -> str:
    """A chunk of the crops is harmed; a training on them says which, and of which rows."""
    mdata, path = _plain(folder) if kind == "array" else _stored(folder)
    part = path if kind == "array" else path / "mod" / "image" / "obsm" / "crops"
    harm(_files_of(part)[0])
    return said(lambda: _train(mdata), path.name, ROWS)


for _harm, _how in ((lose, "missing"), (cut, "cut short"), (empty, "empty")):
    for _kind in ("array", "store"):
        fault(f"a chunk is {_how}: {_kind}", quick=_kind == "store" and _harm is lose)(
            partial(chunk, _harm, _kind)
        )
fault("a bit of a chunk is flipped: store")(partial(chunk, flip, "store"))


@fault("a chunk of an array with several chunks on other axes is missing")
def _missing_of_many(folder: Path) -> str:
    mdata = _screen().copy()
    crops, path = mdata["image"].obsm["crops"], folder / "crops.zarr"
    array = zarr.create_array(path, shape=crops.shape, chunks=(16, 1, 16, 16), dtype="u1")
    array[:] = crops
    _files_of(path)[3].unlink()
    mdata["image"].obsm["crops"] = zarr.open(path, mode="r")
    return said(lambda: _train(mdata), path.name, ROWS)


@fault("a chunk of the crops is missing where they come through dask")
def _missing_through_dask(folder: Path) -> str:
    import dask.array as da

    mdata, path = _plain(folder)
    _files_of(path)[1].unlink()
    mdata["image"].obsm["crops"] = da.from_zarr(str(path))
    return said(lambda: _train(mdata), path.name)


@fault("a chunk of a matrix is missing where its profiles are made")
def _missing_profile(folder: Path) -> str:
    mdata, path = _screen().copy(), folder / "flat.zarr"
    flat = mdata["image"].obsm["flat"]
    array = zarr.create_array(path, shape=flat.shape, chunks=(16, flat.shape[1]), dtype="f4")
    array[:] = flat
    _files_of(path)[2].unlink()
    mdata["image"].obsm["flat"] = zarr.open(path, mode="r")
    aggregate = partial(cf.tl.aggregate, mdata["image"], by="guide", use_rep="flat")
    return said(aggregate, path.name, ROWS)


@fault("a chunk of the counts is missing in a store")
def _missing_counts(folder: Path) -> str:
    mdata, path = _stored(folder)
    _files_of(path / "mod" / "rna" / "X" / "data")[0].unlink()
    return said(lambda: _train(mdata), path.name)


@fault("a chunk of the crops is missing, and they are written into a store")
def _missing_source(folder: Path) -> str:
    mdata, path = _plain(folder)
    _files_of(path)[1].unlink()
    write = partial(cf.io.write_store, mdata, folder / "s.zarr", context_keys="guide")
    message = said(write, path.name, ROWS)
    assert not (folder / "s.zarr").exists()
    return message


@fault("a finished batch of an embedding is missing")
def _missing_batch(folder: Path) -> str:
    path, model = folder / "z.zarr", test_contract.trained("PETRI")
    call = partial(model.get_latent_representation, modality="image", batch_size=4, out=path)
    whole = call()[:]
    _files_of(path / "embedding")[1].unlink()
    try:
        found = call()[:]
    except OSError as error:
        assert path.name in str(error) and ROWS in str(error), error
        return str(error)
    assert np.array_equal(found, whole), "rows of zeros stand for cells"
    return "made again"


# -- whole files ----------------------------------------------------------------------------------


def _file(folder: Path, suffix: str) -> Path:
    path = folder / f"screen{suffix}"
    mdata = _screen()
    (mdata.write if suffix == ".h5mu" else mdata["image"].write_h5ad)(path)
    return path


def cut_file(suffix: str, folder: Path) -> str:
    """A file was cut short in a copy; nothing is written in its place."""
    path = _file(folder, suffix)
    cut(path)
    before = contents(folder)
    write = partial(cf.io.write_store, path, folder / "s.zarr", context_keys="guide")
    message = said(write, path.name)
    assert contents(folder) == before
    return message


for _suffix in (".h5ad", ".h5mu"):
    fault(f"an {_suffix} is cut short: write_store")(partial(cut_file, _suffix))


@fault("an .h5ad is cut short: read_crops", quick=True)
def _cut_crops(folder: Path) -> str:
    path = _file(folder, ".h5ad")
    cut(path)
    return said(lambda: cf.io.read_crops(path), path.name)


def command(harm: Callable[[Path], None], folder: Path) -> str:
    """`cellfuse train` on a harmed file: one line, and no traceback."""
    import contextlib
    import io

    from cellfuse.cli import main

    path = _file(folder, ".h5mu")
    harm(path)
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(out):
        code = main(["train", str(path), "--context", "guide", "--out", str(folder / "m")])
    text = (out.getvalue() + error.getvalue()).strip()
    assert code and path.name in text and "Traceback" not in text, text
    assert not (folder / "m").exists()
    return text


fault("an .h5mu is cut short: cellfuse train")(partial(command, cut))
fault("an .h5mu is empty: cellfuse train")(partial(command, empty))


def checkpoint(harm: Callable[[Path], None], folder: Path) -> str:
    """A checkpoint is harmed; it stays as it is and is named."""
    kept = folder / "kept"
    test_contract.train(test_contract.built("PETRI"), checkpoint=kept)
    (file,) = kept.iterdir()
    harm(file)
    before = contents(folder)
    again = test_contract.built("PETRI")
    message = said(lambda: test_contract.train(again, checkpoint=kept), file)
    assert contents(folder) == before
    return message


fault("a checkpoint is cut short", quick=True)(partial(checkpoint, cut))
fault("a checkpoint is empty")(partial(checkpoint, empty))


@fault("a checkpoint is cut short: ckpt_path")
def _cut_ckpt_path(folder: Path) -> str:
    test_contract.train(test_contract.built("PETRI"), checkpoint=folder)
    (file,) = folder.iterdir()
    cut(file)
    again = test_contract.built("PETRI")
    return said(lambda: test_contract.train(again, ckpt_path=str(file)), file)


@fault("a checkpoint of another training")
def _other_checkpoint(folder: Path) -> str:
    test_contract.train(test_contract.built("PETRI"), checkpoint=folder)
    before = contents(folder)
    other = test_contract.built("PETRI", seed=4)
    message = said(lambda: test_contract.train(other, checkpoint=folder), "another training")
    assert contents(folder) == before
    return message


def saved(name: str, harm: Callable[[Path], None], folder: Path) -> str:
    """A file of a saved model is harmed."""
    test_contract.trained("PETRI").save(folder / "model")
    harm(folder / "model" / name)
    return said(lambda: cf.PETRI.load(folder / "model"), name)


for _name in ("weights.safetensors", "cellfuse.json"):
    for _how, _does in (("missing", lose), ("cut short", cut), ("empty", empty)):
        fault(f"{_name} of a saved model is {_how}")(partial(saved, _name, _does))


@fault("the weights of a saved model are those of another")
def _other_weights(folder: Path) -> str:
    for number, width in enumerate((16, 32)):
        model = test_contract.built("PETRI", width=width)
        model.is_trained_ = True
        model.save(folder / str(number))
    (folder / "0" / "weights.safetensors").replace(folder / "1" / "weights.safetensors")
    return said(lambda: cf.PETRI.load(folder / "1"), folder / "1")


# -- stores ---------------------------------------------------------------------------------------


@fault("a store is half written")
def _half(folder: Path) -> str:
    from unittest.mock import patch

    path = folder / "s.zarr"
    write = partial(cf.io.write_store, _screen(), path, context_keys="guide")
    with patch("cellfuse.io._store_writing.write_csr", side_effect=KeyboardInterrupt):
        said(write, kinds=KeyboardInterrupt)
    message = said(lambda: cf.io.open_store(path), path.name, "interrupted", "goes on")
    found = write()["image"].obsm["crops"][:]
    assert np.array_equal(found, _screen()["image"].obsm["crops"])
    return message


def _mark(path: Path, **changes: Any) -> None:
    file = path / "zarr.json"
    content = json.loads(file.read_text())
    content["attributes"]["cellfuse-store"].update(changes)
    file.write_text(json.dumps(content))


@fault("a store of another version", quick=True)
def _other_version(folder: Path) -> str:
    _, path = _stored(folder)
    _mark(path, format=99)
    return said(lambda: cf.io.open_store(path), path.name, "99", "write_store")


@fault("the description of a store is cut short")
def _cut_description(folder: Path) -> str:
    _, path = _stored(folder)
    cut(path / "zarr.json")
    return said(lambda: cf.io.open_store(path), path.name)


def lost_part(part: str, folder: Path) -> str:
    """A folder of the store was not copied."""
    import shutil

    _, path = _stored(folder)
    shutil.rmtree(path / "mod" / part)
    return said(lambda: cf.io.open_store(path), path.name, part.split("/")[-1])


for _part in ("rna", "image/obs", "image/obsm", "image/uns/cellfuse_store"):
    fault(f"{_part} of a store is missing")(partial(lost_part, _part))


@fault("the index of a store is that of fewer cells")
def _short_index(folder: Path) -> str:
    _, path = _stored(folder)
    group = zarr.open_group(path / "mod" / "image" / "uns", mode="r+")
    place = group["cellfuse_store"][:]
    place[3] = place[4]
    group["cellfuse_store"][:] = place
    return said(lambda: cf.io.open_store(path), path.name)


@fault("contexts that are not in the index: a column that the store lacks")
def _no_such_column(folder: Path) -> str:
    mdata, _ = _stored(folder)
    setup = partial(cf.PETRI.setup_mudata, mdata, context_keys="guides", image_rep="crops")
    return said(setup, "guides", "guide", kinds=(KeyError, ValueError))


@fault("contexts that are not in the index: modalities that share none")
def _no_shared(folder: Path) -> str:
    mdata = _screen().copy()
    mdata["rna"].obs["guide"] = [f"other-{g}" for g in mdata["rna"].obs["guide"]]
    path = folder / "s.zarr"
    write = partial(cf.io.write_store, mdata, path, context_keys="guide")
    message = said(write, "guide", "share")
    assert not path.exists()
    return message


@fault("an interrupted write_store leaves the store that was there")
def _replaced(folder: Path) -> str:
    from unittest.mock import patch

    _, path = _stored(folder)
    before = contents(path)
    other = make_screen(n_cells=48, side=32, seed=1)
    write = partial(cf.io.write_store, other, path, context_keys="guide", overwrite=True)
    with patch("cellfuse.io._store_writing.write_csr", side_effect=KeyboardInterrupt):
        said(write, kinds=KeyboardInterrupt)
    assert contents(path) == before
    assert np.array_equal(write()["image"].obsm["crops"][:], other["image"].obsm["crops"])
    return "intact"


@fault("an overwriting save that fails leaves the model that was there")
def _failing_save(folder: Path) -> str:
    from unittest.mock import patch

    path, model = folder / "model", test_contract.trained("PETRI")
    model.save(path)
    before = contents(folder)
    with patch("cellfuse._files.Path.rename", side_effect=OSError(5, "Input/output error")):
        message = said(lambda: model.save(path, overwrite=True), path.name)
    assert contents(folder) == before
    assert weights_of(cf.PETRI.load(path)) == weights_of(model)
    return message
