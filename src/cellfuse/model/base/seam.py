"""The seam to scvi-tools: the only file that knows it.

A cellfuse model is an scvi-tools model (setup, init, train, get, history, save, load) on a MuData
whose modalities hold different cells. scvi-tools pairs rows of modalities by position, keeps every
data set it has seen, and saves pickles; here each modality is registered as one field of its own,
the manager belongs to the model, and a save is tensors and JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from scvi.data.fields import BaseAnnDataField
from scvi.model.base import BaseModelClass
from torch import nn

from cellfuse._access import Data
from cellfuse.data import CellInput

__all__ = ["ScviModel"]


class ModalityField(BaseAnnDataField):
    """One modality as scvi-tools registers it: its array, and what a cell of it is."""

    def __init__(self, cell_input: CellInput) -> None:
        self._input = cell_input

    @property
    def registry_key(self) -> str:
        """Role of the modality in the model."""
        return self._input.role

    @property
    def attr_name(self) -> str:
        """Place of the array in the AnnData."""
        return self._input.place

    @property
    def attr_key(self) -> str | None:
        """Key of the array at its place."""
        return self._input.key

    @property
    def mod_key(self) -> str | None:
        """Name of the modality in the MuData."""
        return self._input.modality

    @property
    def is_empty(self) -> bool:
        """A registered modality always has an array."""
        return False

    def validate_field(self, adata: Data) -> None:
        """Refuse an array that does not fit."""
        self._input.reader(adata.mod[self._input.modality])

    def register_field(self, adata: Data) -> dict[str, Any]:
        """State that is saved with the model."""
        super().register_field(adata)
        return self._input.to_json()

    def transfer_field(
        self, state_registry: dict[str, Any], adata_target: Data, **kwargs: Any
    ) -> dict[str, Any]:
        """Check new data against the state."""
        CellInput.from_json(state_registry).reader(adata_target.mod[self._input.modality])
        return state_registry

    def get_summary_stats(self, state_registry: dict[str, Any]) -> dict[str, int]:
        """Number of features of a cell."""
        return {f"n_{self.registry_key}_features": int(np.prod(self._input.shape))}

    def view_state_registry(self, state_registry: dict[str, Any]) -> None:
        """Nothing beyond the data registry."""
        return None


class ScviModel(BaseModelClass):
    """What scvi-tools has to be told of a model."""

    module: nn.Module

    @classmethod
    def setup_anndata(cls, adata: AnnData, *args: Any, **kwargs: Any) -> None:
        """Not used here; see ``setup_mudata``."""
        raise NotImplementedError(
            f"{cls.__name__} reads a MuData: `mdata = mudata.MuData({{'rna': adata}})`, then "
            f"`cf.{cls.__name__}.setup_mudata(mdata, ...)`."
        )

    def _register(
        self, mdata: MuData | None, inputs: Sequence[CellInput], setup: dict[str, Any]
    ) -> None:
        """Register the modalities; without data, from the setup alone."""
        manager = AnnDataManager(
            fields=[ModalityField(cell_input) for cell_input in inputs],
            setup_method_args={
                "model_name": type(self).__name__,
                "setup_method_name": "setup_mudata",
                "setup_args": {k: v for k, v in setup.items() if k != "inputs"},
            },
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        if mdata is None:
            BaseModelClass.__init__(self, registry=manager.registry)
            return
        manager.register_fields(mdata)
        self.register_manager(manager)
        try:
            BaseModelClass.__init__(self, mdata)
        finally:
            # The class-level stores would keep every data set ever seen; ours is in the model.
            self._setup_adata_manager_store.pop(manager.adata_uuid, None)
            self._per_instance_manager_store.pop(getattr(self, "id", ""), None)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(chain(self.module.parameters(), self.module.buffers())).device
