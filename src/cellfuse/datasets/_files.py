"""A simulated screen as the files that a microscope and a sequencing core hand over."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._files import put_in_place
from cellfuse.datasets._drugs import CONTROL, simulated_drugs

__all__ = ["simulated_files"]

#: Cells in a row and a column of a field; the place of each, and its half width, in pixels.
PER_SIDE, PLACE, HALF = 4, 48, 16
#: Radius of a segmented cell, and what takes 8 bits to the 12 of a camera.
RADIUS, GAIN = 11, 16
VEHICLE = "dmso 0.1%"
#: What is in the folder.
WRITTEN = {"expression.gct.gz", "images", "labels", "plate_map.csv"}


def simulated_files(folder: str | Path, *, seed: int = 0, overwrite: bool = False) -> Path:
    """Write a small simulated drug screen as files, to practise reading them.

    Twelve drugs and DMSO on one plate of images (:func:`simulated_drugs` at 10 uM in A549), and
    expression of the same drugs from other cells.

    Parameters
    ----------
    folder
        Folder to make:

        - ``images/B02_s1_DNA.tif`` and so on: a field of 16 cells for each well and channel, 16
          bit; two fields of each well;
        - ``labels/B02_s1_cells.tif``: 0 outside cells, else the cell's number;
        - ``plate_map.csv``: ``well_position``, ``compound`` (the control spelled ``"dmso 0.1%"``),
          ``smiles``;
        - ``expression.gct.gz``: GCT 1.3, a column for each profile.
    seed
        Seed of everything.
    overwrite
        Replace such a folder that this wrote before; any other folder is left alone.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        `folder` exists, and `overwrite` is not set or it holds something else.

    Examples
    --------
    >>> import tempfile
    >>> import cellfuse as cf
    >>> folder = cf.datasets.simulated_files(tempfile.mkdtemp() + "/screen")
    >>> sorted(path.name for path in folder.iterdir())
    ['expression.gct.gz', 'images', 'labels', 'plate_map.csv']
    """
    target = Path(folder)
    if target.exists() and not overwrite:
        raise FileExistsError(f"{str(target)!r} exists; name another, or pass `overwrite=True`.")
    if target.exists() and {path.name for path in target.iterdir()} != WRITTEN:
        raise FileExistsError(
            f"{str(target)!r} is no folder that `simulated_files` wrote, and is left alone; name "
            "another."
        )
    beside = target.with_name(f".{target.name}-{os.getpid()}")
    screen = simulated_drugs(
        n_mechanisms=6,
        drugs_per_mechanism=2,
        cell_lines=["A549"],
        image_doses=[10.0],
        rna_doses=[10.0],
        rna_share=1.0,
        images_per_condition=2 * PER_SIDE**2,
        controls=2 * PER_SIDE**2,
        images_per_knockout=0,
        effect_size=3.0,
        image_size=2 * HALF,
        seed=seed,
    )
    plate = _plate(screen["image"].obs)
    for name in ("images", "labels"):
        (beside / name).mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for well, compound in zip(plate["well_position"], plate["compound"], strict=True):
        rows = np.flatnonzero(screen["image"].obs["compound"].astype(str) == compound)
        for site, part in enumerate(np.array_split(rows, 2), start=1):
            _write_field(beside, f"{well}_s{site}", screen["image"][part], rng)
    plate.replace({"compound": {CONTROL: VEHICLE}}).to_csv(beside / "plate_map.csv", index=False)
    _write_gct(beside / "expression.gct.gz", screen["rna"])
    put_in_place(beside, target)
    return target


def _plate(obs: pd.DataFrame) -> pd.DataFrame:
    """One well for each compound, the inner ones of a plate of 96."""
    wells = obs[["compound", "smiles"]].astype(str).drop_duplicates("compound")
    names = [f"{row}{column:02d}" for row in "BCDEFG" for column in range(2, 12)]
    wells.insert(0, "well_position", names[: len(wells)])
    return wells.reset_index(drop=True)


def _write_field(folder: Path, name: str, cells: AnnData, rng: np.random.Generator) -> None:
    """Cells on a grid, a little beside their places, over the noise of a camera."""
    import tifffile

    crops, channels = cells.obsm["crops"], cells.uns["channels"]
    side = PER_SIDE * PLACE
    pixels = rng.poisson(60, (len(channels), side, side)).astype(np.uint16)
    labels = np.zeros((side, side), np.uint16)
    y, x = np.ogrid[:side, :side]
    for number, crop in enumerate(crops):
        corner = np.array(divmod(number, PER_SIDE)) * PLACE + rng.integers(4, PLACE - 36, 2)
        top, left = corner
        pixels[:, top : top + 2 * HALF, left : left + 2 * HALF] += crop.astype(np.uint16) * GAIN
        disc = (y - top - HALF) ** 2 + (x - left - HALF) ** 2 <= RADIUS**2
        labels[disc] = number + 1
    for channel, plane in zip(channels, pixels, strict=True):
        tifffile.imwrite(folder / "images" / f"{name}_{channel}.tif", plane)
    tifffile.imwrite(folder / "labels" / f"{name}_cells.tif", labels)


def _write_gct(path: Path, profiles: AnnData) -> None:
    """GCT 1.3: samples are columns, their annotation stands above the numbers."""
    annotation = {
        "pert_iname": profiles.obs["compound"].astype(str),
        "dose_um": profiles.obs["dose_um"].astype(str),
    }
    counts = profiles.X.toarray().T.astype(int)
    head = pd.DataFrame(annotation).T
    body = pd.DataFrame(counts, index=profiles.var_names, columns=profiles.obs_names)
    table = pd.concat([head, body])
    sizes = f"{profiles.n_vars}\t{profiles.n_obs}\t0\t{len(annotation)}"
    text = table.to_csv(sep="\t", index_label="id", lineterminator="\n")
    path.write_bytes(gzip.compress(f"#1.3\n{sizes}\n{text}".encode(), mtime=0))
