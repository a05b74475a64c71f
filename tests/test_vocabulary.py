"""One vocabulary in every public signature, and old names that still work and say so."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse._counts import COUNTS, whole_counts
from cellfuse._renamed import renamed

ROOT = Path(__file__).resolve().parents[1]

#: What an argument is not called, and what it is.
SETTLED = {
    "target": "by",
    "positives_by": "by",
    "groupby": "by",
    "group_by": "by",
    "use_rep_b": "use_rep takes a dict or a pair",
    "synthetic_rep": "use_rep takes a dict or a pair",
    "top_k": "k",
    "n_runs": "n_draws",
    "n_seeds": "n_draws",
    "repeats": "n_draws",
    "draws": "n_draws",
    "validation": "val",
    "warmup_epochs": "warmup",
    "rna_counts": "rna_likelihood",
    "epsilon": "eps",
    "regularization": "eps",
    "shrinkage": "eps",
}
#: Columns of a table of pairs are named `source` and `target`.
EXCEPT = {("map_contexts", "target")}
#: Tables that are made of other tables.
UNKEPT = {"tl.compare", "tl.find_concepts"}
MODELS = [name for name in cf.__all__ if hasattr(getattr(cf, name), "get_latent_representation")]


def functions():
    """Name and callable of everything that a user can call with arguments."""
    for room in ("pp", "tl", "pl", "io", "datasets", "bench"):
        module = getattr(cf, room)
        for name in module.__all__:
            found = getattr(module, name)
            if callable(found):
                yield f"{room}.{name}", found


def methods():
    for model in MODELS:
        for name, found in inspect.getmembers(getattr(cf, model), callable):
            # What scvi-tools gives every model, this library does not name.
            own = getattr(found, "__module__", "") or ""
            if own.startswith("cellfuse") and (name == "__init__" or not name.startswith("_")):
                yield f"{model}.{name}", found


def unsettled(name, function):
    last = name.rpartition(".")[2]
    return {
        argument: SETTLED[argument]
        for argument in inspect.signature(function).parameters
        if argument in SETTLED and (last, argument) not in EXCEPT
    }


FUNCTIONS = dict(functions())


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_have_the_settled_names(name):
    assert unsettled(name, FUNCTIONS[name]) == {}


def test_arguments_of_models_have_the_settled_names():
    assert len(MODELS) > 7
    found = {name: wrong for name, m in methods() if (wrong := unsettled(name, m))}
    assert found == {}


def test_an_unsettled_name_is_found():
    def score(profiles, *, top_k=5, by="gene"): ...

    assert unsettled("tl.score", score) == {"top_k": "k"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_intervals_rest_on_a_thousand_replicates(name):
    arguments = inspect.signature(FUNCTIONS[name]).parameters
    if "n_boot" in arguments:
        assert arguments["n_boot"].default == 1000


def test_every_table_is_kept_under_a_key_that_the_plot_looks_at():
    keys = {}
    for name, function in FUNCTIONS.items():
        arguments = inspect.signature(function).parameters
        returned = inspect.signature(function).return_annotation
        if name.startswith("tl.") and returned == "pd.DataFrame" and name not in UNKEPT:
            keys[name] = arguments["key_added"].default
            assert keys[name] == name.removeprefix("tl.")
    assert len(keys) > 8
    for name in ("guide_consistency", "fidelity", "real_vs_synthetic"):
        drawn = inspect.signature(getattr(cf.pl, name)).parameters["key"].default
        assert drawn == inspect.signature(getattr(cf.tl, name)).parameters["key_added"].default
    assert inspect.signature(cf.pl.roc).parameters["key"].default == keys["tl.edge_classification"]


def test_settings_of_a_run_have_the_settled_names():
    fields = {field.name for field in dataclasses.fields(cf.bench.Settings)}
    assert fields & SETTLED.keys() == set()


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted((ROOT / "docs" / "user_guide").glob("*.md"))]
    + sorted((ROOT / "tutorials").glob("*.ipynb")),
    ids=lambda path: path.name,
)
def test_pages_use_the_settled_names(path):
    names = [name for name in SETTLED if name != "target"]  # a column of pairs is called so
    found = re.findall(rf"\b({'|'.join(names)})=", path.read_text())
    assert found == []


# -- what a key does -------------------------------------------------------------------------------


def profiles(n_genes=24, n_guides=3, name=""):
    rng = np.random.default_rng(0)
    gene = np.repeat([f"g{i:02}" for i in range(n_genes)], n_guides)
    obs = pd.DataFrame({"gene": gene}, index=[f"{name}{g}-{i}" for i, g in enumerate(gene)])
    return ad.AnnData(rng.normal(size=(len(gene), 8)), obs=obs)


def genes():
    found = profiles(n_guides=1)
    found.obs_names = found.obs["gene"].tolist()
    return found


PAIRS = pd.DataFrame({"source": ["g00", "g02"], "target": ["g01", "g03"]})
CALLS = {
    "guide_consistency": lambda a, **k: cf.tl.guide_consistency(
        a, target_key="gene", control=None, n_null=20, **k
    ),
    "perturbation_consistency": lambda a, **k: cf.tl.perturbation_consistency(
        a, by="gene", control=None, n_null=20, **k
    ),
    "perturbation_magnitude": lambda a, **k: cf.tl.perturbation_magnitude(
        a, by="gene", control="g00", min_replicates=2, n_null=20, **k
    ),
    "mean_average_precision": lambda a, **k: cf.tl.mean_average_precision(
        a, by="gene", n_null=20, **k
    ),
    "edge_classification": lambda a, **k: cf.tl.edge_classification(a, PAIRS, **k),
    "relationship_recall": lambda a, **k: cf.tl.relationship_recall(a, PAIRS, **k),
    "one_shot_transfer": lambda a, **k: cf.tl.one_shot_transfer(a, use_rep=None, by="gene", **k),
    "knn_accuracy": lambda a, **k: cf.tl.knn_accuracy(a, use_rep=None, by="gene", **k),
    "retrieval": lambda a, **k: cf.tl.retrieval(a, profiles(name="b"), "gene", use_rep=None, **k),
    "fidelity": lambda a, **k: cf.tl.fidelity(profiles(), a, "gene", **k),
    "target_discovery": lambda a, **k: cf.tl.target_discovery(a, genes(), PAIRS, **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_table_is_kept_where_it_is_asked_for(name):
    one_row_each = name in ("edge_classification", "relationship_recall", "target_discovery")
    data = genes() if one_row_each else profiles()
    CALLS[name](data, n_boot=2, key_added="mine")
    assert list(data.uns) == ["mine"]
    kept = data.uns["mine"]
    assert isinstance(kept.get("table", kept.get("summary")), pd.DataFrame)
    with pytest.raises(ValueError, match="key_added='a/b': expected a name without '/'"):
        CALLS[name](data, n_boot=2, key_added="a/b")


def test_both_sides_have_a_representation_of_their_own():
    a, b = profiles(name="a"), profiles(name="b")
    a.obsm["X_a"], b.obsm["X_b"] = np.asarray(a.X), np.asarray(b.X)[::-1].copy()
    call = {"by": "gene", "n_boot": 0}
    pair = cf.tl.retrieval(a, b, use_rep=("X_a", "X_b"), **call)
    named = cf.tl.retrieval(a, b, use_rep={"b": "X_b", "a": "X_a"}, **call)
    pd.testing.assert_frame_equal(pair, named)
    assert pair.loc[("a to b", "top1"), "value"] < 1
    assert cf.tl.retrieval(a, b, use_rep=("X_a", None), **call)["value"].iloc[0] == 1
    with pytest.raises(ValueError, match="two .a and b."):
        cf.tl.retrieval(a, b, use_rep=("X_a",), **call)
    with pytest.raises(KeyError, match="'b' is not in the dict given as `use_rep`"):
        cf.tl.retrieval(a, b, use_rep={"a": "X_a"}, **call)


def test_neighbours_differ_in_every_column_of_group_key():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "moa": np.repeat(list("xyz"), 8),
            "compound": np.repeat([f"c{i}" for i in range(6)], 4),
            "batch": np.tile(["1", "2"], 12),
        },
        index=[f"r{i}" for i in range(24)],
    )
    adata = ad.AnnData(rng.normal(size=(24, 6)), obs=obs)
    unit = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for column in ("compound", "batch"):
        cosine[obs[column].to_numpy()[:, None] == obs[column].to_numpy()] = -9
    right = obs["moa"].to_numpy()[cosine.argmax(axis=1)] == obs["moa"].to_numpy()
    wanted = pd.Series(right).groupby(obs["moa"].to_numpy()).mean().mean()
    call = {"use_rep": None, "by": "moa", "k": 1, "n_boot": 0}
    found = cf.tl.knn_accuracy(adata, group_key=["compound", "batch"], **call)
    assert found["accuracy"].iloc[0] == pytest.approx(wanted)
    # One draw of references: those that share either column with a profile are out of the race.
    one = cf.tl.one_shot_transfer(
        adata, use_rep=None, by="moa", k=3, group_key=["compound", "batch"], n_boot=0
    )
    assert one["n_queries"].iloc[0] == pytest.approx(3 * 2, abs=1e-9)  # of 8, 2 share neither


# -- old names -------------------------------------------------------------------------------------


@renamed(top_k="k", second_of={"use_rep_b": "use_rep"})
def first(values, k=1, *, use_rep=None):
    return values[:k], use_rep


def test_an_old_name_works_and_warns_at_the_line_of_the_call():
    with pytest.warns(FutureWarning, match=r"first\(top_k=...\) is now called `k`") as said:
        assert first([1, 2, 3], top_k=2) == ([1, 2], None)
    assert said[0].filename == __file__


def test_new_names_are_silent_and_alone_in_the_signature():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert first([1, 2, 3], 2) == ([1, 2], None)
    assert list(inspect.signature(first).parameters) == ["values", "k", "use_rep"]


def test_an_old_name_beside_its_new_one_is_refused():
    for arguments in (([1], 2), ([1],)):
        new = {} if len(arguments) == 2 else {"k": 2}
        with pytest.raises(TypeError, match="both `k` and its old name `top_k`"):
            first(*arguments, top_k=2, **new)


def test_the_old_second_side_becomes_a_pair():
    with pytest.warns(FutureWarning, match=r"`use_rep=\(a, b\)`"):
        assert first([1], use_rep="X", use_rep_b="Y") == ([1], ("X", "Y"))
    with pytest.warns(FutureWarning):
        assert first([1], use_rep="X", use_rep_b=None) == ([1], "X")


def test_an_unknown_argument_is_an_error_as_ever():
    with pytest.raises(TypeError, match="unexpected keyword argument 'topk'"):
        first([1], topk=2)


def test_old_calls_give_what_the_new_ones_give():
    data = profiles()
    new = cf.tl.one_shot_transfer(data, use_rep=None, by="gene", n_draws=3, n_boot=0)
    with pytest.warns(FutureWarning):
        old = cf.tl.one_shot_transfer(data, use_rep=None, target="gene", n_runs=3, n_boot=0)
    pd.testing.assert_frame_equal(new, old)


def test_synthetic_profiles_in_x_are_found_as_they_were_with_a_warning():
    real, synthetic = profiles(), profiles(name="s")
    real.obsm["X_rna"] = np.asarray(real.X)
    new = cf.tl.fidelity(real, synthetic, "gene", use_rep=("X_rna", None), n_boot=0)
    with pytest.warns(FutureWarning, match=r"use_rep=\('X_rna', None\)"):
        old = cf.tl.fidelity(real, synthetic, "gene", use_rep="X_rna", n_boot=0)
    pd.testing.assert_frame_equal(new, old)


# -- counts ----------------------------------------------------------------------------------------

COUNTED = [
    (function, name)
    for path, function in FUNCTIONS.items()
    if path.startswith("tl.")
    for name in inspect.signature(function).parameters
    if name in COUNTS
]


@pytest.mark.parametrize(
    ("function", "name"), COUNTED, ids=lambda each: getattr(each, "__name__", each)
)
@pytest.mark.parametrize("value", [2.5, -1, True, "10", float("nan"), float("inf")])
def test_a_count_that_is_none_is_refused_by_its_name_in_every_verb(function, name, value):
    with pytest.raises(ValueError, match=rf"^{name}={re.escape(repr(value))}: expected a whole"):
        function(**{name: value})


def test_counts_are_what_scipy_and_json_make_of_them():
    @whole_counts
    def given(*, n_null=None, n_boot=1000):
        return n_null, n_boot

    assert given(n_null=1e3, n_boot=np.int64(0)) == (1000, 0)
    assert given(n_null=None) == (None, 1000)
    assert all(type(n) is int for n in given(n_null=np.float32(5), n_boot=2.0))
    assert len(COUNTED) > 20
