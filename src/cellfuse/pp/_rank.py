"""Why a whitening has fewer directions than features, and whether it has rows enough."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from numbers import Real

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cellfuse._access import column_list, per_modality
from cellfuse.kernels.groups import group_means
from cellfuse.pp._matrices import Matrix

__all__ = [
    "FEW_ROWS",
    "OUTWEIGHED",
    "FewRowsWarning",
    "Notes",
    "centred_groups",
    "check_eps",
    "few_rows",
    "why_directions_are_missing",
]

#: Rows per direction below which whitening costs more than it gives: of real Cell Painting wells,
#: mean average precision of replicates fell from .75 to .73 at 5 rows a direction, to .72 at 2.5,
#: .58 at 1.2; on another plate from .31 to .03 at .8. Shrunk by Ledoit and Wolf it stayed at .75
#: and fell to .24.
FEW_ROWS = 3.0
#: Share of the ridge below which a feature's variance leaves little of it.
OUTWEIGHED = 0.01
#: Largest mean of a group, in standard deviations, that counts as 0 (rounding of float32).
CENTRED = 1e-4


def check_eps(eps: object, *, auto: bool = True) -> None:
    """Refuse what is neither a finite number from 0 nor, where a verb has it, ``"auto"``."""
    if auto and isinstance(eps, str) and eps == "auto":
        return
    number = isinstance(eps, Real) and not isinstance(eps, bool)
    if not number or not 0 <= float(eps) < math.inf:  # type: ignore[arg-type]
        or_auto = ", or 'auto'" if auto else ""
        raise ValueError(f"eps={eps!r}: expected eps >= 0 (0 or more, and finite){or_auto}.")


class FewRowsWarning(UserWarning):
    """Rows are few for the covariance that was fitted on them."""


def centred_groups(matrix: Matrix, rows: NDArray | None) -> tuple[str, int]:
    """Obs column whose groups all have mean 0, and their number; ``("", 1)`` if there is none.

    Centring within groups takes one degree of freedom for each of them instead of one for all.
    Where the library did it by several columns together, those are looked at as well.
    """
    adata, values = matrix.adata, matrix.values
    chosen = np.arange(len(values)) if rows is None else rows
    part = np.asarray(values[chosen], dtype=np.float64)
    sd = part.std(axis=0)
    part = part[:, sd > 0] / sd[sd > 0]
    best = ("", 1)
    for name, column in _groupings(matrix, adata.obs.iloc[chosen]):
        if column.isna().any():
            continue
        try:
            codes, labels = pd.factorize(column)
        except TypeError:  # a column of lists groups nothing
            continue
        if not best[1] < len(labels) <= len(chosen) // 2 or not part.shape[1]:
            continue
        if np.abs(group_means(part, codes, len(labels))).max() < CENTRED:
            best = (str(name), len(labels))
    return best


def _groupings(matrix: Matrix, obs: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Columns, by place as names may stand twice, and those that verbs took together."""
    yield from ((str(name), obs.iloc[:, place]) for place, name in enumerate(obs.columns))
    for params in matrix.past.values():
        keys = [
            column
            for name in ("within", "batch_key")
            for column in column_list(per_modality(params.get(name), matrix.modality, name=name))
        ]
        if len(keys) > 1 and obs.columns.isin(keys).sum() == len(keys):
            joint = obs.groupby(keys, observed=True, sort=False).ngroup()
            yield " and ".join(keys), joint.where(joint >= 0)


def why_directions_are_missing(
    n_dropped: int, n_constant: int, n_features: int, n_rows: int, centred: tuple[str, int]
) -> str:
    """True reasons, in words: constant features, too few rows, lost degrees of freedom, copies."""
    reasons = []
    if n_constant:
        reasons.append(f"{n_constant} features do not vary")
    rank, varying = n_features - n_dropped, n_features - n_constant
    column, lost = centred
    if rank < varying:
        few = f"{n_rows} rows span at most {n_rows - 1} directions"
        if n_rows - 1 < varying and rank == n_rows - 1:
            reasons.append(few)
        elif lost > 1 and n_rows - lost < varying and rank == n_rows - lost:
            reasons.append(
                f"{n_rows} rows, centred in each of the {lost} groups of {column!r}, have "
                f"{n_rows - lost} degrees of freedom"
            )
        elif n_rows - 1 < varying:
            reasons.append(f"{few}, and rows are copies or were centred in groups")
        else:
            reasons.append(f"{varying - rank} features are combinations of others")
    return " and ".join(reasons)


def few_rows(n_rows: int, n_directions: int, centred: tuple[str, int]) -> str:
    """Words of a warning where rows are few for so many directions, else nothing."""
    column, lost = centred
    free = n_rows - lost
    if n_directions < 2 or free >= FEW_ROWS * n_directions:
        return ""
    by = f" less {lost} for the centring by {column!r}" if lost > 1 else ""
    return f"{n_rows} rows{by} for {n_directions} directions"


@dataclass
class Notes:
    """What the user should know of the fits of one call, told once for all of them."""

    missing: list[str] = field(default_factory=list)
    few: list[str] = field(default_factory=list)
    outweighed: list[str] = field(default_factory=list)
    scaled: str = "'zca-cor' or 'pca-cor'"  # methods whose features are brought to one scale

    @property
    def category(self) -> type[UserWarning]:
        """Of the warning: its own where rows are few and nothing else is the matter."""
        return UserWarning if self.missing or self.outweighed else FewRowsWarning

    def text(self) -> str:
        """All of it as one warning; empty where there is nothing."""
        out = []
        if self.missing:
            out.append(
                "directions without variance are set to 0 instead of blown up to unit variance: "
                + "; ".join(self.missing)
                + "."
            )
        if self.few:
            out.append(
                f"few rows for a covariance ({'; '.join(self.few)}): below {FEW_ROWS:g} rows a "
                "direction the smallest variances are noise, full whitening blows them up, and "
                "profiles of the same perturbation may no longer find one another. Shrink with "
                "eps='auto', fit on more cells, or reduce the features first (`pp.embed_pca`)."
            )
        if self.outweighed:
            out.append(
                f"eps outweighs the variance of single features ({'; '.join(self.outweighed)}), "
                "which come out near 0: their scales differ. "
                f"Take method={self.scaled}, or scale the features first "
                "(`pp.robust_center_scale`)."
            )
        return " ".join(out)
