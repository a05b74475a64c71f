"""Sums over cells in one pass, from which all moments within and between contexts follow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

__all__ = ["ContextMoments", "ContextSums"]

Floats = NDArray[np.float64]

#: Share of a sum of squares about the shift that may be rounding of float32.
ROUNDING = 1e-6


@dataclass(frozen=True)
class ContextMoments:
    """What one modality's cells say of contexts, with nuisances taken out.

    Attributes
    ----------
    means
        Mean of each context, ``(contexts, features)``; zeros where it has no cell.
    counts
        Cells of each context, ``(contexts,)``.
    within
        Covariance within contexts, pooled, ``(features, features)``.
    total
        Covariance of all cells, ``(features, features)``.
    n_free
        Degrees of freedom of `within`: cells less contexts; 0 where no context has two cells.
    offset
        Mean of all cells, ``(features,)``.
    coefficients
        What a unit of each nuisance adds to the features, ``(nuisances, features)``.
    nuisance_means
        Mean of each nuisance, ``(nuisances,)``.
    """

    means: Floats
    counts: Floats
    within: Floats
    total: Floats
    n_free: float
    offset: Floats
    coefficients: Floats
    nuisance_means: Floats

    @property
    def profiles(self) -> Floats:
        """Means of the contexts as the features are, ``(contexts, d)``."""
        return self.means + self.offset

    def of_features(self, columns: NDArray[np.int64]) -> ContextMoments:
        """Moments of some features alone."""
        if np.array_equal(columns, np.arange(len(self.offset))):
            return self
        return replace(
            self,
            means=self.means[:, columns],
            within=self.within[np.ix_(columns, columns)],
            total=self.total[np.ix_(columns, columns)],
            offset=self.offset[columns],
            coefficients=self.coefficients[:, columns],
        )

    def center(self, x: NDArray, nuisances: NDArray | None = None) -> Floats:
        """Take the mean and the nuisances out of cells ``(n, features)``."""
        out = np.asarray(x, np.float64) - self.offset
        if len(self.nuisance_means):
            if nuisances is None:
                raise ValueError(
                    f"{len(self.nuisance_means)} nuisances were taken out when this was fitted; "
                    "these cells come without them."
                )
            out -= (np.asarray(nuisances, np.float64) - self.nuisance_means) @ self.coefficients
        return out


class ContextSums:
    """Sums of features and nuisances, their products, and their sums by context.

    Cells pass once, in blocks: millions of cells cost no more memory than one block, one square of
    features and one row per context. A cell of several contexts counts once in each; a cell of none
    is passed over.

    Parameters
    ----------
    n_features, n_contexts
        Sizes.
    n_nuisances
        Columns that are regressed out, such as batches (0 or 1) or the logarithm of depth.

    Notes
    -----
    Parts of the cells (folds, files, workers) are summed apart and added up, see :meth:`plus`; all
    parts then need the `shift` of the first.

    Examples
    --------
    >>> import numpy as np, scipy.sparse as sp
    >>> from cellfuse.kernels.context_sums import ContextSums
    >>> sums = ContextSums(1, 2)
    >>> sums.add(np.array([[1.0], [3.0], [8.0]]), sp.csr_matrix([[1, 0], [1, 0], [0, 1]]))
    >>> found = sums.moments()
    >>> (found.means + found.offset).ravel().tolist(), float(found.within[0, 0])
    ([2.0, 8.0], 2.0)
    """

    def __init__(
        self,
        n_features: int,
        n_contexts: int,
        n_nuisances: int = 0,
        *,
        shift: NDArray | None = None,
    ) -> None:
        self.n_features, self.n_nuisances = n_features, n_nuisances
        width = 1 + n_nuisances + n_features
        self._products = np.zeros((width, width))
        self._by_context = np.zeros((n_contexts, width))
        #: Near the mean of what is summed: products of centred numbers keep digits in float32.
        self.shift = shift

    def plus(self, other: ContextSums) -> ContextSums:
        """Sums over the cells of both."""
        found = ContextSums(
            self.n_features, len(self._by_context), self.n_nuisances, shift=self.shift
        )
        found._products = self._products + other._products
        found._by_context = self._by_context + other._by_context
        return found

    def add(self, x: NDArray, members: sp.csr_matrix, nuisances: NDArray | None = None) -> None:
        """Add a block of cells.

        Parameters
        ----------
        x
            Features, ``(n, features)``.
        members
            Which contexts a cell is of, ``(n, contexts)``, 1 or 0.
        nuisances
            ``(n, nuisances)``.
        """
        x = np.asarray(x, np.float32)
        z = np.empty((len(x), 0)) if nuisances is None else np.asarray(nuisances)
        weight = np.asarray(members.sum(axis=1)).ravel()
        if not weight.any():
            return
        if self.shift is None:
            first = np.hstack([z, x])[weight > 0]
            self.shift = first.mean(axis=0, dtype=np.float64).astype(np.float32)
        rows = np.empty((len(x), self._products.shape[0]), np.float32)
        rows[:, 0] = 1.0
        rows[:, 1 : 1 + self.n_nuisances] = z
        rows[:, 1 + self.n_nuisances :] = x
        rows[:, 1:] -= self.shift
        self._by_context += members.T.astype(np.float32) @ rows
        self._products += rows.T @ (rows * weight[:, None].astype(np.float32))

    def profiles(self, fit: ContextMoments) -> tuple[Floats, Floats]:
        """Context means ``(contexts, features)`` on the scale of another fit, and cells of each.

        What that fit takes out is taken out: its mean, and nuisances by its coefficients.
        """
        assert self.shift is not None
        counts = self._by_context[:, 0]
        means = self._by_context[:, 1:] / np.maximum(counts, 1)[:, None] + self.shift
        z, x = means[:, : self.n_nuisances], means[:, self.n_nuisances :]
        x = x - fit.offset - (z - fit.nuisance_means) @ fit.coefficients
        return np.where(counts[:, None] > 0, x, 0.0), counts

    def moments(self) -> ContextMoments:
        """Moments of all that was added.

        Raises
        ------
        ValueError
            No cell was added, or the nuisances explain everything.
        """
        if self.shift is None or not self._products[0, 0]:
            raise ValueError("no cell belongs to a context.")
        k = 1 + self.n_nuisances
        counts = self._by_context[:, 0]
        n = counts.sum()
        among, across = self._products[:k, :k], self._products[:k, k:]
        # Intercept and nuisances together: columns that repeat others share their effect.
        slope = np.linalg.pinv(among, rcond=1e-7, hermitian=True) @ across
        total = self._products[k:, k:] - across.T @ slope
        # Of a constant feature, sums in float32 leave a little on either side of zero: no variance.
        told = np.diag(total) > ROUNDING * np.diag(self._products)[k:]
        np.fill_diagonal(total, np.where(told, np.diag(total), 0.0))
        before = np.diag(self._products)[k:] - across[0] ** 2 / n
        if before.max() > 0 and np.all(np.diag(total) <= 1e-5 * before.max()):
            raise ValueError(
                f"the {self.n_nuisances} nuisances explain everything: nothing is left of the "
                f"{self.n_features} features. Take fewer of them out."
            )
        filled = np.maximum(counts, 1)[:, None]
        means = (self._by_context[:, k:] - self._by_context[:, :k] @ slope) / filled
        between = (means * counts[:, None]).T @ means
        n_free = n - (counts > 0).sum()
        within = (total - between) / n_free if n_free > 0 else np.zeros_like(total)
        shift = self.shift.astype(np.float64)
        nuisance_means = self._products[0, 1:k] / n + shift[: k - 1]
        return ContextMoments(
            means=means,
            counts=counts,
            within=(within + within.T) / 2,
            total=(total + total.T) / (2 * max(n - 1, 1)),
            n_free=float(max(n_free, 0)),
            offset=shift[k - 1 :] + across[0] / n,
            coefficients=slope[1:],
            nuisance_means=nuisance_means,
        )
