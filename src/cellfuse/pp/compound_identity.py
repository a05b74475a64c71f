"""One name for a compound, whatever an assay calls it."""

from __future__ import annotations

import logging
import re

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_key, obs_column, refuse_view
from cellfuse._errors import listing, missing_key
from cellfuse.kernels.fingerprints import connectivity
from cellfuse.pp.compounds import Invalid

__all__ = ["identify_compounds"]

logger = logging.getLogger("cellfuse")

#: A whole InChIKey, or its first layer.
INCHIKEY = re.compile(r"(?:InChIKey=)?([A-Z]{14})(?:-[A-Z]{10}-[A-Z])?")


def identify_compounds(
    data: AnnData | pd.DataFrame,
    smiles_key: str | None = None,
    *,
    inchikey_key: str | None = None,
    key_added: str = "compound_id",
    strip_salts: bool = True,
    invalid: Invalid = "missing",
    overwrite: bool = False,
) -> pd.Series | None:
    """Give each row the connectivity of its compound: the first 14 letters of the InChIKey.

    Two assays that call a compound by their own names, salts, catalogue numbers or SMILES agree in
    it, so that it serves as the context of both (``context_keys="compound_id"``). Stereoisomers and
    charged forms of one compound are one; tautomers are, as far as InChI takes them for one.

    Parameters
    ----------
    data
        AnnData with the compounds in obs, or a data frame.
    smiles_key
        Column with SMILES, from which RDKit makes the InChIKey.
    inchikey_key
        Column with InChIKeys (whole, or the first layer), for rows without SMILES; it cannot be
        freed of a salt.
    key_added
        obs column that gets the result.
    strip_salts
        Take the largest fragment alone, an organic one where there is one: a drug and its
        hydrochloride are one compound.
    invalid
        Rows without a structure that is read: ``"missing"``, as controls are, or ``"raise"``.
    overwrite
        Replace the obs column.

    Returns
    -------
    None for an AnnData, whose ``obs[key_added]`` gets the letters; for a data frame a series of
    them, missing where there is no structure.

    Raises
    ------
    KeyError
        A column is absent.
    ValueError
        Neither column is named, no row has a structure, or, with ``"raise"``, some have none; the
        obs column exists.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import pandas as pd
    >>> drugs = pd.DataFrame({"smiles": ["CCN", "NCC.Cl", None]}, index=["a", "b", "DMSO"])
    >>> cf.pp.identify_compounds(drugs, "smiles").tolist()
    ['QUSNBJAOOMFDIB', 'QUSNBJAOOMFDIB', nan]
    """
    if smiles_key is None and inchikey_key is None:
        raise ValueError("name the column of the SMILES (`smiles_key`), or of InChIKeys.")
    if invalid not in ("raise", "missing"):
        raise ValueError(f"invalid={invalid!r}; expected 'raise' or 'missing'.")
    if isinstance(data, AnnData):
        check_key(key_added)
        refuse_view(data)
        if key_added in data.obs.columns and not overwrite:
            raise ValueError(
                f"obs[{key_added!r}] exists; choose another `key_added`, or pass `overwrite=True`."
            )
    found = np.full(len(data if isinstance(data, pd.DataFrame) else data.obs), np.nan, dtype=object)
    if inchikey_key is not None:
        found = _first_layers(_column(data, inchikey_key))
    if smiles_key is not None:
        computed = _from_smiles(_column(data, smiles_key), strip_salts)
        found = np.where(pd.isna(computed), found, computed)
    names = data.index if isinstance(data, pd.DataFrame) else data.obs_names
    _report(found, names, invalid)
    if isinstance(data, pd.DataFrame):
        return pd.Series(found, index=data.index, name=key_added, dtype=object)
    data.obs[key_added] = pd.Categorical(found)
    return None


def _column(data: AnnData | pd.DataFrame, key: str) -> pd.Series:
    if isinstance(data, AnnData):
        return obs_column(data, key, missing=True)
    if key not in data.columns:
        raise missing_key(key, list(data.columns), what="the columns of the data frame")
    column = data[key]
    if isinstance(column, pd.DataFrame):
        raise ValueError(
            f"the data frame has {column.shape[1]} columns named {key!r}; rename or drop all but "
            "one."
        )
    return column


def _from_smiles(smiles: pd.Series, strip_salts: bool) -> NDArray:
    """Each distinct SMILES once."""
    text = smiles.astype(object).map(lambda s: s.strip() if isinstance(s, str) else "")
    codes, distinct = pd.factorize(text)
    keys = [connectivity(s, strip_salts=strip_salts) if s else None for s in distinct]
    return np.array([np.nan if key is None else key for key in keys], dtype=object)[codes]


def _first_layers(keys: pd.Series) -> NDArray:
    text = keys.astype(object).map(lambda s: s.strip() if isinstance(s, str) else "")
    match = [INCHIKEY.fullmatch(value) for value in text]
    return np.array([np.nan if m is None else m[1] for m in match], dtype=object)


def _report(found: NDArray, names: pd.Index, invalid: Invalid) -> None:
    without = pd.isna(found)
    if without.all():
        raise ValueError(
            f"none of {len(found)} rows has a structure that is read; is it the right column?"
        )
    if without.any() and invalid == "raise":
        raise ValueError(
            f"{int(without.sum())} of {len(found)} rows have no structure that is read: "
            f"{listing(names[without], 4)}. Mend them, or keep them as missing "
            "(invalid='missing')."
        )
    logger.info(
        "identify_compounds: %d compounds in %d rows; %d rows have none.",
        len(set(found[~without])),
        len(found),
        int(without.sum()),
    )
