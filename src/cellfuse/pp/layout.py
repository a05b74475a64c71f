"""What the position on the plate adds to a feature, and its removal."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfuse._access import Data, context_labels, per_modality, where
from cellfuse._batches import Labels, codes_of
from cellfuse._errors import listing, warn_user
from cellfuse.kernels.groups import group_medians, group_rows
from cellfuse.kernels.layout import median_polish, well_positions
from cellfuse.pp._matrices import Matrix, open_matrices

__all__ = ["correct_layout"]

logger = logging.getLogger("cellfuse")

#: Wells per row or column below which its median follows the perturbations in it.
FEW_WELLS = 6


def correct_layout(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    well_key: str | Mapping[str, str] = "well",
    batch_key: Labels | None | Mapping[str, Labels | None],
    n_iter: int = 10,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Subtract what rows and columns of each plate add to a feature, by median polish.

    Evaporation at the edge, the order of dispensing and gradients of temperature give the wells of
    a row or column something in common, which replicates at the same position share. Tukey's
    median polish finds it: medians of rows and of columns are taken away in turn until they are 0
    (the first half of a B score; :func:`robust_center_scale` afterwards is the second). The level
    of a plate is left as it is. Where one row holds the replicates of one perturbation the effect
    of the perturbation goes too: of a plate that is not randomised no correction can tell the two.

    An effect of single positions, not of rows and columns, that all plates share is
    ``center_scale(..., batch_key="well", control=None, control_key=None, scale=False)``.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality). One row per well, or cells: these are corrected by
        the effects that are found on the medians of their wells.
    use_rep
        obsm key of the matrix, shape (wells, d), dense; None is ``X``. Or a dict per modality.
    well_key
        obs column with the well, such as ``A01``, ``P24`` or ``AF48``. Or a dict.
    batch_key
        obs column or columns of the plate; None, which must be written, is one plate. Or a dict.
    n_iter
        Most rounds of the polish.
    key_added, overwrite
        As in :func:`robust_center_scale`, also for what is written in place.

    Returns
    -------
    None. The result is in ``obsm[key_added or use_rep]``.

    Warns
    -----
    UserWarning
        Rows or columns of a plate with fewer than 6 wells.

    Raises
    ------
    KeyError
        A key is absent.
    ValueError
        A label that names no well; a plate with a single row or column; NaN or infinite values;
        `data` is a view; the verb has been run on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> wells = [f"{row}{column:02}" for row in "ABCDEFGH" for column in range(1, 13)]
    >>> gradient = np.repeat(np.arange(8.0), 12)[:, None]
    >>> plate = ad.AnnData(gradient, obs=pd.DataFrame({"well": wells}, index=wells))
    >>> cf.pp.correct_layout(plate, use_rep=None, batch_key=None)
    >>> float(plate.X.std())
    0.0
    """
    if not isinstance(n_iter, Integral) or isinstance(n_iter, bool) or n_iter < 1:
        raise ValueError(f"n_iter={n_iter!r}: a whole number, at least one round is needed.")
    params = {"well_key": well_key, "batch_key": batch_key, "n_iter": n_iter}
    matrices = open_matrices(
        data,
        use_rep=use_rep,
        key_added=key_added,
        verb="correct_layout",
        overwrite=overwrite,
        params=params,
    )
    fits = []
    few: list[str] = []
    for matrix in matrices:
        key = per_modality(well_key, matrix.modality, name="well_key")
        row, column = _positions(matrix, key)
        keys = [per_modality(batch_key, matrix.modality, name="batch_key")]
        codes, labels = codes_of(matrix.adata, keys, modality=matrix.modality)
        fits.append(
            [
                (rows, _effects(matrix, label, rows, row[rows], column[rows], n_iter, few))
                for label, rows in zip(labels, group_rows(codes, len(labels)), strict=True)
            ]
        )
    for matrix, fit in zip(matrices, fits, strict=True):
        out = matrix.target()
        for rows, effect in fit:
            out[rows] = matrix.values[rows] - effect
        matrix.store(out, "correct_layout", params)
        logger.info("correct_layout%s: %d plates.", where(matrix.modality), len(fit))
    if few:
        warn_user(
            f"rows or columns with fewer than {FEW_WELLS} wells ({listing(few, 4)}): their medians "
            "follow the perturbations in them, which the correction takes away."
        )


def _positions(matrix: Matrix, key: str) -> tuple[NDArray, NDArray]:
    labels = context_labels(matrix.adata, key, modality=matrix.modality)
    codes, names = pd.factorize(labels)
    try:
        row, column = well_positions([str(name) for name in names])
    except ValueError as error:
        raise ValueError(
            f"obs[{key!r}]{where(matrix.modality)} holds labels that name no well: "
            f"{listing(error.args[0])}; expected such as 'A01', 'P24' or 'AF48'."
        ) from None
    return row[codes], column[codes]


def _effects(
    matrix: Matrix,
    plate: str,
    rows: NDArray,
    row: NDArray,
    column: NDArray,
    n_iter: int,
    few: list[str],
) -> NDArray:
    """What the position adds to each of the rows of one plate, shape (len(rows), d)."""
    there = [np.unique(numbers, return_inverse=True) for numbers in (row, column)]
    (rows_there, row), (columns_there, column) = there
    if min(len(rows_there), len(columns_there)) < 2:
        raise ValueError(
            f"plate {plate!r}{where(matrix.modality)} has {len(rows_there)} rows and "
            f"{len(columns_there)} columns of wells; a polish needs two of each."
        )
    wells, well = np.unique(row * len(columns_there) + column, return_inverse=True)
    values = group_medians(matrix.values[rows], well, len(wells))
    at_row, at_column = np.divmod(wells, len(columns_there))
    if min(np.bincount(at_row).min(), np.bincount(at_column).min()) < FEW_WELLS:
        few.append(plate)
    of_row, of_column = median_polish(values, at_row, at_column, n_iter=n_iter)
    effect = of_row[row] + of_column[column]
    return effect - np.median(of_row[at_row] + of_column[at_column], axis=0)  # the level stays
