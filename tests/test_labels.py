"""One rule for labels, in every verb: numbers, words, categories, scalars and what is missing."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse._access import context_labels
from cellfuse._labels import label_list, label_text, text_of
from cellfuse._provenance import as_json

# -- the rule -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7157, "7157"),
        (7157.0, "7157"),
        ("7157.0", "7157"),
        (np.int8(3), "3"),
        (np.float32(3), "3"),
        (np.float32(0.3), "0.3"),
        (-0.0, "0"),
        (1e16, "10000000000000000"),
        (0.25, "0.25"),
        (np.str_("NTC"), "NTC"),
        (b"NTC", "NTC"),
        (True, "True"),
        (np.True_, "True"),
        ("v1.0", "v1.0"),
        ("01.0", "01.0"),
        ("nan", "nan"),
        (float("inf"), "inf"),
    ],
)
def test_a_label_is_text_and_a_whole_number_has_no_point(value, text):
    assert text_of(value) == text


def test_what_is_missing_stays_missing_and_a_name_stays_a_name():
    column = pd.Series([1, None, np.nan, pd.NA, pd.NaT, "nan", "None", 1.0], dtype=object)
    assert label_text(column).tolist() == ["1", None, None, None, None, "nan", "None", "1"]


def test_true_and_one_are_two_labels():
    assert label_text(pd.Series([True, 1, 1.0], dtype=object)).tolist() == ["True", "1", "1"]


def test_a_list_is_no_label_and_the_error_names_the_column():
    adata = ad.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"g": [["a"], ["b"]]}, index=list("xy")))
    with pytest.raises(TypeError, match=r"obs\['g'\] holds no labels.*found a list: \['a'\]"):
        context_labels(adata, "g")


def test_a_column_that_is_there_twice_is_refused_where_it_is_asked_for():
    obs = pd.DataFrame({"a": [1, 2], "b": [1, 2]}, index=["x", "y"])
    adata = ad.AnnData(np.ones((2, 1)), obs=obs)
    adata.obs.columns = ["gene", "gene"]
    with pytest.raises(ValueError, match="obs has 2 columns named 'gene'"):
        context_labels(adata, "gene")


def test_a_missing_label_is_asked_for_by_nobody():
    with pytest.raises(ValueError, match=r"`control` holds a missing label .nan.*dropna"):
        label_list(np.array(["NTC", np.nan], dtype=object))


def test_arguments_are_noted_whatever_holds_them():
    given = {"a": np.array(["x", "y"]), "b": {"q", "p"}, "c": np.int64(3), "d": pd.Index([1, 2])}
    assert as_json(given) == '{"a": ["x", "y"], "b": ["p", "q"], "c": 3, "d": [1, 2]}'


# -- in every verb: how a column is stored --------------------------------------------------------

NUMBER = np.repeat(np.arange(24), 3)
STORED = {
    "integers": NUMBER,
    "floats": NUMBER.astype(float),
    "float32": NUMBER.astype(np.float32),
    "nullable": pd.array(NUMBER, dtype="Int64"),
    "nullable floats": pd.array(NUMBER.astype(float), dtype="Float64"),
    "categories": pd.Categorical(NUMBER),
    "categories of floats": pd.Categorical(NUMBER.astype(float)),
    "categories of texts": pd.Categorical(NUMBER.astype(str)),
    "texts": NUMBER.astype(str).astype(object),
    "texts of floats": NUMBER.astype(float).astype(str).astype(object),
    "mixed": np.array([float(n) if n % 2 else int(n) for n in NUMBER], dtype=object),
    "scalars": np.array([np.int16(n) for n in NUMBER], dtype=object),
}


def wells(labels, name=""):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"dose": labels}, index=[f"{name}{i:03}" for i in range(len(NUMBER))])
    return ad.AnnData(rng.normal(size=(len(NUMBER), 8)).astype(np.float32), obs=obs)


def per_label(labels):
    return wells(labels)[::3].copy()


PAIRS = pd.DataFrame({"source": np.arange(1, 23, 2), "target": np.arange(2, 24, 2).astype(float)})
MEMBERS = pd.DataFrame({"source": [1, 2.0, 5], "target": ["a", "a", "b"]})
FEW = {"n_null": 20, "n_boot": 0}
NONE = {"use_rep": None, "n_boot": 0}


def scaled(labels):
    a = wells(labels)
    a.obsm["Z"] = a.X.copy()
    cf.pp.center_scale(a, use_rep="Z", control_key="dose", control=0)
    return pd.DataFrame(a.obsm["Z"])


def mapped(labels):
    a = wells(labels)
    cf.pp.map_contexts(a, MEMBERS, by="dose")
    return pd.DataFrame(a.obsm["topics"].toarray())


def active(labels):
    scores = pd.DataFrame({"qvalue": [0.01, 0.02, 0.9]}, index=[1.0, 2.0, 3.0])
    return pd.DataFrame(cf.pp.filter_active(wells(labels), scores, by="dose", keep=0).X)


def divided(labels):
    return cf.tl.split(wells(labels), by="dose", control=0).to_frame()


def told(labels):
    import mudata

    a = wells(labels)
    a.obs["part"] = np.tile([0.0, 1.0, 2.0], 24)
    a.obs["drug"] = np.array(a.obs["dose"], dtype=object)
    return cf.tl.classify_treatments(
        mudata.MuData({"image": a}),
        "drug",
        [["image"]],
        split_key="part",
        train=0,
        val=1,
        control=[0],
        setting="small",
        seeds=[0],
        max_epochs=1,
    )


def asked(labels):
    a = wells(labels)
    a.obs["part"] = np.tile([0, 0, 1], 24)
    return cf.tl.knn_accuracy(
        a, by="dose", k=3, split_key="part", train=0, test=1.0, control=0, **NONE
    )


VERBS = {
    "aggregate": lambda x: cf.tl.aggregate(wells(x), by="dose", use_rep=None).to_df(),
    "within": lambda x: cf.tl.aggregate(wells(x), by="dose", within="dose", use_rep=None).to_df(),
    "guide_consistency": lambda x: cf.tl.guide_consistency(
        wells(x), target_key="dose", control=0, **FEW
    ),
    "perturbation_consistency": lambda x: cf.tl.perturbation_consistency(
        wells(x), by="dose", control=0.0, null_labels=[1, 2], **FEW
    ),
    "perturbation_magnitude": lambda x: cf.tl.perturbation_magnitude(
        wells(x), by="dose", control="0", min_replicates=2, **FEW
    ),
    "mean_average_precision": lambda x: cf.tl.mean_average_precision(
        wells(x), by="dose", control=np.int64(0), **FEW
    ),
    "edge_classification": lambda x: cf.tl.edge_classification(
        per_label(x), PAIRS, gene_key="dose", control=0, n_boot=0
    ),
    "relationship_recall": lambda x: cf.tl.relationship_recall(
        per_label(x), PAIRS, gene_key="dose", control=0, n_boot=0
    ),
    "target_discovery": lambda x: cf.tl.target_discovery(
        *(per_label(x), per_label(x), PAIRS),
        compound_key="dose",
        gene_key="dose",
        n_draws=2,
        n_boot=0,
    ),
    "knn_accuracy": asked,
    "one_shot_transfer": lambda x: cf.tl.one_shot_transfer(
        wells(x), by="dose", n_draws=2, control=0, **NONE
    ),
    "retrieval": lambda x: cf.tl.retrieval(wells(x), wells(NUMBER, "b"), "dose", **NONE),
    "fidelity": lambda x: cf.tl.fidelity(wells(x), wells(NUMBER, "b"), "dose", n_boot=0),
    "classify_treatments": told,
    "split": divided,
    "filter_active": active,
    "map_contexts": mapped,
    "center_scale": scaled,
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_gives_the_same_however_its_labels_are_stored(verb):
    wanted = VERBS[verb](STORED["integers"])
    for kind, labels in STORED.items():
        found = VERBS[verb](labels)
        pd.testing.assert_frame_equal(found, wanted, obj=f"{verb} of {kind}")


def test_modalities_meet_however_their_doses_are_stored():
    words = np.array([1.0, 10.0, 0.3, "vehicle"], dtype=object)
    stored = {
        "whole": np.array([1, 10, 0.3, "vehicle"], dtype=object),
        "texts": np.array(["1", "10", "0.3", "vehicle"], dtype=object),
        "texts of floats": np.array(["1.0", "10.0", "0.3", "vehicle"], dtype=object),
        "categories": pd.Categorical(["1.0", "10.0", "0.3", "vehicle"]),
    }

    def cells(name, doses):
        obs = pd.DataFrame({"dose": doses}, index=[f"{name}{i}" for i in range(4)])
        var = pd.DataFrame(index=[f"{name}v0", f"{name}v1"])
        return ad.AnnData(np.ones((4, 2), np.float32), obs=obs, var=var)

    for kind, doses in stored.items():
        parts = {"image": cells("i", words), "rna": cells("r", doses)}
        _, report = cf.io.join(**parts, context_keys="dose", verbose=False)
        assert len(report.shared) == 4, kind
        contexts = cf.data.Contexts.from_modalities(parts, "dose")
        assert sorted(contexts.names) == ["0.3", "1", "10", "vehicle"], kind


# -- in every verb: how a user names controls -----------------------------------------------------


def named():
    label = np.repeat([f"NT_{i}" for i in range(3)] + [f"G{i}" for i in range(21)], 3)
    return wells(label)


HELD = {
    "array": np.array,
    "object array": lambda x: np.array(x, dtype=object),
    "index": pd.Index,
    "series": pd.Series,
    "categories": lambda x: pd.Series(pd.Categorical(x)).unique(),
    "set": set,
    "tuple": tuple,
    "keys": lambda x: dict.fromkeys(x).keys(),
    "scalars": lambda x: [np.str_(label) for label in x],
}
GENES = pd.DataFrame({"source": [f"G{i}" for i in range(0, 20, 2)]}).assign(
    target=[f"G{i}" for i in range(1, 20, 2)]
)


def one_each():
    a = named()[::3].copy()
    a.obs_names = a.obs["dose"].tolist()
    return a


def many():
    """Cells enough for a mixture, at several doses."""
    parts = [named() for _ in range(4)]
    cells = ad.concat(dict(enumerate(parts)), index_unique="-")
    cells.obs["amount"] = np.repeat([1, 3, 10, 30], 72)
    return cells


def paired():
    cells = named()
    cells.obs["dose"] = cells.obs["dose"].astype(object).replace({"G2": "G0+G1"})
    return cells


CONTROLS = {
    "guide_consistency": lambda c: cf.tl.guide_consistency(
        named(), target_key="dose", control=c, **FEW
    ),
    "perturbation_consistency": lambda c: cf.tl.perturbation_consistency(
        named(), by="dose", control=c, **FEW
    ),
    "null_labels": lambda c: cf.tl.perturbation_consistency(
        named(), by="dose", control=None, null_labels=c, **FEW
    ),
    "mean_average_precision": lambda c: cf.tl.mean_average_precision(
        named(), by="dose", control=c, **FEW
    ),
    "perturbation_magnitude": lambda c: cf.tl.perturbation_magnitude(
        named(), by="dose", control=c, min_replicates=2, **FEW
    ),
    "edge_classification": lambda c: cf.tl.edge_classification(
        one_each(), GENES, control=c, n_boot=0
    ),
    "relationship_recall": lambda c: cf.tl.relationship_recall(
        one_each(), GENES, control=c, n_boot=0
    ),
    "target_discovery": lambda c: cf.tl.target_discovery(
        one_each(), one_each(), GENES, control=c, n_draws=2, n_boot=0
    ),
    "knn_accuracy": lambda c: cf.tl.knn_accuracy(named(), by="dose", k=3, control=c, **NONE),
    "one_shot_transfer": lambda c: cf.tl.one_shot_transfer(
        named(), by="dose", n_draws=2, control=c, **NONE
    ),
    "hits": lambda c: cf.tl.hits(named(), by="dose", control=c, n_null=50),
    "responders": lambda c: cf.tl.responders(many(), by="dose", control=c, min_cells=10),
    "dose_response": lambda c: cf.tl.dose_response(many(), by="dose", dose_key="amount", control=c),
    "combinations": lambda c: cf.tl.combinations(paired(), by="dose", control=c, n_null=20),
    "nearest_perturbations": lambda c: cf.tl.nearest_perturbations(one_each(), control=c, k=2),
    "split": lambda c: cf.tl.split(named(), by="dose", control=c).to_frame(),
    "filter_active": lambda c: pd.DataFrame(
        cf.pp.filter_active(
            named(), pd.DataFrame({"qvalue": [0.0]}, index=["G1"]), by="dose", keep=c
        ).X
    ),
}


@pytest.mark.parametrize("verb", CONTROLS)
def test_controls_are_named_in_whatever_pandas_gives(verb):
    labels = [f"NT_{i}" for i in range(3)]
    wanted = CONTROLS[verb](labels)
    for kind, held in HELD.items():
        found = CONTROLS[verb](held(labels))
        pd.testing.assert_frame_equal(found, wanted, obj=f"{verb} of {kind}")


@pytest.mark.parametrize("held", HELD)
def test_scaling_takes_controls_in_whatever_pandas_gives(held, tmp_path):
    a = named()
    a.obsm["Z"] = np.asarray(a.X, dtype=np.float64)
    labels = HELD[held]([f"NT_{i}" for i in range(3)])
    for number, verb in enumerate((cf.pp.center_scale, cf.pp.robust_center_scale)):
        verb(a, use_rep="Z", control_key="dose", control=labels, key_added=f"Z{number}")
    a.obsm["Z"] = a.obsm["Z"][:, :2].copy()
    cf.pp.whiten(a, use_rep="Z", control_key="dose", fit_on=labels, key_added="W")
    a.write_h5ad(tmp_path / "a.h5ad")  # what was noted can be written
    assert np.abs(a.obsm["Z0"][:9].mean(axis=0)).max() < 1e-6


@pytest.mark.parametrize("verb", CONTROLS)
def test_no_control_at_all_is_said_by_none(verb):
    wanted = "`(control|null_labels)` holds no label|control=.*name their label"
    if verb == "filter_active":  # what is kept beside the active may be nothing
        return
    with pytest.raises(ValueError, match=wanted):
        CONTROLS[verb](np.array([], dtype=object))


# -- rows named by floats, columns named in containers --------------------------------------------


def numbered(names):
    rng = np.random.default_rng(0)
    return ad.AnnData(rng.normal(size=(24, 6)), obs=pd.DataFrame(index=names))


ROWS_NAMED = {
    "edge_classification": lambda a: cf.tl.edge_classification(a, PAIRS, control=0, n_boot=0),
    "relationship_recall": lambda a: cf.tl.relationship_recall(a, PAIRS, control=[0.0], n_boot=0),
    "nearest_perturbations": lambda a: cf.tl.nearest_perturbations(a, [3, 4.0], control=0, k=2),
    "target_discovery": lambda a: cf.tl.target_discovery(
        a, numbered([f"{i}" for i in range(24)]), PAIRS, n_draws=2, n_boot=0
    ),
    "similarity_density": lambda a: cf.tl.similarity_density(
        *(a, numbered([f"{i}" for i in range(24)]), a.copy()), n_bins=4
    ),
}


@pytest.mark.parametrize("verb", ROWS_NAMED)
def test_rows_named_by_floats_are_the_numbers_that_they_are(verb):
    wanted = ROWS_NAMED[verb](numbered([f"{i}" for i in range(24)]))
    found = ROWS_NAMED[verb](numbered([f"{i}.0" for i in range(24)]))
    pd.testing.assert_frame_equal(found, wanted)


def test_tables_of_float_labels_meet_sets_and_other_tables():
    table = pd.DataFrame({"hit": [True, False] * 6}, index=np.arange(12.0))
    sets = pd.DataFrame({"source": "s", "target": [0, 2, "4.0", 1, 3]})
    found = cf.tl.enrich(table, sets)
    assert found["n_genes"].tolist() == [5] and found["hits"].tolist() == ["0, 2, 4"]
    scores = pd.DataFrame({"similarity": np.arange(12.0)}, index=np.arange(12))
    moved = scores.set_axis(np.arange(12.0)) + 1
    assert cf.tl.compare(moved, scores)["n"].tolist() == [12]
    ends = pd.DataFrame({"source": np.arange(12), "target": np.arange(1, 13), "similarity": 1.0})
    assert cf.tl.compare(ends, ends.astype(float))["n"].tolist() == [12]


def drawn_by_number(labels):
    """What is drawn of two perturbations that are named by number."""
    cells = ad.concat([wells(labels)] * 4, index_unique="-")
    cells.X = cells.X + np.random.default_rng(0).normal(size=cells.shape)
    cells.obs["amount"] = np.repeat([1, 3, 10, 30], 72)
    cf.tl.responders(cells, by="dose", control=0, min_cells=10)
    yield cf.pl.responders(cells, names=[3.0, 4])
    cf.tl.dose_response(cells, by="dose", dose_key="amount", control=0)
    yield from cf.pl.dose_response(cells, names=[3.0, 4])
    cf.tl.mean_average_precision(cells, by="dose", control=None, **FEW)
    yield cf.pl.mean_average_precision(cells, names=[3.0, 4])
    cf.tl.perturbation_consistency(cells, by="dose", control=None, **FEW)
    yield cf.pl.perturbation_consistency(cells, names=np.array([3.0, 4]))
    cf.tl.hits(cells, by="dose", control=0, n_null=20)
    yield cf.pl.hits(cells, names=pd.Index([3.0, 4]))
    profiles = cf.tl.aggregate(cells, by="dose", use_rep=None)
    cf.tl.nearest_perturbations(profiles, k=2)
    yield cf.pl.nearest_perturbations(profiles, 3.0)
    joint = cf.tl.real_vs_synthetic(cells, cells.copy(), "dose", treatments=[3.0, 4])
    yield cf.pl.real_vs_synthetic(joint, inset=None)


def test_figures_name_what_they_draw_by_the_rule_as_well():
    import matplotlib.pyplot as plt

    def points(axes):
        return [
            sum(len(c.get_offsets()) for c in a.collections if len(c.get_offsets())) for a in axes
        ]

    wanted = points(drawn_by_number(STORED["integers"]))
    assert points(drawn_by_number(STORED["categories of floats"])) == wanted
    plt.close("all")


def test_neighbours_of_several_parts_of_a_split():
    cells = plated()
    both = cf.tl.knn_accuracy(
        cells, by="dose", k=2, split_key="plate", train=["a", "b"], test="c", **NONE
    )
    joined = plated()
    joined.obs["plate"] = joined.obs["plate"].replace({"b": "a"})
    wanted = cf.tl.knn_accuracy(
        joined, by="dose", k=2, split_key="plate", train="a", test=["c"], **NONE
    )
    pd.testing.assert_frame_equal(both, wanted)


def plated():
    """Genes in three plates, two guides of each in every plate."""
    cells = ad.concat([named(), named()], index_unique="-")
    cells.X = cells.X + np.random.default_rng(1).normal(size=cells.shape).astype(np.float32)
    cells.obs["plate"] = np.tile(["a", "b", "c"], 48)
    return cells


def by_plate(plate):
    one_a_plate = plated()[:72].copy()
    return cf.tl.edge_classification(
        one_a_plate, GENES, gene_key="dose", background_key=plate, n_boot=0
    )


def of_two(plate):
    import mudata

    parts = {"image": plated(), "rna": plated()}
    parts["rna"].obs_names = "r" + parts["rna"].obs_names
    parts["rna"].var_names = "r" + parts["rna"].var_names
    return cf.tl.alignment(mudata.MuData(parts), by=plate, use_rep="X", n_boot=0, n_draws=5)


COLUMNS = {
    "hits": lambda plate: cf.tl.hits(
        plated(), by="dose", control="NT_0", batch_key=plate, n_null=20
    ),
    "knn_accuracy": lambda plate: cf.tl.knn_accuracy(
        plated(), by="dose", k=2, group_key=plate, **NONE
    ),
    "guide_consistency": lambda plate: cf.tl.guide_consistency(
        plated(), target_key="dose", control="NT_0", background_key=plate, n_null=5, n_boot=0
    ),
    "edge_classification": by_plate,
    "alignment": of_two,
}


@pytest.mark.parametrize("verb", COLUMNS)
@pytest.mark.parametrize("held", [list, tuple, pd.Index, np.array], ids=lambda kind: kind.__name__)
def test_a_column_is_named_in_whatever_pandas_gives(verb, held):
    found = COLUMNS[verb](held(["plate"]))
    pd.testing.assert_frame_equal(found, COLUMNS[verb]("plate"))


def test_several_columns_where_one_is_meant_are_told():
    with pytest.raises(
        ValueError, match=r"`by` names one obs column, found 2: \['dose', 'plate'\]"
    ):
        cf.tl.hits(plated(), by=["dose", "plate"], control="NT_0")


# -- other columns, and keys ----------------------------------------------------------------------


def test_other_columns_of_any_kind_hurt_nobody(tmp_path):
    x = np.arange(8, dtype=np.float32).reshape(4, 2)
    obs = pd.DataFrame(
        {
            "gene": list("aabb"),
            "lists": [["g1", "g2"], ["g1"], ["g3"], ["g3"]],
            "arrays": [np.arange(2)] * 4,
            "dicts": [{}] * 4,
            "p": [1, 1, 2, 2],
            "q": [1, 1, 2, 2],
            "kept": [5, 5, 6, 6],
        },
        index=list("wxyz"),
    )
    cells = ad.AnnData(x, obs=obs)
    cells.obs.columns = ["gene", "lists", "arrays", "dicts", "plate", "plate", "kept"]
    profiles = cf.tl.aggregate(cells, by="gene", use_rep=None)
    assert profiles.X.tolist() == [[1, 2], [5, 6]]
    assert profiles.obs["kept"].tolist() == [5, 6]
    profiles.write_h5ad(tmp_path / "profiles.h5ad")
    with pytest.raises(ValueError, match="2 columns named 'plate'"):
        cf.tl.aggregate(cells, by="plate", use_rep=None)


def test_columns_that_stand_twice_hurt_no_verb_that_does_not_name_them():
    def doubled():
        cells = plated()
        cells.obs["again"] = cells.obs["plate"]
        cells.obs.columns = ["dose", "plate", "plate"]
        cells.obsm["Z"] = cells.X.astype(np.float64)
        return cells

    few = ["NT_0", "NT_1"]  # why there are few directions is looked for in the columns
    with pytest.warns(UserWarning, match="few rows"):
        cf.pp.sphere(doubled(), use_rep="Z", control_key="dose", control=few)
    with pytest.warns(UserWarning, match="few rows"):
        cf.pp.whiten(doubled(), use_rep="Z", control_key="dose", fit_on=few)
    some = {"n_null": 5, "n_boot": 0}
    cf.tl.guide_consistency(doubled(), target_key="dose", control="NT_0", **some)
    cf.tl.knn_accuracy(doubled(), by="dose", control="NT_0", k=2, **NONE)
    scores = pd.DataFrame({"qvalue": [0.0]}, index=["G1"])
    with pytest.raises(ValueError, match="several columns named 'plate'.*drop all but one"):
        cf.pp.filter_contexts(doubled(), context_keys="dose", min_cells=2)
    with pytest.raises(ValueError, match="several columns named 'plate'.*drop all but one"):
        cf.pp.filter_active(doubled(), scores, by="dose")


KEYED = {
    "identify_compounds": lambda a, k: cf.pp.identify_compounds(a, "smiles", key_added=k),
    "map_contexts": lambda a, k: cf.pp.map_contexts(a, MEMBERS, by="dose", key_added=k),
    "whiten": lambda a, k: cf.pp.whiten(a, use_rep="Z", key_added=k),
    "embed_pca": lambda a, k: cf.pp.embed_pca(a, key_added=k),
    "select_features": lambda a, k: cf.pp.select_features(a, key_added=k),
    "split": lambda a, k: cf.tl.split(a, by="dose", key_added=k),
    "fingerprints": lambda a, k: cf.pp.fingerprints(a, "smiles", key_added=k),
    "join": lambda a, k: cf.io.join(
        image=a, rna=wells(NUMBER, "r"), context_keys="dose", key_added=k, verbose=False
    ),
}


@pytest.mark.parametrize("verb", KEYED)
@pytest.mark.parametrize("key", ["GO/BP", ""])
def test_a_key_that_no_file_can_hold_is_refused(verb, key):
    a = wells(NUMBER)
    a.obsm["Z"], a.obs["smiles"] = np.asarray(a.X), "C"
    before = list(a.obsm), list(a.obs), list(a.var), list(a.uns)
    with pytest.raises(ValueError, match="expected a name without '/'"):
        KEYED[verb](a, key)
    assert (list(a.obsm), list(a.obs), list(a.var), list(a.uns)) == before


def test_cells_without_a_guide_are_of_no_gene(tmp_path):
    obs = pd.DataFrame({"guide_id": ["STAT1g1", "NTg1", np.nan]}, index=list("abc"))
    ad.AnnData(np.ones((3, 2), np.float32), obs=obs).write_h5ad(tmp_path / "p.h5ad")
    cells = cf.datasets.papalexi_eccite(path=tmp_path / "p.h5ad")
    assert cells.obs["gene"].astype(object).tolist()[:2] == ["STAT1", "non-targeting"]
    assert cells.obs[["guide", "gene"]].iloc[2].isna().all()
    with pytest.raises(ValueError, match="'guide'.* is missing .* 1 of 3"):
        cf.tl.aggregate(cells, by="guide", use_rep=None)


@pytest.mark.parametrize("held", HELD)
def test_a_model_takes_controls_in_whatever_pandas_gives(held):
    import mudata

    a, b = named(), named()
    b.obs_names = "r" + b.obs_names
    b.var_names = "r" + b.var_names
    mdata = mudata.MuData({"image": a, "rna": b})
    cf.SemiClipped.setup_mudata(
        mdata,
        context_keys=pd.Index(["dose"]),
        image_rep=None,
        rna_rep=None,
        control_key="dose",
        control=HELD[held]([f"NT_{i}" for i in range(3)]),
    )
    assert cf.SemiClipped(mdata, preset="small").is_trained_ is False
