"""What is known of wells, from a table of its own: plate maps, compound lists, mechanisms."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._errors import listing, missing_key
from cellfuse.io._paths import PathLike
from cellfuse.io._tables import is_parquet, read_parquet, read_table, writable_names
from cellfuse.io._values import as_text, typed

__all__ = ["add_metadata"]

logger = logging.getLogger("cellfuse")

#: Stands between the parts of a joint key.
BETWEEN = "\x1f"
#: Stands for a key that is missing, which equals no word.
NOTHING = "(missing)\x1e"


def add_metadata(
    adata: AnnData,
    table: PathLike | pd.DataFrame,
    *,
    on: str | Sequence[str] | Mapping[str, str],
    columns: Collection[str] | None = None,
    missing: str = "raise",
    overwrite: bool = False,
) -> None:
    """Add the columns of a table to obs, by the wells (or compounds) that both name.

    Keys are compared as they are written: plate 0012 is not plate 12, as it would be where one of
    them went through numbers; a key 7 equals "7" and 7.0.

    Parameters
    ----------
    adata
        Cells or profiles. obs gets the columns.
    table
        CSV, TSV (plain, gzip, zip, any encoding), parquet, or a data frame, with one row per key.
    on
        Column or columns, of obs and of the table, whose joint value is the key; a dict
        ``{"Metadata_Well": "well_position"}`` where they are called differently.
    columns
        Columns of the table to add; default all others.
    missing
        What to do with keys of obs that the table lacks: ``"raise"``, or ``"keep"`` them with
        missing values and a message (logger ``"cellfuse"``).
    overwrite
        Replace obs columns of the same name.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    KeyError
        A column is absent.
    ValueError
        A key stands twice in the table with different values, keys of obs are not in the table, or
        an obs column exists.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import cellfuse as cf
    >>> obs = pd.DataFrame({"well": ["A01", "A02"]}, index=["a", "b"])
    >>> wells = ad.AnnData(np.ones((2, 1), np.float32), obs=obs)
    >>> plate_map = pd.DataFrame({"position": ["A02", "A01"], "compound": ["x", "DMSO"]})
    >>> cf.io.add_metadata(wells, plate_map, on={"well": "position"})
    >>> wells.obs["compound"].tolist()
    ['DMSO', 'x']
    """
    if missing not in ("raise", "keep"):
        raise ValueError(f"missing={missing!r}; expected 'raise' or 'keep'.")
    given, name, is_text = _read(table)
    names = dict(on) if isinstance(on, Mapping) else {key: key for key in _several(on)}
    for mine, theirs in names.items():
        if mine not in adata.obs.columns:
            raise missing_key(mine, list(adata.obs.columns), what="obs")
        if theirs not in given.columns:
            raise missing_key(theirs, list(given.columns), what=f"the columns of {name}")
    new = [c for c in given.columns if c not in names.values()] if columns is None else columns
    for column in new:
        if column not in given.columns:
            raise missing_key(column, list(given.columns), what=f"the columns of {name}")
    taken = [c for c in writable_names(pd.Index(list(new))) if c in adata.obs.columns]
    if taken and not overwrite:
        raise ValueError(
            f"obs has {listing(taken)} already; name the `columns` to add, or pass "
            "`overwrite=True`."
        )
    given = given[given[list(names.values())].notna().all(axis=1)]
    rows = _rows(adata.obs[list(names)], given[list(names.values())], given[list(new)], name)
    _report(rows, adata.obs[list(names)], given[list(names.values())], name, missing)
    for column, written in zip(new, writable_names(pd.Index(list(new))), strict=True):
        values = given[column].to_numpy(dtype=object)
        out = np.full(len(rows), "" if is_text else np.nan, dtype=object)
        out[rows >= 0] = values[rows[rows >= 0]]
        typed_values = typed(out) if is_text else pd.Series(out).infer_objects().to_numpy()
        adata.obs[written] = typed_values


def _several(keys: str | Sequence[str]) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys)


def _read(table: PathLike | pd.DataFrame) -> tuple[pd.DataFrame, str, bool]:
    """The table, what to call it, and whether its values are still as they were written."""
    if isinstance(table, pd.DataFrame):
        return table, "the table", False
    file = Path(table)
    if is_parquet(file):
        return read_parquet(file), repr(str(file)), False
    return read_table(file), repr(str(file)), True


def _joint(frame: pd.DataFrame) -> pd.Index:
    """Keys of several columns as one text each, with a letter between them that no name has."""
    parts = [as_text(frame[column]) for column in frame.columns]
    parts = [np.where(pd.isna(part), NOTHING, part) for part in parts]
    return pd.Index([BETWEEN.join(key) for key in zip(*parts, strict=True)], dtype=object)


def _shown(keys: Iterable[str]) -> list[str]:
    return [key.replace(BETWEEN, ", ").replace("\x1e", "") for key in keys]


def _rows(mine: pd.DataFrame, theirs: pd.DataFrame, values: pd.DataFrame, name: str) -> np.ndarray:
    """Row of the table for each row of obs, -1 for none."""
    keys = _joint(theirs)
    twice = keys.duplicated(keep=False)
    if twice.any():
        differs = values.astype(str).set_axis(keys, axis=0)[twice].groupby(level=0).nunique() > 1
        bad = differs.index[differs.any(axis=1)]
        if len(bad):
            raise ValueError(
                f"{len(bad)} keys stand twice in {name} with different values, such as "
                f"{listing(_shown(bad), 3)}; name another column in "
                " `on`, such as the plate."
            )
    first = pd.Series(np.arange(len(keys)), index=keys)[~keys.duplicated()]
    return first.reindex(_joint(mine)).fillna(-1).to_numpy(dtype=np.int64)


def _report(
    rows: np.ndarray, mine: pd.DataFrame, theirs: pd.DataFrame, name: str, missing: str
) -> None:
    lacking = rows < 0
    if not lacking.any():
        return
    keys, like = _shown(_joint(mine)[lacking].unique()), _shown(_joint(theirs)[:3])
    text = (
        f"{int(lacking.sum())} of {len(rows)} rows are not in {name}: {listing(keys, 4)}; its keys "
        f"are like {listing(like)}."
    )
    if missing == "raise" or lacking.all():
        raise ValueError(f"{text} Are they written alike (A1 and A01, 12 and 0012)?")
    logger.info("add_metadata: %s", text)
