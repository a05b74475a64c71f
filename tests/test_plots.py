"""What the figures show is what the tools and models wrote."""

from __future__ import annotations

from types import SimpleNamespace

import anndata as ad
import matplotlib
import mudata
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from cellfuse import pl


def legend_texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def profiles(n=4, **uns):
    adata = ad.AnnData(np.random.default_rng(0).normal(size=(n, 3)))
    adata.uns.update(uns)
    return adata


# -- ROC ------------------------------------------------------------------------------------------


def scored(tpr=0.4, *, level=0.05, interval=False, rows=("all",)):
    summary = pd.DataFrame({"tpr": tpr, "auc": 0.8, "n_edges": 1234}, index=list(rows))
    if interval:
        summary = summary.assign(tpr_low=0.3, tpr_high=0.6, auc_low=0.7, auc_high=0.9)
    curve = {"fpr": np.array([0.0, 0.05, 1.0]), "tpr": np.array([0.0, tpr, 1.0])}
    return profiles(
        edge_classification={**curve, "summary": summary, "params": {"fpr": level}},
    )


def line_labelled(ax, text):
    (line,) = [line for line in ax.get_lines() if str(line.get_label()).startswith(text)]
    return line


def test_roc_draws_the_stored_curve_and_chance():
    ax = pl.roc(scored())
    curve = line_labelled(ax, "TPR")
    assert curve.get_xydata().tolist() == [[0, 0], [0.05, 0.4], [1, 1]]
    assert line_labelled(ax, "chance").get_xydata().tolist() == [[0, 0], [1, 1]]
    assert line_labelled(ax, "FPR 0.05").get_xdata() == [0.05, 0.05]


def test_roc_marks_the_rate_and_its_interval():
    ax = pl.roc(scored(interval=True))
    (bar,) = ax.containers
    assert bar.lines[0].get_xydata().tolist() == [[0.05, 0.4]]
    (segments,) = bar.lines[2]
    np.testing.assert_allclose(segments.get_segments()[0], [[0.05, 0.3], [0.05, 0.6]])
    assert "TPR 0.40 [0.30, 0.60], AUC 0.80 [0.70, 0.90]" in legend_texts(ax)


def test_roc_of_several_profiles_draws_each_in_its_colour():
    ax = pl.roc({"image": scored(0.2), "rna": scored(0.7)})
    image, rna = line_labelled(ax, "image"), line_labelled(ax, "rna")
    assert image.get_ydata()[1] == 0.2 and rna.get_ydata()[1] == 0.7
    assert image.get_color() != rna.get_color()
    assert "image\nTPR 0.20, AUC 0.80" in legend_texts(ax)


def test_roc_reads_the_mean_over_backgrounds_from_the_last_row():
    adata = scored(rows=("b1", "b2", "mean"))
    adata.uns["edge_classification"]["summary"].loc["mean", "tpr"] = 0.9
    assert "TPR 0.90, AUC 0.80" in legend_texts(pl.roc(adata))


def test_roc_without_scores_names_the_tool():
    with pytest.raises(KeyError, match=r"Run `cellfuse\.tl\.edge_classification"):
        pl.roc(profiles())


def test_roc_refuses_different_rates():
    with pytest.raises(ValueError, match=r"different false positive rates, \[0\.05, 0\.1\]"):
        pl.roc({"a": scored(), "b": scored(level=0.1)})


def test_roc_refuses_foreign_scores():
    with pytest.raises(ValueError, match="does not hold 'fpr'"):
        pl.roc(profiles(edge_classification={"tpr": 1}))


def test_roc_refuses_an_empty_dict():
    with pytest.raises(ValueError, match="empty dict"):
        pl.roc({})


# -- guide consistency ----------------------------------------------------------------------------


def consistency_table(similarity, **columns):
    n = len(similarity)
    return pd.DataFrame(
        {
            "similarity": similarity,
            "n_guides": 4,
            "null_mean": 0.02,
            "pvalue": 0.5,
            "qvalue": 0.5,
            "significant": np.nan_to_num(similarity) > 0.4,
            **columns,
        },
        index=pd.Index([f"T{i}" for i in range(n)], name="target"),
    )


def with_table(table, **params):
    return profiles(guide_consistency={"table": table, "params": {"alpha": 0.1, **params}})


def test_consistency_is_drawn_in_falling_order_and_coloured_by_significance():
    ax = pl.guide_consistency(with_table(consistency_table([0.1, 0.9, 0.5])))
    significant, rest = ax.collections
    assert significant.get_offsets().tolist() == [[1, 0.9], [2, 0.5]]
    assert rest.get_offsets().tolist() == [[3, 0.1]]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["T1", "T2", "T0"]
    assert line_labelled(ax, "unrelated").get_ydata().tolist() == [0.02] * 3
    assert ax.get_title(loc="left") == "67% of 3 targets are consistent (q < 0.1)"


def test_untested_targets_are_left_out_and_counted():
    ax = pl.guide_consistency(with_table(consistency_table([0.1, np.nan, 0.5])))
    assert sum(len(points.get_offsets()) for points in ax.collections) == 2
    assert ax.get_xlabel() == "Targets (1 with one guide not tested)"
    assert ax.get_title(loc="left").startswith("50% of 2")


def test_many_targets_are_drawn_without_names():
    ax = pl.guide_consistency(with_table(consistency_table(np.linspace(0, 1, 300))))
    assert ax.get_xlabel() == "Targets by rank"
    assert len(ax.get_xticks()) < 20


def test_backgrounds_have_a_panel_each():
    table = consistency_table([0.1, 0.9, 0.5, 0.6], drug=["a", "a", "b", "b"])
    guides = with_table(table, background_key="drug")
    axes = pl.guide_consistency(guides)
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles[0].startswith("a: 50% of 2") and titles[1].startswith("b: 100% of 2")
    with pytest.raises(ValueError, match="has 2 panels; found 1 axes"):
        pl.guide_consistency(guides, ax=plt.subplots()[1])


def test_consistency_without_a_table_names_the_tool():
    with pytest.raises(KeyError, match=r"Run `cellfuse\.tl\.guide_consistency"):
        pl.guide_consistency(profiles())


# -- training -------------------------------------------------------------------------------------


def frame(name, values):
    return pd.DataFrame({name: values}, index=pd.RangeIndex(len(values), name="epoch"))


def history(**named):
    return {name: frame(name, values) for name, values in named.items()}


def test_train_and_validation_share_a_panel():
    curves = history(
        train_image_loss_epoch=[1.0, 0.5],
        train_loss_epoch=[3.0, 2.0],
        validation_loss=[3.5, 2.5],
    )
    total, image = pl.training_curves(curves)
    assert [total.get_ylabel(), image.get_ylabel()] == ["loss", "image loss"]
    assert line_labelled(total, "training").get_xydata().tolist() == [[0, 3], [1, 2]]
    assert line_labelled(total, "validation").get_xydata().tolist() == [[0, 3.5], [1, 2.5]]
    assert legend_texts(image) == ["training"]


def test_a_model_is_read_through_its_history():
    model = SimpleNamespace(history=history(elbo_train=[2.0, 1.0], elbo_validation=[3.0, 2.0]))
    (panel,) = pl.training_curves(model)
    assert panel.get_ylabel() == "elbo"
    assert legend_texts(panel) == ["training", "validation"]


def test_values_by_step_give_way_to_values_by_epoch():
    (panel,) = pl.training_curves(
        history(train_loss_step=[9.0, 8.0, 7.0], train_loss_epoch=[3.0, 2.0])
    )
    assert line_labelled(panel, "training").get_ydata().tolist() == [3.0, 2.0]


def test_one_epoch_has_one_tick_and_epochs_are_whole():
    (panel,) = pl.training_curves(history(train_loss_epoch=[3.0]))
    low, high = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [0]


def test_a_stage_inside_a_name_is_known():
    (panel,) = pl.training_curves(history(response_train_drug_loss=[3.0, 2.0]))
    assert panel.get_ylabel() == "response drug loss"
    assert legend_texts(panel) == ["training"]


def test_epochs_without_validation_are_skipped():
    (panel,) = pl.training_curves(
        history(train_loss_epoch=[3.0, 2.0, 1.0], validation_loss=[4.0, np.nan, 2.0])
    )
    assert line_labelled(panel, "validation").get_xdata().tolist() == [0, 2]


@pytest.mark.parametrize("model", [{}, SimpleNamespace(history=None)], ids=["dict", "model"])
def test_an_untrained_model_is_refused(model):
    with pytest.raises(ValueError, match=r"run `model\.train\(\)` first"):
        pl.training_curves(model)


def test_what_is_no_history_is_refused():
    with pytest.raises(TypeError, match="found int"):
        pl.training_curves(3)


# -- similarity -----------------------------------------------------------------------------------


def cosines(ax):
    return np.asarray(ax.images[0].get_array())


def test_similarity_is_the_cosine_matrix():
    from sklearn.metrics.pairwise import cosine_similarity

    adata = profiles(6)
    adata.obsm["rep"] = adata.X[:, ::-1] + 1
    ax = pl.similarity(adata, use_rep="rep", cluster=False)
    np.testing.assert_allclose(cosines(ax), cosine_similarity(adata.obsm["rep"]))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(adata.obs_names)
    assert ax.figure.axes[1].get_ylabel() == "Cosine"


def test_clustering_brings_like_profiles_together():
    a, b = [1.0, 0.0, 0.1], [0.0, 1.0, 0.1]
    adata = ad.AnnData(np.array([a, b, a, b, a, b]) * np.arange(1, 7)[:, None])
    names = [tick.get_text() for tick in pl.similarity(adata).get_yticklabels()]
    assert {frozenset(names[:3]), frozenset(names[3:])} == {frozenset("024"), frozenset("135")}


def test_groups_are_put_together_and_named():
    adata = profiles(5)
    adata.obs["complex"] = pd.Categorical(list("yxyxy"), categories=["y", "x"])
    ax = pl.similarity(adata, by="complex", cluster=False)
    unit = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    order = [0, 2, 4, 1, 3]
    np.testing.assert_allclose(cosines(ax), (unit @ unit.T)[np.ix_(order, order)], atol=1e-6)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["y", "x"]
    assert ax.get_yticks().tolist() == [1.0, 3.5]
    assert ax.get_lines()[0].get_ydata() == [2.5, 2.5]


def test_clustering_stays_within_the_groups():
    adata = profiles(20)
    adata.obs["half"] = ["a"] * 10 + ["b"] * 10
    shown = cosines(pl.similarity(adata, by="half"))
    unit = adata.X / np.linalg.norm(adata.X, axis=1, keepdims=True)
    first = np.sort((unit[:10] @ unit[:10].T).ravel())
    np.testing.assert_allclose(np.sort(shown[:10, :10].ravel()), first, atol=1e-6)


def test_similarity_refuses_a_profile_of_zeros():
    adata = profiles(3)
    adata.X[1] = 0
    with pytest.raises(ValueError, match="1 profiles are all zeros.*'1'"):
        pl.similarity(adata)


def test_similarity_refuses_nan():
    adata = profiles(3)
    adata.X[1, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        pl.similarity(adata)


def test_similarity_of_cells_is_refused_before_the_matrix_is_made():
    with pytest.raises(ValueError, match="Aggregate first"):
        pl.similarity(ad.AnnData(np.ones((5001, 1))))


def test_similarity_leaves_the_profiles_as_they_are():
    adata = profiles(6)
    before = adata.X.copy()
    pl.similarity(adata)
    assert np.array_equal(adata.X, before)


# -- contexts -------------------------------------------------------------------------------------


def cells(prefix, counts):
    guide = np.repeat(list(counts), list(counts.values()))
    index = [f"{prefix}-{i}" for i in range(len(guide))]
    return ad.AnnData(obs=pd.DataFrame({"guide": guide, "drug": "d"}, index=index))


@pytest.fixture
def screen():
    return mudata.MuData(
        {
            "image": cells("image", {"g1": 4, "g2": 20, "g3": 20, "g4": 40}),
            "rna": cells("rna", {"g1": 30, "g2": 10, "g3": 16}),
        }
    )


def test_contexts_draws_the_cumulative_share_of_each_modality(screen):
    ax = pl.contexts(screen, "guide")
    image, rna = line_labelled(ax, "image"), line_labelled(ax, "rna")
    assert image.get_xydata().tolist() == [[4, 0], [4, 0.25], [20, 0.75], [40, 1.0]]
    assert rna.get_xydata().tolist() == [[0, 0], [0, 0.25], [10, 0.5], [16, 0.75], [30, 1.0]]


def test_contexts_counts_those_below_the_set_size(screen):
    ax = pl.contexts(screen, ["guide", "drug"])
    assert legend_texts(ax)[:2] == ["image: 25% below 16", "rna: 50% below 16"]
    assert ax.get_title(loc="left") == "75% of 4 contexts have < 16 cells in a modality"
    assert ax.get_xlabel() == "Cells per context (guide, drug)"
    assert line_labelled(ax, "set size 16").get_xdata() == [16, 16]


def test_contexts_of_one_modality(screen):
    ax = pl.contexts(screen["image"], "guide", set_size=30)
    assert ax.get_title(loc="left") == "75% of 4 contexts have < 30 cells"
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize(
    ("n", "size", "ticks"), [(100, 16, [20, 50, 100]), (17, 16, [16]), (4, 16, [5, 10])]
)
def test_contexts_of_one_size_have_a_scale(n, size, ticks):
    ax = pl.contexts(cells("image", {"g1": n}), "guide", set_size=size)
    assert ax.get_xticks().tolist() == ticks


def test_contexts_offers_the_likely_column(screen):
    with pytest.raises(KeyError, match="Did you mean 'guide'"):
        pl.contexts(screen, "giude")


# -- what all figures do --------------------------------------------------------------------------

FIGURES = {
    "roc": lambda **kwargs: pl.roc(scored(), **kwargs),
    "guide_consistency": lambda **kwargs: pl.guide_consistency(
        with_table(consistency_table([0.1, 0.5])), **kwargs
    ),
    "training_curves": lambda **kwargs: pl.training_curves(
        history(train_loss_epoch=[3.0, 2.0]), **kwargs
    ),
    "similarity": lambda **kwargs: pl.similarity(profiles(), **kwargs),
    "contexts": lambda **kwargs: pl.contexts(cells("c", {"a": 3, "b": 30}), "guide", **kwargs),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_into_given_axes(name):
    figure, ax = plt.subplots()
    size = figure.get_size_inches().tolist()
    (drawn,) = np.atleast_1d(FIGURES[name](ax=ax))
    assert drawn is ax
    assert plt.get_fignums() == [figure.number]
    assert figure.get_size_inches().tolist() == size


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_saved_and_not_shown_unasked(name, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(name))
    path = tmp_path / "figure.png"
    FIGURES[name](save=path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert shown == []
    FIGURES[name](show=True)
    assert shown == [name]


@pytest.mark.parametrize("name", FIGURES)
def test_legends_cover_no_data(name):
    (ax,) = np.atleast_1d(FIGURES[name]())
    ax.figure.canvas.draw()
    if ax.get_legend() is not None:
        plot, legend = ax.get_window_extent(), ax.get_legend().get_window_extent()
        assert legend.y0 >= plot.y1 or legend.y1 <= plot.y0


def test_a_long_legend_widens_the_figure_and_leaves_the_plot_its_size():
    ax = pl.roc({"a set of profiles with a name as long as names get " * 2: scored()})
    ax.figure.canvas.draw()
    assert ax.get_window_extent().width > 3 * ax.figure.dpi
