"""Which perturbations take part: those that do something."""

from __future__ import annotations

import logging

import pandas as pd

from cellfuse._access import (
    Data,
    check_rows,
    context_labels,
    is_mudata,
    label_list,
    label_text,
    modalities,
)
from cellfuse._errors import listing, missing_key
from cellfuse.pp.contexts import _global_mask

__all__ = ["filter_active"]

logger = logging.getLogger("cellfuse")


def filter_active(
    data: Data,
    scores: pd.DataFrame,
    *,
    by: str | list[str],
    alpha: float = 0.05,
    keep: str | list[str] | None = None,
    copy: bool = True,
) -> Data:
    """Keep the perturbations that a test found active.

    A perturbation that does nothing has a profile of noise, and its pairs only dilute recall.

    Parameters
    ----------
    data
        AnnData (cells or profiles), or MuData. It is not changed.
    scores
        Result of :func:`cellfuse.tl.mean_average_precision` or
        :func:`cellfuse.tl.perturbation_magnitude` (or any table with the perturbations as its
        index and a column ``qvalue``). One that is not in it was not tested and goes.
    by
        obs column or columns with the perturbation, as the test had them.
    alpha
        Level on q-values; at or below it a perturbation is active.
    keep
        Labels that stay whatever their score, such as the controls.
    copy
        Return an object of its own; False returns a view.

    Returns
    -------
    The same kind of object with the rows that are left. The message (logger ``"cellfuse"``) says
    how many perturbations and rows went.

    Raises
    ------
    KeyError
        A column is absent, from obs or from the scores.
    ValueError
        No label of the data is in the scores, or none is active.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> obs = pd.DataFrame({"gene": ["A", "A", "B", "NTC"]}, index=list("wxyz"))
    >>> cells = ad.AnnData(np.ones((4, 1)), obs=obs)
    >>> scores = pd.DataFrame({"qvalue": [0.01, 0.6]}, index=["A", "B"])
    >>> cf.pp.filter_active(cells, scores, by="gene", keep="NTC").obs["gene"].tolist()
    ['A', 'A', 'NTC']
    """
    if not isinstance(scores, pd.DataFrame):
        raise TypeError(f"`scores` is a {type(scores).__name__}; expected a table of a test.")
    if "qvalue" not in scores.columns:
        raise missing_key("qvalue", list(scores.columns), what="the columns of `scores`")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha={alpha}: expected a level between 0 and 1.")
    always = [] if keep is None else label_list(keep)
    labels = {m: context_labels(a, by, modality=m) for m, a in modalities(data).items()}
    present = pd.Index(pd.unique(pd.concat(labels.values())))
    tested = label_text(scores.index)
    for label in always:
        if label not in present:
            raise missing_key(label, list(present), what=f"the labels of {by!r}")
    if not present.isin(tested).any():
        raise ValueError(
            f"none of the {len(present)} labels of {by!r} is in `scores`: they are like "
            f"{listing(present, 3)}, the scores' like {listing(tested, 3)}. Was the test run with "
            "the same `by`?"
        )
    active = tested[scores["qvalue"].to_numpy() <= alpha]
    if not present.isin(active).any():
        raise ValueError(
            f"no perturbation is active at q <= {alpha}; the smallest q-value of "
            f"{int(scores['qvalue'].notna().sum())} is {scores['qvalue'].min():.3g}."
        )
    masks = {m: label.isin([*active, *always]).to_numpy() for m, label in labels.items()}
    logger.info(
        "filter_active: %d of %d perturbations are active; rows kept: %s.",
        int(present.isin(active).sum()),
        len(present.difference(always)),
        ", ".join(f"{m or 'all'} {int(k.sum())} of {len(k)}" for m, k in masks.items()),
    )
    check_rows(data)
    chosen = data[_global_mask(data, masks) if is_mudata(data) else masks[""]]
    return chosen.copy() if copy else chosen
