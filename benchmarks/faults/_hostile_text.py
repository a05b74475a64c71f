"""Tables, GCT, gene sets, networks, TOML and labels from strangers."""

from __future__ import annotations

import csv
import gzip
import io
import os
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _input import CANARY, Trap, hostile

import cellfuse as cf
from cellfuse._files import write_csv

#: A small good text for each reader of texts.
GOOD: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "profiles": ("p.csv", cf.io.read_profiles, "Metadata_Well,Cells_A\nA1,1\nA2,3\n"),
    "gct": (
        "p.gct",
        cf.io.read_gct,
        "#1.3\n1\t2\t1\t1\nid\tsym\tA1\tA2\ndose\tna\t1\t2\ng\tTP53\t0.5\t1\n",
    ),
    "reactome": ("n.csv", lambda file: cf.datasets.reactome(path=file), "source,target\nA,B\n"),
    "drug_targets": (
        "d.txt",
        lambda file: cf.datasets.drug_targets(path=file),
        "!x\npert_iname\ttarget\nx\tA|B\n",
    ),
    "corum": (
        "c.tsv",
        lambda file: cf.datasets.corum(path=file),
        "ComplexName\tOrganism\tsubunits(Gene name)\nx\tHuman\tA;B\n",
    ),
    "signor": (
        "s.tsv",
        lambda file: cf.datasets.signor(path=file),
        "ENTITYA\tTYPEA\tENTITYB\tTYPEB\nA\tprotein\tB\tprotein\n",
    ),
    "pathways": ("g.gmt", lambda file: cf.datasets.pathways(path=file), "x\ty\tA\tB\n"),
}


def _zip(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return made.getvalue()


def _bomb(size: int) -> bytes:
    made = io.BytesIO()
    with gzip.GzipFile(fileobj=made, mode="wb") as packed:
        for _ in range(size >> 20):
            packed.write(b"1," * (1 << 19))
    return made.getvalue()


#: What a stranger makes of a good text: the bytes, and whether they can be read at all.
HARMS: dict[str, tuple[Callable[[str], bytes], str]] = {
    "is empty": (lambda text: b"", "told"),
    "is blank": (lambda text: b"\n \n\t\n", "told"),
    "holds noise": (lambda text: np.random.default_rng(0).bytes(4096), "told"),
    "holds zero bytes": (lambda text: text.encode().replace(b"1", b"\0"), "either"),
    "is UTF-16 cut in a letter": (lambda text: text.encode("utf-16")[:-1], "either"),
    "is a pickle": (lambda text: Trap(Path("/tmp")).pickled(), "told"),
    "is a program": (lambda text: b"\x7fELF\x02\x01\x01" + bytes(64), "told"),
    "is a web page": (lambda text: b"<!DOCTYPE html><html><script>1</script></html>", "told"),
    "has an open quote": (lambda text: text.replace("\n", '\n"', 1).encode(), "either"),
    "has a field of 4 MB": (lambda text: text.encode() + b"x" * (4 << 20), "either"),
    "has a line of 100,000 fields": (
        lambda text: (
            text.split("\n")[0] + "".join(f",c{i}\tc{i}" for i in range(100_000)) + "\n"
        ).encode(),
        "either",
    ),
    "is packed noise": (lambda text: b"\x1f\x8b\x08" + bytes(range(200)), "told"),
    "is packed and cut short": (lambda text: gzip.compress(text.encode() * 99)[:-20], "told"),
    "is a bomb of 4 GB": (lambda text: _bomb(4 << 30), "told"),
    "is an archive of two": (lambda text: _zip({"a.csv": b"a", "b.csv": b"b"}), "told"),
    "is an archive whose member leaves it": (
        lambda text: _zip({f"../../{CANARY}": text.encode()}),
        "either",
    ),
    "has numbers of 5,000 digits": (
        lambda text: text.replace("1", "9" * 5_000).encode(),
        "either",
    ),
    "has control and bidirectional letters": (
        lambda text: text.replace("A", "\u202e\x07A\x1b[31m").encode(),
        "either",
    ),
}
#: Packed once: it takes seconds.
_made: dict[str, bytes] = {}


def _harmed(reader: str, harm: str, folder: Path) -> Path:
    name, _, text = GOOD[reader]
    make, _ = HARMS[harm]
    key = harm if "bomb" in harm else f"{reader} {harm}"
    if key not in _made:
        _made[key] = make(text)
    (folder / name).write_bytes(_made[key])
    return folder / name


for _reader in GOOD:
    for _harm, (_, _expect) in HARMS.items():
        hostile(f"{_reader}: {_harm}", partial(_harmed, _reader, _harm), GOOD[_reader][1], _expect)


# -- what is no file at all -----------------------------------------------------------------------


def _special(reader: str, kind: str, folder: Path) -> Path:
    path = folder / GOOD[reader][0]
    if kind == "a pipe that nobody writes to":
        os.mkfifo(path)
    elif kind == "a link to itself":
        path.symlink_to(path)
    elif kind == "a link to an endless device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


SPECIAL = (
    "a pipe that nobody writes to",
    "a link to itself",
    "a link to an endless device",
    "a folder",
)
for _reader in GOOD:
    for _kind in SPECIAL:
        hostile(
            f"{_reader}: is {_kind}", partial(_special, _reader, _kind), GOOD[_reader][1], "told"
        )


# -- GCT, whose second line says how much is to come ----------------------------------------------


def _text(name: str, text: str, folder: Path) -> Path:
    path = folder / name
    path.write_text(text)
    return path


_GCT = "#1.3\n{}\nid\tsym\tA1\tA2\ndose\tna\t1\t2\ng\tTP53\t0.5\t1\n"
_SIZES = (
    *("9999999999\t2\t1\t1", "1\t999999999999\t1\t1", "-1\t2\t1\t1", "1\t2\t999999999\t1"),
    *("1\t2\t1\t999999999", "1e9\t2\t1\t1", "0\t0\t0\t0", "9" * 6_000 + "\t1\t1\t1"),
)
for _sizes in _SIZES:
    hostile(
        f"gct: says it has {_sizes[:24].split()} rows, columns and fields",
        partial(_text, "p.gct", _GCT.format(_sizes)),
        cf.io.read_gct,
        "told",
    )


# -- SQLite ---------------------------------------------------------------------------------------


def _database(statements: list[str], folder: Path) -> Path:
    path = folder / "p.sqlite"
    with closing(sqlite3.connect(path)) as database:
        for statement in statements:
            database.execute(statement)
        database.commit()
    return path


_IMAGE = "CREATE TABLE Image (ImageNumber INT, Intensity_A REAL)"
_ROW = "INSERT INTO Image VALUES (1, 2.5)"
_ENDLESS = (
    "CREATE VIEW Cells AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) "
    "SELECT x AS ObjectNumber, 1 AS ImageNumber, 1.0 AS Area FROM n"
)
_BLOB = (
    "CREATE VIEW Cells AS SELECT 1 AS ObjectNumber, 1 AS ImageNumber, zeroblob(900000000) AS Area"
    " UNION ALL SELECT 2, 1, zeroblob(900000000) UNION ALL SELECT 3, 1, zeroblob(900000000)"
)
_LOAD = "CREATE VIEW Cells AS SELECT 1 AS ObjectNumber, 1 AS ImageNumber, load_extension('x') AS A"
DATABASES = {
    "a view without end": ([_IMAGE, _ROW, _ENDLESS], "told"),
    "a view of gigabytes": ([_IMAGE, _ROW, _BLOB], "told"),
    "a view that loads a library": ([_IMAGE, _ROW, _LOAD], "told"),
    "a table named by an injection": (
        [_IMAGE, _ROW, 'CREATE TABLE "x""; DROP TABLE Image; --" (ImageNumber INT)'],
        "right",
    ),
    "a view of itself": ([_IMAGE, _ROW, "CREATE VIEW Cells AS SELECT * FROM Cells"], "told"),
    "a view of a table that is gone": ([_IMAGE, "CREATE VIEW Cells AS SELECT * FROM gone"], "told"),
    "no table": ([], "told"),
}
for _name, (_statements, _expect) in DATABASES.items():
    hostile(f"sqlite: {_name}", partial(_database, _statements), cf.io.read_profiles, _expect)


def _cut_database(share: float, folder: Path) -> Path:
    path = _database([_IMAGE, *[_ROW] * 2_000], folder)
    data = bytearray(path.read_bytes())
    path.write_bytes(bytes(data[: int(len(data) * share)]))
    return path


for _share in (0.01, 0.3, 0.9):
    hostile(
        f"sqlite: cut to {_share:.0%}", partial(_cut_database, _share), cf.io.read_profiles, "told"
    )


# -- configurations -------------------------------------------------------------------------------

_TOML = """
[data]
file = "s.h5mu"
keep = {}
[screen]
context_keys = "guide"
control = ""
[methods]
PCA = {{}}
[metrics]
alignment = {{}}
"""
_REST = '[screen]\ncontext_keys = "g"\n[methods]\nPCA = {}\n[metrics]\nalignment = {}\n'
_KEEPS = (
    "__import__('os').mkdir('{folder}/executed')",
    "@__import__('os').mkdir('{folder}/executed')",
    "@pd.read_pickle('{folder}/p.pkl')",
    "().__class__.__base__.__subclasses__()",
    "guide.map(@__builtins__)",
    "guide.to_csv('{folder}/executed') == 1",
    "guide == '`' or guide.to_csv('{folder}/executed') == '`'",
    "index.str.cat.__globals__",
    "n_genes > 10 ** 10 ** 10",
    "(" * 3_000 + "1" + ")" * 3_000,
)


def _config(keep: str, folder: Path) -> Path:
    (folder / "p.pkl").write_bytes(Trap(folder).pickled())
    mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=4, image_size=16, seed=0)
    mdata.write_h5mu(folder / "s.h5mu")
    condition = repr(keep.replace("{folder}", str(folder)))
    return _text("c.toml", _TOML.format(condition), folder)


def _run_config(path: Path) -> Any:
    config = cf.bench.read_config(path)
    return config.source() if callable(config.source) else config.source


for _number, _keep in enumerate(_KEEPS):
    hostile(
        f"toml: keep={_keep[:40]!r}", partial(_config, _keep), _run_config, "told", names="keep"
    )
for _name, _content in {
    "1,000 tables in one another": "[" + ".".join("a" * 1 for _ in range(1_000)) + "]\nx = 1\n",
    "10,000 lists in one another": "x = " + "[" * 10_000 + "]" * 10_000,
    "a number of 5,000 digits": "x = " + "9" * 5_000,
    "no text": "\x00\x01",
    "a list for a table": "data = [1, 2]\nmethods = 3\nmetrics = 'x'\n",
    "a file of another kind": '[data]\nfile = "c.toml"\n' + _REST,
    "a simulator of another name": '[data]\nsimulated = "__class__"\n' + _REST,
}.items():
    _says = "simulators" if "simulator" in _name else None
    hostile(f"toml: {_name}", partial(_text, "c.toml", _content), _run_config, "told", _says)


# -- what is written for people -------------------------------------------------------------------

SCRIPTS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "</td></table><script>1</script>",
    "{{ 7 * 7 }}",
    "javascript:alert(1)",
)
FORMULAS = ("=cmd|'/C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x")')


def _report(label: str, path: Path) -> None:
    from dataclasses import replace

    result = _benchmark()
    failures = pd.DataFrame(
        {"method": [label], "seed": [0], "view": ["both"], "metric": ["alignment"], "why": [label]}
    )
    told = replace(result, failures=failures, config={label: label}, conclusion=label)
    concepts = pd.DataFrame({label: [label]})
    page = cf.report(
        told, path.with_suffix(".html"), figures=[], title=label, about=label, snippet=label,
        concepts=concepts,
    ).read_text()  # fmt: skip
    assert "<script>alert" not in page and "<script>1" not in page and "<img src=x" not in page
    assert '" onmouseover="alert' not in page and 'href="javascript:' not in page
    assert "{{ 7 * 7 }}" in page or "7 * 7" not in label, "a label was taken for a template"


_results: list[Any] = []


def _benchmark() -> Any:
    if not _results:
        mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=6, image_size=16, seed=0)
        design = {"context_keys": "guide", "image_rep": "crops"}
        control = {"control_key": "gene", "control": "non-targeting"}
        _results.append(
            cf.benchmark(mdata, ["PCA"], ["alignment"], progress=False, **design, **control)
        )
    return _results[0]


def _written(label: str, path: Path) -> None:
    write_csv(pd.DataFrame({label: [label], "x": [-1.5]}), path.with_suffix(".out.csv"))
    with path.with_suffix(".out.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert all(not cell.startswith(("=", "+", "@", "\t")) for row in rows for cell in row)
    assert rows[1][1] == "-1.5" and rows[1][0] == f"'{label}"


for _label in SCRIPTS:
    hostile(
        f"report: {_label[:30]}", partial(_text, "r.txt", "x"), partial(_report, _label), "right"
    )
for _label in FORMULAS:
    hostile(
        f"csv for people: {_label[:30]!r}",
        partial(_text, "t.txt", "x"),
        partial(_written, _label),
        "right",
    )


def _formulas(folder: Path) -> Path:
    rows = ["Metadata_Well,Metadata_note,Cells_A"]
    rows += [f'A{i},"{f.replace(chr(34), chr(34) * 2)}",{i}' for i, f in enumerate(FORMULAS)]
    return _text("p.csv", "\n".join(rows) + "\n", folder)


def _read_formulas(path: Path) -> None:
    found = cf.io.read_profiles(path).obs["Metadata_note"].tolist()
    assert [text.strip() for text in found] == [text.strip() for text in FORMULAS], found


hostile("profiles: formulas stay text", _formulas, _read_formulas, "right")
