"""Images, HDF5, parquet, weights and checkpoints from strangers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import tifffile
import torch
from _input import SECRET, Trap, hostile

import cellfuse as cf


def _bytes(name: str, data: bytes, folder: Path) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def _no_secret(read: Callable[[Path], Any], path: Path) -> None:
    """Read, and look for what lies outside of the folder."""
    found = read(path)
    pixels = getattr(found, "pixels", found)
    if hasattr(pixels, "obsm"):
        pixels = pixels.obsm["crops"][:]
    assert SECRET not in np.ascontiguousarray(pixels).tobytes(), "a file of another folder was read"


# -- TIFF, PNG, JPEG ------------------------------------------------------------------------------

FIELD = partial(_no_secret, cf.io.read_field)


def _tiff(tags: dict[int, tuple[int, int]], data: bytes = b"\0" * 64, next_page: int = 0) -> bytes:
    """A TIFF of one page with such tags (type 4, one value each)."""
    entries = {256: (4, 8), 257: (4, 8), 258: (3, 8), 259: (3, 1), 262: (3, 1), 277: (3, 1)}
    entries |= {273: (4, 300), 278: (4, 8), 279: (4, len(data))} | tags
    made = b"II*\0" + struct.pack("<IH", 8, len(entries))
    for tag in sorted(entries):
        kind, value = entries[tag]
        made += struct.pack("<HHII", tag, kind, 1, value)
    made += struct.pack("<I", next_page)
    return made.ljust(300, b"\0") + data


TIFFS = {
    "2 billion pixels each way": _tiff({256: (4, 2**31 - 1), 257: (4, 2**31 - 1)}),
    "a terabyte in one strip": _tiff({256: (4, 1 << 20), 257: (4, 1 << 20), 278: (4, 1 << 20)}),
    "no width": _tiff({256: (4, 0)}),
    "strips that lie behind the end": _tiff({273: (4, 2**32 - 2)}),
    "strips of 4 GB": _tiff({279: (4, 2**32 - 1)}),
    "65,535 samples of a pixel": _tiff({277: (3, 65535)}),
    "a page after itself": _tiff({}, next_page=8),
    "a page behind the end": _tiff({}, next_page=2**31),
    "an unknown compression": _tiff({259: (3, 61000)}),
    "7 bits of a sample": _tiff({258: (3, 7)}),
    "a strip that is no zlib": _tiff({259: (3, 8)}, b"noise" * 10),
    "a strip of zlib that grows": _tiff(
        {259: (3, 8), 256: (4, 1 << 15), 257: (4, 1 << 17), 278: (4, 1 << 17)},
        zlib.compress(bytes(64 << 20), 9),
    ),
    "no tags": b"II*\0" + struct.pack("<IHI", 8, 0, 0),
    "a header alone": b"II*\0\x08\0\0\0",
    "a big header alone": b"II+\0\x08\0\0\0" + struct.pack("<Q", 2**63),
}
for _name, _data in TIFFS.items():
    _expect = "either" if "a page" in _name or "7 bits" in _name else "told"
    hostile(f"tiff: {_name}", partial(_bytes, "p.tif", _data), FIELD, _expect)
    if _expect == "told":
        hostile(
            f"labels: {_name}",
            partial(_bytes, "l.tif", _data),
            partial(_no_secret, cf.io.read_labels),
            "told",
        )

_OME = (
    '<?xml version="1.0"?>{doctype}<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
    '<Image ID="Image:0" Name="{name}"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" '
    'SizeX="{x}" SizeY="8" SizeZ="1" SizeC="{c}" SizeT="1">{data}</Pixels></Image></OME>'
)
_ELSEWHERE = (
    '<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{file}">urn:uuid:1</UUID>'
    "</TiffData>"
)
_LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
    + "".join(f'<!ENTITY {chr(99 + i)} "{f"&{chr(98 + i)};" * 10}">' for i in range(9))
    + "]>"
)
OMES = {
    "entities that grow": {"doctype": _LAUGHS, "name": "&k;"},
    "an entity of another file": {
        "doctype": '<!DOCTYPE x [<!ENTITY x SYSTEM "../secret">]>',
        "name": "&x;",
    },
    "a width of a terabyte": {"x": 2**40},
    "two billion channels": {"c": 2**31},
    "no numbers": {"x": "wide"},
    "negative channels": {"c": -1},
    "channels in a file above": {
        "c": 2,
        "data": _ELSEWHERE.format(c=0, file="p.tif") + _ELSEWHERE.format(c=1, file="../secret.tif"),
    },
    "channels in a file by its full path": {
        "c": 2,
        "data": _ELSEWHERE.format(c=0, file="p.tif")
        + _ELSEWHERE.format(c=1, file="{root}/secret.tif"),
    },
}


def _ome(given: dict[str, Any], folder: Path) -> Path:
    secret = np.frombuffer(SECRET.ljust(64, b" ")[:64], "u1").reshape(8, 8)
    tifffile.imwrite(folder.parent / "secret.tif", secret)
    text = _OME.format(
        **{"doctype": "", "name": "a", "x": 8, "c": 1, "data": "<TiffData/>"} | given
    )
    text = text.replace("{root}", str(folder.parent))
    path = folder / "p.tif"
    tifffile.imwrite(path, np.ones((8, 8), "u1"), description=text, metadata=None)
    return path


for _name, _given in OMES.items():
    hostile(f"ome-tiff: {_name}", partial(_ome, _given), FIELD)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def _png(width: int, height: int, data: bytes, bits: int = 8) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    )


PNGS = {
    "2 billion pixels each way": _png(2**31 - 1, 2**31 - 1, zlib.compress(b"\0" * 64)),
    "a gigabyte of nothing": _png(40_000, 40_000, zlib.compress(bytes(40_001 * 4_000), 9)),
    "no width": _png(0, 8, zlib.compress(b"\0" * 64)),
    "13 bits": _png(8, 8, zlib.compress(b"\0" * 72), bits=13),
    "data cut short": _png(64, 64, zlib.compress(bytes(64 * 65))[:10]),
    "a chunk of 4 GB": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 2**32 - 1) + b"IHDR" + bytes(20),
    "a name alone": b"\x89PNG\r\n\x1a\n",
}
for _name, _data in PNGS.items():
    hostile(f"png: {_name}", partial(_bytes, "p.png", _data), FIELD, "told")
_SOF = b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00"
for _name, _data in {
    "65,535 pixels each way": _SOF + b"\xff\xd9",
    "a name alone": b"\xff\xd8\xff\xe0",
    "noise": b"\xff\xd8\xff\xe0" + np.random.default_rng(0).bytes(500),
}.items():
    hostile(f"jpeg: {_name}", partial(_bytes, "p.jpg", _data), FIELD, "told")
for _suffix in (".czi", ".lif", ".nd2"):
    _data = np.random.default_rng(1).bytes(2_000)
    hostile(f"{_suffix[1:]}: noise", partial(_bytes, f"p{_suffix}", _data), FIELD, "told")


# -- HDF5: crops, GCTX, h5ad ----------------------------------------------------------------------

CROPS = partial(_no_secret, cf.io.read_crops)


def _h5(name: str, write: Callable[[h5py.File, Path], None], folder: Path) -> Path:
    (folder.parent / "secret.h5").unlink(missing_ok=True)
    with h5py.File(folder.parent / "secret.h5", "w") as file:
        file["x"] = np.frombuffer(SECRET.ljust(64, b" ")[:64], "u1").reshape(1, 1, 8, 8)
    with h5py.File(folder / name, "w") as file:
        write(file, folder)
    return folder / name


def _obs(file: h5py.File, n: int = 1) -> None:
    from anndata.io import write_elem

    write_elem(file, "obs", pd.DataFrame(index=[f"c{i}" for i in range(n)]))
    file.require_group("obsm")


def _declared(file: h5py.File, folder: Path) -> None:
    _obs(file)
    file.create_dataset("obsm/crops", (1, 4, 10**6, 10**6), "u1", chunks=(1, 1, 64, 64))


def _outside(file: h5py.File, folder: Path) -> None:
    _obs(file)
    file["obsm/crops"] = h5py.ExternalLink("../secret.h5", "x")


def _storage(file: h5py.File, folder: Path) -> None:
    _obs(file)
    secret = [(str(folder.parent / "secret"), 0, h5py.h5f.UNLIMITED)]
    file.create_dataset("obsm/crops", (1, 1, 8, 8), "u1", external=secret)


def _virtual(file: h5py.File, folder: Path) -> None:
    _obs(file)
    layout = h5py.VirtualLayout((1, 1, 8, 8), "u1")
    layout[:] = h5py.VirtualSource(str(folder.parent / "secret.h5"), "x", (1, 1, 8, 8))
    file.create_virtual_dataset("obsm/crops", layout)


def _loop(file: h5py.File, folder: Path) -> None:
    _obs(file)
    file["obsm/crops"] = h5py.SoftLink("/obsm/crops")


def _in_itself(file: h5py.File, folder: Path) -> None:
    _obs(file)
    file["obsm/crops"] = file["/"]


def _text_crops(file: h5py.File, folder: Path) -> None:
    _obs(file)
    file["obsm/crops"] = np.full((1, 1, 2, 2), b"x", "S4")


def _other_length(file: h5py.File, folder: Path) -> None:
    _obs(file, 3)
    file["obsm/crops"] = np.zeros((2, 1, 4, 4), "u1")


H5S: dict[str, tuple[Callable[[h5py.File, Path], None], str]] = {
    "an array of terabytes": (_declared, "told"),
    "a link into another file": (_outside, "told"),
    "the bytes of another file": (_storage, "told"),
    "an array made of another file's": (_virtual, "told"),
    "a link to itself": (_loop, "told"),
    "a group in itself": (_in_itself, "told"),
    "crops of words": (_text_crops, "either"),
    "crops of other cells than there are": (_other_length, "told"),
    "nothing": (lambda file, folder: None, "told"),
}
for _name, (_write, _expect) in H5S.items():
    hostile(f"crops in h5ad: {_name}", partial(_h5, "c.h5ad", _write), CROPS, _expect)


def _gctx(matrix: Callable[[h5py.File, Path], None], file: h5py.File, folder: Path) -> None:
    file["0/META/COL/id"] = [b"a", b"b"]
    file["0/META/ROW/id"] = [b"g"]
    file.require_group("0/DATA/0")
    matrix(file, folder)


GCTX = {
    "a matrix of terabytes": lambda file, folder: file.create_dataset(
        "0/DATA/0/matrix", (10**6, 10**6), "f4", chunks=(100, 100)
    ),
    "a matrix of another shape": lambda file, folder: file.create_dataset(
        "0/DATA/0/matrix", (2, 3), "f4"
    ),
    "a matrix of words": lambda file, folder: file.create_dataset(
        "0/DATA/0/matrix", data=np.array([[b"x"], [b"y"]])
    ),
    "a matrix of one axis": lambda file, folder: file.create_dataset("0/DATA/0/matrix", (2,), "f4"),
    "a group for a matrix": lambda file, folder: file.create_group("0/DATA/0/matrix"),
    "names of terabytes": lambda file, folder: file.create_dataset(
        "0/META/COL/more", (10**12,), "S8", chunks=(1000,)
    ),
}
for _name, _matrix in GCTX.items():
    hostile(
        f"gctx: {_name}", partial(_h5, "p.gctx", partial(_gctx, _matrix)), cf.io.read_gct, "told"
    )


def _h5ad(harm: Callable[[h5py.File], None], folder: Path) -> Path:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"guide": pd.Categorical(list("abab"))}, index=[f"c{i}" for i in range(4)])
    x = sp.csr_matrix(rng.poisson(1, (4, 6)).astype("f4"))
    ad.AnnData(x, obs=obs, obsm={"flat": np.ones((4, 3), "f4")}).write_h5ad(folder / "x.h5ad")
    with h5py.File(folder / "x.h5ad", "r+") as file:
        harm(file)
    return folder / "x.h5ad"


def _set(name: str, value: Any) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = value
        file[name].attrs.update(attributes)

    return harm


def _fill(name: str, value: int) -> Callable[[h5py.File], None]:
    def harm(file: h5py.File) -> None:
        file[name][...] = value

    return harm


def _shape(file: h5py.File) -> None:
    file["X"].attrs["shape"] = [4, 10**13]


def _backwards(file: h5py.File) -> None:
    n = int(file["X/indptr"][-1])
    file["X/indptr"][...] = [0, n - 1, 2, n - 2, n]


def _rows(file: h5py.File) -> None:
    file["X"].attrs["shape"] = [10**13, 6]


def _encoding(file: h5py.File) -> None:
    file["X"].attrs["encoding-type"] = "os.system"


H5ADS = {
    "columns beyond the last": _fill("X/indices", 2_000_000_000),
    "negative columns": _fill("X/indices", -5),
    "rows that go backwards": _backwards,
    "rows of terabytes": _set("X/indptr", np.array([0, 10**12, 10**12, 10**12, 10**12], "i8")),
    "fewer rows than cells": _set("X/indptr", np.array([0, 2], "i4")),
    "10 trillion genes": _shape,
    "10 trillion cells": _rows,
    "codes of no category": _set("obs/guide/codes", np.array([0, 1, 77, 1], "i1")),
    "an encoding of its own": _encoding,
    "a table of other cells": _set("obs/_index", np.array(["a", "b"], dtype=object)),
    "the same name for all cells": _set("obs/_index", np.array(["a"] * 4, dtype=object)),
}


def _through_store(path: Path) -> None:
    """Into a store, and every value read from there: nothing out of bounds, nothing invented."""
    stored = cf.io.write_store(path, path.with_suffix(".zarr"), context_keys="guide")
    rows = stored.X[:]
    assert rows.shape == (4, 6) and rows.indices.min(initial=0) >= 0
    assert rows.indices.max(initial=0) < 6 and len(rows.toarray()) == 4


def _through_file(path: Path) -> None:
    mdata = cf.bench.read_screen(path, modality="rna")
    rows = mdata["rna"].X[:].toarray()
    assert rows.shape == (4, 6) and set(mdata["rna"].obs["guide"]) <= {"a", "b"}


for _name, _harm in H5ADS.items():
    hostile(f"write_store of h5ad: {_name}", partial(_h5ad, _harm), _through_store)
    hostile(f"read_screen of h5ad: {_name}", partial(_h5ad, _harm), _through_file)


# -- parquet --------------------------------------------------------------------------------------


def _parquet(harm: Callable[[bytes], bytes], folder: Path) -> Path:
    path = folder / "p.parquet"
    pd.DataFrame({"Metadata_Well": ["A1", "A2"], "Cells_A": [1.0, 2.0]}).to_parquet(path)
    path.write_bytes(harm(path.read_bytes()))
    return path


PARQUETS = {
    "a footer of 4 GB": lambda data: data[:-8] + struct.pack("<I", 2**32 - 1) + b"PAR1",
    "a footer of nothing": lambda data: data[:-8] + struct.pack("<I", 0) + b"PAR1",
    "a footer of noise": lambda data: data[:-200] + bytes(range(192)) + data[-8:],
    "data of noise": lambda data: data[:4] + b"\xff" * 60 + data[64:],
    "the first half": lambda data: data[: len(data) // 2],
    "marks alone": lambda data: b"PAR1PAR1",
}
for _name, _change in PARQUETS.items():
    _expect = "either" if _name == "data of noise" else "told"
    hostile(f"parquet: {_name}", partial(_parquet, _change), cf.io.read_profiles, _expect)


# -- weights and checkpoints ----------------------------------------------------------------------


def _safetensors(header: bytes, size: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


_TERABYTE = {"a": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
_OVER = {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
         "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}  # fmt: skip
WEIGHTS = {
    "a header of 8 EB": _safetensors(b"{}", 2**63),
    "a tensor of terabytes": _safetensors(json.dumps(_TERABYTE).encode(), data=bytes(16)),
    "tensors over each other": _safetensors(json.dumps(_OVER).encode(), data=bytes(24)),
    "a header that is no JSON": _safetensors(b"\xff" * 32),
    "a header of 100,000 lists": _safetensors(b"[" * 100_000),
    "a pickle": Trap(Path("/tmp")).pickled(),
    "nothing": b"",
}


def _images(path: Path) -> Any:
    from cellfuse.nn.checkpoints import read_tensors

    return read_tensors(path)


def _archive(data: bytes) -> bytes:
    """What `torch.load` takes for a checkpoint, around a pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return made.getvalue()


def _trap(suffix: str, packed: bool, folder: Path) -> Path:
    data = Trap(folder).pickled()
    return _bytes(f"w{suffix}", _archive(data) if packed else data, folder)


for _name, _data in WEIGHTS.items():
    hostile(f"weights: {_name}", partial(_bytes, "w.safetensors", _data), _images, "told")
for _suffix in (".pt", ".pth", ".bin"):
    for _packed in (True, False):
        _how = "in a checkpoint" if _packed else "alone"
        hostile(
            f"weights: a pickle {_how}, {_suffix}",
            partial(_trap, _suffix, _packed),
            _images,
            "told",
        )


def _resume(path: Path) -> None:
    from cellfuse.model.base.keeping import read_checkpoint

    read_checkpoint(path)


for _packed in (True, False):
    _how = "in an archive" if _packed else "alone"
    hostile(f"checkpoint: a pickle {_how}", partial(_trap, ".ckpt", _packed), _resume, "told")
for _name, _data in {
    "noise": np.random.default_rng(0).bytes(4_000),
    "an archive of nothing": _archive(b""),
    "an archive that leaves its folder": _archive(b"\x80\x02}q\x00."),
    "a header alone": b"PK\x03\x04",
}.items():
    hostile(f"checkpoint: {_name}", partial(_bytes, "w.ckpt", _data), _resume, "told")


def _tensor_file(value: Any, folder: Path) -> Path:
    torch.save(value, folder / "w.ckpt")
    return folder / "w.ckpt"


for _name, _value in {"a number": 3, "a list": [1], "weights alone": {"a": torch.ones(2)}}.items():
    hostile(f"checkpoint: {_name}", partial(_tensor_file, _value), _resume, "told")
