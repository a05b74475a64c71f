"""Null sets of wells that lie next to one another: what the position on the plate alone gives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import context_labels
from cellfuse._errors import listing
from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.layout import neighbour_sets, well_positions
from cellfuse.kernels.precision import Similarities

__all__ = ["LayoutNull", "draw_on_layout", "plates_apart", "positions"]

#: Wells whose comparisons with one another are kept.
MOST = 12_000
#: Similarities closer than this are tied.
TIE = 1e-10


def positions(adata: AnnData, well_key: str) -> tuple[NDArray, NDArray]:
    """Row and column of each well."""
    codes, names = pd.factorize(context_labels(adata, well_key))
    try:
        row, column = well_positions([str(name) for name in names])
    except ValueError as error:
        raise ValueError(
            f"obs[{well_key!r}] holds labels that name no well: {listing(error.args[0])}; "
            "expected such as 'A01', 'P24' or 'AF48'."
        ) from None
    return row[codes], column[codes]


def plates_apart(labels: NDArray, plate: NDArray | None) -> list[NDArray]:
    """The plate, where no perturbation has two wells on one: null sets then have none either."""
    if plate is None:
        return []
    pair = pd.DataFrame({"label": labels, "plate": plate})
    return [] if pair.duplicated().any() else [plate]


def draw_on_layout(
    row: NDArray, column: NDArray, apart: NDArray, size: int, n_sets: int, rng: np.random.Generator
) -> NDArray:
    """Sets of neighbouring wells, with an error in the user's words."""
    if len(row) > MOST:
        raise ValueError(
            f"the layout null compares all wells with one another: at most {MOST:,}, found "
            f"{len(row):,}. Score plates in parts, or take another `null`."
        )
    try:
        return neighbour_sets(row, column, apart, size, n_sets, rng)
    except ValueError as error:
        raise ValueError(
            f"{error}. Name the controls by `control`, leave larger groups out, or take another "
            "`null`."
        ) from None


class LayoutNull:
    """Mean average precision of sets of neighbouring wells of different perturbations.

    Parameters
    ----------
    similarity
        Of all profiles.
    labels, queries, pools, stratum
        As in :func:`cellfuse.kernels.precision.rank_positives`.
    row, column
        Position of each query.
    apart
        Numbers in all of which the wells of a set differ, shape (queries, c).
    """

    def __init__(
        self,
        similarity: Similarities,
        labels: NDArray,
        queries: NDArray,
        pools: Sequence[NDArray],
        stratum: NDArray,
        row: NDArray,
        column: NDArray,
        apart: NDArray,
        *,
        n_null: int,
        seed: int,
    ) -> None:
        self.row, self.column, self.apart = row, column, apart
        self.n_null, self.seed = n_null, seed
        n = len(queries)
        if n > MOST:
            draw_on_layout(row, column, apart, 2, 1, np.random.default_rng(0))  # says why not
        self.similar = similarity.between(queries, queries)
        self.above = np.empty((n, n), dtype=np.int32)
        self.in_pool = np.zeros((n, n), dtype=bool)
        for s, mine in enumerate(group_rows(stratum[queries], len(pools))):
            if not len(mine):
                continue
            pool = pools[s]
            negatives = similarity.between(queries[mine], pool)
            other = labels[queries[mine]][:, None] != labels[pool]
            negatives[~other] = -np.inf
            negatives.sort(axis=1)
            for i, ordered in zip(mine, negatives, strict=True):
                below = np.searchsorted(ordered, self.similar[i] + TIE, side="right")
                self.above[i] = len(ordered) - below
            self.in_pool[mine] = np.isin(queries, pool)
        self.in_pool &= labels[queries][:, None] != labels[queries]
        self._nulls: dict[int, NDArray] = {}

    def of(self, size: int) -> NDArray:
        """Of groups of this size, ascending, shape (n_null,)."""
        if size not in self._nulls:
            rng = np.random.default_rng([self.seed, 32_452_843, size])
            sets = draw_on_layout(self.row, self.column, self.apart, size, self.n_null, rng)
            order = np.arange(1, size)[:, None]
            total = np.zeros(self.n_null)
            for i in range(size):
                others = np.delete(sets, i, axis=0)
                by_similarity = np.argsort(-self.similar[sets[i], others], axis=0)
                others = np.take_along_axis(others, by_similarity, axis=0)
                # Members before this one are positives, and no negatives.
                inside = self.in_pool[sets[i], others]
                before = np.cumsum(inside, axis=0) - inside
                negatives = self.above[sets[i], others] - before
                total += (order / (order + negatives)).mean(axis=0)
            self._nulls[size] = np.sort(total / size)
        return self._nulls[size]
