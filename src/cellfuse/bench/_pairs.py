"""Cells that were measured in both modalities, used as a screen would: each on one side alone.

What pairs are there is known, so that they show whether a shared space is right; a model that was
shown both sides of a cell would only have to remember it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_labels, has_label
from cellfuse._errors import listing
from cellfuse.bench._design import Design
from cellfuse.data.splits import rank_within

if TYPE_CHECKING:
    from cellfuse.bench._screen import Screen

__all__ = ["dealt_cells", "pair_rows"]

#: Spreads the deal over seeds (a prime).
STREAM = 15_485_863


def dealt_cells(
    parts: Mapping[str, AnnData], design: Design, seed: int
) -> dict[str, NDArray[np.bool_]]:
    """Cells that are a modality's own: of each pair one side, half of a context's pairs each way.

    Cells without a partner are their modality's own. Without `pair_key` all are.

    Raises
    ------
    ValueError
        Not two modalities, no pair, a pair with two cells of a modality or of two contexts.
    """
    own = {name: np.ones(adata.n_obs, bool) for name, adata in parts.items()}
    if design.pair_key is None:
        return own
    first, second = _partners(parts, design.pair_key)
    (name, adata), (other_name, other) = parts.items()
    context = context_labels(adata, design.contexts, modality=name).to_numpy(str)[first]
    theirs = context_labels(other, design.contexts, modality=other_name).to_numpy(str)[second]
    if (context != theirs).any():
        at = int(np.argmax(context != theirs))
        raise ValueError(
            f"{int((context != theirs).sum())} of {len(context)} pairs by obs[{design.pair_key!r}] "
            f"lie in another context on each side, the first in {context[at]!r} and "
            f"{theirs[at]!r}. Name what one measured cell has twice."
        )
    rng = np.random.default_rng([seed, STREAM])
    codes, names = pd.factorize(context)
    # Of an odd number of pairs either side gets one more.
    order = np.argsort(rng.random(len(codes)))
    to_first = (rank_within(codes, order) + rng.integers(0, 2, len(names))[codes]) % 2 == 0
    own[name][first[~to_first]] = False
    own[other_name][second[to_first]] = False
    return own


def _partners(parts: Mapping[str, AnnData], key: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows of both modalities, pair by pair."""
    if len(parts) != 2:
        raise ValueError(
            f"pair_key={key!r} names cells of two modalities; this screen has {listing(parts)}."
        )
    found = []
    for name, adata in parts.items():
        label = context_labels(adata, key, modality=name, missing=True)
        rows = np.flatnonzero(has_label(label))
        label = label.iloc[rows]
        if label.duplicated().any():
            twice = label[label.duplicated()]
            raise ValueError(
                f"{twice.nunique()} labels of obs[{key!r}] have several cells of modality "
                f"{name!r} ({listing(twice.unique(), 3)}). A pair is one cell, measured twice."
            )
        found.append(pd.Series(rows, index=pd.Index(label.to_numpy(str))))
    both = found[0].index.intersection(found[1].index)
    if both.empty:
        ends = [str(each.index[0]) if len(each) else "none" for each in found]
        raise ValueError(
            f"no label of obs[{key!r}] stands in both modalities (the first are "
            f"{' and '.join(map(repr, ends))}). Take prefixes of the modality away."
        )
    return found[0][both].to_numpy(np.intp), found[1][both].to_numpy(np.intp)


def pair_rows(screen: Screen) -> dict[str, NDArray[np.intp]]:
    """Rows of each role whose pairs are looked at: of held-out contexts, or all, pair by pair."""
    key = screen.design.pair_key
    assert key is not None
    parts = screen.mdata.mod
    rows = dict(zip(parts, _partners(parts, key), strict=True))
    outs = [screen.out[name][at] for name, at in rows.items()]
    seen = ~np.logical_or.reduce(outs)
    kept = np.ones(len(seen), bool) if seen.all() else ~seen
    return {role: rows[name][kept] for role, name in screen.roles.items()}
