"""Tables of profiles and GCT files."""

from __future__ import annotations

import gzip
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cellfuse as cf
from cellfuse.io._values import typed

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# -- profiles -------------------------------------------------------------------------------------


def profiles(n: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Metadata_Plate": "p1",
            "Metadata_Well": [f"A{i:02d}" for i in range(n)],
            "Metadata_dose": np.arange(n) / 2,
            "ImageNumber": range(n),
            "Cells_Parent_Nuclei": range(n),
            "Cells_Number_Object_Number": range(n),
            "Cells_AreaShape_Area": np.linspace(100, 200, n),
            "Nuclei_Texture_X": range(n),
            "FileName_DNA": "x.tif",
        }
    )


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "parquet"])
def test_profiles_of_every_kind_of_table(tmp_path, suffix):
    file = tmp_path / f"p1.{suffix}"
    if suffix == "parquet":
        profiles().to_parquet(file)
    else:
        profiles().to_csv(file, index=False, sep="\t" if suffix == "tsv" else ",")
    plate = cf.io.read_profiles(file)
    assert list(plate.var_names) == ["Cells_AreaShape_Area", "Nuclei_Texture_X"]
    assert plate.X.dtype == np.float32
    np.testing.assert_allclose(plate.X[:, 0], np.linspace(100, 200, 4))
    assert plate.obs["Metadata_dose"].tolist() == [0, 0.5, 1, 1.5]
    assert {"ImageNumber", "FileName_DNA", "Cells_Parent_Nuclei"} <= set(plate.obs.columns)
    assert plate.obs_names.tolist() == ["p1:0", "p1:1", "p1:2", "p1:3"]


def test_plates_are_joined_and_named(tmp_path):
    for plate in ("p1", "p2"):
        table = profiles().assign(Metadata_Plate=plate)
        table = table[table.columns[::-1]] if plate == "p2" else table
        table.to_csv(tmp_path / f"{plate}.csv", index=False)
    files = [tmp_path / "p1.csv", tmp_path / "p2.csv"]
    both = cf.io.read_profiles(
        files, strip_prefix=True, obs_names=["Metadata_Plate", "Metadata_Well"]
    )
    assert both.shape == (8, 2)
    np.testing.assert_array_equal(both.X[:4], both.X[4:])
    assert both.obs["Plate"].tolist() == ["p1"] * 4 + ["p2"] * 4
    assert both.obs_names[5] == "p2_A01"
    with pytest.raises(ValueError, match="profiles have the same name: 'A00'"):
        cf.io.read_profiles(files, obs_names="Metadata_Well")
    profiles().assign(Cells_new=1.0).to_csv(files[1], index=False)
    with pytest.raises(
        ValueError, match=r"p1.csv' and '.*p2.csv' differ in 1 features: 'Cells_new'"
    ):
        cf.io.read_profiles(files)
    chosen = cf.io.read_profiles(files, features=["Nuclei_Texture_X"])
    assert chosen.shape == (8, 1)


def test_missing_features_are_kept_or_dropped(tmp_path, caplog):
    table = profiles()
    table["Nuclei_Texture_X"] = [0, np.inf, 2, 3]
    table.to_csv(tmp_path / "p1.csv", index=False)
    with caplog.at_level("INFO", "cellfuse"):
        assert cf.io.read_profiles(tmp_path / "p1.csv").n_vars == 2
    assert "1 features have missing or infinite values: 'Nuclei_Texture_X'" in caplog.text
    kept = cf.io.read_profiles(tmp_path / "p1.csv", drop_missing=True)
    assert list(kept.var_names) == ["Cells_AreaShape_Area"]


def test_tables_that_are_no_profiles_are_refused(tmp_path):
    file = tmp_path / "p1.csv"
    with pytest.raises(FileNotFoundError, match="p1.csv"):
        cf.io.read_profiles(file)
    file.write_text("Metadata_Well,Cells_Area\n")
    with pytest.raises(ValueError, match="p1.csv' holds no profile"):
        cf.io.read_profiles(file)
    file.write_text("Metadata_Well,Cells_Area\nA1,big\n")
    with pytest.raises(ValueError, match="no numeric column beside the metadata"):
        cf.io.read_profiles(file)
    with pytest.raises(ValueError, match="column 'Cells_Area' of .*p1.csv' is no feature"):
        cf.io.read_profiles(file, features=["Cells_Area"])
    with pytest.raises(KeyError, match="Did you mean 'Cells_Area'"):
        cf.io.read_profiles(file, features=["Cells_Arex"])
    whole = tmp_path / "p2.csv.gz"
    whole.write_bytes(gzip.compress(profiles().to_csv().encode())[:-20])
    with pytest.raises(ValueError, match="p2.csv.gz' cannot be read as a table"):
        cf.io.read_profiles(whole)
    (tmp_path / "p3.xlsx").write_text("")
    with pytest.raises(ValueError, match=r"p3.xlsx' cannot be read as a table: its name"):
        cf.io.read_profiles(tmp_path / "p3.xlsx")


# -- GCT ------------------------------------------------------------------------------------------

GCT13 = (
    "#1.3\n3\t2\t2\t2\nid\tsymbol\tentrez\tA01\tA02\n"
    "dose\tna\tna\t0.1\t-666\nname\tna\tna\tDMSO\tna\n"
    "g1\tTP53\t7157\t1.5\t2\ng2\tMYC\t4609\t3\tnan\ng3\tna\t5\t-666\t1e3\n"
)
GCT12 = "#1.2\n2\t2\nName\tDescription\ts1\ts2\ng1\tfirst\t1\t2\ng2\tsecond\t3\t4\n"


def write_gct(path: Path, text: str) -> Path:
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.gct", "x.gct.gz"])
def test_gct_with_metadata(tmp_path, name):
    plate = cf.io.read_gct(write_gct(tmp_path / name, GCT13))
    expected = np.array([[1.5, 3, -666], [2, np.nan, 1000]], np.float32)
    np.testing.assert_array_equal(plate.X, expected)
    assert plate.X.dtype == np.float32
    assert plate.obs_names.tolist() == ["A01", "A02"]
    assert plate.var_names.tolist() == ["g1", "g2", "g3"]
    assert plate.obs["dose"].iloc[0] == 0.1
    assert plate.obs.isna().to_numpy().tolist() == [[False, False], [True, True]]
    assert plate.var["entrez"].tolist() == [7157, 4609, 5]
    assert plate.var["symbol"].isna().tolist() == [False, False, True]
    chosen = cf.io.read_gct(tmp_path / name, samples=["A02"])
    np.testing.assert_array_equal(chosen.X, expected[1:])


def test_gct_of_the_older_version_and_of_other_systems(tmp_path):
    plain = cf.io.read_gct(write_gct(tmp_path / "x.gct", GCT12))
    assert plain.X.tolist() == [[1, 3], [2, 4]]
    assert plain.var["Description"].tolist() == ["first", "second"]
    dos = cf.io.read_gct(write_gct(tmp_path / "y.gct", GCT12.replace("\n", "\r\n") + "\r\n"))
    assert dos.X.tolist() == plain.X.tolist()
    assert dos.obs_names.tolist() == ["s1", "s2"]


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("3\t2\t2\t2", "4\t2\t2\t2", "says that it has 4 rows and holds 3"),
        ("3\t2\t2\t2", "2\t2\t2\t2", "says that it has 2 rows and holds 3"),
        ("3\t2\t2\t2", "3\t3\t2\t2", "line 3 of .* has 5 fields; expected 6"),
        ("3\t2\t2\t2", "3\t2\t1\t2", "line 3 of .* has 5 fields; expected 4"),
        ("3\t2\t2\t2", "3\t2\t2\t9", "9 lines of column metadata"),
        ("3\t2\t2\t2", "3\t2", "expected 4 numbers, as in every GCT 1.3"),
        ("3\t2\t2\t2", "three\t2\t2\t2", "expected 4 numbers"),
        ("4609\t3\tnan", "4609\t3", "line 7 of .* has 4 fields; expected 5"),
        ("4609\t3\tnan", "4609\t3\tnan\t1", "line 7 of .* has 6 fields"),
        ("4609\t3\tnan", "4609\tthree\tnan", "has 'three' in row 'g2', column number 1"),
        ("\ng2\t", "\ng1\t", "row names that occur twice: 'g1'"),
        ("A02", "A01", "column names that occur twice: 'A01'"),
        ("#1.3", "#1.1", "is no GCT: its first line"),
    ],
)
def test_a_gct_that_contradicts_itself_is_refused(tmp_path, old, new, text):
    file = write_gct(tmp_path / "x.gct", GCT13.replace(old, new))
    with pytest.raises(ValueError, match=f"x.gct'.*{text}|{text}"):
        cf.io.read_gct(file)


def test_a_gct_of_one_column_may_lack_a_value(tmp_path):
    file = tmp_path / "one.gct"
    file.write_text("#1.2\n3\t1\nName\tDescription\tA01\ng1\t\t1\ng2\t\t\ng3\t\t3\n")
    np.testing.assert_array_equal(cf.io.read_gct(file).X, [[1.0, np.nan, 3.0]])


def test_damaged_gct_files_are_named(tmp_path):
    whole = write_gct(tmp_path / "x.gct.gz", GCT13).read_bytes()
    (tmp_path / "x.gct.gz").write_bytes(whole[:-12])
    with pytest.raises(ValueError, match="x.gct.gz' cannot be read as a GCT: Compressed"):
        cf.io.read_gct(tmp_path / "x.gct.gz")
    (tmp_path / "empty.gct").write_text("")
    with pytest.raises(ValueError, match="empty.gct' cannot be read as a GCT: it is empty"):
        cf.io.read_gct(tmp_path / "empty.gct")
    with pytest.raises(FileNotFoundError, match="absent.gct"):
        cf.io.read_gct(tmp_path / "absent.gct")
    file = write_gct(tmp_path / "x.gct", GCT13)
    with pytest.raises(KeyError, match="'A03' is not in the columns of .*Did you mean 'A0"):
        cf.io.read_gct(file, samples=["A03"])


def write_gctx(path: Path, matrix: np.ndarray) -> None:
    with h5py.File(path, "w") as stored:
        stored["0/DATA/0/matrix"] = matrix
        stored["0/META/COL/id"] = np.array([b"s1", b"s2", b"s3"])
        stored["0/META/COL/dose"] = np.array([1.5, -666.0, 2.0])
        stored["0/META/ROW/id"] = np.array([b"g1", b"g2"])
        stored["0/META/ROW/symbol"] = np.array([b"TP53", b"-666"])


def test_gctx_whole_and_in_part(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    write_gctx(tmp_path / "x.gctx", matrix)
    whole = cf.io.read_gct(tmp_path / "x.gctx")
    np.testing.assert_array_equal(whole.X, matrix)
    np.testing.assert_array_equal(whole.obs["dose"], [1.5, np.nan, 2])
    assert whole.var["symbol"].isna().tolist() == [False, True]
    part = cf.io.read_gct(tmp_path / "x.gctx", samples=["s3", "s1"])
    np.testing.assert_array_equal(part.X, matrix[[2, 0]])
    assert part.obs_names.tolist() == ["s3", "s1"]
    write_gctx(tmp_path / "y.gctx", matrix.T)
    with pytest.raises(ValueError, match=r"y.gctx' is \(2, 3\); its metadata name 3 columns"):
        cf.io.read_gct(tmp_path / "y.gctx")
    with h5py.File(tmp_path / "z.gctx", "w") as stored:
        stored["x"] = 1
    with pytest.raises(ValueError, match="z.gctx' is HDF5 and no GCTX"):
        cf.io.read_gct(tmp_path / "z.gctx")


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_numbers_survive_as_metadata(values):
    values = [value for value in values if value != -666]
    np.testing.assert_array_equal(typed([repr(v) for v in [*values, 0.5]]), [*values, 0.5])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2"], [1, -2]),
        (["0042", "7"], ["0042", "7"]),
        (["1_000", "7"], ["1_000", "7"]),
        (["a", "1"], ["a", "1"]),
        (["0", "0.5"], [0, 0.5]),
    ],
)
def test_identifiers_are_no_numbers(values, expected):
    assert typed(values).tolist() == expected


@pytest.mark.skipif(not (DATA / "l1000_ljp005_a375.gct.gz").exists(), reason="../shared/data")
def test_a_real_plate_equals_its_h5ad():
    plate = cf.io.read_gct(DATA / "l1000_ljp005_a375.gct.gz")
    expected = ad.read_h5ad(DATA / "l1000_ljp005_a375.h5ad")
    np.testing.assert_array_equal(plate.X, expected.X)
    assert plate.obs_names.equals(expected.obs_names)
    assert plate.var_names.equals(expected.var_names)
    assert plate.var["pr_gene_symbol"].tolist() == expected.var["gene_symbol"].tolist()
    assert plate.obs["det_well"].tolist() == expected.obs["well"].tolist()
    doses = expected.obs["dose_um"].where(~expected.obs["is_control"])
    np.testing.assert_allclose(plate.obs["pert_dose"], doses)


@pytest.mark.parametrize("large", ["1e400", "-1e400", "1" + 400 * "0"])
def test_a_number_too_large_for_a_number_is_named_and_no_infinity(tmp_path, large):
    file = tmp_path / "plate.csv"
    file.write_text(f"Metadata_Well,Area\nA1,1\nA2,{large}\nA3,3\n")
    with pytest.raises(ValueError, match=r"'Area'.*row 2.*among 2 numbers"):
        cf.io.read_profiles(file)
    file.write_text(f"Metadata_Well,Area,Metadata_Dose\nA1,1,1.0\nA2,2,{large}\n")
    assert cf.io.read_profiles(file).obs["Metadata_Dose"].tolist() == ["1.0", large]


def test_an_infinity_that_was_written_is_one_and_is_told(tmp_path, caplog):
    file = tmp_path / "plate.csv"
    file.write_text("Metadata_Well,Area,B\nA1,1,2\nA2,inf,3\n")
    with caplog.at_level("INFO", logger="cellfuse"):
        assert np.isinf(cf.io.read_profiles(file)[:, "Area"].X).sum() == 1
    assert "missing or infinite values: 'Area'" in caplog.text


def test_a_column_of_more_words_than_numbers_is_metadata_and_is_told(tmp_path, caplog):
    file = tmp_path / "plate.csv"
    file.write_text("Metadata_Well,Area,Note\nA1,1,3.5\nA2,2,lost\nA3,2,torn\n")
    with caplog.at_level("WARNING", logger="cellfuse"):
        plate = cf.io.read_profiles(file)
    assert plate.obs["Note"].tolist() == ["3.5", "lost", "torn"]
    assert "column 'Note' holds 2 words, 'lost', 'torn', and 1 numbers" in caplog.text


def test_names_that_begin_with_a_zero_are_told_to_be_names(tmp_path, caplog):
    file = tmp_path / "plate.csv"
    file.write_text("Metadata_Well,Area,Barcode_of_plate\nA1,1,0041\nA2,2,1041\n")
    with caplog.at_level("INFO", logger="cellfuse"):
        plate = cf.io.read_profiles(file)
    assert plate.obs["Barcode_of_plate"].tolist() == ["0041", "1041"]
    assert "'Barcode_of_plate' is taken for names: '0041' begins with 0" in caplog.text
