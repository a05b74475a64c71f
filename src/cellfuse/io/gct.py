"""Expression profiles as the Connectivity Map ships them: GCT 1.2 and 1.3, and GCTX."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key
from cellfuse.io._hdf5 import inspect, reading
from cellfuse.io._paths import PathLike
from cellfuse.io._tables import writable_names
from cellfuse.io._text import check_declared, read_text
from cellfuse.io._values import number_of, typed

__all__ = ["read_gct"]

logger = logging.getLogger("cellfuse")

#: What the Connectivity Map and its packages write for a word or a number that is not there; nan
#: and null among words are names of genes.
MISSING = ("-666", *("-666." + "0" * n for n in range(7)), "na", "NA", "NaN", "")
HDF5 = b"\x89HDF\r\n\x1a\n"


def read_gct(path: PathLike, *, samples: Sequence[str] | None = None) -> AnnData:
    r"""Read a GCT or GCTX file: its columns (wells, signatures) are the observations.

    Parameters
    ----------
    path
        GCT 1.2 or 1.3, plain, gzip or zip, in any encoding, or GCTX (HDF5); told apart by their
        first bytes.
    samples
        Names of the columns to read, in this order; default all. Of a GCTX only these are read
        from the disk, which is how a part of a file larger than memory is taken.

    Returns
    -------
    AnnData
        X is float32 (columns of the file x its rows). obs and var hold the metadata of columns
        and rows: numbers where all of a field are numbers, else text, without the quotes that R
        puts around it. ``-666``, ``na``, ``NA``, ``NaN`` and empty metadata are missing values, as
        are empty, ``na`` and ``nan`` numbers of the matrix.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no GCT, is truncated, or holds other numbers of rows and columns than it says;
        a name of a row, column or field occurs twice; a value is no number.
    KeyError
        One of `samples` is not in the file.

    Notes
    -----
    GCT 1.3: line 2 holds the numbers of rows, columns, row metadata fields and column metadata
    fields; then the names, the column metadata line by line, the rows [1]_.

    References
    ----------
    .. [1] Enache et al. (2019), "The GCTx format and cmap{Py, R, M, J} packages",
       Bioinformatics 35(8).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> file = Path(tempfile.mkdtemp()) / "small.gct"
    >>> _ = file.write_text(
    ...     "#1.3\n2\t2\t1\t1\n"
    ...     "id\tsymbol\tA01\tA02\ndose\tna\t0.1\t10\n"
    ...     "g1\tTP53\t1.5\t2\ng2\tMYC\t3\t4\n"
    ... )
    >>> plate = cf.io.read_gct(file)
    >>> plate.obs["dose"].tolist(), plate.var["symbol"].tolist(), plate.X.tolist()
    ([0.1, 10.0], ['TP53', 'MYC'], [[1.5, 3.0], [2.0, 4.0]])
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} does not exist.")
    with file.open("rb") as stream:
        start = stream.read(len(HDF5))
    if start == HDF5:
        return _read_gctx(file, samples)
    lines = read_text(file, "a GCT").split("\n")
    version = _plain(lines[0].split("\t")[0])
    if version not in ("#1.2", "#1.3"):
        raise ValueError(
            f"{str(file)!r} is no GCT: its first line is {version[:40]!r}, expected '#1.2' or "
            "'#1.3' (or a GCTX, which is HDF5)."
        )
    adata = _parse(file, lines, version)
    if samples is not None:
        adata = adata[_positions(adata.obs_names, samples, file)].copy()
    _tell_of_odd(file, adata)
    return adata


def _tell_of_odd(file: Path, adata: AnnData) -> None:
    """Numbers that are seldom meant as such."""
    for what, odd in (
        ("infinite, or beyond float32", np.isinf(adata.X)),
        ("-666, which stands for nothing among metadata and is kept as a number", adata.X == -666),
    ):
        if odd.any():
            names = listing(adata.var_names[odd.any(axis=0)], 4)
            logger.warning("%s: %d values are %s, in rows %s.", file.name, odd.sum(), what, names)


def _positions(names: pd.Index, samples: Sequence[str], file: Path) -> NDArray[np.int64]:
    found = names.get_indexer(pd.Index([str(s) for s in samples]))
    if (found < 0).any():
        absent = samples[int(np.argmax(found < 0))]
        raise missing_key(absent, list(names), what=f"the columns of {str(file)!r}")
    if len(np.unique(found)) < len(found):
        raise ValueError("`samples` names a column twice.")
    return found


def _parse(file: Path, lines: list[str], version: str) -> AnnData:
    while lines and not lines[-1].strip():
        lines.pop()
    n_rows, n_columns, n_row_fields, n_column_fields = _sizes(file, lines, version)
    width = 1 + n_row_fields + n_columns
    first_row = 3 + n_column_fields
    body = lines[first_row:]
    if len(body) != n_rows:
        raise ValueError(
            f"{str(file)!r} says that it has {n_rows} rows and holds {len(body)}: it is truncated, "
            "or its second line is wrong."
        )
    lines = _fitted(file, lines[2:], width, n_columns)
    header = _texts(lines[0].split("\t"))
    fields = _texts(line.split("\t", 1)[0] for line in lines[1 : 1 + n_column_fields])
    obs = pd.DataFrame(index=_names(header[1 + n_row_fields :], "column", file))
    for name, line in zip(_names(fields, "field", file), lines[1:], strict=False):
        obs[name] = typed(_texts(line.split("\t")[1 + n_row_fields :]), MISSING)
    split = [row.split("\t", 1 + n_row_fields) for row in lines[1 + n_column_fields :]]
    var = pd.DataFrame(index=_names(_texts(row[0] for row in split), "row", file))
    for i, name in enumerate(_names(header[1 : 1 + n_row_fields], "field", file), start=1):
        var[name] = typed(_texts(row[i] for row in split), MISSING)
    obs.columns, var.columns = (pd.Index(writable_names(t.columns)) for t in (obs, var))
    matrix = _matrix(file, [row[-1] for row in split], var.index, n_columns)
    return AnnData(np.ascontiguousarray(matrix.T), obs=obs, var=var)


def _sizes(file: Path, lines: list[str], version: str) -> tuple[int, int, int, int]:
    """Numbers of rows, columns, row metadata fields and column metadata fields."""
    expected = 2 if version == "#1.2" else 4
    try:
        numbers = [int(_plain(part)) for part in lines[1].split()]
    except (ValueError, IndexError):
        numbers = []
    if len(numbers) != expected or min(numbers) < 0:
        raise ValueError(
            f"the second line of {str(file)!r} is {lines[1][:60] if lines[1:] else ''!r}; "
            f"expected {expected} numbers, as in every GCT {version[1:]}."
        )
    # A 1.2 file has the fixed columns Name and Description, and no column metadata.
    n_rows, n_columns, n_row_fields, n_column_fields = (*numbers, 1, 0)[:4]
    if len(lines) < 3 + n_column_fields or not n_rows or not n_columns:
        raise ValueError(
            f"{str(file)!r} says that it has {n_rows} rows, {n_columns} columns and "
            f"{n_column_fields} lines of column metadata, and holds {len(lines)} lines in all."
        )
    return n_rows, n_columns, n_row_fields, n_column_fields


def _fitted(file: Path, lines: list[str], width: int, n_columns: int) -> list[str]:
    """Lines of as many fields as the second line says; empty ones behind them are left away."""
    out = []
    for number, line in enumerate(lines, start=3):
        n_extra = line.count("\t") + 1 - width
        if n_extra > 0 and line.endswith("\t" * n_extra):
            line, n_extra = line[:-n_extra], 0
        if n_extra:
            _refuse_width(file, number, width + n_extra, width, n_columns)
        out.append(line)
    return out


def _refuse_width(file: Path, number: int, found: int, width: int, n_columns: int) -> None:
    raise ValueError(
        f"line {number} of {str(file)!r} has {found} fields; expected {width}: a name, "
        f"{width - 1 - n_columns} of metadata and {n_columns} columns, as its second line says."
    )


def _texts(parts: Iterable[str]) -> list[str]:
    return [_plain(part) for part in parts]


def _plain(text: str) -> str:
    """Text without the blanks and the quotes around it."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def _names(names: list[str], what: str, file: Path) -> pd.Index:
    index = pd.Index(names, dtype=object)
    if "" in names:
        raise ValueError(
            f"{what} number {names.index('') + 1} of {len(names)} of {str(file)!r} has no name; "
            "expected one. Name it, or leave it out."
        )
    if not index.is_unique:
        twice = index[index.duplicated()].unique()
        raise ValueError(f"{str(file)!r} has {what} names that occur twice: {listing(twice, 4)}.")
    return index


def _matrix(file: Path, rows: list[str], names: pd.Index, n_columns: int) -> NDArray[np.float32]:
    """Numbers of the rows, float32 (rows, columns)."""
    options: dict[str, Any] = {"sep": "\t", "header": None, "na_values": ["na"]}
    options["skip_blank_lines"] = False  # the line of a row whose only value is missing
    text = "\n".join(rows)
    try:
        with np.errstate(over="ignore"):  # what float32 does not hold is told of by the caller
            table = pd.read_csv(io.StringIO(text), dtype=np.float32, **options)
    except ValueError as error:
        table = pd.read_csv(io.StringIO(text), dtype=str, **options)
        numbers = table.apply(pd.to_numeric, errors="coerce")
        odd = (numbers.isna() & table.notna()).to_numpy()
        raise _no_number(file, table, odd, names, n_columns) from error
    matrix = table.to_numpy(dtype=np.float32)
    if np.isinf(matrix).any():  # of 1e400 pandas makes an infinity from version 3 on
        table = pd.read_csv(io.StringIO(text), dtype=str, **options)
        odd = np.zeros(matrix.shape, dtype=bool)
        for row, column in np.argwhere(np.isinf(matrix)):
            odd[row, column] = number_of(str(table.iat[row, column])) is None
        if odd.any():
            raise _no_number(file, table, odd, names, n_columns)
    return matrix


def _no_number(
    file: Path, table: pd.DataFrame, odd: NDArray[np.bool_], names: pd.Index, n_columns: int
) -> ValueError:
    row, column = np.argwhere(odd)[0]
    return ValueError(
        f"{str(file)!r} has {table.iat[row, column]!r} in row {names[row]!r}, column number "
        f"{column + 1} of {n_columns}; expected a number."
    )


# -- GCTX -----------------------------------------------------------------------------------------


def _read_gctx(file: Path, samples: Sequence[str] | None) -> AnnData:
    import h5py

    try:
        stored = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{str(file)!r} is a damaged or truncated GCTX: {error}.") from error
    with stored, reading(file):
        inspect(stored, file)
        return _whole_or_part(stored, file, samples)


def _whole_or_part(stored: Any, file: Path, samples: Sequence[str] | None) -> AnnData:
    try:
        matrix = stored["0/DATA/0/matrix"]
        obs = _metadata(stored["0/META/COL"], "column", file)
        var = _metadata(stored["0/META/ROW"], "row", file)
    except KeyError as error:
        raise ValueError(
            f"{str(file)!r} is HDF5 and no GCTX: expected /0/DATA/0/matrix, /0/META/COL/id and "
            f"/0/META/ROW/id ({error})."
        ) from error
    check_declared(file, matrix.size * matrix.dtype.itemsize, file.stat().st_size)
    if matrix.shape != (len(obs), len(var)):
        raise ValueError(
            f"the matrix of {str(file)!r} is {matrix.shape}; its metadata name {len(obs)} "
            f"columns and {len(var)} rows."
        )
    if samples is None:
        return AnnData(matrix[...].astype(np.float32, copy=False), obs=obs, var=var)
    rows = _positions(obs.index, samples, file)
    order = np.argsort(rows)  # h5py reads rising rows only
    values = np.empty((len(rows), len(var)), np.float32)
    values[order] = matrix[rows[order]]
    return AnnData(values, obs=obs.iloc[rows], var=var)


def _metadata(group: Any, what: str, file: Path) -> pd.DataFrame:
    for name in group:
        check_declared(file, group[name].nbytes, file.stat().st_size)
    columns = {name: np.asarray(group[name][...]) for name in group}
    text = {
        name: _texts(_decoded(values)) if values.dtype.kind in "SO" else values.astype(str).tolist()
        for name, values in columns.items()
    }
    if len({len(values) for values in text.values()}) > 1:
        raise ValueError(f"{what} metadata of {str(file)!r} differ in length.")
    names = _names(text.pop("id"), what, file)
    table = {name: typed(values, MISSING) for name, values in text.items()}
    out = pd.DataFrame(table, index=names)
    out.columns = pd.Index(writable_names(out.columns))
    return out


def _decoded(values: NDArray[Any]) -> list[str]:
    return [_text(value) if isinstance(value, bytes) else str(value) for value in values]


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
