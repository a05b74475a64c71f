"""Centring and scaling by the controls of each batch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import get_args

from numpy.typing import NDArray

from cellfuse._access import Data, per_modality, where
from cellfuse._batches import Batches, Labels, batches_of
from cellfuse.kernels.robust import Scale, grouped_location_scale
from cellfuse.pp._matrices import Matrix, open_matrices

__all__ = ["robust_center_scale", "scale_by_controls"]

logger = logging.getLogger("cellfuse")


@dataclass(frozen=True)
class _Fit:
    matrix: Matrix
    batches: Batches
    location: NDArray
    spread: NDArray


def robust_center_scale(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    batch_key: Labels | None | Mapping[str, Labels | None] = None,
    within: Labels | None = None,
    scale: Scale = "iqr",
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Subtract the median of the controls of each batch and divide by their spread.

    Per batch b and feature j: ``(x - median(controls_bj)) / IQR(controls_bj)`` (PETRI, A.5, which
    takes the controls of a well for images and all controls for expression). A feature whose
    controls do not vary in a batch is centred and left unscaled there; one warning counts them.

    Everything is checked and fitted in all modalities before anything is written.

    A matrix on a disk or of dask is read piece by piece, in threads or on the cluster of a
    `dask.distributed` client: the controls once for each GiB of them. The result is then a dask
    array, computed when it is read or aggregated.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality). Arguments marked (per modality) also take a dict
        with one entry for each.
    use_rep
        obsm key of the matrix, shape (cells, features), dense; None is ``X``. (per modality)
    control_key
        obs column that tells the controls. Unused with ``control=None``. (per modality)
    control
        Label or labels of the control cells. None, which must be written, takes all cells of a
        batch as its controls. (per modality)
    batch_key
        obs column or columns whose joint value is the batch; None takes the controls of all
        cells together. (per modality)
    within
        obs column or columns of the background (chemical, cell line), each treated apart, as in
        the paper. The same as one more batch column.
    scale
        ``"iqr"`` (the paper's) or ``"mad"``, 1.4826 times the median absolute deviation.
    key_added
        obsm key to write to. None writes to `use_rep`.
    overwrite
        Allow running on what this verb has already corrected, or writing over another array. A
        second run that differs (by well, then over all) and goes to another `key_added` is none.

    Returns
    -------
    None. Without `key_added`, a float array is overwritten in place, without a second copy of the
    matrix (an array of your own that you put into obsm changes with it); a read-only or
    memory-mapped array, integers, or one that also stands in another slot is replaced by a new
    one. Integers become float32.

    Raises
    ------
    KeyError
        A key, or the control label, is absent.
    ValueError
        NaN or infinite values; missing batch labels; a batch without controls; `data` is a view;
        the verb has been run on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> x = np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [9.0]], dtype="float32")
    >>> obs = pd.DataFrame({"gene": ["NTC"] * 5 + ["TP53"]}, index=list("abcdef"))
    >>> cells = ad.AnnData(obs=obs, obsm={"emb": x})
    >>> cf.pp.robust_center_scale(cells, use_rep="emb", control_key="gene", control="NTC")
    >>> cells.obsm["emb"].ravel().tolist()  # median 3, quartiles 2 and 4
    [-1.0, -0.5, 0.0, 0.5, 1.0, 3.0]
    """
    if scale not in get_args(Scale):
        raise ValueError(f"scale={scale!r} is unknown; choose one of {list(get_args(Scale))}.")
    scale_by_controls(
        data,
        "robust_center_scale",
        partial(grouped_location_scale, scale=scale),
        use_rep=use_rep,
        control_key=control_key,
        control=control,
        batch_key=batch_key,
        within=within,
        key_added=key_added,
        overwrite=overwrite,
        noted={"scale": scale},
    )


def scale_by_controls(
    data: Data,
    verb: str,
    fit: Callable[[NDArray, list[NDArray]], tuple[NDArray, NDArray]],
    *,
    use_rep: str | None | Mapping[str, str | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    batch_key: Labels | None | Mapping[str, Labels | None],
    within: Labels | None,
    key_added: str | None,
    overwrite: bool,
    noted: Mapping[str, object],
) -> None:
    """Do what every centring and scaling verb does; `fit` gives location and spread by batch."""
    params = {"control": control, "batch_key": batch_key, "within": within, **noted}
    matrices = open_matrices(
        data,
        use_rep=use_rep,
        key_added=key_added,
        verb=verb,
        overwrite=overwrite,
        params=params,
    )
    fits = []
    for matrix in matrices:
        batches = batches_of(
            matrix.adata,
            modality=matrix.modality,
            control_key=per_modality(control_key, matrix.modality, name="control_key"),
            control=per_modality(control, matrix.modality, name="control"),
            keys=[within, per_modality(batch_key, matrix.modality, name="batch_key")],
        )
        fits.append(_Fit(matrix, batches, *fit(matrix.values, batches.controls)))
    for fitted in fits:
        matrix, batches = fitted.matrix, fitted.batches
        scaled = matrix.scaled(batches.codes, fitted.location, fitted.spread)
        matrix.store(scaled, verb, params)
        logger.info(
            "%s%s: %d cells in %d batches, by %d control cells.",
            verb,
            where(matrix.modality),
            len(batches.codes),
            len(batches.labels),
            batches.n_controls,
        )
    flat = _report_flat(fits)
    if flat:
        warnings.warn(flat, UserWarning, stacklevel=3)


def _report_flat(fits: list[_Fit]) -> str:
    """Say where the controls do not vary."""
    parts = []
    for fit in fits:
        flat = fit.spread == 0
        if flat.any():
            of = where(fit.matrix.modality).removeprefix(" of ")
            parts.append(
                f"{of + ': ' if of else ''}{int(flat.any(axis=0).sum())} of {flat.shape[1]} "
                f"features in {int(flat.any(axis=1).sum())} of {flat.shape[0]} batches"
            )
    if not parts:
        return ""
    return (
        "the controls have zero spread, so that these stay centred and unscaled there: "
        + "; ".join(parts)
        + "."
    )
