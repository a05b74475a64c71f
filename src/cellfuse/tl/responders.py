"""Which cells of a perturbation respond to it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, mannwhitneyu, norm

from cellfuse._access import check_key, context_labels, one_column, profiles_only, refuse_view
from cellfuse._provenance import as_json
from cellfuse.tl._labels import by_name, control_rows
from cellfuse.tl._rows import dense_rows
from cellfuse.tl._summary import check_level

__all__ = ["responders"]

logger = logging.getLogger("cellfuse")

N_FOLDS = 5
#: Steps of the mixture's fit, and the change of its share at which it ends.
MAX_STEPS, CHANGE = 200, 1e-5


@dataclass(frozen=True)
class _Fit:
    """One perturbation: the cells' scores, how likely each responds, and the test."""

    score: NDArray
    probability: NDArray
    share: float
    pvalue: float


def responders(
    adata: AnnData,
    *,
    by: str,
    control: str | list[str],
    use_rep: str | None = None,
    min_cells: int = 20,
    max_controls: int = 2000,
    alpha: float = 0.05,
    key_added: str = "responders",
    seed: int = 0,
) -> pd.DataFrame:
    """Tell the cells that respond to their perturbation from those that escaped it.

    A guide does not cut in every cell. For each perturbation a linear discriminant (with
    Ledoit-Wolf shrinkage) is trained on its cells against the controls and scores cells that it
    has not seen (five folds). The score is in the controls' own units: their mean is 0, their
    standard deviation 1. The perturbation's scores are then a mixture of the controls' normal
    distribution and one of the responders, fitted by expectation maximisation, as Mixscape
    (Papalexi et al. 2021) does it; Mixscale's continuous score is the first of the two columns.

    A perturbation whose cells do not score above the controls (one-sided Mann-Whitney test,
    Benjamini-Hochberg) has no responders: its mixture would be one of noise.

    Parameters
    ----------
    adata
        One row per cell. ``obs[key_added + "_score"]``, ``obs[key_added + "_probability"]`` and
        ``obs[key_added]`` (whether the probability is above one half) are written; controls and
        cells of perturbations that are too small have NaN, and False.
    by
        obs column with the perturbation.
    control
        Label or labels of the controls in it.
    use_rep
        obsm key of a low-dimensional embedding (PCA, a model's); None is ``X``.
    min_cells
        Perturbations with fewer cells are not fitted.
    max_controls
        Controls that are drawn, where there are more.
    alpha
        Level on q-values.
    key_added
        Name of the obs columns, and key of ``.uns`` under which the table is kept.
    seed
        Of the folds and the drawn controls; same seed, same result, whatever the order of rows.

    Returns
    -------
    One row per perturbation: ``n`` (cells), ``share`` (of responders, 0 where there is no
    effect), ``n_responders``, ``score`` (mean), ``pvalue``, ``qvalue``, ``significant``.

    Raises
    ------
    KeyError
        A column or label is absent.
    ValueError
        NaN or infinite values, a view, too few controls, or no perturbation with enough cells.

    Examples
    --------
    >>> import cellfuse as cf
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> gene = np.repeat(["NTC", "A", "B"], [300, 200, 200])
    >>> x = rng.normal(size=(700, 5))
    >>> x[300:400] += 2.5  # half the cells of A
    >>> cells = ad.AnnData(x, obs=pd.DataFrame({"gene": gene}).rename(str))
    >>> table = cf.tl.responders(cells, by="gene", control="NTC")
    >>> table["significant"].to_dict(), bool(0.4 < table.loc["A", "share"] < 0.6)
    ({'A': True, 'B': False}, True)
    """
    adata = profiles_only(adata)
    by = one_column(by, name="by")
    refuse_view(adata)
    check_level(alpha)
    check_key(key_added)
    if min_cells < 2 * N_FOLDS:
        raise ValueError(f"min_cells={min_cells}: expected at least {2 * N_FOLDS}, two per fold.")
    values = dense_rows(adata, use_rep)
    labels = context_labels(adata, by).to_numpy(str)
    is_control = control_rows(labels, control)
    controls = by_name(adata, np.flatnonzero(is_control))
    if len(controls) < min_cells:
        raise ValueError(
            f"{len(controls)} controls are too few to compare with (min_cells={min_cells})."
        )
    if len(controls) > max_controls:
        drawn = np.random.default_rng(seed).choice(len(controls), max_controls, replace=False)
        controls = controls[np.sort(drawn)]
    names = np.unique(labels[~is_control]).tolist()
    score, probability = np.full((2, adata.n_obs), np.nan)
    rows, fits = [], {}
    for name in names:
        cells = by_name(adata, np.flatnonzero(labels == name))
        fit = None
        if len(cells) >= min_cells:
            fit = _fit(values[cells], values[controls], name, seed)
            score[cells], probability[cells], fits[name] = fit.score, fit.probability, cells
        rows.append(
            {
                "n": len(cells),
                "share": fit.share if fit else np.nan,
                "n_responders": 0,
                "score": float(fit.score.mean()) if fit else np.nan,
                "pvalue": fit.pvalue if fit else np.nan,
            }
        )
    if not fits:
        raise ValueError(f"no perturbation has min_cells={min_cells} cells.")
    table = pd.DataFrame(rows, index=pd.Index(names, dtype=object, name=by))
    table = _tested(table, alpha)
    for name, cells in fits.items():
        if table.loc[name, "significant"]:
            table.loc[name, "n_responders"] = int((probability[cells] > 0.5).sum())
        else:
            probability[cells], table.loc[name, "share"] = 0.0, 0.0
    adata.obs[f"{key_added}_score"] = score
    adata.obs[f"{key_added}_probability"] = probability
    adata.obs[key_added] = np.nan_to_num(probability) > 0.5
    params = {
        "by": by,
        "control": as_json(control),
        "use_rep": use_rep or "X",
        "min_cells": min_cells,
        "alpha": alpha,
        "seed": seed,
    }
    adata.uns[key_added] = {"table": table.copy(), "params": params}
    logger.info(
        "responders: %d of %d perturbations have some; %d cells.",
        int(table["significant"].sum()),
        len(fits),
        int(table["n_responders"].sum()),
    )
    return table


def _tested(table: pd.DataFrame, alpha: float) -> pd.DataFrame:
    known = table["pvalue"].notna()
    table["qvalue"] = np.nan
    table.loc[known, "qvalue"] = false_discovery_control(table.loc[known, "pvalue"].to_numpy())
    table["significant"] = table["qvalue"].lt(alpha)
    return table


def _fit(cells: NDArray, controls: NDArray, name: str, seed: int) -> _Fit:
    """Scores of cells that the discriminant has not seen, and the mixture that they are."""
    own, theirs = _scores(cells, controls, np.random.default_rng([seed, *name.encode()]))
    centre, spread = theirs.mean(), theirs.std() or 1.0
    own, theirs = (own - centre) / spread, (theirs - centre) / spread
    test = mannwhitneyu(own, theirs, alternative="greater")
    probability, share = _mixture(own)
    return _Fit(own, probability, share, float(test.pvalue))


def _scores(cells: NDArray, controls: NDArray, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x = np.concatenate([cells, controls])
    label = np.repeat([1, 0], [len(cells), len(controls)])
    fold = np.concatenate([rng.permutation(len(part)) % N_FOLDS for part in (cells, controls)])
    score = np.empty(len(x))
    for number in range(N_FOLDS):
        held = fold == number
        model = make_pipeline(
            StandardScaler(),
            # Equal priors: the offset says nothing of how many cells there happen to be.
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.5, 0.5]),
        ).fit(x[~held], label[~held])
        score[held] = model.decision_function(x[held])
    return score[: len(cells)], score[len(cells) :]


def _mixture(score: NDArray) -> tuple[NDArray, float]:
    """Probability that each score is not of the controls' N(0, 1), and the share of such."""
    share, mean, spread = 0.5, max(float(np.quantile(score, 0.75)), 0.5), 1.0
    null = norm.pdf(score)
    probability = np.full(len(score), 0.5)
    for _ in range(MAX_STEPS):
        alternative = share * norm.pdf(score, mean, spread)
        probability = alternative / np.maximum(alternative + (1 - share) * null, 1e-300)
        before, share = share, float(np.clip(probability.mean(), 1e-3, 1 - 1e-3))
        weight = max(float(probability.sum()), 1e-9)
        mean = max(float((probability * score).sum() / weight), 0.0)
        variance = float((probability * (score - mean) ** 2).sum() / weight)
        spread = max(np.sqrt(variance), 0.3)
        if abs(share - before) < CHANGE:
            break
    # A wide component is the likelier one on the controls' far side as well: no response there.
    return np.where(score > 0, probability, 0.0), share
