"""Guides of cells from a matrix, and one identity for a compound."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import cellfuse as cf

CELLS = ["w", "x", "y", "z", "v"]
#: Guides of the cells: w none, x one, y two, z three, v one.
CALLS = pd.DataFrame(
    [[0, 0, 0], [0, 0, 7], [1, 5, 0], [2, 3, 4], [0, 9, 0]],
    index=CELLS,
    columns=["g10", "g2", "g1"],
)


def cells() -> ad.AnnData:
    adata = ad.AnnData(np.arange(10, dtype=np.float32).reshape(5, 2), obs=pd.DataFrame(index=CELLS))
    adata.obsm["X_pca"] = np.arange(5)[:, None] * 1.0
    adata.layers["counts"] = sp.csr_matrix(adata.X)
    return adata


def guides_of(adata: ad.AnnData) -> dict[str, str | None]:
    column = adata.obs["guide"].astype(object)
    return dict(zip(adata.obs_names, column.where(column.notna(), None), strict=True))


@pytest.mark.parametrize("kind", ["frame", "shuffled", "anndata", "sparse", "obsm"])
def test_cells_with_one_guide_are_kept_and_multiplets_dropped(kind):
    adata, given = cells(), CALLS
    if kind == "shuffled":
        given = CALLS.iloc[::-1]
    if kind in ("anndata", "sparse"):
        x = CALLS.to_numpy("f4")
        given = ad.AnnData(
            sp.csr_matrix(x) if kind == "sparse" else x,
            obs=pd.DataFrame(index=CALLS.index),
            var=pd.DataFrame(index=CALLS.columns),
        )
    if kind == "obsm":
        adata.obsm["calls"] = CALLS
        given = "calls"
    found = cf.io.guides_from_matrix(adata, given)
    assert guides_of(found) == {"w": None, "x": "g1", "v": "g2"}
    assert found.obs["n_guides"].tolist() == [0, 1, 1]
    assert found.X[:, 0].tolist() == [0, 2, 8]
    assert "guide" not in adata.obs
    dropped = cf.io.guides_from_matrix(adata, given, unassigned="drop")
    assert guides_of(dropped) == {"x": "g1", "v": "g2"}


def test_a_threshold_decides_who_has_a_guide():
    found = cf.io.guides_from_matrix(cells(), CALLS, min_count=4)
    assert guides_of(found) == {"w": None, "x": "g1", "y": "g2", "z": "g1", "v": "g2"}


def test_combinations_have_one_name_whatever_the_order_of_the_matrix():
    for order in (["g10", "g2", "g1"], ["g1", "g2", "g10"], ["g2", "g10", "g1"]):
        found = cf.io.guides_from_matrix(cells(), CALLS[order], multiple="combine")
        assert guides_of(found) == {
            "w": None, "x": "g1", "y": "g2+g10", "z": "g1+g2+g10", "v": "g2",
        }  # fmt: skip
    with pytest.raises(ValueError, match=r"hold a '\+'.*'a\+b'"):
        cf.io.guides_from_matrix(cells(), CALLS.rename(columns={"g1": "a+b"}), multiple="combine")


def test_cells_are_dealt_to_each_of_their_guides_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="2 cells with several guides stand once for each"):
        found = cf.io.guides_from_matrix(cells(), CALLS, multiple="deal", unassigned="drop")
    assert guides_of(found) == {
        "x": "g1", "y-g10": "g10", "y-g2": "g2",
        "z-g10": "g10", "z-g2": "g2", "z-g1": "g1", "v": "g2",
    }  # fmt: skip
    assert found.obsm["X_pca"].ravel().tolist() == [1, 2, 2, 3, 3, 3, 4]
    assert found.layers["counts"].toarray().tolist() == found.X.tolist()
    found.write_h5ad(tmp_path / "dealt.h5ad")
    assert (
        ad.read_h5ad(tmp_path / "dealt.h5ad").obs["guide"].tolist() == found.obs["guide"].tolist()
    )


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.iloc[1:], "1 of 5 cells are not in the matrix: 'w'"),
        (lambda c: pd.concat([c, c.iloc[:1]]), "cells stand twice in the matrix: 'w'"),
        (lambda c: c.set_axis(["a", "b", "a"], axis=1), "guides stand twice in the matrix: 'a'"),
        (lambda c: c - 1, "NaN, negative values or text"),
        (lambda c: c.astype(float).replace(7.0, np.nan), "NaN, negative values or text"),
        (lambda c: c.astype(str), "NaN, negative values or text"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused(change, what):
    with pytest.raises(ValueError, match=what):
        cf.io.guides_from_matrix(cells(), change(CALLS))


def test_arguments_of_guides_are_checked():
    with pytest.raises(ValueError, match="multiple among"):
        cf.io.guides_from_matrix(cells(), CALLS, multiple="both")
    with pytest.raises(ValueError, match="min_count=0"):
        cf.io.guides_from_matrix(cells(), CALLS, min_count=0)
    with pytest.raises(KeyError, match="'calls' is not in obsm"):
        cf.io.guides_from_matrix(cells(), "calls")
    with pytest.raises(ValueError, match="no cell of 5 is left: 5 have no guide"):
        cf.io.guides_from_matrix(cells(), CALLS * 0, unassigned="drop")
    with pytest.raises(TypeError, match="expected an obsm key, a data frame or an AnnData"):
        cf.io.guides_from_matrix(cells(), CALLS.to_numpy())


# -- compounds ------------------------------------------------------------------------------------

DRUGS = pd.DataFrame(
    {
        "smiles": [
            "CC(=O)Oc1ccccc1C(=O)O", "O=C(C)Oc1ccccc1C([O-])=O.[Na+]", None, "C[C@H](N)C(=O)O",
            "no",
        ],
        "key": ["", "x", "BSYNRYMUTXBXSQ-UHFFFAOYSA-N", None, "QNAYBMKLOCPYGJ"],
    },
    index=["aspirin", "sodium", "by key", "alanine", "first layer"],
)  # fmt: skip


def test_two_assays_agree_in_a_compound_whatever_they_call_it():
    found = cf.pp.identify_compounds(DRUGS, "smiles", inchikey_key="key")
    aspirin, alanine = "BSYNRYMUTXBXSQ", "QNAYBMKLOCPYGJ"
    assert found.tolist() == [aspirin, aspirin, aspirin, alanine, alanine]
    salt = cf.pp.identify_compounds(DRUGS, "smiles", strip_salts=False)
    assert salt["sodium"] != aspirin
    assert salt.isna().tolist() == [False, False, True, False, True]
    wells = ad.AnnData(np.ones((5, 1), "f4"), obs=DRUGS.fillna(""))
    assert cf.pp.identify_compounds(wells, "smiles") is None
    assert wells.obs["compound_id"].isna().tolist() == [False, False, True, False, True]
    with pytest.raises(ValueError, match=r"obs\['compound_id'\] exists"):
        cf.pp.identify_compounds(wells, "smiles")


def test_compounds_without_a_structure_are_told():
    with pytest.raises(ValueError, match="2 of 5 rows have no structure.*'by key', 'first layer'"):
        cf.pp.identify_compounds(DRUGS, "smiles", invalid="raise")
    with pytest.raises(ValueError, match="none of 5 rows"):
        cf.pp.identify_compounds(DRUGS.assign(smiles=""), "smiles")
    with pytest.raises(KeyError, match="Did you mean 'smiles'"):
        cf.pp.identify_compounds(DRUGS, "smile")
    with pytest.raises(ValueError, match="name the column"):
        cf.pp.identify_compounds(DRUGS)


def test_numbers_of_pandas_are_counts_and_one_label_is_one_guide():
    cells = ad.AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame(index=list("xyz")))
    calls = pd.DataFrame({"A": [1, 0, 1], "B": [0, 2, 0]}, index=list("xyz"))
    wanted = cf.io.guides_from_matrix(cells, calls, multiple="drop").obs["guide"].tolist()
    for kind in ("Int64", "boolean", "bool", "Float32"):
        given = (calls > 0 if kind.startswith("bool") else calls).astype(kind)
        for table in (given, given.astype(object)):
            found = cf.io.guides_from_matrix(cells, table, multiple="drop")
            assert found.obs["guide"].tolist() == wanted
    lacking = calls.astype("Int64")
    lacking.iloc[0, 0] = pd.NA
    with pytest.raises(ValueError, match="holds NaN"):
        cf.io.guides_from_matrix(cells, lacking, multiple="drop")
    with pytest.raises(ValueError, match="one label in several columns: '7157'"):
        cf.io.guides_from_matrix(cells, calls.set_axis(["7157", "7157.0"], axis=1), multiple="drop")
