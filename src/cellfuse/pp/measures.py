"""Handcrafted features of the cells' images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from cellfuse._errors import listing, missing_key
from cellfuse._provenance import record
from cellfuse.kernels.cell_measures import feature_names, measure_cell
from cellfuse.kernels.chunks import in_threads
from cellfuse.pp._embed import check_target

__all__ = ["measure_crops"]

#: Cells that one job measures.
CELLS = 64


def measure_crops(
    adata: AnnData,
    image_rep: str = "crops",
    *,
    channels: Sequence[str] | None = None,
    nucleus: str | None = None,
    spots: str | Sequence[str] = (),
    spot_size: int = 3,
    key_added: str = "X_measures",
    overwrite: bool = False,
) -> None:
    """Measure intensities, the nucleus and droplets on every cell's crop, by scikit-image.

    These are the handcrafted features that tell what a concept looks like (PETRI, 4.3); the
    paper names them as "fluorescence intensity and nuclear and lipid droplet morphology", and the
    list here is settled by this library:

    - ``<channel>_mean``, ``_sd``, ``_bright`` (99th percentile) over the crop;
    - ``nucleus_area`` (pixels), ``_eccentricity``, ``_solidity``, ``_form_factor`` (4 pi area /
      perimeter squared), ``_mean``, ``_sd`` (of its stain): the piece above Otsu's threshold that
      is nearest to the centre;
    - ``<channel>_spot_number``, ``_spot_area`` (mean, pixels), ``_spot_share`` (of the channel's
      light): pieces of the white top-hat above Otsu's threshold.

    Parameters
    ----------
    adata
        Cells with images.
    image_rep
        obsm key of the images, ``(cells, channels, height, width)``, of any kind that is read by
        rows.
    channels
        Names of the channels; None: ``uns["channels"]``, as :func:`crop_cells` writes them.
    nucleus
        Channel of the DNA stain; None leaves the nucleus out.
    spots
        Channel or channels with droplets.
    spot_size
        Largest radius of a droplet, in pixels.
    key_added
        obsm key of the result.
    overwrite
        Replace an obsm entry of that name.

    Returns
    -------
    None. ``obsm[key_added]``, a data frame, one column per feature; NaN where a nucleus or a spot
    was not found.

    Raises
    ------
    KeyError
        No such obsm key or channel.
    ValueError
        No images, channels without names, or an entry of that name.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import cellfuse as cf
    >>> crops = np.zeros((1, 2, 24, 24), np.uint8)
    >>> crops[0, 0, 8:16, 8:16] = 100
    >>> cells = ad.AnnData(obs={"well": ["a"]}, uns={"channels": ["DNA", "lipid"]})
    >>> cells.obsm["crops"] = crops
    >>> cf.pp.measure_crops(cells, nucleus="DNA", spots="lipid")
    >>> cells.obsm["X_measures"]["nucleus_area"].tolist()
    [80.0]
    """
    from cellfuse.data.readers import make_reader

    adata = check_target(adata, key_added, verb="measure_crops", overwrite=overwrite)
    if image_rep not in adata.obsm:
        raise missing_key(image_rep, list(adata.obsm), what="obsm")
    reader = make_reader(adata.obsm[image_rep])
    if len(reader.shape) != 4:
        raise ValueError(
            f"obsm[{image_rep!r}] has shape {reader.shape}; expected images, "
            "(cells, channels, height, width)."
        )
    names = _channel_names(adata, channels, reader.shape[1])
    of_spots = [spots] if isinstance(spots, str) else list(spots)
    for name in [*of_spots, *([] if nucleus is None else [nucleus])]:
        if name not in names:
            raise missing_key(name, names, what="the channels")
    if spot_size < 1:
        raise ValueError(f"spot_size={spot_size}: expected a radius of at least 1 pixel.")

    columns = feature_names(names, nucleus, of_spots)
    out = np.empty((adata.n_obs, len(columns)), np.float32)
    dna = None if nucleus is None else names.index(nucleus)
    places = [names.index(name) for name in of_spots]

    def one(job: tuple[int, np.ndarray]) -> None:
        start, block = job
        for i, pixels in enumerate(block):
            out[start + i] = measure_cell(pixels, nucleus=dna, spots=places, spot_size=spot_size)

    # Blocks are read one after another, and a few are measured at a time.
    step = max(CELLS, reader.block_size)
    for start in range(0, adata.n_obs, step):
        rows = np.arange(start, min(start + step, adata.n_obs))
        block = reader.read(rows)
        parts = [(start + i, block[i : i + CELLS // 2]) for i in range(0, len(rows), CELLS // 2)]
        in_threads(one, parts)
    adata.obsm[key_added] = pd.DataFrame(out, index=adata.obs_names, columns=columns)
    record(adata, key_added, "measure_crops", {"image_rep": image_rep, "channels": names}, past={})


def _channel_names(adata: AnnData, channels: Sequence[str] | None, n: int) -> list[str]:
    given = adata.uns.get("channels") if channels is None else channels
    if given is None:
        raise ValueError(
            f"the {n} channels have no names; give `channels`, such as ['DNA', 'actin', ...]."
        )
    names = [str(name) for name in given]
    if len(names) != n or len(set(names)) < n:
        raise ValueError(f"the images have {n} channels; found the names {listing(names)}.")
    return names
