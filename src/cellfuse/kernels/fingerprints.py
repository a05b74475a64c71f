"""Chemical fingerprints from SMILES, by RDKit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Kind", "canonical_smiles", "smiles_fingerprints"]

logger = logging.getLogger("cellfuse")

Kind: TypeAlias = Literal["fcfp4", "ecfp4", "maccs", "rdkit"]

#: Width of the MACCS keys as RDKit numbers them: bit 0 is never set.
MACCS_BITS = 167
#: Molecules held at a time.
CHUNK = 10_000


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

    Examples
    --------
    >>> from cellfuse.kernels.fingerprints import smiles_fingerprints
    >>> bits, read = smiles_fingerprints(["CCO", "no molecule"], n_bits=64)
    >>> bits.shape, read.tolist()
    ((2, 64), [True, False])
    """
    from rdkit import rdBase

    generate = _generator(kind, n_bits)
    width = MACCS_BITS if kind == "maccs" else n_bits
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
