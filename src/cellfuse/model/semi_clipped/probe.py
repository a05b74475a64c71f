"""A linear probe from embeddings back to expression, judged on contexts it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import check_finite, context_labels, matrix_of
from cellfuse.data.contexts import PAIRED

__all__ = ["gene_probe"]

#: Penalties of the ridge regression, chosen within the training contexts.
PENALTIES = tuple(10.0**k for k in range(-2, 6))
#: Genes made dense at a time.
GENES_AT_ONCE = 512


def gene_probe(
    adata: AnnData,
    embeddings: Mapping[str, NDArray],
    *,
    by: Sequence[str],
    layer: str | None,
    log_normalize: bool,
    n_folds: int,
    seed: int,
) -> pd.DataFrame:
    """R^2 of each gene from each embedding, one column ``r2_<name>`` each.

    Parameters
    ----------
    adata
        Expression and context columns, n samples.
    embeddings
        Two arrays (n, d) by name; ``difference`` is the first minus the second.
    by
        Columns of the context; no context stands on both sides of a fold.

    Raises
    ------
    KeyError
        The layer or a column is absent.
    TypeError
        Expression that is backed on disk.
    ValueError
        NaN or infinite values, negative ones with `log_normalize`, more folds than contexts.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.preprocessing import StandardScaler

    read = _expression(adata, layer, log_normalize)
    if list(by) == [PAIRED]:
        groups = adata.obs_names.to_numpy(dtype=object)
    else:
        groups = context_labels(adata, list(by)).to_numpy()
    n_groups = len(np.unique(groups))
    if not 2 <= n_folds <= n_groups:
        raise ValueError(f"n_folds={n_folds}: expected 2 to {n_groups}, the number of contexts.")
    folds = GroupKFold(n_folds, shuffle=True, random_state=seed).split(groups, groups=groups)
    residual = {name: np.zeros(adata.n_vars) for name in embeddings}
    total = np.zeros(adata.n_vars)
    for train, test in folds:
        scaled = {}
        for name, x in embeddings.items():
            scaler = StandardScaler().fit(x[train])
            scaled[name] = scaler.transform(x[train]), scaler.transform(x[test])
        for start in range(0, adata.n_vars, GENES_AT_ONCE):
            genes = slice(start, start + GENES_AT_ONCE)
            y = read(genes)
            mean = y[train].mean(axis=0)
            total[genes] += np.square(y[test] - mean).sum(axis=0)
            for name, (seen, unseen) in scaled.items():
                ridge = RidgeCV(PENALTIES, alpha_per_target=True).fit(seen, y[train] - mean)
                left = y[test] - mean - ridge.predict(unseen).reshape(len(test), -1)
                residual[name][genes] += np.square(left).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = {f"r2_{name}": 1 - left / total for name, left in residual.items()}
    # A gene that never varies has no R^2.
    table = pd.DataFrame(columns, index=adata.var_names)
    table.loc[total == 0] = np.nan
    first, second = list(columns)[:2]
    table["difference"] = table[first] - table[second]
    return table


def _expression(
    adata: AnnData, layer: str | None, log_normalize: bool
) -> Callable[[slice], NDArray[np.float64]]:
    """Give some genes of all samples at a time, dense; the rest stays as it is stored."""
    values, name = matrix_of(adata, layer, fix="name the `layer` of the expression")
    if not hasattr(values, "sum"):
        raise TypeError(
            f"{name} is backed on disk ({type(values).__name__}); read it first: "
            "`adata = adata.to_memory()`."
        )
    check_finite(values, name)
    if log_normalize and values.min() < 0:
        raise ValueError(
            f"{name} holds negative values; log_normalize=True takes raw counts. Name their "
            "`layer`, or leave it out."
        )
    by_gene = values.tocsc() if sp.issparse(values) else values
    totals = np.asarray(values.sum(axis=1), dtype=np.float64).reshape(-1, 1)
    totals = np.where(totals > 0, totals, 1.0)

    def read(genes: slice) -> NDArray[np.float64]:
        part = by_gene[:, genes]
        dense = (part.toarray() if sp.issparse(part) else np.asarray(part)).astype(np.float64)
        return np.log1p(1e4 * dense / totals) if log_normalize else dense

    return read
