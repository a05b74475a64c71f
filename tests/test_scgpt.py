"""scGPT: the network against torch's own, the bins against numpy's, a cell's own random numbers."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cellfuse._provenance import recorded
from cellfuse.kernels.binning import quantile_bins
from cellfuse.nn.checkpoints import read_tensors
from cellfuse.nn.scgpt import read_scgpt
from cellfuse.pp.scgpt import embed_scgpt

N_GENES, WIDTH, HEADS, HIDDEN, LAYERS, PAD_VALUE = 40, 16, 4, 24, 2, -2
VOCABULARY = {f"GENE{i}": i for i in range(N_GENES)} | {"<pad>": 40, "<cls>": 41, "<eoc>": 42}
ARGS = {
    "embsize": WIDTH,
    "nheads": HEADS,
    "d_hid": HIDDEN,
    "nlayers": LAYERS,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "pad_token": "<pad>",
    "pad_value": PAD_VALUE,
    "input_emb_style": "continuous",
}
QUIET = {"progress": False, "device": "cpu"}


def reference() -> nn.TransformerEncoder:
    """The transformer of scGPT as torch has it, with weights away from their start."""
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.2, batch_first=True)
        made = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        for parameter in made.parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape)
    return made.eval()


def state(variant: str = "Wqkv") -> dict[str, torch.Tensor]:
    """A state dict with the names of the released checkpoints."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    d = WIDTH
    out = {
        "encoder.embedding.weight": draw(len(VOCABULARY), d),
        "encoder.enc_norm.weight": 1 + 0.1 * draw(d),
        "encoder.enc_norm.bias": 0.1 * draw(d),
        "value_encoder.linear1.weight": draw(d, 1),
        "value_encoder.linear1.bias": draw(d),
        "value_encoder.linear2.weight": draw(d, d),
        "value_encoder.linear2.bias": draw(d),
        "value_encoder.norm.weight": 1 + 0.1 * draw(d),
        "value_encoder.norm.bias": 0.1 * draw(d),
        "flag_encoder.weight": draw(2, d),
        "decoder.fc.0.weight": draw(d, d),
        "mvc_decoder.gene2query.weight": draw(d, d),
    }
    for name, tensor in reference().state_dict().items():
        name = name.replace("in_proj_", f"{variant}." if "Wqkv" in variant else "in_proj_")
        out[f"transformer_encoder.{name}"] = tensor
    return out


def write(folder: Path, *, weights: dict | None = None, args: dict | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY))
    (folder / "args.json").write_text(json.dumps(ARGS if args is None else args))
    torch.save(state() if weights is None else weights, folder / "best_model.pt")
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write(tmp_path / "scgpt")


def cells(n: int = 12, seed: int = 0) -> ad.AnnData:
    """Counts full of ties; two genes that the vocabulary does not know; lengths that differ."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(np.linspace(0.2, 3, n)[:, None], (n, N_GENES + 2))
    counts[:, 0] += 1
    names = [f"GENE{i}" for i in range(N_GENES)] + ["OTHER1", "OTHER2"]
    return ad.AnnData(
        sp.csr_matrix(counts.astype("f4")),
        obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]),
        var=pd.DataFrame(index=names),
    )


def embedding(data: ad.AnnData, checkpoint: Path, **arguments: object) -> np.ndarray:
    data = data.copy()
    embed_scgpt(data, checkpoint, **{**QUIET, **arguments})
    return data.obsm["X_scgpt"]


# -- the network ----------------------------------------------------------------------------------


def tokens() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    genes = torch.randint(0, N_GENES, (3, 7), generator=generator)
    values = torch.randint(1, 51, (3, 7), generator=generator).float()
    padding = torch.arange(7)[None] >= torch.tensor([7, 4, 2])[:, None]
    return genes, values, padding


@pytest.mark.parametrize("variant", ["Wqkv", "_impl.Wqkv", "in_proj"])
def test_the_encoder_is_torchs_with_the_same_weights(tmp_path, variant):
    weights = state(variant)
    model = read_scgpt(write(tmp_path / "scgpt", weights=weights))
    genes, values, padding = tokens()
    embed = torch.nn.functional.layer_norm(
        weights["encoder.embedding.weight"][genes],
        (WIDTH,),
        weights["encoder.enc_norm.weight"],
        weights["encoder.enc_norm.bias"],
    )
    x = torch.relu(
        values[..., None] @ weights["value_encoder.linear1.weight"].T
        + weights["value_encoder.linear1.bias"]
    )
    x = x @ weights["value_encoder.linear2.weight"].T + weights["value_encoder.linear2.bias"]
    x = torch.nn.functional.layer_norm(
        x, (WIDTH,), weights["value_encoder.norm.weight"], weights["value_encoder.norm.bias"]
    )
    theirs = reference()(embed + x, src_key_padding_mask=padding)
    ours = model.encoder(genes, values, padding)
    torch.testing.assert_close(ours[~padding], theirs[~padding], rtol=1e-5, atol=1e-5)
    assert not model.encoder.training


def test_the_encoder_is_trained_like_any_module(checkpoint):
    encoder = read_scgpt(checkpoint).encoder.train()
    genes, values, padding = tokens()
    encoder(genes, values, padding)[:, 0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_values_are_clipped_where_the_authors_clip_them(checkpoint):
    encoder = read_scgpt(checkpoint).encoder
    genes = torch.tensor([[1, 2]])
    far, edge = torch.tensor([[512.0, 9999.0]]), torch.tensor([[512.0, 512.0]])
    torch.testing.assert_close(encoder(genes, far), encoder(genes, edge))


# -- bins -----------------------------------------------------------------------------------------


def plain_bins(row: np.ndarray, noise: np.ndarray, n_bins: int) -> np.ndarray:
    """The definition, a cell at a time."""
    edges = np.quantile(row, np.linspace(0, 1, n_bins - 1))
    left, right = np.digitize(row, edges), np.digitize(row, edges, right=True)
    return np.ceil(noise * (right - left) + left).astype(int)


@settings(max_examples=60, deadline=None)
@given(
    groups=st.lists(
        st.lists(st.integers(1, 9) | st.floats(0.1, 99.0), max_size=30), min_size=1, max_size=4
    ),
    n_bins=st.integers(3, 51),
    seed=st.integers(0, 99),
)
def test_bins_are_those_of_numpy(groups, n_bins, seed):
    values = np.array([v for group in groups for v in group], dtype=float)
    indptr = np.cumsum([0, *map(len, groups)])
    noise = np.random.default_rng(seed).random(len(values))
    bins = quantile_bins(values, indptr, n_bins=n_bins, noise=noise)
    for start, stop in zip(indptr[:-1], indptr[1:], strict=True):
        if stop > start:
            part = slice(start, stop)
            expected = plain_bins(values[part], noise[part], n_bins)
            np.testing.assert_array_equal(bins[part], expected)
            assert bins[part].min() >= 1
            assert bins[part].max() <= n_bins - 1


def test_bins_by_hand():
    # Four edges at 1, 2, 3, 4: the least value lies at one of them, the others in between.
    values = np.array([4.0, 1.0, 2.0, 3.0])
    low = quantile_bins(values, np.array([0, 4]), n_bins=5, noise=np.full(4, 0.99))
    assert low.tolist() == [4, 1, 2, 3]
    # All alike: every edge is there, and the noise spreads them over all bins.
    tied = quantile_bins(np.ones(3), np.array([0, 3]), n_bins=5, noise=np.array([0.0, 0.5, 0.99]))
    assert tied.tolist() == [4, 2, 1]


# -- the verb -------------------------------------------------------------------------------------


def test_an_embedding_is_the_output_at_cls_of_unit_length(checkpoint):
    data = cells(3)
    data.X = sp.csr_matrix(np.eye(3, N_GENES + 2, dtype="f4") * 5)
    found = embedding(data, checkpoint, n_bins=3)  # with three bins, two: 1 or 2
    encoder = read_scgpt(checkpoint).encoder
    for cell in range(3):
        genes = torch.tensor([[41, cell]])
        either = [
            encoder(genes, torch.tensor([[float(PAD_VALUE), value]]))[0, 0] for value in (1.0, 2.0)
        ]
        expected = [(x / x.norm()).detach().numpy() for x in either]
        assert any(np.allclose(found[cell], e, atol=1e-5) for e in expected)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("max_tokens", [1200, 8], ids=["whole", "subset"])
def test_a_cell_does_not_depend_on_others_batches_or_order(checkpoint, max_tokens):
    data = cells()
    whole = embedding(data, checkpoint, max_tokens=max_tokens)
    rng = np.random.default_rng(3)
    rows, columns = rng.permutation(data.n_obs), rng.permutation(data.n_vars)
    other = data[rows, columns].copy()
    shuffled = embedding(other, checkpoint, max_tokens=max_tokens, batch_size=5)
    np.testing.assert_allclose(shuffled, whole[rows], atol=2e-6)
    alone = embedding(data[4:5].copy(), checkpoint, max_tokens=max_tokens)
    np.testing.assert_allclose(alone, whole[4:5], atol=2e-6)
    again = embedding(data, checkpoint, max_tokens=max_tokens)
    np.testing.assert_array_equal(again, whole)


def test_name_and_seed_decide_ties(checkpoint):
    data = cells()
    whole = embedding(data, checkpoint)
    assert not np.allclose(embedding(data, checkpoint, seed=1), whole, atol=1e-3)
    data.obs_names = [f"other{i}" for i in range(data.n_obs)]
    assert not np.allclose(embedding(data, checkpoint), whole, atol=1e-3)


def test_only_the_order_of_values_within_a_cell_matters(checkpoint):
    data = cells()
    logged = data.copy()
    logged.X = sp.csr_matrix(np.log1p(data.X.toarray() / 7))
    np.testing.assert_allclose(
        embedding(logged, checkpoint), embedding(data, checkpoint), atol=2e-6
    )


def test_a_long_cell_gives_a_random_part_of_its_genes(checkpoint, monkeypatch):
    from cellfuse.pp.scgpt import _name_keys, _tokens

    n, counts = 400, sp.csr_matrix(np.ones((400, N_GENES)))
    keys = _name_keys(pd.Index([f"c{i}" for i in range(n)]))
    got = _tokens(counts, np.arange(N_GENES), keys, n_bins=51, limit=10, seed=0)
    assert np.diff(got.indptr).tolist() == [10] * n
    drawn = np.bincount(got.genes, minlength=N_GENES)
    # Each of 40 genes is drawn 400 x 10 / 40 = 100 times, binomial sd 8.7.
    assert (np.abs(drawn - 100) < 44).all()
    per_cell = got.genes.reshape(n, 10)
    assert all(len(set(row)) == 10 for row in per_cell.tolist())


@pytest.mark.parametrize("kind", ["dense", "csc", "layer", "gene_key", "explicit zeros"])
def test_values_are_found_wherever_they_lie(checkpoint, kind):
    data, arguments = cells(), {}
    whole = embedding(data, checkpoint)
    if kind == "dense":
        data.X = data.X.toarray()
    elif kind == "csc":
        data.X = data.X.tocsc()
    elif kind == "explicit zeros":
        stored = data.X.toarray()
        data.X = sp.csr_matrix(
            (
                stored.ravel(),
                np.tile(np.arange(data.n_vars), data.n_obs),
                np.arange(data.n_obs + 1) * data.n_vars,
            ),
            shape=data.shape,
        )
    elif kind == "layer":
        data.layers["counts"] = data.X.copy()
        data.X = None
        arguments["layer"] = "counts"
    elif kind == "gene_key":
        data.var["symbol"] = data.var_names
        data.var_names = [f"ENSG{i}" for i in range(data.n_vars)]
        arguments["gene_key"] = "symbol"
    np.testing.assert_allclose(embedding(data, checkpoint, **arguments), whole, atol=2e-6)


def test_counts_in_a_file_are_read_there(checkpoint, tmp_path):
    whole = embedding(cells(), checkpoint)
    cells().write_h5ad(tmp_path / "cells.h5ad")
    data = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    embed_scgpt(data, checkpoint, **QUIET)
    assert data.isbacked
    np.testing.assert_allclose(data.obsm["X_scgpt"], whole, atol=2e-6)
    data.file.close()


def test_nothing_but_the_key_and_its_note_is_written(checkpoint, caplog):
    data = cells()
    before = data.copy()
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        embed_scgpt(data, checkpoint, key_added="Z", **QUIET)
    assert "40 of 42 genes (95.2%) are in the vocabulary" in caplog.text
    assert (data.X != before.X).nnz == 0
    assert list(data.obsm) == ["Z"]
    assert data.obsm["Z"].dtype == np.float32
    note = recorded(data, "Z")["embed_scgpt"]
    assert note["share_in_vocabulary"] == pytest.approx(40 / 42)
    with pytest.raises(ValueError, match=r"obsm\['Z'\] exists"):
        embed_scgpt(data, checkpoint, key_added="Z", **QUIET)
    embed_scgpt(data, checkpoint, key_added="Z", overwrite=True, **QUIET)


def test_safetensors_are_taken_where_they_lie(checkpoint):
    whole = embedding(cells(), checkpoint)
    save_file(state(), checkpoint / "best_model.safetensors")
    (checkpoint / "best_model.pt").unlink()
    np.testing.assert_array_equal(embedding(cells(), checkpoint), whole)


# -- bad input ------------------------------------------------------------------------------------


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_code_is_refused_and_not_executed(checkpoint, tmp_path):
    trap = tmp_path / "executed"
    torch.save({**state(), "hook": Harm(trap)}, checkpoint / "best_model.pt")
    with pytest.raises(ValueError, match="pickled code.*nothing in it was executed"):
        embed_scgpt(cells(), checkpoint, **QUIET)
    with open(checkpoint / "best_model.pt", "wb") as file:
        pickle.dump(Harm(trap), file, protocol=2)  # the one that torch writes
    with pytest.raises(ValueError, match=r"pickled code|no checkpoint"):
        embed_scgpt(cells(), checkpoint, **QUIET)
    assert not trap.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt"):
        read_tensors(tmp_path / "model.pt")


def test_a_file_without_weights_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(ValueError, match="holds no weights.*found list"):
        read_tensors(tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        read_tensors(tmp_path / "absent.pt")


def drop(name: str) -> dict:
    return {k: v for k, v in state().items() if k != name}


@pytest.mark.parametrize(
    ("weights", "args", "text"),
    [
        (drop("encoder.enc_norm.bias"), None, "missing 'genes.norm.bias'"),
        ({**state(), "extra.weight": torch.zeros(1)}, None, "unknown 'extra.weight'"),
        ({**state(), "dsbn.bns.0.weight": torch.zeros(1)}, None, "normalises by batch label"),
        (None, {**ARGS, "d_hid": 25}, "has shape .* make it"),
        (None, {**ARGS, "pre_norm": True}, "pre_norm=True"),
        (None, {**ARGS, "input_emb_style": "category"}, "input_emb_style='category'"),
        (None, {k: v for k, v in ARGS.items() if k != "nheads"}, "lacks 'nheads'"),
        (None, {**ARGS, "nlayers": 1}, "unknown 'blocks.1"),
        (
            {**state(), "encoder.embedding.weight": torch.zeros(20, WIDTH)},
            None,
            "do not belong together",
        ),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(tmp_path, weights, args, text):
    folder = write(tmp_path / "scgpt", weights=weights, args=args)
    with pytest.raises(ValueError, match=text):
        read_scgpt(folder)


def test_a_missing_file_is_named(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"folder with vocab\.json, args\.json"):
        read_scgpt(tmp_path / "absent")
    (checkpoint / "best_model.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"best_model\.pt"):
        read_scgpt(checkpoint)
    (checkpoint / "args.json").write_text("{")
    with pytest.raises(ValueError, match=r"args\.json.*no JSON"):
        read_scgpt(checkpoint)
    (checkpoint / "vocab.json").write_text('{"A": "one"}')
    with pytest.raises(ValueError, match="token number from 0; not so: 'A'"):
        read_scgpt(checkpoint)


def renamed(names: list[str], **columns: list[str]) -> ad.AnnData:
    data = cells()
    data.var = pd.DataFrame(columns, index=names)
    return data


SYMBOLS = list(cells().var_names)
ENSEMBL = [f"ENSG{i:011d}" for i in range(len(SYMBOLS))]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (renamed(ENSEMBL, symbol=SYMBOLS), "Give `gene_key='symbol'`: 95% of its names"),
        (renamed(ENSEMBL), "0 of 42 genes .*Ensembl identifiers"),
        (renamed([s.capitalize() for s in SYMBOLS]), "In upper case they match"),
        (renamed([f"x{i}" for i in range(42)]), "the vocabulary has 'GENE0'"),
    ],
)
def test_genes_that_do_not_match_are_an_error_with_the_likely_fix(checkpoint, data, text):
    with pytest.raises(ValueError, match=text):
        embed_scgpt(data, checkpoint, **QUIET)


def test_half_of_the_genes_is_enough(checkpoint):
    data = cells()[:, :40].copy()
    data.var_names = [*data.var_names[:20], *(f"x{i}" for i in range(20))]
    embed_scgpt(data, checkpoint, **QUIET)
    data.var_names = [*data.var_names[:19], *(f"x{i}" for i in range(21))]
    with pytest.raises(ValueError, match="19 of 40 genes"):
        embed_scgpt(data, checkpoint, overwrite=True, **QUIET)


def spoiled(value: float) -> ad.AnnData:
    data = cells()
    data.X[5, 0] = value
    return data


def emptied() -> ad.AnnData:
    data = cells()
    counts = data.X.toarray()
    counts[[2, 11]] = 0
    counts[2, -1] = 4  # a gene that the vocabulary does not know
    data.X = sp.csr_matrix(counts)
    return data


@pytest.mark.parametrize(
    ("data", "arguments", "error", "text"),
    [
        (spoiled(-1), {}, ValueError, "X must hold counts from 0; found -1 in cell 'cell5'"),
        (spoiled(np.nan), {}, ValueError, "found nan in cell 'cell5'"),
        (emptied(), {}, ValueError, "2 of 12 cells have no count .*'cell2', 'cell11'"),
        (cells(), {"layer": "count"}, KeyError, "'count' is not in layers"),
        (cells(), {"gene_key": "symbol"}, KeyError, "'symbol' is not in var"),
        (cells(), {"batch_size": 0}, ValueError, "batch_size >= 1"),
        (cells()[:3], {}, ValueError, "is a view"),
        (cells()[:0].copy(), {}, ValueError, "no cells"),
        (md.MuData({"rna": cells()}), {}, TypeError, r"embed_scgpt\(mdata\['rna'\]"),
    ],
)
def test_bad_data_is_named(checkpoint, data, arguments, error, text):
    with pytest.raises(error, match=text):
        embed_scgpt(data, checkpoint, **{**QUIET, **arguments})
