"""Well-known drugs by mechanism, of different scaffolds, for simulated drug screens."""

from __future__ import annotations

import pandas as pd

__all__ = ["drug_table"]

#: Mechanism -> (gene of the target, its drugs and their structures).
MECHANISMS: dict[str, tuple[str, dict[str, str]]] = {
    "EGFR inhibitor": (
        "EGFR",
        {
            "gefitinib": "COc1cc2ncnc(Nc3ccc(F)c(Cl)c3)c2cc1OCCCN1CCOCC1",
            "lapatinib": "CS(=O)(=O)CCNCc1ccc(o1)-c1ccc2ncnc(Nc3ccc(OCc4cccc(F)c4)c(Cl)c3)c2c1",
            "osimertinib": "C=CC(=O)Nc1cc(Nc2nccc(n2)-c2cn(C)c3ccccc23)c(OC)cc1N(C)CCN(C)C",
            "rociletinib": "COc1cc(ccc1Nc1ncc(c(Nc2cccc(NC(=O)C=C)c2)n1)C(F)(F)F)N1CCN(CC1)C(C)=O",
        },
    ),
    "ABL inhibitor": (
        "ABL1",
        {
            "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(n1)-c1cccnc1",
            "dasatinib": "Cc1nc(Nc2ncc(s2)C(=O)Nc2c(C)cccc2Cl)cc(n1)N1CCN(CCO)CC1",
            "bosutinib": "COc1cc(Nc2c(cnc3cc(OCCCN4CCN(C)CC4)c(OC)cc23)C#N)c(Cl)cc1Cl",
            "ponatinib": "Cc1ccc(cc1C#Cc1cnc2cccnn12)C(=O)Nc1ccc(CN2CCN(C)CC2)c(c1)C(F)(F)F",
        },
    ),
    "HDAC inhibitor": (
        "HDAC1",
        {
            "vorinostat": "ONC(=O)CCCCCCC(=O)Nc1ccccc1",
            "entinostat": "Nc1ccccc1NC(=O)c1ccc(CNC(=O)OCc2cccnc2)cc1",
            "panobinostat": "Cc1[nH]c2ccccc2c1CCNCc1ccc(C=CC(=O)NO)cc1",
            "valproic acid": "CCCC(CCC)C(O)=O",
        },
    ),
    "tubulin inhibitor": (
        "TUBB",
        {
            "colchicine": "COc1cc2CCC(NC(C)=O)c3cc(=O)c(OC)ccc3-c2c(OC)c1OC",
            "nocodazole": "COC(=O)Nc1nc2ccc(cc2[nH]1)C(=O)c1cccs1",
            "podophyllotoxin": "COc1cc(cc(OC)c1OC)C1C2C(COC2=O)C(O)c2cc3OCOc3cc12",
            "combretastatin A4": "COc1ccc(C=Cc2cc(OC)c(OC)c(OC)c2)cc1O",
        },
    ),
    "topoisomerase inhibitor": (
        "TOP2A",
        {
            "doxorubicin": "COc1cccc2C(=O)c3c(O)c4CC(O)(CC(OC5CC(N)C(O)C(C)O5)c4c(O)c3C(=O)c12)"
            "C(=O)CO",
            "mitoxantrone": "OCCNCCNc1ccc(NCCNCCO)c2C(=O)c3c(O)ccc(O)c3C(=O)c12",
            "amsacrine": "COc1cc(NS(C)(=O)=O)ccc1Nc1c2ccccc2nc2ccccc12",
            "dexrazoxane": "CC(CN1CC(=O)NC(=O)C1)N1CC(=O)NC(=O)C1",
        },
    ),
    "HMGCR inhibitor": (
        "HMGCR",
        {
            "simvastatin": "CCC(C)(C)C(=O)OC1CC(C)C=C2C=CC(C)C(CCC3CC(O)CC(=O)O3)C12",
            "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1"
            "CCC(O)CC(O)CC(O)=O",
            "rosuvastatin": "CC(C)c1nc(nc(-c2ccc(F)cc2)c1C=CC(O)CC(O)CC(O)=O)N(C)S(C)(=O)=O",
            "fluvastatin": "CC(C)n1c(C=CC(O)CC(O)CC(O)=O)c(-c2ccc(F)cc2)c2ccccc12",
        },
    ),
    "proteasome inhibitor": (
        "PSMB5",
        {
            "bortezomib": "CC(C)CC(NC(=O)C(Cc1ccccc1)NC(=O)c1cnccn1)B(O)O",
            "MG-132": "CC(C)CC(NC(=O)OCc1ccccc1)C(=O)NC(CC(C)C)C(=O)NC(CC(C)C)C=O",
            "carfilzomib": "CC(C)CC(NC(=O)C(CCc1ccccc1)NC(=O)CN1CCOCC1)C(=O)NC(Cc1ccccc1)"
            "C(=O)NC(CC(C)C)C(=O)C1(C)CO1",
            "ixazomib": "CC(C)CC(NC(=O)CNC(=O)c1cc(Cl)ccc1Cl)B(O)O",
        },
    ),
    "CDK inhibitor": (
        "CDK4",
        {
            "palbociclib": "CC(=O)c1c(C)c2cnc(Nc3ccc(cn3)N3CCNCC3)nc2n(C2CCCC2)c1=O",
            "abemaciclib": "CCN1CCN(Cc2ccc(Nc3ncc(F)c(n3)-c3cc(F)c4nc(C)n(C(C)C)c4c3)nc2)CC1",
            "alvocidib": "CN1CCC(C(O)C1)c1c(O)cc(O)c2c1oc(cc2=O)-c1ccccc1Cl",
            "seliciclib": "CCC(CO)Nc1nc(NCc2ccccc2)c2ncn(C(C)C)c2n1",
        },
    ),
    "MEK inhibitor": (
        "MAP2K1",
        {
            "trametinib": "CC(=O)Nc1cccc(c1)-n1c(=O)n(C2CC2)c(=O)c2c(Nc3ccc(I)cc3F)n(C)c(=O)"
            "c(C)c12",
            "selumetinib": "Cn1cnc2c(F)c(Nc3ccc(Br)cc3Cl)c(cc12)C(=O)NOCCO",
            "mirdametinib": "OCC(O)CONC(=O)c1ccc(F)c(F)c1Nc1ccc(I)cc1F",
            "U0126": "Nc1ccccc1SC(N)=C(C#N)C(C#N)=C(N)Sc1ccccc1N",
        },
    ),
    "PI3K inhibitor": (
        "PIK3CA",
        {
            "LY294002": "O=c1cc(oc2c(cccc12)-c1ccccc1)N1CCOCC1",
            "pictilisib": "CS(=O)(=O)N1CCN(Cc2cc3nc(nc(N4CCOCC4)c3s2)-c2cccc3[nH]ncc23)CC1",
            "buparlisib": "Nc1cc(c(cn1)-c1cc(nc(n1)N1CCOCC1)N1CCOCC1)C(F)(F)F",
            "alpelisib": "Cc1nc(NC(=O)N2CCCC2C(N)=O)sc1-c1ccnc(c1)C(C)(C)C(F)(F)F",
        },
    ),
    "HSP90 inhibitor": (
        "HSP90AA1",
        {
            "luminespib": "CCNC(=O)c1noc(c1-c1ccc(CN2CCOCC2)cc1)-c1cc(C(C)C)c(O)cc1O",
            "ganetespib": "CC(C)c1cc(c(O)cc1O)-c1n[nH]c(=O)n1-c1ccc2n(C)ccc2c1",
            "radicicol": "CC1CC2OC2C=CC=CC(=O)Cc2c(Cl)c(O)cc(O)c2C(=O)O1",
            "BIIB021": "COc1c(C)cnc(Cn2cnc3c(Cl)nc(N)nc23)c1C",
        },
    ),
    "PARP inhibitor": (
        "PARP1",
        {
            "olaparib": "O=C(C1CC1)N1CCN(CC1)C(=O)c1cc(Cc2n[nH]c(=O)c3ccccc23)ccc1F",
            "niraparib": "NC(=O)c1cccc2cn(nc12)-c1ccc(cc1)C1CCCNC1",
            "rucaparib": "CNCc1ccc(cc1)-c1[nH]c2cc(F)cc3C(=O)NCCc1c23",
            "veliparib": "CC1(CCCN1)c1nc2c(cccc2[nH]1)C(N)=O",
        },
    ),
}


def drug_table(n_mechanisms: int, drugs_per_mechanism: int) -> pd.DataFrame:
    """Drugs of the first mechanisms: index ``compound``; ``mechanism``, ``target``, ``smiles``."""
    rows = [
        (name, mechanism, target, smiles)
        for mechanism, (target, drugs) in list(MECHANISMS.items())[:n_mechanisms]
        for name, smiles in list(drugs.items())[:drugs_per_mechanism]
    ]
    table = pd.DataFrame(rows, columns=["compound", "mechanism", "target", "smiles"])
    return table.set_index("compound")
