"""`cellfuse demo`: what it leaves, and what it says when it cannot."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats
from anndata import AnnData

import cellfuse as cf
from cellfuse import bench, cli
from cellfuse.bench import Settings, _baselines, _figures, _read, _run, _scores
from cellfuse.data import CellInput

# A network that was hardly trained leaves a direction without variance.
pytestmark = pytest.mark.filterwarnings("ignore:directions without variance:UserWarning")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: The shortest command on the screen's file.
COMMAND = [
    "demo", "--context", "guide", "--image-rep", "crops", "--control-key", "gene",
    "--control", "non-targeting", "--target-key", "gene", "--set-size", "2", "--data",
]  # fmt: skip
FILES = {
    "report.html", "metrics.csv", "screen.h5mu", "guides.h5ad", "genes.h5ad", "settings.json",
    "model", "figures",
}  # fmt: skip


@pytest.fixture(scope="module")
def screen():
    return cf.datasets.simulated_screen(
        30,
        n_targets=6,
        complex_size=3,
        guides_per_target=2,
        n_control_guides=3,
        cells_per_guide=8,
        n_wells=2,
        image_size=16,
        no_effect=0.0,
        seed=0,
    )


@pytest.fixture(scope="module")
def screen_file(screen, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "screen.h5mu"
    screen.write(path)
    return path


@pytest.fixture(scope="module")
def settings(screen):
    """The shortest run that goes through every step."""
    return Settings(
        context_keys="guide",
        image_rep="crops",
        control_key="gene",
        control="non-targeting",
        batch_key={"image": "well", "rna": None},
        target_key="gene",
        edges=screen.uns["edges"],
        colour_key="complex",
        set_size=2,
        max_epochs=1,
        documents_per_context=1,
        n_boot=20,
        n_null=100,
        accelerator="cpu",
    )


def make_quick(patch):
    """A narrow network, and two dimensions in the place of a UMAP, which takes time to compile."""
    make = _run.PETRI

    def narrow(*args, **kwargs):
        sizes = {"width": 16, "n_heads": 2, "image_depth": 1, "n_set_layers": 1, "n_latents": 2}
        return make(*args, **kwargs, **sizes)

    narrow.setup_mudata = make.setup_mudata
    patch.setattr(_run, "PETRI", narrow)
    patch.setattr(
        _figures, "umap_of", lambda arrays, seed: {k: a[:, :2] for k, a in arrays.items()}
    )


@pytest.fixture
def quickly(monkeypatch):
    make_quick(monkeypatch)


@pytest.fixture(scope="module")
def result(screen, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        return bench.run_screen(screen.copy(), folder, settings, progress=False)


# -- a run ----------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_nothing_beside(result):
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert [path.name for path in result.folder.parent.iterdir()] == ["out"]


def test_a_run_scores_the_method_beside_plain_features_and_chance(result):
    metrics = pd.read_csv(result.folder / "metrics.csv")
    assert metrics["method"].unique().tolist() == ["PETRI", "plain features", "random numbers"]
    assert metrics.groupby("method")["profile"].apply(list).to_dict() == {
        "PETRI": ["image", "rna", "average"],
        "plain features": ["image", "rna", "concatenation"],
        "random numbers": ["image", "rna", "average"],
    }
    assert (metrics["n_edges"] == 6).all() and (metrics["n_targets"] == 6).all()
    assert metrics["tpr"].between(metrics["tpr_low"], metrics["tpr_high"]).all()
    assert metrics["share_consistent"].between(0, 1).all()


def test_the_screen_reads_back_with_embeddings_and_metrics(result):
    read = md.read_h5mu(result.folder / "screen.h5mu")
    for name in ("image", "rna"):
        raw, corrected = read[name].obsm["X_petri"], read[name].obsm["X_petri_corrected"]
        np.testing.assert_array_equal(raw, result.mdata[name].obsm["X_petri"])
        variances = np.linalg.eigvalsh(np.cov(corrected.T))
        np.testing.assert_allclose(variances[1:], 1.0, atol=1e-3)
    np.testing.assert_allclose(
        read.uns["metrics"]["tpr"].to_numpy(float), result.metrics["tpr"].to_numpy(float)
    )


def test_the_profiles_can_be_drawn_from_their_files(result, tmp_path):
    guides = ad.read_h5ad(result.folder / "guides.h5ad")
    genes = ad.read_h5ad(result.folder / "genes.h5ad")
    assert guides.n_obs == 15 and set(guides.obsm) == {"profile_image", "profile_rna"}
    cf.pl.guide_consistency(guides, save=tmp_path / "again.png")
    cf.pl.roc(genes, save=tmp_path / "again.png")


def test_the_saved_model_gives_the_embeddings_that_were_written(result):
    model = cf.PETRI.load(result.folder / "model", result.mdata)
    np.testing.assert_array_equal(
        model.get_latent_representation(modality="rna"), result.mdata["rna"].obsm["X_petri"]
    )


def test_the_report_holds_every_figure_and_loads_nothing(result):
    page = (result.folder / "report.html").read_text()
    figures = sorted(path.name for path in (result.folder / "figures").iterdir())
    assert figures == [
        "contexts.png", "guide_consistency.png", "metrics.png", "roc.png", "similarity.png",
        "training.png", "umap.png",
    ]  # fmt: skip
    assert page.count('src="data:image/png;base64,') == len(figures)
    assert len(re.findall(r"\bsrc=", page)) == len(figures)
    assert not re.search(r"\bhref=|@import|url\(|<script|<link", page)
    assert "Chance is 0.05" in page and "random numbers" in page


def test_one_modality_without_targets_gives_embeddings_and_no_scores(screen, tmp_path, quickly):
    alone = _read.together({"rna": screen["rna"].copy()})
    few = Settings(
        context_keys="guide", control=None, set_size=2, max_epochs=1, documents_per_context=1
    )
    result = bench.run_screen(alone, tmp_path / "out", few, progress=False)
    assert result.metrics["profile"].tolist() == ["rna"] * 3
    assert "tpr" not in result.metrics
    assert "Nothing was scored" in (result.folder / "report.html").read_text()


def test_an_interrupted_run_leaves_nothing(screen_file, tmp_path, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(cf.PETRI, "train", interrupted)
    assert cli.main([*COMMAND, str(screen_file), "--out", str(tmp_path / "out")]) == 130
    assert list(tmp_path.iterdir()) == []
    assert "interrupted" in capsys.readouterr().err


def test_a_failure_after_the_training_keeps_the_model_and_says_where(
    screen, settings, tmp_path, monkeypatch, quickly
):
    def failing(*args, **kwargs):
        raise RuntimeError("no figures today")

    monkeypatch.setattr(_run, "draw_figures", failing)
    with pytest.raises(RuntimeError, match="no figures") as caught:
        bench.run_screen(screen.copy(), tmp_path / "out", settings, progress=False)
    (left,) = tmp_path.iterdir()
    assert left.name != "out" and str(left) in caught.value.__notes__[0]
    assert (left / "model" / "cellfuse.json").is_file()


def test_an_earlier_result_is_replaced_whole_and_alike(result, screen, settings, tmp_path, quickly):
    folder = tmp_path / "out"
    folder.mkdir()
    for name in ("report.html", "settings.json", "stale"):
        (folder / name).touch()
    again = bench.run_screen(screen.copy(), folder, settings, overwrite=True, progress=False)
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    # The same seed; sums of another number of threads differ in the last digits.
    pd.testing.assert_frame_equal(again.metrics, result.metrics, rtol=1e-3)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_never_replaced(tmp_path, capsys, overwrite):
    (tmp_path / "thesis.tex").touch()
    argv = ["demo", "--out", str(tmp_path), *(["--overwrite"] if overwrite else [])]
    assert cli.main(argv) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    expected = "something else than an earlier result" if overwrite else "is not empty"
    assert expected in capsys.readouterr().err


# -- the parts ------------------------------------------------------------------------------------


def test_pixel_moments_are_those_of_scipy():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 255, (5, 2, 8, 8)).astype(np.uint8)
    adata = AnnData(obs=pd.DataFrame(index=list("abcde")), obsm={"crops": crops})
    cell_input = CellInput.resolve(adata, role="image", modality="image", rep="crops")
    _, features = _baselines.plain_features(adata, cell_input, crop=4, seed=0)
    flat = crops[:, :, 2:6, 2:6].reshape(5, 2, 16).astype(float)
    expected = np.hstack(
        [
            flat.mean(2),
            flat.std(2),
            scipy.stats.skew(flat, axis=2),
            scipy.stats.kurtosis(flat, axis=2, fisher=False),
            [[np.corrcoef(cell)[0, 1]] for cell in flat],
        ]
    )
    np.testing.assert_allclose(features, expected, rtol=1e-4)


def test_plain_features_leave_the_counts_as_they_are():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(2.0, (20, 6)).astype(np.float32))
    adata = AnnData(counts.copy())
    cell_input = CellInput.resolve(adata, role="rna", modality="rna", rep=None, counts=True)
    what, features = _baselines.plain_features(adata, cell_input, crop=None, seed=0)
    assert what == "PCA of log counts" and features.shape == (20, 5)
    assert (adata.X != counts).nnz == 0


def profiles_of(image, rna, labels, both):
    tables = {
        name: pd.DataFrame({"guide": labels}, index=[f"{name}-{k}" for k in range(len(labels))])
        for name in ("image", "rna")
    }
    settings = Settings(context_keys="guide", control=None)
    roles = {"image": "image", "rna": "rna"}
    cells = _read.Screen(None, roles, tables, settings).cells({"image": image, "rna": rna})
    return _scores.score(cells, settings, method="m", roles=roles, both=both).guides


def test_concatenated_profiles_have_the_mean_of_the_cosines():
    rng = np.random.default_rng(0)
    image, rna = rng.normal(size=(3, 4)), 100 * rng.normal(size=(3, 6))
    joint = profiles_of(image, rna, list("abc"), "concatenation")["concatenation"].X
    cosines = [1 - scipy.spatial.distance.cosine(x[0], x[1]) for x in (image, rna, joint)]
    assert cosines[2] == pytest.approx((cosines[0] + cosines[1]) / 2, abs=1e-6)


def test_averaged_profiles_are_the_mean_of_the_modalities():
    image, rna = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 6.0]])
    found = profiles_of(image, rna, ["a", "a"], "average")
    assert found["average"].X.tolist() == [[1.0, 2.5]]
    assert found["image"].X.tolist() == [[2.0, 0.0]]


def test_a_context_with_several_targets_has_none():
    table = pd.DataFrame({"guide": ["a", "a", "b", "b", "c"], "gene": ["X", None, "X", "Y", "Z"]})
    with pytest.warns(UserWarning, match=r"1 of 3 contexts have several targets.*'b'"):
        _read._one_target({"rna": table}, "gene", ["guide"])
    assert table["gene"].tolist() == ["X", "X", "", "", "Z"]


def test_a_target_that_varies_in_most_contexts_is_refused():
    table = pd.DataFrame({"guide": ["a", "a", "b"], "gene": ["X", "Y", "X"]})
    table = pd.concat([table, pd.DataFrame({"guide": ["b"], "gene": ["Z"]})])
    with pytest.raises(ValueError, match="differs between cells of the same context"):
        _read._one_target({"rna": table}, "gene", ["guide"])


@pytest.mark.parametrize(("n", "expected"), [(9, 0.0), (10, 0.1)])
def test_no_validation_where_no_cell_can_be_held_out(n, expected):
    tables = {
        "image": pd.DataFrame({"guide": ["a"] * n}),
        "rna": pd.DataFrame({"guide": ["a"] * 20}),
    }
    opened = _read.Screen(None, {}, tables, Settings(context_keys="guide", control=None))
    if expected:
        assert _run._validation_size(opened) == expected
    else:
        with pytest.warns(UserWarning, match="no context of modality 'image' has the 10 cells"):
            assert _run._validation_size(opened) == expected


def two_backgrounds(screen):
    """Expression cells of the screen in two backgrounds, the second far from the first."""
    rng = np.random.default_rng(0)
    obs = pd.concat([screen["rna"].obs] * 2, ignore_index=True)
    obs["background"] = np.repeat(["near", "far"], screen["rna"].n_obs)
    obs.index = [f"cell-{k}" for k in range(len(obs))]
    scale = np.where(obs["background"] == "far", 100.0, 1.0)[:, None]
    values = np.vstack([screen["rna"].obsm["latent"]] * 2) + rng.normal(0, 0.1, (len(obs), 12))
    return _read.together({"rna": AnnData(obs=obs, obsm={"rep": scale * (values + scale)})})


def test_backgrounds_are_corrected_and_scored_apart(screen, settings):
    own = {"context_keys": ["background", "guide"], "batch_key": None, "n_boot": 0}
    chosen = dataclasses.replace(settings, **own, background_key="background")
    cells, roles = two_backgrounds(screen), {"rna": "rna"}
    _scores.correct(cells, chosen, roles)
    rep, background = cells["rna"].obsm["rep"], cells["rna"].obs["background"]
    for name in ("near", "far"):  # each as if it were alone
        alone = two_backgrounds(screen)["rna"][background == name].copy()
        own_settings = dataclasses.replace(chosen, background_key=None)
        _scores.correct(_read.together({"rna": alone}), own_settings, roles)
        np.testing.assert_allclose(rep[background == name], alone.obsm["rep"], atol=1e-4)
        np.testing.assert_allclose(np.cov(rep[background == name].T), np.eye(12), atol=1e-3)
    scored = _scores.score(cells, chosen, method="m", roles=roles, both="average")
    (row,) = scored.rows
    expected, share = [], []
    for name in ("near", "far"):
        part = cells["rna"][background == name].copy()
        part = part[part.obs["gene"] != "non-targeting"].copy()
        genes = cf.tl.aggregate(part, by="gene", use_rep="rep", within="guide")
        expected.append(cf.tl.edge_classification(genes, screen.uns["edges"]).loc["all", "tpr"])
        guides = cf.tl.aggregate(part, by="guide", use_rep="rep")
        table = cf.tl.guide_consistency(guides, target_key="gene", control=None, n_null=100)
        share.append(table["similarity"].mean())
    assert row["tpr"] == pytest.approx(np.mean(expected))
    assert row["similarity"] == pytest.approx(np.mean(share), rel=1e-5)
    assert row["n_targets"] == 12 and row["n_edges"] == 6
    assert scored.genes["rna"].uns["edge_classification"]["summary"].index[-1] == "mean"


def test_a_context_that_is_the_target_is_scored(screen, settings):
    chosen = dataclasses.replace(settings, context_keys="gene", batch_key=None, n_boot=0)
    opened = _read.open_screen(screen, chosen)
    assert opened.tables["rna"]["gene"].tolist() == screen["rna"].obs["gene"].tolist()
    cells = opened.cells({m: screen[m].obsm["latent"].astype(float) for m in ("image", "rna")})
    with pytest.warns(UserWarning, match="has one profile"):
        rows = _scores.score(cells, chosen, method="m", roles=opened.roles, both="average").rows
    assert [row["n_edges"] for row in rows] == [6] * 3


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "source,target,score\nA,B,.9\nA,C,\n", "1 of 2 scores.*first in row 2"),
        ("e.csv", "source,target\nA,B\n,C\n", "1 of 2 pairs.*lack a name.*row 2"),
        ("e.csv", "source;target\nA;B\n", "read with commas between"),
        ("e.tsv", "source,target\nA,B\n", "read with tabs between"),
        ("e.csv", "", "no readable table"),
        ("e.csv.gz", "source,target\nA,B\n", "no readable table"),
    ],
)
def test_edges_that_cannot_be_used_are_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises((KeyError, ValueError), match=message):
        _read.read_edges(tmp_path / name)


def test_genes_called_na_are_kept(tmp_path):
    (tmp_path / "e.csv").write_text("source,target,score\nNA,NAN,0.97\n")
    assert _read.read_edges(tmp_path / "e.csv").to_numpy().tolist() == [["NA", "NAN", 0.97]]


def test_control_profiles_are_not_tested():
    obs = pd.DataFrame({"gene": ["A", "B", "NTC", ""]}, index=list("abcd"))
    profiles = AnnData(np.eye(4, dtype=np.float32), obs=obs)
    settings = Settings(context_keys="guide", control_key="gene", control="NTC", target_key="gene")
    assert _scores._tested(profiles, settings).obs_names.tolist() == ["a", "b"]
    without = profiles[profiles.obs["gene"] != "NTC"].copy()
    assert _scores._tested(without, settings).obs_names.tolist() == ["a", "b"]


def test_controls_labelled_by_a_number_are_not_tested():
    obs = pd.DataFrame({"gene": list("ABC"), "dose": [1.0, 0.0, 3.0]}, index=list("abc"))
    settings = Settings(context_keys="guide", control_key="dose", control="0", target_key="gene")
    tested = _scores._tested(AnnData(np.eye(3, dtype=np.float32), obs=obs), settings)
    assert tested.obs_names.tolist() == ["a", "c"]


@pytest.mark.parametrize("missing", [np.nan, ""])
def test_cells_without_a_context_are_refused_or_dropped_loudly(screen, settings, missing):
    mdata = _read.together({name: adata.copy() for name, adata in screen.mod.items()})
    guides = mdata["rna"].obs["guide"].astype(object)
    guides.iloc[:3] = missing
    mdata["rna"].obs["guide"] = guides
    with pytest.raises(ValueError, match=r"3 of \d+ cells of modality 'rna'.*--drop-missing"):
        _read.open_screen(mdata, settings)
    n = mdata["rna"].n_obs
    dropping = Settings(context_keys="guide", control=None, drop_missing=True)
    with pytest.warns(UserWarning, match="they are left out"):
        opened = _read.open_screen(mdata, dropping)
    assert opened.mdata["rna"].n_obs == n - 3 and mdata["rna"].n_obs == n


# -- whole runs -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_demo_runs_from_its_command(tmp_path, capfd):
    assert cli.main(["demo", "--quick", "--out", str(tmp_path / "out")]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    printed = capfd.readouterr().out
    assert "training PETRI" in printed and "TPR at 5% FPR" in printed and "report.html" in printed


REAL = {
    "jump": (
        "jump_target1.h5mu",
        "--context compound --modalities image=image,rna=secretome --rna-likelihood mse "
        "--set-size 2 --control none --target-key target_gene",
        ["average", "concatenation", "image", "rna"],
    ),
    "papalexi": (
        "papalexi_eccite.h5ad",
        "--modality rna --context guide --control-key gene --control non-targeting "
        "--target-key gene",
        ["rna"],
    ),
    "periscope": (
        "periscope_crops.h5ad",
        "--modality image --context guide --image-rep crops --crop 96 --control-key gene "
        "--control non-targeting --target-key gene --set-size 4",
        ["image"],
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", REAL)
def test_the_demo_runs_on_real_data(name, tmp_path):
    file, options, profiles = REAL[name]
    if not (DATA / file).is_file():
        pytest.skip(f"{file} is not beside the repository")
    argv = ["demo", "--data", str(DATA / file), *options.split(), "--quick"]
    argv += ["--max-epochs", "1", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    metrics = pd.read_csv(tmp_path / "out" / "metrics.csv")
    assert sorted(set(metrics["profile"])) == profiles
    assert metrics["share_consistent"].between(0, 1).all()
