"""The simulated drug screen: real structures, graded doses, two modalities, and its truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

import cellfuse as cf
from cellfuse.datasets import _drugs
from cellfuse.datasets._drug_table import MECHANISMS, drug_table
from cellfuse.datasets._drugs import simulated_drugs

SMALL = {
    "n_mechanisms": 3,
    "images_per_condition": 2,
    "rna_per_condition": 2,
    "controls": 6,
    "images_per_knockout": 2,
    "image_size": 16,
}
#: Molecular formulas, to catch a slip of the pen in a structure.
FORMULAS = {
    "gefitinib": "C22H24ClFN4O3",
    "imatinib": "C29H31N7O",
    "vorinostat": "C14H20N2O3",
    "colchicine": "C22H25NO6",
    "doxorubicin": "C27H29NO11",
    "atorvastatin": "C33H35FN2O5",
    "bortezomib": "C19H25BN4O4",
    "palbociclib": "C24H29N7O2",
    "trametinib": "C26H23FIN5O4",
    "LY294002": "C19H17NO3",
    "radicicol": "C18H17ClO6",
    "olaparib": "C24H23FN4O3",
}


@pytest.fixture(scope="module")
def screen():
    return simulated_drugs(60, **SMALL, seed=0)


# -- the table ------------------------------------------------------------------------------------


def test_every_structure_is_read_and_none_stands_twice():
    table = drug_table(99, 99)
    mols = [Chem.MolFromSmiles(smiles) for smiles in table["smiles"]]
    assert all(mol is not None for mol in mols)
    assert table.index.is_unique
    assert len({Chem.MolToSmiles(mol) for mol in mols}) == len(table) == 48
    assert table["target"].nunique() == table["mechanism"].nunique() == len(MECHANISMS) == 12


@pytest.mark.parametrize("name", FORMULAS)
def test_structures_have_their_formula(name):
    from rdkit.Chem.rdMolDescriptors import CalcMolFormula

    mol = Chem.MolFromSmiles(drug_table(99, 99).loc[name, "smiles"])
    assert CalcMolFormula(mol) == FORMULAS[name]


def test_scaffolds_within_a_mechanism_differ():
    from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

    table = drug_table(99, 99)
    table["scaffold"] = [MurckoScaffoldSmiles(smiles) for smiles in table["smiles"]]
    found = table.groupby("mechanism")["scaffold"].nunique()
    assert (found >= 3).all()
    assert (found == 4).sum() >= 11


# -- the screen -----------------------------------------------------------------------------------


def test_what_there_is(screen):
    image, rna, knockout = (screen[m] for m in ("image", "rna", "knockout"))
    assert image.n_obs == 12 * 3 * 2 * 2 + 2 * 6
    assert rna.shape == (9 * 2 * 2 * 2 + 2 * 6, 60)
    assert knockout.n_obs == 6 * 2 * 2
    assert image.obsm["crops"].shape == (image.n_obs, 4, 16, 16)
    assert image.obsm["crops"].dtype == np.uint8
    assert rna.X.format == "csr"
    assert (rna.X.data == np.round(rna.X.data)).all()
    assert set(image.obs["dose_um"]) == {0.0, 0.1, 1.0, 10.0}
    assert set(rna.obs["dose_um"]) == {0.0, 0.3, 3.0}
    assert set(image.obs["cell_line"]) == {"A549", "U2OS"}
    is_control = image.obs["compound"] == "DMSO"
    assert (is_control == (image.obs["dose_um"] == 0)).all()
    assert (is_control == (image.obs["mechanism"] == "control")).all()
    truth = screen.uns["truth"]["drugs"]
    treated = image.obs[~is_control]
    smiles = truth["smiles"].loc[treated["compound"].astype(str)].to_numpy()
    assert (treated["smiles"].astype(str) == smiles).all()
    assert set(rna.obs["compound"]) - {"DMSO"} == set(truth.index[truth["has_rna"]])
    targets = screen.uns["targets"]
    assert set(targets["target"]) < set(knockout.obs["gene"])


def test_the_same_seed_gives_the_same_screen(screen):
    again, other = (simulated_drugs(60, **SMALL, seed=seed) for seed in (0, 1))
    for name, key in (("image", "crops"), ("knockout", "crops"), ("rna", "latent")):
        np.testing.assert_array_equal(again[name].obsm[key], screen[name].obsm[key])
        assert not np.array_equal(other[name].obsm[key], screen[name].obsm[key])
    assert (again["rna"].X != screen["rna"].X).nnz == 0
    assert (other["rna"].X != screen["rna"].X).nnz > 0


def test_the_response_grows_with_the_dose_as_hill_has_it(monkeypatch):
    for name in ("CELL_STATE", "PENETRANCE"):
        monkeypatch.setattr(f"cellfuse.datasets._design.{name}", 0.0 if "STATE" in name else 1.0)
    monkeypatch.setattr("cellfuse.datasets._design.RESPONSE", (1.0, 1.0))
    found = simulated_drugs(20, **{**SMALL, "image_doses": (0.5, 2.0)}, seed=3)
    truth, image = found.uns["truth"], found["image"]
    for drug, row in truth["drugs"].iterrows():
        effect = truth["drug_effects"]["image"]["A549"].loc[drug].to_numpy()
        for dose in (0.5, 2.0):
            share = dose ** row["hill"] / (dose ** row["hill"] + row["ec50"] ** row["hill"])
            mine = (
                (image.obs["compound"] == drug)
                & (image.obs["dose_um"] == dose)
                & (image.obs["cell_line"] == "A549")
            ).to_numpy()
            got = image.obsm["latent"][mine]
            np.testing.assert_allclose(got, np.tile(share * effect, (len(got), 1)), atol=1e-5)


def within_and_between(x: np.ndarray, label: np.ndarray) -> tuple[float, float]:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    same = label[:, None] == label
    upper = np.triu(np.ones_like(same), 1).astype(bool)
    return float(cosine[same & upper].mean()), float(cosine[~same & upper].mean())


def test_effects_are_shared_as_they_are_said_to_be():
    found = simulated_drugs(
        20, images_per_condition=1, rna_per_condition=1, controls=1, n_latent=60, seed=0
    )
    truth = found.uns["truth"]
    mechanism = truth["drugs"]["mechanism"].to_numpy()
    of = truth["drug_effects"]
    within, between = within_and_between(of["image"]["A549"].to_numpy(), mechanism)
    assert within == pytest.approx(0.7, abs=0.06)
    assert between == pytest.approx(0.0, abs=0.05)
    pairs = [("rna", "A549", 0.7), ("image", "U2OS", np.sqrt(0.7))]
    for modality, line, expected in pairs:
        a, b = of["image"]["A549"].to_numpy(), of[modality][line].to_numpy()
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert cosine.mean() == pytest.approx(expected, abs=0.06)


def test_a_knock_out_looks_like_the_mechanism_that_hits_it():
    found = simulated_drugs(20, **{**SMALL, "n_mechanisms": 12, "images_per_knockout": 40}, seed=0)
    truth, knockout = found.uns["truth"], found["knockout"]
    mine = (knockout.obs["cell_line"] == "A549").to_numpy()
    z = (
        pd.DataFrame(knockout.obsm["latent"][mine])
        .groupby(knockout.obs["gene"].to_numpy()[mine], observed=True)
        .mean()
    )
    effects = truth["drug_effects"]["image"]["A549"]
    own, other = [], []
    for drug, target in truth["drugs"]["target"].items():
        e = effects.loc[drug].to_numpy()
        cosine = (z @ e) / np.linalg.norm(z, axis=1) / np.linalg.norm(e)
        own.append(cosine[target])
        other.append(cosine.drop(target).mean())
    assert np.mean(own) > 0.5
    assert abs(np.mean(other)) < 0.1


def test_without_effect_drugs_are_as_controls():
    found = simulated_drugs(20, **SMALL, effect_size=0.0, seed=0)
    assert (found.uns["truth"]["drug_effects"]["image"]["A549"] == 0).all(axis=None)


def test_counts_tell_drugs_from_controls_at_high_dose():
    found = simulated_drugs(150, **{**SMALL, "controls": 24, "rna_per_condition": 6}, seed=0)
    rna = found["rna"]
    x = np.log1p(rna.X.toarray() * 1e4 / rna.X.toarray().sum(1, keepdims=True))
    line = rna.obs["cell_line"].to_numpy()
    control = (rna.obs["compound"] == "DMSO").to_numpy()
    off = {}
    for name in ("A549", "U2OS"):
        basal = x[control & (line == name)].mean(0)
        for dose in (0.3, 3.0):
            mine = (rna.obs["dose_um"] == dose).to_numpy() & (line == name)
            means = pd.DataFrame(x[mine]).groupby(rna.obs["compound"].to_numpy()[mine]).mean()
            off[name, dose] = np.linalg.norm(means - basal, axis=1).mean()
    assert off["A549", 3.0] > 1.15 * off["A549", 0.3]
    assert off["U2OS", 3.0] > 1.15 * off["U2OS", 0.3]


def test_it_goes_into_tide_and_into_both_tasks(screen):
    mdata = screen.copy()
    cf.TIDE.setup_mudata(mdata, context_keys=["compound", "cell_line"], image_rep="crops")
    model = cf.TIDE(mdata, width=12, depth=1, n_heads=2)
    assert set(model.drugs) == set(mdata["rna"].obs["compound"]) - {"DMSO"}
    image, knockout = mdata["image"], mdata["knockout"]
    for adata in (image, knockout):
        adata.obsm["X_true"] = adata.obsm["latent"]
    high = image[(image.obs["dose_um"] == 10).to_numpy()].copy()
    drugs = cf.tl.aggregate(high, by="compound", use_rep="X_true")
    genes = cf.tl.aggregate(knockout, by="gene", use_rep="X_true")
    table = cf.tl.target_discovery(drugs, genes, mdata.uns["targets"], n_draws=5, n_boot=0)
    assert table["n_compounds"].iloc[0] == 12


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"n_mechanisms": 13}, "`n_mechanisms` must be a whole number from 1 to 12; found 13"),
        ({"drugs_per_mechanism": 0}, "from 1 to 4; found 0"),
        ({"rna_share": 1.5}, "`rna_share` must be a number from 0"),
        ({"image_doses": (0.0, 1.0)}, "`image_doses` must be doses above 0"),
        ({"rna_doses": ()}, "`rna_doses` must be doses above 0"),
        ({"cell_lines": ("A549", "A549")}, "`cell_lines` must be distinct names"),
        ({"cell_lines": "A549"}, "`cell_lines` must be distinct names in a list; found 'A549'"),
        ({"image_doses": 1.0}, "`image_doses` must be doses above 0"),
        ({"n_plates": 0}, "`n_plates` must be a whole number at least 1"),
    ],
)
def test_bad_arguments_are_named(given, text):
    with pytest.raises(ValueError, match=text):
        simulated_drugs(20, **{**SMALL, **given})


def test_the_limits_are_those_of_the_table():
    assert (_drugs.MAX_MECHANISMS, _drugs.MAX_DRUGS) == (12, 4)
