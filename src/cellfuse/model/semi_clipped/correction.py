"""Batch corrections of embeddings inside a model: fitted once, applied sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import where
from cellfuse._batches import batches_of
from cellfuse._errors import warn_user
from cellfuse.data import Reader
from cellfuse.data.readers import read_dense
from cellfuse.kernels.augmentation import PEA, Operation, fit_pea
from cellfuse.nn import uniform

__all__ = ["Correction", "mixed_up"]


@dataclass(frozen=True)
class Correction:
    """Operations fitted on the controls of each batch, and the batch of each sample.

    Attributes
    ----------
    pea
        Affine maps of each batch and operation, as tensors.
    codes
        Batch of each sample, shape (n,).
    """

    pea: PEA
    codes: NDArray[np.int64]

    @classmethod
    def fit(
        cls,
        adata: AnnData,
        reader: Reader,
        operations: Sequence[Operation],
        *,
        batches: dict[str, Any],
        prepare: Callable[[Tensor], Tensor] = lambda x: x,
        modality: str = "",
    ) -> Correction:
        """Read the controls and fit.

        Parameters
        ----------
        adata, reader
            Samples and their embedding.
        operations
            What is fitted.
        batches
            ``keys``, ``control_key`` and ``control`` of :func:`cellfuse._batches.batches_of`.
        prepare
            Applied to the embedding before it is corrected.

        Raises
        ------
        ValueError
            A batch with fewer than two controls.

        Warns
        -----
        UserWarning
            Controls that do not vary in every direction that TVN is to correct.
        """
        if tuple(operations) == ("none",):  # no controls are needed to change nothing
            zero = torch.zeros(1, 1, reader.shape[1])
            return cls(
                PEA(("none",), zero, zero + 1, torch.zeros(0, 1, 1)),
                np.zeros(reader.shape[0], np.int64),
            )
        found = batches_of(adata, modality=modality, at_least=2, **batches)
        rows = np.unique(np.concatenate(found.controls))
        values = prepare(read_dense(reader, rows)).cpu().double().numpy()
        controls = [np.searchsorted(rows, own) for own in found.controls]
        pea = fit_pea(values, controls, operations=operations)
        if pea.n_dropped:
            warn_user(
                f"TVN{where(modality)}: the {len(rows)} controls in {len(controls)} batches do not "
                f"vary in {pea.n_dropped} of {values.shape[1]} directions, which are set to 0. A "
                "correction by 'center_scale', or an embedding of fewer dimensions, keeps them."
            )
        return cls(pea.convert(torch.as_tensor), found.codes.astype(np.int64))

    def to(self, device: torch.device) -> Correction:
        """Move the maps."""
        return replace(self, pea=self.pea.convert(lambda x: x.to(device)))

    def apply(self, x: Tensor, batch: Tensor, operation: Tensor | None = None) -> Tensor:
        """Correct samples (G, d) of batches (G,) by an operation each; None: by the last one."""
        if operation is None:
            operation = torch.full_like(batch, len(self.pea.operations) - 1)
        # A correction is data, not a layer: mixed precision must not round it to three digits.
        with torch.autocast(x.device.type, enabled=False):
            return self.pea.apply(x.float(), batch, operation)


def mixed_up(x: Tensor, key: Tensor, *, seed: int, alpha: float) -> Tensor:
    """Mix each row (G, d) with the one before it.

    A row keeps at least half of itself, by Beta(alpha, alpha). The weight hangs on the row's key
    alone (through the distribution function); the partner is a neighbour in the batch.
    """
    from scipy.stats import beta

    u = uniform(key, (1,), seed=seed, purpose="mixup").cpu().double().numpy()
    weight = torch.as_tensor(beta.ppf(u, alpha, alpha), dtype=x.dtype).to(x.device)
    weight = torch.maximum(weight, 1 - weight)
    return weight * x + (1 - weight) * x.roll(1, dims=0)
