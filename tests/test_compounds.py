"""Fingerprints: RDKit's own, one per distinct SMILES, and what is said of those it refuses."""

from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
from rdkit import Chem, rdBase
from rdkit.Chem import AllChem, MACCSkeys

import cellfuse as cf
from cellfuse._provenance import recorded
from cellfuse.kernels import fingerprints as verb
from cellfuse.pp.compounds import fingerprints

ASPIRIN, CAFFEINE = "CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"
SMILES = [ASPIRIN, CAFFEINE, "CCO", ASPIRIN]


def frame(smiles: list[object] | None = None) -> pd.DataFrame:
    smiles = SMILES if smiles is None else smiles
    return pd.DataFrame({"smiles": smiles}, index=[f"drug{i}" for i in range(len(smiles))])


def by_the_old_way(smiles: str, kind: str, n_bits: int) -> list[int]:
    """RDKit's functions of before the generators, as published fingerprints were made."""
    mol = Chem.MolFromSmiles(smiles)
    with rdBase.BlockLogs():
        if kind == "maccs":
            vector = MACCSkeys.GenMACCSKeys(mol)
        elif kind == "rdkit":
            vector = Chem.RDKFingerprint(mol, fpSize=n_bits)
        else:
            vector = AllChem.GetMorganFingerprintAsBitVect(
                mol, 2, nBits=n_bits, useFeatures=kind == "fcfp4"
            )
    return list(vector)


@pytest.mark.parametrize("kind", ["fcfp4", "ecfp4", "maccs", "rdkit"])
@pytest.mark.parametrize("n_bits", [2048, 512])
def test_bits_are_rdkits(kind, n_bits):
    bits = fingerprints(frame(), "smiles", kind=kind, n_bits=n_bits)
    assert bits.dtype == np.uint8
    assert bits.shape == (4, 167 if kind == "maccs" else n_bits)
    for row, smiles in zip(bits, SMILES, strict=True):
        assert row.tolist() == by_the_old_way(smiles, kind, n_bits)


def test_presence_and_not_counts():
    # A long chain has the same few environments many times.
    assert fingerprints(frame(["C" * 20]), "smiles").max() == 1


def test_each_smiles_is_computed_once(monkeypatch):
    seen: list[str] = []
    plain = verb._parse
    monkeypatch.setattr(verb, "_parse", lambda text: seen.append(text) or plain(text))
    fingerprints(frame([*SMILES, f" {ASPIRIN} "]), "smiles")
    assert sorted(seen) == sorted({*SMILES})


def test_no_molecules_are_no_rows():
    bits, read = verb.smiles_fingerprints([], n_bits=64)
    assert bits.shape == (0, 64)
    assert read.shape == (0,)
    with pytest.raises(ValueError, match="fingerprint among 'fcfp4'.*found 'ecfp6'"):
        verb.smiles_fingerprints([], kind="ecfp6")


def test_molecules_are_held_some_at_a_time(monkeypatch):
    whole = fingerprints(frame(), "smiles")
    monkeypatch.setattr(verb, "CHUNK", 1)
    np.testing.assert_array_equal(fingerprints(frame(), "smiles"), whole)


@pytest.mark.parametrize("dtype", ["object", "category", "string"])
def test_an_anndata_gets_a_key(dtype):
    data = ad.AnnData(obs=frame().astype({"smiles": dtype}))
    assert fingerprints(data, "smiles", kind="ecfp4") is None
    np.testing.assert_array_equal(
        data.obsm["X_ecfp4"], fingerprints(frame(), "smiles", kind="ecfp4")
    )
    assert recorded(data, "X_ecfp4")["fingerprints"]["kind"] == "ecfp4"
    with pytest.raises(ValueError, match=r"obsm\['X_ecfp4'\] exists"):
        fingerprints(data, "smiles", kind="ecfp4")
    fingerprints(data, "smiles", kind="ecfp4", overwrite=True)
    fingerprints(data, "smiles", key_added="drug")
    assert set(data.obsm) == {"X_ecfp4", "drug"}


def test_salts_are_stripped_on_request():
    both = frame([f"{ASPIRIN}.[Na+].[Cl-]", ASPIRIN])
    with_salt = fingerprints(both, "smiles")
    assert (with_salt[0] != with_salt[1]).any()
    without = fingerprints(both, "smiles", strip_salts=True)
    np.testing.assert_array_equal(without[0], without[1])


def test_tautomers_are_canonicalised_on_request():
    both = frame(["Oc1ccccn1", "O=c1cccc[nH]1"])  # 2-hydroxypyridine and 2-pyridone
    apart = fingerprints(both, "smiles")
    assert (apart[0] != apart[1]).any()
    alike = fingerprints(both, "smiles", canonical_tautomer=True)
    np.testing.assert_array_equal(alike[0], alike[1])


# -- SMILES that are not read ---------------------------------------------------------------------

BROKEN = [ASPIRIN, "C1CC", None, "not a molecule", np.nan, "", CAFFEINE]


def test_smiles_that_are_not_read_are_listed_by_row():
    with pytest.raises(ValueError, match=r"SMILES of 2 of 3 rows: 'drug0: C1CC', 'drug2: c1cc'"):
        fingerprints(frame(["C1CC", ASPIRIN, "c1cc"]), "smiles")


def test_missing_smiles_are_listed_by_row():
    with pytest.raises(ValueError, match=r"no SMILES in 3 of 7 rows: 'drug2', 'drug4', 'drug5'"):
        fingerprints(frame(BROKEN), "smiles")


def test_both_are_rows_of_nan_on_request(caplog):
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        bits = fingerprints(frame(BROKEN), "smiles", invalid="missing")
    assert "5 of 7 rows are missing" in caplog.text
    assert bits.dtype == np.float32
    assert np.isnan(bits).all(axis=1).tolist() == [False, True, True, True, True, True, False]
    np.testing.assert_array_equal(bits[[0, 6]], fingerprints(frame([ASPIRIN, CAFFEINE]), "smiles"))
    # The type does not hang on what the rows hold.
    assert fingerprints(frame(), "smiles", invalid="missing").dtype == np.float32


@pytest.mark.parametrize("invalid", ["raise", "missing"])
@pytest.mark.parametrize("values", [[None, np.nan], [1.0, 2.0], [np.nan] * 3])
def test_a_column_without_smiles_is_an_error(invalid, values):
    with pytest.raises(ValueError, match=r"'smiles' holds no SMILES in any of its"):
        fingerprints(frame(values), "smiles", invalid=invalid)


def test_rdkit_is_silent_inside_and_as_loud_as_before_outside(capfd):
    fingerprints(frame(["C1CC", ASPIRIN]), "smiles", invalid="missing")
    assert capfd.readouterr().err == ""
    Chem.MolFromSmiles("C1CC")
    assert "C1CC" in capfd.readouterr().err


def test_an_extension_that_rdkit_does_not_know_is_left_out(caplog):
    atropine = "CN1[C@H]2CC[C@@H]1C[C@@H](C2)OC(=O)[C@@H](CO)c1ccccc1"
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        bits = fingerprints(
            frame([f"{atropine} |a:2,5,7,&1:12,THB:9:7:1:3.4|", atropine]), "smiles"
        )
    np.testing.assert_array_equal(bits[0], bits[1])
    assert "1 SMILES have an extension that RDKit does not read" in caplog.text


@pytest.mark.parametrize(
    ("data", "key", "arguments", "error", "text"),
    [
        (frame(), "SMILES", {}, KeyError, "not in the columns of the data frame.*'smiles'"),
        (ad.AnnData(obs=frame()), "smile", {}, KeyError, "'smile' is not in obs.*Did you mean"),
        (frame(), "smiles", {"kind": "ecfp6"}, ValueError, "kind among 'fcfp4'"),
        (frame(), "smiles", {"invalid": "drop"}, ValueError, "invalid among 'raise'"),
        (frame(), "smiles", {"n_bits": 0}, ValueError, "n_bits >= 8"),
        (frame(), "smiles", {"n_bits": 64.5}, ValueError, "whole number; found 64.5"),
        (ad.AnnData(obs=frame())[:2], "smiles", {}, ValueError, "is a view"),
        (
            md.MuData({"image": ad.AnnData(obs=frame())}),
            "smiles",
            {},
            TypeError,
            r"fingerprints\(mdata\['image'\]",
        ),
    ],
)
def test_bad_input_is_named(data, key, arguments, error, text):
    with pytest.raises(error, match=text):
        fingerprints(data, key, **arguments)


DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not (DATA / "drugs.csv.gz").exists(), reason="../shared/data/drugs.csv.gz")
def test_every_drug_of_the_repurposing_hub_goes_through(caplog):
    drugs = pd.read_csv(DATA / "drugs.csv.gz")
    with rdBase.BlockLogs():
        refused = [s for s in drugs["smiles"].unique() if Chem.MolFromSmiles(s) is None]
    # As they stand RDKit refuses 22: all with an extension of ChemAxon (THB) that it does not know.
    assert len(refused) == 22
    assert all(" |" in s and "THB:" in s for s in refused)
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        bits = fingerprints(drugs, "smiles")
    assert "22 SMILES have an extension" in caplog.text
    assert bits.shape == (6798, 2048)
    assert (bits.sum(axis=1) > 0).all()


def test_an_inchikey_is_read_with_its_prefix_and_a_column_that_stands_twice_is_told():
    key = "BSYNRYMUTXBXSQ-UHFFFAOYSA-N"
    keys = pd.DataFrame({"key": [key, f"InChIKey={key}", f" {key} "]})
    assert cf.pp.identify_compounds(keys, inchikey_key="key").unique().tolist() == [key[:14]]
    twice = pd.DataFrame([["CCO", "CCO"]], columns=["smiles", "smiles"])
    with pytest.raises(ValueError, match="2 columns named 'smiles'"):
        cf.pp.identify_compounds(twice, "smiles")
