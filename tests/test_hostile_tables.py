"""Tables, GCT and assignments as they come out of spreadsheets, servers and other programs."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
PAGE = "<!DOCTYPE html>\n<html><body>404</body></html>\n"


def read(tmp_path, text, name="plate.csv"):
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return (cf.io.read_gct if name.endswith(".gct") else cf.io.read_profiles)(file)


@pytest.mark.parametrize("name", ["plate.csv", "plate.tsv", "plate.gct"])
@pytest.mark.parametrize(("text", "what"), [(LFS, "git lfs pull"), (PAGE, "a web page")])
def test_what_stands_in_for_a_file_is_told(tmp_path, name, text, what):
    with pytest.raises(ValueError, match=rf"{name}' is .*{what}"):
        read(tmp_path, text, name)


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"'])
def test_the_separator_of_excel_is_no_header(tmp_path, first):
    plate = read(tmp_path, f"{first}\nMetadata_Well;Area\nA1;1,5\nA2;2\n")
    assert plate[:, "Area"].X.ravel().tolist() == [1.5, 2.0]
    assert plate.obs["Metadata_Well"].tolist() == ["A1", "A2"]


@pytest.mark.parametrize("marked", [("5%", "6 %"), ('"1,5"', '"2,25"'), ('"1,234.5"', "\u22121.5")])
def test_numbers_with_marks_are_not_dropped_in_silence(tmp_path, caplog, marked):
    text = "Metadata_Well,Area,Share\nA1,1,{}\nA2,2,{}\n".format(*marked)
    with caplog.at_level("WARNING", logger="cellfuse"):
        assert read(tmp_path, text).var_names.tolist() == ["Area"]
    assert "column 'Share' holds numbers with marks" in caplog.text


@pytest.mark.parametrize("words", [("4.2.1", "4.2.5"), ("2021-01-02", "2021-01-03"), ("a", "5 b")])
def test_versions_dates_and_words_are_no_numbers_with_marks(tmp_path, caplog, words):
    text = "Metadata_Well,Area,Made\nA1,1,{}\nA2,2,{}\n".format(*words)
    with caplog.at_level("WARNING", logger="cellfuse"):
        assert read(tmp_path, text).obs["Made"].tolist() == list(words)
    assert not caplog.text


@pytest.mark.parametrize("name", ["level_0", "level_1", "index", "Unnamed: 0"])
def test_the_rows_that_pandas_numbered_are_no_feature(tmp_path, name):
    plate = read(tmp_path, f"{name},Metadata_Well,Area\n0,A1,1\n1,A2,2\n")
    assert plate.var_names.tolist() == ["Area"]


@pytest.mark.parametrize(
    ("row", "word"), [("(name),um", "'um'"), ("Well,Area", "'Area'"), ("A9,0x1F", "'0x1F'")]
)
def test_a_row_that_is_no_profile_is_named(tmp_path, row, word):
    text = f"Metadata_Well,Area\nA1,1\n{row}\nA2,2\nA3,3\n"
    with pytest.raises(ValueError, match=rf"'Area'.*{word} \(row 2\) among 3 numbers"):
        read(tmp_path, text)


GCT = "#1.3\n2\t2\t1\t1\nid\tsymbol\tA\tB\ndose\tna\t{}\ng1\tTP53\t{}\n{}\tMYC\t3\t4\n"


@pytest.mark.parametrize("gap", ["-666", "-666.0", "-666.000", "na"])
def test_every_spelling_of_nothing_in_gct_metadata(tmp_path, gap):
    plate = read(tmp_path, GCT.format(f"{gap}\t2", "1\t2", "g2"), "x.gct")
    assert plate.obs["dose"].isna().tolist() == [True, False]


@pytest.mark.parametrize(
    ("value", "what"), [("inf", "infinite"), ("1e39", "infinite"), ("-666", "-666, which")]
)
def test_numbers_of_a_gct_that_are_seldom_meant_are_told(tmp_path, caplog, value, what):
    with caplog.at_level("WARNING", logger="cellfuse"):
        read(tmp_path, GCT.format("1\t2", f"{value}\t2", "g2"), "x.gct")
    assert f"1 values are {what}" in caplog.text
    assert "'g1'" in caplog.text


@pytest.mark.parametrize("value", ["1e400", "1,5", "0x10", "1_0", "True", "high"])
def test_a_word_in_the_matrix_of_a_gct_is_named(tmp_path, value):
    with pytest.raises(ValueError, match=rf"'{value}' in row 'g1', column number 1 of 2"):
        read(tmp_path, GCT.format("1\t2", f"{value}\t2", "g2"), "x.gct")


def test_a_row_of_a_gct_without_a_name_is_told(tmp_path):
    with pytest.raises(ValueError, match="row number 2 of 2 .* has no name"):
        read(tmp_path, GCT.format("1\t2", "1\t2", ""), "x.gct")


CELLS = list("wxyz")


def assigned(matrix, **options):
    cells = ad.AnnData(np.ones((4, 2), np.float32), obs=pd.DataFrame(index=CELLS))
    return cf.io.guides_from_matrix(cells, matrix, **options).obs["guide"].astype(object)


def calls(names=("g1", "g2")):
    return pd.DataFrame([[1, 0], [0, 1], [1, 0], [0, 1]], index=CELLS, columns=list(names))


def test_guides_that_are_numbers_are_written_as_every_label():
    assert assigned(calls([7157.0, 1956.0])).tolist() == ["7157", "1956", "7157", "1956"]


@pytest.mark.parametrize("name", ["", None, np.nan])
def test_a_guide_without_a_name_is_refused(name):
    with pytest.raises(ValueError, match="1 of 2 guides of the matrix have no name.*column 1"):
        assigned(calls(["g1", name]))


@pytest.mark.parametrize("key", ["a/b", "n_guides", ""])
def test_a_key_for_guides_that_holds_nothing_is_refused(key):
    with pytest.raises(ValueError, match="key_added="):
        assigned(calls(), key_added=key)


def test_guides_without_counts_are_refused():
    table = calls()
    empty = ad.AnnData(obs=table.iloc[:, :0], var=pd.DataFrame(index=table.columns))
    with pytest.raises(ValueError, match="has no X"):
        assigned(empty)


@pytest.mark.filterwarnings("ignore:.*stand once for each")
def test_cells_dealt_out_never_take_the_name_of_another():
    cells = ad.AnnData(np.ones((2, 1), np.float32), obs=pd.DataFrame(index=["a", "a-g1"]))
    matrix = pd.DataFrame({"g1": [1, 1], "g2": [1, 0]}, index=cells.obs_names)
    with pytest.raises(ValueError, match="called like others: 'a-g1'"):
        cf.io.guides_from_matrix(cells, matrix, multiple="deal")
