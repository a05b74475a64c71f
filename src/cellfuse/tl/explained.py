"""How much of each gene the images explain (PETRI, A.8, Fig. S2)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from mudata import MuData
from numpy.typing import NDArray

from cellfuse._access import check_finite, column_list, context_labels, representation
from cellfuse._errors import listing
from cellfuse.kernels.groups import group_means
from cellfuse.tl._concepts import keep_table, one_modality

__all__ = ["predictability"]

logger = logging.getLogger("cellfuse")

#: Strengths among which the ridge regression chooses.
STRENGTHS = tuple(10.0**k for k in range(-2, 7))
#: Rows below which nothing is predicted.
MIN_ROWS = 20


def predictability(
    data: MuData,
    *,
    by: str | list[str] | None = None,
    use_rep: str | None = None,
    predicted: str | None = None,
    rna_layer: str | None = None,
    group_key: str | None = None,
    n_folds: int = 5,
    images: str = "image",
    rna: str = "rna",
    key_added: str = "predictability",
    seed: int = 0,
) -> pd.DataFrame:
    """Predict each gene from the images, and say how well (PETRI, A.8, Fig. S2).

    A screen whose images explain little of the expression has little that pairs of cells could
    teach each other. What is held out is predicted by ridge regression on an embedding (its
    strength chosen within the training part), each row once, in `n_folds` turns; or the
    predictions of another model, such as :class:`cellfuse.ImageRegressor`, are judged.

    Parameters
    ----------
    data
        MuData of images and expression.
    by
        None: cells measured in both modalities, matched by name, are the rows. obs column or
        columns of the context: rows are contexts, and the mean expression is predicted from the
        mean embedding, which is all that can be asked where no cell was measured twice.
    use_rep
        obsm key of the images' embedding; None is ``X``. Not with `predicted`.
    predicted
        obsm key, in the images, of predicted expression ``(cells, genes)``; only cells or contexts
        that the model has not seen should be in `data`.
    rna_layer
        Layer of normalised (log) expression; None is X.
    group_key
        With `by`: obs column, such as the gene of guides, whose contexts are held out together.
    n_folds
        Turns; the paper holds out 20%, once.
    images, rna
        Names of the modalities.
    key_added
        Key of ``data.uns``.
    seed
        Of the folds.

    Returns
    -------
    One row per gene: ``r2`` (squared correlation of prediction and truth; the paper does not say
    which of the two it has), ``r2_determination`` (1 - residual / total sum of squares, below 0
    where the mean predicts better), ``r2_chance`` (squared correlation with the truth of other
    rows). NaN for genes that do not vary. ``uns[key_added]`` keeps it as ``"table"``, with
    ``"params"``.

    Raises
    ------
    KeyError
        A modality, key, layer or column is absent.
    ValueError
        Fewer than 20 rows in common, NaN, predictions of another width.

    Examples
    --------
    >>> import anndata as ad, mudata as md, numpy as np
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(200, 3))
    >>> image, rna = ad.AnnData(obsm={"emb": z}), ad.AnnData(np.c_[z[:, 0], rng.normal(size=200)])
    >>> mdata = md.MuData({"image": image, "rna": rna})
    >>> table = cf.tl.predictability(mdata, use_rep="emb")
    >>> bool(table["r2"].iloc[0] > 0.9), bool(table["r2"].iloc[1] < 0.1)
    (True, True)
    """
    if n_folds < 2:
        raise ValueError(f"n_folds={n_folds}: expected at least 2.")
    if predicted is not None and use_rep is not None:
        raise ValueError("`use_rep` and `predicted` were both given: fit one, or judge the other.")
    left, right = one_modality(data, images), one_modality(data, rna)
    x = representation(left, predicted if predicted is not None else use_rep, modality=images)
    y = right.layers[rna_layer] if rna_layer is not None else representation(right, None)
    for values, name in ((x, "the images' array"), (y, "the expression")):
        check_finite(values, name)
    x, y, groups = _rows(left, right, x, y, by, group_key, images, rna)
    if len(x) < MIN_ROWS:
        what = "cells with the same name" if by is None else f"contexts of {by!r}"
        raise ValueError(
            f"the modalities share {len(x)} {what}; expected at least {MIN_ROWS}. Cells that were "
            "not measured twice are compared by their contexts: give `by`."
        )
    if predicted is None:
        prediction = _ridge(x, y, groups, n_folds, seed)
    elif x.shape[1] != y.shape[1]:
        raise ValueError(
            f"obsm[{predicted!r}] has {x.shape[1]} columns for {y.shape[1]} genes: expected a "
            "prediction of each gene, in the order of the expression's var_names."
        )
    else:
        prediction = x
    table = _scores(prediction, y, right.var_names, seed)
    params: dict[str, Any] = {
        "by": listing(column_list(by)),
        "use_rep": use_rep or "X",
        "predicted": predicted,
        "n_rows": len(x),
        "n_folds": n_folds,
    }
    keep_table(data, key_added, {"table": table}, params)
    logger.info(
        "predictability: mean r2 %.3f (chance %.3f) of %d genes over %d rows.",
        table["r2"].mean(),
        table["r2_chance"].mean(),
        int(table["r2"].notna().sum()),
        len(x),
    )
    return table


def _rows(
    left: Any,
    right: Any,
    x: Any,
    y: Any,
    by: str | list[str] | None,
    group_key: str | None,
    images: str,
    rna: str,
) -> tuple[NDArray, NDArray, NDArray]:
    """Rows that both modalities have, and which of them are held out together."""
    if by is None:
        shared = left.obs_names.intersection(right.obs_names)
        at = left.obs_names.get_indexer(shared), right.obs_names.get_indexer(shared)
        dense = [_dense(v[rows]) for v, rows in zip((x, y), at, strict=True)]
        return dense[0], dense[1], np.arange(len(shared))
    labels = {
        name: context_labels(adata, by, modality=name).to_numpy()
        for name, adata in ((images, left), (rna, right))
    }
    shared = np.intersect1d(labels[images], labels[rna])
    index = pd.Index(shared)
    means = [
        group_means(values, index.get_indexer(pd.Index(labels[name])), len(shared))
        for name, values in ((images, x), (rna, y))
    ]
    groups: NDArray = np.arange(len(shared))
    if group_key is not None:
        of = context_labels(left, group_key, modality=images)
        first: Mapping[str, str] = dict(zip(labels[images], of, strict=True))
        groups = pd.factorize(np.array([first[label] for label in shared]))[0]
    return means[0], means[1], groups


def _dense(values: Any) -> NDArray:
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return dense.astype(np.float64)


def _ridge(x: NDArray, y: NDArray, groups: NDArray, n_folds: int, seed: int) -> NDArray:
    """Predictions of every row from the others."""
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    names = np.unique(groups)
    n_folds = min(n_folds, len(names))
    fold = np.random.default_rng(seed).permutation(len(names)) % n_folds
    of_row = fold[np.searchsorted(names, groups)]
    out = np.empty_like(y)
    for turn in range(n_folds):
        train, test = of_row != turn, of_row == turn
        scaler = StandardScaler().fit(x[train])
        model = RidgeCV(alphas=STRENGTHS).fit(scaler.transform(x[train]), y[train])
        out[test] = model.predict(scaler.transform(x[test])).reshape(-1, y.shape[1])
    return out


def _scores(prediction: NDArray, y: NDArray, genes: pd.Index, seed: int) -> pd.DataFrame:
    shuffled = np.random.default_rng([seed, 1]).permutation(len(y))
    centred = y - y.mean(axis=0)
    total = np.square(centred).sum(axis=0)
    residual = np.square(y - prediction).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        determination = np.where(total > 0, 1 - residual / total, np.nan)
    table = pd.DataFrame(
        {
            "r2": _squared_correlation(prediction, y),
            "r2_determination": determination,
            "r2_chance": _squared_correlation(prediction, y[shuffled]),
        },
        index=pd.Index(genes.astype(str), name="gene"),
    )
    return table


def _squared_correlation(a: NDArray, b: NDArray) -> NDArray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.square(a).sum(axis=0) * np.square(b).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.square((a * b).sum(axis=0)) / size
    varies = np.square(b).sum(axis=0) > 1e-12 * len(b)
    # A prediction that does not vary explains nothing.
    return np.where(varies, np.nan_to_num(found), np.nan)
