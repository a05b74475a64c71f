"""TIDE with a scGPT checkpoint, and what its setup refuses."""

from __future__ import annotations

import json

import mudata as md
import numpy as np
import pytest
import torch
from screens import SMILES, drug_screen
from tide_parts import SHORT, SMALL, built, setup

import cellfuse as cf
from cellfuse.nn.scgpt import ScGPT
from cellfuse.nn.scgpt_response import ScGPTResponse


@pytest.fixture(scope="module")
def screen():
    return drug_screen()


# -- scGPT ----------------------------------------------------------------------------------------


def write_checkpoint(folder, genes):
    vocabulary = {name: i for i, name in enumerate([*genes, "<pad>", "<cls>", "<eoc>"])}
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    sizes = {"embsize": 8, "nheads": 2, "d_hid": 8, "nlayers": 1, "pad_value": -2}
    (folder / "args.json").write_text(json.dumps({**sizes, "dropout": 0.5}))
    net = ScGPT(len(vocabulary), width=8, n_heads=2, hidden=8, n_layers=1, pad=vocabulary["<pad>"])
    weights = {}
    for name, tensor in net.state_dict().items():
        name = name.replace("genes.embedding.", "encoder.embedding.")
        name = name.replace("genes.norm.", "encoder.enc_norm.")
        name = name.replace("values.first.", "value_encoder.linear1.")
        name = name.replace("values.second.", "value_encoder.linear2.")
        name = name.replace("values.norm.", "value_encoder.norm.")
        name = name.replace("blocks.", "transformer_encoder.layers.")
        name = name.replace("attention.out.", "self_attn.out_proj.")
        for ours, theirs in (("first", "linear1"), ("second", "linear2")):
            name = name.replace(f"layers.0.{ours}.", f"layers.0.{theirs}.")
        name = name.replace("norm_attention", "norm1").replace("norm_mlp", "norm2")
        weights[name] = tensor
    for kind in ("weight", "bias"):
        base = "transformer_encoder.layers.0."
        parts = [weights.pop(f"{base}attention.{part}.{kind}") for part in ("query", "key_value")]
        weights[f"{base}self_attn.Wqkv.{kind}"] = torch.cat(parts)
    torch.save(weights, folder / "best_model.pt")
    return folder


def test_a_checkpoint_reads_the_transcriptomes_and_is_saved_with_the_model(screen, tmp_path):
    folder = write_checkpoint(tmp_path / "scgpt", [f"GENE{i}" for i in range(6)])
    model = built(screen, checkpoint=folder, seed=0)
    assert isinstance(model.module.response, ScGPTResponse)
    model.train(1, validation_images=0, **SHORT)
    model.save(tmp_path / "model")
    (folder / "vocab.json").unlink()
    other = cf.TIDE.load(tmp_path / "model")
    controls = screen["rna"][-3:].copy()
    np.testing.assert_allclose(
        other.predict_expression(controls, "CCO", 1.0),
        model.predict_expression(controls, "CCO", 1.0),
        rtol=1e-5,
    )


def test_a_checkpoint_that_lacks_genes_is_refused(screen, tmp_path):
    folder = write_checkpoint(tmp_path / "scgpt", ["GENE0", "TP53"])
    with pytest.raises(ValueError, match="lacks 7 of the 8 genes .*'GENE1'"):
        built(screen, checkpoint=folder)
    with pytest.raises(ValueError, match="reads genes by name"):
        built(screen, checkpoint=folder, setup_with={"rna_rep": "X_values"})


def test_expression_is_binned_by_its_own_order(tmp_path, screen):
    folder = write_checkpoint(tmp_path / "scgpt", [f"GENE{i}" for i in range(8)])
    bins = built(screen, checkpoint=folder).module.response.encoder.bins
    found = bins(torch.tensor([[0.0, 5.0, 1.0, 3.0, 0.0]]))
    assert found[0, [0, 4]].tolist() == [0, 0]
    assert found[0, 2] < found[0, 3] < found[0, 1]
    assert 1 <= found[0, 2] and found[0, 1] <= 50
    torch.testing.assert_close(bins(torch.tensor([[0.0, 5.0, 1.0, 3.0, 0.0]]) * 9), found)


def test_bins_of_equal_values_do_not_hang_on_the_order_of_genes(tmp_path, screen):
    folder = write_checkpoint(tmp_path / "scgpt", [f"GENE{i}" for i in range(8)])
    bins = built(screen, checkpoint=folder).module.response.encoder.bins
    x = torch.tensor([[2.0, 0.0, 1.0, 1.0, 1.0, -3.0, 4.0, 1.0]])
    found = bins(x)
    assert len(set(found[0, [2, 3, 4, 7]].tolist())) == 1
    assert 0 < found[0, 5] < found[0, 2] < found[0, 0] < found[0, 6] <= 50
    torch.testing.assert_close(bins(x.flip(1)), found.flip(1))
    alone = torch.tensor([[5.0, 1.0, 3.0, 0.0]])  # ranks 2, 0, 1 of 3: 1 + rank * 50 // 3
    assert bins(alone).tolist() == [[34.0, 1.0, 17.0, 0.0]]


# -- what setup refuses ---------------------------------------------------------------------------


def poked(modality, column, value, rows=slice(0, 2)):
    mdata = drug_screen()
    obs = mdata[modality].obs
    values = obs[column].to_numpy(dtype=object).copy()
    values[rows] = value
    obs[column] = values
    return mdata


def test_smiles_that_are_not_read_are_named_before_anything_else():
    mdata = poked("image", "smiles", "nonsense")
    mdata["image"].obs["dose_um"] = -1.0  # wrong too, and told later
    with pytest.raises(ValueError, match=r"does not read obs\['smiles'\] in 2 rows: 'image-0: no"):
        setup(mdata)


@pytest.mark.parametrize(
    ("modality", "column", "value", "text"),
    [
        ("image", "smiles", "CCO", "'aspirin' has 2 structures: 'CC.*', 'CCO'"),
        ("image", "dose_um", -1.0, "is negative for 2 treated rows: 'image-0', 'image-1'"),
        ("rna", "dose_um", np.nan, "of modality 'rna' is missing or infinite for 2 treated rows"),
        ("rna", "dose_um", "10 uM", "must hold numbers, doses in uM; found '10 uM'"),
        ("rna", "compound", "DMSO-d6", "compound 'aspirin'|have no structure|2 structures"),
    ],
)
def test_bad_rows_are_named(modality, column, value, text):
    mdata = poked(modality, column, value)
    if column == "compound":
        mdata[modality].obs.iloc[:2, mdata[modality].obs.columns.get_loc("smiles")] = None
    with pytest.raises(ValueError, match=text):
        setup(mdata)


def test_one_structure_spelled_twice_is_no_error():
    setup(poked("image", "smiles", "O=C(O)c1ccccc1OC(C)=O"))


def test_compounds_with_one_fingerprint_are_named():
    mdata = drug_screen()
    for m in ("image", "rna"):
        obs = mdata[m].obs
        obs["smiles"] = obs["smiles"].replace(SMILES["caffeine"], "CCCCCCCCCCCCCCCC")
        obs["smiles"] = obs["smiles"].replace(SMILES["vorinostat"], "CCCCCCCCCCCCCCCCCC")
    with pytest.warns(UserWarning, match="same fcfp4 fingerprint .*'caffeine = vorinostat'"):
        setup(mdata)


def test_controls_lines_and_pairs_must_be_there():
    with pytest.raises(KeyError, match="'dmso' is not in.*Did you mean 'DMSO'"):
        mdata = drug_screen()
        mdata["image"].obs["smiles"] = mdata["image"].obs["smiles"].fillna("CS(C)=O")
        setup(mdata, control="dmso")
    mdata = drug_screen()
    rna = mdata["rna"]
    bare = (rna.obs["compound"] == "DMSO") & (rna.obs["cell_line"] == "U2OS")
    lacking = md.MuData({"image": mdata["image"], "rna": rna[~bare.to_numpy()].copy()})
    with pytest.raises(ValueError, match="no control .'DMSO'. RNA in cell lines 'U2OS'"):
        setup(lacking)
    other = drug_screen()
    names = other["rna"].obs["compound"]
    other["rna"].obs["compound"] = names.where(names == "DMSO", names + " acid")
    with (
        pytest.warns(UserWarning, match="'aspirin = aspirin acid'"),
        pytest.raises(ValueError, match="0 compounds have images and RNA in one context"),
    ):
        setup(other)
    with pytest.raises(ValueError, match="must be one of the context keys"):
        setup(drug_screen(), context_keys="compound")
    with pytest.raises(KeyError, match="'drug' is not in the context keys"):
        setup(drug_screen(), control_key="drug")
    with pytest.raises(KeyError, match="'SMILES' is not in obs of any modality"):
        setup(drug_screen(), smiles_key="SMILES")


def test_a_screen_without_any_structure_is_named():
    mdata = drug_screen()
    for m in ("image", "rna"):
        mdata[m].obs["smiles"] = "  "
    with pytest.raises(ValueError, match="6 compounds have no structure"):
        setup(mdata)


@pytest.mark.parametrize("number", [int, float])
@pytest.mark.parametrize("control", ["6", 6])
def test_labels_may_be_numbers(number, control):
    mdata, codes = drug_screen(), {name: i for i, name in enumerate([*SMILES, "DMSO"])}
    for m in ("image", "rna"):
        obs = mdata[m].obs
        obs["compound"] = obs["compound"].map(codes).astype(number)
    setup(mdata, control=control)
    assert cf.TIDE(mdata).drugs == ["0", "1", "2", "3"]


def test_controls_must_agree_with_treated_samples_in_some_context():
    mdata = drug_screen()
    for m in ("image", "rna"):
        obs = mdata[m].obs
        obs["batch"] = np.where(obs["compound"] == "DMSO", "controls", "drugs")
    keys = ["compound", "cell_line", "batch"]
    with pytest.raises(
        ValueError, match=r"agrees with any treated sample in \['cell_line', 'batch"
    ):
        setup(mdata, context_keys=keys)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"fingerprint": "ecfp6"}, "fingerprint among 'fcfp4'.*found 'ecfp6'"),
        ({"n_bits": 0}, "n_bits >= 8"),  # RDKit would end the process
    ],
)
def test_fingerprints_that_are_not_there_are_named(given, text):
    with pytest.raises(ValueError, match=text):
        setup(drug_screen(), **given)


def test_the_keys_of_maccs_have_their_own_width(screen):
    model = built(screen, setup_with={"fingerprint": "maccs"})
    model.train(1, validation_images=0, **SHORT)
    assert model.codebook.obsm["fingerprint"].shape == (4, 167)
    assert model.embed_compounds(["CCO"]).shape == (1, SMALL["codebook_width"])


def test_values_that_are_no_counts_are_named():
    mdata = drug_screen()
    mdata["rna"].X = mdata["rna"].X * 0.5
    with pytest.raises(ValueError, match="`rna_likelihood='mse'`"):
        setup(mdata)
    setup(mdata, rna_likelihood="mse")
    with pytest.warns(FutureWarning, match="is now `rna_likelihood`"):
        setup(mdata, rna_counts=False)


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"preset": "huge"}, KeyError, "'huge' is not in the presets"),
        ({"ssl": "simclr"}, ValueError, "ssl='simclr'"),
        ({"objective": "clip"}, ValueError, "objective='clip'"),
        ({"n_paired": -1}, ValueError, "n_paired >= 0"),
        ({"n_paired": 1.5}, ValueError, "n_paired >= 0.*1.5"),
        ({"alpha": float("nan")}, ValueError, "alpha >= 0"),
        ({"crop": 8}, TypeError, "crop=8.*flat embedding"),
        ({"n_paired": 0}, ValueError, "there is none"),
        ({"tau": 0.0}, ValueError, "temperature=0.0"),
        ({"hidden": 0}, ValueError, "hidden must be positive"),
        ({"depth": 2}, TypeError, "'depth'.*not a ViT"),
        ({"seed": -1}, ValueError, "seed must be"),
    ],
)
def test_bad_arguments_are_named(screen, given, error, text):
    with pytest.raises(error, match=text):
        built(screen, **given)


def test_an_untrained_model_says_so(screen):
    model = built(screen)
    for call in (model.predict, model.get_latent_representation):
        with pytest.raises(RuntimeError, match="not trained"):
            call()
    with pytest.raises(ValueError, match="max_epochs must be at least 1"):
        model.train(0)
    with pytest.raises(ValueError, match="weight_decay=0.05: expected two numbers from 0"):
        model.train(1, weight_decay=0.05, **SHORT)
    with pytest.raises(ValueError, match="response_epochs must be at least 1, found 0"):
        model.train(1, response_epochs=0, enable_progress_bar=False)
    with pytest.raises(ValueError, match="holdout"):
        model.train_response(1, holdout=1.0)
    for train in (model.train, model.train_response):
        with pytest.raises(TypeError, match=f"{train.__name__}.*Did you mean 'max_epochs'"):
            train(max_epoch=1)
