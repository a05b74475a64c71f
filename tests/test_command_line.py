"""`cellfuse ...`: a wrong argument is answered at once, in one line, and leaves nothing behind."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import h5py
import mudata as md
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse import bench, cli
from cellfuse.bench import Settings
from cellfuse.cli import _demo, _run
from cellfuse.cli._config import read_config
from cellfuse.cli._header import read_header
from cellfuse.cli._models import LACKS, NEEDS, OF_TRAIN

CHOICES = {
    "context": "guide",
    "image_rep": "crops",
    "control_key": "gene",
    "control": "non-targeting",
    "target_key": "gene",
    "set_size": "2",
}
COMMANDS = ["demo", "train", "embed", "score", "benchmark", "report", "info"]
HEAVY = {"torch", "scvi", "lightning", "scanpy", "anndata", "mudata", "matplotlib", "pandas"}


@pytest.fixture(scope="module")
def screen():
    return cf.datasets.simulated_screen(
        20,
        n_targets=4,
        complex_size=2,
        guides_per_target=2,
        n_control_guides=2,
        cells_per_guide=4,
        n_wells=2,
        image_size=16,
        seed=0,
    )


@pytest.fixture(scope="module")
def screen_file(screen, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "screen.h5mu"
    screen.write(path)
    screen["rna"].write_h5ad(path.with_name("rna.h5ad"))
    return path


@pytest.fixture
def in_empty_folder(tmp_path, monkeypatch):
    """Work in a folder of its own: what a command leaves is seen."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def options(**changed):
    """`CHOICES` as a command line, with some changed, or left out where None."""
    pairs = CHOICES | changed
    parts = [[f"--{n.replace('_', '-')}", v] for n, v in pairs.items() if v is not None]
    return [part for pair in parts for part in pair]


def one_error(capsys) -> str:
    """The one line that a user error prints."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "Traceback" not in lines[0], lines
    return lines[0]


@pytest.fixture
def nothing_is_run(monkeypatch):
    """An error must come before anything heavy."""

    def forbidden(quiet):
        raise AssertionError("the work began")

    for module in ("_demo", "_train", "_embed", "_bench"):
        monkeypatch.setattr(importlib.import_module(f"cellfuse.cli.{module}"), "loading", forbidden)


# -- help and info --------------------------------------------------------------------------------


def test_alone_it_shows_the_help(capsys):
    assert cli.main([]) == 0
    text = capsys.readouterr().out
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_options(command, capsys):
    assert cli.main([command, "--help"]) == 0
    assert "--help" in capsys.readouterr().out


def test_the_version_is_shown(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"cellfuse {cf.__version__}"


def test_info_names_the_versions_that_a_report_needs(capsys):
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for name in ("cellfuse", "Python", "torch", "scanpy", "CPU cores"):
        assert name in text


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["info"],
        ["demo", "--max-epochs", "0"],
        ["demo", "--data", "no.h5mu", "--context", "guide", "--control", "none"],
        ["train", "no.h5mu"],
        ["embed", "no.h5mu", "no_model"],
        ["score", "no.h5mu", "--use-rep", "X", "--context", "guide", "--control", "none"],
        ["benchmark", "no.toml"],
        ["report", "nowhere"],
    ],
    ids=" ".join,
)
def test_an_answer_imports_nothing_heavy(argv, in_empty_folder):
    code = (
        "import sys, cellfuse.cli as c; status = c.main(sys.argv[1:]); "
        "print('modules', status, *sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, check=True
    )
    status, *modules = run.stdout.split("modules ")[-1].split()
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert int(status) == (0 if argv[0] in ("--help", "info") else 2)


def test_a_wrong_argument_is_answered_within_a_second(screen_file, in_empty_folder, capsys):
    start = time.perf_counter()
    assert cli.main(["demo", "--data", str(screen_file), *options(context="guides")]) == 2
    assert time.perf_counter() - start < 1.0
    assert "Did you mean 'guide'" in one_error(capsys)


# -- wrong options --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"context": "guides"}, "'guides' is not in obs.*Did you mean 'guide'"),
        ({"image_rep": "crop"}, "'crop' is not in obsm.*Did you mean 'crops'"),
        ({"control": "non-targetting"}, "Did you mean 'non-targeting'"),
        ({"control_key": None}, "--control non-targeting needs --control-key"),
        ({"control": None}, "--data needs --control"),
        ({"control": "none"}, "leave --control-key out"),
        ({"context": None}, "--data needs --context"),
        ({"target_key": "genes"}, "Did you mean 'gene'"),
        ({"target_key": "well"}, "'well' is not in obs of modality 'rna'"),
        ({"target_key": None, "edges": "x.csv"}, "--edges needs --target-key"),
        ({"edges": "no.csv"}, "there is no file 'no.csv'"),
        ({"modalities": "image"}, "expected the form --modalities"),
        ({"modalities": "image=pictures"}, "'pictures' is not in the MuData's modalities"),
        ({"modalities": "rna=rna,protein=rna"}, "'protein' is not in the roles"),
        ({"batch_key": "rnaa=batch"}, "names 'rnaa'; the roles of this run are 'image', 'rna'"),
        ({"background_key": "backgrounds"}, "Did you mean 'background'|is not in obs"),
        ({"batch_key": "image=plate"}, "'plate' is not in obs of modality 'image'"),
        ({"rna_layer": "counts"}, "'counts' is not in layers"),
        ({"set_size": "0"}, "--set-size"),
        ({"max_epochs": "0"}, "--max-epochs"),
        ({"max_epochs": "many"}, "--max-epochs"),
        ({"crop": "0"}, "--crop"),
        ({"preset": "huge"}, "--preset"),
        ({"seed": "-1"}, "--seed"),
        ({"epochs": "3"}, "--epochs"),
        ({"config": "no.toml"}, "there is no file 'no.toml'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(
    changed, message, screen_file, in_empty_folder, capsys, nothing_is_run
):
    assert cli.main(["demo", "--data", str(screen_file), *options(**changed), "--out", "out"]) == 2
    assert re.search(message, one_error(capsys))
    assert list(in_empty_folder.iterdir()) == []


FILES = {
    "no.h5mu": "there is no file .*'screen.h5mu'",
    "screen.csv": "neither .h5mu nor .h5ad",
    "damaged.h5mu": "could not be read",
    "empty.h5mu": "could not be read: it is empty",
    "rna.h5ad": "say which, 'image' or 'rna'",
    "cut.h5mu": "could not be read",
    "anndata.h5mu": "holds an AnnData; rename it",
    "other.h5mu": "holds no MuData",
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("command", ["demo", "train", "embed"])
def test_a_file_that_cannot_be_read_is_one_clear_line(
    command, name, screen_file, in_empty_folder, capsys, nothing_is_run
):
    folder = screen_file.parent
    (folder / "damaged.h5mu").write_text("no data")
    (folder / "empty.h5mu").touch()
    (folder / "cut.h5mu").write_bytes(screen_file.read_bytes()[:3000])
    (folder / "anndata.h5mu").write_bytes((folder / "rna.h5ad").read_bytes())
    with h5py.File(folder / "other.h5mu", "w") as other:
        other["numbers"] = np.arange(3)
    (in_empty_folder.parent / "model").mkdir()
    (in_empty_folder.parent / "model" / "cellfuse.json").write_text('{"model": "PETRI"}')
    argv = {
        "demo": ["demo", "--data", str(folder / name), *options()],
        "train": ["train", str(folder / name), "--context", "guide"],
        "embed": ["embed", str(folder / name), "../model"],
    }
    assert cli.main(argv[command]) == 2
    assert re.search(FILES[name], one_error(capsys))
    assert list(in_empty_folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "source;target\nA;B\n", "read with commas between"),
        ("e.tsv", "source,target\nA,B\n", "read with tabs between"),
        ("e.csv", "", "no readable table"),
        ("e.csv.gz", "source,target\nA,B\n", "no readable table"),
    ],
)
def test_edges_are_refused_by_their_first_line(
    name, text, message, screen_file, in_empty_folder, capsys, nothing_is_run
):
    edges = in_empty_folder.parent / name
    edges.write_text(text)
    assert cli.main(["demo", "--data", str(screen_file), *options(edges=str(edges))]) == 2
    assert re.search(message, one_error(capsys))


def test_modalities_without_a_role_are_asked_for_not_left_out(
    screen, in_empty_folder, capsys, nothing_is_run
):
    path = in_empty_folder.parent / "named.h5mu"
    md.MuData({"image": screen["image"], "secretome": screen["rna"]}).write(path)
    assert cli.main(["train", str(path), "--context", "guide"]) == 2
    error = one_error(capsys)
    assert "--modalities image=image,rna=secretome" in error
    assert "--modalities image=image for that one alone" in error


def test_a_place_that_cannot_be_written_is_named_as_the_user_named_it(
    screen_file, in_empty_folder, capsys, nothing_is_run, monkeypatch
):

    def refused(dir):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_run.tempfile, "mkdtemp", refused)
    assert cli.main(["demo", "--out", "results/mine"]) == 2
    assert "'results/mine' (--out) cannot be written: no permission" in one_error(capsys)
    (in_empty_folder.parent / "file").touch()
    assert cli.main(["demo", "--out", "../file/mine"]) == 2
    assert "is a file" in one_error(capsys)


def test_the_folder_one_is_in_is_no_result_folder(in_empty_folder, capsys, nothing_is_run):
    for out in (".", str(in_empty_folder), ".."):
        assert cli.main(["demo", "--out", out, "--overwrite"]) == 2
        assert "is the folder you are in" in one_error(capsys)


def test_data_options_without_data_are_refused(capsys, nothing_is_run):
    assert cli.main(["demo", "--context", "guide"]) == 2
    assert "--context: only together with --data" in one_error(capsys)


def test_an_unknown_command_or_model_is_one_line(screen_file, capsys, nothing_is_run):
    assert cli.main(["trane"]) == 2
    error = one_error(capsys)
    assert error.startswith("cellfuse: ") and "'trane'" in error
    assert "`cellfuse --help`" in error
    assert cli.main(["train", str(screen_file), "--model", "PERTI"]) == 2
    assert "Did you mean 'PETRI'" in one_error(capsys)
    assert cli.main(["embed", str(screen_file), str(screen_file.parent)]) == 2
    assert "holds no saved model" in one_error(capsys)


def test_debug_shows_the_traceback():
    with pytest.raises(FileNotFoundError):
        cli.main(["demo", "--data", "no.h5mu", *options(), "--debug"])


def test_a_fault_of_the_program_is_told_from_the_users(monkeypatch, capsys, in_empty_folder):
    def broken(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(bench, "run_demo", broken, raising=False)
    assert cli.main(["demo", "--quiet"]) == 1
    assert "a fault of cellfuse: RuntimeError: out of luck" in one_error(capsys)


def test_an_interrupt_says_what_is_kept(monkeypatch, capsys, in_empty_folder):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt("the checkpoint is in 'here'.")

    monkeypatch.setattr(bench, "run_demo", interrupted, raising=False)
    assert cli.main(["demo", "--quiet"]) == 130
    assert "interrupted. the checkpoint is in 'here'." in one_error(capsys)


# -- options and configurations -------------------------------------------------------------------


@pytest.fixture
def chosen(monkeypatch):
    """What `cellfuse demo` would run."""
    seen = {}

    def run_settings(mdata, out, settings, **kwargs):
        seen["settings"] = settings

    monkeypatch.setattr(bench, "run_settings", run_settings, raising=False)
    monkeypatch.setattr(bench, "read_screen", lambda *args, **kwargs: None, raising=False)
    return seen


EXPECTED = Settings(
    context_keys="guide",
    control=None,
    image_rep="crops",
    batch_key={"image": "well", "rna": None},
    modalities={"image": "image", "rna": "rna"},
    seed=3,
    crop=8,
    rna_likelihood="mse",
    score_threshold=0.5,
    max_epochs=2,
    documents_per_context=7,
    drop_missing=True,
    preset="base",
)
COMMAND = (
    "--context guide --control none --image-rep crops --batch-key image=well,rna= --seed 3 "
    "--crop 8 --rna-likelihood mse --score-threshold 0.5 --quick --documents-per-context 7 "
    "--drop-missing --preset base --quiet"
).split()


def test_every_option_reaches_its_setting(chosen, screen_file, in_empty_folder):
    assert cli.main(["demo", "--data", str(screen_file), *COMMAND]) == 0
    assert chosen["settings"] == EXPECTED


def test_a_configuration_gives_the_same_and_the_command_line_wins(
    chosen, screen_file, in_empty_folder
):
    path = in_empty_folder / "run.toml"
    path.write_text(
        f"""
        data = {str(screen_file)!r}
        context = ["guide"]
        control = "none"
        image-rep = "crops"
        batch-key = {{ image = "well", rna = "" }}
        crop = 8
        rna-likelihood = "mse"
        score_threshold = 0.5
        quick = true
        quiet = true
        documents-per-context = 7
        drop-missing = true
        preset = "base"
        seed = 99
        """
    )
    assert cli.main(["demo", "--config", str(path), "--seed", "3"]) == 0
    assert chosen["settings"] == EXPECTED


def test_a_wrong_key_of_a_configuration_names_the_likely_one(
    in_empty_folder, capsys, nothing_is_run
):
    (in_empty_folder / "run.toml").write_text("max-epoch = 3")
    assert cli.main(["demo", "--config", "run.toml"]) == 2
    assert "Did you mean 'max-epochs'" in one_error(capsys)
    (in_empty_folder / "run.toml").write_text("max-epochs = ")
    assert cli.main(["demo", "--config", "run.toml"]) == 2
    assert "could not be read" in one_error(capsys)
    (in_empty_folder / "run.toml").write_text("max-epochs = 0")
    assert cli.main(["demo", "--config", "run.toml"]) == 2
    assert "--max-epochs" in one_error(capsys)


def test_the_settings_of_an_earlier_run_are_a_configuration(tmp_path):
    text = {"settings": {"context_keys": ["guide"], "max_epochs": 3, "crop": None}}
    (tmp_path / "settings.json").write_text(json.dumps(text))
    assert read_config(tmp_path / "settings.json") == {"context_keys": ["guide"], "max_epochs": 3}


def test_a_header_says_what_the_file_holds(screen, screen_file):
    header = read_header(screen_file)
    assert list(header.parts) == ["image", "rna"]
    for name, part in header.parts.items():
        assert part.obs == tuple(screen[name].obs.columns)
        assert part.obsm == {key: np.shape(value) for key, value in screen[name].obsm.items()}
        assert set(part.labels("gene")) == set(screen[name].obs["gene"])
    alone = read_header(screen_file.with_name("rna.h5ad"), modality="rna").parts["rna"]
    assert alone.obs == header.parts["rna"].obs


def test_a_header_is_read_where_names_are_kept_with_a_mask(screen_file, tmp_path):
    """As pandas 3 keeps texts: the index of a data frame is a group of values and mask."""
    file = tmp_path / "rna.h5ad"
    adata = ad.read_h5ad(screen_file.with_name("rna.h5ad"))
    adata.obsm["frame"] = pd.DataFrame({"a": np.zeros(adata.n_obs)}, index=adata.obs_names)
    adata.write_h5ad(file)
    before = read_header(file, modality="rna").parts["rna"].obsm
    with h5py.File(file, "a") as opened:
        for frame in (opened["obs"], opened["obsm/frame"]):
            name = frame.attrs["_index"]
            if isinstance(frame[name], h5py.Dataset):
                values = frame[name][:]
                del frame[name]
                parts = frame.create_group(name)
                parts.attrs.update(
                    {"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"}
                )
                parts["values"], parts["mask"] = values, np.zeros(len(values), bool)
    assert before["frame"] == (adata.n_obs, 1)
    assert read_header(file, modality="rna").parts["rna"].obsm == before


def test_several_context_columns_are_written_with_commas(screen_file):
    found = _demo.settings_of(str(screen_file), {"context": "guide, gene", "control": "none"})
    assert found["context_keys"] == ["guide", "gene"] and found["control"] is None


# -- scores, benchmarks, reports -----------------------------------------------------------------


SCORE = ["--use-rep", "latent", "--context", "guide", "--control-key", "gene"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "a score needs --control"),
        (["--control", "NTC"], "'NTC' is not in obs"),
        (["--control", "non-targeting", "--use-rep", "X_petri"], "'X_petri' is not in obsm"),
        (["--control", "non-targeting", "--edges", "e.csv"], "--edges needs --target-key"),
        (["--control", "non-targeting", "--target-key", "genes"], "Did you mean 'gene'"),
    ],
)
def test_wrong_scores_are_one_clear_line(
    more, message, screen_file, in_empty_folder, capsys, nothing_is_run
):
    assert cli.main(["score", str(screen_file), *SCORE, *more]) == 2
    assert re.search(message, one_error(capsys))
    assert list(in_empty_folder.iterdir()) == []


RUN = """
[data]
{data}
[screen]
context_keys = "guide"
control = "non-targeting"
[methods]
PCA = {{}}
[metrics]
guide_consistency = {{}}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data", "no valid TOML"),
        ("", "'run.toml' \\(CONFIG\\) has no \\[data\\]"),
        ("dota = 1", "Did you mean 'data'"),
        ('data = "screen.h5mu"', "is no table: write \\[data\\]"),
        (RUN.format(data='path = "a"'), "neither a `file` nor what is `simulated`"),
        (RUN.format(data='simulated = "screen"'), "not in the simulators"),
        (
            RUN.format(data='file = "a.h5mu"').replace("control", "controls"),
            "Did you mean 'control'",
        ),
        (
            RUN.format(data='file = "no.h5mu"'),
            "there is no file 'no.h5mu' \\(file in \\[data\\]\\)",
        ),
    ],
)
def test_wrong_benchmarks_are_one_clear_line(
    text, message, in_empty_folder, capsys, nothing_is_run
):
    (in_empty_folder / "run.toml").write_text(text)
    assert cli.main(["benchmark", "run.toml"]) == 2
    assert re.search(message, one_error(capsys))
    assert [path.name for path in in_empty_folder.iterdir()] == ["run.toml"]


def test_a_folder_without_a_result_has_no_report(in_empty_folder, capsys, nothing_is_run):
    assert cli.main(["report", "."]) == 2
    assert "holds no result" in one_error(capsys)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_scores_of_an_embedding_are_made_and_drawn_again(screen_file, in_empty_folder, capfd):
    argv = ["score", str(screen_file), *SCORE, "--control", "non-targeting", "--target-key", "gene"]
    assert cli.main([*argv, "--out", "scores"]) == 0
    (in_empty_folder / "scores" / "report.html").unlink()
    assert cli.main(["report", "scores", "--title", "Mine & yours"]) == 0
    page = (in_empty_folder / "scores" / "report.html").read_text(encoding="utf-8")
    assert "Mine &amp; yours" in page and "latent" in page


# -- train and embed ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_model_is_trained_saved_and_embeds_a_file(screen_file, in_empty_folder, capfd):
    (in_empty_folder / "run.toml").write_text(
        "[model]\nwidth = 16\nn_heads = 2\nimage_depth = 1\nn_set_layers = 1\nn_latents = 2\n"
    )
    argv = ["train", str(screen_file), "--context", "guide", "--image-rep", "crops"]
    argv += ["--set-size", "2", "--max-epochs", "1", "--documents-per-context", "1"]
    assert cli.main([*argv, "--config", "run.toml", "--out", "petri"]) == 0
    assert cli.main(["embed", str(screen_file), "petri", "--out", "embedded.h5mu"]) == 0
    found = md.read_h5mu("embedded.h5mu")
    model = cf.PETRI.load("petri", found)
    for modality in ("image", "rna"):
        expected = model.get_latent_representation(modality=modality)
        np.testing.assert_array_equal(found[modality].obsm["X_petri"], expected)
    assert {path.name for path in Path().iterdir()} == {"petri", "embedded.h5mu", "run.toml"}
    capfd.readouterr()
    assert cli.main([*argv, "--out", "petri"]) == 2
    assert "exists; name another folder" in capfd.readouterr().err


def test_an_option_that_a_model_lacks_is_refused(screen_file, in_empty_folder, capfd):
    argv = ["train", str(screen_file), "--model", "shared-axes", "--context", "guide", "--quiet"]
    assert cli.main([*argv, "--image-rep", "crops", "--set-size", "4"]) == 2
    assert "SharedAxes has no --set-size: leave it out" in capfd.readouterr().err
    assert list(in_empty_folder.iterdir()) == []


# -- which options a model has ---------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(LACKS))
def test_what_the_command_line_says_of_a_model_is_so(name):
    model = getattr(cf, name)
    setup = inspect.signature(model.setup_mudata).parameters
    taken = {
        *setup,
        *inspect.signature(model).parameters,
        *inspect.signature(model.train).parameters,
    }
    assert set(LACKS[name]) == set(OF_TRAIN) - taken
    required = [p.name for p in setup.values() if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
    assert sorted(NEEDS[name]) == sorted(required)


def test_every_model_is_on_the_command_line_but_those_that_are_not_trained_from_a_file():
    assert set(cf._MODELS) - set(LACKS) == {"Concepts", "ImageRegressor", "TIDE"}


@pytest.mark.parametrize(
    ("more", "match"),
    [
        (["--model", "petri"], "PETRI needs --context."),
        (["--model", "DINO"], "DINO needs --image-rep."),
        (["--model", "DINO", "--context", "guide"], "DINO has no --context: leave it out"),
        (["--model", "MAE", "--rna-layer", "counts"], "MAE has no --rna-layer: leave it out"),
    ],
)
def test_what_a_model_lacks_or_needs_is_said_before_it_is_imported(
    more, match, screen_file, in_empty_folder, monkeypatch, capfd
):
    monkeypatch.setattr("cellfuse.cli._train.loading", lambda quiet: pytest.fail("imports"))
    assert cli.main(["train", str(screen_file), *more]) == 2
    assert match in capfd.readouterr().err
    assert list(in_empty_folder.iterdir()) == []


def test_a_table_of_the_configuration_holds_what_the_model_takes(
    screen_file, in_empty_folder, capfd
):
    (in_empty_folder / "run.toml").write_text('[setup]\nbatch_kee = "well"\n')
    argv = ["train", str(screen_file), "--context", "guide", "--image-rep", "crops", "--quiet"]
    assert cli.main([*argv, "--model", "SharedAxes", "--config", "run.toml"]) == 2
    assert "'batch_kee' is not in what [setup]" in capfd.readouterr().err


def test_one_modality_of_a_file_is_embedded_alone_and_other_names_are_refused_at_once(
    screen_file, in_empty_folder, monkeypatch, capfd
):
    argv = ["--context", "guide", "--image-rep", "crops", "--out", "axes", "--quiet"]
    assert cli.main(["train", str(screen_file), "--model", "SharedAxes", *argv]) == 0
    alone = str(screen_file.with_name("rna.h5ad"))
    embed = ["embed", alone, "axes", "--modality", "rna", "--quiet"]
    assert cli.main([*embed, "--out", "rna.h5mu"]) == 0
    model = cf.SharedAxes.load("axes", md.read_h5mu(screen_file))
    np.testing.assert_allclose(
        md.read_h5mu("rna.h5mu")["rna"].obsm["X_sharedaxes"],
        model.get_latent_representation(modality="rna"),
        atol=1e-6,
    )
    monkeypatch.setattr("cellfuse.cli._embed.loading", lambda quiet: pytest.fail("imports"))
    other = md.MuData({"gex": ad.read_h5ad(alone)})
    other.write("other.h5mu")
    assert cli.main(["embed", "other.h5mu", "axes", "--out", "no.h5mu"]) == 2
    assert "the modalities 'gex'; the model in 'axes' (MODEL) was trained on 'image', 'rna'" in (
        capfd.readouterr().err
    )


def test_a_model_that_embeds_images_alone_says_so(screen_file, in_empty_folder, capfd):
    argv = ["train", str(screen_file), "--model", "PhenoSeq", "--context", "guide", "--quiet"]
    argv += ["--image-rep", "latent", "--rna-rep", "latent", "--max-epochs", "1", "--out", "model"]
    assert cli.main([*argv, "--documents-per-context", "1"]) == 0
    assert cli.main(["embed", str(screen_file), "model", "--out", "one.h5mu", "--quiet"]) == 0
    found = md.read_h5mu("one.h5mu")
    assert "X_phenoseq" in found["image"].obsm and "X_phenoseq" not in found["rna"].obsm
    alone = str(screen_file.with_name("rna.h5ad"))
    embed = ["embed", alone, "model", "--modality", "rna", "--quiet", "--out", "no.h5mu"]
    assert cli.main(embed) == 2
    assert "PhenoSeq embeds 'image'; the file has 'rna'" in capfd.readouterr().err
