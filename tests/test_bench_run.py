"""Whole runs: what they leave, configurations, the papers' tables, the page."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
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
from cellfuse._mudata import make_mudata
from cellfuse.bench import Settings, _figures, _plain, _read, _screen
from cellfuse.bench._design import Design
from cellfuse.bench._views import View, correct, views_of
from cellfuse.data import CellInput

# A network that was hardly trained leaves a direction without variance.
pytestmark = pytest.mark.filterwarnings("ignore:directions without variance:UserWarning")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FILES = {
    "benchmark.json", "cells", "embeddings", "failures.csv", "figures", "genes.h5ad",
    "guides.h5ad", "hits_new.csv", "hits_pairs.csv", "hits_perturbations.csv", "report.html",
    "runs.csv", "scores.csv", "screen.h5mu", "table.csv",
}  # fmt: skip
#: A PETRI that trains in no time.
TINY = {
    "set_size": 2, "width": 16, "n_heads": 2, "n_latents": 2, "image_depth": 1, "n_set_layers": 1,
    "train": {"max_epochs": 1, "documents_per_context": 1, "accelerator": "cpu"},
}  # fmt: skip
DESIGN = {
    "context_keys": "guide",
    "image_rep": "crops",
    "control_key": "gene",
    "control": "non-targeting",
    "batch_key": {"image": "well", "rna": None},
    "target_key": "gene",
}


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


def plain_map(arrays, seed):
    """Two dimensions in the place of a UMAP, which takes time to compile."""
    return {name: np.asarray(array)[:, :2] for name, array in arrays.items()}


@pytest.fixture
def quickly(monkeypatch):
    monkeypatch.setattr(_figures, "umap_of", plain_map)


@pytest.fixture(scope="module")
def result(screen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_figures, "umap_of", plain_map)
        return bench.run_screen(
            screen,
            {"PETRI": {"model": "PETRI", **TINY}, "plain features": {"model": "features"}},
            folder,
            edges=screen.uns["edges"],
            colour_key="complex",
            title="A <b>screen</b>",
            progress=False,
            **DESIGN,
        )


# -- a run ----------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_nothing_beside(result):
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert [path.name for path in result.folder.parent.iterdir()] == ["out"]


def test_the_screen_reads_back_with_every_embedding(result, screen):
    read = md.read_h5mu(result.folder / "screen.h5mu")
    for name in ("image", "rna"):
        assert {"X_PETRI", "X_plain features"} <= set(read[name].obsm)
        assert "X_PETRI" not in screen[name].obsm
        np.testing.assert_array_equal(read[name].obsm["X_PETRI"], result.embeddings["PETRI", name])


def test_the_saved_model_gives_the_embeddings_that_were_written(result, screen):
    (folder,) = (result.folder / "embeddings").glob("PETRI_*/model")
    model = cf.PETRI.load(folder)
    np.testing.assert_array_equal(
        model.get_latent_representation(screen, modality="rna"), result.embeddings["PETRI", "rna"]
    )


def test_the_profiles_of_the_best_method_can_be_drawn_from_their_files(result, tmp_path):
    genes = ad.read_h5ad(result.folder / "genes.h5ad")
    cf.pl.similarity(genes, save=tmp_path / "again.png")
    assert result.best.method in ("PETRI", "plain features") and genes.n_obs == 7


def test_hits_are_ranked_and_new_pairs_are_not_among_the_known(result, screen):
    pairs, new = result.hits["pairs"], result.hits["new"]
    assert pairs["cosine"].is_monotonic_decreasing
    known = {frozenset(p) for p in screen.uns["edges"][["source", "target"]].to_numpy().tolist()}
    assert not {frozenset(p) for p in new[["source", "target"]].to_numpy().tolist()} & known
    assert pairs["known"].sum() == 6 and len(pairs) == 15
    table = result.hits["perturbations"].set_index("target")
    assert set(table.columns) >= {"strength", "active", "similarity", "consistent"}
    assert "non-targeting" not in table.index and len(table) == 6


def test_one_modality_without_targets_gives_embeddings_and_no_scores(screen, tmp_path, quickly):
    alone = make_mudata({"rna": screen["rna"].copy()})
    found = bench.run_screen(
        alone, ["PCA"], tmp_path / "out", context_keys="guide", control=None, progress=False
    )
    assert found.table["view"].tolist() == ["rna"]
    assert "X_PCA" in md.read_h5mu(tmp_path / "out" / "screen.h5mu")["rna"].obsm


@pytest.mark.slow
def test_an_interrupted_run_is_taken_up_where_it_ended(screen, tmp_path, quickly, monkeypatch):
    trained = []
    train = cf.PETRI.train

    def once(self, *args, **kwargs):
        trained.append(self.seed)
        if len(trained) == 2:
            raise KeyboardInterrupt
        train(self, *args, **kwargs)

    monkeypatch.setattr(cf.PETRI, "train", once)
    given = {"models": {"PETRI": TINY}, "seeds": 2, "progress": False, **DESIGN}
    with pytest.raises(KeyboardInterrupt):
        bench.run_screen(screen, out=tmp_path / "out", **given)
    found = bench.run_screen(screen, out=tmp_path / "out", **given)
    assert trained == [0, 1, 1]
    assert found.runs["seed"].tolist() == [0, 1] and found.failures.empty


@pytest.mark.slow
def test_the_old_call_still_works_and_says_what_is_new(screen, tmp_path, quickly):
    settings = Settings(
        context_keys="guide", image_rep="crops", control_key="gene", control="non-targeting",
        target_key="gene", edges=screen.uns["edges"], set_size=2, max_epochs=1,
        documents_per_context=1, n_boot=20, n_null=100, accelerator="cpu",
    )  # fmt: skip
    with pytest.warns(FutureWarning, match=r"run_screen\(mdata, models, out"):
        found = bench.run_screen(screen, tmp_path / "out", settings, progress=False)
    assert found.table["method"].unique().tolist()[:3] == ["PETRI", "plain features", "random"]
    with pytest.warns(FutureWarning, match="now called `table`"):
        assert found.metrics is found.table


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_things_is_never_replaced(tmp_path, capsys, overwrite):
    (tmp_path / "thesis.tex").touch()
    argv = ["demo", "--out", str(tmp_path), *(["--overwrite"] if overwrite else [])]
    assert cli.main(argv) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert "something else than results" in capsys.readouterr().err


# -- the page -------------------------------------------------------------------------------------


def test_the_page_holds_every_figure_and_loads_nothing(result):
    page = (result.folder / "report.html").read_text()
    figures = sorted(path.stem for path in (result.folder / "figures").iterdir())
    assert {"guide_consistency", "metrics", "roc", "similarity", "umap"} <= set(figures)
    assert page.count('src="data:image/png;base64,') == len(figures)
    assert len(re.findall(r"\bsrc=", page)) == len(figures)
    assert not re.search(r'href="(?!#)|@import|url\(|<link|<script [^>]*src', page)
    assert result.conclusion in page.replace("&#39;", "'")


def test_the_page_is_written_for_readers(result, tmp_path):
    """Names in words, code as code, settings without their empty parts; each value has its name."""
    failures = pd.DataFrame(
        {"method": ["mine"], "seed": [0], "view": ["both"], "metric": ["alignment"],
         "why": ["ValueError: 22 and 50 dimensions; see `cf.SharedAxes`."]}
    )  # fmt: skip
    told = dataclasses.replace(result, failures=failures)
    page = cf.report(told, tmp_path / "a.html", about="See `pairs.py`.", figures=[]).read_text()
    assert "See <code>pairs.py</code>." in page
    note = "mine, alignment (both), seed 0: 22 and 50 dimensions; see <code>cf.SharedAxes</code>."
    assert note in page
    assert "known pairs, AUC" in page and "edges auc" not in page and "edges tpr" not in page
    settings = page.split("All settings")[1].split("</details>")[0]
    assert "null" not in settings and "{}" not in settings and "context_keys" in settings
    table = page.split('id="table"')[1].split("</table>")[0]
    assert table.count("<td") == table.count("data-label=")


def test_labels_are_text_and_never_markup(result, tmp_path):
    atlas = pd.DataFrame({"genes": ["<img src=x onerror=alert(1)>"]}, index=["c1"])
    page = cf.report(
        result, tmp_path / "a.html", title="<b>x</b>", concepts=atlas, figures=[]
    ).read_text()
    assert "<b>x</b>" not in page and "&lt;b&gt;x&lt;/b&gt;" in page
    assert "<img src=x" not in page


def test_a_page_needs_a_result_and_a_place(screen):
    with pytest.raises(TypeError, match="result of `cf.benchmark`"):
        cf.report(screen, "a.html")
    found = cf.benchmark(screen, ["PCA"], ["guide_consistency"], **DESIGN, seeds=1, progress=False)
    with pytest.raises(ValueError, match="give `path`"):
        cf.report(found)


CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--hide-scrollbars",
]  # fmt: skip
#: What a reader does: searches, sorts, and looks whether the page is wider than the window.
PROBE = """
<script>
addEventListener("load", () => {
  const type = (id, text) => {
    const box = document.getElementById(id);
    box.value = text;
    box.dispatchEvent(new Event("input"));
  };
  const rows = () => [...document.querySelectorAll("#hits-perturbations tbody tr")];
  const all = rows().length;
  type("find-hits", "target03");
  const found = rows().filter((row) => !row.hidden).map((row) => row.cells[0].textContent);
  type("find-hits", "");
  const head = document.querySelector("#hits-perturbations th");
  head.click();
  const down = rows().map((row) => row.cells[0].textContent);
  type("find-concepts", "lipid");
  const cards = [...document.querySelectorAll(".card")].filter((card) => !card.hidden).length;
  const wide = document.documentElement.scrollWidth - window.innerWidth;
  document.title = "PROBE" + JSON.stringify({all, found, down, cards, wide});
});
</script>
</body>"""


@pytest.mark.slow
@pytest.mark.skipif(not Path(CHROMIUM).is_file(), reason="there is no Chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_is_used_in_a_browser(result, tmp_path, width):
    atlas = pd.DataFrame(
        {"terms": ["lipid storage up", "cell cycle"], "genes": ["PLIN2", "CDK1"]},
        index=["c1", "c2"],
    )
    page = cf.report(result, tmp_path / "page.html", concepts=atlas, figures=[])
    # In a frame of the width: a headless window is not narrower than 500 pixels.
    probed = page.read_text().replace("</body>", PROBE)
    (tmp_path / "probed.html").write_text(probed)
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<iframe id="f" src="probed.html" width="{width}" height="800" style="border:0"></iframe>'
        "<script>setTimeout(() => { document.title = document.getElementById('f')"
        ".contentDocument.title; }, 1500)</script>"
    )
    run = subprocess.run(
        [
            CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}",
            "--virtual-time-budget=6000", "--allow-file-access-from-files",
            "--dump-dom", frame.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = re.search(r"PROBE(\{.*?\})", run.stdout.replace("&quot;", '"'))
    assert found, run.stderr[-500:]
    import json

    seen = json.loads(found[1])
    assert seen["all"] == 6 and seen["found"] == ["TARGET03"] and seen["cards"] == 1
    assert seen["down"] == sorted(seen["down"], reverse=True)
    assert seen["wide"] <= 0


# -- configurations -------------------------------------------------------------------------------

TOML = """
title = "A table"
seeds = 1
against = "PCA"
[data]
file = "screen.h5mu"
[screen]
context_keys = "guide"
image_rep = "crops"
control_key = "gene"
control = "non-targeting"
target_key = "gene"
batch_key = {image = "well"}
[methods]
PCA = {}
"PCA@max" = {}
mine = "latent"
[metrics]
guide_consistency = {n_null = 100, n_boot = 0}
edges = {edges = "pairs.csv", n_boot = 0}
"""


@pytest.fixture(scope="module")
def toml(screen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("toml")
    screen.write(folder / "screen.h5mu")
    screen.uns["edges"].to_csv(folder / "pairs.csv", index=False)
    (folder / "table.toml").write_text(TOML)
    return folder / "table.toml"


def test_a_configuration_is_one_call(toml, screen):
    found = bench.read_config(toml).run(progress=False)
    metrics = {
        "guide_consistency": {"n_null": 100, "n_boot": 0},
        "edges": {"edges": screen.uns["edges"], "n_boot": 0},
    }
    methods = {"PCA": {}, "PCA@max": {}, "mine": "latent"}
    expected = cf.benchmark(
        screen, methods, metrics, **DESIGN, seeds=1, against="PCA", progress=False
    )
    pd.testing.assert_frame_equal(found.table, expected.table)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seeds = 1", "seedz = 1", "Did you mean 'seeds'"),
        ("[screen]", "[screne]", "Did you mean 'screen'"),
        ("image_rep", "imagerep", "Did you mean 'image_rep'"),
        ("PCA = {}", "PCA = {n_compz = 3}", "Did you mean 'n_comps'"),
        ("PCA = {}", "PETRY = {}", "Did you mean 'PETRI'"),
        ("{n_null = 100,", "{n_nul = 100,", "Did you mean 'n_null'"),
        ("guide_consistency", "guide_consistenzy", "Did you mean 'guide_consistency'"),
        ("pairs.csv", "pears.csv", "there is no file"),
        ('file = "screen.h5mu"', 'file = "no.h5mu"', "there is no file"),
        ('file = "screen.h5mu"', 'simulated = "simulated_scren"', "'simulated_screen'"),
        (
            'file = "screen.h5mu"',
            'simulated = "simulated_screen"\nn_target = 4',
            "Did you mean 'n_targets'",
        ),
        ('file = "screen.h5mu"', 'file = "screen.h5mu"\nmodality = "rma"', "Did you mean 'rna'"),
        ('control = "non-targeting"', "", "has no control"),
        ("[metrics]", "[metrics", "no valid TOML"),
    ],
)
def test_a_wrong_key_in_a_configuration_is_refused_by_name(toml, old, new, message):
    wrong = toml.with_name("wrong.toml")
    wrong.write_text(TOML.replace(old, new))
    with pytest.raises((KeyError, OSError, ValueError), match=message):
        bench.read_config(wrong)


def test_a_simulated_screen_is_another_for_each_seed(tmp_path):
    file = tmp_path / "a.toml"
    simulated = 'simulated = "simulated_screen"\nn_targets = 4\ncells_per_guide = 3\nn_genes = 20'
    text = TOML.replace('file = "screen.h5mu"', simulated).replace("pairs.csv", "uns:edges")
    file.write_text(text)
    source = bench.read_config(file).source
    assert not np.array_equal(source(0)["rna"].X.toarray()[:20], source(1)["rna"].X.toarray()[:20])
    file.write_text(text.replace(simulated, f"{simulated}\nseed = 3"))
    assert bench.read_config(file).source["rna"].n_vars == 20


@pytest.mark.parametrize("seed", ["", "\nseed = 3"])
def test_one_modality_and_some_cells_of_a_simulated_screen(seed, tmp_path):
    file = tmp_path / "a.toml"
    simulated = (
        'simulated = "simulated_screen"\nn_targets = 4\ncells_per_guide = 3\nn_genes = 20\n'
        f'modality = "rna"\nkeep = "gene != \'non-targeting\'"{seed}'
    )
    text = TOML.replace('file = "screen.h5mu"', simulated).replace("pairs.csv", "uns:edges")
    file.write_text(text)
    source = bench.read_config(file).source
    made = source if seed else source(3)
    assert list(made.mod) == ["rna"] and "edges" in made.uns
    whole = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=3, n_genes=20, seed=3)["rna"]
    kept = whole[whole.obs["gene"] != "non-targeting"]
    assert 0 < kept.n_obs < whole.n_obs
    assert made["rna"].obs_names.equals(kept.obs_names)


# -- the papers' tables, on mocks of their data ---------------------------------------------------

TINY_MODEL = {k: v for k, v in TINY.items() if k != "train"} | {"preset": "small"}
ONE_EPOCH = {"max_epochs": 1, "documents_per_context": 1, "accelerator": "cpu"}


def run(mdata, recipe, **changes):
    """A recipe as somebody with the data runs it, with few draws and one seed."""
    for metric, options in recipe["metrics"].items():
        few = {"n_boot": 0} if metric != "classification" else {}
        recipe["metrics"][metric] = {**options, **few}
        if "n_null" in options:
            recipe["metrics"][metric]["n_null"] = 50
    found = cf.benchmark(mdata, **recipe | {"seeds": 1, "progress": False} | changes)
    assert found.failures.empty, found.failures["why"].tolist()
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n_methods"), [("petri_table1", 12), ("petri_s1", 8), ("petri_s2", 3), ("petri_s4", 2)]
)
def test_petris_tables_run_on_a_mock_of_their_data(screen, name, n_methods):
    more = {
        "petri_s2": {"n_layers": 2},
        "petri_s4": {"n_latents": (1, 2), "set_sizes": (2,)},
    }.get(name, {})
    model = {k: v for k, v in TINY_MODEL.items() if name != "petri_s4" or k not in more}
    model |= {"n_set_layers": 2} if name == "petri_s2" else {}
    recipe = getattr(bench.recipes, name)(model=model, train=ONE_EPOCH, **more)
    found = run(screen, recipe)
    methods = [m for m in found.table["method"].unique() if not m.startswith("ceiling")]
    assert len(methods) == n_methods
    assert found.table["correction"].unique().tolist() == ["none" if name == "petri_s1" else "zca"]


def test_petris_late_fusions_are_the_papers_seven(screen):
    recipe = bench.recipes.petri_s3(model=TINY_MODEL, train=ONE_EPOCH)
    assert len(recipe["methods"]) == 7
    for entry in recipe["methods"].values():  # given embeddings in the place of trainings
        entry |= {"image": "latent", "rna": "latent"}
    found = run(screen, recipe)
    fused = found.table[~found.table["view"].isin(["image", "rna", "both"])]
    assert set(fused["view"]) >= {"concat", "cca_concat", "cca_mean", "min", "median", "max"}


@pytest.fixture(scope="module")
def scope():
    """Treatments in replicates, embeddings on both sides, as scGeneScope has them."""
    rng = np.random.default_rng(0)
    split = {"1": "HE", "2": "HE", "3": "train", "4": "WE", "5": "val"}
    parts = {}
    for name, width in (("image", 8), ("rna", 6)):
        obs = pd.DataFrame(
            [(f"t{t}", r) for t in range(4) for r in split for _ in range(6)],
            columns=["Treatment", "Replicate"],
        )
        obs["split"] = obs["Replicate"].map(split)
        obs.index = [f"{name}-{i}" for i in range(len(obs))]
        centre = 3 * rng.normal(size=(4, width))
        x = centre[obs["Treatment"].str[1:].astype(int)] + rng.normal(size=(len(obs), width))
        parts[name] = AnnData(obs=obs, obsm={"X_emb": x.astype("f4")})
    return make_mudata(parts)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phenoseq_table1", "phenoseq_table2", "phenoseq_table3"])
def test_phenoseqs_tables_run_on_a_mock_of_their_data(scope, name):
    more = (
        {}
        if name == "phenoseq_table3"
        else {"classifier": {"setting": "small", "max_epochs": 2, "seeds": (0,)}}
    )
    recipe = getattr(bench.recipes, name)(
        image_rep="X_emb", rna_rep="X_emb", train={"max_epochs": 1, "accelerator": "cpu"},
        model={"preset": "small", "set_size": 2, "width": 16, "depth": 1}, **more,
    )  # fmt: skip
    found = run(scope, recipe)
    scores = set(found.scores["score"])
    if name == "phenoseq_table3":
        assert scores == {"mrr", "top1", "specificity"}
    else:
        inputs = ("image", "rna", "synthetic", "image+rna", "image+synthetic")
        assert scores == {f"{i} {t}" for i in inputs for t in ("WE", "HE")}


@pytest.mark.slow
def test_tides_transfer_runs_on_a_mock_of_its_data():
    drugs = cf.datasets.simulated_drugs(n_mechanisms=4, images_per_condition=3, seed=0)
    mdata = make_mudata({name: drugs[name] for name in ("image", "rna")})
    sizes = {"preset": "small", "depth": 1, "width": 24, "n_heads": 2}
    train = {"max_epochs": 1, "response_epochs": 1, "validation_images": 0}
    recipe = bench.recipes.tide_task1(backbones=["ViT"], model=sizes, train=train, hold_out=0.4)
    found = run(mdata, recipe)
    rows = found.table[~found.table["method"].str.startswith("ceiling")]
    assert rows["method"].tolist() == [
        f"{n}, ViT" for n in ("MAE", "DINO", "CL(D)", "CL(R)", "TIDE")
    ]
    assert rows["transfer_top1"].between(0, 1).all()


def test_tides_target_discovery_runs_on_a_mock_of_its_data():
    rng = np.random.default_rng(0)
    names = [f"c{i}" for i in range(6)] + [f"g{i}" for i in range(30)]
    obs = pd.DataFrame({"compound": np.repeat([*names, "DMSO"], 4), "cell_line": "A"})
    obs["kind"] = np.where(obs["compound"].str.startswith("g"), "gene", "compound")
    obs.index = [f"image-{i}" for i in range(len(obs))]
    x = rng.normal(size=(37, 10))
    x[:6] = x[6:12]  # compound i looks like gene i
    image = AnnData(
        obs=obs, obsm={"emb": np.repeat(x, 4, axis=0) + 0.1 * rng.normal(size=(148, 10))}
    )
    mdata = make_mudata({"image": image})
    mdata.uns["targets"] = pd.DataFrame({"source": names[:6], "target": names[6:12]})
    recipe = bench.recipes.tide_task2(image_rep="emb", batch_key={"image": "cell_line"})
    assert len(recipe["methods"]) == 10
    found = run(mdata, {**recipe, "methods": ["emb"]})
    assert found.table["target_discovery_ap"].iloc[0] > 0.9


@pytest.mark.slow
def test_semi_clippeds_recall_runs_on_a_mock_of_its_data():
    mdata = cf.datasets.simulated_screen(20, n_targets=24, cells_per_guide=4, image_size=16, seed=0)
    for m in ("image", "rna"):
        mdata[m].obsm["emb"] = mdata[m].obsm["latent"]
    recipe = bench.recipes.semi_clipped_recall(
        pairs={"CORUM": mdata.uns["edges"], "StringDB": mdata.uns["edges"]},
        image_rep="emb", rna_rep="emb", model={"preset": "small"}, train={"max_epochs": 1},
        context_keys="gene", control_key="gene", control="non-targeting", target_key="gene",
    )  # fmt: skip
    found = run(mdata, recipe)
    assert {"recall CORUM", "recall StringDB"} <= set(found.scores["score"])
    assert found.comparisons["against"].unique().tolist() == ["frozen"]


# -- the parts ------------------------------------------------------------------------------------


def test_pixel_moments_are_those_of_scipy():
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 255, (5, 2, 8, 8)).astype(np.uint8)
    adata = AnnData(obs=pd.DataFrame(index=list("abcde")), obsm={"crops": crops})
    cell_input = CellInput.resolve(adata, role="image", modality="image", rep="crops")
    features = _plain.pixel_moments(cell_input.reader(adata), 4)
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


def test_components_look_at_training_cells_only_and_leave_the_counts_as_they_are():
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(2.0, (40, 12)).astype(np.float32) + 1)
    train = np.arange(40) < 30
    found = []
    for factor in (1, 50):  # what is held out changes nothing of what is seen
        values = counts.copy().tolil()
        values[30:, :3] *= factor
        adata = AnnData(values.tocsr())
        cell_input = CellInput.resolve(adata, role="rna", modality="rna", rep=None, counts=True)
        before = adata.X.copy()
        found.append(
            _plain.principal_components(adata, cell_input, train, crop=None, seed=0, n_comps=4)
        )
        assert (adata.X != before).nnz == 0
    np.testing.assert_allclose(found[0][:30], found[1][:30], atol=1e-5)
    assert found[0].shape == (40, 4) and not np.allclose(found[0][30:], found[1][30:])


def test_averaged_profiles_are_the_mean_of_the_modalities():
    tables = {
        name: pd.DataFrame({"guide": ["a", "a"]}, index=[f"{name}-0", f"{name}-1"])
        for name in ("image", "rna")
    }
    opened = _screen.Screen(
        None, {"image": "image", "rna": "rna"}, tables, Design(context_keys="guide", control=None)
    )
    image, rna = np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([[0.0, 4.0], [0.0, 6.0]])
    cells = opened.cells({"image": image, "rna": rna})
    views = {v.name: v.guides.X.tolist() for v in views_of(cells, opened, fusion="average", seed=0)}
    assert views == {"image": [[2.0, 0.0]], "rna": [[0.0, 5.0]], "average": [[1.0, 2.5]]}


def test_a_context_with_several_targets_has_none():
    table = pd.DataFrame({"guide": ["a", "a", "b", "b", "c"], "gene": ["X", None, "X", "Y", "Z"]})
    with pytest.warns(UserWarning, match=r"1 of 3 contexts have several targets.*'b'"):
        _screen._one_target({"rna": table}, "gene", ["guide"])
    assert table["gene"].tolist() == ["X", "X", "", "", "Z"]


def test_one_target_stored_in_two_ways_is_one_target():
    rows = np.repeat(np.arange(4), 3)
    parts = {}
    for name, gene in (("image", rows + 7157), ("rna", (rows + 7157).astype(float))):
        obs = pd.DataFrame({"guide": rows, "gene": gene}, index=[f"{name}{i}" for i in range(12)])
        parts[name] = AnnData(np.ones((12, 2), np.float32), obs=obs)
        parts[name].var_names = [f"{name}-{i}" for i in range(2)]
    parts["rna"].obs["guide"] = parts["rna"].obs["guide"].astype(float)
    found = _screen.open_screen(
        make_mudata(parts), Design(context_keys="guide", target_key="gene", control=None)
    )
    for table in found.tables.values():
        assert table["gene"].unique().tolist() == ["7157", "7158", "7159", "7160"]


def test_a_target_that_varies_in_most_contexts_is_refused():
    table = pd.DataFrame({"guide": ["a", "a", "b"], "gene": ["X", "Y", "X"]})
    table = pd.concat([table, pd.DataFrame({"guide": ["b"], "gene": ["Z"]})])
    with pytest.raises(ValueError, match="differs between cells of the same context"):
        _screen._one_target({"rna": table}, "gene", ["guide"])


def two_backgrounds(screen):
    """Expression cells of the screen in two backgrounds, the second far from the first."""
    rng = np.random.default_rng(0)
    obs = pd.concat([screen["rna"].obs] * 2, ignore_index=True)
    obs["background"] = np.repeat(["near", "far"], screen["rna"].n_obs)
    obs.index = [f"cell-{k}" for k in range(len(obs))]
    scale = np.where(obs["background"] == "far", 100.0, 1.0)[:, None]
    values = np.vstack([screen["rna"].obsm["latent"]] * 2) + rng.normal(0, 0.1, (len(obs), 12))
    return make_mudata({"rna": AnnData(obs=obs, obsm={"emb": scale * (values + scale)})})


def test_backgrounds_are_corrected_and_scored_apart(screen):
    mdata = two_backgrounds(screen)
    design = DESIGN | {"context_keys": ["background", "guide"], "batch_key": None}
    design |= {"image_rep": None, "rna_rep": "emb"}
    opened = _screen.open_screen(mdata, Design(**design, background_key="background"))
    cells = opened.cells({"rna": mdata["rna"].obsm["emb"]})
    correct(cells, opened, "zca")
    rep, background = cells["rna"].obsm["rep"], cells["rna"].obs["background"]
    for name in ("near", "far"):  # each as if it were alone
        part = mdata["rna"][background == name].copy()
        alone = _screen.open_screen(make_mudata({"rna": part}), Design(**design))
        apart = alone.cells({"rna": part.obsm["emb"]})
        correct(apart, alone, "zca")
        np.testing.assert_allclose(rep[background == name], apart["rna"].obsm["rep"], atol=1e-4)
        np.testing.assert_allclose(np.cov(rep[background == name].T), np.eye(12), atol=1e-3)
    found = cf.benchmark(
        mdata, ["emb"],
        {"edges": {"edges": screen.uns["edges"], "n_boot": 0},
         "guide_consistency": {"n_null": 100, "n_boot": 0}},
        **design, background_key="background", seeds=1, progress=False,
    )  # fmt: skip
    expected = []
    for name in ("near", "far"):
        part = cells["rna"][background == name].copy()
        part = part[part.obs["gene"] != "non-targeting"].copy()
        genes = cf.tl.aggregate(part, by="gene", use_rep="rep", within="guide")
        row = cf.tl.edge_classification(genes, screen.uns["edges"], n_boot=0)
        expected.append(row.loc["all", "tpr"])
    assert found.table["edges_tpr"].iloc[0] == pytest.approx(np.mean(expected))
    assert "ceiling" in set(found.table["method"])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("e.csv", "source,target,score\nA,B,.9\nA,C,\n", "1 of 2 scores.*first in row 2"),
        ("e.csv", "source,target\nA,B\n,C\n", "1 of 2 pairs.*lack a name.*row 2"),
        ("e.csv", "source,partner\nA,B\n", "'target' is not in the columns"),
        ("e.csv", "source,target\nA,B\nA\n", "no readable table.*line 3 has 1 fields"),
        ("e.csv", "", "no readable table"),
    ],
)
def test_edges_that_cannot_be_used_are_named(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises((KeyError, ValueError), match=message):
        _read.read_edges(tmp_path / name)


def test_genes_called_na_are_kept(tmp_path):
    (tmp_path / "e.csv").write_text("source,target,score\nNA,NAN,0.97\n")
    assert _read.read_edges(tmp_path / "e.csv").to_numpy().tolist() == [["NA", "NAN", 0.97]]
    (tmp_path / "e.csv").write_text("source;target;score\nNA;NAN;0.97\n")
    assert _read.read_edges(tmp_path / "e.csv").to_numpy().tolist() == [["NA", "NAN", 0.97]]


def test_control_profiles_are_not_tested():
    obs = pd.DataFrame({"gene": ["A", "B", "NTC", ""]}, index=list("abcd"))
    assert kept_of(obs, control_key="gene", control="NTC") == ["a", "b"]
    assert kept_of(obs.iloc[[0, 1, 3]], control_key="gene", control="NTC") == ["a", "b"]


def test_controls_labelled_by_a_number_are_not_tested():
    obs = pd.DataFrame({"gene": list("ABC"), "dose": [1.0, 0.0, 3.0]}, index=list("abc"))
    assert kept_of(obs, control_key="dose", control="0") == ["a", "c"]


def kept_of(obs, **control):
    design = Design(context_keys="guide", target_key="gene", **control)
    opened = _screen.Screen(None, {}, {}, design)
    profiles = AnnData(np.eye(len(obs), dtype=np.float32), obs=obs)
    view = View("rna", profiles, None, None, {}, {}, None, opened, frozenset(), 0)
    return view.tested(profiles).obs_names.tolist()


@pytest.mark.parametrize("missing", [np.nan, ""])
def test_cells_without_a_context_are_refused_or_dropped_loudly(screen, missing):
    mdata = make_mudata({name: adata.copy() for name, adata in screen.mod.items()})
    guides = mdata["rna"].obs["guide"].astype(object)
    guides.iloc[:3] = missing
    mdata["rna"].obs["guide"] = guides
    with pytest.raises(ValueError, match=r"3 of \d+ cells of modality 'rna'.*--drop-missing"):
        _screen.open_screen(mdata, Design(**DESIGN))
    n = mdata["rna"].n_obs
    dropping = Design(context_keys="guide", control=None, drop_missing=True)
    with pytest.warns(UserWarning, match="they are left out"):
        opened = _screen.open_screen(mdata, dropping)
    assert opened.mdata["rna"].n_obs == n - 3 and mdata["rna"].n_obs == n


# -- from the command line ------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_demo_runs_from_its_command(tmp_path, capfd, quickly):
    assert cli.main(["demo", "--quick", "--out", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == FILES | {"comparisons.csv"}
    printed = capfd.readouterr().out
    assert "PETRI permuted" in printed and "edges auc" in printed and "report.html" in printed


REAL = {
    "jump": (
        "jump_target1.h5mu",
        "--context compound --modalities image=image,rna=secretome --rna-likelihood mse "
        "--set-size 2 --control none --target-key target_gene",
        ["average", "concat", "image", "rna"],
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
def test_the_demo_runs_on_real_data(name, tmp_path, quickly):
    file, options, profiles = REAL[name]
    if not (DATA / file).is_file():
        pytest.skip(f"{file} is not beside the repository")
    argv = ["demo", "--data", str(DATA / file), *options.split(), "--quick"]
    argv += ["--max-epochs", "1", "--out", str(tmp_path / "out")]
    assert cli.main(argv) == 0
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    kept = table[~table["method"].str.startswith("ceiling")]
    assert sorted(set(kept["view"])) == profiles
    assert kept["guide_consistency"].dropna().between(0, 1).all()
