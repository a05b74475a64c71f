"""Who shares a context: built from columns, topics or pairs, restricted, permuted, related."""

from __future__ import annotations

import logging

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.data import Contexts, Members


def cells(prefix: str = "c", **columns: object) -> ad.AnnData:
    obs = pd.DataFrame(columns)
    obs.index = [f"{prefix}{i}" for i in range(len(obs))]
    return ad.AnnData(np.ones((len(obs), 1), "f4"), obs=obs)


def rows_of(contexts: Contexts, modality: str) -> dict[str, list[int]]:
    """Rows of each context by its label."""
    members = contexts.members[modality]
    ends = members.indptr
    return {
        name: sorted(members.rows[ends[i] : ends[i + 1]].tolist())
        for i, name in enumerate(contexts.names)
    }


@pytest.fixture
def pair() -> dict[str, ad.AnnData]:
    return {
        "image": cells("i", guide=list("baabc"), line=list("xxyyx")),
        "rna": cells("r", guide=list("abba"), line=list("xxyx")),
    }


# -- the ways a context can be given --------------------------------------------------------------


def test_one_column_groups_the_cells_of_each_modality(pair):
    contexts = Contexts.from_modalities(pair, "guide")
    assert list(contexts.names) == ["a", "b", "c"]
    assert rows_of(contexts, "image") == {"a": [1, 2], "b": [0, 3], "c": [4]}
    assert rows_of(contexts, "rna") == {"a": [0, 3], "b": [1, 2], "c": []}
    assert contexts.counts.to_numpy().tolist() == [[2, 2], [2, 2], [1, 0]]
    assert contexts.shared().tolist() == [True, True, False]


def test_several_columns_make_a_context_of_each_joint_value(pair):
    contexts = Contexts.from_modalities(pair, ["line", "guide"])
    assert list(contexts.names) == ["x | a", "x | b", "x | c", "y | a", "y | b"]
    assert contexts.table["line"].tolist() == list("xxxyy")
    assert contexts.table["guide"].tolist() == list("abcab")
    assert rows_of(contexts, "image") == {
        "x | a": [1], "x | b": [0], "x | c": [4], "y | a": [2], "y | b": [3],
    }  # fmt: skip
    assert rows_of(contexts, "rna")["x | a"] == [0, 3]


def test_labels_and_not_category_codes_are_compared():
    image = cells("i", guide=pd.Categorical(list("ab"), categories=list("zba")))
    rna = cells("r", guide=pd.Categorical(list("ab"), categories=list("ab")))
    contexts = Contexts.from_modalities({"image": image, "rna": rna}, "guide")
    assert list(contexts.names) == ["a", "b"]  # an unused category is no context
    assert rows_of(contexts, "image") == rows_of(contexts, "rna") == {"a": [0], "b": [1]}


def test_numbers_of_one_type_are_labels_too():
    pair = {"image": cells("i", dose=[10, 2, 10]), "rna": cells("r", dose=[2, 10])}
    contexts = Contexts.from_modalities(pair, "dose")
    assert rows_of(contexts, "image") == {"10": [0, 2], "2": [1]}


def test_whole_numbers_match_the_same_numbers_stored_as_floats():
    pair = {"image": cells("i", dose=[10, 2, 10]), "rna": cells("r", dose=[2.0, 10.0])}
    contexts = Contexts.from_modalities(pair, "dose")
    assert contexts.shared().all()


def test_topics_put_a_cell_into_several_contexts(pair):
    table = pd.DataFrame({"source": ["a", "a", "b"], "target": ["T1", "T2", "T2"]})
    pair["rna"].var_names = ["another"]
    mdata = md.MuData(pair)
    cf.pp.map_contexts(mdata, table, by="guide", key_added="complex")
    contexts = Contexts.from_modalities(mdata.mod, "complex")
    assert list(contexts.names) == ["T1", "T2"]
    assert rows_of(contexts, "image") == {"T1": [1, 2], "T2": [0, 1, 2, 3]}
    assert rows_of(contexts, "rna") == {"T1": [0, 3], "T2": [0, 1, 2, 3]}
    # The cell without a topic (guide c) is outside; the others count in their first topic.
    assert contexts.of_row("image").tolist() == [1, 0, 0, 1, -1]


def test_topics_that_were_mapped_apart_are_refused(pair):
    one = pd.DataFrame({"source": ["a"], "target": ["T1"]})
    two = pd.DataFrame({"source": ["a"], "target": ["T2"]})
    cf.pp.map_contexts(pair["image"], one, by="guide", key_added="complex")
    cf.pp.map_contexts(pair["rna"], two, by="guide", key_added="complex")
    with pytest.raises(ValueError, match="differ between modalities.*map_contexts"):
        Contexts.from_modalities(pair, "complex")


def test_a_membership_without_topic_names_is_refused(pair):
    for adata in pair.values():
        adata.obsm["complex"] = np.ones((adata.n_obs, 2))
    with pytest.raises(KeyError, match="map_contexts"):
        Contexts.from_modalities(pair, "complex")


def test_paired_cells_are_matched_by_name():
    image, rna = cells("i", guide=list("aab")), cells("r", guide=list("ab"))
    image.obs_names, rna.obs_names = ["x", "y", "z"], ["z", "x"]
    contexts = Contexts.from_modalities({"image": image, "rna": rna}, "obs_names")
    assert rows_of(contexts, "image") == {"x": [0], "y": [1], "z": [2]}
    assert rows_of(contexts, "rna") == {"x": [1], "y": [], "z": [0]}


def test_a_lone_modality_has_contexts():
    contexts = Contexts.from_modalities({"rna": cells(guide=list("ab"))}, "guide")
    assert contexts.modalities == ["rna"]
    assert contexts.shared().all()


def test_contexts_of_one_modality_are_counted_in_a_message(pair, caplog):
    with caplog.at_level(logging.INFO, logger="cellfuse"):
        Contexts.from_modalities(pair, "guide")
    assert "2 contexts shared" in caplog.text
    assert "1 without a counterpart in 'image'" in caplog.text


# -- restricted, permuted, related ----------------------------------------------------------------


def test_restricted_keeps_the_contexts_and_only_the_chosen_cells(pair):
    contexts = Contexts.from_modalities(pair, "guide")
    mask = np.array([True, True, False, False, True])
    part = contexts.restricted({"image": mask})
    assert rows_of(part, "image") == {"a": [1], "b": [0], "c": [4]}
    assert rows_of(part, "rna") == rows_of(contexts, "rna")
    assert part.n_rows == contexts.n_rows


def test_of_row_is_the_inverse_of_members(pair):
    contexts = Contexts.from_modalities(pair, "guide")
    assert contexts.of_row("image").tolist() == [1, 0, 0, 1, 2]


def many(n: int = 400) -> Contexts:
    label = np.repeat([f"g{i}" for i in range(20)], n // 20)
    return Contexts.from_modalities({"a": cells("a", g=label), "b": cells("b", g=label)}, "g")


def test_permuted_keeps_sizes_and_deals_every_row_once():
    contexts, permuted = many(), many().permuted(0)
    for modality in ("a", "b"):
        assert (permuted.members[modality].counts == contexts.members[modality].counts).all()
        assert sorted(permuted.members[modality].rows) == list(range(400))
        # 1 in 20 cells stays where it was, by chance alone.
        stayed = (permuted.of_row(modality) == contexts.of_row(modality)).mean()
        assert stayed < 0.15


def test_permuted_deals_each_modality_for_itself():
    permuted = many().permuted(0)
    agree = (permuted.of_row("a") == permuted.of_row("b")).mean()
    assert agree < 0.15


def test_permuted_is_a_function_of_the_seed():
    one, same, other = many().permuted(1), many().permuted(1), many().permuted(2)
    assert (one.members["a"].rows == same.members["a"].rows).all()
    assert (one.members["a"].rows != other.members["a"].rows).any()


def drawn(members: Members, groups: np.ndarray) -> list[list[int]]:
    return [
        [] if g < 0 else sorted(members.rows[members.indptr[g] : members.indptr[g + 1]].tolist())
        for g in groups
    ]


def test_controls_agree_in_every_other_key():
    image = cells(guide=["nt", "a", "nt", "b", "a", "b"], line=list("xxyyyz"))
    contexts = Contexts.from_modalities({"image": image}, ["guide", "line"])
    assert list(contexts.names) == ["a | x", "a | y", "b | y", "b | z", "nt | x", "nt | y"]
    found = drawn(*contexts.related("image", "control", control_key="guide", control="nt"))
    assert found == [[0], [2], [2], [], [0], [2]]  # line z has no control


def test_controls_without_another_key_are_all_controls():
    contexts = Contexts.from_modalities({"image": cells(guide=["nt", "a", "nt"])}, "guide")
    found = drawn(*contexts.related("image", "control", control_key="guide", control="nt"))
    assert found == [[0, 2], [0, 2]]


def test_a_function_says_which_context_is_drawn():
    contexts = Contexts.from_modalities({"image": cells(guide=list("aab"))}, "guide")
    members, groups = contexts.related("image", lambda table: [1, -1])
    assert drawn(members, groups) == [[2], []]
    seen = []
    contexts.related("image", lambda table: seen.append(table) or [0, 0])
    assert seen[0]["guide"].tolist() == ["a", "b"]


@pytest.mark.parametrize("answer", [[0], [0, 2]])
def test_a_function_of_wrong_length_or_range_is_refused(answer):
    contexts = Contexts.from_modalities({"image": cells(guide=list("ab"))}, "guide")
    with pytest.raises(ValueError, match="one context position for each of 2"):
        contexts.related("image", lambda table: answer)


def test_an_unknown_relation_control_key_or_label_is_named():
    contexts = Contexts.from_modalities({"image": cells(guide=["nt", "a"])}, "guide")
    with pytest.raises(ValueError, match="'own', 'control' or a function"):
        contexts.related("image", "controls")
    with pytest.raises(KeyError, match="'guid'.*Did you mean 'guide'"):
        contexts.related("image", "control", control_key="guid", control="nt")
    with pytest.raises(KeyError, match="'NT'.*found: 'a', 'nt'"):
        contexts.related("image", "control", control_key="guide", control="NT")


# -- what is refused ------------------------------------------------------------------------------


def test_a_missing_key_is_named_with_its_close_spelling(pair):
    with pytest.raises(KeyError, match="'guides' is not in obs of modality 'image'.*'guide'"):
        Contexts.from_modalities(pair, "guides")


def test_a_key_that_one_modality_lacks_is_refused(pair):
    del pair["rna"].obs["line"]
    with pytest.raises(KeyError, match="'line' is not in obs of modality 'rna'"):
        Contexts.from_modalities(pair, ["guide", "line"])


@pytest.mark.parametrize("categorical", [False, True])
def test_missing_labels_are_counted_and_refused(pair, categorical):
    label = pd.Series(["a", None, "b", np.nan], index=pair["rna"].obs_names)
    pair["rna"].obs["guide"] = label.astype("category") if categorical else label
    with pytest.raises(ValueError, match="modality 'rna'.*2 of 4 cells.*notna"):
        Contexts.from_modalities(pair, "guide")


@pytest.mark.parametrize("categorical", [False, True])
def test_numbers_here_and_their_text_there_are_one_context(categorical):
    image, rna = cells("i", g=[1, 2]), cells("r", g=["1", "2"])
    if categorical:
        image.obs["g"] = image.obs["g"].astype("category")
    contexts = Contexts.from_modalities({"image": image, "rna": rna}, "g")
    assert list(contexts.names) == ["1", "2"] and contexts.shared().all()


def test_modalities_that_share_no_context_are_refused():
    pair = {"image": cells("i", g=["a", "b"]), "rna": cells("r", g=["A", "B"])}
    with pytest.raises(ValueError, match="share no context.*image: 'a', 'b'; rna: 'A', 'B'"):
        Contexts.from_modalities(pair, "g")


def test_no_key_at_all_is_refused(pair):
    with pytest.raises(ValueError, match="`context_keys` is empty"):
        Contexts.from_modalities(pair, [])
