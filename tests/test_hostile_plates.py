"""Plates in OME-Zarr and pixels as converters and half-finished copies leave them."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import zarr

import cellfuse as cf

AXES = [{"name": name} for name in "cyx"]


def plate(root, *, wells=("A/1",), images=("0",), axes=AXES, dtype="u2", omero=None):
    """A plate of one well with one image, and what its metadata say."""
    group = zarr.open_group(str(root), mode="w", zarr_format=2)
    group.attrs["plate"] = {"wells": [{"path": path} for path in wells]}
    well = group.create_group("A/1")
    well.attrs["well"] = {"images": [{"path": path} for path in images]}
    image = well.create_group("0")
    image.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
    if omero is not None:
        image.attrs["omero"] = omero
    image.create_array("0", shape=(2, 8, 8), chunks=(2, 8, 8), dtype=dtype)[...] = 7
    return root


def fields_of(root):
    return cf.io.read_fields(root, pattern=r"(?P<well>[A-P]/\d+)/(?P<site>\d+)$")


@pytest.mark.parametrize(
    ("names", "absent"), [({"wells": ("A/1", "A/2")}, "A/2"), ({"images": ("0", "1")}, "1")]
)
def test_what_a_plate_names_and_lacks_is_told(tmp_path, caplog, names, absent):
    with caplog.at_level("WARNING", logger="cellfuse"):
        assert len(fields_of(plate(tmp_path / "p.zarr", **names))) == 1
    assert f"names 1 wells or images that are not there: '{absent}'" in caplog.text


def test_a_whole_plate_is_read_without_a_word(tmp_path, caplog):
    with caplog.at_level("WARNING", logger="cellfuse"):
        assert fields_of(plate(tmp_path / "p.zarr"))[0].pixels.shape == (2, 8, 8)
    assert not caplog.text


@pytest.mark.parametrize("omero", [{"channels": None}, {}, {"channels": [{}, {"color": "FF"}]}])
def test_channels_that_nobody_named_have_no_names(tmp_path, omero):
    assert fields_of(plate(tmp_path / "p.zarr", omero=omero))[0].pixels.shape == (2, 8, 8)


def test_names_of_other_channels_than_there_are_are_told(tmp_path, caplog):
    root = plate(tmp_path / "p.zarr", omero={"channels": [{"label": "DNA"}]})
    with caplog.at_level("WARNING", logger="cellfuse"):
        assert len(fields_of(root)[0].channels) == 2
    assert "names 1 channels, 'DNA', and holds 2" in caplog.text


def test_axes_that_do_not_fit_the_array_are_told(tmp_path):
    root = plate(tmp_path / "p.zarr", axes=[{"name": name} for name in "zcyx"])
    with pytest.raises(ValueError, match="names 4 axes, 'z', 'c', 'y', 'x'.*has 3"):
        fields_of(root)[0]


@pytest.mark.parametrize("kind", ["tif", "zarr"])
def test_complex_pixels_are_refused(tmp_path, kind):
    file = tmp_path / "phase.tif"
    tifffile.imwrite(file, np.ones((8, 8), np.complex64))
    with pytest.raises(ValueError, match="holds complex64 pixels; expected real numbers"):
        if kind == "tif":
            cf.io.read_field(file)
        else:
            fields_of(plate(tmp_path / "p.zarr", dtype="c8"))[0]
