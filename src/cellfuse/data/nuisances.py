"""What cells differ in that is to be taken out: batches, depth, darkness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from cellfuse._access import obs_column, per_modality, where
from cellfuse._errors import listing, missing_key

__all__ = ["Nuisance", "find_nuisances", "nuisance_matrix"]

#: A column is named, or several are; by role where they differ.
Keys = str | Sequence[str] | None


@dataclass(frozen=True)
class Nuisance:
    """An obs column or obsm array; plain values, so that it is saved as JSON.

    Parameters
    ----------
    place, key
        ``"obs"`` or ``"obsm"``, and the key there.
    labels
        Labels of a column of words, the first of which is the reference; None for numbers.
    width
        Columns that it makes.
    """

    place: str
    key: str
    labels: tuple[str, ...] | None
    width: int

    def to_json(self) -> dict[str, Any]:
        """Plain dict."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Nuisance:
        """Read what :meth:`to_json` gave."""
        labels = fields["labels"]
        return cls(**{**fields, "labels": tuple(labels) if labels is not None else None})

    def read(self, adata: AnnData, modality: str) -> NDArray[np.float32]:
        """Values of the cells, ``(n, width)``."""
        if self.place == "obsm":
            if self.key not in adata.obsm:
                raise missing_key(self.key, list(adata.obsm), what=f"obsm{where(modality)}")
            values = np.asarray(adata.obsm[self.key], np.float32)
        elif self.labels is not None:
            column = obs_column(adata, self.key, modality=modality).astype(str).to_numpy()
            code = pd.Index(self.labels).get_indexer(pd.Index(column))
            if (code < 0).any():
                new = listing(np.unique(column[code < 0]))
                raise ValueError(
                    f"obs[{self.key!r}]{where(modality)} holds {new}, which no cell had that "
                    f"this was fitted on ({listing(self.labels, 4)})."
                )
            values = (code[:, None] == np.arange(1, len(self.labels))).astype(np.float32)
        else:
            values = obs_column(adata, self.key, modality=modality).to_numpy(np.float32)[:, None]
        if not np.isfinite(values).all():
            raise ValueError(
                f"{self.place}[{self.key!r}]{where(modality)} holds NaN or infinite values, and is "
                "to be regressed out. Fill them in, or leave those cells out."
            )
        return values.reshape(adata.n_obs, self.width)


def find_nuisances(
    adatas: Mapping[str, AnnData],
    *,
    batch_key: str | None | Mapping[str, str | None] = None,
    regress_out: Keys | Mapping[str, Keys] = None,
) -> dict[str, list[Nuisance]]:
    """Find the batches and other nuisances of each role.

    Parameters
    ----------
    adatas
        AnnData of each role.
    batch_key
        obs column of the batch, read as words whatever it holds; by role where it differs.
    regress_out
        obs columns or obsm keys, numbers or words; by role where they differ.
    """
    found: dict[str, list[Nuisance]] = {}
    for role, adata in adatas.items():
        batch = per_modality(batch_key, role, name="batch_key")
        more = per_modality(regress_out, role, name="regress_out")  # type: ignore[misc]
        keys = [more] if isinstance(more, str) else list(more or ())
        found[role] = [_find(adata, role, key) for key in keys]
        if batch is not None:
            found[role].insert(0, _words(adata, role, batch))
    return found


def _find(adata: AnnData, role: str, key: str) -> Nuisance:
    if key in adata.obsm and key not in adata.obs:
        shape = np.shape(adata.obsm[key])
        if len(shape) != 2:
            raise ValueError(f"obsm[{key!r}]{where(role)} has shape {shape}; expected (cells, n).")
        return Nuisance("obsm", key, None, int(shape[1]))
    if key not in adata.obs:
        raise missing_key(key, [*adata.obs, *adata.obsm], what=f"obs or obsm{where(role)}")
    column = adata.obs[key]
    if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
        return _words(adata, role, key)
    return Nuisance("obs", key, None, 1)


def _words(adata: AnnData, role: str, key: str) -> Nuisance:
    labels = tuple(sorted(obs_column(adata, key, modality=role).astype(str).unique()))
    return Nuisance("obs", key, labels, len(labels) - 1)


def nuisance_matrix(
    adata: AnnData, nuisances: Sequence[Nuisance], role: str
) -> NDArray[np.float32] | None:
    """All nuisances of a role's cells side by side, ``(n, z)``; None where there is none."""
    if not nuisances:
        return None
    return np.hstack([each.read(adata, role) for each in nuisances])
