"""Typical variation normalisation."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from cellfuse._access import Data, per_modality, where
from cellfuse._batches import Batches, Labels, batches_of
from cellfuse._errors import warn_user
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.tvn import TVN, fit_tvn
from cellfuse.pp._matrices import Matrix, open_matrices
from cellfuse.pp._rank import check_eps

__all__ = ["tvn"]

logger = logging.getLogger("cellfuse")

#: Controls of a batch below which its covariance does not exist.
MIN_CONTROLS = 2


@renamed(regularization="eps")
def tvn(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    batch_key: Labels | None | Mapping[str, Labels | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    eps: float = 0.5,
    input_axes: bool = False,
    min_controls: int = MIN_CONTROLS,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Normalise typical variation: whiten by all controls, then align each batch by its own.

    EFAAR's steps and numbers: standardise by the mean and standard deviation of all controls;
    rotate to the principal axes of the controls, keeping all; scale each axis to unit standard
    deviation of the controls; then multiply the cells of each batch with
    ``(cov(controls of the batch) + 0.5 I)^(-1/2)``. Batches are not recoloured, and their means
    are not aligned: :func:`center_scale` with the same `batch_key` first does that. All steps are
    linear and fitted together, by symmetric eigendecompositions of d x d matrices. A matrix on a
    disk or of dask is taken as :func:`robust_center_scale` does; its controls are read once, or, if
    they are more than a GiB, four times and twice more for each batch.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality, fitted apart).
    use_rep
        obsm key of the matrix, shape (cells, d), dense; None is ``X``. Or a dict per modality.
    batch_key
        obs column or columns of the batch. None is one batch. Or a dict.
    control_key
        obs column that tells the controls. Unused with ``control=None``. Or a dict.
    control
        Label or labels of the control cells. None, which must be written, takes all cells. Or a
        dict.
    eps
        Added to the diagonal of a batch's covariance. With 0.5 (EFAAR's) a batch of fewer controls
        than dimensions is corrected in the directions its controls span.
    input_axes
        Turn the result back from the principal axes to the axes of the input. Distances and
        cosines are the same, and coordinates of the modalities, or of two data sets, correspond.
    min_controls
        A batch with fewer controls is an error; at least 2.
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
        NaN or infinite values; a batch with too few controls; `data` is a view; the verb has been
        run on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(400, 3)) @ [[2, 0, 0], [1, 1, 0], [0, 0, 5]]
    >>> obs = pd.DataFrame(
    ...     {"gene": ["NTC"] * 300 + ["TP53"] * 100, "plate": list("ab") * 200},
    ...     index=[f"cell{i}" for i in range(400)],
    ... )
    >>> cells = ad.AnnData(obs=obs, obsm={"emb": x})
    >>> cf.pp.tvn(cells, use_rep="emb", batch_key="plate", control_key="gene", control="NTC")
    >>> bool(np.allclose(np.cov(cells.obsm["emb"][:300].T), np.eye(3) / 1.5, atol=0.1))
    True
    """
    check_eps(eps, auto=False)
    params = {"control": control, "batch_key": batch_key, "eps": eps, "input_axes": input_axes}
    matrices = open_matrices(
        data,
        use_rep=use_rep,
        key_added=key_added,
        verb="tvn",
        overwrite=overwrite,
        params=params,
    )
    fits: list[tuple[Matrix, Batches, TVN]] = []
    for matrix in matrices:
        batches = batches_of(
            matrix.adata,
            modality=matrix.modality,
            control_key=per_modality(control_key, matrix.modality, name="control_key"),
            control=per_modality(control, matrix.modality, name="control"),
            keys=[per_modality(batch_key, matrix.modality, name="batch_key")],
            at_least=max(min_controls, MIN_CONTROLS),
        )
        if eps == 0:
            _refuse_singular(matrix, batches)
        fit = fit_tvn(matrix.values, batches.controls, eps=eps, turned_back=input_axes)
        fits.append((matrix, batches, fit))
    for matrix, batches, fit in fits:
        rows = group_rows(batches.codes, len(batches.labels))
        parts = [(chosen, fit.mean, w) for chosen, w in zip(rows, fit.matrices, strict=True)]
        matrix.store(matrix.mapped(parts), "tvn", params)
        logger.info(
            "tvn%s: %d cells in %d batches, by %d control cells.",
            where(matrix.modality),
            len(batches.codes),
            len(batches.labels),
            batches.n_controls,
        )
    dropped = [
        f"{matrix.modality or 'the data'}: {fit.n_dropped} of {len(fit.mean)} by "
        f"{batches.n_controls} controls"
        for matrix, batches, fit in fits
        if fit.n_dropped
    ]
    if dropped:
        warn_user(
            "directions in which the controls do not vary (fewer controls than dimensions, "
            f"constant or dependent features) are set to 0: {'; '.join(dropped)}."
        )


def _refuse_singular(matrix: Matrix, batches: Batches) -> None:
    d = matrix.values.shape[1]
    few = [b for b, rows in zip(batches.labels, batches.controls, strict=True) if len(rows) <= d]
    if few:
        raise ValueError(
            f"eps=0 inverts the covariance of each batch's controls, which needs more "
            f"than {d} of them{where(matrix.modality)}; fewer in {len(few)} of "
            f"{len(batches.labels)} batches, such as {few[0]!r}. Give a positive `eps`."
        )
