"""Features brought to a normal distribution by their ranks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from numbers import Real

from cellfuse._access import Data, per_modality, where
from cellfuse._batches import Labels, codes_of
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.ranks import inverse_normal as kernel
from cellfuse.pp._matrices import open_matrices

__all__ = ["inverse_normal"]

logger = logging.getLogger("cellfuse")


def inverse_normal(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    batch_key: Labels | None | Mapping[str, Labels | None] = None,
    offset: float = 3 / 8,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Replace each feature by the normal quantiles of its ranks (rank-based inverse normal).

    ``Phi^-1((r - c) / (n - 2c + 1))`` with r the rank among n rows, c the offset (3/8, Blom).
    Equal values get the mean of their ranks. Outliers lose their pull, and so do distances: two
    wells that stand out by 5 and by 50 come next to one another. The JUMP consortium does so after
    sphering, over all wells.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality).
    use_rep
        obsm key of the matrix, shape (cells, d), dense; None is ``X``. Or a dict per modality.
    batch_key
        obs column or columns within which ranks are taken; None is over all rows. Or a dict.
    offset
        c, from 0 to below 1: 3/8 (Blom), 1/3 (Tukey), 1/2 (rankit), 0 (van der Waerden).
    key_added, overwrite
        As in :func:`robust_center_scale`, also for what is written in place.

    Returns
    -------
    None. The result is in ``obsm[key_added or use_rep]``.

    Raises
    ------
    KeyError
        A key is absent.
    ValueError
        NaN or infinite values; an offset outside of [0, 1); `data` is a view; the verb has been
        run on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np
    >>> wells = ad.AnnData(np.array([[1.0], [2.0], [900.0]]))
    >>> cf.pp.inverse_normal(wells, use_rep=None)
    >>> wells.X.ravel().round(2).tolist()
    [-0.87, 0.0, 0.87]
    """
    if not isinstance(offset, Real) or isinstance(offset, bool) or not 0 <= offset < 1:
        raise ValueError(f"offset={offset!r}: expected from 0 to below 1, such as 3/8.")
    params = {"batch_key": batch_key, "offset": offset}
    matrices = open_matrices(
        data,
        use_rep=use_rep,
        key_added=key_added,
        verb="inverse_normal",
        overwrite=overwrite,
        params=params,
    )
    parts = []
    for matrix in matrices:
        keys = [per_modality(batch_key, matrix.modality, name="batch_key")]
        codes, labels = codes_of(matrix.adata, keys, modality=matrix.modality)
        parts.append(group_rows(codes, len(labels)))
    for matrix, groups in zip(matrices, parts, strict=True):
        out = matrix.target()
        for rows in groups:
            out[rows] = kernel(matrix.values[rows], offset=offset)
        matrix.store(out, "inverse_normal", params)
        logger.info("inverse_normal%s: %d batches.", where(matrix.modality), len(groups))
