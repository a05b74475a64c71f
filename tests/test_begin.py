"""Learned methods begin at the closed form that they have to beat, and go on from it."""

from __future__ import annotations

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from screens import SHORT, TINY, make_screen
from sklearn.linear_model import RidgeCV

import cellfuse as cf
from cellfuse.kernels.context_sums import ContextMoments
from cellfuse.model.base.joint import fit_ridge
from cellfuse.nn import InputSpec, RidgeMap, Sizes
from cellfuse.nn.linear_first import build_linear_first
from cellfuse.nn.masking import random_mask
from cellfuse.nn.ridge import PENALTIES

SMALL = Sizes(
    width=16, n_heads=2, n_latents=2, patch_size=4, image_depth=1, image_decoder_width=16,
    image_decoder_depth=1, image_decoder_heads=2, n_cross=1, n_self=1, gene_decoder_hidden=8,
)  # fmt: skip


def correlated_counts(n: int = 400, genes: int = 30, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    rates = np.exp(0.8 * rng.normal(size=(n, 2)) @ rng.normal(size=(2, genes)) + 1)
    return torch.as_tensor(rng.poisson(rates).astype("f4"))


def begun(kind: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind == "counts":
        x = correlated_counts()
        cell = build_linear_first(InputSpec("counts", (30,)), SMALL)
    elif kind == "values":
        x = correlated_counts().log1p()
        cell = build_linear_first(InputSpec("values", (30,)), SMALL)
    else:
        basis = torch.randn(3, 2, 8, 8)
        x = 100 + 20 * torch.einsum("nk,kchw->nchw", torch.randn(200, 3), basis)
        cell = build_linear_first(InputSpec("pixels", (2, 8, 8)), SMALL)
    axes = (0, 2, 3) if kind == "pixels" else (0,)
    cell.set_statistics(x.mean(dim=axes), x.std(dim=axes))
    cell.begin_at(x)
    return cell, x


def losses_of_hidden(cell: torch.nn.Module, x: torch.Tensor) -> tuple[float, float]:
    """Loss of hidden tokens at the first step, and of a constant, over masks not begun at."""
    prepared = cell.prepare(x[None], torch.zeros(1, dtype=torch.long), seed=0, augment=False)
    keep, mask = random_mask(
        torch.arange(len(x)), 1, cell.n_tokens, ratio=0.75, seed=1, purpose="test"
    )
    with torch.no_grad():
        predictions = (net.decode(net.encode(prepared, keep)) for net in (cell, cell.constant()))
        loss, constant = (float(cell.loss(prepared, p, mask).mean()) for p in predictions)
    return loss, constant


@pytest.mark.parametrize("kind", ["counts", "values", "pixels"])
def test_the_first_step_is_a_linear_autoencoder_that_beats_the_constant(kind):
    cell, x = begun(kind)
    assert cell.gate_in.abs().max() == 0 and cell.gate_out == 0
    loss, constant = losses_of_hidden(cell, x)
    assert loss < {"counts": 0.96, "values": 0.7, "pixels": 0.2}[kind] * constant


def test_where_nothing_can_be_rebuilt_the_first_step_is_as_good_as_the_constant():
    """Components of the noise that is to be rebuilt must not be fitted to it."""
    torch.manual_seed(0)
    x = torch.poisson(torch.full((2000, 60), 2.0))
    cell = build_linear_first(InputSpec("counts", (60,)), SMALL)
    cell.set_statistics(x.mean(dim=0), x.std(dim=0))
    cell.begin_at(x)
    loss, constant = losses_of_hidden(cell, x)
    assert loss < 1.01 * constant


@pytest.mark.parametrize("kind", ["counts", "values", "pixels"])
def test_what_is_hidden_does_not_reach_the_encoder(kind):
    cell, x = begun(kind)
    torch.nn.init.ones_(cell.gate_in)  # depth too
    prepared = cell.prepare(x[None, :4], torch.zeros(1, dtype=torch.long), seed=0, augment=False)
    keep = torch.arange(cell.n_tokens // 2).expand(4, -1)
    changed = prepared.clone()
    changed[:, cell.n_tokens // 2 :] += 3
    with torch.no_grad():
        torch.testing.assert_close(cell.encode(prepared, keep), cell.encode(changed, keep))
        assert (cell.encode(prepared) - cell.encode(changed)).abs().max() > 1e-3


def test_dispersions_begin_at_those_of_the_counts():
    cell, _ = begun("counts")
    assert float(cell.log_dispersion.detach().exp().min()) > 0.099
    rng = np.random.default_rng(0)
    x = torch.as_tensor(rng.negative_binomial(4, 4 / (4 + 5), (4000, 20)).astype("f4"))
    cell = build_linear_first(InputSpec("counts", (20,)), SMALL)
    cell.set_statistics(x.mean(dim=0), x.std(dim=0))
    cell.begin_at(x)
    assert 3 < float(cell.log_dispersion.detach().exp().median()) < 6


def test_training_goes_on_from_there_and_depth_joins():
    mdata = cf.datasets.simulated_screen(
        60, n_targets=12, guides_per_target=2, cells_per_guide=30, seed=0
    )
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, **TINY)
    model.train(max_epochs=4, documents_per_context=2, batch_size=8, enable_progress_bar=False)
    losses = model.history["train_rna_loss_epoch"].iloc[:, 0]
    assert losses.iloc[-1] < losses.iloc[0]
    assert model.module.cell("rna").gate_in.abs().max() > 0
    z = model.get_latent_representation(modality="rna")
    assert z.shape[1] == model.module.joint.space.width and np.isfinite(z).all()


def test_held_out_contexts_are_followed_and_the_best_epoch_is_kept():
    mdata = cf.datasets.simulated_screen(
        60, n_targets=12, guides_per_target=2, cells_per_guide=30, seed=0
    )
    keys = {"image": "well", "rna": "batch"}
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops", batch_key=keys)
    model = cf.PETRI(mdata, target_key="gene", **TINY)
    model.train(
        max_epochs=3, validation_contexts=0.3, validation_by="gene",
        keep_best="validation_gap", **SHORT,
    )  # fmt: skip
    gap = model.history["validation_gap"].iloc[:, 0]
    assert len(gap) == 3 and gap.notna().all()
    assert {"validation_foscttm", "validation_mrr"} <= set(model.history)


def test_a_model_that_began_linear_is_saved_and_loaded(tmp_path):
    mdata = make_screen()
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops", batch_key="plate")
    model = cf.PETRI(mdata, **TINY)
    model.train(max_epochs=1, **SHORT)
    model.save(tmp_path / "model")
    again = cf.PETRI.load(tmp_path / "model")
    for at in ("joint", "shared", "encoder"):
        np.testing.assert_array_equal(
            again.get_latent_representation(mdata, modality="image", at=at),
            model.get_latent_representation(modality="image", at=at),
        )


def test_the_joint_space_is_of_models_that_began_linear():
    mdata = make_screen()
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, begin="random", **TINY)
    model.train(max_epochs=1, **SHORT)
    assert model.get_latent_representation(modality="rna").shape[1] == TINY["width"]
    with pytest.raises(ValueError, match="began at random"):
        model.get_latent_representation(modality="rna", at="joint")
    with pytest.raises(ValueError, match="begin"):
        cf.PETRI(mdata, begin="cold")


# -- ridge ----------------------------------------------------------------------------------------


def linked(n: int = 60, n_cells: int = 5, seed: int = 0) -> md.MuData:
    """Embeddings whose RNA side is a linear map of the image side, by context."""
    rng = np.random.default_rng(seed)
    effect, turn = rng.normal(size=(n, 6)), rng.normal(size=(6, 4))
    code = np.repeat(np.arange(n), n_cells)
    mods = {}
    for m, of_context in (("image", effect), ("rna", effect @ turn)):
        x = of_context[code] + 0.3 * rng.normal(size=(len(code), of_context.shape[1]))
        obs = pd.DataFrame({"sample": [f"s{i}" for i in code]})
        mods[m] = ad.AnnData(obs=obs.rename(f"{m}{{}}".format), obsm={"z": x.astype("f4")})
    return md.MuData(mods)


def test_the_layer_is_scikit_learns_ridge():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)), rng.normal(size=(40, 3))
    ridge = RidgeMap(5, 3)
    ridge.fit(x, y)
    wanted = RidgeCV(PENALTIES).fit(x, y).predict(x)
    np.testing.assert_allclose(ridge(torch.as_tensor(x, dtype=torch.float32)), wanted, atol=1e-4)


def test_ridge_whitens_within_contexts_where_that_predicts_left_out_contexts_better():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    # What tells most varies least: noise lies in the other directions.
    sd_within = np.array([0.05, 0.05, *[3.0] * 28])
    signal = rng.normal(size=(120, 2))
    x = 0.5 * sd_within * rng.normal(size=(120, 30))
    x[:, :2] += 0.2 * signal
    within, x = turn.T @ np.diag(sd_within**2) @ turn, x @ turn
    seen, unseen = slice(0, 40), slice(40, None)
    missed = {}
    for name, given in (("as it is", None), ("whitened", within)):
        ridge = RidgeMap(30, 2)
        ridge.fit(x[seen], signal[seen], within=given)
        found = ridge(torch.as_tensor(x[unseen], dtype=torch.float32)).numpy()
        missed[name] = np.square(found - signal[unseen]).mean()
    assert missed["whitened"] < 0.8 * missed["as it is"]


def test_a_context_counts_in_ridge_as_its_replicates_do():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    y = x @ rng.normal(size=(3, 2))
    wrong = np.vstack([y[:40], 50 + y[40:]])
    ridge = RidgeMap(3, 2)
    ridge.fit(x, wrong, n=np.repeat([1.0, 1e-9], [40, 10]))
    found = ridge(torch.as_tensor(x, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, y, atol=0.1)


def test_phenoseq_draws_around_ridge_before_it_has_learnt_anything():
    mdata = linked()
    cf.PhenoSeq.setup_mudata(mdata, image_rep="z", rna_rep="z")
    model = cf.PhenoSeq(mdata, set_size=4, width=16, depth=1, seed=0)
    model.train(1, lr=1e-6, documents_per_context=1, enable_progress_bar=False)
    drawn = model.sample(n_steps=10, n_samples=8)
    mean = {m: pd.DataFrame(mdata[m].obsm["z"]).groupby(mdata[m].obs["sample"].to_numpy()).mean()
            for m in ("image", "rna")}  # fmt: skip
    ours = drawn.to_df().groupby(drawn.obs["sample"].to_numpy()).mean().loc[mean["rna"].index]
    truth = mean["rna"].to_numpy()
    explained = 1 - np.square(ours - truth).mean().mean() / truth.var(axis=0).mean()
    assert explained > 0.8


def test_semi_clipped_begins_at_ridge_and_the_paper_is_one_argument_away():
    mdata = linked()
    for m in ("image", "rna"):
        mdata[m].obs["sample"] = mdata[m].obs["sample"].astype(str)
    cf.SemiClipped.setup_mudata(mdata, context_keys="sample", image_rep="z", rna_rep="z")
    found = {}
    for begin in ("linear", "random"):
        model = cf.SemiClipped(
            mdata, pea=("none",), image_correction="none", begin=begin, hidden=(8,), seed=0
        )
        model.train(1, lr=1e-6, validation_contexts=0.3, enable_progress_bar=False)
        found[begin] = model.history["validation_foscttm"].iloc[-1, 0]
    assert found["linear"] < 0.1 < found["random"]
    with pytest.raises(ValueError, match="trains='heads'"):
        cf.SemiClipped(mdata, trains="heads", begin="linear")


def test_layers_that_find_held_out_contexts_no_better_are_left_out_and_ridge_takes_all_contexts():
    mdata = linked()
    cf.SemiClipped.setup_mudata(mdata, context_keys="sample", image_rep="z", rna_rep="z")
    fitted = []
    for held in (None, 0.1):
        model = cf.SemiClipped(mdata, pea=("none",), image_correction="none", hidden=(8,), seed=0)
        model.train(2, lr=1.0, validation_contexts=held, enable_progress_bar=False)
        assert model.module.adapter.gate.abs().max() == 0  # steps of that size lead anywhere
        fitted.append(model)
    y = pd.DataFrame(mdata["image"].obsm["z"])
    labels = mdata["rna"].obs["sample"].to_numpy()
    missed = [
        np.square(
            pd.DataFrame(m.get_latent_representation()).groupby(labels).mean()
            - y.groupby(mdata["image"].obs["sample"].to_numpy()).mean()
        ).mean().mean()
        for m in fitted
    ]  # fmt: skip
    assert missed[0] < missed[1]  # of contexts that one of them was not fitted on


def test_contexts_of_a_donor_that_is_held_out_choose_together(monkeypatch):
    mdata = linked()
    names = sorted(mdata["rna"].obs["sample"].unique())
    donor = {name: f"d{k % 8}" for k, name in enumerate(names)}
    for m in ("image", "rna"):
        mdata[m].obs["donor"] = mdata[m].obs["sample"].map(donor).astype(str)
    cf.SemiClipped.setup_mudata(mdata, context_keys="sample", image_rep="z", rna_rep="z")
    asked = []

    def noted(missed, together=None):
        asked.append((missed(0.0), together))
        return 0.0

    monkeypatch.setattr("cellfuse.model.semi_clipped.closed_form.choose_share", noted)
    for by, held in ((None, names[:20]), ("donor", ["d1", "d4"])):
        model = cf.SemiClipped(mdata, pea=("none",), image_correction="none", hidden=(8,), seed=0)
        model.train(1, validation_contexts=held, validation_by=by, enable_progress_bar=False)
    (alone, none), (missed, together) = asked
    assert none is None and len(alone) == 20
    assert list(together) == [donor[name] for name in names if donor[name] in ("d1", "d4")]
    assert len(missed) == len(together)


@pytest.mark.parametrize(
    ("name", "best"),
    [("validation_foscttm", 1), ("validation_loss", 1), ("validation_gap", 0)],
)
def test_the_epoch_that_is_kept_is_the_best_of_its_kind(name, best):
    from types import SimpleNamespace

    from cellfuse.model.base.callbacks import KeepBest

    network = torch.nn.Linear(1, 1)
    keep = KeepBest(network, name)
    for epoch, value in enumerate((0.5, 0.3)):
        torch.nn.init.constant_(network.weight, epoch)
        metrics = {name: torch.tensor(value)}
        trainer = SimpleNamespace(callback_metrics=metrics, current_epoch=epoch, max_epochs=2)
        keep.on_train_epoch_end(trainer, None)
    keep.on_fit_end(None, None)
    assert float(network.weight.detach()) == best


def test_the_share_of_the_linear_autoencoder_is_one_at_first_and_grows():
    mdata = cf.datasets.simulated_screen(
        200, n_targets=60, guides_per_target=1, cells_per_guide=20, effect_size=2, seed=0
    )
    cf.PETRI.setup_mudata(mdata, context_keys="guide", image_rep="crops")
    model = cf.PETRI(mdata, **TINY)
    held = {"validation_contexts": 0.2, "validation_by": "gene", "enable_progress_bar": False}
    model.train(max_epochs=1, max_steps=1, lr=1e-8, batch_size=8, **held)
    model.train(max_epochs=2, documents_per_context=10, batch_size=8, lr=3e-3, **held)
    for role in ("rna", "image"):
        share = model.history[f"validation_{role}_share"].iloc[:, 0]
        assert share.iloc[0] == pytest.approx(1, abs=1e-3)
        assert share.iloc[-1] > 1.05


def test_constant_and_begun_are_copies_that_leave_the_network_alone():
    cell, x = begun("counts")
    before = {name: weight.clone() for name, weight in cell.state_dict().items()}
    with torch.no_grad():
        cell.gate_in += 1.0
        cell.readout.weight += 0.1
    again = cell.begun(x).state_dict()
    assert all(torch.equal(before[name], again[name]) for name in before)
    keep = torch.arange(10).repeat(len(x), 1)
    with torch.no_grad():
        constant = cell.constant()
        rebuilt = constant.decode(constant.encode(x, keep))
    assert rebuilt.std(dim=0).max() < 1e-5 and cell.gate_in.min() == 1.0


def test_a_context_counts_by_its_replicates_in_the_ridge_that_is_begun_at():
    """Noise of forty contexts of one cell each does not outweigh ten of a thousand cells."""
    rng = np.random.default_rng(0)
    counts = np.r_[np.full(10, 1000.0), np.full(40, 1.0)]
    x = rng.normal(size=(50, 2))
    y = x @ np.array([[1.0], [-1.0]])
    y[10:] = 3 * rng.normal(size=(40, 1))

    def moments(values):
        width = values.shape[1]
        return ContextMoments(
            values, counts, np.eye(width), np.eye(width), 1.0, np.zeros(width),
            np.zeros((0, width)), np.zeros(0),
        )  # fmt: skip

    ridge = RidgeMap(2, 1)
    fit_ridge(ridge, moments(x), moments(y), counts > 0, unit=np.array([2.0]))
    assert np.allclose(ridge.weight.numpy(), [[1.0, -1.0]], atol=0.2)
