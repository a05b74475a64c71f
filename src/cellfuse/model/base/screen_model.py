"""A model and its data: the setup, what is read of a modality, and a saved model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from anndata import AnnData
from mudata import MuData
from numpy.typing import NDArray
from torch import Tensor

from cellfuse._access import Data, is_mudata
from cellfuse._errors import listing, missing_key, warn_user
from cellfuse._provenance import PROVENANCE, as_json
from cellfuse.data import CellInput, Contexts, Reader, Source, check_values, statistics
from cellfuse.data.readers import read_dense
from cellfuse.model.base.arguments import kept
from cellfuse.model.base.checks import check_whole
from cellfuse.model.base.embedding import embed, identity_of_embedding
from cellfuse.model.base.history import Frames, n_epochs
from cellfuse.model.base.hub import OnHub
from cellfuse.model.base.seam import ScviModel
from cellfuse.model.base.setup import Found, check_mudata
from cellfuse.model.base.storage import read_folder, write_folder

__all__ = ["Encoder", "ScreenModel"]

#: Cells ``(N, ...)`` as they were read, to ``(N, width)``.
Encoder = Callable[[Tensor], Tensor]


class ScreenModel(OnHub, ScviModel):
    """A model that was set up on a MuData: reads it, is saved without it, is loaded for another."""

    #: What is read of each modality, by role.
    inputs: dict[str, CellInput]
    context_keys: list[str]
    #: Arguments of ``__init__``, for a save.
    init_arguments_: dict[str, Any]
    #: Roles that :meth:`get_latent_representation` embeds.
    embeds: ClassVar[tuple[str, ...]] = ("image", "rna")
    #: The setup of a model that is being loaded, which may have no data to read it from.
    _loading: dict[str, Any] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = kept(cls.__init__)  # type: ignore[method-assign]

    # -- setup ------------------------------------------------------------------------------------

    @classmethod
    def _keep_setup(cls, data: Data, found: Found, **more: Any) -> None:
        """Note the setup in ``.uns["cellfuse"]["setup"]``, where the model's init finds it."""
        cls._note(data, {**found.to_json(), **more})

    @classmethod
    def _note(cls, data: Data, setup: dict[str, Any]) -> None:
        notes = dict(data.uns.get(PROVENANCE, {}))
        notes["setup"] = {**notes.get("setup", {}), cls.__name__: as_json(setup)}
        data.uns[PROVENANCE] = notes

    @classmethod
    def _read_setup(cls, mdata: MuData) -> dict[str, Any]:
        if not is_mudata(mdata):
            raise TypeError(f"{cls.__name__} takes a MuData; wrap it: `MuData({{'rna': adata}})`.")
        setups = mdata.uns.get(PROVENANCE, {}).get("setup", {})
        if cls.__name__ not in setups:
            raise ValueError(
                f"this MuData is not set up for {cls.__name__}: call "
                f"`cf.{cls.__name__}.setup_mudata(mdata, ...)` first."
            )
        return json.loads(setups[cls.__name__])

    def _take_setup(self, mdata: MuData | None) -> None:
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
        self._register(mdata, list(self.inputs.values()), setup)
        self.history_: Frames | None = None
        self.n_epochs_ = 0
        self.is_trained_: bool = False

    def _summary(self, init: Callable[..., None]) -> str:
        """One line: what is read, and the arguments that are not the defaults."""
        read = ", ".join(f"{role} {i.kind} {i.shape}" for role, i in self.inputs.items())
        usual = {n: p.default for n, p in signature(init).parameters.items()}
        arguments = self.init_arguments_.items()
        given = [f"{n}={v!r}" for n, v in arguments if n not in usual or v != usual[n]]
        by = ", ".join(self.context_keys)
        return f"{type(self).__name__}: {read}; contexts by {by}; {', '.join(given)}"

    # -- data -------------------------------------------------------------------------------------

    def _modality(self, data: Data | None, role: str) -> AnnData:
        """Return a role's AnnData in `data`: None (training), another MuData or one modality."""
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

    def _role(self, modality: str | None) -> str:
        """Check the role of a modality that is to be embedded; None: the only one."""
        name, roles = type(self).__name__, [r for r in self.inputs if r in self.embeds]
        if modality is None:
            if len(roles) > 1:
                raise ValueError(f"name the modality: one of {listing(roles)}.")
            return roles[0]
        if modality not in roles:
            raise missing_key(modality, roles, what=f"the modalities that this {name} embeds")
        return modality

    def _reader(self, data: Data | None, role: str) -> Reader:
        """Reader of a role; other data than was set up is checked first."""
        adata = self._modality(data, role)
        if adata.n_obs == 0:
            raise ValueError(f"the data for modality {role!r} has no cells.")
        reader = self.inputs[role].reader(adata)
        if data is not None and data is not self.adata:
            kind, label = self.inputs[role].kind, self.inputs[role].label
            check_values(reader, kind, label, names=adata.obs_names)
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
        """Mean and sd of the roles of `rows`, over them; nothing else is looked at."""
        found = {}
        for role, chosen in rows.items():
            cell_input = self.inputs[role]
            mean, sd = statistics(
                source.readers[role], cell_input.kind, np.flatnonzero(chosen), seed=seed
            )
            constant = int((sd == 0).sum())
            if constant and cell_input.kind != "counts":
                warn_user(
                    f"{constant} of {len(sd)} features of {cell_input.label} are constant; they "
                    "are centred and not scaled."
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
        encode: Encoder,
        batch_size: int,
        out: str | Path | None = None,
    ) -> NDArray[np.float32]:
        """Run `encode` over all cells of a role: (cells, ...) to (cells, width)."""
        check_whole("batch_size", batch_size)
        reader = self._reader(data, role)

        def encoded(rows: NDArray[np.int64]) -> NDArray[np.float32]:
            return encode(read_dense(reader, rows, device=self.device)).float().cpu().numpy()

        def identity() -> dict[str, Any]:
            name = type(self).__name__
            return identity_of_embedding(
                self.module, self._modality(data, role), model=name, role=role
            )

        return embed(reader, encoded, batch_size=batch_size, out=out, identity=identity)

    # -- state ------------------------------------------------------------------------------------

    @property
    def history(self) -> Frames:
        """One data frame per number that was logged in training, indexed by epoch."""
        return self.history_ or {}

    def _check_trained(self) -> None:
        if not self.is_trained_:
            raise RuntimeError(f"this {type(self).__name__} is not trained: call `model.train()`.")

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
            "init": self.init_arguments_,
            "trained": bool(self.is_trained_),
            "epochs": self.n_epochs_,
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
        setup = description["setup"]
        if adata is not None:
            inputs = [CellInput.from_json(stored) for stored in setup["inputs"]]
            roles = {cell_input.role: cell_input.modality for cell_input in inputs}
            check_mudata(cls.__name__, adata, roles, setup["context_keys"])
            for cell_input in inputs:
                modality = adata.mod[cell_input.modality]
                reader = cell_input.reader(modality)
                check_values(reader, cell_input.kind, cell_input.label, names=modality.obs_names)
            cls._note(adata, setup)
        try:
            model = cls._rebuild(adata, setup, description["init"])
        except (TypeError, AttributeError, KeyError, ValueError) as error:
            if adata is not None and isinstance(error, KeyError | ValueError):
                raise  # of the data, not of the save
            raise ValueError(
                f"{str(dir_path)!r} is damaged: its setup and arguments make no "
                f"{cls.__name__} ({error})."
            ) from error
        try:
            model.module.load_state_dict(tensors)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{str(dir_path)!r} is damaged, or its two files are of different models: {first}"
            ) from error
        model.is_trained_ = description["trained"]
        model.history_ = history or None
        # Models saved before 0.2 do not tell: each training began a new history.
        model.n_epochs_ = description.get("epochs", n_epochs(history))
        return model

    @classmethod
    def _rebuild(cls, mdata: MuData | None, setup: dict[str, Any], init: dict[str, Any]) -> Self:
        """Build the model as it was; without data the setup stands in for it."""
        if "begin" in signature(cls.__init__).parameters:
            init = {"begin": "random", **init}  # as all began that were saved before 0.2
        model = cls.__new__(cls)
        model._loading = setup
        model.__init__(mdata, **init)  # type: ignore[misc]  # the same instance, set up as told
        return model
