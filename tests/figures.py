"""One small example of every figure: drawn by the image tests, and shown in the gallery.

Each function makes its data, runs the tool and draws, and takes the arguments that all figures
take (`ax`, `save`, ...). The gallery prints its body, so that it reads like a user's notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import scipy.sparse as sp

import cellfuse as cf

#: Name in `cf.pl` -> the function that draws it.
FIGURES: dict[str, Callable] = {}


def figure(function: Callable) -> Callable:
    """Enter a function under the name of the figure that it draws."""
    FIGURES[function.__name__] = function
    return function


def guide_profiles(n_targets: int = 40, n_guides: int = 4, noise: float = 1.6, seed: int = 0):
    """Profiles of guides, a third of whose targets do nothing."""
    rng = np.random.default_rng(seed)
    strength = np.where(np.arange(n_targets) % 3 == 0, 0.0, rng.uniform(0.4, 1.6, n_targets))
    complexes = rng.normal(size=(n_targets // 4 + 1, 24))[np.arange(n_targets) // 4]
    effect = strength[:, None] * (complexes + 0.6 * rng.normal(size=(n_targets, 24)))
    genes = np.repeat([f"GENE{i:02d}" for i in range(n_targets)], n_guides)
    x = np.repeat(effect, n_guides, axis=0) + noise * rng.normal(size=(len(genes), 24))
    obs = pd.DataFrame(
        {
            "gene": genes,
            "complex": np.repeat(np.arange(n_targets) // 4, n_guides).astype(str),
            "well": [f"well {i % 3}" for i in range(len(genes))],
        },
        index=[f"{gene}_{i % n_guides}" for i, gene in enumerate(genes)],
    )
    return ad.AnnData(x.astype(np.float32), obs=obs)


def gene_profiles(noise: float = 0.8, seed: int = 0):
    """Profiles of genes in ten complexes, and the pairs within these."""
    guides = guide_profiles(noise=noise, seed=seed)
    genes = cf.tl.aggregate(guides, by="gene", use_rep=None)
    names, part = genes.obs_names.to_numpy(), genes.obs["complex"].to_numpy()
    i, j = np.triu_indices(len(names), 1)
    same = part[i] == part[j]
    return genes, pd.DataFrame({"source": names[i[same]], "target": names[j[same]]})


def two_modalities(n_targets: int = 12, n_cells: int = 240, seed: int = 0):
    """Cells of two modalities in one space, with a map of them."""
    rng = np.random.default_rng(seed)
    centres = 2.5 * rng.normal(size=(n_targets, 2))
    cells = {}
    for modality in ("image", "rna"):
        code = rng.integers(n_targets, size=n_cells)
        phase = rng.integers(2, size=n_cells)
        x = centres[code] + 0.5 * rng.normal(size=(n_cells, 2)) + [(modality == "rna") * 1.5, 0]
        obs = pd.DataFrame(
            {
                "gene": [f"GENE{c:02d}" for c in code],
                "complex": [f"complex {c // 4}" for c in code],
                "phase": np.array(["G1", "S"])[phase],
                "plate": [f"plate {p}" for p in rng.integers(3, size=n_cells)],
            },
            index=[f"{modality}{i}" for i in range(n_cells)],
        )
        features = np.concatenate([x, 2.0 * phase[:, None], rng.normal(size=(n_cells, 3))], axis=1)
        var = pd.DataFrame(index=[f"{modality}_feature{i}" for i in range(6)])
        cells[modality] = ad.AnnData(features, obs=obs, var=var, obsm={"X_umap": x})
    return md.MuData(cells)


@figure
def roc(**kwargs):
    genes, edges = gene_profiles()
    noisy, _ = gene_profiles(noise=3.0)
    cf.tl.edge_classification(genes, edges, n_boot=200)
    cf.tl.edge_classification(noisy, edges, n_boot=200)
    return cf.pl.roc({"PETRI, average": genes, "PCA, image": noisy}, **kwargs)


@figure
def relationship_recall(**kwargs):
    genes, edges = gene_profiles()
    noisy, _ = gene_profiles(noise=3.0)
    tables = {"complexes": edges, "first half": edges[: len(edges) // 2]}
    cf.tl.relationship_recall(genes, tables, n_boot=200)
    cf.tl.relationship_recall(noisy, tables, n_boot=200)
    return cf.pl.relationship_recall({"PETRI": genes, "PCA": noisy}, **kwargs)


@figure
def guide_consistency(**kwargs):
    guides = guide_profiles(n_targets=120)
    cf.tl.guide_consistency(guides, target_key="gene", control=None)
    return cf.pl.guide_consistency(guides, **kwargs)


@figure
def perturbation_consistency(**kwargs):
    wells = guide_profiles()
    cf.tl.perturbation_consistency(wells, by="gene", control=None)
    return cf.pl.perturbation_consistency(wells, **kwargs)


@figure
def mean_average_precision(**kwargs):
    wells = guide_profiles()
    cf.tl.mean_average_precision(wells, by="gene", n_null=2000)
    return cf.pl.mean_average_precision(wells, **kwargs)


@figure
def perturbation_magnitude(**kwargs):
    cells = guide_profiles(n_targets=30, n_guides=8, noise=1.0)
    cells.obs["gene"] = cells.obs["gene"].replace({"GENE00": "control", "GENE03": "control"})
    cf.tl.perturbation_magnitude(cells, by="gene", control="control", n_null=999)
    return cf.pl.perturbation_magnitude(cells, **kwargs)


@figure
def retrieval(**kwargs):
    tables = {}
    for name, noise in (("SemiClipped", 0.6), ("PCA", 2.0)):
        image = cf.tl.aggregate(guide_profiles(noise=noise), by="gene", use_rep=None)
        rna = cf.tl.aggregate(guide_profiles(noise=noise), by="gene", use_rep=None)
        rna.X += noise * np.random.default_rng(1).normal(size=rna.shape).astype(np.float32)
        tables[name] = cf.tl.retrieval(image, rna, "gene", use_rep=None, n_boot=200)
    return cf.pl.retrieval(tables, **kwargs)


@figure
def one_shot_transfer(**kwargs):
    named = {"TIDE": guide_profiles(noise=1.0), "DINO": guide_profiles(noise=2.0)}
    tables = {
        name: cf.tl.one_shot_transfer(wells, use_rep=None, by="gene", n_boot=200)
        for name, wells in named.items()
    }
    return cf.pl.one_shot_transfer(tables, **kwargs)


@figure
def knn_accuracy(**kwargs):
    wells = guide_profiles(n_guides=8, noise=1.0)
    tables = {
        "TIDE": cf.tl.knn_accuracy(wells, use_rep=None, by="gene", k=5),
        "TIDE, plates apart": cf.tl.knn_accuracy(
            wells, use_rep=None, by="gene", k=5, group_key="well"
        ),
    }
    return cf.pl.knn_accuracy(tables, **kwargs)


@figure
def target_discovery(**kwargs):
    genes, _ = gene_profiles()
    rng = np.random.default_rng(0)
    doses = np.tile([0.1, 1.0, 10.0], 12)
    rows = np.repeat(np.arange(1, 37, 3), 3)
    x = genes.X[rows] * doses[:, None] / (1 + doses[:, None]) + 0.5 * rng.normal(size=(36, 24))
    obs = pd.DataFrame({"compound": [f"drug{r}" for r in rows], "dose": doses})
    compounds = ad.AnnData(x, obs=obs.rename(str))
    known = pd.DataFrame(
        {"source": [f"drug{r}" for r in rows[::3]], "target": genes.obs_names[rows[::3]]}
    )
    cf.tl.target_discovery(compounds, genes, known, dose_key="dose", compound_key="compound")
    return cf.pl.target_discovery(compounds, **kwargs)


@figure
def classify_treatments(**kwargs):
    table = pd.DataFrame(  # what `cf.tl.classify_treatments` returned, on a small screen
        {
            "input": ["image", "rna", "image+rna", "image+synthetic"],
            "test": "held out",
            "balanced_accuracy": [0.41, 0.66, 0.71, 0.55],
            "balanced_accuracy_sd": [0.03, 0.02, 0.02, 0.04],
            "chance": 0.05,
        }
    )
    return cf.pl.classify_treatments(table, **kwargs)


@figure
def compare(**kwargs):
    genes, edges = gene_profiles()
    noisy, _ = gene_profiles(noise=3.0)
    pairs = {"complexes": edges, "first half": edges[: len(edges) // 2]}
    a, b = (cf.tl.relationship_recall(g, pairs, per_pair=True) for g in (genes, noisy))
    return cf.pl.compare(cf.tl.compare(a, b, n_boot=500), labels=("PETRI", "PCA"), **kwargs)


@figure
def late_fusion(**kwargs):
    parts = {
        m: cf.tl.aggregate(guide_profiles(seed=s), by="gene", use_rep=None)
        for m, s in (("image", 0), ("rna", 1))
    }
    fused = cf.tl.late_fusion(parts, method="cca_mean", n_components=12, eps=0.5)
    return cf.pl.late_fusion(fused, **kwargs)


@figure
def propensity_matching(**kwargs):
    mdata = two_modalities()
    matching = cf.tl.propensity_matching(
        mdata, context_keys="complex", use_rep=None, method="snn", n_neighbors=3
    )
    return cf.pl.propensity_matching(matching, mdata, "gene", **kwargs)


@figure
def similarity(**kwargs):
    genes, _ = gene_profiles()
    return cf.pl.similarity(genes, by="complex", **kwargs)


@figure
def contexts(**kwargs):
    rng = np.random.default_rng(0)
    cells = {}
    for modality, mean in (("image", 60), ("rna", 14)):
        guides = np.repeat([f"g{i}" for i in range(80)], rng.poisson(mean, 80))
        obs = pd.DataFrame({"guide": guides}, index=[f"{modality}{i}" for i in range(len(guides))])
        cells[modality] = ad.AnnData(obs=obs)
    return cf.pl.contexts(md.MuData(cells), "guide", **kwargs)


@figure
def split(**kwargs):
    mdata = two_modalities(n_targets=30)
    cf.tl.split(mdata, by="gene")
    return cf.pl.split(mdata, "gene", **kwargs)


@figure
def umap(**kwargs):
    return cf.pl.umap(two_modalities(), color=["modality", "plate", "gene"], **kwargs)


@figure
def training_curves(**kwargs):
    epoch = pd.RangeIndex(30, name="epoch")
    fall = np.exp(-np.arange(30) / 6)
    history = {
        "train_loss_epoch": pd.Series(2.0 + 3.0 * fall, epoch),
        "validation_loss": pd.Series(2.2 + 3.0 * fall + 0.0008 * np.arange(30) ** 2, epoch),
        "train_image_loss_epoch": pd.Series(0.4 + 0.5 * fall, epoch),
        "validation_image_loss": pd.Series(0.45 + 0.5 * fall, epoch),
        "train_rna_loss_epoch": pd.Series(1600 + 2500 * fall, epoch),
        "validation_rna_loss": pd.Series(1700 + 2500 * fall, epoch),
    }
    return cf.pl.training_curves(history, **kwargs)


@figure
def fidelity(**kwargs):
    real = cf.tl.aggregate(guide_profiles(n_targets=20, noise=0.4), by="gene", use_rep=None)
    synthetic = real.copy()
    synthetic.X += 0.6 * np.random.default_rng(1).normal(size=real.shape).astype(np.float32)
    cf.tl.fidelity(real, synthetic, "gene", n_boot=0)
    return cf.pl.fidelity(synthetic, **kwargs)


@figure
def real_vs_synthetic(**kwargs):
    mdata = two_modalities(n_targets=6)
    parts = {"real": mdata["image"], "synthetic": mdata["rna"]}
    joint = ad.concat(parts, label="source", index_unique="-", join="outer", fill_value=0.0)
    centroids = joint.obs[["gene", "source"]].assign(
        x=joint.obsm["X_umap"][:, 0], y=joint.obsm["X_umap"][:, 1]
    )
    centroids = centroids.groupby(["gene", "source"], observed=True)[["x", "y"]].mean()
    # `cf.tl.real_vs_synthetic` makes all this of real and synthetic profiles.
    joint.uns["real_vs_synthetic"] = {
        "by": "gene",
        "best": "GENE01",
        "centroids": centroids.reset_index(),
    }
    return cf.pl.real_vs_synthetic(joint, **kwargs)


@figure
def codebook(**kwargs):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"mechanism": [f"mechanism {i % 4}" for i in range(24)]})
    book = ad.AnnData(obs=obs.rename(lambda i: f"drug{i}"))  # as `model.codebook` of a TIDE
    book.obsm["fingerprint_map"] = rng.normal(size=(24, 2))
    book.obsm["prototype_map"] = rng.normal(size=(4, 2))[np.arange(24) % 4] * 2 + rng.normal(
        size=(24, 2)
    )
    book.uns["pairs"] = pd.DataFrame({"source": ["drug0", "drug1"], "target": ["drug4", "drug5"]})
    return cf.pl.codebook(book, color="mechanism", **kwargs)


@figure
def benchmark(**kwargs):
    rows = []
    numbers = {
        "PETRI": {"image": 0.72, "rna": 0.86, "average": 0.90},
        "PETRI permuted": {"image": 0.71, "rna": 0.85, "average": 0.87},
        "PCA": {"image": 0.74, "rna": 0.86, "concat": 0.86},
        "random": {"image": 0.50, "rna": 0.49, "average": 0.51},
        "ceiling": {"concat": 0.95},
    }
    for method, views in numbers.items():
        for view, value in views.items():
            row = {"method": method, "correction": "zca", "view": view}
            for k, name in enumerate(("guide_consistency", "edges_auc")):
                at = value - 0.2 * (1 - k)
                row |= {name: at, f"{name}_low": at - 0.02, f"{name}_high": at + 0.03}
            rows.append(row)
    # `cf.benchmark(...).table` is such a table.
    return cf.pl.benchmark(pd.DataFrame(rows), **kwargs)


@figure
def hits(**kwargs):
    wells = guide_profiles(noise=1.2)
    wells.obs["gene"] = wells.obs["gene"].replace({"GENE00": "control", "GENE03": "control"})
    cf.tl.hits(wells, by="gene", control="control", n_null=999)
    return cf.pl.hits(wells, **kwargs)


@figure
def nearest_perturbations(**kwargs):
    genes, _ = gene_profiles()
    cf.tl.nearest_perturbations(genes, k=10)
    return cf.pl.nearest_perturbations(genes, "GENE17", **kwargs)


@figure
def responders(**kwargs):
    rng = np.random.default_rng(0)
    genes = np.repeat(["non-targeting", "GENE1", "GENE2", "GENE3", "GENE4"], 150)
    shares = np.repeat([0.0, 0.9, 0.5, 0.2, 0.0], 150)
    x = rng.normal(size=(750, 6)) + 2.2 * (rng.random(750) < shares)[:, None]
    cells = ad.AnnData(x, obs=pd.DataFrame({"gene": genes}).rename(str))
    cf.tl.responders(cells, by="gene", control="non-targeting")
    return cf.pl.responders(cells, **kwargs)


@figure
def enrich(**kwargs):
    genes = [f"GENE{i:03d}" for i in range(200)]
    sets = {"ribosome": genes[:15], "proteasome": genes[15:30], "kinases": genes[100:140]}
    table = cf.tl.enrich(genes[:12] + genes[15:20] + genes[60:70], sets, background=genes)
    return cf.pl.enrich(table, **kwargs)


@figure
def dose_response(**kwargs):
    rng = np.random.default_rng(0)
    dose = np.tile(np.repeat(np.geomspace(0.01, 100, 9), 3), 3)
    drug = np.repeat(["potent", "weak", "inert"], 27)
    middle = pd.Series(drug).map({"potent": 0.1, "weak": 30.0, "inert": 1e9}).to_numpy()
    effect = 3.0 * dose / (dose + middle)
    x = np.concatenate([effect[:, None] * np.ones(4), np.zeros((40, 4))])
    x += rng.normal(size=x.shape)
    obs = pd.DataFrame(
        {"drug": [*drug, *["DMSO"] * 40], "dose": np.concatenate([dose, np.full(40, np.nan)])}
    )
    wells = ad.AnnData(x, obs=obs.rename(str))
    cf.tl.dose_response(wells, by="drug", dose_key="dose", control="DMSO")
    return cf.pl.dose_response(wells, **kwargs)


@figure
def combinations(**kwargs):
    rng = np.random.default_rng(0)
    single = {f"G{i}": rng.normal(size=8) for i in range(8)}
    effect = {"control": np.zeros(8), **single}
    for i in range(7):  # the last three are not what their parts add up to
        factor = 1.0 if i < 4 else (0.3, 1.9, 0.5)[i - 4]
        effect[f"G{i}+G{i + 1}"] = factor * (single[f"G{i}"] + single[f"G{i + 1}"])
    labels = np.repeat(list(effect), 40)
    x = np.array([effect[name] for name in labels]) + 1.5 * rng.normal(size=(len(labels), 8))
    cells = ad.AnnData(x, obs=pd.DataFrame({"guide": labels}).rename(str))
    cf.tl.combinations(cells, by="guide", control="control")
    return cf.pl.combinations(cells, **kwargs)


@figure
def confusion(**kwargs):
    wells = guide_profiles(n_targets=12, n_guides=10, noise=1.6)
    cf.tl.knn_accuracy(wells, use_rep=None, by="gene", k=5)
    return cf.pl.confusion(wells, **kwargs)


def concept_screen():
    """A simulated screen with concepts: those of the targets are in both modalities."""
    rng = np.random.default_rng(0)
    mdata = cf.datasets.simulated_screen(
        20, n_targets=4, cells_per_guide=6, image_size=24, n_wells=2, seed=0
    )
    for adata in mdata.mod.values():
        codes = adata.obs["gene"].astype("category").cat.codes.to_numpy()
        active = 0.6 * (rng.random((adata.n_obs, 12)) < np.linspace(0.05, 0.7, 12))
        active[:, 4:9] += 2.0 * (codes[:, None] == np.arange(5))
        adata.obsm["X_concepts"] = sp.csr_matrix(active.astype(np.float32))
    cf.tl.multimodal_concepts(mdata)
    return mdata


@figure
def cells(**kwargs):
    image = concept_screen()["image"]
    groups = sorted(image.obs["gene"].unique())[:3]
    return cf.pl.cells(image, "gene", groups=groups, n_cells=5, **kwargs)


@figure
def concept(**kwargs):
    mdata = concept_screen()
    genes = mdata["rna"].var_names[:8]
    scores = pd.DataFrame({"concept": 5, "gene": genes, "score": np.linspace(6, -4, 8)})
    # `cf.tl.concept_features` measures these.
    mdata.uns["concept_features"] = {"genes": scores.assign(pvalue=1e-4, significant=True)}
    return cf.pl.concept(mdata, 5, n_cells=4, **kwargs)


@figure
def concept_map(**kwargs):
    return cf.pl.concept_map(concept_screen(), **kwargs)


@figure
def differential_concepts(**kwargs):
    mdata = concept_screen()
    cf.tl.differential_concepts(mdata, by="gene", control="non-targeting", min_cells=5)
    return cf.pl.differential_concepts(mdata, **kwargs)


@figure
def batch_predictability(**kwargs):
    mdata = concept_screen()
    cf.tl.batch_predictability(
        mdata, {"image": "well", "rna": None}, concepts=[4, 5, 6, 7], n_draws=5
    )
    return cf.pl.batch_predictability(mdata, **kwargs)


@figure
def predictability(**kwargs):
    rng = np.random.default_rng(0)
    genes = [f"GENE{i:03d}" for i in range(200)]
    parts = {}
    for name, strength in (("PETRI", 1.0), ("PCA", 0.6)):
        table = pd.DataFrame(
            {
                "r2": rng.beta(1.2, 5.0 / strength, 200) - 0.03,
                "r2_chance": rng.normal(0, 0.02, 200) - 0.02,
            },
            index=genes,
        )
        # `cf.tl.predictability` measures this.
        parts[name] = ad.AnnData(shape=(1, 1), uns={"predictability": {"table": table}})
    return cf.pl.predictability(parts, **kwargs)


@figure
def edge_overlap(**kwargs):
    table = pd.DataFrame(  # as `cf.tl.edge_overlap` counts them
        {
            "PETRI": [True, True, True, False],
            "image": [True, False, False, True],
            "rna": [True, True, False, False],
            "n_pairs": [18, 24, 31, 9],
            "n_expected": [6.0, 12.0, 25.0, 14.0],
        }
    )
    kept = {"table": table, "params": {"fpr": 0.05, "n_pairs": 120}}
    return cf.pl.edge_overlap(ad.AnnData(shape=(1, 1), uns={"edge_overlap": kept}), **kwargs)


@figure
def similarity_density(**kwargs):
    image, _ = gene_profiles(seed=0)
    rna, _ = gene_profiles(noise=1.5, seed=0)
    both = ad.AnnData(np.hstack([image.X, rna.X]), obs=image.obs)
    cf.tl.similarity_density(both, image, rna, n_bins=12, names=("both", "image", "rna"))
    return cf.pl.similarity_density(both, **kwargs)


@figure
def alignment(**kwargs):
    mdata = cf.datasets.simulated_screen(60, n_targets=12, cells_per_guide=8, seed=0)
    cf.tl.alignment(mdata, "guide", use_rep="latent", n_boot=100, n_draws=50)
    return cf.pl.alignment(mdata, **kwargs)


@figure
def shared_axes_test(**kwargs):
    mdata = cf.datasets.simulated_screen(60, n_targets=24, cells_per_guide=12, seed=0)
    cf.tl.shared_axes_test(mdata, "guide", use_rep="latent", target_key="gene", n_draws=50)
    return cf.pl.shared_axes_test(mdata, **kwargs)


def attention_found():
    """Attention of one document, as `model.attention` gives it."""
    rng = np.random.default_rng(0)
    maps = rng.dirichlet(np.full(8, 0.4), size=(1, 2, 2, 8)).astype(np.float32)
    return SimpleNamespace(maps=maps, lengths={"image": 4, "rna": 4})


@figure
def attention(**kwargs):
    return cf.pl.attention(attention_found(), n_heads=3, **kwargs)


@figure
def attention_blocks(**kwargs):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "model": np.repeat(["PETRI", "PETRI permuted"], 16),
            "block": np.tile(np.repeat(["image -> rna", "rna -> image"], 8), 2),
        }
    )
    table["spread"] = np.repeat([1.0, 0.3], 16) * rng.gamma(4.0, 0.25, 32)
    return cf.pl.attention_blocks(table, **kwargs)  # of `cf.tl.attention_blocks`


@figure
def cross_modal_gain(**kwargs):
    rng = np.random.default_rng(0)
    none = rng.gamma(6.0, 0.2, 120)
    cells = pd.DataFrame({"loss_none": none, "loss_own": none - 0.15 + 0.1 * rng.normal(size=120)})
    tests = pd.DataFrame(
        {"channel": ["all"], "arm": ["own"], "gain": [0.15], "pvalue": [1e-9], "share_lower": 0.9}
    )
    gain = SimpleNamespace(cells=cells, channels=pd.DataFrame(), tests=tests, shown=[])
    gain.arms, gain.names, gain.modality = ["none", "own"], [], "rna"
    return cf.pl.cross_modal_gain(gain, **kwargs)  # of `model.cross_modal_gain`
