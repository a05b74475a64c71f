"""Fields of view, label images and stores of crops."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

import cellfuse as cf
from cellfuse.io._pixels import planes

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
real = pytest.mark.skipif(not (DATA / "fields").exists(), reason="../shared/data/fields")
PATTERN = r"(?P<well>[A-P]\d+)_s(?P<site>\d+)_(?P<channel>DAPI|GFP|RFP)\.tif"


def pixels(n_channels: int = 3, height: int = 20, width: int = 30, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 60_000, (n_channels, height, width), dtype=np.uint16)


def write_plate(folder: Path, wells: tuple[str, ...] = ("A2", "A10"), sites: int = 2) -> None:
    """One file per well, site and channel; the pixels tell which it is."""
    for i, well in enumerate(wells):
        for site in range(1, sites + 1):
            for c, name in enumerate(("DAPI", "GFP", "RFP")):
                value = np.full((20, 30), 100 * i + 10 * site + c, np.uint16)
                tifffile.imwrite(folder / f"{well}_s{site}_{name}.tif", value)


# -- one field ------------------------------------------------------------------------------------


def test_files_by_channel_become_one_field(tmp_path):
    write_plate(tmp_path, ("B7",), 1)
    files = sorted(tmp_path.iterdir())
    field = cf.io.read_field(files, pattern=PATTERN)
    assert field.channels == ("DAPI", "GFP", "RFP")
    assert field.metadata == {"well": "B7", "site": "1"}
    assert field.pixels.dtype == np.uint16
    assert field.pixels[:, 3, 4].tolist() == [10, 11, 12]
    assert field.paths == tuple(files)
    assert field.name == "B7_1"


def test_channels_are_put_in_order_and_renamed(tmp_path):
    write_plate(tmp_path, ("B7",), 1)
    files = sorted(tmp_path.iterdir())
    chosen = cf.io.read_field(files, pattern=PATTERN, channels=["RFP", "DAPI"])
    assert chosen.channels == ("RFP", "DAPI")
    assert chosen.pixels[:, 0, 0].tolist() == [12, 10]
    named = cf.io.read_field(files, pattern=PATTERN, channels={"GFP": "ER"})
    assert named.channels == ("ER",)
    by_name = cf.io.read_field({"x": files[1], "y": files[0]}, metadata={"well": "Z1"})
    assert by_name.channels == ("x", "y")
    assert by_name.metadata == {"well": "Z1"}
    in_turn = cf.io.read_field(files, channels=["a", "b", "c"])
    assert in_turn.channels == ("a", "b", "c")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"ome": True, "metadata": {"axes": "CYX", "Channel": {"Name": ["a", "b", "c"]}}},
        {"imagej": True, "metadata": {"axes": "CYX", "Labels": ["a", "b", "c"]}},
        {"metadata": None},
        {"tile": (16, 16)},
        {"bigtiff": True},
    ],
    ids=["shaped", "deflate", "ome", "imagej", "pages", "tiles", "bigtiff"],
)
def test_a_multi_channel_tiff_is_read_and_no_cut_of_it(tmp_path, options):
    file, whole = tmp_path / "whole.tif", pixels()
    tifffile.imwrite(file, whole, photometric="minisblack", **options)
    field = cf.io.read_field(file)
    np.testing.assert_array_equal(field.pixels, whole)
    named = "Channel" in str(options) or "Labels" in str(options)
    assert field.channels == (("a", "b", "c") if named else ("channel_0", "channel_1", "channel_2"))
    data, cut = file.read_bytes(), tmp_path / "cut.tif"
    last = len(data) - 1
    for size in [*range(0, last, len(data) // 40), last]:
        cut.write_bytes(data[:size])
        try:
            assert np.array_equal(cf.io.read_field(cut).pixels, whole)  # only metadata were cut
        except ValueError as error:
            assert str(cut) in str(error)


def test_names_are_given_to_channels_without_any(tmp_path):
    file = tmp_path / "stack.tif"
    tifffile.imwrite(file, pixels(2), photometric="minisblack")
    assert cf.io.read_field(file, channels=["DNA", "ER"]).channels == ("DNA", "ER")
    with pytest.raises(ValueError, match=r"stack.tif' holds 2 channels without names; 1 names"):
        cf.io.read_field(file, channels=["DNA"])
    renamed = cf.io.read_field(file, channels={"channel_1": "ER"})
    assert renamed.channels == ("ER",)
    np.testing.assert_array_equal(renamed.pixels[0], pixels(2)[1])


@given(
    order=st.permutations("CYXTZ"),
    sizes=st.fixed_dictionaries({"C": st.integers(1, 3), "Y": st.just(4), "X": st.just(5)}),
)
def test_planes_do_not_depend_on_the_order_of_axes(order, sizes):
    shape = {"T": 1, "Z": 1, **sizes}
    whole = np.arange(shape["C"] * 20).reshape(shape["C"], 1, 1, 4, 5)  # CTZYX
    moved = whole.transpose(["CTZYX".index(a) for a in order])
    np.testing.assert_array_equal(planes(moved, "".join(order), Path("f")), whole[:, 0, 0])


def test_a_stack_of_focal_planes_is_refused(tmp_path):
    file = tmp_path / "stack.ome.tif"
    tifffile.imwrite(file, np.zeros((2, 3, 8, 9), "u2"), ome=True, metadata={"axes": "ZCYX"})
    with pytest.raises(ValueError, match=r"stack.ome.tif' has more than channels.*Z \(2\)"):
        cf.io.read_field(file)


def test_channels_of_different_size_or_type_name_both_files(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 9), "u2"))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((8, 8), "u2"))
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((8, 9), "u1"))
    for other, text in (("b", r"\(8, 8\) of uint16"), ("c", r"\(8, 9\) of uint8")):
        with pytest.raises(
            ValueError, match=rf"a.tif' is \(8, 9\) of uint16.*{other}.tif' is {text}"
        ):
            cf.io.read_field([tmp_path / "a.tif", tmp_path / f"{other}.tif"], channels=["x", "y"])
    with tifffile.TiffWriter(tmp_path / "mixed.tif") as tif:
        tif.write(np.zeros((8, 9), "u2"))
        tif.write(np.zeros((4, 9), "u2"))
    with pytest.raises(ValueError, match=r"mixed.tif' holds 2 images, .*8 x 9.*4 x 9.*`series`"):
        cf.io.read_field(tmp_path / "mixed.tif")


def test_mistakes_at_one_field_are_told(tmp_path):
    write_plate(tmp_path, ("B7",), 2)
    files = sorted(tmp_path.iterdir())
    text = tmp_path / "notes.tif"
    text.write_text("no image")
    with pytest.raises(FileNotFoundError, match="absent.tif"):
        cf.io.read_field(tmp_path / "absent.tif")
    with pytest.raises(ValueError, match="notes.tif' cannot be read as a TIFF"):
        cf.io.read_field(text)
    with pytest.raises(ValueError, match="nothing says which channel"):
        cf.io.read_field(files[:3])
    with pytest.raises(ValueError, match="does not fit the file"):
        cf.io.read_field(files[:3], pattern=r"(?P<well>Q\d)_(?P<channel>x)")
    with pytest.raises(ValueError, match="channel 'DAPI' is in two files"):
        cf.io.read_field(files, pattern=PATTERN)
    with pytest.raises(ValueError, match="belong to different fields"):
        cf.io.read_field([files[0], files[4]], pattern=PATTERN)
    with pytest.raises(KeyError, match="Did you mean 'DAPI'"):
        cf.io.read_field(files[:3], pattern=PATTERN, channels=["DAPJ"])
    with pytest.raises(ValueError, match="list of files is empty"):
        cf.io.read_field([])


def test_a_compression_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    file = tmp_path / "lzw.tif"
    tifffile.imwrite(file, np.zeros((8, 9), "u2"))

    def refuse(*_args, **_options):
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", refuse)
    with pytest.raises(ImportError, match="pip install imagecodecs"):
        cf.io.read_field(file)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pixels": np.zeros((8, 9))}, r"shape \(8, 9\)"),
        ({"channels": ("a",)}, "2 channels and the names 'a'"),
        ({"channels": ("a", "a")}, "one distinct name"),
        ({"labels": np.zeros((8, 8), int)}, r"labels of field 'A1' have shape \(8, 8\)"),
    ],
    ids=["pixels", "few names", "same names", "labels"],
)
def test_a_field_that_does_not_hold_together_is_refused(change, text):
    parts = {"pixels": np.zeros((2, 8, 9)), "channels": ("a", "b"), "metadata": {"well": "A1"}}
    with pytest.raises(ValueError, match=text):
        cf.io.Field(**(parts | change))


# -- OME-Zarr and SpatialData ---------------------------------------------------------------------


def write_ome_zarr(path, array, version: str, axes: str = "cyx", names=None) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=3 if version == "0.5" else 2)
    group.create_array("0", data=array)
    group.create_array("1", data=array[..., ::2, ::2])
    datasets = [{"path": "0"}, {"path": "1"}]
    scales = {"version": version, "datasets": datasets, "axes": [{"name": a} for a in axes]}
    about = {"multiscales": [scales]}
    if names:
        about["omero"] = {"channels": [{"label": name} for name in names]}
    group.attrs.update({"ome": {"version": version, **about}} if version == "0.5" else about)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_is_read_at_full_resolution(tmp_path, version):
    write_ome_zarr(tmp_path / "f.zarr", pixels(2)[None], version, "tcyx", ["DNA", "ER"])
    field = cf.io.read_field(tmp_path / "f.zarr")
    assert field.channels == ("DNA", "ER")
    np.testing.assert_array_equal(field.pixels, pixels(2))
    write_ome_zarr(tmp_path / "mask.zarr", pixels(1)[0].astype(np.int32), version, "yx")
    np.testing.assert_array_equal(cf.io.read_labels(tmp_path / "mask.zarr"), pixels(1)[0])


def test_spatialdata_elements_are_fields_and_labels(tmp_path):
    store = tmp_path / "screen.zarr"
    zarr.open_group(str(store), mode="w", zarr_format=2)
    write_ome_zarr(store / "images" / "cells", pixels(2), "0.4", names=["DNA", "ER"])
    assert cf.io.read_field(store).channels == ("DNA", "ER")
    write_ome_zarr(store / "labels" / "nuclei", pixels(1)[0], "0.4", "yx")
    labels = cf.io.read_labels(store, element="labels/nuclei")
    np.testing.assert_array_equal(labels, pixels(1)[0])
    write_ome_zarr(store / "images" / "more", pixels(2), "0.4")
    with pytest.raises(ValueError, match="holds 2 images.*images/cells.*Name one"):
        cf.io.read_field(store)
    assert cf.io.read_field(store, element="images/more").channels == ("channel_0", "channel_1")
    with pytest.raises(KeyError, match="Did you mean 'images/more'"):
        cf.io.read_field(store, element="images/mole")


def test_a_folder_that_is_no_image_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no OME-Zarr image, and holds 0 images"):
        cf.io.read_field(tmp_path)
    group = zarr.open_group(str(tmp_path / "f.zarr"), mode="w", zarr_format=2)
    group.attrs["multiscales"] = [{"datasets": [{"path": "0"}], "axes": ["y", "x"]}]
    with pytest.raises(ValueError, match="f.zarr' is no OME-Zarr image: `multiscales` names no"):
        cf.io.read_field(tmp_path / "f.zarr")


# -- many fields ----------------------------------------------------------------------------------


def test_fields_of_a_folder_come_in_natural_order(tmp_path):
    write_plate(tmp_path)
    (tmp_path / "thumbnail.tif").write_bytes(b"")
    (tmp_path / "A2_s1_DAPI.tif.txt").write_text("")
    fields = cf.io.read_fields(tmp_path, pattern=PATTERN)
    assert len(fields) == 4
    assert fields.table.to_numpy().tolist() == [
        ["A2", "1"],
        ["A2", "2"],
        ["A10", "1"],
        ["A10", "2"],
    ]
    assert [f.pixels[:, 0, 0].tolist() for f in fields] == [
        [10, 11, 12],
        [20, 21, 22],
        [110, 111, 112],
        [120, 121, 122],
    ]
    assert [f.name for f in fields[2:]] == ["A10_1", "A10_2"]
    chosen = cf.io.read_fields(tmp_path, pattern=PATTERN, channels={"RFP": "actin", "DAPI": "DNA"})
    assert chosen[-1].channels == ("actin", "DNA")
    assert chosen[-1].pixels[:, 0, 0].tolist() == [122, 120]


def test_fields_are_not_read_before_they_are_taken(tmp_path):
    write_plate(tmp_path, ("A1",), 2)
    (tmp_path / "A1_s2_GFP.tif").write_bytes(b"II*\x00")
    fields = cf.io.read_fields(tmp_path, pattern=PATTERN)
    assert fields[0].name == "A1_1"
    with pytest.raises(ValueError, match="A1_s2_GFP.tif"):
        fields[1]


def test_folders_tell_fields_apart(tmp_path):
    for plate in ("p1", "p2"):
        (tmp_path / plate).mkdir()
        write_plate(tmp_path / plate, ("A1",), 1)
    with pytest.raises(ValueError, match="two files are well 'A1', site '1', channel 'DAPI'"):
        cf.io.read_fields(tmp_path, pattern=PATTERN)
    fields = cf.io.read_fields(tmp_path, pattern=r"(?P<plate>p\d)/" + PATTERN)
    assert [f.name for f in fields] == ["p1_A1_1", "p2_A1_1"]


def test_multi_channel_files_need_no_channel_in_the_pattern(tmp_path):
    for well in ("A1", "A2"):
        write_ome_zarr(tmp_path / f"{well}.zarr", pixels(2), "0.4", names=["DNA", "ER"])
        tifffile.imwrite(tmp_path / f"{well}.tiff", pixels(2), photometric="minisblack")
    zarrs = cf.io.read_fields(tmp_path, pattern=r"(?P<well>[A-P]\d)\.zarr", channels=["ER"])
    assert [f.channels for f in zarrs] == [("ER",), ("ER",)]
    tiffs = cf.io.read_fields(tmp_path, pattern=r"(?P<well>[A-P]\d)\.tiff", channels=["x", "y"])
    assert [(f.name, f.channels) for f in tiffs] == [("A1", ("x", "y")), ("A2", ("x", "y"))]


def test_labels_find_their_fields(tmp_path):
    write_plate(tmp_path, ("A1", "A2"), 1)
    (tmp_path / "masks").mkdir()
    for i, well in enumerate(("A2", "A1")):
        tifffile.imwrite(tmp_path / "masks" / f"s1_{well}.tif", np.full((20, 30), i, np.uint8))
    mask = {"labels": tmp_path / "masks", "labels_pattern": r"s(?P<site>\d)_(?P<well>A\d)"}
    fields = cf.io.read_fields(tmp_path, pattern=PATTERN, **mask)
    assert [f.labels.max() for f in fields] == [1, 0]
    (tmp_path / "masks" / "s1_A2.tif").unlink()
    with pytest.raises(
        ValueError, match="1 of 2 fields are incomplete: well 'A2', site '1' has no"
    ):
        cf.io.read_fields(tmp_path, pattern=PATTERN, **mask)
    kept = cf.io.read_fields(tmp_path, pattern=PATTERN, **mask, missing="drop")
    assert [f.name for f in kept] == ["A1_1"]
    with pytest.raises(ValueError, match="the same, so that each label image finds its field"):
        cf.io.read_fields(tmp_path, pattern=PATTERN, labels_pattern=r"(?P<well>A\d)")


def test_a_missing_channel_names_the_field_and_its_files(tmp_path):
    write_plate(tmp_path, ("A1",), 2)
    (tmp_path / "A1_s2_GFP.tif").unlink()
    with pytest.raises(
        ValueError,
        match=r"site '2' has no file for channel 'GFP' \(found 'A1_s2_DAPI.tif', 'A1_s2_RFP.tif'\)",
    ):
        cf.io.read_fields(tmp_path, pattern=PATTERN)
    kept = cf.io.read_fields(tmp_path, pattern=PATTERN, missing="drop")
    assert [f.name for f in kept] == ["A1_1"]
    with pytest.raises(ValueError, match="none of 2 fields is complete"):
        cf.io.read_fields(tmp_path, pattern=PATTERN, channels=["Cy5"], missing="drop")


def test_a_pattern_that_fits_nothing_shows_the_files(tmp_path):
    write_plate(tmp_path, ("A1",), 1)
    with pytest.raises(FileNotFoundError, match="fits the pattern.*'A1_s1_DAPI.tif'"):
        cf.io.read_fields(tmp_path, pattern=r"(?P<well>Q\d)_(?P<channel>x)")
    with pytest.raises(ValueError, match="no regular expression"):
        cf.io.read_fields(tmp_path, pattern="(")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cf.io.read_fields(tmp_path / "nowhere", pattern=PATTERN)


@real
def test_real_fields_and_their_masks():
    folder = DATA / "fields"
    fields = cf.io.read_fields(
        folder / "nf1_images",
        pattern=r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>DAPI|GFP|RFP)_",
        labels=folder / "nf1_masks",
        labels_pattern=r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_DAPI_.*_MaskNuclei",
        connected=True,
    )
    assert [f.name for f in fields] == ["B7_3", "D6_2", "D7_1", "F7_2", "H12_1"]
    first = fields[0]
    assert first.pixels.shape == (3, 904, 1224)
    assert first.pixels.dtype == np.uint16
    assert first.labels.max() == 28
    file = folder / "nf1_images" / "B7_01_2_3_GFP_001.tif"
    np.testing.assert_array_equal(first.pixels[1], tifffile.imread(file))


@real
def test_a_real_field_of_six_channels():
    pytest.importorskip("imagecodecs", reason="LZW needs imagecodecs")
    files = sorted((DATA / "fields" / "six_channel").glob("r03*"))
    field = cf.io.read_field(files, pattern=r"f(?P<site>\d+)p\d+-ch(?P<channel>\d)")
    assert field.pixels.shape == (6, 1080, 1080)
    assert field.channels == tuple("123456")


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32"])
def test_labels_keep_their_numbers(tmp_path, dtype):
    labels = np.zeros((6, 8), dtype)
    labels[0, :2], labels[4, 3:] = 3, np.iinfo(dtype).max // 2
    tifffile.imwrite(tmp_path / "labels.tif", labels)
    found = cf.io.read_labels(tmp_path / "labels.tif")
    np.testing.assert_array_equal(found, labels)
    assert np.issubdtype(found.dtype, np.integer)


def test_a_mask_is_not_taken_for_labels(tmp_path):
    mask = np.zeros((6, 8), np.uint8)
    mask[0, :2] = mask[4, 3:] = 255
    tifffile.imwrite(tmp_path / "mask.tif", mask)
    with pytest.raises(ValueError, match="mask.tif' is a mask, not labels.*255, in 2 pieces"):
        cf.io.read_labels(tmp_path / "mask.tif")
    numbered = cf.io.read_labels(tmp_path / "mask.tif", connected=True)
    assert (numbered[0, 0], numbered[4, 3], numbered.max()) == (1, 2, 2)
    mask[4, 3:] = 0
    tifffile.imwrite(tmp_path / "one.tif", mask)  # one cell, called 255
    assert cf.io.read_labels(tmp_path / "one.tif").max() == 255


def test_labels_of_other_kinds(tmp_path):
    tifffile.imwrite(tmp_path / "whole.tif", np.array([[0, 1], [2, 0]], np.float32))
    assert cf.io.read_labels(tmp_path / "whole.tif").tolist() == [[0, 1], [2, 0]]
    tifffile.imwrite(tmp_path / "parts.tif", np.array([[0, 0.5]], np.float32))
    with pytest.raises(ValueError, match="parts.tif' holds float32 values"):
        cf.io.read_labels(tmp_path / "parts.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", np.zeros((6, 8, 3), np.uint8), photometric="rgb")
    with pytest.raises(ValueError, match="rgb.tif' holds 3 channels; expected one, of labels"):
        cf.io.read_labels(tmp_path / "rgb.tif")


# -- stores of crops ------------------------------------------------------------------------------


def write_h5sc(path: Path, n: int = 5) -> np.ndarray:
    """A store with the layout of scPortrait: two masks and two channels, float16, in 0 to 1."""
    images = np.random.default_rng(0).random((n, 4, 8, 8)).astype(np.float16)
    names = ["mask_nuc", "mask_cyto", "DNA", "ER"]
    kinds = ["mask", "mask", "image_channel", "image_channel"]
    obs = pd.DataFrame({"scportrait_cell_id": np.arange(n)}, index=[str(i) for i in range(n)])
    cells = ad.AnnData(obs=obs, var=pd.DataFrame({"channels": names}, index=list("0123")))
    cells.uns["single_cell_images"] = {
        "n_masks": 2,
        "channel_names": np.array(names),
        "channel_mapping": np.array(kinds),
    }
    cells.write_h5ad(path)
    with h5py.File(path, "a") as stored:
        data = stored.create_dataset("obsm/single_cell_images", data=images, chunks=(1, 1, 8, 8))
        data.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return images


def test_h5sc_is_opened_and_not_read(tmp_path):
    images = write_h5sc(tmp_path / "cells.h5sc")
    cells = cf.io.read_crops(tmp_path / "cells.h5sc")
    assert isinstance(cells.obsm["crops"], h5py.Dataset)
    np.testing.assert_array_equal(cells.obsm["crops"][...], images)
    assert cells.uns["channels"].tolist() == ["mask_nuc", "mask_cyto", "DNA", "ER"]
    assert cells.uns["is_mask"].tolist() == [True, True, False, False]
    assert cells.obs["scportrait_cell_id"].tolist() == list(range(5))
    chosen = cf.io.read_crops(tmp_path / "cells.h5sc", channels=["ER", "DNA"])
    np.testing.assert_array_equal(chosen.obsm["crops"], images[:, [3, 2]])
    assert chosen.uns["is_mask"].tolist() == [False, False]
    with pytest.raises(KeyError, match="Did you mean 'DNA'"):
        cf.io.read_crops(tmp_path / "cells.h5sc", channels=["DNAA"])


def test_h5sc_names_may_stand_with_the_images(tmp_path):
    write_h5sc(tmp_path / "cells.h5sc")
    with h5py.File(tmp_path / "cells.h5sc", "a") as stored:
        del stored["uns/single_cell_images"]
        names = [name.encode() for name in ("m1", "m2", "a", "b")]
        stored["obsm/single_cell_images"].attrs["channel_names"] = names
    cells = cf.io.read_crops(tmp_path / "cells.h5sc")
    assert cells.uns["channels"].tolist() == ["m1", "m2", "a", "b"]


def test_opened_crops_have_a_reader(tmp_path):
    write_h5sc(tmp_path / "cells.h5sc")
    cells = cf.io.read_crops(tmp_path / "cells.h5sc")
    reader = cf.data.make_reader(cells.obsm["crops"])
    assert reader.read(np.array([1, 4])).shape == (2, 4, 8, 8)


def test_a_table_of_a_spatialdata_store(tmp_path):
    store = tmp_path / "screen.zarr"
    cells = ad.AnnData(obsm={"crops": np.zeros((3, 2, 8, 8), np.uint8)}, shape=(3, 0))
    other = ad.AnnData(np.zeros((3, 2), np.float32))
    cells.write_zarr(store / "tables" / "cells")
    other.write_zarr(store / "tables" / "other")
    written = zarr.open_group(str(store / "tables" / "cells"), mode="r").metadata.zarr_format
    for folder in (store, store / "tables"):
        zarr.open_group(str(folder), mode="a", zarr_format=written)
    assert cf.io.read_crops(store).obsm["crops"].shape == (3, 2, 8, 8)
    assert cf.io.read_crops(store, element="tables/cells").n_obs == 3
    with pytest.raises(KeyError, match="tables/cells"):
        cf.io.read_crops(store, element="tables/cell")
    with pytest.raises(ValueError, match="holds no single-cell images.*obsm has none"):
        cf.io.read_crops(store, element="tables/other")


def test_what_is_no_store_of_crops_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        cf.io.read_crops(tmp_path / "absent.h5sc")
    (tmp_path / "text.h5sc").write_text("no HDF5")
    with pytest.raises(ValueError, match="text.h5sc' is no HDF5 file"):
        cf.io.read_crops(tmp_path / "text.h5sc")
    with pytest.raises(ValueError, match="is a folder, and no zarr store"):
        cf.io.read_crops(tmp_path)


@pytest.mark.skipif(not (DATA / "periscope_crops.h5ad").exists(), reason="../shared/data")
def test_real_crops_in_h5ad():
    cells = cf.io.read_crops(DATA / "periscope_crops.h5ad")
    assert cells.obsm["crops"].shape == (185, 5, 100, 100)
    assert list(cells.uns["channels"]) == ["DNA", "Mito", "Phalloidin", "WGA", "ER"]
