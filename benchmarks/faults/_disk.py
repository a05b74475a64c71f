"""Disks that are full and disks that are only read: every writer, and what was there is intact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import test_contract
from _table import Disk, contents, fault, read_only, said, small_disk
from kills import digest
from screens import any_model_screen, make_screen
from test_crops import make_field

import cellfuse as cf

FULL, READ_ONLY = "No space left on device", "Read-only file system"
#: Bytes that are free on a full disk: names are still written, and no file as large as what comes.
LEFT = 8 << 10


@dataclass(frozen=True)
class Writer:
    """Something that the library writes.

    Parameters
    ----------
    target
        Name of what is written.
    write
        Writes it at a path.
    read
        Digest of what stands there.
    replaces
        Whether a second call replaces it; else it goes on with what is there.
    """

    target: str
    write: Callable[[Path], Any]
    read: Callable[[Path], str]
    replaces: bool = True


@cache
def _screen() -> Any:
    return make_screen(n_cells=60, side=48)


def _model() -> Any:
    return test_contract.trained("PETRI")


def weights_of(model: Any) -> str:
    """Digest of a model's weights."""
    state = model.module.state_dict()
    return digest(*(np.nan_to_num(state[name].float().numpy()) for name in sorted(state)))


def _trained(path: Path, **given: Any) -> Any:
    return test_contract.train(test_contract.built("PETRI"), checkpoint=path, **given)


def _crop(path: Path) -> None:
    fields = [make_field(f"A{i}", n_cells=40, shape=(200, 300)) for i in range(4)]
    cf.pp.crop_cells(fields, size=48, store=path, overwrite=True)


def _embed_images(path: Path) -> None:
    cf.pp.embed_images(
        _screen()["image"].copy(), store=path, backbone="test_vit", weights="random", progress=False
    )


def _embed(path: Path) -> None:
    _model().get_latent_representation(modality="image", batch_size=4, out=path)


def _command(path: Path) -> None:
    """`cellfuse embed`, as its command calls it."""
    from cellfuse.cli._embed import embed

    data, saved = path.parents[1] / "screen.h5mu", path.parents[1] / "saved"
    if not data.exists():
        any_model_screen().write_h5mu(data)
        _model().save(saved)
    embed(str(data), str(saved), out=str(path), overwrite=True, quiet=True)


@cache
def _simulated() -> Any:
    return cf.datasets.simulated_screen(n_targets=4, cells_per_guide=6, image_size=16, seed=0)


def _benchmark(folder: Path | None = None) -> Any:
    return cf.benchmark(
        _simulated(),
        ["SharedAxes", "PCA"],
        ["alignment"],
        context_keys="guide",
        image_rep="crops",
        control_key="gene",
        control="non-targeting",
        folder=folder,
        progress=False,
    )


@cache
def _result() -> Any:
    return _benchmark()


def _scores_at(path: Path) -> str:
    found = _benchmark(path)
    assert found.failures.empty, found.failures
    return digest(found.scores["value"].to_numpy())


def _crops_at(path: Path) -> str:
    return digest(cf.io.read_crops(path).obsm["crops"][:])


def _embedding_at(path: Path) -> str:
    import zarr

    return digest(zarr.open_group(path, mode="r")["embedding"][:])


def _of_command(path: Path) -> str:
    import mudata

    return digest(mudata.read_h5mu(path)["image"].obsm["X_petri"])


WRITERS = {
    "save": Writer(
        "model",
        lambda path: _model().save(path, overwrite=True),
        lambda path: weights_of(cf.PETRI.load(path)),
    ),
    "write_store": Writer(
        "screen.zarr",
        lambda path: cf.io.write_store(_screen(), path, context_keys="guide", overwrite=True),
        lambda path: digest(cf.io.open_store(path)["image"].obsm["crops"][:]),
    ),
    "crop_cells": Writer("crops.zarr", _crop, _crops_at),
    "embed_images": Writer("images.zarr", _embed_images, _embedding_at, replaces=False),
    "get_latent_representation(out=)": Writer("z.zarr", _embed, _embedding_at, replaces=False),
    "checkpoint": Writer("kept", _trained, lambda path: weights_of(_trained(path)), replaces=False),
    "cellfuse embed (h5mu)": Writer("embedded.h5mu", _command, _of_command),
    "benchmark(folder=)": Writer("out", _benchmark, _scores_at, replaces=False),
    "report": Writer(
        "report.html",
        lambda path: cf.report(_result(), path, figures=[]),
        lambda path: digest(np.frombuffer(path.read_bytes(), "u1")),
    ),
}


def _unbroken(writer: Writer, folder: Path) -> str:
    (folder / "unbroken").mkdir()
    path = folder / "unbroken" / writer.target
    writer.write(path)
    return writer.read(path)


def _refused(writer: Writer, disk: Disk, path: Path, why: str) -> str:
    """What is said; nothing that was on the disk has changed, and nothing is left behind."""
    before = contents(disk.folder)
    message = said(partial(writer.write, path), path.name, why, kinds=OSError)
    after = contents(disk.folder)
    changed = [name for name in before if after.get(name) != before[name]]
    assert not changed, f"{changed} changed"
    # What a later call goes on with may stay, beside the target or in it.
    mine = (path.name, f".{path.name}-writing", f".{path.name}.lock")
    left = [name for name in after if name not in before and name.split("/")[0] not in mine]
    assert not left, f"{left} was left behind"
    return message


def full(name: str, folder: Path) -> str:
    """The disk is full; then there is room, and the same call ends as if there always had been."""
    writer = WRITERS[name]
    whole = _unbroken(writer, folder)
    with small_disk(folder) as disk:
        path = disk.folder / writer.target
        (disk.folder / "thesis.tex").write_text("not to be lost")
        if writer.replaces:
            writer.write(path)
        disk.fill(LEFT)
        message = _refused(writer, disk, path, FULL)
        disk.make_room()
        writer.write(path)
        assert writer.read(path) == whole
    return message


def only_read(name: str, folder: Path) -> str:
    """The disk is only read, for root too."""
    writer = WRITERS[name]
    whole = _unbroken(writer, folder)
    with small_disk(folder) as disk:
        path = disk.folder / writer.target
        if writer.replaces:
            writer.write(path)
        with read_only(disk):
            message = _refused(writer, disk, path, "")
            assert READ_ONLY in message or "cannot be written" in message, message
        writer.write(path)
        assert writer.read(path) == whole
    return message


for _name in WRITERS:
    fault(f"disk full: {_name}", quick=_name == "save")(partial(full, _name))
    fault(f"disk only read: {_name}", quick=_name == "save")(partial(only_read, _name))


class _Fill(L.Callback):
    """Fills the disk when an epoch begins."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            self.disk.fill(LEFT)


@fault("disk full after the first epoch's checkpoint")
def _full_later(folder: Path) -> str:
    whole = weights_of(_trained(folder / "whole"))
    with small_disk(folder) as disk:
        path = disk.folder / "kept"
        message = said(
            lambda: _trained(path, callbacks=[_Fill(disk)]),
            *(path / "from-epoch-0.ckpt", FULL, "The one before it is whole"),
            kinds=OSError,
        )
        assert [file.name for file in path.iterdir()] == ["from-epoch-0.ckpt"]
        disk.make_room()
        assert weights_of(_trained(path)) == whole
    return message
