"""Sphering as profiling pipelines do it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Literal

from numpy.typing import NDArray

from cellfuse._access import Data, per_modality, where
from cellfuse._batches import Labels, batches_of
from cellfuse._errors import warn_user
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.sphering import RankError, Sphering, SpheringMethod, fit_sphering
from cellfuse.pp._matrices import Matrix, open_matrices
from cellfuse.pp._rank import (
    FEW_ROWS,
    OUTWEIGHED,
    Notes,
    centred_groups,
    check_eps,
    few_rows,
    why_directions_are_missing,
)

__all__ = ["sphere"]

logger = logging.getLogger("cellfuse")


@renamed(epsilon="eps")
def sphere(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    method: SpheringMethod = "ZCA-cor",
    batch_key: Labels | None | Mapping[str, Labels | None] = None,
    eps: float | Literal["auto"] = 1e-6,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Sphere a representation by its controls, with pycytominer's numbers (1.7.1 or later).

    The controls are centred (``"-cor"``: and divided by their standard deviation, n in the
    denominator); with their singular values S and right singular vectors V, cells are multiplied
    with ``V diag(1 / (S + eps)) sqrt(n - 1)``, and for ``"ZCA"`` with the transpose of V after
    that. :func:`whiten` differs in that it drops directions without variance, joins
    modalities, and has its `eps` relative to the variance.

    A matrix on a disk or of dask is taken as :func:`robust_center_scale` does; the controls of each
    batch are read twice.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality, fitted apart).
    use_rep
        obsm key of the matrix, shape (cells, d), dense; None is ``X``. Or a dict per modality.
    control_key
        obs column that tells the controls. Unused with ``control=None``. Or a dict.
    control
        Label or labels of the cells to fit on. None, which must be written, fits on all. Or a
        dict.
    method
        ``"ZCA-cor"``, ``"ZCA"``, ``"PCA-cor"`` or ``"PCA"``. The PCA ones turn the axes, each
        signed so that its largest loading is positive (pycytominer leaves the sign open).
    batch_key
        obs column or columns; each batch is fitted and sphered apart. Or a dict.
    eps
        Added to each singular value; pycytominer's default. ``"auto"`` draws the eigenvalues
        towards their mean instead, as much as the controls are too few (Ledoit and Wolf, as in
        :func:`whiten`); features may then be dependent.
    key_added, overwrite
        As in :func:`robust_center_scale`, also for what is written in place.

    Returns
    -------
    None. The result is in ``obsm[key_added or use_rep]``.

    Warns
    -----
    UserWarning
        Fewer than 3 controls for each feature in a batch, unless ``eps="auto"``; an `eps` that
        outweighs single features (without ``"-cor"``).

    Raises
    ------
    KeyError
        A key, or the control label, is absent.
    ValueError
        NaN or infinite values; constant or dependent features; a batch with fewer than two
        controls; `data` is a view; the verb has been run on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np
    >>> x = np.random.default_rng(0).normal(size=(500, 3)) @ [[2, 0, 0], [1, 1, 0], [0, 0, 5]]
    >>> cells = ad.AnnData(obsm={"emb": x})
    >>> cf.pp.sphere(cells, use_rep="emb", control_key=None, control=None)
    >>> bool(np.allclose(np.cov(cells.obsm["emb"].T), np.eye(3), atol=1e-5))
    True
    """
    check_eps(eps)
    params = {"control": control, "batch_key": batch_key, "method": method, "eps": eps}
    matrices = open_matrices(
        data,
        use_rep=use_rep,
        key_added=key_added,
        verb="sphere",
        overwrite=overwrite,
        params=params,
    )
    fits = []
    notes = Notes(scaled="'ZCA-cor' or 'PCA-cor'")
    for matrix in matrices:
        batches = batches_of(
            matrix.adata,
            modality=matrix.modality,
            control_key=per_modality(control_key, matrix.modality, name="control_key"),
            control=per_modality(control, matrix.modality, name="control"),
            keys=[per_modality(batch_key, matrix.modality, name="batch_key")],
            at_least=2,
        )
        fit = [
            _fit(matrix, label, rows, method, eps, notes)
            for label, rows in zip(batches.labels, batches.controls, strict=True)
        ]
        fits.append((matrix, batches, fit))
    for matrix, batches, fit in fits:
        rows = group_rows(batches.codes, len(batches.labels))
        parts = [(chosen, part.mean, part.matrix) for chosen, part in zip(rows, fit, strict=True)]
        matrix.store(matrix.mapped(parts), "sphere", params)
        logger.info(
            "sphere%s: %s, %d dimensions, by %d control cells.",
            where(matrix.modality),
            method,
            matrix.values.shape[1],
            batches.n_controls,
        )
    if text := notes.text():
        warn_user(text, notes.category)


def _fit(
    matrix: Matrix,
    label: str,
    rows: NDArray,
    method: SpheringMethod,
    eps: float | Literal["auto"],
    notes: Notes,
) -> Sphering:
    """Fit one batch; say why its controls span less than they should, and whether they are few."""
    modality = where(matrix.modality).removeprefix(" of ")
    name = ", ".join(part for part in (modality, label) if part)
    d = matrix.values.shape[1]
    centred = ("", 1)
    if eps != "auto" and len(rows) < 2 * FEW_ROWS * d:
        centred = centred_groups(matrix, rows)
    try:
        fit = fit_sphering(matrix.values, rows, method=method, eps=eps)
    except RankError as error:
        why = why_directions_are_missing(error.n_dropped, error.n_constant, d, len(rows), centred)
        raise ValueError(
            f"{name}: {error} ({why}). Drop such features (`cellfuse.pp.select_features`), shrink "
            "with eps='auto', or use `cellfuse.pp.whiten`, which sets such directions to 0."
        ) from None
    if eps != "auto" and (text := few_rows(len(rows), d, centred)):
        notes.few.append(f"{name}: {text}")
    if below := fit.outweighed(OUTWEIGHED):
        notes.outweighed.append(f"{name}: {below} of {d}")
    return fit
