"""The compounds of a screen: their structures and fingerprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import context_labels
from cellfuse._errors import listing, missing_key, warn_user
from cellfuse.kernels.fingerprints import Kind, canonical_smiles, smiles_fingerprints

__all__ = ["Chemistry", "read_structures"]


@dataclass(frozen=True)
class Chemistry:
    """How structures are read.

    Parameters
    ----------
    kind, n_bits
        See :func:`cellfuse.pp.fingerprints`.
    """

    kind: Kind
    n_bits: int

    def bits(self, smiles: Sequence[str]) -> Tensor:
        """Fingerprints ``(n, n_bits)``; SMILES that RDKit does not read are an error."""
        found, read = smiles_fingerprints(smiles, kind=self.kind, n_bits=self.n_bits)
        if not read.all():
            bad = [text for text, good in zip(smiles, read, strict=True) if not good]
            raise ValueError(f"RDKit does not read {len(bad)} SMILES: {listing(bad)}.")
        return torch.from_numpy(found)


def read_structures(
    adatas: Mapping[str, AnnData],
    smiles_key: str,
    *,
    compound_key: str,
    control: str,
    fingerprint: Kind,
    n_bits: int,
) -> dict[str, str]:
    """SMILES of every compound but the control, in the order of their names.

    Raises
    ------
    KeyError
        No modality has `smiles_key`.
    ValueError
        SMILES that RDKit does not read (by row), that are missing, or two of one compound.

    Warns
    -----
    UserWarning
        Compounds with the same fingerprint.
    """
    if not any(smiles_key in adata.obs for adata in adatas.values()):
        columns = sorted({str(c) for adata in adatas.values() for c in adata.obs})
        raise missing_key(smiles_key, columns, what="obs of any modality (`smiles_key`)")
    parts = []
    for name, adata in adatas.items():
        labels = context_labels(adata, compound_key, modality=name)
        text = pd.Series(None, index=adata.obs_names, dtype=object)
        if smiles_key in adata.obs:
            column = adata.obs[smiles_key].astype(object)
            text = column.map(lambda s: s.strip() or None if isinstance(s, str) else None)
        parts.append(pd.DataFrame({"compound": labels.to_numpy(), "smiles": text}))
    table = pd.concat(parts)
    table = table[table["compound"] != control]
    given = table.dropna(subset=["smiles"])
    distinct = list(given["smiles"].unique())
    bits, read = smiles_fingerprints(distinct, kind=fingerprint, n_bits=n_bits)
    unread = {text for text, good in zip(distinct, read, strict=True) if not good}
    if unread:
        bad = given[given["smiles"].isin(unread)]
        rows = [f"{row}: {text}" for row, text in bad["smiles"].items()]
        raise ValueError(
            f"RDKit does not read obs[{smiles_key!r}] in {len(rows)} rows: {listing(rows)}. Mend "
            "these SMILES or leave the rows out."
        )
    found = {str(name): sorted(set(part)) for name, part in given.groupby("compound")["smiles"]}
    lacking = sorted(set(table["compound"].astype(str)) - set(found))
    if lacking:
        raise ValueError(
            f"{len(lacking)} compounds have no structure in obs[{smiles_key!r}] of any modality: "
            f"{listing(lacking)}. Fill it in, leave their rows out, or name the controls with "
            f"`control` (it is {control!r})."
        )
    structures = {name: _one_structure(name, texts) for name, texts in sorted(found.items())}
    _warn_alike(structures, dict(zip(distinct, bits, strict=True)), fingerprint)
    return structures


def _one_structure(compound: str, texts: list[str]) -> str:
    if len(texts) > 1 and len({canonical_smiles(text) for text in texts}) > 1:
        raise ValueError(
            f"compound {compound!r} has {len(texts)} structures: {listing(texts)}. A drug has one: "
            "mend the SMILES, or give the compounds different names."
        )
    return texts[0]


def _warn_alike(structures: Mapping[str, str], bits: Mapping[str, NDArray], kind: str) -> None:
    groups: dict[bytes, list[str]] = {}
    for name, smiles in structures.items():
        groups.setdefault(bits[smiles].tobytes(), []).append(name)
    alike = [" = ".join(names) for names in groups.values() if len(names) > 1]
    if alike:
        warn_user(
            f"compounds with the same {kind} fingerprint start from the same prototype: "
            f"{listing(alike)}. If they are one substance, give them one name."
        )
