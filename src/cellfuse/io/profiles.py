"""Tables of image profiles, as CellProfiler, pycytominer and DeepProfiler write them."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._errors import listing, missing_key
from cellfuse.io.fields import PathLike

__all__ = ["read_profiles"]

logger = logging.getLogger("cellfuse")

#: Numbers of a CellProfiler table that say which object a row is, and nothing of its appearance.
IDENTIFIERS = frozenset({"ImageNumber", "ObjectNumber", "TableNumber", "Number_Object_Number"})
IDENTIFIER_PREFIXES = ("FileName_", "PathName_", "Parent_", "Children_", "MD5Digest_", "URL_")


def read_profiles(
    path: PathLike | Sequence[PathLike],
    *,
    metadata_prefix: str = "Metadata_",
    strip_prefix: bool = False,
    features: Sequence[str] | None = None,
    obs_names: str | Sequence[str] | None = None,
    drop_missing: bool = False,
) -> AnnData:
    r"""Read profiles of wells or cells from a table.

    Parameters
    ----------
    path
        Table (``.csv``, ``.csv.gz``, ``.tsv``, ``.tsv.gz``, ``.txt`` with tabs, ``.parquet``), or
        several of them with the same features, such as one per plate.
    metadata_prefix
        Columns whose name starts so go to obs.
    strip_prefix
        Leave the prefix away in obs: ``Metadata_Well`` becomes ``Well``.
    features
        Columns that are features; default all numeric columns that are no metadata, other than
        CellProfiler's numbers of images and objects (``ImageNumber``, ``ObjectNumber``,
        ``Parent_...``, ``Children_...``), which go to obs, as all text does.
    obs_names
        Column or columns whose joint value names the profiles; default the file's name and the
        row, ``plate1:0``.
    drop_missing
        Leave out features that have NaN or infinite values. Without it they are kept, and a
        message (logger ``"cellfuse"``) says how many there are.

    Returns
    -------
    AnnData
        X is float32 (profiles, features).

    Raises
    ------
    FileNotFoundError
        There is no such file.
    KeyError
        A column that was named is not in the table.
    ValueError
        The table is empty or damaged, has no features, or they differ between files; names of
        profiles occur twice.

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
    tables = [_read_table(file) for file in files]
    chosen = [
        _features(table, file, metadata_prefix, features)
        for table, file in zip(tables, files, strict=True)
    ]
    for names, file in zip(chosen, files, strict=True):
        _check_same(chosen[0], names, files[0], file)
    parts, index = [], []
    for table, file in zip(tables, files, strict=True):
        parts.append(_values(table, chosen[0], file))
        stem = file.name.split(".")[0]
        index += [f"{stem}:{i}" for i in range(len(table))]
    obs = pd.concat([table.drop(columns=chosen[0]) for table in tables], ignore_index=True)
    obs.index = pd.Index(index) if obs_names is None else _joint(obs, obs_names)
    if not obs.index.is_unique:
        twice = obs.index[obs.index.duplicated()].unique()
        raise ValueError(
            f"profiles have the same name: {listing(twice, 4)}; choose other columns as "
            "`obs_names` (or rename the files, if they have one name)."
        )
    if strip_prefix:
        obs.columns = _stripped(obs.columns, metadata_prefix)
    matrix = parts[0] if len(parts) == 1 else np.concatenate(parts)
    adata = AnnData(matrix, obs=obs, var=pd.DataFrame(index=pd.Index(chosen[0])))
    return _without_missing(adata, drop=drop_missing)


def _read_table(file: Path) -> pd.DataFrame:
    if not file.is_file():
        raise FileNotFoundError(f"{str(file)!r} does not exist.")
    name = file.name.lower().removesuffix(".gz")
    try:
        if name.endswith((".parquet", ".pq")):
            table = pd.read_parquet(file)
        elif name.endswith((".csv", ".tsv", ".txt")):
            # Columns with mixed rows are looked at whole, not in pieces of unequal type.
            tab = "," if name.endswith(".csv") else "\t"
            table = pd.read_csv(file, sep=tab, low_memory=False)
        else:
            raise ValueError("its name ends in none of .csv, .csv.gz, .tsv, .txt, .parquet")
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{str(file)!r} cannot be read as a table: {error}.") from error
    if table.empty:
        raise ValueError(f"{str(file)!r} holds no profile: {table.shape[1]} columns, no rows.")
    table.columns = table.columns.astype(str)
    return table


def _features(
    table: pd.DataFrame, file: Path, prefix: str, features: Sequence[str] | None
) -> list[str]:
    if features is not None:
        for name in features:
            if name not in table.columns:
                raise missing_key(name, list(table.columns), what=f"the columns of {str(file)!r}")
        return list(features)
    numeric = table.select_dtypes(["number"]).columns
    found = [name for name in numeric if not name.startswith(prefix) and not _identifies(name)]
    if not found:
        raise ValueError(
            f"{str(file)!r} has no numeric column beside the metadata ({prefix!r}); its columns "
            f"are {listing(table.columns)}."
        )
    return found


def _identifies(name: str) -> bool:
    """Tell numbers of images and objects, with or without a compartment (``Cells_Parent_...``)."""
    rest = name.split("_", 1)[-1]
    return bool({name, rest} & IDENTIFIERS) or any(
        text.startswith((*IDENTIFIER_PREFIXES, "Unnamed: ")) for text in (name, rest)
    )


def _check_same(first: list[str], names: list[str], file: Path, other: Path) -> None:
    if set(first) != set(names):
        only = sorted(set(first) ^ set(names))
        raise ValueError(
            f"{str(file)!r} and {str(other)!r} differ in {len(only)} features: {listing(only, 4)}. "
            "Name those to be read with `features`."
        )


def _values(table: pd.DataFrame, names: list[str], file: Path) -> np.ndarray:
    try:
        return table[names].to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        bad = next(n for n in names if not pd.api.types.is_numeric_dtype(table[n]))
        raise ValueError(f"column {bad!r} of {str(file)!r} is no feature: {error}.") from error


def _joint(obs: pd.DataFrame, keys: str | Sequence[str]) -> pd.Index:
    names = [keys] if isinstance(keys, str) else list(keys)
    for name in names:
        if name not in obs.columns:
            raise missing_key(name, list(obs.columns), what="the metadata of the table")
    return pd.Index(obs[names].astype(str).agg("_".join, axis=1))


def _stripped(columns: pd.Index, prefix: str) -> pd.Index:
    names = columns.str.removeprefix(prefix)
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
        logger.info("read_profiles: %d features have missing values: %s.", bad.sum(), names)
        return adata
    logger.info("read_profiles: left out %d features with missing values: %s.", bad.sum(), names)
    if bad.all():
        raise ValueError("every feature has missing values; none is left.")
    return adata[:, ~bad].copy()
