"""The seam to scvi-tools: the only file that knows it.

A cellfuse model is an scvi-tools model (setup, init, train, get, history, save, load) on a MuData
whose modalities hold different cells. scvi-tools pairs rows of modalities by position, keeps every
data set it has seen, and saves pickles; here each modality is registered as one field of its own,
the manager belongs to the model, and a save is tensors and JSON.
"""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck
from scvi.data.fields import BaseAnnDataField
from scvi.model.base import BaseModelClass
from torch import Tensor, nn

from cellfuse._access import PROVENANCE, Data, is_mudata
from cellfuse._errors import listing, missing_key
from cellfuse.data import CellInput, Contexts, Reader, Source, check_values, statistics
from cellfuse.data.readers import read_dense
from cellfuse.model._setup import check_mudata, check_whole
from cellfuse.model._storage import read_folder, write_folder
from cellfuse.model._training import refuse_unknown

__all__ = ["DocumentModel"]


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


class DocumentModel(BaseModelClass):
    """What all models share. A subclass says how its modalities are read and builds its network."""

    module: nn.Module
    #: Role of each modality, in order.
    inputs: dict[str, CellInput]
    context_keys: list[str]
    #: The setup of a model that is being loaded, which may have no data to read it from.
    _loading: dict[str, Any] | None = None

    # -- setup ------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(cls, adata: AnnData, *args: Any, **kwargs: Any) -> None:
        """Not used here; see ``setup_mudata``."""
        raise NotImplementedError(
            f"{cls.__name__} reads a MuData: `mdata = mudata.MuData({{'rna': adata}})`, then "
            f"`cf.{cls.__name__}.setup_mudata(mdata, ...)`."
        )

    @classmethod
    def _keep_setup(cls, mdata: MuData, setup: dict[str, Any]) -> None:
        """Note the setup in ``.uns["cellfuse"]["setup"]``, where the model's init finds it."""
        notes = dict(mdata.uns.get(PROVENANCE, {}))
        notes["setup"] = {**notes.get("setup", {}), cls.__name__: json.dumps(setup)}
        mdata.uns[PROVENANCE] = notes

    @classmethod
    def _read_setup(cls, mdata: MuData) -> dict[str, Any]:
        if not is_mudata(mdata):
            raise TypeError(f"{cls.__name__} takes a MuData; wrap it: `MuData({{'rna': adata}})`.")
        setups = mdata.uns.get(PROVENANCE, {}).get("setup", {})
        if cls.__name__ not in setups:
            raise ValueError(
                f"this MuData is not set up for {cls.__name__}: call "
                f"`cf.{cls.__name__}.setup_mudata(mdata, context_keys=..., ...)` first."
            )
        return json.loads(setups[cls.__name__])

    def _begin(self, mdata: MuData | None) -> None:
        """Take the setup over and register with scvi-tools; without data, from the setup alone."""
        setup = self._loading
        if setup is None:
            name = type(self).__name__
            if mdata is None:
                raise ValueError(
                    f"{name} needs a MuData; call `cf.{name}.setup_mudata` on it first."
                )
            setup = self._read_setup(mdata)
        self._setup = setup
        self.inputs = {i["role"]: CellInput.from_json(i) for i in setup["inputs"]}
        self.context_keys = list(setup["context_keys"])
        fields = [ModalityField(cell_input) for cell_input in self.inputs.values()]
        manager = AnnDataManager(
            fields=fields,
            setup_method_args={
                "model_name": type(self).__name__,
                "setup_method_name": "setup_mudata",
                "setup_args": {k: v for k, v in setup.items() if k != "inputs"},
            },
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        if mdata is None:
            BaseModelClass.__init__(self, registry=manager.registry)
        else:
            manager.register_fields(mdata)
            self.register_manager(manager)
            try:
                BaseModelClass.__init__(self, mdata)
            finally:
                # The class-level stores would keep every data set ever seen; ours is in the model.
                self._setup_adata_manager_store.pop(manager.adata_uuid, None)
                self._per_instance_manager_store.pop(getattr(self, "id", ""), None)
        self.history_: dict[str, pd.DataFrame] | None = None
        self.is_trained_: bool = False

    # -- data -------------------------------------------------------------------------------------

    def _modality(self, data: Data | None, role: str) -> AnnData:
        """Return a role's AnnData in `data`: None (training), another MuData or one modality."""
        if role not in self.inputs:
            raise missing_key(
                role, list(self.inputs), what=f"the modalities of {type(self).__name__}"
            )
        if data is None:
            data = self.adata
            if data is None:
                raise ValueError("this model was loaded without data; pass `data`.")
        if not is_mudata(data):
            return data
        name = self.inputs[role].modality
        if name not in data.mod:
            raise missing_key(name, list(data.mod), what="the MuData's modalities")
        return data.mod[name]

    def _one_role(self, modality: str | None) -> str:
        if modality is not None:
            return modality
        if len(self.inputs) > 1:
            raise ValueError(f"name the modality: one of {listing(self.inputs)}.")
        return next(iter(self.inputs))

    def _reader(self, data: Data | None, role: str) -> Reader:
        """Reader of a role; other data than was set up is checked first."""
        adata = self._modality(data, role)
        if adata.n_obs == 0:
            raise ValueError(f"the data for modality {role!r} has no cells.")
        reader = self.inputs[role].reader(adata)
        if data is not None and data is not self.adata:
            check_values(reader, self.inputs[role].kind, self.inputs[role].label)
        return reader

    def _contexts(self, data: Data | None, roles: Sequence[str]) -> Contexts:
        if data is not None and not is_mudata(data) and len(roles) > 1:
            raise ValueError(
                f"documents of {listing(roles)} are drawn from a MuData that holds these "
                "modalities; found one AnnData."
            )
        keys = self.context_keys
        return Contexts.from_modalities(
            {role: self._modality(data, role) for role in roles},
            keys[0] if len(keys) == 1 else keys,
        )

    def _statistics(
        self, source: Source, rows: Mapping[str, NDArray[np.bool_]], *, seed: int
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Mean and sd of each role of `source` over `rows`; nothing else is looked at."""
        found = {}
        for role in source.readers:
            cell_input = self.inputs[role]
            mean, sd = statistics(
                source.readers[role], cell_input.kind, np.flatnonzero(rows[role]), seed=seed
            )
            constant = int((sd == 0).sum())
            if constant and cell_input.kind != "counts":
                warnings.warn(
                    f"{constant} of {len(sd)} features of {cell_input.label} are constant; they "
                    "are centred and not scaled.",
                    stacklevel=3,
                )
            found[role] = (
                torch.as_tensor(mean, dtype=torch.float32),
                torch.as_tensor(sd, dtype=torch.float32),
            )
        return found

    def _encode(
        self,
        data: Data | None,
        role: str,
        *,
        encode: Callable[[Tensor], Tensor],
        width: int,
        batch_size: int,
    ) -> NDArray[np.float32]:
        """Run `encode` over all cells of a role: (cells, ...) to (cells, width)."""
        check_whole("batch_size", batch_size)
        reader = self._reader(data, role)
        out = np.empty((reader.shape[0], width), np.float32)
        for start in range(0, len(out), batch_size):
            rows = np.arange(start, min(start + batch_size, len(out)))
            cells = read_dense(reader, rows, device=self.device)
            out[rows] = encode(cells).float().cpu().numpy()
        return out

    # -- state ------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.module.parameters()).device

    @property
    def history(self) -> dict[str, pd.DataFrame]:
        """One data frame per number that was logged in training, indexed by epoch."""
        return self.history_ or {}

    def _check_trainable(self, max_epochs: int, trainer_kwargs: Mapping[str, Any]) -> None:
        refuse_unknown(trainer_kwargs, type(self).train)
        if self.adata is None:
            raise ValueError("this model was loaded without data: load it with `adata=mdata`.")
        check_whole("max_epochs", max_epochs)

    def _check_trained(self) -> None:
        if not self.is_trained_:
            raise RuntimeError(f"this {type(self).__name__} is not trained: call `model.train()`.")

    @property
    def _init_arguments(self) -> dict[str, Any]:
        """Arguments of ``__init__`` as they were given, for a save."""
        given = self.init_params_
        return {**given["non_kwargs"], **given["kwargs"].get("sizes", {})}

    def save(  # type: ignore[override]  # scvi-tools' further arguments are about pickles
        self, dir_path: str | Path, *, overwrite: bool = False
    ) -> None:
        """Write the model to a folder: weights (safetensors) and a description (JSON).

        Parameters
        ----------
        dir_path
            Folder, made if needed. It is written beside and renamed at the end.
        overwrite
            Replace a model saved there before.

        Raises
        ------
        FileExistsError
            The folder exists and `overwrite` is not set, or it is no saved model.
        """
        description = {
            "model": type(self).__name__,
            "version": version("cellfuse"),
            "setup": self._setup,
            "init": self._init_arguments,
            "trained": bool(self.is_trained_),
        }
        write_folder(
            dir_path,
            description=description,
            tensors=dict(self.module.state_dict()),
            history=self.history_,
            overwrite=overwrite,
        )

    @classmethod
    def load(  # type: ignore[override]  # no pickles: fewer arguments
        cls, dir_path: str | Path, adata: MuData | None = None
    ) -> Self:
        """Read a saved model.

        Parameters
        ----------
        dir_path
            Folder that :meth:`save` wrote.
        adata
            MuData to attach, which must have the genes and channels of training; None for
            inference on data passed later.

        Raises
        ------
        FileNotFoundError, ValueError
            No saved model, one of another class, or a damaged one.
        KeyError
            Genes, modalities or keys are missing in `adata`.
        """
        description, tensors, history = read_folder(dir_path, name=cls.__name__)
        if adata is not None:
            inputs = [CellInput.from_json(stored) for stored in description["setup"]["inputs"]]
            roles = {cell_input.role: cell_input.modality for cell_input in inputs}
            check_mudata(cls.__name__, adata, roles, description["setup"]["context_keys"])
            for cell_input in inputs:
                reader = cell_input.reader(adata.mod[cell_input.modality])
                check_values(reader, cell_input.kind, cell_input.label)
            cls._keep_setup(adata, description["setup"])
        model = cls._rebuild(adata, description["setup"], description["init"])
        try:
            model.module.load_state_dict(tensors)
        except RuntimeError as error:
            raise ValueError(f"{str(dir_path)!r} is damaged: {error}") from error
        model.is_trained_ = description["trained"]
        model.history_ = history or None
        return model

    @classmethod
    def _rebuild(cls, mdata: MuData | None, setup: dict[str, Any], init: dict[str, Any]) -> Self:
        """Build the model as it was; without data the setup stands in for it."""
        model = cls.__new__(cls)
        model._loading = setup
        model.__init__(mdata, **init)  # type: ignore[misc]  # the same instance, set up as told
        return model

    @abstractmethod
    def train(self, *args: Any, **kwargs: Any) -> None:
        """Train the model."""
