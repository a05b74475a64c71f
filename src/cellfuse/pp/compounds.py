"""Chemical fingerprints of compounds."""

from __future__ import annotations

import logging
from typing import Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_key, obs_column
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import record
from cellfuse.kernels.fingerprints import Kind, check_fingerprint, smiles_fingerprints
from cellfuse.pp._embed import check_target

__all__ = ["fingerprints"]

logger = logging.getLogger("cellfuse")

Invalid: TypeAlias = Literal["raise", "missing"]


def fingerprints(
    data: AnnData | pd.DataFrame,
    smiles_key: str,
    *,
    kind: Kind = "fcfp4",
    n_bits: int = 2048,
    key_added: str | None = None,
    invalid: Invalid = "raise",
    strip_salts: bool = False,
    canonical_tautomer: bool = False,
    overwrite: bool = False,
) -> NDArray | None:
    """Compute a bit vector for each row's compound from its SMILES, by RDKit.

    Each distinct SMILES is computed once.

    Parameters
    ----------
    data
        AnnData with SMILES in obs, or a data frame with them in a column.
    smiles_key
        The obs column, or the column.
    kind
        ``"fcfp4"``: Morgan, radius 2, atoms by their feature (donor, acceptor, aromatic, ...), the
        one TIDE takes; ``"ecfp4"``: Morgan, radius 2, atoms by their element and bonds; both as
        presence, without counts. ``"maccs"``: the 166 MACCS keys. ``"rdkit"``: paths of 1 to 7
        bonds.
    n_bits
        Width, 2,048 by default; that of ``"maccs"`` is fixed, 167 with the unused bit 0.
    key_added
        obsm key of the result for an AnnData. None: ``f"X_{kind}"``.
    invalid
        ``"raise"``: rows whose SMILES is missing or not read by RDKit are an error. ``"missing"``:
        they are kept as rows of NaN, as wells without a compound need it.
    strip_salts
        Keep the largest fragment of each molecule, an organic one where there is one.
    canonical_tautomer
        Take RDKit's canonical tautomer (slow: some milliseconds a molecule and more).
    overwrite
        Replace an obsm entry of that name.

    Returns
    -------
    None for an AnnData, whose ``obsm[key_added]`` gets the array; the array for a data frame:
    ``(rows, n_bits)``, uint8 of 0 and 1 with ``invalid="raise"``, float32 of 0, 1 and NaN with
    ``invalid="missing"``.

    Raises
    ------
    KeyError
        `smiles_key` is absent.
    ValueError
        SMILES that are missing or not read, by row; no SMILES at all.

    Notes
    -----
    SMILES may carry an extension behind a blank (``|...|``, CXSMILES). Where RDKit does not know
    one, the structure before it is taken, and the message (logger ``"cellfuse"``) counts them: it
    adds to stereochemistry, which no fingerprint here looks at.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import pandas as pd
    >>> drugs = pd.DataFrame({"smiles": ["CCO", "c1ccccc1O"]}, index=["ethanol", "phenol"])
    >>> bits = cf.pp.fingerprints(drugs, "smiles", kind="ecfp4", n_bits=1024)
    >>> bits.shape, bits.sum(axis=1).tolist()
    ((2, 1024), [6, 11])
    """
    if kind not in get_args(Kind) or invalid not in get_args(Invalid):
        raise ValueError(
            f"expected kind among {listing(get_args(Kind))} and invalid among "
            f"{listing(get_args(Invalid))}; found {kind!r} and {invalid!r}."
        )
    check_fingerprint(kind, n_bits)
    key = f"X_{kind}" if key_added is None else check_key(key_added)
    if isinstance(data, pd.DataFrame):
        if smiles_key not in data.columns:
            raise missing_key(smiles_key, list(data.columns), what="the columns of the data frame")
        smiles = data[smiles_key]
    else:
        data = check_target(data, key, verb="fingerprints", overwrite=overwrite)
        smiles = obs_column(data, smiles_key, missing=True)
    steps = {"strip_salts": strip_salts, "canonical_tautomer": canonical_tautomer}
    bits = _by_row(smiles, smiles_key, kind, n_bits, invalid, **steps)
    if isinstance(data, pd.DataFrame):
        return bits
    data.obsm[key] = bits
    params = {"smiles_key": smiles_key, "kind": kind, "n_bits": bits.shape[1], "invalid": invalid}
    record(data, key, "fingerprints", {**params, **steps}, past={})
    return None


def _by_row(
    smiles: pd.Series,
    key: str,
    kind: Kind,
    n_bits: int,
    invalid: Invalid,
    *,
    strip_salts: bool,
    canonical_tautomer: bool,
) -> NDArray:
    text = smiles.astype(object).map(lambda s: s.strip() if isinstance(s, str) else None)
    codes, values = pd.factorize(text.where(text != "", None))
    names, distinct = list(smiles.index), [str(smile) for smile in values]
    if not distinct:
        raise ValueError(
            f"{key!r} holds no SMILES in any of its {len(smiles)} rows (all are missing or no "
            "text); is it the right column?"
        )
    if (codes < 0).any() and invalid == "raise":
        rows = [str(names[row]) for row in np.flatnonzero(codes < 0).tolist()]
        raise ValueError(
            f"{key!r} has no SMILES in {len(rows)} of {len(smiles)} rows: {listing(rows)}. Drop "
            "them, fill them in, or keep them as rows of NaN with invalid='missing'."
        )
    found, read = smiles_fingerprints(
        distinct,
        kind=kind,
        n_bits=n_bits,
        strip_salts=strip_salts,
        canonical_tautomer=canonical_tautomer,
    )
    if not read.all() and invalid == "raise":
        rows = [
            f"{label}: {distinct[code]}"
            for label, code in zip(names, codes, strict=True)
            if code >= 0 and not read[code]
        ]
        raise ValueError(
            f"RDKit does not read the SMILES of {len(rows)} of {len(smiles)} rows: "
            f"{listing(rows)}. Mend them, or keep them as rows of NaN with invalid='missing'."
        )
    if invalid == "raise":
        return found[codes]
    out = found[codes].astype(np.float32)
    out[(codes < 0) | ~read[codes]] = np.nan
    if n := int(np.isnan(out[:, 0]).sum()):
        logger.info("fingerprints: %d of %d rows are missing.", n, len(out))
    return out
