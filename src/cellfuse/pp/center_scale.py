"""Centring and scaling as the field's other tools do it: by mean and sd, or by median and MAD."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cellfuse._access import Data
from cellfuse._batches import Labels
from cellfuse.kernels.moments import grouped_mean_sd
from cellfuse.kernels.robust import grouped_location_scale
from cellfuse.pp.scaling import scale_by_controls

__all__ = ["center_scale", "mad_robustize"]


def center_scale(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    batch_key: Labels | None | Mapping[str, Labels | None] = None,
    within: Labels | None = None,
    scale: bool = True,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Subtract the mean of each batch's controls and divide by their standard deviation.

    Per batch b and feature j: ``(x - mean(controls_bj)) / sd(controls_bj)``, the standard
    deviation with n in its denominator, as EFAAR and scikit-learn's StandardScaler have it. A
    feature whose controls do not vary in a batch is centred and left unscaled there; one warning
    counts them. :func:`robust_center_scale` does the same with medians, and has what holds for
    matrices that are not in memory; here the controls are read once, or twice for each batch if
    they are more than a GiB.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality).
    use_rep
        obsm key of the matrix, shape (cells, features), dense; None is ``X``. Or a dict.
    control_key
        obs column that tells the controls. Unused with ``control=None``. Or a dict.
    control
        Label or labels of the control cells. None, which must be written, takes all cells. Or a
        dict.
    batch_key
        obs column or columns of the batch; None takes all controls together. Or a dict.
    within
        obs column or columns of the background; the same as one more batch column.
    scale
        False centres only.
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
        NaN or infinite values; a batch without controls; `data` is a view; the verb has been run
        on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> x = np.array([[1.0], [3.0], [6.0]], dtype="float32")
    >>> obs = pd.DataFrame({"gene": ["NTC", "NTC", "TP53"]}, index=list("abc"))
    >>> cells = ad.AnnData(obs=obs, obsm={"emb": x})
    >>> cf.pp.center_scale(cells, use_rep="emb", control_key="gene", control="NTC")
    >>> cells.obsm["emb"].ravel().tolist()  # mean 2, standard deviation 1
    [-1.0, 1.0, 4.0]
    """
    scale_by_controls(
        data,
        "center_scale",
        grouped_mean_sd if scale else _means,
        use_rep=use_rep,
        control_key=control_key,
        control=control,
        batch_key=batch_key,
        within=within,
        key_added=key_added,
        overwrite=overwrite,
        noted={"scale": scale},
    )


def _means(values: NDArray, rows: list[NDArray]) -> tuple[NDArray, NDArray]:
    mean, sd = grouped_mean_sd(values, rows)
    return mean, np.ones_like(sd)


def mad_robustize(
    data: Data,
    *,
    use_rep: str | None | Mapping[str, str | None],
    control_key: str | None | Mapping[str, str | None],
    control: Labels | None | Mapping[str, Labels | None],
    batch_key: Labels | None | Mapping[str, Labels | None] = None,
    within: Labels | None = None,
    key_added: str | None = None,
    overwrite: bool = False,
) -> None:
    """Subtract the median of each batch's controls and divide by 1.4826 times their MAD.

    pycytominer's ``mad_robustize`` of each batch. It adds 1e-18 to the MAD, so that a feature
    without spread becomes 0 or about 1e18; here such a feature is centred and left unscaled in
    that batch, and one warning counts them. The same as :func:`robust_center_scale` with
    ``scale="mad"``, under the name that profiling pipelines know.

    Parameters
    ----------
    data, use_rep, control_key, control, batch_key, within, key_added, overwrite
        As in :func:`center_scale`.

    Returns
    -------
    None. The result is in ``obsm[key_added or use_rep]``.

    Raises
    ------
    KeyError
        A key, or the control label, is absent.
    ValueError
        NaN or infinite values; a batch without controls; `data` is a view; the verb has been run
        on this array before.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np
    >>> cells = ad.AnnData(np.array([[1.0], [2.0], [3.0], [4.0], [9.0]]))
    >>> cf.pp.mad_robustize(cells, use_rep=None, control_key=None, control=None)
    >>> cells.X.ravel().round(3).tolist()  # median 3, MAD 1
    [-1.349, -0.674, 0.0, 0.674, 4.047]
    """
    scale_by_controls(
        data,
        "mad_robustize",
        partial(grouped_location_scale, scale="mad"),
        use_rep=use_rep,
        control_key=control_key,
        control=control,
        batch_key=batch_key,
        within=within,
        key_added=key_added,
        overwrite=overwrite,
        noted={},
    )
