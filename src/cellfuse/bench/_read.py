"""A screen from a file, and the part of it that a run needs, checked before anything is trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import is_mudata, obs_column
from cellfuse._errors import listing, missing_key
from cellfuse._mudata import columns_stay, make_mudata
from cellfuse.bench._settings import Settings

__all__ = ["Screen", "has_label", "open_screen", "read_edges", "read_screen", "together"]

ROLES = ("image", "rna")


def together(parts: dict[str, AnnData]) -> MuData:
    """Make a MuData of `parts` without copying them."""
    return make_mudata(parts)


def read_screen(path: str | Path, *, modality: str | None = None) -> MuData:
    """Read a screen from a file.

    Parameters
    ----------
    path
        ``.h5mu``, or ``.h5ad`` for one modality alone.
    modality
        Role of an ``.h5ad``: ``"image"`` or ``"rna"``.

    Returns
    -------
    The MuData.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        Another kind of file, a damaged one, or an ``.h5ad`` without `modality`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(20, n_targets=4, cells_per_guide=2, seed=0)
    >>> file = Path(tempfile.mkdtemp()) / "rna.h5ad"
    >>> mdata["rna"].write_h5ad(file)
    >>> list(cf.bench.read_screen(file, modality="rna").mod)
    ['rna']
    """
    file = Path(path)
    if file.suffix not in (".h5mu", ".h5ad"):
        raise ValueError(f"{str(file)!r} is neither .h5mu nor .h5ad.")
    if not file.is_file():
        near = [p.name for kind in ("*.h5mu", "*.h5ad") for p in sorted(file.parent.glob(kind))]
        raise FileNotFoundError(
            f"there is no file {str(file)!r}; its folder holds {listing(near)} of these kinds."
        )
    if file.suffix == ".h5ad" and modality not in ROLES:
        raise ValueError(
            f"an .h5ad is one modality: say which, 'image' or 'rna' (--modality); found "
            f"{modality!r}."
        )
    if file.suffix == ".h5mu" and modality is not None:
        raise ValueError(
            "`modality` (--modality) is for .h5ad; of an .h5mu name them with `modalities` "
            f"(--modalities {modality}=NAME)."
        )
    try:
        if modality is not None:
            return together({modality: ad.read_h5ad(file)})
        with columns_stay():
            return md.read_h5mu(file)
    except (KeyError, OSError, TypeError, ValueError) as error:  # whatever a reader meets first
        raise ValueError(f"{str(file)!r} could not be read: {error}") from error


def read_edges(path: str | Path) -> pd.DataFrame:
    """Read pairs from a table with the columns ``source``, ``target`` and optionally ``score``."""
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {str(file)!r} (--edges).")
    separator = "\t" if ".tsv" in file.suffixes or ".txt" in file.suffixes else ","
    try:
        # "NA" and "NAN" are names of genes.
        edges = pd.read_csv(file, sep=separator, keep_default_na=False)
    except (EOFError, OSError, ValueError) as error:
        raise ValueError(f"{str(file)!r} (--edges) is no readable table: {error}") from error
    for column in ("source", "target"):
        if column not in edges:
            kind = "tabs" if separator == "\t" else "commas"
            raise missing_key(
                column,
                list(edges),
                what=f"the columns of {str(file)!r} (--edges)",
                fix=f"By its ending the table is read with {kind} between its columns.",
            )
    named = has_label(edges["source"]) & has_label(edges["target"])
    if not named.all():
        raise ValueError(
            f"{int((~named).sum())} of {len(edges)} pairs in {str(file)!r} (--edges) lack a name, "
            f"the first in row {int(np.argmin(named)) + 1}. Take them out."
        )
    if "score" in edges:
        score = pd.to_numeric(edges["score"], errors="coerce")
        if score.isna().any():
            raise ValueError(
                f"{int(score.isna().sum())} of {len(edges)} scores in {str(file)!r} (--edges) are "
                f"no numbers, the first in row {int(np.argmax(score.isna())) + 1}. Take these "
                "pairs out, or the whole column, for pairs that all count."
            )
        edges["score"] = score
    return edges


def has_label(column: pd.Series) -> NDArray[np.bool_]:
    """Rows that hold a label: neither NaN nor empty text."""
    return (column.notna() & (column.astype(str).str.strip() != "")).to_numpy(bool, copy=True)


@dataclass(frozen=True)
class Screen:
    """What a run reads.

    Parameters
    ----------
    mdata
        The modalities that are used: the user's AnnData objects, unless cells are dropped.
    roles
        Name of each role's modality.
    tables
        obs of each modality, in which a context has one target or none (``""``).
    settings
        The choices of the run.
    """

    mdata: MuData
    roles: dict[str, str]
    tables: dict[str, pd.DataFrame]
    settings: Settings

    def cells(self, arrays: dict[str, Any]) -> MuData:
        """Cells with one representation each, ``obsm["rep"]``, and nothing else to carry around."""
        return together(
            {
                name: AnnData(obs=self.tables[name].copy(), obsm={"rep": array})
                for name, array in arrays.items()
            }
        )


def open_screen(mdata: MuData, settings: Settings) -> Screen:
    """Take the modalities that the run reads, refusing what cannot be scored."""
    if not is_mudata(mdata):
        raise TypeError("expected a MuData, found an AnnData; wrap it: `MuData({'rna': adata})`.")
    roles = _roles(mdata, settings)
    parts = {
        name: _with_contexts(mdata.mod[name], settings, modality=name) for name in roles.values()
    }
    for name, adata in parts.items():
        for key in (settings.target_key, settings.colour_key):
            if key is not None:
                obs_column(adata, key, modality=name, missing=True)
        if settings.background_key is not None:
            obs_column(adata, settings.background_key, modality=name)
    used = together(parts)
    used.uns.update(mdata.uns)
    tables = {name: adata.obs.copy() for name, adata in parts.items()}
    if settings.target_key is not None:
        _one_target(tables, settings.target_key, settings.contexts)
    if settings.background_key is not None:
        _one_background(tables, settings)
    return Screen(used, roles, tables, settings)


def _one_background(tables: dict[str, pd.DataFrame], settings: Settings) -> None:
    """Refuse contexts that stand in several backgrounds: their profiles would mix them."""
    key, contexts = settings.background_key, settings.contexts
    if key is None or key in contexts:
        return
    if key == settings.target_key:
        raise ValueError(f"obs[{key!r}] is both the background and the target; name two columns.")
    cells = pd.concat([table[[*contexts, key]].astype(str) for table in tables.values()])
    n_backgrounds = cells.groupby(contexts)[key].nunique()
    several = n_backgrounds.index[n_backgrounds > 1]
    if len(several):
        raise ValueError(
            f"{len(several)} of {len(n_backgrounds)} contexts by {' and '.join(contexts)} have "
            f"cells of several backgrounds in obs[{key!r}] ({listing(several, 3)}). Make the "
            f"background part of the context (--context {','.join([key, *contexts])})."
        )


def _one_target(tables: dict[str, pd.DataFrame], key: str, contexts: list[str]) -> None:
    """Give all cells of a context its target, or none where it has several."""
    if key in contexts:
        for table in tables.values():
            table[key] = table[key].astype(str)
        return
    cells = pd.concat(
        [table[[*contexts, key]].astype(object)[has_label(table[key])] for table in tables.values()]
    ).astype(str)
    if cells.empty:
        raise ValueError(f"no cell has a target in obs[{key!r}] (--target-key).")
    targets = cells.groupby(contexts)[key].agg(["first", "nunique"])
    several = targets.index[targets["nunique"] > 1]
    if 2 * len(several) > len(targets):
        raise ValueError(
            f"obs[{key!r}] (--target-key) differs between cells of the same context "
            f"({' and '.join(contexts)}) in {len(several)} of {len(targets)} contexts "
            f"({listing(several, 3)}). Name a column that is constant within a context, such as "
            "the gene of a guide."
        )
    if len(several):
        warnings.warn(
            f"{len(several)} of {len(targets)} contexts have several targets in obs[{key!r}] "
            f"({listing(several, 3)}): they are not scored.",
            UserWarning,
            stacklevel=3,
        )
    one = targets.loc[targets["nunique"] == 1, "first"].rename(key)
    for table in tables.values():
        labels = table[contexts].astype(str)
        table[key] = labels.join(one, on=contexts)[key].fillna("").to_numpy()


def _roles(mdata: MuData, settings: Settings) -> dict[str, str]:
    found = list(mdata.mod)
    roles = settings.modalities
    if roles is None:
        roles = {role: role for role in ROLES if role in found}
        if not roles:
            raise missing_key(
                "image",
                found,
                what="the MuData's modalities, nor is 'rna'",
                fix="Name them with `modalities` (--modalities image=NAME,rna=NAME).",
            )
    unknown = [role for role in roles if role not in ROLES]
    if unknown:
        raise missing_key(unknown[0], ROLES, what="the roles of `modalities` (--modalities)")
    for name in roles.values():
        if name not in found:
            raise missing_key(name, found, what="the MuData's modalities (--modalities)")
    return {role: roles[role] for role in ROLES if role in roles}


def _with_contexts(adata: AnnData, settings: Settings, *, modality: str) -> AnnData:
    """Refuse, or leave out, cells without a context."""
    kept = np.ones(adata.n_obs, dtype=bool)
    for key in settings.contexts:
        kept &= has_label(obs_column(adata, key, modality=modality, missing=True))
    n_missing = int((~kept).sum())
    if not n_missing:
        return adata
    keys = " or ".join(f"obs[{key!r}]" for key in settings.contexts)
    what = (
        f"{n_missing} of {adata.n_obs} cells of modality {modality!r} have no {keys} (NaN or empty)"
    )
    if not settings.drop_missing:
        raise ValueError(
            f"{what}. A cell without a context is in no document: leave them out with "
            "`drop_missing=True` (--drop-missing), or fill the column in."
        )
    if not kept.any():
        raise ValueError(f"{what}; none is left.")
    warnings.warn(f"{what}: they are left out.", UserWarning, stacklevel=3)
    return adata[kept].copy()
