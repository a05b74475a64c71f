"""Tables of image profiles, as CellProfiler, pycytominer, DeepProfiler and Harmony write them."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._errors import listing, missing_key
from cellfuse.io._bookkeeping import identifies, is_metadata, without_prefix
from cellfuse.io._paths import PathLike
from cellfuse.io._sqlite import is_sqlite, read_sqlite
from cellfuse.io._tables import (
    is_parquet,
    numbers_or_words,
    read_parquet,
    read_table,
    writable_names,
)
from cellfuse.io._values import NO_NUMBER, joined, number_of, typed

__all__ = ["read_profiles"]

logger = logging.getLogger("cellfuse")

TEXTS = (".csv", ".tsv", ".txt")


def read_profiles(
    path: PathLike | Sequence[PathLike],
    *,
    metadata_prefix: str = "Metadata_",
    metadata: Collection[str] = (),
    strip_prefix: bool = False,
    features: Sequence[str] | None = None,
    obs_names: str | Sequence[str] | None = None,
    missing: Collection[str] = ("",),
    drop_missing: bool = False,
) -> AnnData:
    r"""Read profiles of wells or cells from a table.

    Parameters
    ----------
    path
        Table (``.csv``, ``.tsv``, ``.txt``, each also ``.gz`` or ``.zip``; ``.parquet``; a
        ``.sqlite`` of CellProfiler or cytominer-database, of which images and objects are joined),
        or several of them with the same features, such as one per plate. Texts may be in any
        encoding, with commas, tabs or semicolons, and may begin as a Harmony export does
        (``[Data]``), whose first lines become obs columns.
    metadata_prefix
        Columns whose name starts so go to obs, also after that of the image or of a compartment
        (``Image_Metadata_Well``).
    metadata
        Further columns that go to obs, such as doses and plates whose names do not say so.
    strip_prefix
        Leave the prefix away in obs: ``Metadata_Well`` becomes ``Well``.
    features
        Columns that are features; default all numeric columns that are no metadata, other than
        bookkeeping: CellProfiler's numbers of images and objects (``ImageNumber``, ``Parent_...``),
        groups, sizes, scalings, run times and errors, and columns called plate, well, row, column,
        site, field, dose and the like. Those go to obs, as all text does.
    obs_names
        Column or columns whose joint value names the profiles; default the file's name and the
        row, ``plate1:0``.
    missing
        What stands for nothing among words of the metadata, such as ``("", "NA")`` for a table out
        of R. Only the empty text by default, since NA, nan, null and None are names of genes and of
        untreated wells too; a message says where they occur. Among numbers they are missing ones.
    drop_missing
        Leave out features that have NaN or infinite values. Without it they are kept, and a
        message (logger ``"cellfuse"``) says how many there are.

    Returns
    -------
    AnnData
        X is float32 (profiles, features). obs: numbers where all values of a column are numbers in
        every file, else text; barcodes that begin with 0 stay as they are.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    KeyError
        A column that was named is not in the table.
    ImportError
        Parquet without pyarrow: ``pip install cellfuse[parquet]``.
    ValueError
        The table is empty or damaged, has rows of other lengths than its header or no features;
        words stand among the numbers of a feature; features differ between files; columns or
        profiles of one name.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> file = Path(tempfile.mkdtemp()) / "plate1.csv"
    >>> _ = file.write_text("Metadata_Well,Cells_AreaShape_Area\nA01,310\nA02,290\n")
    >>> plate = cf.io.read_profiles(file)
    >>> plate.obs["Metadata_Well"].tolist(), plate.X.ravel().tolist(), list(plate.obs_names)
    (['A01', 'A02'], [310.0, 290.0], ['plate1:0', 'plate1:1'])
    """
    files = [Path(path)] if isinstance(path, str | os.PathLike) else [Path(p) for p in path]
    if not files:
        raise ValueError("the list of files is empty.")

    def numeric(name: str) -> bool:
        if features is not None:
            return name in features
        return not (name in metadata or is_metadata(name, metadata_prefix) or identifies(name))

    tables = [_table(file, numeric, features) for file in files]
    chosen = [
        _features(table, file, numeric, features) for table, file in zip(tables, files, strict=True)
    ]
    for names, file in zip(chosen, files, strict=True):
        _check_same(chosen[0], names, files[0], file)
    parts, index = [], []
    for table, file in zip(tables, files, strict=True):
        parts.append(_values(table, chosen[0], file))
        stem = file.name.split(".")[0]
        index += [f"{stem}:{i}" for i in range(len(table))]
    rest = [table.drop(columns=chosen[0]) for table in tables]
    for name in metadata:
        if all(name not in table.columns for table in rest):
            raise missing_key(name, list(rest[0].columns), what="the columns of the table")
    obs = _metadata(rest, [_is_text(file) for file in files], missing)
    obs.index = pd.Index(index) if obs_names is None else _joint(obs, obs_names)
    if not obs.index.is_unique:
        twice = obs.index[obs.index.duplicated()].unique()
        raise ValueError(
            f"profiles have the same name: {listing(twice, 4)}; choose other columns as "
            "`obs_names` (or rename the files, if they have one name)."
        )
    if strip_prefix:
        obs.columns = _stripped(obs.columns, metadata_prefix)
    obs.columns = pd.Index(writable_names(obs.columns))
    matrix = parts[0] if len(parts) == 1 else np.concatenate(parts)
    adata = AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(chosen[0])))
    return _without_missing(adata, drop=drop_missing)


def _is_text(file: Path) -> bool:
    return not is_parquet(file) and not is_sqlite(file)


def _told(
    table: pd.DataFrame, file: Path, numeric: Callable[[str], bool], features: Sequence[str] | None
) -> pd.DataFrame:
    """Texts of a parquet file stay texts, unless they are named as features; numbers are told."""
    for name in filter(numeric, table.columns):
        if pd.api.types.is_numeric_dtype(table[name]):
            continue
        texts = table[name].astype(object).where(table[name].notna(), "").map(str)
        if features is not None:
            table[name] = numbers_or_words(texts, name, file, ",")
        elif texts.map(number_of).notna().mean() > 0.5:
            logger.warning(
                "%s: column %r is text in the file, although most of it is numbers; it is taken "
                "for metadata. Name it in `features` if it is one.",
                file.name,
                name,
            )
    return table


def _table(
    file: Path, numeric: Callable[[str], bool], features: Sequence[str] | None
) -> pd.DataFrame:
    if is_parquet(file):
        table = _told(read_parquet(file), file, numeric, features)
    elif is_sqlite(file):
        table = read_sqlite(file, numeric)
    elif file.name.lower().removesuffix(".gz").removesuffix(".zip").endswith(TEXTS):
        table = read_table(file, numeric=numeric)
    else:
        raise ValueError(
            f"{str(file)!r} cannot be read as a table: its name ends in none of .csv, .csv.gz, "
            ".tsv, .txt, .parquet, .sqlite."
        )
    if table.empty:
        raise ValueError(f"{str(file)!r} holds no profile: {table.shape[1]} columns, no rows.")
    return table


def _features(
    table: pd.DataFrame, file: Path, numeric: Callable[[str], bool], features: Sequence[str] | None
) -> list[str]:
    if features is not None:
        for name in features:
            if name not in table.columns:
                raise missing_key(name, list(table.columns), what=f"the columns of {str(file)!r}")
        return list(features)
    found = [name for name in table.select_dtypes(["number"]).columns if numeric(name)]
    if not found:
        raise ValueError(
            f"{str(file)!r} has no numeric column beside the metadata; its columns are "
            f"{listing(table.columns)}. Name the features with `features`."
        )
    return found


def _metadata(
    tables: list[pd.DataFrame], texts: list[bool], missing: Collection[str]
) -> pd.DataFrame:
    """Columns of all files together, each of one type."""
    columns = list(dict.fromkeys(name for table in tables for name in table.columns))
    obs = {}
    for name in columns:
        # A column that one file lacks is missing there.
        parts = [
            table[name] if name in table.columns else pd.Series(np.full(len(table), np.nan))
            for table in tables
        ]
        if all(text or name not in t.columns for text, t in zip(texts, tables, strict=True)):
            values = pd.concat([part.astype(object).fillna("") for part in parts])
            obs[name] = typed(values.to_numpy(dtype=object), missing)
            _say_words(name, obs[name])
        else:
            obs[name] = joined(parts).to_numpy()
    return pd.DataFrame(obs, index=range(sum(map(len, tables))))


def _say_words(name: str, values: np.ndarray) -> None:
    """Tell of words that may be meant for nothing: they are kept as they are written."""
    if values.dtype != object:
        return
    words, counts = np.unique([v for v in values if isinstance(v, str)], return_counts=True)
    odd = [f"{w} ({n})" for w, n in zip(words, counts, strict=True) if w.lower() in NO_NUMBER]
    if odd:
        logger.warning(
            "read_profiles: column %r holds %s, kept as words; if they stand for nothing, name "
            "them in `missing`.",
            name,
            listing(odd),
        )


def _check_same(first: list[str], names: list[str], file: Path, other: Path) -> None:
    if set(first) != set(names):
        only = sorted(set(first) ^ set(names))
        raise ValueError(
            f"{str(file)!r} and {str(other)!r} differ in {len(only)} features: {listing(only, 4)}. "
            "Name those to be read with `features`."
        )


def _values(table: pd.DataFrame, names: list[str], file: Path) -> np.ndarray:
    for name in names:
        if not pd.api.types.is_numeric_dtype(table[name]):
            words = [str(v) for v in table[name].unique() if number_of(str(v)) is None]
            raise ValueError(
                f"column {name!r} of {str(file)!r} is no feature: it holds {listing(words, 4)}."
            )
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, and is told of
        return table[names].to_numpy(dtype=np.float32, na_value=np.nan)


def _joint(obs: pd.DataFrame, keys: str | Sequence[str]) -> pd.Index:
    names = [keys] if isinstance(keys, str) else list(keys)
    for name in names:
        if name not in obs.columns:
            raise missing_key(name, list(obs.columns), what="the metadata of the table")
    return pd.Index(obs[names].astype(str).agg("_".join, axis=1))


def _stripped(columns: pd.Index, prefix: str) -> pd.Index:
    names = pd.Index([without_prefix(name, prefix) for name in columns])
    if not names.is_unique:
        raise ValueError(
            f"without the prefix {prefix!r}, columns have the same name: "
            f"{listing(names[names.duplicated()])}; keep it (`strip_prefix=False`)."
        )
    return names


def _without_missing(adata: AnnData, *, drop: bool) -> AnnData:
    bad = ~np.isfinite(adata.X).all(axis=0)
    if not bad.any():
        return adata
    names = listing(adata.var_names[bad], 4)
    if not drop:
        logger.info(
            "read_profiles: %d features have missing or infinite values: %s.", bad.sum(), names
        )
        return adata
    logger.info(
        "read_profiles: left out %d features with missing or infinite values: %s.", bad.sum(), names
    )
    if bad.all():
        raise ValueError("every feature has missing values; none is left.")
    return adata[:, ~bad].copy()
