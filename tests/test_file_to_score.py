"""Files as three kinds of screens come in, made up, from the file to the score."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy import ndimage

import cellfuse as cf

# -- BBBC021-like: fields of wells, an image table, a table of mechanisms -------------------------

MOA = {"taxol": "stabilizer", "epothilone": "stabilizer", "ALLN": "protease", "MG-132": "protease"}
#: Brightness of DNA and actin, and radius of the nuclei, by mechanism.
LOOKS = {"stabilizer": (9000, 2000, 7), "protease": (3000, 8000, 4), "DMSO": (6000, 5000, 5)}


def field(kind: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two channels and the labels of six cells."""
    dna, actin, radius = LOOKS[kind]
    labels = np.zeros((96, 96), np.uint16)
    for i, (y, x) in enumerate(np.array([(r, c) for r in (24, 72) for c in (16, 48, 80)])):
        yy, xx = np.ogrid[:96, :96]
        labels[(yy - y) ** 2 + (xx - x) ** 2 <= (radius + rng.integers(2)) ** 2] = i + 1
    inside = labels > 0
    near = ndimage.binary_dilation(inside, iterations=4)
    pixels = np.stack([dna * inside, actin * near]) + rng.integers(100, 400, (2, 96, 96))
    return pixels.astype(np.uint16), labels


def bbbc021(folder: Path) -> None:
    """Files as BBBC021 names them: plate folders, well, site and w1/w4; and its two tables."""
    rng = np.random.default_rng(0)
    rows = []
    for plate in ("Week1_22123", "Week1_22141"):
        for i, compound in enumerate(["DMSO", *MOA]):
            well = f"B{i + 2:02d}"
            pixels, labels = field(MOA.get(compound, "DMSO"), rng)
            place = folder / plate
            (place / "labels").mkdir(parents=True, exist_ok=True)
            names = [f"{plate}_{well}_s1_w{w}A1B2.tif" for w in (1, 4)]
            for name, channel in zip(names, pixels, strict=True):
                tifffile.imwrite(place / name, channel)
            tifffile.imwrite(place / "labels" / f"{plate}_{well}_s1_nuclei.tif", labels)
            rows.append((i, names[0], plate, well, compound, 0.003 * i))
    columns = [
        "ImageNumber", "Image_FileName_DAPI", "Image_Metadata_Plate_DAPI",
        "Image_Metadata_Well_DAPI", "Image_Metadata_Compound", "Image_Metadata_Concentration",
    ]  # fmt: skip
    pd.DataFrame(rows, columns=columns).to_csv(folder / "image.csv", index=False)
    moa = pd.DataFrame({"compound": list(MOA), "moa": list(MOA.values())})
    moa.to_csv(folder / "moa.csv", index=False)


def test_bbbc021_like_wells_from_pixels_to_the_accuracy_of_mechanisms(tmp_path):
    bbbc021(tmp_path)
    fields = cf.io.read_fields(
        tmp_path,
        pattern=r"(?P<plate>Week\d_\d+)_(?P<well>[A-H]\d\d)_s(?P<site>\d)_w(?P<channel>[14])",
        channels={"1": "DNA", "4": "actin"},
        labels_pattern=r"(?P<plate>Week\d_\d+)_(?P<well>[A-H]\d\d)_s(?P<site>\d)_nuclei\.tif",
    )
    cells = cf.pp.crop_cells(fields, size=24)
    assert cells.n_obs == 60
    on = {"plate": "Image_Metadata_Plate_DAPI", "well": "Image_Metadata_Well_DAPI"}
    given = {"Image_Metadata_Compound", "Image_Metadata_Concentration"}
    cf.io.add_metadata(cells, tmp_path / "image.csv", on=on, columns=given)
    cells.obs["compound"] = cells.obs["Image_Metadata_Compound"]
    cf.io.add_metadata(cells, tmp_path / "moa.csv", on="compound", missing="keep")
    assert cells.obs["moa"].isna().sum() == 12  # DMSO has no mechanism
    crops = cells.obsm["crops"].astype(np.float32)
    cells.obsm["X_plain"] = np.concatenate([crops.mean((2, 3)), crops.std((2, 3))], axis=1)
    cf.pp.center_scale(
        cells, use_rep="X_plain", control_key="compound", control="DMSO", batch_key="plate",
        key_added="X_scaled",
    )  # fmt: skip
    treated = cells[cells.obs["moa"].notna()].copy()
    wells = cf.tl.aggregate(treated, by=["compound", "plate", "moa"], use_rep="X_scaled")
    found = cf.tl.knn_accuracy(wells, use_rep=None, by="moa", k=1, group_key="compound", n_boot=0)
    assert found["accuracy"].iloc[0] == 1.0


# -- Target-ORF-like: a plate of profiles and a plate map -----------------------------------------


def target_orf(folder: Path) -> None:
    """Profiles of two plates whose barcodes begin with 0, and what stands in their wells."""
    rng = np.random.default_rng(1)
    genes = [f"GENE{i}" for i in range(12)]
    effects = rng.normal(size=(12, 20))
    layout = [(gene, k) for gene in genes for k in range(2)] + [("LacZ", k) for k in range(8)]
    wells = [f"{row}{column:02d}" for row in "ABCD" for column in range(1, 9)]
    names = [
        f"{part}_{kind}_{i}"
        for part in ("Cells", "Nuclei")
        for kind in ("AreaShape", "Texture")
        for i in range(5)
    ]
    for plate in ("00117", "00118"):
        x = rng.normal(size=(32, 20))
        for i, (gene, _) in enumerate(layout):
            if gene in genes:
                x[i] += 3 * effects[genes.index(gene)]
        table = pd.DataFrame(x, columns=names)
        table.insert(0, "Metadata_Plate", plate)
        table.insert(1, "Metadata_Well", wells)
        table["Image_ExecutionTime_05Measure"] = rng.random(32)
        table.to_csv(folder / f"{plate}.csv.gz", index=False)
    header = "plate\twell_position\tgene\tcontrol_type\r\n"
    body = "".join(
        f"{plate}\t{well}\t{gene}\t{'negcon' if gene == 'LacZ' else ''}\r\n"
        for plate in ("00117", "00118")
        for well, (gene, _) in zip(wells, layout, strict=True)
    )
    (folder / "platemap.txt").write_bytes((header + body).encode("utf-16"))


def test_a_target_orf_like_plate_from_csv_to_mean_average_precision(tmp_path):
    target_orf(tmp_path)
    plates = cf.io.read_profiles(sorted(tmp_path.glob("*.csv.gz")), strip_prefix=True)
    assert plates.shape == (64, 20)
    cf.io.add_metadata(
        plates, tmp_path / "platemap.txt", on={"Plate": "plate", "Well": "well_position"}
    )
    cf.pp.mad_robustize(
        plates, use_rep=None, control_key="control_type", control="negcon", batch_key="Plate",
        key_added="X_scaled",
    )  # fmt: skip
    found = cf.tl.mean_average_precision(
        plates, by="gene", use_rep="X_scaled", negatives_by=None, control="LacZ", n_null=200,
        n_boot=0,
    )  # fmt: skip
    assert len(found) == 12
    assert found["map"].min() > 0.5
    shuffled = plates.copy()
    shuffled.obs["gene"] = np.random.default_rng(0).permutation(shuffled.obs["gene"])
    null = cf.tl.mean_average_precision(
        shuffled, by="gene", use_rep="X_scaled", control="LacZ", n_null=200, n_boot=0
    )
    assert null["map"].mean() < 0.4


def test_a_barcode_that_went_through_numbers_is_told(tmp_path):
    target_orf(tmp_path)
    plates = cf.io.read_profiles(sorted(tmp_path.glob("*.csv.gz")), strip_prefix=True)
    plates.obs["Plate"] = plates.obs["Plate"].astype(int)
    with pytest.raises(ValueError, match=r"64 of 64 rows .*'117, A01'.*'00117, A01'.*12 and 0012"):
        cf.io.add_metadata(
            plates, tmp_path / "platemap.txt", on={"Plate": "plate", "Well": "well_position"}
        )


# -- Harmony-like: an export of fields with a preamble and units ----------------------------------


FEATURES = [
    "Nuclei - Nucleus Area [µm²] - Mean per Well",
    "Nuclei - Intensity DAPI - Mean",
    "Nuclei - Roundness",
    "Cells - Spots / Area",
    "Cells - Texture SER",
]


def harmony(folder: Path) -> Path:
    """Two fields of each well: DMSO and seven compounds, four wells each; one area is missing."""
    rng = np.random.default_rng(2)
    lines = ["Database Name\tScreens", "Plate Name\t0042", "", "[Data]"]
    lines.append("\t".join(["Row", "Column", "Field", "Compound", *FEATURES, "Cell Count", ""]))
    for row in range(8):
        effect = 3 * rng.normal(size=5) * (row > 0)
        for column, site in np.ndindex(4, 2):
            shown = [f"{v:.3f}" for v in rng.normal(size=5) * 0.5 + effect]
            shown[0] = "NaN" if (row, column, site) == (1, 0, 1) else shown[0]
            where = [str(row + 1), str(column + 1), str(site + 1), f"drug{row}" if row else "DMSO"]
            lines.append("\t".join([*where, *shown, "118", ""]))
    file = folder / "PlateResults.txt"
    file.write_bytes(("\r\n".join(lines) + "\r\n").encode("latin-1"))
    return file


def test_a_harmony_like_export_from_text_to_consistency(tmp_path):
    sites = cf.io.read_profiles(
        harmony(tmp_path), metadata=["Cell Count"], obs_names=["Row", "Column", "Field"],
        drop_missing=True,
    )  # fmt: skip
    assert list(sites.var_names) == FEATURES[1:]  # the area of one field is missing
    assert sites.n_obs == 64
    assert set(sites.obs["Plate Name"]) == {"0042"}
    wells = cf.tl.aggregate(sites, by=["Compound", "Row", "Column"], use_rep=None)
    assert wells.n_obs == 32
    cf.pp.center_scale(
        wells, use_rep=None, control_key="Compound", control="DMSO", key_added="X_scaled"
    )
    found = cf.tl.perturbation_consistency(
        wells, by="Compound", control="DMSO", use_rep="X_scaled", n_null=200, n_boot=0
    )
    assert sorted(found.index) == [f"drug{i}" for i in range(1, 8)]
    assert found["similarity"].min() > 0.8
    wells.write_h5ad(tmp_path / "wells.h5ad")
    assert ad.read_h5ad(tmp_path / "wells.h5ad").n_obs == 32


# -- what is known of wells -----------------------------------------------------------------------


def wells() -> ad.AnnData:
    obs = pd.DataFrame({"plate": ["0012", "12", "12"], "n": [1, 2, np.nan]}, index=list("abc"))
    return ad.AnnData(np.ones((3, 1), "f4"), obs=obs)


def test_metadata_find_their_wells_as_they_are_written(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("barcode,dose,gene,a/b\n12,1,nan,x\n0012,2,iav,y\n7,3,z,z\n")
    adata = wells()
    cf.io.add_metadata(adata, file, on={"plate": "barcode"})
    assert adata.obs["dose"].tolist() == [2, 1, 1]
    assert adata.obs["gene"].tolist() == ["iav", "nan", "nan"]
    assert adata.obs["a|b"].tolist() == ["y", "x", "x"]
    with pytest.raises(ValueError, match="obs has 'dose', 'gene', 'a|b' already"):
        cf.io.add_metadata(adata, file, on={"plate": "barcode"})
    numbers = pd.DataFrame({"n": [2.0, 1.0, np.nan], "label": ["two", "one", "none"]})
    cf.io.add_metadata(adata, numbers, on="n", missing="keep")
    assert adata.obs["label"].tolist()[:2] == ["one", "two"]
    assert adata.obs["label"].isna().tolist() == [False, False, True]
    adata.write_h5ad(tmp_path / "w.h5ad")


def test_a_plate_map_that_does_not_fit_is_refused(tmp_path):
    file = tmp_path / "map.csv"
    file.write_text("plate,gene\n12,a\n12,b\n0012,c\n")
    with pytest.raises(ValueError, match="1 keys stand twice in .*map.csv' with different.*'12'"):
        cf.io.add_metadata(wells(), file, on="plate")
    file.write_text("plate,gene\n12,a\n12,a\n0012,c\n")
    adata = wells()
    cf.io.add_metadata(adata, file, on="plate")
    assert adata.obs["gene"].tolist() == ["c", "a", "a"]
    file.write_text("plate,gene\n12,a\n")
    with pytest.raises(ValueError, match="1 of 3 rows are not in .*map.csv': '0012'"):
        cf.io.add_metadata(wells(), file, on="plate")
    with pytest.raises(KeyError, match="'barcode' is not in the columns of"):
        cf.io.add_metadata(wells(), file, on={"plate": "barcode"})
    with pytest.raises(KeyError, match="'batch' is not in obs"):
        cf.io.add_metadata(wells(), file, on="batch")
