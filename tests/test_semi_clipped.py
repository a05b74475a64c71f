"""Semi-Clipped: what it must learn, what it must not touch, and what it must refuse."""

from __future__ import annotations

import anndata as ad
import lightning as L
import mudata as md
import numpy as np
import pandas as pd
import pytest
import torch
from screens import plate_screen

import cellfuse as cf
from cellfuse.model.semi_clipped.checks import warn_collapse
from cellfuse.model.semi_clipped.correction import mixed_up
from cellfuse.nn import (
    Distillation,
    clip_loss,
    collapse,
    perturb_embedding,
    relational_distillation,
    same_context,
    sigmoid_loss,
    vicreg_loss,
)

SHORT = {"batch_size": 64, "enable_progress_bar": False}
SETUP = {
    "context_keys": "compound",
    "image_rep": "X_img",
    "rna_rep": "X_rna",
    "batch_key": "plate",
    "control_key": "compound",
    "control": "DMSO",
}


@pytest.fixture(scope="module")
def drugs():
    return plate_screen()


def fitted(mdata, *, epochs=40, lr=1e-2, setup=None, **kwargs):
    cf.SemiClipped.setup_mudata(mdata, **{**SETUP, **(setup or {})})
    model = cf.SemiClipped(mdata, hidden=(32,), **kwargs)
    model.train(epochs, lr=lr, **SHORT)
    return model


@pytest.fixture(scope="module")
def trained(drugs):
    return fitted(drugs, seed=0)


def found_at_first(model, mdata) -> float:
    """How often an RNA sample's nearest image sample is of its compound."""
    a = model.get_latent_representation(mdata["rna"])
    b = model.get_latent_representation(mdata, modality="image")
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    labels = [mdata[m].obs["compound"].to_numpy() for m in ("rna", "image")]
    keep = labels[0] != "DMSO"
    nearest = (a @ b.T).argmax(axis=1)
    return float((labels[1][nearest] == labels[0])[keep].mean())


@pytest.mark.parametrize("loss", ["clip", "sigmoid", "vicreg", "mse", "kd"])
def test_every_objective_brings_the_sides_of_a_compound_together(drugs, loss):
    model = fitted(drugs, loss=loss, seed=0, pea=("tvn",), epochs=100, temperature=0.3)
    z = model.get_latent_representation(modality="rna")
    if loss == "kd":
        # The teacher's relations are learnt, not its axes.
        teacher = model.get_latent_representation(modality="image")
        same = [m.obs["compound"].to_numpy() for m in (drugs["rna"], drugs["image"])]
        names = [f"drug{i}" for i in range(16)]
        relations = []
        for x, labels in zip((z, teacher), same, strict=True):
            means = np.stack([x[labels == name].mean(axis=0) for name in names])
            relations.append(np.corrcoef(means)[np.triu_indices(16, 1)])
        assert np.corrcoef(*relations)[0, 1] > 0.8
    else:
        assert found_at_first(model, drugs) > 0.35  # chance is 1 / 16


def test_it_carries_over_to_plates_never_seen_by_their_own_controls(trained):
    new = plate_screen(seed=0, shift=2.0)
    for role in ("image", "rna"):  # the same compounds on other plates
        key = SETUP[f"{role}_rep"]
        new[role].obsm[key] = new[role].obsm[key] + 7
    assert found_at_first(trained, new) > 0.6


def test_shuffled_compounds_teach_nothing():
    mdata = plate_screen(seed=3)
    truth = mdata["rna"].obs["compound"].copy()
    treated = np.flatnonzero(truth != "DMSO")
    mixed = truth.to_numpy(dtype=object).copy()
    mixed[treated] = np.random.default_rng(0).permutation(mixed[treated])
    mdata["rna"].obs["compound"] = mixed
    model = fitted(mdata, seed=0, pea=("tvn",))
    mdata["rna"].obs["compound"] = truth
    assert found_at_first(model, mdata) < 0.35


def test_the_teacher_and_the_data_stay_as_they_are(drugs):
    before = {m: drugs[m].obsm[k].copy() for m, k in (("image", "X_img"), ("rna", "X_rna"))}
    model = fitted(drugs, epochs=1, seed=0)
    for m, k in (("image", "X_img"), ("rna", "X_rna")):
        np.testing.assert_array_equal(drugs[m].obsm[k], before[m])
    names = {n.split(".")[0] for n, p in model.module.named_parameters() if p.requires_grad}
    assert names == {"adapter", "temperature"}
    wanted = drugs["image"].copy()
    cf.pp.center_scale(
        wanted,
        use_rep="X_img",
        batch_key="plate",
        control_key="compound",
        control="DMSO",
        scale=False,
    )
    cf.pp.tvn(
        wanted,
        use_rep="X_img",
        batch_key="plate",
        control_key="compound",
        control="DMSO",
        input_axes=True,
    )
    found = model.get_latent_representation(modality="image")
    np.testing.assert_allclose(found, wanted.obsm["X_img"], atol=1e-4)


def test_the_inputs_of_a_step_are_pairs_of_one_context_corrected_as_drawn(drugs, monkeypatch):
    cf.SemiClipped.setup_mudata(drugs, **SETUP)
    model = cf.SemiClipped(drugs, hidden=(4,), seed=0)
    seen = []
    forward = model.module.forward

    def spy(student, teacher, context):
        seen.append((student.clone(), teacher.clone(), context.clone()))
        return forward(student, teacher, context)

    monkeypatch.setattr(model.module, "forward", spy)
    model.train(1, lr=1e-12, **SHORT)
    students = torch.cat([s for s, _, _ in seen]).numpy()
    teachers = torch.cat([t for _, t, _ in seen]).numpy()
    z = (drugs["rna"].obsm["X_rna"] - model.module.mean.numpy()) / (model.module.sd.numpy())
    options = {}
    for name in ("none", "center", "center_scale", "tvn"):
        correction = model._correction(None, "rna", (name,))
        options[name] = correction.apply(
            torch.as_tensor(z), torch.as_tensor(correction.codes)
        ).numpy()
    images = model.get_latent_representation(modality="image")
    labels = {m: drugs[m].obs["compound"].to_numpy() for m in ("rna", "image")}
    drawn, rows = [], []
    for student, teacher in zip(students, teachers, strict=True):
        distance = {n: np.abs(x - student).max(axis=1) for n, x in options.items()}
        name = min(distance, key=lambda n: distance[n].min())
        row = int(distance[name].argmin())
        assert distance[name][row] < 1e-4
        image = np.abs(images - teacher).max(axis=1)
        assert image.min() < 1e-4
        assert labels["image"][image.argmin()] == labels["rna"][row]
        drawn.append(name)
        rows.append(row)
    assert len(set(rows)) == len(rows)  # an RNA sample stands once in an epoch
    counts = pd.Series(drawn).value_counts()
    assert set(counts.index) == set(options)
    assert counts.min() > len(drawn) / 8


def test_the_same_seed_gives_the_same_weights_and_another_others(drugs):
    one, two, other = (fitted(drugs, epochs=2, seed=s) for s in (1, 1, 2))
    z = [m.get_latent_representation(modality="rna") for m in (one, two, other)]
    np.testing.assert_array_equal(z[0], z[1])
    assert np.abs(z[0] - z[2]).max() > 1e-3


def test_rna_alone_is_enough_and_a_sample_does_not_hang_on_its_batch(trained, drugs):
    alone = drugs["rna"].copy()
    whole = trained.get_latent_representation(alone)
    np.testing.assert_allclose(
        trained.get_latent_representation(alone, batch_size=7), whole, atol=1e-5
    )
    plain = trained.get_latent_representation(alone[:5].copy(), correction="none")
    every = trained.get_latent_representation(alone, correction="none")
    np.testing.assert_allclose(plain, every[:5], atol=1e-5)
    assert np.abs(every - whole).max() > 0.1


def test_saved_and_loaded_it_gives_the_same(trained, drugs, tmp_path):
    trained.save(tmp_path / "model")
    loaded = cf.SemiClipped.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.get_latent_representation(drugs["rna"]),
        trained.get_latent_representation(drugs["rna"]),
    )


@pytest.mark.parametrize("trains", ["heads", "scratch"])
def test_what_is_trained_can_be_more(drugs, trains):
    scratch = trains == "scratch"
    model = fitted(
        drugs,
        trains=trains,
        pea=("none",) if scratch else ("tvn",),
        setup={"rna_rep": None} if scratch else None,
        epochs=60,
        lr=3e-3,
        seed=0,
    )
    moved = {n.split(".")[0] for n, p in model.module.named_parameters() if p.requires_grad}
    assert moved == {"adapter", "teacher_head", "temperature"} | ({"encoder"} if scratch else set())
    assert found_at_first(model, drugs) > 0.3
    if scratch:
        with pytest.raises(ValueError, match="no unadapted embedding"):
            model.gene_probe()
        with pytest.raises(ValueError, match="trained without a correction"):
            model.get_latent_representation(correction="tvn")


def steps_of(mdata, monkeypatch, *, setup=None, train=None, **kwargs):
    """Model, and (student, teacher, context, is training) of every step it took."""
    cf.SemiClipped.setup_mudata(mdata, **{**SETUP, **(setup or {})})
    model = cf.SemiClipped(mdata, hidden=(32,), seed=0, **kwargs)
    seen, forward = [], model.module.forward

    def spy(student, teacher, context):
        seen.append((student.numpy(), teacher.numpy(), context.numpy(), torch.is_grad_enabled()))
        return forward(student, teacher, context)

    monkeypatch.setattr(model.module, "forward", spy)
    model.train(**{"max_epochs": 1, "lr": 1e-12, **SHORT, **(train or {})})
    return model, seen


def rows_of(found, values) -> np.ndarray:
    """Row of `values` that each row of `found` is; -1 for none."""
    distance = np.abs(found[:, None] - values[None]).max(axis=2)
    return np.where(distance.min(axis=1) < 1e-4, distance.argmin(axis=1), -1)


def standardised(model, mdata):
    return model.module.scale(torch.as_tensor(mdata["rna"].obsm["X_rna"])).numpy()


def test_validation_is_logged_and_held_out_samples_are_not_trained_on(drugs, monkeypatch):
    model, seen = steps_of(
        drugs,
        monkeypatch,
        pea=("none",),
        image_correction="none",
        train={"max_epochs": 2, "validation_size": 0.25, "batch_size": 16},
    )
    assert len(model.history["validation_loss"]) == 2
    assert {"train_spread_epoch", "train_effective_rank_epoch"} <= set(model.history)
    values = standardised(model, drugs), drugs["image"].obsm["X_img"]
    for side in (0, 1):
        used: dict[bool, set[int]] = {True: set(), False: set()}
        for step in seen:
            used[step[3]] |= set(rows_of(step[side], values[side]))
        assert -1 not in used[True] | used[False]
        assert used[True] and used[False] and not used[True] & used[False]
    # Statistics of the features are those of the training samples.
    held = np.unique(np.concatenate([rows_of(s[0], values[0]) for s in seen if not s[3]]))
    assert len(held) == 32  # 2 of 8 per compound and 3 controls, in whole batches of 16
    mean = np.abs(np.delete(values[0], held, axis=0).mean(axis=0)).max()
    assert mean < np.abs(values[0].mean(axis=0)).max()


def test_validation_is_corrected_as_inference_is_and_in_whole_batches(drugs, monkeypatch):
    model, seen = steps_of(
        drugs,
        monkeypatch,
        loss="kd",  # which needs three samples: what is left over must not come
        noise=0.5,
        mixup=0.4,
        train={"validation_size": 0.25, "batch_size": 17},
    )
    correction = model._correction(None, "rna", ("center_scale",))
    z = torch.as_tensor(standardised(model, drugs))
    wanted = correction.apply(z, torch.as_tensor(correction.codes)).numpy()
    held = [s for s in seen if not s[3]]
    assert {len(s[0]) for s in held} == {17}
    assert all((rows_of(s[0], wanted) >= 0).all() for s in held)


@pytest.mark.parametrize("change", [{}, {"noise": 0.3}, {"dropout": 0.3}, {"mixup": 0.4}], ids=str)
def test_augmentation_of_the_embedding_reaches_the_network(drugs, monkeypatch, change):
    model, seen = steps_of(drugs, monkeypatch, pea=("none",), **change)
    students = np.concatenate([s[0] for s in seen])
    as_they_are = (rows_of(students, standardised(model, drugs)) >= 0).mean()
    assert as_they_are == 1.0 if not change else as_they_are < 0.3
    if "dropout" in change:
        assert (students == 0).mean() == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("dose_key", ["dose", None])
def test_the_dose_is_part_of_the_context_where_it_is_named(drugs, monkeypatch, dose_key):
    mdata = drugs.copy()
    doses = {}
    for role, kind in (("rna", int), ("image", float)):  # 1 and 1.0 are one dose
        doses[role] = np.arange(mdata[role].n_obs) % 2
        mdata[role].obs["dose"] = doses[role].astype(kind)
    model, seen = steps_of(
        mdata, monkeypatch, setup={"dose_key": dose_key}, pea=("none",), image_correction="none"
    )
    assert model.context_keys == (["compound", "dose"] if dose_key else ["compound"])
    rna = np.concatenate([rows_of(s[0], standardised(model, mdata)) for s in seen])
    image = np.concatenate([rows_of(s[1], mdata["image"].obsm["X_img"]) for s in seen])
    same = (doses["rna"][rna] == doses["image"][image]).mean()
    assert same == 1.0 if dose_key else 0.3 < same < 0.7


def test_the_papers_preset_is_its_optimiser(drugs):
    cf.SemiClipped.setup_mudata(drugs, **SETUP)
    model = cf.SemiClipped(drugs, preset="base", seed=0)
    linear = [m for m in model.module.adapter if isinstance(m, torch.nn.Linear)]
    assert [layer.out_features for layer in linear] == [1024, 1024, 6]
    found = []

    class Look(L.Callback):
        def on_train_start(self, trainer, module):
            found.append(trainer.optimizers[0])

    model.train(1, callbacks=[Look()], enable_progress_bar=False)
    model.train(1, callbacks=[Look()], weight_decay=0.3, lr=0.2, enable_progress_bar=False)
    asked = found[1].param_groups[0]
    assert (asked["initial_lr"], asked["weight_decay"]) == (0.2, 0.3)
    assert isinstance(found[0], torch.optim.SGD)
    matrices = found[0].param_groups[0]
    assert (matrices["initial_lr"], matrices["momentum"], matrices["weight_decay"]) == (
        1e-3,
        0.95,
        1e-4,
    )


def test_what_is_asked_of_the_loss_reaches_the_network(drugs):
    cf.SemiClipped.setup_mudata(drugs, **SETUP)
    net = cf.SemiClipped(drugs, loss="sigmoid", temperature=0.5, multi_positive=False).module
    assert (net.objective, net.multi_positive) == ("sigmoid", False)
    assert net.temperature().item() == pytest.approx(2)
    learnt = {
        loss: Distillation(2, 2, objective=loss).temperature.log_scale.requires_grad
        for loss in ("clip", "kd")
    }
    assert learnt == {"clip": True, "kd": False}  # it would flatten the teacher's relations


@pytest.mark.parametrize("multi", [True, False], ids=["shared", "plain"])
@pytest.mark.parametrize("loss", ["clip", "sigmoid", "vicreg", "kd", "mse"])
def test_an_objective_is_the_loss_of_its_name(loss, multi):
    net = Distillation(5, 3, hidden=(4,), objective=loss, temperature=0.5, multi_positive=multi)
    x, teacher = torch.randn(6, 5), torch.randn(6, 3)
    context = torch.tensor([0, 0, 1, 2, 3, 3])
    a, same = net.adapter(x), same_context(context) if multi else None
    wanted = {
        "clip": lambda: clip_loss(a, teacher, 2.0, weight=same),
        "sigmoid": lambda: sigmoid_loss(a, teacher, 2.0, -10.0, same=same),
        "vicreg": lambda: vicreg_loss(a, teacher),
        "kd": lambda: relational_distillation(a, teacher, 2.0),
        "mse": lambda: (a - teacher).square().mean(),
    }[loss]()
    assert net(x, teacher, context)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_collapse_is_told(drugs):
    mdata = drugs.copy()
    mdata["image"].obsm["X_img"] = np.tile(
        np.arange(1.0, 7.0, dtype=np.float32), (mdata["image"].n_obs, 1)
    )
    with pytest.warns(UserWarning, match="adapted embedding has collapsed"):
        fitted(mdata, loss="mse", image_correction="none", pea=("none",), epochs=60, seed=0)


def test_few_samples_are_no_collapse():
    def history(spread, rank):
        return {
            f"train_{name}_epoch": pd.DataFrame({name: [value]})
            for name, value in (("spread", spread), ("effective_rank", rank))
        }

    warn_collapse(history(0.7, 1.0), 2, 6)  # two samples lie on a line
    warn_collapse(history(0.7, 1.0), 64, 1)
    warn_collapse(history(0.0, 1.0), 1, 6)
    for spread, rank in ((0.7, 1.5), (0.05, 5.0)):
        with pytest.warns(UserWarning, match="collapsed"):
            warn_collapse(history(spread, rank), 64, 6)


def test_collapse_by_hand():
    line = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    found = collapse(line)
    assert found["spread"].item() == pytest.approx(1)
    assert found["effective_rank"].item() == pytest.approx(1)
    cross = torch.cat([line, line.flip(1)])
    assert collapse(cross)["effective_rank"].item() == pytest.approx(2, rel=1e-4)
    uneven = torch.cat([line, line, line, line.flip(1)])  # variances 6 and 2: shares 3/4, 1/4
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    for wide in (uneven, torch.nn.functional.pad(uneven, (0, 20))):  # more rows, more columns
        assert collapse(wide)["effective_rank"].item() == pytest.approx(expected, rel=1e-4)
    assert collapse(torch.ones(4, 2))["spread"].item() == pytest.approx(0, abs=1e-6)


def test_noise_and_dropout_hang_on_the_key_alone():
    x, key = torch.ones(400, 6), torch.arange(400)
    noisy = perturb_embedding(x, key, seed=0, noise=0.5)
    assert torch.equal(perturb_embedding(x[3:5], key[3:5], seed=0, noise=0.5), noisy[3:5])
    assert (noisy - 1).std().item() == pytest.approx(0.5, rel=0.1)
    dropped = perturb_embedding(x, key, seed=0, dropout=0.25)
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    assert (dropped == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_mixup_keeps_most_of_a_row_and_hangs_on_its_key():
    x = torch.eye(400)
    mixed = mixed_up(x, torch.arange(400), seed=0, alpha=0.4)
    own = mixed.diagonal()
    assert 0.5 <= own.min() < 0.9  # something was mixed in
    assert torch.allclose(mixed.sum(dim=1), torch.ones(400), atol=1e-6)
    assert torch.allclose(mixed[1, 0], 1 - own[1], atol=1e-6)  # the partner is the row before
    again = mixed_up(x[5:7], torch.arange(5, 7), seed=0, alpha=0.4)
    assert torch.allclose(again.diagonal(5), own[5:7], atol=1e-6)


def test_new_data_is_corrected_by_centre_scaling_where_it_was_trained_with(trained, drugs):
    usual = trained.get_latent_representation(drugs["rna"])
    asked = trained.get_latent_representation(drugs["rna"], correction="center_scale")
    other = trained.get_latent_representation(drugs["rna"], correction="tvn")
    np.testing.assert_array_equal(usual, asked)
    assert np.abs(usual - other).max() > 0.01


def test_the_gene_probe_sees_what_is_left_of_each_gene(trained, drugs):
    table = trained.gene_probe(n_folds=4)
    assert list(table.columns) == ["r2_adapted", "r2_unadapted", "difference"]
    assert len(table) == 8
    # Expression is a linear map of the shared effect and an offset per plate that TVN takes out.
    assert table["r2_unadapted"].max() > 0.3
    np.testing.assert_allclose(
        table["difference"], table["r2_adapted"] - table["r2_unadapted"], atol=1e-12
    )
    random = drugs["rna"].copy()
    random.X = np.random.default_rng(0).normal(size=random.shape).astype(np.float32)
    random.X[:, 3] = 1.0
    noise = trained.gene_probe(random, n_folds=4)
    assert noise["r2_adapted"].iloc[[0, 1, 2, 4]].max() < 0.1
    assert np.isnan(noise["r2_adapted"].iloc[3])


def test_samples_measured_twice_are_probed_too(drugs):
    rna = drugs["rna"].copy()
    rna.obs_names = drugs["image"].obs_names
    mdata = md.MuData({"image": drugs["image"].copy(), "rna": rna})
    model = fitted(mdata, epochs=1, setup={"context_keys": "obs_names"}, seed=0)
    assert model.gene_probe(n_folds=3)["r2_unadapted"].notna().all()


# -- errors ---------------------------------------------------------------------------------------


def test_setup_errors_name_the_key(drugs):
    def setup(**changes):
        cf.SemiClipped.setup_mudata(drugs, **{**SETUP, **changes})

    with pytest.raises(KeyError, match=r"'dmso' is not in obs\['compound'\].*Did you mean 'DMSO'"):
        setup(control="dmso")
    with pytest.raises(KeyError, match="'plates' is not in obs"):
        setup(batch_key="plates")
    with pytest.raises(KeyError, match="'X_umg' is not in obsm"):
        setup(image_rep="X_umg")
    with pytest.raises(ValueError, match="compares two modalities"):
        setup(modalities={"rna": "rna"})
    with pytest.raises(ValueError, match="'compound' without `control`"):
        setup(control=None)
    with pytest.raises(KeyError, match="'plates' is not in obs"):
        setup(control=None, control_key=None, batch_key="plates")
    setup(dose_key="compound")  # named twice, a key counts once


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"loss": "triplet"}, "loss='triplet': expected one of 'clip'"),
        ({"pea": ("whiten",)}, "expected different ones"),
        ({"pea": None}, "pea=None: expected"),
        ({"image_correction": "zca"}, "image_correction=.*'zca'"),
        ({"temperature": 0.0}, "at least 0.01"),
        ({"temperature": np.inf}, "finite"),
        ({"dropout": 1.0}, "0 <= dropout < 1"),
        ({"noise": np.nan}, "finite noise"),
        ({"mixup": np.inf}, "finite mixup"),
        ({"hidden": 32}, "widths of the hidden layers"),
        ({"hidden": (8, 0)}, "widths of the hidden layers"),
        ({"loss": "kd", "trains": "heads"}, "head of the teacher untrained"),
        ({"trains": "scratch"}, "rna_rep=None"),
        ({"preset": "big"}, "'big' is not in the presets"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_arguments_out_of_range(drugs, kwargs, text):
    cf.SemiClipped.setup_mudata(drugs, **SETUP)
    with pytest.raises((ValueError, KeyError), match=text):
        cf.SemiClipped(drugs, **kwargs)


@pytest.mark.parametrize("change", [{"noise": 0.1}, {"mixup": 0.4}, {"pea": ("tvn",)}], ids=str)
def test_a_student_from_scratch_is_not_augmented(drugs, change):
    cf.SemiClipped.setup_mudata(drugs, **{**SETUP, "rna_rep": None})
    with pytest.raises(ValueError, match="no embedding to correct or to augment"):
        cf.SemiClipped(drugs, trains="scratch", **{"pea": ("none",), **change})


@pytest.mark.parametrize(("loss", "size"), [("clip", 1), ("vicreg", 1), ("kd", 2)])
def test_a_batch_too_small_to_compare_is_refused(drugs, loss, size):
    cf.SemiClipped.setup_mudata(drugs, **SETUP)
    model = cf.SemiClipped(drugs, loss=loss, hidden=(4,))
    with pytest.raises(ValueError, match=f"a batch of {size} pairs"):
        model.train(1, batch_size=size, enable_progress_bar=False)


def test_requests_that_a_model_cannot_meet(trained, drugs):
    ask = trained.get_latent_representation
    with pytest.raises(ValueError, match="batch_size must be at least 1, found -1"):
        ask(batch_size=-1)
    with pytest.raises(ValueError, match="one of the RNA embedding"):
        ask(modality="image", correction="none")
    with pytest.raises(ValueError, match="correction=.*'zca'"):
        ask(correction="zca")
    with pytest.raises(ValueError, match="negative values"):
        trained.gene_probe(log_normalize=True)
    with pytest.raises(KeyError, match="'counts' is not in layers"):
        trained.gene_probe(layer="counts")


def test_expression_on_disk_is_to_be_read_first(trained, drugs, tmp_path):
    drugs["rna"].write_h5ad(tmp_path / "rna.h5ad")
    backed = ad.read_h5ad(tmp_path / "rna.h5ad", backed="r")
    with pytest.raises(TypeError, match="to_memory"):
        trained.gene_probe(backed)
    backed.file.close()


def test_too_few_controls_for_tvn_are_told():
    mdata = plate_screen(n_compounds=4, controls=2)
    with pytest.warns(UserWarning, match="'image': the 4 controls in 2 batches .* 4 of 6"):
        fitted(mdata, epochs=1, pea=("none",), begin="random", seed=0)


def test_a_batch_without_controls_is_named_before_training(drugs):
    mdata = md.MuData({"image": drugs["image"], "rna": drugs["rna"].copy()})
    rna = mdata["rna"]
    rna.obs["plate"] = np.where(rna.obs["compound"] == "drug0", "extra", rna.obs["plate"])
    cf.SemiClipped.setup_mudata(mdata, **SETUP)
    with pytest.raises(ValueError, match=r"1 of 3 batches.*fewer than 2 control cells.*'extra'"):
        cf.SemiClipped(mdata, hidden=(4,)).train(1, **SHORT)
    model = cf.SemiClipped(mdata, hidden=(4,), pea=("none",))
    model.train(1, **SHORT)  # nothing is fitted on them


def test_pixels_and_counts_are_not_embeddings(screen):
    mdata = screen()
    with pytest.raises(ValueError, match="embed_images"):
        cf.SemiClipped.setup_mudata(mdata, context_keys="guide", image_rep="crops", rna_rep="flat")
    cf.SemiClipped.setup_mudata(mdata, context_keys="guide", image_rep="flat", rna_rep="flat")
    with pytest.raises(RuntimeError, match="not trained"):
        cf.SemiClipped(mdata).get_latent_representation()
