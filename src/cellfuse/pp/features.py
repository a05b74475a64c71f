"""Choice of features before profiles are compared."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations, product
from typing import Literal, get_args

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import (
    Data,
    check_key,
    context_labels,
    control_mask,
    matrix_of,
    modalities,
    refuse_view,
    where,
)
from cellfuse._errors import listing, missing_key
from cellfuse._provenance import as_json
from cellfuse.kernels.features import (
    Correlation,
    flat_features,
    missing_features,
    noisy_features,
    outlying_features,
    rare_features,
    redundant_features,
)

__all__ = ["BLOCKLIST", "Operation", "select_features"]

logger = logging.getLogger("cellfuse")

Operation = Literal[
    "drop_na_columns",
    "variance_threshold",
    "frequency_threshold",
    "correlation_threshold",
    "drop_outliers",
    "blocklist",
    "noise_removal",
]

CHANNELS = ("AGP", "DNA", "ER", "Mito", "RNA")
#: CellProfiler features that are noisy whatever the screen (Way 2019, doi 10.6084/m9.figshare.
#: 10255811), the list that pycytominer applies.
BLOCKLIST = tuple(
    [
        f"Nuclei_Correlation_{kind}_{a}_{b}"
        for kind in ("Manders", "RWC")
        for a, b in permutations(CHANNELS, 2)
    ]
    + [f"Nuclei_Granularity_{size}_{c}" for size, c in product((14, 15, 16), CHANNELS)]
)


@dataclass(frozen=True)
class _Limits:
    """What the operations compare with."""

    na_cutoff: float
    min_variance: float
    freq_cut: float
    unique_cut: float
    corr_threshold: float
    corr_method: Correlation
    outlier_cutoff: float
    noise_cutoff: float | None


def select_features(
    data: Data,
    operations: Sequence[Operation] = (
        "drop_na_columns",
        "variance_threshold",
        "correlation_threshold",
        "drop_outliers",
        "blocklist",
    ),
    *,
    layer: str | None = None,
    fit_on: str | list[str] | None = None,
    control_key: str | None = None,
    na_cutoff: float = 0.05,
    min_variance: float = 1e-6,
    freq_cut: float = 0.05,
    unique_cut: float = 0.01,
    corr_threshold: float = 0.9,
    corr_method: Correlation = "pearson",
    outlier_cutoff: float = 500.0,
    blocklist: Sequence[str] | None = None,
    noise_by: str | list[str] | None = None,
    noise_cutoff: float | None = None,
    key_added: str = "selected",
) -> None:
    """Mark the features that are worth keeping, with pycytominer's operations and numbers.

    The operations run one after the other, each on the features that those before it left:

    - ``drop_na_columns``: more than `na_cutoff` of the values are missing
    - ``variance_threshold``: variance at most `min_variance` (pycytominer 1.7)
    - ``frequency_threshold``: the second most frequent value is less than `freq_cut` times as
      frequent as the first, or there are fewer than `unique_cut` different values per row (this is
      what ``variance_threshold`` was before pycytominer 1.6)
    - ``correlation_threshold``: of two features that correlate above `corr_threshold` the one with
      the larger sum of absolute correlations goes
    - ``drop_outliers``: a value beyond `outlier_cutoff`, which is meant for normalised features
    - ``blocklist``: features that are known to be noisy
    - ``noise_removal``: standard deviation within replicates, averaged, above `noise_cutoff`

    Nothing is removed: take ``adata[:, adata.var["selected"]].copy()``. Features are judged
    without labels, except by ``noise_removal``: on a screen that is split, fit it on the training
    part.

    Parameters
    ----------
    data
        AnnData, or MuData (then every modality), with features in its columns.
    operations
        Names of operations, in their order; one name alone is one operation.
    layer
        Layer with the values; None is ``X``. Dense.
    fit_on, control_key
        Judge by the rows with these labels in this obs column; None is all rows.
    na_cutoff, min_variance, freq_cut, unique_cut, corr_threshold, outlier_cutoff
        Limits, by default pycytominer's.
    corr_method
        ``"pearson"`` or ``"spearman"``.
    blocklist
        Names of features for ``blocklist``. None: the 55 of pycytominer (Way 2019), which are of
        Cell Painting's five channels under their usual names.
    noise_by
        obs column or columns of the perturbation, for ``noise_removal``.
    noise_cutoff
        Limit of ``noise_removal``; pycytominer has no default for it.
    key_added
        var column to write; the operation that dropped a feature goes to ``{key_added}_out``.

    Returns
    -------
    None. ``var[key_added]`` (bool) and ``var[f"{key_added}_out"]`` (the operation, or ``""``).

    Raises
    ------
    KeyError
        A layer, column or label is absent.
    ValueError
        An unknown operation, ``noise_removal`` without its arguments, infinite values, or no
        feature left.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> x[:, 1], x[:, 2] = 3.0, x[:, 0] + x[:, 3] / 10
    >>> wells = ad.AnnData(x, var=pd.DataFrame(index=["copy", "flat", "area", "texture"]))
    >>> cf.pp.select_features(wells)
    >>> wells.var["selected_out"].tolist()
    ['correlation_threshold', 'variance_threshold', '', '']
    """
    chosen = _check_operations(operations)
    check_key(key_added)
    if "noise_removal" in chosen and (noise_by is None or noise_cutoff is None):
        raise ValueError(
            "'noise_removal' needs `noise_by`, the obs column of the perturbation, and "
            "`noise_cutoff`, the largest standard deviation within one."
        )
    if fit_on is not None and control_key is None:
        raise ValueError(f"fit_on={fit_on!r} needs `control_key`, the obs column that holds it.")
    limits = _Limits(
        na_cutoff,
        min_variance,
        freq_cut,
        unique_cut,
        corr_threshold,
        corr_method,
        outlier_cutoff,
        noise_cutoff,
    )
    names = BLOCKLIST if blocklist is None else tuple(blocklist)
    found = {}
    for modality, adata in modalities(data).items():
        refuse_view(adata, modality=modality)
        values = _values(adata, layer, modality)
        rows = np.arange(adata.n_obs)
        if fit_on is not None and control_key is not None:
            rows = np.flatnonzero(control_mask(adata, control_key, fit_on, modality=modality))
        codes = None
        if "noise_removal" in chosen and noise_by is not None:
            codes = pd.factorize(context_labels(adata, noise_by, modality=modality))[0][rows]
        listed = adata.var_names.isin(names)
        found[modality] = _dropped_by(values[rows], chosen, limits, listed, codes)
        if (found[modality] != "").all():
            counts = pd.Series(found[modality]).value_counts().to_dict()
            raise ValueError(f"no feature{where(modality)} is left; dropped: {counts}.")
    params = {"operations": list(chosen), "layer": layer, "fit_on": fit_on, **vars(limits)}
    for modality, adata in modalities(data).items():
        adata.var[key_added] = found[modality] == ""
        adata.var[f"{key_added}_out"] = found[modality].astype(object)
        adata.uns["select_features"] = {"params": as_json(params)}
        logger.info(
            "select_features%s: %d of %d features are kept.",
            where(modality),
            int((found[modality] == "").sum()),
            adata.n_vars,
        )


def _check_operations(operations: Sequence[Operation]) -> tuple[str, ...]:
    chosen = (operations,) if isinstance(operations, str) else tuple(operations)
    if not chosen:
        raise ValueError(f"no operation was named; choose among {listing(get_args(Operation))}.")
    for name in chosen:
        if name not in get_args(Operation):
            raise missing_key(name, list(get_args(Operation)), what="the operations")
    return chosen


def _values(adata: AnnData, layer: str | None, modality: str) -> NDArray:
    nothing = "there are no features to choose among"
    values, name = matrix_of(adata, layer, modality=modality, fix=nothing)
    if not adata.n_vars:
        raise ValueError(f"{name} is empty; {nothing}.")
    if hasattr(values, "toarray"):
        raise TypeError(
            f"{name} is sparse; features of images are dense (for genes: "
            "`scanpy.pp.highly_variable_genes`)."
        )
    dense = np.asarray(values, dtype=np.float64)
    if np.isinf(dense).any():
        first = adata.var_names[np.isinf(dense).any(axis=0)]
        raise ValueError(
            f"{name} holds infinite values in {len(first)} features ({listing(first, 3)}); write "
            "them as NaN, which 'drop_na_columns' counts."
        )
    return dense


def _dropped_by(
    values: NDArray,
    operations: tuple[str, ...],
    limits: _Limits,
    listed: NDArray,
    codes: NDArray | None,
) -> NDArray:
    """Operation that dropped each feature, "" where none did."""
    out = np.full(values.shape[1], "", dtype=object)
    for name in operations:
        left = np.flatnonzero(out == "")
        if not len(left):
            break
        part = values[:, left]
        if name == "drop_na_columns":
            drop = missing_features(part, limits.na_cutoff)
        elif name == "variance_threshold":
            drop = flat_features(part, limits.min_variance)
        elif name == "frequency_threshold":
            drop = rare_features(part, limits.freq_cut, limits.unique_cut)
        elif name == "correlation_threshold":
            drop = redundant_features(part, limits.corr_threshold, limits.corr_method)
        elif name == "drop_outliers":
            drop = outlying_features(part, limits.outlier_cutoff)
        elif name == "blocklist":
            drop = listed[left]
        else:
            assert codes is not None and limits.noise_cutoff is not None
            drop = noisy_features(part, codes, int(codes.max()) + 1, limits.noise_cutoff)
        out[left[drop]] = name
    return out
