"""Cells cut out of fields of view."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st

import cellfuse as cf
from cellfuse.pp import crops as crops_module
from cellfuse.pp.crops import crop_cells

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def make_field(
    well: str = "A1",
    *,
    n_cells: int = 12,
    shape: tuple[int, int] = (60, 80),
    dtype: str = "uint16",
    seed: int = 0,
) -> cf.io.Field:
    """Noise, and discs of radius 4 whose labels are neither dense nor in order."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for number in rng.permutation(np.arange(1, n_cells + 1) * 7):
        centre = rng.integers(0, shape)
        labels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= 16] = number
    pixels = rng.integers(1, 250, (2, *shape)).astype(dtype)
    return cf.io.Field(pixels, ("DNA", "ER"), {"well": well, "site": "1"}, labels=labels)


def plain_crop(field: cf.io.Field, y: float, x: float, size: int) -> np.ndarray:
    """One crop of the field padded with 0, in the plainest way."""
    padded = np.pad(field.pixels, ((0, 0), (size, size), (size, size)))
    top, left = int(np.floor(y + 0.5)) + size - size // 2, int(np.floor(x + 0.5)) + size - size // 2
    return padded[:, top : top + size, left : left + size]


# -- measurement ----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 30))
def test_every_label_is_measured(seed, n_cells):
    field = make_field(n_cells=n_cells, seed=seed)
    cells = crop_cells(field, size=8)
    expected = np.unique(field.labels[field.labels > 0])
    assert cells.obs["label"].tolist() == expected.tolist()
    for label, y, x, area in cells.obs[["label", "centroid_y", "centroid_x", "area"]].to_numpy():
        rows, columns = np.nonzero(field.labels == label)
        assert area == len(rows)
        np.testing.assert_allclose([y, x], [rows.mean(), columns.mean()])


def test_large_labels_take_no_memory_of_their_size():
    field = make_field()
    labels = np.where(field.labels > 0, field.labels.astype(np.uint32) + 2_000_000_000, 0)
    tracemalloc.start()
    cells = crop_cells(field, labels.astype(np.uint32), size=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
    np.testing.assert_array_equal(
        cells.obs["label"] - 2_000_000_000, crop_cells(field, size=8).obs["label"]
    )


def test_obs_says_where_a_cell_is_from():
    cells = crop_cells(make_field("B7"), size=8)
    assert list(cells.obs.columns) == [
        "well", "site", "label", "centroid_y", "centroid_x", "area", "edge",
    ]  # fmt: skip
    assert set(cells.obs["well"]) == {"B7"}
    assert cells.obs_names[0] == f"B7_1_{cells.obs['label'].iloc[0]}"
    assert cells.uns["channels"].tolist() == ["DNA", "ER"]
    assert cells.obsm["crops"].dtype == np.uint16


def test_specks_are_left_out():
    field = make_field()
    area = crop_cells(field, size=8).obs["area"]
    kept = crop_cells(field, size=8, min_area=int(area.max()))
    assert kept.n_obs == (area >= area.max()).sum() < len(area)


# -- what is cut ----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 24))
def test_crops_equal_the_padded_field(seed, size):
    field = make_field(seed=seed, n_cells=6)
    cells = crop_cells(field, size=size)
    for crop, (y, x) in zip(
        cells.obsm["crops"], cells.obs[["centroid_y", "centroid_x"]].to_numpy(), strict=True
    ):
        np.testing.assert_array_equal(crop, plain_crop(field, y, x, size))
        assert (crop[:, size // 2, size // 2] == field.pixels[:, round_up(y), round_up(x)]).all()


def round_up(value: float) -> int:
    return int(np.floor(value + 0.5))


def test_cells_at_the_edge_are_padded_or_dropped():
    labels = np.zeros((20, 20), int)
    for label, (y, x) in enumerate(
        [(0, 0), (4, 4), (10, 10), (15, 16), (16, 16), (19, 3)], start=1
    ):
        labels[y, x] = label
    field = cf.io.Field(np.full((1, 20, 20), 9, np.uint8), ("DNA",), {"well": "A1"})
    padded = crop_cells(field, labels, size=8)
    # A crop of 8 reaches from 4 before the centre to 3 behind it.
    assert padded.obs["edge"].tolist() == [True, False, False, False, False, True]
    assert [int((c == 9).sum()) for c in padded.obsm["crops"]] == [16, 64, 64, 64, 64, 35]
    dropped = crop_cells(field, labels, size=8, edge="drop")
    assert dropped.obs["label"].tolist() == [2, 3, 4, 5]
    assert not dropped.obs["edge"].any()
    np.testing.assert_array_equal(dropped.obsm["crops"], padded.obsm["crops"][1:5])
    with pytest.raises(ValueError, match="no cell to cut: 1 fields with 6 cells"):
        crop_cells(field, labels, size=60, edge="drop")


def test_neighbours_are_masked_and_the_background_is_not():
    labels = np.zeros((10, 10), int)
    labels[4:6, 2:5], labels[4:6, 5:8] = 1, 2
    field = cf.io.Field(np.full((2, 10, 10), 7, np.uint8), ("a", "b"), labels=labels)
    cells = crop_cells(field, size=6, mask_neighbours=True)
    for crop, own in zip(cells.obsm["crops"], (1, 2), strict=True):
        near = labels[2:8, (0 if own == 1 else 3) : (6 if own == 1 else 9)]
        expected = np.where((near != 0) & (near != own), 0, 7)
        np.testing.assert_array_equal(crop, np.stack([expected] * 2))
        assert (crop == 0).any()
    assert (field.pixels == 7).all()


def test_centroids_take_the_place_of_labels():
    field = make_field()
    from_labels = crop_cells(field, size=8)
    table = from_labels.obs[["label", "centroid_y", "centroid_x"]].assign(guide="g1")
    cells = crop_cells(field, table, size=8)
    np.testing.assert_array_equal(cells.obsm["crops"], from_labels.obsm["crops"])
    assert cells.obs_names.equals(from_labels.obs_names)
    assert set(cells.obs["guide"]) == {"g1"}
    assert "area" not in cells.obs
    plain = crop_cells(field, table[["centroid_y", "centroid_x"]].to_numpy(), size=8)
    np.testing.assert_array_equal(plain.obsm["crops"], from_labels.obsm["crops"])
    assert plain.obs["label"].tolist() == list(range(len(plain)))


@pytest.mark.parametrize(
    ("dtype", "options", "expected"),
    [
        ("float32", {"dtype": "uint8", "rescale": (0, 1)}, [0, 128, 255, 255]),
        ("float64", {"dtype": "uint16"}, [0, 1, 1, 2]),
        ("int32", {"dtype": "uint8"}, [0, 0, 1, 2]),
    ],
)
def test_other_types_are_converted_on_request(dtype, options, expected):
    values = np.array([[[0, 0.5, 1, 2]]]).astype(dtype)
    field = cf.io.Field(values, ("DNA",), labels=np.array([[0, 0, 1, 0]]))
    cells = crop_cells(field, size=4, **options)
    assert cells.obsm["crops"].dtype == options["dtype"]
    assert cells.obsm["crops"][0, 0, 2].tolist() == expected
    with pytest.raises(ValueError, match=f"are {dtype}; crops are kept as uint8 or uint16"):
        crop_cells(field, size=4)


@pytest.mark.parametrize("value", [300, -1, np.nan])
def test_values_that_do_not_fit_are_refused(value):
    field = cf.io.Field(np.full((1, 4, 4), value, float), ("DNA",), labels=np.eye(4, dtype=int))
    with pytest.raises(ValueError, match="do not fit uint8; give `rescale"):
        crop_cells(field, size=2, dtype="uint8")


def test_two_bytes_become_one_by_rescaling():
    field = make_field()
    cells = crop_cells(field, size=8, dtype="uint8", rescale=(0, 510))
    whole = crop_cells(field, size=8).obsm["crops"]
    np.testing.assert_array_equal(cells.obsm["crops"], np.floor(whole / 2 + 0.5).astype(np.uint8))


# -- many fields, and stores ----------------------------------------------------------------------


def test_pairs_and_fields_with_labels_are_the_same():
    fields = [make_field(well, seed=i) for i, well in enumerate(("A1", "A2", "A3"))]
    cells = crop_cells(fields, size=8)
    pairs = crop_cells(((f, f.labels) for f in fields), size=8)
    assert cells.obs.equals(pairs.obs)
    np.testing.assert_array_equal(cells.obsm["crops"], pairs.obsm["crops"])
    alone = crop_cells(fields[1], size=8)
    mine = (cells.obs["well"] == "A2").to_numpy()
    np.testing.assert_array_equal(cells.obsm["crops"][mine], alone.obsm["crops"])


@pytest.mark.parametrize("cells_per_chunk", [1, 5, 1000])
def test_a_store_holds_what_memory_holds(tmp_path, monkeypatch, cells_per_chunk):
    monkeypatch.setattr("cellfuse.pp._crop_store.CHUNK_BYTES", cells_per_chunk * 2 * 8 * 8 * 2)
    fields = [make_field(f"A{i}", seed=i, n_cells=3 * i) for i in range(1, 6)]
    store = tmp_path / "new" / "cells.zarr"
    written = crop_cells(iter(fields), size=8, store=store)
    expected = crop_cells(fields, size=8)
    array = written.obsm["crops"]
    assert isinstance(array, zarr.Array)
    assert array.chunks == (cells_per_chunk, 2, 8, 8)
    np.testing.assert_array_equal(array[...], expected.obsm["crops"])
    assert written.obs.equals(expected.obs)
    for again in (cf.io.read_crops(store), ad.read_zarr(store)):
        np.testing.assert_array_equal(again.obsm["crops"][...], expected.obsm["crops"])
        pd.testing.assert_frame_equal(again.obs, expected.obs)
        assert again.uns["channels"].tolist() == ["DNA", "ER"]
    assert [p.name for p in store.parent.iterdir()] == ["cells.zarr"]


def test_a_store_is_replaced_on_request_only(tmp_path):
    store = tmp_path / "cells.zarr"
    crop_cells(make_field(), size=8, store=store)
    with pytest.raises(FileExistsError, match="pass overwrite=True"):
        crop_cells(make_field(), size=6, store=store)
    assert cf.io.read_crops(store).obsm["crops"].shape[-1] == 8
    crop_cells(make_field(), size=6, store=store, overwrite=True)
    assert cf.io.read_crops(store).obsm["crops"].shape[-1] == 6
    (tmp_path / "thesis").mkdir()
    with pytest.raises(FileExistsError, match="is no store of crops"):
        crop_cells(make_field(), size=6, store=tmp_path / "thesis", overwrite=True)


def test_a_failure_leaves_nothing_and_keeps_what_was_there(tmp_path):
    store = tmp_path / "cells.zarr"
    kept = crop_cells(make_field(), size=8, store=store).n_obs

    def broken():
        yield make_field("A1", seed=3)
        raise OSError("the disk of the microscope is gone")

    with pytest.raises(OSError, match="the microscope is gone"):
        crop_cells(broken(), size=8, store=store, overwrite=True)
    assert cf.io.read_crops(store).n_obs == kept
    assert [p.name for p in tmp_path.iterdir()] == ["cells.zarr"]


def test_a_second_writer_of_a_store_is_refused_and_the_first_one_ends(tmp_path):
    store = tmp_path / "cells.zarr"
    fields = [make_field("A1", seed=3), make_field("A2", seed=4)]

    def joined_half_way():
        yield fields[0]
        yield fields[1]
        with pytest.raises(OSError, match=r"another process is writing .*cells\.zarr"):
            crop_cells(fields[0], size=8, store=store)

    written = crop_cells(joined_half_way(), size=8, store=store)
    np.testing.assert_array_equal(
        written.obsm["crops"][...], crop_cells(fields, size=8).obsm["crops"]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["cells.zarr"]


def test_memory_does_not_grow_with_the_number_of_fields(tmp_path, monkeypatch):
    monkeypatch.setattr("cellfuse.pp._crop_store.CHUNK_BYTES", 1 << 14)

    def peak(n_fields: int) -> int:
        fields = (make_field(f"A{i}", shape=(200, 200), n_cells=30) for i in range(n_fields))
        tracemalloc.start()
        crop_cells(fields, size=64, store=tmp_path / f"{n_fields}.zarr")
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(1)  # what is loaded on first use
    few, many = peak(4), peak(24)
    crops = 20 * 28 * 2 * 64 * 64 * 2  # what the further fields would take
    assert many - few < crops / 4


def test_fields_are_taken_one_ahead_and_no_further():
    taken = []

    def fields():
        for i in range(6):
            taken.append(i)
            yield make_field(f"A{i}")

    counts = []
    whole = crops_module._cut_field

    def counting(*args):
        counts.append(len(taken))
        return whole(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crops_module, "_cut_field", counting)
        crop_cells(fields(), size=8)
    assert all(count <= i + 2 for i, count in enumerate(counts))


def test_an_empty_field_is_passed_over():
    empty = cf.io.Field(np.ones((2, 60, 80), np.uint16), ("DNA", "ER"), {"well": "A0", "site": "1"})
    cells = crop_cells([(empty, np.zeros((60, 80), int)), make_field()], size=8)
    assert cells.obs.equals(crop_cells(make_field(), size=8).obs)
    with pytest.raises(ValueError, match="no cell to cut: 1 fields with 0 cells"):
        crop_cells(empty, np.zeros((60, 80), int), size=8)
    with pytest.raises(ValueError, match="no cell to cut: 0 fields"):
        crop_cells([], size=8)


# -- mistakes -------------------------------------------------------------------------------------


def test_centroids_outside_the_field_are_named():
    field = make_field("B7")
    for bad in ([-0.6, 3], [3, 79.5], [np.nan, 3], [61, 3]):
        with pytest.raises(
            ValueError, match=r"1 of 2 centroids lie outside field 'B7_1' of \(60, 80\).*row 1"
        ):
            crop_cells(field, np.array([[5.0, 5.0], bad]), size=8)
    crop_cells(field, np.array([[-0.4, 0], [59.4, 79.4]]), size=8)


def test_other_mistakes_are_told():
    field = make_field("B7")
    bare = cf.io.Field(field.pixels, field.channels, {"well": "B7"})
    with pytest.raises(ValueError, match="field 'B7' has no labels"):
        crop_cells(bare, size=8)
    with pytest.raises(ValueError, match=r"labels of shape \(60, 79\) for a field of \(60, 80\)"):
        crop_cells(field, np.zeros((60, 79), int), size=8)
    with pytest.raises(ValueError, match=r"labels of field 'B7_1' are bool.*connected=True"):
        crop_cells(field, field.labels > 0, size=8)
    with pytest.raises(ValueError, match="are negative, down to -3"):
        crop_cells(field, np.full((60, 80), -3), size=8)
    with pytest.raises(ValueError, match="`mask_neighbours` needs a label image"):
        crop_cells(field, np.array([[5.0, 5.0]]), size=8, mask_neighbours=True)
    with pytest.raises(KeyError, match="'centroid_y' is not in the columns of the centroids"):
        crop_cells(field, pd.DataFrame({"y": [1], "x": [2]}), size=8)
    with pytest.raises(ValueError, match="two fields are called 'B7_1'.*such as the plate"):
        crop_cells([field, field], size=8)
    with pytest.raises(ValueError, match="belongs to one field"):
        crop_cells([field], field.labels, size=8)
    for argument in ({"size": 0}, {"size": 2.5}, {"edge": "wrap"}, {"dtype": "float32"},
                     {"rescale": (1, 0)}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(argument))):
            crop_cells(field, **({"size": 8} | argument))


@pytest.mark.parametrize("change", ["channels", "dtype"])
def test_fields_that_differ_are_named(change):
    first, second = (
        make_field("A1"),
        make_field("A2", dtype="uint8" if change == "dtype" else "uint16"),
    )
    if change == "channels":
        second = cf.io.Field(second.pixels, ("DNA", "RNA"), second.metadata, labels=second.labels)
    with pytest.raises(ValueError, match="fields differ: 'A1_1' has 'DNA', 'ER' as uint16, 'A2_1'"):
        crop_cells([first, second], size=8)


# -- real fields ----------------------------------------------------------------------------------


@pytest.mark.skipif(not (DATA / "fields").exists(), reason="../shared/data/fields")
def test_real_nuclei_are_counted_and_centred(tmp_path):
    folder = DATA / "fields"
    fields = cf.io.read_fields(
        folder / "nf1_images",
        pattern=r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>DAPI|GFP|RFP)_",
        labels=folder / "nf1_masks",
        labels_pattern=r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_DAPI_.*_MaskNuclei",
        connected=True,
    )
    cells = crop_cells(fields, size=80, store=tmp_path / "nuclei.zarr")
    counts = cells.obs.groupby("well")["label"].count()
    assert counts.to_dict() == {"B7": 28, "D6": 27, "D7": 29, "F7": 25, "H12": 23}
    assert cells.obsm["crops"].shape == (132, 3, 80, 80)
    inside = crop_cells(fields, size=80, edge="drop")
    assert inside.n_obs == (~cells.obs["edge"]).sum() < 132
    by_name = {field.name: field for field in fields}
    centred = 0
    for row, crop in zip(cells.obs.itertuples(), cells.obsm["crops"][...], strict=True):
        field = by_name[f"{row.well}_{row.site}"]
        y, x = round_up(row.centroid_y), round_up(row.centroid_x)
        assert (crop[:, 40, 40] == field.pixels[:, y, x]).all()
        centred += field.labels[y, x] == row.label
        assert row.area == (field.labels == row.label).sum()
    # One nucleus is bent around its centroid.
    assert centred == 131


# -- a call that was stopped ----------------------------------------------------------------------


class Files:
    """Fields that are read when they are asked for, as :class:`cellfuse.io.Fields` are."""

    def __init__(self, fields, stop_at=None, version=0):
        self.fields, self.stop_at, self.version, self.read = fields, stop_at, version, []

    def __len__(self):
        return len(self.fields)

    def __getitem__(self, number):
        if number == self.stop_at:
            raise OSError("the disk of the microscope is gone")
        self.read.append(number)
        return self.fields[number]

    def mark_of(self, number):
        return f"{number} {self.version if number >= 5 else 0}"


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 5 cells, written two at a time."""
    monkeypatch.setattr("cellfuse.pp._crop_store.CHUNK_BYTES", 5 * 2 * 8 * 8 * 2)
    monkeypatch.setattr("cellfuse.pp._crop_store.CHUNKS_AT_ONCE", 2)


def plate():
    """Fields of few cells, of many, and of none."""
    return [
        make_field(f"A{i}", seed=i, n_cells=n) for i, n in enumerate([0, 7, 12, 0, 9, 1, 30, 4])
    ]


def same_store(found, expected):
    np.testing.assert_array_equal(found.obsm["crops"][...], expected.obsm["crops"][...])
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    assert found.uns["channels"].tolist() == expected.uns["channels"].tolist()


@pytest.mark.parametrize("stops", [(1,), (4,), (7,), (3, 6), (6, 7, 7), (5, 6)])
def test_a_stopped_call_goes_on_after_the_fields_that_it_had_finished(
    stops, tmp_path, small_chunks
):
    store, fields = tmp_path / "cells.zarr", plate()
    for stop in stops:
        with pytest.raises(OSError, match="the microscope is gone"):
            crop_cells(Files(fields, stop), size=8, store=store)
        assert not store.exists()
    last = Files(fields)
    found = crop_cells(last, size=8, store=store)
    expected = crop_cells(fields, size=8, store=tmp_path / "unbroken.zarr")
    same_store(found, expected)
    same_store(cf.io.read_crops(store), cf.io.read_crops(tmp_path / "unbroken.zarr"))
    # Ten cells are written at a time: what was filled before the stop is not read again.
    n_cells = np.cumsum([len(crop_cells(f, size=8)) if i in (1, 2, 4, 5, 6, 7) else 0
                         for i, f in enumerate(fields)])  # fmt: skip
    reached = n_cells[stops[-1] - 1] // 10 * 10
    kept = int((n_cells <= reached).sum()) if reached else 0
    assert last.read == list(range(kept, len(fields)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cells.zarr", "unbroken.zarr"]


def test_fields_that_were_read_anyway_go_on_by_their_pixels(tmp_path, small_chunks):
    store, fields = tmp_path / "cells.zarr", plate()

    def broken():
        yield from fields[:7]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        crop_cells(broken(), size=8, store=store)
    assert "goes on after them" in stopped.value.__notes__[0]
    cut = []
    with pytest.MonkeyPatch.context() as patch:
        whole = crops_module._cut_field
        patch.setattr(crops_module, "_cut_field", lambda f, *a: cut.append(f.name) or whole(f, *a))
        found = crop_cells(iter(fields), size=8, store=store)
    assert 0 < len(cut) < len(fields)
    same_store(found, crop_cells(fields, size=8))


def test_fields_that_changed_are_cut_again_and_so_are_all_under_other_settings(
    tmp_path, small_chunks, caplog
):
    store, fields = tmp_path / "cells.zarr", plate()

    def stop():
        with pytest.raises(OSError, match="the microscope is gone"):
            crop_cells(Files(fields, 7), size=8, store=store)

    stop()
    changed = [*fields[:5], *(make_field(f"A{i}", seed=90 + i, n_cells=9) for i in (5, 6, 7))]
    other = Files(changed, version=1)
    with caplog.at_level("INFO", "cellfuse"):
        same_store(crop_cells(other, size=8, store=store), crop_cells(changed, size=8))
    assert other.read[0] == 5 and "are others now" in caplog.text
    store = tmp_path / "larger.zarr"
    stop()
    anew = Files(fields)
    with caplog.at_level("INFO", "cellfuse"):
        same_store(crop_cells(anew, size=6, store=store), crop_cells(fields, size=6))
    assert anew.read == list(range(8)) and "other settings" in caplog.text


def test_a_journal_cut_short_counts_as_far_as_it_goes(tmp_path, small_chunks):
    store, fields = tmp_path / "cells.zarr", plate()
    with pytest.raises(OSError, match="the microscope is gone"):
        crop_cells(Files(fields, 7), size=8, store=store)
    lines = tmp_path / ".cells.zarr-writing" / "journal" / "fields.jsonl"
    text = lines.read_text()
    lines.write_text(text[: text.index("\n", 300) + 40])
    cut_short = lines.parents[1] / "store" / "obsm" / "crops" / "9.0.0.0.ab12.partial"
    cut_short.write_bytes(b"half of a chunk")
    same_store(crop_cells(Files(fields), size=8, store=store), crop_cells(fields, size=8))
    assert not list(store.rglob("*.partial"))


def test_a_journal_that_promises_more_than_there_is_counts_as_far_as_that(tmp_path, small_chunks):
    store, fields = tmp_path / "cells.zarr", plate()
    with pytest.raises(OSError, match="the microscope is gone"):
        crop_cells(Files(fields, 7), size=8, store=store)
    left = tmp_path / ".cells.zarr-writing" / "store"
    crops = zarr.open_group(str(left), mode="r+")["obsm/crops"]
    crops.resize((3, *crops.shape[1:]))  # as a disk that lost what it had taken
    same_store(crop_cells(Files(fields), size=8, store=store), crop_cells(fields, size=8))


def test_a_field_of_files_is_another_when_a_file_changes(tmp_path):
    for well in ("A1", "A2"):
        for channel, plane in zip(("DNA", "ER"), make_field(well).pixels, strict=True):
            tifffile.imwrite(tmp_path / f"{well}_{channel}.tif", plane)
    pattern = r"(?P<well>..)_(?P<channel>.*)\.tif"
    fields = cf.io.read_fields(tmp_path, pattern=pattern)
    marks = [fields.mark_of(i) for i in (0, 1)]
    assert marks[0] != marks[1]
    assert marks == [cf.io.read_fields(tmp_path, pattern=pattern).mark_of(i) for i in (0, 1)]
    tifffile.imwrite(tmp_path / "A2_ER.tif", make_field("A2", seed=4).pixels[0])
    again = cf.io.read_fields(tmp_path, pattern=pattern)
    assert again.mark_of(0) == marks[0] and again.mark_of(1) != marks[1]
