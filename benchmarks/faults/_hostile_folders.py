"""Saved models, zarr stores, OME-Zarr and folders of fields from strangers."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from _input import SECRET, Trap, hostile

import cellfuse as cf

# -- saved models ---------------------------------------------------------------------------------


@cache
def _good_model() -> Path:
    mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=6, image_size=16, seed=0)
    cf.SharedAxes.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.SharedAxes(mdata, n_comps=4, n_draws=2)
    model.train()
    path = Path(tempfile.mkdtemp()) / "model"
    model.save(path)
    return path


def _model(change: Callable[[Path], None], folder: Path) -> Path:
    path = folder / "model"
    shutil.copytree(_good_model(), path)
    change(path)
    return path


def _changed(where: str, **changes: Any) -> Callable[[Path], None]:
    """Change a description in JSON: dotted names to values."""

    def change(path: Path) -> None:
        file = path / where
        content = json.loads(file.read_text())
        for name, value in changes.items():
            *parents, last = name.split("__")
            inner = content
            for parent in parents:
                inner = inner[parent]
            inner[last] = value
        file.write_text(json.dumps(content))

    return change


def _told(**changes: Any) -> Callable[[Path], None]:
    return _changed("cellfuse.json", **changes)


def _text(text: str) -> Callable[[Path], None]:
    return lambda path: (path / "cellfuse.json").write_text(text) and None


def _linked(path: Path) -> None:
    (path.parents[1] / "w").write_bytes(SECRET)
    (path / "weights.safetensors").unlink()
    (path / "weights.safetensors").symlink_to(path.parents[1] / "w")


def _pickled(path: Path) -> None:
    (path / "weights.safetensors").write_bytes(Trap(path.parent).pickled())


def _more(path: Path) -> None:
    for name in ("model.pt", "attr.pkl", "adata.h5ad", "__init__.py"):
        (path / name).write_bytes(Trap(path.parent).pickled())


def _pipe(path: Path) -> None:
    (path / "weights.safetensors").unlink()
    os.mkfifo(path / "weights.safetensors")


def _load(path: Path) -> None:
    cf.SharedAxes.load(path)


MODELS: dict[str, tuple[Callable[[Path], None], str]] = {
    "weights that are a pickle": (_pickled, "told"),
    "weights that are a link out of the folder": (_linked, "told"),
    "weights that are a pipe": (_pipe, "told"),
    "pickles beside it": (_more, "right"),
    "another class": (_told(model="os.system"), "told"),
    "a class that is a path": (_told(model="../x"), "told"),
    "a format of letters": (_told(format="x"), "told"),
    "a format to come": (_told(format=10**9), "told"),
    "a history of text": (_told(history="x"), "told"),
    "a history of nonsense": (_told(history={"a": {"x": 1}}), "told"),
    "no setup": (_told(setup={}), "told"),
    "a setup of text": (_told(setup="x"), "told"),
    "inputs that are no inputs": (_told(setup__inputs=[{"a": 1}]), "told"),
    "inputs of a number": (_told(setup__inputs=3), "told"),
    "an argument that is not known": (_told(init__code="import os"), "told"),
    "arguments of text": (_told(init="x"), "told"),
    "a trillion axes": (_told(init__n_comps=10**12), "told"),
    "a negative number of axes": (_told(init__n_comps=-1), "told"),
    "a billion draws": (_told(init__n_draws=10**9), "either"),
    "a description that is no JSON": (_text("{"), "told"),
    "a description that is a list": (_text("[1]"), "told"),
    "100,000 lists in one another": (_text("[" * 100_000), "told"),
    "a number of 5,000 digits": (_text('{"format": ' + "9" * 5_000 + "}"), "told"),
    "a description of NaN": (_text('{"format": NaN, "model": "SharedAxes"}'), "told"),
}
for _name, (_change, _expect) in MODELS.items():
    hostile(f"saved model: {_name}", partial(_model, _change), _load, _expect)


# -- stores ---------------------------------------------------------------------------------------


@cache
def _good_store() -> Path:
    path = Path(tempfile.mkdtemp()) / "s.zarr"
    mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=6, image_size=16, seed=0)
    cf.io.write_store(mdata, path, context_keys="guide")
    return path


def _store(change: Callable[[Path], None], folder: Path) -> Path:
    path = folder / "s.zarr"
    shutil.copytree(_good_store(), path)
    change(path)
    return path


def _described(where: str, **changes: Any) -> Callable[[Path], None]:
    return _changed(str(Path(where, "zarr.json")), **changes)


def _linked_chunk(path: Path) -> None:
    crops = path / "mod/image/obsm/crops"
    chunk = next(p for p in sorted(crops.rglob("*")) if p.is_file() and p.name != "zarr.json")
    chunk.unlink()
    chunk.symlink_to(path.parents[1] / "secret")


def _linked_folder(path: Path) -> None:
    elsewhere = path.parents[1] / "elsewhere"
    shutil.move(path / "mod/image/obsm", elsewhere)
    (path / "mod/image/obsm").symlink_to(elsewhere)


def _values(where: str, fill: int) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        array = zarr.open_array(path / where, mode="r+")
        array[:] = np.full(array.shape, fill, array.dtype)

    return change


def _read_store(path: Path) -> None:
    mdata = cf.io.open_store(path)
    crops = mdata["image"].obsm["crops"][:]
    assert SECRET not in crops.tobytes()
    mdata["rna"].X[:].toarray()
    good = cf.io.open_store(_good_store())
    assert np.array_equal(crops, good["image"].obsm["crops"][:]), "other cells came out"


_CROPS, _COUNTS = "mod/image/obsm/crops", "mod/rna/X"
_PICKLE = [{"name": "numcodecs.pickle", "configuration": {}}]
STORES: dict[str, Callable[[Path], None]] = {
    "a chunk that is a link out of it": _linked_chunk,
    "a folder that is a link out of it": _linked_folder,
    "crops of an exabyte": _described(_CROPS, shape=[10**6, 4, 10**6, 10**6]),
    "crops of a negative size": _described(_CROPS, shape=[-1, 4, 16, 16]),
    "crops of no axis": _described(_CROPS, shape=[]),
    "chunks of nothing": _described(_CROPS, chunk_grid__configuration__chunk_shape=[0, 0, 0, 0]),
    "an unknown codec": _described(_CROPS, codecs=[{"name": "os.system", "configuration": {}}]),
    "a codec that executes": _described(_CROPS, codecs=_PICKLE),
    "an unknown type": _described(_CROPS, data_type="object"),
    "an encoding of its own": _described(_COUNTS, **{"attributes__encoding-type": "os.system"}),
    "columns beyond the last": _values(f"{_COUNTS}/indices", 2**30),
    "negative columns": _values(f"{_COUNTS}/indices", -7),
    "rows that are at no place": _values(f"{_COUNTS}/indptr", 2**60),
    "an index beyond the last cell": _values("mod/image/uns/cellfuse_store", 2**40),
    "an index of one cell": _values("mod/image/uns/cellfuse_store", 0),
    "counts of an exabyte": _described(_COUNTS, attributes__shape=[10**12, 10**9]),
    "a mark of text": _described("", **{"attributes__cellfuse-store": "x"}),
    "modalities of a path": _described("mod", **{"attributes__mod-order": ["../../secret"]}),
    "modalities of numbers": _described("mod", **{"attributes__mod-order": [1, None]}),
    "no attributes": _described("", attributes={}),
}
for _name, _change in STORES.items():
    hostile(f"store: {_name}", partial(_store, _change), _read_store, "told")


def _pickled_zarr(kind: str, folder: Path) -> Path:
    """AnnData in zarr of format 2, in which an array is written by the codec `pickle`."""
    path = folder / "c.zarr"
    import anndata as ad
    import pandas as pd

    obs = pd.DataFrame(index=["c0", "c1"])
    ad.AnnData(obs=obs, obsm={"crops": np.zeros((2, 1, 4, 4), "u1")}).write_zarr(path)
    place = path / ("obs" if kind == "obs" else "obsm")
    name = "_index" if kind == "obs" else "crops"
    shutil.rmtree(place / name)
    (place / name).mkdir()
    shape = [2] if kind == "obs" else [2, 1, 4, 4]
    array = {
        "zarr_format": 2, "shape": shape, "chunks": shape, "dtype": "|O", "order": "C",
        "fill_value": None, "compressor": None, "filters": [{"id": "pickle", "protocol": 5}],
    }  # fmt: skip
    (place / name / ".zarray").write_text(json.dumps(array))
    (place / name / ".zattrs").write_text('{"encoding-type": "array", "encoding-version": "0.2.0"}')
    (place / name / ".".join("0" * len(shape))).write_bytes(Trap(folder).pickled())
    return path


def _crops(path: Path) -> None:
    cf.io.read_crops(path).obsm["crops"][:]


def _written(path: Path) -> None:
    cf.io.write_store(path, path.with_suffix(".out"), context_keys="guide")


for _kind in ("obs", "crops"):
    for _how, _read in (("read_crops", _crops), ("write_store", _written)):
        hostile(
            f"zarr: {_kind} by the codec pickle, {_how}",
            partial(_pickled_zarr, _kind),
            _read,
            "told",
        )


# -- OME-Zarr and folders of fields ---------------------------------------------------------------


def _ome(change: dict[str, Any], folder: Path) -> Path:
    secret = zarr.open_group(folder.parent / "secret.zarr", mode="w", zarr_format=2)
    hidden = np.frombuffer(SECRET.ljust(64, b" ")[:64], "u1").reshape(1, 8, 8)
    secret.create_array("0", shape=(1, 8, 8), chunks=(1, 8, 8), dtype="u1")[...] = hidden
    path = folder / "i.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    axes = [{"name": n} for n in "cyx"]
    scales: dict[str, Any] = {"axes": axes, "datasets": [{"path": "0"}]}
    shape = tuple(change.get("shape", (1, 8, 8)))
    array = group.create_array("0", shape=shape, chunks=(1, 8, 8), dtype="u1")
    if "shape" not in change:
        array[...] = 7
    if change.get("link"):
        shutil.rmtree(path / "0")
        (path / "0").symlink_to(folder.parent / "secret.zarr" / "0")
    if change.get("codec"):
        file = path / "0" / ".zarray"
        content = json.loads(file.read_text()) | {"filters": [{"id": "pickle"}], "dtype": "|O"}
        content |= {"compressor": None, "fill_value": None}
        file.write_text(json.dumps(content))
        for chunk in (path / "0").glob("0*"):
            shutil.rmtree(chunk) if chunk.is_dir() else chunk.unlink()
        (path / "0" / "0.0.0").write_bytes(Trap(folder).pickled())
    group.attrs["multiscales"] = change.get("scales", [scales | change.get("scale", {})])
    return path


def _field(path: Path) -> None:
    assert SECRET not in np.ascontiguousarray(cf.io.read_field(path).pixels).tobytes()


IMAGES: dict[str, dict[str, Any]] = {
    "a level above it": {"scale": {"datasets": [{"path": "../secret.zarr/0"}]}},
    "a level by its full path": {"scale": {"datasets": [{"path": "/tmp"}]}},
    "a level that is a link out of it": {"link": True},
    "a level by the codec pickle": {"codec": True},
    "a petabyte": {"shape": (4, 10**7, 10**7)},
    "no level": {"scale": {"datasets": []}},
    "levels of text": {"scale": {"datasets": "x"}},
    "axes of numbers": {"scale": {"axes": [1, 2, 3]}},
    "axes twice": {"scale": {"axes": ["y", "y", "x"]}},
    "scales of text": {"scales": "x"},
    "a scale of a number": {"scales": [3]},
}
for _name, _given in IMAGES.items():
    hostile(f"ome-zarr: {_name}", partial(_ome, _given), _field, "told")


def _plate(wells: Any, folder: Path) -> Path:
    path = folder / "p.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.attrs["plate"] = {"wells": wells}
    image = group.create_group("A/1/0")
    axes = [{"name": n} for n in "cyx"]
    image.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    image.create_array("0", shape=(1, 8, 8), chunks=(1, 8, 8), dtype="u1")[...] = 7
    return path


def _fields(path: Path) -> None:
    for field in cf.io.read_fields(path, pattern=r"(?P<well>[A-P]/\d+)/(?P<site>\d+)$"):
        assert SECRET not in field.pixels.tobytes()


for _name, _wells in {
    "wells above it": [{"path": "../secret"}],
    "wells of text": "x",
    "wells of numbers": [1, None],
    "a well of 100,000 letters": [{"path": "x" * 100_000}],
    "a well with a zero byte": [{"path": "a\0b"}],
}.items():
    hostile(f"plate: {_name}", partial(_plate, _wells), _fields)


def _pattern(pattern: str, folder: Path) -> Path:
    tifffile.imwrite(folder / ("a" * 60 + "!.tif"), np.ones((8, 8), "u1"))
    tifffile.imwrite(folder / "A1_s1_DNA.tif", np.ones((8, 8), "u1"))
    return folder


def _by_pattern(pattern: str, path: Path) -> None:
    list(cf.io.read_fields(path, pattern=pattern))


for _pat in ("(", "(?P<well>x", "(?P<well>[A-P]\\d)(?P<well>x)", "../(?P<well>.*)", ""):
    _make, _read = partial(_pattern, _pat), partial(_by_pattern, _pat)
    hostile(f"fields: the pattern {_pat!r}", _make, _read, "told", names="")
