"""Late fusion and propensity matching."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from mudata import MuData
from scipy.linalg import sqrtm
from sklearn.cross_decomposition import CCA

import cellfuse as cf
from cellfuse.kernels.cca import fit_cca
from cellfuse.kernels.matching import shared_neighbours
from cellfuse.tl.fusion import late_fusion
from cellfuse.tl.matching import propensity_matching


def genes(n: int = 60, widths: tuple[int, ...] = (6, 8), *, seed: int = 0) -> dict[str, ad.AnnData]:
    """Profiles of modalities that share two dimensions."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 2))
    obs = pd.DataFrame(
        {"pathway": [f"w{i % 3}" for i in range(n)]}, index=[f"g{i:02d}" for i in range(n)]
    )
    return {
        f"m{k}": ad.AnnData(z @ rng.normal(size=(2, d)) + rng.normal(size=(n, d)), obs=obs.copy())
        for k, d in enumerate(widths)
    }


def cosine(adata: ad.AnnData) -> np.ndarray:
    x = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    return x @ x.T


PAIRS = pd.DataFrame({"source": ["g00", "g01", "g02"], "target": ["g03", "g04", "g05"]})


def test_concatenation_lies_side_by_side():
    parts = genes()
    fused = late_fusion(parts, method="concat")
    np.testing.assert_allclose(fused.X, np.hstack([p.X for p in parts.values()]), rtol=1e-6)
    assert fused.obs["pathway"].tolist() == parts["m0"].obs["pathway"].tolist()


@pytest.mark.parametrize("method", ["min", "mean", "median", "max"])
def test_cosine_matrices_are_combined_element_by_element(method, monkeypatch):
    monkeypatch.setattr("cellfuse.tl.fusion.ROWS", 7)
    parts = genes(widths=(6, 8, 4))
    fused = late_fusion(parts, method=method)
    expected = getattr(np, method)([cosine(p) for p in parts.values()], axis=0)
    np.testing.assert_allclose(fused.obsp["cosine"], expected, atol=1e-6)


def test_of_two_matrices_the_median_is_the_mean():
    mean, median = (late_fusion(genes(), method=m).obsp["cosine"] for m in ("mean", "median"))
    np.testing.assert_array_equal(mean, median)


def test_canonical_variates_are_scikit_learns():
    x, y = (p.X for p in genes(200).values())
    fit = fit_cca(x, y, n_components=2)
    theirs = CCA(n_components=2, max_iter=5000, tol=1e-10).fit(x, y).transform(x, y)
    ours = fit.transform(x, y)
    for a, b in zip(ours, theirs, strict=True):
        for j in range(2):
            assert abs(np.corrcoef(a[:, j], b[:, j])[0, 1]) == pytest.approx(1, abs=1e-4)
        np.testing.assert_allclose(np.cov(a.T), np.eye(2), atol=1e-9)
    found = [np.corrcoef(ours[0][:, j], ours[1][:, j])[0, 1] for j in range(2)]
    np.testing.assert_allclose(found, fit.correlations, atol=1e-9)


def test_the_sign_of_canonical_variates_is_settled():
    x, y = (p.X for p in genes(200).values())
    fit = fit_cca(x, y, n_components=6)
    loading = np.real(sqrtm(np.cov(x.T))) @ fit.weights_x
    assert (loading[np.abs(loading).argmax(axis=0), np.arange(6)] > 0).all()
    assert (fit.correlations > 0).all()


def test_cca_side_by_side_and_averaged():
    parts = genes()
    both = late_fusion(parts, method="cca_concat", n_components=2)
    mean = late_fusion(parts, method="cca_mean", n_components=2)
    np.testing.assert_allclose((both.X[:, :2] + both.X[:, 2:]) / 2, mean.X, atol=1e-6)
    assert (both.uns["late_fusion"]["correlations"] > 0.4).all()


def test_cca_warns_where_correlations_mean_nothing():
    parts = genes(12)
    with pytest.warns(UserWarning, match=r"12 profiles are fewer than the 6 \+ 8"):
        late_fusion(parts, method="cca_mean", n_components=2)
    shrunk = late_fusion(parts, method="cca_mean", n_components=2, eps=0.3)
    assert shrunk.uns["late_fusion"]["correlations"].max() < 1


@pytest.mark.parametrize("eps", [0.0, 0.3])
def test_variates_beyond_the_rank_are_refused(eps):
    parts = genes()
    parts["m0"].X[:, 1] = parts["m0"].X[:, 0]
    parts["m0"].X[:, 2] = 3.0
    arguments = {"method": "cca_mean", "eps": eps}
    with pytest.raises(ValueError, match="span 4 and 8 dimensions"):
        late_fusion(parts, n_components=5, **arguments)
    assert np.isfinite(late_fusion(parts, n_components=4, **arguments).X).all()


def test_every_metric_takes_a_fused_matrix():
    """A matrix of cosines gives what the vectors give."""
    guides = genes(60)["m0"]
    guides.obs["gene"] = [f"x{i // 3}" for i in range(60)]
    guides.obsp["cosine"] = cosine(guides)
    edges = pd.DataFrame({"source": ["g00", "g01"], "target": ["g10", "g11"]})
    for score, arguments in (
        (cf.tl.relationship_recall, {"pairs": PAIRS}),
        (cf.tl.edge_classification, {"edges": edges}),
        (cf.tl.guide_consistency, {"target_key": "gene", "control": None, "n_null": 500}),
    ):
        by_matrix = score(guides, **arguments, use_sim="cosine", n_boot=20)
        pd.testing.assert_frame_equal(by_matrix, score(guides, **arguments, n_boot=20))


def test_only_shared_profiles_are_fused():
    parts = genes()
    parts["m1"] = parts["m1"][5:][::-1].copy()
    with pytest.warns(UserWarning, match="5 of 60 profiles"):
        fused = late_fusion(parts, method="max")
    np.testing.assert_allclose(
        fused.obsp["cosine"],
        np.maximum(cosine(parts["m0"][5:]), cosine(parts["m1"][::-1])),
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"method": "sum"}, ValueError, "cca_concat"),
        ({"drop": "m1"}, ValueError, "two modalities or more, found 'm0'"),
        ({"widths": (4, 4, 4), "method": "cca_mean"}, ValueError, "CCA takes two"),
        ({"method": "cca_mean", "n_components": 7}, ValueError, "at most 6"),
        ({"method": "cca_mean", "eps": 1.0}, ValueError, "eps=1.0"),
        ({"rename": True}, ValueError, "no profile is in every modality"),
        ({"double": True}, ValueError, "'g00'"),
        ({"use_rep": "emb"}, KeyError, "'emb' is not in obsm"),
    ],
    ids=["method", "one", "three", "components", "eps", "names", "double", "rep"],
)
def test_bad_fusion_is_named(change, error, text):
    parts = genes(widths=change.pop("widths", (6, 8)))
    parts.pop(change.pop("drop", ""), None)
    if change.pop("rename", False):
        parts["m1"].obs_names = [f"x{i}" for i in range(60)]
    if change.pop("double", False):
        parts["m1"].obs_names = ["g00", *parts["m1"].obs_names[:-1]]
    with pytest.raises(error, match=text):
        late_fusion(parts, **{"method": "concat", **change})


def test_asymmetric_and_sparse_matrices_are_refused():
    from scipy import sparse

    adata = genes()["m0"]
    adata.obsp["sim"] = np.random.default_rng(0).normal(size=(60, 60))
    with pytest.raises(ValueError, match="not symmetric"):
        cf.tl.relationship_recall(adata, PAIRS, use_sim="sim")
    adata.obsp["sim"] = sparse.eye_array(60, format="csr")
    with pytest.raises(TypeError, match="sparse"):
        cf.tl.relationship_recall(adata, PAIRS, use_sim="sim")
    with pytest.raises(ValueError, match="not both"):
        cf.tl.relationship_recall(adata, PAIRS, use_sim="sim", use_rep="X")


# -- propensity matching --------------------------------------------------------------------------


def screen(n: int = 90, n_guides: int = 3) -> MuData:
    """The same cells twice: in both modalities a graded response to the guide."""
    rng = np.random.default_rng(0)
    guide = np.arange(n) % n_guides
    z = 2 * np.eye(n_guides)[guide] * rng.uniform(0, 2, (n, 1)) + 0.3 * rng.normal(
        size=(n, n_guides)
    )
    parts = {}
    for m in ("image", "rna"):
        x = z @ rng.normal(size=(n_guides, 5)) + 0.05 * rng.normal(size=(n, 5))
        parts[m] = ad.AnnData(
            x,
            obs=pd.DataFrame(
                {"guide": [f"g{i}" for i in guide]}, index=[f"{m}{i}" for i in range(n)]
            ),
            var=pd.DataFrame(index=[f"{m}f{j}" for j in range(5)]),
        )
    return MuData(parts)


ARGUMENTS = {"context_keys": "guide", "use_rep": None}


@pytest.mark.parametrize("method", ["ot", "snn"])
def test_matching_stays_within_perturbations_and_finds_the_twins(method):
    if method == "ot":
        pytest.importorskip("ot")
    mdata = screen()
    matching = propensity_matching(mdata, **ARGUMENTS, method=method, n_neighbors=5)
    guide = [mdata[m].obs["guide"].to_numpy() for m in ("image", "rna")]
    i, j = matching.nonzero()
    assert (guide[0][i] == guide[1][j]).all()
    total = np.asarray(matching.sum(axis=1)).ravel()
    np.testing.assert_allclose(total[total > 0], 1)
    # Cell i is the same in both: it gets far more than one thirtieth of its guide's cells.
    # (Shared neighbours see the direction of the logits alone, and find less.)
    assert matching.diagonal().mean() > {"ot": 4, "snn": 2}[method] / 30
    logits = mdata["image"].obsm["X_propensity"]
    assert logits.shape == (90, 3)
    np.testing.assert_allclose(logits.sum(axis=1), 0, atol=1e-4)


def test_units_of_the_features_do_not_matter_to_matching():
    arguments = {**ARGUMENTS, "method": "snn", "n_neighbors": 5}
    first = propensity_matching(screen(), **arguments)
    mdata = screen()
    mdata["rna"].X *= np.array([1e3, 1e-3, 1, 30, 1])
    np.testing.assert_allclose(
        propensity_matching(mdata, **arguments).toarray(), first.toarray(), atol=1e-6
    )


def test_cells_of_other_perturbations_stay_unmatched():
    mdata = screen()
    mdata["image"].obs.iloc[:2, 0] = "only here"
    matching = propensity_matching(mdata, **ARGUMENTS, method="snn", n_neighbors=5)
    assert matching[[0, 1]].nnz == 0
    assert np.isnan(mdata["image"].obsm["X_propensity"][:2]).all()


def test_shared_neighbours_by_hand():
    x = np.array([[1.0, 0.0], [0.0, 1.0]])
    y = np.array([[0.9, 0.1], [0.1, 0.9], [-1.0, 0.0]])
    found = shared_neighbours(x, y, k=1).toarray()
    # A twin shares its neighbours in both sets: 2 / (4 - 2). The third y is nearest to itself
    # among the y, and to the second x: 1 / (4 - 1), a quarter of that row.
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0.75, 0.25]])


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"method": "nn"}, ValueError, "snn"),
        ({"modalities": ("image", "rnaa")}, KeyError, "Did you mean 'rna'"),
        ({"modalities": ("image", "image")}, ValueError, "two modalities are matched"),
        ({"context_keys": "gide"}, KeyError, "Did you mean 'guide'"),
        ({"eps": 0}, ValueError, "eps > 0"),
        ({"rename": True}, ValueError, "0 perturbations by 'guide' are in both"),
    ],
    ids=["method", "modality", "same", "key", "eps", "labels"],
)
def test_bad_matching_is_named(change, error, text):
    mdata = screen()
    if change.pop("rename", False):
        mdata["rna"].obs["guide"] = "x" + mdata["rna"].obs["guide"].astype(str)
    with pytest.raises(error, match=text):
        propensity_matching(mdata, **{**ARGUMENTS, "method": "snn", **change})
