"""Every figure looks as it did when somebody looked at it, and takes scanpy's arguments."""

from __future__ import annotations

import inspect

import matplotlib
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from figures import FIGURES
from images import TOLERANCE, _blurred, assert_looks_as_before, render
from matplotlib.figure import Figure

from cellfuse import pl, tl
from cellfuse.pl import _marks, _style

#: Public names of `cf.pl` that draw nothing.
NO_FIGURE = {"style"}
#: Figures of panels of several kinds, which no given axes hold.
WHOLE_FIGURES = {"concept", "cross_modal_gain"}


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_a_figure_looks_as_before(name, tmp_path):
    figure = FIGURES[name](return_fig=True)
    assert isinstance(figure, Figure)
    assert_looks_as_before(figure, name, tmp_path)


def test_every_figure_has_an_example_that_is_compared():
    assert set(pl.__all__) - NO_FIGURE == set(FIGURES)


#: Results that are drawn under another name; None: data to go on with, not a result.
DRAWN_BY = {
    "aggregate": None,
    "edge_classification": "roc",
    "multimodal_concepts": "concept_map",
    "concept_enrichment": "concept",
    "concept_features": "concept",
    "find_concepts": "concept",
}


def test_every_result_has_its_figure():
    drawn_by = {name: DRAWN_BY.get(name, name) for name in tl.__all__}
    assert set(filter(None, drawn_by.values())) <= set(pl.__all__)


@pytest.mark.parametrize("name", sorted(set(pl.__all__) - NO_FIGURE))
def test_a_figure_takes_the_arguments_that_all_take(name):
    parameters = inspect.signature(getattr(pl, name)).parameters
    wanted = {"ax", "figsize", "title", "show", "save", "return_fig"}
    assert wanted - set(parameters) <= ({"ax"} if name in WHOLE_FIGURES else set())
    assert "scanpy.settings.figdir" in inspect.getdoc(getattr(pl, name))


def test_a_change_of_colour_is_seen():
    before, after = (
        render(FIGURES["compare"](palette=[colour], return_fig=True))
        for colour in ("#0072B2", "#D55E00")
    )
    missing = render(plt.figure(figsize=(before.shape[1] / 40, before.shape[0] / 40)))
    small = np.sqrt(np.mean((_blurred(before) - _blurred(after)) ** 2))
    large = np.sqrt(np.mean((_blurred(before) - _blurred(missing)) ** 2))
    assert small > 0.01 and large > TOLERANCE


# -- style ----------------------------------------------------------------------------------------


def test_a_figure_changes_no_setting():
    before = dict(matplotlib.rcParams)
    FIGURES["training_curves"]()
    assert dict(matplotlib.rcParams) == before


def test_the_style_file_and_the_colours_agree():
    with pl.style():
        cycle = [entry["color"] for entry in matplotlib.rcParams["axes.prop_cycle"]]
    assert [f"#{c}".replace("##", "#") for c in cycle] == list(_style.COLOURS)


def test_a_backend_that_switches_figures_on_inside_the_style_stays_on():
    """As that of notebooks does when the first figure loads it."""
    before = matplotlib.is_interactive()
    try:
        matplotlib.interactive(False)
        with pl.style():
            matplotlib.interactive(True)
        assert matplotlib.is_interactive()
        with pytest.raises(KeyError), pl.style():
            matplotlib.interactive(False)
            raise KeyError
        assert not matplotlib.is_interactive()
    finally:
        matplotlib.interactive(before)


def test_text_in_a_pdf_stays_text(tmp_path):
    FIGURES["compare"](save=tmp_path / "a.pdf")
    FIGURES["compare"](save=tmp_path / "a.svg")
    assert b"/Type /Font" in (tmp_path / "a.pdf").read_bytes()
    assert b"/Subtype /Type3" not in (tmp_path / "a.pdf").read_bytes()
    assert "PETRI − PCA" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_saved_figures_have_300_dpi_unless_the_user_says_otherwise(tmp_path):
    from PIL import Image

    size = {}
    for name, own in (("ours", {}), ("theirs", {"savefig.dpi": 90, "font.size": 14})):
        with matplotlib.rc_context(own):
            figure = FIGURES["compare"](save=tmp_path / f"{name}.png", return_fig=True)
            assert figure.axes[0].xaxis.label.get_size() == own.get("font.size", 10)
        with Image.open(tmp_path / f"{name}.png") as image:
            size[name] = round(image.info["dpi"][0])
    assert size == {"ours": 300, "theirs": 90}


def test_scanpys_settings_are_kept():
    import scanpy as sc

    with matplotlib.rc_context():
        sc.set_figure_params(fontsize=17, dpi_save=123)
        with pl.style():
            assert matplotlib.rcParams["font.size"] == 17
            assert matplotlib.rcParams["savefig.dpi"] == 123
            assert matplotlib.rcParams["pdf.fonttype"] == 42


def test_save_takes_a_suffix_as_scanpy_does(tmp_path):
    import scanpy as sc

    before, sc.settings.figdir = sc.settings.figdir, tmp_path / "figures"
    try:
        FIGURES["compare"](save="_mine.png")
        FIGURES["compare"](save=".svg")
        FIGURES["compare"](save=True)
        ending = sc.settings.file_format_figs
    finally:
        sc.settings.figdir = before
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"compare_mine.png", "compare.svg", f"compare.{ending}"}


def test_title_and_figsize_are_the_users():
    ax = FIGURES["compare"](title="Mine", figsize=(3.0, 2.0))
    assert ax.get_title(loc="left") == "Mine"
    assert ax.figure.get_size_inches().tolist() == [3.0, 2.0]
    axes = FIGURES["training_curves"](title="Mine", figsize=(3.0, 4.0))
    assert axes[0].figure.get_suptitle() == "Mine"


# -- colours --------------------------------------------------------------------------------------


def test_a_method_has_one_colour_whatever_stands_beside_it():
    alone = _style.colours_of(["PETRI, image"])["PETRI, image"]
    beside = _style.colours_of(["mine", "PCA", "petri (permuted)", "Semi-Clipped"])
    assert beside["petri (permuted)"] == alone == _style.METHODS["petri"]
    assert beside["Semi-Clipped"] == _style.METHODS["semiclipped"]
    assert beside["mine"] not in {alone, beside["PCA"], beside["Semi-Clipped"]}


def test_group_clip_is_not_clip():
    assert _style.method_colour("GroupCLIP") != _style.method_colour("CLIP, rna")


def test_curves_of_one_method_differ_in_their_dashes():
    styles = _style.curve_styles(["PETRI, image", "PETRI, rna", "PETRI permuted"])
    assert len({s["color"] for s in styles.values()}) == 1
    assert len({s["linestyle"] for s in styles.values()}) == 3


def test_dots_of_one_method_differ_in_their_markers_and_a_twin_is_open():
    _, ax = plt.subplots()
    one = pd.DataFrame({"value": [0.5]}, index=["k = 5"])
    _marks.dot_rows(ax, dict.fromkeys(("TIDE", "TIDE, plates apart", "TIDE permuted", "PCA"), one))
    dots = {dot.get_label(): dot for dot in ax.collections}
    outline = {name: len(dot.get_paths()[0].vertices) for name, dot in dots.items()}
    assert outline["TIDE"] == outline["TIDE permuted"] == outline["PCA"]
    assert outline["TIDE, plates apart"] != outline["TIDE"]
    assert (dots["TIDE permuted"].get_facecolor()[0, :3] == 1).all()


def test_a_palette_names_what_it_lacks_and_may_be_a_map():
    with pytest.raises(KeyError, match="'b' is not in `palette`|'b'.*palette"):
        _style.colours_of(["a", "b"], {"a": "red"})
    with pytest.raises(ValueError, match="1 colours for 2 names"):
        _style.colours_of(["a", "b"], ["red"])
    assert len(set(_style.colours_of(list("abcd"), "viridis").values())) == 4


def test_rare_labels_and_controls_are_grey():
    labels = ["a"] * 5 + ["b"] * 4 + ["control"] * 9 + ["c"]
    assert list(_style.label_colours(labels, control=["control"], n_colours=2)) == ["a", "b"]
