"""Matching the cells of two modalities by what the perturbation did to them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Literal, get_args

import numpy as np
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scipy import sparse

from cellfuse._access import (
    check_finite,
    check_key,
    context_labels,
    per_modality,
    refuse_view,
    representation,
    where,
)
from cellfuse._errors import listing, missing_key
from cellfuse._renamed import renamed
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.matching import shared_neighbours, transport

__all__ = ["propensity_matching"]

logger = logging.getLogger("cellfuse")

Method = Literal["ot", "snn"]


@renamed(regularization="eps")
def propensity_matching(
    mdata: MuData,
    *,
    context_keys: str | list[str],
    use_rep: str | None | Mapping[str, str | None],
    modalities: tuple[str, str] | None = None,
    method: Method = "ot",
    eps: float = 0.05,
    n_neighbors: int = 1,
    inverse_penalty: float = 1.0,
    max_iter: int = 1000,
    key_added: str = "X_propensity",
) -> sparse.csr_array:
    """Match cells across modalities by their propensity scores (Xi et al. 2024).

    A classifier of the perturbation is trained in each modality (multinomial logistic regression
    on standardised features, classes weighted equally); what it says of a cell is all that the
    two modalities can share. Within each perturbation, the cells of both are then matched on the
    logits: by entropic optimal transport, or by shared nearest neighbours.

    The logits are those of the training cells: with more dimensions than cells per perturbation
    they say little beyond the label. Fewer dimensions or a smaller `inverse_penalty` help.

    Parameters
    ----------
    mdata
        The two modalities.
    context_keys
        obs column or columns with the perturbation, in both.
    use_rep
        obsm key of the features; None is ``X``. Or a dict per modality.
    modalities
        The two to match, in the order of rows and columns; None: the only two.
    method
        ``"ot"`` (needs the package POT) or ``"snn"``.
    eps
        Entropy of the transport, in units of the Euclidean distance of logits; the authors' 0.05.
    n_neighbors
        Neighbours in each modality for ``"snn"``; the authors' 1.
    inverse_penalty
        scikit-learn's ``C``.
    max_iter
        Iterations of the classifier, and of the transport.
    key_added
        obsm key, in both modalities, of the logits: one column per shared perturbation, each
        cell's centred on 0. Cells of other perturbations get NaN.

    Returns
    -------
    Sparse matrix (cells of the first, cells of the second): how much of each cell of the second
    goes to each of the first. A row sums to 1, so that ``matching @ mdata["rna"].X`` is the matched
    expression; or is empty, for a cell of a perturbation that only one modality has, and with
    ``"snn"`` also for one that shares no neighbour.

    Raises
    ------
    KeyError
        A modality, column or representation is absent.
    ValueError
        NaN or infinite values, fewer than two shared perturbations, not two modalities.
    ImportError
        ``"ot"`` without POT.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, mudata, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(60, 3)) + 2 * np.eye(3)[np.arange(60) % 3]
    >>> obs = pd.DataFrame({"guide": [f"g{i % 3}" for i in range(60)]})
    >>> cells = {
    ...     m: ad.AnnData(
    ...         z @ rng.normal(size=(3, 4)),
    ...         obs=obs.rename(f"{m}{{}}".format),
    ...         var=pd.DataFrame(index=[f"{m}_feature{j}" for j in range(4)]),
    ...     )
    ...     for m in ("image", "rna")
    ... }
    >>> mdata = mudata.MuData(cells)
    >>> matching = cf.tl.propensity_matching(
    ...     mdata, context_keys="guide", use_rep=None, method="snn"
    ... )
    >>> matching.shape
    (60, 60)
    """
    if method not in get_args(Method):
        raise ValueError(f"method={method!r} is unknown; choose one of {list(get_args(Method))}.")
    if not (eps > 0 and n_neighbors >= 1 and inverse_penalty > 0 and max_iter >= 1):
        raise ValueError(
            "expected eps > 0, n_neighbors >= 1, inverse_penalty > 0 and max_iter >= 1, "
            f"found {eps}, {n_neighbors}, {inverse_penalty} and {max_iter}."
        )
    check_key(key_added)
    if method == "ot" and find_spec("ot") is None:
        raise ImportError(
            "method='ot' needs the package POT (`pip install POT`); method='snn' needs none."
        )
    sides = _sides(mdata, modalities)
    labels = {m: context_labels(a, context_keys, modality=m).to_numpy(str) for m, a in sides}
    names = np.array(sorted(set.intersection(*(set(found) for found in labels.values()))))
    if len(names) < 2:
        shown = "; ".join(f"{m}: {listing(np.unique(found), 3)}" for m, found in labels.items())
        raise ValueError(
            f"{len(names)} perturbations by {context_keys!r} are in both modalities ({shown}); a "
            "classifier needs two or more."
        )
    logits, rows = [], []
    for m, adata in sides:
        key = per_modality(use_rep, m, name="use_rep")
        values = _values(adata, key, m)
        position = np.searchsorted(names, labels[m]).clip(max=len(names) - 1)
        codes = np.where(names[position] == labels[m], position, -1)
        logits.append(_logits(values, codes, inverse_penalty, max_iter))
        rows.append(group_rows(codes, len(names)))
    matching = _match(logits, rows, method, eps, n_neighbors, max_iter)
    for (_, adata), values in zip(sides, logits, strict=True):
        adata.obsm[key_added] = values.astype(np.float32)
    empty = int((np.diff(matching.indptr) == 0).sum())
    logger.info(
        "propensity_matching: %d of %d cells matched within %d perturbations.",
        matching.shape[0] - empty,
        matching.shape[0],
        len(names),
    )
    return matching


def _sides(mdata: MuData, modalities: tuple[str, str] | None) -> list[tuple[str, AnnData]]:
    if not isinstance(mdata, MuData):
        raise TypeError(f"expected a MuData, found {type(mdata).__name__}.")
    chosen = list(mdata.mod) if modalities is None else list(modalities)
    for m in chosen:
        if m not in mdata.mod:
            raise missing_key(m, list(mdata.mod), what="the modalities")
    if len(set(chosen)) != 2:
        raise ValueError(
            f"two modalities are matched, found {listing(chosen)}; name them by `modalities`."
        )
    for m in chosen:
        refuse_view(mdata.mod[m], modality=m)
    return [(m, mdata.mod[m]) for m in chosen]


def _values(adata: AnnData, use_rep: str | None, modality: str) -> NDArray:
    values = representation(adata, use_rep, modality=modality)
    name = "X" if use_rep in (None, "X") else f"obsm[{use_rep!r}]"
    check_finite(values, f"{name}{where(modality)}")
    dense = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    return dense.astype(np.float64)


def _logits(values: NDArray, codes: NDArray, inverse_penalty: float, max_iter: int) -> NDArray:
    """Centred logits of each perturbation; NaN for cells that take no part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    known = codes >= 0
    features = StandardScaler().fit_transform(values[known])
    classifier = LogisticRegression(
        C=inverse_penalty, class_weight="balanced", max_iter=max_iter
    ).fit(features, codes[known])
    score = classifier.decision_function(features)
    if score.ndim == 1:  # of two classes, the second's over the first's
        score = np.stack([-score / 2, score / 2], axis=1)
    logits = np.full((len(values), score.shape[1]), np.nan)
    logits[known] = score - score.mean(axis=1, keepdims=True)
    return logits


def _match(
    logits: list[NDArray],
    rows: list[list[NDArray]],
    method: Method,
    eps: float,
    n_neighbors: int,
    max_iter: int,
) -> sparse.csr_array:
    """Match within each perturbation, and put the blocks in their places."""
    first, second, weight = [], [], []
    for a, b in zip(*rows, strict=True):
        x, y = logits[0][a], logits[1][b]
        if method == "ot":
            plan = transport(x, y, eps=eps, max_iter=max_iter)
            i, j = np.nonzero(plan > 0)
            first.append(a[i])
            second.append(b[j])
            weight.append(plan[i, j])
        else:
            block = shared_neighbours(x, y, k=n_neighbors).tocoo()
            first.append(a[block.coords[0]])
            second.append(b[block.coords[1]])
            weight.append(block.data)
    return sparse.csr_array(
        (np.concatenate(weight), (np.concatenate(first), np.concatenate(second))),
        shape=(len(logits[0]), len(logits[1])),
    )
