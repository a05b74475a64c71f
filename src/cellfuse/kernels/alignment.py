"""How close a context's two profiles are, one of each modality, beside other contexts' profiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cellfuse.kernels.retrieval import TIE, places_of_matches

__all__ = ["Alignment", "align", "align_blocks", "closer_of_all"]


@dataclass(frozen=True)
class Alignment:
    """One number per context, over `n` contexts that both modalities have.

    Attributes
    ----------
    own, other
        Cosine of the context's two profiles; mean cosine with the other contexts' profiles, both
        ways.
    closer
        Share of other contexts whose profile is closer than the own one, ties half, ``(2, n)``: the
        first modality asking, then the second. The mean is FOSCTTM.
    place
        Place of the own profile among all, from 1, ties halfway, ``(2, n)``.
    """

    own: NDArray[np.float64]
    other: NDArray[np.float64]
    closer: NDArray[np.float64]
    place: NDArray[np.float64]

    def summary(self, k: int = 10) -> dict[str, float]:
        """Means over contexts: ``gap``, ``foscttm``, ``mrr`` and ``top<k>``."""
        return {
            "gap": float((self.own - self.other).mean()),
            "foscttm": float(self.closer.mean()),
            "mrr": float((1.0 / self.place).mean()),
            f"top{k}": float((self.place <= k).mean()),
        }


def _units(x: NDArray) -> NDArray[np.float64]:
    """Rows of unit length; one of zeros stays, as where no axis is shared."""
    x = np.nan_to_num(np.asarray(x, np.float64))
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(length > 0, length, 1.0)


def align(a: NDArray, b: NDArray) -> Alignment:
    """Compare profiles ``(n, d)`` of the same contexts in the same order, by cosine.

    A profile of zeros has no direction: its cosines are 0, and it ties with all.

    Examples
    --------
    >>> import numpy as np
    >>> from cellfuse.kernels.alignment import align
    >>> found = align(np.eye(4), np.eye(4)).summary(k=1)
    >>> found["gap"], found["foscttm"], found["top1"]
    (1.0, 0.0, 1.0)
    """
    units = [_units(x) for x in (a, b)]
    n = len(a)
    own = np.einsum("ij,ij->i", *units)
    if not n:  # no context is there in both modalities: nothing is said of none
        return Alignment(own, np.zeros(0), np.zeros((2, 0)), np.zeros((2, 0)))
    who = np.arange(n)
    total = units[0] @ units[1].sum(axis=0) + units[1] @ units[0].sum(axis=0)
    ways = [places_of_matches(x, y, who, who) for x, y in (units, units[::-1])]
    place = np.stack([1 + way.above + way.tied / 2 for way in ways])
    return Alignment(own, (total / 2 - own) / max(n - 1, 1), (place - 1) / max(n - 1, 1), place)


def align_blocks(found: Alignment, blocks: NDArray | None) -> NDArray[np.int64]:
    """Number of the block (the target of guides) of each context: what is resampled together."""
    n = len(found.own)
    if blocks is None:
        return np.arange(n)
    return np.unique(np.asarray(blocks).astype(str), return_inverse=True)[1].reshape(-1)


def closer_of_all(a: NDArray, b: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Share of other profiles that are closer, were each pair the true one, ``(n, n)`` twice.

    Row i and column j: among all of `b` for a's i, and among all of `a` for b's j. The FOSCTTM of
    any pairing is then read off, without comparing anything again.
    """
    units = [_units(x) for x in (a, b)]
    # What lies closer than a tie is one number, so that it ranks as one.
    similarity = np.round(units[0] @ units[1].T, -int(np.log10(TIE)))
    n = max(len(similarity) - 1, 1)
    by_row = (rankdata(-similarity, axis=1, method="average") - 1) / n
    by_column = (rankdata(-similarity, axis=0, method="average") - 1) / n
    return by_row.astype(np.float32), by_column.astype(np.float32)
