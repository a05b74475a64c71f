"""Splits by intervention: whole, in proportion, the same whatever the order of the rows."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mudata import MuData

from cellfuse.tl.split import split


def plate(n_compounds=20, replicates=3, prefix="w") -> ad.AnnData:
    names = [f"c{i:02d}" for i in range(n_compounds) for _ in range(replicates)]
    obs = pd.DataFrame(
        {
            "compound": names,
            "replicate": [f"r{i % replicates}" for i in range(len(names))],
            "moa": [f"m{int(n[1:]) % 4}" for n in names],
            "well": [f"W{i // 2}" for i in range(len(names))],
        },
        index=[f"{prefix}{i}" for i in range(len(names))],
    )
    return ad.AnnData(obs=obs)


def units(made: pd.Series, label: pd.Series) -> pd.Series:
    """Split of each label, which must be one."""
    table = pd.DataFrame({"label": label.to_numpy(), "split": made.to_numpy()}).drop_duplicates()
    assert table["label"].is_unique
    return table.set_index("label")["split"]


def test_a_compound_goes_to_one_split_and_shares_are_kept():
    adata = plate()
    made = split(adata)
    assert units(made, adata.obs["compound"]).value_counts().to_dict() == {
        "train": 14,
        "test": 4,
        "val": 2,
    }
    assert (adata.obs["split"] == made).all()
    assert list(made.cat.categories) == ["train", "val", "test"]
    assert '"by": "compound"' in adata.uns["split"]["split"]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(3, 60),
    st.integers(1, 6),
    st.lists(st.integers(1, 8), min_size=1, max_size=3),
    st.integers(0, 5),
)
def test_counts_are_within_one_of_their_share(n, n_strata, weights, seed):
    shares = {f"s{i}": w / sum(weights) for i, w in enumerate(weights)}
    obs = pd.DataFrame(
        {"compound": [f"c{i}" for i in range(n)], "moa": [f"m{i % n_strata}" for i in range(n)]},
        index=[f"r{i}" for i in range(n)],
    )
    adata = ad.AnnData(obs=obs)
    if n * min(shares.values()) < 1:
        return  # a split may get nothing, which is an error of its own
    made = split(adata, stratify="moa", sizes=shares, seed=seed)
    for name, share in shares.items():
        assert abs((made == name).sum() - n * share) < 1 + 1e-6
        for _, part in made.groupby(obs["moa"]):
            assert abs((part == name).sum() - len(part) * share) < 2 + 1e-6


def test_the_split_hangs_on_names_and_seed_alone():
    adata = plate()
    one = split(adata, seed=4)
    mixed = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    assert (split(mixed, seed=4).loc[one.index] == one).all()
    assert (split(adata, seed=5) != one).any()


def test_small_strata_do_not_all_go_to_the_largest_split():
    obs = pd.DataFrame(
        {"compound": [f"c{i}" for i in range(40)], "moa": [f"m{i}" for i in range(40)]},
        index=[f"r{i}" for i in range(40)],
    )
    made = split(ad.AnnData(obs=obs), stratify="moa")
    assert made.value_counts().to_dict() == {"train": 28, "test": 8, "val": 4}


def test_modalities_of_a_mudata_are_divided_alike():
    image, rna = plate(12), plate(16, 1, prefix="x")
    made = split(MuData({"image": image, "rna": rna}), stratify="moa")
    both = units(made, pd.concat([image.obs["compound"], rna.obs["compound"]]))
    assert len(both) == 16
    assert (image.obs["split"].astype(str) == made.loc[image.obs_names].astype(str)).all()


@pytest.mark.parametrize("control", [0, "0", [0]])
def test_a_control_may_be_a_number(control):
    adata = plate()
    adata.obs["compound"] = adata.obs["compound"].astype("category").cat.codes.astype(int)
    made = split(adata, control=control)
    assert ((made == "control") == (adata.obs["compound"] == 0)).all()


def test_controls_take_no_part():
    adata = plate()
    made = split(adata, control="c00")
    assert ((made == "control") == (adata.obs["compound"] == "c00")).all()
    assert units(made, adata.obs["compound"]).value_counts().sum() == 20


def test_joint_values_and_plates():
    adata = plate()
    adata.obs["plate"] = np.where(np.arange(adata.n_obs) % 2, "p0", "p1")
    made = split(adata, by=["plate", "well"], apart=[("plate", "well")])
    units(made, adata.obs["plate"] + adata.obs["well"])


def test_a_well_that_would_cross_is_an_error_and_nothing_is_written():
    adata = plate()
    split(adata.copy(), apart=["moa"], sizes={"all": 1.0})  # one split: nothing can cross
    with pytest.raises(ValueError, match="values of 'well' would lie in two splits: 'W"):
        split(adata, apart=["well"])
    with pytest.raises(ValueError, match="3 values of 'replicate' would lie in two"):
        split(adata, apart=["replicate"])
    with pytest.raises(ValueError, match="values of 'well' would lie in two splits"):
        split(adata, apart="well")
    assert "split" not in adata.obs


def test_bad_input_is_named():
    adata = plate()
    with pytest.raises(ValueError, match="sum to 0.9; shares must sum to 1"):
        split(adata, sizes={"train": 0.5, "test": 0.4})
    with pytest.raises(ValueError, match="positive share"):
        split(adata, sizes={"train": 1.0, "test": 0.0})
    with pytest.raises(ValueError, match="'replicate' changes within 20 values of 'compound'"):
        split(adata, stratify="replicate")
    with pytest.raises(ValueError, match="2 values of 'compound'.*cannot fill 3 splits"):
        split(plate(2))
    with pytest.raises(ValueError, match="leave no value for 'test'"):
        split(plate(4), sizes={"train": 0.95, "test": 0.05})
    with pytest.raises(KeyError, match="'DMSO' is not in obs"):
        split(adata, control="DMSO")
    with pytest.raises(ValueError, match="is a view"):
        split(adata[:30])
    with pytest.raises(TypeError, match="expected the share of each split by name"):
        split(adata, sizes=[0.5, 0.5])
    adata.uns["split"] = "mine"
    with pytest.raises(ValueError, match=r"uns\['split'\] is a str"):
        split(adata)
    assert "split" not in adata.obs
    del adata.uns["split"]
    adata.obs["split"] = "mine"
    with pytest.raises(ValueError, match="was not written by this verb"):
        split(adata)
    split(adata, overwrite=True)
    split(adata, seed=1)  # its own column it replaces
