"""Tables as other people's programs write them: nothing moves, nothing is lost."""

from __future__ import annotations

import gzip
import io
import sqlite3
import sys
import zipfile
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
import pytest
import tifffile

import cellfuse as cf
from cellfuse._mudata import columns_stay, make_mudata
from cellfuse.io._tables import read_table
from cellfuse.io._values import joined, typed

HEADER = "Metadata_Plate,Metadata_Well,Cells_Area,Cells_Corr"
ROWS = ["0012,A01,310,0.5", "12,A02,290,0.25"]


def table(folder: Path, text: str, name: str = "plate.csv", encoding: str = "utf-8") -> Path:
    file = folder / name
    file.write_bytes(text.encode(encoding))
    return file


def values(plate: ad.AnnData) -> dict[str, list]:
    return {name: plate[:, name].X.ravel().tolist() for name in plate.var_names}


EXPECTED = {"Cells_Area": [310.0, 290.0], "Cells_Corr": [0.5, 0.25]}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{h}\n{r0}\n{r1}\n", "p.csv"),
        ("{h}\r\n{r0}\r\n{r1}\r\n", "p.csv"),
        ("{h}\r{r0}\r{r1}\r", "p.csv"),
        ("{h}\n{r0}\n{r1}", "p.csv"),
        ("{h}\n{r0},\n{r1},\n", "p.csv"),
        ("{h},\n{r0},\n{r1},\n", "p.csv"),
        ("{h},,,\n{r0},,,\n{r1},,,\n,,,,,,\n", "p.csv"),
        ("\n{h}\n\n{r0}\n\n{r1}\n\n\n", "p.csv"),
        ('"{q}"\n"0012","A01","310","0.5"\n"12","A02","290","0.25"\n', "p.csv"),
        ("{t}\n0012\tA01\t310\t0.5\n12\tA02\t290\t0.25\n", "p.tsv"),
        ("{t}\n0012\tA01\t310\t0.5\t\n12\tA02\t290\t0.25\t\n", "p.txt"),
        ("{s}\n0012;A01;310;0.5\n12;A02;290;0.25\n", "p.csv"),
        ("{p}\n0012|A01|310|0.5\n12|A02|290|0.25\n", "p.txt"),
        ("{s}\n0012;A01;310;0,5\n12;A02;290;0,25\n", "p.csv"),
    ],
    ids=[
        "unix", "windows", "old mac", "no end", "comma behind rows", "comma behind all",
        "spreadsheet", "blank lines", "quotes", "tabs", "tab behind rows", "semicolons",
        "bars", "decimal commas",
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])
def test_a_table_means_the_same_however_it_is_written(tmp_path, text, name, encoding):
    text = text.format(
        h=HEADER, t=HEADER.replace(",", "\t"), s=HEADER.replace(",", ";"),
        p=HEADER.replace(",", "|"),
        q=HEADER.replace(",", '","'), r0=ROWS[0], r1=ROWS[1],
    )  # fmt: skip
    plate = cf.io.read_profiles(table(tmp_path, text, name, encoding))
    assert values(plate) == EXPECTED
    assert plate.obs["Metadata_Plate"].tolist() == ["0012", "12"]
    assert plate.obs["Metadata_Well"].tolist() == ["A01", "A02"]
    assert list(plate.obs.columns) == ["Metadata_Plate", "Metadata_Well"]


@pytest.mark.parametrize("packed", ["gz", "zip"])
def test_packed_tables(tmp_path, packed):
    text = "\n".join([HEADER, *ROWS]).encode()
    file = tmp_path / f"p.csv.{packed}"
    if packed == "gz":
        file.write_bytes(gzip.compress(text))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("inner.csv", text)
            archive.writestr("__MACOSX/._inner.csv", b"\0\1")
    assert values(cf.io.read_profiles(file)) == EXPECTED


@pytest.mark.parametrize(
    ("word", "encoding"),
    [("µm", "latin-1"), ("µm", "cp1252"), ("µm", "utf-8"), ("Żółć", "utf-16"), ("5 €", "cp1252")],
)  # fmt: skip
def test_letters_beyond_ascii_are_what_they_were(tmp_path, word, encoding):
    file = table(tmp_path, f"Metadata_dose,Cells_Area\n{word},1\n", encoding=encoding)
    assert cf.io.read_profiles(file).obs["Metadata_dose"].tolist() == [word]


def test_r_leaves_the_name_of_its_first_column_away(tmp_path):
    file = table(tmp_path, 'Metadata_Well\tCells_Area\n"1"\t"A01"\t310\n"2"\t"A02"\t290\n', "p.tsv")
    plate = cf.io.read_profiles(file)
    assert plate.obs["Metadata_Well"].tolist() == ["A01", "A02"]
    assert values(plate) == {"Cells_Area": [310, 290]}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Metadata_Well,Cells_A,Cells_B\nA01,1,2\nA02,3\n", "line 3 has 2 fields"),
        ("Metadata_Well,Cells_A\nA01,1,7\nA02,3\n", "line 2 has 3 fields"),
        ("Metadata_Well,Cells_A\nA01,1\nA02,3,4,5\n", "line 3 has 4 fields"),
        ('Metadata_Well,Cells_A\n"A,01",1\nA,02,3\n', "line 3 has 3 fields"),
        ("", "it is empty"),
        ("\n\n", "it is empty"),
    ],
)
def test_rows_that_do_not_fit_their_header_are_named(tmp_path, text, what):
    with pytest.raises(ValueError, match=rf"plate.csv'.*{what}"):
        cf.io.read_profiles(table(tmp_path, text))


def test_a_header_alone_holds_no_profile(tmp_path):
    for text in (HEADER, HEADER + "\n", HEADER + ",\n"):
        with pytest.raises(ValueError, match="holds no profile"):
            cf.io.read_profiles(table(tmp_path, text))


def test_files_of_other_kinds_say_what_they_are(tmp_path):
    workbook = tmp_path / "w.csv"
    with zipfile.ZipFile(workbook, "w") as archive:
        archive.writestr("[Content_Types].xml", "x")
    with pytest.raises(ValueError, match="w.csv' is an Excel workbook: save it as CSV"):
        cf.io.read_profiles(workbook)
    for name, start in (("old.csv", b"\xd0\xcf\x11\xe0"), ("h.csv", b"\x89HDF\r\n\x1a\n")):
        (tmp_path / name).write_bytes(start + b"\0" * 100)
        with pytest.raises(ValueError, match=f"{name}' is an (Excel|HDF5)"):
            cf.io.read_profiles(tmp_path / name)
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)) * 10)
    with pytest.raises(ValueError, match="noise.csv'.*zero bytes, and is no text"):
        cf.io.read_profiles(tmp_path / "noise.csv")


# -- numbers and words ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gap",
    "|nan|NaN|NA|N/A|null|None|none|-nan(ind)|-nan|#DIV/0!|1.#QNAN|#N/A".split("|"),
)
def test_a_missing_number_is_missing_whatever_it_is_called(tmp_path, gap, caplog):
    rows = "".join(f"A{i:02d},{i},{i / 4}\n" for i in range(1, 6))
    file = table(tmp_path, f"Metadata_Well,Cells_Area,Cells_Corr\nA00,0,{gap}\n{rows}")
    with caplog.at_level("INFO", "cellfuse"):
        plate = cf.io.read_profiles(file)
    np.testing.assert_array_equal(
        plate[:, "Cells_Corr"].X.ravel(), [np.nan, 0.25, 0.5, 0.75, 1, 1.25]
    )
    assert "Cells_Corr" in caplog.text


@pytest.mark.parametrize("word", ["big", "0.5a", "1,5", "1 000", "--"])
def test_a_word_among_numbers_is_named(tmp_path, word):
    quoted = f'"{word}"'
    file = table(tmp_path, f"Metadata_Well,Cells_A,Cells_B\nA1,1,2\nA2,{quoted},3\nA3,2,4\n")
    with pytest.raises(ValueError, match=f"column 'Cells_A' of .*the word {word!r} .row 2."):
        cf.io.read_profiles(file)
    kept = cf.io.read_profiles(file, metadata=["Cells_A"])
    assert kept.obs["Cells_A"].tolist() == ["1", word, "2"]
    assert list(kept.var_names) == ["Cells_B"]
    with pytest.raises(ValueError, match="'Cells_A'"):
        cf.io.read_profiles(file, features=["Cells_A", "Cells_B"])


def test_words_of_metadata_are_kept_and_told_of(tmp_path, caplog):
    genes = ["nan", "NA", "null", "None", "iav"]
    rows = "".join(f"{gene},{i}\n" for i, gene in enumerate(genes))
    file = table(tmp_path, f"Metadata_gene,Cells_A\n{rows},5\n")
    with caplog.at_level("WARNING", "cellfuse"):
        plate = cf.io.read_profiles(file)
    assert plate.obs["Metadata_gene"].tolist()[:-1] == genes
    assert plate.obs["Metadata_gene"].isna().tolist() == [False] * 5 + [True]
    assert "'Metadata_gene' holds 'NA (1)', 'None (1)', 'nan (1)', 'null (1)', kept" in caplog.text
    fewer = cf.io.read_profiles(file, missing=["", "NA"])
    assert fewer.obs["Metadata_gene"].isna().tolist() == [False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["12", "7"], [12, 7]),
        (["0012", "12"], ["0012", "12"]),
        (["007", ""], ["007", None]),
        (["2E10", "1E5"], ["2E10", "1E5"]),
        (["1e-05", "2.5"], [1e-05, 2.5]),
        (["1.0", "NA"], [1.0, None]),
        (["True", "False"], [True, False]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["9007199254740993", ""], ["9007199254740993", None]),
        (["-666", ""], [-666.0, None]),
        (["inf", "INFO"], ["inf", "INFO"]),
        (["", "NA"], [None, None]),
        (["A01", "1"], ["A01", "1"]),
    ],
)
def test_what_a_column_is(written, expected):
    found = typed(written)
    assert [None if v != v else v for v in found.tolist()] == expected
    assert all(type(v) in (type(e), float) for v, e in zip(found.tolist(), expected, strict=True))


def test_types_are_the_same_over_plates(tmp_path):
    first = table(tmp_path, "Metadata_Plate,Metadata_dose,Cells_A\n41001,1,1\n", "p1.csv")
    second = table(tmp_path, "Metadata_Plate,Metadata_dose,Cells_A\nBR7,vehicle,1\n", "p2.csv")
    plates = cf.io.read_profiles([first, second])
    assert plates.obs["Metadata_Plate"].tolist() == ["41001", "BR7"]
    assert plates.obs["Metadata_dose"].tolist() == ["1", "vehicle"]
    third = table(tmp_path, "Metadata_Plate,Cells_A\n0012,1\n", "p3.csv")
    more = cf.io.read_profiles([first, third])
    assert more.obs["Metadata_Plate"].tolist() == ["41001", "0012"]
    np.testing.assert_array_equal(more.obs["Metadata_dose"], [1, np.nan])
    frame = pd.DataFrame({"Metadata_Plate": [7.0], "Cells_A": [1.0]})
    frame.to_parquet(tmp_path / "p4.parquet")
    mixed = cf.io.read_profiles([second, tmp_path / "p4.parquet"])
    assert mixed.obs["Metadata_Plate"].tolist() == ["BR7", "7"]


def test_columns_of_several_files_are_of_one_type():
    assert joined([pd.Series([1, 2]), pd.Series([3.5])]).tolist() == [1, 2, 3.5]
    assert joined([pd.Series([1.0]), pd.Series(["x"]), pd.Series([2])]).tolist() == ["1", "x", "2"]
    whole = joined([pd.Series([1, None], dtype="Int64"), pd.Series([2])])
    np.testing.assert_array_equal(whole, [1, np.nan, 2])
    assert joined([pd.Series([None]), pd.Series([None])]).dtype == np.float64


def test_a_column_named_twice_must_say_the_same(tmp_path):
    same = table(tmp_path, "Metadata_Well,Metadata_Well,Cells_A\nA1,A1,1\nA2,A2,2\n")
    assert list(cf.io.read_profiles(same).obs.columns) == ["Metadata_Well"]
    for text in (
        "Metadata_Well,Cells_A,Cells_A\nA1,1,2\n",
        "Metadata_X,Metadata_X,Cells_A\n1,2,3\n",
    ):
        with pytest.raises(ValueError, match="two columns '.*' .numbers . and .. with different"):
            cf.io.read_profiles(table(tmp_path, text))


# -- bookkeeping ----------------------------------------------------------------------------------

BOOKKEEPING = [
    "ImageNumber", "ObjectNumber", "TableNumber", "Number_Object_Number", "Parent_Cells",
    "Children_Nuclei_Count", "Metadata_Site", "Group_Number", "Group_Index", "ExecutionTime_01",
    "ModuleError_01", "Height_DNA", "Width_DNA", "Scaling_DNA", "Series_DNA", "Frame_DNA",
    "ImageSet_ImageSet", "ProcessingStatus", "URL_DNA", "MD5Digest_DNA",
]  # fmt: skip


@pytest.mark.parametrize("compartment", ["", "Image_", "Cells_", "Metadata_", "Cytoplasm_"])
def test_bookkeeping_is_no_feature(tmp_path, compartment):
    names = [compartment + name for name in BOOKKEEPING]
    features = [
        "Cells_AreaShape_Area",
        "Nuclei_Texture_Height",
        "Cells_Neighbors_NumberOfNeighbors_5",
    ]
    line = ",".join(str(i) for i in range(len(names) + len(features)))
    file = table(tmp_path, ",".join([*names, *features]) + f"\n{line}\n{line}\n")
    plate = cf.io.read_profiles(file)
    assert list(plate.var_names) == features
    assert set(names) <= set(plate.obs.columns)


@pytest.mark.parametrize(
    "name", ["Plate", "well", "Row", "Column", "Field", "Timepoint", "barcode", "Dose"]
)
def test_numbers_of_other_programs_are_metadata(tmp_path, name):
    plate = cf.io.read_profiles(table(tmp_path, f"{name},Area\n1,310\n2,290\n"))
    assert list(plate.var_names) == ["Area"]
    assert plate.obs[name].tolist() == [1, 2]


def test_prefixes_of_the_image_are_stripped_too(tmp_path):
    file = table(tmp_path, "Image_Metadata_Well,Metadata_Plate,Cells_A\nA1,p,1\n")
    assert list(cf.io.read_profiles(file, strip_prefix=True).obs.columns) == ["Well", "Plate"]


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    pd.DataFrame({"Metadata_Well": ["A1"], "Cells_A": [1.0]}).to_parquet(tmp_path / "p.parquet")

    def refuse(*_args, **_options):
        raise ImportError("Missing optional dependency 'pyarrow'.")

    monkeypatch.setattr(pd, "read_parquet", refuse)
    with pytest.raises(ImportError, match=r"pip install cellfuse\[parquet\]"):
        cf.io.read_profiles(tmp_path / "p.parquet")


def test_a_harmony_export_keeps_its_plate_and_its_superscripts(tmp_path):
    text = (
        "Database Name\tLab\nEvaluation\tEvaluation1\nPlate Name\t0012\n\n[Data]\n"
        "Row\tColumn\tField\tCompound\tNuclei - Nucleus Area [µm²] - Mean per Well\tNuclei - N\t\n"
        "1\t2\t1\tDMSO\t98.5\tNaN\t\n1\t3\t1\tx\t97\t12\t\n"
    )
    for encoding in ("utf-8-sig", "latin-1", "utf-16"):
        plate = cf.io.read_profiles(table(tmp_path, text, "PlateResults.txt", encoding))
        area = "Nuclei - Nucleus Area [µm²] - Mean per Well"
        assert list(plate.var_names) == [area, "Nuclei - N"]
        assert plate.obs["Plate Name"].tolist() == ["0012", "0012"]
        assert plate.obs["Row"].tolist() == [1, 1]
        np.testing.assert_array_equal(plate.X[:, 1], np.float32([np.nan, 12]))


# -- databases ------------------------------------------------------------------------------------


def database(path: Path, prefix: str = "") -> Path:
    cells = pd.DataFrame(
        {"ImageNumber": [1, 1, 2], "ObjectNumber": [1, 2, 1], "Cells_Area": [10.0, 20, 30]}
    )
    nuclei = cells.rename(columns={"Cells_Area": "Nuclei_Area"}).iloc[::-1]
    middle = pd.DataFrame(
        {"ImageNumber": [1, 1, 2], "ObjectNumber": [1, 2, 1], "Cytoplasm_Parent_Cells": [2, 1, 1],
         "Cytoplasm_Parent_Nuclei": [2, 1, 1], "Cytoplasm_Area": ["1", "nan", "3"]}
    )  # fmt: skip
    image = pd.DataFrame(
        {"ImageNumber": [1, 2], "Image_Metadata_Well": ["A01", "A02"],
         "Image_Metadata_Plate": ["0012", "0012"],
         "Image_ExecutionTime_01": [0.1, 0.2], "Image_Count_Cells": [2, 1]}
    )  # fmt: skip
    names = {"Image": image, "Cells": cells, "Nuclei": nuclei, "Cytoplasm": middle}
    with sqlite3.connect(path) as stored:
        for name, frame in names.items():
            frame.to_sql(f"{prefix}{name}", stored, index=False)
    stored.close()
    return path


@pytest.mark.parametrize("prefix", ["", "MyExpt_Per_"])
def test_a_database_of_cellprofiler_is_one_row_per_cell(tmp_path, prefix):
    cells = cf.io.read_profiles(database(tmp_path / "out.sqlite", prefix))
    assert sorted(cells.var_names) == [
        "Cells_Area",
        "Cytoplasm_Area",
        "Image_Count_Cells",
        "Nuclei_Area",
    ]
    order = cells.obs["Cells_ObjectNumber"].to_numpy() + 10 * cells.obs["ImageNumber"].to_numpy()
    cells = cells[np.argsort(order)]
    assert cells[:, "Cells_Area"].X.ravel().tolist() == [10, 20, 30]
    assert cells[:, "Nuclei_Area"].X.ravel().tolist() == [10, 20, 30]
    np.testing.assert_array_equal(cells[:, "Cytoplasm_Area"].X.ravel(), [np.nan, 1, 3])
    assert cells.obs["Image_Metadata_Well"].tolist() == ["A01", "A01", "A02"]
    assert cells.obs["Image_Metadata_Plate"].tolist() == ["0012"] * 3


def test_databases_without_what_is_needed_say_so(tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as stored:
        pd.DataFrame({"a": [1]}).to_sql("things", stored, index=False)
    stored.close()
    with pytest.raises(ValueError, match="no database of CellProfiler.*found 'things'"):
        cf.io.read_profiles(tmp_path / "other.sqlite")
    (tmp_path / "text.db").write_text("no database")
    with pytest.raises(ValueError, match="text.db' cannot be read as an SQLite database"):
        cf.io.read_profiles(tmp_path / "text.db")
    with sqlite3.connect(database(tmp_path / "loose.sqlite")) as stored:
        stored.execute('ALTER TABLE "Cytoplasm" DROP COLUMN "Cytoplasm_Parent_Cells"')
    stored.close()
    with pytest.raises(ValueError, match="nothing in .* joins 'Cells' to"):
        cf.io.read_profiles(tmp_path / "loose.sqlite")


def changed(path, name, change):
    """A database whose table `name` is what `change` makes of it."""
    with sqlite3.connect(database(path)) as stored:
        frame = pd.read_sql_query(f'SELECT * FROM "{name}"', stored)
        change(frame).to_sql(name, stored, index=False, if_exists="replace")
    stored.close()
    return path


@pytest.mark.parametrize("name", ["Image", "Cells", "Cytoplasm"])
def test_what_stands_twice_in_a_database_is_told(tmp_path, name):
    path = changed(tmp_path / "twice.sqlite", name, lambda x: pd.concat([x, x.iloc[:1]]))
    what = "images" if name == "Image" else name
    with pytest.raises(
        ValueError, match=f"1 rows of the table of {what} in .*ImageNumber 1.*two runs"
    ):
        cf.io.read_profiles(path)


@pytest.mark.parametrize("name", ["Image", "Cells", "Cytoplasm"])
def test_keys_that_a_database_holds_as_text_meet_numbers(tmp_path, name):
    wanted = cf.io.read_profiles(database(tmp_path / "plain.sqlite"))
    keys = ["ImageNumber", "ObjectNumber", "Cytoplasm_Parent_Cells"]
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = changed(
        folder / "plain.sqlite",
        name,
        lambda x: x.astype(dict.fromkeys(x.columns.intersection(keys), str)),
    )
    found = cf.io.read_profiles(texts)
    np.testing.assert_array_equal(found.X, wanted.X)
    pd.testing.assert_frame_equal(found.obs, wanted.obs)


# -- what is read can be written ------------------------------------------------------------------


def gct(path: Path, text: str, encoding: str = "utf-8") -> ad.AnnData:
    path.write_bytes(text.encode(encoding))
    return cf.io.read_gct(path)


GCT = (
    "#1.3\n2\t3\t3\t4\nid\tsym\tnote\tdesc/long\tA01\tA02\tA03\n"
    "dose\tna\tna\tna\t0.1\t-666\t3\npert\tna\tna\tna\tDMSO\tna\tx\n"
    "empty\tna\tna\tna\tna\tna\tna\nplate\tna\tna\tna\t0012\t12\t7\n"
    "g1\tnan\t-666\tfirst\t1.5\t2\t3\ng2\tMYC\t-666\tna\t4\tnan\t6\n"
)


def test_gct_of_every_kind_is_written_and_read_back(tmp_path):
    plate = gct(tmp_path / "x.gct", GCT)
    assert plate.var["sym"].tolist() == ["nan", "MYC"]
    assert plate.obs["plate"].tolist() == ["0012", "12", "7"]
    assert plate.obs["empty"].dtype == np.float64
    same_after_writing(plate, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_gct_in_other_encodings_and_with_quotes(tmp_path, encoding):
    text = GCT.replace("DMSO", '"DMSO µ"').replace("A01", '"A01"').replace("#1.3", '"#1.3"')
    plate = gct(tmp_path / "x.gct", text, encoding)
    assert plate.obs["pert"].tolist()[0] == "DMSO µ"
    assert plate.obs_names.tolist() == ["A01", "A02", "A03"]
    behind = gct(tmp_path / "y.gct", GCT.replace("\n", "\t\t\n"))
    assert behind.shape == (3, 2)
    np.testing.assert_array_equal(behind.X, plate.X)


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("note", "sym", "field names that occur twice: 'sym'"),
        ("pert", "dose", "field names that occur twice: 'dose'"),
        ("\ng2\t", "\ng1\t", "row names that occur twice: 'g1'"),
    ],
)
def test_gct_names_that_occur_twice_are_errors(tmp_path, old, new, what):
    with pytest.raises(ValueError, match=rf"x.gct' has {what}"):
        gct(tmp_path / "x.gct", GCT.replace(old, new))


def same_after_writing(data: ad.AnnData, folder: Path) -> None:
    """h5ad and h5mu hold what was read: values, names, and which are missing."""
    data.write_h5ad(folder / "written.h5ad")
    with columns_stay():
        make_mudata({"m": data}).write_h5mu(folder / "written.h5mu")
        found = [ad.read_h5ad(folder / "written.h5ad"), md.read_h5mu(folder / "written.h5mu")["m"]]
    for back in found:
        assert (back.X is None) == (data.X is None)
        if data.X is not None:
            np.testing.assert_array_equal(back.X, data.X)
        assert list(back.obs_names) == list(data.obs_names)
        assert list(back.var_names) == list(data.var_names)
        for old, new in ((data.obs, back.obs), (data.var, back.var)):
            assert list(old.columns) == list(new.columns)
            for name in old.columns:
                assert old[name].isna().tolist() == new[name].isna().tolist()
                there = old[name].notna().to_numpy()
                assert old[name][there].tolist() == new[name][there].tolist(), name


@pytest.mark.parametrize("kind", ["csv", "parquet", "sqlite", "harmony"])
def test_profiles_of_every_kind_are_written_and_read_back(tmp_path, kind):
    columns = {
        "Metadata_Plate": ["0012", "12", "7"], "Metadata_gene": ["nan", None, "TP53"],
        "Metadata_note": [None] * 3, "Metadata_a/b": ["x", "y", "z"],
        "Metadata_n": [1.0, None, 3.0], "Metadata_ok": [True, False, True],
        "_index": ["p", "q", "r"],
        "Cells_A": [1.0, 2.0, None],
    }  # fmt: skip
    frame = pd.DataFrame(columns)
    file = tmp_path / f"p.{kind}"
    if kind == "csv":
        frame.to_csv(file, index=False)
    elif kind == "parquet":
        frame.assign(
            Metadata_cat=pd.Categorical(["u", "v", None]), Metadata_list=[[1], [2], [3]]
        ).to_parquet(file)
    elif kind == "harmony":
        file = tmp_path / "p.txt"
        stream = io.StringIO()
        frame.to_csv(stream, index=False, sep="\t")
        file.write_text("Plate Name\tx\n[Data]\n" + stream.getvalue())
    else:
        database(file)
    same_after_writing(cf.io.read_profiles(file), tmp_path)


# -- other readers of tables ----------------------------------------------------------------------


def test_genes_called_nan_or_na_are_genes_in_every_table(tmp_path):
    names = ["nan", "NA", "null", "None"]
    rows = "".join(f"{name},TP53\n" for name in names)
    for header in ("source,target", "entity1,entity2"):
        file = table(tmp_path, f"{header}\n{rows}", encoding="utf-8-sig")
        assert set(cf.datasets.reactome(path=file).to_numpy().ravel()) == {*names, "TP53"}
    drugs = table(tmp_path, "pert_iname,target\nx,nan|NA\nnull,TP53\ny,\n", "drugs.csv")
    found = cf.datasets.drug_targets(path=drugs)
    assert found["target"].tolist() == ["nan", "NA", "TP53"]
    assert found["drug"].tolist() == ["x", "x", "null"]


def test_a_table_is_read_as_text_unless_numbers_are_asked_for(tmp_path):
    file = table(tmp_path, "a,b\n0012,1\nNA,2\n")
    assert read_table(file).to_dict("list") == {"a": ["0012", "NA"], "b": ["1", "2"]}
    assert read_table(file, numeric=lambda name: name == "b")["b"].tolist() == [1, 2]


@pytest.mark.skipif(sys.platform == "win32", reason="a sparse file")
def test_a_packed_file_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    from cellfuse.io import _text

    monkeypatch.setattr(_text, "FREE_BYTES", 1 << 16)
    bomb = b"Metadata_Well,Cells_A\n" + b"A1,1\n" * 2_000_000
    (tmp_path / "p.csv.gz").write_bytes(gzip.compress(bomb))
    with pytest.raises(ValueError, match="p.csv.gz' claims to hold .* made to fill the memory"):
        cf.io.read_profiles(tmp_path / "p.csv.gz")
    with zipfile.ZipFile(tmp_path / "p.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("p.csv", bomb)
    with pytest.raises(ValueError, match="p.csv.zip' claims to hold"):
        cf.io.read_profiles(tmp_path / "p.csv.zip")


def test_images_and_crops_are_written_and_read_back(tmp_path):
    for channel in ("DAPI", "GFP"):
        tifffile.imwrite(tmp_path / f"A1_²_{channel}.tif", np.ones((16, 20), np.uint16))
    labels = np.zeros((16, 20), np.uint8)
    labels[3:6, 3:6], labels[9:12, 9:12] = 1, 2
    tifffile.imwrite(tmp_path / "A1_²_cells.tif", labels)
    fields = cf.io.read_fields(
        tmp_path,
        pattern=r"(?P<well>\w\d)_(?P<site>.)_(?P<channel>DAPI|GFP)",
        labels_pattern=r"(?P<well>\w\d)_(?P<site>.)_cells",
    )
    cells = cf.pp.crop_cells(fields, size=6)
    same_after_writing(cells, tmp_path)
    opened = cf.io.read_crops(tmp_path / "written.h5ad")
    opened.write_h5ad(tmp_path / "again.h5ad")
    again = cf.io.read_crops(tmp_path / "again.h5ad")
    np.testing.assert_array_equal(again.obsm["crops"][...], cells.obsm["crops"])
    assert again.obs["site"].tolist() == ["²", "²"]
    assert list(again.uns["channels"]) == ["DAPI", "GFP"]


def test_numbers_that_are_text_in_parquet_are_told(tmp_path, caplog):
    frame = pd.DataFrame({"Cells_A": [1.0, 2, 3], "Cells_B": ["0.5", "-nan(ind)", "1"]})
    frame.to_parquet(tmp_path / "p.parquet")
    plate = cf.io.read_profiles(tmp_path / "p.parquet")
    assert list(plate.var_names) == ["Cells_A"]
    assert "column 'Cells_B' is text in the file, although most of it is numbers" in caplog.text
    named = cf.io.read_profiles(tmp_path / "p.parquet", features=["Cells_B"])
    np.testing.assert_array_equal(named.X[:, 0], [0.5, np.nan, 1])
