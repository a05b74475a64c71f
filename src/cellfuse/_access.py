"""One way into AnnData and MuData: modalities, columns, representations, controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._errors import listing, missing_key
from cellfuse._labels import label_codes, label_list, label_text, text_of

__all__ = [
    "Data",
    "check_finite",
    "check_key",
    "check_rows",
    "check_tables",
    "column_list",
    "constant_columns",
    "control_labels",
    "context_codes",
    "context_labels",
    "control_mask",
    "is_mudata",
    "matrix_of",
    "label_codes",
    "label_list",
    "label_text",
    "layers_of",
    "pair_labels",
    "modalities",
    "obs_column",
    "one_column",
    "profile_labels",
    "per_modality",
    "per_side",
    "profiles_only",
    "refuse_view",
    "representation",
    "stored_x",
    "take_rows",
    "text_of",
]

Data: TypeAlias = AnnData | MuData
T = TypeVar("T")


def is_mudata(data: object) -> bool:
    """Tell MuData from AnnData, and refuse anything else."""
    if isinstance(data, MuData):
        return True
    if isinstance(data, AnnData):
        return False
    raise TypeError(f"expected an AnnData or a MuData, found {type(data).__name__}.")


def modalities(data: Data) -> dict[str, AnnData]:
    """All modalities by name; a lone AnnData is one modality named ``""``."""
    if not is_mudata(data):
        check_tables(data)
        return {"": data}
    mods = {str(name): mod for name, mod in data.mod.items()}
    if not mods:
        raise ValueError("the MuData holds no modality.")
    return mods


def per_modality(value: T | Mapping[str, T], modality: str, *, name: str) -> T:
    """Resolve an argument that may be a dict with one entry per modality."""
    if not isinstance(value, Mapping):
        return value
    if modality not in value:
        raise missing_key(
            modality,
            list(value),
            what=f"the dict given as `{name}`",
            fix=f"Give `{name}` one entry for each modality.",
        )
    return value[modality]


def per_side(value: Any, sides: tuple[str, str], *, name: str) -> tuple[Any, Any]:
    """Resolve an argument that may be a pair, or a dict by `sides`; one value is for both."""
    if isinstance(value, Mapping):
        first, second = (per_modality(value, side, name=name) for side in sides)
        return first, second
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(
                f"{name}={value!r}: expected one value, or two ({' and '.join(sides)})."
            )
        return value[0], value[1]
    return value, value


def check_key(key: object, *, name: str = "key_added") -> str:
    """Refuse a key that no file can hold: h5ad and zarr take ``/`` for a folder."""
    if not isinstance(key, str) or not key or "/" in key:
        raise ValueError(
            f"{name}={key!r}: expected a name without '/', which h5ad and zarr files cannot hold."
        )
    return key


def profiles_only(data: object) -> AnnData:
    """Refuse anything but an AnnData of profiles."""
    if is_mudata(data):
        raise TypeError(
            "expected an AnnData with one row per profile, found a MuData; "
            "`cellfuse.tl.aggregate(mdata, by=...)` makes one."
        )
    assert isinstance(data, AnnData)
    check_tables(data)
    return data


def refuse_view(adata: AnnData, *, modality: str = "") -> None:
    """Refuse to write into a view: the write would land in a hidden copy, or in the parent."""
    if adata.is_view:
        name = f"modality {modality!r}" if modality else "the AnnData"
        raise ValueError(
            f"{name} is a view of a larger object, into which nothing is written; "
            "make it its own object first: `data = data.copy()`."
        )


def check_rows(data: Data) -> None:
    """Refuse to take rows of tables that anndata cannot take rows of."""
    for modality, adata in modalities(data).items():
        for name, columns in (("obs", adata.obs.columns), ("var", adata.var.columns)):
            twice = columns[columns.duplicated()].unique()
            if len(twice):
                raise ValueError(
                    f"{name}{where(modality)} has several columns named {listing(twice)}, of which "
                    f"anndata takes no rows; rename or drop all but one: `adata.{name} = "
                    f"adata.{name}.loc[:, ~adata.{name}.columns.duplicated()]`."
                )


def where(modality: str) -> str:
    """Name a modality in an error text."""
    return f" of modality {modality!r}" if modality else ""


def obs_column(adata: AnnData, key: str, *, modality: str = "", missing: bool = False) -> pd.Series:
    """Return ``adata.obs[key]``, refusing an absent column and (by default) missing values."""
    check_tables(adata, modality=modality)
    if key not in adata.obs.columns:
        raise missing_key(key, list(adata.obs.columns), what=f"obs{where(modality)}")
    column = adata.obs[key]
    if isinstance(column, pd.DataFrame):
        raise ValueError(
            f"obs{where(modality)} has {column.shape[1]} columns named {key!r}; rename or drop all "
            "but one."
        )
    n_missing = int(column.isna().sum())
    if n_missing and not missing:
        raise ValueError(
            f"obs[{key!r}]{where(modality)} is missing (NaN) for {n_missing} of {len(column)} "
            f"cells. Drop them (`adata[adata.obs[{key!r}].notna()].copy()`) or fill them in."
        )
    return column


def column_list(keys: str | Iterable[str] | None) -> list[str]:
    """Columns that an argument names: none, one, or several in any container."""
    return [] if keys is None else [keys] if isinstance(keys, str) else list(keys)


def one_column(key: object, *, name: str) -> str:
    """Return the one obs column that an argument names, on its own or in a container."""
    several = column_list(key)  # type: ignore[arg-type]
    if len(several) != 1:
        raise ValueError(
            f"`{name}` names one obs column, found {len(several)}: {several}. Join them into one "
            "first, such as obs['joint'] = obs['a'].astype(str) + ' | ' + obs['b'].astype(str)."
        )
    return several[0]


def context_labels(
    adata: AnnData, keys: str | Iterable[str], *, modality: str = "", missing: bool = False
) -> pd.Series:
    """Joint label of one or several obs columns, as text (``"a | b"`` for several).

    With `missing` a row without a label gets None; else it is an error.
    """
    codes, names = context_codes(adata, keys, modality=modality, missing=missing)
    text: Any = np.array([*names, None], dtype=object)[codes]
    return pd.Series(pd.Index(text, dtype=object), index=adata.obs_names)


def context_codes(
    adata: AnnData, keys: str | Iterable[str], *, modality: str = "", missing: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    """Number of each cell's joint label, and the labels, sorted: no text is made per cell.

    With `missing` a row without a label gets -1; else it is an error.
    """
    columns = column_list(keys)
    if not columns:
        raise ValueError("no obs column was named to group by.")
    codes, names = _column_codes(adata, columns[0], modality, missing)
    for column in columns[1:]:
        own, texts = _column_codes(adata, column, modality, missing)
        pair = np.where((codes >= 0) & (own >= 0), codes * len(texts) + own, -1)
        place, pairs = pd.factorize(pair)
        codes = np.where(pair >= 0, place, -1)
        first, second = np.divmod(pairs, max(1, len(texts)))
        # A row without a label has a text that no row is given.
        names = np.append(names, "")[first] + " | " + np.append(texts, "")[second]
    used = np.bincount(codes[codes >= 0], minlength=len(names)) > 0
    order = pd.Index(sorted(set(names[used])), dtype=object)
    place = np.append(order.get_indexer(pd.Index(names, dtype=object)), -1)
    return place[codes], order.to_numpy(object)


def _column_codes(
    adata: AnnData, key: str, modality: str, missing: bool
) -> tuple[NDArray[np.intp], NDArray[np.object_]]:
    column = obs_column(adata, key, modality=modality, missing=missing)
    try:
        return label_codes(column)
    except TypeError as error:
        raise TypeError(f"obs[{key!r}]{where(modality)} holds no labels: {error}.") from error


def profile_labels(adata: AnnData, key: str | None) -> NDArray:
    """Labels of profiles as text: of an obs column, or (None) the names of the rows.

    Entrez numbers that pandas took for floats name rows ``"7157.0"``; everywhere else they are
    ``"7157"``, so that names go by the one rule as well.
    """
    if key is None:
        return label_text(adata.obs_names).to_numpy(str)
    return context_labels(adata, key).to_numpy(str)


def has_label(column: pd.Series) -> NDArray[np.bool_]:
    """Rows that hold a label: neither NaN nor empty text."""
    return (column.notna() & (column.astype(str).str.strip() != "")).to_numpy(bool, copy=True)


def pair_labels(
    pairs: pd.DataFrame, columns: tuple[str, ...] = ("source", "target")
) -> pd.DataFrame:
    """Columns of a table of pairs as text, None where one is missing, in a frame of their own."""
    return pd.DataFrame(
        {name: np.asarray(label_text(pairs[name])) for name in columns}, index=pairs.index
    )


def layers_of(adata: AnnData) -> dict[str, Any]:
    """Layers by name; anndata 0.13 counts X among them, under None, also where there is none."""
    return {name: adata.layers[name] for name in adata.layers if name is not None}


def check_tables(adata: AnnData, *, modality: str = "") -> None:
    """Refuse obs and var that were left on the disk: they are small, and every verb reads them."""
    lazy = [name for name in ("obs", "var") if not isinstance(getattr(adata, name), pd.DataFrame)]
    if lazy:
        fix = "; ".join(f"`adata.{name} = adata.{name}.to_memory()`" for name in lazy)
        raise TypeError(
            f"{' and '.join(lazy)}{where(modality)}: on the disk (opened by "
            f"`anndata.experimental.read_lazy`). Read the tables, the arrays may stay: {fix}."
        )


def stored_x(adata: AnnData) -> Any:
    """X as it is stored; None where there is none, in memory or in a file."""
    try:
        return adata.X
    except KeyError:  # anndata opens a file without X and only then looks for it
        return None


def matrix_of(
    adata: AnnData,
    layer: str | None,
    *,
    modality: str = "",
    fix: str = "give `layer`, the name of the layer of counts",
) -> tuple[Any, str]:
    """A layer, or X for None, as it is stored, and its name for a message."""
    if layer is not None:
        if layer not in adata.layers:
            raise missing_key(layer, list(layers_of(adata)), what=f"layers{where(modality)}")
        return adata.layers[layer], f"layers[{layer!r}]{where(modality)}"
    stored = stored_x(adata)
    if stored is None or not adata.n_vars:
        raise ValueError(f"X{where(modality)} is empty; {fix}.")
    return stored, f"X{where(modality)}"


def representation(
    adata: AnnData, use_rep: str | None, *, modality: str = "", on_disk: bool = False
) -> Any:
    """Return ``obsm[use_rep]`` (``X`` for None) as it is stored, two-dimensional, not empty.

    A sparse matrix on a disk is refused unless `on_disk` says that the caller can read it.
    """
    if use_rep is None or use_rep == "X":
        array, name = stored_x(adata), "X"
        if array is None:
            raise ValueError(f"X{where(modality)} is empty; give `use_rep`, an obsm key.")
    else:
        if use_rep not in adata.obsm:
            raise missing_key(use_rep, list(adata.obsm), what=f"obsm{where(modality)}")
        array, name = adata.obsm[use_rep], f"obsm[{use_rep!r}]"
    if isinstance(array, pd.DataFrame):
        array = array.to_numpy()
    if not hasattr(array, "ndim") and not on_disk:
        raise TypeError(
            f"{name}{where(modality)} is a sparse matrix on disk ({type(array).__name__}); read it "
            "first: `adata = adata.to_memory()`."
        )
    if len(array.shape) != 2:
        raise ValueError(
            f"{name}{where(modality)} has shape {tuple(array.shape)}; expected (cells, features)."
        )
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{name}{where(modality)} is empty: shape {tuple(array.shape)}.")
    return array


def take_rows(values: Any, rows: np.ndarray) -> Any:
    """Rows in any order; an array in a file gives them in ascending order only."""
    if isinstance(values, np.ndarray) or hasattr(values, "tocsr"):
        return values[rows]
    ascending, place = np.unique(rows, return_inverse=True)
    return values[ascending][place]


def check_finite(array: Any, name: str) -> None:
    """Refuse NaN and inf, with their number and the first row concerned."""
    values = array.data if hasattr(array, "tocsr") else array
    # A sum is finite exactly when no element is NaN or inf (or it overflows: then look closely).
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.sum(values, dtype=np.float64)):
            return
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    if hasattr(array, "tocsr"):
        first = int(np.nonzero(~np.isfinite(array.tocsr().sum(axis=1)))[0][0])
    else:
        first = int(np.nonzero(bad.any(axis=tuple(range(1, bad.ndim))))[0][0])
    raise ValueError(
        f"{name} holds {int(bad.sum())} NaN or infinite values (first in row {first}). "
        "Remove those cells or features, or fill the values in, before this step."
    )


def control_labels(control: object, *, name: str = "control") -> list[str]:
    """Labels of the controls as text, at least one: a filter that found none is a slip."""
    labels = label_list(control, name=name)
    if not labels:
        raise ValueError(
            f"`{name}` holds no label; None says that there are no controls, or that all cells are "
            "to be used."
        )
    return labels


def control_mask(
    adata: AnnData, control_key: str, control: object, *, modality: str = ""
) -> np.ndarray:
    """Boolean mask of the control cells; an absent label is an error that shows the likely one."""
    # A missing label is no control.
    codes, names = context_codes(adata, control_key, modality=modality, missing=True)
    present = list(names)
    labels = control_labels(control)
    for label in labels:
        if label not in present:
            raise missing_key(
                label,
                present,
                what=f"obs[{control_key!r}]{where(modality)}",
                fix="Give `control` the label of the control cells, or None to use all cells.",
            )
    return np.append(np.isin(names, labels), False)[codes]


def constant_columns(
    obs: pd.DataFrame, codes: NDArray, n_groups: int
) -> tuple[pd.DataFrame, dict[str, bool]]:
    """Columns with one value (or none) in each group, as one row per group.

    Parameters
    ----------
    codes
        Group of each row, negative in none; every group has a row.

    Returns
    -------
    The columns, a row per group, and of every column whether it is one of them.
    """
    inside = np.flatnonzero(codes >= 0)
    group = codes[inside]
    first = np.empty(n_groups, dtype=np.intp)
    first[group[::-1]] = inside[::-1]
    # Two columns of one name, and lists, say nothing that a group could be labelled by.
    names = list(obs.columns[~obs.columns.duplicated(keep=False)])
    constant = {}
    for name in names:
        try:
            value = pd.factorize(obs[name])[0]
        except TypeError:
            constant[str(name)] = False
        else:
            constant[str(name)] = bool(np.all(value[inside] == value[first][group]))
    return obs.iloc[first][[name for name in names if constant[str(name)]]], constant
