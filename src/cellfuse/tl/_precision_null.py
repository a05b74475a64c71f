"""What average precision is by chance: of a profile, and of a group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cellfuse.kernels.groups import group_rows
from cellfuse.kernels.joint_null import joint_precision
from cellfuse.kernels.precision import Ranking, all_precisions, null_precision

__all__ = ["Null", "PrecisionNull"]

Null = Literal["joint", "comonotone", "copairs", "layout"]
#: Average precisions closer than this are equal.
TIE = 1e-9
#: Profiles of a group up to which they are drawn jointly: pairs grow with the square.
JOINT = 100


class PrecisionNull:
    """Null precisions by their sizes, each drawn once, or all of them where they are few."""

    def __init__(self, ranking: Ranking, kind: Null, n_null: int, seed: int) -> None:
        if kind not in get_args(Null):
            raise ValueError(f"null={kind!r} is unknown; choose one of {list(get_args(Null))}.")
        self.kind, self.n_null, self.seed = kind, n_null, seed
        self.n_negative = ranking.n_negative
        total = ranking.n_positive + ranking.n_negative
        self.tested = np.isfinite(ranking.precision)
        sizes = np.stack([ranking.n_positive, total], axis=1)
        self.sizes, at = np.unique(sizes[self.tested], axis=0, return_inverse=True)
        self.of = np.full(len(self.tested), -1)
        self.of[self.tested] = at
        self._exact = [all_precisions(int(k), int(n), most=n_null) for k, n in self.sizes]
        self._drawn: dict[int, NDArray] = {}
        #: Null of a group by its size, where it is that of the layout.
        self.by_size: Callable[[int], NDArray] | None = None

    def drawn(self, size: int) -> NDArray:
        """Random rankings of one pair of sizes, in the order of their draws."""
        if size not in self._drawn:
            k, n = (int(number) for number in self.sizes[size])
            self._drawn[size] = null_precision(k, n, n_null=self.n_null, seed=self.seed)
        return self._drawn[size]

    def of_profiles(self, precision: NDArray) -> NDArray:
        """p-value of each profile; NaN where it is not tested."""
        pvalue = np.full(len(precision), np.nan)
        for size in range(len(self.sizes)):
            rows = self.of == size
            pvalue[rows] = self._by_size(precision[rows], size)
        return pvalue

    def _by_size(self, observed: NDArray, size: int) -> NDArray:
        exact = self._exact[size]
        if exact is None:
            return _random(observed, np.sort(self.drawn(size)))
        # All rankings are there, and the observed one is among them.
        return np.maximum(_extreme(observed, exact), 1) / len(exact)

    def of_groups(self, observed: NDArray, group: NDArray, apart: NDArray | None) -> NDArray:
        """p-value of each group's mean; groups of the same design have the same null.

        Parameters
        ----------
        observed
            Mean precision of each group.
        group
            Group of each query, shape (queries,).
        apart
            Numbers of each query in which positives differ, shape (queries, c), or None.
        """
        pvalue = np.full(len(observed), np.nan)
        nulls: dict[bytes, NDArray] = {}
        for g, members in enumerate(group_rows(group, len(observed))):
            members = members[np.lexsort((self.n_negative[members], self.of[members]))]
            sizes = self.of[members][self.tested[members]]
            if not len(sizes):
                continue
            if self.by_size is not None:
                pvalue[g] = _random(observed[[g]], self.by_size(len(sizes)))[0]
                continue
            joint = self.kind == "joint" and len(members) <= JOINT
            if len(sizes) == 1 or (not joint and self._one_exact(sizes)):
                pvalue[g] = self._by_size(observed[[g]], int(sizes[0]))[0]
                continue
            paired = _paired(members, apart) if joint else np.empty(0, dtype=bool)
            design = (sizes.tobytes(), self.n_negative[members].tobytes(), paired.tobytes())
            key = b"|".join(design) if joint else design[0]
            if key not in nulls:
                nulls[key] = np.sort(
                    joint_precision(
                        self.n_negative[members],
                        paired,
                        tested=self.tested[members],
                        n_null=self.n_null,
                        seed=self.seed,
                    )
                    if joint
                    else self._of_mix(sizes)
                )
            pvalue[g] = _random(observed[[g]], nulls[key])[0]
        return pvalue

    def _one_exact(self, sizes: NDArray) -> bool:
        """Profiles of one size that move together have the null of one of them."""
        return len(np.unique(sizes)) == 1 and self._exact[sizes[0]] is not None

    def _of_mix(self, sizes: NDArray) -> NDArray:
        """Mean over profiles: at the same quantile, or (copairs) apart between different sizes."""
        found, count = np.unique(sizes, return_counts=True)
        drawn = [self.drawn(int(size)) for size in found]
        if self.kind != "copairs":
            drawn = [np.sort(values) for values in drawn]
        return (count / len(sizes)) @ np.array(drawn)


def _paired(members: NDArray, apart: NDArray | None) -> NDArray:
    paired = ~np.eye(len(members), dtype=bool)
    for number in () if apart is None else apart[members].T:
        paired &= number[:, None] != number[None]
    return paired


def _extreme(observed: NDArray, ordered: NDArray) -> NDArray:
    return len(ordered) - np.searchsorted(ordered, observed - TIE, side="left")


def _random(observed: NDArray, ordered: NDArray) -> NDArray:
    return (_extreme(observed, ordered) + 1.0) / (len(ordered) + 1.0)
