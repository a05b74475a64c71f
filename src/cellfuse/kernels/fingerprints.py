"""Chemical fingerprints from SMILES, by RDKit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse._errors import listing

__all__ = [
    "MACCS_BITS",
    "Kind",
    "canonical_smiles",
    "check_fingerprint",
    "connectivity",
    "smiles_fingerprints",
]

logger = logging.getLogger("cellfuse")

Kind: TypeAlias = Literal["fcfp4", "ecfp4", "maccs", "rdkit"]

#: Width of the MACCS keys as RDKit numbers them: bit 0 is never set.
MACCS_BITS = 167
#: Molecules held at a time.
CHUNK = 10_000


def check_fingerprint(kind: str, n_bits: int) -> None:
    """Refuse a kind that is not known, and widths at which RDKit ends the process.

    Raises
    ------
    ValueError
        See above.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"expected a fingerprint among {listing(get_args(Kind))}, found {kind!r}.")
    if not isinstance(n_bits, Integral) or n_bits < 8:
        raise ValueError(f"expected n_bits >= 8, a whole number; found {n_bits}.")


def smiles_fingerprints(
    smiles: Sequence[str],
    *,
    kind: Kind = "fcfp4",
    n_bits: int = 2048,
    strip_salts: bool = False,
    canonical_tautomer: bool = False,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Bits of each SMILES (0 where it is not read), and whether it was read.

    Parameters
    ----------
    smiles
        Texts, ``n`` of them.
    kind, n_bits, strip_salts, canonical_tautomer
        As in :func:`cellfuse.pp.fingerprints`.

    Returns
    -------
    Bits ``(n, n_bits)``, and a mask ``(n,)``.

    Raises
    ------
    ValueError
        An unknown `kind`, or `n_bits` that is no whole number from 8.

    Examples
    --------
    >>> from cellfuse.kernels.fingerprints import smiles_fingerprints
    >>> bits, read = smiles_fingerprints(["CCO", "no molecule"], n_bits=64)
    >>> bits.shape, read.tolist()
    ((2, 64), [True, False])
    """
    from rdkit import rdBase

    check_fingerprint(kind, n_bits)
    generate = _generator(kind, n_bits)
    width = MACCS_BITS if kind == "maccs" else n_bits
    if not len(smiles):
        return np.zeros((0, width), np.uint8), np.zeros(0, bool)
    parts, read = [], np.zeros(len(smiles), dtype=bool)
    n_extensions = 0
    # RDKit writes to stderr of every molecule; within the block it does not.
    with rdBase.BlockLogs():
        change = _standardise(strip_salts, canonical_tautomer)
        for start in range(0, len(smiles), CHUNK):
            parsed = [_parse(text) for text in smiles[start : start + CHUNK]]
            n_extensions += sum(lenient for _, lenient in parsed)
            here = np.array([mol is not None for mol, _ in parsed])
            read[start : start + len(here)] = here
            vectors = generate([change(mol) for mol, _ in parsed if mol is not None])
            bits = np.zeros((len(here), width), dtype=np.uint8)
            for row, vector in zip(np.flatnonzero(here), vectors, strict=True):
                bits[row, list(vector.GetOnBits())] = 1
            parts.append(bits)
    if n_extensions:
        logger.info(
            "fingerprints: %d SMILES have an extension that RDKit does not read; the structure "
            "before it is taken.",
            n_extensions,
        )
    return np.concatenate(parts), read


def _parse(text: str) -> tuple[Any, bool]:
    """Molecule (None where it is not read), and whether an extension had to be left out."""
    from rdkit import Chem

    mol = Chem.MolFromSmiles(text)
    if mol is not None:
        return (mol, False) if mol.GetNumAtoms() else (None, False)
    if " " not in text:
        return None, False
    mol = Chem.MolFromSmiles(text.split(" ", 1)[0])
    return mol, mol is not None


def _standardise(strip_salts: bool, canonical_tautomer: bool) -> Callable[[Any], Any]:
    if not (strip_salts or canonical_tautomer):
        return lambda mol: mol
    from rdkit.Chem.MolStandardize import rdMolStandardize

    chooser = rdMolStandardize.LargestFragmentChooser(preferOrganic=True)
    tautomers = rdMolStandardize.TautomerEnumerator()

    def change(mol: Any) -> Any:
        mol = chooser.choose(mol) if strip_salts else mol
        return tautomers.Canonicalize(mol) if canonical_tautomer else mol

    return change


def _generator(kind: Kind, n_bits: int) -> Callable[[list[Any]], list[Any]]:
    """Make the function from molecules to RDKit's bit vectors."""
    from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

    if kind == "maccs":
        return lambda mols: [rdMolDescriptors.GetMACCSKeysFingerprint(mol) for mol in mols]
    if kind == "rdkit":
        made = rdFingerprintGenerator.GetRDKitFPGenerator(fpSize=n_bits)
    else:
        features = rdFingerprintGenerator.GetMorganFeatureAtomInvGen() if kind == "fcfp4" else None
        made = rdFingerprintGenerator.GetMorganGenerator(
            radius=2, fpSize=n_bits, atomInvariantsGenerator=features
        )
    # 0: as many threads as there are cores.
    return lambda mols: list(made.GetFingerprints(tuple(mols), numThreads=0))


def canonical_smiles(text: str) -> str | None:
    """RDKit's canonical spelling of a structure; None where it is not read.

    Examples
    --------
    >>> from cellfuse.kernels.fingerprints import canonical_smiles
    >>> canonical_smiles("OCC") == canonical_smiles("CCO")
    True
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol, _ = _parse(text)
        return None if mol is None else str(Chem.MolToSmiles(mol))


def connectivity(text: str, *, strip_salts: bool = True) -> str | None:
    """First 14 letters of a structure's InChIKey; None where it is not read.

    They hash the formula and which atom is bound to which, whatever the charge, the isotopes and
    the stereochemistry.

    Parameters
    ----------
    text
        SMILES.
    strip_salts
        Take the largest fragment alone, an organic one where there is one.

    Examples
    --------
    >>> from cellfuse.kernels.fingerprints import connectivity
    >>> connectivity("CC(=O)O"), connectivity("CC(=O)[O-].[Na+]")
    ('QTBSBXVTEAMEQO', 'QTBSBXVTEAMEQO')
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol, _ = _parse(text)
        if mol is None:
            return None
        key = Chem.MolToInchiKey(_standardise(strip_salts, canonical_tautomer=False)(mol))
    return str(key)[:14] or None
