"""Evidence that the other modality is used: found where it is, and not where it cannot be."""

from __future__ import annotations

from inspect import signature

import anndata as ad
import matplotlib
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")

import matplotlib.pyplot as plt

import cellfuse as cf

TINY = {
    "set_size": 2,
    "width": 16,
    "n_heads": 2,
    "n_latents": 1,
    "mask_ratio": 0.5,
    "image_depth": 1,
    "image_decoder_width": 16,
    "image_decoder_depth": 1,
    "image_decoder_heads": 2,
    "n_cross": 1,
    "n_self": 1,
    "n_set_layers": 1,
    "gene_decoder_hidden": 8,
    "patch_size": 4,
}


def screen(n=120, seed=0):
    """Brightness of all droplets of a cell is its guide's, and so is one gene."""
    rng = np.random.default_rng(seed)
    guide = np.arange(n) % 6
    mods = {}
    for name in ("image", "rna"):
        obs = pd.DataFrame(
            {"guide": [f"g{g}" for g in guide]}, index=[f"{name}-{i}" for i in range(n)]
        )
        adata = ad.AnnData(shape=(n, 0), obs=obs)
        if name == "image":
            crops = rng.normal(10, 1, (n, 2, 8, 8))
            crops[:, 1, 4:, 4:] += 60 + 40 * guide[:, None, None]
            adata.obsm["crops"] = crops.astype("f4")
            adata.uns["channels"] = ["DNA", "lipid"]
        else:
            x = rng.normal(0, 0.1, (n, 5))
            x[:, 0] += guide
            adata.obsm["flat"] = x.astype("f4")
        mods[name] = adata
    return md.MuData(mods)


def petri(mdata, epochs=0, **options):
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops", rna_rep="flat")
    model = cf.PETRI(mdata, seed=0, **{**TINY, **options})
    quiet = {"enable_progress_bar": False, "batch_size": 8, "lr": 0.01}
    model.train(max_epochs=max(1, epochs), documents_per_context=16 if epochs else 2, **quiet)
    return model


@pytest.fixture(scope="module")
def trained():
    mdata = screen()
    options = {"begin": "random"} if "begin" in signature(cf.PETRI).parameters else {}
    return mdata, petri(mdata, epochs=80, **options)


def test_droplets_are_rebuilt_better_with_the_expression_of_their_own_guide(trained):
    _, model = trained
    arms = ("none", "own", "random", "g0")
    gain = model.cross_modal_gain(channel="lipid", above=40.0, others=arms)
    tests = gain.tests.set_index(["channel", "arm", "against"])
    own, specific = tests.loc[("lipid", "own", "none")], tests.loc[("lipid", "own", "random")]
    assert own["gain"] > 0 and own["relative"] > 0.2 and own["pvalue"] < 0.01
    assert specific["relative"] > 0.1 and specific["pvalue"] < 0.01
    assert own["n_contexts"] == 6 and own["pvalue_contexts"] < 0.2
    assert gain.tests["channel"].tolist()[:4] == ["all"] * 4
    bright = gain.cells["context"] == "g5"
    lipid = gain.channels[gain.channels["channel"] == "lipid"].set_index("cell")
    # The darkest guide's expression darkens the brightest cells.
    assert (lipid["loss_g0"] > lipid["loss_own"])[bright.to_numpy()].mean() > 0.8
    # The patch in the corner, alone, is hidden, and the restored images differ there.
    assert (gain.cells["n_hidden"] == 1).all()
    assert gain.hidden[:, 4:, 4:].all() and not gain.hidden[:, :4].any()
    shown = gain.cells.loc[gain.shown, "context"].to_numpy()
    darker = (gain.restored["g0"] - gain.restored["own"])[:, 1, 4:, 4:].mean(axis=(1, 2))
    assert (darker[shown == "g5"] < 0).all()


def test_a_model_whose_cells_do_not_look_at_each_other_gains_nothing(trained):
    mdata, _ = trained
    model = petri(mdata)
    with torch.no_grad():
        for block in model.module.documents.blocks:
            block.attention.out.weight.zero_()
            block.attention.out.bias.zero_()
    gain = model.cross_modal_gain(max_cells=20)
    losses = gain.cells[["loss_none", "loss_own", "loss_random"]].to_numpy()
    np.testing.assert_allclose(losses, losses[:, :1].repeat(3, axis=1), rtol=1e-4)
    assert (gain.tests["gain"].abs() < 1e-4).all()


def test_expression_gains_from_images_too_and_masks_are_the_same_in_every_arm(trained):
    _, model = trained
    gain = model.cross_modal_gain(modality="rna", mask=0.4, max_cells=30, others_masked=True)
    assert gain.channels.empty and gain.target.shape == (8, 5)
    assert (gain.cells["n_hidden"] == 2).all() and len(gain.cells) == 30
    again = model.cross_modal_gain(modality="rna", mask=0.4, max_cells=30, others_masked=True)
    pd.testing.assert_frame_equal(gain.cells, again.cells)
    only = model.cross_modal_gain(modality="rna", mask=0.4, others=("none", "own"), contexts=["g2"])
    assert set(only.cells["context"]) == {"g2"} and np.isnan(only.tests["pvalue_contexts"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": 0.0}, "hides nothing, or everything"),
        ({"channel": "lipid", "above": 1e9}, "hides nothing, or everything"),
        ({"channel": "lipids"}, "Did you mean 'lipid'"),
        ({"others": ("own",)}, "at least two"),
        ({"others": ("none", "g7")}, "'g7' is not in the contexts"),
        ({"contexts": ["g77"]}, "'g77' is not in the contexts"),
        ({"modality": "rn"}, "Did you mean 'rna'"),
        ({"mask": np.zeros((3, 3), bool)}, "expected bool"),
        ({"modality": "rna", "channel": "lipid"}, "has none"),
        ({"max_cells": 0}, "max_cells"),
    ],
)
def test_what_cannot_be_masked_or_compared_is_named(trained, arguments, message):
    _, model = trained
    with pytest.raises((ValueError, KeyError), match=message):
        model.cross_modal_gain(**arguments)


def test_attention_rows_add_up_and_match_the_layer(trained):
    _, model = trained
    found = model.attention(max_documents=3)
    assert found.maps.shape == (3, 1, 2, 4, 4) and found.lengths == {"image": 2, "rna": 2}
    np.testing.assert_allclose(found.maps.sum(axis=-1), 1, rtol=1e-5)
    assert len(found.context) == 3 and set(found.context) <= {f"g{i}" for i in range(6)}
    # What the maps say is what the layer does: their average of the values is its output.
    block = model.module.documents.blocks[0].attention
    x = torch.randn(1, 4, 16)
    from cellfuse.nn.attention_maps import attention_maps

    seen = {}
    hook = block.register_forward_hook(lambda m, a, out: seen.update(x=a[0], out=out))
    latents = {"image": x[:, :2].view(1, 2, 1, 16), "rna": x[:, 2:].view(1, 2, 1, 16)}
    here = {name: torch.ones(1, dtype=torch.bool) for name in latents}
    maps = attention_maps(model.module.documents, latents, here)
    hook.remove()
    value = block._heads(block.key_value(seen["x"]).chunk(2, dim=-1)[1])
    out = block.out((maps[:, 0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out, seen["out"], atol=1e-5, rtol=1e-4)


def test_blocks_of_attention_are_measured_and_compared(trained):
    _, model = trained
    found = model.attention(max_documents=2)
    flat = type(found)(np.full_like(found.maps, 1 / 4), found.lengths, found.context)
    table = cf.tl.attention_blocks({"PETRI": found, "flat": flat})
    assert len(table) == 2 * 2 * 2
    of_flat = table[table["model"] == "flat"]
    assert (of_flat["spread"] < 1e-6).all() and np.allclose(of_flat["share"], 0.5)
    assert (table.loc[table["model"] == "PETRI", "spread"] > 0).all()
    assert [t["auc"] for t in table.attrs["tests"]] == [1.0, 1.0]
    block = found.maps[:, 0, 0, :2, 2:]
    row = table.iloc[0]
    assert row["block"] == "image -> rna"
    np.testing.assert_allclose(row["spread"], block.std(axis=-1).mean() * 4, rtol=1e-5)
    axes = cf.pl.attention(found, heads=[(1, 0)])
    np.testing.assert_allclose(axes[0].images[0].get_array(), found.maps.mean(axis=0)[0, 0])
    assert len(cf.pl.attention_blocks(table)) == 2
    with pytest.raises(ValueError, match="no head 2 of layer 1"):
        cf.pl.attention(found, heads=[(1, 2)])
    plt.close("all")


def test_blocks_of_attention_are_kept_in_the_data_and_in_its_file(trained, tmp_path):
    mdata, model = trained
    mdata = mdata.copy()
    mdata.uns.clear()
    found = model.attention(max_documents=2)
    flat = type(found)(np.full_like(found.maps, 1 / 4), found.lengths, found.context)
    table = cf.tl.attention_blocks({"PETRI": found, "flat": flat}, data=mdata)
    assert list(mdata.uns["attention_blocks"]["params"]["models"]) == ["PETRI", "flat"]
    mdata.write_h5mu(tmp_path / "kept.h5mu")
    back = md.read_h5mu(tmp_path / "kept.h5mu")
    pd.testing.assert_frame_equal(
        back.uns["attention_blocks"]["table"], table, check_dtype=False, check_index_type=False
    )
    axes = cf.pl.attention_blocks(back)
    assert "p = " in axes[0].get_title(loc="left")
    cf.tl.attention_blocks(found, data=mdata, key_added="alone")
    assert (
        "tests" not in mdata.uns["alone"] and len(cf.pl.attention_blocks(mdata, key="alone")) == 2
    )
    with pytest.raises(KeyError, match="attention_blocks"):
        cf.pl.attention_blocks(mdata, key="none")
    plt.close("all")


def test_the_figure_of_the_gain_shows_losses_holes_and_residuals(trained):
    _, model = trained
    gain = model.cross_modal_gain(channel="lipid", above=40.0, max_cells=24)
    axes = cf.pl.cross_modal_gain(gain, channel="lipid", n_cells=2)
    assert len(axes) == 1 + 4 * 2  # hole, cell, two residuals
    hole, residual = axes[1].images[0].get_array(), axes[5].images[0].get_array()
    assert np.ma.getmaskarray(hole)[4:, 4:].all() or np.isnan(np.asarray(hole))[4:, 4:].all()
    expected = gain.restored["none"][0, 1] - gain.restored["own"][0, 1]
    np.testing.assert_allclose(residual, expected)
    points = np.concatenate([c.get_offsets() for c in axes[0].collections])
    assert len(points) == 24
    with pytest.raises(KeyError, match="lipids"):
        cf.pl.cross_modal_gain(gain, channel="lipids")
    plt.close("all")


def test_one_modality_or_no_set_transformer_has_nothing_to_gain_from():
    mdata = screen(n=24)
    model = petri(mdata, n_set_layers=0)
    with pytest.raises(ValueError, match="no other modality to gain from"):
        model.cross_modal_gain()
    with pytest.raises(ValueError, match="no other modality to gain from"):
        model.attention()
