"""Figures of concepts and cells show what was found and which cells were asked for."""

from __future__ import annotations

import anndata as ad
import matplotlib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import cellfuse as cf


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def mdata():
    """Each image of gene `g` is bright in its own way; concept 1 is in the cells of TARGET01."""
    mdata = cf.datasets.simulated_screen(10, n_targets=3, cells_per_guide=4, seed=0)
    for adata in mdata.mod.values():
        is_first = (adata.obs["gene"] == "TARGET01").to_numpy()
        active = np.zeros((adata.n_obs, 3), "f4")
        active[:, 0], active[is_first, 1] = 1.0, 2.0
        adata.obsm["X_concepts"] = sp.csr_matrix(active)
    image = mdata["image"]
    value = image.obs["gene"].cat.codes.to_numpy()
    image.obsm["crops"] = (
        np.zeros((image.n_obs, 2, 8, 8), np.uint8)
        + value[:, None, None, None].astype(np.uint8) * 60
    )
    image.uns["channels"] = ["DNA", "actin"]
    return mdata


def shown(ax):
    """Brightness of each crop of a row, 8 pixels wide with gaps of 2."""
    picture = ax.images[0].get_array()
    return [
        float(picture[:, k * 10 : k * 10 + 8].mean()) for k in range((picture.shape[1] + 2) // 10)
    ]


def test_a_gallery_shows_the_cells_of_each_group_on_one_scale(mdata):
    groups = ["TARGET03", "TARGET01", "non-targeting"]
    axes = cf.pl.cells(mdata["image"], "gene", groups=groups, n_cells=3, composite=False)
    assert len(axes) == 6  # a row per group and channel
    assert axes[0].get_ylabel() == "TARGET03\nDNA"
    codes = mdata["image"].obs["gene"].cat.categories.get_indexer(groups)
    brightness = [np.mean(shown(axes[2 * k])) for k in range(3)]
    assert np.argsort(brightness).tolist() == np.argsort(codes).tolist()
    assert max(brightness) > 0.9 and min(brightness) < 0.1


def test_a_gallery_takes_the_highest_cells_and_any_labels(mdata):
    image = mdata["image"]
    image.obs["score"] = image.obs["gene"].cat.codes.astype(float)
    one = pd.Series("all", index=image.obs_names)
    (ax,) = cf.pl.cells(image, one, n_cells=2, rank_by="score", channels="DNA", composite=False)
    assert len(shown(ax)) == 2
    axes = cf.pl.cells(image, "gene", n_cells=2)
    assert [ax.get_ylabel() for ax in axes] == sorted(image.obs["gene"].unique())
    assert any("px" in text.get_text() for text in axes[-1].texts)
    with pytest.raises(ValueError, match="lack"):
        cf.pl.cells(image, one.iloc[:5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": ["TARGET1"]}, "'TARGET1' is not in obs.*Did you mean 'TARGET"),
        ({"channels": "dna"}, "'dna' is not in the channels.*Did you mean 'DNA'"),
        ({"image_rep": "crop"}, "'crop' is not in obsm.*Did you mean 'crops'"),
        ({"n_cells": 0}, "n_cells=0"),
        ({"pixel_size": 0.0}, "pixel_size=0"),
    ],
)
def test_what_a_gallery_cannot_draw_is_named(mdata, arguments, message):
    with pytest.raises((KeyError, ValueError), match=message):
        cf.pl.cells(mdata["image"], "gene", **arguments)


def test_a_card_shows_cells_without_and_with_and_what_was_found(mdata):
    genes = pd.DataFrame(
        {"concept": [1, 1, 2], "gene": ["G1", "G2", "G3"], "score": [4.0, -3.0, 9.0]}
    ).assign(pvalue=[0.001, 0.002, 0.0], significant=True)
    mdata.uns["concept_features"] = {"genes": genes}
    cf.tl.multimodal_concepts(mdata)
    axes = cf.pl.concept(mdata, 1, n_cells=3)
    without, with_ = axes[0], axes[1]
    code = mdata["image"].obs["gene"].cat.categories.get_loc("TARGET01")
    values = mdata["image"].obs["gene"].cat.codes.unique()
    level = (code - min(values)) / (max(values) - min(values))
    assert shown(with_) == pytest.approx([level] * 3, abs=0.1)
    assert abs(np.mean(shown(without)) - level) > 0.1
    chart = axes[4]
    assert [text.get_text() for text in chart.get_yticklabels()] == ["G1", "G2"]
    assert [bar.get_width() for bar in chart.patches] == [4.0, -3.0]
    assert "was not run" in axes[5].get_title(loc="left")
    assert "image cells" in axes[0].figure.figure.get_suptitle()


def test_a_card_of_a_concept_that_is_not_there_is_refused(mdata):
    with pytest.raises(ValueError, match="no concept 3: they are numbered 0 to 2"):
        cf.pl.concept(mdata, 3)
    with pytest.raises(ValueError, match="no cell of the images has concept 2"):
        cf.pl.concept(mdata, 2)


@pytest.mark.parametrize("kind", ["folder", "zarr", "dask"])
def test_a_card_reads_activations_that_are_not_in_memory(mdata, kind, tmp_path):
    expected = [shown(ax) for ax in cf.pl.concept(mdata, 1, n_cells=3)[:2]]
    x = mdata["image"].obsm["X_concepts"]
    if kind == "dask":
        there = pytest.importorskip("dask.array").from_array(x.toarray(), chunks=(5, 2))
    elif kind == "zarr":
        there = zarr.array(x.toarray(), chunks=(5, 2))
    else:
        group = zarr.open_group(tmp_path / "acts", mode="w", zarr_format=2)
        ad.io.write_elem(group, "matrix", sp.csr_matrix(x))
        there = ad.io.sparse_dataset(group["matrix"])
    mdata["image"].obsm["X_concepts"] = there
    assert [shown(ax) for ax in cf.pl.concept(mdata, 1, n_cells=3)[:2]] == expected


def test_the_map_marks_multimodal_concepts_of_each_model(mdata):
    table = cf.tl.multimodal_concepts(mdata)
    axes = cf.pl.concept_map({"PETRI": mdata, "permuted": mdata})
    assert len(axes) == 2
    n = int(table["multimodal"].sum())
    assert axes[1].get_title(loc="left") == f"permuted: {n} of 3 concepts are multimodal"
    offsets = np.concatenate([c.get_offsets() for c in axes[0].collections])
    np.testing.assert_allclose(np.sort(offsets[:, 0]), np.sort(table["fraction_image"].to_numpy()))
    with pytest.raises(KeyError, match="multimodal_concepts"):
        cf.pl.concept_map(mdata, key="other")


def test_bars_count_perturbations_of_those_tested():
    counts = pd.DataFrame(
        {"n_image": [2.0, 0.0, np.nan], "cells_image": [9, 9, 1], "n_rna": [1.0, 3.0, 1.0]},
        index=list("ABC"),
    )
    import anndata as ad

    kept = {"counts": counts, "params": {"alpha": 0.05}}
    data = ad.AnnData(shape=(1, 1), uns={"differential_concepts": kept})
    ax = cf.pl.differential_concepts({"PETRI": data, "CLIP": data})
    assert [c.datavalues.tolist() for c in ax.containers] == [[1, 3], [1, 3]]
    assert "1/2" in [text.get_text() for text in ax.texts]
