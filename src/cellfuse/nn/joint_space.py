"""A space of all modalities: linear maps that were fitted in closed form, kept as weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from cellfuse.nn.plain_features import PlainFeatures

__all__ = ["JointFeatures", "JointSpace", "LinearMap"]

Axes = Literal["joint", "shared"]


class LinearMap(nn.Module):
    """Features of one modality, less their mean and nuisances, to each set of axes."""

    offset: Tensor
    joint: Tensor
    shared: Tensor
    nuisance_mean: Tensor
    nuisance_joint: Tensor
    nuisance_shared: Tensor

    def __init__(self, n_features: int, width: int, n_shared: int, n_nuisances: int = 0) -> None:
        super().__init__()
        for name, shape in {
            "offset": (n_features,),
            "joint": (n_features, width),
            "shared": (n_features, n_shared),
            "nuisance_mean": (n_nuisances,),
            "nuisance_joint": (n_nuisances, width),
            "nuisance_shared": (n_nuisances, n_shared),
        }.items():
            self.register_buffer(name, torch.zeros(shape))

    def forward(self, features: Tensor, nuisances: Tensor | None, axes: Axes) -> Tensor:
        """``(N, features)`` and ``(N, nuisances)`` to ``(N, width)`` or ``(N, n_shared)``."""
        out = (features.float() - self.offset) @ getattr(self, axes)
        if len(self.nuisance_mean):
            if nuisances is None:
                raise ValueError("these cells come without the nuisances that were taken out.")
            out = out - (nuisances.float() - self.nuisance_mean) @ getattr(self, f"nuisance_{axes}")
        return out


class JointSpace(nn.Module):
    """One linear map per modality.

    Parameters
    ----------
    n_features
        Features of each modality.
    n_comps
        Directions that are kept of each at most; the joint space has as many as all together.
    n_second
        Features of each, the last ones, that stand in the place of the others in a second view of
        the cells, and bring as many directions more; default none.
    n_nuisances
        Columns that are regressed out of each; default none.

    Notes
    -----
    Everything is of a size known before it is fitted, so that it is saved and loaded as weights
    are; directions that the data do not have are columns of zeros.
    """

    def __init__(
        self,
        n_features: Mapping[str, int],
        *,
        n_comps: int,
        n_second: Mapping[str, int] | None = None,
        n_nuisances: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        beside = n_second or {}
        kept = [min(n - beside.get(role, 0), n_comps) for role, n in n_features.items()]
        self.n_shared = min(kept)
        self.width = sum(kept) + sum(min(n, n_comps) for n in beside.values())
        self.maps = nn.ModuleDict(
            {
                role: LinearMap(n, self.width, self.n_shared, (n_nuisances or {}).get(role, 0))
                for role, n in n_features.items()
            }
        )
        #: Singular values, their mean over permuted contexts, and p-values, ``(3, n_shared)``.
        self.axes: Tensor
        self.register_buffer("axes", torch.full((3, self.n_shared), torch.nan))
        #: Weight of learnt features beside plain ones.
        self.learnt_weight: Tensor
        self.register_buffer("learnt_weight", torch.ones(()))

    def cell(self, role: str) -> LinearMap:
        """Return the map of a modality."""
        return cast("LinearMap", self.maps[role])

    def forward(
        self, role: str, features: Tensor, nuisances: Tensor | None = None, axes: Axes = "joint"
    ) -> Tensor:
        """Coordinates of cells ``(N, features)``."""
        return self.cell(role)(features, nuisances, axes)


class JointFeatures(nn.Module):
    """What a learned model brings to the joint space: plain features beside learnt ones.

    Parameters
    ----------
    plain
        Plain features of each modality.
    n_learnt
        Learnt features of each.
    n_comps, n_nuisances
        As in :class:`JointSpace`.
    """

    def __init__(
        self,
        plain: Mapping[str, PlainFeatures],
        *,
        n_learnt: int,
        n_comps: int,
        n_nuisances: Mapping[str, int],
    ) -> None:
        super().__init__()
        self.plain = nn.ModuleDict(plain)
        #: Features of the second reading among the plain ones of each modality.
        self.n_second = {role: each.n_second for role, each in plain.items()}
        self.space = JointSpace(
            {role: each.n_features + n_learnt for role, each in plain.items()},
            n_comps=n_comps,
            n_second=self.n_second,
            n_nuisances=n_nuisances,
        )

    def fit_plain(self, role: str, cells: Tensor) -> None:
        """Let plain features look at some cells ``(N, ...)`` as they were read."""
        self.plain[role].fit(cells)  # type: ignore[operator]

    def features(self, role: str, x: Tensor, learnt: Tensor) -> Tensor:
        """Cells ``(N, ...)`` as they were read and ``(N, n_learnt)`` side by side."""
        return torch.cat([self.plain[role](x), learnt.float()], dim=1)
