"""Whether concepts know the well (PETRI, 4.3, Fig. 5c)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from cellfuse._access import Data, context_labels, modalities, per_modality, where
from cellfuse._counts import whole_counts
from cellfuse.kernels.bootstrap import sign_flip_pvalue
from cellfuse.tl._concepts import REP, activations_of, chosen_concepts, keep_table

__all__ = ["batch_predictability"]

#: Cells of a batch below which it is left out: training and test need some.
MIN_CELLS = 4
#: Sign changes of the paired test.
N_FLIPS = 10_000


@whole_counts
def batch_predictability(
    data: Data,
    batch_key: str | Mapping[str, str | None],
    *,
    concepts: Sequence[int] | None = None,
    n_draws: int = 20,
    test_size: float = 0.25,
    max_cells: int = 10_000,
    use_rep: str = REP,
    key_added: str = "batch_predictability",
    seed: int = 0,
) -> pd.DataFrame:
    """Predict the well from multimodal and from random concepts (PETRI, 4.3, Fig. 5c).

    What both modalities share should know little of the well, which is an accident of one of
    them. In each draw cells are split into training and test (within each batch), a logistic
    regression reads the multimodal concepts, and another one as many random concepts among the
    rest that are active at all. The paper does not say what its classifiers enumerate, the split
    or the test; these are settled here.

    Parameters
    ----------
    data
        MuData (each modality by itself) or one AnnData.
    batch_key
        obs column of the well or plate; a dict gives it for each modality, None leaving one out.
    concepts
        Numbers of the concepts; None: the multimodal ones in ``.uns``
        (:func:`multimodal_concepts`).
    n_draws
        Splits, each with its own random concepts; 20 (paper).
    test_size
        Share of the cells that is tested on.
    max_cells
        Cells of a modality; more are drawn from at random.
    use_rep
        obsm key of the activations.
    key_added
        Key of ``data.uns``.
    seed
        Of splits and draws.

    Returns
    -------
    One row per modality: ``accuracy`` (mean over draws) of the multimodal concepts,
    ``accuracy_random``, ``difference``, ``pvalue`` (two-sided sign flips of the paired draws),
    ``chance`` (share of the largest batch), ``n_concepts``, ``n_batches``, ``n_cells``.
    ``uns[key_added]`` keeps it as ``"table"``, each draw in ``"draws"``, and ``"params"``.

    Raises
    ------
    KeyError
        The column is absent, or no concepts were counted or named.
    ValueError
        Fewer than two batches with enough cells, fewer random concepts than multimodal ones.

    Notes
    -----
    Draws share the cells: `pvalue` says whether these concepts know less of the well than others
    do in this screen, not what a further screen would show. Random concepts are often sparser
    than multimodal ones, which makes the comparison harder for the latter.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, scipy.sparse as sp
    >>> import cellfuse as cf
    >>> rng = np.random.default_rng(0)
    >>> well = np.repeat([0, 1], 100)
    >>> active = rng.random((200, 40)) * (rng.random((200, 40)) < 0.5)
    >>> active[:, 20:] += 0.5 * well[:, None]  # the last concepts know the well
    >>> obs = pd.DataFrame({"well": well}, index=[f"cell{i}" for i in range(200)])
    >>> cells = ad.AnnData(obs=obs)
    >>> cells.obsm["X_concepts"] = sp.csr_matrix(active)
    >>> table = cf.tl.batch_predictability(cells, "well", concepts=list(range(10)), n_draws=4)
    >>> bool((table["accuracy"] < table["accuracy_random"]).all())
    True
    """
    if n_draws < 1 or not 0 < test_size < 1 or max_cells < 1:
        raise ValueError(
            f"n_draws={n_draws}, test_size={test_size}, max_cells={max_cells}: expected at least "
            "one draw and cell, and a share of test cells between 0 and 1."
        )
    matrices = activations_of(data, use_rep)
    n_concepts = next(iter(matrices.values())).shape[1]
    chosen = chosen_concepts(data, concepts, n_concepts)
    draws = []
    for name, adata in modalities(data).items():
        key: str | None = per_modality(batch_key, name, name="batch_key")  # type: ignore[arg-type]
        if key is not None:
            draws.append(
                _draws(
                    adata, matrices[name], chosen, key, n_draws, test_size, max_cells, seed, name
                )
            )
    if not draws:
        raise ValueError("`batch_key` leaves every modality out.")
    runs = pd.concat(draws, ignore_index=True)
    table = _summary(runs, seed)
    params = {
        "n_draws": n_draws,
        "test_size": test_size,
        "max_cells": max_cells,
        "use_rep": use_rep,
        "seed": seed,
    }
    keep_table(data, key_added, {"table": table, "draws": runs}, params)
    return table


def _draws(
    adata: AnnData,
    values: sparse.csr_matrix,
    concepts: NDArray,
    key: str,
    n_draws: int,
    test_size: float,
    max_cells: int,
    seed: int,
    modality: str,
) -> pd.DataFrame:
    from sklearn.model_selection import train_test_split

    label = context_labels(adata, key, modality=modality).to_numpy()
    names, batch, size = np.unique(label, return_inverse=True, return_counts=True)
    rows = np.flatnonzero(size[batch] >= MIN_CELLS)
    if len(np.unique(batch[rows])) < 2:
        raise ValueError(
            f"obs[{key!r}]{where(modality)} has {len(names)} batches, and fewer than two of them "
            f"have {MIN_CELLS} cells: nothing to predict."
        )
    rng = np.random.default_rng(seed)
    if len(rows) > max_cells:
        rows, _ = train_test_split(
            rows, train_size=max_cells, stratify=batch[rows], random_state=int(rng.integers(2**31))
        )
        rows = np.sort(rows)
    active = np.bincount(values[rows].indices, minlength=values.shape[1]) > 0
    active[concepts] = False
    others = np.flatnonzero(active)
    if len(others) < len(concepts):
        raise ValueError(
            f"{len(concepts)} concepts{where(modality)} are to be compared with as many random "
            f"ones, but only {len(others)} others are active at all; give fewer `concepts`."
        )
    records = []
    for draw in range(n_draws):
        train, test = train_test_split(
            rows,
            test_size=test_size,
            stratify=batch[rows],
            random_state=int(rng.integers(2**31)),
        )
        drawn = rng.choice(others, len(concepts), replace=False)
        records.append(
            {
                "modality": modality,
                "draw": draw,
                "accuracy": _accuracy(values[:, concepts], batch, train, test),
                "accuracy_random": _accuracy(values[:, drawn], batch, train, test),
                "chance": float(np.bincount(batch[test]).max() / len(test)),
                "n_concepts": len(concepts),
                "n_batches": len(np.unique(batch[rows])),
                "n_cells": len(rows),
            }
        )
    return pd.DataFrame(records)


def _accuracy(values: sparse.csr_matrix, batch: NDArray, train: NDArray, test: NDArray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler(with_mean=False)  # what is sparse stays sparse
    classifier = LogisticRegression(max_iter=2000, tol=1e-3)
    classifier.fit(scaler.fit_transform(values[train]), batch[train])
    return float(classifier.score(scaler.transform(values[test]), batch[test]))


def _summary(runs: pd.DataFrame, seed: int) -> pd.DataFrame:
    rows = {}
    for name, part in runs.groupby("modality", sort=False):
        difference = (part["accuracy"] - part["accuracy_random"]).to_numpy()
        rows[name] = {
            "accuracy": part["accuracy"].mean(),
            "accuracy_random": part["accuracy_random"].mean(),
            "difference": difference.mean(),
            "pvalue": sign_flip_pvalue(difference, N_FLIPS, seed),
            "chance": part["chance"].mean(),
            **{c: int(part[c].iloc[0]) for c in ("n_concepts", "n_batches", "n_cells")},
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.name = "modality"
    return table
