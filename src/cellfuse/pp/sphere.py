"""Sphering as profiling pipelines do it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from cellfuse._access import Data, per_modality, where
from cellfuse._batches import Labels, batches_of
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.sphering import SpheringMethod, fit_sphering
from cellfuse.kernels.whitening import apply_whitening
from cellfuse.pp._matrices import open_matrices

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
    eps: float = 1e-6,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Sphere a representation by its controls, with pycytominer's numbers (1.7.1 or later).

    The controls are centred (``"-cor"``: and divided by their standard deviation, n in the
    denominator); with their singular values S and right singular vectors V, cells are multiplied
    with ``V diag(1 / (S + eps)) sqrt(n - 1)``, and for ``"ZCA"`` with the transpose of V after
    that. :func:`whiten` differs in that it drops directions without variance, joins
    modalities, and has its `eps` relative to the variance.

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
        Added to each singular value; pycytominer's default.
    key_added, overwrite
        As in :func:`robust_center_scale`, also for what is written in place.

    Returns
    -------
    None. The result is in ``obsm[key_added or use_rep]``.

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
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps={eps}: expected 0 or more, and finite.")
    matrices = open_matrices(
        data, use_rep=use_rep, key_added=key_added, verb="sphere", overwrite=overwrite
    )
    fits = []
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
            fit_sphering(matrix.values, rows, method=method, eps=eps) for rows in batches.controls
        ]
        fits.append((matrix, batches, fit))
    params = {"control": control, "batch_key": batch_key, "method": method, "eps": eps}
    for matrix, batches, fit in fits:
        out = matrix.target()
        rows = group_rows(batches.codes, len(batches.labels))
        for chosen, part in zip(rows, fit, strict=True):
            apply_whitening(matrix.values, part.mean, part.matrix, out=out, rows=chosen)
        matrix.store(out, "sphere", params)
        logger.info(
            "sphere%s: %s, %d dimensions, by %d control cells.",
            where(matrix.modality),
            method,
            out.shape[1],
            batches.n_controls,
        )
