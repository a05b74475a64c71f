"""Training and validation cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellfuse.data.contexts import Contexts

__all__ = ["training_rows"]


def training_rows(
    contexts: Contexts, share: float, seed: int
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, NDArray[np.bool_]]]:
    """Split cells into training and validation, the same share of every context.

    A context keeps at least one training cell. A cell of several contexts is held out of all of
    them or of none.

    Parameters
    ----------
    contexts
        Who shares a context.
    share
        Share of each context's cells that is held out, rounded down; 0 for none.
    seed
        Seed of the choice.

    Returns
    -------
    For each modality, which cells train and which validate, ``(n,)`` bool each.

    Raises
    ------
    ValueError
        A share outside [0, 1).

    Examples
    --------
    >>> import cellfuse as cf
    >>> mdata = cf.datasets.simulated_screen(n_targets=4, cells_per_guide=20, seed=0)
    >>> contexts = cf.data.Contexts.from_modalities(mdata.mod, "gene")
    >>> train, held_out = cf.data.training_rows(contexts, 0.1, seed=0)
    >>> bool((train["rna"] != held_out["rna"]).all())
    True
    """
    if not 0 <= share < 1:
        raise ValueError(f"validation_size must be in [0, 1), found {share}.")
    train, held_out = {}, {}
    for number, (modality, members) in enumerate(contexts.members.items()):
        n_rows = contexts.n_rows[modality]
        draw = np.random.default_rng([seed, 104_729, number]).random(n_rows)
        # Rows context by context, in the order of one number per cell.
        rows = members.rows[np.lexsort((draw[members.rows], members.codes))]
        rank = np.arange(len(rows)) - members.indptr[members.codes]
        is_held = np.zeros(n_rows, bool)
        is_held[rows[rank < np.floor(members.counts * share)[members.codes]]] = True
        is_held[rows[rank == (members.counts - 1)[members.codes]]] = False
        held_out[modality], train[modality] = is_held, ~is_held
    return train, held_out
