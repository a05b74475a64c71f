"""Which cells a batch draws: properties of plans, draws and the enumeration for inference."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from cellfuse.data import Contexts, DocumentPlan, Draw, Members, Stream, enumerate_documents
from cellfuse.data.streams import draw_rows


def contexts_of(**labels: list[int] | np.ndarray) -> Contexts:
    """Contexts of modalities whose cells carry these numbers."""
    table = pd.DataFrame(index=range(1 + max(int(np.max(v)) for v in labels.values() if len(v))))
    members = {
        m: Members.from_codes(np.asarray(v, np.int64), len(table)) for m, v in labels.items()
    }
    return Contexts(table, members, {m: len(v) for m, v in labels.items()})


def screen(**labels: list[str]) -> Contexts:
    """Contexts built from obs, as a user's are."""
    adatas = {
        m: ad.AnnData(obs=pd.DataFrame({"g": v}, index=[f"{m}{i}" for i in range(len(v))]))
        for m, v in labels.items()
    }
    return Contexts.from_modalities(adatas, "g")


def same(one, other) -> bool:
    return (
        (one.key == other.key).all()
        and (one.context == other.context).all()
        and all((one.rows[m] == other.rows[m]).all() for m in other.rows)
        and all((one.present[m] == other.present[m]).all() for m in other.present)
        and set(one.rows) == set(other.rows)
    )


def epoch_of(plan: DocumentPlan, epoch: int = 0) -> list:
    return [plan.indices(epoch, step) for step in range(plan.n_steps)]


#: Labels of the cells of two modalities (at least one cell each), set sizes, batch size, seed.
labels = st.lists(st.integers(0, 5), min_size=1, max_size=40)
sizes = st.integers(1, 7)
seeds = st.integers(0, 2**31 - 1)

# -- draw_rows ------------------------------------------------------------------------------------


@given(labels, sizes, seeds)
def test_drawn_rows_belong_to_the_group_and_repeat_evenly(label, size, seed):
    label = np.array(label)
    members = Members.from_codes(label, 6)
    groups = np.unique(label)
    drawn = draw_rows(members, groups, size, rng=np.random.default_rng(seed), replace="if_needed")
    for group, rows in zip(groups, drawn, strict=True):
        assert (label[rows] == group).all()
        n = (label == group).sum()
        times = np.bincount(rows, minlength=len(label))[label == group]
        # Enough cells: each at most once. Too few: all of them, as evenly as possible.
        assert times.max() == -(-size // n)
        assert times.min() == size // n


@given(labels, sizes, seeds)
def test_rows_drawn_with_replacement_belong_to_the_group(label, size, seed):
    label = np.array(label)
    groups = np.unique(label)
    drawn = draw_rows(
        Members.from_codes(label, 6), groups, size, rng=np.random.default_rng(seed), replace=True
    )
    assert (label[drawn] == groups[:, None]).all()


def test_replacement_repeats_rows_although_there_are_enough():
    members = Members.from_codes(np.zeros(20, np.int64), 1)
    groups = np.zeros(2000, np.int64)
    drawn = draw_rows(members, groups, 10, rng=np.random.default_rng(0), replace=True)
    distinct = np.mean([len(set(rows)) for rows in drawn])
    assert distinct == pytest.approx(20 * (1 - 0.95**10), abs=0.1)  # 8.03 of 10


@pytest.mark.parametrize("replace", ["if_needed", True])
@pytest.mark.parametrize("n_cells", [3, 7, 12])
def test_every_cell_of_a_group_is_drawn_equally_often(replace, n_cells):
    members = Members.from_codes(np.zeros(n_cells, np.int64), 1)
    groups = np.zeros(4000, np.int64)
    drawn = draw_rows(members, groups, 5, rng=np.random.default_rng(0), replace=replace)
    assert chisquare(np.bincount(drawn.ravel(), minlength=n_cells)).pvalue > 1e-3


def test_every_pair_of_cells_is_drawn_equally_often():
    members = Members.from_codes(np.zeros(5, np.int64), 1)
    groups = np.zeros(6000, np.int64)
    drawn = draw_rows(members, groups, 2, rng=np.random.default_rng(0), replace="if_needed")
    low, high = np.sort(drawn, axis=1).T
    counts = np.bincount(low * 5 + high)
    assert (counts > 0).sum() == 10
    assert chisquare(counts[counts > 0]).pvalue > 1e-3


# -- a plan's documents ---------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(labels, labels, sizes, sizes, st.integers(1, 9), seeds, st.sampled_from(["keep", "drop"]))
def test_documents_hold_cells_of_their_context(image, rna, s_image, s_rna, batch, seed, missing):
    if missing == "drop" and not set(image) & set(rna):
        rna = [*rna, image[0]]
    contexts = contexts_of(image=image, rna=rna)
    draws = (Draw("image", s_image, missing=missing), Draw("rna", s_rna, missing=missing))
    plan = DocumentPlan(
        contexts, Stream(draws, batch), documents_per_context=2, seed=seed, drop_last=False
    )
    seen = np.zeros(len(contexts), int)
    for part in epoch_of(plan):
        np.add.at(seen, part.context, 1)
        for name, label, size in (("image", image, s_image), ("rna", rna, s_rna)):
            rows, here = part.rows[name], part.present[name]
            assert rows.shape == (len(part.context), size)
            assert (np.asarray(label)[rows[here]] == part.context[here, None]).all()
            assert (here == np.isin(part.context, label)).all()
            assert (rows[~here] == 0).all()  # fillers that can be read
    either, both = set(image) | set(rna), set(image) & set(rna)
    expected = either if missing == "keep" else both
    assert (seen == [2 * (i in expected) for i in range(len(contexts))]).all()


def test_a_draw_may_be_dropped_and_another_kept():
    contexts = contexts_of(image=[0, 1], rna=[1, 2])
    draws = (Draw("image", 1, missing="drop"), Draw("rna", 1, missing="keep"))
    plan = DocumentPlan(contexts, Stream(draws, 2), documents_per_context=1)
    (part,) = epoch_of(plan)
    assert sorted(part.context) == [0, 1]
    assert part.present["image"].all()


def test_each_context_gives_the_same_number_of_documents_whatever_its_size():
    contexts = contexts_of(image=[0] * 50 + [1] * 2 + [2])
    plan = DocumentPlan(contexts, Stream((Draw("image", 2),), 9), documents_per_context=30)
    together = np.concatenate([part.context for part in epoch_of(plan)])
    assert np.bincount(together).tolist() == [30, 30, 30]


@settings(max_examples=30, deadline=None)
@given(labels, st.integers(1, 7), seeds, st.randoms(use_true_random=False))
def test_a_batch_is_a_function_of_seed_epoch_and_step(label, batch, seed, random):
    contexts = contexts_of(image=label)

    def plan() -> DocumentPlan:
        stream = Stream((Draw("image", 3),), batch)
        return DocumentPlan(contexts, stream, documents_per_context=2, seed=seed)

    asked = [(epoch, step) for epoch in (0, 1, 5) for step in range(plan().n_steps)]
    first = {at: plan().indices(*at) for at in asked}
    random.shuffle(asked)
    used = plan()
    assert all(same(used.indices(*at), first[at]) for at in asked)


def big_plan(**changes: object) -> DocumentPlan:
    contexts = contexts_of(image=np.arange(400) % 8, rna=np.arange(300) % 8)
    settings = {"seed": 0, "documents_per_context": 4, **changes}
    return DocumentPlan(contexts, Stream((Draw("image", 5), Draw("rna", 5)), 8), **settings)


@pytest.mark.parametrize(("one", "other"), [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((1, 0), (0, 1))])
def test_steps_and_epochs_draw_different_cells(one, other):
    first, second = (np.sort(big_plan().indices(*at).rows["image"].ravel()) for at in (one, other))
    assert (first == second).mean() < 0.5


@pytest.mark.parametrize("other", [(0, 1), (1, 0)])
def test_a_lone_context_gives_other_cells_at_every_step_and_epoch(other):
    stream = Stream((Draw("image", 5),), 1)
    plan = DocumentPlan(contexts_of(image=[0] * 400), stream, documents_per_context=4)
    first, second = (set(plan.indices(*at).rows["image"][0]) for at in ((0, 0), other))
    assert len(first & second) < 3


def test_seeds_draw_different_documents():
    one, other = big_plan().indices(0, 0), big_plan(seed=1).indices(0, 0)
    assert (one.context != other.context).any()
    assert (one.rows["image"] != other.rows["image"]).mean() > 0.5


def test_epochs_are_shuffled():
    plan = big_plan()
    first, second = (np.concatenate([p.context for p in epoch_of(plan, e)]) for e in (0, 1))
    assert (first != second).any()
    assert (first != np.sort(first)).any()
    assert (np.sort(first) == np.sort(second)).all()


def test_draws_of_a_document_are_independent():
    contexts = contexts_of(image=[0] * 10, rna=[0] * 10)
    stream = Stream((Draw("image", 1), Draw("rna", 1)), 1000)
    part = DocumentPlan(contexts, stream, documents_per_context=1000).indices(0, 0)
    agree = (part.rows["image"] == part.rows["rna"]).mean()
    assert agree == pytest.approx(0.1, abs=0.03)


def test_no_device_is_left_without_a_document():
    whole = big_plan().indices(1, 0)
    rest = whole.slice(0, len(whole.key) // 2)  # two or three documents, for five devices
    assert 1 < len(rest.key) < 5
    parts = [rest.slice(r, 5) for r in range(5)]
    assert all(len(part.key) == 1 for part in parts)
    assert {int(part.key[0]) for part in parts} == set(rest.key.tolist())
    n = len(whole.key)
    even = [whole.slice(r, n - 1, even=True).key.tolist() for r in range(n - 1)]
    assert even == [[key] for key in whole.key[: n - 1].tolist()]


@pytest.mark.parametrize("world_size", [2, 4])
def test_slices_of_all_ranks_are_the_batch_of_one_process(world_size):
    for step in range(3):
        whole = big_plan().indices(1, step)
        parts = [big_plan().indices(1, step).slice(r, world_size) for r in range(world_size)]
        key = np.concatenate([part.key for part in parts])
        order = np.argsort(key)
        assert (key[order] == whole.key).all()
        assert len({len(part.key) for part in parts}) == 1
        for name in whole.rows:
            assert (np.concatenate([p.rows[name] for p in parts])[order] == whole.rows[name]).all()
            present = np.concatenate([p.present[name] for p in parts])[order]
            assert (present == whole.present[name]).all()
        assert (np.concatenate([p.context for p in parts])[order] == whole.context).all()


@pytest.mark.parametrize("drop_last", [True, False])
def test_the_key_is_a_document_number_that_never_comes_twice(drop_last):
    contexts = contexts_of(image=[0, 1, 2])
    stream = Stream((Draw("image", 1),), 4)
    plan = DocumentPlan(contexts, stream, documents_per_context=3, drop_last=drop_last)
    keys = np.concatenate([p.key for epoch in range(4) for p in epoch_of(plan, epoch)])
    assert len(np.unique(keys)) == len(keys) == (32 if drop_last else 36)
    if not drop_last:
        assert keys.tolist() == list(range(36))


def test_drop_last_leaves_out_what_does_not_fill_a_batch():
    contexts = contexts_of(image=[0, 1, 2])
    stream = Stream((Draw("image", 1),), 2)
    kept = DocumentPlan(contexts, stream, documents_per_context=1, drop_last=False)
    assert [len(part.key) for part in epoch_of(kept)] == [2, 1]
    assert DocumentPlan(contexts, stream, documents_per_context=1).n_steps == 1


def test_a_batch_is_cut_to_the_documents_there_are():
    contexts = contexts_of(image=[0, 1, 2])
    plan = DocumentPlan(contexts, Stream((Draw("image", 1),), 100), documents_per_context=1)
    assert (plan.batch_size, plan.n_steps) == (3, 1)


def test_scarce_contexts_are_counted_by_draw():
    contexts = contexts_of(image=[0, 0, 0, 1], rna=[0, 0, 2])
    plan = DocumentPlan(contexts, Stream((Draw("image", 3), Draw("rna", 2)), 1))
    assert plan.n_scarce() == {"image": 1, "rna": 1}  # an absent modality is not a scarce one


# -- over cells, by name, of other contexts -------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(labels, labels, st.integers(1, 9), seeds)
def test_a_stream_over_cells_visits_each_row_once_per_epoch(image, rna, batch, seed):
    stream = Stream((Draw("image", 1), Draw("rna", 2)), batch, over="cells")
    plan = DocumentPlan(contexts_of(image=image, rna=rna), stream, seed=seed, drop_last=False)
    parts = epoch_of(plan, 1)
    rows = np.concatenate([part.rows["image"] for part in parts])
    assert rows.shape == (len(image), 1)
    assert sorted(rows[:, 0]) == list(range(len(image)))
    for part in parts:
        assert (np.asarray(image)[part.rows["image"][:, 0]] == part.context).all()
        here = part.present["rna"]
        assert (np.asarray(rna)[part.rows["rna"][here]] == part.context[here, None]).all()


def test_a_stream_over_cells_leaves_out_cells_without_context_or_partner():
    contexts = contexts_of(image=[0, -1, 1, 0], rna=[0, 0])
    stream = Stream((Draw("image", 1), Draw("rna", 1, missing="drop")), 2, over="cells")
    (part,) = epoch_of(DocumentPlan(contexts, stream))
    assert sorted(part.rows["image"][:, 0]) == [0, 3]


def test_two_draws_of_one_modality_go_by_their_names():
    contexts = screen(rna=["nt", "nt", "nt", "a", "a"])
    draws = (Draw("rna", 2), Draw("rna", 3, context="control", name="basal"))
    plan = DocumentPlan(
        contexts, Stream(draws, 2), documents_per_context=1, control_key="g", control="nt"
    )
    part = plan.indices(0, 0)
    assert part.rows["rna"].shape == (2, 2)
    assert np.sort(part.rows["basal"], axis=1).tolist() == [[0, 1, 2]] * 2
    perturbed = part.rows["rna"][contexts.names[part.context] == "a"]
    assert sorted(perturbed[0]) == [3, 4]


def test_a_function_draws_another_context():
    contexts = contexts_of(image=[0, 1, 2])
    stream = Stream((Draw("image", 1, context=lambda table: [2, 0, -1], name="other"),), 2)
    plan = DocumentPlan(contexts, stream, documents_per_context=1)
    part = plan.indices(0, 0)
    assert dict(zip(part.context, part.rows["other"][:, 0], strict=True)) == {0: 2, 1: 0}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Draw("image", 0), "at least one cell"),
        (lambda: Stream((), 1), "at least one draw"),
        (lambda: Stream((Draw("a", 1), Draw("a", 1)), 1), "share a name"),
        (lambda: Stream((Draw("a", 1),), 0), "batch_size"),
        (lambda: Stream((Draw("a", 2),), 1, over="cells"), "set its size to 1"),
        (lambda: big_plan(replace=False), "'if_needed' or True"),
        (lambda: big_plan(documents_per_context=0), "at least 1"),
    ],
)
def test_senseless_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_plan_without_documents_is_refused():
    contexts = contexts_of(image=[0], rna=[1])
    draws = (Draw("image", 1, missing="drop"), Draw("rna", 1, missing="drop"))
    with pytest.raises(ValueError, match="no document can be drawn"):
        DocumentPlan(contexts, Stream(draws, 1))


# -- enumeration for inference (PETRI, A.6) -------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(labels, labels, sizes, seeds)
def test_the_enumeration_shows_every_cell_and_repeats_sets_in_cycles(image, rna, size, seed):
    contexts = contexts_of(image=image, rna=rna)
    parts = enumerate_documents(contexts, ["image", "rna"], set_size=size, seed=seed)
    assert (parts.key == np.arange(len(parts.context))).all()
    assert (np.diff(parts.context) >= 0).all()
    for name, label in (("image", np.array(image)), ("rna", np.array(rna))):
        here, rows = parts.present[name], parts.rows[name]
        assert (label[rows[here]] == parts.context[here, None]).all()
        assert (here == np.isin(parts.context, label)).all()
        for context in np.unique(label):
            sets = rows[parts.context == context]
            n = (label == context).sum()
            n_sets = -(-n // size)
            # The first n_sets are the shuffled cells, wrapped around; then they come again.
            flat = sets[:n_sets].ravel()
            assert len(set(flat[:n])) == n
            assert (flat == np.resize(flat[:n], n_sets * size)).all()
            assert (sets == sets[np.arange(len(sets)) % n_sets]).all()
    for context in range(len(contexts)):
        longest = max(-(-label.count(context) // size) for label in (image, rna))
        assert (parts.context == context).sum() == longest


def test_the_enumeration_is_shuffled_by_its_seed():
    contexts = contexts_of(image=[0] * 50)
    one, again, other = (
        enumerate_documents(contexts, ["image"], set_size=5, seed=s).rows["image"]
        for s in (0, 0, 1)
    )
    assert (one == again).all()
    assert (one != other).mean() > 0.5
    assert (one.ravel() != np.arange(50)).any()


# -- size -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_epoch_of_a_hundred_thousand_contexts_and_ten_million_cells_is_planned():
    n_contexts, n_cells = 100_000, 10_000_000
    label = np.random.default_rng(0).integers(0, n_contexts, n_cells)
    contexts = contexts_of(image=label, rna=label[: n_cells // 2])
    stream = Stream((Draw("image", 16), Draw("rna", 16)), 4096)
    plan = DocumentPlan(contexts, stream, documents_per_context=1, drop_last=False)
    documents = 0
    for part in epoch_of(plan):
        documents += len(part.key)
        here = part.present["image"]
        assert (label[part.rows["image"][here]] == part.context[here, None]).all()
    assert documents == n_contexts


def test_a_modality_that_is_not_there_is_named():
    contexts = contexts_of(image=[0, 1], rna=[0, 1])
    with pytest.raises(KeyError, match="'images' is not in the modalities.*Did you mean 'image'"):
        DocumentPlan(contexts, Stream((Draw("images", 1),), batch_size=1))
    with pytest.raises(KeyError, match="Did you mean 'rna'"):
        enumerate_documents(contexts, ["image", "rnaa"], set_size=1)
    with pytest.raises(ValueError, match="set_size must be at least 1, found 0"):
        enumerate_documents(contexts, ["image"], set_size=0)
