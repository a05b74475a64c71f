"""Image files as microscopes and programs write them: never silently the first of several."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import anndata as ad
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

import cellfuse as cf

PATTERN = r"(?P<well>[A-P]\d+)_(?P<channel>DAPI|GFP)\.\w+"


def flat(value: int, shape: tuple[int, ...] = (16, 20), dtype: str = "u2") -> np.ndarray:
    return np.full(shape, value, dtype)


def means(field: cf.io.Field) -> list[float]:
    return field.pixels.mean((1, 2)).tolist()


def positions(
    file: Path, n: int = 3, shape: tuple[int, ...] = (2, 16, 20), axes: str = "CYX"
) -> Path:
    """An OME-TIFF of several positions."""
    with tifffile.TiffWriter(file, ome=True) as out:
        for i in range(n):
            about = {"axes": axes, "Name": f"Pos{i}"}
            if "C" in axes:
                about["Channel"] = {"Name": ["DNA", "ER"][: shape[axes.index("C")]]}
            out.write(flat(10 * (i + 1), shape), metadata=about)
    return file


# -- several images in a file ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"metadata": None}, {"compression": "zlib"}])
def test_appended_pages_are_channels(tmp_path, options):
    file = tmp_path / "A01_s1.tif"
    for channel in range(4):
        tifffile.imwrite(file, flat(10 * (channel + 1)), append=channel > 0, **options)
    assert means(cf.io.read_field(file)) == [10, 20, 30, 40]
    assert cf.io.read_field(file, channels=list("abcd")).channels == tuple("abcd")
    assert cf.io.read_field(file, z="max").pixels.tolist() == flat(40)[None].tolist()


def test_appended_pages_that_are_not_alike_are_named(tmp_path):
    others = {"size": flat(2, (8, 20)), "type": flat(2, dtype="u1"), "stack": flat(2, (3, 16, 20))}
    for name, other in others.items():
        file = tmp_path / f"{name}.tif"
        tifffile.imwrite(file, flat(1))
        tifffile.imwrite(file, other, append=True, photometric="minisblack")
        with pytest.raises(ValueError, match=rf"{name}.tif' holds 2 images.*series"):
            cf.io.read_field(file)
        assert set(means(cf.io.read_field(file, series=1))) == {2}


def test_positions_are_read_by_number_or_name_and_never_silently(tmp_path):
    file = positions(tmp_path / "plate.ome.tif")
    with pytest.raises(ValueError, match=r"holds 3 images, 'Pos0 .*Pos2.*series='all'"):
        cf.io.read_field(file)
    assert means(cf.io.read_field(file, series=2)) == [30, 30]
    assert cf.io.read_field(file, series="Pos1").channels == ("DNA", "ER")
    assert means(cf.io.read_field(file, series=np.int64(1))) == [20, 20]
    for wrong in (True, 1.0, [1]):
        with pytest.raises(TypeError, match="series=.*: expected the number of an image"):
            cf.io.read_field(file, series=wrong)
    with pytest.raises(ValueError, match="series=3: .* holds 3 images"):
        cf.io.read_field(file, series=3)
    with pytest.raises(ValueError, match=r"0 images .* are called 'Pos9'; they are 'Pos0'"):
        cf.io.read_field(file, series="Pos9")


def test_positions_become_fields(tmp_path):
    for well in ("A2", "A10"):
        positions(tmp_path / f"{well}.ome.tif")
    pattern = r"(?P<well>[A-P]\d+)\.ome\.tif"
    fields = cf.io.read_fields(tmp_path, pattern=pattern, series="all")
    assert [f.name for f in fields] == [f"{w}_Pos{i}" for w in ("A2", "A10") for i in range(3)]
    assert [means(f)[0] for f in fields] == [10, 20, 30] * 2
    assert fields.table["series"].tolist() == ["Pos0", "Pos1", "Pos2"] * 2
    one = cf.io.read_fields(tmp_path, pattern=pattern, series="Pos1")
    assert [means(f)[0] for f in one] == [20, 20]
    with pytest.raises(ValueError, match="holds 3 images"):
        cf.io.read_fields(tmp_path, pattern=pattern)[0]


def test_positions_in_a_file_for_each_channel(tmp_path):
    for i, channel in enumerate(("DAPI", "GFP")):
        with tifffile.TiffWriter(tmp_path / f"A1_{channel}.tif", ome=True) as out:
            for k in range(2):
                out.write(flat(10 * k + i), metadata={"axes": "YX"})
    fields = cf.io.read_fields(tmp_path, pattern=PATTERN, series="all")
    assert [means(f) for f in fields] == [[0, 1], [10, 11]]
    positions(tmp_path / "A1_GFP.tif", 3, (16, 20), "YX")
    with pytest.raises(ValueError, match="different numbers of images.*'2', '3'"):
        cf.io.read_fields(tmp_path, pattern=PATTERN, series="all")


def test_labels_of_positions(tmp_path):
    file = tmp_path / "labels.ome.tif"
    with tifffile.TiffWriter(file, ome=True) as out:
        for value in (3, 4):
            labels = np.zeros((16, 20), "u2")
            labels[2:5, 2:5] = value
            out.write(labels, metadata={"axes": "YX"})
    with pytest.raises(ValueError, match="holds 2 images"):
        cf.io.read_labels(file)
    assert cf.io.read_labels(file, series=1).max() == 4


def test_scenes_of_bioformats2raw_are_images_of_one_store(tmp_path):
    store = zarr.open_group(str(tmp_path / "f.zarr"), mode="w", zarr_format=2)
    store.attrs["bioformats2raw.layout"] = 3
    for i in range(2):
        write_ome_zarr(tmp_path / "f.zarr" / str(i), flat(i + 1, (2, 16, 20)))
    with pytest.raises(ValueError, match="holds 2 images"):
        cf.io.read_field(tmp_path / "f.zarr")
    assert means(cf.io.read_field(tmp_path / "f.zarr", series=1)) == [2, 2]


# -- focal planes ---------------------------------------------------------------------------------


def z_stack(axes: str) -> np.ndarray:
    values = np.array([[1, 2, 6], [10, 20, 60]], "u2")  # channels, planes
    ordered = values if axes == "CZYX" else values.T
    return np.broadcast_to(ordered[..., None, None], (*ordered.shape, 16, 20)).copy()


@pytest.mark.parametrize("kind", ["ome", "imagej"])
@pytest.mark.parametrize(("z", "expected"), [("max", [6, 60]), ("mean", [3, 30]), (1, [2, 20])])
def test_focal_planes_become_one(tmp_path, kind, z, expected):
    axes = "CZYX" if kind == "ome" else "ZCYX"
    tifffile.imwrite(tmp_path / "s.tif", z_stack(axes), metadata={"axes": axes}, **{kind: True})
    with pytest.raises(ValueError, match=r"Z \(3\).*z='max', 'mean' or the number"):
        cf.io.read_field(tmp_path / "s.tif")
    field = cf.io.read_field(tmp_path / "s.tif", z=z)
    assert means(field) == expected
    assert field.pixels.dtype == np.uint16
    with pytest.raises(ValueError, match="z=3: .* has 3 focal planes"):
        cf.io.read_field(tmp_path / "s.tif", z=3)
    with pytest.raises(ValueError, match="z='best'; expected 'max', 'mean'"):
        cf.io.read_field(tmp_path / "s.tif", z="best")


def test_pages_without_a_name_are_planes_where_planes_are_asked_for(tmp_path):
    for i, channel in enumerate(("DAPI", "GFP")):
        stack = np.stack([flat(10 * i + k) for k in range(3)])
        tifffile.imwrite(tmp_path / f"A1_{channel}.tif", stack, photometric="minisblack")
    with pytest.raises(ValueError, match="DAPI.tif' holds 3 channels; expected one per file"):
        cf.io.read_fields(tmp_path, pattern=PATTERN)[0]
    assert means(cf.io.read_fields(tmp_path, pattern=PATTERN, z="max")[0]) == [2, 12]


def test_planes_in_a_file_each(tmp_path):
    for plane in ("1", "2", "10"):
        for i, channel in enumerate("12"):
            value = 100 * i + int(plane)
            tifffile.imwrite(tmp_path / f"r01c02f03p{plane}-ch{channel}.tiff", flat(value))
    pattern = r"(?P<well>r\d+c\d+)f(?P<site>\d+)p(?P<z>\d+)-ch(?P<channel>\d)"
    assert len(cf.io.read_fields(tmp_path, pattern=pattern)) == 3  # a field for each plane
    for z, expected in {"max": [10, 110], 0: [1, 101], 2: [10, 110], "mean": [4, 104]}.items():
        fields = cf.io.read_fields(tmp_path, pattern=pattern, z=z)
        assert len(fields) == 1
        assert fields[0].metadata == {"well": "r01c02", "site": "03"}
        assert means(fields[0]) == expected
    with pytest.raises(ValueError, match="z=3: there are 3 focal planes"):
        cf.io.read_fields(tmp_path, pattern=pattern, z=3)[0]


# -- colours, pictures, order of axes -------------------------------------------------------------


@pytest.mark.parametrize("n", [3, 4])
@pytest.mark.parametrize("kind", ["tif", "planar.tif", "png"])
def test_colours_are_channels_with_names(tmp_path, n, kind):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, n), dtype=np.uint8)
    file = tmp_path / f"rgb.{kind}"
    if kind == "png":
        file.write_bytes(imagecodecs.png_encode(pixels))
    elif kind == "tif":
        tifffile.imwrite(file, pixels, photometric="rgb")
    else:
        moved = np.moveaxis(pixels, -1, 0)
        tifffile.imwrite(file, moved, photometric="rgb", planarconfig="separate")
    field = cf.io.read_field(file)
    assert field.channels == ("red", "green", "blue", "alpha")[:n]
    np.testing.assert_array_equal(field.pixels, np.moveaxis(pixels, -1, 0))
    assert cf.io.read_field(file, channels=["blue"]).pixels.tolist() == [pixels[..., 2].tolist()]


def test_pictures_keep_their_bits_and_are_found_in_folders(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 60_000, (16, 20), dtype=np.uint16)
    for channel in ("DAPI", "GFP"):
        (tmp_path / f"A1_{channel}.png").write_bytes(imagecodecs.png_encode(pixels))
    field = cf.io.read_fields(tmp_path, pattern=PATTERN)[0]
    assert field.pixels.dtype == np.uint16
    np.testing.assert_array_equal(field.pixels[1], pixels)
    (tmp_path / "x.jpg").write_bytes(imagecodecs.jpeg_encode(flat(7, dtype="u1")))
    assert cf.io.read_field(tmp_path / "x.jpg").pixels.shape == (1, 16, 20)


def test_damaged_pictures_are_named(tmp_path):
    whole = imagecodecs.png_encode(flat(7))
    jpeg = imagecodecs.jpeg_encode(flat(7, dtype="u1"))
    for name, data in {"a.png": whole[:60], "b.png": whole[:12], "c.jpg": jpeg[:40]}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}' cannot be read as a"):
            cf.io.read_field(tmp_path / name)


def test_channels_that_come_last_are_put_first(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 60_000, (30, 40, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "last.tif", pixels, photometric="minisblack")
    found = cf.io.read_field(tmp_path / "last.tif", channels=list("abcde"))
    np.testing.assert_array_equal(found.pixels, np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("named", [True, False])
def test_crops_with_channels_last_are_refused_by_whoever_reads_them(named):
    cells = ad.AnnData(obsm={"crops": np.zeros((4, 24, 24, 3), np.uint8)}, shape=(4, 0))
    if named:
        cells.uns["channels"] = ["DNA", "ER", "AGP"]
    for call in (
        lambda: cf.pp.embed_images(cells, backbone="test_vit", weights="random", progress=False),
        lambda: cf.DINO.setup_anndata(cells, image_rep="crops"),
    ):
        with pytest.raises(ValueError, match=r"\(24, 24, 3\), the channels.* last; expected"):
            call()


def test_masks_among_crops_are_no_channels():
    cells = ad.AnnData(obsm={"crops": np.zeros((4, 3, 24, 24), np.uint8)}, shape=(4, 0))
    cells.uns["channels"], cells.uns["is_mask"] = ["mask", "DNA", "ER"], [True, False, False]
    with pytest.raises(ValueError, match=r"masks among its channels .'mask'.*\['DNA', 'ER'\]"):
        cf.pp.embed_images(cells, backbone="test_vit", weights="random", progress=False)


# -- names of channels ----------------------------------------------------------------------------


def named_file(path: Path, names: list[str], kind: str) -> Path:
    pixels = np.stack([flat(i + 1) for i in range(len(names))])
    if kind == "zarr":
        write_ome_zarr(path, pixels, names=names)
    elif kind == "imagej":
        tifffile.imwrite(path, pixels, imagej=True, metadata={"axes": "CYX", "Labels": names})
    else:
        about = {"axes": "CYX", "Channel": {"Name": names}}
        tifffile.imwrite(path, pixels, ome=True, metadata=about)
    return path


@pytest.mark.parametrize("kind", ["ome", "imagej", "zarr"])
def test_channels_of_one_name_go_by_their_place(tmp_path, kind):
    file = named_file(tmp_path / "f.x", ["DAPI", "Cy5", "Cy5"], kind)
    with pytest.raises(ValueError, match=r"several channels of one name: 'DAPI', 'Cy5', 'Cy5'"):
        cf.io.read_field(file)
    assert cf.io.read_field(file, channels=["DAPI", "short", "long"]).channels == (
        "DAPI",
        "short",
        "long",
    )
    assert means(cf.io.read_field(file, channels=["DAPI"])) == [1]
    assert means(cf.io.read_field(file, channels={2: "long", 0: "DNA"})) == [3, 1]
    for wrong in (["Cy5"], {"Cy5": "x"}):
        with pytest.raises(ValueError, match="Cy5"):
            cf.io.read_field(file, channels=wrong)
    with pytest.raises(ValueError, match="'DAPI' is channel 0"):
        cf.io.read_field(file, channels=["short", "DAPI", "long"])
    with pytest.raises(ValueError, match="3 channels called .*2 names were given"):
        cf.io.read_field(file, channels=["a", "b"])
    with pytest.raises(KeyError, match="'7' is not in the places"):
        cf.io.read_field(file, channels={7: "x"})


def test_channels_that_have_names_go_by_them(tmp_path):
    file = named_file(tmp_path / "f.tif", ["DAPI", "GFP"], "ome")
    with pytest.raises(KeyError, match="A dict renames them"):
        cf.io.read_field(file, channels=["DNA", "ER"])
    assert cf.io.read_field(file, channels={"GFP": "ER"}).channels == ("ER",)


@pytest.mark.parametrize("given", ["one", "list"])
def test_a_pattern_names_the_channel_of_a_single_file(tmp_path, given):
    file = tmp_path / "A01_DAPI.tif"
    tifffile.imwrite(file, flat(1))
    field = cf.io.read_field(file if given == "one" else [file], pattern=PATTERN)
    assert (field.channels, field.metadata) == (("DAPI",), {"well": "A01"})
    renamed = cf.io.read_field(file, pattern=PATTERN, channels={"DAPI": "DNA"})
    assert renamed.channels == ("DNA",)


@pytest.mark.parametrize("site", ["²", "1", "٣", "½", "①", "x²", ""])
def test_sites_of_any_spelling_are_sorted(tmp_path, site):
    for name in (site, "10", "9"):
        tifffile.imwrite(tmp_path / f"A01_{name}_DAPI.tif", flat(1))
    pattern = r"(?P<well>[A-P]\d+)_(?P<site>.*)_(?P<channel>DAPI)\.tif"
    sites = cf.io.read_fields(tmp_path, pattern=pattern).table["site"].tolist()
    assert sorted(sites) == sorted([site, "10", "9"])
    assert sites.index("9") < sites.index("10")


# -- labels ---------------------------------------------------------------------------------------


def squares(value: int = 2, ground: int = 1) -> np.ndarray:
    mask = np.full((60, 60), ground, np.uint8)
    for y, x in ((5, 5), (5, 40), (40, 5), (40, 40)):
        mask[y : y + 8, x : x + 8] = value
    return mask


@pytest.mark.parametrize("connected", [True, False])
def test_a_background_that_is_not_0_is_refused_or_named(tmp_path, connected):
    tifffile.imwrite(tmp_path / "seg.tif", squares())
    with pytest.raises(ValueError, match=r"no background of 0.* 1 covers 93%.*`background=1`"):
        cf.io.read_labels(tmp_path / "seg.tif", connected=connected)
    labels = cf.io.read_labels(tmp_path / "seg.tif", connected=True, background=1)
    assert labels.max() == 4
    assert (labels == 0).sum() == 3600 - 4 * 64
    numbered = squares(0, 1)
    numbered[numbered == 0] = np.repeat([2, 3, 4, 5], 64)
    tifffile.imwrite(tmp_path / "objects.tif", numbered)
    with pytest.raises(ValueError, match="no background of 0"):
        cf.io.read_labels(tmp_path / "objects.tif", connected=connected)


@pytest.mark.parametrize("ground", [65535, -1])
def test_backgrounds_at_the_end_of_the_type(tmp_path, ground):
    labels = squares(3, ground % 256).astype(np.int32)
    labels[labels != 3] = ground
    for i, place in enumerate(np.ndindex(2, 2)):
        corner = labels[30 * place[0] : 30 * place[0] + 30, 30 * place[1] : 30 * place[1] + 30]
        corner[corner != ground] = i + 1
    tifffile.imwrite(tmp_path / "l.tif", labels)
    with pytest.raises(ValueError, match=f"{ground} covers 93%"):
        cf.io.read_labels(tmp_path / "l.tif")
    assert np.unique(cf.io.read_labels(tmp_path / "l.tif", background=ground)).tolist() == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_a_map_of_classes_is_no_label_image(tmp_path):
    classes = squares(2, 0)
    classes[5:13, 5:13] = classes[40:48, 40:48] = 1
    tifffile.imwrite(tmp_path / "classes.tif", classes)
    with pytest.raises(ValueError, match="map of classes, not labels.*value 1, 2, in 4 pieces"):
        cf.io.read_labels(tmp_path / "classes.tif")


def test_cells_that_cover_the_whole_field_are_labels(tmp_path):
    tiles = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((10, 10))).astype(np.uint16)
    tifffile.imwrite(tmp_path / "tiles.tif", tiles)
    np.testing.assert_array_equal(cf.io.read_labels(tmp_path / "tiles.tif"), tiles)
    tifffile.imwrite(tmp_path / "negative.tif", tiles.astype(np.int16) - 5)
    with pytest.raises(ValueError, match="negative numbers, from -4 on"):
        cf.io.read_labels(tmp_path / "negative.tif")


def test_label_files_are_no_channels(tmp_path):
    for name in ("DAPI", "GFP", "mask"):
        tifffile.imwrite(tmp_path / f"A01_s1_{name}.tif", flat(1))
    fields = cf.io.read_fields(
        tmp_path,
        pattern=r"(?P<well>[A-P]\d+)_s(?P<site>\d+)_(?P<channel>\w+)\.tif",
        labels_pattern=r"(?P<well>[A-P]\d+)_s(?P<site>\d+)_mask\.tif",
    )
    assert fields[0].channels == ("DAPI", "GFP")
    assert fields[0].labels.shape == (16, 20)


def write_ome_zarr(path: Path, array: np.ndarray, axes: str = "cyx", names=None) -> None:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    group.create_array("0", data=array)
    scale = {"axes": [{"name": a} for a in axes], "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [scale]
    if names:
        group.attrs["omero"] = {"channels": [{"label": name} for name in names]}


def test_a_plate_with_labels_inside_its_images(tmp_path):
    plate = tmp_path / "plate.zarr"
    for well in ("A/1", "B/12"):
        write_ome_zarr(plate / well / "0", flat(1, (2, 16, 20)), names=["DNA", "ER"])
        for i, name in enumerate(("cells", "nuclei")):
            labels = np.zeros((16, 20), np.int32)
            labels[3:6, 3:6] = i + 1
            write_ome_zarr(plate / well / "0" / "labels" / name, labels, "yx")
    groups = r"(?P<row>[A-P])/(?P<col>\d+)/(?P<site>\d+)"
    for pattern in (groups, groups + "$"):
        fields = cf.io.read_fields(
            plate, pattern=pattern, labels_pattern=groups + "/labels/nuclei$"
        )
        assert [f.name for f in fields] == ["A_1_0", "B_12_0"]
        assert [int(f.labels.max()) for f in fields] == [2, 2]
        assert fields[0].channels == ("DNA", "ER")
    assert cf.io.read_labels(plate, element="A/1/0/labels/cells").max() == 1
    assert cf.io.read_field(plate, element="B/12/0").channels == ("DNA", "ER")
    with pytest.raises(ValueError, match="holds 2 images: 'A/1/0', 'B/12/0'.*read_fields"):
        cf.io.read_field(plate)
    cells = cf.pp.crop_cells(fields, size=4)
    assert cells.obs["row"].tolist() == ["A", "B"]


# -- hostile files --------------------------------------------------------------------------------


def test_no_image_leads_out_of_its_folder(tmp_path):
    write_ome_zarr(tmp_path / "other.zarr", flat(1, (2, 16, 20)))
    write_ome_zarr(tmp_path / "f.zarr", flat(1, (2, 16, 20)))
    with pytest.raises(ValueError, match=r"element '\.\./other.zarr' lies outside"):
        cf.io.read_field(tmp_path / "f.zarr", element="../other.zarr")
    group = zarr.open_group(str(tmp_path / "f.zarr"), mode="a")
    scale = {"axes": [{"name": a} for a in "cyx"], "datasets": [{"path": "../other.zarr/0"}]}
    group.attrs["multiscales"] = [scale]
    with pytest.raises(ValueError, match="f.zarr' is no OME-Zarr image.*outside"):
        cf.io.read_field(tmp_path / "f.zarr")
    file = positions(tmp_path / "p.ome.tif", 1)
    with tifffile.TiffFile(file, mode="r+") as tif:
        link = '<UUID FileName="../x.tif">urn:uuid:1</UUID>'
        text = re.sub(r"<TiffData ([^>]*)/>", rf"<TiffData \1>{link}</TiffData>", tif.ome_metadata)
        assert link in text
        tif.pages[0].tags["ImageDescription"].overwrite(text)
    with pytest.raises(ValueError, match=r"says that its pixels are in '\.\./x.tif'"):
        cf.io.read_field(file)


def test_sizes_that_no_file_can_hold_are_refused_before_memory_is_taken(tmp_path):
    tifffile.imwrite(tmp_path / "t.tif", flat(1), compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "t.tif", mode="r+") as tif:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tif.pages[0].tags[name].overwrite(1_000_000)
    with pytest.raises(ValueError, match="t.tif' claims to hold 2,000.0 GB"):
        cf.io.read_field(tmp_path / "t.tif")
    tifffile.imwrite(tmp_path / "u.tif", flat(1), metadata=None)
    with tifffile.TiffFile(tmp_path / "u.tif", mode="r+") as tif:
        tif.pages[0].tags["ImageLength"].overwrite(1_000_000)
    with pytest.raises(ValueError, match="u.tif' is truncated.*page 1 has 640 bytes"):
        cf.io.read_field(tmp_path / "u.tif")
    head = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 16, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    with pytest.raises(ValueError, match="p.png' claims to hold"):
        cf.io.read_field(tmp_path / "p.png")
    group = zarr.open_group(str(tmp_path / "z.zarr"), mode="w", zarr_format=2)
    group.create_array("0", shape=(2, 1 << 20, 1 << 20), chunks=(1, 64, 64), dtype="u2")
    scale = {"axes": [{"name": a} for a in "cyx"], "datasets": [{"path": "0"}]}
    group.attrs["multiscales"] = [scale]
    with pytest.raises(ValueError, match="z.zarr/0' claims to hold"):
        cf.io.read_field(tmp_path / "z.zarr")


# -- labels and crops that are in memory -----------------------------------------------------------


def test_labels_in_memory_without_a_background_are_refused():
    field = cf.io.Field(np.zeros((1, 60, 60), np.uint16), ("DNA",), {"well": "A1"})
    with pytest.raises(ValueError, match="field 'A1' have no background of 0; 1 covers 93%"):
        cf.pp.crop_cells(field, squares(), size=8)
    tiles = np.kron(np.arange(1, 37).reshape(6, 6), np.ones((10, 10))).astype(np.uint16)
    assert cf.pp.crop_cells(field, tiles, size=8).n_obs == 36


def test_labels_of_positions_go_with_their_position(tmp_path):
    positions(tmp_path / "A1_cells.ome.tif", 2, (16, 20), "YX")
    positions(tmp_path / "A1_image.ome.tif", 2)
    options = {
        "pattern": r"(?P<well>A1)_image",
        "labels_pattern": r"(?P<well>A1)_cells",
        "series": "all",
    }
    fields = cf.io.read_fields(tmp_path, **options)
    assert [int(f.labels.max()) for f in fields] == [10, 20]
    tifffile.imwrite(tmp_path / "A1_cells.ome.tif", flat(0))
    with pytest.raises(ValueError, match="holds 2 images, its labels .* 1; expected one label"):
        cf.io.read_fields(tmp_path, **options)


def test_the_label_image_is_no_channel_of_its_field(tmp_path):
    for name in ("DAPI", "GFP"):
        tifffile.imwrite(tmp_path / f"A1_{name}.tif", flat(1))
    with pytest.raises(ValueError, match="A1_GFP.tif' is the label image, and a channel too"):
        cf.io.read_field(
            sorted(tmp_path.iterdir()), pattern=PATTERN, labels=tmp_path / "A1_GFP.tif"
        )


def test_crops_with_channels_of_one_name_go_by_their_place(tmp_path):
    crops = np.arange(3, dtype=np.uint8)[None, :, None, None] * np.ones((2, 3, 8, 8), np.uint8)
    cells = ad.AnnData(obsm={"crops": crops}, shape=(2, 0))
    cells.uns["channels"] = ["DNA", "Cy5", "Cy5"]
    cells.write_h5ad(tmp_path / "c.h5ad")
    found = cf.io.read_crops(tmp_path / "c.h5ad", channels=["DNA", "short", "long"])
    assert found.obsm["crops"][0, :, 0, 0].tolist() == [0, 1, 2]
    assert list(found.uns["channels"]) == ["DNA", "short", "long"]
    one = cf.io.read_crops(tmp_path / "c.h5ad", channels={2: "long"})
    assert one.obsm["crops"][0, :, 0, 0].tolist() == [2]
    with pytest.raises(ValueError, match="2 channels .* are called 'Cy5'|3 channels called"):
        cf.io.read_crops(tmp_path / "c.h5ad", channels=["Cy5"])
